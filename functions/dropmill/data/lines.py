"""Pieces of a file that is divided by lines: which lines belong to a piece, in slices of bounded size."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from dropmill.contracts import Piece
from dropmill.data.checks import refuse
from dropmill.data.rows import Progress

MAX_LINE_BYTES = 32 << 20
SLICE_BYTES = 2 << 20


@dataclass(frozen=True)
class Slice:
    """Whole lines. `first_line` is the number of the first of them, from 1 at the piece's first line."""

    data: bytes
    first_line: int


def slices(
    stream: BinaryIO, piece: Piece, progress: Progress, file_name: str, *, slice_bytes: int = SLICE_BYTES
) -> Iterator[Slice]:
    """Yield the lines that begin in the byte range of `piece`, the last of them to its end, wherever that is.

    A line begins at the file's first byte and behind every line feed. `progress.begin` and `stop` become the offsets
    of the first line that begins at or behind the piece's start and end, so neighbours agree on each other's bounds.

    Raises InvalidDrop for a line of more than `MAX_LINE_BYTES`.
    """
    at = _next_line(stream, piece.start, file_name)
    progress.begin = progress.stop = at
    rest = b""
    while at < piece.end:
        read = stream.read(min(slice_bytes, piece.end - at))
        if not read:
            break
        at += len(read)
        data = rest + read
        cut = data.rfind(b"\n") + 1
        rest = data[cut:]
        if len(rest) > MAX_LINE_BYTES:
            refuse(file_name, f"no line ends within {MAX_LINE_BYTES >> 20} MB", row=progress.lines + 1)
        if cut:
            yield _taken(data[:cut], progress)
    if rest:
        tail = stream.readline(MAX_LINE_BYTES + 1)
        if len(rest) + len(tail) > MAX_LINE_BYTES:
            refuse(file_name, f"no line ends within {MAX_LINE_BYTES >> 20} MB", row=progress.lines + 1)
        yield _taken(rest + tail, progress)


def _taken(data: bytes, progress: Progress) -> Slice:
    whole = Slice(data, progress.lines + 1)
    progress.stop += len(data)
    progress.lines += data.count(b"\n")
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
