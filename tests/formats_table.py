"""What each format accepts, how it is recognised, its limits and its errors, as docs/formats.md says them.

Each example is a drop, and the rows or the message that come of it. The tests check them; `make docs` writes the
document.
"""

import io
import json
import textwrap
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dropmill.contracts import PROBLEMS_MAX, FileFormat, Problem, Unit
from dropmill.data import (
    array_files,
    checks,
    delimited_cells,
    delimited_head,
    formats,
    json_lines,
    libsvm,
    lines,
    npz_archive,
    parquet,
    parquet_pages,
    pickles,
    recognise,
    recordio,
    unpacked,
)
from dropmill.data.recordio import SparseMatrix
from tests.reading import Files, Read, gzipped, idx, npy, npz, split_pickle


@dataclass(frozen=True)
class Accepted:
    """A drop, and the rows and labels of it; labels that are texts by their names."""

    words: str
    files: Files
    features: Sequence[Sequence[float]]
    labels: Sequence[Any] | None = None
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Refused:
    words: str
    files: Files
    said: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Section:
    title: str
    kind: FileFormat
    recognised: str
    divided: str
    text: str
    limits: Sequence[str]
    accepted: Sequence[Accepted]
    refused: Sequence[Refused]


def said_of(files: Files, options: dict[str, Any]) -> str:
    """The first problem of a small drop, its row counted as Seal Dataset does: from the first line of the file."""
    read = Read(files, **options)
    (first, *_) = read.readings[0].problems
    file = read.files[read.shards[0].pieces[first.piece].file]
    problem: Problem = first.problem
    if problem.row is not None and file.unit is Unit.LINES:
        problem = problem.model_copy(update={"row": problem.row + file.first_line - 1})
    return problem.words.in_full()


def _zipped(name: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(zipfile.ZipInfo(name), b"1,2")
    return stream.getvalue()


def _size(count: int) -> str:
    unit, name = (1 << 30, "GB") if count >= 1 << 30 else (1 << 20, "MB")
    return f"{count / unit:g} {name}"


def _f32(rows: Any) -> Any:
    return np.array(rows, dtype=np.float32)


def _parquet(columns: dict[str, Any]) -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.table(columns), stream)
    return stream.getvalue()


def _json(*rows: Any) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


_X = [[1, 2], [3, 4]]
_Y = [0, 1]
_LABELLED = np.column_stack([_X, _Y])
_DENSE = recordio.encode(_f32(_X), np.array(_Y))
_WHOLE = f"not divided (up to {_size(formats.WHOLE_BYTES_MAX)})"

_FILL = "fill it in, leave the row out, or set data.missing to mean or 0 in the recipe"

EVERYWHERE = (
    Refused("an empty file", {"d.csv": b""}, "d.csv: the file is empty"),
    Refused(
        "another format",
        {"d.h5": b"\x89HDF\r\n\x1a\n\0"},
        "d.h5: an unknown format; use CSV, JSON Lines, Parquet, .npy, .npz, a pickle, IDX, LIBSVM, recordIO",
    ),
    Refused(
        "a name that says otherwise",
        {"d.npz": b"1,2\n"},
        "d.npz: the name says .npz, but the content looks like CSV: rename or mend the file",
    ),
    Refused(
        "a workbook",
        {"d.xlsx": _zipped("[Content_Types].xml")},
        "d.xlsx: looks like an Excel workbook: save the sheet as CSV, and drop that",
    ),
    Refused(
        "a zip file",
        {"d.zip": _zipped("d.csv")},
        "d.zip: is a zip file: unpack it, and drop what is in it",
    ),
    Refused(
        "a label of the recipe where labels are no column",
        {"d.libsvm": b"0 1:1\n1 1:2\n"},
        "d.libsvm: data.label is 'digit' in the recipe, but LIBSVM has its labels beside the columns: take data.label "
        "out of the recipe",
        {"label": "digit"},
    ),
    Refused(
        "files of several formats",
        {"a.csv": b"1,2\n", "b.npy": npy(np.array(_X))},
        "b.npy: is .npy, and a.csv is CSV: drop files of one format together",
    ),
    Refused(
        "files of other columns",
        {"a.csv": b"a,b\n1,2\n", "b.csv": b"a,c\n1,2\n"},
        "b.csv: calls column 1 'c' where a.csv calls it 'b': all files of a drop must have the same columns",
    ),
    Refused(
        "no column for features",
        {"d.csv": b"label\n1\n"},
        "d.csv: no column is left to learn from, besides the label and drop_columns",
    ),
)

