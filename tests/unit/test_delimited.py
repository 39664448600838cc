"""Delimited text: its delimiter, names, cells and pieces, and that quick and careful reading agree on all of it."""

import gzip
import io
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dropmill.contracts import DroppedFile, FileFormat, FoundProblem, Layout, ObjectVersion, Piece, Unit
from dropmill.data import delimited, delimited_cells, delimited_head, formats, lines, unpacked
from dropmill.data.checks import Problems, TooManyProblems
from dropmill.data.lines import Slice
from dropmill.data.rows import ROWS_BYTES, Look, OpenFile, Progress, Rows
from dropmill.errors import InvalidDrop
from dropmill.recipe import DataOptions

TEXT_CELL = "is not a number: mend the cell, or list the column under drop_columns"
NOT_FINITE = "is not a finite number: mend the row or leave it out"
FILL = "fill it in, leave the row out, or set data.missing to mean or 0 in the recipe"
EMPTY = f"the cell is empty: {FILL}"
MISSING = f"stands for a missing value: {FILL}"
NO_LABEL = "the label is empty: fill it in, or leave the row out"
MISSING_LABEL = (
    "stands for a missing value: fill it in, or leave the row out; if it is a class, list it under data.classes in the"
    " recipe"
)


def packed(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


def opened(data: bytes, name: str = "d.csv") -> OpenFile:
    return OpenFile(name, len(data), lambda: io.BytesIO(data))


class Read:
    """A file looked at and read to its end, in `pieces` equal ranges of its bytes if it can be divided."""

    def __init__(
        self,
        data: bytes,
        *,
        pieces: int = 1,
        fill: bool = False,
        classes: list[str] | None = None,
        quoted: bool | None = None,
        **options: Any,
    ) -> None:
        gzipped = data.startswith(b"\x1f\x8b")
        file = opened(data, "d.csv.gz" if gzipped else "d.csv")
        look = delimited.look(file, DataOptions(**options), gzipped=gzipped)
        layout = look.layout.model_copy(update={"classes": classes})
        if fill:
            layout = layout.model_copy(update={"fill": [0.0] * layout.feature_dim})
        if quoted is None:
            quoted = not gzipped and delimited.has_quoted_line_ends(file, look)
        if quoted:
            look = Look(layout.model_copy(update={"quoted_line_ends": True}))
        self.look, self.layout = look, layout
        dropped = DroppedFile(
            source=ObjectVersion(bucket="drops", key="d.csv", size=len(data)),
            name=file.name,
            unit=look.unit,
            start=look.start,
            end=look.end,
            first_line=look.first_line,
        )
        self.found: list[FoundProblem] = []
        self.rows: list[Rows] = []
        self.progress: list[Progress] = []
        self.said: list[str] = []
        bounds = np.linspace(look.start, look.end, (pieces if look.unit is Unit.LINES else 1) + 1).astype(int).tolist()
        before = look.first_line - 1
        for start, end in pairwise(bounds):
            piece = Piece(file=0, start=start, end=end)
            found: list[FoundProblem] = []
            progress = Progress(start, start)
            with suppress(TooManyProblems):
                self.rows += delimited.read(file, dropped, piece, layout, Problems(file.name, found), progress)
            self.said += [
                one.problem.model_copy(update={"row": (one.problem.row or 0) + before}).words.in_full() for one in found
            ]
            self.found += found
            self.progress.append(progress)
            before += progress.lines
        for rows in self.rows:
            assert isinstance(rows.features, np.ndarray)
            assert rows.features.dtype == np.float32
            assert rows.features.flags.c_contiguous
            assert rows.features.nbytes <= max(ROWS_BYTES, 4 * layout.feature_dim)
            assert (rows.labels is not None) == layout.labelled

    @property
    def features(self) -> NDArray[np.float32]:
        found = [rows.features for rows in self.rows if isinstance(rows.features, np.ndarray)]
        return np.concatenate(found) if found else np.empty((0, self.layout.feature_dim), np.float32)

    @property
    def labels(self) -> NDArray[np.float64]:
        return np.concatenate([rows.labels for rows in self.rows if rows.labels is not None])


def refused(data: bytes, **options: Any) -> str:
    with pytest.raises(InvalidDrop) as error:
        Read(data, **options)
    return error.value.words.in_full()


def label_cells(data: bytes, **options: Any) -> tuple[list[Any], list[str]]:
    """The labels of a file, joined, and the problems with them."""
    gzipped = data.startswith(b"\x1f\x8b")
    file = opened(data)
    look = delimited.look(file, DataOptions(**options), gzipped=gzipped)
    problems = Problems(file.name, [])
    labels: list[Any] = []
    with suppress(TooManyProblems):
        for some in delimited.label_cells(file, look, problems):
            labels += some if isinstance(some, list) else some.tolist()
    return labels, [one.problem.words.in_full() for one in problems.found]


# Layout


def test_names_and_label() -> None:
    data = b"a,label,b\n1,0,2.5\n-3,1,4e2\n"
    read = Read(data)
    assert read.features.tolist() == [[1, 2.5], [-3, 400]]
    assert read.labels.tolist() == [0, 1]
    assert read.look == Look(
        Layout(format=FileFormat.CSV, header=True, columns=["a", "label", "b"], label_column=1, feature_columns=[0, 2]),
        unit=Unit.LINES,
        start=10,
        end=len(data),
        first_line=2,
    )
    assert Read(packed(data)).look.unit is Unit.WHOLE
    assert Read(packed(data)).features.tolist() == read.features.tolist()


def test_without_names() -> None:
    read = Read(b"1,0,2.5\n-3,1,4e2", label="1")
    assert read.features.tolist() == [[1, 2.5], [-3, 400]]
    assert read.labels.tolist() == [0, 1]
    assert (read.look.start, read.look.first_line, read.layout.header) == (0, 1, False)
    assert Read(b"1,0,2.5\n-3,1,4e2").features.shape == (2, 3)


@pytest.mark.parametrize(
    ("data", "header"),
    [
        (b"label,0,1\n3,4,5\n6,7,8\n", True),  # numbers as names
        (b"0,1,2\n3,4,5\n", False),
        (b"0,0,oops,0\n1,2,3,4\n", False),  # a row of data with a text in it
        (b"1.5,oops\n1,2\n", False),
        (b",a,b\n0,1,2\n", True),  # an index without a name
        (b"a,b\nx,1\n", True),
        (b"nan,1\n2,3\n", False),
        (b"5,NA,1\n1,93,4\n", False),  # a row of data with a missing value
        (b"5,?,1\n1,93,4\n", False),
        (b"5,n/a,1\n", False),
        (b"a,none,1\n1,93,4\n", True),
        (b"a,b\nNA,null\n1,2\n", True),
    ],
)
def test_a_row_of_names_is_recognised(data: bytes, header: bool) -> None:
    assert Read(data).layout.header is header


def test_a_row_of_names_is_as_the_recipe_says() -> None:
    assert Read(b"0,1\n2,3\n", header="true").features.tolist() == [[2, 3]]
    said = "d.csv, row 1: 'a' looks like a column's name, and data.header is false"
    assert said in refused(b"a,5\n2,3\n", header="false")
    assert Read(b"a,5\n2,3\n", header="false", drop_columns=["0"]).features.tolist() == [[5], [3]]


@pytest.mark.parametrize(
    ("data", "delimiter", "shape"),
    [
        (b"1, 2, 3\n4, 5, 6\n", ",", (2, 3)),
        (b"a;b;c\n1;2;3\n", ";", (1, 3)),
        (b"a\tb\n1\t2\n", "\t", (1, 2)),
        (b"1|2\n3|4\n", "|", (2, 2)),
        (b"a;b,c\n1,2\n", ",", (1, 2)),
        (b"a\n1\n", ",", (1, 1)),
        (b"1\n", ",", (1, 1)),
        (b"first name,b\n1,2\n", ",", (1, 2)),
        (b'"x;y",1\n"z;w",2\n', ",", (2, 1)),
        (b"id;x;note\n1;2;red, blue, green\n3;4;red\n", ";", (2, 2)),
        (b"1;a,b;3\n2;c,d;4\n", ";", (2, 2)),
        (b"a,b\n1,2\n1,2,3\n1,2\n", ",", (2, 2)),  # a ragged row is a problem, and hides no delimiter
        (b"a;b\n;2\n?;3\n", ";", (0, 2)),
        (b"\xef\xbb\xbfa\tb\r\n1\t2\r\n", "\t", (1, 2)),
    ],
)
def test_delimiters_are_recognised(data: bytes, delimiter: str, shape: tuple[int, int]) -> None:
    dropped = [name for name in ("note",) if b"note" in data]
    dropped += ["0"] if b"x;y" in data else ["1"] if b"a,b;" in data else []
    read = Read(data, drop_columns=dropped)
    assert read.layout.delimiter == delimiter
    assert read.features.shape == shape


@pytest.mark.parametrize("columns", [delimited.WIDE_COLUMNS - 1, delimited.WIDE_COLUMNS + 1])
def test_many_columns(columns: int) -> None:
    rng = np.random.default_rng(5)
    table = rng.integers(-9, 9, (20, columns)) / 4
    text = "\n".join(",".join(map(str, row)) for row in table.tolist())
    whole = Read(text.encode())
    np.testing.assert_array_equal(whole.features, table)
    assert Read((text + ",1").encode()).said == [
        f"d.csv, row 20: the row has {columns + 1} cells where the file has {columns} columns"
    ]
    labelled = Read(text.encode(), label="3", drop_columns=["1"])
    np.testing.assert_array_equal(labelled.labels, table[:, 3])
    np.testing.assert_array_equal(labelled.features, np.delete(table, [1, 3], axis=1))
    holed = Read(text.replace("0.25", "", 1).encode(), fill=True)
    assert np.isnan(holed.features).sum() == 1


def test_the_recipe_may_say_the_delimiter() -> None:
    assert Read(b"a;b\n1;2\n", delimiter=";").features.tolist() == [[1, 2]]
    read = Read(b"x,note\n1,a|b\n2,c|d\n", delimiter=",", drop_columns=["note"])
    assert read.features.tolist() == [[1], [2]]
    assert refused(b"a,b\n1,2\n", delimiter=";") == (
        "d.csv: there is a single column, as data.delimiter in the recipe is ';', and rows seem to be divided by ',':"
        " leave data.delimiter out"
    )


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"a b\n1 2\n", "d.csv: the columns seem to be separated by spaces: save it with commas"),
        (b"1   2\n3   4\n", "d.csv: the columns seem to be separated by spaces"),
        (b"a;b\n1,5;2\n", "d.csv, row 2, column 'a': '1,5' has a comma within the number: save the numbers with dec"),
        (b"1,5;2,5\n3,5;4,5\n", "row 1, column '0': '1,5' has a comma within the number"),
        (b"a;b;label\n1,5;2,5;cat\n2,5;3;dog\n", "row 2, column 'a': '1,5' has a comma within the number"),
        (b"a;label\n1,5;cat\n2,5;dog\n", "row 2, column 'a': '1,5' has a comma within the number"),
        (b"a\tlabel\n1,5\tcat\n2,5\tdog\n", "row 2, column 'a': '1,5' has a comma within the number"),
        (b'a,label\n"1,5",cat\n"2,5",dog\n', "row 2, column 'a': '1,5' has a comma within the number"),
        (b"1,5;cat\n2,5;dog\n", "row 1, column '0': '1,5' has a comma within the number"),
        (b'a,label\n"1,5",2\n', "row 2, column 'a': '1,5' has a comma within the number"),
        (b'a,label\n1,2\n1,"1.234,5"\n', "row 3, column 'label': '1.234,5' has a comma"),
    ],
)
def test_what_no_delimiter_divides_is_named(data: bytes, said: str) -> None:
    assert said in refused(data)


