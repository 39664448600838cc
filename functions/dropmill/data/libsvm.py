"""LIBSVM text (also called SVMlight): a line `label index:value ...` for each row, sparse from the file to recordIO.

The first column is number 1, or 0 where index 0 is seen. Indexes may stand in any order, each once on a line; a column
that is not named is zero. Blank lines and what follows `#` count for nothing. Labels are numbers, or texts without
spaces and colons, which are classes. Lines of several labels and `qid:` (rankings) are refused.

Source of the format: the README of LIBSVM 3 (section "`svm-train' Usage"), and that of SVMlight for comments and `qid`.

A slice of lines is parsed at once, as a table of two columns; only where that fails is it read line by line, to name
what is wrong. Rows have one form, however they are written: columns ascending, zeros left out.
"""

import math
import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import csv

from dropmill.contracts import DroppedFile, FileFormat, Layout, Piece, Unit
from dropmill.data import lines
from dropmill.data.checks import (
    BEYOND_FLOAT32,
    FLOAT32_MAX,
    MAX_SPARSE_COLUMNS,
    NOT_FINITE,
    UNKNOWN_CLASS,
    ClassIndex,
    Problems,
    TooManyProblems,
    class_name,
    refuse,
    shortened,
)
from dropmill.data.delimited_cells import TEXT_LABEL, wrong_with_label
from dropmill.data.recordio import SparseMatrix
from dropmill.data.rows import Float64Array, Look, OpenFile, Progress, Rows
from dropmill.recipe import DataOptions

MAX_LINE_BYTES = 8 << 20
MAX_LABEL_BYTES = 256

Int64Array = NDArray[np.int64]

