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

_TMP = Path("/tmp")  # noqa: S108  # the very folder that Lambda gives to functions
_PROBE_SECONDS = 10.0
_COMPILED_AT_MOST = 500

# Arguments: the program `mount`, the size in MB, the code, folders below /tmp that must stay to be seen, `--`, the
# command. What is below /tmp is reached through a descriptor that was opened before /tmp was covered, and `-c` keeps
# `mount` from resolving that to a name.
_SCRIPT = """
set -e
mount=$1 size=$2 code=$3
shift 3
exec 9</tmp
"$mount" -t tmpfs -o "size=${size}m,mode=1777,nosuid,nodev" tmpfs /tmp
while [ "$1" != -- ]; do
  mkdir -p "$1"
  "$mount" -c --bind "/proc/self/fd/9/${1#/tmp/}" "$1"
  shift
done
exec 9<&-
shift
"$mount" -c --bind "$code" "$code"
"$mount" -c -o remount,bind,ro "$code"
cd "$code"
exec "$@"
"""


class Sandbox:
    """The files of one worker, whose command starts with the words of `prefix`; `release` comes after it.

    `environment` is what the worker must be told. `ephemeral_storage` is in MB.
    """

    def __init__(self, code: Path, ephemeral_storage: int) -> None:
        self.prefix: list[str] = []
        self.environment: dict[str, str] = {}
        self._folder: str | None = None
        command = namespace_command()
        if command is not None:
            self.prefix = [*command, str(ephemeral_storage), str(code), *_kept(code), "--"]
        else:
            self._folder = tempfile.mkdtemp(prefix="localaws-lambda-")
            self.environment = {"TMPDIR": self._folder}

    def release(self) -> None:
        """Remove what the worker has left."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


@functools.cache
def namespace_command() -> tuple[str, ...] | None:
    """The words that start a program in a mount namespace, up to the size of its `/tmp`; None if there can be none.

    It is tried once for each process.
    """
    unshare, mount = shutil.which("unshare"), shutil.which("mount")
    if unshare is None or mount is None or sys.platform != "linux":
        return None
    script = ["/bin/sh", "-c", _SCRIPT, "sandbox", mount]
    code = tempfile.mkdtemp(prefix="localaws-probe-")
    try:
        for options in (["--mount"], ["--user", "--map-root-user", "--mount"]):
            command = (unshare, *options, *script)
            test = f"touch {_TMP}/file && ! touch {code}/file"
            tried = subprocess.run(
                [*command, "1", code, code, "--", "/bin/sh", "-c", test],
                capture_output=True,
                stdin=subprocess.DEVNULL,
                timeout=_PROBE_SECONDS,
                check=False,
            )
            if tried.returncode == 0:
                return command
    except (OSError, subprocess.TimeoutExpired):
        pass
    finally:
        shutil.rmtree(code, ignore_errors=True)
    return None


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
