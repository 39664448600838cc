"""What all readers share: limits, the ways to refuse a drop, and which columns are what."""

import difflib
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from dropmill.columns import shortened as shortened
from dropmill.columns import told_name, what_there_is
from dropmill.contracts import PROBLEMS_MAX, FileFormat, FoundProblem, Layout, Problem, listed
from dropmill.errors import InvalidDrop
from dropmill.labels import class_name as class_name
from dropmill.recipe import DataOptions
from dropmill.words import Cell, Words, joined

MAX_COLUMNS = 100_000
MAX_SPARSE_COLUMNS = 10_000_000
MAX_WHOLE_BYTES = 1 << 30
"""The most that is read into memory at once: an array of labels, or an array in Fortran order."""
MAX_UNPACKED_BYTES = 4 << 30
"""The most that a compressed file, or a member of one, may hold."""
MAX_PROBLEMS = PROBLEMS_MAX
PROBLEMS_SEEN_MAX = 100
"""After so many the search ends: rows with problems are read cell by cell, which takes its time."""
MAX_CLASSES = 1000
"""More distinct labels than this are not classes."""
MAX_CLASS_CHARACTERS = 200
"""The longest name of a class, here as in a recipe."""
BLOCK_BYTES = 16 << 20
"""About as much as a block of rows holds, as float32."""

FLOAT32_MAX = float(np.finfo(np.float32).max)
DEFAULT_LABEL = "label"
PANDAS_INDEX = re.compile(r"__index_level_[0-9]+__")

NOT_FINITE = "is not a finite number: mend the row or leave it out"
UNKNOWN_CLASS = "is none of the classes: mend the label, or list it under data.classes in the recipe"
BEYOND_FLOAT32 = f"is beyond float32 (at most {FLOAT32_MAX:.4g} in size): rescale the column"


class TooManyProblems(Exception):
    """As many problems have been found as are reported."""


class FoundProblems(list[FoundProblem]):
    """Problems that are told, out of the `seen`."""

    seen = 0


class Problems:
    """Problems of one piece of one file, gathered into the caller's list, up to `MAX_PROBLEMS`.

    Ten of one kind would hide all others, so what is told is of as many kinds as are seen among the first
    `PROBLEMS_SEEN_MAX`; pieces that share a `FoundProblems` share these.
    """

    def __init__(self, file_name: str, found: list[FoundProblem], piece: int = 0) -> None:
        self.file_name = file_name
        self.found = found
        self.piece = piece
        self.count = 0
        self._tally = found if isinstance(found, FoundProblems) else FoundProblems(found)

    def add(
        self,
        rule: str,
        *,
        row: int,
        column: str | None = None,
        name: Cell | None = None,
        value: object | None = None,
    ) -> None:
        """Note a problem, whose `rule` must hold nothing that was read from a row. `contracts.Problem` says the rest.

        Raises TooManyProblems once there are enough.
        """
        text = None if value is None else Cell(shortened(str(value)))
        problem = Problem(file=self.file_name, row=row, column=column, name=name, value=text, rule=rule)
        self.count += 1
        self._tally.seen += 1
        _take(self.found, FoundProblem(piece=self.piece, problem=problem))
        if self._tally.seen >= PROBLEMS_SEEN_MAX:
            raise TooManyProblems

    def raise_any(self) -> None:
        """Raise InvalidDrop if there is any problem."""
        if self.found:
            raise InvalidDrop(listed([found.problem.words for found in self.found]))


def _take(found: list[FoundProblem], one: FoundProblem) -> None:
    """Add a problem while there is room. Of a new kind, it takes the place of the last of the commonest."""
    if len(found) >= MAX_PROBLEMS:
        counts = Counter(other.problem.kind for other in found)
        commonest, count = counts.most_common(1)[0]
        if count == 1 or one.problem.kind in counts:
            return
        found.remove(next(other for other in reversed(found) if other.problem.kind == commonest))
    found.append(one)


def refuse(
    file_name: str,
    *rule: str | Cell | Words,
    row: int | None = None,
    column: str | None = None,
    name: Cell | None = None,
    value: object | None = None,
) -> NoReturn:
    """Refuse a drop. What was read from a row, or may have been, is given as a `Cell` among the parts of the rule."""
    shown = None if value is None else Cell(shortened(str(value)))
    raise InvalidDrop(Problem(file=file_name, row=row, column=column, name=name, value=shown, rule="").words, *rule)


def _find_column(columns: Mapping[str, int], wanted: str) -> int | None:
    """The index of the column of this name, or else with this 0-based index."""
    if wanted in columns:
        return columns[wanted]
    if wanted.isascii() and wanted.isdigit() and len(wanted) <= len(str(MAX_COLUMNS)) and int(wanted) < len(columns):
        return int(wanted)
    return None


def _positions(columns: Sequence[str]) -> dict[str, int]:
    return {name: index for index, name in enumerate(columns)}


