"""`.npy` and `.npz` as drops: what is read, how it is divided, and what is said about what can't be."""

import io
import zipfile
from collections.abc import Iterator
from itertools import pairwise
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dropmill.contracts import DroppedFile, FoundProblem, Layout, ObjectVersion, Piece, Unit
from dropmill.data import array_files, array_rows, checks, delimited_cells, npy, npz, npz_archive
from dropmill.data.checks import Problems, TooManyProblems
from dropmill.data.rows import Look, OpenFile, Progress, Rows
from dropmill.errors import InvalidDrop
from dropmill.recipe import DataOptions

NOT_FINITE = "is not a finite number: mend the row or leave it out"


class Read:
    """A drop of one file, looked at and read to its end, in pieces cut at `cuts`."""

    def __init__(
        self,
        reader: ModuleType,
        data: bytes,
        name: str,
        *,
        cuts: tuple[int, ...] = (),
        update: Any = None,
        **options: Any,
    ) -> None:
        self.file = OpenFile(name, len(data), lambda: io.BytesIO(data))
        self.look: Look = reader.look(self.file, DataOptions(**options), gzipped=False)
        self.layout: Layout = self.look.layout.model_copy(update=update or {})
        self.found: list[FoundProblem] = []
        self.rows: list[Rows] = []
        self.counted = 0
        dropped = DroppedFile(
            source=ObjectVersion(bucket="drops", key=name, size=len(data)),
            name=name,
            unit=self.look.unit,
            start=self.look.start,
            end=self.look.end,
            rows=self.look.rows,
        )
        bounds = [self.look.start, *cuts, self.look.end]
        for index, (start, end) in enumerate(pairwise(bounds)):
            progress = Progress(start, start)
            problems = Problems(name, self.found, index)
            piece = Piece(file=0, start=start, end=end)
            try:
                self.rows += reader.read(self.file, dropped, piece, self.layout, problems, progress)
            except TooManyProblems:
                break
            finally:
                self.counted += progress.rows
        for rows in self.rows:
            features = rows.features
            assert isinstance(features, np.ndarray)
            assert features.dtype == np.float32
            assert features.flags.c_contiguous
            assert features.flags.writeable
            assert features.shape[1] == self.layout.feature_dim
            assert (rows.labels is not None) == self.layout.labelled

    @property
    def features(self) -> NDArray[np.float32]:
        return np.concatenate([np.asarray(rows.features) for rows in self.rows])

    @property
    def labels(self) -> NDArray[np.float64]:
        return np.concatenate([rows.labels for rows in self.rows if rows.labels is not None])

    @property
    def said(self) -> list[str]:
        return [found.problem.words.in_full() for found in self.found]


def npy_of(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.asanyarray(array), allow_pickle=True)
    return stream.getvalue()


def npz_of(**members: Any) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, allow_pickle=True, **members)
    return stream.getvalue()


def refused(reader: ModuleType, data: bytes, name: str, **options: Any) -> str:
    with pytest.raises(InvalidDrop) as error:
        Read(reader, data, name, **options)
    assert error.value.words.in_full().startswith(name)
    return error.value.words.in_full()


def cells_of(reader: ModuleType, data: bytes, **options: Any) -> tuple[list[Any], list[str]]:
    """The labels as they are told apart, and the problems with them."""
    file = OpenFile("d", len(data), lambda: io.BytesIO(data))
    found: list[FoundProblem] = []
    look = reader.look(file, DataOptions(**options), gzipped=False)
    cells = [cell for some in reader.label_cells(file, look, Problems("d", found)) for cell in some]
    return cells, [each.problem.words.in_full() for each in found]


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(array_rows, "ROWS_BYTES", 64)
    monkeypatch.setattr(array_files, "SLAB_BYTES", 300)
    monkeypatch.setattr(array_files, "MAX_SLAB_COLUMNS", 1 << 30)
    monkeypatch.setattr(array_files, "PACKED_SLAB_BYTES", 300)


