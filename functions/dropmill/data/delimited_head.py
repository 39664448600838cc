"""What the first rows of delimited text say: its delimiter, and whether they begin with the names of the columns."""

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from dropmill.columns import place, told_name
from dropmill.data.checks import Problems, TooManyProblems, numbered, refuse
from dropmill.data.delimited_cells import INFINITE, MISSING, NAN, NUMBER, Row, rows
from dropmill.data.lines import MAX_LINE_BYTES, Slice
from dropmill.data.unpacked import Readable
from dropmill.recipe import DataOptions
from dropmill.words import joined

BOM = b"\xef\xbb\xbf"
DELIMITERS = (",", "\t", ";", "|")

MAX_ROW_BYTES = 8 << 20
"""So much of a row may go over several lines. Longer ones are as good as always a mistake, and take much memory."""
NO_ROW_END = f"no row ends within {MAX_ROW_BYTES >> 20} MB; is a quotation mark left open?"

_BLANK = b' \t\r\v\f\n"'
_FIRST_BYTES = 64 << 10
_SCAN_BYTES = 1 << 20
_SAMPLE_ROWS = 20
_SAMPLE_CELLS = 20_000
_WHOLE_NUMBER = re.compile(r"[0-9]+")
_DECIMAL_COMMA = re.compile(r"[+-]?[0-9]+(?:[.'][0-9]{3})*,[0-9]+")


@dataclass(frozen=True)
class Head:
    """The first rows of a file. `columns` are the names of its columns, or their numbers.

    Data begins at the offset `start`, on the line `first_line`. `sample` holds the first rows of it, at least one.
    """

    delimiter: str
    header: bool
    columns: list[str]
    start: int
    first_line: int
    sample: list[Row]


def head(stream: Readable, file_name: str, options: DataOptions) -> Head:
    """Look at the first rows of a file. Raises InvalidDrop where there are none, or they can't be told apart."""
    part, start = _first_lines(stream, file_name, options)
    delimiter = _delimiter(part, options)
    found = _sample(part, delimiter, file_name)
    first, second = found[0], found[1] if len(found) > 1 else None
    if len(first.cells or []) == 1 and options.delimiter == "auto":
        _refuse_spaces(file_name, second or first)
    elif len(first.cells or []) == 1:
        _refuse_another_delimiter(file_name, options.delimiter, [row.cells or [""] for row in found[:2]])
    cells = first.cells or []
    other = None if second is None else second.cells
    header = options.header == "true"
    if options.header == "auto":
        # Where ids are texts, and the other columns numbered, only the id's name tells that these are names.
        header = bool(_names(cells, other)) or any(is_name(name) and name in cells for name in options.carried)
    if options.header == "false":
        _refuse_names(file_name, first.line, cells, other, options)
    if not header:
        return Head(delimiter, header, numbered(len(cells)), 0, 1, found)
    if second is None:
        refuse(file_name, "there are no rows under the header")
    columns = _named(file_name, first.line, cells)
    behind = offset_behind(part.data, first.behind - part.first_line)
    return Head(delimiter, header, columns, start + behind, first.behind, found[1:])


def offset_behind(data: bytes, lines: int) -> int:
    """Where the line begins that has so many lines before it."""
    at = 0
    for _ in range(lines):
        at = data.find(b"\n", at) + 1 or len(data)
    return at


def last_row_end(data: bytes) -> int:
    """The offset behind the last line end that isn't within quotation marks; 0 if there is none."""
    if b'"' not in data:
        return data.rfind(b"\n") + 1
    found, within = 0, False
    for start in range(0, len(data), _SCAN_BYTES):
        codes: NDArray[np.uint8] = np.frombuffer(data, np.uint8, min(_SCAN_BYTES, len(data) - start), start)
        quoted = np.logical_xor.accumulate(codes == ord('"')) ^ within
        ends = np.flatnonzero((codes == ord("\n")) & ~quoted)
        if len(ends):
            found = start + int(ends[-1]) + 1
        within = bool(quoted[-1])
    return found


def decimal_comma(cell: str) -> bool:
    return bool(_DECIMAL_COMMA.fullmatch(cell.strip()))


def is_name(cell: str) -> bool:
    """Whether a cell is text, and none that stands for a missing value or a number."""
    return _is_text(cell) and not MISSING.fullmatch(cell.strip()) and not decimal_comma(cell)


def _is_text(cell: str) -> bool:
    cell = cell.strip()
    return bool(cell) and not any(known.fullmatch(cell) for known in (NUMBER, NAN, INFINITE))


def _first_lines(stream: Readable, file_name: str, options: DataOptions) -> tuple[Slice, int]:
    """Whole rows from the start of the file, two of them unless there are fewer, and the offset where they begin."""
    data = b""
    start, line = 0, 1
    while True:
        more = stream.read(max(_FIRST_BYTES, len(data)))
        data += more
        if start == 0 and data.startswith(BOM):
            data, start = data[len(BOM) :], len(BOM)
        end = last_row_end(data)
        if len(data) - end > MAX_ROW_BYTES and b"\n" in data[end:]:
            refuse(file_name, NO_ROW_END, row=line + data.count(b"\n", 0, end))
        cut = end if more else len(data)
        part = Slice(data[:cut], line)
        if part.data and not part.data.strip(_BLANK):
            start, line, data = start + cut, line + data.count(b"\n", 0, cut), data[cut:]
        elif cut and (not more or len(_rows(part, _delimiter(part, options), Problems(file_name, []), 2)) == 2):
            return part, start
        if not more:
            refuse(file_name, "the file is empty")
        if len(data) > 2 * MAX_LINE_BYTES:
            rule = f"no two rows end within {2 * MAX_LINE_BYTES >> 20} MB; is a quotation mark left open?"
            refuse(file_name, rule, row=line)