def test_columns_are_named_or_numbered() -> None:
    data = b"a,b,c\n1,2,3\n"
    assert Read(data, label="c", drop_columns=["a"]).features.tolist() == [[2]]
    assert Read(data, label="2", drop_columns=["0"]).features.tolist() == [[2]]
    assert Read(b"2,1,0\n5,6,7\n", header="true", label="2").labels.tolist() == [5]  # a name comes first


def test_all_names_that_are_there_twice_are_told() -> None:
    assert "d.csv, row 1, column 'a': two columns have this name: rename one" in refused(b"a,b,a\n1,2,3\n")
    names = ",".join(f"c{index % 12}" for index in range(30))
    message = refused(f"{names}\n{','.join('1' * 30)}\n".encode())
    assert "row 1: several columns each have the names 'c0', 'c1'," in message
    assert "'c9', ...: rename them" in message


@pytest.mark.parametrize(
    ("data", "options", "said"),
    [
        (b"\n \n", {}, "the file is empty"),
        (packed(b""), {}, "the file is empty"),
        (b"\xef\xbb\xbf", {}, "the file is empty"),
        (b"a,b\n", {}, "no rows under the header"),
        (b"1,2\n", {"header": "true"}, "no rows under the header"),
        (b"a,b\nx,y\n", {"header": "true"}, "no column that could be a feature holds a number"),
        (b"a,b\n1,2\n", {"label": "c"}, "no label column 'c'; the columns are a, b"),
        (b"a,Digit\n1,2\n", {"label": "digit"}, "did you mean 'Digit'? the columns are a, Digit"),
        (b"1,2\n3,4\n", {"label": "2"}, "give an index from 0 to 1"),
        (b"1,2\n3,4\n", {"label": "-1"}, "no label column"),
        (b"a,b\n1,2\n", {"drop_columns": ["c"]}, "no column 'c' to drop"),
        (b"a,b\n1,2\n", {"label": "a", "drop_columns": ["b"]}, "no column is left"),
        (b"a,b\r1,2\r", {}, "row 1: can't be read as CSV: line ends must be LF or CR LF"),
        (b'"a"x,b\n1,2\n', {}, "row 1: can't be read as CSV"),
        (b'a,b\n1,"2\n', {}, "row 2: can't be read as CSV: a quotation mark is left open"),
        (packed(b"a,label\n1,2\n")[:-9], {}, "cut off"),
        ((",".join(["1"] * 100_001) + "\n").encode(), {}, "100001 columns; 100000 is the most"),
    ],
)
def test_what_cannot_be_read_is_refused(data: bytes, options: dict[str, Any], said: str) -> None:
    message = refused(data, **options)
    assert said in message
    assert message.startswith("d.csv")


def test_blank_lines_before_the_names_are_counted() -> None:
    read = Read(b"\n  \n\na,b\n\n1,2\nx,3\n")
    assert read.features.tolist() == [[1, 2]]
    assert read.said == [f"d.csv, row 7, column 'a': 'x' {TEXT_CELL}"]


@pytest.mark.parametrize("blank", [b"\n", b" \n", b'""\n'])
def test_blank_slices_before_the_names_lose_nothing(blank: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited, "SLICE_BYTES", 9)
    read = Read(packed(blank * 20 + b"a\n" + blank * 20 + b"1\n" + blank * 20 + b"x\n"))
    assert read.features.tolist() == [[1]]
    assert read.said == [f"d.csv.gz, row 63, column 'a': 'x' {TEXT_CELL}"]


def test_a_long_head_is_read_to_its_second_row() -> None:
    names = [f"column_{index:05}" for index in range(9000)]
    data = f"{','.join(names)}\n{','.join(['7'] * 9000)}\n".encode()
    assert Read(data).features.shape == (1, 9000)
    assert Read(b"\n" * 200_000 + b"a,b\n1,2\n").look.first_line == 200_002


# Cells


@pytest.mark.parametrize("gzipped", [False, True])
def test_problems_name_row_and_column(gzipped: bool) -> None:
    data = b"\n".join([
        b"a,b,c", b"1,2,0", b"1,2", b"1,2,3,4", b"x,2,0", b"1,,0", b"1,nan,0", b"-inf,2,0", b"1,1e39,0",
        b"1,0x10,0", b"1,1_0,0", b"3,4,1",
    ])  # fmt: skip
    read = Read(packed(data) if gzipped else data)
    name = "d.csv.gz" if gzipped else "d.csv"
    assert read.said == [
        f"{name}, row 3: the row has 2 cells where the file has 3 columns",
        f"{name}, row 4: the row has 4 cells where the file has 3 columns",
        f"{name}, row 5, column 'a': 'x' {TEXT_CELL}",
        f"{name}, row 6, column 'b': {EMPTY}",
        f"{name}, row 7, column 'b': 'nan' {NOT_FINITE}",
        f"{name}, row 8, column 'a': '-inf' {NOT_FINITE}",
        f"{name}, row 9, column 'b': '1e39' is beyond float32 (at most 3.403e+38 in size): rescale the column",
        f"{name}, row 10, column 'b': '0x10' {TEXT_CELL}",
        f"{name}, row 11, column 'b': '1_0' {TEXT_CELL}",
    ]
    assert read.features.tolist() == [[1, 2, 0], [3, 4, 1]]
    assert read.progress[0].rows == 11


@pytest.mark.parametrize(
    "cell", ["NA", "n/a", "N/A", "null", "NULL", "None", "?", "-", "--", "<NA>", "#N/A", "missing", ".", "nIL", "????"]
)
def test_missing_values_are_refused_or_left_to_be_filled(cell: str) -> None:
    data = f"5,{cell},1\n1,93,4\n2,5,6\n".encode()
    read = Read(data)
    assert read.said == [f"d.csv, row 1, column '1': {cell!r} {MISSING}"]
    assert len(read.features) == 2
    filled = Read(data, fill=True)
    np.testing.assert_array_equal(filled.features, np.array([[5, np.nan, 1], [1, 93, 4], [2, 5, 6]]))
    assert filled.said == []


def test_what_is_missing_in_any_way_is_filled() -> None:
    read = Read(b'1,2,3\n,"", \nnan,-NaN,+nan\n"NA", ? ,4\n', fill=True)
    nan = np.nan
    np.testing.assert_array_equal(read.features, np.array([[1, 2, 3], [nan] * 3, [nan] * 3, [nan, nan, 4]]))
    assert read.said == []
    assert Read(b"1,2\ninf,3\n", fill=True).said == [f"d.csv, row 2, column '0': 'inf' {NOT_FINITE}"]
    assert Read(b"1,2\nnan(7),3\n", fill=True).said == [f"d.csv, row 2, column '0': 'nan(7)' {TEXT_CELL}"]


def test_a_missing_label_is_a_problem_even_where_features_are_filled() -> None:
    for fill in (False, True):
        read = Read(b"a,label\n1,2\n3,\n5,NA\n7,nan\n", fill=fill)
        assert read.features.tolist() == [[1]]
        assert [said.split(": ", 1)[0] for said in read.said] == [
            f"d.csv, row {row}, column 'label'" for row in (3, 4, 5)
        ]


def test_numbers_are_rounded_by_way_of_float64() -> None:
    # Just above the middle of two float32, by less than float64 can tell.
    cell = "1.00000005960464477539062500000000000000000001"
    assert Read(f"0,{cell}\n".encode()).features[0, 1] == np.float32(np.float64(cell)) == 1
    assert Read(b"16777217,33554435\n").features.tolist() == [[16777216, 33554436]]
    assert Read(b"5,-0\n").features.view(np.uint32)[0, 1] == 0x80000000


def test_the_largest_float32_is_none_too_large() -> None:
    assert Read(b"3.4028234663852886e38,1\n").said == []
    assert "is beyond float32" in Read(b"3.40282347e38,1\n").said[0]


def test_long_values_are_shortened() -> None:
    assert Read(b"a,b\n1,2\n1,126" + b"0" * 297 + b"\n").found[0].problem.value == "1.26e+299"
    assert Read(b"a,b\n1,2\n1," + b"y" * 1000 + b"\n").found[0].problem.value == "y" * 40 + "..."


def test_ten_problems_are_told_and_reading_ends_at_a_hundred() -> None:
    assert len(Read(b"a,b\n1,2\n" + b"1,x\n" * 50).found) == 10
    assert Read(b"a,b\n1,2\n" + b"1,x\n" * 200_000).progress[0].rows < 200_000


def test_ten_problems_of_one_kind_hide_no_other() -> None:
    said = Read(b"a,b\n1,2\n" + b"1,x\n" * 60 + b"inf,2\n" + b"1,x\n" * 20 + b"1,2,3\n").said
    assert len(said) == 10
    assert [words.split(", ", 1)[1].partition(":")[0] for words in said] == [
        *(f"row {row}, column 'b'" for row in range(3, 11)),
        "row 63, column 'a'",
        "row 84",
    ]


def test_text_as_spreadsheets_write_it() -> None:
    data = '\ufeff"a","label","note"\r\n"1",0,"two\r\nlines, and a ""comma"""\r\n 2 ,1,plain\r\n\r\n'.encode()
    for body in (data, packed(data)):
        read = Read(body, drop_columns=["note"])
        assert read.features.tolist() == [[1], [2]]
        assert read.labels.tolist() == [0, 1]
        assert read.said == []


def test_a_mark_of_utf8_before_numbers_costs_no_row() -> None:
    for body in (b"\xef\xbb\xbf1,2\n3,4\n", packed(b"\xef\xbb\xbf1,2\n3,4\n")):
        assert Read(body).features.tolist() == [[1, 2], [3, 4]]


# Line ends within quotation marks


@pytest.mark.parametrize(
    ("data", "there"),
    [
        (b"a,b\n1,2\n", False),
        (b'a,b\n"1","2"\n', False),
        (b'a,b\n"1","x""y"\n', False),
        (b'a,"b\nc"\n1,2\n', False),  # above the data, where nothing is divided
        (b'a,b\n1,"x\ny"\n', True),
        (b'a,b\n1,2\n1,"x\n', True),
        (b'a,b\n1,2\n1,"x', True),
    ],
)
@pytest.mark.parametrize("scan_bytes", [3, 1 << 20])
def test_line_ends_in_cells_are_found(
    data: bytes, there: bool, scan_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delimited, "_SCAN_BYTES", scan_bytes)
    file = opened(data)
    seen = delimited.look(file, DataOptions(drop_columns=["1"], header="true"), gzipped=False)
    assert delimited.has_quoted_line_ends(file, seen) is there


@pytest.mark.parametrize("gzipped", [False, True])
def test_line_ends_in_cells_cut_no_row(gzipped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [f'{index},"a note\nof {index} lines\n",{index % 2}' for index in range(300)]
    monkeypatch.setattr(delimited, "SLICE_BYTES", 64)
    data = "\n".join(["a,note,label", *rows]).encode()
    read = Read(packed(data) if gzipped else data, drop_columns=["note"])
    assert read.features[:, 0].tolist() == list(range(300))
    assert read.said == []


@pytest.mark.parametrize("slice_bytes", [7, 1 << 20])
def test_rows_are_counted_in_lines_whatever_stands_between(slice_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited, "SLICE_BYTES", slice_bytes)
    data = b'a,b\n\n1,"2"\r\n\r\n"\n3\n",4\nx,6\n'
    assert Read(data).said == [f"d.csv, row 8, column 'a': 'x' {TEXT_CELL}"]
    assert Read(packed(data)).said == [f"d.csv.gz, row 8, column 'a': 'x' {TEXT_CELL}"]


def test_a_divided_file_has_no_line_ends_in_cells() -> None:
    data = b'a,note\n1,"one\ntwo"\n2,"ok"\n3,x\ry\n4,z\n'
    read = Read(data, quoted=False, drop_columns=["note"])
    assert read.features[:, 0].tolist() == [2, 4]
    assert [said.split(": ", 1)[1][:40] for said in read.said] == [
        "a line ends within quotation marks: take",
        "a line ends within quotation marks: take",
        "can't be read as CSV: line ends must be ",
    ]
    assert [said.split(": ", 1)[0] for said in read.said] == ["d.csv, row 2", "d.csv, row 3", "d.csv, row 5"]
    assert f"{formats.SCAN_BYTES_MAX >> 30} GB or less" in delimited_cells.OPEN_QUOTE


def test_an_open_quotation_mark_is_named_where_it_is() -> None:
    assert Read(b'a,b\n5,6\n1,"2\n3,4\n').said == [
        "d.csv, row 3: can't be read as CSV: a quotation mark is left open",
    ]


def test_a_row_of_too_many_cells_is_not_taken_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited_cells, "MAX_CELLS", 100)
    said = "can't be read as CSV: a line of more than 100 cells"
    assert refused(b"," * 200 + b"\n" + b"1,2\n" * 9) == f"d.csv, row 1: {said}"
    for packing in (bytes, packed):
        read = Read(packing(b'a,b\n1,2\n"3",' + b"," * 200 + b"\n5,6\n"))
        assert [text.partition(", ")[2] for text in read.said] == [f"row 3: {said}"]
        assert read.features.tolist() == [[1, 2], [5, 6]]


