"""A tiny process that outlives the one that started it, to end what that one left running.

Run as `python -I -S warden.py FOLDER`, it reads lines `+<process group>` and `-<process group>` from its standard
input. When the input ends, because the starter closed it or died of anything, kill -9 included, every group that is
still known is killed, and FOLDER removed. It works alike on Linux and macOS, which has no parent-death signal; that
signal would also fire when the mere thread ends that started a program.
"""

import contextlib
import os
import signal
import sys


def main() -> None:
    """Keep the list of groups until the input ends, then kill them."""
    groups: set[int] = set()
    for line in sys.stdin.buffer:
        group = int(line[1:])
        if line[:1] == b"+":
            groups.add(group)
        else:
            groups.discard(group)
    for group in groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
    import shutil  # here, as it isn't needed to stand by

    shutil.rmtree(sys.argv[1], ignore_errors=True)


if __name__ == "__main__":
    main()