# What is read


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f8", ">f4", "<f2", "<i8", "u1", "?"])
def test_npy(dtype: str, order: Any) -> None:
    array = np.array([[1, 0, 1], [0, 1, 1]], dtype=dtype, order=order)
    read = Read(npy, npy_of(array), "d.npy", label="1")
    assert read.features.tolist() == [[1, 1], [0, 1]]
    assert read.labels.tolist() == [0, 1]
    assert read.layout.columns == ["0", "1", "2"]
    assert (read.look.unit, read.look.end) == ((Unit.ROWS, 2) if order == "C" else (Unit.WHOLE, 1))
    assert read.look.rows == read.counted == 2


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.usefixtures("small_blocks")
def test_pictures_are_laid_flat(order: Any) -> None:
    pictures = np.arange(240, dtype=np.uint8).reshape(20, 3, 4)
    read = Read(npy, npy_of(np.asarray(pictures, order=order)), "d.npy")
    np.testing.assert_array_equal(read.features, pictures.reshape(20, 12))
    read = Read(npz, npz_of(x=np.asarray(pictures, order=order), y=np.arange(20)), "d.npz")
    np.testing.assert_array_equal(read.features, pictures.reshape(20, 12))
    np.testing.assert_array_equal(read.labels, np.arange(20))
    assert len(read.rows) > 5


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_pieces_give_the_rows_of_the_whole(data: st.DataObject) -> None:
    rows, columns = data.draw(st.integers(1, 60)), data.draw(st.integers(1, 9))
    dtype = data.draw(st.sampled_from(["<f8", ">f4", "<i2", ">u8", "?"]))
    array = (np.arange(rows * columns).reshape(rows, columns) % 250).astype(dtype)
    label = data.draw(st.sampled_from([None, "0"])) if columns > 1 else None
    cuts = tuple(sorted(data.draw(st.lists(st.integers(0, rows), max_size=4))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(array_rows, "ROWS_BYTES", 64)
        read = Read(npy, npy_of(array), "d.npy", cuts=cuts, label=label)
    expected = array.astype(np.float32)
    np.testing.assert_array_equal(read.features, expected if label is None else expected[:, 1:])
    if label is not None:
        np.testing.assert_array_equal(read.labels, array[:, 0].astype(np.float64))
    assert read.counted == rows


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.lists(st.integers(1, 4), min_size=1, max_size=3), st.integers(1, 400), st.booleans())
def test_slabs_of_fortran_order_give_the_same_rows(rows: int, shape: list[int], slab: int, packed: bool) -> None:
    array = np.arange(rows * int(np.prod(shape)), dtype=np.float64).reshape(rows, *shape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(array_rows, "ROWS_BYTES", 100)
        patch.setattr(array_files, "SLAB_BYTES", slab)
        patch.setattr(array_files, "MAX_SLAB_COLUMNS", 1 << 30)
        patch.setattr(array_files, "PACKED_SLAB_BYTES", slab)
        reader = npz if packed else npy
        in_order = np.asfortranarray(array)
        data = npz_of(x=in_order) if packed else npy_of(in_order)
        read = Read(reader, data, "d")
        flat = array.reshape(rows, -1)
        np.testing.assert_array_equal(read.features, flat)
        if flat.shape[1] > 1:
            label = flat.shape[1] // 2
            assert cells_of(reader, data, label=str(label)) == (flat[:, label].tolist(), [])


def test_whole_numbers_are_rounded_once_as_in_text() -> None:
    value = (1 << 62) + (1 << 38) + 1  # as float64 it lies between two float32 exactly, and rounds to the even one
    read = Read(npy, npy_of(np.array([[value, 1]])), "d.npy")
    assert read.features[0, 0] == np.float32(float(str(value)))


@pytest.mark.parametrize(
    ("members", "label"),
    [
        (["x", "y"], None),
        (["X", "Y"], None),
        (["data", "target"], None),
        (["images", "labels"], "label"),
        (["anything", "y"], None),
        (["anything", "else"], "else"),
        (["x", "else"], "else"),
    ],
)
def test_npz_members_are_found_by_name(members: list[str], label: str | None) -> None:
    read = Read(npz, npz_of(**{members[0]: [[1, 2], [3, 4]], members[1]: [5, 6]}), "d.npz", label=label)
    assert read.features.tolist() == [[1, 2], [3, 4]]
    assert read.labels.tolist() == [5, 6]
    assert (read.layout.feature_array, read.layout.label_array) == tuple(members)
    assert (read.look.unit, read.look.rows) == (Unit.WHOLE, 2)


def test_npz_with_the_label_as_a_column_or_none() -> None:
    assert Read(npz, npz_of(x=[[1, 2], [3, 4]]), "d.npz").features.shape == (2, 2)
    assert Read(npz, npz_of(x=[[1, 2], [3, 4]]), "d.npz", label="0").labels.tolist() == [1, 3]


@pytest.mark.usefixtures("small_blocks")
def test_rows_come_some_at_a_time() -> None:
    features, labels = np.random.default_rng(4).integers(0, 1000, (500, 3)), np.arange(500) % 7
    reads = [
        Read(npy, npy_of(np.column_stack([labels, features])), "d.npy", label="0"),
        Read(npz, npz_of(x=features, y=labels), "d.npz"),
        Read(npz, npz_of(x=np.asfortranarray(features), y=labels[:, None]), "d.npz"),
    ]
    for read in reads:
        assert max(map(len, read.rows)) <= 3
        np.testing.assert_array_equal(read.features, features)
        np.testing.assert_array_equal(read.labels, labels)


def test_columns_can_be_dropped() -> None:
    read = Read(npy, npy_of([[1, 2, 3], [4, 5, 6]]), "d.npy", drop_columns=["1"])
    assert read.features.tolist() == [[1, 3], [4, 6]]


def test_no_more_is_read_than_a_piece_takes() -> None:
    data = npy_of(np.arange(3_000_000, dtype=np.float32).reshape(-1, 3))
    taken: list[int] = []

    class Watched(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            got = super().read(size)
            taken.append(len(got))
            return got

    file = OpenFile("d.npy", len(data), lambda: Watched(data))
    look = npy.look(file, DataOptions(), gzipped=False)
    source = ObjectVersion(bucket="drops", key="d.npy", size=len(data))
    dropped = DroppedFile(source=source, name="d.npy", unit=look.unit, end=look.end)
    piece = Piece(file=0, start=900_000, end=900_010)
    (rows,) = npy.read(file, dropped, piece, look.layout, Problems("d.npy", []), Progress(0, 0))
    np.testing.assert_array_equal(np.asarray(rows.features)[:, 0], np.arange(900_000, 900_010) * 3)
    assert sum(taken) < 1000


# Labels


def test_numbers_as_labels_are_told_as_numbers() -> None:
    assert cells_of(npy, npy_of([[1, 5], [2, 6]]), label="0") == ([1, 2], [])
    assert cells_of(npz, npz_of(x=[[1], [2], [3]], y=[0.5, 7, -1])) == ([0.5, 7, -1], [])
    assert cells_of(npz, npz_of(x=[[1], [2]], y=["3", "4.50"])) == ([3, 4.5], [])


@pytest.mark.parametrize("dtype", ["<U4", ">U4", "S4"])
def test_texts_are_labels(dtype: str) -> None:
    names = np.array(["cat", " dog", "3.0", "cat"], dtype=dtype)
    data = npz_of(x=np.zeros((4, 2)), y=names)
    assert cells_of(npz, data) == (["cat", "dog", "3", "cat"], [])
    read = Read(npz, data, "d.npz", update={"classes": ["3", "cat", "dog"]})
    assert read.labels.tolist() == [1, 2, 0, 1]
    assert read.said == []


def test_numbers_become_the_classes_they_name() -> None:
    read = Read(npz, npz_of(x=np.zeros((3, 1)), y=[7, 3, 4]), "d.npz", update={"classes": ["3", "7.0"]})
    assert read.labels.tolist() == [1, 0]
    assert read.said == [f"d.npz, row 2, column 'label': '4' {checks.UNKNOWN_CLASS}"]


def test_labels_that_are_wrong() -> None:
    names = np.array(["a", "", "nan", "b", "1e39", "N/A"])
    data = npz_of(x=np.zeros((6, 1)), y=names)
    cells, said = cells_of(npz, data)
    assert cells == ["a", "b"]
    assert said == [
        "d, row 1, column 'label': the label is empty: fill it in, or leave the row out",
        f"d, row 2, column 'label': 'nan' {NOT_FINITE}",
        "d, row 4, column 'label': '1e39' is beyond float32 (at most 3.403e+38 in size): rescale the column",
        f"d, row 5, column 'label': 'N/A' {delimited_cells.MISSING_LABEL}",
    ]
    read = Read(npz, data, "d.npz", update={"classes": ["a", "c", "N/A"]})
    assert read.labels.tolist() == [0, 2]
    assert read.said[2] == f"d.npz, row 3, column 'label': 'b' {checks.UNKNOWN_CLASS}"
    unnamed = Read(npz, data, "d.npz")
    assert unnamed.said[0] == f"d.npz, row 0, column 'label': 'a' {delimited_cells.TEXT_LABEL}"
    said = cells_of(npz, npz_of(x=np.ones((3, 1)), y=[1, 2, np.inf]))[1]
    assert said == [f"d, row 2, column 'label': 'inf' {NOT_FINITE}"]


def test_what_is_no_text_is_a_label_like_another() -> None:
    signs = np.array([0x110000, 0xD800, 0x61], dtype=np.uint32).view("<U1")
    assert cells_of(npz, npz_of(x=np.zeros((3, 1)), y=signs)) == (["\ufffd", "\ufffd", "a"], [])
    assert cells_of(npz, npz_of(x=np.zeros((1, 1)), y=np.array([b"\xff"]))) == (["\ufffd"], [])


# Missing values and other problems


def test_a_missing_value_is_left_to_be_filled() -> None:
    array = np.array([[1, np.nan], [np.inf, 2], [3, 4]])
    read = Read(npy, npy_of(array), "d.npy", update={"fill": [0.0, 0.0]})
    np.testing.assert_array_equal(read.features, [[1, np.nan], [3, 4]])
    assert read.said == [f"d.npy, row 1, column '0': 'inf' {NOT_FINITE}"]


def test_a_missing_label_is_never_filled() -> None:
    array = np.array([[np.nan, 1], [5, np.nan]])
    read = Read(npy, npy_of(array), "d.npy", label="0", update={"fill": [0.0]})
    assert read.labels.tolist() == [5]
    assert read.said == [f"d.npy, row 0, column '0': 'nan' {NOT_FINITE}"]


def test_problems_name_the_index_in_the_array_whatever_the_piece() -> None:
    array = np.array([[1, 2], [np.nan, 3], [4, 1e39], [5, 6]])
    for cuts in ((), (2,), (1, 2, 3)):
        read = Read(npy, npy_of(array), "d.npy", cuts=cuts)
        assert read.said == [
            f"d.npy, row 1, column '0': 'nan' {NOT_FINITE}",
            "d.npy, row 2, column '1': '1e+39' is beyond float32 (at most 3.403e+38 in size): rescale the column",
        ]
        assert read.features.tolist() == [[1, 2], [5, 6]]
        assert read.counted == 4


def test_reading_ends_at_ten_problems() -> None:
    assert len(Read(npy, npy_of(np.full((50, 2), np.nan)), "d.npy").said) == 10


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((0, 3)), "no rows"),
        (np.zeros(3), "two dimensions"),
        (np.float64(1), "two dimensions"),
        (np.zeros((3, 0)), "rows of 0 numbers"),
        (np.zeros((1, checks.MAX_COLUMNS + 1), np.uint8), "rows of 100001 numbers"),
        (np.array([[None, 1]]), "type 'object'"),
        (np.array([["a"]]), "type '<U1'"),
        (np.array([[1j]]), "type 'complex128'"),
        (np.array([[(1, 2)]], dtype="i4,i4"), "only integers, floats and booleans"),
        (np.zeros((1,) * 9), "9 dimensions"),
    ],
)
def test_arrays_that_are_no_rows_of_numbers(array: Any, said: str) -> None:
    assert said in refused(npy, npy_of(array), "d.npy")
    assert said in refused(npz, npz_of(x=array), "d.npz")


