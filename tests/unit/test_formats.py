"""Drops as a whole: files agree on format and columns, labels become numbers or classes, and nothing is too large."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dropmill.contracts import FileFormat, Layout, Part, Unit
from dropmill.data import checks, delimited, formats, shards
from dropmill.data.array_files import ArrayHead, check_features
from dropmill.data.delimited_cells import EMPTY_LABEL, OPEN_QUOTE, TEXT_CELL
from dropmill.data.recordio import SparseMatrix, encode
from dropmill.errors import InvalidDrop
from dropmill.recipe import DataOptions
from tests.reading import (
    EVERY_FORMAT,
    PARTS,
    Files,
    Read,
    drop_files,
    gzipped,
    idx,
    json_lines,
    label_option,
    libsvm,
    npy,
    npz,
    parquet,
    split_pickle,
)
from tests.reading import delimited as csv_of

ADVICE = "mend it, or list the classes under data.classes in the recipe"
FEATURES = np.arange(60).reshape(20, 3) % 7
LABELS = np.arange(20) % 3


def refused(files: Files | bytes, parts: dict[str, Part] | None = None, **options: Any) -> str:
    """What is said of a drop that can't be used at all."""
    with pytest.raises(InvalidDrop) as error:
        Read(files if isinstance(files, dict) else {"d.csv": files}, parts, **options)
    return error.value.words.in_full()


def look(files: Files, *, width: int | None = None, **options: Any) -> formats.Looked:
    return formats.look(drop_files(files), DataOptions(**options), width=width)


def options_of(kind: str) -> dict[str, Any]:
    return dict(label_option(kind, FEATURES))


def labels_are(cells: list[str]) -> bytes:
    return ("a,label\n" + "".join(f"{row},{cell}\n" for row, cell in enumerate(cells))).encode()


# Looks


@pytest.mark.parametrize("kind", EVERY_FORMAT)
def test_every_format_is_looked_at_and_read_through_one_door(kind: str) -> None:
    files = EVERY_FORMAT[kind](FEATURES, LABELS)
    read = Read(files, **options_of(kind))
    np.testing.assert_array_equal(read.features, FEATURES)
    np.testing.assert_array_equal(read.labels, LABELS)
    assert read.layout.label_values == [0, 1, 2]
    assert read.layout.classes is None
    assert read.said == []
    assert Layout.model_validate_json(read.layout.model_dump_json()) == read.layout
    (file,) = read.files
    assert (file.labels is not None) == ("idx" in kind)
    assert file.rows in (None, 20)


def test_the_layout_of_delimited_text_with_names() -> None:
    read = Read({"d.csv": b"a,label,b\n1,0,2.5\n-3,1,4e2\n"})
    assert read.features.tolist() == [[1, 2.5], [-3, 400]]
    assert read.layout == Layout(
        format=FileFormat.CSV,
        header=True,
        columns=["a", "label", "b"],
        label_column=1,
        feature_columns=[0, 2],
        label_values=[0, 1],
    )
    (file,) = read.files
    assert (file.unit, file.start, file.end, file.first_line) == (Unit.LINES, 10, 27, 2)


def test_rows_without_a_label() -> None:
    for files in (
        {"d.csv": b"1,0,2.5\n-3,1,4e2"},
        {"d.npy": npy(np.array([[1, 0, 2.5], [-3, 1, 4e2]]))},
        {"d.jsonl": b"[1,0,2.5]\n[-3,1,4e2]\n"},
        {"d.rec": encode(np.array([[1, 0, 2.5], [-3, 1, 4e2]], np.float32))},
    ):
        read = Read(files)
        assert read.features.tolist() == [[1, 0, 2.5], [-3, 1, 400]]
        assert not read.layout.labelled
        assert read.layout.label_values is None


def test_a_damaged_file_is_named_in_the_drop() -> None:
    good = csv_of(FEATURES, LABELS)
    message = refused({"a.csv.gz": gzipped(good), "b.csv.gz": gzipped(good)[:-9]})
    assert message == "b.csv.gz: the gzip file is cut off: upload it again, whole"


# Labels


