"""Arrays of any type of number to clean float32 rows, with what is wrong in them, and arrays of labels."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dropmill.contracts import Layout, Part, Unit
from dropmill.data.array_files import StoredArray, column_blocks, row_blocks
from dropmill.data.checks import (
    BEYOND_FLOAT32,
    NOT_FINITE,
    ClassIndex,
    Problems,
    class_name,
    numbered,
    refuse,
)
from dropmill.data.labels import number_targets, text_cells, text_targets
from dropmill.data.rows import ROWS_BYTES, Float32Array, Float64Array, Look, Progress, Rows

_Mask = NDArray[np.bool_]
_Cells = Float64Array | list[str]


def look_at(array: StoredArray, layout: Layout) -> Look:
    """How far the file of an array can be divided: by rows where those stand together."""
    if array.head.divisible:
        return Look(layout, Unit.ROWS, 0, array.head.rows, rows=array.head.rows)
    return Look(layout, rows=array.head.rows)


def check_labels(name: str, labels: StoredArray, rows: int) -> None:
    """Refuse labels that aren't one for each row."""
    shape = labels.head.shape
    if not shape or labels.head.columns != 1:
        refuse(name, f"labels of shape {shape}; there must be one for each row")
    if labels.head.rows != rows:
        refuse(name, f"{rows} rows of features, but {labels.head.rows} labels")


def label_cells_of(
    features: StoredArray, labels: StoredArray | None, layout: Layout, problems: Problems
) -> Iterator[_Cells]:
    """The labels, some at a time: those of an array of their own, or else of a column of the features."""
    array = features if labels is None else labels
    column = 0 if labels is not None or layout.label_column is None else layout.label_column
    first = 0
    for block in column_blocks(array, column, _step(array)):
        yield _cells(block, first, _label_name(layout), problems)
        first += len(block)


def rows_of(
    features: StoredArray,
    labels: StoredArray | None,
    bounds: tuple[int, int],
    layout: Layout,
    problems: Problems,
    progress: Progress,
    part: Part | None = None,
) -> Iterator[Rows]:
    """The rows from the first of `bounds` up to the second, without those that have a problem.

    `labels` is the array that holds the labels, where they are no column of the features.
    """
    first, end = bounds
    step = _step(features, labels)
    classes = None if layout.classes is None else ClassIndex(layout.classes)
    own = None if labels is None else row_blocks(labels, first, end, step)
    wanted = None if layout.feature_columns == list(range(features.head.columns)) else layout.feature_columns
    for block in row_blocks(features, first, end, step):
        found = None
        if own is not None:
            found = next(own)[:, 0]
        elif layout.label_column is not None:
            found = block[:, layout.label_column]
        progress.rows += len(block)
        picked = block if wanted is None else block[:, wanted]
        matrix, good = _clean(picked, first, layout, problems)
        targets = None
        if found is not None:
            targets, known = _targets(found, first, _label_name(layout), classes, problems)
            good &= known
        first += len(block)
        if not good.all():
            matrix, targets = matrix[good], None if targets is None else targets[good]
        kept = _kept(block[:, layout.kept_columns][good]) if layout.kept_columns else None
        yield Rows(matrix, targets, part, kept)
    if own is not None:
        next(own, None)  # so that it reads on to where damage shows


def _kept(block: NDArray[Any]) -> Any:
    """Columns of numbers as texts."""
    texts = [pa.array([class_name(cell) for cell in column.tolist()], pa.string()) for column in block.T]
    return pa.RecordBatch.from_arrays(texts, names=numbered(len(texts)))


def _step(features: StoredArray, labels: StoredArray | None = None) -> int:
    head = features.head
    row_bytes = head.columns * max(4, head.dtype.itemsize) + (0 if labels is None else labels.head.row_bytes)
    return max(1, ROWS_BYTES // row_bytes)


def _label_name(layout: Layout) -> str:
    return "label" if layout.label_column is None else layout.columns[layout.label_column]


def _clean(picked: NDArray[Any], first: int, layout: Layout, problems: Problems) -> tuple[Float32Array, _Mask]:
    """The numbers as float32, and which rows have no problem."""
    if picked.dtype.kind in "iu" and picked.dtype.itemsize == 8:
        picked = picked.astype(np.float64)  # as text would be read, since rounding twice may differ from rounding once
    with np.errstate(over="ignore", invalid="ignore"):  # what is too large shows as infinity, and is named below
        features = picked.astype(np.float32, order="C")
    good: _Mask = np.ones(len(features), dtype=np.bool_)
    if picked.dtype.kind != "f" or np.isfinite(features).all():
        return features, good
    bad = np.isinf(features) if layout.fill is not None else ~np.isfinite(features)
    good &= ~bad.any(axis=1)
    for row in np.flatnonzero(~good):
        for column in np.flatnonzero(bad[row]):
            name = layout.columns[layout.feature_columns[column]]
            _wrong(picked[row, column], first + int(row), name, problems)
    return features, good


def _wrong(value: Any, row: int, column: str, problems: Problems) -> None:
    rule = BEYOND_FLOAT32 if np.isfinite(value) else NOT_FINITE
    problems.add(rule, row=row, column=column, value=value)


# Labels


def _cells(labels: NDArray[Any], first: int, column: str, problems: Problems) -> _Cells:
    """Labels as they are told apart: numbers where all are, else names. Those with a problem are left out."""
    if labels.dtype.kind in "US":
        return text_cells(*_distinct(labels), first, column, problems)
    numbers, good = number_targets(labels.astype(np.float64), None, first, column, None, problems)
    return numbers[good]


def _targets(
    labels: NDArray[Any], first: int, column: str, classes: ClassIndex | None, problems: Problems
) -> tuple[Float64Array, _Mask]:
    """Labels as numbers, or as the indexes of their classes, and which of them have no problem."""
    if labels.dtype.kind in "US":
        return text_targets(*_distinct(labels), first, column, classes, problems)
    return number_targets(labels.astype(np.float64), None, first, column, classes, problems)


def _distinct(labels: NDArray[Any]) -> tuple[list[str], NDArray[np.intp]]:
    """The distinct texts of an array, and which of them stands where. What is no character becomes U+FFFD."""
    if labels.dtype.kind == "S":
        words, places = np.unique(labels, return_inverse=True)
        return [word.decode("utf-8", "replace") for word in words.tolist()], places
    signs = np.ascontiguousarray(labels).view(np.dtype(np.uint32).newbyteorder(labels.dtype.byteorder))
    signs = signs.astype(np.uint32)
    signs[(signs > 0x10FFFF) | ((signs >= 0xD800) & (signs < 0xE000))] = 0xFFFD
    texts, places = np.unique(signs.view(labels.dtype.newbyteorder("=")), return_inverse=True)
    return texts.tolist(), places