_SLICE_BYTES = 1 << 19
_WIDTH_OPTION = "hyperparameters.feature_dim"
_LABEL = "label"  # what messages call it; no column has a name here
_SPACES = bytes.maketrans(b" \t\r\v\f", b"\n" * 5)
_TOKEN = re.compile(rb"[^ \t\r\n\v\f]+")
_COMMENT = re.compile(rb"#[^\n]*")
_INDEX = re.compile(rb"[0-9]+")
_NUMBER = re.compile(rb"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_NOT_A_NUMBER = re.compile(rb"[+-]?(?:nan|inf|infinity)", re.IGNORECASE)
_SEVERAL = re.compile(rb"[^,]+(?:,[^,]+)+")

_NO_LABEL = "stands where the label should: begin the line with the label"
_SEVERAL_LABELS = "is more than one label, and a row can have only one: keep one, or drop one file for each label"
_LONG_LABEL = f"is longer than {MAX_LABEL_BYTES} bytes: a label must be a number or the name of a class"
_TEXT_VALUE = "is not a number: mend the value, or leave the column out of the line"
_RANKING = "is for rankings, which can't be learned here: take the qid out of all lines"
_NO_PAIR = "is not of the form index:value: mend it, or take it out"
_TWICE = "the column stands twice on the line: keep one"
_TOO_MANY = f"there can be {MAX_SPARSE_COLUMNS:,} columns at the most: number them anew"
_BELOW = "columns count from 1 on the first lines of the file, and from 0 here: count them from 1 everywhere"


@dataclass(frozen=True)
class _Lines:
    """Some rows as they are written; `offsets` is as in a SparseMatrix."""

    labels: list[bytes]
    columns: Int64Array
    values: Float64Array
    offsets: Int64Array


@dataclass(frozen=True)
class _Rules:
    """What rows must keep to. `labels` is False where nobody asks for them yet."""

    first_index: int
    width: int
    labels: bool = True
    classes: ClassIndex | None = None


@dataclass(frozen=True)
class _Checked:
    """Rows that keep to the rules, of `seen` that there were. Columns count from 0.

    `span` is the lowest and the highest of them, also of values that are zero and left out; None where there is none.
    """

    features: SparseMatrix
    labels: Float64Array
    seen: int
    span: tuple[int, int] | None


def look(file: OpenFile, options: DataOptions, *, gzipped: bool, width: int | None = None) -> Look:
    """Say how a LIBSVM file is laid out.

    Reads the whole file to count its columns, unless `width` says how many there are; then no more than its first
    lines, to see whether columns count from 0. Raises InvalidDrop, also for what is wrong with rows that it reads.
    """
    if options.drop_columns:
        refuse(file.name, "columns of LIBSVM can't be left out: take data.drop_columns out of the recipe")
    rules = _Rules(first_index=0, width=MAX_SPARSE_COLUMNS + 1, labels=False)
    problems = Problems(file.name, [])
    seen, lowest, highest = 0, 1, 0
    try:
        for part in _slices(file, _all_of(file), Progress(0, 0), gzipped=gzipped):
            checked = _checked(part, rules, problems)
            seen += checked.seen
            if checked.span is not None:
                lowest, highest = min(lowest, checked.span[0]), max(highest, checked.span[1])
            if width is not None and seen:
                break
    except TooManyProblems:
        pass
    problems.raise_any()
    if not seen:
        refuse(file.name, "the file is empty")
    columns = width or highest + 1 - lowest
    if not columns:
        refuse(file.name, "no line has an index:value, so there is nothing to learn from")
    if columns > MAX_SPARSE_COLUMNS:
        refuse(file.name, f"there are {columns:,} columns; {MAX_SPARSE_COLUMNS:,} is the most")
    layout = Layout(
        format=FileFormat.LIBSVM,
        gzipped=gzipped,
        columns=[],
        feature_columns=[],
        sparse_columns=columns,
        own_labels=True,
        first_index=lowest,
    )
    return Look(layout) if gzipped else Look(layout, unit=Unit.LINES, end=file.size)


def label_cells(file: OpenFile, look: Look, problems: Problems) -> Iterator[Float64Array | list[str]]:
    """All labels of a file in order, some at a time: numbers, or texts. Raises TooManyProblems."""
    for part in _slices(file, _all_of(file), Progress(0, 0), gzipped=look.layout.gzipped):
        labels = [words[0] for line in part.data.split(b"\n") if (words := line.split(None, 1))]
        if any(_wrong_with_label(label) is not None for label in set(labels)):
            labels = list(_good_labels(part, problems))
        if all(_NUMBER.fullmatch(label) for label in set(labels)):
            yield np.array([float(label) for label in labels], dtype=np.float64)
        else:
            names = {label: class_name(_text(label)) for label in set(labels)}
            yield [names[label] for label in labels]


def read(
    file: OpenFile,
    dropped: DroppedFile,  # noqa: ARG001  # every format's reader is given it
    piece: Piece,
    layout: Layout,
    problems: Problems,
    progress: Progress,
) -> Iterator[Rows]:
    """The rows of a piece, sparse, as `dropmill.data.rows` says."""
    rules = _Rules(
        first_index=layout.first_index,
        width=layout.feature_dim,
        labels=layout.own_labels,
        classes=None if layout.classes is None else ClassIndex(layout.classes),
    )

    def rows(part: lines.Slice) -> Rows:
        checked = _checked(part, rules, problems)
        progress.rows += checked.seen
        return Rows(checked.features, checked.labels)

    # Mapped, so that nothing is kept of a slice while other pieces have their turns.
    return map(rows, _slices(file, piece, progress, gzipped=layout.gzipped))


def _all_of(file: OpenFile) -> Piece:
    return Piece(file=0, start=0, end=file.size)


def _slices(file: OpenFile, piece: Piece, progress: Progress, *, gzipped: bool) -> Iterator[lines.Slice]:
    """The lines of a piece, without comments."""
    found = lines.of_piece(
        file, piece, progress, gzipped=gzipped, slice_bytes=_SLICE_BYTES, max_line_bytes=MAX_LINE_BYTES
    )
    return map(_without_comments, found)


def _without_comments(part: lines.Slice) -> lines.Slice:
    return replace(part, data=_COMMENT.sub(b"", part.data)) if b"#" in part.data else part


def _numbered(part: lines.Slice) -> Iterator[tuple[int, bytes]]:
    """The lines that aren't blank, with their numbers."""
    for row, line in enumerate(part.data.split(b"\n"), part.first_line):
        if line.strip():
            yield row, line


def _checked(part: lines.Slice, rules: _Rules, problems: Problems) -> _Checked:
    """Parse a slice, and note what is wrong with its rows, which are left out. Raises TooManyProblems."""
    found = _parse(part.data)
    checked = None if found is None else _checked_at_once(found, rules)
    return checked or _checked_by_line(part, rules, problems)


# Whole slices


def _parse(data: bytes) -> _Lines | None:
    """Parse lines at once; None if anything about them is out of the ordinary."""
    labels: list[bytes] = []
    rests = [b""]  # and so the table begins with a line end, before which no mark of UTF-8 is left out
    counts = []
    for line in data.split(b"\n"):
        words = line.split(None, 1)
        if words:
            labels.append(words[0])
            rest = words[1] if len(words) > 1 else b""
            rests.append(rest)
            counts.append(rest.count(b":"))
    offsets = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=offsets[1:])
    table = _parse_pairs(b"\n".join(rests), int(offsets[-1]))
    return None if table is None else _Lines(labels, *table, offsets)


