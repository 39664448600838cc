"""The codec block by block, with labels of several values, and against any bytes at all."""

import io
import os
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import sparse

from dropmill.data import recordio, recordio_sparse
from dropmill.data.recordio import RecordIOError, SparseMatrix, TruncatedError

os.environ["SAGEMAKER_SUPPRESS_V2_WARNING"] = "1"
sdk = pytest.importorskip("sagemaker.serializer_utils")
record_pb2 = pytest.importorskip("sagemaker.amazon.record_pb2")

Float32Array = NDArray[np.float32]
Block = tuple[Any, Float32Array | None]
Read = Callable[..., Block]
ReadBlocks = Callable[..., Iterator[Block]]
READERS: list[tuple[Read, ReadBlocks]] = [
    (recordio.read, recordio.read_blocks),
    (recordio.read_sparse, recordio.read_sparse_blocks),
    (recordio.read_any, recordio.read_any_blocks),
]


class Dribble(io.RawIOBase):
    """Gives and takes a few bytes at a time, as a socket may."""

    def __init__(self, data: bytes = b"", step: int = 7) -> None:
        self.inner, self.step = io.BytesIO(data), step

    def read(self, size: int = -1) -> bytes:
        return self.inner.read(self.step if size < 0 else min(size, self.step))

    def write(self, data: Any) -> int:
        return self.inner.write(memoryview(data)[: self.step])


def some_rows(rows: int, width: int, label_values: int, *, seed: int = 0) -> Block:
    rng = np.random.default_rng(seed)
    features = rng.random((rows, width), dtype=np.float32) * (rng.random((rows, width)) < 0.4)
    return features.astype(np.float32), rng.random((rows, label_values), dtype=np.float32) if label_values else None


def dense(features: Any) -> Float32Array:
    return features.to_dense() if isinstance(features, SparseMatrix) else features


def together(blocks: Iterator[Block]) -> tuple[Float32Array, Float32Array | None]:
    found = list(blocks)
    labels = [labels for _, labels in found if labels is not None]
    return np.concatenate([dense(features) for features, _ in found]), np.concatenate(labels) if labels else None


def by_protobuf(features: Float32Array, labels: Float32Array | None, *, in_sparse: bool) -> bytes:
    stream = io.BytesIO()
    for number, row in enumerate(features):
        record = record_pb2.Record()
        tensor = record.features["values"].float32_tensor
        if in_sparse:
            tensor.keys.extend(np.flatnonzero(row).tolist())
            tensor.shape.append(len(row))
        tensor.values.extend(row[np.flatnonzero(row)].tolist() if in_sparse else row.tolist())
        if labels is not None:
            record.label["values"].float32_tensor.values.extend(labels[number].tolist())
        sdk._write_recordio(stream, record.SerializeToString())
    return stream.getvalue()


@pytest.mark.parametrize("in_sparse", [False, True])
@pytest.mark.parametrize("label_values", [0, 1, 2, 40])
def test_labels_of_several_values(label_values: int, in_sparse: bool) -> None:
    features, labels = some_rows(9, 5, label_values)
    encoded = recordio.encode(SparseMatrix.of(features) if in_sparse else features, labels)
    assert encoded == by_protobuf(features, labels, in_sparse=in_sparse)
    read, read_labels = recordio.read_any(encoded, label_matrix=True)
    np.testing.assert_array_equal(dense(read), features)
    np.testing.assert_array_equal(read_labels, labels)
    if label_values > 1:
        with pytest.raises(RecordIOError, match=r"a label of .* label_matrix=True"):
            recordio.read_any(encoded)


@pytest.mark.parametrize("in_sparse", [False, True])
def test_labels_of_different_lengths_are_refused(in_sparse: bool) -> None:
    features, labels = some_rows(3, 4, 3)
    assert labels is not None
    rows = SparseMatrix.of(features) if in_sparse else features
    first = recordio.encode(rows, labels)
    with pytest.raises(RecordIOError, match="a label of 2 values where the first has 3") as error:
        recordio.read_sparse(first + recordio.encode(rows, labels[:, :2]), label_matrix=True)
    assert error.value.offset == len(first)


