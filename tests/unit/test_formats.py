"""Reading drops: what each format gives, that all give the same rows, and what is said about bad ones."""

import gzip
import io
import os
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from dropmill.contracts import FileFormat, Layout, Part, Problem, Task
from dropmill.data import arrays, checks, formats, text
from dropmill.data.formats import Block
from dropmill.errors import InvalidDrop
from dropmill.recipe import DataOptions


def packed_by_gzip(data: bytes) -> bytes:
    """Without the time, so that every process that collects the tests names them alike."""
    return gzip.compress(data, mtime=0)


class Read:
    """A drop, looked at and read to its end."""

    def __init__(self, data: bytes, file_name: str, **options: Any) -> None:
        self.options = DataOptions(**options)
        source = io.BytesIO(data)
        self.layout = formats.look(source, file_name, self.options)
        self.problems: list[Problem] = []
        self.blocks = list(formats.blocks(source, self.layout, self.options, self.problems, file_name=file_name))
        for block in self.blocks:
            assert block.features.dtype == np.float32
            assert block.features.flags.c_contiguous
            assert block.features.shape[1] == self.layout.feature_dim
            assert (block.labels is not None) == self.layout.labelled

    @property
    def features(self) -> NDArray[np.float32]:
        return np.concatenate([block.features for block in self.blocks])

    @property
    def labels(self) -> NDArray[np.float64]:
        return np.concatenate([block.labels for block in self.blocks if block.labels is not None])

    @property
    def said(self) -> list[str]:
        return [str(problem) for problem in self.problems]


def npy(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.asanyarray(array), allow_pickle=True)
    return stream.getvalue()


def npz(**members: Any) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, allow_pickle=True, **members)
    return stream.getvalue()


def csv_of(features: NDArray[Any], labels: NDArray[Any] | None = None, *, header: bool = True) -> bytes:
    columns = [f"f{index}" for index in range(features.shape[1])]
    table = features
    if labels is not None:
        columns = ["label", *columns]
        table = np.column_stack([labels, features])
    lines = [",".join(columns)] if header else []
    lines += [",".join(map(str, row.tolist())) for row in table]
    return ("\n".join(lines) + "\n").encode()


def quoted(csv: bytes) -> bytes:
    return b'"' + csv.strip().replace(b",", b'","').replace(b"\n", b'"\n"') + b'"\n'


def refused(data: bytes, file_name: str, **options: Any) -> str:
    with pytest.raises(InvalidDrop) as error:
        Read(data, file_name, **options)
    return str(error.value)


# What is read


def test_csv_with_names() -> None:
    read = Read(b"a,label,b\n1,0,2.5\n-3,1,4e2\n", "d.csv")
    assert read.features.tolist() == [[1, 2.5], [-3, 400]]
    assert read.labels.tolist() == [0, 1]
    assert read.layout == Layout(
        format=FileFormat.CSV,
        header=True,
        columns=["a", "label", "b"],
        label_column=1,
        feature_columns=[0, 2],
        label_values=[0, 1],
    )


def test_csv_without_names() -> None:
    read = Read(b"1,0,2.5\n-3,1,4e2", "d.csv", label="1")
    assert read.features.tolist() == [[1, 2.5], [-3, 400]]
    assert read.labels.tolist() == [0, 1]
    assert not read.layout.header
    unlabelled = Read(b"1,0,2.5\n-3,1,4e2", "d.csv")
    assert unlabelled.features.shape == (2, 3)
    assert not unlabelled.layout.labelled
    assert unlabelled.layout.label_values is None


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
    assert formats.look(io.BytesIO(data), "d.csv", DataOptions()).header is header


def test_a_row_of_names_is_as_the_recipe_says() -> None:
    assert Read(b"0,1\n2,3\n", "d.csv", header="true").features.tolist() == [[2, 3]]
    said = "d.csv, row 1: 'a' looks like a column's name, and data.header is false"
    assert said in refused(b"a,5\n2,3\n", "d.csv", header="false")
    assert Read(b"a,5\n2,3\n", "d.csv", header="false", drop_columns=["0"]).features.tolist() == [[5], [3]]


