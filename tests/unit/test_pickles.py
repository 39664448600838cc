"""The reader of the tutorials' pickle: what numpy writes is read, everything else is refused unrun."""

import gzip
import io
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dropmill.contracts import DroppedFile, FoundProblem, ObjectVersion, Part, Piece
from dropmill.data import array_rows, pickled, pickles
from dropmill.data.checks import Problems, TooManyProblems
from dropmill.data.rows import Look, OpenFile, Progress, Rows
from dropmill.errors import InvalidDrop
from dropmill.recipe import DataOptions

Arrays = tuple[tuple[NDArray[Any], NDArray[Any]], ...]


def python2_array(array: NDArray[Any], code: str = "") -> bytes:
    """The opcodes that Python 2's numpy writes for an array at protocol 2."""
    array = np.asarray(array)
    shape = b"".join(b"J" + struct.pack("<i", size) for size in array.shape)
    data = array.tobytes()
    code = code or array.dtype.str[1:]
    return (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        + b"(K\x01(" + shape + b"tcnumpy\ndtype\nU" + bytes([len(code)]) + code.encode() + b"K\x00K\x01\x87R"
        + b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T" + struct.pack("<i", len(data)) + data + b"tb"
    )  # fmt: skip


def python2_pickle(pairs: Arrays) -> bytes:
    return b"\x80\x02" + b"".join(python2_array(x) + python2_array(y) + b"\x86" for x, y in pairs) + b"\x87."


def pairs() -> Arrays:
    rng = np.random.default_rng(3)
    return tuple(
        (rng.random((rows, 4), dtype=np.float32), rng.integers(0, 10, rows, dtype=np.int64)) for rows in (6, 3, 2)
    )


def drop_of(data: bytes) -> OpenFile:
    return OpenFile("mnist.pkl.gz", len(data), lambda: io.BytesIO(data))


def read(data: bytes) -> Any:
    """The arrays that were found, taken from where they were found."""
    gzipped = data.startswith(b"\x1f\x8b")
    found = pickles.find_split(drop_of(data), gzipped=gzipped)
    unpacked = gzip.decompress(data) if gzipped else data

    def taken(array: pickles.PickledArray) -> NDArray[Any]:
        at, size = array.stretch.position, array.stretch.size
        assert array.stretch.data in (None, unpacked[at : at + size])
        values: NDArray[Any] = np.frombuffer(unpacked[at : at + size], dtype=array.head.dtype)
        return values.reshape(array.head.shape, order="F" if array.head.fortran_order else "C")

    return [(taken(features), taken(labels)) for features, labels in found]


def assert_equal(read_pairs: Any, expected: Arrays) -> None:
    for (features, labels), (expected_features, expected_labels) in zip(read_pairs, expected, strict=True):
        np.testing.assert_array_equal(features, expected_features, strict=True)
        np.testing.assert_array_equal(labels, expected_labels, strict=True)


def test_the_hand_made_opcodes_are_a_pickle() -> None:
    assert_equal(pickle.loads(python2_pickle(pairs()), encoding="bytes"), pairs())  # noqa: S301  # made two lines above


def test_reads_what_python_2_wrote_gzipped_or_not() -> None:
    data = python2_pickle(pairs())
    assert_equal(read(data), pairs())
    assert_equal(read(gzip.compress(data)), pairs())


@pytest.mark.parametrize("protocol", [3, 4])
def test_reads_what_python_3_writes(protocol: int) -> None:
    assert_equal(read(pickle.dumps(pairs(), protocol=protocol)), pairs())


@pytest.mark.parametrize("dtype", ["<f8", ">f4", "<u1", "<i2", "?"])
def test_reads_arrays_of_any_plain_number(dtype: str) -> None:
    array = np.asfortranarray(np.arange(12).reshape(3, 2, 2).astype(dtype))
    expected = ((array, np.arange(3)),) * 3
    assert_equal(read(pickle.dumps(expected, protocol=4)), expected)