def test_rows_without_an_end_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited, "SLICE_BYTES", 100)
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 1000)
    said = "quotation mark left open?"
    assert said in refused(b'a,label\n1,0\n5",1\n' + b"1,0\n" * 1000)
    assert said in refused(packed(b'a,label\n1,0\n5",1\n' + b"1,0\n" * 1000))
    monkeypatch.setattr(delimited_head, "MAX_ROW_BYTES", 500)
    assert said in refused(b'a,label\n1,0\n5",1\n' + b"1,0\n" * 200)
    assert said in refused(b'a,"label\n' + b"1,0\n" * 200)
    monkeypatch.setattr(delimited_head, "MAX_LINE_BYTES", 1 << 18)
    assert said in refused(b"a,label\n" + b"\n" * 2_000_000)


# Pieces


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 60), st.sampled_from([16, 200, 1 << 20]), st.sampled_from(["\n", "\r\n"]))
def test_pieces_hold_every_row_once(count: int, rows: int, slice_bytes: int, end: str) -> None:
    table = [[index, index * 7 % 13, index % 3] for index in range(rows)]
    data = end.join(["a,b,label", *(",".join(map(str, row)) for row in table)]).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delimited, "SLICE_BYTES", slice_bytes)
        read = Read(data, pieces=count)
    assert np.column_stack([read.features, read.labels]).tolist() == table
    stops = [progress.stop for progress in read.progress]
    assert [progress.begin for progress in read.progress] == [read.look.start, *stops[:-1]]
    assert stops[-1] == len(data)
    assert sum(progress.rows for progress in read.progress) == rows


def test_rows_of_pieces_are_counted_from_their_first_line() -> None:
    data = b"a,b\n" + b"".join(b"x,2\n" if index % 9 == 0 else b"1,2\n" for index in range(60))
    whole = [said.split(",")[1] for said in Read(data).said]
    assert whole == [f" row {index + 2}" for index in range(0, 60, 9)]
    assert [said.split(",")[1] for said in Read(data, pieces=7).said] == whole


def test_large_files_are_given_some_rows_at_a_time() -> None:
    rng = np.random.default_rng(4)
    table = rng.integers(0, 256, (4000, 300))
    data = ("\n".join(",".join(map(str, row)) for row in table.tolist()) + "\n").encode()
    for body in (data, packed(data)):
        read = Read(body)
        assert len(read.rows) > 4
        np.testing.assert_array_equal(read.features, table)


# Labels


def test_label_cells_are_numbers_or_names_of_classes() -> None:
    assert label_cells(b"a,label\n1,2\n1,-3.50\n") == ([2, -3.5], [])
    assert label_cells(b"a,label\n1,cat\n1, dog \n1,'x'\n") == (["cat", "dog", "'x'"], [])
    assert label_cells(b"a,label\n1,2.0\n1,dog\n") == (["2", "dog"], [])
    assert label_cells(packed(b'label;a\n"a;""b""";1\nc;1\n')) == (['a;"b"', "c"], [])
    assert label_cells(b"a,label\n1,\xff\n") == (["\ufffd"], [])


def test_label_cells_are_given_as_they_stand_in_each_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited, "SLICE_BYTES", 8)
    file = opened(b"a,label\n1,2\n1,3\n1,x\n1,1\n")
    found = list(delimited.label_cells(file, delimited.look(file, DataOptions(), gzipped=False), Problems("d.csv", [])))
    assert [list(some) for some in found] == [[2, 3], ["x", "1"]]


