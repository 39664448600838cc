"""The one door to what was dropped: `look` recognises it and says how every row of it is to be read.

Each format has a module of its own (`dropmill.data.rows` says what it offers), and docs/formats.md what it accepts. All
files of a folder are of one format and have the same columns.

The label is a column by name or 0-based index, and without one a column named `label`. Where labels are an array of
their own, or stand before each row, the recipe need not say it. Labels are numbers, or texts, which are classes.
"""

from collections.abc import Callable, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import NoReturn, TypeVar

import numpy as np

from dropmill.columns import place, told_name
from dropmill.contracts import (
    PROBLEMS_MAX,
    DroppedFile,
    FileFormat,
    FoundProblem,
    Layout,
    ObjectVersion,
    Part,
    Piece,
    Problem,
    Unit,
    listed,
)
from dropmill.data import delimited, idx, libsvm
from dropmill.data.checks import (
    DEFAULT_LABEL,
    MAX_CLASS_CHARACTERS,
    MAX_CLASSES,
    LabelValues,
    Problems,
    TooManyProblems,
    refuse,
    shortened,
)
from dropmill.data.readers import READERS
from dropmill.data.recognise import WORDS, recognise
from dropmill.data.recordio import SparseMatrix
from dropmill.data.rows import Look, OpenFile, Progress
from dropmill.data.shards import plan_shards
from dropmill.errors import InvalidDrop
from dropmill.labels import number_of
from dropmill.recipe import DataOptions
from dropmill.words import Cell, Words

SCAN_BYTES_MAX = 1 << 30
"""Up to so many bytes of a drop, the label column is read whole before conversion; above, the recipe says `classes`."""
WHOLE_BYTES_MAX = 2 << 30
"""The largest file that can't be divided: what one Lambda converts within its time."""

_ANOTHER_LABEL = "name another column with data.label in the recipe"
_LONG_NAME = f"a text of more than {MAX_CLASS_CHARACTERS} characters can't be the name of a class: {_ANOTHER_LABEL}"
_NOT_UTF8 = "the text of the label is not in UTF-8, so classes can't be told apart: save it as UTF-8"
_LOOKS_AT_ONCE = 16
_SAMPLED_PIECES = 64

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class DropFile:
    """A file of a drop as it is found in S3. `part` is what its folder says; `labels` is the source of the labels."""

    file: OpenFile
    source: ObjectVersion
    part: Part | None = None


@dataclass(frozen=True)
class Looked:
    """How rows are to be read, and the files that hold them (an IDX file of labels is with its rows)."""

    layout: Layout
    files: list[DroppedFile]


def look(files: Sequence[DropFile], options: DataOptions, *, width: int | None = None) -> Looked:
    """Recognise the files of a drop and say how their rows are to be read.

    Up to `SCAN_BYTES_MAX` the label column is read whole for its distinct values. `width` is how many columns sparse
    text has, if the recipe says so. Raises InvalidDrop, naming file, row and column, for what can't be read at all or
    has no usable label; wrong cells elsewhere are found when the rows are read.
    """
    kind, gzipped = _recognised(files)
    sources = {drop.file.name: drop.source for drop in files}
    if kind is FileFormat.IDX:
        files = _paired(files)
    looks = _looks(kind, files, options, gzipped=gzipped, width=width)
    layout = _agreed(looks, files, width)
    if any(drop.part for drop in files):
        layout = layout.model_copy(update={"pre_split": True})
    scanned = sum(drop.file.size for drop in files) <= SCAN_BYTES_MAX
    if kind is FileFormat.CSV and not gzipped and scanned and _quoted_line_ends(files, looks):
        layout = layout.model_copy(update={"quoted_line_ends": True})
        looks = [read_whole(seen) for seen in looks]
    looks = [replace(seen, layout=layout) for seen in looks]
    dropped = [
        dropped_file(drop, seen, sources[drop.file.labels.name] if drop.file.labels else None)
        for drop, seen in zip(files, looks, strict=True)
    ]
    if options.missing != "refuse" and layout.sparse_columns is None:
        fill = [0.0] * layout.feature_dim
        layout = layout.model_copy(update={"fill": fill})
        if options.missing == "mean":
            layout = layout.model_copy(update={"fill": _means(files, dropped, layout, whole=scanned)})
    if layout.own_labels and options.label not in (None, DEFAULT_LABEL):
        said = f"data.label is {shortened(str(options.label))!r} in the recipe, but {WORDS[kind]} has its labels beside"
        refuse(files[0].file.name, f"{said} the columns: take data.label out of the recipe")
    if layout.labelled:
        layout = _with_label_values(layout, files, dropped, looks, options, scanned=scanned)
    return Looked(layout, dropped)