@settings(max_examples=120, deadline=None)
@given(st.data())
def test_blocks_hold_what_one_reading_gives(data: st.DataObject) -> None:
    width, label_values = data.draw(st.sampled_from([1, 3, 30])), data.draw(st.integers(0, 2))
    kinds = data.draw(st.lists(st.booleans(), min_size=1, max_size=4))
    given_blocks: list[Block] = []
    for number, in_sparse in enumerate(kinds):
        features, labels = some_rows(data.draw(st.integers(1, 9)), width, label_values, seed=number)
        given_blocks.append((SparseMatrix.of(features) if in_sparse else features, labels))
    stream = Dribble(step=data.draw(st.integers(1, 50)))
    written = recordio.write_blocks(stream, iter(given_blocks))  # type: ignore[arg-type]  # a raw stream is one
    encoded = stream.inner.getvalue()
    assert len(encoded) == written
    assert encoded == b"".join(recordio.encode(features, labels) for features, labels in given_blocks)
    block_bytes = data.draw(st.integers(1, len(encoded) + 10))
    for read_blocks in [recordio.read_sparse_blocks, recordio.read_any_blocks] + [recordio.read_blocks] * (
        not any(kinds)
    ):
        for source in (encoded, io.BytesIO(encoded), Dribble(encoded)):
            blocks = list(read_blocks(source, label_matrix=True, block_bytes=block_bytes))  # type: ignore[arg-type]
            features, labels = together(iter(blocks))
            np.testing.assert_array_equal(features, np.concatenate([dense(features) for features, _ in given_blocks]))
            if label_values:
                np.testing.assert_array_equal(labels, np.concatenate([labels for _, labels in given_blocks]))  # type: ignore[arg-type]
            # No record is shorter than 20 bytes or longer than 300; a block that one doesn't fit into is doubled.
            assert max(len(features) for features, _ in blocks) * 20 <= max(block_bytes, 600)


def test_blocks_that_do_not_fit_together_are_not_written() -> None:
    features, labels = some_rows(3, 4, 1)
    for other in [(features[:, :3], labels), (features, None), (features, np.ones((3, 2))), (features, np.ones(2))]:
        with pytest.raises(ValueError, match=r"block 1 has|labels must be"):
            recordio.write_blocks(io.BytesIO(), [(features, labels), other])
    assert recordio.write_blocks(io.BytesIO(), []) == 0
    assert list(recordio.read_blocks(b"")) == []
    with pytest.raises(ValueError, match="0 bytes"):
        list(recordio.read_blocks(b"", block_bytes=0))