@pytest.mark.parametrize(
    "cell", ["NA", "n/a", "N/A", "null", "NULL", "None", "?", "-", "--", "<NA>", "#N/A", "missing", "."]
)
def test_a_missing_value_in_the_first_row_loses_no_row(cell: str) -> None:
    read = Read(f"5,{cell},1\n1,93,4\n2,5,6\n".encode(), "d.csv")
    assert read.said == [
        f"d.csv, row 1, column '1': {cell!r} stands for a missing value: fill it in, or leave the row out"
    ]
    assert len(read.features) == 2


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"a;b;c\n1;2;3\n", "separated by ';': save it with commas"),
        (b"a\tb\n1\tfoo\n", "separated by tabs: save it with commas"),
        (b"1|2\n3|4\n", "separated by '|'"),
        (b"a b\n1 2\n", "separated by spaces"),
        (b"a;b\n1,5;2\n", "separated by ';': save it with commas and with decimal points"),
    ],
)
def test_other_separators_are_named(data: bytes, said: str) -> None:
    assert said in refused(data, "d.csv")


@pytest.mark.parametrize(
    ("data", "rows"),
    [
        (b"1, 2, 3\n4, 5, 6\n", 2),
        (b"a;b,c\n1,2\n", 1),
        (b'"x;y",1\n"z;w",2\n', 2),
        (b"a\n1\n", 1),
        (b"first name,b\n1,2\n", 1),
    ],
)
def test_commas_are_seen_as_such(data: bytes, rows: int) -> None:
    dropped = ["0"] if b'"' in data else []
    assert len(Read(data, "d.csv", drop_columns=dropped).features) == rows


def test_json_is_named() -> None:
    for data in (b'[{"a": 1}]', b'\xef\xbb\xbf {"a": 1}\n'):
        assert "d.json: JSON is not read: use CSV, .npy or .npz" in refused(data, "d.json")
        assert "JSON is not read" in refused(packed_by_gzip(data), "d.json.gz")


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (["cat", "dog"] * 20, "'cat', 'dog' are not (10 rows or more): number the classes"),
        (["cat"], "row 2, column 'label': a label must be a number, and 'cat' is not: number the classes"),
        (["1", "2", "cat"], "'cat' is not: mend these cells or leave the rows out"),
        (["$12", "13 kg"], "'$12', '13 kg' are not: write plain numbers, without unit or separator"),
        (list("abcdef"), "'a', 'b', 'c', 'd', 'e', ... are not: number the classes"),
    ],
)
def test_text_labels_are_told_in_one_line(labels: list[str], said: str) -> None:
    message = refused(("a,label\n" + "".join(f"1,{label}\n" for label in labels)).encode(), "d.csv")
    assert said in message
    assert "\n" not in message


def test_text_labels_hide_no_other_problem() -> None:
    message = refused(b"a,label\n1,cat\n1,\n1,dog\n", "d.csv")
    assert "'cat', 'dog' are not" in message
    assert "row 3, column 'label': the cell is empty" in message


def test_it_is_said_where_checking_stopped() -> None:
    assert "- checking stopped after 10 problems" in refused(b"a,label\n" + b"1,\n" * 30, "d.csv")
    assert "stopped" not in refused(b"a,label\n" + b"1,\n" * 9, "d.csv")


def test_long_numbers_are_shortened_as_numbers() -> None:
    read = Read(b"a,b\n1,2\n1,126" + b"0" * 297 + b"\n", "d.csv")
    assert read.problems[0].value == "1.26e+299"


def test_equal_rows_are_counted_once() -> None:
    read = Read(b"a,label\n" + b"1,2\n" * 5 + b"3,4\n-0,1\n0,1\n", "d.csv", label="label")
    (block,) = read.blocks
    assert len(formats.different_rows(block, DataOptions())) == 3


def test_csv_as_spreadsheets_write_it() -> None:
    data = '\ufeff"a","label","note"\r\n"1",0,"two\r\nlines, and a ""comma"""\r\n 2 ,1,plain\r\n\r\n'.encode()
    read = Read(data, "d.csv", drop_columns=["note"])
    assert read.features.tolist() == [[1], [2]]
    assert read.labels.tolist() == [0, 1]
    assert read.said == []


