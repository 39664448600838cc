"""Sparse rows to recordIO-protobuf and back; `recordio` is the library's front.

Records differ in length here, so places are computed instead of assumed: those of all rows of a block at once, level by
level of the nested messages, and the bytes are then moved by place.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dropmill.data import recordio_dense, recordio_wire
from dropmill.data.recordio_wire import (
    BYTES,
    ENTRY_KEY,
    F4,
    FEATURES_TAG,
    FRAME,
    LABEL_TAG,
    MAGIC,
    MAX_RECORD_BYTES,
    VARINT,
    VARINT_BYTES_MAX,
    ByteArray,
    Float32Array,
    Int64Array,
    Layout,
    RecordIOError,
    Source,
    SparseRecordError,
    TruncatedError,
    as_float32,
    buffer_of,
    check_numeric,
    checked_labels,
    entry_prefix,
    payload_at,
    places,
    varint,
    varint_values,
    varints_in,
    write_all,
)

__all__ = ["SparseMatrix", "encode", "read", "read_any", "write"]

_BLOCK_VALUES = 1 << 17
_BLOCK_ROWS = 1 << 13
_WIDTH_MAX = 2**62
_LENGTH_BYTES_MAX = 5
"""More than a varint needs for any length within a record."""


@dataclass(frozen=True)
class SparseMatrix:
    """Rows in compressed form: row i has `values[offsets[i]:offsets[i + 1]]` in the columns of the same range.

    `values` is float32 and `columns` int64 [n], `offsets` int64 [rows + 1]; `width` is the number of columns. The
    columns of a row may stand in any order, each of them once.
    """

    values: Float32Array
    columns: Int64Array
    offsets: Int64Array
    width: int

    @property
    def shape(self) -> tuple[int, int]:
        return len(self), self.width

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def take(self, rows: NDArray[np.integer[Any]]) -> "SparseMatrix":
        """The rows of these numbers, in their order."""
        counts = np.diff(self.offsets)[rows]
        offsets = _offsets(counts)
        at = np.repeat(self.offsets[:-1][rows] - offsets[:-1], counts) + np.arange(offsets[-1])
        return SparseMatrix(self.values[at], self.columns[at], offsets, self.width)

    def check(self) -> None:
        """Raise ValueError where the parts do not make a matrix, or a column stands twice in a row."""
        counts = np.diff(self.offsets)
        if self.offsets[0] or self.offsets[-1] != len(self.values) or (counts < 0).any():
            raise ValueError("the offsets of a sparse matrix must rise from 0 to the number of its values")
        if len(self.columns) != len(self.values) or not 0 <= self.width <= _WIDTH_MAX:
            raise ValueError("a sparse matrix must have a column for each value, and a width")
        if not len(self.columns):
            return
        if self.columns.min() < 0 or self.columns.max() >= self.width:
            raise ValueError(f"a column of a sparse matrix is beyond its {self.width} columns")
        twice = _twice(self.columns, self.offsets)
        if twice is not None:
            raise ValueError(f"row {twice} has a column twice; scipy's sum_duplicates() would add its values up")

    def to_dense(self) -> Float32Array:
        """As an array [rows, width]. The caller has looked whether there is memory for it."""
        dense = np.zeros(self.shape, np.float32)
        dense[self.rows(), self.columns] = self.values
        return dense

    def rows(self) -> Int64Array:
        """The row of each value."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    @classmethod
    def of(cls, matrix: Any) -> "SparseMatrix":
        """From anything with scipy's `tocsr()`, or from an array, whose zeros are left out. Raises ValueError."""
        if isinstance(matrix, SparseMatrix):
            return matrix
        if hasattr(matrix, "tocsr"):
            rows = matrix.tocsr()
            if len(rows.shape) != 2:
                raise ValueError(f"features must be a matrix [rows, columns], not of shape {rows.shape}")
            values = np.asarray(rows.data)
            columns, offsets, width = rows.indices.astype(np.int64), rows.indptr.astype(np.int64), int(rows.shape[1])
        else:
            dense = np.asarray(matrix)
            if dense.ndim != 2:
                raise ValueError(f"features must be a matrix [rows, columns], not of shape {dense.shape}")
            at, columns = np.nonzero(dense)
            values, columns, width = dense[at, columns], columns.astype(np.int64), dense.shape[1]
            offsets = _offsets(np.bincount(at, minlength=len(dense)))
        check_numeric(values, "features")
        return cls(as_float32(values, 0), columns, offsets, width)

    @classmethod
    def joined(cls, parts: "list[SparseMatrix]") -> "SparseMatrix":
        """Parts of one width, one below the other."""
        if len(parts) == 1:
            return parts[0]
        counts = np.concatenate([np.diff(part.offsets) for part in parts])
        return cls(
            np.concatenate([part.values for part in parts]),
            np.concatenate([part.columns for part in parts]),
            _offsets(counts),
            parts[0].width,
        )


