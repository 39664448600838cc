"""RecordIO-protobuf, the training format of SageMaker's built-in algorithms: dense float32 rows to bytes and back.

A library in its own right: it needs numpy and nothing else of this package.

- `write(stream, features, labels=None)` writes one record for each row and returns the number of bytes.
- `encode(features, labels=None)` gives the same bytes in memory.
- `read(source)` gives `(features, labels)`, from bytes or from a binary stream.

Sources of the format: the framing is dmlc-core's `recordio.h` (magic, flags and length, payload, padding to four
bytes; no header, checksum or trailer, so files can be joined end to end); the payload is the protobuf message
`aialgs.data.Record` as `sagemaker.amazon.common` of the SageMaker Python SDK 2.x writes it: a map entry `values` with
the packed features, then, if there are labels, a map entry `values` with one number.

For float32 input the bytes are those of `sagemaker.amazon.common.write_numpy_to_dense_tensor`. Deliberate differences:

- Other numeric input is cast to float32, since that is all that Linear Learner and Factorization Machines accept. (The
  SDK writes a Float64 tensor for float64, an Int32 tensor for int64, and refuses every other type.) A finite number
  that float32 can't hold is an error.
- `labels` must have exactly one value for each row. (The SDK also accepts as many labels as there are columns.)
- A record made of several parts is read as the one record that it is. (The SDK takes the flag bits for length.)
"""

import ctypes
import io
import math
import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["MAX_RECORD_BYTES", "RecordIOError", "encode", "read", "write"]

Float32Array = NDArray[np.float32]
ByteArray = NDArray[np.uint8]

MAGIC = 0xCED7230A
MAX_RECORD_BYTES = 2**29 - 1
"""The length field of a record has 29 bits."""

_BLOCK_BYTES = 2 << 20  # small enough to be assembled in a cache, large enough that a write call costs nothing
_PAGE_BYTES = 4096
_HUGE_PAGES_FROM = 4 << 20
_MAGIC_BYTES = struct.pack("<I", MAGIC)
_FRAME = struct.Struct("<II")
_F4 = np.dtype("<f4")

# Protobuf wire types and the tags of one byte that are used here: field number << 3 | wire type.
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_TENSOR_FLOAT32, _TENSOR_FLOAT64, _TENSOR_INT32 = 2, 3, 7
_ENTRY_KEY = b"\x0a\x06values"  # field 1 of a map entry: its key


class RecordIOError(ValueError):
    """The bytes are not RecordIO-protobuf that can be read here. The message gives the offset in bytes."""

    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(f"recordIO-protobuf, byte {offset}: {reason}")
        self.offset = offset
        self.reason = reason


# Writing


def write(stream: BinaryIO, features: ArrayLike, labels: ArrayLike | None = None) -> int:
    """Write a record for each row of `features` [n, d], with its label from `labels` [n], and return the bytes written.

    Raises ValueError for anything but a matrix of numbers with a label for each row, for a finite value beyond
    float32, and for a row that would not fit into one record.
    """
    matrix, vector = _checked(features, labels)
    template = _Template.of(matrix.shape[1], labelled=vector is not None)
    step = max(1, _BLOCK_BYTES // template.size)
    whole_pages = _PAGE_BYTES // math.gcd(_PAGE_BYTES, template.size)  # a page written in two goes costs twice
    step = step // whole_pages * whole_pages or step
    block: ByteArray = np.empty((min(step, len(matrix)), template.size), dtype=np.uint8)
    template.stamp(block)
    for start in range(0, len(matrix), step):
        rows = slice(start, min(start + step, len(matrix)))
        filled = block[: rows.stop - rows.start]
        template.fill(filled, matrix[rows], None if vector is None else vector[rows], start)
        stream.write(filled.data)
    return len(matrix) * template.size


def encode(features: ArrayLike, labels: ArrayLike | None = None) -> bytes:
    """Return the bytes that `write` writes. Raises as `write` does."""
    matrix, vector = _checked(features, labels)
    template = _Template.of(matrix.shape[1], labelled=vector is not None)
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
            template.fill(block, matrix[rows], None if vector is None else vector[rows], start)
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


def _checked(features: ArrayLike, labels: ArrayLike | None) -> tuple[NDArray[Any], NDArray[Any] | None]:
    matrix = np.asarray(features)
    if matrix.ndim != 2:
        raise ValueError(f"features must be a matrix [rows, columns], not of shape {matrix.shape}")
    _check_numeric(matrix, "features")
    if labels is None:
        return matrix, None
    vector = np.asarray(labels)
    if vector.shape != (len(matrix),):
        raise ValueError(f"labels must be a vector with one value for each of {len(matrix)} rows, not {vector.shape}")
    _check_numeric(vector, "labels")
    return matrix, vector


def _check_numeric(array: NDArray[Any], what: str) -> None:
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{what} must be numbers, not {array.dtype}")


def _as_float32(array: NDArray[Any], first_row: int) -> Float32Array:
    """Cast to contiguous little-endian float32."""
    if array.dtype == _F4:
        return np.ascontiguousarray(array, dtype=_F4)
    with np.errstate(over="raise"):
        try:
            return np.ascontiguousarray(array.astype(_F4))
        except FloatingPointError:
            last_row = first_row + len(array) - 1
            raise ValueError(f"a value in rows {first_row} to {last_row} is beyond float32") from None


@dataclass(frozen=True)
class _Template:
    """A record with its numbers left out: for one width, everything else is the same in every record."""

    record: ByteArray
    features_at: int
    columns: int
    label_at: int | None

    @property
    def size(self) -> int:
        return len(self.record)

    @classmethod
    def of(cls, columns: int, *, labelled: bool) -> "_Template":
        before_features = _entry_prefix(0x0A, 4 * columns)
        before_label = _entry_prefix(0x12, 4) if labelled else b""
        length = len(before_features) + 4 * columns + len(before_label) + 4 * labelled
        if length > MAX_RECORD_BYTES:
            raise ValueError(f"{columns} columns make a record of {length} bytes; {MAX_RECORD_BYTES} is the most")
        features_at = _FRAME.size + len(before_features)
        label_prefix_at = features_at + 4 * columns
        record: ByteArray = np.zeros(_FRAME.size + length + -length % 4, dtype=np.uint8)
        record[:features_at] = np.frombuffer(_FRAME.pack(MAGIC, length) + before_features, dtype=np.uint8)
        label_at = None
        if labelled:
            label_at = label_prefix_at + len(before_label)
            record[label_prefix_at:label_at] = np.frombuffer(before_label, dtype=np.uint8)
        return cls(record, features_at, columns, label_at)

    def stamp(self, block: ByteArray) -> None:
        """Lay the constant bytes into every record of `block` [n, size], around the features."""
        block[:, : self.features_at] = self.record[: self.features_at]
        block[:, self.features_at + 4 * self.columns :] = self.record[self.features_at + 4 * self.columns :]

    def fill(self, block: ByteArray, features: NDArray[Any], labels: NDArray[Any] | None, first_row: int) -> None:
        """Lay the numbers into the stamped records of `block` [n, size]."""
        if self.columns:
            values = _as_float32(features, first_row).view(np.uint8)
            block[:, self.features_at : self.features_at + 4 * self.columns] = values
        if self.label_at is not None and labels is not None:
            values = _as_float32(labels, first_row).view(np.uint8).reshape(-1, 4)
            block[:, self.label_at : self.label_at + 4] = values


def _entry_prefix(tag: int, values_size: int) -> bytes:
    """Everything of a map entry `values` that stands before its packed float32 values."""
    packed = b"\x0a" + _varint(values_size) if values_size else b""  # an empty packed field is not written
    tensor = b"\x12" + _varint(len(packed) + values_size) + packed
    value = b"\x12" + _varint(len(tensor) + values_size) + tensor
    entry = _ENTRY_KEY + value
    return bytes([tag]) + _varint(len(entry) + values_size) + entry


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


# Reading


def read(source: bytes | bytearray | memoryview | BinaryIO) -> tuple[Float32Array, Float32Array | None]:
    """Read every record into `(features [n, d], labels [n] or None)`, both float32 and contiguous.

    `source` is a buffer, or a binary stream, which is read to its end. Memory is that of the input and of the result.
    No record at all gives features of shape (0, 0) and no labels. Float64 and Int32 tensors are cast to float32.

    Raises RecordIOError for a truncated or corrupt stream, a sparse or non-numeric record, records of different widths,
    records with and without a label, a label of several values, and a finite value beyond float32.
    """
    buffer = memoryview(source if isinstance(source, bytes | bytearray | memoryview) else source.read()).cast("B")
    data: ByteArray = np.frombuffer(buffer, dtype=np.uint8)
    rows = _Rows()
    offset = 0
    while offset < len(data):
        record = _record_at(buffer, offset)
        if record.fixed is None:
            rows.add_record(record, offset)
            offset = record.end
            continue
        count = _run_length(data[offset:], record.fixed)
        size = record.fixed.size
        run = data[offset : offset + count * size].reshape(count, size)
        rows.add_run(run, record, offset)
        offset += count * size
    return rows.result()


@dataclass(frozen=True)
class _Numbers:
    """One tensor of a record. `span` is where its float32 values lie, unbroken, in the payload, if they do."""

    values: Float32Array
    span: tuple[int, int] | None


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
        self.columns: int | None = None
        self.labelled = False
        self.count = 0
        self.features: list[Float32Array] = []
        self.labels: list[Float32Array] = []
        self.pending = bytearray()
        self.pending_rows = 0

    def _check(self, record: _ReadRecord, offset: int) -> None:
        columns, labelled = len(record.features), record.label is not None
        if self.columns is None:
            self.columns, self.labelled = columns, labelled
        if columns != self.columns:
            raise RecordIOError(offset, f"a record of {columns} features where the first has {self.columns}")
        if labelled != self.labelled:
            raise RecordIOError(offset, "a record without a label" if self.labelled else "only this record has a label")

    def add_run(self, run: ByteArray, record: _ReadRecord, offset: int) -> None:
        self._check(record, offset)
        self._flush()
        assert record.fixed is not None  # noqa: S101  # said to the type checker; read() has looked
        self.count += len(run)
        self.features.append(np.ascontiguousarray(run[:, record.fixed.features]).view(_F4))
        if record.fixed.label is not None:
            self.labels.append(np.ascontiguousarray(run[:, record.fixed.label]).view(_F4).reshape(-1))

    def add_record(self, record: _ReadRecord, offset: int) -> None:
        self._check(record, offset)
        self.count += 1
        self.pending_rows += 1
        self.pending += record.features.tobytes()
        if record.label is not None:
            self.pending += record.label.tobytes()

    def _flush(self) -> None:
        if not self.pending_rows:
            return
        columns = self.columns or 0
        block = np.frombuffer(self.pending, dtype=_F4).reshape(self.pending_rows, columns + self.labelled)
        self.features.append(np.ascontiguousarray(block[:, :columns]))
        if self.labelled:
            self.labels.append(np.ascontiguousarray(block[:, columns]))
        self.pending = bytearray()
        self.pending_rows = 0

    def result(self) -> tuple[Float32Array, Float32Array | None]:
        self._flush()
        if self.columns is None:
            return np.empty((0, 0), dtype=np.float32), None
        features = self.features[0] if len(self.features) == 1 else np.concatenate(self.features)
        if not self.labelled:
            return features, None
        return features, self.labels[0] if len(self.labels) == 1 else np.concatenate(self.labels)


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


def _record_at(buffer: memoryview, offset: int) -> _ReadRecord:
    """Read the record whose first frame is at `offset`, of one part or several."""
    flag, start, stop = _frame_at(buffer, offset)
    end = _padded(buffer, start, stop)
    if flag == 0:
        features, label = _parse(buffer[start:stop], offset)
        fixed = None
        if features.span is not None and (label is None or label.span is not None):
            frame = _FRAME.size
            fixed = _FixedRecord(
                np.frombuffer(buffer[offset:end], dtype=np.uint8),
                slice(frame + features.span[0], frame + features.span[1]),
                None if label is None or label.span is None else slice(frame + label.span[0], frame + label.span[1]),
            )
        return _ReadRecord(features.values, None if label is None else label.values, end, fixed)
    if flag != 1:
        raise RecordIOError(offset, "a later part of a record whose first part is missing")
    payload = bytearray(buffer[start:stop])
    while flag != 3:
        if end >= len(buffer):
            raise RecordIOError(offset, "the data ends before the last part of this record")
        flag, start, stop = _frame_at(buffer, end)
        if flag not in (2, 3):
            raise RecordIOError(end, "a new record begins before the last part of the one before it")
        # A writer cuts a record where its payload holds the magic number, and leaves that out.
        payload += _MAGIC_BYTES
        payload += buffer[start:stop]
        end = _padded(buffer, start, stop)
    features, label = _parse(memoryview(payload), offset)
    return _ReadRecord(features.values, None if label is None else label.values, end, None)


def _frame_at(buffer: memoryview, offset: int) -> tuple[int, int, int]:
    """Return the flag, start and end of the payload whose frame is at `offset`."""
    if offset + _FRAME.size > len(buffer):
        raise RecordIOError(offset, "the data ends within the head of a record")
    magic, lengths = _FRAME.unpack_from(buffer, offset)
    if magic != MAGIC:
        raise RecordIOError(offset, "no record begins here (the magic number is missing)")
    flag, length = lengths >> 29, lengths & MAX_RECORD_BYTES
    if flag > 3:
        raise RecordIOError(offset, f"unknown record flag {flag}")
    start = offset + _FRAME.size
    if start + length > len(buffer):
        raise RecordIOError(offset, f"the data ends within a record of {length} bytes")
    return flag, start, start + length


def _padded(buffer: memoryview, start: int, stop: int) -> int:
    end = stop + (start - stop) % 4
    if end > len(buffer):
        raise RecordIOError(stop, "the data ends within the padding of a record")
    return end


def _parse(payload: memoryview, offset: int) -> tuple[_Numbers, _Numbers | None]:
    """Read the message `Record`: its features and its label."""
    features: _Numbers | None = None
    label: _Numbers | None = None
    for number, wire, start, stop in _fields(payload, 0, len(payload), offset):
        if number not in (1, 2):
            continue  # uid, metadata, configuration
        if wire != _BYTES:
            raise RecordIOError(offset, "a map entry that is not a message")
        numbers = _parse_entry(payload, start, stop, offset)
        if number == 1:
            if features is not None:
                raise RecordIOError(offset, "features given twice")
            features = numbers
        else:
            if label is not None:
                raise RecordIOError(offset, "a label given twice")
            label = numbers
    if features is None:
        raise RecordIOError(offset, "a record without features")
    if label is not None and len(label.values) != 1:
        raise RecordIOError(offset, f"a label of {len(label.values)} values; exactly one can be read")
    return features, label


def _parse_entry(payload: memoryview, start: int, stop: int, offset: int) -> _Numbers:
    key = b""
    value: tuple[int, int] | None = None
    for number, wire, field_start, field_stop in _fields(payload, start, stop, offset):
        if number == 1 and wire == _BYTES:
            key = bytes(payload[field_start : min(field_stop, field_start + 40)])
        elif number == 2 and wire == _BYTES:
            if value is not None:
                raise RecordIOError(offset, "a map entry with two values")
            value = (field_start, field_stop)
    if key != b"values":
        raise RecordIOError(offset, f"numbers under the name {key.decode(errors='replace')!r}; 'values' is expected")
    if value is None:
        return _Numbers(np.empty(0, dtype=_F4), None)
    numbers: _Numbers | None = None
    for number, wire, field_start, field_stop in _fields(payload, *value, offset):
        if number not in (_TENSOR_FLOAT32, _TENSOR_FLOAT64, _TENSOR_INT32) or wire != _BYTES:
            raise RecordIOError(offset, "a value that is no tensor of numbers")
        if numbers is not None:
            raise RecordIOError(offset, "a value of two tensors")
        numbers = _parse_tensor(payload, number, field_start, field_stop, offset)
    return numbers or _Numbers(np.empty(0, dtype=_F4), None)


def _parse_tensor(payload: memoryview, kind: int, start: int, stop: int, offset: int) -> _Numbers:
    spans: list[tuple[int, int]] = []
    for number, wire, field_start, field_stop in _fields(payload, start, stop, offset):
        if number in (2, 3):
            raise RecordIOError(offset, "a sparse record (it has keys or a shape); only dense records can be read")
        if number == 1:
            expected = {_TENSOR_FLOAT32: _FIXED32, _TENSOR_FLOAT64: _FIXED64, _TENSOR_INT32: _VARINT}[kind]
            if wire not in (_BYTES, expected):
                raise RecordIOError(offset, "values that do not fit the type of their tensor")
            spans.append((field_start, field_stop))
    if kind == _TENSOR_INT32:
        integers = [n for span in spans for n in _packed_integers(payload, *span, offset)]
        return _Numbers(np.array(integers, dtype=np.int32).astype(_F4), None)
    dtype: np.dtype[Any] = _F4 if kind == _TENSOR_FLOAT32 else np.dtype("<f8")
    for field_start, field_stop in spans:
        if (field_stop - field_start) % dtype.itemsize:
            raise RecordIOError(offset, f"{field_stop - field_start} bytes of values of {dtype.itemsize} bytes each")
    if len(spans) == 1:
        raw: NDArray[Any] = np.frombuffer(payload[spans[0][0] : spans[0][1]], dtype=dtype)
    else:
        raw = np.frombuffer(b"".join(payload[a:b] for a, b in spans), dtype=dtype)
    if kind == _TENSOR_FLOAT32:
        return _Numbers(raw, spans[0] if len(spans) == 1 else None)
    try:
        return _Numbers(_as_float32(raw, 0), None)
    except ValueError:
        raise RecordIOError(offset, "a value beyond float32") from None


def _packed_integers(payload: memoryview, start: int, stop: int, offset: int) -> Iterator[int]:
    while start < stop:
        number, start = _read_varint(payload, start, stop, offset)
        number &= 0xFFFFFFFF  # as protobuf does: an int32 is written in 64 bits and cut when read
        yield number - (1 << 32) if number >> 31 else number


def _fields(payload: memoryview, start: int, stop: int, offset: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield (number, wire type, start, end) of each field's value in a message; a varint's bytes are its value."""
    while start < stop:
        tag, start = _read_varint(payload, start, stop, offset)
        number, wire = tag >> 3, tag & 7
        if number == 0:
            raise RecordIOError(offset, "a record that is no protobuf message (field number 0)")
        if wire == _VARINT:
            end = _read_varint(payload, start, stop, offset)[1]
        elif wire == _FIXED64:
            end = start + 8
        elif wire == _FIXED32:
            end = start + 4
        elif wire == _BYTES:
            size, start = _read_varint(payload, start, stop, offset)
            end = start + size
        else:
            raise RecordIOError(offset, f"a record that is no protobuf message (wire type {wire})")
        if end > stop:
            raise RecordIOError(offset, "a field that reaches beyond its message")
        yield number, wire, start, end
        start = end


def _read_varint(payload: memoryview, start: int, stop: int, offset: int) -> tuple[int, int]:
    number = 0
    for shift in range(0, 70, 7):
        if start >= stop:
            raise RecordIOError(offset, "a number that is cut off")
        byte = payload[start]
        start += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, start
    raise RecordIOError(offset, "a number of more than ten bytes")
