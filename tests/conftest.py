"""What SAM CLI builds, for every test that looks at it or runs it."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
RUNTIME = "python3.13"
SAM_BUILD_SECONDS = 280


def _answers(program: str) -> bool:
    """Whether a program is there; a shim for an interpreter that is not selected is none."""
    try:
        return subprocess.run([program, "--version"], capture_output=True, timeout=60, check=False).returncode == 0
    except OSError:
        return False


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes are named by their length: as they are they make names of a page."""
    return f"{argname}-{len(val)}-bytes" if isinstance(val, bytes) else None


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def runtime() -> str:
    """The Lambda runtime's own interpreter, which sam build and its checks need."""
    if not _answers(RUNTIME):
        pytest.skip(f"the Lambda runtime's interpreter is missing: put a {RUNTIME} on PATH")
    return RUNTIME


@pytest.fixture(scope="session")
def sam() -> str:
    own = ROOT / ".tools/sam/bin/sam"
    found = str(own) if own.exists() else shutil.which("sam")
    if not found:
        pytest.skip("SAM CLI is missing: make sam-build installs it")
    return found


@pytest.fixture(scope="session")
def built(sam: str, runtime: str) -> Path:
    """The folder of `sam build`. SAM itself decides by the sources' hashes what has to be built again."""
    folder = ROOT / ".cache/sam/build"
    done = subprocess.run(
        [sam, "build", "--build-dir", str(folder), "--cache-dir", str(ROOT / ".cache/sam/cache")],
        cwd=ROOT,
        env=os.environ | {"SAM_CLI_TELEMETRY": "0"},
        capture_output=True,
        text=True,
        timeout=SAM_BUILD_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder
