"""JSON Lines: on each line an object (`{"label": 3, "width": 0.5}`) or an array of numbers (`[3, 0.5]`).

The keys of the first line are the columns, in its order; the columns of arrays are numbered. Where missing values are
filled in, and for keys that the recipe drops, the first thousand lines count, in the order in which keys come up. A
key may hold an array of numbers: `"pixels": [0, 9]` makes the columns `pixels.0` and `pixels.1`, which may also be
written as keys of their own. Where the recipe drops such a key (`drop_columns: [pixels]`), it is one column.

A value is a number, true (1), false (0) or null, which is missing, as is a key that a line does not have and NaN, which
is no JSON but is written by many programs. A label may be text: a class, or a number within quotation marks. Lines are
read alone, so a document or an array that goes on over several lines is refused.

Source of the format: jsonlines.org, and RFC 8259 for JSON itself.

A slice of lines is parsed at once, with its columns' types as its first line shows them; only where that fails is it
read line by line, to name what is wrong.
"""

import json
import math
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import json as arrow_json

from dropmill.contracts import DroppedFile, FileFormat, Layout, Piece, Unit
from dropmill.data import lines
from dropmill.data.checks import (
    BEYOND_FLOAT32,
    FLOAT32_MAX,
    MAX_COLUMNS,
    NOT_FINITE,
    UNKNOWN_CLASS,
    ClassIndex,
    Problems,
    class_name,
    feature_columns,
    kept_columns,
    label_column,
    numbered,
    refuse,
    shortened,
)
from dropmill.data.delimited_cells import (
    EMPTY_LABEL,
    MISSING_VALUE,
    NO_VALUE,
    NUMBER,
    TEXT_CELL,
    TEXT_LABEL,
    wrong_with_label,
)
from dropmill.data.rows import ROWS_BYTES, Float64Array, Look, OpenFile, Progress, Rows
from dropmill.recipe import DataOptions
from dropmill.words import Cell

MAX_LINE_BYTES = 4 << 20
MAX_LABEL_CHARACTERS = 256

Int64Array = NDArray[np.int64]

_SLICE_BYTES = 1 << 20
_KEYS_PER_ROW = 80
"""With more keys for each row of a slice than this, setting up their columns costs more than reading line by line."""
_LOOK_LINES = 1000
_LINE = "line"  # the key under which a line that is an array is parsed
_FLOAT = pa.float64()
_FLOATS = pa.list_(_FLOAT)

_ONE_LINE_EACH = "write one object on each line (JSON Lines); pandas does with to_json(orient='records', lines=True)"
_NUMBER_AS_TEXT = "is text: write the number without quotation marks, or list the column under drop_columns"
_LONG_LABEL = f"is longer than {MAX_LABEL_CHARACTERS} characters: a label must be a number or the name of a class"
_NESTED = "holds an array or an object: write a number, or list the column under drop_columns"
_UNKNOWN_KEY = "the first line of the file has no such key: add it there (null will do), or take it out here"
_KEY_TWICE = "the key stands twice on the line: keep one"
_NO_ROW = "the line is neither an object nor an array of numbers: mend it, or leave it out"
_ARRAY_LINE = "the line is an array, and the first line is an object: write an object"


@dataclass(frozen=True)
class _Columns:
    """Where the values of a line belong: `places` of keys, and of keys that hold an array the first and the number."""

    names: tuple[str, ...]
    places: dict[str, int]
    arrays: dict[str, tuple[int, int]]
    numbered: bool


@dataclass
class _Wanted:
    """What is asked of lines: the columns of features, and the label's if there is one.

    With `any_label` it may be text. `types` is what earlier slices showed of keys that do not hold numbers.
    """

    columns: _Columns
    features: list[int]
    label: int | None
    missing: bool = False
    classes: ClassIndex | None = None
    any_label: bool = False
    types: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Table:
    """Rows: `features` [n, d] with NaN where a value is missing, `labels` [n], and how many rows there were.

    `lines` are the numbers of the lines of good rows, where some may not be.
    """

    features: Float64Array
    labels: Float64Array | list[str] | None
    seen: int
    lines: set[int] | None = None