def test_problems_with_labels_name_the_row() -> None:
    labels, said = label_cells(b"\na,label\n1,cat\n1,\n1,dog\n1,NA\n1,inf\n1\n1,bird\n")
    assert labels == ["cat", "dog", "bird"]
    assert said == [
        f"d.csv, row 4, column 'label': {NO_LABEL}",
        f"d.csv, row 6, column 'label': 'NA' {MISSING_LABEL}",
        f"d.csv, row 7, column 'label': 'inf' {NOT_FINITE}",
        "d.csv, row 8: the row has 1 cells where the file has 2 columns",
    ]
    assert len(label_cells(b"a,label\n" + b"1,\n" * 30)[1]) == 10
    assert "is beyond float32" in label_cells(b"a,label\n1,1e39\n")[1][0]


def test_classes_become_their_indexes() -> None:
    data = b'a,label\n1,dog\n2, cat\n3,"cat"\n4,bird\n5,\n6,NA\n'
    read = Read(data, classes=["cat", "dog"])
    assert read.features.tolist() == [[1], [2], [3]]
    assert read.labels.tolist() == [1, 0, 0]
    assert read.said == [
        "d.csv, row 5, column 'label': 'bird' is none of the classes: mend the label, or list it under data.classes in"
        " the recipe",
        f"d.csv, row 6, column 'label': {NO_LABEL}",
        f"d.csv, row 7, column 'label': 'NA' {MISSING_LABEL}",
    ]
    assert Read(data, classes=["cat", "dog", "NA", "bird"]).labels.tolist() == [1, 0, 0, 3, 2]
    assert Read(b"a,label\n1,2.0\n1,1\n", classes=["1", "2"]).labels.tolist() == [1, 0]


def test_text_where_numbers_are_learned_is_a_problem() -> None:
    assert Read(b"a,label\n1,2\n1,two\n").said == [
        "d.csv, row 3, column 'label': 'two' is not a number, and a label must be one: mend it, or list the classes"
        " under data.classes in the recipe"
    ]


# gzip


def test_damaged_gzip_is_refused_wherever_it_is() -> None:
    rng = np.random.default_rng(8)
    body = packed("\n".join(",".join(map(str, row)) for row in rng.random((50, 3)).tolist()).encode())
    for size in range(2, len(body), 37):
        assert "cut off" in refused(body[:size])
    broken = bytearray(body)
    broken[-8] ^= 1
    assert "damaged" in refused(bytes(broken))


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 200), st.binary(min_size=1, max_size=4))
def test_any_damage_to_gzip_is_a_refusal_or_none(at: int, junk: bytes) -> None:
    rng = np.random.default_rng(8)
    body = packed("\n".join(",".join(map(str, row)) for row in rng.integers(0, 99, (30, 3)).tolist()).encode())
    spoiled = body[: 2 + at % len(body)] + junk + body[2 + at % len(body) + len(junk) :]
    with suppress(InvalidDrop):
        Read(spoiled)


def test_gzip_bombs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = packed(b"a,label\n" + b"1,0\n" * 500_000)
    monkeypatch.setattr(unpacked, "RATIO_FREE_BYTES", 1_000_000)
    monkeypatch.setattr(unpacked, "MAX_RATIO", 100)
    assert "unpacks to more than 100 times its size" in refused(bomb)
    monkeypatch.setattr(unpacked, "MAX_UNPACKED_BYTES", 900_000)
    assert "unpacks to more than 0 GB" in refused(bomb)


# Quick and careful reading

CELLS = st.sampled_from(
    ["0", "7", "-3", "1.5", "+2", "1.", ".5", "-.5e-3", "1E5", "007", "-0", "0x10", "1d5", "1_0", "1e400", "-1e39",
     "1e-400", "2147483648", "9223372036854775808", "nan", "-NaN", "nan(1)", "inf", "+Infinity", "", " ", "NA", "null",
     "?", "-", ".", " 1", "1 ", "\t1", "\v1", "\xa01", "true", "2020-01-01", "12:30", "x", "é", "\0", "1\r",
     "3.4028235e38", '"1"', '"1"2', '1"2', '"1""2"', '""', ' "1"', '"1" ', '"NA"', '"1\n2"', '"', '"1;2"', "1;2"]
)  # fmt: skip


def tables() -> st.SearchStrategy[str]:
    good = st.sampled_from(["0", "7", "-3", "255", "1.5"])
    rows = st.lists(good | CELLS, min_size=1, max_size=4) | st.lists(good | CELLS, min_size=3, max_size=3)
    ends = st.sampled_from(["\n", "\r\n", "\n\n", "\n \n", "\r"])
    pairs = st.lists(st.tuples(rows, st.just("\n") | ends), max_size=6)
    return pairs.map(lambda found: "".join(",".join(row) + end for row, end in found))


def quick_and_careful(data: bytes, layout: Layout, *, divided: bool) -> Iterator[Any]:
    parser = delimited._Parser(layout, divided=divided)
    yield parser.table(data)
    problems = Problems("d.csv", [])
    found = delimited_cells.rows(Slice(data, 1), layout.delimiter, problems, quoted_line_ends=not divided)
    progress = Progress(0, 0)
    try:
        yield *delimited_cells.numbers(found, layout, parser.classes, problems, progress), progress.rows, problems.found
    except TooManyProblems:
        yield None