def _offsets(counts: NDArray[np.integer[Any]]) -> Int64Array:
    offsets = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets


def _twice(columns: Int64Array, offsets: Int64Array) -> int | None:
    """The first row that has a column twice."""
    falling = columns[1:] <= columns[:-1]
    borders = offsets[1:-1]
    falling[borders[(borders > 0) & (borders < len(columns))] - 1] = False
    if not falling.any():
        return None
    # Only rows that do not rise need a closer look.
    of_row = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    suspects = np.zeros(len(offsets) - 1, np.bool_)
    suspects[of_row[1:][falling]] = True
    at = np.flatnonzero(suspects[of_row])
    order = at[np.lexsort((columns[at], of_row[at]))]
    same = (columns[order[1:]] == columns[order[:-1]]) & (of_row[order[1:]] == of_row[order[:-1]])
    return int(of_row[order[1:]][int(same.argmax())]) if same.any() else None


# Writing


def write(stream: BinaryIO, features: Any, labels: ArrayLike | None = None) -> int:
    """Write a sparse record for each row of `features`, with its label from `labels`; return the bytes written.

    `features` is a SparseMatrix, a sparse matrix of scipy, or an array. Raises ValueError as `recordio.write` does.
    """
    written = 0
    for block in _encoded(features, labels):
        write_all(stream, block.data)
        written += len(block)
    return written


def encode(features: Any, labels: ArrayLike | None = None) -> bytes:
    """Return the bytes that `write` writes. Raises as `write` does."""
    return b"".join([block.data for block in _encoded(features, labels)])


def _encoded(features: Any, labels: ArrayLike | None) -> Iterator[ByteArray]:
    matrix = SparseMatrix.of(features)
    matrix.check()
    given = checked_labels(labels, len(matrix))
    for rows in _blocks(matrix):
        yield _assembled(matrix, rows, None if given is None else as_float32(given[rows], rows.start))


def _blocks(matrix: SparseMatrix) -> Iterator[slice]:
    start = 0
    while start < len(matrix):
        fitting = np.searchsorted(matrix.offsets, matrix.offsets[start] + _BLOCK_VALUES, side="right") - 1
        stop = min(max(int(fitting), start + 1), start + _BLOCK_ROWS, len(matrix))
        yield slice(start, stop)
        start = stop