def test_a_large_array_in_fortran_order_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(array_files, "MAX_WHOLE_BYTES", 1000)
    array = np.zeros((100, 2))
    assert "C order (numpy.ascontiguousarray)" in refused(npy, npy_of(np.asfortranarray(array)), "d.npy")
    assert len(Read(npy, npy_of(array), "d.npy").features) == 100


def test_npy_cut_anywhere_is_refused() -> None:
    data = npy_of(np.arange(6.0).reshape(2, 3))
    for size in range(8, len(data)):
        assert "cut off" in refused(npy, data[:size], "d.npy")
    assert "bytes of numbers" in refused(npy, data + b"!", "d.npy")


def test_a_file_that_shrank_is_refused() -> None:
    """The size is that of the listing; what is there when it is read may be less."""
    data = npy_of(np.arange(6.0).reshape(2, 3))
    file = OpenFile("d.npy", len(data), lambda: io.BytesIO(data[:-1]))
    look = npy.look(file, DataOptions(), gzipped=False)
    source = ObjectVersion(bucket="drops", key="d.npy", size=len(data))
    dropped = DroppedFile(source=source, name="d.npy", unit=look.unit, end=look.end)
    with pytest.raises(InvalidDrop, match="cut off"):
        list(npy.read(file, dropped, Piece(file=0, start=0, end=2), look.layout, Problems("d", []), Progress(0, 0)))


