"""RecordIO-protobuf with sparse rows: what `recordio` does for dense ones, for rows that are mostly zeros.

Needs numpy, and `recordio` for what both kinds of record share.

- `write(stream, matrix, labels=None)` writes one sparse record for each row; `encode` gives the same bytes.
- `read(source)` gives `(SparseMatrix, labels)` of a stream whose records are sparse, dense or mixed.
- `read_any(source)` gives an array where every record is dense, else a `SparseMatrix`.

Source of the format: the tensor of `aialgs.data.Record` holds packed `values`, packed `keys` (the columns, as varints)
and `shape` (the number of columns), in this order; a row without any value has only its shape. The bytes are those of
`sagemaker.amazon.common.write_spmatrix_to_sparse_tensor` for a float32 matrix; as in `recordio`, other numbers are cast
to float32, and there must be exactly one label for each row.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dropmill.data import recordio
from dropmill.data.recordio import MAGIC, MAX_RECORD_BYTES, RecordIOError, SparseRecordError

__all__ = ["SparseMatrix", "encode", "read", "read_any", "write"]

Float32Array = NDArray[np.float32]
Int64Array = NDArray[np.int64]
ByteArray = NDArray[np.uint8]
Source = bytes | bytearray | memoryview | BinaryIO

_BLOCK_VALUES = 1 << 17
_BLOCK_ROWS = 1 << 14
_WIDTH_MAX = 2**62
_VARINT_BYTES_MAX = 10
_F4 = np.dtype("<f4")


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
        recordio._check_numeric(values, "features")
        return cls(recordio._as_float32(values, 0), columns, offsets, width)

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


# Writing


def write(stream: BinaryIO, features: Any, labels: ArrayLike | None = None) -> int:
    """Write a sparse record for each row of `features`, with its label from `labels` [n]; return the bytes written.

    `features` is a SparseMatrix, a sparse matrix of scipy, or an array. Raises ValueError for anything else, for
    labels that are not one number for each row, for a finite value beyond float32, and for a row that is too long for
    one record.
    """
    matrix = SparseMatrix.of(features)
    vector = None
    if labels is not None:
        given = np.asarray(labels)
        if given.shape != (len(matrix),):
            raise ValueError(f"labels must be a vector with one value for each of {len(matrix)} rows")
        recordio._check_numeric(given, "labels")
        vector = recordio._as_float32(given, 0)
    written = 0
    for rows in _blocks(matrix):
        block = _Block.of(matrix, rows, None if vector is None else vector[rows]).assembled()
        stream.write(block.data)
        written += len(block)
    return written


def encode(features: Any, labels: ArrayLike | None = None) -> bytes:
    """Return the bytes that `write` writes. Raises as `write` does."""
    stream = io.BytesIO()
    write(stream, features, labels)
    return stream.getvalue()


def _blocks(matrix: SparseMatrix) -> Iterator[slice]:
    start = 0
    while start < len(matrix):
        fitting = np.searchsorted(matrix.offsets, matrix.offsets[start] + _BLOCK_VALUES, side="right") - 1
        stop = min(max(int(fitting), start + 1), start + _BLOCK_ROWS, len(matrix))
        yield slice(start, stop)
        start = stop


@dataclass(frozen=True)
class _Block:
    """Rows to be assembled into records: where each stands in the block, and what it holds."""

    matrix: SparseMatrix
    labels: Float32Array | None
    counts: Int64Array
    keys: ByteArray
    key_bytes: Int64Array

    @classmethod
    def of(cls, matrix: SparseMatrix, rows: slice, labels: Float32Array | None) -> "_Block":
        offsets = matrix.offsets[rows.start : rows.stop + 1]
        span = slice(int(offsets[0]), int(offsets[-1]))
        part = SparseMatrix(matrix.values[span], matrix.columns[span], offsets - offsets[0], matrix.width)
        sizes = _varint_sizes(part.columns)
        ends = _offsets(sizes)
        keys = np.zeros(int(ends[-1]), np.uint8)
        _put_varints(keys, ends[:-1], part.columns, sizes)
        return cls(part, labels, np.diff(part.offsets), keys, np.diff(ends[part.offsets]))

    def assembled(self) -> ByteArray:
        """The bytes of the records, one behind the other."""
        shape = recordio._varint(self.matrix.width)
        shape_field = b"\x1a" + recordio._varint(len(shape)) + shape
        filled = self.counts > 0
        value_bytes = 4 * self.counts
        # From the inside out: the tensor, the value, the entry, the record.
        tensor = np.where(filled, 2 + _varint_sizes(value_bytes) + value_bytes, 0)
        tensor += np.where(filled, _varint_sizes(self.key_bytes) + self.key_bytes, 0) + len(shape_field)
        value = 1 + _varint_sizes(tensor) + tensor
        entry = len(recordio._ENTRY_KEY) + 1 + _varint_sizes(value) + value
        label = b"" if self.labels is None else recordio._entry_prefix(0x12, 4)
        length = 1 + _varint_sizes(entry) + entry + len(label) + 4 * (self.labels is not None)
        if int(length.max()) > MAX_RECORD_BYTES:
            raise ValueError(f"a row makes a record of {int(length.max())} bytes; {MAX_RECORD_BYTES} is the most")

        starts = _offsets(8 + length + -length % 4)
        block = np.zeros(int(starts[-1]), np.uint8)
        at = starts[:-1].copy()
        frames = np.stack([np.full(len(length), MAGIC), length], axis=1).astype("<u4").view(np.uint8)
        _put(block, at, frames)
        at += 8
        for tag, numbers in ((b"\x0a", entry), (recordio._ENTRY_KEY + b"\x12", value), (b"\x12", tensor)):
            at += _put(block, at, np.frombuffer(tag, np.uint8)[None])
            at += _put_varints(block, at, numbers, _varint_sizes(numbers))
        some = np.flatnonzero(filled)
        inside = at[some]
        for tag, numbers, raw in (
            (b"\x0a", value_bytes[some], self.matrix.values.astype(_F4).view(np.uint8)),
            (b"\x12", self.key_bytes[some], self.keys),
        ):
            inside += _put(block, inside, np.frombuffer(tag, np.uint8)[None])
            inside += _put_varints(block, inside, numbers, _varint_sizes(numbers))
            sources = _offsets(numbers)
            block[np.repeat(inside - sources[:-1], numbers) + np.arange(len(raw))] = raw
            inside += numbers
        at[some] = inside
        at += _put(block, at, np.frombuffer(shape_field, np.uint8)[None])
        if self.labels is not None:
            at += _put(block, at, np.frombuffer(label, np.uint8)[None])
            _put(block, at, self.labels.astype(_F4).view(np.uint8).reshape(-1, 4))
        return block


def _varint_sizes(numbers: Int64Array) -> Int64Array:
    sizes = np.ones(len(numbers), np.int64)
    for bits in range(7, 63, 7):
        larger = numbers >> bits > 0
        if not larger.any():
            break
        sizes += larger
    return sizes


def _put(block: ByteArray, at: Int64Array, raw: ByteArray) -> int:
    """Lay `raw` [n or 1, m] at each place of `at` [n]; m."""
    for byte in range(raw.shape[1]):
        block[at + byte] = raw[:, byte]
    return int(raw.shape[1])


def _put_varints(block: ByteArray, at: Int64Array, numbers: Int64Array, sizes: Int64Array) -> Int64Array:
    """Lay each number at its place; the sizes."""
    for byte in range(int(sizes.max(initial=0))):
        here = sizes > byte
        more = (sizes > byte + 1)[here]
        block[at[here] + byte] = (numbers[here] >> 7 * byte & 0x7F) | 0x80 * more
    return sizes


# Reading


def read(source: Source) -> tuple[SparseMatrix, Float32Array | None]:
    """Read every record, dense or sparse, into `(SparseMatrix, labels [n] or None)`.

    Of a dense record the zeros are left out. No record at all gives a matrix of no rows and no columns. Raises
    RecordIOError as `recordio.read` does, and for a sparse record whose keys, values and shape do not fit together.
    """
    return _read_sparse(recordio._buffer(source))


def read_any(source: Source) -> tuple[Float32Array | SparseMatrix, Float32Array | None]:
    """Read every record: into an array [n, d] where all are dense, else into a SparseMatrix. Raises as `read` does."""
    buffer = recordio._buffer(source)
    try:
        return recordio.read(buffer)
    except SparseRecordError:
        return _read_sparse(buffer)


@dataclass
class _Rows:
    """What has been read so far; the keys still as they stand in the file."""

    values: list[Float32Array] = field(default_factory=list)
    keys: bytearray = field(default_factory=bytearray)
    counts: list[int] = field(default_factory=list)
    key_bytes: list[int] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    labels: list[np.float32] = field(default_factory=list)
    width: int | None = None

    def add(self, record: "_Record", offset: int) -> None:
        if self.width is None:
            self.width = record.width
        elif record.width != self.width:
            raise RecordIOError(offset, f"a record of {record.width} features where the first has {self.width}")
        if self.counts and (record.label is None) != (not self.labels):
            raise RecordIOError(offset, "a record without a label" if self.labels else "only this record has a label")
        self.values.append(record.values)
        self.keys += record.keys
        self.counts.append(len(record.values))
        self.key_bytes.append(len(record.keys))
        self.offsets.append(offset)
        if record.label is not None:
            self.labels.append(record.label)

    def result(self) -> tuple[SparseMatrix, Float32Array | None]:
        counts = np.array(self.counts, np.int64)
        columns = self._columns(counts)
        values = np.concatenate(self.values) if self.values else np.empty(0, np.float32)
        matrix = SparseMatrix(values, columns, _offsets(counts), self.width or 0)
        return matrix, np.array(self.labels, np.float32) if self.labels else None

    def _columns(self, counts: Int64Array) -> Int64Array:
        raw = np.frombuffer(bytes(self.keys), np.uint8)
        ends = np.flatnonzero(raw < 0x80)
        # A record's keys end where its bytes do, and there is one for each value.
        borders = _offsets(np.array(self.key_bytes, np.int64))
        found = np.diff(np.searchsorted(ends, borders))
        whole = np.ones(len(counts), np.bool_)
        some = np.flatnonzero(borders[1:] > borders[:-1])
        whole[some] = raw[borders[1:][some] - 1] < 0x80
        self._check(whole & (found == counts), "a sparse record must have one key for each value")

        starts = np.concatenate([np.zeros(min(len(ends), 1), np.int64), ends[:-1] + 1])
        sizes = ends - starts + 1
        of_row = np.repeat(np.arange(len(counts)), counts)
        self._check_each(sizes <= _VARINT_BYTES_MAX, of_row, "a key of more than ten bytes")
        columns = np.zeros(len(ends), np.uint64)
        for byte in range(int(sizes.max(initial=0))):
            here = sizes > byte
            columns[here] |= (raw[starts[here] + byte] & 0x7F).astype(np.uint64) << np.uint64(7 * byte)
        self._check_each(columns < np.uint64(self.width or 0), of_row, "a key beyond the shape of its record")
        signed = columns.astype(np.int64)
        rising = (np.diff(signed) > 0) | (np.diff(of_row) > 0)
        if not rising.all():
            order = np.lexsort((signed, of_row))
            once = (np.diff(signed[order]) > 0) | (np.diff(of_row[order]) > 0)
            self._check_each(once, of_row[order][1:], "a key that is given twice")
        return signed

    def _check_each(self, right: NDArray[np.bool_], of_row: Int64Array, reason: str) -> None:
        if not right.all():
            raise RecordIOError(self.offsets[int(of_row[int(right.argmin())])], reason)

    def _check(self, right: NDArray[np.bool_], reason: str) -> None:
        if not right.all():
            raise RecordIOError(self.offsets[int(right.argmin())], reason)


@dataclass(frozen=True)
class _Record:
    values: Float32Array
    keys: bytes
    width: int
    label: np.float32 | None


def _read_sparse(buffer: memoryview) -> tuple[SparseMatrix, Float32Array | None]:
    rows = _Rows()
    offset = 0
    while offset < len(buffer):
        payload, end = recordio._payload_at(buffer, offset)
        rows.add(_parse(payload, offset), offset)
        offset = end
    return rows.result()


def _parse(payload: memoryview, offset: int) -> _Record:
    features: _Tensor | None = None
    label: np.float32 | None = None
    for number, start, stop in recordio._entries(payload, offset):
        tensor = recordio._tensor_of(payload, start, stop, offset)
        if number == 1:
            if features is not None:
                raise RecordIOError(offset, "features given twice")
            features = _Tensor(np.empty(0, np.float32)) if tensor is None else _parse_tensor(payload, *tensor, offset)
        else:
            if label is not None:
                raise RecordIOError(offset, "a label given twice")
            numbers = recordio._parse_entry(payload, start, stop, offset).values
            if len(numbers) != 1:
                raise RecordIOError(offset, f"a label of {len(numbers)} values; exactly one can be read")
            label = numbers[0]
    if features is None:
        raise RecordIOError(offset, "a record without features")
    return _Record(features.values, features.keys, features.width(offset), label)


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
    for number, wire, field_start, field_stop in recordio._fields(payload, start, stop, offset):
        if number in (2, 3) and wire not in (recordio._BYTES, recordio._VARINT):
            raise RecordIOError(offset, "keys or a shape that are not whole numbers")
        if number == 2:
            keys += payload[field_start:field_stop]
        elif number == 3:
            at = field_start
            while at < field_stop:
                length, at = recordio._read_varint(payload, at, field_stop, offset)
                shape.append(length)
    values = recordio._tensor_values(payload, kind, start, stop, offset).values
    if keys or (shape and not len(values)):
        return _Tensor(values, bytes(keys), shape)
    if shape and shape != [len(values)]:
        raise RecordIOError(offset, f"a dense record of {len(values)} values whose shape is another")
    present = np.flatnonzero(values).astype(np.int64)
    sizes = _varint_sizes(present)
    packed = np.zeros(int(sizes.sum()), np.uint8)
    _put_varints(packed, _offsets(sizes)[:-1], present, sizes)
    return _Tensor(values[present], packed.tobytes(), columns=len(values))
