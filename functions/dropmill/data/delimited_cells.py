"""Delimited text cell by cell: what a cell may hold, and what is wrong with the others."""

import csv
import math
import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from dropmill.columns import place
from dropmill.contracts import Layout
from dropmill.data.checks import (
    BEYOND_FLOAT32,
    FLOAT32_MAX,
    NOT_FINITE,
    UNKNOWN_CLASS,
    ClassIndex,
    Problems,
    class_name,
)
from dropmill.data.lines import MAX_LINE_BYTES, Slice
from dropmill.data.rows import Float64Array, Progress
from dropmill.labels import MISSING as MISSING

NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
NAN = re.compile(r"[+-]?nan", re.IGNORECASE)
INFINITE = re.compile(r"[+-]?inf(?:inity)?", re.IGNORECASE)
_BOOLEANS = {"true", "false", "yes", "no"}
_DIGITS = re.compile(r"[0-9eE.+\- ]*")

TEXT_CELL = "is not a number: mend the cell, or list the column under drop_columns"
TEXT_LABEL = "is not a number, and a label must be one: mend it, or list the classes under data.classes in the recipe"
BOOLEAN_CELL = "is not a number: write 1 for true and 0 for false, or list the column under drop_columns"
_FILL = "fill it in, leave the row out, or set data.missing to mean or 0 in the recipe"
EMPTY_CELL = f"the cell is empty: {_FILL}"
MISSING_VALUE = f"stands for a missing value: {_FILL}"
NO_VALUE = f"the row has no such key: {_FILL}"
EMPTY_LABEL = "the label is empty: fill it in, or leave the row out"
MISSING_LABEL = (
    "stands for a missing value: fill it in, or leave the row out; if it is a class, list it under data.classes in the"
    " recipe"
)
OPEN_QUOTE = (
    "a line ends within quotation marks: take the line end out of the cell, or close the quotation mark"
    " (line ends in cells are read only where all files of the drop have 1 GB or less)"
)
UNREADABLE = "can't be read as CSV"
MAX_CELLS = 1_000_000
"""More cells in a line are not told apart."""

# A cell may be as long as its line. The limit is the process's, and nothing else here reads CSV.
csv.field_size_limit(MAX_LINE_BYTES)


@dataclass(frozen=True)
class Row:
    """A row that isn't blank: the number of its first line, and of the line behind it. No `cells`: it can't be read."""

    line: int
    behind: int
    cells: list[str] | None


def rows(part: Slice, delimiter: str, problems: Problems, *, quoted_line_ends: bool) -> Iterator[Row]:
    """Yield the rows of whole lines; those that can't be read are noted."""
    text = part.data.decode("utf-8", "replace")
    lines = _Lines(text, delimiter, part.first_line)
    while lines.at < len(text):
        begin, line = lines.at, lines.number
        if not quoted_line_ends and text.count('"', begin, lines.end()) % 2:
            problems.add(OPEN_QUOTE, row=line)
            lines.pass_line()
            yield Row(line, lines.number, None)
            continue
        reader = csv.reader(lines if quoted_line_ends else islice(lines, 1), delimiter=delimiter, strict=True)
        try:
            for cells in reader:
                if cells and (len(cells) > 1 or cells[0].strip()):
                    yield Row(line, lines.number, cells)
                begin, line = lines.at, lines.number
        except csv.Error as error:
            problems.add(f"{UNREADABLE}: {_reason(error)}", row=line)
            lines.at, lines.number = begin, line
            lines.pass_line()
            yield Row(line, lines.number, None)


def _reason(error: csv.Error) -> str:
    said = str(error)
    if "new-line" in said:
        return "line ends must be LF or CR LF"
    return "a quotation mark is left open" if "unexpected end" in said else said


class _Lines:
    """The lines of a text one by one, from the offset `at` on, which is where the line `number` begins."""

    def __init__(self, text: str, delimiter: str, number: int) -> None:
        self._text = text
        self._delimiter = delimiter
        self.at = 0
        self.number = number

    def end(self) -> int:
        """The offset behind the line."""
        return self._text.find("\n", self.at) + 1 or len(self._text)

    def pass_line(self) -> None:
        self.at = self.end()
        self.number += 1

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self.at == len(self._text):
            raise StopIteration
        end = self.end()
        if end - self.at > MAX_CELLS and self._text.count(self._delimiter, self.at, end) >= MAX_CELLS:
            raise csv.Error(f"a line of more than {MAX_CELLS:,} cells")  # each of which would take memory
        line = self._text[self.at : end]
        self.at = end
        self.number += 1
        return line if line.endswith("\n") else line + "\n"


