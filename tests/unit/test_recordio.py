"""The codec against the SDK that it must match byte for byte, and against damage."""

import io
import os
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from dropmill.data import recordio
from dropmill.data.recordio import RecordIOError

os.environ["SAGEMAKER_SUPPRESS_V2_WARNING"] = "1"
sdk = pytest.importorskip("sagemaker.serializer_utils")

Features = NDArray[np.float32]
MAGIC = bytes.fromhex("0a23d7ce")

any_float32 = st.floats(width=32, allow_nan=True, allow_infinity=True)


@st.composite
def rows(draw: st.DrawFn) -> tuple[Features, Features | None]:
    shape = (draw(st.integers(0, 40)), draw(st.one_of(st.integers(0, 5), st.sampled_from([31, 32, 33, 784, 4200]))))
    features = draw(hnp.arrays(np.float32, shape, elements=any_float32, fill=any_float32))
    labels = draw(st.none() | hnp.arrays(np.float32, shape[0], elements=any_float32))
    return features, labels


def by_sdk(features: Features, labels: Features | None) -> bytes:
    stream = io.BytesIO()
    sdk.write_numpy_to_dense_tensor(stream, features, labels)
    return stream.getvalue()


def framed(payload: bytes, flag: int = 0) -> bytes:
    return MAGIC + struct.pack("<I", flag << 29 | len(payload)) + payload + bytes(-len(payload) % 4)


def one_record(values: bytes, tensor: int = 0x12, *, key: bytes = b"values") -> bytes:
    """A payload whose features are one tensor, given as the bytes of its message."""
    value = bytes([tensor, len(values)]) + values
    entry = bytes([0x0A, len(key)]) + key + bytes([0x12, len(value)]) + value
    return bytes([0x0A, len(entry)]) + entry


def assert_same_bits(left: Features, right: Features) -> None:
    assert left.dtype == right.dtype == np.float32
    assert left.shape == right.shape
    assert left.tobytes() == right.tobytes()


@settings(max_examples=150, deadline=None)
@given(rows())
def test_bytes_are_the_sdks_and_come_back_bit_for_bit(given_rows: tuple[Features, Features | None]) -> None:
    features, labels = given_rows
    encoded = recordio.encode(features, labels)
    stream = io.BytesIO()
    assert recordio.write(stream, features, labels) == len(encoded)
    assert encoded == stream.getvalue() == by_sdk(features, labels)
    read_features, read_labels = recordio.read(encoded)
    if len(features):
        assert_same_bits(read_features, features)
        assert (read_labels is None) == (labels is None)
        if read_labels is not None and labels is not None:
            assert_same_bits(read_labels, labels)
    else:
        assert read_features.shape == (0, 0)


def test_more_rows_than_a_block_holds() -> None:
    rng = np.random.default_rng(1)
    features, labels = rng.random((3001, 200), dtype=np.float32), rng.random(3001, dtype=np.float32)
    stream = io.BytesIO()
    recordio.write(stream, features, labels)
    assert stream.getvalue() == recordio.encode(features, labels) == by_sdk(features, labels)
    stream.seek(0)
    read_features, read_labels = recordio.read(stream)
    assert_same_bits(read_features, features)
    assert read_labels is not None
    assert_same_bits(read_labels, labels)


@pytest.mark.parametrize("layout", ["fortran", "strided", "big-endian", "reversed"])
def test_memory_layout_does_not_matter(layout: str) -> None:
    plain = np.arange(60, dtype=np.float32).reshape(10, 6)
    laid_out = {
        "fortran": np.asfortranarray(plain),
        "strided": np.repeat(plain, 2, axis=1)[:, ::2],
        "big-endian": plain.astype(">f4"),
        "reversed": plain[::-1].copy()[::-1],
    }[layout]
    assert recordio.encode(laid_out, laid_out[:, 0]) == recordio.encode(plain, plain[:, 0])


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int64, np.int32, np.uint8, np.bool_])
def test_other_numbers_are_cast_to_float32(dtype: type) -> None:
    features: NDArray[Any] = np.array([[0, 1], [1, 0]], dtype=dtype)
    labels: NDArray[Any] = np.array([1, 0], dtype=dtype)
    assert recordio.encode(features, labels) == by_sdk(features.astype(np.float32), labels.astype(np.float32))


