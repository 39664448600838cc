"""The bytes of a file that may be gzipped."""

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, Protocol

from dropmill.data.checks import MAX_UNPACKED_BYTES, refuse


class Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


@contextmanager
def unpacked(source: BinaryIO, file_name: str, *, gzipped: bool) -> Iterator[Readable]:
    """The file from its start, decompressed if need be.

    Raises InvalidDrop for gzip that is cut off, damaged or a bomb.
    """
    source.seek(0)
    if not gzipped:
        yield source
        return
    try:
        with gzip.GzipFile(fileobj=source) as stream:
            yield _Capped(stream, file_name)
    except EOFError:
        refuse(file_name, "the gzip file is cut off: upload it again, whole")
    except (gzip.BadGzipFile, zlib.error):
        refuse(file_name, "the gzip file is damaged: upload it again")


class _Capped:
    """A stream that refuses to give more than MAX_UNPACKED_BYTES."""

    def __init__(self, stream: Readable, file_name: str) -> None:
        self._stream = stream
        self._file_name = file_name
        self._left = MAX_UNPACKED_BYTES

    def read(self, size: int, /) -> bytes:
        data = self._stream.read(size)
        self._left -= len(data)
        if self._left < 0:
            refuse(self._file_name, f"the file unpacks to more than {MAX_UNPACKED_BYTES >> 30} GB: upload it unpacked")
        return data