class Hostile:
    def __init__(self, call: Any, *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> Any:
        return self.call, self.arguments


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("where", ["alone", "beside the arrays"])
def test_a_hostile_pickle_is_named_and_not_run(protocol: int, where: str, tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    hostile = Hostile(os.system, f"touch {touched}")
    data = pickle.dumps(hostile if where == "alone" else (hostile, *pairs()[1:]), protocol=protocol)
    with pytest.raises(InvalidDrop, match=r"mnist\.pkl\.gz: .*'(posix|nt)\.system'; it was not run"):
        read(gzip.compress(data))
    assert not touched.exists()


@pytest.mark.parametrize(
    "callee",
    [
        "numpy.load",
        "numpy.core.multiarray.scalar",
        "numpy.ndarray.tofile",
        "builtins.eval",
        "numpy\ufffd.ndarray",
        "numpy.dtype.__init__",
    ],
)
def test_no_name_but_the_three_is_known(callee: str) -> None:
    module, name = callee.rsplit(".", 1)
    data = b"\x80\x02c" + module.encode() + b"\n" + name.encode() + b"\nK\x00\x85R."
    with pytest.raises(InvalidDrop, match="was not run"):
        read(data)


def test_cut_anywhere_it_is_refused() -> None:
    data = python2_pickle(tuple((x[:1], y[:1]) for x, y in pairs()))
    for size in range(1, len(data)):
        with pytest.raises(InvalidDrop, match="cut off"):
            read(data[:size])
    packed = gzip.compress(data)
    for size in range(2, len(packed)):
        with pytest.raises(InvalidDrop, match=r"cut off|damaged"):
            read(packed[:size])


def test_gzip_damage_is_refused() -> None:
    packed = bytearray(gzip.compress(python2_pickle(pairs())))
    packed[-6] ^= 1  # the checksum
    with pytest.raises(InvalidDrop, match="damaged"):
        read(bytes(packed))


good = python2_array(np.zeros((1, 2), np.float32)) + python2_array(np.zeros(1, np.int64)) + b"\x86"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (pickle.dumps(pairs()[:2], protocol=4), "a pickle must hold"),
        (pickle.dumps(pairs()[0], protocol=4), "a pickle must hold"),
        (pickle.dumps({"x": 1}, protocol=4), "instruction"),
        (pickle.dumps(([1.0], [2.0], [3.0]), protocol=4), "instruction"),
        (pickle.dumps(((np.array([None]), np.array([1])),) * 3, protocol=4), "type 'O8'"),
        (pickle.dumps(((np.array(["a"]), np.array([1])),) * 3, protocol=4), "type 'U1'"),
        (pickle.dumps(pairs(), protocol=5), "protocol 5"),
        (pickle.dumps(pairs(), protocol=0), "instruction"),
        (python2_pickle(pairs()) + b"!", "more data follows"),
        (b"\x80\x02.", "damaged"),
        (b"\x80\x02h\x07.", "damaged"),
        (b"\x80\x02(((.", "damaged"),
        (b"\x80\x02t.", "damaged"),
        (b"\x80\x02X\xff\xff\xff\xff.", "only arrays of numbers"),
        (b"\x80\x02N" + b"\x85" * 3000 + b".", "instructions"),
        (b"\x80\x02cnumpy\nndarray\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R.", "damaged"),
        (b"\x80\x02T\xff\xff\xff\x7f", "cut off"),
        (b"\x80\x02\x8e" + b"\xff" * 8, "more than 4 GB"),
        (b"\x80\x02T\x00\x00\x00\x20abc", "cut off"),
        (b"\x80\x02T\xff\xff\xff\xff", "more than 4 GB"),
        (b"\x80\x02" + good.replace(b"J\x02\0\0\0", b"J\x00\0\1\0") * 3 + b"\x87.", r"shape \(1, 65536\)"),
        (b"\x80\x02" + good.replace(b"J\x02\0\0\0", b"J\xff\xff\xff\xff") * 3 + b"\x87.", "damaged"),
        (b"\x80\x02Nq\0" + b"h\0h\0\x86q\0" * 300 + b"cnumpy\ndtype\nh\0K\0K\1\x87R.", "an array of type ''"),
        (b"\x80\x02c" + b"n" * 300 + b"\n", "a name of more than"),
    ],
)
def test_says_what_is_wrong(data: bytes, said: str) -> None:
    with pytest.raises(InvalidDrop, match=said) as error:
        read(data)
    assert error.value.words.in_full().startswith("mnist.pkl.gz: ")
    assert len(error.value.words.in_full()) < 400


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_bytes_give_arrays_or_a_refusal(data: st.DataObject) -> None:
    whole = bytearray(python2_pickle(tuple((x[:1], y[:1]) for x, y in pairs())))
    for _ in range(data.draw(st.integers(1, 5))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        for features, labels in read(bytes(whole)):
            assert features.dtype.kind in "fiub"
            assert labels.dtype.kind in "fiub"
        assert all(np.isfinite(np.asarray(rows.features)).all() for rows in Drop(bytes(whole)).rows)
    except (InvalidDrop, TooManyProblems):
        pass


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from([*pickles._OPCODES, b".", b"\x00", b"\x01", b"cnumpy\ndtype\n", b"U\x02f4"])))
def test_any_program_gives_arrays_or_a_refusal(program: list[bytes]) -> None:
    with pytest.raises(InvalidDrop):
        read(b"\x80\x02" + b"".join(program))