SECTIONS = (
    Section(
        title="CSV and other delimited text",
        kind=FileFormat.CSV,
        recognised="any other text in UTF-8",
        divided=f"line ends; with gzip, or line ends in cells, {_WHOLE}",
        text="""\
Columns are separated by commas, tabs, semicolons or bars: by what makes rows of one width of the first 20 rows and most
numbers, unless `data.delimiter` says it. The first row names the columns if it holds a text where the second row has a
number or no value, and its other cells could be names too; `data.header` says it otherwise. Without names the columns
are `0`, `1`, and so on. Cells may stand in quotation marks, lines end with LF or CR LF, and blank lines count for
nothing. Numbers are written with decimal points.""",
        limits=[
            f"{checks.MAX_COLUMNS:,} columns",
            f"{_size(lines.MAX_LINE_BYTES)} in a line, {_size(delimited_head.MAX_ROW_BYTES)} in a row of several lines",
            f"{delimited_cells.MAX_CELLS:,} cells in a line that is to be told apart",
            f"line ends in cells only where all files of a drop have {_size(formats.SCAN_BYTES_MAX)} or less",
        ],
        accepted=[
            Accepted("a row of names", {"d.csv": b"a,b,label\n1,2,0\n3,4,1\n"}, _X, _Y),
            Accepted("no names", {"d.csv": b"1,2,0\n3,4,1\n"}, _X, _Y, {"label": "2"}),
            Accepted("tabs", {"d.tsv": b"a\tb\tlabel\n1\t2\t0\n3\t4\t1\n"}, _X, _Y),
            Accepted("semicolons", {"d.txt": b"a;label;b\n1;0;2\n3;1;4\n"}, _X, _Y),
            Accepted("quotation marks", {"d.csv": b'"a","b","label"\r\n"1",2,"0"\r\n3,"4",1\r\n'}, _X, _Y),
            Accepted("classes as texts", {"d.csv": b"a,b,label\n1,2,no\n3,4,yes\n"}, _X, ["no", "yes"]),
            Accepted(
                "missing values, where the recipe fills them",
                {"d.csv": b"a,b,label\n1,,0\n3,4,1\nNA,6,1\n"},
                [[1, 5], [3, 4], [2, 6]],
                [0, 1, 1],
                {"missing": "mean"},
            ),
            Accepted(
                "line ends in a cell that is dropped",
                {"d.csv": b'a,note,b\n1,"two\nlines",2\n3,one,4\n'},
                _X,
                options={"drop_columns": ["note"]},
            ),
            Accepted("gzip", {"d.csv.gz": gzipped(b"a,b,label\n1,2,0\n3,4,1\n")}, _X, _Y),
        ],
        refused=[
            Refused(
                "a text among numbers",
                {"d.csv": b"a,label\n1,0\nten,1\n"},
                "d.csv, row 3, column 'a': 'ten' is not a number: mend the cell, or list the column under drop_columns",
            ),
            Refused(
                "an empty cell",
                {"d.csv": b"a,b\n1,2\n,4\n"},
                "d.csv, row 3, column 'a': the cell is empty: " + _FILL,
            ),
            Refused(
                "a cell that spells a missing value",
                {"d.csv": b"a,b\n1,2\nn/a,4\n"},
                "d.csv, row 3, column 'a': 'n/a' stands for a missing value: " + _FILL,
            ),
            Refused(
                "infinity, or NaN",
                {"d.csv": b"a,b\n1,2\ninf,4\n"},
                "d.csv, row 3, column 'a': 'inf' is not a finite number: mend the row or leave it out",
            ),
            Refused(
                "too large a number",
                {"d.csv": b"a,b\n1,2\n1e39,4\n"},
                "d.csv, row 3, column 'a': '1e39' is beyond float32 (at most 3.403e+38 in size): rescale the column",
            ),
            Refused(
                "a row of another width",
                {"d.csv": b"a,b\n1,2\n1,2,3\n"},
                "d.csv, row 3: the row has 3 cells where the file has 2 columns",
            ),
            Refused(
                "an empty label",
                {"d.csv": b"a,label\n1,0\n2,\n"},
                "d.csv, row 3, column 'label': the label is empty: fill it in, or leave the row out",
            ),
            Refused(
                "labels of both kinds",
                {"d.csv": b"a,label\n1,0\n2,1\n3,cat\n"},
                "d.csv, row 4, column 'label': some labels are numbers, but 'cat' is not: mend them, or list "
                "all in data.classes of the recipe",
            ),
            Refused(
                "a class that the recipe does not list",
                {"d.csv": b"a,label\n1,no\n2,maybe\n"},
                "d.csv, row 3, column 'label': 'maybe' is none of the classes: mend the label, or list it under "
                "data.classes in the recipe",
                {"classes": ["no", "yes"]},
            ),
            Refused(
                "a label that is not there",
                {"d.csv": b"a,Digit\n1,2\n"},
                "d.csv: there is no label column 'digit'; did you mean 'Digit'? the columns are a, Digit",
                {"label": "digit"},
            ),
            Refused(
                "two columns of one name",
                {"d.csv": b"a,b,a\n1,2,3\n"},
                "d.csv, row 1, column 'a': two columns have this name: rename one",
            ),
            Refused(
                "no column of numbers",
                {"d.csv": b"a,b\nx,y\nz,w\n"},
                "d.csv, row 1: no column that could be a feature holds a number",
            ),
            Refused(
                "true and false",
                {"d.csv": b"a,label\n1,0\ntrue,1\n"},
                "d.csv, row 3, column 'a': 'true' is not a number: write 1 for true and 0 for false, or list the "
                "column under drop_columns",
            ),
            Refused(
                "decimal commas",
                {"d.csv": b"a;b\n1,5;2\n"},
                "d.csv, row 2, column 'a': '1,5' has a comma within the number: save the numbers with decimal "
                "points, and nothing between thousands",
            ),
            Refused(
                "columns separated by spaces",
                {"d.csv": b"1 2\n3 4\n"},
                "d.csv: the columns seem to be separated by spaces: save it with commas",
            ),
            Refused(
                "a quotation mark left open",
                {"d.csv": b'a,b\n1,2\n"3,4\n'},
                "d.csv, row 3: can't be read as CSV: a quotation mark is left open",
            ),
            Refused(
                "line ends of old Macs",
                {"d.csv": b"a,b\r1,2\r"},
                "d.csv, row 1: can't be read as CSV: line ends must be LF or CR LF",
            ),
            Refused("names and no rows", {"d.csv": b"a,b\n"}, "d.csv: there are no rows under the header"),
            Refused(
                "UTF-16", {"d.csv": "a,b\n1,2\n".encode("utf-16")}, "d.csv: the text is in UTF-16: save it as UTF-8"
            ),
            Refused(
                "a cut gzip file",
                {"d.csv.gz": gzipped(b"a,b\n1,2\n3,4\n")[:-9]},
                "d.csv.gz: the gzip file is cut off: upload it again, whole",
            ),
        ],
    ),
    Section(
        title="JSON Lines",
        kind=FileFormat.JSON_LINES,
        recognised="text that begins with `{` or `[`",
        divided=f"line ends; with gzip {_WHOLE}",
        text="""\
On each line an object or an array of numbers. The keys of the first line are the columns; where missing values are
filled in, keys may also come up later, within the first thousand lines. A key may hold an array of numbers, which makes
columns like `pixels.0`. A value is a number, `true` (1), `false` (0), or `null`, which is missing, as is a key that a
line does not have. A label may be text.""",
        limits=[
            f"{checks.MAX_COLUMNS:,} columns",
            f"{_size(json_lines.MAX_LINE_BYTES)} in a line",
        ],
        accepted=[
            Accepted("objects", {"d.jsonl": b'{"a": 1, "b": 2, "label": 0}\n{"label": 1, "b": 4, "a": 3}\n'}, _X, _Y),
            Accepted("arrays", {"d.jsonl": b"[1, 2, 0]\n[3, 4, 1]\n"}, _X, _Y, {"label": "2"}),
            Accepted(
                "arrays in objects", {"d.jsonl": b'{"p": [1, 2], "label": 0}\n{"p": [3, 4], "label": 1}\n'}, _X, _Y
            ),
            Accepted(
                "classes as texts",
                {"d.jsonl": b'{"a": true, "label": "no"}\n{"a": 3.5, "label": "yes"}\n'},
                [[1], [3.5]],
                ["no", "yes"],
            ),
            Accepted(
                "missing values, where the recipe fills them",
                {"d.jsonl": b'{"a": 1, "b": null}\n{"a": 3, "b": 4}\n{"b": 8}\n'},
                [[1, 6], [3, 4], [2, 8]],
                options={"missing": "mean"},
            ),
            Accepted("gzip", {"d.jsonl.gz": gzipped(b"[1, 2]\n[3, 4]\n")}, _X),
        ],
        refused=[
            Refused(
                "a text among numbers",
                {"d.jsonl": b'{"a": 1, "label": 0}\n{"a": "x", "label": 1}\n'},
                "d.jsonl, row 2, column 'a': 'x' is not a number: mend the cell, or list the column under drop_columns",
            ),
            Refused(
                "a number as text",
                {"d.jsonl": b'{"a": 1, "label": 0}\n{"a": "2", "label": 1}\n'},
                "d.jsonl, row 2, column 'a': '2' is text: write the number without quotation marks, or list the "
                "column under drop_columns",
            ),
            Refused(
                "a missing value",
                {"d.jsonl": b'{"a": 1, "b": 2}\n{"a": null, "b": 3}\n'},
                "d.jsonl, row 2, column 'a': 'null' stands for a missing value: " + _FILL,
            ),
            Refused(
                "a key that is missing",
                {"d.jsonl": b'{"a": 1, "b": 2}\n{"b": 3}\n'},
                "d.jsonl, row 2, column 'a': the row has no such key: " + _FILL,
            ),
            Refused(
                "a key that is new",
                {"d.jsonl": b'{"a": 1}\n{"a": 2, "c": 3}\n'},
                "d.jsonl, row 2, column 'c': the first line of the file has no such key: add it there (null "
                "will do), or take it out here",
            ),
            Refused(
                "a key given twice",
                {"d.jsonl": b'{"a": 1}\n{"a": 2, "a": 3}\n'},
                "d.jsonl, row 2, column 'a': the key stands twice on the line: keep one",
            ),
            Refused(
                "nesting",
                {"d.jsonl": b'{"a": 1}\n{"a": {"b": 2}}\n'},
                "d.jsonl, row 2, column 'a': holds an array or an object: write a number, or list the column "
                "under drop_columns",
            ),
            Refused(
                "what is no JSON",
                {"d.jsonl": b'{"a": 1}\n{"a": 1,}\n'},
                "d.jsonl, row 2: the line is not JSON: expecting property name enclosed in double quotes at "
                "character 9",
            ),
            Refused(
                "one JSON document",
                {"d.json": b'[{"a": 1}, {"a": 2}]\n'},
                "d.json, row 1: the line is an array of rows, or empty: write one object on each line (JSON "
                "Lines); pandas does with to_json(orient='records', lines=True)",
            ),
            Refused(
                "JSON over several lines",
                {"d.json": b'{\n  "a": 1\n}\n'},
                "d.json, row 1: the JSON goes on over several lines: write one object on each line (JSON "
                "Lines); pandas does with to_json(orient='records', lines=True)",
            ),
        ],
    ),
    Section(
        title="Parquet",
        kind=FileFormat.PARQUET,
        recognised="`PAR1`",
        divided="row groups",
        text="""\
Columns of integers, floats, booleans (1 and 0) or decimals; or one column of lists of numbers, all as long as the first
row's. The label is such a column of numbers, or one of text. Columns of other types must be dropped. A null is a
missing value. The index that pandas saves (`__index_level_0__`) is left out. All compressions that pyarrow knows are
read.""",
        limits=[
            f"{checks.MAX_COLUMNS:,} columns",
            f"{_size(parquet.MAX_DIRECTORY_BYTES)} in the file's directory",
            f"{_size(parquet_pages.MAX_PAGE_BYTES)} in a page, {_size(parquet_pages.MAX_PAGES_BYTES)} in those of all"
            " columns, unpacked",
        ],
        accepted=[
            Accepted(
                "columns of numbers", {"d.parquet": _parquet({"a": [1, 3], "b": [2.0, 4.0], "label": _Y})}, _X, _Y
            ),
            Accepted("a column of lists", {"d.parquet": _parquet({"pixels": _X, "label": _Y})}, _X, _Y),
            Accepted(
                "classes as texts, and booleans",
                {"d.parquet": _parquet({"a": [True, False], "label": ["no", "yes"]})},
                [[1], [0]],
                ["no", "yes"],
            ),
            Accepted(
                "nulls, where the recipe fills them",
                {"d.parquet": _parquet({"a": [1, None, 3], "b": [2, 4, None]})},
                [[1, 2], [2, 4], [3, 3]],
                options={"missing": "mean"},
            ),
            Accepted(
                "other types, where the recipe drops them",
                {"d.parquet": _parquet({"a": [1, 3], "b": [2, 4], "name": ["x", "y"]})},
                _X,
                options={"drop_columns": ["name"]},
            ),
        ],
        refused=[
            Refused(
                "a column of another type",
                {"d.parquet": _parquet({"a": [1], "name": ["x"], "label": [1]})},
                "d.parquet, column 'name': a column of type string can't be a feature: list it under drop_columns",
            ),
            Refused(
                "a null",
                {"d.parquet": _parquet({"a": [1, None], "label": _Y})},
                "d.parquet, row 1, column 'a': there is no value (null): " + _FILL,
            ),
            Refused(
                "infinity, or NaN",
                {"d.parquet": _parquet({"a": [1, np.inf], "label": _Y})},
                "d.parquet, row 1, column 'a': 'inf' is not a finite number: mend the row or leave it out",
            ),
            Refused(
                "a list of another length",
                {"d.parquet": _parquet({"pixels": [[1, 2], [3]]})},
                "d.parquet, row 1, column 'pixels': a list of 1 numbers, where the first row has 2: mend the row",
            ),
            Refused("no rows", {"d.parquet": _parquet({"a": np.zeros(0)})}, "d.parquet: there are no rows"),
            Refused(
                "a cut file",
                {"d.parquet": _parquet({"a": [1]})[:-9]},
                "d.parquet: the Parquet file's directory is missing: the file is damaged: upload it again, or "
                "write it anew",
            ),
            Refused(
                "encryption",
                {"d.parquet": b"PARE" + bytes(20)},
                "d.parquet: the Parquet file is encrypted: save it without encryption",
            ),
            Refused(
                "Parquet within gzip",
                {"d.parquet.gz": gzipped(_parquet({"a": [1]}))},
                "d.parquet.gz: Parquet is not read from within gzip: unpack the file",
            ),
        ],
    ),
    Section(
        title="`.npy`",
        kind=FileFormat.NPY,
        recognised="`\\x93NUMPY`",
        divided=f"rows; in Fortran order {_WHOLE}",
        text="""\
An array of integers, floats or booleans, saved with `numpy.save`. The first dimension is the rows, further ones are
laid flat. The columns have no names: `data.label` is an index. NaN is a missing value.""",
        limits=[
            f"{checks.MAX_COLUMNS:,} numbers in a row",
            f"{array_files.MAX_DIMENSIONS} dimensions",
            f"{_size(checks.MAX_WHOLE_BYTES)} in Fortran order",
        ],
        accepted=[
            Accepted("rows and columns", {"d.npy": npy(_LABELLED)}, _X, _Y, {"label": "2"}),
            Accepted("pictures", {"d.npy": npy(np.arange(1, 5).reshape(2, 2, 1))}, _X),
            Accepted(
                "NaN, where the recipe fills it",
                {"d.npy": npy(np.array([[1, np.nan], [3, 4]]))},
                [[1, 0], [3, 4]],
                options={"missing": "0"},
            ),
        ],
        refused=[
            Refused(
                "infinity, or NaN",
                {"d.npy": npy(np.array([[1, 2], [3, np.nan]]))},
                "d.npy, row 1, column '1': 'nan' is not a finite number: mend the row or leave it out",
            ),
            Refused(
                "one dimension",
                {"d.npy": npy(np.zeros(3))},
                "d.npy: an array of shape (3,); features must have two dimensions or more, the first being the rows",
            ),
            Refused(
                "texts",
                {"d.npy": npy(np.array([["a", "b"]]))},
                "d.npy: an array of type '<U1'; only integers, floats and booleans are read",
            ),
            Refused(
                "a cut file",
                {"d.npy": npy(_LABELLED)[:-1]},
                "d.npy: the array should have 48 bytes of numbers and has 47: the file is damaged or cut off: "
                "upload it again, whole",
            ),
            Refused(
                "another format's name",
                {"d.csv": npy(_LABELLED)},
                "d.csv: the name says CSV, but the content looks like .npy: rename or mend the file",
            ),
        ],
    ),
    Section(
        title="`.npz`",
        kind=FileFormat.NPZ,
        recognised="`PK` (a zip file)",
        divided=_WHOLE,
        text=f"""\
Arrays saved with `numpy.savez` or `savez_compressed`. The features are the array named
{", ".join(f"`{name}`" for name in npz_archive.FEATURE_MEMBERS)}, or the only one that isn't the labels; the labels are
the array that `data.label` names, or the one named {", ".join(f"`{name}`" for name in npz_archive.LABEL_MEMBERS)}.
Labels may be texts. Without an array of labels the label is a column, as in `.npy`.""",
        limits=[
            f"{npz_archive.MAX_MEMBERS} arrays of up to {_size(checks.MAX_UNPACKED_BYTES)} each",
            "as `.npy` for each array",
        ],
        accepted=[
            Accepted("features and labels", {"d.npz": npz(x=_X, y=_Y)}, _X, _Y),
            Accepted("labels by another name", {"d.npz": npz(data=_X, colour=_Y)}, _X, _Y, {"label": "colour"}),
            Accepted("classes as texts", {"d.npz": npz(x=_X, y=["no", "yes"])}, _X, ["no", "yes"]),
            Accepted("the label as a column", {"d.npz": npz(x=_LABELLED)}, _X, _Y, {"label": "2"}),
        ],
        refused=[
            Refused(
                "names that tell nothing",
                {"d.npz": npz(a=_X, b=_X)},
                "d.npz: can't tell which array holds the features: name it x (and the labels y); the arrays are a, b",
            ),
            Refused("more rows than labels", {"d.npz": npz(x=_X, y=[1])}, "d.npz: 2 rows of features, but 1 labels"),
            Refused(
                "infinity, or NaN",
                {"d.npz": npz(x=[[1], [np.nan]], y=_Y)},
                "d.npz, row 1, column '0': 'nan' is not a finite number: mend the row or leave it out",
            ),
            Refused(
                "objects",
                {"d.npz": npz(x=np.array([[None]]))},
                "d.npz:x.npy: an array of type 'object'; only integers, floats and booleans are read",
            ),
            Refused(
                "a cut file",
                {"d.npz": npz(x=_X)[:-30]},
                "d.npz: the zip file's directory is missing: the file is damaged or cut off: upload it again, whole",
            ),
        ],
    ),
    Section(
        title="The tutorials' pickle",
        kind=FileFormat.PICKLE,
        recognised="`\\x80` (a pickle of protocol 2 or later)",
        divided=_WHOLE,
        text="""\
`((features, labels), (features, labels), (features, labels))`, the training, validation and test rows as numpy arrays:
`mnist.pkl.gz`, and what is pickled like it. The parts stay as they are. A pickle is a program; this one is never run,
but looked through for its arrays, and any instruction that arrays do not need is refused.""",
        limits=[
            f"{_size(pickles.MAX_BYTES)}, unpacked",
            f"{checks.MAX_COLUMNS:,} numbers in a row",
        ],
        accepted=[
            Accepted(
                "three parts",
                {"mnist.pkl.gz": split_pickle([(np.array([row]), np.array([0])) for row in ([1, 2], [3, 4], [5, 6])])},
                [[1, 2], [3, 4], [5, 6]],
                [0, 0, 0],
            ),
        ],
        refused=[
            Refused(
                "a program",
                {"d.pkl": b"\x80\x02cos\nsystem\nU\x02ls\x85R."},
                "d.pkl: the pickle asks for 'os.system'; it was not run, since only arrays of numbers are read "
                "from a pickle",
            ),
            Refused(
                "anything else",
                {"d.pkl": b"\x80\x02}."},
                "d.pkl: byte 2 holds the pickle instruction b'}', which plain arrays of numbers don't need; "
                "save the data as CSV, .npy or .npz",
            ),
            Refused(
                "parts that differ",
                {"d.pkl.gz": split_pickle([(np.zeros((2, 2)), np.zeros(2))] * 2 + [(np.zeros((2, 3)), np.zeros(2))])},
                "d.pkl.gz (test rows): rows of 3 numbers where the training rows have 2",
            ),
            Refused(
                "a cut file",
                {"d.pkl.gz": split_pickle([(np.array(_X), np.array(_Y))] * 3)[:-40]},
                "d.pkl.gz: the gzip file is cut off: upload it again, whole",
            ),
        ],
    ),
    Section(
        title="IDX",
        kind=FileFormat.IDX,
        recognised="two zeros, a type and the count of dimensions",
        divided=f"rows; with gzip {_WHOLE}",
        text="""\
MNIST's own files: an array of bytes, integers or floats, whose labels are in a file of their own. Drop both in a
folder. Labels belong to the images that are called as they are, but for `images` and `idx3`, or to the only other file
of their folder.""",
        limits=[
            f"{checks.MAX_COLUMNS:,} numbers in a row",
            f"{array_files.MAX_DIMENSIONS} dimensions",
        ],
        accepted=[
            Accepted(
                "images and labels in one folder",
                {
                    "train-images-idx3-ubyte": idx(np.array(_X, np.uint8).reshape(2, 2, 1)),
                    "train-labels-idx1-ubyte": idx(np.array(_Y, np.uint8)),
                },
                _X,
                _Y,
            ),
            Accepted(
                "gzip",
                {"images.gz": gzipped(idx(np.array(_X, np.uint8))), "labels.gz": gzipped(idx(np.array(_Y, np.uint8)))},
                _X,
                _Y,
            ),
            Accepted("images alone", {"images": idx(np.array(_X, np.uint8))}, _X),
        ],
        refused=[
            Refused(
                "labels alone",
                {"train-labels-idx1-ubyte": idx(np.array(_Y, np.uint8))},
                "train-labels-idx1-ubyte: these are labels; drop them in a folder with their images, closed by "
                "_SUCCESS",
            ),
            Refused(
                "more images than labels",
                {"images": idx(np.array(_X, np.uint8)), "labels": idx(np.array([1], np.uint8))},
                "labels: 2 rows of features, but 1 labels",
            ),
            Refused(
                "a cut file",
                {"images": idx(np.array(_X, np.uint8))[:-1]},
                "images: the array should have 4 bytes of numbers and has 3: the file is damaged or cut off: "
                "upload it again, whole",
            ),
        ],
    ),
    Section(
        title="LIBSVM",
        kind=FileFormat.LIBSVM,
        recognised="lines of `label index:value ...`",
        divided=f"line ends; with gzip {_WHOLE}",
        text="""\
Also called SVMlight. Rows are sparse, and stay so. Columns count from 1, or from 0 where a 0 is seen; what a line does
not name is zero. Labels are numbers or texts without spaces. What follows `#` counts for nothing.""",
        limits=[
            f"{checks.MAX_SPARSE_COLUMNS:,} columns",
            f"{_size(libsvm.MAX_LINE_BYTES)} in a line, {libsvm.MAX_LABEL_BYTES} bytes in a label",
            f"columns are counted up to {_size(formats.SCAN_BYTES_MAX)}; above, the recipe says"
            " `hyperparameters.feature_dim`",
        ],
        accepted=[
            Accepted("numbers as labels", {"d.libsvm": b"0 1:1 2:2\n1 1:3 2:4\n"}, _X, _Y),
            Accepted("classes as texts", {"d.svm": b"no 1:1 2:2 # a remark\nyes 2:4 1:3\n"}, _X, ["no", "yes"]),
            Accepted("columns from 0", {"d.libsvm": b"0 1:2\n1 0:3\n"}, [[0, 2], [3, 0]], _Y),
            Accepted("gzip", {"d.libsvm.gz": gzipped(b"0 1:1 2:2\n1 1:3 2:4\n")}, _X, _Y),
        ],
        refused=[
            Refused(
                "a value that is no number",
                {"d.libsvm": b"0 1:1\n1 1:x\n"},
                "d.libsvm, row 2, column '1': 'x' is not a number: mend the value, or leave the column out of the line",
            ),
            Refused(
                "what is no `index:value`",
                {"d.libsvm": b"0 1:1\n1 2\n"},
                "d.libsvm, row 2: '2' is not of the form index:value: mend it, or take it out",
            ),
            Refused(
                "a column given twice",
                {"d.libsvm": b"0 1:1\n1 2:1 2:3\n"},
                "d.libsvm, row 2, column '2': the column stands twice on the line: keep one",
            ),
            Refused(
                "a line without a label",
                {"d.libsvm": b"0 1:1\n1:1 2:2\n"},
                "d.libsvm, row 2, column 'label': '1:1' stands where the label should: begin the line with the label",
            ),
            Refused(
                "several labels",
                {"d.libsvm": b"0 1:1\n1,2 2:2\n"},
                "d.libsvm, row 2, column 'label': '1,2' is more than one label, and a row can have only one: "
                "keep one, or drop one file for each label",
            ),
            Refused(
                "rankings",
                {"d.libsvm": b"0 qid:1 1:1\n"},
                "d.libsvm, row 1: 'qid:1' is for rankings, which can't be learned here: take the qid out of all lines",
            ),
            Refused(
                "too many columns",
                {"d.libsvm": b"0 1:1\n1 99999999999:1\n"},
                "d.libsvm, row 2, column '99999999999': there can be 10,000,000 columns at the most: number them anew",
            ),
            Refused(
                "`data.drop_columns`",
                {"d.libsvm": b"0 1:1\n"},
                "d.libsvm: columns of LIBSVM can't be left out: take data.drop_columns out of the recipe",
                {"drop_columns": ["1"]},
            ),
        ],
    ),
    Section(
        title="recordIO",
        kind=FileFormat.RECORDIO,
        recognised="the magic number of a record (`0a 23 d7 ce`)",
        divided=f"rows, where records are dense and alike; others are {_WHOLE}",
        text="""\
RecordIO-protobuf, the training format of SageMaker's algorithms, [as this project writes it](recordio.md): dense or
sparse rows, with one label each or none. Rows are sparse where the first records are.""",
        limits=[
            f"{checks.MAX_COLUMNS:,} features in dense records, {checks.MAX_SPARSE_COLUMNS:,} in sparse ones",
            f"{_size(recordio.MAX_BLOCK_RECORD_BYTES)} in a record",
        ],
        accepted=[
            Accepted("dense rows with labels", {"d.pbr": _DENSE}, _X, _Y),
            Accepted("sparse rows", {"d.pbr": recordio.encode(SparseMatrix.of(_f32(_X)), np.array(_Y))}, _X, _Y),
            Accepted("no labels", {"d.pbr": recordio.encode(_f32(_X))}, _X),
            Accepted("a column as label", {"d.pbr": recordio.encode(_f32(_LABELLED))}, _X, _Y, {"label": "2"}),
        ],
        refused=[
            Refused(
                "a cut file",
                {"d.pbr": _DENSE[:-4]},
                "d.pbr: byte 52: the data ends within a record of 44 bytes: the file is damaged, or was written "
                "otherwise: write it again",
            ),
            Refused(
                "several labels",
                {"d.pbr": recordio.encode(_f32(_X), np.ones((2, 2)))},
                "d.pbr: labels of 2 numbers each; only one can be learned: write one label a record",
            ),
            Refused(
                "infinity, or NaN",
                {"d.pbr": recordio.encode(_f32([[1, np.nan]]))},
                "d.pbr, row 0, column '1': 'nan' is not a finite number: mend the row or leave it out",
            ),
        ],
    ),
)


