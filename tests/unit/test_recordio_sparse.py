"""Sparse rows against the SDK that they must match byte for byte, and against damage."""

import io
import os
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import sparse

from dropmill.data import recordio, recordio_sparse
from dropmill.data.recordio import RecordIOError
from dropmill.data.recordio_sparse import SparseMatrix

os.environ["SAGEMAKER_SUPPRESS_V2_WARNING"] = "1"
sdk = pytest.importorskip("sagemaker.serializer_utils")

Float32Array = NDArray[np.float32]
any_float32 = st.floats(width=32, allow_nan=True, allow_infinity=True)


@st.composite
def csr(draw: st.DrawFn) -> sparse.csr_matrix:
    """Rows with explicit zeros, NaN and unordered columns, some of them empty, of few columns or of very many."""
    width = draw(st.sampled_from([1, 3, 127, 128, 129, 784, 16_384, 2**31 - 1]))
    columns = [
        draw(st.lists(st.integers(0, width - 1), max_size=40, unique=True)) for _ in range(draw(st.integers(0, 12)))
    ]
    offsets = np.cumsum([0, *map(len, columns)])
    values = draw(hnp.arrays(np.float32, int(offsets[-1]), elements=any_float32))
    flat = np.array([column for row in columns for column in row], np.int64)
    return sparse.csr_matrix((values, flat, offsets), shape=(len(columns), width))


def by_sdk(matrix: sparse.csr_matrix, labels: Float32Array | None) -> bytes:
    stream = io.BytesIO()
    sdk.write_spmatrix_to_sparse_tensor(stream, matrix, labels)
    return stream.getvalue()


@settings(max_examples=150, deadline=None)
@given(csr(), st.data())
def test_bytes_are_the_sdks_and_come_back_bit_for_bit(matrix: sparse.csr_matrix, data: st.DataObject) -> None:
    rows = matrix.shape[0]
    labels = data.draw(st.none() | hnp.arrays(np.float32, rows, elements=any_float32))
    encoded = recordio_sparse.encode(matrix, labels)
    assert encoded == by_sdk(matrix, labels)
    read, read_labels = recordio_sparse.read(encoded)
    if not rows:
        assert (read.shape, read_labels) == ((0, 0), None)
        return
    assert read.shape == matrix.shape
    assert read.values.tobytes() == matrix.data.tobytes()
    assert read.columns.tolist() == matrix.indices.tolist()
    assert read.offsets.tolist() == matrix.indptr.tolist()
    assert (None if labels is None else labels.tobytes()) == (None if read_labels is None else read_labels.tobytes())
    assert recordio_sparse.encode(read, read_labels) == encoded


def test_more_rows_than_a_block_holds() -> None:
    matrix = sparse.random(20_000, 784, 0.02, format="csr", dtype=np.float32, random_state=1)
    stream = io.BytesIO()
    written = recordio_sparse.write(stream, matrix)
    assert written == len(stream.getvalue())
    assert stream.getvalue()[:10_000] == by_sdk(matrix, None)[:10_000]
    stream.seek(0)
    read, _ = recordio_sparse.read(stream)
    assert read.values.tobytes() == matrix.data.tobytes()
    assert (read.columns == matrix.indices).all()


def test_arrays_and_other_numbers_are_taken() -> None:
    dense = np.array([[0, 1, 0], [0, 0, 0], [2, 0, 3]])
    expected = by_sdk(sparse.csr_matrix(dense.astype(np.float32)), None)
    for given_rows in (dense, dense.astype(np.float64), sparse.csc_matrix(dense), SparseMatrix.of(dense)):
        assert recordio_sparse.encode(given_rows) == expected
    np.testing.assert_array_equal(SparseMatrix.of(dense).to_dense(), dense)


def test_rows_are_taken_by_number_and_joined() -> None:
    matrix = sparse.random(30, 17, 0.3, format="csr", dtype=np.float32, random_state=2)
    ours = SparseMatrix.of(matrix)
    rows = np.array([4, 4, 29, 0, 11])
    np.testing.assert_array_equal(ours.take(rows).to_dense(), matrix.toarray()[rows])
    np.testing.assert_array_equal(ours.take(rows[:0]).to_dense(), np.zeros((0, 17)))
    joined = SparseMatrix.joined([ours, ours.take(rows)])
    np.testing.assert_array_equal(joined.to_dense(), np.vstack([matrix.toarray(), matrix.toarray()[rows]]))


