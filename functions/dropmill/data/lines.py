"""Text in slices of bounded size: the lines of a piece, in a file that is divided by lines, or those of a stream."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import BinaryIO, NoReturn

import numpy as np

from dropmill.contracts import Piece
from dropmill.data.checks import refuse
from dropmill.data.rows import OpenFile, Progress
from dropmill.data.unpacked import Readable, unpacked

MAX_LINE_BYTES = 32 << 20
SLICE_BYTES = 2 << 20

_UTF8_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Slice:
    """Whole lines. `first_line` is the number of the first of them, from 1 at the piece's first line."""

    data: bytes
    first_line: int


def of_piece(
    file: OpenFile,
    piece: Piece,
    progress: Progress,
    *,
    gzipped: bool,
    slice_bytes: int = SLICE_BYTES,
    max_line_bytes: int = MAX_LINE_BYTES,
) -> Iterator[Slice]:
    """Yield the lines of a piece of a file as `slices` does, or, if it is gzipped, all its lines (`whole_slices`).

    Leaves out the mark that some programs put before UTF-8.
    """
    limits = {"slice_bytes": slice_bytes, "max_line_bytes": max_line_bytes}
    with file.open() as stream, unpacked(stream, file.name, gzipped=gzipped) as whole:
        if gzipped:
            found = whole_slices(whole, progress, file.name, **limits)
        else:
            found = slices(stream, piece, progress, file.name, **limits)
        yield from _without_mark(found) if gzipped or piece.start == 0 else found


def count(file: OpenFile, piece: Piece, progress: Progress) -> None:
    """Put the bounds and lines of a piece into `progress` where its rows aren't read.

    Raises InvalidDrop as `slices` does.
    """
    with file.open() as stream:
        for _ in slices(stream, piece, progress, file.name):
            pass


def _without_mark(found: Iterator[Slice]) -> Iterator[Slice]:
    first = next(found, None)
    if first is None:
        return found
    return chain([replace(first, data=first.data.removeprefix(_UTF8_MARK))], found)


def slices(
    stream: BinaryIO,
    piece: Piece,
    progress: Progress,
    file_name: str,
    *,
    slice_bytes: int = SLICE_BYTES,
    max_line_bytes: int = MAX_LINE_BYTES,
) -> Iterator[Slice]:
    """Yield the lines that begin in the byte range of `piece`, the last of them to its end, wherever that is.

    A line begins at the file's first byte and behind every line feed. `progress.begin` and `stop` become the offsets
    of the first line that begins at or behind the piece's start and end, so neighbours agree on each other's bounds.

    Raises InvalidDrop for a line of more than `max_line_bytes`.
    """
    at = _next_line(stream, piece.start, file_name)
    progress.begin = progress.stop = at
    rest = b""
    while at < piece.end:
        read = stream.read(min(slice_bytes, piece.end - at))
        if not read:
            break
        at += len(read)
        found, rest = _cut(rest, read, progress)
        del read  # what is needed no more is not kept while other pieces have their turns
        if found:
            progress.stop += len(found[0].data)
            yield found.pop()
        if len(rest) > max_line_bytes:
            _refuse_long_line(file_name, max_line_bytes, progress)
    if rest:
        tail = stream.readline(max_line_bytes + 1)
        if len(rest) + len(tail) > max_line_bytes:
            _refuse_long_line(file_name, max_line_bytes, progress)
        progress.stop += len(rest) + len(tail)
        yield _taken(rest + tail, progress)


def whole_slices(
    stream: Readable,
    progress: Progress,
    file_name: str,
    *,
    slice_bytes: int = SLICE_BYTES,
    max_line_bytes: int = MAX_LINE_BYTES,
) -> Iterator[Slice]:
    """Yield all lines of a stream that can't be divided, from where it stands. Only `progress.lines` is kept.

    Raises InvalidDrop for a line of more than `max_line_bytes`.
    """
    rest = b""
    while read := stream.read(slice_bytes):
        found, rest = _cut(rest, read, progress)
        if found:
            yield found.pop()
        if len(rest) > max_line_bytes:
            _refuse_long_line(file_name, max_line_bytes, progress)
    if rest:
        yield _taken(rest, progress)


def _cut(rest: bytes, read: bytes, progress: Progress) -> tuple[list[Slice], bytes]:
    """The whole lines of what has been read, if there are any, and what follows them."""
    end = read.rfind(b"\n") + 1
    if not end:
        return [], rest + read
    return [_taken(b"".join((rest, memoryview(read)[:end])), progress)], read[end:]


def _refuse_long_line(file_name: str, max_line_bytes: int, progress: Progress) -> NoReturn:
    refuse(file_name, f"no line ends within {max_line_bytes >> 20} MB", row=progress.lines + 1)


def _taken(data: bytes, progress: Progress) -> Slice:
    whole = Slice(data, progress.lines + 1)
    # Five times as fast as counting by the bytes themselves.
    progress.lines += int(np.count_nonzero(np.frombuffer(data, dtype=np.uint8) == ord("\n")))
    return whole


def _next_line(stream: BinaryIO, start: int, file_name: str) -> int:
    """The offset of the first line that begins at or behind `start`, where the stream is left."""
    if start == 0:
        stream.seek(0)
        return 0
    stream.seek(start - 1)
    skipped = stream.readline(MAX_LINE_BYTES + 1)
    if len(skipped) > MAX_LINE_BYTES:
        refuse(file_name, f"no line ends within {MAX_LINE_BYTES >> 20} MB behind byte {start}")
    return start - 1 + len(skipped)