def look(file: OpenFile, options: DataOptions, *, gzipped: bool) -> Look:
    """Say how a file of JSON Lines is laid out. Reads its first lines. Raises InvalidDrop."""
    first = next(
        (part for part in _slices(file, _all_of(file), Progress(0, 0), gzipped=gzipped) if part.data.strip()), None
    )
    if first is None:
        refuse(file.name, "the file is empty")
    columns = _columns_of(first, file.name, options)
    label = label_column(file.name, columns, options)
    layout = Layout(
        format=FileFormat.JSON_LINES,
        gzipped=gzipped,
        columns=columns,
        label_column=label,
        feature_columns=feature_columns(file.name, columns, label, options),
        kept_columns=kept_columns(file.name, columns, options),
    )
    return Look(layout) if gzipped else Look(layout, unit=Unit.LINES, end=file.size)


def label_cells(file: OpenFile, look: Look, problems: Problems) -> Iterator[Float64Array | list[str]]:
    """All labels of a file in order, some at a time: numbers, or texts. Raises TooManyProblems."""
    wanted = _Wanted(_places(tuple(look.layout.columns)), [], look.layout.label_column, any_label=True)
    for part in _slices(file, _all_of(file), Progress(0, 0), gzipped=look.layout.gzipped):
        labels = _table(part, wanted, problems).labels
        if isinstance(labels, np.ndarray):
            yield labels
        elif labels is not None:
            names = {label: class_name(label) for label in set(labels)}
            yield [names[label] for label in labels]


def read(
    file: OpenFile,
    dropped: DroppedFile,  # noqa: ARG001  # every format's reader is given it
    piece: Piece,
    layout: Layout,
    problems: Problems,
    progress: Progress,
) -> Iterator[Rows]:
    """The rows of a piece, as `dropmill.data.rows` says."""
    wanted = _Wanted(
        columns=_places(tuple(layout.columns)),
        features=layout.feature_columns,
        label=layout.label_column,
        missing=layout.fill is not None,
        classes=None if layout.classes is None else ClassIndex(layout.classes),
    )
    rows_at_once = max(1, 2 * ROWS_BYTES // (4 * layout.feature_dim))

    def rows(part: lines.Slice) -> Rows:
        table = _table(part, wanted, problems)
        progress.rows += table.seen
        assert not isinstance(table.labels, list)  # noqa: S101  # said to the type checker: only `any_label` lets texts in
        kept = (
            _kept(part, [layout.columns[index] for index in layout.kept_columns], table)
            if layout.kept_columns
            else None
        )
        return Rows(table.features.astype(np.float32), table.labels, kept=kept)

    parts = _slices(file, piece, progress, gzipped=layout.gzipped)
    # Mapped, so that nothing is kept of rows while other pieces have their turns.
    return map(rows, chain.from_iterable(_cut(part, rows_at_once) for part in parts))


def _all_of(file: OpenFile) -> Piece:
    return Piece(file=0, start=0, end=file.size)


def _slices(file: OpenFile, piece: Piece, progress: Progress, *, gzipped: bool) -> Iterator[lines.Slice]:
    return lines.of_piece(
        file, piece, progress, gzipped=gzipped, slice_bytes=_SLICE_BYTES, max_line_bytes=MAX_LINE_BYTES
    )


def _cut(part: lines.Slice, rows: int) -> Iterator[lines.Slice]:
    """The same in slices of at most so many lines: a short line may still be a row of many missing values."""
    if part.data.count(b"\n") <= rows:
        yield part
        return
    ends = np.flatnonzero(np.frombuffer(part.data, dtype=np.uint8) == ord("\n"))[rows - 1 :: rows] + 1
    start, first_line = 0, part.first_line
    for end in ends.tolist():
        yield lines.Slice(part.data[start:end], first_line)
        start, first_line = end, first_line + rows
    if start < len(part.data):
        yield lines.Slice(part.data[start:], first_line)


def _numbered(part: lines.Slice) -> Iterator[tuple[int, bytes]]:
    """The lines that aren't blank, with their numbers."""
    for row, line in enumerate(part.data.split(b"\n"), part.first_line):
        if line.strip():
            yield row, line


# Values of JSON


class _Constant(str):
    """NaN, Infinity or -Infinity."""

    __slots__ = ()


class _TooLarge(str):
    """A number beyond float64, as it is written."""

    __slots__ = ()


class _Unreadable(Exception):
    """A line that is not JSON. The message is the rule."""


class _KeyTwice(_Unreadable):
    """An object with a key more than once."""

    def __init__(self, key: str) -> None:
        super().__init__(_KEY_TWICE)
        self.key = key


def _number(text: str) -> float | _TooLarge:
    value = float(text)
    return value if math.isfinite(value) else _TooLarge(text)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = {_sound(key): value for key, value in pairs}
    if len(found) != len(pairs):
        raise _KeyTwice(_first_twice([_sound(key) for key, _ in pairs]))
    return found


def _first_twice(names: list[str]) -> str:
    counts = Counter(names)
    return next(name for name in names if counts[name] > 1)


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_number, parse_float=_number, parse_constant=_Constant)