def bits(numbers: Any) -> Any:
    """To tell -0.0 from 0.0, but not one NaN from another: they will be filled."""
    return np.where(np.isnan(numbers), np.float32(np.nan), numbers).view(np.uint32)


@settings(max_examples=1500, deadline=None)
@given(
    tables(),
    st.integers(1, 3),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["none", "numbers", "classes"]),
    st.booleans(),
    st.booleans(),
)
@example("1,2,3\n0x10,2,3\n", 3, False, True, "none", True, False)
@example("1,,3\n4,NA,6", 3, True, True, "numbers", True, False)
@example("1,2\n\n3\n", 2, False, True, "none", True, False)
@example("1,-0,3\n", 3, False, True, "none", False, False)
@example('""\n', 1, True, True, "none", False, False)
@example("1,nan(1),3\n", 3, True, True, "none", False, False)
@example('"a ""b""",2,3\n é,5,6', 3, False, True, "none", False, True)
def test_quick_and_careful_reading_agree(
    text: str, columns: int, fill: bool, divided: bool, label: str, wide: bool, keep: bool
) -> None:
    """Whatever is taken as a whole, the reading cell by cell takes as well, with the same numbers and no problem."""
    column = None if label == "none" or columns == 1 else columns - 1
    features = [index for index in range(columns) if index != column]
    kept = [features.pop(0)] if keep and len(features) > 1 else []
    layout = Layout(
        format=FileFormat.CSV,
        columns=[str(index) for index in range(columns)],
        label_column=column,
        feature_columns=features,
        kept_columns=kept,
        classes=["7", "0", "NA", "x"] if label == "classes" else None,
        fill=[0.0] * len(features) if fill else None,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delimited, "WIDE_COLUMNS", 2 if wide else 1000)
        quick, careful = quick_and_careful(text.encode(), layout, divided=divided)
    if quick is None:
        return
    assert careful is not None
    numbers, labels, texts, seen, found = careful
    assert found == []
    assert texts == ([] if quick[2] is None else [column.to_pylist() for column in quick[2].columns])
    assert seen == len(quick[0])
    np.testing.assert_array_equal(quick[0], numbers.astype(np.float32))
    given_sign, careful_sign = (np.signbit(found[~np.isnan(found)]) for found in (quick[0], numbers))
    np.testing.assert_array_equal(given_sign, careful_sign)
    if labels is None:
        assert quick[1] is None
    else:
        np.testing.assert_array_equal(quick[1], labels)


@pytest.mark.parametrize(
    "data",
    [
        b"1,2,3\n4,5,6\n",
        b"1.5,2,3\r\n4,5,1e3\r\n",
        b'"1","2","3"\n"4","5","6"\n',
        b" 1,2 ,3\n\n-4,+5,6",
        b"1,,NA\n?,nan,6\n",
        b"1,2147483648,3\n",
    ],
)
def test_common_text_is_read_quickly(data: bytes) -> None:
    """The test above would also pass if nothing were."""
    columns = ["0", "1", "2"]
    layout = Layout(format=FileFormat.CSV, columns=columns, feature_columns=[0, 1, 2], fill=[0.0] * 3)
    assert delimited._Parser(layout, divided=True).table(data) is not None


@settings(max_examples=400, deadline=None)
@given(tables(), st.booleans())
def test_quick_and_careful_labels_agree(text: str, divided: bool) -> None:
    layout = Layout(format=FileFormat.CSV, columns=["0", "1", "2"], label_column=1, feature_columns=[0, 2])
    quick = delimited._Parser(layout, divided=divided).label_cells(text.encode())
    if quick is None:
        return
    problems = Problems("d.csv", [])
    rows = delimited_cells.rows(Slice(text.encode(), 1), ",", problems, quoted_line_ends=not divided)
    careful = delimited_cells.label_cells(delimited_cells.label_texts(rows, layout, problems))
    assert problems.found == []
    assert type(quick) is type(careful)
    assert list(quick) == list(careful)


# Any bytes


@settings(max_examples=400, deadline=None)
@given(
    st.binary(max_size=60) | (st.text(alphabet='019.,;-e"\n\r ax\ufeff', max_size=60) | tables()).map(str.encode),
    st.booleans(),
    st.integers(1, 3),
    st.sampled_from([None, "0", "label"]),
)
def test_any_bytes_give_rows_or_a_refusal(data: bytes, gzipped: bool, pieces: int, label: str | None) -> None:
    data = packed(data) if gzipped else b" " + data
    try:
        read = Read(data, pieces=pieces, label=label)
    except InvalidDrop as error:
        assert len(str(error)) < 3000
    else:
        assert np.isfinite(read.features).all()
        assert all(len(said) < 500 for said in read.said)
