"""Runs a program the way SageMaker runs a container: the /opt/ml layout, in a temporary folder.

The program finds the layout's root in `SAGEMAKER_BASE_DIR` and, when it serves, its port in `SAGEMAKER_BIND_TO_PORT`.
It gets a process group of its own, no secrets of this process, and it ends when this process does.
"""

import contextlib
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_log = logging.getLogger(__name__)

LINE_LIMIT = 65_536
"""Bytes of one log line; the rest of a longer one becomes the next line."""

# What a program needs of this machine. Everything else, credentials above all, stays here.
_INHERITED = (
    "PATH",
    "LANG",
    "LC_ALL",
    "LD_LIBRARY_PATH",
    "PYTHONPATH",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
)
# What a request's Environment may not set: it would change which program runs, or where it looks.
_RESERVED = ("PATH", "HOME", "TMPDIR", "SAGEMAKER_BASE_DIR", "SAGEMAKER_BIND_TO_PORT", "SAGEMAKER_HOSTS_DIR")
_RESERVED_PREFIXES = ("PYTHON", "LD_", "DYLD_")


def environment(asked: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """Return a program's environment: the little it inherits, what the request asks for, and our own."""
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    allowed = {
        name: value
        for name, value in asked.items()
        if name not in _RESERVED and not name.startswith(_RESERVED_PREFIXES) and "\0" not in value
    }
    # Unbuffered, so that log lines arrive when they are printed.
    return {**inherited, "PYTHONUNBUFFERED": "1", **allowed, **own}


class Host:
    """The folder in which programs run, their ports, and the warden that ends them if this process dies."""

    def __init__(self, work_folder: Path | None = None) -> None:
        self._work_folder = work_folder
        self._folder: Path | None = None
        self._lock = threading.Lock()
        self._warden: subprocess.Popen[bytes] | None = None
        self._ports: set[int] = set()

    def root(self, name: str) -> Path:
        """Make an empty /opt/ml layout and return its root."""
        root = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self._open()))
        for folder in ("input/config", "input/data", "model", "output/data", "tmp"):
            (root / folder).mkdir(parents=True)
        return root

    def rendezvous(self, name: str, hosts: Sequence[str]) -> Path:
        """Make a folder for the hosts of one job to meet in, with a named pipe `<host>.done` for each."""
        folder = Path(tempfile.mkdtemp(prefix=f"{name}-hosts-", dir=self._open()))
        for host in hosts:
            os.mkfifo(folder / f"{host}.done")
        return folder

    def remove(self, root: Path) -> None:
        """Remove a layout."""
        shutil.rmtree(root, ignore_errors=True)

    def take_port(self) -> int:
        """Return a free port of 127.0.0.1 that no other program was given."""
        with self._lock:
            while True:
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", 0))
                    port = int(probe.getsockname()[1])
                if port not in self._ports:
                    self._ports.add(port)
                    return port

    def give_back_port(self, port: int) -> None:
        """Let a port be given out again."""
        with self._lock:
            self._ports.discard(port)

    def watch(self, group: int) -> None:
        """Have a process group killed should this process die."""
        self._tell(f"+{group}\n")

    def unwatch(self, group: int) -> None:
        """Forget a process group that has ended."""
        self._tell(f"-{group}\n")

    def _open(self) -> Path:
        """Make the folder, and the warden that removes it, when the first program needs them."""
        with self._lock:
            if self._folder is None:
                self._folder = Path(tempfile.mkdtemp(prefix="dropmill-sagemaker-", dir=self._work_folder))
                program = str(Path(__file__).with_name("warden.py"))
                # A session of its own: Ctrl-C in the terminal must not end it before its work is done.
                self._warden = subprocess.Popen(
                    [sys.executable, "-I", "-S", program, str(self._folder)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
            return self._folder

    def _tell(self, line: str) -> None:
        with self._lock:
            if self._warden and self._warden.stdin:
                try:
                    self._warden.stdin.write(line.encode())
                    self._warden.stdin.flush()
                except (BrokenPipeError, ValueError):
                    _log.warning("the warden is gone; programs would outlive a crash of this process")

    def close(self) -> None:
        """Remove the folder and end the warden; every program has ended by now."""
        with self._lock:
            warden, self._warden = self._warden, None
            if self._folder:
                shutil.rmtree(self._folder, ignore_errors=True)
        if warden and warden.stdin:
            with contextlib.suppress(BrokenPipeError):
                warden.stdin.close()
            try:
                warden.wait(5)
            except subprocess.TimeoutExpired:
                warden.kill()
                warden.wait()


class Container:
    """One running program. `ended` is set, and `on_end` called, once it has exited and each of its lines was passed on.

    Raises OSError if the program can't be started.
    """

    def __init__(
        self,
        host: Host,
        argv: Sequence[str],
        root: Path,
        env: Mapping[str, str],
        on_line: Callable[[str], None],
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        self.ended = threading.Event()
        self._on_end = on_end
        self._host = host
        self._on_line = on_line
        self._process = subprocess.Popen(
            list(argv),
            cwd=root,
            env={**env, "HOME": str(root), "TMPDIR": str(root / "tmp"), "SAGEMAKER_BASE_DIR": str(root)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.pid = self._process.pid
        host.watch(self.pid)
        self._reader = threading.Thread(target=self._read, name=f"lines of {self.pid}", daemon=True)
        self._reader.start()
        threading.Thread(target=self._wait, name=f"end of {self.pid}", daemon=True).start()

    @property
    def code(self) -> int | None:
        """The exit code as a shell has it (128 + signal), or None while the program runs."""
        code = self._process.returncode
        return 128 - code if code is not None and code < 0 else code

    def stop(self, grace: float) -> None:
        """Ask the program to end (SIGTERM) and kill it if it hasn't after `grace` seconds; returns at once."""
        if self.ended.is_set():
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        threading.Thread(target=self._kill_after, args=(grace,), name=f"grace of {self.pid}", daemon=True).start()

    def _kill_after(self, grace: float) -> None:
        if not self.ended.wait(grace):
            self._kill_group()

    def _kill_group(self) -> None:
        # PermissionError is what macOS says of a group of zombies.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def _read(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 - narrows the type of a pipe asked for above
        with self._process.stdout as lines:
            while line := lines.readline(LINE_LIMIT):
                self._on_line(line.decode("utf-8", "replace").rstrip("\r\n"))

    def _wait(self) -> None:
        self._process.wait()
        # Whatever the program started ends with it; this also closes the pipe that the reader reads.
        self._kill_group()
        self._host.unwatch(self.pid)
        self._reader.join(5)
        self.ended.set()
        self._on_end()
