"""What dense and sparse records share: frames, protobuf fields, the checks of what is given, and reading by windows.

Used by `recordio_dense` and `recordio_sparse`; `recordio` is the library's front and names the sources of the format.
"""

import io
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float32Array = NDArray[np.float32]
Int64Array = NDArray[np.int64]
ByteArray = NDArray[np.uint8]
Source = bytes | bytearray | memoryview | BinaryIO

MAGIC = 0xCED7230A
MAX_RECORD_BYTES = 2**29 - 1
"""The length field of a record has 29 bits."""

MAGIC_BYTES = struct.pack("<I", MAGIC)
FRAME = struct.Struct("<II")
F4 = np.dtype("<f4")

# Protobuf wire types and the tags of one byte that are used here: field number << 3 | wire type.
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
TENSOR_FLOAT32, TENSOR_FLOAT64, TENSOR_INT32 = 2, 3, 7
FEATURES_TAG, LABEL_TAG = 0x0A, 0x12
ENTRY_KEY = b"\x0a\x06values"  # field 1 of a map entry: its key
VARINT_BYTES_MAX = 10

_WORD_MASKS = np.array([0, 0xFF, 0xFFFF, 0xFFFFFF, 0xFFFFFFFF], np.uint32)

_ONE_VALUE_TYPES = {TENSOR_FLOAT32: FIXED32, TENSOR_FLOAT64: FIXED64, TENSOR_INT32: VARINT}


class RecordIOError(ValueError):
    """The bytes are not RecordIO-protobuf that can be read here. The message gives the offset in bytes."""

    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(f"recordIO-protobuf, byte {offset}: {reason}")
        self.offset = offset
        self.reason = reason


class TruncatedError(RecordIOError):
    """The data ends within a record; the offset is where that record, or its part, begins."""


class SparseRecordError(RecordIOError):
    """A sparse record where dense ones are to be read."""


# What is given to be written


def check_numeric(array: NDArray[Any], what: str) -> None:
    """Raise ValueError for an array of anything but numbers and booleans."""
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{what} must be numbers, not {array.dtype}")


def checked_labels(labels: ArrayLike | None, rows: int) -> NDArray[Any] | None:
    """Labels [rows] or [rows, m], m > 0, as a matrix [rows, m]. Raises ValueError."""
    if labels is None:
        return None
    array = np.asarray(labels)
    if array.shape[:1] != (rows,) or array.ndim > 2 or 0 in array.shape[1:]:
        raise ValueError(f"labels must be a value, or a row of values, for each of {rows} rows; not {array.shape}")
    check_numeric(array, "labels")
    return array.reshape(rows, array.shape[1] if array.ndim == 2 else 1)


def as_float32(array: NDArray[Any], first_row: int) -> Float32Array:
    """Cast to contiguous little-endian float32. Raises ValueError for a finite value beyond it."""
    if array.dtype == F4:
        return np.ascontiguousarray(array, dtype=F4)
    with np.errstate(over="raise"):
        try:
            return np.ascontiguousarray(array.astype(F4))
        except FloatingPointError:
            last_row = first_row + len(array) - 1
            raise ValueError(f"a value in rows {first_row} to {last_row} is beyond float32") from None


def write_all(stream: BinaryIO, data: memoryview) -> None:
    """Write all of `data`, also to a raw stream, which may take a part of it at a time."""
    while data:
        # Not every writer says how much it took, whatever its type promises; one that is not raw took all.
        written: int | None = stream.write(data)
        if isinstance(stream, io.RawIOBase):
            if written is None:
                raise BlockingIOError("the stream to write to takes nothing now; it must be a blocking one")
            data = data[written:]
        else:
            return


# Protobuf, written


