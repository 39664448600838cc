"""Delimited text, whether its columns are divided by commas, tabs, semicolons or bars.

The rows of a slice of whole lines are parsed as a whole by pyarrow; only a slice that is not perfectly clean is read
again cell by cell, to name what is wrong with it. Both take the same for numbers, so what is read of a cell does not
depend on its neighbours.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import csv

from dropmill.columns import place
from dropmill.contracts import DroppedFile, FileFormat, Layout, Piece, Unit
from dropmill.data import delimited_cells as cells
from dropmill.data import delimited_head as heads
from dropmill.data import lines
from dropmill.data.checks import (
    FLOAT32_MAX,
    MAX_COLUMNS,
    ClassIndex,
    Problems,
    feature_columns,
    kept_columns,
    label_column,
    numbered,
    refuse,
)
from dropmill.data.rows import ROWS_BYTES, Float32Array, Float64Array, Look, OpenFile, Progress, Rows
from dropmill.data.unpacked import Readable, unpacked
from dropmill.recipe import DataOptions

SLICE_BYTES = 1 << 20
"""Smaller slices cost more work for each column, larger ones memory: sixteen pieces are open at once."""
WIDE_COLUMNS = 2000
"""From so many on, pyarrow's work and memory for each column outweigh those for each cell."""

_SCAN_BYTES = 4 << 20
_ONE_BLOCK = 4 * lines.MAX_LINE_BYTES  # more than any slice
_Table = tuple[Float32Array, Float64Array | None, Any]
"""Features [n, d], labels [n], and a record batch of what is kept, or None."""

_TEXTS = pa.dictionary(pa.int32(), pa.string())
_NAN_OF_C = re.compile(rb"nan\(", re.IGNORECASE)  # a spelling that pyarrow takes, and nobody means
_MISSING = [
    spelled
    for word in ("n/a", "na", "<na>", "#n/a", "null", "nil", "none", "missing")
    for spelled in (word, word.upper(), word.capitalize())
] + ["", "?", "??", "-", "--", "---", ".", "..", "...", "<nA>", "#N/a"]
"""The commonest of what `delimited_cells.MISSING` matches; others are found cell by cell."""


def look(file: OpenFile, options: DataOptions, *, gzipped: bool) -> Look:
    """Say how a file is laid out. Raises InvalidDrop."""
    with file.open() as source, unpacked(source, file.name, gzipped=gzipped) as stream:
        head = heads.head(stream, file.name, options)
    first = head.sample[0]
    if len(head.columns) > MAX_COLUMNS:
        refuse(file.name, f"there are {len(head.columns)} columns; {MAX_COLUMNS} is the most", row=first.line)
    label = label_column(file.name, head.columns, options)
    features = feature_columns(file.name, head.columns, label, options)
    sample = first.cells or []
    if all(index < len(sample) and heads.is_name(sample[index]) for index in features):
        boolean = next((index for index in features if cells.is_boolean(sample[index])), None)
        if boolean is not None:
            column, name = place(head.columns, boolean)
            refuse(file.name, cells.BOOLEAN_CELL, row=first.line, column=column, name=name, value=sample[boolean])
        refuse(file.name, "no column that could be a feature holds a number", row=first.line)
    _refuse_decimal_comma(file.name, head, features if label is None else [*features, label])
    layout = Layout(
        format=FileFormat.CSV,
        gzipped=gzipped,
        header=head.header,
        delimiter=head.delimiter,
        columns=head.columns,
        label_column=label,
        feature_columns=features,
        kept_columns=kept_columns(file.name, head.columns, options),
    )
    if gzipped:
        return Look(layout)
    return Look(layout, unit=Unit.LINES, start=head.start, end=file.size, first_line=head.first_line)


def has_quoted_line_ends(file: OpenFile, look: Look) -> bool:
    """Whether a cell of a file that isn't gzipped holds a line end. Scans the file until it has found one."""
    within = False
    with file.open() as stream:
        stream.seek(look.start)
        while data := stream.read(_SCAN_BYTES):
            if b'"' not in data:
                if within and b"\n" in data:
                    return True
                continue
            codes: NDArray[np.uint8] = np.frombuffer(data, dtype=np.uint8)
            quotes = np.flatnonzero(codes == ord('"'))
            before = np.searchsorted(quotes, np.flatnonzero(codes == ord("\n")))
            if ((before + within) % 2).any():
                return True
            within ^= len(quotes) % 2 == 1
    return within


