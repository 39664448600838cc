"""Parquet, divided by row groups: columns of numbers, or one column of lists of numbers as long as each other.

Features are integers, floats, booleans (1 and 0) and decimals. The label is such a column too, or one of text, whose
values are classes. What has another type (text, times, structures, bytes) must be the label or dropped. A null is a
missing value, and so is NaN where missing values are filled. Where the features are one column of lists, these are
the columns, numbered, and the label is the last.

A row group is read some rows at a time. Up to `FETCHED_BYTES` of it are fetched at once, column by column; of a larger
one, a window of each column, so one of many columns takes many reads. `parquet_pages` keeps damage from pyarrow.
"""

import hashlib
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, BinaryIO
from weakref import WeakValueDictionary

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dropmill.contracts import DroppedFile, FileFormat, Layout, Piece, Problem, Unit
from dropmill.data.checks import (
    BEYOND_FLOAT32,
    MAX_COLUMNS,
    MAX_PROBLEMS,
    NOT_FINITE,
    PANDAS_INDEX,
    ClassIndex,
    Problems,
    feature_columns,
    kept_columns,
    label_column,
    numbered,
    refuse,
    shortened,
)
from dropmill.data.labels import number_targets, text_cells, text_targets
from dropmill.data.parquet_pages import DAMAGED, SMALLER, CheckedFile, Chunk, Groups, groups_of
from dropmill.data.rows import Float32Array, Float64Array, Look, OpenFile, Progress, Rows
from dropmill.errors import InvalidDrop, several
from dropmill.recipe import DataOptions
from dropmill.words import Cell

MAX_DIRECTORY_BYTES = 16 << 20
FETCHED_BYTES = 64 << 20
"""Of a row group as it is stored: up to so much is fetched at once."""
STREAMED_BYTES = 24 << 20
"""Of a larger row group: the windows of all columns together."""
BATCH_BYTES = 4 << 20
"""About as much as is decoded at a time, as float32: pyarrow takes its time for each column of each batch."""

_KEPT_DIRECTORY_BYTES = 1 << 20
_TAIL_BYTES = 8
_MAGIC = b"PAR1"
_ENCRYPTED_MAGIC = b"PARE"
_WINDOW_BYTES = (32 << 10, 1 << 20)
_BATCH_ROWS_MIN = 16
_OPEN_PAGES_BYTES = 2 << 20  # of a column: a dictionary and a page, as large as most writers make them
_LABEL_ROWS = 1 << 16

_MISSING = "there is no value (null): fill it in, leave the row out, or set data.missing to mean or 0 in the recipe"
_NOT_A_FEATURE = "can't be a feature: list it under drop_columns"
_NOT_A_LABEL = "can't be the label: store it as a number or as text"

_Mask = NDArray[np.bool_]


# The directory


@dataclass(frozen=True)
class _Directory:
    """What stands at the end of a file."""

    groups: Groups
    metadata: Any
    schema: Any
    paths: list[str]
    """The columns as they are stored; a column of lists is `pixels.list.element`."""
    start: int
    """Where the directory begins, and what is stored of the columns ends."""


_in_use: "WeakValueDictionary[bytes, _Directory]" = WeakValueDictionary()
"""The directories that are in use: pieces of one file share one, which may take 100 MB."""


_latest: list[_Directory] = []
"""The last that was used, unless it is large: the next piece is likely to be of the same file."""