def _sound(text: str) -> str:
    """With U+FFFD for halves of surrogate pairs, which JSON can spell and UTF-8 can't."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _decoded(line: bytes) -> Any:
    """The value of a line. Raises _Unreadable."""
    try:
        return _DECODER.decode(line.decode("utf-8", "replace").strip())
    except json.JSONDecodeError as error:
        raise _Unreadable(f"the line is not JSON: {error.msg.lower()} at character {error.colno}") from None
    except RecursionError:
        raise _Unreadable("the line is nested too deeply: write an object of numbers") from None


# What is kept


_AS_WRITTEN = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=str)


def _kept(part: lines.Slice, names: list[str], table: _Table) -> Any:
    """The values of some keys of each good row, as texts: numbers as they are written, and none for null."""
    rows = [
        _AS_WRITTEN.decode(line.decode("utf-8", "replace").strip())
        for number, line in _numbered(part)
        if table.lines is None or number in table.lines
    ]
    texts = [pa.array([_kept_text(row, name) for row in rows], pa.string()) for name in names]
    return pa.RecordBatch.from_arrays(texts, numbered(len(names)))


def _kept_text(row: dict[str, Any] | list[Any], name: str) -> str:
    value = row.get(name) if isinstance(row, dict) else row[int(name)]
    if isinstance(value, str):
        return _sound(value)
    if isinstance(value, bool | list | dict):
        return json.dumps(value, separators=(",", ":"))
    return ""


# Columns


def _columns_of(first: lines.Slice, file_name: str, options: DataOptions) -> list[str]:
    """The names of the columns by the first lines of a file."""
    dropped = {*options.drop_columns, *options.carried}
    sizes: dict[str, int | None] = {}  # of the arrays that keys hold; 0 for a single value
    for number, (row, line) in enumerate(_numbered(first)):
        if number == _LOOK_LINES:
            break
        try:
            value = _decoded(line)
        except _Unreadable as error:
            if number:
                continue  # it is named when the rows are read
            _refuse_first(file_name, row, line, error)
        if number == 0 and isinstance(value, list):
            if not value or isinstance(value[0], list | dict):
                refuse(file_name, f"the line is an array of rows, or empty: {_ONE_LINE_EACH}", row=row)
            return _not_too_many(numbered(len(value)), file_name, row)
        if isinstance(value, dict):
            if number and options.missing == "refuse":
                value = {key: cell for key, cell in value.items() if key in sizes or key in dropped}
            _add_keys(sizes, value, dropped)
    if not sizes:
        refuse(file_name, "the first line holds no key, so there is nothing to learn from", row=first.first_line)
    return _not_too_many(_named(sizes, file_name, first.first_line), file_name, first.first_line)


def _named(sizes: dict[str, int | None], file_name: str, row: int) -> list[str]:
    names: list[str] = []
    for key, size in sizes.items():
        names += [f"{key}.{index}" for index in range(size)] if size else [key]
    if len(set(names)) != len(names):
        twice = _first_twice(names)
        refuse(file_name, "two columns have this name: rename one", row=row, column=shortened(twice))
    columns = _places(tuple(names))
    for key, size in sizes.items():
        if size and columns.arrays.get(key, (0, 0))[1] != size:
            rule = "the values of this array would be called like other columns: rename the key"
            refuse(file_name, rule, row=row, column=shortened(key))
    return names


def _add_keys(sizes: dict[str, int | None], line: dict[str, Any], dropped: set[str]) -> None:
    """Add the keys of a line. The first value that isn't missing or empty says how many columns a key makes."""
    for key, value in line.items():
        single = None if value is None else 0
        if sizes.get(key) is None:
            sizes[key] = len(value) or None if isinstance(value, list) and key not in dropped else single


