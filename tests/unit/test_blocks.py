"""Rows in blocks: from all over a drop, in parts that follow from the rows, with targets from the labels."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dropmill.contracts import FileFormat, Layout, Part, Task, Unit
from dropmill.data import blocks, lines, rows, shards, split
from dropmill.data.blocks import Block
from dropmill.data.recordio import SparseMatrix
from dropmill.errors import InvalidDrop
from dropmill.recipe import DataOptions
from tests.reading import Divided, Read, delimited, gzipped, json_lines, libsvm, npy, parquet
from tests.reading import npz as npz_of

OPTIONS = DataOptions()


def block_of(
    features: NDArray[np.float32] | SparseMatrix, labels: NDArray[np.float64] | None, part: Part | None = None
) -> Block:
    return Block(features, labels, split.row_hashes(features, labels, OPTIONS.split.seed), part)


def a_block(rows: int = 1000) -> Block:
    rng = np.random.default_rng(6)
    features = rng.random((rows, 3), dtype=np.float32)
    return block_of(features, rng.integers(0, 4, rows).astype(np.float64))


def dense(features: Any) -> NDArray[np.float32]:
    assert isinstance(features, np.ndarray)
    return features


# Dividing


def test_dividing_keeps_every_row_with_its_label() -> None:
    block = a_block()
    assert block.labels is not None
    divided = blocks.divide(block, OPTIONS)
    together = np.concatenate(
        [np.column_stack([dense(found), labels]) for found, labels in divided.values() if labels is not None]
    )
    original = np.column_stack([dense(block.features), block.labels])
    assert sorted(map(tuple, together)) == sorted(map(tuple, original))


def test_dividing_does_not_depend_on_the_order_of_rows() -> None:
    block = a_block()
    assert block.labels is not None
    divided = blocks.divide(block, OPTIONS)
    turned = blocks.divide(block_of(dense(block.features)[::-1].copy(), block.labels[::-1].copy()), OPTIONS)
    for part, (found, labels) in divided.items():
        np.testing.assert_array_equal(dense(turned[part][0]), dense(found))
        np.testing.assert_array_equal(turned[part][1], labels)


def test_new_rows_move_no_old_ones() -> None:
    features = dense(a_block().features)
    few = blocks.divide(block_of(features[:100], None), OPTIONS)
    many = blocks.divide(block_of(features, None), OPTIONS)
    for part, (found, _) in few.items():
        assert set(map(bytes, dense(found))) <= set(map(bytes, dense(many[part][0])))


def test_data_sorted_by_label_is_mixed() -> None:
    block = a_block()
    assert block.labels is not None
    _, labels = blocks.divide(block_of(dense(block.features), np.sort(block.labels)), OPTIONS)[Part.TRAIN]
    assert labels is not None
    assert abs(labels[: len(labels) // 2].mean() - labels[len(labels) // 2 :].mean()) < 0.25


def test_a_part_that_the_drop_gives_is_kept() -> None:
    block = a_block(50)
    divided = blocks.divide(block_of(dense(block.features), block.labels, Part.TEST), OPTIONS)
    assert list(divided) == [Part.TEST]
    assert len(divided[Part.TEST][0]) == 50


def test_sparse_rows_are_divided_as_the_same_dense_ones() -> None:
    rng = np.random.default_rng(1)
    features = (rng.random((500, 20)) * (rng.random((500, 20)) < 0.1)).astype(np.float32)
    labels = rng.integers(0, 2, 500).astype(np.float64)
    expected = blocks.divide(block_of(features, labels), OPTIONS)
    for part, (found, targets) in blocks.divide(block_of(SparseMatrix.of(features), labels), OPTIONS).items():
        assert isinstance(found, SparseMatrix)
        np.testing.assert_array_equal(found.to_dense(), dense(expected[part][0]))
        np.testing.assert_array_equal(targets, expected[part][1])


def test_equal_rows_are_counted_once() -> None:
    (block,) = Read({"d.csv": b"a,label\n" + b"1,2\n" * 5 + b"3,4\n-0,1\n0,1\n"}).blocks
    assert len(blocks.different_rows(block)) == 3


# Reading by pieces


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces, slices and blocks of a few thousand bytes."""
    monkeypatch.setattr(shards, "SHARD_BYTES", 16_000)
    monkeypatch.setattr(shards, "_PIECE_BYTES_MIN", 1000)
    monkeypatch.setattr(lines, "SLICE_BYTES", 500)
    monkeypatch.setattr(rows, "ROWS_BYTES", 2000)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 8000)


def numbers(count: int = 6000) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    rng = np.random.default_rng(4)
    return rng.integers(1, 1000, (count, 3)).astype(np.float64), np.sort(rng.integers(0, 5, count)).astype(np.float64)


def sorted_rows(features: NDArray[Any], labels: NDArray[Any]) -> list[tuple[float, ...]]:
    return sorted(map(tuple, np.column_stack([features, labels]).tolist()))


