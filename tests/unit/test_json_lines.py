"""Files of JSON Lines as drops: what makes the columns, what a value may be, and what is said of others."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dropmill.contracts import FileFormat, Layout, Unit
from dropmill.data import json_lines
from dropmill.data.checks import class_name
from tests.line_files import line_by_line, outcome, read_file, refused
from tests.reading import Read, delimited

GOOD = b'{"label": 1, "a": 0.5, "b": -2e1}\n{"label": 0, "a": 3, "b": 4}\n'

FILL = "fill it in, leave the row out, or set data.missing to mean or 0 in the recipe"


def filled(layout: Layout) -> dict[str, Any]:
    return {"fill": [0.0] * layout.feature_dim}


def lines(*rows: Any) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def test_keys_are_columns() -> None:
    seen = read_file(json_lines, GOOD)
    layout = seen.layout
    assert layout.format is FileFormat.JSON_LINES
    assert (layout.columns, layout.label_column, layout.feature_columns) == (["label", "a", "b"], 0, [1, 2])
    assert (seen.look.unit, seen.look.start, seen.look.end) == (Unit.LINES, 0, len(GOOD))
    assert seen.features.tolist() == [[0.5, -20], [3, 4]]
    assert seen.labels == seen.cells == [1, 0]
    assert [(piece.rows, piece.lines, piece.begin, piece.stop) for piece in seen.pieces] == [(2, 2, 0, len(GOOD))]


def unused(*_: Any) -> None:
    raise AssertionError("read line by line")


@pytest.mark.parametrize(
    "data",
    [
        GOOD,
        b"[1,2]\n[3,4]\n",
        b'{"label":"x","p":[1,2],"q":true,"note":"n"}\n{"note":"","p":[3,4],"q":false,"label":"y"}\n',
    ],
)
def test_clean_lines_are_parsed_at_once(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_lines, "_parse_lines", unused)
    options: dict[str, Any] = {"drop_columns": ["note"]} if b"note" in data else {}
    classes = ["x", "y"] if b'"x"' in data else None
    assert len(read_file(json_lines, data, changed=lambda _: {"classes": classes}, **options).features) == 2


@pytest.mark.parametrize(
    "written",
    [
        b"\xef\xbb\xbf" + GOOD,
        GOOD.replace(b"\n", b"\r\n"),
        GOOD.removesuffix(b"\n"),
        b"\n" + GOOD.replace(b"\n", b"\n \n"),
        b'{"label":true,"a":5e-1,"b":-20.0}\n{"b":4,"label":false,"a":3}\n',
        b'{"label":"1","a":0.5,"b":-20}\n\t{"label":"0" , "\\u0061":3, "b":4}',
    ],
)
def test_the_same_rows_are_written_in_many_ways(written: bytes) -> None:
    plain, seen = read_file(json_lines, GOOD), read_file(json_lines, written)
    assert not seen.problems
    assert (seen.layout, seen.cells, seen.labels) == (plain.layout, plain.cells, plain.labels)
    assert seen.features.tobytes() == plain.features.tobytes()


def test_the_columns_of_arrays_are_numbered() -> None:
    seen = read_file(json_lines, b"[1, 2.5, 3]\n[4, 5, 6]\n", label="2")
    assert (seen.layout.columns, seen.layout.feature_columns) == (["0", "1", "2"], [0, 1])
    assert seen.features.tolist() == [[1, 2.5], [4, 5]]
    assert seen.labels == [3, 6]


def test_a_key_may_hold_an_array() -> None:
    seen = read_file(json_lines, lines({"label": 1, "p": [1, 2], "q": 3}, {"q": 6, "p": [4, 5], "label": 0}))
    assert seen.layout.columns == ["label", "p.0", "p.1", "q"]
    assert seen.features.tolist() == [[1, 2, 3], [4, 5, 6]]
    flat = read_file(json_lines, lines({"label": 1, "p.0": 1, "p.1": 2, "q": 3}, {"label": 0, "p": [4, 5], "q": 6}))
    assert flat.layout == seen.layout
    assert flat.features.tolist() == seen.features.tolist()


def test_what_is_dropped_may_hold_anything() -> None:
    rows = [
        {"a": 1, "note": "x {[", "deep": {"b": [1]}, "p": ["y"], "q": [1, 2]},
        {"a": 2, "note": None, "deep": 3, "q": [3, 4], "late": "z"},
    ]
    seen = read_file(json_lines, lines(*rows), drop_columns=["note", "deep", "p", "q.0", "late"])
    assert seen.layout.columns == ["a", "note", "deep", "p", "q.0", "q.1", "late"]
    assert seen.features.tolist() == [[1, 2], [2, 4]]
    assert not seen.problems


def test_gzip_is_read_whole() -> None:
    seen = read_file(json_lines, GOOD, gzipped=True)
    assert (seen.look.unit, seen.look.start, seen.look.end) == (Unit.WHOLE, 0, 1)
    assert seen.features.tobytes() == read_file(json_lines, GOOD).features.tobytes()
    assert seen.cells == [1, 0]


def test_missing_values_are_left_to_be_filled() -> None:
    data = b'{"a":1,"p":[1,2]}\n{}\n{"a":null,"p":null,"late":5}\n{"a":NaN,"p":[null,3],"late":6}\n{"a":-Infinity}\n'
    seen = read_file(json_lines, data, missing="mean", changed=filled)
    assert seen.layout.columns == ["a", "p.0", "p.1", "late"]
    gap = None
    rows = [[1, 1, 2, gap], [gap] * 4, [gap, gap, gap, 5], [gap, gap, 3, 6]]
    assert np.array_equal(seen.features, np.array(rows, dtype=np.float32), equal_nan=True)
    assert seen.problems == ["row 5, column 'a': '-Infinity' is not a finite number: mend the row or leave it out"]


def test_an_array_that_the_first_line_lacks_is_seen_later() -> None:
    seen = read_file(json_lines, lines({"a": 1, "p": None}, {"a": 2, "p": [3, 4]}), missing="0", changed=filled)
    assert seen.layout.columns == ["a", "p.0", "p.1"]
    assert np.isnan(seen.features).tolist() == [[False, True, True], [False, False, False]]


def test_a_missing_label_is_a_problem_whatever_is_filled_in() -> None:
    data = b'{"a":1,"label":1}\n{"a":1}\n{"a":2,"label":null}\n{"a":2,"label":" "}\n'
    assert read_file(json_lines, data, missing="0", changed=filled).problems == [
        "row 2, column 'label': the label is empty: fill it in, or leave the row out",
        "row 3, column 'label': the label is empty: fill it in, or leave the row out",
        "row 4, column 'label': the label is empty: fill it in, or leave the row out",
    ]


def test_text_labels_are_classes() -> None:
    data = lines({"label": "no", "a": 1}, {"label": " yes ", "a": 2}, {"label": "perhaps", "a": 3})
    seen = read_file(json_lines, data, changed=lambda _: {"classes": ["no", "yes"]})
    assert seen.cells == ["no", "yes", "perhaps"]
    assert seen.labels == [0, 1]
    assert seen.problems == [
        "row 3, column 'label': 'perhaps' is none of the classes: mend the label, or list it under data.classes in"
        " the recipe"
    ]


@pytest.mark.parametrize("label", [b"7", b"true", b'"7"', b"7.0"])
def test_numbers_can_be_classes(label: bytes) -> None:
    data = b'{"a":1,"label":' + label + b"}\n"
    assert read_file(json_lines, data, changed=lambda _: {"classes": ["1", "7"]}).labels == [float(b"7" in label)]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            b'{"label":0,"a":"ten","b":1}',
            ", column 'a': 'ten' is not a number: mend the cell, or list the column under drop_columns",
        ),
        (
            b'{"label":0,"a":"1.5","b":1}',
            ", column 'a': '1.5' is text: write the number without quotation marks, or list the column under"
            " drop_columns",
        ),
        (
            b'{"label":0,"a":null,"b":1}',
            f", column 'a': 'null' stands for a missing value: {FILL}",
        ),
        (b'{"label":0,"b":1}', f", column 'a': the row has no such key: {FILL}"),
        (b'{"label":0,"a":NaN,"b":1}', ", column 'a': 'NaN' is not a finite number: mend the row or leave it out"),
        (
            b'{"label":0,"a":-Infinity,"b":1}',
            ", column 'a': '-Infinity' is not a finite number: mend the row or leave it out",
        ),
        (
            b'{"label":0,"a":1e39,"b":1}',
            ", column 'a': '1e+39' is beyond float32 (at most 3.403e+38 in size): rescale the column",
        ),
        (
            b'{"label":0,"a":-1e999,"b":1}',
            ", column 'a': '-1e999' is beyond float32 (at most 3.403e+38 in size): rescale the column",
        ),
        (
            b'{"label":0,"a":[1],"b":1}',
            ", column 'a': holds an array or an object: write a number, or list the column under drop_columns",
        ),
        (
            b'{"label":0,"a":1,"b":1,"c":2}',
            ", column 'c': the first line of the file has no such key: add it there (null will do), or take it out"
            " here",
        ),
        (b'{"label":0,"a":1,"b":1,"a":1}', ", column 'a': the key stands twice on the line: keep one"),
        (b"[0, 1, 2]", ": the line is an array, and the first line is an object: write an object"),
        (b"5", ": the line is neither an object nor an array of numbers: mend it, or leave it out"),
        (b'{"label":0,"a":1,"b":1', ": the line is not JSON: expecting ',' delimiter at character 23"),
        (b'{"label":0,"a":01,"b":1}', ": the line is not JSON: expecting ',' delimiter at character 17"),
        (b'{"label":0,"a":1,"b":1}{}', ": the line is not JSON: extra data at character 24"),
        (b'{"a":' + b"[" * 200_000, ": the line is nested too deeply: write an object of numbers"),
        (b'{"a":' * 200_000, ": the line is nested too deeply: write an object of numbers"),
        (
            b'{"label":"foo","a":1,"b":1}',
            ", column 'label': 'foo' is not a number, and a label must be one: mend it, or list the classes under"
            " data.classes in the recipe",
        ),
        (
            b'{"label":[1],"a":1,"b":1}',
            ", column 'label': holds an array or an object: write a number, or list the column under drop_columns",
        ),
        (
            b'{"label":"' + b"x" * 300 + b'","a":1,"b":1}',
            f", column 'label': '{'x' * 40}...' is longer than 256 characters: a label must be a number or the name"
            " of a class",
        ),
    ],
)
def test_a_wrong_line_is_named_and_left_out(line: bytes, said: str) -> None:
    first, last = GOOD.splitlines(keepends=True)
    seen = read_file(json_lines, first + line + b"\n" + last)
    assert seen.problems == ["row 2" + said]
    assert seen.labels == [1, 0]
    assert seen.pieces[0].rows == 3


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"p":[1,2,3]}', "row 2, column 'p': the array has 3 values where the first line has 2"),
        (b'{"p":5}', "row 2, column 'p': holds no array, but should hold one of 2 numbers: write [...]"),
        (b'{"p":[1,"x"]}', "row 2, column 'p.1': 'x' is not a number"),
        (b'{"p":[1,2],"p.1":2}', "row 2, column 'p.1': the key stands twice on the line: keep one"),
    ],
)
def test_a_wrong_array_is_named(line: bytes, said: str) -> None:
    (problem,) = read_file(json_lines, b'{"p":[1,2]}\n' + line + b"\n").problems
    assert problem.startswith(said)


def test_a_ragged_array_line_is_named() -> None:
    (problem,) = read_file(json_lines, b"[1,2]\n[1,2,3]\n").problems
    assert problem == "row 2: the row has 3 values where the file has 2 columns"


def test_ten_problems_are_named_at_once() -> None:
    seen = read_file(json_lines, GOOD + b'{"label":0,"a":"x","b":0}\n' * 125)
    assert len(seen.problems) == 10
    assert seen.cut_short


SEVERAL_LINES = (
    "row 1: the JSON goes on over several lines: write one object on each line (JSON Lines); pandas does with"
    " to_json(orient='records', lines=True)"
)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b" \n\n", "the file is empty"),
        (b'{\n  "a": 1\n}\n', SEVERAL_LINES),
        (b'[{"a": 1},\n {"a": 2}]\n', SEVERAL_LINES),
        (b"[\n[1, 2],\n[3, 4]]\n", SEVERAL_LINES),
        (
            b'[{"a": 1}, {"a": 2}]\n',
            "row 1: the line is an array of rows, or empty: write one object on each line (JSON Lines); pandas does"
            " with to_json(orient='records', lines=True)",
        ),
        (b'{"a" 1}\n', "row 1: the line is not JSON: expecting ':' delimiter at character 6"),
        (b'{"a":1,"a":2}\n', "row 1, column 'a': the key stands twice on the line: keep one"),
        (b"{}\n{}\n", "row 1: the first line holds no key, so there is nothing to learn from"),
        (b'{"p":[1],"p.0":2}\n', "row 1, column 'p.0': two columns have this name: rename one"),
        (
            b'{"p":[1],"p.1":2}\n',
            "row 1, column 'p': the values of this array would be called like other columns: rename the key",
        ),
        (b'{"label":1}\n', "no column is left to learn from, besides the label and drop_columns"),
        (lines(list(range(100_001))), "row 1: there are 100001 columns; 100000 is the most"),
        (b'{"a":1}\n{"a":' + b" " * (5 << 20) + b"1}\n", "row 2: no line ends within 4 MB"),
    ],
)
def test_what_is_no_dataset_is_refused(data: bytes, said: str) -> None:
    assert refused(json_lines, data) == said


def test_halves_of_surrogate_pairs_do_no_harm() -> None:
    seen = read_file(json_lines, b'{"\\ud800":1,"label":"\\udfff"}\n' * 2, changed=lambda _: {"classes": ["\ufffd"]})
    assert seen.layout.columns == ["\ufffd", "label"]
    assert seen.labels == [0, 0]


def test_wide_rows_of_gaps_are_given_some_at_a_time() -> None:
    first = {str(column): 1 for column in range(2000)}
    seen = read_file(json_lines, lines(first) + b"{}\n" * 2000, changed=filled)
    assert sum(map(len, seen.rows)) == 2001
    assert max(rows.features.nbytes for rows in seen.rows if isinstance(rows.features, np.ndarray)) <= 2 << 20


values = st.sampled_from([0, 1, 255, 0.1, -7e-9, 3.4e38])


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 5).flatmap(lambda width: st.lists(st.lists(values, min_size=width, max_size=width), min_size=1)))
def test_rows_equal_those_of_delimited_text(rows: list[list[float]]) -> None:
    features = np.array(rows, dtype=np.float64)
    labels = np.arange(len(rows), dtype=np.float64) % 3
    table = Read({"rows.csv": delimited(features, labels)})
    pairs = list(zip(features.tolist(), labels.tolist(), strict=True))
    written: list[tuple[bytes, dict[str, Any]]] = [
        (lines(*({**{f"x{at}": value for at, value in enumerate(row)}, "label": label} for row, label in pairs)), {}),
        (lines(*({"x": row, "label": label} for row, label in pairs)), {}),
        (lines(*([*row, label] for row, label in pairs)), {"label": str(features.shape[1])}),
    ]
    for data, options in written:
        seen = Read({"rows.jsonl": data}, **options)
        assert seen.features.tobytes() == table.features.tobytes()
        assert seen.labels.tolist() == table.labels.tolist()


CELLS = [
    *("1", "0", "-1.5", "null", "true", "false", '"x"', '"1"', "NaN", "Infinity", "1e400", "1e39", "1" * 400, "[1,2]"),
    *("[3,4]", "[]", "[1,null]", "[1,NaN]", '[1,"x"]', "[[1]]", "{}", '{"a":1}', '""', '"\\ud800"', '"\\u0061"'),
    *('"a\tb"', '"[{"', "01", "1.", ".5", "+1", "nul", "-0", "3.4028235e38", '"NA"', '"nan"', "1E5", "[1,2,3]"),
]
KEYS = ["a", "b", "label", "f", "z", "a.0", "f.0", "f.1", "\\u0061", "\\ud800", "", "0", "1", "line"]
cells = st.sampled_from([*CELLS, *["1", "2"] * 10])
objects = st.lists(st.tuples(st.sampled_from(KEYS), cells), max_size=4).map(
    lambda pairs: "{" + ",".join(f'"{key}":{cell}' for key, cell in pairs) + "}"
)
alike = st.lists(st.sampled_from(KEYS), min_size=1, max_size=4, unique=True).flatmap(
    lambda keys: st.lists(
        st.lists(cells, min_size=len(keys), max_size=len(keys)).map(
            lambda row: "{" + ",".join(f'"{key}":{cell}' for key, cell in zip(keys, row, strict=True)) + "}"
        ),
        min_size=1,
        max_size=5,
    )
)
arrays = st.integers(1, 3).flatmap(
    lambda width: st.lists(
        st.lists(cells, min_size=width, max_size=width).map(lambda row: f"[{','.join(row)}]"), min_size=1, max_size=5
    )
)
strange = st.lists(
    st.one_of(
        objects,
        objects.map(lambda line: line[:-1]),
        st.tuples(objects, st.sampled_from([" ", "\r", ",", "x", "}", "{", "]", '{"a":1}', "\0"])).map("".join),
        st.sampled_from(["", " ", "1", "[1,2]", "[", "{", "}", "{}", "[]", '"x"', "null", "\ufeff{}"]),
    ),
    max_size=4,
)
files = st.one_of(alike, arrays, st.tuples(alike, strange).map(lambda both: [*both[0], *both[1]]), strange).map(
    lambda written: "\n".join(written).encode()
)


@settings(max_examples=250, deadline=None)
@given(
    files,
    st.sampled_from([lambda _: {}, lambda _: {"classes": ["1", "2", "x"]}, filled]),
    st.sampled_from([{}, {"label": "a"}, {"label": "0"}, {"drop_columns": ["b"]}, {"drop_columns": ["f"]}]),
    st.sampled_from(["refuse", "0"]),
)
def test_parsing_at_once_and_line_by_line_agree(data: bytes, changed: Any, options: Any, missing: str) -> None:
    at_once = outcome(json_lines, data, changed=changed, missing=missing, **options)
    with line_by_line(json_lines):
        assert outcome(json_lines, data, changed=changed, missing=missing, **options) == at_once


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(values, values, st.sampled_from([1, 2, "x", " y", True])), min_size=1, max_size=12),
    st.lists(st.integers(0, 300), max_size=4),
    st.sampled_from([9, 1 << 20]),
)
def test_pieces_cut_anywhere_hold_the_same_rows(
    rows: list[tuple[float, float, Any]], cuts: list[int], slice_bytes: int
) -> None:
    data = lines(*({"a": a, "p": [b, a], "label": label} for a, b, label in rows))
    cuts = [cut for cut in cuts if cut < len(data)]

    def with_classes(_: Layout) -> dict[str, Any]:
        return {"classes": ["1", "2", "x", "y"]}

    whole = read_file(json_lines, data, changed=with_classes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_lines, "_SLICE_BYTES", slice_bytes)
        # Columns come from the first line, which must be within the first slice.
        seen = read_file(json_lines, data, cuts=cuts, changed=with_classes)
    assert not seen.problems
    assert (seen.layout, seen.labels) == (whole.layout, whole.labels)
    assert [class_name(cell) for cell in seen.cells] == [class_name(cell) for cell in whole.cells]
    assert seen.features.tobytes() == whole.features.tobytes()
    assert [piece.begin for piece in seen.pieces[1:]] == [piece.stop for piece in seen.pieces[:-1]]
    assert (seen.pieces[0].begin, seen.pieces[-1].stop) == (0, len(data))
    assert sum(piece.lines for piece in seen.pieces) == len(rows)
    assert sum(piece.rows for piece in seen.pieces) == len(rows)


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.text('{}[]":,ab01. e-\n\r\t\\', max_size=60).map(str.encode)))
def test_any_bytes_give_rows_or_a_named_error(data: bytes) -> None:
    at_once = outcome(json_lines, data)
    with line_by_line(json_lines):
        assert outcome(json_lines, data) == at_once
