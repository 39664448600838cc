"""What all readers share: limits, the ways to refuse a drop, and which columns are what."""

import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from dropmill.contracts import PROBLEMS_MAX, FoundProblem, Problem, listed
from dropmill.errors import InvalidDrop
from dropmill.labels import class_name as class_name
from dropmill.recipe import DataOptions

MAX_COLUMNS = 100_000
MAX_SPARSE_COLUMNS = 10_000_000
MAX_WHOLE_BYTES = 1 << 30
"""The most that is read into memory at once: an array of labels, or an array in Fortran order."""
MAX_UNPACKED_BYTES = 4 << 30
"""The most that a compressed file, or a member of one, may hold."""
MAX_PROBLEMS = PROBLEMS_MAX
MAX_CLASSES = 1000
"""More distinct labels than this are not classes."""
MAX_CLASS_CHARACTERS = 200
"""The longest name of a class, here as in a recipe."""
BLOCK_BYTES = 16 << 20
"""About as much as a block of rows holds, as float32."""

FLOAT32_MAX = float(np.finfo(np.float32).max)
DEFAULT_LABEL = "label"

NOT_FINITE = "is not a finite number: mend the row or leave it out"
UNKNOWN_CLASS = "is none of the classes: mend the label, or list it under data.classes in the recipe"
BEYOND_FLOAT32 = f"is beyond float32 (at most {FLOAT32_MAX:.4g} in size): rescale the column"


class TooManyProblems(Exception):
    """As many problems have been found as are reported."""


class Problems:
    """Problems of one piece of one file, gathered into the caller's list, up to `MAX_PROBLEMS`."""

    def __init__(self, file_name: str, found: list[FoundProblem], piece: int = 0) -> None:
        self.file_name = file_name
        self.found = found
        self.piece = piece

    def add(self, rule: str, *, row: int, column: str | None = None, value: object | None = None) -> None:
        """Note a problem. Raises TooManyProblems once there are enough."""
        text = None if value is None else shortened(str(value))
        problem = Problem(file=self.file_name, row=row, column=column, value=text, rule=rule)
        self.found.append(FoundProblem(piece=self.piece, problem=problem))
        if len(self.found) >= MAX_PROBLEMS:
            raise TooManyProblems

    def raise_any(self) -> None:
        """Raise InvalidDrop if there is any problem."""
        if self.found:
            raise InvalidDrop(listed([found.problem for found in self.found]))


def shortened(text: str) -> str:
    return text if len(text) <= 40 else text[:40] + "..."


def refuse(file_name: str, rule: str, *, row: int | None = None, column: str | None = None) -> NoReturn:
    raise InvalidDrop(str(Problem(file=file_name, row=row, column=column, rule=rule)))


def _find_column(columns: Mapping[str, int], wanted: str) -> int | None:
    """The index of the column of this name, or else with this 0-based index."""
    if wanted in columns:
        return columns[wanted]
    if wanted.isascii() and wanted.isdigit() and len(wanted) <= len(str(MAX_COLUMNS)) and int(wanted) < len(columns):
        return int(wanted)
    return None


def _positions(columns: Sequence[str]) -> dict[str, int]:
    return {name: index for index, name in enumerate(columns)}


def label_column(file_name: str, columns: Sequence[str], options: DataOptions) -> int | None:
    """The column that the recipe's `label` means; without one, a column named `label`, or none."""
    index = _find_column(_positions(columns), options.label or DEFAULT_LABEL)
    if options.label is None:
        return index
    if index is None:
        near = difflib.get_close_matches(options.label.lower(), [name.lower() for name in columns[:1000]], n=1)
        found = next((name for name in columns if name.lower() in near), None)
        advice = "" if found is None else f" did you mean {shortened(found)!r}?"
        there = _what_there_is(columns)
        refuse(file_name, f"there is no label column {shortened(options.label)!r};{advice} {there}")
    return index


def feature_columns(file_name: str, columns: Sequence[str], label: int | None, options: DataOptions) -> list[int]:
    """Every column but the label and the dropped ones, in file order; at least one."""
    left_out = set() if label is None else {label}
    positions = _positions(columns)
    for name in options.drop_columns:
        index = _find_column(positions, name)
        if index is None:
            refuse(
                file_name, f"there is no column {shortened(name)!r} to drop (drop_columns); {_what_there_is(columns)}"
            )
        left_out.add(index)
    features = [index for index in range(len(columns)) if index not in left_out]
    if not features:
        refuse(file_name, "no column is left to learn from, besides the label and drop_columns")
    return features


def _what_there_is(columns: Sequence[str]) -> str:
    if all(name == str(index) for index, name in enumerate(columns)):
        return f"the columns have no names; give an index from 0 to {len(columns) - 1}"
    shown = ", ".join(shortened(name) for name in columns[:10])
    return f"the columns are {shown}{', ...' if len(columns) > 10 else ''}"


def numbered(count: int) -> list[str]:
    """Names of columns that have none."""
    return [str(index) for index in range(count)]


class LabelValues:
    """The distinct values of a label column, gathered block by block."""

    def __init__(self) -> None:
        self._values: NDArray[np.float64] | None = np.empty(0, dtype=np.float64)

    def add(self, labels: NDArray[Any]) -> None:
        if self._values is not None:
            merged = np.union1d(self._values, labels.astype(np.float64) + 0.0)  # adding zero turns -0.0 into 0.0
            self._values = merged if len(merged) <= MAX_CLASSES else None

    @property
    def empty(self) -> bool:
        return self._values is not None and not len(self._values)

    def result(self) -> list[float] | None:
        """The values, ascending; None for more than `MAX_CLASSES`."""
        return None if self._values is None else [float(value) for value in self._values]


class ClassIndex:
    """The index of each class among `classes`, found by its name."""

    def __init__(self, classes: Sequence[str]) -> None:
        self._indexes = {class_name(name): float(index) for index, name in enumerate(classes)}

    def of(self, cells: Sequence[str] | NDArray[np.float64]) -> NDArray[np.float64]:
        """The indexes of `cells` [n], NaN where there is no such class."""
        texts, places = np.unique(np.asarray(cells), return_inverse=True)
        known = [self._indexes.get(class_name(text), math.nan) for text in texts.tolist()]
        return np.array(known, dtype=np.float64)[places]