def _parse_pairs(data: bytes, count: int) -> tuple[Int64Array, Float64Array] | None:
    """Parse `count` pairs of index and value with space between; None if that's not what the data is."""
    if not count:
        return None if data.strip() else (np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float64))
    if b"x" in data or b"X" in data:  # the table reader would take an index in hexadecimal
        return None
    try:
        table = csv.read_csv(
            pa.BufferReader(data.translate(_SPACES)),
            read_options=csv.ReadOptions(use_threads=False, block_size=len(data) + 1, column_names=["index", "value"]),
            parse_options=csv.ParseOptions(delimiter=":", quote_char=False),
            convert_options=csv.ConvertOptions(
                column_types={"index": pa.uint32(), "value": pa.float64()}, null_values=[], strings_can_be_null=False
            ),
        )
    except pa.ArrowException:
        return None
    if table.num_rows != count:
        return None
    # Not by `to_numpy`, which loads pandas where that is installed.
    indexes, values = (np.from_dlpack(column.combine_chunks()) for column in table.columns)
    return indexes.astype(np.int64), values.astype(np.float64, copy=False)


def _checked_at_once(found: _Lines, rules: _Rules) -> _Checked | None:
    """None if there is something wrong with any row."""
    columns = found.columns - rules.first_index
    if len(columns) and (columns.min() < 0 or columns.max() >= rules.width):
        return None
    if not (np.abs(found.values) <= FLOAT32_MAX).all():  # NaN compares as False
        return None
    labels = _label_values(found.labels, rules)
    if labels is None:
        return None
    return _sparse(columns, found.values, found.offsets, labels, len(labels), rules.width)


def _sparse(
    columns: Int64Array, values: Float64Array, offsets: Int64Array, labels: Float64Array, seen: int, width: int
) -> _Checked | None:
    """Rows in their one form; None if a column stands twice in any."""
    counts = np.diff(offsets)
    rising = columns[1:] > columns[:-1]
    borders = offsets[1:-1]
    rising[borders[(borders > 0) & (borders < len(columns))] - 1] = True
    if not rising.all():
        of_row = np.repeat(np.arange(len(counts)), counts)
        order = np.lexsort((columns, of_row))
        columns, values = columns[order], values[order]
        if ((columns[1:] == columns[:-1]) & (of_row[1:] == of_row[:-1])).any():
            return None
    span = (int(columns.min()), int(columns.max())) if len(columns) else None
    cast = values.astype(np.float32)
    kept = cast != 0
    if not kept.all():
        before = np.zeros(len(kept) + 1, dtype=np.int64)
        np.cumsum(kept, out=before[1:])
        columns, cast, offsets = columns[kept], cast[kept], before[offsets]
    return _Checked(SparseMatrix(cast, columns, offsets, width), labels, seen, span)


# Line by line


def _checked_by_line(part: lines.Slice, rules: _Rules, problems: Problems) -> _Checked:
    columns, values, offsets, labels = array("q"), array("d"), array("q", [0]), array("d")
    seen = 0
    for row, line in _numbered(part):
        seen += 1
        before = problems.count
        tokens = (match[0] for match in _TOKEN.finditer(line))
        label = _label_value(next(tokens), row, rules, problems)
        indexes, numbers = array("q"), array("d")
        for token in tokens:
            pair = _pair(token, row, rules, problems)
            if pair is not None:
                indexes.append(pair[0])
                numbers.append(pair[1])
        _check_once(indexes, rules, row, problems)
        if problems.count == before:
            columns.extend(indexes)
            values.extend(numbers)
            offsets.append(len(columns))
            labels.append(label)
    checked = _sparse(
        np.array(columns, dtype=np.int64),
        np.array(values, dtype=np.float64),
        np.array(offsets, dtype=np.int64),
        np.array(labels, dtype=np.float64),
        seen,
        rules.width,
    )
    assert checked is not None  # noqa: S101  # said to the type checker; no row with a column twice has got here
    return checked


