"""CSV: numbers separated by commas, with or without a row of names, gzipped or not.

The file is read in pieces that end where a row ends, so memory does not grow with the file. Each piece is parsed as
a whole by numpy; only a piece that is not perfectly clean is read again cell by cell, to name what is wrong with it.
"""

import array
import csv
import io
import math
import re
from collections.abc import Iterator
from itertools import chain, islice
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dropmill.contracts import PROBLEMS_MAX, FileFormat, Layout, Problem
from dropmill.data.checks import (
    BEYOND_FLOAT32,
    FLOAT32_MAX,
    MAX_COLUMNS,
    NOT_FINITE,
    LabelValues,
    Problems,
    TooManyProblems,
    feature_columns,
    label_column,
    numbered,
    refuse,
    shortened,
)
from dropmill.recipe import DataOptions

MAX_ROW_BYTES = 32 << 20

_PIECE_BYTES = 4 << 20
_BOM = b"\xef\xbb\xbf"
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_NOT_A_NUMBER = re.compile(r"[+-]?(?:nan|inf|infinity)", re.IGNORECASE)
_WHOLE_NUMBER = re.compile(r"[0-9]+")
_MISSING = re.compile(r"n/?a|<na>|#n/a|null|nil|none|missing|\?+|-+|\.+", re.IGNORECASE)
"""How a cell without a value is commonly spelled, besides nothing and NaN."""

_TEXT_CELL = "is not a number: mend the cell, or list the column under drop_columns"
_TEXT_LABEL = "is not a number, and a label must be one"
_EMPTY_CELL = "the cell is empty: fill it in, or leave the row out"
_MISSING_VALUE = "stands for a missing value: fill it in, or leave the row out"
_OTHER_DELIMITERS = {";": "';'", "\t": "tabs", "|": "'|'", " ": "spaces"}
_QUANTITY = re.compile(r"[^\w]*[0-9]")  # a number with a unit, a currency or separators: 12 kg, $12, 1,200
_SAMPLE_ROWS = 1000


class Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Piece:
    """Whole rows of a file. `first_line` is the number, from 1, of the line that they begin with."""

    def __init__(self, data: bytes, first_line: int) -> None:
        self.data = data
        self.first_line = first_line

    def rows(self, file_name: str) -> Iterator[tuple[int, list[str]]]:
        """Yield each row that isn't blank with the number of the line that it begins on."""
        lines = io.StringIO(self.data.decode("utf-8", "replace"), newline="\n")
        reader = csv.reader(lines, strict=True)
        line = self.first_line
        try:
            for row in reader:
                if row and (len(row) > 1 or row[0].strip()):
                    yield line, row
                line = self.first_line + reader.line_num
        except csv.Error as error:
            reason = "line ends must be LF or CR LF" if "new-line" in str(error) else str(error)
            refuse(file_name, f"can't be read as CSV: {reason}", row=line)

    def after_first_row(self) -> "_Piece":
        """What follows the first row that isn't blank."""
        reader = csv.reader(io.StringIO(self.data.decode("utf-8", "replace"), newline="\n"), strict=True)
        for row in reader:
            if row and (len(row) > 1 or row[0].strip()):
                break
        at = 0
        for _ in range(reader.line_num):
            at = self.data.find(b"\n", at) + 1 or len(self.data)
        return _Piece(self.data[at:], self.first_line + reader.line_num)


