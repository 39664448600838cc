"""Processes held to an amount of memory by the operating system.

Where this process may make a memory cgroup (as root, as a rule), each held process gets one, below the cgroup that this
process is in, so that no limit on it is escaped: what uses more is killed, as on AWS, and what it has started as well.
Elsewhere the limit is on the address space that a process may write to (RLIMIT_DATA), and what uses more meets a
MemoryError. Space is reserved long before it is used, most of it once for each core (stacks of threads, buffers of
linear algebra), so that limit has an allowance of 128 MB and 64 MB for each core; importing numpy and pyarrow reserves
some 170 MB more than it uses on 4 cores.

The files of cgroups: https://docs.kernel.org/admin-guide/cgroup-v1/memory.html and
https://docs.kernel.org/admin-guide/cgroup-v2.html
"""

import asyncio
import contextlib
import itertools
import os
import re
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

MB = 1 << 20
ALLOWANCE_MB = 128
CORE_ALLOWANCE_MB = 64
PROBE_MB = 64

_NAME = "localaws-{pid}-{number}"
_NAMED = re.compile(r"localaws-(\d+)-\d+")
_PROBE_SECONDS = 10.0
_REMOVE_TRIES = 100
_REMOVE_SECONDS = 0.02
_numbers = itertools.count()


@dataclass(frozen=True)
class Parent:
    """A cgroup that may have children with a limit on memory. `version` is 1 or 2."""

    folder: Path
    version: int


class Hold:
    """The limit on one process, which starts with the words of `prefix` before its own; `release` comes after it."""

    def __init__(self, megabytes: int, parent: Parent | None) -> None:
        self._version = parent.version if parent else 0
        self._ran_out = False
        self.group = _make_group(parent, megabytes * MB) if parent else None
        if self.group is not None:
            self.prefix = ["/bin/sh", "-c", 'echo $$ >"$0" && exec "$@"', str(self.group / "cgroup.procs")]
        else:
            most = megabytes + ALLOWANCE_MB + CORE_ALLOWANCE_MB * (os.cpu_count() or 1)
            # Where there is no such limit the process runs all the same.
            self.prefix = ["/bin/sh", "-c", 'ulimit -d "$0" 2>/dev/null; exec "$@"', str(most * 1024)]

    @property
    def ran_out(self) -> bool:
        """Whether a process was killed for the memory that it used."""
        if self.group is not None and not self._ran_out:
            counts = self.group / ("memory.oom_control" if self._version == 1 else "memory.events")
            with contextlib.suppress(OSError):
                found = re.search(r"^oom_kill (\d+)$", counts.read_text(), re.MULTILINE)
                self._ran_out = found is not None and int(found[1]) > 0
        return self._ran_out

    async def release(self) -> None:
        """End whatever the process has started and left behind, and remove the cgroup."""
        if self.group is None:
            return
        self._ran_out = self.ran_out
        for _ in range(_REMOVE_TRIES):
            with contextlib.suppress(OSError):
                for pid in (self.group / "cgroup.procs").read_text().split():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(pid), signal.SIGKILL)
            try:
                self.group.rmdir()
            except FileNotFoundError:
                return
            except OSError:
                await asyncio.sleep(_REMOVE_SECONDS)
            else:
                return


def peak(pid: int) -> int | None:
    """The most memory that a process has had, in MB; None where that can't be told."""
    with contextlib.suppress(OSError):
        found = re.search(r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
        if found:
            return -(-int(found[1]) // 1024)
    return None


def find_parent(
    mounts: Path = Path("/proc/self/mountinfo"), membership: Path = Path("/proc/self/cgroup")
) -> Parent | None:
    """The cgroup that those of held processes go into, or None if this process may make none."""
    try:
        mounted = [line.split() for line in mounts.read_text().splitlines()]
        own = [line.split(":", 2) for line in membership.read_text().splitlines()]
    except OSError:
        return None
    paths = {controller: path for _, controllers, path in own for controller in controllers.split(",")}
    for words in mounted:
        # id parent major:minor root mount-point options [optional fields] - type source super-options
        kind, options = words[words.index("-") + 1], words[-1].split(",")
        root, point = words[3], Path(words[4])
        if kind == "cgroup" and "memory" in options and "memory" in paths:
            folder = _below(point, root, paths["memory"])
            if folder is not None and os.access(folder, os.W_OK):
                return Parent(folder, 1)
        elif kind == "cgroup2" and "" in paths:
            folder = _below(point, root, paths[""])
            if folder is not None and (parent := _with_children(folder, point)) is not None:
                return Parent(parent, 2)
    return None


def find_working_parent() -> Parent | None:
    """`find_parent`, if a process can really be put below it: what may be made may yet not be moved into."""
    parent = find_parent()
    if parent is None:
        return None
    hold = Hold(PROBE_MB, parent)
    if hold.group is None:
        return None
    try:
        tried = subprocess.run(
            [*hold.prefix, "/bin/true"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PROBE_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    finally:
        with contextlib.suppress(OSError):
            hold.group.rmdir()
    return parent if tried.returncode == 0 else None


def _below(point: Path, root: str, path: str) -> Path | None:
    """Where a cgroup is, if it is inside what is mounted."""
    try:
        return point / Path(path).relative_to(root)
    except ValueError:
        return None


def _with_children(folder: Path, top: Path) -> Path | None:
    """The nearest cgroup whose children have limits on memory. A limit on the way there must not be escaped.

    In version 2 a cgroup has processes or such children, so it is never this process's own, but at the very top.
    """
    try:
        while "memory" not in (folder / "cgroup.subtree_control").read_text().split():
            limit = folder / "memory.max"
            if folder == top or (limit.exists() and limit.read_text().strip() != "max"):
                return None
            folder = folder.parent
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None


def _make_group(parent: Parent, size: int) -> Path | None:
    _remove_abandoned(parent.folder)
    group = parent.folder / _NAME.format(pid=os.getpid(), number=next(_numbers))
    limits = (
        {"memory.limit_in_bytes": f"{size}", "memory.memsw.limit_in_bytes": f"{size}"}
        if parent.version == 1
        else {"memory.max": f"{size}", "memory.swap.max": "0", "memory.oom.group": "1"}
    )
    must, *more = limits
    try:
        group.mkdir()
    except OSError:
        return None
    try:
        (group / must).write_text(limits[must])
        for name in more:
            # A kernel without swap accounting has no such file.
            with contextlib.suppress(OSError):
                if (group / name).exists():
                    (group / name).write_text(limits[name])
    except OSError:
        with contextlib.suppress(OSError):
            group.rmdir()
        return None
    return group


def _remove_abandoned(folder: Path) -> None:
    """Remove the cgroups of clouds that were killed; their processes have ended by themselves."""
    for group in folder.iterdir():
        named = _NAMED.fullmatch(group.name)
        if named and not Path(f"/proc/{named[1]}").exists():
            with contextlib.suppress(OSError):
                group.rmdir()