def _each(function: Callable[[ItemT], ResultT], items: Sequence[ItemT]) -> list[ResultT]:
    """The results for all items in order, some being worked on at once: a folder may have thousands of files."""
    if len(items) == 1:
        return [function(items[0])]
    with ThreadPoolExecutor(_LOOKS_AT_ONCE, thread_name_prefix="look") as pool:
        return list(pool.map(function, items))


def _recognised(files: Sequence[DropFile]) -> tuple[FileFormat, bool]:
    found = _each(lambda drop: recognise(drop.file), files)
    for drop, one in zip(files, found, strict=True):
        if one != found[0]:
            names = [f"{'gzipped ' if gzipped else ''}{WORDS[kind]}" for kind, gzipped in (one, found[0])]
            rule = f"is {names[0]}, and {files[0].file.name} is {names[1]}: drop files of one format together"
            refuse(drop.file.name, rule)
    return found[0]


def _paired(files: Sequence[DropFile]) -> list[DropFile]:
    """Images with their labels, within each part."""
    by_name = {drop.file.name: drop for drop in files}
    parts = sorted({drop.part for drop in files}, key=str)
    return [
        replace(by_name[file.name], file=file)
        for part in parts
        for file in idx.paired([drop.file for drop in files if drop.part is part])
    ]


def _looks(
    kind: FileFormat, files: Sequence[DropFile], options: DataOptions, *, gzipped: bool, width: int | None
) -> list[Look]:
    def look_at(drop: DropFile) -> Look:
        if kind is FileFormat.LIBSVM:
            return libsvm.look(drop.file, options, gzipped=gzipped, width=width)
        seen: Look = READERS[kind].look(drop.file, options, gzipped=gzipped)
        return seen

    if (
        kind is FileFormat.LIBSVM
        and width is None
        and (total := sum(drop.file.size for drop in files)) > SCAN_BYTES_MAX
    ):
        refuse(
            files[0].file.name,
            f"{total:,} bytes of LIBSVM are more than are read to count the columns ({SCAN_BYTES_MAX:,}):"
            " say how many there are with hyperparameters.feature_dim in the recipe",
        )
    looks = _each(look_at, files)
    for drop, seen in zip(files, looks, strict=True):
        if seen.unit is Unit.WHOLE and drop.file.size > WHOLE_BYTES_MAX:
            refuse(
                drop.file.name,
                f"has {drop.file.size:,} bytes, and such a file can't be divided: at most {WHOLE_BYTES_MAX:,};"
                " drop it in several files, in a folder closed by _SUCCESS",
            )
    return looks