def document() -> str:
    """docs/formats.md."""
    parts = [
        _HEAD,
        _table(("format", "recognised by", "names", "gzip", "divided by"), map(_summary, SECTIONS)),
        _filled(_GENERAL),
    ]
    parts.append(_table(("refused in every format", "what is said"), map(_refused, EVERYWHERE)))
    for section in SECTIONS:
        parts += [f"## {section.title}", _filled(section.text), _filled(f"**At most:** {'; '.join(section.limits)}.")]
        snippets = any(_snippet(example) for example in section.accepted)
        heads = ("accepted", "for example", "and the recipe") if snippets else ("accepted", "and the recipe")
        parts.append(_table(heads, (_accepted(example, snippets=snippets) for example in section.accepted)))
        parts.append(_table(("refused", "what is said"), map(_refused, section.refused)))
    return "\n\n".join(parts) + "\n"


def _filled(text: str) -> str:
    """Paragraphs in lines of one width, whatever was put into them."""
    paragraphs = (" ".join(paragraph.split()) for paragraph in text.split("\n\n"))
    return "\n\n".join(
        textwrap.fill(paragraph, 120, break_long_words=False, break_on_hyphens=False) for paragraph in paragraphs
    )


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines_of = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines_of)


def _summary(section: Section) -> Sequence[str]:
    names = ", ".join(f"`{ending}`" for ending in recognise.NAMES[section.kind])
    return section.title, section.recognised, names, "yes" if section.kind in recognise.GZIPPED else "", section.divided