def test_columns_are_named_or_numbered() -> None:
    data = b"a,b,c\n1,2,3\n"
    assert Read(data, "d.csv", label="c", drop_columns=["a"]).features.tolist() == [[2]]
    assert Read(data, "d.csv", label="2", drop_columns=["0"]).features.tolist() == [[2]]
    assert Read(b"2,1,0\n5,6,7\n", "d.csv", header="true", label="2").labels.tolist() == [5]  # a name comes first


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f8", ">f4", "<f2", "<i8", "u1", "?"])
def test_npy(dtype: str, order: Any) -> None:
    array = np.array([[1, 0, 1], [0, 1, 1]], dtype=dtype, order=order)
    read = Read(npy(array), "d.npy", label="1")
    assert read.features.tolist() == [[1, 1], [0, 1]]
    assert read.labels.tolist() == [0, 1]
    assert read.layout.columns == ["0", "1", "2"]


@pytest.mark.parametrize("order", ["C", "F"])
def test_pictures_are_laid_flat(order: Any) -> None:
    pictures = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    assert Read(npy(np.asarray(pictures, order=order)), "d.npy").features.tolist() == [
        list(range(12)),
        list(range(12, 24)),
    ]


@pytest.mark.parametrize(
    ("members", "label"),
    [
        (["x", "y"], None),
        (["X", "Y"], None),
        (["data", "target"], None),
        (["images", "labels"], "label"),
        (["anything", "y"], None),
        (["anything", "else"], "else"),
        (["x", "else"], "else"),
    ],
)
def test_npz_members_are_found_by_name(members: list[str], label: str | None) -> None:
    read = Read(npz(**{members[0]: [[1, 2], [3, 4]], members[1]: [5, 6]}), "d.npz", label=label)
    assert read.features.tolist() == [[1, 2], [3, 4]]
    assert read.labels.tolist() == [5, 6]
    assert (read.layout.feature_array, read.layout.label_array) == tuple(members)


def test_npz_with_the_label_as_a_column_or_none() -> None:
    assert Read(npz(x=[[1, 2], [3, 4]]), "d.npz").features.shape == (2, 2)
    assert Read(npz(x=[[1, 2], [3, 4]]), "d.npz", label="0").labels.tolist() == [1, 3]


def test_a_file_larger_than_a_block_is_read_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    features, labels = rng.integers(0, 1000, (5000, 3)), rng.integers(0, 5, 5000)
    with monkeypatch.context() as patch:
        patch.setattr(text, "_PIECE_BYTES", 1000)
        patch.setattr(formats, "BLOCK_BYTES", 8000)
        patch.setattr(arrays, "BLOCK_BYTES", 8000)
        reads = [
            Read(csv_of(features, labels), "d.csv"),
            Read(packed_by_gzip(csv_of(features, labels)), "d.csv.gz"),
            Read(quoted(csv_of(features, labels)), "d.csv"),
            Read(npy(np.column_stack([labels, features])), "d.npy", label="0"),
            Read(npz(x=features, y=labels), "d.npz"),
        ]
    for read in reads:
        assert len(read.blocks) > 5
        np.testing.assert_array_equal(read.features, features)
        np.testing.assert_array_equal(read.labels, labels)


def test_line_ends_in_quotes_do_not_cut_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [f'{index},"a note\nof {index} lines\n",{index % 2}' for index in range(300)]
    monkeypatch.setattr(text, "_PIECE_BYTES", 64)
    read = Read("\n".join(["a,note,label", *rows]).encode(), "d.csv", drop_columns=["note"])
    assert read.features[:, 0].tolist() == list(range(300))
    assert read.said == []


def test_scale_divides_the_features_alone() -> None:
    read = Read(b"a,label\n255,255\n51,0\n", "d.csv", scale="255")
    assert read.features.tolist() == [[1], [np.float32(51) / np.float32(255)]]
    assert read.labels.tolist() == [255, 0]