@pytest.mark.parametrize("kind", ["csv", "csv-gzip", "json-lines", "parquet", "npz", "libsvm"])
def test_texts_are_classes_in_alphabetical_order(kind: str) -> None:
    names = np.array(["lion", "cat", "Dog"])
    rows = len(FEATURES)
    words = names[LABELS]
    files: Files = {
        "csv": {"d.csv": csv_of(FEATURES, LABELS)},
        "json-lines": {"d.jsonl": json_lines(FEATURES, words)},
        "parquet": {"d.parquet": parquet(FEATURES, words)},
        "npz": {"d.npz": npz(x=FEATURES, y=words)},
        "libsvm": {"d.libsvm": libsvm(FEATURES, LABELS)},
    }.get(kind, {})
    if kind.startswith("csv"):
        lines = csv_of(FEATURES, None).decode().split()
        text = "\n".join([f"{lines[0]},label", *(f"{lines[1 + row]},{words[row]}" for row in range(rows))]).encode()
        files = {"d.csv.gz": gzipped(text)} if kind == "csv-gzip" else {"d.csv": text}
    if kind == "libsvm":
        lines = files["d.libsvm"].decode().splitlines()
        files = {"d.libsvm": "\n".join(f"{words[row]}{line[1:]}" for row, line in enumerate(lines)).encode()}
    read = Read(files)
    assert read.layout.classes == ["Dog", "cat", "lion"]
    assert read.layout.label_values == [0, 1, 2]
    assert read.labels.tolist() == [[2, 1, 0][label] for label in LABELS]
    np.testing.assert_array_equal(read.features, FEATURES)


def test_texts_of_all_files_are_the_classes() -> None:
    read = Read({"a.csv": labels_are(["x", "y"]), "b.csv": labels_are([" z ", "x"])})
    assert read.layout.classes == ["x", "y", "z"]
    assert sorted(read.labels.tolist()) == [0, 0, 1, 2]


def test_the_classes_of_the_recipe_come_first() -> None:
    read = Read({"d.csv": labels_are(["no", "maybe", "yes"])}, classes=["no", "maybe", "yes", "never"])
    assert read.layout.classes == ["no", "maybe", "yes", "never"]
    assert read.layout.label_values == [0, 1, 2, 3]
    assert read.labels.tolist() == [0, 1, 2]
    mixed = Read({"d.csv": labels_are(["1", "x", "2.0"])}, classes=["x", "2", "1.0"])
    assert mixed.labels.tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    ("files", "where"),
    [
        ({"d.csv": labels_are(["no", "perhaps", "yes"])}, "d.csv, row 2, column 'label': 'perhaps'"),
        ({"d.jsonl": b'{"a": 1, "label": "no"}\n{"a": 1, "label": "perhaps"}\n'}, "d.jsonl, row 2, column 'label'"),
        ({"d.libsvm": b"no 1:2\nyes 2:3\nperhaps 1:2\n"}, "d.libsvm, row 3, column 'label': 'perhaps'"),
        ({"d.npz": npz(x=[[1], [2]], y=["yes", "perhaps"])}, "d.npz, row 1, column 'label': 'perhaps'"),
        ({"d.parquet": parquet(FEATURES[:2], np.array(["yes", "perhaps"]))}, "d.parquet, row 1, column 'label'"),
        ({"d.npz": npz(x=[[1], [2]], y=[1, 2])}, "d.npz, row 0, column 'label': '1'"),
        ({"d.rec": encode(FEATURES.astype(np.float32)[:1], np.array([5]))}, "d.rec, row 0, column 'label': '5'"),
    ],
)
def test_an_unknown_class_is_named_with_its_row(files: Files, where: str) -> None:
    read = Read(files, classes=["no", "yes"])
    said = [text for text in read.said if text.startswith(where)]
    (first,) = said[:1]
    assert first.endswith("is none of the classes: mend the label, or list it under data.classes in the recipe")


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (["1", "2", "cat"], "some labels are numbers, but 'cat' is not: mend them, or list all in data.classes of the"),
        (["$12", "13 kg", "4"], "some labels are numbers, but '$12', '13 kg' are not: mend them, or list all in"),
        (
            ["0", *"abcdefg"],
            "some labels are numbers, but 'a', 'b', 'c', 'd', 'e', ... are not: mend them, or list all in",
        ),
    ],
)
def test_numbers_and_texts_are_named_with_their_rows(labels: list[str], said: str) -> None:
    message = refused(labels_are(labels))
    first = next(row for row, label in enumerate(labels, 2) if not label.isdigit())
    texts = sum(not label.isdigit() for label in labels)
    assert f"d.csv, row {first}, column 'label': {said}" in message
    assert message.count("row ") == texts
    for row, label in list(enumerate(labels, 2))[first - 1 : first - 2 + texts]:
        assert (
            f"d.csv, row {row}, column 'label': {label!r} is not a number, and a label must be one: {ADVICE}" in message
        )