def _not_too_many(names: list[str], file_name: str, row: int) -> list[str]:
    if len(names) > MAX_COLUMNS:
        refuse(file_name, f"there are {len(names)} columns; {MAX_COLUMNS} is the most", row=row)
    return names


def _refuse_first(file_name: str, row: int, line: bytes, error: _Unreadable) -> NoReturn:
    if isinstance(error, _KeyTwice):
        refuse(file_name, str(error), row=row, name=Cell(shortened(error.key)))
    if line.strip() in (b"{", b"[") or line.rstrip().endswith((b",", b"{", b"[", b":")):
        refuse(file_name, f"the JSON goes on over several lines: {_ONE_LINE_EACH}", row=row)
    refuse(file_name, str(error), row=row)


@lru_cache(maxsize=2)
def _places(names: tuple[str, ...]) -> _Columns:
    """Shared by all pieces that are read: there may be many columns."""
    places = {name: index for index, name in enumerate(names)}
    arrays = {}
    for index, name in enumerate(names):
        key = name.removesuffix(".0")
        if key != name and key not in places:
            count = 1
            while index + count < len(names) and names[index + count] == f"{key}.{count}":
                count += 1
            arrays[key] = index, count
    return _Columns(names, places, arrays, numbered=list(names) == numbered(len(names)))


# Whole slices


def _table(part: lines.Slice, wanted: _Wanted, problems: Problems) -> _Table:
    """Parse a slice, and note what is wrong with its rows, which are left out. Raises TooManyProblems."""
    return _parse(part.data, wanted) or _parse_lines(part, wanted, problems)


def _parse(data: bytes, wanted: _Wanted) -> _Table | None:
    """Parse lines at once; None if anything about them is out of the ordinary."""
    data = data.rstrip(b"\r\n")
    count = data.count(b"\n") + 1
    opening = data[:1]
    if opening not in (b"{", b"[") or data.count(b"\n" + opening) != count - 1:
        return None
    if opening == b"[":
        if data.count(b"[") != count or not wanted.columns.numbered:
            return None
        schema, arrays = pa.schema([(_LINE, _FLOATS)]), {_LINE: (0, len(wanted.columns.names))}
        prefix = b'{"%s":' % _LINE.encode()
        data = prefix + data.replace(b"\n", b"}\n" + prefix) + b"}"
    else:
        first = data.partition(b"\n")[0]
        if first.count(b'":') > _KEYS_PER_ROW * count:
            return None
        schema, arrays = _schema(first, wanted), wanted.columns.arrays
        if schema is None:
            return None
    try:
        table = arrow_json.read_json(
            pa.BufferReader(data),
            read_options=arrow_json.ReadOptions(use_threads=False, block_size=len(data) + 1),
            parse_options=arrow_json.ParseOptions(
                explicit_schema=schema, newlines_in_values=False, unexpected_field_behavior="error"
            ),
        )
        return _taken(table.combine_chunks().to_batches()[0], arrays, wanted) if table.num_rows == count else None
    except (pa.ArrowException, UnicodeDecodeError):
        return None