def test_all_formats_give_the_same_rows() -> None:
    digits = load_digits()
    features, labels = digits.data.astype(np.float32), digits.target
    whole = csv_of(features.astype(int), labels)
    reads = [
        Read(whole, "digits.csv"),
        Read(packed_by_gzip(whole), "digits.csv.gz"),
        Read(csv_of(features, labels, header=False), "digits.csv", label="0"),
        Read(npy(np.column_stack([features, labels])), "digits.npy", label="64"),
        Read(npz(images=digits.images, labels=labels.astype(np.uint8)), "digits.npz"),
    ]
    parts = [formats.divide(Block(read.features, read.labels), read.options) for read in reads]
    assert sum(len(rows) for rows, _ in parts[0].values()) == 1797
    assert {part: len(rows) / 1797 for part, (rows, _) in parts[0].items()} == pytest.approx(
        {Part.TRAIN: 0.8, Part.VALIDATION: 0.1, Part.TEST: 0.1}, abs=0.03
    )
    for other in parts[1:]:
        assert other.keys() == parts[0].keys()
        for part, (rows, targets) in other.items():
            np.testing.assert_array_equal(rows, parts[0][part][0])
            np.testing.assert_array_equal(targets, parts[0][part][1])


@pytest.mark.skipif("DROPMILL_MNIST" not in os.environ, reason="DROPMILL_MNIST does not say where mnist.pkl.gz is")
def test_mnist() -> None:
    with Path(os.environ["DROPMILL_MNIST"]).open("rb") as source:
        options = DataOptions()
        layout = formats.look(source, "mnist.pkl.gz", options)
        assert (layout.format, layout.gzipped, layout.pre_split, layout.feature_dim) == ("pickle", True, True, 784)
        assert layout.label_values == list(range(10))
        problems: list[Problem] = []
        rows = dict.fromkeys(Part, 0)
        for block in formats.blocks(source, layout, options, problems, file_name="mnist.pkl.gz"):
            assert block.part is not None
            divided = formats.divide(block, options)
            assert list(divided) == [block.part]
            rows[block.part] += len(divided[block.part][0])
    assert rows == {Part.TRAIN: 50_000, Part.VALIDATION: 10_000, Part.TEST: 10_000}
    assert problems == []


# Dividing and mapping labels


def a_block(rows: int = 1000) -> Block:
    rng = np.random.default_rng(6)
    features = rng.random((rows, 3), dtype=np.float32)
    return Block(features, rng.integers(0, 4, rows).astype(np.float64))


def test_dividing_keeps_every_row_with_its_label() -> None:
    block = a_block()
    assert block.labels is not None
    divided = formats.divide(block, DataOptions())
    together = np.concatenate(
        [np.column_stack([rows, labels]) for rows, labels in divided.values() if labels is not None]
    )
    original = np.column_stack([block.features, block.labels])
    np.testing.assert_array_equal(np.sort(together, axis=0), np.sort(original, axis=0))
    assert sorted(map(tuple, together)) == sorted(map(tuple, original))


def test_dividing_does_not_depend_on_the_order_of_rows() -> None:
    block = a_block()
    assert block.labels is not None
    divided = formats.divide(block, DataOptions())
    turned = formats.divide(Block(block.features[::-1].copy(), block.labels[::-1].copy()), DataOptions())
    for part, (rows, labels) in divided.items():
        np.testing.assert_array_equal(turned[part][0], rows)
        np.testing.assert_array_equal(turned[part][1], labels)


def test_new_rows_move_no_old_ones() -> None:
    block = a_block()
    few = formats.divide(Block(block.features[:100], None), DataOptions())
    many = formats.divide(Block(block.features, None), DataOptions())
    for part, (rows, _) in few.items():
        assert set(map(bytes, rows)) <= set(map(bytes, many[part][0]))