def test_numbers_and_texts_may_be_in_different_files() -> None:
    message = refused({"a.csv": labels_are(["1", "2"]), "b.csv": b"\n" + labels_are(["x", "y"])})
    assert message.startswith("- b.csv, row 3, column 'label': some labels are numbers, but 'x', 'y' are not")
    assert "- b.csv, row 4, column 'label': 'y' is not a number" in message
    message = refused({"d.npz": npz(x=np.zeros((3, 1)), y=["1", "2", "b"])})
    assert message.startswith("d.npz, row 2, column 'label': some labels are numbers, but 'b' is not")


def test_other_problems_do_not_hide_that_labels_are_mixed() -> None:
    message = refused(b"a,label\n1,1\n" + b"x,1\n" * 20 + b"1,cat\n")
    assert message.startswith("d.csv, row 23, column 'label': some labels are numbers, but 'cat' is not")
    message = refused(b"a,label\n1,1\n" + b"x,1\n" * 200 + b"1,cat\n")
    assert message.startswith("d.csv, column 'label': some labels are numbers, but 'cat' is not")


def test_a_text_label_hides_no_other_problem() -> None:
    message = refused(b"a,label\n1,cat\n1,\n1,dog\n1,nan\n")
    assert f"d.csv, row 3, column 'label': {EMPTY_LABEL}" in message
    assert "d.csv, row 5, column 'label': 'nan' is not a finite number" in message


@pytest.mark.parametrize("packed", [False, True])
def test_the_label_column_is_read_whole_before_anything_else(packed: bool) -> None:
    data = b"a,label\n1,2\n" + b"1,3\n" * 1000 + b"1\nx,1\n1,inf\n"
    message = refused({"d.csv": gzipped(data) if packed else data})
    assert "d.csv, row 1003: the row has 1 cells where the file has 2 columns" in message
    assert "d.csv, row 1005, column 'label': 'inf' is not a finite number" in message
    assert "row 1004" not in message


def test_it_is_said_where_checking_stopped() -> None:
    assert "- checking stopped after 10 problems" in refused(b"a,label\n" + b"1,\n" * 30)
    assert "stopped" not in refused(b"a,label\n" + b"1,\n" * 9)


def test_one_class_is_for_others_to_judge() -> None:
    assert Read({"d.csv": labels_are(["cat", "cat"])}).layout.classes == ["cat"]
    assert Read({"d.csv": labels_are(["7", "7.0"])}).layout.label_values == [7]


def test_more_numbers_than_classes_are_not_listed() -> None:
    many = np.arange(checks.MAX_CLASSES + 1)
    assert Read({"d.npz": npz(x=np.zeros((len(many), 1)), y=many)}).layout.label_values is None
    read = Read({"d.npz": npz(x=np.zeros((len(many) - 1, 1)), y=many[1:])})
    assert read.layout.label_values == many[1:].tolist()


def test_more_texts_than_classes_are_refused() -> None:
    names = [f"c{index}" for index in range(checks.MAX_CLASSES + 1)]
    assert Read({"d.csv": labels_are(names[1:])}).layout.classes == sorted(names[1:])
    assert refused(labels_are(names)) == (
        "d.csv, column 'label': there are more than 1000 different texts, too many to be classes: name another column"
        " with data.label in the recipe"
    )
    assert "more than 1000 different texts" in refused({"a.csv": labels_are(names[:600]), "b.csv": labels_are(names)})