def _assembled(matrix: SparseMatrix, rows: slice, labels: Float32Array | None) -> ByteArray:
    """The records of these rows, one behind the other. `labels` is [n, m]."""
    offsets = matrix.offsets[rows.start : rows.stop + 1]
    span = slice(int(offsets[0]), int(offsets[-1]))
    columns, values = matrix.columns[span], matrix.values[span]
    offsets = offsets - offsets[0]
    counts = np.diff(offsets)
    key_sizes = _varint_sizes(columns)
    key_ends = _offsets(key_sizes)
    key_bytes = np.diff(key_ends[offsets])

    shape = varint(matrix.width)
    tail = b"\x1a" + varint(len(shape)) + shape
    shape_size = len(tail)
    if labels is not None:
        tail += entry_prefix(LABEL_TAG, 4 * labels.shape[1])
    # From the inside out: the tensor, the value, the entry, the record.
    filled = counts > 0
    value_bytes = 4 * counts
    tensor = np.where(filled, 2 + _varint_sizes(value_bytes) + value_bytes, 0)
    tensor += np.where(filled, _varint_sizes(key_bytes) + key_bytes, 0) + shape_size
    value = 1 + _varint_sizes(tensor) + tensor
    entry = len(ENTRY_KEY) + 1 + _varint_sizes(value) + value
    label_size = 0 if labels is None else 4 * labels.shape[1]
    length = 1 + _varint_sizes(entry) + entry + len(tail) - shape_size + label_size
    if int(length.max()) > MAX_RECORD_BYTES:
        raise ValueError(f"a row makes a record of {int(length.max())} bytes; {MAX_RECORD_BYTES} is the most")

    starts = _offsets(8 + length + -length % 4)
    block: ByteArray = np.zeros(int(starts[-1]), np.uint8)
    at = starts[:-1].copy()
    places(block, "<u8")[at] = (length.astype("<u8") << np.uint64(32)) | np.uint64(MAGIC)
    _put(block, at + 8, bytes([FEATURES_TAG]))
    at += 9
    at += _put_varints(block, at, entry)
    at += _put(block, at, ENTRY_KEY + b"\x12")
    at += _put_varints(block, at, value)
    at += _put(block, at, b"\x12")
    at += _put_varints(block, at, tensor)
    some = np.flatnonzero(filled)
    inside = at[some]
    inside += _put(block, inside, b"\x0a")
    inside += _put_varints(block, inside, value_bytes[some])
    # Where a row's first value stands, less 4 bytes for each value before it in the block.
    at[some] = inside - value_bytes[some].cumsum() + value_bytes[some]
    places(block, F4)[np.repeat(at, counts) + np.arange(0, 4 * len(values), 4)] = values
    inside += value_bytes[some]
    inside += _put(block, inside, b"\x12")
    inside += _put_varints(block, inside, key_bytes[some])
    at[some] = inside - key_ends[offsets[:-1][some]]
    _put_varints(block, np.repeat(at, counts) + key_ends[:-1], columns, key_sizes)
    # The tail stands at the end of each record, before its padding.
    at = starts[:-1] + (8 + length - len(tail) - label_size)
    at += _put(block, at, tail)
    if labels is not None:
        places(block, f"V{label_size}")[at] = np.ascontiguousarray(labels, F4).view(f"V{label_size}").reshape(-1)
    return block


def _varint_sizes(numbers: Int64Array) -> Int64Array:
    sizes = np.ones(len(numbers), np.int64)
    largest = int(numbers.max(initial=0))
    for bits in range(7, largest.bit_length(), 7):
        sizes += numbers >> bits > 0
    return sizes


def _put(block: ByteArray, at: Int64Array, raw: bytes) -> int:
    """Lay `raw` at each place; its size."""
    dtype = f"V{len(raw)}"
    places(block, dtype)[at] = np.frombuffer(raw, dtype)
    return len(raw)


def _put_varints(block: ByteArray, at: Int64Array, numbers: Int64Array, sizes: Int64Array | None = None) -> Int64Array:
    """Lay each number at its place; the sizes."""
    if sizes is None:
        sizes = _varint_sizes(numbers)
    most = int(sizes.max(initial=0))
    more = sizes > 1
    block[at] = numbers & 0x7F | more * 0x80 if most > 1 else numbers
    for byte in range(1, most):
        here = np.flatnonzero(sizes > byte)
        rest = numbers[here] >> 7 * byte
        block[at[here] + byte] = rest & 0x7F | (sizes[here] > byte + 1) * 0x80
    return sizes


# Reading


def read(source: Source, *, label_matrix: bool = False) -> tuple[SparseMatrix, Float32Array | None]:
    """Read every record, dense or sparse, into `(SparseMatrix, labels)`.

    Of a dense record the zeros are left out. Otherwise as `recordio.read`; RecordIOError also says where the keys,
    values and shape of a sparse record do not fit together.
    """
    return parse(buffer_of(source), True, Layout(label_matrix), MAX_RECORD_BYTES)[0]


def read_any(source: Source, *, label_matrix: bool = False) -> tuple[Float32Array | SparseMatrix, Float32Array | None]:
    """Read every record: into an array [n, d] where all are dense, else into a SparseMatrix. Raises as it does."""
    return parse_any(buffer_of(source), True, Layout(label_matrix), MAX_RECORD_BYTES)[0]


def parse_any(
    window: memoryview, last: bool, layout: Layout, most: int
) -> tuple[tuple[Float32Array | SparseMatrix, Float32Array | None], int]:
    """`recordio_dense.parse` where it can, else `parse`."""
    before = replace(layout)
    try:
        return recordio_dense.parse(window, last, layout, most)
    except SparseRecordError:
        layout.columns, layout.label_values = before.columns, before.label_values
        return parse(window, last, layout, most)


