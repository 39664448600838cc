"""RecordIO-protobuf as it is dropped: dense or sparse rows, with a label of one number each or without.

A label is none of the columns, and those have no names. Where records are dense, laid out alike and in one part each,
they all have one length, and the file is divided by rows; else it is read whole. Rows are sparse where the first
records are. Sparse rows are given in one form, however they are written: columns ascending, zeros left out.
"""

from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from dropmill.contracts import DroppedFile, FileFormat, Layout, Piece, Unit
from dropmill.data import recordio
from dropmill.data.checks import (
    MAX_COLUMNS,
    MAX_SPARSE_COLUMNS,
    NOT_FINITE,
    ClassIndex,
    Problems,
    feature_columns,
    label_column,
    numbered,
    refuse,
)
from dropmill.data.labels import number_targets
from dropmill.data.recordio import RecordIOError, SparseMatrix
from dropmill.data.rows import ROWS_BYTES, Float32Array, Float64Array, Look, OpenFile, Progress, Rows
from dropmill.recipe import DataOptions

_FRAME_BYTES = 8
_PADDING = 4
_FIRST_BYTES = 64 << 10
_LABEL = "label"
_NO_RECORDS = "holds no record"

_Features = Float32Array | SparseMatrix
_Records = tuple[_Features, Float32Array | None]
_Mask = NDArray[np.bool_]


def look(file: OpenFile, options: DataOptions, *, gzipped: bool) -> Look:
    """Say how the records are laid out, from the first of them. Raises InvalidDrop for what can't be rows."""
    with file.open() as stream:
        first = next(_records(stream, file.name, _FIRST_BYTES), None)
        alike = _rows_alike(stream, file.size)
    if first is None:
        refuse(file.name, _NO_RECORDS)
    features, labels = first
    layout = _layout(file.name, features, options, own_labels=labels is not None, gzipped=gzipped)
    if alike is None or isinstance(features, SparseMatrix):
        return Look(layout)
    return Look(layout, Unit.ROWS, 0, alike, rows=alike)


def _layout(file_name: str, features: _Features, options: DataOptions, *, own_labels: bool, gzipped: bool) -> Layout:
    width = features.shape[1]
    if width == 0:
        refuse(file_name, "the first record has no features")
    if not isinstance(features, SparseMatrix):
        if width > MAX_COLUMNS:
            refuse(file_name, f"records of {width} features; {MAX_COLUMNS} is the most where they are dense")
        columns = numbered(width)
        label = None if own_labels else label_column(file_name, columns, options)
        return Layout(
            format=FileFormat.RECORDIO,
            gzipped=gzipped,
            columns=columns,
            label_column=label,
            feature_columns=feature_columns(file_name, columns, label, options),
            own_labels=own_labels,
        )
    if width > MAX_SPARSE_COLUMNS:
        refuse(file_name, f"records of {width} columns; {MAX_SPARSE_COLUMNS} is the most")
    if options.drop_columns:
        refuse(file_name, "columns of sparse records can't be left out: take drop_columns out of the recipe")
    if options.label is not None and not own_labels:
        refuse(file_name, "the records have no labels, and a column of sparse records can't be one")
    return Layout(
        format=FileFormat.RECORDIO,
        gzipped=gzipped,
        columns=[],
        feature_columns=[],
        sparse_columns=width,
        own_labels=own_labels,
    )