def varint(number: int) -> bytes:
    """A number that is not negative as a protobuf varint."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def entry_prefix(tag: int, values_size: int) -> bytes:
    """Everything of a map entry `values` that stands before its packed float32 values, `values_size` bytes."""
    packed = b"\x0a" + varint(values_size) if values_size else b""  # an empty packed field is not written
    tensor = b"\x12" + varint(len(packed) + values_size) + packed
    value = b"\x12" + varint(len(tensor) + values_size) + tensor
    entry = ENTRY_KEY + value
    return bytes([tag]) + varint(len(entry) + values_size) + entry


# Frames


def payload_at(buffer: memoryview, offset: int, most: int = 2**62) -> tuple[memoryview, int]:
    """The payload of the record whose first frame is at `offset`, of one part or several, and where the next begins.

    Raises RecordIOError, also for a record of more than `most` bytes; TruncatedError where the buffer ends within it.
    """
    flag, start, stop = _frame_at(buffer, offset, most)
    end = _padded(buffer, start, stop)
    if flag == 0:
        return buffer[start:stop], end
    if flag != 1:
        raise RecordIOError(offset, "a later part of a record whose first part is missing")
    payload = bytearray(buffer[start:stop])
    while flag != 3:
        if end >= len(buffer):
            raise TruncatedError(offset, "the data ends before the last part of this record")
        flag, start, stop = _frame_at(buffer, end, most)
        if flag not in (2, 3):
            raise RecordIOError(end, "a new record begins before the last part of the one before it")
        # A writer cuts a record where its payload holds the magic number, and leaves that out.
        payload += MAGIC_BYTES
        payload += buffer[start:stop]
        if len(payload) > most:
            raise RecordIOError(offset, f"a record of more than {most} bytes")
        end = _padded(buffer, start, stop)
    return memoryview(payload), end


def _frame_at(buffer: memoryview, offset: int, most: int) -> tuple[int, int, int]:
    """Return the flag, start and end of the payload whose frame is at `offset`."""
    if offset + FRAME.size > len(buffer):
        known = len(buffer) - offset
        if bytes(buffer[offset : offset + 4]) != MAGIC_BYTES[: min(known, 4)]:
            raise RecordIOError(offset, "no record begins here (the magic number is missing)")
        raise TruncatedError(offset, "the data ends within the head of a record")
    magic, lengths = FRAME.unpack_from(buffer, offset)
    if magic != MAGIC:
        raise RecordIOError(offset, "no record begins here (the magic number is missing)")
    flag, length = lengths >> 29, lengths & MAX_RECORD_BYTES
    if flag > 3:
        raise RecordIOError(offset, f"unknown record flag {flag}")
    if length > most:
        raise RecordIOError(offset, f"a record of {length} bytes; {most} is the most")
    start = offset + FRAME.size
    if start + length > len(buffer):
        raise TruncatedError(offset, f"the data ends within a record of {length} bytes")
    return flag, start, start + length


def _padded(buffer: memoryview, start: int, stop: int) -> int:
    end = stop + (start - stop) % 4
    if end > len(buffer):
        raise TruncatedError(stop, "the data ends within the padding of a record")
    return end


# Protobuf, read


@dataclass(frozen=True)
class Numbers:
    """One tensor of a record. `span` is where its float32 values lie, unbroken, in the payload, if they do."""

    values: Float32Array
    span: tuple[int, int] | None


def entries(payload: memoryview, offset: int) -> Iterator[tuple[int, int, int]]:
    """Yield (1 for features or 2 for a label, start, end) of each map entry of the message `Record`."""
    seen = set()
    for number, wire, start, stop in fields(payload, 0, len(payload), offset):
        if number not in (1, 2):
            continue  # uid, metadata, configuration
        if wire != BYTES:
            raise RecordIOError(offset, "a map entry that is not a message")
        if number in seen:
            raise RecordIOError(offset, "features given twice" if number == 1 else "a label given twice")
        seen.add(number)
        yield number, start, stop
    if 1 not in seen:
        raise RecordIOError(offset, "a record without features")


def parse_entry(payload: memoryview, start: int, stop: int, offset: int) -> Numbers:
    """The numbers of a map entry. Raises SparseRecordError where they are sparse."""
    tensor = tensor_of(payload, start, stop, offset)
    if tensor is None:
        return Numbers(np.empty(0, dtype=F4), None)
    for number, _wire, _start, _stop in fields(payload, *tensor[1:], offset):
        if number in (2, 3):
            raise SparseRecordError(offset, "a sparse record (it has keys or a shape) where a dense one is expected")
    return tensor_values(payload, *tensor, offset)


def tensor_of(payload: memoryview, start: int, stop: int, offset: int) -> tuple[int, int, int] | None:
    """The kind, start and end of the tensor in a map entry; None where the entry holds none."""
    key = b""
    value: tuple[int, int] | None = None
    for number, wire, field_start, field_stop in fields(payload, start, stop, offset):
        if number == 1 and wire == BYTES:
            key = bytes(payload[field_start : min(field_stop, field_start + 40)])
        elif number == 2 and wire == BYTES:
            if value is not None:
                raise RecordIOError(offset, "a map entry with two values")
            value = (field_start, field_stop)
    if key != b"values":
        raise RecordIOError(offset, "numbers under another name than 'values'")
    tensor: tuple[int, int, int] | None = None
    for number, wire, field_start, field_stop in fields(payload, *(value or (0, 0)), offset):
        if number not in _ONE_VALUE_TYPES or wire != BYTES:
            raise RecordIOError(offset, "a value that is no tensor of numbers")
        if tensor is not None:
            raise RecordIOError(offset, "a value of two tensors")
        tensor = (number, field_start, field_stop)
    return tensor


def tensor_values(payload: memoryview, kind: int, start: int, stop: int, offset: int) -> Numbers:
    """The values of a tensor, which may stand in several fields."""
    spans: list[tuple[int, int]] = []
    for number, wire, field_start, field_stop in fields(payload, start, stop, offset):
        if number == 1:
            if wire not in (BYTES, _ONE_VALUE_TYPES[kind]):
                raise RecordIOError(offset, "values that do not fit the type of their tensor")
            spans.append((field_start, field_stop))
    if kind == TENSOR_INT32:
        return Numbers(_packed_integers(payload, spans, offset), None)
    dtype: np.dtype[Any] = F4 if kind == TENSOR_FLOAT32 else np.dtype("<f8")
    for field_start, field_stop in spans:
        if (field_stop - field_start) % dtype.itemsize:
            raise RecordIOError(offset, f"{field_stop - field_start} bytes of values of {dtype.itemsize} bytes each")
    if len(spans) == 1:
        raw: NDArray[Any] = np.frombuffer(payload[spans[0][0] : spans[0][1]], dtype=dtype)
    else:
        raw = np.frombuffer(b"".join(payload[a:b] for a, b in spans), dtype=dtype)
    if kind == TENSOR_FLOAT32:
        return Numbers(raw, spans[0] if len(spans) == 1 else None)
    try:
        return Numbers(as_float32(raw, 0), None)
    except ValueError:
        raise RecordIOError(offset, "a value beyond float32") from None


def _packed_integers(payload: memoryview, spans: list[tuple[int, int]], offset: int) -> Float32Array:
    for start, stop in spans:
        if stop > start and payload[stop - 1] >= 0x80:
            raise RecordIOError(offset, "a number that is cut off")
    raw: ByteArray = np.frombuffer(b"".join(payload[a:b] for a, b in spans), dtype=np.uint8)
    starts, sizes = varints_in(raw)
    if sizes.max(initial=0) > VARINT_BYTES_MAX:
        raise RecordIOError(offset, "a number of more than ten bytes")
    # As protobuf does: an int32 is written in 64 bits and cut when read.
    return varint_values(raw, starts, sizes).astype(np.uint32).view(np.int32).astype(F4)


def places(data: ByteArray, dtype: Any) -> NDArray[Any]:
    """The bytes as numbers that begin at every byte: `[i]` is the one at byte i."""
    size = np.dtype(dtype).itemsize
    return np.ndarray((max(0, len(data) - size + 1),), dtype, data, strides=(1,))


def varints_in(raw: ByteArray) -> tuple[Int64Array, Int64Array]:
    """The starts and sizes of the varints in `raw`, which ends with the end of one."""
    ends = np.flatnonzero(raw < 0x80) + 1
    starts = np.zeros_like(ends)
    starts[1:] = ends[:-1]
    return starts, ends - starts


def varint_values(raw: ByteArray, starts: Int64Array, sizes: Int64Array) -> NDArray[np.uint64]:
    """The numbers of varints of at most ten bytes; what goes beyond 64 bits is lost, as it is in protobuf."""
    if sizes.max(initial=0) <= 4:
        # All bytes of a number at once: their sevens of bits are pushed together faster than gathered byte by byte.
        words = places(np.concatenate([raw, np.zeros(3, np.uint8)]), "<u4")[starts]
        words &= _WORD_MASKS[sizes]
        return (words & 0x7F | words >> 1 & 0x7F << 7 | words >> 2 & 0x7F << 14 | words >> 3 & 0x7F << 21).astype(
            np.uint64
        )
    values = (raw[starts] & 0x7F).astype(np.uint64)
    for byte in range(1, int(sizes.max(initial=0))):
        here = np.flatnonzero(sizes > byte)
        values[here] |= (raw[starts[here] + byte] & 0x7F).astype(np.uint64) << np.uint64(7 * byte)
    return values


def fields(payload: memoryview, start: int, stop: int, offset: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield (number, wire type, start, end) of each field's value in a message; a varint's bytes are its value."""
    while start < stop:
        tag, start = read_varint(payload, start, stop, offset)
        number, wire = tag >> 3, tag & 7
        if number == 0:
            raise RecordIOError(offset, "a record that is no protobuf message (field number 0)")
        if wire == VARINT:
            end = read_varint(payload, start, stop, offset)[1]
        elif wire == FIXED64:
            end = start + 8
        elif wire == FIXED32:
            end = start + 4
        elif wire == BYTES:
            size, start = read_varint(payload, start, stop, offset)
            end = start + size
        else:
            raise RecordIOError(offset, f"a record that is no protobuf message (wire type {wire})")
        if end > stop:
            raise RecordIOError(offset, "a field that reaches beyond its message")
        yield number, wire, start, end
        start = end