def test_data_sorted_by_label_is_mixed() -> None:
    block = a_block()
    assert block.labels is not None
    sorted_labels = np.sort(block.labels)
    _, labels = formats.divide(Block(block.features, sorted_labels), DataOptions())[Part.TRAIN]
    assert labels is not None
    assert abs(labels[: len(labels) // 2].mean() - labels[len(labels) // 2 :].mean()) < 0.25


def test_a_part_that_the_file_gives_is_kept() -> None:
    block = a_block(50)
    divided = formats.divide(Block(block.features, block.labels, Part.TEST), DataOptions())
    assert list(divided) == [Part.TEST]
    assert len(divided[Part.TEST][0]) == 50


def layout_with(values: list[float] | None) -> Layout:
    return Layout(
        format=FileFormat.CSV, columns=["a", "label"], label_column=1, feature_columns=[0], label_values=values
    )


@pytest.mark.parametrize(
    ("task", "positive", "values", "labels", "targets"),
    [
        (Task.BINARY, None, [-1, 7], [7, -1, 7], [1, 0, 1]),
        (Task.BINARY, "7", [1, 7, 9], [7, 1, 9], [1, 0, 0]),
        (Task.BINARY, "7.0", [-1, 7], [7, -1], [1, 0]),
        (Task.MULTICLASS, None, [2, 3.5, 9], [9, 2, 3.5], [2, 0, 1]),
        (Task.REGRESSION, None, None, [0.1, -5], [np.float32(0.1), -5]),
        (Task.CLUSTERING, None, [3, 4], [4, 3], [4, 3]),
    ],
)
def test_labels_become_targets(
    task: Task, positive: str | None, values: list[float] | None, labels: list[float], targets: list[float]
) -> None:
    mapped = formats.target_labels(np.array(labels), layout_with(values), DataOptions(positive=positive), task)
    assert mapped.dtype == np.float32
    assert mapped.tolist() == targets


@pytest.mark.parametrize(
    ("task", "values", "said"),
    [
        (Task.MULTICLASS, None, "more than 1000 different values"),
        (Task.BINARY, [1, 2, 3], "3 different values"),
        (Task.MULTICLASS, [1, 2, 3], "the label 2.5"),
    ],
)
def test_labels_that_are_no_classes(task: Task, values: list[float] | None, said: str) -> None:
    with pytest.raises(InvalidDrop, match=said):
        formats.target_labels(np.array([2.5]), layout_with(values), DataOptions(), task)


def test_more_labels_than_classes_are_not_listed() -> None:
    many = np.arange(checks.MAX_CLASSES + 1)
    assert Read(npz(x=np.zeros((len(many), 1)), y=many), "d.npz").layout.label_values is None
    assert Read(npz(x=np.zeros((len(many) - 1, 1)), y=many[1:]), "d.npz").layout.label_values == many[1:].tolist()


# Bad input

TEXT_CELL = "is not a number: mend the cell, or list the column under drop_columns"
NOT_FINITE = "is not a finite number: mend the row or leave it out"


@pytest.mark.parametrize("gzipped", [False, True])
def test_problems_name_row_and_column(gzipped: bool) -> None:
    data = b"\n".join([
        b"a,b,label", b"1,2,0", b"1,2", b"1,2,3,4", b"x,2,0", b"1,,0", b"1,nan,0", b"-inf,2,0", b"1,1e39,0",
        b"1,0x10,0", b"1,1_0,0", b"3,4,1",
    ])  # fmt: skip
    name = "d.csv.gz" if gzipped else "d.csv"
    options = {"label": "label"}
    assert "row 3" in refused(
        packed_by_gzip(data) if gzipped else data, name, **options
    )  # the label column is read whole
    unlabelled = data.replace(b"label", b"c")
    read = Read(packed_by_gzip(unlabelled) if gzipped else unlabelled, name)
    assert read.said == [
        f"{name}, row 3: the row has 2 cells where the file has 3 columns",
        f"{name}, row 4: the row has 4 cells where the file has 3 columns",
        f"{name}, row 5, column 'a': 'x' {TEXT_CELL}",
        f"{name}, row 6, column 'b': the cell is empty: fill it in, or leave the row out",
        f"{name}, row 7, column 'b': 'nan' {NOT_FINITE}",
        f"{name}, row 8, column 'a': '-inf' {NOT_FINITE}",
        f"{name}, row 9, column 'b': '1e39' is beyond float32 (at most 3.403e+38 in size): rescale the column",
        f"{name}, row 10, column 'b': '0x10' {TEXT_CELL}",
        f"{name}, row 11, column 'b': '1_0' {TEXT_CELL}",
    ]
    assert read.features.tolist() == [[1, 2, 0], [3, 4, 1]]


def test_rows_are_counted_in_lines_whatever_stands_between(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "_PIECE_BYTES", 7)
    data = b'a,b\n\n1,"2"\r\n\r\n"\n3\n",4\nx,6\n'
    assert Read(data, "d.csv").said == [f"d.csv, row 8, column 'a': 'x' {TEXT_CELL}"]


def test_reading_ends_at_ten_problems() -> None:
    read = Read(b"a,b\n1,2\n" + b"1,x\n" * 50, "d.csv")
    assert len(read.problems) == 10
    read = Read(npy(np.full((50, 2), np.nan)), "d.npy")
    assert len(read.problems) == 10
    long_value = Read(b"a,b\n1,2\n1," + b"y" * 1000, "d.csv").problems[0].value
    assert long_value == "y" * 40 + "..."


def test_problems_of_arrays_name_the_index() -> None:
    array = np.array([[1, 2], [np.nan, 3], [4, 1e39], [5, 6]])
    read = Read(npy(array), "d.npy")
    assert read.said == [
        f"d.npy, row 1, column '0': 'nan' {NOT_FINITE}",
        "d.npy, row 2, column '1': '1e+39' is beyond float32 (at most 3.403e+38 in size): rescale the column",
    ]
    assert read.features.tolist() == [[1, 2], [5, 6]]
    assert f"d.npz, row 2, column 'label': 'inf' {NOT_FINITE}" in refused(
        npz(x=np.ones((3, 1)), y=[1, 2, np.inf]), "d.npz"
    )


@pytest.mark.parametrize(
    ("data", "options", "said"),
    [
        (b"", {}, "the file is empty"),
        (b"\n \n", {}, "the file is empty"),
        (packed_by_gzip(b""), {}, "the file is empty"),
        (b"a,b\n", {}, "no rows under the header"),
        (b"1,2\n", {"header": "true"}, "no rows under the header"),
        (b"a,b\nx,y\n", {"header": "true"}, "no column that could be a feature holds a number"),
        (b"a,b\n1,2\n", {"label": "c"}, "no label column 'c'; the columns are a, b"),
        (
            b"a,Digit\n1,2\n",
            {"label": "digit"},
            "no label column 'digit'; did you mean 'Digit'? the columns are a, Digit",
        ),
        (b"1,2\n3,4\n", {"label": "2"}, "give an index from 0 to 1"),
        (b"1,2\n3,4\n", {"label": "-1"}, "no label column"),
        (b"a,b\n1,2\n", {"drop_columns": ["c"]}, "no column 'c' to drop"),
        (b"a,b\n1,2\n", {"label": "a", "drop_columns": ["b"]}, "no column is left"),
        (b"a,b,a\n1,2,3\n", {}, "row 1, column 'a': two columns have this name"),
        (b"a,label\n1,red\n2,blue\n", {}, "row 2, column 'label': a label must be a number, and 'red', 'blue' are not"),
        (b"a,label\n1,\n", {}, "row 2, column 'label': the cell is empty"),
        (b"a,label\n1,nan\n", {}, "row 2, column 'label': 'nan'"),
        (b"a,label\n1\n", {}, "row 2: the row has 1 cells"),
        (b'a,b\n1,"2\n3,4\n', {}, "row 2: can't be read as CSV"),
        (b"a,b\r1,2\r", {}, "row 1: can't be read as CSV: line ends"),
        ("a,b\n1,2\n".encode("utf-16"), {}, "UTF-16"),
        (b"\x00\x01\x02", {}, "unknown format"),
        (packed_by_gzip(b"a,label\n1,2\n")[:-9], {}, "cut off"),
        (packed_by_gzip(packed_by_gzip(b"a,label\n1,2\n")), {}, "unknown format"),
        (packed_by_gzip(npy([[1.0]])), {}, "unpack the file"),
    ],
)
def test_bad_text_is_refused(data: bytes, options: dict[str, Any], said: str) -> None:
    message = refused(data, "d", **options)
    assert said in message
    assert "d" in message[:3]


def test_damaged_gzip_is_refused_wherever_it_is() -> None:
    rng = np.random.default_rng(8)
    packed = packed_by_gzip(csv_of(rng.random((50, 3)), np.arange(50) % 2))
    for size in range(2, len(packed), 37):
        assert "cut off" in refused(packed[:size], "d.csv.gz")
    broken = bytearray(packed)
    broken[-8] ^= 1
    assert "damaged" in refused(bytes(broken), "d.csv.gz")


def test_a_row_without_an_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "_PIECE_BYTES", 100)
    monkeypatch.setattr(text, "MAX_ROW_BYTES", 1000)
    assert "quotation mark" in refused(b'a,label\n1,0\n5",1\n' + b"1,0\n" * 1000, "d.csv")


def test_a_gzip_bomb_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "MAX_UNPACKED_BYTES", 100_000)
    assert "unpacks to more than" in refused(packed_by_gzip(b"a,label\n" + b"1,0\n" * 50_000), "d.csv.gz")


