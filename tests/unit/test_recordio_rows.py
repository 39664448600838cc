"""Dropped recordIO: the rows that were written, whatever the cuts, and what is said about bad files."""

import io
import struct
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dropmill.contracts import DroppedFile, FoundProblem, Layout, ObjectVersion, Piece, Unit
from dropmill.data import recordio, recordio_rows
from dropmill.data.checks import Problems, TooManyProblems
from dropmill.data.recordio import SparseMatrix
from dropmill.data.rows import Look, OpenFile, Progress, Rows
from dropmill.errors import InvalidDrop
from dropmill.recipe import DataOptions

Array = NDArray[Any]


def opened(data: bytes) -> OpenFile:
    return OpenFile("rows.pbr", len(data), lambda: io.BytesIO(data))


def look(data: bytes, **options: Any) -> Look:
    return recordio_rows.look(opened(data), DataOptions(**options), gzipped=False)


class Read:
    """The rows of one piece after another, joined."""

    def __init__(
        self, data: bytes, cuts: list[int] | None = None, layout: dict[str, Any] | None = None, **options: Any
    ) -> None:
        self.look = look(data, **options)
        self.layout: Layout = self.look.layout.model_copy(update=layout or {})
        source = ObjectVersion(bucket="drops", key="rows.pbr", size=len(data))
        dropped = DroppedFile(
            source=source,
            name="rows.pbr",
            unit=self.look.unit,
            start=self.look.start,
            end=self.look.end,
            rows=self.look.rows,
        )
        bounds = [self.look.start, *sorted(set(cuts or [])), self.look.end]
        self.found: list[FoundProblem] = []
        self.rows: list[Rows] = []
        self.read = 0
        for start, end in pairwise(bounds):
            progress = Progress(start, start)
            problems = Problems("rows.pbr", self.found)
            piece = Piece(file=0, start=start, end=end)
            try:
                self.rows += recordio_rows.read(opened(data), dropped, piece, self.layout, problems, progress)
            except TooManyProblems:
                return
            self.read += progress.rows

    @property
    def said(self) -> list[str]:
        return [found.problem.words.in_full() for found in self.found]

    @property
    def features(self) -> Array:
        return np.concatenate([dense(rows) for rows in self.rows])

    @property
    def labels(self) -> Array:
        return np.concatenate([rows.labels for rows in self.rows if rows.labels is not None])


def dense(rows: Rows) -> Array:
    return rows.features.to_dense() if isinstance(rows.features, SparseMatrix) else rows.features


def matrix(rows: int, columns: int, seed: int = 0, density: float = 1.0) -> Array:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(rows, columns)) * (rng.random((rows, columns)) < density)).astype(np.float32)


def labels_of(data: bytes, **options: Any) -> list[float]:
    seen = look(data, **options)
    problems = Problems("rows.pbr", [])
    cells = recordio_rows.label_cells(opened(data), seen, problems)
    return [float(cell) for some in cells for cell in some]


def refused(data: bytes, cuts: list[int] | None = None, **options: Any) -> str:
    with pytest.raises(InvalidDrop) as caught:
        Read(data, cuts, **options)
    return caught.value.words.in_full()


# What is read


@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 12),
    labelled=st.booleans(),
    sparse=st.booleans(),
    cuts=st.lists(st.integers(1, 39), max_size=4),
)
@settings(max_examples=60, deadline=None)
def test_any_cuts_give_the_rows_that_were_written(
    rows: int, columns: int, labelled: bool, sparse: bool, cuts: list[int]
) -> None:
    features = matrix(rows, columns, seed=rows, density=0.4 if sparse else 1.0)
    labels = np.arange(rows, dtype=np.float32) % 3 if labelled else None
    data = recordio.encode(SparseMatrix.of(features) if sparse else features, labels)
    read = Read(data, [cut for cut in cuts if cut < rows and not sparse])
    assert read.look.unit is (Unit.WHOLE if sparse else Unit.ROWS)
    assert read.layout.sparse_columns == (columns if sparse else None)
    assert read.layout.own_labels is labelled
    assert read.layout.feature_dim == columns
    assert read.read == rows
    np.testing.assert_array_equal(read.features, features)
    if labels is not None:
        np.testing.assert_array_equal(read.labels, labels)
        assert labels_of(data) == labels.tolist()


