"""Dividing drops among Lambdas."""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from dropmill.contracts import DroppedFile, ObjectVersion, Unit
from dropmill.data.shards import PIECES_PER_SHARD, SHARD_BYTES, SHARDS_MAX, plan_shards

TB = 10**12


def file(size: int, unit: Unit = Unit.LINES, start: int = 0, end: int | None = None) -> DroppedFile:
    source = ObjectVersion(bucket="drops", key="drops/r/f", version_id="1", size=size)
    ends = {Unit.LINES: size, Unit.WHOLE: 1}
    return DroppedFile(source=source, name="f", unit=unit, start=start, end=ends.get(unit, 0) if end is None else end)


sizes = st.one_of(st.integers(1, 10_000), st.integers(1, 300 << 20), st.integers(1, 20 * TB))


@settings(deadline=None)
@given(st.lists(st.tuples(sizes, st.sampled_from([Unit.LINES, Unit.WHOLE, Unit.ROW_GROUPS])), min_size=1, max_size=8))
def test_pieces_tile_every_file_once(described: list[tuple[int, Unit]]) -> None:
    files = [file(size, unit, end=max(1, size >> 22) if unit is Unit.ROW_GROUPS else None) for size, unit in described]
    shards = plan_shards(files)
    assert [shard.number for shard in shards] == list(range(len(shards)))
    assert len(shards) <= SHARDS_MAX + 1
    for index, one in enumerate(files):
        pieces = sorted(
            (piece for shard in shards for piece in shard.pieces if piece.file == index), key=lambda piece: piece.start
        )
        assert (pieces[0].start, pieces[-1].end) == (one.start, one.end)
        assert all(left.end == right.start for left, right in pairwise(pieces))


def test_a_shard_holds_pieces_from_all_over_the_file() -> None:
    size = 20 * SHARD_BYTES
    shards = plan_shards([file(size)])
    assert len(shards) == 20
    for shard in shards:
        assert len(shard.pieces) == PIECES_PER_SHARD
        assert shard.pieces[0].start < size / 16
        assert shard.pieces[-1].end > size * 15 / 16
        assert sum(piece.end - piece.start for piece in shard.pieces) == SHARD_BYTES


def test_a_small_file_is_one_piece() -> None:
    (shard,) = plan_shards([file(1000, start=10)])
    assert [(piece.start, piece.end) for piece in shard.pieces] == [(10, 1000)]


def test_shards_grow_with_a_large_drop() -> None:
    shards = plan_shards([file(10 * TB)])
    assert SHARDS_MAX - 1 <= len(shards) <= SHARDS_MAX
    sizes = [sum(piece.end - piece.start for piece in shard.pieces) for shard in shards]
    assert max(sizes) < 1.1 * 10 * TB / SHARDS_MAX


def test_many_small_files_share_shards() -> None:
    shards = plan_shards([file(1 << 20, Unit.WHOLE)] * 640)
    assert len(shards) == 10
    assert {len(shard.pieces) for shard in shards} == {64}


def test_a_file_without_rows_has_no_piece() -> None:
    (shard,) = plan_shards([file(100, start=100), file(100)])
    assert [piece.file for piece in shard.pieces] == [1]
