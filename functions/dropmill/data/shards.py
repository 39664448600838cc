"""How a drop is divided among Lambdas: shards of interleaved pieces, so that none holds one part of a sorted drop.

Rows to be scored stay in their order instead.
"""

import heapq
from collections.abc import Iterator, Sequence

from dropmill.contracts import DroppedFile, Piece, Shard, Unit

SHARD_BYTES = 64 << 20
"""The least input of a shard, where a drop has more than that."""
SHARDS_MAX = 1000
"""Beyond, shards grow: the Map's history has room for some more."""
PIECES_PER_SHARD = 16
_PIECE_BYTES_MIN = 1 << 20


def plan_shards(files: Sequence[DroppedFile]) -> list[Shard]:
    """Divide `files`, in order, into shards of about max(64 MiB, total / 1000).

    Each file is cut into pieces of a sixteenth of a shard, as far as its unit allows, and the pieces are dealt out in
    turn: a shard holds every n-th piece of the drop. What can't be cut is one piece.
    """
    total = sum(file.source.size for file in files)
    shard_bytes = max(SHARD_BYTES, -(-total // SHARDS_MAX))
    pieces = [
        (piece, size)
        for index, file in enumerate(files)
        for piece, size in _pieces(index, file, max(_PIECE_BYTES_MIN, shard_bytes // PIECES_PER_SHARD))
    ]
    count = max(1, min(-(-total // shard_bytes), len(pieces)))
    dealt: list[list[Piece]] = [[] for _ in range(count)]
    loads = [(0, number) for number in range(count)]
    for piece, size in pieces:
        load, number = loads[0]
        dealt[number].append(piece)
        heapq.heapreplace(loads, (load + size, number))
    return [Shard(number=number, pieces=held) for number, held in enumerate(dealt) if held]


def plan_in_order(files: Sequence[DroppedFile]) -> list[Shard]:
    """Divide `files` into shards of as many bytes, each of which is what follows the one before.

    A shard holds at most one piece of each file, so that its rows of a file stand together.
    """
    total = sum(file.source.size for file in files)
    shard_bytes = max(SHARD_BYTES, -(-total // SHARDS_MAX))
    shards: list[list[Piece]] = []
    room = 0
    for index, file in enumerate(files):
        for piece, size in _pieces(index, file, shard_bytes):
            if not shards or size > room or shards[-1][-1].file == index:
                shards.append([])
                room = shard_bytes
            shards[-1].append(piece)
            room -= size
    return [Shard(number=number, pieces=held) for number, held in enumerate(shards)]


def _pieces(index: int, file: DroppedFile, piece_bytes: int) -> Iterator[tuple[Piece, int]]:
    """The pieces of one file, each with about how many bytes it has."""
    extent = file.end - file.start
    if extent <= 0:
        return
    step = extent if file.unit is Unit.WHOLE else max(1, piece_bytes * extent // max(1, file.source.size))
    for start in range(file.start, file.end, step):
        end = min(start + step, file.end)
        yield Piece(file=index, start=start, end=end), max(1, file.source.size * (end - start) // extent)
