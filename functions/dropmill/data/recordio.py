"""RecordIO-protobuf, the training format of SageMaker's built-in algorithms: rows of float32 to bytes and back.

A library in its own right: it needs numpy, and nothing of this package but its own modules (`recordio_*`).

| | |
|---|---|
| `write(stream, features, labels=None)` | writes one record for each row; returns the number of bytes |
| `encode(features, labels=None)` | the same bytes in memory |
| `write_blocks(stream, blocks)` | the same from an iterator of `(features, labels)` |
| `read(source)` | `(features, labels)`: dense records into an array |
| `read_sparse(source)` | records of either kind into a `SparseMatrix` |
| `read_any(source)` | an array where every record is dense, else a `SparseMatrix` |
| `read_blocks`, `read_sparse_blocks`, `read_any_blocks` | the same block by block, in bounded memory |

`features` to be written is an array [n, d], or a `SparseMatrix` or a sparse matrix of scipy, which become sparse
records. `labels` is one value for each row [n], or several [n, m]. A source to be read is a buffer or a binary stream.

Sources of the format: the framing is dmlc-core's `recordio.h` (magic, flags and length, payload, padding to four
bytes; no header, checksum or trailer, so files can be joined end to end); the payload is the protobuf message
`aialgs.data.Record` as `sagemaker.amazon.common` of the SageMaker Python SDK 2.x writes it: a map entry `values` with
the features' tensor, then, if there are labels, a map entry `values` with the label's. A tensor holds packed `values`
and, if it is sparse, packed `keys` (the columns, as varints) and `shape` (the number of columns); a sparse row without
any value has only its shape.

For float32 input the bytes are those of the SDK's `write_numpy_to_dense_tensor` and `write_spmatrix_to_sparse_tensor`.
docs/recordio.md lists what differs, and why.
"""

from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, TypeVar

from numpy.typing import ArrayLike

from dropmill.data import recordio_dense, recordio_sparse
from dropmill.data.recordio_sparse import SparseMatrix
from dropmill.data.recordio_wire import (
    MAGIC,
    MAX_RECORD_BYTES,
    Float32Array,
    Layout,
    Parse,
    RecordIOError,
    Source,
    SparseRecordError,
    TruncatedError,
    buffer_of,
    checked_labels,
    parse_windows,
)

__all__ = [
    "MAGIC",
    "MAX_RECORD_BYTES",
    "RecordIOError",
    "SparseMatrix",
    "SparseRecordError",
    "TruncatedError",
    "encode",
    "read",
    "read_any",
    "read_any_blocks",
    "read_blocks",
    "read_sparse",
    "read_sparse_blocks",
    "write",
    "write_blocks",
]

Block = TypeVar("Block")

BLOCK_BYTES = 8 << 20
"""How much of a stream is read into one block."""
MAX_BLOCK_RECORD_BYTES = 64 << 20
"""The longest record that is read from a stream block by block, unless another bound is given."""


# Writing


def write(stream: BinaryIO, features: Any, labels: ArrayLike | None = None) -> int:
    """Write a record for each row of `features` [n, d], with its label from `labels` [n] or [n, m]; return the bytes.

    Raises ValueError for anything but a matrix of numbers with a label for each row, for a finite value beyond
    float32, for columns of a sparse matrix that are not its own or given twice in a row, and for a row that would not
    fit into one record.
    """
    if _is_sparse(features):
        return recordio_sparse.write(stream, features, labels)
    return recordio_dense.write(stream, features, labels)


def encode(features: Any, labels: ArrayLike | None = None) -> bytes:
    """Return the bytes that `write` writes. Raises as `write` does."""
    if _is_sparse(features):
        return recordio_sparse.encode(features, labels)
    return recordio_dense.encode(features, labels)