def label_cells(file: OpenFile, look: Look, problems: Problems) -> Iterator[Float64Array | list[str]]:
    """Yield all labels of a file, slice by slice; `dropmill.data.rows` says how."""
    layout = look.layout
    divided = look.unit is Unit.LINES
    piece = Piece(file=0, start=look.start, end=look.end)
    parser = _Parser(layout, divided=divided)
    for part in _slices(file, layout, piece, Progress(piece.start, piece.start), divided=divided):
        found = parser.label_cells(part.data)
        if found is None:
            counted = replace(part, first_line=part.first_line + look.first_line - 1)
            rows = cells.rows(counted, layout.delimiter, problems, quoted_line_ends=not divided)
            found = cells.label_cells(cells.label_texts(rows, layout, problems))
        yield found


def read(
    file: OpenFile, dropped: DroppedFile, piece: Piece, layout: Layout, problems: Problems, progress: Progress
) -> Iterator[Rows]:
    """Yield the rows of a piece; `dropmill.data.rows` says how."""
    step = max(1, ROWS_BYTES // (4 * layout.feature_dim))
    for features, labels, kept in _tables(file, layout, piece, problems, progress, divided=dropped.unit is Unit.LINES):
        for at in range(0, len(features), step):
            rows = slice(at, at + step)
            yield Rows(
                features[rows],
                None if labels is None else labels[rows],
                kept=None if kept is None else kept.slice(at, step),
            )


def _tables(
    file: OpenFile, layout: Layout, piece: Piece, problems: Problems, progress: Progress, *, divided: bool
) -> Iterator[_Table]:
    parser = _Parser(layout, divided=divided)
    for part in _slices(file, layout, piece, progress, divided=divided):
        table = parser.table(part.data)
        if table is None:
            found = cells.rows(part, layout.delimiter, problems, quoted_line_ends=not divided)
            numbers, labels, texts = cells.numbers(found, layout, parser.classes, problems, progress)
            table = numbers.astype(np.float32), labels, _kept(texts)
        else:
            progress.rows += len(table[0])
        del part  # nothing is kept of it while other pieces have their turns
        yield table


def _kept(texts: list[list[str]]) -> Any:
    """Columns of texts as a record batch; None if there are none."""
    if not texts:
        return None
    return pa.RecordBatch.from_arrays([pa.array(column, pa.string()) for column in texts], numbered(len(texts)))


def _slices(
    file: OpenFile, layout: Layout, piece: Piece, progress: Progress, *, divided: bool
) -> Iterator[lines.Slice]:
    """The rows of a piece, or all of a file that isn't divided, in slices; without what is blank, BOM and names."""
    if divided:
        found = lines.of_piece(file, piece, progress, gzipped=False, slice_bytes=SLICE_BYTES)
        yield from (part for part in found if _is_not_blank(part, layout.delimiter))
        return
    with file.open() as source, unpacked(source, file.name, gzipped=layout.gzipped) as stream:
        found = _slices_of_rows(stream, progress, file.name)
        found = _without_names(found, layout) if layout.header else found
        yield from (part for part in found if _is_not_blank(part, layout.delimiter))


def _is_not_blank(part: lines.Slice, delimiter: str) -> bool:
    """Whether there is more than blank lines; a line of delimiters alone is a row whose cells are all empty."""
    return bool(part.data) and (not part.data.isspace() or delimiter.encode() in part.data)


def _slices_of_rows(stream: Readable, progress: Progress, file_name: str) -> Iterator[lines.Slice]:
    """All rows of a stream, cut where a row ends. Raises InvalidDrop for a row without an end."""
    rest = b""
    while read := stream.read(SLICE_BYTES):
        data = rest + read
        if progress.lines == 0 and not rest:
            data = data.removeprefix(heads.BOM)
        cut = heads.last_row_end(data)
        rest = data[cut:]
        if len(rest) > lines.MAX_LINE_BYTES or (len(rest) > heads.MAX_ROW_BYTES and b"\n" in rest):
            refuse(file_name, heads.NO_ROW_END, row=progress.lines + 1)
        if cut:
            whole = [lines.Slice(data[:cut], progress.lines + 1)]
            progress.lines += data.count(b"\n", 0, cut)
            del data, read  # as in `lines`, nothing is kept but the rest
            yield whole.pop()
    if rest:
        yield lines.Slice(rest, progress.lines + 1)
        progress.lines += rest.count(b"\n")


def _without_names(found: Iterator[lines.Slice], layout: Layout) -> Iterator[lines.Slice]:
    """What follows the first row that isn't blank."""
    for part in found:
        names = next(cells.rows(part, layout.delimiter, Problems("", []), quoted_line_ends=True), None)
        if names is not None:
            at = heads.offset_behind(part.data, names.behind - part.first_line)
            yield lines.Slice(part.data[at:], names.behind)
            break
    yield from found


def _refuse_decimal_comma(file_name: str, head: heads.Head, wanted: list[int]) -> None:
    for row in head.sample:
        for index in wanted:
            cell = row.cells[index].strip() if row.cells and index < len(row.cells) else ""
            if heads.decimal_comma(cell):
                rule = (
                    "has a comma within the number: save the numbers with decimal points, and nothing between thousands"
                )
                column, name = place(head.columns, index)
                refuse(file_name, rule, row=row.line, column=column, name=name, value=cell)


class _Parser:
    """Slices of one file as tables, if there is nothing out of the ordinary about them."""

    def __init__(self, layout: Layout, *, divided: bool) -> None:
        names = numbered(len(layout.columns))
        self.classes = None if layout.classes is None else ClassIndex(layout.classes)
        self._fill = layout.fill is not None
        self._delimiter = layout.delimiter
        self._divided = divided
        self._columns = len(names)
        self._features = [names[index] for index in layout.feature_columns]
        self._label = None if layout.label_column is None else names[layout.label_column]
        self._kept = [names[index] for index in layout.kept_columns]
        self._whole_numbers = True
        self._batch_options: dict[pa.DataType, csv.ConvertOptions] = {}
        self._read_options = csv.ReadOptions(use_threads=False, block_size=_ONE_BLOCK, column_names=names)

    def table(self, data: bytes) -> _Table | None:
        """The features [n, d], the labels [n] and what is kept; None if only a look at each cell could tell."""
        if not self._is_plain(data):
            return None
        if self._columns >= WIDE_COLUMNS and not self._kept and (table := self._wide_table(data)):
            return table
        batch = None
        if self._whole_numbers and _may_be_whole_numbers(data):
            batch = self._batch(data, pa.int32())
        if batch is None:
            self._whole_numbers = False
            batch = self._batch(data, pa.float64())
        if batch is None:
            return None
        labels = None
        if self._label is not None:
            labels = self._labels(batch.column(self._label))
            if labels is None:
                return None
        features = self._floats(batch.select(self._features))
        kept = batch.select(self._kept) if self._kept else None
        return None if features is None else (features, labels, kept)

    def _wide_table(self, data: bytes) -> _Table | None:
        """The same of rows that hold nothing but numbers, each cell of which is read as if it were a row."""
        delimiter = self._delimiter.encode()
        if b'"' in data or self.classes is not None or not _all_rows_have(data, self._columns, delimiter):
            return None
        data = data.replace(delimiter, b"\n")
        options = csv.ReadOptions(use_threads=False, block_size=_ONE_BLOCK, column_names=["0"])
        parse_options = csv.ParseOptions(ignore_empty_lines=False)
        table = None
        if _may_be_whole_numbers(data):
            table = _table(data, options, parse_options, self._convert_options({"0": pa.int32()}))
        if table is None:
            table = _table(data, options, parse_options, self._convert_options({"0": pa.float64()}))
        if table is None:
            return None
        numbers = _numbers(table.column(0).combine_chunks()).reshape(-1, self._columns)
        labels = None
        if self._label is not None:
            labels = _finite(numbers[:, int(self._label)].astype(np.float64))
            if labels is None:
                return None
        wanted = [int(name) for name in self._features]
        features = self._cast(numbers if len(wanted) == self._columns else numbers[:, wanted])
        return None if features is None else (features, labels, None)

    def label_cells(self, data: bytes) -> Float64Array | list[str] | None:
        """The labels as numbers or names of classes; None if only a look at each cell could tell."""
        if self._label is None or not self._is_plain(data):
            return None
        table = self._parsed(data, self._convert_options({self._label: pa.float64()}))
        if table is not None:
            return _finite(_numbers(table.column(0).combine_chunks()))
        table = self._parsed(data, self._convert_options({self._label: _TEXTS}))
        if table is None:
            return None
        column = table.column(0).combine_chunks()
        texts = [text.strip() for text in column.dictionary.to_pylist()]
        if any(cells.wrong_with_label(text) for text in texts):
            return None
        known = cells.label_cells(texts)
        indexes = np.from_dlpack(column.indices)
        return [known[index] for index in indexes] if isinstance(known, list) else known[indexes]

    def _batch(self, data: bytes, kind: pa.DataType) -> pa.RecordBatch | None:
        """The features, the label and what is kept; the features are all of one kind."""
        if kind not in self._batch_options:  # which are as many as there are columns
            types = dict.fromkeys(self._features, kind) | dict.fromkeys(self._kept, pa.string())
            if self._label is not None:
                types[self._label] = pa.float64() if self.classes is None else _TEXTS
            self._batch_options[kind] = self._convert_options(types)
        table = self._parsed(data, self._batch_options[kind])
        return None if table is None or not table.num_rows else table.to_batches()[0]

    def _parsed(self, data: bytes, options: csv.ConvertOptions) -> pa.Table | None:
        parse_options = csv.ParseOptions(delimiter=self._delimiter, newlines_in_values=not self._divided)
        return _table(data, self._read_options, parse_options, options)

    def _convert_options(self, types: dict[str, pa.DataType]) -> csv.ConvertOptions:
        return csv.ConvertOptions(
            column_types=types,
            include_columns=list(types),
            null_values=_MISSING if self._fill else [],
            quoted_strings_can_be_null=self._columns > 1,  # else it may be a blank line
        )

    def _floats(self, batch: pa.RecordBatch) -> Float32Array | None:
        """The features as float32, by way of float64, so that any format gives the same; None if some are beyond it."""
        try:
            numbers = batch.to_tensor(row_major=True).to_numpy()
        except pa.ArrowTypeError:  # there are missing values, to be filled
            numbers = batch.to_tensor(null_to_nan=True, row_major=True).to_numpy()
        return self._cast(numbers)

    def _cast(self, numbers: NDArray[Any]) -> Float32Array | None:
        with np.errstate(over="ignore"):
            features: Float32Array = numbers.astype(np.float32, order="C")
        if numbers.dtype.kind == "i":
            return features
        size = np.abs(features)
        # The largest float32 may have been rounded from beyond it.
        good = not (size >= FLOAT32_MAX).any() if self._fill else (size < FLOAT32_MAX).all()
        return features if good else None

    def _labels(self, column: pa.Array) -> Float64Array | None:
        if self.classes is None:
            return _finite(_numbers(column))
        known = self.classes.of(column.dictionary.to_pylist())[np.from_dlpack(column.indices)]
        return None if np.isnan(known).any() else known

    def _is_plain(self, data: bytes) -> bool:
        """Whether pyarrow and the csv module divide these lines into the same cells, or both do not."""
        if b"\r" in data and data.count(b"\r") != data.count(b"\r\n"):
            return False
        if self._fill and b"(" in data and _NAN_OF_C.search(data):
            return False
        return b'"' not in data or _well_quoted(data, ord(self._delimiter), divided=self._divided)


def _table(
    data: bytes, read_options: csv.ReadOptions, parse_options: csv.ParseOptions, convert_options: csv.ConvertOptions
) -> pa.Table | None:
    """The columns that the options tell; None if there is anything in them but what they say."""
    try:
        return csv.read_csv(pa.BufferReader(data), read_options, parse_options, convert_options)
    except pa.ArrowInvalid:
        return None


def _all_rows_have(data: bytes, columns: int, delimiter: bytes) -> bool:
    """Whether every line has this number of cells, none of them being in quotation marks."""
    return all(line.count(delimiter) == columns - 1 for line in data.removesuffix(b"\n").split(b"\n"))


def _may_be_whole_numbers(data: bytes) -> bool:
    """Whether it is worth trying; not where integers would be read otherwise: 0x10 is none here, -0 keeps its sign."""
    return not any(mark in data for mark in (b".", b"x", b"X")) and not (b"-" in data and b"-0" in data)


def _numbers(column: pa.Array) -> NDArray[Any]:
    """A column of numbers [n], NaN where a value is missing."""
    # Not by its `to_numpy`, which loads pandas where that is installed.
    batch = pa.RecordBatch.from_arrays([column], ["0"])
    numbers: NDArray[Any] = batch.to_tensor(null_to_nan=column.null_count > 0).to_numpy()
    return numbers[:, 0]


def _finite(labels: Float64Array) -> Float64Array | None:
    return np.array(labels) if (np.abs(labels) <= FLOAT32_MAX).all() else None


def _well_quoted(data: bytes, delimiter: int, *, divided: bool) -> bool:
    """Whether all quotation marks enclose whole cells, or are doubled within such; line ends only if not `divided`."""
    codes: NDArray[np.uint8] = np.frombuffer(b"\n" + data + b"\n", dtype=np.uint8)
    quotes = np.flatnonzero(codes == ord('"'))
    if len(quotes) % 2:
        return False
    if divided and (np.searchsorted(quotes, np.flatnonzero(codes == ord("\n"))) % 2).any():
        return False
    opening, closing = quotes[::2], quotes[1::2]
    before, behind = codes[opening - 1], codes[closing + 1]
    doubled = opening[1:] == closing[:-1] + 1
    starts = (before == delimiter) | (before == ord("\n"))
    ends = (behind == delimiter) | (behind == ord("\n")) | (behind == ord("\r"))
    starts[1:] |= doubled
    ends[:-1] |= doubled
    return bool(starts.all() and ends.all())
