"""`sam build`, and what it makes held against Lambda's limits."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from localaws.template import load

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = ROOT / "template.yaml"
RUNTIME = "python3.13"
CACHE = ROOT / ".cache/sam"
BUILD_SECONDS = 280
UNZIPPED_MAX = 250 * 1024 * 1024
"""https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html: a function and its layers, in bytes."""


class Missing(Exception):
    """Something that this machine lacks; the message says what, and how to get it."""


class BuildFailed(Exception):
    """What `sam build` said, or what it has left out."""


@dataclass(frozen=True)
class Function:
    """A function of the template."""

    logical_id: str
    step: str
    """The last part of its handler's module."""
    layers: tuple[str, ...]


@dataclass(frozen=True)
class Size:
    """Unzipped bytes of a function: of its own, and with its layers."""

    function: Function
    own: int
    total: int


def functions(template: Mapping[str, Any] | None = None) -> list[Function]:
    """The functions that the template declares, in its order."""
    document = template or load(TEMPLATE)
    shared = document["Globals"]["Function"]
    found = []
    for logical_id, resource in document["Resources"].items():
        if resource["Type"] == "AWS::Serverless::Function":
            properties = shared | resource["Properties"]
            step = properties["Handler"].rpartition(".")[0].rpartition(".")[2]
            layers = tuple(layer["Ref"] for layer in properties.get("Layers", []))
            found.append(Function(logical_id, step, layers))
    return found


def answers(program: str) -> bool:
    """Whether a program is there; a shim for an interpreter that is not selected is none."""
    try:
        return subprocess.run([program, "--version"], capture_output=True, timeout=60, check=False).returncode == 0
    except OSError:
        return False


def check_runtime() -> str:
    """The Lambda runtime's own interpreter, which `sam build` needs. Raises Missing."""
    if not answers(RUNTIME):
        raise Missing(f"sam build needs the Lambda runtime's own interpreter: put a {RUNTIME} on PATH")
    return RUNTIME


def sam_cli() -> str:
    """SAM CLI, that of this folder first. Raises Missing."""
    own = ROOT / ".tools/sam/bin/sam"
    found = str(own) if own.exists() else shutil.which("sam")
    if not found:
        raise Missing("SAM CLI is missing: make sam-build installs it")
    return found


def build(folder: Path | None = None) -> Path:
    """Build the application, by default beside the tests' caches; returns the folder.

    SAM itself decides by the sources' hashes what has to be built again. Raises Missing, BuildFailed.
    """
    check_runtime()
    command = [sam_cli(), "build"]
    if folder is None:
        folder = CACHE / "build"
        command += ["--build-dir", str(folder), "--cache-dir", str(CACHE / "cache")]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"SAM_CLI_TELEMETRY": "0"},
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS,
        check=False,
    )
    if done.returncode:
        raise BuildFailed(done.stderr)
    return folder


def size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())


def sizes(built: Path, template: Mapping[str, Any] | None = None) -> list[Size]:
    """What each function weighs, the largest first. Raises BuildFailed where something was left out."""
    document = template or load(TEMPLATE)
    layers: dict[str, int] = {}
    for name, resource in document["Resources"].items():
        if resource["Type"] == "AWS::Serverless::LayerVersion":
            layers[name] = size(built / name / "python")
            if not layers[name]:
                raise BuildFailed(f"sam build left the layer {name} empty")
    found = []
    for function in functions(document):
        folder = built / function.logical_id
        if not (folder / f"dropmill/steps/{function.step}.py").is_file():
            raise BuildFailed(f"sam build left {function.logical_id} out")
        if not (folder / "pydantic").is_dir():
            raise BuildFailed(f"{function.logical_id} was built without its requirements")
        own = size(folder)
        found.append(Size(function, own, own + sum(layers[layer] for layer in function.layers)))
    return sorted(found, key=lambda one: -one.total)


def table_of_sizes(found: list[Size]) -> str:
    """For people: MB as Lambda's limit counts them, the largest function first."""
    width = max(len(one.function.logical_id) for one in found)
    lines = [f"{'function':{width}}  with layers  of its own  layers"]
    for index, one in enumerate(found):
        words = ", ".join(one.function.layers) or "none"
        mark = "   <- the largest" if index == 0 else ""
        total, own = one.total / 2**20, one.own / 2**20
        lines.append(f"{one.function.logical_id:{width}}  {total:8.1f} MB  {own:7.1f} MB  {words}{mark}")
    lines.append(f"Lambda takes at most {UNZIPPED_MAX / 2**20:.0f} MB, unzipped, with layers")
    return "\n".join(lines)