def test_texts_that_cannot_be_names_are_refused() -> None:
    long = "long" * 60
    assert Read({"d.csv": labels_are(["a", long[:200]])}).layout.classes == ["a", long[:200]]
    shown = f"{long[:40]}..."
    message = refused(labels_are(["a", long[:201], "b", long]))
    assert message.startswith(
        "- d.csv, row 3, column 'label': a text of more than 200 characters can't be the name of a class: name another"
        " column with data.label in the recipe"
    )
    assert f"\n- d.csv, row 5, column 'label': {shown!r} is " in message
    assert message.count("row ") == 2
    assert "'label': a text of more than 200 characters" in refused(labels_are([long, f"{long}x"]))


@pytest.mark.parametrize(
    "files",
    [
        {"d.csv": "a,label\n1,no\n2,tr\u00e8s\n".encode("latin-1")},
        {"d.csv.gz": gzipped("a,label\n1,no\n2,tr\u00e8s\n".encode("latin-1"))},
        {"d.jsonl": b'{"a": 1, "label": "no"}\n{"a": 1, "label": "tr\\ud800s"}\n'},
        {"d.libsvm": "no 1:2\ntr\u00e8s 1:3\n".encode("latin-1")},
        {"d.npz": npz(x=[[1], [2]], y=np.array([b"no", b"tr\xe8s"]))},
        {"d.npz": npz(x=[[1], [2]], y=np.array([0x6E, 0xD800], np.uint32).view("<U1"))},
    ],
)
def test_texts_in_other_encodings_are_refused(files: Files) -> None:
    (name,) = files
    row = {"d.csv": 3, "d.csv.gz": 3, "d.npz": 1}.get(name, 2)
    assert refused(files) == (
        f"{name}, row {row}, column 'label': the text of the label is not in UTF-8, so classes can't be told apart:"
        " save it as UTF-8"
    )


# Missing values


@pytest.mark.parametrize(
    "files",
    [
        {"d.csv": b"a,b,label\n1,,0\n3,4,1\nNA,8,0\n"},
        {"d.csv.gz": gzipped(b"a,b,label\n1,nan,0\n3,4,1\n?,8,0\n")},
        {"d.jsonl": b'{"a": 1, "label": 0, "b": null}\n{"label": 1, "a": 3, "b": 4}\n{"label": 0, "b": 8}\n'},
        {"d.npz": npz(x=[[1, np.nan], [3, 4], [np.nan, 8]], y=[0, 1, 0])},
        {"d.npy": npy(np.array([[1, np.nan, 0], [3, 4, 1], [np.nan, 8, 0]]))},
        {"d.parquet": parquet(np.array([[1, np.nan], [3, 4], [np.nan, 8]]), np.array([0, 1, 0]))},
        {"d.rec": encode(np.array([[1, np.nan], [3, 4], [np.nan, 8]], np.float32), np.array([0, 1, 0]))},
    ],
)
def test_missing_values_become_what_the_recipe_says(files: Files) -> None:
    option: dict[str, Any] = {"label": "2"} if "d.npy" in files else {}
    assert len(Read(files, **option).problems) == 2
    assert Read(files, missing="0", **option).features.tolist() == [[1, 0], [3, 4], [0, 8]]
    means = Read(files, missing="mean", **option)
    assert means.features.tolist() == [[1, 6], [3, 4], [2, 8]]
    assert means.layout.fill == [2, 6]
    assert means.readings[0].filled == 2


def test_means_are_those_of_all_files_without_bad_rows() -> None:
    read = Read({"a.csv": b"a,b\n1,\nx,500\n", "b.csv": b"a,b\n2,\n6,\n"}, missing="mean")
    assert read.layout.fill == [3, 0]
    assert read.said == [f"a.csv, row 2, column 'a': 'x' {TEXT_CELL}"]  # counted from the first line behind the names


def test_means_of_a_large_drop_are_those_of_places_all_over_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "SCAN_BYTES_MAX", 1000)
    monkeypatch.setattr(formats, "_SAMPLED_PIECES", 3)
    files = {f"{index}.csv": b"a,b\n%d,\n" % index for index in range(401)}
    assert Read(files, missing="mean").layout.fill == [(0 + 200 + 400) / 3, 0]