def test_what_is_no_matrix_with_a_label_for_each_row_is_refused() -> None:
    matrix = np.zeros((3, 2), dtype=np.float32)
    for features, labels in [
        (matrix[0], None),
        (matrix, matrix[:, :0]),
        (matrix, matrix[None]),
        (matrix, np.float32(1)),
        (matrix, np.zeros(2)),  # as many as columns, which the SDK takes
        (matrix, np.zeros(4)),
        (np.array([["a"]]), None),
        (np.array([[None]]), None),
    ]:
        with pytest.raises(ValueError, match=r"features|labels"):
            recordio.encode(features, labels)
    with pytest.raises(ValueError, match="rows 0 to 1 is beyond float32"):
        recordio.encode(np.array([[1.0], [1e39]]))
    assert np.isinf(recordio.read(recordio.encode(np.array([[np.inf]])))[0]).all()


@pytest.mark.parametrize(
    ("encoded", "features"),
    [
        ("0a23d7ce200000000a1e0a0676616c75657312141a120a10000000000000f03f0000000000000040", [1, 2]),  # Float64
        ("0a23d7ce120000000a100a0676616c75657312063a040a0201020000", [1, 2]),  # Int32
    ],
)
def test_reads_what_the_sdk_writes_for_other_types(encoded: str, features: list[int]) -> None:
    read_features, labels = recordio.read(bytes.fromhex(encoded))
    assert read_features.tolist() == [features]
    assert labels is None


def test_reads_negative_integers_and_unpacked_values() -> None:
    minus_one = b"\xff" * 9 + b"\x01"
    packed = one_record(b"\x0a" + bytes([len(minus_one)]) + minus_one, tensor=0x3A)
    unpacked = one_record(b"\x0d" + struct.pack("<f", -1.0))
    features, _ = recordio.read(framed(packed) + framed(unpacked))
    assert features.tolist() == [[-1.0], [-1.0]]


def test_a_label_before_the_features_reads_the_same() -> None:
    features: Features = np.arange(6, dtype=np.float32).reshape(2, 3)
    labels: Features = np.array([7, 8], dtype=np.float32)
    encoded = recordio.encode(features, labels)
    size = len(encoded) // 2
    swapped = b""
    for record in (encoded[:size], encoded[size:]):
        payload = record[8:]
        swapped += framed(payload[-20:] + payload[:-20])
    read_features, read_labels = recordio.read(swapped)
    assert_same_bits(read_features, features)
    assert read_labels is not None
    assert_same_bits(read_labels, labels)


def test_a_record_in_parts_is_one_record() -> None:
    """A writer cuts a record where its payload holds the magic number at a multiple of four, and leaves that out."""
    value = struct.unpack("<f", MAGIC)[0]
    features = np.array([[1, value, 2], [3, 4, 5]], dtype=np.float32)
    # One byte of padding in an unknown field brings the value to a multiple of four.
    payload = recordio.encode(features[:1])[8:]
    at = payload.index(MAGIC)
    payload = b"\x1a" + bytes([(-at - 2) % 4]) + bytes((-at - 2) % 4) + payload
    at = payload.index(MAGIC)
    assert at % 4 == 0
    parts = framed(payload[:at], flag=1) + framed(payload[at + 4 :], flag=3)
    read_features, _ = recordio.read(parts + recordio.encode(features[1:]))
    assert_same_bits(read_features, features)