def test_a_name_that_says_otherwise_is_refused() -> None:
    for name in ("d.npz", "d.NPY", "d.pkl.gz", "d.pickle"):
        assert "the content looks like csv" in refused(b"a,b\n1,2\n", name)
    assert "the content looks like npy" in refused(npy([[1.0]]), "d.csv")
    assert Read(b"a,b\n1,2\n", "d.txt").features.tolist() == [[1, 2]]


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((0, 3)), "no rows"),
        (np.zeros(3), "two dimensions"),
        (np.float64(1), "two dimensions"),
        (np.zeros((3, 0)), "rows of 0 numbers"),
        (np.zeros((1, checks.MAX_COLUMNS + 1), np.uint8), "rows of 100001 numbers"),
        (np.array([[None, 1]]), "type 'object'"),
        (np.array([["a"]]), "type '<U1'"),
        (np.array([[1j]]), "type 'complex128'"),
        (np.array([[(1, 2)]], dtype="i4,i4"), "only integers, floats and booleans"),
        (np.zeros((1,) * 9), "9 dimensions"),
    ],
)
def test_arrays_that_are_no_rows_of_numbers(array: Any, said: str) -> None:
    assert said in refused(npy(array), "d.npy")
    assert said in refused(npz(x=array), "d.npz")