def look(stream: Readable, file_name: str, options: DataOptions, *, gzipped: bool) -> Layout:
    """Say how a CSV file is laid out. Reads the whole file if it has a label. Raises InvalidDrop."""
    pieces = _pieces(stream, file_name)
    seen: list[_Piece] = []
    rows = (row for piece in _noted(pieces, seen) for row in piece.rows(file_name))
    first, second = next(rows, None), next(rows, None)
    rows.close()
    if first is None:
        refuse(file_name, "the file is empty")
    _refuse_other_delimiters(file_name, first[1], None if second is None else second[1])
    header = _has_header(first[1], None if second is None else second[1], options)
    if options.header == "false":
        _refuse_names(file_name, first, None if second is None else second[1], options)
    if header and second is None:
        refuse(file_name, "there are no rows under the header")
    columns = _named(file_name, *first) if header else numbered(len(first[1]))
    if len(columns) > MAX_COLUMNS:
        refuse(file_name, f"there are {len(columns)} columns; {MAX_COLUMNS} is the most", row=first[0])
    label = label_column(file_name, columns, options)
    features = feature_columns(file_name, columns, label, options)
    line, sample = second if header and second is not None else first
    if all(index < len(sample) and _is_name(sample[index]) for index in features):
        refuse(file_name, "no column that could be a feature holds a number", row=line)
    layout = Layout(
        format=FileFormat.CSV,
        gzipped=gzipped,
        header=header,
        columns=columns,
        label_column=label,
        feature_columns=features,
    )
    if label is None:
        return layout
    values = LabelValues()
    problems = Problems(file_name, [])
    try:
        for piece in _data_pieces(chain(seen, pieces), header=header):
            values.add(_labels(piece, label, layout, problems))
    except TooManyProblems:
        pass
    if any(problem.rule == _TEXT_LABEL for problem in problems.found):
        problems.found[:] = _text_labels_in_one(problems.found, _label_cells(seen, layout, label, file_name))
    problems.raise_any()
    return layout.model_copy(update={"label_values": values.result()})


def tables(stream: Readable, layout: Layout, problems: Problems) -> Iterator[NDArray[np.float64]]:
    """Yield the numbers of a CSV file piece by piece: the feature columns, then, if there is one, the label column.

    A row with a problem is left out. Raises TooManyProblems, and InvalidDrop for what is no CSV at all.
    """
    wanted = [*layout.feature_columns, *([] if layout.label_column is None else [layout.label_column])]
    for piece in _data_pieces(_pieces(stream, problems.file_name), header=layout.header):
        table = _parse(piece.data, wanted, len(layout.columns))
        if table is None or not _all_float32(table):
            table = _parse_cells(piece, wanted, layout, problems)
        if len(table):
            yield table


def _pieces(stream: Readable, file_name: str) -> Iterator[_Piece]:
    """Cut the stream after the last row that ends within each step, leaving out what is blank.

    Raises InvalidDrop for a row without an end.
    """
    rest = b""
    line = 1
    while read := stream.read(_PIECE_BYTES):
        data = (rest + read).removeprefix(_BOM) if line == 1 else rest + read
        cut = _last_row_end(data)
        if cut:
            if not data[:cut].isspace():
                yield _Piece(data[:cut], line)
            line += data.count(b"\n", 0, cut)
        rest = data[cut:]
        if len(rest) > MAX_ROW_BYTES:
            rule = f"no row ends within {MAX_ROW_BYTES >> 20} MB; is a quotation mark left open?"
            refuse(file_name, rule, row=line)
    if rest.strip():
        yield _Piece(rest, line)


def _last_row_end(data: bytes) -> int:
    """The offset after the last line end that isn't within quotation marks; 0 if there is none."""
    if b'"' not in data:
        return data.rfind(b"\n") + 1
    codes: NDArray[np.uint8] = np.frombuffer(data, dtype=np.uint8)
    ends = np.flatnonzero(codes == ord("\n"))
    quotes_before = np.searchsorted(np.flatnonzero(codes == ord('"')), ends)
    outside = ends[quotes_before % 2 == 0]
    return int(outside[-1]) + 1 if len(outside) else 0


def _noted(pieces: Iterator[_Piece], seen: list[_Piece]) -> Iterator[_Piece]:
    for piece in pieces:
        seen.append(piece)
        yield piece


def _data_pieces(pieces: Iterator[_Piece], *, header: bool) -> Iterator[_Piece]:
    """All pieces without the row of names."""
    if header and (first := next(pieces, None)):
        first = first.after_first_row()
        if first.data and not first.data.isspace():
            yield first
    yield from pieces