# Archives


def zipped(*members: tuple[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return stream.getvalue()


def many_members() -> Iterator[tuple[str, bytes]]:
    return ((f"m{index}.npy", b"") for index in range(npz_archive.MAX_MEMBERS + 1))


def lying_about_size() -> bytes:
    data = bytearray(npz_of(x=np.zeros((2, 2))))
    at = data.rindex(b"PK\x01\x02")
    data[at + 24 : at + 28] = (1 << 30).to_bytes(4, "little")
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (zipped(("../x.npy", npy_of([[1.0]]))), "without folders"),
        (zipped(("a/x.npy", npy_of([[1.0]]))), "without folders"),
        (zipped(("x.txt", b"1")), "without folders"),
        (zipped(("word/document.xml", b"1")), "without folders"),
        (zipped(*many_members()), "100 is the most"),
        (zipped(), "can't tell which array holds the features"),
        (npz_of(a=[[1]], b=[[2]]), "can't tell which array holds the features: name it x"),
        (npz_of(x=[[1], [2]], y=[1]), "2 rows of features, but 1 labels"),
        (npz_of(x=[[1], [2]], y=[[1, 2], [3, 4]]), "labels of shape (2, 2)"),
        (npz_of(x=[[1], [2]], y=5), "labels of shape ()"),
        (npz_of(x=[[1], [2]], y=np.array([None, 1])), "type 'object'"),
        (npz_of(x=[[1], [2]], y=np.array(["a" * 300, "b"])), "texts of 1200 bytes"),
        (zipped(("x.npy", b"not an array")), "the head of the array can't be read"),
        (lying_about_size(), "can't be as large as it says"),
        (npz_of(x=[[1, 2]])[:-1], "cut off"),
        (b"PK\x03\x04" + bytes(100), "directory is missing"),
    ],
)
def test_bad_archives_are_refused(data: bytes, said: str) -> None:
    assert said in refused(npz, data, "d.npz")


