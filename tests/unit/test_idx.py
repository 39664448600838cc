"""IDX files as drops: images with the labels that belong to them."""

import gzip
import io
import struct
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dropmill.contracts import DroppedFile, FoundProblem, ObjectVersion, Piece, Unit
from dropmill.data import array_rows, checks, idx
from dropmill.data.checks import Problems, TooManyProblems
from dropmill.data.rows import Look, OpenFile, Progress, Rows
from dropmill.errors import InvalidDrop
from dropmill.recipe import DataOptions

CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}


def idx_of(array: Any, kind: str = "u1") -> bytes:
    array = np.asarray(array)
    head = struct.pack(f">HBB{array.ndim}I", 0, CODES[kind], array.ndim, *array.shape)
    numbers: bytes = array.astype(f">{kind}").tobytes()
    return head + numbers


def packed(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


def drop_of(name: str, data: bytes, labels: OpenFile | None = None) -> OpenFile:
    return OpenFile(name, len(data), lambda: io.BytesIO(data), labels)


class Read:
    """Images, with labels or without, looked at and read to their end, in pieces cut at `cuts`."""

    def __init__(
        self,
        images: bytes,
        labels: bytes | None = None,
        *,
        cuts: tuple[int, ...] = (),
        update: Any = None,
        **options: Any,
    ) -> None:
        self.file = drop_of("images", images, None if labels is None else drop_of("labels", labels))
        self.look: Look = idx.look(self.file, DataOptions(**options), gzipped=images.startswith(b"\x1f\x8b"))
        self.layout = self.look.layout.model_copy(update=update or {})
        source = ObjectVersion(bucket="drops", key="images", size=len(images))
        dropped = DroppedFile(source=source, name="images", unit=self.look.unit, end=self.look.end, rows=self.look.rows)
        self.found: list[FoundProblem] = []
        self.rows: list[Rows] = []
        self.counted = 0
        for start, end in pairwise([self.look.start, *cuts, self.look.end]):
            progress = Progress(start, start)
            piece = Piece(file=0, start=start, end=end)
            self.rows += idx.read(self.file, dropped, piece, self.layout, Problems("images", self.found), progress)
            self.counted += progress.rows

    @property
    def features(self) -> NDArray[np.float32]:
        return np.concatenate([np.asarray(rows.features) for rows in self.rows])

    @property
    def labels(self) -> NDArray[np.float64]:
        return np.concatenate([rows.labels for rows in self.rows if rows.labels is not None])

    @property
    def cells(self) -> list[Any]:
        problems = Problems("images", self.found)
        return [cell for some in idx.label_cells(self.file, self.look, problems) for cell in some]


PICTURES = np.arange(96).reshape(8, 3, 4)
DIGITS = np.array([3, 1, 4, 1, 5, 9, 2, 6])


@pytest.mark.parametrize("kind", CODES)
def test_every_type_of_number_is_read(kind: str) -> None:
    pictures = PICTURES - (0 if kind == "u1" else 50) + (0.5 if kind[0] == "f" else 0)
    read = Read(idx_of(pictures, kind), idx_of(DIGITS, kind))
    np.testing.assert_array_equal(read.features, pictures.reshape(8, 12))
    np.testing.assert_array_equal(read.labels, DIGITS)
    assert read.cells == DIGITS.tolist()
    assert (read.look.unit, read.look.end, read.look.rows) == (Unit.ROWS, 8, 8)
    assert read.layout.own_labels


def test_the_bytes_are_those_of_the_format() -> None:
    images = bytes.fromhex("00000803 00000002 00000001 00000003 010203 0405ff")
    labels = bytes.fromhex("00000801 00000002 0700")
    read = Read(images, labels)
    assert read.features.tolist() == [[1, 2, 3], [4, 5, 255]]
    assert read.labels.tolist() == [7, 0]


def test_images_without_labels() -> None:
    read = Read(idx_of(PICTURES))
    assert not read.layout.labelled
    assert all(rows.labels is None for rows in read.rows)
    table = Read(idx_of(PICTURES[:, 0]), label="0")
    np.testing.assert_array_equal(table.labels, PICTURES[:, 0, 0])
    np.testing.assert_array_equal(table.features, PICTURES[:, 0, 1:])


@pytest.mark.parametrize("which", ["images", "labels", "both"])
def test_gzipped_files_are_read_whole(which: str) -> None:
    images, labels = idx_of(PICTURES), idx_of(DIGITS)
    if which != "labels":
        images = packed(images)
    if which != "images":
        labels = packed(labels)
    read = Read(images, labels)
    np.testing.assert_array_equal(read.features, PICTURES.reshape(8, 12))
    np.testing.assert_array_equal(read.labels, DIGITS)
    assert read.cells == DIGITS.tolist()
    assert (read.look.unit, read.look.end, read.look.rows) == (Unit.WHOLE, 1, 8)
    assert read.layout.gzipped is (which != "labels")


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_any_pieces_give_the_rows_of_the_whole(data: st.DataObject) -> None:
    rows = data.draw(st.integers(1, 50))
    cuts = tuple(sorted(data.draw(st.lists(st.integers(0, rows), max_size=4))))
    pictures, digits = np.arange(rows * 6).reshape(rows, 3, 2), np.arange(rows) % 10
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(array_rows, "ROWS_BYTES", 100)
        read = Read(idx_of(pictures, "i2"), idx_of(digits), cuts=cuts)
    np.testing.assert_array_equal(read.features, pictures.reshape(rows, 6))
    np.testing.assert_array_equal(read.labels, digits)
    assert read.counted == rows


def test_numbers_become_the_classes_they_name() -> None:
    read = Read(idx_of(PICTURES), idx_of(DIGITS), update={"classes": ["1", "3", "4", "5", "9", "2"]})
    assert read.labels.tolist() == [1, 0, 2, 0, 3, 4, 5]
    assert [found.problem.words.in_full() for found in read.found] == [
        f"images, row 7, column 'label': '6' {checks.UNKNOWN_CLASS}"
    ]


# Pairs


def file_named(name: str) -> OpenFile:
    data = idx_of(DIGITS if "lab" in name else PICTURES)
    return drop_of(name, packed(data) if name.endswith(".gz") else data)


@pytest.mark.parametrize(
    ("names", "pairs"),
    [
        (
            ["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte", "train-images-idx3-ubyte", "train-labels-idx1-ubyte"],
            {
                "t10k-images-idx3-ubyte": "t10k-labels-idx1-ubyte",
                "train-images-idx3-ubyte": "train-labels-idx1-ubyte",
            },
        ),
        (
            ["a/train-images.idx3-ubyte.gz", "a/train-labels.idx1-ubyte", "b/x-images", "b/x-labels.gz"],
            {"a/train-images.idx3-ubyte.gz": "a/train-labels.idx1-ubyte", "b/x-images": "b/x-labels.gz"},
        ),
        (["train/features", "train/lab"], {"train/features": "train/lab"}),
        (["train/x", "train/lab", "test/x", "test/lab"], {"train/x": "train/lab", "test/x": "test/lab"}),
        (["one", "two"], {"one": None, "two": None}),
    ],
)
def test_images_find_their_labels(names: list[str], pairs: dict[str, str | None]) -> None:
    found = idx.paired([file_named(name) for name in names])
    assert {file.name: file.labels and file.labels.name for file in found} == pairs


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (
            ["t10k-labels-idx1-ubyte"],
            "t10k-labels-idx1-ubyte: these are labels; drop them in a folder with their images",
        ),
        (["x/labels", "y/images", "y/labels"], "x/labels: these are labels"),
        (["a-images", "a-labels", "b-images"], "b-images: there are no labels for this file, while others have some"),
        (["a-images", "a-labels", "b-images"], "drop them too (as b-labels)"),
        (["x/a", "x/lab", "y/a"], "y/a: there are no labels for this file, while others have some: drop them too"),
        (["a-images", "b-images", "c-labels"], "c-labels: can't tell which images these labels belong to"),
        (["a-images", "a-labels", "a-labels.gz"], "a-labels.gz: can't tell which images"),
    ],
)
def test_files_without_their_others_are_refused(names: list[str], said: str) -> None:
    with pytest.raises(InvalidDrop) as error:
        idx.paired([file_named(name) for name in names])
    assert said in error.value.words.in_full()