def _rows_alike(stream: BinaryIO, size: int) -> int | None:
    """How many records the file holds if all are as long as the first, in one part. Looks at some of them."""
    first = _frame(stream, 0)
    length = _length(first)
    if (
        size % length
        or int.from_bytes(first[:4], "little") != recordio.MAGIC
        or int.from_bytes(first[4:], "little") >> 29
    ):
        return None
    count = size // length
    some = {count * number // 8 for number in range(8)} | {count - 1}
    return count if all(_frame(stream, row * length) == first for row in some) else None


def _frame(stream: BinaryIO, at: int) -> bytes:
    stream.seek(at)
    return stream.read(_FRAME_BYTES)


def _length(frame: bytes) -> int:
    payload = int.from_bytes(frame[4:], "little") & recordio.MAX_RECORD_BYTES
    return _FRAME_BYTES + payload + -payload % _PADDING


def label_cells(file: OpenFile, look: Look, problems: Problems) -> Iterator[Float64Array | list[str]]:
    """All labels of a file in order, as `dropmill.data.rows` says."""
    whole = Piece(file=0, start=look.start, end=look.end)
    first = 0
    for features, labels in _blocks(file, look.unit, look.rows, whole):
        found, good = _targets(_labels(features, labels, look.layout), first, look.layout, problems)
        first += len(features)
        yield found[good]


def read(
    file: OpenFile, dropped: DroppedFile, piece: Piece, layout: Layout, problems: Problems, progress: Progress
) -> Iterator[Rows]:
    """The rows of a piece, as `dropmill.data.rows` says. Features are sparse where the layout says so."""
    first = piece.start if dropped.unit is Unit.ROWS else 0
    for features, labels in _blocks(file, dropped.unit, dropped.rows, piece):
        if features.shape[1] != (layout.sparse_columns or len(layout.columns)):
            had = layout.sparse_columns or len(layout.columns)
            refuse(file.name, f"records of {features.shape[1]} features, where the drop has {had}", row=first)
        if (labels is not None) != layout.own_labels:
            refuse(file.name, f"records {'with' if labels is not None else 'without'} labels", row=first)
        for start in range(0, len(features), step := _step(features, layout)):
            rows = slice(start, min(start + step, len(features)))
            progress.rows += rows.stop - rows.start
            yield _clean(features, labels, rows, first + start, layout, problems)
        first += len(features)


def _step(features: _Features, layout: Layout) -> int:
    """How many rows are given at a time: all, but of sparse records that are laid out dense."""
    if isinstance(features, SparseMatrix) and layout.sparse_columns is None:
        return max(1, ROWS_BYTES // (4 * features.width))
    return max(1, len(features))


def _clean(
    features: _Features, labels: Float32Array | None, rows: slice, first: int, layout: Layout, problems: Problems
) -> Rows:
    """Some rows as the layout has them, without those that have a problem."""
    taken = _part(features, rows)
    good: _Mask = np.ones(len(taken), dtype=np.bool_)
    cells: Float64Array | None = None
    if layout.labelled:
        own = None if labels is None else labels[rows]
        cells, known = _targets(_labels(taken, own, layout), first, layout, problems)
        good &= known
    picked: _Features
    if layout.sparse_columns is not None:
        picked = _in_order(taken if isinstance(taken, SparseMatrix) else SparseMatrix.of(taken))
        good &= _finite_sparse(picked, first, problems)
    else:
        picked = taken.to_dense() if isinstance(taken, SparseMatrix) else taken
        if len(layout.feature_columns) < picked.shape[1]:
            picked = picked[:, layout.feature_columns]
        good &= _finite(picked, first, layout, problems)
    if good.all():
        return Rows(picked, cells)
    left = np.flatnonzero(good)
    kept = picked.take(left) if isinstance(picked, SparseMatrix) else picked[left]
    return Rows(kept, None if cells is None else cells[left])


def _part(features: _Features, rows: slice) -> _Features:
    if rows == slice(0, len(features)):
        return features
    if isinstance(features, SparseMatrix):
        return features.take(np.arange(rows.start, rows.stop))
    return features[rows]


def _finite(features: Float32Array, first: int, layout: Layout, problems: Problems) -> _Mask:
    """Which rows have no problem. NaN is none where missing values are filled."""
    good: _Mask = np.ones(len(features), dtype=np.bool_)
    if np.isfinite(features).all():
        return good
    bad: _Mask = np.isinf(features) if layout.fill is not None else ~np.isfinite(features)
    good &= ~bad.any(axis=1)
    for row in np.flatnonzero(~good):
        for column in np.flatnonzero(bad[row]):
            name = layout.columns[layout.feature_columns[column]]
            problems.add(NOT_FINITE, row=first + int(row), column=name, value=features[row, column])
    return good


def _finite_sparse(features: SparseMatrix, first: int, problems: Problems) -> _Mask:
    good: _Mask = np.ones(len(features), dtype=np.bool_)
    if np.isfinite(features.values).all():
        return good
    rows = features.rows()
    for at in np.flatnonzero(~np.isfinite(features.values)):
        good[rows[at]] = False
        column = str(features.columns[at])
        problems.add(NOT_FINITE, row=first + int(rows[at]), column=column, value=features.values[at])
    return good


def _in_order(matrix: SparseMatrix) -> SparseMatrix:
    """The same rows with their columns ascending and no zeros."""
    if not matrix.values.all():
        kept = matrix.values != 0
        offsets = np.concatenate([[0], np.cumsum(kept)])[matrix.offsets]
        matrix = SparseMatrix(matrix.values[kept], matrix.columns[kept], offsets, matrix.width)
    rows = matrix.rows()
    if ((np.diff(matrix.columns) > 0) | (np.diff(rows) > 0)).all():
        return matrix
    order = np.lexsort((matrix.columns, rows))
    return SparseMatrix(matrix.values[order], matrix.columns[order], matrix.offsets, matrix.width)


# Labels


def _labels(features: _Features, labels: Float32Array | None, layout: Layout) -> Float32Array:
    """The labels [n]: the records' own, or a column."""
    if labels is not None:
        return labels.reshape(-1)
    column = layout.label_column or 0
    if not isinstance(features, SparseMatrix):
        return features[:, column]
    found = np.zeros(len(features), dtype=np.float32)
    here = features.columns == column
    found[features.rows()[here]] = features.values[here]
    return found


def _targets(labels: Float32Array, first: int, layout: Layout, problems: Problems) -> tuple[Float64Array, _Mask]:
    """The labels as numbers, or as the indexes of their classes, and which of them have no problem."""
    name = _LABEL if layout.label_column is None else layout.columns[layout.label_column]
    classes = None if layout.classes is None else ClassIndex(layout.classes)
    return number_targets(labels.astype(np.float64), None, first, name, classes, problems)


# Records


def _blocks(file: OpenFile, unit: Unit, rows: int | None, piece: Piece) -> Iterator[_Records]:
    """The records of a piece, some at a time."""
    with file.open() as stream:
        if unit is Unit.ROWS and rows:
            yield from _records_alike(stream, file, file.size // rows, piece)
        else:
            stream.seek(0)
            yield from _records(stream, file.name, ROWS_BYTES)


def _records(stream: BinaryIO, file_name: str, block_bytes: int) -> Iterator[_Records]:
    """Records of any kind from where the stream stands. Raises InvalidDrop with the byte offset of what is wrong."""
    try:
        for features, labels in recordio.read_any_blocks(stream, label_matrix=True, block_bytes=block_bytes):
            yield _checked(features, labels, file_name)
    except RecordIOError as error:
        refuse(file_name, _said(error, 0))


def _records_alike(stream: BinaryIO, file: OpenFile, length: int, piece: Piece) -> Iterator[_Records]:
    """Records that are all `length` bytes long, from one row up to another.

    Raises InvalidDrop with the byte offset of what is wrong.
    """
    frame = _frame(stream, 0)
    if _length(frame) != length:
        refuse(file.name, f"byte 0: a record of another length than when the drop was inspected, {length} bytes")
    stream.seek(piece.start * length)
    step = max(1, ROWS_BYTES // length)
    for row in range(piece.start, piece.end, step):
        count = min(step, piece.end - row)
        data = stream.read(count * length)
        if len(data) != count * length:
            refuse(file.name, f"byte {row * length + len(data)}: the file ends here, in the middle of its records")
        frames = np.frombuffer(data, np.uint8).reshape(count, length)[:, :_FRAME_BYTES]
        other = (frames != np.frombuffer(frame, np.uint8)).any(axis=1)
        if other.any():
            at = (row + int(other.argmax())) * length
            rule = f"byte {at}: no record of {length} bytes begins here, as all should that are like the first"
            refuse(file.name, f"{rule}: {_ADVICE}")
        try:
            features, labels = recordio.read_any(data, label_matrix=True)
        except RecordIOError as error:
            refuse(file.name, _said(error, row * length))
        yield _checked(features, labels, file.name)


_ADVICE = "the file is damaged, or was written otherwise: write it again"


def _said(error: RecordIOError, before: int) -> str:
    return f"byte {before + error.offset}: {error.reason}: {_ADVICE}"


def _checked(features: _Features, labels: Float32Array | None, file_name: str) -> _Records:
    if labels is not None and labels.shape[1] != 1:
        refuse(
            file_name, f"labels of {labels.shape[1]} numbers each; only one can be learned: write one label a record"
        )
    return features, labels


__all__ = ["label_cells", "look", "read"]