def write_blocks(stream: BinaryIO, blocks: Iterable[tuple[Any, ArrayLike | None]]) -> int:
    """Write the rows of one `(features, labels)` after another; return the bytes.

    Holds one block at a time. All must have one width and labels of one kind, or it raises ValueError, as it does
    where `write` would. Blocks of arrays and of sparse matrices may be mixed.
    """
    first: tuple[int, int] | None = None
    dense: recordio_dense.Writer | None = None
    written = 0
    for number, (features, labels) in enumerate(blocks):
        sparse = _is_sparse(features)
        matrix = SparseMatrix.of(features) if sparse else recordio_dense.checked(features, None)[0]
        given = checked_labels(labels, len(matrix))
        shape = matrix.shape[1], 0 if given is None else given.shape[1]
        first = first or shape
        if shape != first:
            raise ValueError(
                f"block {number} has {shape[0]} columns and {shape[1]} label values a row; the first {first}"
            )
        if isinstance(matrix, SparseMatrix):
            if dense is not None:
                dense.flush()
            written += recordio_sparse.write(stream, matrix, given)
        else:
            dense = dense or recordio_dense.Writer(stream, *shape)
            written += dense.add(matrix, given)
    if dense is not None:
        dense.flush()
    return written


def _is_sparse(features: Any) -> bool:
    return isinstance(features, SparseMatrix) or hasattr(features, "tocsr")


# Reading


def read(source: Source, *, label_matrix: bool = False) -> tuple[Float32Array, Float32Array | None]:
    """Read every record into `(features [n, d], labels [n] or None)`, both float32 and contiguous.

    With `label_matrix` the labels are [n, m], and may have several values each. A stream is read to its end. Memory is
    that of the input and of the result. No record at all gives features of shape (0, 0) and no labels. Float64 and
    Int32 tensors are cast to float32.

    Raises RecordIOError for a truncated or corrupt stream (TruncatedError where it ends too early), a sparse
    (SparseRecordError) or non-numeric record, records of different widths or labels, and a finite value beyond float32.
    """
    return recordio_dense.parse(buffer_of(source), True, Layout(label_matrix), MAX_RECORD_BYTES)[0]


read_sparse = recordio_sparse.read
read_any = recordio_sparse.read_any


def read_blocks(
    source: Source,
    *,
    label_matrix: bool = False,
    block_bytes: int = BLOCK_BYTES,
    max_record_bytes: int = MAX_BLOCK_RECORD_BYTES,
) -> Iterator[tuple[Float32Array, Float32Array | None]]:
    """Yield `(features, labels)` of one block of rows after another, as `read` would give them together.

    A block holds the records of about `block_bytes` bytes, at least one. Memory is some times the larger of that and
    of a record; one of more than `max_record_bytes` is a RecordIOError. A stream may end anywhere between two records;
    its size need not be known. What is wrong is raised where it is met, after the blocks before it.
    """
    layout = Layout(label_matrix)
    return _filled(
        source, lambda window, last: recordio_dense.parse(window, last, layout, max_record_bytes), block_bytes
    )


def read_sparse_blocks(
    source: Source,
    *,
    label_matrix: bool = False,
    block_bytes: int = BLOCK_BYTES,
    max_record_bytes: int = MAX_BLOCK_RECORD_BYTES,
) -> Iterator[tuple[SparseMatrix, Float32Array | None]]:
    """`read_blocks` of what `read_sparse` reads."""
    layout = Layout(label_matrix)
    return _filled(
        source, lambda window, last: recordio_sparse.parse(window, last, layout, max_record_bytes), block_bytes
    )


def read_any_blocks(
    source: Source,
    *,
    label_matrix: bool = False,
    block_bytes: int = BLOCK_BYTES,
    max_record_bytes: int = MAX_BLOCK_RECORD_BYTES,
) -> Iterator[tuple[Float32Array | SparseMatrix, Float32Array | None]]:
    """`read_blocks` of what `read_any` reads: an array for each block of nothing but dense records."""
    layout = Layout(label_matrix)
    return _filled(
        source, lambda window, last: recordio_sparse.parse_any(window, last, layout, max_record_bytes), block_bytes
    )


def _filled(source: Source, parse: Parse[Block], block_bytes: int) -> Iterator[Block]:
    return (block for block, _size in parse_windows(source, parse, block_bytes))