def test_the_bytes_of_the_parts_are_joined_by_the_magic_number() -> None:
    middle = framed(b"AAAA", 1) + framed(b"", 2) + framed(b"BB", 3)
    with pytest.raises(RecordIOError) as error:
        recordio.read(middle)  # joined, but no protobuf
    assert error.value.offset == 0
    for broken, offset in [
        (framed(b"AAAA", 1), 0),
        (framed(b"AAAA", 3), 0),
        (framed(b"AAAA", 1) + framed(b"AAAA", 0), 12),
    ]:
        with pytest.raises(RecordIOError) as error:
            recordio.read(broken)
        assert error.value.offset == offset


def test_runs_of_different_records_read_in_order() -> None:
    rng = np.random.default_rng(2)
    features, labels = rng.random((300, 3), dtype=np.float32), rng.random(300, dtype=np.float32)
    pieces = []
    for start in range(0, 300, 50):
        rows = slice(start, start + 50)
        wide = features[rows].astype(np.float64)
        stream = io.BytesIO()
        sdk.write_numpy_to_dense_tensor(stream, wide, labels[rows].astype(np.float64))
        pieces += [stream.getvalue(), recordio.encode(features[rows], labels[rows])]
    read_features, read_labels = recordio.read(b"".join(pieces))
    doubled = np.concatenate([np.tile(features[start : start + 50], (2, 1)) for start in range(0, 300, 50)])
    assert_same_bits(read_features, doubled)
    assert read_labels is not None
    assert len(read_labels) == 600


def test_cut_anywhere_it_is_an_error_with_the_place() -> None:
    encoded = recordio.encode(np.arange(15, dtype=np.float32).reshape(5, 3), np.arange(5, dtype=np.float32))
    record = len(encoded) // 5
    for size in range(1, len(encoded)):
        if size % record == 0:
            assert len(recordio.read(encoded[:size])[0]) == size // record
            continue
        with pytest.raises(RecordIOError, match=r"byte \d+: the data ends within") as error:
            recordio.read(encoded[:size])
        assert error.value.offset // record == size // record


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_bytes_give_rows_or_a_named_error(data: st.DataObject) -> None:
    whole = bytearray(recordio.encode(np.ones((40, 2), dtype=np.float32), np.ones(40, dtype=np.float32)))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        features, labels = recordio.read(bytes(whole))
    except RecordIOError as error:
        assert 0 <= error.offset <= len(whole)
    else:
        assert features.ndim == 2
        assert labels is None or len(labels) == len(features)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=60), max_size=3))
def test_any_payload_gives_rows_or_a_named_error(payloads: list[bytes]) -> None:
    try:
        features, _ = recordio.read(b"".join(framed(payload) for payload in payloads))
    except RecordIOError:
        return
    assert len(features) == len(payloads)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (framed(one_record(b"\x0a\x04\0\0\x80\x3f\x12\x01\x01\x1a\x01\x04")), "sparse"),
        (framed(one_record(b"\x1a\x01\x04")), "sparse"),
        (framed(one_record(b"\x0a\x03abc")), "3 bytes of values"),
        (framed(one_record(b"abc", tensor=0x4A)), "no tensor of numbers"),
        (framed(one_record(b"\x0a\x04\0\0\x80\x3f", key=b"weights")), "another name than 'values'"),
        (framed(b""), "without features"),
        (recordio.encode(np.zeros((1, 2))) + recordio.encode(np.zeros((1, 3))), "3 features where the first has 2"),
        (recordio.encode(np.zeros((1, 2)), np.zeros(1)) + recordio.encode(np.zeros((1, 2))), "without a label"),
        (recordio.encode(np.zeros((1, 2))) + recordio.encode(np.zeros((1, 2)), np.zeros(1)), "only this record"),
        (framed(one_record(b"\x0a\x08" + struct.pack("<d", 1e300), tensor=0x1A)), "beyond float32"),
        (b"\x0a\x23\xd7\xcd" + bytes(8), "no record begins here"),
        (framed(one_record(b""), flag=5), "flag 5"),
    ],
)
def test_says_what_it_can_not_read(data: bytes, said: str) -> None:
    with pytest.raises(RecordIOError, match=said):
        recordio.read(data)