def _schema(line: bytes, wanted: _Wanted) -> Any:
    """The keys of the first of some lines with their types, and those that it lacks; None if it has something odd."""
    columns, types = wanted.columns, wanted.types
    try:
        value = _decoded(line)
    except _Unreadable:
        return None
    if not isinstance(value, dict):
        return None
    keys = list(value)
    covered: set[int] = set()
    for key, cell in value.items():
        if key not in columns.places and key not in columns.arrays:
            return None
        first, count = columns.arrays.get(key) or (columns.places[key], 1)
        if not covered.isdisjoint(range(first, first + count)):
            return None
        covered.update(range(first, first + count))
        kind = _type_of(cell)
        if kind == (_FLOATS if key in columns.arrays else _FLOAT):
            types.pop(key, None)
        elif kind is not None:
            types[key] = kind
    for key, (first, count) in columns.arrays.items():
        if covered.isdisjoint(range(first, first + count)):
            keys.append(key)
            covered.update(range(first, first + count))
    keys += [name for index, name in enumerate(columns.names) if index not in covered]
    return pa.schema([pa.field(key, types.get(key) or (_FLOATS if key in columns.arrays else _FLOAT)) for key in keys])


def _type_of(cell: Any) -> Any:
    if isinstance(cell, bool):
        return pa.bool_()
    if isinstance(cell, str) and not isinstance(cell, _Constant | _TooLarge):
        return pa.string()
    if isinstance(cell, list):
        return pa.list_((_type_of(cell[0]) if cell and not isinstance(cell[0], list) else None) or _FLOAT)
    return None if cell is None else _FLOAT


def _taken(batch: Any, arrays: dict[str, tuple[int, int]], wanted: _Wanted) -> _Table | None:
    """The rows of a parsed slice; None if there is something wrong with any."""
    columns = np.array(wanted.features, dtype=np.int64)
    places = wanted.columns.places
    singles = [key for key in batch.schema.names if key not in arrays]
    features = _singles(batch, singles, columns, places)
    if features is None:
        return None
    labels = _label_cells(batch, [key for key in singles if places[key] == wanted.label])
    for key in [key for key in batch.schema.names if key in arrays]:
        first, count = arrays[key]
        cells = _array_cells(batch[key], count)
        if cells is None:
            return None
        if wanted.label is not None and first <= wanted.label < first + count:
            labels = cells[:, wanted.label - first]
        low, high = np.searchsorted(columns, [first, first + count])
        features[:, low:high] = cells if high - low == count else cells[:, columns[low:high] - first]
    good = np.abs(features) <= FLOAT32_MAX
    if not good.all() and not (wanted.missing and (good | np.isnan(features)).all()):
        return None
    if labels is not None:
        labels = _label_values(labels, wanted)
    if labels is None and wanted.label is not None:
        return None
    return _Table(features, labels, batch.num_rows)


def _singles(batch: Any, keys: list[str], columns: Int64Array, places: dict[str, int]) -> Float64Array | None:
    """Features [n, columns] with those filled in whose keys are given; None if one of them holds no numbers."""
    indexes = np.array([places[key] for key in keys], dtype=np.int64)
    chosen = np.isin(indexes, columns)
    taken = batch.select([key for key, given in zip(keys, chosen.tolist(), strict=True) if given])
    for index, kind in enumerate(taken.schema.types):
        if pa.types.is_boolean(kind):
            taken = taken.set_column(index, taken.schema.names[index], taken.column(index).cast(_FLOAT))
        elif not pa.types.is_floating(kind):
            return None
    features = np.empty((batch.num_rows, len(columns)), dtype=np.float64)
    if chosen.any():
        cells: Float64Array = taken.to_tensor(null_to_nan=True, row_major=True).to_numpy()
        if np.array_equal(indexes[chosen], columns):
            return cells
        features[:, np.searchsorted(columns, indexes[chosen])] = cells
    return features