def test_dense_sparse_and_mixed_streams() -> None:
    rows = np.array([[0, 1.5, 0, -0.0], [0, 0, 0, 0], [1, 2, 3, 4]], np.float32)
    labels = np.array([1, 2, 3], np.float32)
    dense, few = recordio.encode(rows, labels), recordio_sparse.encode(rows, labels)
    read, _ = recordio_sparse.read_any(dense)
    assert isinstance(read, np.ndarray)
    np.testing.assert_array_equal(read, rows)
    for encoded in (few + dense, dense + few):
        mixed, read_labels = recordio_sparse.read_any(io.BytesIO(encoded))
        assert isinstance(mixed, SparseMatrix)
        np.testing.assert_array_equal(mixed.to_dense(), np.vstack([rows, rows]))
        np.testing.assert_array_equal(read_labels, [1, 2, 3, 1, 2, 3])
    with pytest.raises(RecordIOError, match="a sparse record"):
        recordio.read(few)
    assert recordio_sparse.read_any(b"")[0].shape == (0, 0)


def test_what_can_not_be_written_is_refused() -> None:
    rows = np.ones((3, 2), np.float32)
    for features, labels, said in [
        (rows, np.ones(2), "labels must be"),
        (rows[0], None, "features must be a matrix"),
        (np.array([["a"]]), None, "features must be numbers"),
        (np.array([[1e39]]), None, "beyond float32"),
    ]:
        with pytest.raises(ValueError, match=said):
            recordio_sparse.encode(features, labels)


def field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2, len(content)]) + content


def record(tensor: bytes, kind: int = 2, label: bytes = b"") -> bytes:
    payload = field(1, field(1, b"values") + field(2, field(kind, tensor))) + label
    return struct.pack("<II", recordio.MAGIC, len(payload)) + payload + bytes(-len(payload) % 4)


ONE = np.float32(1).tobytes()


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (field(1, ONE) + field(2, b"\x00"), "without a shape"),
        (field(1, ONE) + field(2, b"\x00\x01") + field(3, b"\x04"), "one key for each value"),
        (field(1, ONE + ONE) + field(2, b"\x00") + field(3, b"\x04"), "one key for each value"),
        (field(1, ONE) + field(2, b"\x04") + field(3, b"\x04"), "beyond the shape"),
        (field(1, ONE + ONE) + field(2, b"\x01\x01") + field(3, b"\x04"), "given twice"),
        (field(1, ONE + ONE) + field(2, b"\x01\x80") + field(3, b"\x04"), "one key for each value"),
        (field(1, ONE) + field(2, b"\xff" * 10 + b"\x01") + field(3, b"\x04"), "more than ten bytes"),
        (field(1, ONE) + field(2, b"\x00") + field(3, b"\x04\x04"), "shape is not the number"),
        (field(1, ONE) + field(2, b"\x00") + field(3, b"\xff" * 9 + b"\x01"), "shape is not the number"),
        (field(1, ONE) + field(3, b"\x02"), "whose shape is another"),
        (field(1, ONE[:3]) + field(2, b"\x00") + field(3, b"\x04"), "3 bytes of values"),
        (field(1, ONE) + b"\x15abcd", "whole numbers"),
    ],
)
def test_what_does_not_fit_together_is_told_by_its_byte(tensor: bytes, said: str) -> None:
    good = recordio_sparse.encode(np.array([[0, 1, 0, 0]], np.float32))
    with pytest.raises(RecordIOError, match=said) as refused:
        recordio_sparse.read(good + record(tensor))
    assert refused.value.offset == len(good)


def test_a_change_of_width_or_of_labels_is_told() -> None:
    one = recordio_sparse.encode(np.ones((1, 3), np.float32))
    with pytest.raises(RecordIOError, match="4 features where the first has 3"):
        recordio_sparse.read(one + recordio_sparse.encode(np.ones((1, 4), np.float32)))
    with pytest.raises(RecordIOError, match="only this record has a label"):
        recordio_sparse.read(one + recordio_sparse.encode(np.ones((1, 3), np.float32), np.ones(1)))


def test_other_tensors_and_unpacked_keys_are_read() -> None:
    doubles = record(field(1, np.float64([2, 3]).tobytes()) + field(2, b"\x02\x00") + field(3, b"\x03"), kind=3)
    integers = record(field(1, b"\x05\x07") + field(2, b"\x00\x01") + field(3, b"\x03"), kind=7)
    unpacked = record(field(1, ONE) + b"\x10\x01" + b"\x18\x03")
    read, _ = recordio_sparse.read(doubles + integers + unpacked)
    np.testing.assert_array_equal(read.to_dense(), [[3, 0, 2], [5, 7, 0], [0, 1, 0]])


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damage_is_an_error_or_rows_never_a_crash(data: st.DataObject) -> None:
    encoded = bytearray(
        recordio_sparse.encode(np.array([[0, 1, 2], [0, 0, 0], [3, 0, 0]], np.float32), np.arange(3, dtype=np.float32))
    )
    for _ in range(data.draw(st.integers(1, 4))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    try:
        matrix, _ = recordio_sparse.read(bytes(encoded[: data.draw(st.integers(0, len(encoded)))]))
    except RecordIOError:
        return
    assert (matrix.columns < max(matrix.width, 1)).all()
    assert len(matrix.values) == len(matrix.columns) == matrix.offsets[-1]