# As a drop


class Drop:
    """A pickle, looked at and read to its end."""

    def __init__(self, data: bytes, **options: Any) -> None:
        self.file = drop_of(data)
        gzipped = data.startswith(b"\x1f\x8b")
        self.look: Look = pickled.look(self.file, DataOptions(**options), gzipped=gzipped)
        self.found: list[FoundProblem] = []
        self.progress = Progress(0, 0)
        source = ObjectVersion(bucket="drops", key="mnist.pkl.gz", size=len(data))
        dropped = DroppedFile(source=source, name="mnist.pkl.gz", rows=self.look.rows)
        problems = Problems("mnist.pkl.gz", self.found, 3)
        piece = Piece(file=0, start=0, end=1)
        self.rows: list[Rows] = list(pickled.read(self.file, dropped, piece, self.look.layout, problems, self.progress))

    def part(self, part: Part) -> tuple[NDArray[Any], NDArray[Any]]:
        rows = [rows for rows in self.rows if rows.part is part]
        features = np.concatenate([np.asarray(each.features) for each in rows])
        return features, np.concatenate([each.labels for each in rows if each.labels is not None])

    def cells(self) -> list[Any]:
        problems = Problems("mnist.pkl.gz", self.found)
        return [cell for some in pickled.label_cells(self.file, self.look, problems) for cell in some]


def pickle_of(*parts: Any) -> bytes:
    return pickle.dumps(tuple((np.asarray(x), np.asarray(y)) for x, y in parts), protocol=4)


GOOD = ([[1.0, 2.0]], [1])


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kept", [0, 100, 1 << 20])
@pytest.mark.parametrize("packed", [False, True])
def test_every_part_is_read_with_its_labels(
    order: Any, kept: int, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pickles, "_MAX_KEPT", kept)
    monkeypatch.setattr(array_rows, "ROWS_BYTES", 200)
    rng = np.random.default_rng(5)
    parts = [(np.asarray(rng.random((rows, 2, 3)), order=order), rng.integers(0, 4, rows)) for rows in (70, 40, 9)]
    data = pickle_of(*parts)
    drop = Drop(gzip.compress(data) if packed else data)
    for part, (features, labels) in zip(Part, parts, strict=True):
        read_features, read_labels = drop.part(part)
        np.testing.assert_array_equal(read_features, features.reshape(len(features), 6).astype(np.float32))
        np.testing.assert_array_equal(read_labels, labels)
    assert drop.cells() == np.concatenate([labels for _, labels in parts]).tolist()
    assert max(map(len, drop.rows)) <= 4
    assert drop.look.rows == drop.progress.rows == 119
    layout = drop.look.layout
    assert (layout.gzipped, layout.own_labels, layout.pre_split, layout.labelled) == (packed, True, True, True)


