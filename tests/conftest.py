"""What SAM CLI builds, for every test that looks at it or runs it."""

from pathlib import Path

import pytest

from tools.sam import build


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes are named by their length: as they are they make names of a page."""
    return f"{argname}-{len(val)}-bytes" if isinstance(val, bytes) else None


@pytest.fixture(scope="session")
def root() -> Path:
    return build.ROOT


@pytest.fixture(scope="session")
def runtime() -> str:
    """The Lambda runtime's own interpreter, which sam build and its checks need."""
    try:
        return build.check_runtime()
    except build.Missing as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def sam() -> str:
    try:
        return build.sam_cli()
    except build.Missing as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def built(sam: str, runtime: str) -> Path:
    """The folder of `sam build`. SAM itself decides by the sources' hashes what has to be built again."""
    return build.build()