def _agreed(looks: Sequence[Look], files: Sequence[DropFile], width: int | None) -> Layout:
    """The layout of all files; sparse ones may differ in how many columns they have, unless `width` says it."""
    first = looks[0].layout
    if first.sparse_columns is not None and first.format is FileFormat.LIBSVM:
        widest = max(seen.layout.sparse_columns or 1 for seen in looks)
        lowest = min(seen.layout.first_index for seen in looks)
        if width is None and lowest == 0 and any(seen.layout.first_index for seen in looks):
            # Files that show no column 0 were counted from 1.
            widest = max((seen.layout.sparse_columns or 1) + seen.layout.first_index for seen in looks)
        return first.model_copy(update={"sparse_columns": widest, "first_index": lowest})
    for drop, seen in zip(files, looks, strict=True):
        other = seen.layout
        if other == first:
            continue
        what: str | Words
        if other.feature_dim != first.feature_dim or len(other.columns) != len(first.columns):
            what = f"has {other.feature_dim} features where {files[0].file.name} has {first.feature_dim}"
        elif other.columns != first.columns:
            at = next(index for index, name in enumerate(first.columns) if other.columns[index] != name)
            names = told_name(other.columns, other.columns[at]), told_name(first.columns, first.columns[at])
            what = Words(f"calls column {at} ", names[0], f" where {files[0].file.name} calls it ", names[1])
        else:
            what = f"is laid out differently from {files[0].file.name} (header, delimiter or labels)"
        refuse(drop.file.name, what, ": all files of a drop must have the same columns")
    return first


def _quoted_line_ends(files: Sequence[DropFile], looks: Sequence[Look]) -> bool:
    pairs = list(zip(files, looks, strict=True))
    return any(_each(lambda pair: delimited.has_quoted_line_ends(pair[0].file, pair[1]), pairs))


def read_whole(seen: Look) -> Look:
    """The look at a file that is read in one piece: its lines can't be told from what stands within quotation marks."""
    return replace(seen, unit=Unit.WHOLE, start=0, end=1, first_line=1)


def dropped_file(drop: DropFile, seen: Look, labels: ObjectVersion | None = None) -> DroppedFile:
    """The file as plans have it. `labels` is the object that holds its labels, where that is another."""
    return DroppedFile(
        source=drop.source,
        name=drop.file.name,
        part=drop.part,
        labels=labels,
        unit=seen.unit,
        start=seen.start,
        end=seen.end,
        first_line=seen.first_line,
        rows=seen.rows,
    )


# Labels


def _with_label_values(
    layout: Layout,
    files: Sequence[DropFile],
    dropped: Sequence[DroppedFile],
    looks: Sequence[Look],
    options: DataOptions,
    *,
    scanned: bool,
) -> Layout:
    """The layout with the distinct labels: as the recipe lists them, else as they are read, else unknown."""
    if options.classes is not None:
        values = [float(index) for index in range(len(options.classes))]
        return layout.model_copy(update={"classes": options.classes, "label_values": values})
    if not scanned:
        return layout
    numbers = LabelValues()
    names: set[str] = set()
    for drop, seen in zip(files, looks, strict=True):
        problems = Problems(drop.file.name, [])
        try:
            for cells in READERS[layout.format].label_cells(drop.file, seen, problems):
                if isinstance(cells, np.ndarray):
                    numbers.add(cells)
                elif len(names) <= MAX_CLASSES:
                    names.update(cells)
        except TooManyProblems:
            pass
        problems.raise_any()
    if not names:
        return layout.model_copy(update={"label_values": numbers.result()})
    texts = sorted(name for name in names if number_of(name) is None)
    if len(texts) > MAX_CLASSES:
        rule = f"there are more than {MAX_CLASSES} different texts, too many to be classes: {_ANOTHER_LABEL}"
        column, name = _label_place(layout)
        refuse(files[0].file.name, rule, column=column, name=name)
    if len(texts) < len(names) or not numbers.empty:
        # More likely a mistake than a class.
        number = f"{'one is' if len(texts) == 1 else f'{len(texts)} are'} not"
        some = Cell(f"{_some(texts)} {'is' if len(texts) == 1 else 'are'} not", number)
        advice = ": mend them, or list all in data.classes of the recipe"
        _refuse_labels(layout, files, dropped, texts, Words("some labels are numbers, but ", some, advice))
    for refused, why in (
        ([text for text in texts if len(text) > MAX_CLASS_CHARACTERS], Words(_LONG_NAME)),
        ([text for text in texts if "\ufffd" in text], Words(_NOT_UTF8)),
    ):
        if refused:
            others = sorted(names.difference(refused)) or None
            _refuse_labels(layout.model_copy(update={"classes": others}), files, dropped, refused, why)
    values = [float(index) for index in range(len(texts))]
    return layout.model_copy(update={"classes": texts, "label_values": values})


