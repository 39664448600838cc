"""Labels as they stand in typed columns, numbers or texts, to values or the indexes of classes; and what is wrong."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dropmill.data.checks import (
    BEYOND_FLOAT32,
    FLOAT32_MAX,
    NOT_FINITE,
    UNKNOWN_CLASS,
    ClassIndex,
    Problems,
    class_name,
)
from dropmill.data.delimited_cells import EMPTY_LABEL, NUMBER, TEXT_LABEL, wrong_with_label
from dropmill.data.rows import Float64Array

_Mask = NDArray[np.bool_]
_Places = NDArray[np.intp]


def number_targets(
    labels: Float64Array,
    missing: _Mask | None,
    first: int,
    column: str,
    classes: ClassIndex | None,
    problems: Problems,
) -> tuple[Float64Array, _Mask]:
    """Labels [n] as they are, or as the indexes of their classes, and which of them have no problem.

    `first` is the number of their first row, and `missing` tells which are empty rather than not a number.
    """
    good: _Mask = np.abs(labels) <= FLOAT32_MAX
    for row in np.flatnonzero(~good):
        if missing is not None and missing[row]:
            problems.add(EMPTY_LABEL, row=first + int(row), column=column)
        else:
            rule = BEYOND_FLOAT32 if np.isfinite(labels[row]) else NOT_FINITE
            problems.add(rule, row=first + int(row), column=column, value=float(labels[row]))
    if classes is None:
        return labels, good
    indexes = classes.of(labels)
    unknown = good & np.isnan(indexes)
    for row in np.flatnonzero(unknown):
        problems.add(UNKNOWN_CLASS, row=first + int(row), column=column, value=class_name(float(labels[row])))
    return indexes, good & ~unknown


def text_targets(
    texts: Sequence[str], places: _Places, first: int, column: str, classes: ClassIndex | None, problems: Problems
) -> tuple[Float64Array, _Mask]:
    """The same of labels given as `places` [n] among their distinct `texts`."""
    values = classes.of(texts) if classes is not None and len(texts) else _numbers(texts)
    otherwise = TEXT_LABEL if classes is None else UNKNOWN_CLASS
    rules = [
        (_wrong_with(text) or otherwise) if unknown else None
        for text, unknown in zip(texts, ~(np.abs(values) <= FLOAT32_MAX), strict=True)
    ]
    good = _noted(rules, texts, places, first, column, problems)
    return values[places], good


def text_cells(
    texts: Sequence[str], places: _Places, first: int, column: str, problems: Problems
) -> Float64Array | list[str]:
    """Such labels as they are told apart: numbers where all are, else names. Those with a problem are left out."""
    good = _noted([_wrong_with(text) for text in texts], texts, places, first, column, problems)
    left = places[good]
    values = _numbers(texts)[left]
    if not np.isnan(values).any():
        return values
    return [class_name(texts[place]) for place in left]


def _numbers(texts: Sequence[str]) -> Float64Array:
    """The numbers that texts stand for, NaN where one stands for none."""
    stripped = [text.strip() for text in texts]
    return np.array([float(text) if NUMBER.fullmatch(text) else math.nan for text in stripped], dtype=np.float64)


def _wrong_with(text: str) -> str | None:
    """Why this can be no label of any kind."""
    return wrong_with_label(text.strip()) if text.strip() else EMPTY_LABEL


def _noted(
    rules: Sequence[str | None], texts: Sequence[str], places: _Places, first: int, column: str, problems: Problems
) -> _Mask:
    """Note the problem of each row whose text has one, and say which rows have none."""
    good: _Mask = np.array([rule is None for rule in rules], dtype=np.bool_)[places]
    for row in np.flatnonzero(~good):
        text, rule = texts[places[row]].strip(), rules[places[row]]
        problems.add(rule or EMPTY_LABEL, row=first + int(row), column=column, value=text or None)
    return good