def numbers(
    found: Iterator[Row], layout: Layout, classes: ClassIndex | None, problems: Problems, progress: Progress
) -> tuple[Float64Array, Float64Array | None, list[list[str]]]:
    """The features [n, d], NaN where a value is missing, the labels [n] and each kept column [n] of good rows.

    All rows are counted in `progress`, and the problems of those that are left out are noted.
    """
    features, labels = array("d"), array("d")
    kept: list[list[str]] = [[] for _ in layout.kept_columns]
    for row in found:
        progress.rows += 1
        if row.cells is None or not _is_whole(row, layout, problems):
            continue
        before = problems.count
        values = _plain_numbers([row.cells[index] for index in layout.feature_columns])
        if values is None:
            values = [_feature(row, index, layout, problems) for index in layout.feature_columns]
        label = None if layout.label_column is None else _label(row, layout, classes, problems)
        if problems.count == before:
            features.extend(values)
            if label is not None:
                labels.append(label)
            for texts, index in zip(kept, layout.kept_columns, strict=True):
                texts.append(row.cells[index])
    table: Float64Array = np.array(features, dtype=np.float64).reshape(-1, layout.feature_dim)
    return table, None if layout.label_column is None else np.array(labels, dtype=np.float64), kept


def label_texts(found: Iterator[Row], layout: Layout, problems: Problems) -> list[str]:
    """The labels that could be any, without the space around them; the others are noted."""
    texts = []
    for row in found:
        if row.cells is None or not _is_whole(row, layout, problems):
            continue
        text = row.cells[layout.label_column or 0].strip()
        rule = wrong_with_label(text)
        if rule is None:
            texts.append(text)
        else:
            _note(row, layout.label_column or 0, rule, layout, problems)
    return texts


def wrong_with_label(text: str) -> str | None:
    """Why this, without the space around it, can be no label of any kind."""
    if not text:
        return EMPTY_LABEL
    if NAN.fullmatch(text) or INFINITE.fullmatch(text):
        return NOT_FINITE
    if MISSING.fullmatch(text):
        return MISSING_LABEL
    return BEYOND_FLOAT32 if NUMBER.fullmatch(text) and abs(float(text)) > FLOAT32_MAX else None


def label_cells(texts: Sequence[str]) -> Float64Array | list[str]:
    """Labels as numbers if they all are, else as names of classes."""
    if all(NUMBER.fullmatch(text) for text in texts):
        return np.array([float(text) for text in texts], dtype=np.float64)
    return [class_name(text) for text in texts]


def _is_whole(row: Row, layout: Layout, problems: Problems) -> bool:
    count = len(row.cells or [])
    if count != len(layout.columns):
        rule = f"the row has {count} cells where the file has {len(layout.columns)} columns"
        problems.add(rule, row=row.line)
    return count == len(layout.columns)


def _plain_numbers(cells: Sequence[str]) -> list[float] | None:
    """The values of cells if there is nothing to note about any; of these characters, `float` takes numbers only."""
    if not _DIGITS.fullmatch("".join(cells)):
        return None
    try:
        values = [float(cell) for cell in cells]
    except ValueError:
        return None
    return values if all(abs(value) <= FLOAT32_MAX for value in values) else None


def _feature(row: Row, index: int, layout: Layout, problems: Problems) -> float:
    """The value of a cell; NaN if it is missing, which is noted unless it will be filled, or if it is wrong."""
    cell = row.cells[index].strip() if row.cells else ""
    if NUMBER.fullmatch(cell):
        number = float(cell)
        if abs(number) <= FLOAT32_MAX:
            return number
        rule = BEYOND_FLOAT32
    elif INFINITE.fullmatch(cell):
        rule = NOT_FINITE
    elif not cell or MISSING.fullmatch(cell) or NAN.fullmatch(cell):
        if layout.fill is not None:
            return math.nan
        rule = EMPTY_CELL if not cell else NOT_FINITE if NAN.fullmatch(cell) else MISSING_VALUE
    else:
        rule = BOOLEAN_CELL if is_boolean(cell) else TEXT_CELL
    _note(row, index, rule, layout, problems)
    return math.nan


def is_boolean(cell: str) -> bool:
    return cell.strip().lower() in _BOOLEANS


def _label(row: Row, layout: Layout, classes: ClassIndex | None, problems: Problems) -> float:
    index = layout.label_column or 0
    cell = row.cells[index].strip() if row.cells else ""
    if classes is not None:
        known = float(classes.of([cell])[0])
        if not math.isnan(known):
            return known
        rule = wrong_with_label(cell) or UNKNOWN_CLASS
    else:
        rule = wrong_with_label(cell) or TEXT_LABEL
        if NUMBER.fullmatch(cell) and rule is TEXT_LABEL:
            return float(cell)
    _note(row, index, rule, layout, problems)
    return math.nan


def _note(row: Row, index: int, rule: str, layout: Layout, problems: Problems) -> None:
    cell = row.cells[index].strip() if row.cells else ""
    long_number = rule is BEYOND_FLOAT32 and len(cell) > 12 and math.isfinite(float(cell))
    value = f"{float(cell):.6g}" if long_number else cell
    column, name = place(layout.columns, index)
    problems.add(rule, row=row.line, column=column, name=name, value=value or None)