def _label_cells(batch: Any, keys: list[str]) -> Float64Array | list[str] | None:
    """The labels, where they are a column of its own: NaN where they are missing, None if they are neither kind."""
    for key in keys:
        cells = batch[key].cast(_FLOAT) if pa.types.is_boolean(batch[key].type) else batch[key]
        if pa.types.is_string(cells.type) and not cells.null_count:
            texts: list[str] = cells.to_pylist()
            return texts
        if pa.types.is_floating(cells.type):
            return _numbers(cells)
    return None


def _array_cells(rows: Any, count: int) -> Float64Array | None:
    """The cells of a column of arrays [n, count]; None if any array is missing or of another length."""
    if rows.null_count or not pa.types.is_list(rows.type) or not pa.types.is_floating(rows.type.value_type):
        return None
    if (np.diff(np.from_dlpack(rows.offsets)) != count).any():
        return None
    return _numbers(rows.flatten()).reshape(-1, count)


def _numbers(cells: Any) -> Float64Array:
    """A column [n], NaN where a value is missing."""
    # Not by its `to_numpy`, which loads pandas where that is installed.
    batch = pa.RecordBatch.from_arrays([cells], ["cells"])
    numbers: Float64Array = batch.to_tensor(null_to_nan=True).to_numpy()
    return numbers.reshape(-1)


def _label_values(labels: Float64Array | list[str], wanted: _Wanted) -> Float64Array | list[str] | None:
    """The labels as rows have them; None if there is something wrong with any."""
    if isinstance(labels, np.ndarray):
        if not (np.abs(labels) <= FLOAT32_MAX).all():  # NaN compares as False
            return None
        indexes = labels if wanted.classes is None else wanted.classes.of(labels)
        return None if np.isnan(indexes).any() else indexes
    different = list(dict.fromkeys(labels))
    if any(len(label) > MAX_LABEL_CHARACTERS for label in different):
        return None
    if wanted.classes is not None and different:
        values = wanted.classes.of(different).tolist()
    elif any(_wrong_with_text_label(label) is not None for label in different):
        return None
    elif all(map(NUMBER.fullmatch, different)):
        values = [float(label) for label in different]
    else:
        return labels if wanted.any_label else None
    if any(map(math.isnan, values)):
        return None
    known = dict(zip(different, values, strict=True))
    return np.array([known[label] for label in labels], dtype=np.float64)


def _wrong_with_text_label(label: str) -> str | None:
    """Why this text can be no label of any kind."""
    return _LONG_LABEL if len(label) > MAX_LABEL_CHARACTERS else wrong_with_label(label.strip())


# Line by line


class _Absent:
    """Stands where a line has no such key."""


_ABSENT = _Absent()


def _parse_lines(part: lines.Slice, wanted: _Wanted, problems: Problems) -> _Table:
    """Parse line by line, and say which cells are wrong."""
    features = array("d")
    labels: list[float | str] = []
    good: set[int] = set()
    seen = 0
    for row, line in _numbered(part):
        seen += 1
        before = problems.count
        cells = _cells_of_line(line, wanted.columns, row, problems)
        if cells is None:
            continue
        numbers = [_feature(cells[index], index, row, wanted, problems) for index in wanted.features]
        label = None if wanted.label is None else _label(cells[wanted.label], row, wanted, problems)
        if problems.count == before:
            good.add(row)
            features.extend(numbers)
            if label is not None:
                labels.append(label)
    rows = np.array(features, dtype=np.float64).reshape(len(good), len(wanted.features))
    if wanted.label is None:
        return _Table(rows, None, seen, good)
    if any(isinstance(label, str) for label in labels):
        return _Table(rows, [str(label) for label in labels], seen, good)
    return _Table(rows, np.array(labels, dtype=np.float64), seen, good)