def test_npy_cut_anywhere_is_refused() -> None:
    data = npy(np.arange(6.0).reshape(2, 3))
    for size in range(8, len(data)):
        assert "cut off" in refused(data[:size], "d.npy")
    assert "bytes of numbers" in refused(data + b"!", "d.npy")


def zipped(*members: tuple[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return stream.getvalue()


def large_members() -> Iterator[tuple[str, bytes]]:
    return ((f"m{index}.npy", b"") for index in range(arrays.MAX_MEMBERS + 1))


def lying_about_size() -> bytes:
    data = bytearray(npz(x=np.zeros((2, 2))))
    at = data.rindex(b"PK\x01\x02")
    data[at + 24 : at + 28] = (1 << 30).to_bytes(4, "little")
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (zipped(("../x.npy", npy([[1.0]]))), "without folders"),
        (zipped(("a/x.npy", npy([[1.0]]))), "without folders"),
        (zipped(("x.txt", b"1")), "without folders"),
        (zipped(("word/document.xml", b"1")), "without folders"),
        (zipped(*large_members()), "100 is the most"),
        (zipped(), "can't tell which array holds the features"),
        (npz(a=[[1]], b=[[2]]), "can't tell which array holds the features: name it x"),
        (npz(x=[[1], [2]], y=[1]), "2 rows of features, but 1 labels"),
        (npz(x=[[1], [2]], y=[[1, 2], [3, 4]]), "labels of shape (2, 2)"),
        (npz(x=[[1], [2]], y=np.array([None, 1])), "type 'object'"),
        (zipped(("x.npy", b"not an array")), "the head of the array can't be read"),
        (lying_about_size(), "can't be as large as it says"),
        (npz(x=[[1, 2]])[:-1], "cut off"),
        (b"PK\x03\x04" + bytes(100), "directory is missing"),
    ],
)
def test_bad_archives_are_refused(data: bytes, said: str) -> None:
    assert said in refused(data, "d.npz")


def test_a_large_directory_is_refused_unlisted() -> None:
    data = bytearray(npz(x=[[1, 2]]))
    at = data.rindex(b"PK\x05\x06")
    data[at + 12 : at + 16] = (10 << 20).to_bytes(4, "little")
    assert "too large an archive" in refused(bytes(data), "d.npz")