def test_a_large_file_is_given_some_rows_at_a_time() -> None:
    features = matrix(3000, 300)
    for given_rows in (features, SparseMatrix.of(features)):
        read = Read(recordio.encode(given_rows, np.zeros(3000)))
        assert len(read.rows) > 3
        np.testing.assert_array_equal(read.features, features)


def test_rows_of_a_dense_file_are_contiguous_float32() -> None:
    read = Read(recordio.encode(matrix(20, 5), np.zeros(20)), [7], drop_columns=["1"])
    for rows in read.rows:
        assert isinstance(rows.features, np.ndarray)
        assert rows.features.dtype == np.float32
        assert rows.labels is not None
        assert rows.labels.dtype == np.float64
    np.testing.assert_array_equal(read.features, matrix(20, 5)[:, [0, 2, 3, 4]])


def test_an_unlabelled_dense_file_may_have_its_label_in_a_column() -> None:
    features = matrix(10, 3)
    read = Read(recordio.encode(features), label="2")
    np.testing.assert_array_equal(read.features, features[:, :2])
    np.testing.assert_array_equal(read.labels, features[:, 2])
    assert labels_of(recordio.encode(features), label="2") == features[:, 2].tolist()


def test_records_of_several_parts_are_read_whole() -> None:
    first = recordio.encode(matrix(1, 4), np.ones(1))
    payload = first[8:]
    parts = b"".join(
        struct.pack("<II", recordio.MAGIC, flag << 29 | len(part)) + part + bytes(-len(part) % 4)
        for flag, part in ((1, payload[:16]), (3, payload[20:]))
    )
    # The magic number that the cut stands for is put back on reading, so these bytes must hold it.
    changed = payload[:16] + struct.pack("<I", recordio.MAGIC) + payload[20:]
    whole = struct.pack("<II", recordio.MAGIC, len(payload)) + changed
    assert Read(parts).look.unit is Unit.WHOLE
    np.testing.assert_array_equal(Read(parts + parts).features[1:], Read(whole).features)


def test_blocks_of_other_records_within_a_file_are_read_as_the_first_are() -> None:
    features = matrix(400, 50, density=0.5)
    for first, second in ((features, SparseMatrix.of(features)), (SparseMatrix.of(features), features)):
        data = recordio.encode(first, np.zeros(400)) + recordio.encode(second, np.zeros(400))
        read = Read(data)
        assert (read.layout.sparse_columns is None) == isinstance(first, np.ndarray)
        np.testing.assert_array_equal(read.features, np.concatenate([features, features]))


def test_sparse_rows_have_one_form() -> None:
    scattered = SparseMatrix(np.array([3, 0, 1, 5], np.float32), np.array([4, 2, 0, 1]), np.array([0, 3, 4]), width=6)
    (rows,) = Read(recordio.encode(scattered)).rows
    assert isinstance(rows.features, SparseMatrix)
    assert rows.features.columns.tolist() == [0, 4, 1]
    assert rows.features.values.tolist() == [1, 3, 5]
    assert rows.features.offsets.tolist() == [0, 2, 3]


def test_classes_of_the_recipe_give_indexes() -> None:
    data = recordio.encode(matrix(4, 2), np.array([7, 3, 7, 5]))
    read = Read(data, layout={"classes": ["7", "3"]})
    assert read.labels.tolist() == [0, 1, 0]
    assert read.said == [
        "rows.pbr, row 3, column 'label': '5' is none of the classes: mend the label, or list it under data.classes in"
        " the recipe"
    ]


# What is wrong


