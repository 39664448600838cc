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

from dropmill.data import pickles
from dropmill.errors import InvalidDrop

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


def read(data: bytes) -> Any:
    return pickles.read_split(io.BytesIO(data), "mnist.pkl.gz")


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
        (b"\x80\x02T\xff\xff\xff\x7f", "1024 MB"),
        (b"\x80\x02T\x00\x00\x00\x20abc", "cut off"),
        (b"\x80\x02T\xff\xff\xff\xff", "1024 MB"),
        (b"\x80\x02" + good.replace(b"J\x02\0\0\0", b"J\x00\0\1\0") * 3 + b"\x87.", r"shape \(1, 65536\)"),
        (b"\x80\x02" + good.replace(b"J\x02\0\0\0", b"J\xff\xff\xff\xff") * 3 + b"\x87.", "damaged"),
        (b"\x80\x02c" + b"n" * 300 + b"\n", "a name of more than"),
    ],
)
def test_says_what_is_wrong(data: bytes, said: str) -> None:
    with pytest.raises(InvalidDrop, match=said) as error:
        read(data)
    assert str(error.value).startswith("mnist.pkl.gz: ")
    assert len(str(error.value)) < 400


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
    except InvalidDrop:
        pass


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from([*pickles._OPCODES, b".", b"\x00", b"\x01", b"cnumpy\ndtype\n", b"U\x02f4"])))
def test_any_program_gives_arrays_or_a_refusal(program: list[bytes]) -> None:
    with pytest.raises(InvalidDrop):
        read(b"\x80\x02" + b"".join(program))


@pytest.mark.skipif("DROPMILL_MNIST" not in os.environ, reason="DROPMILL_MNIST does not say where mnist.pkl.gz is")
def test_reads_mnist() -> None:
    with Path(os.environ["DROPMILL_MNIST"]).open("rb") as source:
        parts = pickles.read_split(source, "mnist.pkl.gz")
    assert [(x.shape, x.dtype, y.shape) for x, y in parts] == [
        ((rows, 784), np.dtype("<f4"), (rows,)) for rows in (50_000, 10_000, 10_000)
    ]
    assert all(np.unique(y).tolist() == list(range(10)) for _, y in parts)