def _is_text(cell: str) -> bool:
    cell = cell.strip()
    return bool(cell) and not _NUMBER.fullmatch(cell) and not _NOT_A_NUMBER.fullmatch(cell)


def _is_name(cell: str) -> bool:
    return _is_text(cell) and not _MISSING.fullmatch(cell.strip())


def _has_header(first: list[str], second: list[str] | None, options: DataOptions) -> bool:
    if options.header != "auto":
        return options.header == "true"
    return bool(_names(first, second))


def _names(first: list[str], second: list[str] | None) -> list[int]:
    """The cells by which the first row is known to name the columns, as far as one can tell; none if it does not.

    They are texts where the second row has a number or no value (or any, if there is no second row to say otherwise).
    The spelling of a missing value is no such text, and the numbers in the row could be names: whole and all different.
    """
    texts = [index for index, cell in enumerate(first) if _is_name(cell)]
    if second is not None:
        texts = [index for index in texts if index >= len(second) or not _is_name(second[index])]
    others = [cell.strip() for cell in first if cell.strip() and not _is_text(cell)]
    could_be_names = len(set(others)) == len(others) and all(_WHOLE_NUMBER.fullmatch(cell) for cell in others)
    return texts if could_be_names else []


def _refuse_names(file_name: str, first: tuple[int, list[str]], second: list[str] | None, options: DataOptions) -> None:
    """Refuse a row of names where the recipe says that there is none, but in columns that are dropped."""
    line, cells = first
    names = [cells[index].strip() for index in _names(cells, second) if str(index) not in options.drop_columns]
    if names:
        rule = (
            f"{shortened(names[0])!r} looks like a column's name, and data.header is false in the recipe:"
            " make it true, or leave it out"
        )
        refuse(file_name, rule, row=line)


def _refuse_other_delimiters(file_name: str, first: list[str], second: list[str] | None) -> None:
    """Refuse rows that something else than commas divides.

    Each row is taken as a whole: without a comma in either, the same number of other delimiters in both is enough;
    else a row must be all numbers once it is cut there, their commas being decimal ones.
    """
    if all(_NUMBER.fullmatch(cell.strip()) for cell in second or first):
        return
    rows = [",".join(row).strip() for row in (first, second) if row is not None]
    for delimiter, said in _OTHER_DELIMITERS.items():
        counts = {row.count(delimiter) for row in rows}
        commas = any("," in row for row in rows)
        if counts == {0} or (commas and delimiter == " "):
            continue
        alone = len(counts) == 1 and not commas and delimiter != " "
        pieces = [piece.strip().replace(",", ".", 1) for piece in rows[-1].split(delimiter)]
        if alone or (len(pieces) > 1 and all(_NUMBER.fullmatch(piece) for piece in pieces)):
            decimal = " and with decimal points" if "," in rows[-1] else ""
            refuse(file_name, f"the columns seem to be separated by {said}: save it with commas{decimal}")


def _label_cells(seen: list[_Piece], layout: Layout, label: int, file_name: str) -> list[str]:
    """The first labels of the file as they are written."""
    rows = (row for piece in _data_pieces(iter(seen), header=layout.header) for _, row in piece.rows(file_name))
    return [row[label].strip() for row in islice(rows, _SAMPLE_ROWS) if label < len(row)]


def _text_labels_in_one(found: list[Problem], cells: list[str]) -> list[Problem]:
    """The same problems, with all that text in place of labels makes up gathered in the first of them."""
    texts = [problem for problem in found if problem.rule == _TEXT_LABEL]
    said = list(dict.fromkeys(problem.value or "" for problem in texts))
    quoted = ", ".join(repr(text) for text in said[:5]) + (", ..." if len(said) > 5 else "")
    if any(_NUMBER.fullmatch(cell) for cell in cells):
        advice = "mend these cells or leave the rows out"
    elif all(_QUANTITY.match(text) for text in said):
        advice = "write plain numbers, without unit or separator"
    else:
        advice = "number the classes"
    rule = f"a label must be a number, and {quoted} {'is' if len(said) == 1 else 'are'} not"
    if len(found) >= PROBLEMS_MAX:
        rule += f" ({len(texts)} rows or more)"
    gathered = texts[0].model_copy(update={"value": None, "rule": f"{rule}: {advice}"})
    rest = [problem for problem in found if problem.rule != _TEXT_LABEL]
    return [gathered, *rest]


