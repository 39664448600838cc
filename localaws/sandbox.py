"""What a worker may write to: a `/tmp` of its own, and nothing in the folder of its code.

On AWS a function's code (`/var/task`) is read-only, and each execution environment has its own `/tmp` of 512 MB, or of
what the function declares as EphemeralStorage (https://docs.aws.amazon.com/lambda/latest/dg/configuration-ephemeral-storage.html).
Where this process may make mount namespaces (as root, or with user namespaces) a worker gets the same: a `tmpfs` of
that size at `/tmp`, gone with the worker, and its code bound read-only. What is in `/tmp` counts as the function's
memory then, which is stricter than AWS. A function that is not run by root sees itself as root in its own namespace.

Elsewhere a worker gets a folder of its own as TMPDIR, removed with the worker; neither its size nor the code's folder
is held then.
"""

import compileall
import functools
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

_TMP = Path("/tmp")  # noqa: S108  # the very folder that Lambda gives to functions
_PROBE_SECONDS = 10.0
_COMPILED_AT_MOST = 500
_PROBE = """
import pathlib
pathlib.Path("/tmp/file").touch()
try:
    pathlib.Path("file").touch()
except OSError:
    raise SystemExit(0)
raise SystemExit(1)
"""

_PROGRAM = Path(__file__).with_name("sandbox_worker.py")


class Sandbox:
    """The files of one worker. `command` starts Python with a module; `release` comes after it.

    `environment` is what the worker must be told. `ephemeral_storage` is in MB.
    """

    def __init__(self, code: Path, ephemeral_storage: int) -> None:
        self.environment: dict[str, str] = {}
        self._folder: str | None = None
        who = namespace_kind()
        if who is not None:
            self._beginning = [str(_PROGRAM), who, str(ephemeral_storage), str(code), *_kept(code), "--"]
        else:
            self._beginning = ["-m"]
            self._folder = tempfile.mkdtemp(prefix="localaws-lambda-")
            self.environment = {"TMPDIR": self._folder}

    def command(self, *module: str) -> list[str]:
        """The words that run a module, and its arguments."""
        return [sys.executable, *self._beginning, *module]

    def release(self) -> None:
        """Remove what the worker has left."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


Kind = Literal["root", "user"]


@functools.cache
def namespace_kind() -> Kind | None:
    """Who may make mount namespaces: this process as it is, in a user namespace only, or not at all."""
    kinds: tuple[Kind, ...] = ("root", "user")
    return next((kind for kind in kinds if works(kind)), None)


def works(kind: Kind) -> bool:
    """Whether a program can be started so, which is tried."""
    if sys.platform != "linux":
        return False
    with tempfile.TemporaryDirectory(prefix="localaws-probe-") as code:
        (Path(code) / "probe.py").write_text(_PROBE)
        try:
            tried = subprocess.run(
                [sys.executable, str(_PROGRAM), kind, "1", code, *_kept(Path(code)), "--", "probe"],
                capture_output=True,
                stdin=subprocess.DEVNULL,
                timeout=_PROBE_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return False
    return tried.returncode == 0


@functools.cache
def compile_code(code: Path) -> None:
    """Write the bytecode that workers find, and can't write themselves; a folder of very many modules is left alone."""
    modules = [path for path in code.rglob("*.py") if "__pycache__" not in path.parts]
    if len(modules) <= _COMPILED_AT_MOST:
        compileall.compile_dir(code, quiet=2)


def _kept(code: Path) -> list[str]:
    """The folders below /tmp without which the worker couldn't run: its code's and the interpreter's."""
    interpreter = (sys.prefix, sys.base_prefix, str(Path(sys.executable).parent), *sys.path)
    wanted = {Path(folder) for folder in (str(code), *interpreter) if folder.startswith("/")}
    return [str(folder) for folder in _tops(folder for folder in wanted if _TMP in folder.parents) if folder.is_dir()]


def _tops(folders: Iterable[Path]) -> list[Path]:
    """Those of them that lie in no other."""
    tops: list[Path] = []
    for folder in sorted(folders):
        if not any(top in folder.parents for top in tops):
            tops.append(folder)
    return tops
