"""The beginning of a worker in a mount namespace of its own, in the process that then runs Lambda's runtime client.

    python sandbox_worker.py root|user <size of /tmp in MB> <code> [<folder to keep> ...] -- <module> [<argument> ...]

`root` needs the right to mount; `user` makes a user namespace first, in which everybody has it. It is a program of its
own, with nothing but the standard library, so that it costs no process and no import besides.

https://man7.org/linux/man-pages/man2/mount.2.html and https://man7.org/linux/man-pages/man7/user_namespaces.7.html
"""

import ctypes
import os
import runpy
import sys
from pathlib import Path

_TMP = "/tmp"  # noqa: S108  # the folder that Lambda gives to functions
_NEW_MOUNTS, _NEW_USER = 0x00020000, 0x10000000
_READ_ONLY, _NO_SUID, _NO_DEVICES, _REMOUNT, _BIND, _RECURSIVE, _PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18

# What a mount has of these can't be taken from it in a user namespace: as statvfs tells it, and as mount takes it.
_LOCKED = {2: 2, 4: 4, 8: 8, 1024: 1024, 2048: 2048, 4096: 1 << 21}

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(status: int, what: str) -> None:
    if status != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    kind_, data_ = (None if text is None else text.encode() for text in (kind, data))
    _checked(_libc.mount(source.encode(), target.encode(), kind_, ctypes.c_ulong(flags), data_), f"mount {target}")


def _unshare(*, user: bool) -> None:
    uid, gid = os.getuid(), os.getgid()
    _checked(_libc.unshare(_NEW_MOUNTS | (_NEW_USER if user else 0)), "unshare")
    if user:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    _mount("none", "/", None, _RECURSIVE | _PRIVATE)


def enter(code: str, megabytes: str, kept: list[str], *, user: bool) -> None:
    """Give this process a `/tmp` of its own, and its code's folder read-only; of the old `/tmp` keep these folders.

    Raises OSError where that is not allowed.
    """
    _unshare(user=user)
    # What is covered stays in reach through a descriptor.
    before = os.open(_TMP, os.O_RDONLY | os.O_DIRECTORY)
    _mount("tmpfs", _TMP, "tmpfs", _NO_SUID | _NO_DEVICES, f"size={megabytes}m,mode=1777")
    for folder in kept:
        os.makedirs(folder, exist_ok=True)  # noqa: PTH103  # as it was given
        _mount(f"/proc/self/fd/{before}{folder.removeprefix(_TMP)}", folder, None, _BIND)
    os.close(before)
    _mount(code, code, None, _BIND)
    flags = os.statvfs(code).f_flag
    locked = sum(flag for told, flag in _LOCKED.items() if flags & told)
    _mount("none", code, None, _REMOUNT | _BIND | _READ_ONLY | locked)
    os.chdir(code)


def main(arguments: list[str]) -> None:
    """Enter the namespace, and go on as the module."""
    who, megabytes, code, *rest = arguments
    end = rest.index("--")
    enter(code, megabytes, rest[:end], user=who == "user")
    sys.argv = rest[end + 1 :]
    sys.path[0] = code  # as `python -m` has the folder that it is started in
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