@pytest.mark.parametrize("width", [1, 37, 784, 300_000])
def test_a_file_is_written_in_even_pieces(width: int) -> None:
    class Sink(io.BytesIO):
        sizes: list[int] = []  # noqa: RUF012  # one sink in this test

        def write(self, data: Any) -> int:
            self.sizes.append(len(data))
            return super().write(data)

    Sink.sizes = []
    features, labels = some_rows(3_000_000 // (4 * width + 40) + 1, width, 1)
    sink = Sink()
    assert recordio.write(sink, features, labels) == len(sink.getvalue())
    assert sink.getvalue() == recordio.encode(features, labels)
    assert all(size % (1 << 20) == 0 for size in sink.sizes[:-1])


def test_a_raw_stream_that_takes_a_little_at_a_time_gets_all() -> None:
    features, labels = some_rows(40, 30, 1)
    for rows in (features, SparseMatrix.of(features)):
        stream = Dribble(step=100)
        recordio.write(stream, rows, labels)  # type: ignore[arg-type]  # a raw stream is one
        assert stream.inner.getvalue() == recordio.encode(rows, labels)


@pytest.mark.parametrize("in_sparse", [False, True])
def test_cut_anywhere_the_place_is_told(in_sparse: bool) -> None:
    features, labels = some_rows(5, 3, 1)
    pieces = [
        recordio.encode(SparseMatrix.of(features[row : row + 1]) if in_sparse else features[row : row + 1], labels[:1])
        for row in range(5)
    ]
    encoded = b"".join(pieces)
    borders = np.cumsum([0, *map(len, pieces)])
    for size in range(1, len(encoded)):
        row = int(np.searchsorted(borders, size, side="right")) - 1
        for read, read_blocks in READERS[in_sparse:]:
            if size in borders:
                assert len(read(encoded[:size])[0]) == row
                continue
            for attempt in (
                lambda read=read, size=size: read(encoded[:size]),
                lambda read_blocks=read_blocks, size=size: list(
                    read_blocks(io.BytesIO(encoded[:size]), block_bytes=50)
                ),
            ):
                with pytest.raises(TruncatedError, match="the data ends within") as error:
                    attempt()
                assert borders[row] <= error.value.offset < borders[row + 1]


def test_rows_before_damage_are_given_and_the_place_counts_from_the_start() -> None:
    features, labels = some_rows(50, 4, 1)
    for rows, (_, read_blocks) in ((features, READERS[0]), (SparseMatrix.of(features), READERS[1])):
        encoded = recordio.encode(rows, labels)
        blocks = read_blocks(io.BytesIO(encoded + b"garbage."), block_bytes=200)
        seen = 0
        with pytest.raises(RecordIOError, match=f"byte {len(encoded)}: no record begins here"):
            for block, _ in blocks:
                np.testing.assert_array_equal(dense(block), features[seen : seen + len(block)])
                seen += len(block)
        assert seen > 40


def in_parts(payload: bytes) -> bytes:
    """A record cut wherever its payload holds the magic number at a multiple of four, which is left out there."""
    magic = struct.pack("<I", recordio.MAGIC)
    cuts, at = [], 0
    while (at := payload.find(magic, at)) >= 0:
        if at % 4 == 0:
            cuts.append(at)
        at += 4 if at % 4 == 0 else 1
    pieces = [payload[start:stop] for start, stop in zip([0, *(c + 4 for c in cuts)], [*cuts, None], strict=True)]
    flags = [0] if len(pieces) == 1 else [1] + [2] * (len(pieces) - 2) + [3]
    return b"".join(
        magic + struct.pack("<I", flag << 29 | len(piece)) + piece + bytes(-len(piece) % 4)
        for flag, piece in zip(flags, pieces, strict=True)
    )


@pytest.mark.parametrize("read_blocks", [recordio.read_blocks, recordio.read_sparse_blocks])
@pytest.mark.parametrize("block_bytes", [1, 40, 100, 10_000])
def test_records_in_parts_among_others(read_blocks: ReadBlocks, block_bytes: int) -> None:
    magic = struct.unpack("<f", struct.pack("<I", recordio.MAGIC))[0]
    features = np.full((12, 6), magic, np.float32)
    features[::3] = 1.0
    is_sparse = read_blocks is recordio.read_sparse_blocks
    whole = [recordio.encode(SparseMatrix.of(row[None]) if is_sparse else row[None]) for row in features]
    encoded = b""
    for number, record in enumerate(whole):
        length = struct.unpack_from("<I", record, 4)[0]
        # An unknown field in front brings the values to a multiple of four.
        at = record.index(features[number].tobytes()) - 8
        front = b"\x1a" + bytes([(-at - 2) % 4]) + bytes((-at - 2) % 4)
        encoded += in_parts(front + record[8 : 8 + length])
    assert encoded.count(struct.pack("<I", recordio.MAGIC)) > 12
    read, _ = together(read_blocks(Dribble(encoded), block_bytes=block_bytes))
    np.testing.assert_array_equal(read, features)


def test_a_magic_number_within_a_record_is_no_record() -> None:
    """The writer leaves it where it is, as the SDK does; the length says where the record ends."""
    magic = np.frombuffer(struct.pack("<I", recordio.MAGIC), np.float32)
    rng = np.random.default_rng(3)
    features = np.where(rng.random((60, 7)) < 0.3, magic, rng.random((60, 7), dtype=np.float32)).astype(np.float32)
    for shift in range(4):
        matrix = sparse.csr_matrix(features[:, shift:])
        read, _ = recordio.read_sparse(recordio.encode(matrix, np.full((60, 2), magic)), label_matrix=True)
        np.testing.assert_array_equal(read.to_dense(), features[:, shift:])


def test_memory_is_that_of_a_block_however_long_the_stream() -> None:
    features, labels = some_rows(2000, 100, 1)
    for rows, read_blocks in (
        (features, recordio.read_blocks),
        (SparseMatrix.of(features), recordio.read_sparse_blocks),
    ):
        part = recordio.encode(rows, labels)

        class Endless(io.RawIOBase):
            left = 60 * len(part)
            at = 0

            def read(self, size: int = -1) -> bytes:
                size = min(size, self.left, len(part) - self.at)  # noqa: B023  # used within the loop only
                piece = part[self.at : self.at + size]  # noqa: B023  # used within the loop only
                self.at = (self.at + size) % len(part)  # noqa: B023  # used within the loop only
                self.left -= size
                return piece

        def blocks() -> Iterator[Block]:
            return read_blocks(Endless(), block_bytes=1 << 18)  # type: ignore[arg-type]  # noqa: B023  # as above

        tracemalloc.start()
        try:
            assert sum(len(block) for block, _ in blocks()) == 60 * 2000
            read_peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.reset_peak()
            with open(os.devnull, "wb") as sink:  # noqa: PTH123  # no path of ours
                assert recordio.write_blocks(sink, blocks()) == 60 * len(part)
            write_peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert 60 * len(part) > 20 << 20
        assert read_peak < 6 << 20
        assert write_peak < 10 << 20


def test_a_record_too_long_for_blocks_is_refused_before_it_is_read() -> None:
    head = struct.pack("<II", recordio.MAGIC, recordio.MAX_RECORD_BYTES)
    for read_blocks in (recordio.read_blocks, recordio.read_sparse_blocks, recordio.read_any_blocks):
        tracemalloc.start()
        with pytest.raises(RecordIOError, match=r"byte 0: a record of \d+ bytes; \d+ is the most"):
            list(read_blocks(io.BytesIO(head + bytes(1000))))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 1 << 20
        parts = struct.pack("<II", recordio.MAGIC, 1 << 29 | 40) + bytes(40)
        parts += (struct.pack("<II", recordio.MAGIC, 2 << 29 | 40) + bytes(40)) * 30
        with pytest.raises(RecordIOError, match="byte 0: a record of more than 1000 bytes"):
            list(read_blocks(io.BytesIO(parts), max_record_bytes=1000))


SEEDS = [
    recordio.encode(*some_rows(4, 3, 1)),
    recordio.encode(SparseMatrix.of(some_rows(4, 3, 0)[0])),
    recordio.encode(SparseMatrix.of(some_rows(3, 200, 2)[0]), some_rows(3, 200, 2)[1]),
    recordio.encode(np.zeros((2, 3), np.float32)) + recordio.encode(SparseMatrix.of(np.eye(3, dtype=np.float32))),
    in_parts(b"\x1a\x02ab" + struct.pack("<I", recordio.MAGIC) + recordio.encode(np.ones((1, 2), np.float32))[8:]),
]


@st.composite
def broken(draw: st.DrawFn) -> bytes:
    """Any bytes, or good ones with bytes set, cut out, put in and repeated."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=200))
    data = bytearray(draw(st.sampled_from(SEEDS)) + draw(st.sampled_from([b"", *SEEDS])))
    for _ in range(draw(st.integers(0, 4))):
        at, size = draw(st.integers(0, len(data) - 1)), draw(st.integers(0, 6))
        change = draw(st.sampled_from(["set", "cut", "insert", "repeat"]))
        if change == "set":
            data[at] = draw(st.sampled_from([0, 1, 4, 0x12, 0x7F, 0x80, 0xFF]) | st.integers(0, 255))
        elif change == "cut" and size < len(data):
            del data[at : at + size]
        elif change == "insert":
            data[at:at] = draw(st.binary(min_size=size, max_size=size))
        else:
            data[at:at] = data[at : at + 4 * size]
    return bytes(data)


def outcome(attempt: Callable[[], tuple[Float32Array, Float32Array | None]]) -> tuple[Any, ...]:
    try:
        features, labels = attempt()
    except RecordIOError as error:
        return "error", error.offset
    if features.shape[1] > 1000:  # a shape may say anything; nothing is as wide as that in memory
        return "wide", len(features)
    return dense(features).tobytes(), None if labels is None else labels.tobytes()


@settings(max_examples=600, deadline=None)
@given(broken(), st.integers(1, 120))
def test_any_bytes_give_rows_or_a_named_error(data: bytes, block_bytes: int) -> None:
    for read, read_blocks in READERS:
        found = outcome(lambda read=read: read(data, label_matrix=True))
        if found[0] == "error":
            assert 0 <= found[1] <= len(data)
            with pytest.raises(RecordIOError):
                list(read_blocks(io.BytesIO(data), label_matrix=True, block_bytes=block_bytes))
        elif found[0] != "wide" and data:
            blocks = read_blocks(io.BytesIO(data), label_matrix=True, block_bytes=block_bytes)
            assert outcome(lambda blocks=blocks: together(blocks)) == found


@settings(max_examples=400, deadline=None)
@given(broken())
def test_records_looked_at_together_read_as_those_looked_at_one_by_one(data: bytes) -> None:
    def one_by_one(rows: Any, width: int, label_values: int) -> NDArray[np.bool_]:
        return np.zeros(len(rows._counts), np.bool_)

    together_ = outcome(lambda: recordio.read_sparse(data, label_matrix=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recordio_sparse._Rows, "read_alike", one_by_one)
        assert outcome(lambda: recordio.read_sparse(data, label_matrix=True)) == together_


def test_the_usual_records_are_looked_at_together() -> None:
    matrix = sparse.random(300, 5000, 0.01, format="csr", dtype=np.float32, random_state=4)
    for labels in (None, np.ones(300), np.ones((300, 50))):
        encoded = recordio.encode(matrix, labels)
        asked: list[int] = []
        read_one = recordio_sparse._Rows.read_one

        def counted(rows: Any, number: int, layout: Any, asked: list[int] = asked, read_one: Any = read_one) -> None:
            asked.append(number)
            read_one(rows, number, layout)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(recordio_sparse._Rows, "read_one", counted)
            recordio.read_sparse(encoded, label_matrix=True)
        assert asked == [0]


@pytest.mark.parametrize(
    ("columns", "offsets", "said"),
    [
        ([0, 1, 2], [0, 2, 2], "offsets of a sparse matrix"),
        ([0, 1, 2], [0, 4, 3], "offsets of a sparse matrix"),
        ([0, 1], [0, 2, 3], "a column for each value"),
        ([0, 1, 4], [0, 2, 3], "beyond its 4 columns"),
        ([0, -1, 2], [0, 2, 3], "beyond its 4 columns"),
        ([3, 0, 3], [0, 0, 3], "row 1 has a column twice"),
    ],
)
def test_a_sparse_matrix_that_is_none_is_refused(columns: list[int], offsets: list[int], said: str) -> None:
    matrix = SparseMatrix(np.ones(3, np.float32), np.array(columns), np.array(offsets), 4)
    with pytest.raises(ValueError, match=said):
        recordio.encode(matrix)