def read_varint(payload: memoryview, start: int, stop: int, offset: int) -> tuple[int, int]:
    """The varint at `start`, and where it ends."""
    number = 0
    for shift in range(0, 7 * VARINT_BYTES_MAX, 7):
        if start >= stop:
            raise RecordIOError(offset, "a number that is cut off")
        byte = payload[start]
        start += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, start
    raise RecordIOError(offset, "a number of more than ten bytes")


# Reading by windows


@dataclass
class Layout:
    """What all records of a stream must have in common; the first one says what.

    `label_values` is 0 for records without a label. `several` allows for labels of more than one value.
    """

    several: bool = False
    columns: int | None = None
    label_values: int = 0

    def check(self, columns: int, label: Float32Array | None, offset: int) -> None:
        """Raise RecordIOError where a record differs from the first."""
        values = 0 if label is None else len(label)
        if label is not None and (not values or (values > 1 and not self.several)):
            wanted = "at least one is needed" if self.several else "exactly one can be read without label_matrix=True"
            raise RecordIOError(offset, f"a label of {values} values; {wanted}")
        if self.columns is None:
            self.columns, self.label_values = columns, values
        if columns != self.columns:
            raise RecordIOError(offset, f"a record of {columns} features where the first has {self.columns}")
        if values != self.label_values:
            if not values:
                reason = "a record without a label"
            elif not self.label_values:
                reason = "only this record has a label"
            else:
                reason = f"a label of {values} values where the first has {self.label_values}"
            raise RecordIOError(offset, reason)

    def labels(self, labels: Float32Array | None) -> Float32Array | None:
        """Labels [n, m] as the caller wants them: [n], or [n, m] where `several` are allowed."""
        return labels if labels is None or self.several else labels.reshape(-1)