def _cells_of_line(line: bytes, columns: _Columns, row: int, problems: Problems) -> list[Any] | None:
    """The values of a line by column; None if they can't be told."""
    try:
        value = _decoded(line)
    except _KeyTwice as error:
        problems.add(str(error), row=row, name=Cell(shortened(error.key)))
        return None
    except _Unreadable as error:
        problems.add(str(error), row=row)
        return None
    if isinstance(value, dict):
        return _cells_of_object(value, columns, row, problems)
    if not isinstance(value, list):
        problems.add(_NO_ROW, row=row)
    elif not columns.numbered:
        problems.add(_ARRAY_LINE, row=row)
    elif len(value) != len(columns.names):
        rule = f"the row has {len(value)} values where the file has {len(columns.names)} columns"
        problems.add(rule, row=row)
    else:
        return value
    return None


def _cells_of_object(line: dict[str, Any], columns: _Columns, row: int, problems: Problems) -> list[Any] | None:
    cells: list[Any] = [_ABSENT] * len(columns.names)
    good = True
    for key, value in line.items():
        first, count, rule = columns.places.get(key, -1), 1, None
        found = [value]
        if first < 0 and key in columns.arrays:
            first, count = columns.arrays[key]
            found = [None] * count if value is None else value
            if not isinstance(found, list):
                rule = f"holds no array, but should hold one of {count} numbers: write [...]"
            elif len(found) != count:
                rule = f"the array has {len(found)} values where the first line has {count}"
        elif first < 0:
            rule = _UNKNOWN_KEY
        if rule is None and any(cell is not _ABSENT for cell in cells[first : first + count]):
            rule = _KEY_TWICE
        if rule is None:
            cells[first : first + count] = found
        else:
            # A key that the first line has not may be anything.
            name = shortened(key)
            if rule is _UNKNOWN_KEY:
                problems.add(rule, row=row, name=Cell(name))
            else:
                problems.add(rule, row=row, column=name)
            good = False
    return cells if good else None


def _feature(cell: Any, index: int, row: int, wanted: _Wanted, problems: Problems) -> float:
    """A feature's value; NaN if it is missing, or if there is something wrong with it."""
    if isinstance(cell, bool):
        return float(cell)
    if isinstance(cell, float) and abs(cell) <= FLOAT32_MAX:
        return cell
    if wanted.missing and (cell is None or cell is _ABSENT or (isinstance(cell, _Constant) and cell == "NaN")):
        return math.nan
    value, rule = _wrong_with(cell)
    problems.add(rule, row=row, column=shortened(wanted.columns.names[index]), value=value)
    return math.nan


def _wrong_with(cell: Any) -> tuple[str | None, str]:
    """What a message shows of a cell that is no number, and the rule."""
    if cell is _ABSENT:
        return None, NO_VALUE
    if cell is None:
        return "null", MISSING_VALUE
    if isinstance(cell, _Constant):
        return str(cell), NOT_FINITE
    if isinstance(cell, float | _TooLarge):
        return f"{cell:.6g}" if isinstance(cell, float) else str(cell), BEYOND_FLOAT32
    if isinstance(cell, str):
        return _sound(cell), _NUMBER_AS_TEXT if NUMBER.fullmatch(cell.strip()) else TEXT_CELL
    return None, _NESTED


def _label(cell: Any, row: int, wanted: _Wanted, problems: Problems) -> float | str | None:
    """A row's label; None if there is something wrong with it."""
    values: Float64Array | list[str] | None = None
    if isinstance(cell, bool):
        cell = float(cell)
    value, rule = _wrong_with(cell)
    if isinstance(cell, str) and not isinstance(cell, _Constant | _TooLarge):
        cell = _sound(cell)
        value = cell if cell.strip() else None
        values = _label_values([cell], wanted)
        rule = _wrong_with_text_label(cell) or (TEXT_LABEL if wanted.classes is None else UNKNOWN_CLASS)
    elif isinstance(cell, float) and abs(cell) <= FLOAT32_MAX:
        values = _label_values(np.array([cell]), wanted)
        value, rule = class_name(cell), UNKNOWN_CLASS
    if values is not None:
        return values[0]
    if cell is None or cell is _ABSENT:
        value, rule = None, EMPTY_LABEL
    column = shortened(wanted.columns.names[wanted.label or 0])
    problems.add(rule, row=row, column=column, value=value)
    return None
