"""Dropped Parquet: the rows that were written, whatever the cuts and types, and what is said about bad files."""

import io
from itertools import pairwise
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dropmill.contracts import DroppedFile, FoundProblem, Layout, ObjectVersion, Piece, Unit
from dropmill.data import blocks, parquet, parquet_pages
from dropmill.data.checks import Problems, TooManyProblems
from dropmill.data.rows import Look, OpenFile, Progress, Rows
from dropmill.errors import InvalidDrop
from dropmill.recipe import DataOptions

Array = NDArray[Any]
MISSING = "there is no value (null): fill it in, leave the row out, or set data.missing to mean or 0 in the recipe"


def written(table: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    pq.write_table(table, stream, **options)
    return stream.getvalue()


def opened(data: bytes) -> OpenFile:
    return OpenFile("rows.parquet", len(data), lambda: io.BytesIO(data))


def look(data: bytes, **options: Any) -> Look:
    return parquet.look(opened(data), DataOptions(**options), gzipped=False)


class Read:
    """The rows of one piece after another, joined."""

    def __init__(
        self, data: bytes, cuts: list[int] | None = None, layout: dict[str, Any] | None = None, **options: Any
    ) -> None:
        self.look = look(data, **options)
        self.layout: Layout = self.look.layout.model_copy(update=layout or {})
        dropped = DroppedFile(
            source=ObjectVersion(bucket="drops", key="rows.parquet", size=len(data)),
            name="rows.parquet",
            unit=self.look.unit,
            start=self.look.start,
            end=self.look.end,
            rows=self.look.rows,
        )
        bounds = [self.look.start, *sorted({cut for cut in cuts or [] if 0 < cut < self.look.end}), self.look.end]
        self.found: list[FoundProblem] = []
        self.rows: list[Rows] = []
        self.read = 0
        for start, end in pairwise(bounds):
            progress = Progress(start, start)
            problems = Problems("rows.parquet", self.found)
            piece = Piece(file=0, start=start, end=end)
            try:
                self.rows += parquet.read(opened(data), dropped, piece, self.layout, problems, progress)
            except TooManyProblems:
                return
            self.read += progress.rows

    @property
    def said(self) -> list[str]:
        return [found.problem.words.in_full() for found in self.found]

    @property
    def features(self) -> Array:
        return np.concatenate([rows.features for rows in self.rows if isinstance(rows.features, np.ndarray)])

    @property
    def labels(self) -> Array:
        return np.concatenate([rows.labels for rows in self.rows if rows.labels is not None])


def cells(data: bytes, **options: Any) -> list[Any]:
    return [
        cell
        for some in parquet.label_cells(opened(data), look(data, **options), Problems("rows.parquet", []))
        for cell in (some if isinstance(some, list) else some.tolist())
    ]


def refused(data: bytes, **options: Any) -> str:
    with pytest.raises(InvalidDrop) as caught:
        Read(data, **options)
    return caught.value.words.in_full()


# What is read

NUMBERS = st.sampled_from(["i1", "u1", "i2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", "?"])


@given(
    types=st.lists(NUMBERS, min_size=1, max_size=6),
    rows=st.integers(1, 60),
    group=st.integers(1, 30),
    cuts=st.lists(st.integers(1, 20), max_size=3),
    codec=st.sampled_from(["none", "snappy", "gzip", "zstd", "lz4", "brotli"]),
    version=st.sampled_from(["1.0", "2.0"]),
    dictionaries=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_any_types_and_cuts_give_the_rows_that_were_written(
    types: list[str], rows: int, group: int, cuts: list[int], codec: str, version: str, dictionaries: bool
) -> None:
    rng = np.random.default_rng(rows)
    columns = [(rng.integers(0, 100, rows) if kind != "?" else rng.random(rows) < 0.5).astype(kind) for kind in types]
    labels = rng.integers(0, 3, rows)
    table = pa.table({**{f"x{at}": column for at, column in enumerate(columns)}, "label": labels})
    data = written(
        table, row_group_size=group, compression=codec, data_page_version=version, use_dictionary=dictionaries
    )
    read = Read(data, cuts)
    assert (read.look.unit, read.look.end, read.look.rows) == (Unit.ROW_GROUPS, -(-rows // group), rows)
    assert read.read == rows
    for taken in read.rows:
        assert isinstance(taken.features, np.ndarray)
        assert taken.features.dtype == np.float32
        assert taken.features.flags.c_contiguous
    np.testing.assert_array_equal(read.features, np.column_stack(columns).astype(np.float32))
    np.testing.assert_array_equal(read.labels, labels)
    assert cells(data) == labels.tolist()


def test_64_bit_integers_become_the_float32_of_their_text() -> None:
    number = (1 << 60) + (1 << 36) + 1  # rounded once it goes up, and rounded to float64 first it stays
    read = Read(written(pa.table({"a": np.array([number])})))
    assert read.features.tolist() == [[float(np.float32(float(number)))]]


def test_decimals_and_coded_numbers_are_numbers() -> None:
    table = pa.table(
        {
            "price": pa.array([1, 25, -3], pa.int64()).cast(pa.decimal128(25, 2)),
            "size": pa.array([7, 9, 7]).dictionary_encode(),
        }
    )
    np.testing.assert_array_equal(Read(written(table)).features, [[1, 7], [25, 9], [-3, 7]])


@pytest.mark.parametrize("make", [pa.list_, pa.large_list, lambda kind: pa.list_(kind, 3)])
def test_a_column_of_lists_is_all_features(make: Any) -> None:
    lists = [[1, 2, 3], [4, 5, 6], [7, 8, 9.5], [0, 0, 0]]
    table = pa.table({"pixels": pa.array(lists, make(pa.float32())), "who": ["b", "a", "b", "a"]})
    data = written(table, row_group_size=2)
    read = Read(data, [1], layout={"classes": ["a", "b"]}, label="who")
    assert read.layout.columns == ["0", "1", "2", "who"]
    assert (read.layout.feature_columns, read.layout.label_column) == ([0, 1, 2], 3)
    np.testing.assert_array_equal(read.features, lists)
    assert read.labels.tolist() == [1, 0, 1, 0]
    assert cells(data, label="who") == ["b", "a", "b", "a"]


def test_lists_of_other_lengths_and_without_values_are_problems() -> None:
    lists = [[1, 2], None, [3], [4, None], [5, 6]]
    data = written(pa.table({"x": pa.array(lists, pa.list_(pa.int32()))}))
    read = Read(data)
    assert sorted(read.said) == [
        f"rows.parquet, row 1, column 'x': {MISSING}",
        "rows.parquet, row 2, column 'x': a list of 1 numbers, where the first row has 2: mend the row",
        f"rows.parquet, row 3, column '1': {MISSING}",
    ]
    assert read.features.tolist() == [[1, 2], [5, 6]]
    filled = Read(data, layout={"fill": [0.0, 0.0]})
    np.testing.assert_array_equal(filled.features, [[1, 2], [np.nan, np.nan], [4, np.nan], [5, 6]])
    assert len(filled.said) == 1


def test_the_label_may_be_a_text() -> None:
    table = pa.table({"x": [1, 2, 3, 4], "label": ["no", " yes", "no", "maybe"]})
    for label in (table["label"], table["label"].dictionary_encode()):
        data = written(table.set_column(1, "label", label), row_group_size=3)
        assert cells(data) == ["no", "yes", "no", "maybe"]
        read = Read(data, layout={"classes": ["no", "yes"]})
        assert read.labels.tolist() == [0, 1, 0]
        assert read.said == [
            "rows.parquet, row 3, column 'label': 'maybe' is none of the classes: mend the label, or list it under"
            " data.classes in the recipe"
        ]


def test_texts_that_are_numbers_are_read_as_such() -> None:
    data = written(pa.table({"x": [1, 2], "label": ["3", "4.5"]}))
    assert cells(data) == [3, 4.5]
    assert Read(data).labels.tolist() == [3, 4.5]


def test_columns_are_chosen_by_the_recipe() -> None:
    table = pa.table(
        {"a": [1], "when": pa.array([0], pa.timestamp("s")), "a.b": [2], "y": [3], "__index_level_0__": [9]}
    )
    read = Read(written(table), label="3", drop_columns=["when"])
    assert read.features.tolist() == [[1, 2]]
    assert read.labels.tolist() == [3]


def test_a_large_row_group_is_given_some_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    features = np.random.default_rng(0).normal(size=(30_000, 60)).astype(np.float32)
    data = written(pa.table({str(at): column for at, column in enumerate(features.T)}))
    for fetched in (parquet.FETCHED_BYTES, 1000):
        monkeypatch.setattr(parquet, "FETCHED_BYTES", fetched)
        read = Read(data)
        assert max(len(rows) for rows in read.rows) * 240 <= parquet.BATCH_BYTES
        np.testing.assert_array_equal(read.features, features)


def test_a_row_group_is_fetched_in_order_column_by_column() -> None:
    class Noted(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            reads.append((self.tell(), size))
            return super().read(size)

    def noted() -> BinaryIO:
        return Noted(data)

    data = written(pa.table({name: np.random.default_rng(0).normal(size=1000) for name in "abcdef"}))
    file = OpenFile("rows.parquet", len(data), noted)
    layout = look(data).layout
    reads: list[tuple[int, int | None]] = []
    dropped = DroppedFile(source=ObjectVersion(bucket="drops", key="k", size=len(data)), name="rows.parquet")
    list(parquet.read(file, dropped, Piece(file=0, start=0, end=1), layout, Problems("", []), Progress(0, 0)))
    places = [at for at, _ in reads[2:]]
    assert len(places) == 6
    assert places == sorted(places)


def test_a_piece_says_about_how_much_memory_it_takes() -> None:
    data = written(pa.table({"a": np.arange(100_000), "b": np.arange(100_000)}), row_group_size=50_000)
    layout = look(data).layout
    both = [parquet.open_bytes(opened(data), Piece(file=0, start=at, end=at + 1), layout) for at in (0, 1)]
    assert all(parquet.BATCH_BYTES < size < parquet.BATCH_BYTES + 3 * len(data) for size in both)


@pytest.mark.parametrize("at_once", [1, 3])
def test_not_more_pieces_are_open_than_there_is_memory_for(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    now, most = 0, 0

    class Counted(io.BytesIO):
        def __init__(self) -> None:
            nonlocal now, most
            super().__init__(data)
            now += 1
            most = max(most, now)

        def close(self) -> None:
            nonlocal now
            now -= not self.closed
            super().close()

    rows = np.arange(3000)
    data = written(pa.table({"x": rows}), row_group_size=500)
    source = ObjectVersion(bucket="drops", key="k", size=len(data))
    dropped = DroppedFile(source=source, name="rows.parquet", unit=Unit.ROW_GROUPS, start=0, end=6, rows=3000)
    pieces = [Piece(file=0, start=at, end=at + 1) for at in range(6)]
    monkeypatch.setattr(parquet, "open_bytes", lambda *_: blocks.OPEN_BYTES_MAX // at_once)
    monkeypatch.setattr(parquet, "BATCH_BYTES", 400)
    file = OpenFile("rows.parquet", len(data), Counted)
    reading = blocks.Reading()
    given_blocks = list(blocks.blocks([dropped], pieces, lambda _: file, look(data).layout, DataOptions(), reading))
    assert (most, now) == (at_once, 0)
    features = np.concatenate([block.features for block in given_blocks if isinstance(block.features, np.ndarray)])
    np.testing.assert_array_equal(np.sort(features[:, 0]), rows)
    assert [report.rows for report in reading.pieces] == [500] * 6


# What is wrong


def test_missing_and_infinite_values_are_named_by_row_and_column() -> None:
    table = pa.table(
        {
            "a": pa.array([1, None, 3, 4, 5], pa.int16()),
            "b": pa.array([1, 2, np.nan, np.inf, 1e300], pa.float64()),
            "label": pa.array([1, 0, 1, 0, 1]),
        }
    )
    read = Read(written(table, row_group_size=2), [1])
    assert read.said == [
        f"rows.parquet, row 1, column 'a': {MISSING}",
        "rows.parquet, row 2, column 'b': 'nan' is not a finite number: mend the row or leave it out",
        "rows.parquet, row 3, column 'b': 'inf' is not a finite number: mend the row or leave it out",
        "rows.parquet, row 4, column 'b': '1e+300' is beyond float32 (at most 3.403e+38 in size): rescale the column",
    ]
    assert read.features.tolist() == [[1, 1]]
    assert read.read == 5
    filled = Read(written(table), layout={"fill": [0.0, 0.0]})
    np.testing.assert_array_equal(filled.features, [[1, 1], [np.nan, 2], [3, np.nan]])
    assert len(filled.said) == 2


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (pa.array([1, None, 2]), "row 1, column 'label': the label is empty: fill it in, or leave the row out"),
        (pa.array(["a", None, "b"]), "row 1, column 'label': the label is empty: fill it in, or leave the row out"),
        (pa.array([1, np.nan, 2]), "row 1, column 'label': 'nan' is not a finite number"),
        (pa.array(["a", "nan", "b"]), "row 1, column 'label': 'nan' is not a finite number"),
    ],
)
def test_a_label_must_be_there(labels: Any, said: str) -> None:
    data = written(pa.table({"x": [1, 2, 3], "label": labels}))
    classes = {"classes": ["a", "b"]} if pa.types.is_string(labels.type) else {}
    read = Read(data, layout=classes)
    assert len(read.said) == 1
    assert said in read.said[0]
    assert len(read.features) == len(read.labels) == 2
    assert len(cells(data)) == 2


def test_columns_of_other_types_are_named_all_at_once() -> None:
    table = pa.table(
        {
            "x": [1.0],
            "name": ["a"],
            "when": pa.array([0], pa.timestamp("s")),
            "raw": pa.array([b"a"]),
            "both": [{"a": 1.5}],
            "list": [[1, 2]],
            "label": pa.array([b"a"]),
        }
    )
    said = refused(written(table))
    assert said.splitlines() == [
        "- rows.parquet, column 'label': a column of type binary can't be the label: store it as a number or as text",
        "- rows.parquet, column 'name': a column of type string can't be a feature: list it under drop_columns",
        "- rows.parquet, column 'when': a column of type timestamp[ms] can't be a feature: list it under drop_columns",
        "- rows.parquet, column 'raw': a column of type binary can't be a feature: list it under drop_columns",
        "- rows.parquet, column 'both': a column of type struct<a: double> can't be a feature: list it under"
        " drop_columns",
        "- rows.parquet, column 'list': a column of type list<element: int64> can't be a feature: list it under"
        " drop_columns",
    ]


def encrypted() -> bytes:
    data = written(pa.table({"x": [1]}))
    return data[:-4] + b"PARE"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"PAR1", "cut off"),
        (written(pa.table({"x": [1, 2]}))[:-9], "directory is missing"),
        (b"PAR1" + bytes(100) + b"PAR1", "the file's directory can't be read"),
        (b"PAR1" + b"\xff\xff\xff\x7fPAR1", "directory is missing"),
        (encrypted(), "encrypted: save it without encryption"),
        (written(pa.table({"x": pa.array([], pa.int64())})), "there are no rows"),
        (written(pa.table([[1], [2]], names=["x", "x"])), "several columns have the same name ('x')"),
        (written(pa.table({"label": [1]})), "no column is left to learn from"),
        (written(pa.table({"__index_level_0__": [1]})), "no column is left to learn from"),
        (written(pa.table({"x": pa.array([None, [1]], pa.list_(pa.int8()))})), "the first row holds no list"),
    ],
)
def test_what_can_not_be_rows_is_refused(data: bytes, said: str) -> None:
    assert said in refused(data)


def test_a_wrong_length_of_a_page_costs_no_memory() -> None:
    table = pa.table({"x": np.arange(1000)})
    data = bytearray(written(table, use_dictionary=False, compression="none"))
    # The head of the first page: its type, then its size unpacked and packed, as varints of two bytes.
    assert data[4:6] == b"\x15\x00"
    for at in (7, 10):
        data[at : at + 2] = b"\xfe\x7f"
    said = refused(bytes(data))
    assert "column 'x': byte 4: the head of a page can't be read, or can't be right" in said


def test_pages_that_need_too_much_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    table = pa.table({name: np.random.default_rng(0).normal(size=5000) for name in "abcd"})
    data = written(table, use_dictionary=False)
    monkeypatch.setattr(parquet_pages, "MAX_PAGES_BYTES", 100_000)
    assert "write the file again with smaller row groups" in refused(data)
    monkeypatch.setattr(parquet_pages, "MAX_PAGE_BYTES", 20_000)
    assert "column 'a': a page of 40,0" in refused(data)


def test_a_directory_that_promises_too_much_is_refused() -> None:
    million = b"\x19\xfc\xc0\x84\x3d"  # field 1, a list of 1,000,000 structures
    directory = million + bytes(1000)
    data = b"PAR1" + directory + len(directory).to_bytes(4, "little") + b"PAR1"
    assert "lists more than can be" in refused(data)


def sample() -> bytes:
    rng = np.random.default_rng(0)
    table = pa.table(
        {
            "a": rng.integers(0, 9, 200),
            "b": rng.normal(size=200),
            "c": pa.array([None if at % 7 == 0 else bool(at % 2) for at in range(200)]),
            "label": ["yes" if at % 3 else "no" for at in range(200)],
        }
    )
    return written(table, row_group_size=80)


SAMPLE = sample()


@given(
    changes=st.lists(st.tuples(st.integers(0, len(SAMPLE) - 1), st.integers(0, 255)), min_size=1, max_size=6),
    cut=st.sampled_from([0, 0, 0, 1, 100]),
)
@settings(max_examples=300, deadline=None)
def test_any_bytes_give_rows_or_invalid_drop(changes: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(SAMPLE)
    for at, value in changes:
        data[at] = value
    damaged = bytes(data[: len(data) - cut])
    try:
        read = Read(damaged, [1])
        cells(damaged)
    except (InvalidDrop, TooManyProblems):
        return
    assert all(rows.features.shape[1] == read.layout.feature_dim for rows in read.rows)