def buffer_of(source: Source) -> memoryview:
    """All of the source."""
    return memoryview(source if isinstance(source, bytes | bytearray | memoryview) else source.read()).cast("B")


Part = TypeVar("Part")
Parse = Callable[[memoryview, bool], tuple[Part, int]]
"""Takes a window and whether the data ends with it; gives what it holds and the bytes that this took."""


def parse_windows(source: Source, parse: Parse[Part], window_bytes: int) -> Iterator[tuple[Part, int]]:
    """Yield what `parse` makes of one window after another, and how many bytes it took.

    A window holds `window_bytes`; only for a record that doesn't fit does it grow. Offsets in errors are those of the
    whole source.
    """
    if window_bytes < 1:
        raise ValueError(f"a block can't have {window_bytes} bytes")
    windows = _Windows(source)
    done, size = 0, window_bytes
    while True:
        window, last = windows.of(size)
        if not window:
            return
        try:
            part, taken = parse(window, last)
        except RecordIOError as error:
            raise type(error)(done + error.offset, error.reason) from None
        if not taken:
            size *= 2
            continue
        yield part, taken
        windows.drop(taken)
        done, size = done + taken, window_bytes


class _Windows:
    """The bytes of a source that are still to be read, a window at a time; those of a buffer are not copied."""

    def __init__(self, source: Source) -> None:
        in_memory = isinstance(source, bytes | bytearray | memoryview)
        self._held = memoryview(source).cast("B") if in_memory else memoryview(b"")  # type: ignore[arg-type]  # a buffer
        self._stream: BinaryIO | None = None if in_memory else source  # type: ignore[assignment]  # no buffer

    def of(self, size: int) -> tuple[memoryview, bool]:
        """The next `size` bytes, fewer at the end, and whether this is the end."""
        if self._stream is not None:
            pieces, held = [self._held], len(self._held)
            # One byte more tells whether more will come.
            while held <= size and self._stream is not None:
                piece: bytes | None = self._stream.read(min(size + 1 - held, 16 << 20))
                if piece is None:
                    raise BlockingIOError("the stream to read from gives nothing now; it must be a blocking one")
                if not piece:
                    self._stream = None
                pieces.append(memoryview(piece))
                held += len(piece)
            self._held = memoryview(b"".join(pieces))
        return self._held[:size], len(self._held) <= size

    def drop(self, size: int) -> None:
        self._held = self._held[size:]