class ScoredColumns(DataOptions):
    """The options of rows to be scored: their features are those that the model learned from, whatever else there is.

    No label is asked for; one that is there is passed over.
    """

    trained: Layout


def label_column(file_name: str, columns: Sequence[str], options: DataOptions) -> int | None:
    """The column that the recipe's `label` means; without one, a column named `label`, or none."""
    if isinstance(options, ScoredColumns):
        return None
    index = _find_column(_positions(columns), options.label or DEFAULT_LABEL)
    if options.label is None:
        return index
    if index is None:
        near = difflib.get_close_matches(options.label.lower(), [name.lower() for name in columns[:1000]], n=1)
        found = next((name for name in columns if name.lower() in near), None)
        advice = [] if found is None else [" did you mean ", told_name(columns, found), "?"]
        there = what_there_is(columns)
        refuse(file_name, f"there is no label column {shortened(options.label)!r};", *advice, " ", *there)
    return index


def feature_columns(file_name: str, columns: Sequence[str], label: int | None, options: DataOptions) -> list[int]:
    """Every column but the label, the dropped ones and those that are carried along, in file order; at least one.

    Of rows to be scored, those that the model learned from, in file order.
    """
    if isinstance(options, ScoredColumns):
        return sorted(trained_columns(file_name, columns, options))
    positions = _positions(columns)
    # Training data need not have what is carried from scoring data to predictions.
    left_out = {_find_column(positions, name) for name in options.carried} | {label}
    for name in options.drop_columns:
        index = _find_column(positions, name)
        if index is None:
            rule = f"there is no column {shortened(name)!r} to drop (drop_columns); "
            refuse(file_name, rule, *what_there_is(columns))
        left_out.add(index)
    features = [index for index in range(len(columns)) if index not in left_out]
    if not features:
        refuse(file_name, "no column is left to learn from, besides the label and drop_columns")
    return features


def trained_columns(file_name: str, columns: Sequence[str], options: ScoredColumns) -> list[int]:
    """The columns of rows to be scored that the model learned from, in the model's order.

    They are found by name; where the columns of either have no names, by position: as in the rows that the model
    learned from, with or without the label, else all but those that are carried along. Raises InvalidDrop for columns
    that are missing. Whether they are as many as the model knows is for the caller to see.
    """
    trained = options.trained
    positions = _positions(columns)
    if trained.format is FileFormat.PARQUET and trained.feature_array in positions:
        return [positions[trained.feature_array]]
    named = list(columns) != numbered(len(columns))
    if named and _has_names(trained):
        names = [trained.columns[index] for index in trained.feature_columns]
        missing = [name for name in names if name not in positions]
        if missing:
            shown = joined(", ", [told_name(trained.columns, name) for name in missing[:5]])
            what = "column" if len(missing) == 1 else f"{len(missing)} columns"
            more = ", ..." if len(missing) > 5 else ""
            refuse(file_name, f"lacks the {what} ", shown, f"{more}, from which the model learned")
        return [positions[name] for name in names]
    left_out = set(kept_columns(file_name, columns, options))
    if not named and len(columns) == len(trained.columns):
        return trained.feature_columns
    if not named and _is_without_label(columns, trained):
        label = trained.label_column or 0
        return [index - (index > label) for index in trained.feature_columns]
    if named:
        left_out |= (
            {positions[options.label or DEFAULT_LABEL]} if (options.label or DEFAULT_LABEL) in positions else set()
        )
        left_out |= {index for index, name in enumerate(columns) if PANDAS_INDEX.fullmatch(name)}
    return [index for index in range(len(columns)) if index not in left_out]


def kept_columns(file_name: str, columns: Sequence[str], options: DataOptions) -> list[int]:
    """The columns of rows to be scored that are carried to the predictions; none of rows to learn from."""
    if not isinstance(options, ScoredColumns):
        return []
    trained = options.trained
    positions = _positions(columns)
    named = list(columns) != numbered(len(columns))
    found = []
    for name in options.carried:
        # An index means a column of the rows that the model learned from.
        if not named and _is_without_label(columns, trained):
            index, label = _find_column(_positions(trained.columns), name), trained.label_column or 0
            index = None if index in (None, label) else index - (index > label)
        else:
            index = _find_column(positions, name)
        if named and name not in positions and index is not None and _has_names(trained):
            index = positions.get(trained.columns[index]) if index < len(trained.columns) else None
        if index is None:
            rule = f"there is no column {shortened(name)!r} to carry along (data.id, data.keep)"
            refuse(file_name, f"{rule}; ", *what_there_is(columns))
        found.append(index)
    return found


def _has_names(layout: Layout) -> bool:
    return layout.feature_array is None and layout.columns != numbered(len(layout.columns))


def _is_without_label(columns: Sequence[str], trained: Layout) -> bool:
    return trained.label_column is not None and len(columns) == len(trained.columns) - 1


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