def _accepted(example: Accepted, *, snippets: bool) -> Sequence[str]:
    options = ", ".join(f"`data.{key}: {_option(value)}`" for key, value in example.options.items())
    return (example.words, _snippet(example), options) if snippets else (example.words, options)


def _option(value: Any) -> str:
    return f"[{', '.join(value)}]" if isinstance(value, list) else str(value)


def _snippet(example: Accepted) -> str:
    """A file of text as code; its ends of lines as they would be written in a string."""
    (data, *others) = example.files.values()
    if others or b"\0" in data or not data.isascii():
        return ""
    return _code(data.decode().replace("\r", "\\r").replace("\n", "\\n").replace("\t", "\\t"))


def _refused(example: Refused) -> Sequence[str]:
    options = ", ".join(f"`data.{key}: {_option(value)}`" for key, value in example.options.items())
    return f"{example.words} ({options})" if options else example.words, _code(example.said)


def _code(text: str) -> str:
    return f"`{text.replace('|', chr(92) + '|')}`"


_HEAD = """\
# Formats

<!-- Written by `make docs` from tests/formats_table.py, whose examples are tested. Change it there. -->

What is dropped is told by its first bytes. A name that promises another format is refused, and other names promise
nothing: a `.txt`, a `.data` or a file without an ending is read as what it is. Gzip is seen through where the table
says so; the other formats compress by themselves, or are divided better as they are."""