WRITERS = {
    "d.csv": delimited,
    "d.csv.gz": lambda x, y: gzipped(delimited(x, y)),
    "d.jsonl": json_lines,
    "d.parquet": lambda x, y: parquet(x, y, 200),
    "d.npz": lambda x, y: npz_of(x=x, y=y),
    "d.libsvm": libsvm,
    "d.npy": lambda x, y: npy(np.column_stack([x, y])),
}


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", WRITERS)
def test_every_row_arrives_once_however_a_file_is_divided(name: str) -> None:
    features, labels = numbers()
    read = Read({name: WRITERS[name](features, labels)}, **({"label": "3"} if name == "d.npy" else {}))
    assert sorted_rows(read.features, read.labels) == sorted_rows(features, labels)
    if read.files[0].unit is Unit.WHOLE:
        assert len(read.shards) == 1
        return
    assert len(read.shards) > 2
    reports = sorted((report for reading in read.readings for report in reading.pieces), key=lambda one: one.start)
    assert sum(report.rows for report in reports) == len(features)
    assert (reports[0].begin, reports[-1].stop) == (read.files[0].start, read.files[0].end)
    assert all(left.stop == right.begin for left, right in pairwise(reports))
    if read.files[0].unit is Unit.LINES:
        assert sum(report.lines for report in reports) == len(features)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", ["d.csv", "d.jsonl", "d.parquet", "d.npy"])
def test_every_block_of_sorted_data_holds_several_labels(name: str) -> None:
    features, labels = numbers()
    read = Read({name: WRITERS[name](features, labels)}, **({"label": "3"} if name == "d.npy" else {}))
    several = [block for block in read.blocks if block.labels is not None and len(set(block.labels.tolist())) > 2]
    assert len(several) >= 0.8 * len(read.blocks)


@pytest.mark.usefixtures("small")
def test_lines_are_counted_also_behind_ten_problems() -> None:
    features, _ = numbers()
    data = delimited(features, None)
    at = data.index(b"\n", 200) + 1
    read = Read({"d.csv": data[:at] + b"1,x,3\n" * 12 + data[at:]})
    assert len(read.problems) >= 10
    reports = [report for reading in read.readings for report in reading.pieces]
    assert sum(report.lines for report in reports) == len(features) + 12


def test_a_damaged_file_is_refused_as_a_whole() -> None:
    data = npz_of(x=np.arange(3000.0).reshape(1000, 3))
    broken = bytearray(data)
    broken[len(data) // 2] ^= 255
    with pytest.raises(InvalidDrop, match="damaged"):
        Read({"d.npz": bytes(broken)})


# Missing values and scale


def test_missing_values_are_filled_as_the_recipe_says() -> None:
    data = b"a,b,label\n1,,0\n3,4,1\n,8,0\n"
    assert len(Read({"d.csv": data}).problems) == 2
    zeros = Read({"d.csv": data}, missing="0")
    assert zeros.features.tolist() == [[1, 0], [3, 4], [0, 8]]
    assert zeros.readings[0].filled == 2
    means = Read({"d.csv": data}, missing="mean", scale="255")
    np.testing.assert_allclose(means.features * 255, [[1, 6], [3, 4], [2, 8]], rtol=1e-6)


def test_what_fills_a_missing_value_moves_no_row() -> None:
    rng = np.random.default_rng(2)
    lines_of = [f"{a},,{b}" for a, b in rng.integers(0, 99, (400, 2))]
    first = Read({"d.csv": "\n".join(["a,b,c", *lines_of, "1,5,2", ""]).encode()}, missing="mean")
    other = Read({"d.csv": "\n".join(["a,b,c", *lines_of, "1,70,2", ""]).encode()}, missing="mean")

    def without_b(divided: Divided) -> list[tuple[float, ...]]:
        return sorted(map(tuple, divided.features[:, [0, 2]].tolist()))

    for part, rows_of in first.divided().items():
        found = without_b(other.divided()[part])
        assert abs(len(without_b(rows_of)) - len(found)) <= 1  # the one row that differs
    assert not np.array_equal(first.features, other.features)


def test_scale_divides_the_features_alone() -> None:
    read = Read({"d.csv": b"a,label\n255,255\n51,0\n"}, scale="255")
    assert read.features.tolist() == [[1], [np.float32(51) / np.float32(255)]]
    assert read.labels.tolist() == [255, 0]
    sparse = Read({"d.libsvm": b"1 2:51\n0 1:255\n"}, scale="255")
    assert sparse.features.tolist() == [[0, np.float32(51) / np.float32(255)], [1, 0]]


# Targets


def layout_with(values: list[float] | None, classes: list[str] | None = None) -> Layout:
    return Layout(
        format=FileFormat.CSV,
        columns=["a", "label"],
        label_column=1,
        feature_columns=[0],
        label_values=values,
        classes=classes,
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
    mapped = blocks.target_labels(np.array(labels), layout_with(values), DataOptions(positive=positive), task)
    assert mapped.dtype == np.float32
    assert mapped.tolist() == targets


def test_a_positive_class_may_be_a_name() -> None:
    layout = layout_with([0, 1, 2], ["cat", "dog", "owl"])
    options = DataOptions(positive="dog")
    assert blocks.target_labels(np.array([0.0, 1, 2, 1]), layout, options, Task.BINARY).tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("task", "values", "said"),
    [
        (Task.MULTICLASS, None, "more than 1000 different values"),
        (Task.BINARY, [1, 2, 3], "3 different values"),
        (Task.MULTICLASS, [1, 2, 3], "the label 2.5"),
    ],
)
def test_labels_that_are_no_classes(task: Task, values: list[float] | None, said: str) -> None:
    with pytest.raises(InvalidDrop) as caught:
        blocks.target_labels(np.array([2.5]), layout_with(values), OPTIONS, task)
    assert said in caught.value.words.in_full()
    assert "2.5" not in str(caught.value)