def test_columns_can_be_dropped() -> None:
    assert Drop(pickle_of(GOOD, GOOD, GOOD), drop_columns=["0"]).part(Part.TEST)[0].tolist() == [[2]]


def test_shapes_must_fit() -> None:
    drop = Drop(pickle_of(GOOD, GOOD, ([[[3.0], [4.0]]], [[2]])))
    assert drop.part(Part.TEST)[0].tolist() == [[3, 4]]
    for bad, said in [
        (([[1.0]], [1]), "rows of 1 numbers where the training rows have 2"),
        ((np.zeros((0, 2)), []), "there are no rows"),
        (([[1.0, 2.0]], [1, 2]), "features of shape (1, 2), but labels of shape (2,)"),
        (([1.0, 2.0], [1, 2]), "two dimensions or more"),
    ]:
        with pytest.raises(InvalidDrop) as error:
            Drop(pickle_of(GOOD, GOOD, bad))
        assert error.value.words.in_full().startswith("mnist.pkl.gz (test rows): ")
        assert said in error.value.words.in_full()


def test_problems_name_part_and_index() -> None:
    drop = Drop(pickle_of(GOOD, ([[1.0, 2.0], [1.0, np.inf]], [1, 2]), ([[1.0, 2.0]], [np.nan])))
    wrong = "is not a finite number: mend the row or leave it out"
    assert [found.problem.words.in_full() for found in drop.found] == [
        f"mnist.pkl.gz (validation rows), row 1, column '1': 'inf' {wrong}",
        f"mnist.pkl.gz (test rows), row 0, column 'label': 'nan' {wrong}",
    ]
    assert {found.piece for found in drop.found} == {3}
    assert len(drop.rows) == 3
    assert drop.cells() == [1, 1, 2]


def test_a_gzip_damaged_before_it_is_read_is_refused() -> None:
    """The drop is sound when it is inspected, and damaged when it is read: cut off, or with another checksum."""
    rng = np.random.default_rng(7)
    data = gzip.compress(pickle_of(*[(rng.random((3000, 50)), np.arange(3000))] * 3))
    look = pickled.look(drop_of(data), DataOptions(), gzipped=True)
    source = ObjectVersion(bucket="drops", key="mnist.pkl.gz", size=len(data))
    dropped = DroppedFile(source=source, name="mnist.pkl.gz")
    for damaged in (data[: len(data) // 2], data[:-8] + bytes(8)):
        problems = Problems("mnist.pkl.gz", [])
        piece = Piece(file=0, start=0, end=1)
        with pytest.raises(InvalidDrop, match=r"cut off|damaged"):
            list(pickled.read(drop_of(damaged), dropped, piece, look.layout, problems, Progress(0, 0)))


@pytest.mark.skipif("DROPMILL_MNIST" not in os.environ, reason="DROPMILL_MNIST does not say where mnist.pkl.gz is")
def test_reads_mnist() -> None:
    drop = Drop(Path(os.environ["DROPMILL_MNIST"]).read_bytes())
    for part, rows in zip(Part, (50_000, 10_000, 10_000), strict=True):
        features, labels = drop.part(part)
        assert features.shape == (rows, 784)
        assert 0 == features.min() < features.max() < 1
        assert np.unique(labels).tolist() == list(range(10))
    assert drop.found == []
    assert max(rows.features.nbytes for rows in drop.rows if isinstance(rows.features, np.ndarray)) <= 1 << 20