def test_a_large_directory_is_refused_unlisted() -> None:
    data = bytearray(npz_of(x=[[1, 2]]))
    at = data.rindex(b"PK\x05\x06")
    data[at + 12 : at + 16] = (10 << 20).to_bytes(4, "little")
    assert "too large an archive" in refused(npz, bytes(data), "d.npz")


@pytest.mark.parametrize("member", ["x", "y"])
def test_a_changed_number_is_refused(member: str) -> None:
    """Only the checksum, which stands behind the last number, can tell."""
    stream = io.BytesIO()
    arrays = {"x": np.full((50, 2), 1.5), "y": np.full(50, 2.5)}
    np.savez(stream, x=arrays["x"], y=arrays["y"])
    data = stream.getvalue()
    at = data.index(arrays[member].tobytes())
    damaged = data[: at + 8] + b"\1" + data[at + 9 :]
    assert "Bad CRC" in refused(npz, damaged, "d.npz")


# Any bytes


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from(
        [
            (npy, npy_of(np.arange(12.0).reshape(4, 3))),
            (npy, npy_of(np.asfortranarray(np.arange(12).reshape(4, 3)))),
            (npz, npz_of(x=np.arange(12.0).reshape(4, 3), y=np.arange(4))),
            (npz, npz_of(x=np.arange(12.0).reshape(4, 3), y=np.array(list("abca")))),
        ]
    ),
    st.lists(st.tuples(st.integers(0, 1 << 20), st.binary(max_size=4)), max_size=3),
    st.integers(0, 400),
    st.sampled_from([None, "0"]),
)
def test_any_bytes_give_rows_or_a_refusal(
    whole: tuple[ModuleType, bytes], spoiled: list[tuple[int, bytes]], cut: int, label: str | None
) -> None:
    reader, data = whole
    for at, junk in spoiled:
        data = data[: at % len(data)] + junk + data[at % len(data) + len(junk) :]
    data = data[:-cut] if 0 < cut < 20 else data
    try:
        read = Read(reader, data, "d", label=label, update={"classes": ["a", "b"]} if cut % 2 else None)
        file = OpenFile("d", len(data), lambda: io.BytesIO(data))
        if read.layout.labelled:
            list(reader.label_cells(file, read.look, Problems("d", [])))
    except (InvalidDrop, TooManyProblems) as error:
        assert len(str(error)) < 3000
    else:
        for rows in read.rows:
            assert np.isfinite(np.asarray(rows.features)).all()