def _directory(stream: BinaryIO, file: OpenFile) -> _Directory:
    if file.size < len(_MAGIC) + _TAIL_BYTES:
        refuse(file.name, f"the Parquet file is cut off: {DAMAGED}")
    stream.seek(file.size - _TAIL_BYTES)
    tail = stream.read(_TAIL_BYTES)
    length = int.from_bytes(tail[:4], "little")
    if tail[4:] == _ENCRYPTED_MAGIC:
        refuse(file.name, "the Parquet file is encrypted: save it without encryption")
    if tail[4:] != _MAGIC or length > file.size - _TAIL_BYTES - len(_MAGIC):
        refuse(file.name, f"the Parquet file's directory is missing: {DAMAGED}")
    if length > MAX_DIRECTORY_BYTES:
        most = MAX_DIRECTORY_BYTES >> 20
        rule = f"the Parquet file's directory has {length:,} bytes, and {most} MB is the most"
        refuse(file.name, f"{rule}: write larger row groups, or several files")
    stream.seek(file.size - _TAIL_BYTES - length)
    data = stream.read(length)
    digest = hashlib.sha256(data).digest()
    found = _in_use.get(digest) or _in_use.setdefault(digest, _parsed(data, file))
    if length <= _KEPT_DIRECTORY_BYTES:
        _latest[:] = [found]
    return found


def _parsed(data: bytes, file: OpenFile) -> _Directory:
    groups = groups_of(data, file.name)
    with _damage_named(file.name):
        small = io.BytesIO(_MAGIC + data + len(data).to_bytes(4, "little") + _MAGIC)
        opened = pq.ParquetFile(small, **_LIMITS)
        metadata, schema = opened.metadata, opened.schema_arrow
        paths = [metadata.schema.column(index).path for index in range(metadata.num_columns)]
    if groups.chunks.shape[:2] != (len(groups.rows), len(paths)) and groups.rows:
        refuse(file.name, f"its row groups don't all have the same columns: {DAMAGED}")
    return _Directory(groups, metadata, schema, paths, file.size - _TAIL_BYTES - len(data))


_LIMITS = {"thrift_string_size_limit": MAX_DIRECTORY_BYTES, "thrift_container_size_limit": 1 << 20}


@contextmanager
def _damage_named(file_name: str) -> Iterator[None]:
    """Turn what pyarrow raises about damaged files into InvalidDrop."""
    try:
        yield
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
        # pyarrow's words may quote what it has read.
        said = Cell(f" ({shortened(str(error))})", "")
        refuse(file_name, "it can't be read as Parquet", said, f": {DAMAGED}")
    except MemoryError:
        refuse(file_name, f"there is not enough memory to read it: {SMALLER}")


# Which columns are what


@dataclass(frozen=True)
class _Columns:
    """The columns that are read, by name: those of the features, which may be one of lists, and the label's."""

    features: list[str]
    list_width: int | None = None
    label: str | None = None
    text_label: bool = False
    kept: Sequence[str] = ()

    @property
    def names(self) -> list[str]:
        return [*self.features, *self.kept, *([] if self.label is None else [self.label])]


def look(file: OpenFile, options: DataOptions, *, gzipped: bool) -> Look:
    """Say how a file's columns are to be read. Reads its directory, and of lists the first row.

    Raises InvalidDrop, which names all columns that can be neither features nor the label.
    """
    with file.open() as stream:
        directory = _directory(stream, file)
        rows, fields = directory.groups.rows, _fields(directory, file.name)
        names = list(fields)
        label = label_column(file.name, names, options)
        features = [
            index
            for index in feature_columns(file.name, names, label, options)
            if not PANDAS_INDEX.fullmatch(names[index])
        ]
        if not features:
            refuse(file.name, "no column is left to learn from, besides the label, the index and drop_columns")
        single = names[features[0]] if len(features) == 1 else None
        lists = single if single is not None and _holds_lists(fields[single]) else None
        kept = kept_columns(file.name, names, options)
        _check_types(file.name, fields, [] if lists else [names[index] for index in features], label)
        _check_kept(file.name, fields, [names[index] for index in kept])
        if not any(rows):
            refuse(file.name, "there are no rows")
        columns = names
        if lists is not None:
            width = _list_width(stream, file, directory, lists)
            columns = [*numbered(width), *(names[index] for index in kept), *([] if label is None else [names[label]])]
            features, label = list(range(width)), None if label is None else width
            kept = [width + index for index in range(len(kept))]
    layout = Layout(
        format=FileFormat.PARQUET,
        gzipped=gzipped,
        columns=columns,
        label_column=label,
        feature_columns=features,
        feature_array=lists,
        kept_columns=kept,
    )
    return Look(layout, Unit.ROW_GROUPS, 0, len(rows), rows=sum(rows))