def test_labels_alone_are_refused() -> None:
    assert idx.is_labels(drop_of("labels", idx_of(DIGITS)))
    assert not idx.is_labels(drop_of("images", packed(idx_of(PICTURES))))
    with pytest.raises(
        InvalidDrop, match=r"^images: these are labels; drop them in a folder with their images, closed"
    ):
        Read(idx_of(DIGITS))


# Bad input


@pytest.mark.parametrize(
    ("images", "labels", "said"),
    [
        (idx_of(PICTURES), idx_of(DIGITS[:-1]), "labels: 8 rows of features, but 7 labels"),
        (idx_of(PICTURES), idx_of(PICTURES), "labels: labels of shape (8, 3, 4)"),
        (idx_of(PICTURES)[:-1], None, "should have 96 bytes of numbers and has 95"),
        (idx_of(PICTURES) + b"\0", None, "should have 96 bytes of numbers and has 97"),
        (idx_of(PICTURES)[:9], None, "cut off"),
        (idx_of(PICTURES)[:3], None, "the head of the IDX file can't be read"),
        (b"\0\0\x0a\x01" + bytes(8), None, "the head of the IDX file can't be read"),
        (b"\0\0\x08\0", None, "the head of the IDX file can't be read"),
        (b"\0\0\x08\xff" + bytes(2000), None, "the head of the IDX file can't be read"),
        (idx_of(PICTURES[:0]), None, "there are no rows"),
        (idx_of(PICTURES[:, :0]), None, "rows of 0 numbers"),
        (packed(b"\0\0\x08\x02" + b"\0\0\0\1\0\xff\xff\xff"), None, "rows of 16777215 numbers"),
        (packed(b"\0\0\x08\x02" + b"\xff\xff\xff\xff\0\0\0\xff"), None, "unpacks to more than 4 GB"),
        (packed(idx_of(PICTURES))[:-20], None, "cut off"),
        (packed(idx_of(PICTURES))[:-8] + bytes(8), None, "damaged"),
        (packed(idx_of(PICTURES)[:-1]), None, "damaged or cut off"),
        (packed(idx_of(PICTURES) + b"\0"), None, "damaged or cut off"),
        (packed(idx_of(PICTURES)), packed(idx_of(DIGITS))[:-8] + bytes(8), "labels: the gzip file is damaged"),
    ],
)
def test_bad_files_are_refused(images: bytes, labels: bytes | None, said: str) -> None:
    with pytest.raises(InvalidDrop) as error:
        Read(images, labels)
    assert said in error.value.words.in_full()