def test_zeros_fill_no_sparse_rows() -> None:
    assert Read({"d.libsvm": b"1 1:2\n0 2:3\n"}, missing="mean").layout.fill is None
    assert Read({"d.rec": encode(SparseMatrix.of(np.eye(2, dtype=np.float32)))}, missing="0").layout.fill is None


# Folders


@pytest.mark.parametrize("kind", EVERY_FORMAT)
def test_files_of_a_folder_are_one_drop(kind: str) -> None:
    files = {
        f"{folder}/{name}": data
        for folder, rows in (("a", slice(0, 8)), ("b", slice(8, 20)))
        for name, data in EVERY_FORMAT[kind](FEATURES[rows], LABELS[rows]).items()
    }
    read = Read(files, **options_of(kind))
    assert len(read.files) == 2
    together = np.column_stack([read.features, read.labels]).tolist()
    assert sorted(together) == sorted(np.column_stack([FEATURES, LABELS]).tolist())


def test_parts_are_as_the_folders_say() -> None:
    files = {f"{part}/d.csv": csv_of(FEATURES + code, LABELS) for code, part in enumerate(PARTS)}
    read = Read(files, {f"{part}/d.csv": part for part in PARTS})
    assert read.layout.pre_split
    for code, part in enumerate(PARTS):
        rows = read.divided()[part].features
        assert sorted(rows.tolist()) == sorted((FEATURES + code).astype(float).tolist())


def test_images_find_their_labels_within_their_part() -> None:
    files: Files = {}
    parts = {}
    for code, part in enumerate(PARTS):
        for name, data in (("images", idx(np.full((4, 2), code, np.uint8))), ("labels", idx(np.arange(4, dtype="u1")))):
            files[f"{part}/{name}"] = data
            parts[f"{part}/{name}"] = part
    divided = Read(files, parts).divided()
    assert [divided[part].features[0, 0] for part in PARTS] == [0, 1, 2]


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (b"a,b\n1,2\n", "has 2 features where a.csv has 1: all files of a drop must have the same columns"),
        (b"a,b,label\n1,2,3\n", "has 2 features where a.csv has 1: all files"),
        (b"b,label\n1,2\n", "calls column 0 'b' where a.csv calls it 'a': all files"),
        (b"label,a\n1,2\n", "calls column 0 'label' where a.csv calls it 'a': all files"),
        (b"1,2\n3,4\n", "has 2 features where a.csv has 1: all files"),
        (b"a;label\n1;2\n", "is laid out differently from a.csv (header, delimiter or labels): all files"),
        (b'{"a": 1, "label": 2}\n', "is JSON Lines, and a.csv is CSV: drop files of one format together"),
        (gzipped(b"a,label\n1,2\n"), "is gzipped CSV, and a.csv is CSV: drop files of one format together"),
        (npy(FEATURES), "is .npy, and a.csv is CSV: drop files of one format together"),
        (b"", "the file is empty"),
    ],
)
def test_files_that_differ_are_named(other: bytes, said: str) -> None:
    message = refused({"a.csv": b"a,label\n1,2\n", "b": other})
    assert message.startswith(f"b: {said}")


def test_files_of_one_kind_may_differ_in_how_they_are_written() -> None:
    read = Read(
        {"a.csv": b"a,label\r\n1,2\r\n", "b.csv": b'\xef\xbb\xbf\n"a","label"\n3,"1"', "c.csv": b"a,label\n1,7\n"}
    )
    assert sorted(read.labels.tolist()) == [1, 2, 7]
    assert "d.npz" in refused({"a.npz": npz(x=[[1]]), "d.npz": npz(x=[[1]], y=[2])})
    assert "d.rec: is laid out differently" in refused(
        {"a.rec": encode(np.ones((1, 2), np.float32)), "d.rec": encode(np.ones((1, 2), np.float32), np.ones(1))}
    )


def test_sparse_files_have_the_columns_of_the_widest() -> None:
    read = Read({"a.svm": b"1 1:5\n", "b.svm": b"0 3:6\n"})
    assert (read.layout.sparse_columns, read.layout.first_index) == (3, 1)
    assert sorted(read.features.tolist()) == [[0, 0, 6], [5, 0, 0]]
    from_zero = Read({"a.svm": b"1 1:5\n", "b.svm": b"0 0:6\n"})
    assert (from_zero.layout.sparse_columns, from_zero.layout.first_index) == (2, 0)
    assert sorted(from_zero.features.tolist()) == [[0, 5], [6, 0]]