@pytest.mark.parametrize("sparse", [False, True])
def test_what_is_not_finite_is_named_by_row_and_column(sparse: bool) -> None:
    features = matrix(30, 4)
    features[21, 2] = np.nan
    features[25, 0] = -np.inf
    labels = np.zeros(30)
    labels[3] = np.nan
    read = Read(recordio.encode(SparseMatrix.of(features) if sparse else features, labels), [] if sparse else [10])
    rule = "is not a finite number: mend the row or leave it out"
    assert sorted(read.said) == [
        f"rows.pbr, row 21, column '2': 'nan' {rule}",
        f"rows.pbr, row 25, column '0': '-inf' {rule}",
        f"rows.pbr, row 3, column 'label': 'nan' {rule}",
    ]
    assert (len(read.features), len(read.labels), read.read) == (27, 27, 30)


def test_not_a_number_is_a_missing_value_where_these_are_filled() -> None:
    features = matrix(5, 2)
    features[1, 1] = np.nan
    features[2, 0] = np.inf
    read = Read(recordio.encode(features), layout={"fill": [0.0, 0.0]})
    assert len(read.said) == 1
    np.testing.assert_array_equal(read.features, features[[0, 1, 3, 4]])


def test_labels_with_problems_are_not_among_the_cells() -> None:
    data = recordio.encode(matrix(3, 2), np.array([1, np.inf, 2]))
    assert labels_of(data) == [1, 2]


def test_a_record_of_another_kind_is_named_by_its_offset() -> None:
    data = bytearray(recordio.encode(matrix(4000, 4)))
    length = len(data) // 4000
    data[2501 * length + 4] ^= 4
    read = look(bytes(data))
    assert read.unit is Unit.ROWS
    said = refused(bytes(data))
    assert f"rows.pbr: byte {2501 * length}: no record of {length} bytes begins here" in said


def test_damage_within_a_record_is_named_by_its_offset() -> None:
    data = bytearray(recordio.encode(matrix(4000, 4)))
    length = len(data) // 4000
    data[2600 * length + 9] ^= 0x55
    assert f"rows.pbr: byte {2600 * length}: " in refused(bytes(data), cuts=[2500])


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (recordio.encode(matrix(3, 2), np.zeros((3, 2))), "labels of 2 numbers each; only one can be learned"),
        (recordio.encode(matrix(3, 2))[:-5], "byte "),
        (struct.pack("<II", recordio.MAGIC, 0), "byte 0: a record without features"),
        (recordio.encode(np.zeros((2, 0), np.float32)), "the first record has no features"),
        (recordio.encode(matrix(3, 2)) + recordio.encode(matrix(3, 3)), "a record of 3 features where the first has 2"),
        (recordio.encode(matrix(3, 2)) + b"something else", "no record begins here"),
        (recordio.encode(SparseMatrix.of(np.eye(3))) + b"\x0a\x23", "the data ends within the head of a record"),
    ],
)
def test_what_can_not_be_rows_is_refused(data: bytes, said: str) -> None:
    assert said in refused(data)


def test_sparse_records_have_no_columns_to_choose_from() -> None:
    data = recordio.encode(SparseMatrix.of(np.eye(3)))
    assert "take drop_columns out of the recipe" in refused(data, drop_columns=["1"])
    assert "the records have no labels" in refused(data, label="1")


@given(
    sparse=st.booleans(),
    changes=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=4),
    cut=st.integers(0, 40),
)
@settings(max_examples=200, deadline=None)
def test_any_bytes_give_rows_or_invalid_drop(sparse: bool, changes: list[tuple[int, int]], cut: int) -> None:
    features = matrix(20, 5, density=0.5)
    data = bytearray(recordio.encode(SparseMatrix.of(features) if sparse else features, np.zeros(20)))
    for at, value in changes:
        data[at % len(data)] = value
    damaged = bytes(data[: len(data) - cut])
    try:
        read = Read(damaged, [3])
    except InvalidDrop:
        return
    assert all(rows.features.shape[1] == read.layout.feature_dim for rows in read.rows)
