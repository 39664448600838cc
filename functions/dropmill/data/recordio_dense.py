"""Dense rows of float32 to recordIO-protobuf and back; `recordio` is the library's front.

For one width every record has the same length and, but for its numbers, the same bytes. So writing lays a block of
records out as a matrix of bytes and assigns its columns, and reading does the reverse.
"""

import ctypes
import io
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dropmill.data.recordio_wire import (
    F4,
    FEATURES_TAG,
    FRAME,
    LABEL_TAG,
    MAGIC,
    MAX_RECORD_BYTES,
    ByteArray,
    Float32Array,
    Layout,
    TruncatedError,
    as_float32,
    check_numeric,
    checked_labels,
    entries,
    entry_prefix,
    parse_entry,
    payload_at,
    write_all,
)

Block = tuple[Float32Array, Float32Array | None]

_PIECE_BYTES = 1 << 20
"""Files are written in pieces of this size and at multiples of it, which is steadier than by whole records."""
_BLOCK_BYTES = 2 << 20  # small enough to be assembled in a cache
_HUGE_PAGES_FROM = 4 << 20


# Writing


class Writer:
    """Writes the records of matrices of one width to a stream, in pieces that do not follow the records' borders."""

    def __init__(self, stream: BinaryIO, columns: int, label_values: int) -> None:
        self.shape = columns, label_values
        self._stream = stream
        self._template = _Template.of(columns, label_values)
        self._buffer: ByteArray = np.empty(_PIECE_BYTES + self._template.size, dtype=np.uint8)
        self._held = 0
        self._rows = 0

    def add(self, matrix: NDArray[Any], labels: NDArray[Any] | None) -> int:
        """Add a record for each row; how many bytes they are. `labels` is [n, m]."""
        template, buffer = self._template, self._buffer
        start = 0
        while start < len(matrix):
            stop = min(len(matrix), start + -((self._held - _PIECE_BYTES) // template.size))
            held = self._held + (stop - start) * template.size
            block = buffer[self._held : held].reshape(-1, template.size)
            template.stamp(block)
            template.fill(block, matrix[start:stop], None if labels is None else labels[start:stop], self._rows + start)
            whole = held - held % _PIECE_BYTES
            if whole:
                write_all(self._stream, buffer[:whole].data)
                buffer[: held - whole] = buffer[whole:held]
            self._held = held - whole
            start = stop
        self._rows += len(matrix)
        return len(matrix) * template.size

    def flush(self) -> None:
        """Write what is still held."""
        write_all(self._stream, self._buffer[: self._held].data)
        self._held = 0


def write(stream: BinaryIO, features: ArrayLike, labels: ArrayLike | None = None) -> int:
    """As `recordio.write` for an array."""
    matrix, given = checked(features, labels)
    writer = Writer(stream, matrix.shape[1], 0 if given is None else given.shape[1])
    size = writer.add(matrix, given)
    writer.flush()
    return size


def encode(features: ArrayLike, labels: ArrayLike | None = None) -> bytes:
    """As `recordio.encode` for an array."""
    matrix, given = checked(features, labels)
    template = _Template.of(matrix.shape[1], 0 if given is None else given.shape[1])
    size = len(matrix) * template.size
    # BytesIO takes over and hands out its buffer without a copy, so every page is touched once, by the final bytes.
    memory = io.BytesIO(bytes(size))
    step = max(1, _BLOCK_BYTES // template.size)
    with memory.getbuffer() as view:
        flat: ByteArray = np.frombuffer(view, dtype=np.uint8)
        _advise_huge_pages(flat)
        records = flat.reshape(len(matrix), template.size)
        for start in range(0, len(matrix), step):
            rows = slice(start, start + step)
            block = records[rows]
            template.stamp(block)
            template.fill(block, matrix[rows], None if given is None else given[rows], start)
            del block
        del records, flat  # or the view could not be given back
    return memory.getvalue()


def _advise_huge_pages(buffer: ByteArray) -> None:
    """Ask Linux for huge pages under a large buffer, as numpy does for its own arrays; elsewhere do nothing.

    Taking fresh memory page by page costs four times as much as filling it.
    """
    page = mmap.PAGESIZE
    start = buffer.ctypes.data + -buffer.ctypes.data % page
    size = (buffer.ctypes.data + len(buffer) - start) // page * page
    if size >= _HUGE_PAGES_FROM and hasattr(mmap, "MADV_HUGEPAGE"):
        ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), mmap.MADV_HUGEPAGE)


def checked(features: ArrayLike, labels: ArrayLike | None) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """A matrix [n, d] and its labels [n, m]. Raises ValueError."""
    matrix = np.asarray(features)
    if matrix.ndim != 2:
        raise ValueError(f"features must be a matrix [rows, columns], not of shape {matrix.shape}")
    check_numeric(matrix, "features")
    return matrix, checked_labels(labels, len(matrix))


@dataclass(frozen=True)
class _Template:
    """A record with its numbers left out: for one width, everything else is the same in every record."""

    record: ByteArray
    features: slice
    labels: slice

    @property
    def size(self) -> int:
        return len(self.record)

    @classmethod
    def of(cls, columns: int, label_values: int) -> "_Template":
        before = entry_prefix(FEATURES_TAG, 4 * columns)
        between = entry_prefix(LABEL_TAG, 4 * label_values) if label_values else b""
        length = len(before) + 4 * columns + len(between) + 4 * label_values
        if length > MAX_RECORD_BYTES:
            raise ValueError(f"{columns} columns make a record of {length} bytes; {MAX_RECORD_BYTES} is the most")
        features = slice(FRAME.size + len(before), FRAME.size + len(before) + 4 * columns)
        labels = slice(features.stop + len(between), features.stop + len(between) + 4 * label_values)
        record: ByteArray = np.zeros(FRAME.size + length + -length % 4, dtype=np.uint8)
        record[: features.start] = np.frombuffer(FRAME.pack(MAGIC, length) + before, dtype=np.uint8)
        record[features.stop : labels.start] = np.frombuffer(between, dtype=np.uint8)
        return cls(record, features, labels)

    def stamp(self, block: ByteArray) -> None:
        """Lay the constant bytes into every record of `block` [n, size], around the features."""
        block[:, : self.features.start] = self.record[: self.features.start]
        block[:, self.features.stop :] = self.record[self.features.stop :]

    def fill(self, block: ByteArray, features: NDArray[Any], labels: NDArray[Any] | None, first_row: int) -> None:
        """Lay the numbers into the stamped records of `block` [n, size]."""
        if features.shape[1]:
            block[:, self.features] = as_float32(features, first_row).view(np.uint8)
        if labels is not None:
            block[:, self.labels] = as_float32(labels, first_row).view(np.uint8)


# Reading


def parse(window: memoryview, last: bool, layout: Layout, most: int) -> tuple[Block, int]:
    """Read the whole records at the start of `window`, all of it if it is the `last`, and say how many bytes they are.

    Raises RecordIOError; offsets count from the start of the window.
    """
    data: ByteArray = np.frombuffer(window, dtype=np.uint8)
    rows = _Rows()
    offset = 0
    while offset < len(data):
        try:
            record = _record_at(window, offset, most)
        except TruncatedError:
            if last:
                raise
            break
        layout.check(len(record.features), record.label, offset)
        if record.fixed is None:
            rows.add_record(record)
            offset = record.end
            continue
        size = record.fixed.size
        count = _run_length(data[offset:], record.fixed)
        rows.add_run(data[offset : offset + count * size].reshape(count, size), record.fixed)
        offset += count * size
    return rows.result(layout), offset


@dataclass(frozen=True)
class _FixedRecord:
    """Where the numbers of a record lie, counted from its frame; records that differ only there are alike."""

    bytes: ByteArray
    features: slice
    label: slice | None

    @property
    def size(self) -> int:
        return len(self.bytes)

    def constants(self) -> Iterator[slice]:
        """The ranges that records alike have in common, in order."""
        start = 0
        for span in sorted((s for s in (self.features, self.label) if s is not None), key=lambda s: int(s.start)):
            if span.start > start:
                yield slice(start, span.start)
            start = span.stop
        if start < self.size:
            yield slice(start, self.size)


@dataclass(frozen=True)
class _ReadRecord:
    features: Float32Array
    label: Float32Array | None
    end: int
    fixed: _FixedRecord | None


class _Rows:
    """What has been read: whole runs of records, and single records gathered between them."""

    def __init__(self) -> None:
        self.features: list[Float32Array] = []
        self.labels: list[Float32Array] = []
        self.pending = bytearray()
        self.pending_labels = bytearray()
        self.pending_rows = 0

    def add_run(self, run: ByteArray, record: _FixedRecord) -> None:
        self._flush()
        # Copies, so that what was read doesn't hold on to the bytes that it came from.
        self.features.append(run[:, record.features].copy().view(F4))
        if record.label is not None:
            self.labels.append(run[:, record.label].copy().view(F4))

    def add_record(self, record: _ReadRecord) -> None:
        self.pending_rows += 1
        self.pending += record.features.tobytes()
        if record.label is not None:
            self.pending_labels += record.label.tobytes()

    def _flush(self) -> None:
        if not self.pending_rows:
            return
        self.features.append(np.frombuffer(self.pending, dtype=F4).reshape(self.pending_rows, -1))
        if self.pending_labels:
            self.labels.append(np.frombuffer(self.pending_labels, dtype=F4).reshape(self.pending_rows, -1))
        self.pending, self.pending_labels = bytearray(), bytearray()
        self.pending_rows = 0

    def result(self, layout: Layout) -> Block:
        self._flush()
        if not self.features:
            return np.empty((0, layout.columns or 0), dtype=np.float32), None
        features = self.features[0] if len(self.features) == 1 else np.concatenate(self.features)
        if not self.labels:
            return features, None
        labels = self.labels[0] if len(self.labels) == 1 else np.concatenate(self.labels)
        return features, layout.labels(labels)


def _run_length(data: ByteArray, fixed: _FixedRecord) -> int:
    """How many records at the start of `data` have the constant bytes of `fixed`: at least one.

    Compares in steps that double, so that a file whose records change often costs no more than its length.
    """
    total = len(data) // fixed.size
    records = data[: total * fixed.size].reshape(total, fixed.size)
    constants = list(fixed.constants())
    count, step = 1, 16
    while count < total:
        block = records[count : count + step]
        alike: NDArray[np.bool_] = np.ones(len(block), dtype=np.bool_)
        for span in constants:
            alike &= (block[:, span] == fixed.bytes[span]).all(axis=1)
        same = len(block) if alike.all() else int(alike.argmin())
        count += same
        if same < len(block):
            break
        step = min(step * 2, max(16, (16 << 20) // fixed.size))
    return count


def _record_at(buffer: memoryview, offset: int, most: int) -> _ReadRecord:
    """Read the record whose first frame is at `offset`, of one part or several."""
    payload, end = payload_at(buffer, offset, most)
    features, label = np.empty(0, F4), None
    spans: list[tuple[int, int] | None] = [None, None]
    for number, start, stop in entries(payload, offset):
        numbers = parse_entry(payload, start, stop, offset)
        spans[number - 1] = numbers.span
        if number == 1:
            features = numbers.values
        else:
            label = numbers.values
    feature_span, label_span = spans
    fixed = None
    # A record of several parts has several heads, and so is longer than this.
    in_one_part = len(payload) + FRAME.size + -len(payload) % 4 == end - offset
    if in_one_part and feature_span is not None and (label is None or label_span is not None):
        frame = FRAME.size
        fixed = _FixedRecord(
            np.frombuffer(buffer[offset:end], dtype=np.uint8),
            slice(frame + feature_span[0], frame + feature_span[1]),
            None if label_span is None else slice(frame + label_span[0], frame + label_span[1]),
        )
    return _ReadRecord(features, label, end, fixed)