def test_many_files_are_one_drop_in_their_order() -> None:
    files = {f"{index:03}.csv": b"a,label\n%d,%d\n" % (index, index % 2) for index in range(300)}
    read = Read(files)
    assert [file.name for file in read.files] == list(files)
    assert sorted(read.features[:, 0].tolist()) == list(range(300))


# Line ends in cells, and large drops


NOTES = b'a,note,label\n1,"two\nlines",0\n2,"one",1\n3,"and\nthree\n",0\n'


def test_line_ends_in_cells_are_found_and_the_files_read_whole() -> None:
    read = Read({"a.csv": b"a,note,label\n4,x,1\n", "b.csv": NOTES}, drop_columns=["note"])
    assert read.layout.quoted_line_ends
    assert [file.unit for file in read.files] == [Unit.WHOLE, Unit.WHOLE]
    assert sorted(read.features[:, 0].tolist()) == [1, 2, 3, 4]
    assert read.said == []
    assert not Read({"a.csv": b'a,label\n"4",1\n'}).layout.quoted_line_ends
    packed = Read({"b.csv.gz": gzipped(NOTES)}, drop_columns=["note"])
    assert sorted(packed.features[:, 0].tolist()) == [1, 2, 3]


def test_line_ends_in_cells_of_a_large_drop_are_refused_with_their_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "SCAN_BYTES_MAX", len(NOTES) - 1)
    read = Read({"d.csv": NOTES}, drop_columns=["note"], positive="1")
    assert read.files[0].unit is Unit.LINES
    assert not read.layout.quoted_line_ends
    assert read.said[0] == f"d.csv, row 1: {OPEN_QUOTE}"  # the first line behind the names, counted in the end


def test_the_labels_of_a_large_drop_are_left_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    data = labels_are(["1", "2", "3", "x"])
    monkeypatch.setattr(delimited, "label_cells", None)
    monkeypatch.setattr(formats, "SCAN_BYTES_MAX", len(data) - 1)
    layout = look({"d.csv": data}).layout
    assert (layout.label_column, layout.label_values, layout.classes) == (1, None, None)
    assert look({"d.csv": data}, classes=["1", "2"]).layout.label_values == [0, 1]
    monkeypatch.setattr(formats, "SCAN_BYTES_MAX", len(data))
    with pytest.raises(TypeError):
        look({"d.csv": data})
    half = len(data) // 2 + 10
    assert look({"a.csv": data[:half], "b.csv": data[:half]}).layout.label_values is None  # all files count


def test_sparse_text_of_a_large_drop_is_not_read_for_its_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    data = b"1 1:5 3:1\n0 2:5\n"
    monkeypatch.setattr(formats, "SCAN_BYTES_MAX", len(data) - 1)
    with pytest.raises(InvalidDrop) as error:
        look({"d.svm": data})
    assert error.value.words.in_full() == (
        "d.svm: 16 bytes of LIBSVM are more than are read to count the columns (15): say how many there are with"
        " hyperparameters.feature_dim in the recipe"
    )
    assert look({"d.svm": data}, width=7).layout.sparse_columns == 7


@pytest.mark.parametrize("kind", ["csv-gzip", "npz", "idx-gzip"])
def test_what_cannot_be_divided_has_a_largest_size(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    files = EVERY_FORMAT[kind](FEATURES, LABELS)
    name, data = next(iter(files.items()))
    monkeypatch.setattr(formats, "WHOLE_BYTES_MAX", len(data) - 1)
    assert refused(files) == (
        f"{name}: has {len(data)} bytes, and such a file can't be divided: at most {len(data) - 1}; drop it in several"
        " files, in a folder closed by _SUCCESS"
    )


@pytest.mark.parametrize("kind", ["csv", "json-lines", "parquet", "npy", "libsvm", "recordio", "idx"])
def test_what_can_be_divided_has_none(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "WHOLE_BYTES_MAX", 1)
    Read(EVERY_FORMAT[kind](FEATURES, LABELS), **options_of(kind))


def test_an_array_in_fortran_order_and_a_pickle_cannot_be_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "WHOLE_BYTES_MAX", 100)
    assert "can't be divided" in refused({"d.npy": npy(np.asfortranarray(FEATURES.astype(float)))})
    assert "can't be divided" in refused({"d.pkl.gz": split_pickle([(FEATURES, LABELS)] * 3)})


