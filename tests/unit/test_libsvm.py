"""LIBSVM files as drops: sparse rows, the same however they are written, cut or packed."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dropmill.contracts import FileFormat, Layout, Unit
from dropmill.data import libsvm
from dropmill.data.checks import class_name
from dropmill.data.recordio import SparseMatrix
from tests.line_files import line_by_line, outcome, read_file, refused
from tests.reading import Read, delimited
from tests.reading import libsvm as libsvm_of

GOOD = b"+1 1:0.5 4:-2e1\n-1 2:3\n3\n"


def test_rows_are_sparse_and_columns_counted() -> None:
    seen = read_file(libsvm, GOOD)
    layout = seen.layout
    assert (layout.format, layout.columns, layout.feature_columns) == (FileFormat.LIBSVM, [], [])
    assert (layout.sparse_columns, layout.first_index, layout.own_labels) == (4, 1, True)
    assert (seen.look.unit, seen.look.start, seen.look.end) == (Unit.LINES, 0, len(GOOD))
    assert all(isinstance(rows.features, SparseMatrix) for rows in seen.rows)
    assert seen.features.tolist() == [[0.5, 0, 0, -20], [0, 3, 0, 0], [0, 0, 0, 0]]
    assert seen.labels == seen.cells == [1, -1, 3]
    assert [(piece.rows, piece.lines, piece.begin, piece.stop) for piece in seen.pieces] == [(3, 3, 0, len(GOOD))]


@pytest.mark.parametrize(
    "written",
    [
        b"\xef\xbb\xbf" + GOOD,
        GOOD.replace(b"\n", b"\r\n"),
        GOOD.removesuffix(b"\n"),
        b"# a comment\n\n" + GOOD.replace(b"\n", b" # 7:7 and more\n\n"),
        b"  +1\t1:.5   4:-20. \n-1 2:+3\n 3 \n",
        b"1.0 4:-20 1:5e-1\n-1 00002:3 3:0 4:-0\n3 1:0\n",
    ],
)
def test_the_same_rows_are_written_in_many_ways(written: bytes) -> None:
    plain, seen = read_file(libsvm, GOOD), read_file(libsvm, written)
    assert not seen.problems
    assert seen.layout == plain.layout
    assert seen.features.tobytes() == plain.features.tobytes()
    assert seen.labels == plain.labels
    for rows in seen.rows:
        assert isinstance(rows.features, SparseMatrix)
        assert rows.features.values.all()


def test_clean_lines_are_parsed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def unused(*_: Any) -> None:
        raise AssertionError("read line by line")

    monkeypatch.setattr(libsvm, "_checked_by_line", unused)
    seen = read_file(libsvm, GOOD + b"1 7:1 2:1e3 # unordered\r\n\n", changed=lambda _: {"classes": ["-1", "1", "3"]})
    assert seen.labels == [1, 0, 2, 1]


def test_columns_count_from_0_where_0_is_seen() -> None:
    seen = read_file(libsvm, b"1 1:5\n2 0:6 2:7\n")
    assert (seen.layout.sparse_columns, seen.layout.first_index) == (3, 0)
    assert seen.features.tolist() == [[0, 5, 0], [6, 0, 7]]


def test_gzip_is_read_whole() -> None:
    seen = read_file(libsvm, GOOD, gzipped=True)
    assert (seen.look.unit, seen.look.start, seen.look.end) == (Unit.WHOLE, 0, 1)
    assert seen.features.tobytes() == read_file(libsvm, GOOD).features.tobytes()
    assert seen.cells == [1, -1, 3]


def test_a_given_width_saves_reading_the_file() -> None:
    many = b"1 1:1\n" * 400_000
    seen = read_file(libsvm, many + b"1 7:1\n1 8:1\n1 0:1\n", look_at={"width": 7})
    assert (seen.layout.sparse_columns, seen.layout.first_index) == (7, 1)
    assert len(seen.labels) == 400_001
    assert seen.problems == [
        "row 400002, column '8': the last column is 7: mend the line, or raise hyperparameters.feature_dim",
        "row 400003, column '0': columns count from 1 on the first lines of the file, and from 0 here:"
        " count them from 1 everywhere",
    ]


def test_text_labels_are_classes() -> None:
    data = b"no 1:1\nyes 1:2\n no  1:3\nperhaps 1:4\n"
    seen = read_file(libsvm, data, changed=lambda _: {"classes": ["no", "yes"]})
    assert seen.cells == ["no", "yes", "no", "perhaps"]
    assert seen.labels == [0, 1, 0]
    assert seen.problems == [
        "row 4, column 'label': 'perhaps' is none of the classes: mend the label, or list it under data.classes in"
        " the recipe"
    ]


def test_numbers_can_be_classes() -> None:
    seen = read_file(libsvm, b"+1 1:1\n-1.0 1:2\n", changed=lambda _: {"classes": ["-1", "1"]})
    assert seen.labels == [1, 0]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"1:2 3:4", "column 'label': '1:2' stands where the label should: begin the line with the label"),
        (b"1 2:3 2:4", "column '2': the column stands twice on the line: keep one"),
        (b"1 2:4 3:1 02:3", "column '2': the column stands twice on the line: keep one"),
        (b"1 a:2", "'a:2' is not of the form index:value: mend it, or take it out"),
        (b"1 2", "'2' is not of the form index:value: mend it, or take it out"),
        (b"1 2:", "'2:' is not of the form index:value: mend it, or take it out"),
        (b"1 -1:3", "'-1:3' is not of the form index:value: mend it, or take it out"),
        (b"1 0x1:3", "'0x1:3' is not of the form index:value: mend it, or take it out"),
        (b"1 2:x", "column '2': 'x' is not a number: mend the value, or leave the column out of the line"),
        (b"1 2:0x10", "column '2': '0x10' is not a number: mend the value, or leave the column out of the line"),
        (b"1 2:nan", "column '2': 'nan' is not a finite number: mend the row or leave it out"),
        (b"1 2:-inf", "column '2': '-inf' is not a finite number: mend the row or leave it out"),
        (b"1 2:1e39", "column '2': '1e39' is beyond float32 (at most 3.403e+38 in size): rescale the column"),
        (b"1 2:1e999", "column '2': '1e999' is beyond float32 (at most 3.403e+38 in size): rescale the column"),
        (b"1 10000001:1", "column '10000001': there can be 10,000,000 columns at the most: number them anew"),
        (
            b"1 qid:3 2:1",
            "'qid:3' is for rankings, which can't be learned here: take the qid out of all lines",
        ),
    ],
)
def test_a_wrong_line_is_named(line: bytes, said: str) -> None:
    where = "row 2, " if said.startswith("column") else "row 2: "
    assert refused(libsvm, b"1 1:1\n" + line + b"\n1 2:1\n") == where + said


@pytest.mark.parametrize(
    ("label", "said"),
    [
        (b"1,2", "is more than one label, and a row can have only one"),
        (b"nan", "is not a finite number"),
        (b"1e39", "is beyond float32"),
        (b"x" * 300, "is longer than 256 bytes"),
        (b"?", "stands for a missing value"),
    ],
)
def test_a_wrong_label_is_named(label: bytes, said: str) -> None:
    seen_said = outcome(libsvm, b"1 1:1\n" + label + b" 1:1\n1 2:1\n")
    text = seen_said[0] if len(seen_said) == 1 else seen_said[2][0]
    assert f"row 2, column 'label': '{label[:40].decode()}" in text
    assert said in text


def test_a_text_among_numbers_is_no_label() -> None:
    (problem,) = read_file(libsvm, b"1 1:1\nfoo 1:1\n").problems
    assert problem.startswith("row 2, column 'label': 'foo' is not a number, and a label must be one")


def test_ten_problems_are_named_at_once() -> None:
    said = refused(libsvm, b"1 1:1\n" + b"1 1:x\n" * 25)
    assert said.count("column '1'") == 10
    assert "row 2," in said
    assert "row 11," in said
    assert "checking stopped after 10 problems" in said


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"# nothing\n\n", "the file is empty"),
        (b"1\n2\n", "no line has an index:value, so there is nothing to learn from"),
        (b"1 1:1\n" + b"1 " * (9 << 19) + b"\n", "row 2: no line ends within 8 MB"),
    ],
)
def test_what_is_no_dataset_is_refused(data: bytes, said: str) -> None:
    assert refused(libsvm, data) == said


def test_columns_cannot_be_dropped() -> None:
    assert "take data.drop_columns out of the recipe" in refused(libsvm, GOOD, drop_columns=["2"])


dense_rows = st.integers(1, 6).flatmap(
    lambda width: st.lists(
        st.tuples(
            st.integers(-2, 2), st.lists(st.sampled_from([0, 0, 1, 255, 0.1, -7e-9]), min_size=width, max_size=width)
        ),
        min_size=1,
        max_size=12,
    )
)


@settings(max_examples=60, deadline=None)
@given(dense_rows)
def test_sparse_rows_equal_dense_ones(rows: list[tuple[int, list[float]]]) -> None:
    features = np.array([row for _, row in rows], dtype=np.float64)
    labels = np.array([label for label, _ in rows], dtype=np.float64)
    features[0, -1] = 1  # so that the last column is seen
    sparse = Read({"rows.libsvm": libsvm_of(features, labels)})
    table = Read({"rows.csv": delimited(features, labels)})
    assert sparse.features.tobytes() == table.features.tobytes()
    assert sparse.labels.tolist() == table.labels.tolist()
    assert [block.hashes.tolist() for block in sparse.blocks] == [block.hashes.tolist() for block in table.blocks]


GOOD_TOKENS = ["1:2", "2:3", "3:0.5", "5:-0", "7:1e5", "9:+3", "008:1", "10:.5", "6:5.", "4:1e-400", "#c", "\r", "\t"]
ODD_TOKENS = [
    *("0:1", "8:1e400", "4:nan", "1:2:3", ":", "1:", "a", "x:1", "0x1:2", "1:0x2", "qid:3", "\v", "\0", "1,2", "nan"),
    *("NA", "10000000:1", "10000001:1", "99999999999:1", "-0:1", "+1:1", "1e2:3", "1:1_0", "\xa0", "1:-", "\ufeff1:2"),
    *('"1"', '"a":1', "1:'2'", "1:1e", "3:1+5", "3:+-1", "inf", "1:inf", "1:nan(3)", "1:3.5e38", "1:1;2", "3:1,5"),
]
labels_written = st.sampled_from(["1", "2", "-1", "+1", "1.0", "foo", "2e0"])
good_lines = st.tuples(labels_written, st.lists(st.sampled_from(GOOD_TOKENS), max_size=5, unique=True))
odd_lines = st.tuples(
    st.one_of(labels_written, st.sampled_from(ODD_TOKENS)),
    st.lists(st.sampled_from(GOOD_TOKENS + ODD_TOKENS), max_size=5),
)


def written(lines: list[tuple[str, list[str]]]) -> bytes:
    return "".join(" ".join([label, *tokens]) + "\n" for label, tokens in lines).encode()


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.one_of(good_lines, odd_lines), max_size=6).map(written),
    st.sampled_from([None, ["1", "2", "foo"]]),
    st.sampled_from([None, 7]),
)
def test_parsing_at_once_and_line_by_line_agree(data: bytes, classes: list[str] | None, width: int | None) -> None:
    options = {"changed": lambda _: {"classes": classes}, "look_at": {"width": width}}
    at_once = outcome(libsvm, data, **options)
    with line_by_line(libsvm):
        assert outcome(libsvm, data, **options) == at_once


@settings(max_examples=60, deadline=None)
@given(
    st.lists(good_lines, min_size=1, max_size=12).map(written),
    st.lists(st.integers(0, 200), max_size=4),
    st.sampled_from([7, 1 << 19]),
)
def test_pieces_cut_anywhere_hold_the_same_rows(data: bytes, cuts: list[int], slice_bytes: int) -> None:
    data = b"1 9:1\n" + data
    cuts = [cut for cut in cuts if cut < len(data)]

    def with_classes(_: Layout) -> dict[str, Any]:
        return {"classes": ["-1", "1", "2", "foo"]}

    whole = read_file(libsvm, data, changed=with_classes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(libsvm, "_SLICE_BYTES", slice_bytes)
        seen = read_file(libsvm, data, cuts=cuts, changed=with_classes)
    assert not seen.problems
    assert (seen.layout, seen.labels) == (whole.layout, whole.labels)
    assert [class_name(cell) for cell in seen.cells] == [class_name(cell) for cell in whole.cells]
    assert seen.features.tobytes() == whole.features.tobytes()
    assert [piece.begin for piece in seen.pieces[1:]] == [piece.stop for piece in seen.pieces[:-1]]
    assert (seen.pieces[0].begin, seen.pieces[-1].stop) == (0, len(data))
    assert sum(piece.lines for piece in seen.pieces) == data.count(b"\n")
    assert sum(piece.rows for piece in seen.pieces) == len(seen.labels)


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.text("0123:. e-#q\n\r\t+,xn", max_size=60).map(str.encode)))
def test_any_bytes_give_rows_or_a_named_error(data: bytes) -> None:
    at_once = outcome(libsvm, data)
    with line_by_line(libsvm):
        assert outcome(libsvm, data) == at_once