def test_bad_pickles_are_refused() -> None:
    assert "unknown format" in refused(b"\x1f\x8b" + packed_by_gzip(b"\0")[2:], "mnist.pkl.gz")
    assert "os.system" in refused(b"\x80\x02cos\nsystem\nU\x02ls\x85R.", "mnist.pkl")
    assert "os.system" in refused(packed_by_gzip(b"\x80\x02cos\nsystem\nU\x02ls\x85R."), "mnist.pkl.gz")


def test_pickles_are_checked_like_other_arrays() -> None:
    def pickled(*pairs: Any) -> bytes:
        return pickle.dumps(tuple((np.asarray(x), np.asarray(y)) for x, y in pairs), protocol=4)

    good = ([[1.0, 2.0]], [1])
    read = Read(pickled(good, good, ([[[3.0], [4.0]]], [[2]])), "d.pkl")
    assert read.features.tolist() == [[1, 2], [1, 2], [3, 4]]
    assert [block.part for block in read.blocks] == list(Part)
    assert read.layout.label_values == [1, 2]
    assert "d.pkl (test rows): rows of 1 numbers where the training rows have 2" in refused(
        pickled(good, good, ([[1.0]], [1])), "d.pkl"
    )
    assert "d.pkl (validation rows): there are no rows" in refused(pickled(good, (np.zeros((0, 2)), []), good), "d.pkl")
    assert "d.pkl (test rows): features of shape (1, 2), but labels of shape (2,)" in refused(
        pickled(good, good, ([[1.0, 2.0]], [1, 2])), "d.pkl"
    )
    read = Read(pickled(good, good, ([[1.0, np.inf]], [1])), "d.pkl")
    assert read.said == [f"d.pkl (test rows), row 0, column '1': 'inf' {NOT_FINITE}"]


# Any bytes


def any_drop() -> st.SearchStrategy[bytes]:
    whole = [
        csv_of(np.arange(12).reshape(4, 3), np.arange(4)),
        npy(np.arange(12.0).reshape(4, 3)),
        npy(np.asfortranarray(np.arange(12).reshape(4, 3))),
        npz(x=np.arange(12.0).reshape(4, 3), y=np.arange(4)),
        packed_by_gzip(b"a,label\n1,2\n3,4\n"),
    ]
    spoiled = st.builds(
        lambda data, at, junk: data[: at % len(data)] + junk + data[at % len(data) + len(junk) :],
        st.sampled_from(whole),
        st.integers(0, 1 << 20),
        st.binary(max_size=4),
    )
    texts = st.text(alphabet='019.,-e"\n\r ax', max_size=60).map(str.encode)
    heads = st.builds(
        lambda head, rest: head + rest,
        st.sampled_from([b"", b"\x1f\x8b\x08\0", b"PK\x03\x04", b"PK\x05\x06", b"\x93NUMPY\x01\x00", b"\x80\x02"]),
        st.binary(max_size=80),
    )
    return spoiled | texts | heads


@settings(max_examples=500, deadline=None)
@given(any_drop(), st.sampled_from([None, "0", "label"]))
def test_any_bytes_give_rows_or_a_refusal(data: bytes, label: str | None) -> None:
    try:
        read = Read(data, "d", label=label)
    except InvalidDrop as error:
        assert len(str(error)) < 3000
    else:
        for block in read.blocks:
            assert np.isfinite(block.features).all()


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet='01.,-e"\n \rxn', max_size=80), st.sampled_from(["0", "1"]))
def test_the_quick_and_the_careful_parser_agree(lines: str, label: str) -> None:
    """Whatever numpy takes as a whole, the cell by cell reading takes as well, with the same numbers."""
    data = ("5,6,7\n" + lines).encode()
    wanted = [0, 1, 2]
    table = text._parse(data, wanted, 3)
    if table is None or not text._all_float32(table):
        return
    layout = Layout(format=FileFormat.CSV, columns=["0", "1", "2"], label_column=int(label), feature_columns=[0, 2])
    problems = checks.Problems("d.csv", [])
    careful = text._parse_cells(text._Piece(data, 1), wanted, layout, problems)
    assert problems.found == []
    np.testing.assert_array_equal(table, careful)