# MNIST


@pytest.mark.skipif("DROPMILL_MNIST" not in os.environ, reason="DROPMILL_MNIST does not say where mnist.pkl.gz is")
def test_mnist() -> None:
    read = Read({"mnist.pkl.gz": Path(os.environ["DROPMILL_MNIST"]).read_bytes()})
    layout = read.layout
    assert (layout.format, layout.gzipped, layout.pre_split, layout.feature_dim) == ("pickle", True, True, 784)
    assert layout.label_values == list(range(10))
    rows = dict.fromkeys(Part, 0)
    for block in read.blocks:
        assert block.part is not None
        rows[block.part] += len(block)
    assert rows == {Part.TRAIN: 50_000, Part.VALIDATION: 10_000, Part.TEST: 10_000}
    assert read.said == []


# What is easily lost


@pytest.mark.parametrize("last", [b"\n", b""])
def test_rows_of_tabs_alone_are_rows(last: bytes) -> None:
    read = Read({"d.tsv": b"a\tb\n1\t2\n3\t4\n\t" + last}, missing="0")
    assert sorted(read.features.tolist()) == [[0, 0], [1, 2], [3, 4]]
    assert len(Read({"d.tsv": b"a\tb\n1\t2\n3\t4\n\t" + last}).problems) == 2


def test_slices_of_rows_of_tabs_alone_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited, "SLICE_BYTES", 64)
    monkeypatch.setattr(shards, "SHARD_BYTES", 4096)
    monkeypatch.setattr(shards, "_PIECE_BYTES_MIN", 128)
    data = b"a\tb\n" + b"\t\n" * 3000 + b"1\t2\n" * 500
    for files in ({"d.tsv": data}, {"d.tsv.gz": gzipped(data)}):
        assert sum(len(block) for block in Read(files, missing="0").blocks) == 3500


def test_an_array_of_labels_that_is_not_there_is_not_replaced_by_another() -> None:
    arrays = npz(x=np.arange(6.0).reshape(3, 2), y=np.array([0, 1, 0]), colour=np.array([5, 6, 5]))
    assert Read({"d.npz": arrays}, label="colour").layout.label_values == [5, 6]
    assert Read({"d.npz": arrays}, label="label").layout.label_values == [0, 1]
    assert Read({"d.npz": arrays}, label="1").layout.label_values == [1, 3, 5]
    with pytest.raises(InvalidDrop, match=r"there is no array 'color' for the labels; the arrays are x, y, colour"):
        Read({"d.npz": arrays}, label="color")


def test_zeros_that_are_written_count_as_columns() -> None:
    assert Read({"d.libsvm": b"0 1:1 2:0\n1 1:3 2:0\n"}).features.tolist() == [[1, 0], [3, 0]]
    assert Read({"d.libsvm": b"0 0:0 1:5\n1 0:0 1:6\n"}).features.tolist() == [[0, 5], [0, 6]]


def test_a_width_that_is_said_holds_for_all_files() -> None:
    drops = drop_files({"a.libsvm": b"0 0:1 3:2\n1 1:2\n", "b.libsvm": b"1 1:1 3:2\n0 2:2\n"})
    assert formats.look(drops, DataOptions(), width=4).layout.sparse_columns == 4
    assert formats.look(drops, DataOptions()).layout.sparse_columns == 4


def test_an_array_that_takes_too_many_requests_is_refused() -> None:
    head = ArrayHead((10_000, 20_000), np.dtype("f4"), fortran_order=True)
    with pytest.raises(InvalidDrop, match="saved in C order"):
        check_features("d.npy", head)
    check_features("d.npy", ArrayHead((10_000, 700), np.dtype("f4"), fortran_order=True))