_GENERAL = f"""\
## How a drop is read

**Numbers** become float32, by way of float64: the same rows are the same float32 in every format, and land in the same
part.

**The label** is the column (or for `.npz` the array) that `data.label` names or numbers from 0, else a column named
`label`. Pickles, IDX, LIBSVM and recordIO have labels of their own, so that nothing needs to be said. Where all labels
are numbers, they stay what they are. Where all are texts, they are [classes](recipes.md#labels): up to
{checks.MAX_CLASSES:,}, of up to {checks.MAX_CLASS_CHARACTERS} characters each. Where some are numbers and some texts,
`data.classes` must list them all. An empty label is never filled in.

**Missing values** are empty cells, `NaN`, `NA`, `N/A`, `#N/A`, `<NA>`, `null`, `nil`, `none`, `missing`, dashes, dots
and question marks in delimited text, in any case, and NaN or null elsewhere. They are refused unless
`data.missing` says what they become: `0`, or the `mean` of the column. Sparse formats have none: what is not there is
zero.

**A folder** closed by `_SUCCESS` is one drop of all its files, which must be of one format, all gzipped or none, with
the same columns. [Its parts](recipes.md#folders) are `train/`, `validation/` and `test/`, or none.

**Large files** are divided into pieces that are read side by side, each in little memory. What can't be divided may
have {_size(formats.WHOLE_BYTES_MAX)}; drop more of it in several files. Gzip may unpack to
{_size(checks.MAX_UNPACKED_BYTES)}, and behind the first {_size(unpacked.RATIO_FREE_BYTES)} to no more than
{unpacked.MAX_RATIO} times its size. Up to {_size(formats.SCAN_BYTES_MAX)}, the labels of a drop are looked through
first; above, the recipe says what is learned.

**What is wrong** is named with file, row, column and rule, and in the run's record (`dropmill show`) with the value, up
to {PROBLEMS_MAX} places at once. Rows of text count lines from 1, the names being the first; rows of arrays and tables
count from 0. Logs, histories of executions, events and e-mails hold no value of a row. Names of files and columns they
do; but where the first row of a text file may be one of data, they tell columns by their numbers."""