def _fields(directory: _Directory, file_name: str) -> dict[str, Any]:
    """The types of the columns by name."""
    names = directory.schema.names
    if len(directory.paths) > MAX_COLUMNS:
        refuse(file_name, f"there are {len(directory.paths)} columns; {MAX_COLUMNS} is the most")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        shown = ", ".join(repr(shortened(name)) for name in twice[:MAX_PROBLEMS])
        refuse(file_name, f"several columns have the same name ({shown}): rename all but one")
    if not names:
        refuse(file_name, "there are no columns")
    return dict(zip(names, directory.schema.types, strict=True))


def _check_types(file_name: str, fields: dict[str, Any], features: Sequence[str], label: int | None) -> None:
    """Raise InvalidDrop for columns of types that are not learned from, all of them named."""
    wrong = [(name, _NOT_A_FEATURE) for name in features if not _is_number(fields[name])]
    if label is not None:
        name = list(fields)[label]
        if not _is_number(fields[name]) and not _is_text(fields[name]):
            wrong.insert(0, (name, _NOT_A_LABEL))
    said = [
        str(Problem(file=file_name, column=shortened(name), rule=f"a column of type {_type_name(fields[name])} {rule}"))
        for name, rule in wrong
    ]
    if said:
        raise InvalidDrop(said[0] if len(said) == 1 else several(said))


def _check_kept(file_name: str, fields: dict[str, Any], kept: Sequence[str]) -> None:
    for name in kept:
        if not _is_plain(fields[name]):
            rule = f"a column of type {_type_name(fields[name])} can't be carried along: store it as text"
            refuse(file_name, rule, column=shortened(name))


def _is_plain(kind: Any) -> bool:
    """Whether values of the type are written as text in one way."""
    if pa.types.is_dictionary(kind):
        return _is_plain(kind.value_type)
    return bool(_is_number(kind) or _is_text(kind) or pa.types.is_date(kind) or pa.types.is_timestamp(kind))


def _type_name(kind: Any) -> str:
    return shortened(str(kind))


def _is_number(kind: Any) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_number(kind.value_type)
    of = pa.types
    return bool(of.is_integer(kind) or of.is_floating(kind) or of.is_boolean(kind) or of.is_decimal(kind))


def _is_text(kind: Any) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _holds_lists(kind: Any) -> bool:
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(lists) and _is_number(kind.value_type) and not pa.types.is_dictionary(kind.value_type)


def _list_width(stream: BinaryIO, file: OpenFile, directory: _Directory, name: str) -> int:
    """How long the list of the first row is."""
    groups = range(len(directory.groups.rows))
    batch = next(_batches(stream, file, directory, groups, _Columns([name]), 1), None)
    width = None if batch is None else pc.list_value_length(batch.column(0))[0].as_py()
    if not width:
        refuse(file.name, "the first row holds no list, or an empty one", row=0, column=shortened(name))
    if width > MAX_COLUMNS:
        refuse(file.name, f"a list of {width} numbers; {MAX_COLUMNS} is the most", row=0, column=shortened(name))
    return int(width)


def _columns(directory: _Directory, layout: Layout, file_name: str) -> _Columns:
    """The columns that a layout means, in this file."""
    fields = _fields(directory, file_name)
    names = list(fields)
    label = None if layout.label_column is None else layout.columns[layout.label_column]
    lists = layout.feature_array
    features = [lists] if lists is not None else [layout.columns[index] for index in layout.feature_columns]
    kept = [layout.columns[index] for index in layout.kept_columns]
    if any(name not in fields for name in [*features, *kept]) or (label is not None and label not in fields):
        refuse(file_name, f"the columns are not those that were there when the drop was inspected: {DAMAGED}")
    _check_types(file_name, fields, [] if lists else features, None if label is None else names.index(label))
    _check_kept(file_name, fields, kept)
    if lists is not None and not _holds_lists(fields[lists]):
        refuse(file_name, f"a column of type {_type_name(fields[lists])} {_NOT_A_FEATURE}", column=shortened(lists))
    return _Columns(
        features,
        list_width=None if lists is None else layout.feature_dim,
        label=label,
        text_label=label is not None and _is_text(fields[label]),
        kept=kept,
    )