def _named(file_name: str, line: int, cells: list[str]) -> list[str]:
    names = [cell.strip() or str(index) for index, cell in enumerate(cells)]
    seen: set[str] = set()
    for name in names:
        if name in seen:
            refuse(file_name, "two columns have this name: rename one", row=line, column=shortened(name))
        seen.add(name)
    return names


def _labels(piece: _Piece, label: int, layout: Layout, problems: Problems) -> NDArray[np.float64]:
    table = _parse(piece.data, [label], len(layout.columns))
    if table is None or not _all_float32(table):
        table = _parse_cells(piece, [label], layout, problems)
    return table[:, 0]


def _parse(data: bytes, wanted: list[int], columns: int) -> NDArray[np.float64] | None:
    """Parse whole rows at once; None if anything about them is out of the ordinary."""
    data = data.rstrip(b"\r\n")
    whole = wanted == list(range(columns))
    if not whole and not _all_rows_have(data, columns):
        return None
    try:
        table: NDArray[np.float64] = np.loadtxt(
            io.BytesIO(data),
            dtype=np.float64,
            delimiter=",",
            comments=None,
            quotechar='"',
            ndmin=2,
            encoding="latin-1",
            usecols=None if whole else wanted,
        )
    except ValueError:
        return None
    return table if table.shape[1] == len(wanted) else None


def _all_rows_have(data: bytes, columns: int) -> bool:
    """Whether every row has this number of cells; False too where only a closer look could tell.

    The data must not end with a line end.
    """
    if b'"' in data:
        return False
    codes: NDArray[np.uint8] = np.frombuffer(data, dtype=np.uint8)
    ends = np.flatnonzero(codes == ord("\n"))
    before = np.searchsorted(np.flatnonzero(codes == ord(",")), np.append(ends, len(codes)))
    return bool((np.diff(before, prepend=0) == columns - 1).all())


def _all_float32(table: NDArray[np.float64]) -> bool:
    return bool((np.abs(table) <= FLOAT32_MAX).all())  # NaN compares as False


def _parse_cells(piece: _Piece, wanted: list[int], layout: Layout, problems: Problems) -> NDArray[np.float64]:
    """Parse row by row, and say which cells are wrong."""
    table = array.array("d")
    for line, row in piece.rows(problems.file_name):
        if len(row) != len(layout.columns):
            rule = f"the row has {len(row)} cells where the file has {len(layout.columns)} columns"
            problems.add(rule, row=line)
            continue
        numbers = []
        for index in wanted:
            cell = row[index].strip()
            number = float(cell) if _NUMBER.fullmatch(cell) else None
            if number is None or abs(number) > FLOAT32_MAX:
                column = shortened(layout.columns[index])
                rule = _wrong_with(cell, number, label=index == layout.label_column)
                value = f"{number:.6g}" if number is not None and len(cell) > 12 and math.isfinite(number) else cell
                problems.add(rule, row=line, column=column, value=value or None)
            else:
                numbers.append(number)
        if len(numbers) == len(wanted):
            table.extend(numbers)
    return np.frombuffer(table, dtype=np.float64).reshape(-1, len(wanted))


def _wrong_with(cell: str, number: float | None, *, label: bool) -> str:
    if number is not None:
        return BEYOND_FLOAT32
    if not cell:
        return _EMPTY_CELL
    if _MISSING.fullmatch(cell):
        return _MISSING_VALUE
    if _NOT_A_NUMBER.fullmatch(cell):
        return NOT_FINITE
    return _TEXT_LABEL if label else _TEXT_CELL