def _label_place(layout: Layout) -> tuple[str, Cell | None]:
    return ("label", None) if layout.label_column is None else place(layout.columns, layout.label_column)


def _some(texts: Sequence[str]) -> str:
    return ", ".join(repr(shortened(text)) for text in texts[:5]) + (", ..." if len(texts) > 5 else "")


def _refuse_labels(
    layout: Layout, files: Sequence[DropFile], dropped: Sequence[DroppedFile], texts: Sequence[str], rule: Words
) -> NoReturn:
    """Refuse labels of these texts, no classes of the layout: the rule is said with the first row, others follow."""
    problems: list[Problem] = []
    for drop, file in zip(files, dropped, strict=True):
        problems += _rows_of_labels(layout, drop, file, {shortened(text) for text in texts})
    if not problems:
        column, name = _label_place(layout)
        refuse(files[0].file.name, rule, column=column, name=name)
    first, *rest = problems[:PROBLEMS_MAX]
    said = Words(first.model_copy(update={"value": None, "rule": ""}).words, rule)
    raise InvalidDrop(listed([said, *(problem.words for problem in rest)]))


def _rows_of_labels(layout: Layout, drop: DropFile, file: DroppedFile, shown: Set[str]) -> list[Problem]:
    """The rows of a file that have one of these labels, as long as other problems leave room for them."""
    found: list[FoundProblem] = []
    piece = Piece(file=0, start=file.start, end=file.end)
    progress = Progress(piece.start, piece.start)
    try:
        for _ in READERS[layout.format].read(drop.file, file, piece, layout, Problems(file.name, found), progress):
            pass
    except TooManyProblems:
        pass
    before = file.first_line - 1 if file.unit is Unit.LINES else 0
    return [
        problem.model_copy(update={"row": (problem.row or 0) + before})
        for problem in (one.problem for one in found)
        if (problem.column, problem.name) == _label_place(layout) and problem.value in shown
    ]


# Missing values


def _means(files: Sequence[DropFile], dropped: Sequence[DroppedFile], layout: Layout, *, whole: bool) -> list[float]:
    """The mean of each feature over all rows, or over some of each of 64 places of a large drop."""
    pieces = sorted(
        (piece for shard in plan_shards(dropped) for piece in shard.pieces), key=lambda piece: (piece.file, piece.start)
    )
    most = None
    if not whole:
        chosen = np.linspace(0, len(pieces) - 1, min(len(pieces), _SAMPLED_PIECES)).astype(int)
        pieces, most = [pieces[index] for index in chosen], 1
    total = np.zeros(layout.feature_dim)
    count = np.zeros(layout.feature_dim)
    # Problems are left to the conversion, which names them all.
    for piece in pieces:
        file = dropped[piece.file]
        rows = READERS[layout.format].read(
            files[piece.file].file,
            file,
            piece,
            layout,
            Problems(file.name, []),
            Progress(piece.start, piece.start),
        )
        try:
            for some in islice(rows, most):
                assert not isinstance(some.features, SparseMatrix)  # noqa: S101  # said to the type checker
                total += np.nansum(some.features, axis=0, dtype=np.float64)
                count += np.count_nonzero(~np.isnan(some.features), axis=0)
        except TooManyProblems:
            continue
    return [float(value) for value in np.divide(total, count, out=np.zeros_like(total), where=count > 0)]
