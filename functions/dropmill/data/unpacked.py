"""A dropped file as it is without gzip, which is unpacked as it is read and refused where it is damaged or a bomb."""

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, Protocol

from dropmill.data.checks import MAX_UNPACKED_BYTES, refuse

MAX_RATIO = 500
"""Deflate can't exceed 1032; only a file that says nearly the same thing all along comes near it."""
RATIO_FREE_BYTES = 256 << 20
"""So much may come of a file at any ratio."""


class Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


@contextmanager
def unpacked(source: BinaryIO, file_name: str, *, gzipped: bool) -> Iterator[Readable]:
    """The file from its start, decompressed if need be.

    Its `read` raises InvalidDrop for gzip that is cut off or damaged, or unpacks to more than `MAX_UNPACKED_BYTES`, or
    to more than `MAX_RATIO` times its size.
    """
    source.seek(0)
    if not gzipped:
        yield source
        return
    with gzip.GzipFile(fileobj=source) as stream:
        yield _Unpacked(stream, source, file_name)


class _Unpacked:
    def __init__(self, stream: gzip.GzipFile, source: BinaryIO, file_name: str) -> None:
        self._stream = stream
        self._source = source
        self._file_name = file_name
        self._given = 0

    def read(self, size: int, /) -> bytes:
        try:
            data = self._stream.read(size)
        except EOFError:
            refuse(self._file_name, "the gzip file is cut off: upload it again, whole")
        except (gzip.BadGzipFile, zlib.error):
            refuse(self._file_name, "the gzip file is damaged: upload it again")
        self._given += len(data)
        if self._given > MAX_UNPACKED_BYTES:
            rule = f"the file unpacks to more than {MAX_UNPACKED_BYTES >> 30} GB: upload it unpacked"
            refuse(self._file_name, rule)
        if self._given > RATIO_FREE_BYTES and self._given > MAX_RATIO * self._source.tell():
            rule = f"the file unpacks to more than {MAX_RATIO} times its size: upload it unpacked"
            refuse(self._file_name, rule)
        return data