def _rows(part: Slice, delimiter: str, problems: Problems, most: int) -> list[Row]:
    """Up to `most` rows, or two if these hold many cells."""
    found: list[Row] = []
    count = 0
    with suppress(TooManyProblems):
        for row in rows(part, delimiter, problems, quoted_line_ends=True):
            if row.cells is not None:
                found.append(row)
                count += len(row.cells)
            if len(found) == most or (len(found) > 1 and count > _SAMPLE_CELLS):
                break
    return found


def _sample(part: Slice, delimiter: str, file_name: str) -> list[Row]:
    """The first rows; at least one."""
    problems = Problems(file_name, [])
    found = _rows(part, delimiter, problems, _SAMPLE_ROWS)
    if len(found) < 2 or any((one.problem.row or 0) < found[0].line for one in problems.found):
        problems.raise_any()
    if not found:
        refuse(file_name, "the file is empty")
    return found


def _delimiter(part: Slice, options: DataOptions) -> str:
    """The delimiter that makes rows of one width of the first lines, and most numbers; a comma if none does."""
    if options.delimiter != "auto":
        return options.delimiter
    best, chosen = (0.0, 0.0, 0), ","
    for delimiter in DELIMITERS:
        found = [row.cells or [] for row in _rows(part, delimiter, Problems("", []), _SAMPLE_ROWS)]
        if not found or len(found[0]) < 2:
            continue
        cells = [cell.strip() for row in found[1:] or found for cell in row]
        known = sum(_is_value(cell, delimiter) for cell in cells)
        alike = sum(len(row) == len(found[0]) for row in found) / len(found)
        # Of two that do equally well, one leaves the other within texts: "5;cat" where commas were decimal.
        torn = sum(other in cell for cell in cells for other in DELIMITERS if not _is_value(cell, delimiter))
        if (alike, known / len(cells), -torn) > best:
            best, chosen = (alike, known / len(cells), -torn), delimiter
    return chosen


def _is_value(cell: str, delimiter: str) -> bool:
    return not _is_text(cell) or bool(MISSING.fullmatch(cell)) or (delimiter != "," and decimal_comma(cell))


def _refuse_spaces(file_name: str, row: Row) -> None:
    pieces = (row.cells or [""])[0].split()
    if len(pieces) > 1 and all(NUMBER.fullmatch(piece) for piece in pieces):
        refuse(file_name, "the columns seem to be separated by spaces: save it with commas")


def _refuse_another_delimiter(file_name: str, delimiter: str, several: Sequence[list[str]]) -> None:
    for other in DELIMITERS:
        if all(other in cells[0] for cells in several):
            said = "there is a single column, as data.delimiter in the recipe is"
            refuse(
                file_name, f"{said} {delimiter!r}, and rows seem to be divided by {other!r}: leave data.delimiter out"
            )


def _names(first: Sequence[str], second: Sequence[str] | None) -> list[int]:
    """The cells by which the first row is known to name the columns, as far as one can tell; none if it does not.

    They are texts where the second row has a number or no value (or any, if there is no second row to say otherwise).
    The spelling of a missing value is no such text, and the numbers in the row could be names: whole and all different.
    """
    texts = [index for index, cell in enumerate(first) if is_name(cell)]
    if second is not None:
        texts = [index for index in texts if index >= len(second) or not is_name(second[index])]
    others = [cell.strip() for cell in first if cell.strip() and not _is_text(cell)]
    could_be_names = len(set(others)) == len(others) and all(_WHOLE_NUMBER.fullmatch(cell) for cell in others)
    return texts if could_be_names else []


def _refuse_names(
    file_name: str, line: int, first: Sequence[str], second: Sequence[str] | None, options: DataOptions
) -> None:
    """Refuse a row of names where the recipe says that there is none, but in columns that are dropped."""
    names = [first[index].strip() for index in _names(first, second) if str(index) not in options.drop_columns]
    if names:
        rule = "looks like a column's name, and data.header is false in the recipe: make it true, or leave it out"
        refuse(file_name, rule, row=line, value=names[0])


def _named(file_name: str, line: int, cells: Sequence[str]) -> list[str]:
    names = [cell.strip() or str(index) for index, cell in enumerate(cells)]
    seen: set[str] = set()
    twice: dict[str, None] = {}
    for name in names:
        if name in seen:
            twice[name] = None
        seen.add(name)
    if len(twice) == 1:
        column, hidden = place(names, names.index(next(iter(twice))))
        refuse(file_name, "two columns have this name: rename one", row=line, column=column, name=hidden)
    if twice:
        shown = joined(", ", [told_name(names, name) for name in islice(twice, 10)])
        more = ", ..." if len(twice) > 10 else ""
        refuse(file_name, "several columns each have the names ", shown, f"{more}: rename them", row=line)
    return names