def test_problems_name_the_index() -> None:
    table = np.array([[1, 2], [np.nan, 1], [3, 4]])
    read = Read(idx_of(table, "f4"), idx_of([1, 2, np.inf], "f8"), cuts=(1,))
    wrong = "is not a finite number: mend the row or leave it out"
    assert [found.problem.words.in_full() for found in read.found] == [
        f"images, row 1, column '0': 'nan' {wrong}",
        f"images, row 2, column 'label': 'inf' {wrong}",
    ]
    assert read.features.tolist() == [[1, 2]]
    filled = Read(idx_of(table, "f4"), update={"fill": [0.0, 0.0]})
    np.testing.assert_array_equal(filled.features, table)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([idx_of(PICTURES), packed(idx_of(PICTURES)), idx_of(PICTURES, "f4"), packed(idx_of(DIGITS))]),
    st.sampled_from([None, idx_of(DIGITS), packed(idx_of(DIGITS, "f8"))]),
    st.lists(st.tuples(st.integers(0, 1 << 20), st.binary(max_size=4)), max_size=3),
    st.booleans(),
)
def test_any_bytes_give_rows_or_a_refusal(
    images: bytes, labels: bytes | None, spoiled: list[tuple[int, bytes]], of_labels: bool
) -> None:
    for at, junk in spoiled:
        if of_labels and labels is not None:
            labels = labels[: at % len(labels)] + junk + labels[at % len(labels) + len(junk) :]
        else:
            images = images[: at % len(images)] + junk + images[at % len(images) + len(junk) :]
    try:
        read = Read(images, labels)
        if read.layout.labelled:
            assert len(read.cells) <= 8
    except (InvalidDrop, TooManyProblems) as error:
        assert len(str(error)) < 3000
    else:
        assert all(np.isfinite(np.asarray(rows.features)).all() for rows in read.rows)