# Batches


def _batches(
    stream: BinaryIO, file: OpenFile, directory: _Directory, groups: Iterable[int], columns: _Columns, rows: int
) -> Iterator[Any]:
    """Record batches of up to `rows` rows of the wanted columns, of one row group after the other."""
    wanted = _wanted(directory, columns)
    for group in groups:
        count = directory.groups.rows[group]
        if count == 0:
            continue
        places = directory.groups.chunks[group, wanted].tolist()
        chunks = [
            Chunk(directory.paths[index], start, end, values)
            for index, (start, end, values, _) in zip(wanted, places, strict=True)
        ]
        fetched = sum(chunk.end - chunk.start for chunk in chunks) <= FETCHED_BYTES and rows > 1
        low, high = _WINDOW_BYTES
        with _damage_named(file.name):
            parquet = pq.ParquetFile(
                pa.PythonFile(CheckedFile(stream, file.name, directory.start, chunks), "r"),
                metadata=directory.metadata,
                read_dictionary=[columns.label] if columns.text_label else None,
                buffer_size=0 if fetched else min(max(STREAMED_BYTES // len(chunks), low), high),
                pre_buffer=False,
                **_LIMITS,
            )
            found = parquet.iter_batches(rows, row_groups=[group], columns=columns.names, use_threads=False)
        seen = 0
        while True:
            with _damage_named(file.name):
                batch = next(found, None)
            if batch is None:
                break
            seen += batch.num_rows
            yield batch.select(columns.names)
            del batch
        del found, parquet  # what they hold, before the next row group is fetched
        if seen != count:
            refuse(file.name, f"row group {group} holds {seen} rows, and should hold {count}: {DAMAGED}")


def _wanted(directory: _Directory, columns: _Columns) -> list[int]:
    """Which columns are read, among those that are stored."""
    names = set(columns.names)
    return [index for index, path in enumerate(directory.paths) if path in names or _belongs(path, names)]


def _belongs(path: str, names: set[str]) -> bool:
    """Whether a path such as `pixels.list.element` is that of a part of one of the columns."""
    at = path.find(".")
    while at >= 0:
        if path[:at] in names:
            return True
        at = path.find(".", at + 1)
    return False


def label_cells(file: OpenFile, look: Look, problems: Problems) -> Iterator[Float64Array | list[str]]:
    """All labels of a file in order, as `dropmill.data.rows` says."""
    with file.open() as stream:
        directory = _directory(stream, file)
        columns = replace(_columns(directory, look.layout, file.name), features=[])
        first = 0
        for batch in _batches(stream, file, directory, range(look.start, look.end), columns, _LABEL_ROWS):
            cells = batch.column(0)
            name = shortened(columns.label or "")
            with _damage_named(file.name):
                if columns.text_label:
                    yield text_cells(*_distinct(cells), first, name, problems)
                else:
                    labels, good = _number_labels(cells, first, name, None, problems)
                    yield labels[good]
            first += batch.num_rows


def read(
    file: OpenFile,
    dropped: DroppedFile,  # noqa: ARG001  # readers of other formats want it
    piece: Piece,
    layout: Layout,
    problems: Problems,
    progress: Progress,
) -> Iterator[Rows]:
    """The rows of a piece, as `dropmill.data.rows` says."""
    classes = None if layout.classes is None else ClassIndex(layout.classes)
    rows = max(_BATCH_ROWS_MIN, BATCH_BYTES // (4 * layout.feature_dim))
    with file.open() as stream:
        directory = _directory(stream, file)
        columns = _columns(directory, layout, file.name)
        groups = range(piece.start, min(piece.end, len(directory.groups.rows)))
        first = sum(directory.groups.rows[: piece.start])
        for batch in _batches(stream, file, directory, groups, columns, rows):
            count = batch.num_rows
            progress.rows += count
            with _damage_named(file.name):
                taken = _rows(batch, columns, layout, classes, first, problems)
            del batch
            yield taken
            first += count


def open_bytes(file: OpenFile, piece: Piece, layout: Layout) -> int:
    """About how much memory a piece takes while it is read: what is fetched, and the open pages of each column."""
    with file.open() as stream:
        directory = _directory(stream, file)
    chunks = directory.groups.chunks[
        piece.start : piece.end, _wanted(directory, _columns(directory, layout, file.name))
    ]
    if not chunks.size:
        return BATCH_BYTES
    fetched = np.minimum((chunks[:, :, 1] - chunks[:, :, 0]).sum(axis=1), FETCHED_BYTES)
    pages = np.clip(chunks[:, :, 3], 0, _OPEN_PAGES_BYTES).sum(axis=1)
    return BATCH_BYTES + int((fetched + pages).max())


def _rows(
    batch: Any, columns: _Columns, layout: Layout, classes: ClassIndex | None, first: int, problems: Problems
) -> Rows:
    """The rows of a batch without those that have a problem."""
    if columns.list_width is None:
        matrix, nulls = _matrix(batch.columns[: len(columns.features)])
        good: _Mask = np.ones(len(matrix), dtype=np.bool_)
    else:
        lists = batch.column(0)
        good = _full_lists(lists, columns, layout, first, problems)
        matrix, nulls = _list_matrix(lists, columns.list_width, good)
    features = _clean(matrix, nulls, first, layout, good, problems)
    labels = None
    if columns.label is not None:
        name = shortened(columns.label)
        cells = batch.column(batch.num_columns - 1)
        if columns.text_label:
            labels, known = text_targets(*_distinct(cells), first, name, classes, problems)
        else:
            labels, known = _number_labels(cells, first, name, classes, problems)
        good &= known
    kept = _kept(batch, columns) if columns.kept else None
    if good.all():
        return Rows(features, labels, kept=kept)
    return Rows(
        features[good],
        None if labels is None else labels[good],
        kept=None if kept is None else kept.filter(pa.array(good)),
    )


def _kept(batch: Any, columns: _Columns) -> Any:
    """The kept columns as text, empty for null."""
    first = len(columns.features)
    texts = [pc.fill_null(_as_text(batch.column(first + at)), "") for at in range(len(columns.kept))]
    return pa.RecordBatch.from_arrays(texts, names=numbered(len(texts)))


def _as_text(column: Any) -> Any:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_timestamp(column.type) and column.type.tz is not None:
        # In UTC, for which no table of time zones is needed.
        texts = column.cast(pa.int64()).cast(pa.timestamp(column.type.unit)).cast(pa.string())
        return pc.binary_join_element_wise(texts, "Z", "")
    return column.cast(pa.string())


# Features


def _matrix(columns: Sequence[Any]) -> tuple[NDArray[Any], _Mask | None]:
    """Columns of numbers as a matrix [n, d], NaN for null; and where nulls are, if any."""
    nulls = None
    if any(column.null_count for column in columns):
        nulls = np.column_stack([_nulls(column) for column in columns])
    kinds = {column.type for column in columns}
    if nulls is not None or len(kinds) > 1 or not _fits_float32(next(iter(kinds))):
        columns = [_as_float64(column) for column in columns]
    batch = pa.RecordBatch.from_arrays(columns, names=numbered(len(columns)))
    return batch.to_tensor(null_to_nan=nulls is not None, row_major=True).to_numpy(), nulls


def _fits_float32(kind: Any) -> bool:
    """Whether numpy makes the same float32 of numbers of this type as of their text."""
    return bool(pa.types.is_floating(kind) or (pa.types.is_integer(kind) and kind.bit_width < 64))


def _as_float64(column: Any) -> Any:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.uint8())
    return column.cast(pa.float64(), safe=False)


def _nulls(column: Any) -> _Mask:
    """Where nulls are."""
    return _array(column.is_null().cast(pa.uint8())).view(np.bool_)


def _array(column: Any) -> NDArray[Any]:
    """A column of numbers as an array, NaN for null. By its buffer: pyarrow's own way loads pandas if there is one."""
    if column.null_count:
        column = pc.fill_null(column, np.nan)
    kind = np.dtype(column.type.to_pandas_dtype())
    if not len(column):
        return np.empty(0, dtype=kind)
    return np.frombuffer(column.buffers()[1], dtype=kind)[column.offset : column.offset + len(column)]


def _full_lists(lists: Any, columns: _Columns, layout: Layout, first: int, problems: Problems) -> _Mask:
    """Which rows hold a list of the right length; nulls do where missing values are filled."""
    lengths = _array(pc.fill_null(pc.list_value_length(lists), -1))
    good: _Mask = lengths == columns.list_width
    name = shortened(columns.features[0])
    if layout.fill is not None:
        good |= lengths < 0
    for row in np.flatnonzero(~good):
        rule = f"a list of {lengths[row]} numbers, where the first row has {columns.list_width}: mend the row"
        problems.add(_MISSING if lengths[row] < 0 else rule, row=first + int(row), column=name)
    return good


def _list_matrix(lists: Any, width: int, good: _Mask) -> tuple[NDArray[Any], _Mask | None]:
    """Lists as a matrix [n, width], NaN for null and zero in rows that are not good; and where nulls are, if any."""
    present = good & ~_nulls(lists)
    whole = bool(present.all())
    values = (lists if whole else lists.filter(pa.array(present))).flatten()
    nulls = _nulls(values).reshape(-1, width) if values.null_count else None
    if nulls is not None or not _fits_float32(values.type):
        values = _as_float64(values)
    matrix = _array(values).reshape(-1, width)
    if whole:
        return matrix, nulls
    every = np.zeros((len(good), width), dtype=np.float64)
    every[present] = matrix
    every[good & ~present] = np.nan
    missing: _Mask = np.zeros(every.shape, dtype=np.bool_)
    missing[good & ~present] = True
    if nulls is not None:
        missing[present] = nulls
    return every, missing


def _clean(
    matrix: NDArray[Any], nulls: _Mask | None, first: int, layout: Layout, good: _Mask, problems: Problems
) -> Float32Array:
    """The numbers as float32. Rows with a problem are taken out of `good`."""
    with np.errstate(over="ignore"):  # it shows as infinity, and is named below
        features = np.ascontiguousarray(matrix, dtype=np.float32)
    if matrix.dtype.kind != "f" or np.isfinite(features).all():
        return features
    bad: _Mask = np.isinf(features) if layout.fill is not None else ~np.isfinite(features)
    wrong = bad.any(axis=1)
    for row in np.flatnonzero(wrong):
        for column in np.flatnonzero(bad[row]):
            name = shortened(layout.columns[layout.feature_columns[column]])
            value = matrix[row, column]
            if nulls is not None and nulls[row, column]:
                problems.add(_MISSING, row=first + int(row), column=name)
            else:
                rule = BEYOND_FLOAT32 if np.isfinite(value) else NOT_FINITE
                problems.add(rule, row=first + int(row), column=name, value=value)
    good &= ~wrong
    return features


# Labels


def _number_labels(
    cells: Any, first: int, name: str, classes: ClassIndex | None, problems: Problems
) -> tuple[Float64Array, _Mask]:
    numbers = _as_float64(cells)
    return number_targets(_array(numbers), _nulls(numbers), first, name, classes, problems)


def _distinct(cells: Any) -> tuple[list[str], NDArray[np.intp]]:
    """The texts of a column, each once, and which of them stands where; an empty text for a null."""
    coded = cells if pa.types.is_dictionary(cells.type) else cells.dictionary_encode()
    indexes = _array(coded.indices.fill_null(-1)).astype(np.intp)
    used, places = np.unique(indexes, return_inverse=True)
    return ["" if index < 0 else coded.dictionary[index].as_py() or "" for index in used.tolist()], places