def parse(
    window: memoryview, last: bool, layout: Layout, most: int
) -> tuple[tuple[SparseMatrix, Float32Array | None], int]:
    """Read the whole records at the start of `window`, all of it if it is the `last`, and say how many bytes they are.

    Raises RecordIOError; offsets count from the start of the window.
    """
    data: ByteArray = np.frombuffer(window, np.uint8)
    index = _Index.of(window, data, most)
    rows = _Rows(window, index, most)
    if len(index.starts):
        # The first record says what the others are likely to look like.
        rows.read_one(0, layout)
        assert layout.columns is not None  # noqa: S101  # said to the type checker; it has just been set
        alike = rows.read_alike(layout.columns, layout.label_values)
        for number in np.flatnonzero(~alike)[(1 if not alike[0] else 0) :].tolist():
            rows.read_one(number, layout)
    result = rows.result(layout)
    if index.error is not None and (last or not isinstance(index.error, TruncatedError)):
        raise index.error
    return result, index.end


@dataclass(frozen=True)
class _Index:
    """Where the whole records of a window start, where their first part's payload ends, and what stopped the search."""

    starts: Int64Array
    stops: Int64Array
    in_parts: NDArray[np.bool_]
    end: int
    error: RecordIOError | None

    @classmethod
    def of(cls, window: memoryview, data: ByteArray, most: int) -> "_Index":
        words = data[: len(data) // 4 * 4].view("<u4")
        # Records start at multiples of four; so seldom does the magic number stand there otherwise that all places
        # where it does are taken for records, and looked at one by one only if these do not join.
        starts = np.flatnonzero(words[:-1] == MAGIC) * 4
        lengths = words[starts // 4 + 1].astype(np.int64)
        stops = starts + 8 + lengths
        ends = stops + -lengths % 4
        whole = len(starts) - int(len(starts) > 0 and ends[-1] > len(data))
        joined = whole > 0 and starts[0] == 0 and bool((ends[: len(starts) - 1] == starts[1:]).all())
        if joined and int(lengths.max()) <= min(most, MAX_RECORD_BYTES):
            end, error = int(ends[whole - 1]), None
            if end < len(data):
                error = _error_at(window, end, most)
            return cls(starts[:whole], stops[:whole], np.zeros(whole, np.bool_), end, error)
        return cls._one_by_one(window, most)

    @classmethod
    def _one_by_one(cls, window: memoryview, most: int) -> "_Index":
        found: list[tuple[int, int, bool]] = []
        at, error = 0, None
        while at < len(window):
            try:
                payload, end = payload_at(window, at, most)
            except RecordIOError as reason:
                error = reason.with_traceback(None)
                break
            in_parts = FRAME.unpack_from(window, at)[1] > MAX_RECORD_BYTES
            found.append((at, at + FRAME.size + len(payload), in_parts))
            at = end
        table = np.array(found, np.int64).reshape(-1, 3)
        return cls(table[:, 0], table[:, 1], table[:, 2].astype(np.bool_), at, error)


def _error_at(window: memoryview, offset: int, most: int) -> RecordIOError | None:
    try:
        payload_at(window, offset, most)
    except RecordIOError as error:
        return error.with_traceback(None)  # which would keep all that its callers hold
    return None


class _Rows:
    """What is known of each record of a window: where its values and keys are, and their number.

    What does not lie in the window as the usual records have it is gathered behind it.
    """

    def __init__(self, window: memoryview, index: _Index, most: int) -> None:
        self._window, self._index, self._most = window, index, most
        count = len(index.starts)
        self._values_at = np.zeros(count, np.int64)
        self._keys_at = np.zeros(count, np.int64)
        self._labels_at = np.zeros(count, np.int64)
        self._counts = np.zeros(count, np.int64)
        self._key_bytes = np.zeros(count, np.int64)
        self._more = bytearray()

    def _keep(self, raw: bytes) -> int:
        at = len(self._window) + len(self._more)
        self._more += raw
        return at

    def read_one(self, number: int, layout: Layout) -> None:
        """Read a record of any form."""
        offset = int(self._index.starts[number])
        payload, _end = payload_at(self._window, offset, self._most)
        tensor, label = _parse(payload, offset)
        layout.check(tensor.width(offset), label, offset)
        self._values_at[number] = self._keep(tensor.values.astype(F4).tobytes())
        self._counts[number] = len(tensor.values)
        self._keys_at[number] = self._keep(tensor.keys)
        self._key_bytes[number] = len(tensor.keys)
        if label is not None:
            self._labels_at[number] = self._keep(label.astype(F4).tobytes())

    def read_alike(self, width: int, label_values: int) -> NDArray[np.bool_]:
        """Read the records of this width and label that are laid out as `write` does it; which these are."""
        shape = varint(width)
        shape_field = b"\x1a" + varint(len(shape)) + shape
        label = entry_prefix(LABEL_TAG, 4 * label_values) if label_values else b""
        tail = shape_field + label
        window = _Probe(self._window)
        stops = self._index.stops
        tail_at = stops - 4 * label_values - len(tail)
        tensor_stop = tail_at + len(shape_field)
        at = self._index.starts + FRAME.size
        alike = ~self._index.in_parts & (tail_at > at)
        alike &= window.holds(tail_at, tail)
        for before in (bytes([FEATURES_TAG]), ENTRY_KEY + b"\x12", b"\x12"):
            alike &= window.holds(at, before)
            at = at + len(before)
            length, at = window.varints(at)
            alike &= at + length == tensor_stop
        filled = at != tail_at
        alike &= ~filled | window.holds(at, b"\x0a")
        value_bytes, values_at = window.varints(at + 1)
        at = values_at + value_bytes
        alike &= ~filled | ((value_bytes > 0) & (value_bytes % 4 == 0) & window.holds(at, b"\x12"))
        key_bytes, keys_at = window.varints(at + 1)
        alike &= ~filled | (keys_at + key_bytes == tail_at)
        # A record of values alone is a dense one.
        alike &= ~filled | (key_bytes > 0)
        here = alike & filled
        np.copyto(self._values_at, values_at, where=here)
        np.copyto(self._keys_at, keys_at, where=here)
        np.copyto(self._counts, np.where(filled, value_bytes // 4, 0), where=alike)
        np.copyto(self._key_bytes, np.where(filled, key_bytes, 0), where=alike)
        np.copyto(self._labels_at, stops - 4 * label_values, where=alike)
        return alike

    def result(self, layout: Layout) -> tuple[SparseMatrix, Float32Array | None]:
        """All that was read. Raises RecordIOError where the keys of a record do not fit its values or its width."""
        data: ByteArray = np.frombuffer(self._window, np.uint8)
        if self._more:
            data = np.concatenate([data, np.frombuffer(self._more, np.uint8)])
        offsets = _offsets(self._counts)
        at = np.repeat(self._values_at - 4 * offsets[:-1], self._counts)
        at += np.arange(0, 4 * len(at), 4)
        values = np.asarray(places(data, F4)[at], np.float32)
        matrix = SparseMatrix(values, self._columns(data, offsets, layout.columns or 0), offsets, layout.columns or 0)
        if not layout.label_values:
            return matrix, None
        at = self._labels_at[:, None] + np.arange(0, 4 * layout.label_values, 4)
        return matrix, layout.labels(np.asarray(places(data, F4)[at], np.float32))

    def _columns(self, data: ByteArray, offsets: Int64Array, width: int) -> Int64Array:
        borders = _offsets(self._key_bytes)
        raw = data[np.repeat(self._keys_at - borders[:-1], self._key_bytes) + np.arange(borders[-1])]
        # A record's keys end where its bytes do, and there is one for each value.
        found = np.diff(_offsets(raw < 0x80)[borders])
        whole = np.ones(len(found), np.bool_)
        some = np.flatnonzero(self._key_bytes)
        whole[some] = raw[borders[1:][some] - 1] < 0x80
        self._check(whole & (found == self._counts), "a sparse record must have one key for each value")
        starts, sizes = varints_in(raw)
        if sizes.max(initial=0) > VARINT_BYTES_MAX:
            self._check_each(sizes <= VARINT_BYTES_MAX, offsets, "a key of more than ten bytes")
        columns = varint_values(raw, starts, sizes)
        if columns.max(initial=0) >= np.uint64(width):
            self._check_each(columns < np.uint64(width), offsets, "a key beyond the shape of its record")
        signed = columns.astype(np.int64)
        twice = _twice(signed, offsets)
        if twice is not None:
            raise RecordIOError(int(self._index.starts[twice]), "a key that is given twice")
        return signed

    def _check_each(self, right: NDArray[np.bool_], offsets: Int64Array, reason: str) -> None:
        """Raise RecordIOError at the record of the first value that is not right."""
        if not right.all():
            row = int(np.searchsorted(offsets, int(right.argmin()), side="right")) - 1
            raise RecordIOError(int(self._index.starts[row]), reason)

    def _check(self, right: NDArray[np.bool_], reason: str) -> None:
        if not right.all():
            raise RecordIOError(int(self._index.starts[int(right.argmin())]), reason)


class _Probe:
    """Looks at many places of a window at once. What would lie beyond it reads as zeros."""

    def __init__(self, window: memoryview) -> None:
        self._size = len(window)
        self._data: ByteArray = np.frombuffer(window, np.uint8)

    def _at(self, at: Int64Array, dtype: str) -> NDArray[Any]:
        values = places(self._data, dtype)
        if not len(values):
            return np.zeros(len(at), dtype)
        return values[np.clip(at, 0, len(values) - 1)]

    def holds(self, at: Int64Array, raw: bytes) -> NDArray[np.bool_]:
        """Whether these bytes stand at each place."""
        inside = (at >= 0) & (at + len(raw) <= self._size)
        if len(raw) == 1:
            inside &= self._at(at, "u1") == raw[0]
        else:
            found = self._at(at, f"V{len(raw)}").view(np.uint8).reshape(len(at), len(raw))
            inside &= (found == np.frombuffer(raw, np.uint8)).all(axis=1)
        return inside

    def varints(self, at: Int64Array) -> tuple[Int64Array, Int64Array]:
        """The varint at each place, and where it ends; a number that fits nothing where none of a few bytes is."""
        byte = self._at(at, "u1")
        numbers = (byte & 0x7F).astype(np.int64)
        at = at + 1
        more = np.flatnonzero(byte > 0x7F)
        for shift in range(7, 7 * _LENGTH_BYTES_MAX, 7):
            if not len(more):
                return numbers, at
            byte = self._at(at[more], "u1")
            numbers[more] |= (byte & 0x7F).astype(np.int64) << shift
            at[more] += 1
            more = more[byte > 0x7F]
        numbers[more] = MAX_RECORD_BYTES + 1
        return numbers, at


def _parse(payload: memoryview, offset: int) -> tuple["_Tensor", Float32Array | None]:
    """The features and the label of a record of any form."""
    features = _Tensor(np.empty(0, np.float32))
    label: Float32Array | None = None
    for number, start, stop in recordio_wire.entries(payload, offset):
        if number == 2:
            label = recordio_wire.parse_entry(payload, start, stop, offset).values
            continue
        tensor = recordio_wire.tensor_of(payload, start, stop, offset)
        if tensor is not None:
            features = _parse_tensor(payload, *tensor, offset)
    return features, label


@dataclass
class _Tensor:
    """`keys` are packed varints; a dense tensor becomes a sparse one without its zeros."""

    values: Float32Array
    keys: bytes = b""
    shape: list[int] = field(default_factory=list)
    columns: int = 0

    def width(self, offset: int) -> int:
        if not self.shape:
            if self.keys and not self.columns:
                raise RecordIOError(offset, "a sparse record without a shape")
            return self.columns
        if len(self.shape) != 1 or not 0 <= self.shape[0] <= _WIDTH_MAX:
            raise RecordIOError(offset, "a sparse record whose shape is not the number of its columns")
        return self.shape[0]


def _parse_tensor(payload: memoryview, kind: int, start: int, stop: int, offset: int) -> _Tensor:
    keys = bytearray()
    shape: list[int] = []
    for number, wire, field_start, field_stop in recordio_wire.fields(payload, start, stop, offset):
        if number in (2, 3) and wire not in (BYTES, VARINT):
            raise RecordIOError(offset, "keys or a shape that are not whole numbers")
        if number == 2:
            keys += payload[field_start:field_stop]
        elif number == 3:
            at = field_start
            while at < field_stop:
                length, at = recordio_wire.read_varint(payload, at, field_stop, offset)
                shape.append(length)
    values = recordio_wire.tensor_values(payload, kind, start, stop, offset).values
    if keys or (shape and not len(values)):
        return _Tensor(values, bytes(keys), shape)
    if shape and shape != [len(values)]:
        raise RecordIOError(offset, f"a dense record of {len(values)} values whose shape is another")
    present = np.flatnonzero(values).astype(np.int64)
    sizes = _varint_sizes(present)
    packed = np.zeros(int(sizes.sum()), np.uint8)
    _put_varints(packed, _offsets(sizes)[:-1], present, sizes)
    return _Tensor(values[present], packed.tobytes(), columns=len(values))