def _pair(token: bytes, row: int, rules: _Rules, problems: Problems) -> tuple[int, float] | None:
    """The column, from 0, and the value of an `index:value`; None if there is something wrong with it."""
    index, colon, cell = token.partition(b":")
    if index == b"qid" and colon:
        problems.add(_RANKING, row=row, value=_text(token))
        return None
    if not _INDEX.fullmatch(index) or not cell or b":" in cell:
        problems.add(_NO_PAIR, row=row, value=_text(token))
        return None
    digits = index.lstrip(b"0") or b"0"
    column = int(digits) - rules.first_index if len(digits) <= len(str(MAX_SPARSE_COLUMNS)) else rules.width
    name = shortened(_text(digits))
    if column < 0:
        problems.add(_BELOW, row=row, column=name)
        return None
    if column >= rules.width:
        last = rules.width - 1 + rules.first_index
        most = f"the last column is {last}: mend the line, or raise {_WIDTH_OPTION}"
        problems.add(_TOO_MANY if last >= MAX_SPARSE_COLUMNS else most, row=row, column=name)
        return None
    number = _number(cell)
    if abs(number) <= FLOAT32_MAX:
        return column, number
    rule = _TEXT_VALUE
    if not math.isnan(number):
        rule = BEYOND_FLOAT32
    elif _NOT_A_NUMBER.fullmatch(cell):
        rule = NOT_FINITE
    problems.add(rule, row=row, column=name, value=_text(cell))
    return None


def _check_once(indexes: "array[int]", rules: _Rules, row: int, problems: Problems) -> None:
    ordered = np.sort(np.array(indexes, dtype=np.int64))
    for index in np.unique(ordered[1:][ordered[1:] == ordered[:-1]])[:1]:
        problems.add(_TWICE, row=row, column=str(int(index) + rules.first_index))


# Labels


def _label_values(labels: Sequence[bytes], rules: _Rules) -> Float64Array | None:
    """The labels as rows have them; None if there is something wrong with any."""
    different = list(dict.fromkeys(labels))
    if any(b":" in label or len(label) > MAX_LABEL_BYTES for label in different):
        return None
    if not rules.labels or not different:
        return np.zeros(len(labels), dtype=np.float64)
    if rules.classes is not None:
        values = rules.classes.of([_text(label) for label in different]).tolist()
    else:
        values = [math.nan if _wrong_with_label(label) else _number(label) for label in different]
    if any(map(math.isnan, values)):
        return None
    known = dict(zip(different, values, strict=True))
    return np.array([known[label] for label in labels], dtype=np.float64)


def _good_labels(part: lines.Slice, problems: Problems) -> Iterator[bytes]:
    for row, line in _numbered(part):
        label = line.split(None, 1)[0]
        rule = _wrong_with_label(label)
        if rule is None:
            yield label
        else:
            problems.add(rule, row=row, column=_LABEL, value=_text(label))


def _label_value(label: bytes, row: int, rules: _Rules, problems: Problems) -> float:
    """The label as a row has it; NaN if there is something wrong with it."""
    values = _label_values([label], rules)
    if values is not None:
        return float(values[0])
    rule = _wrong_with_label(label) or (TEXT_LABEL if rules.classes is None else UNKNOWN_CLASS)
    problems.add(rule, row=row, column=_LABEL, value=_text(label))
    return math.nan


def _wrong_with_label(label: bytes) -> str | None:
    """Why this can't be the label of any row."""
    if b":" in label:
        return _NO_LABEL
    if len(label) > MAX_LABEL_BYTES:
        return _LONG_LABEL
    if _SEVERAL.fullmatch(label):
        return _SEVERAL_LABELS
    return wrong_with_label(_text(label))


def _number(token: bytes) -> float:
    """The finite number that is written, or infinity for one beyond float64; NaN if it is none."""
    return float(token) if _NUMBER.fullmatch(token) else math.nan


def _text(token: bytes) -> str:
    return token.decode("utf-8", "replace")
