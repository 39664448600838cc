"""Rule: a row's part follows from the row alone."""

import hashlib
import random
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from dropmill.data import split
from dropmill.data.recordio import SparseMatrix
from dropmill.data.split import TEST, TRAIN, VALIDATION

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
matrices = hnp.arrays(np.float32, st.tuples(st.integers(1, 30), st.integers(1, 6)), elements=finite)


def small_numbers(rows: int, columns: int, seed: int = 5) -> NDArray[np.float32]:
    return np.random.default_rng(seed).integers(0, 4, (rows, columns)).astype(np.float32)


@settings(deadline=None)
@given(matrices, st.integers(0, 2**32 - 1))
def test_neither_order_nor_company_changes_a_hash(features: NDArray[np.float32], seed: int) -> None:
    labels = np.arange(len(features)) % 3
    hashes = split.row_hashes(features, labels, seed)
    order = np.random.default_rng(1).permutation(len(features))
    np.testing.assert_array_equal(split.row_hashes(features[order], labels[order], seed), hashes[order])
    alone = [split.row_hashes(features[i : i + 1], labels[i : i + 1], seed)[0] for i in range(len(features))]
    np.testing.assert_array_equal(alone, hashes)


@settings(deadline=None)
@given(matrices, st.integers(0, 3))
def test_zeros_add_nothing(features: NDArray[np.float32], seed: int) -> None:
    hashes = split.row_hashes(features, None, seed)
    wider = np.concatenate([features, np.zeros((len(features), 3), dtype=np.float32)], axis=1)
    np.testing.assert_array_equal(split.row_hashes(wider, np.zeros(len(features)), seed), hashes)
    negative = np.where(features == 0, np.float32(-0.0), features)
    np.testing.assert_array_equal(split.row_hashes(negative, None, seed), hashes)


def test_hashes_stay_what_they_are() -> None:
    """A rerun, and the next release, must divide the same file the same way."""
    features = np.array([[0, 0], [1, 0], [0, 1], [0.5, -2]], dtype=np.float32)
    assert [hex(value) for value in split.row_hashes(features, np.array([0, 1, 2, 3]), 7)] == [
        "0xc584133ac916ab3c",
        "0xeb52bab4c750011",
        "0xd9216a6057f62afc",
        "0x8ea723e8de02c836",
    ]


@pytest.mark.parametrize(
    ("rows", "columns", "digest"),
    [
        (1000, 1, "a7951a19378b1493"),
        (500, 7, "a7f5533f8a401f33"),
        (300, 784, "2bc15cc64841dc1c"),
        (3, 70_000, "3f8a9cbaeba50743"),
    ],
)
def test_hashes_of_many_rows_stay_what_they_are(rows: int, columns: int, digest: str) -> None:
    features, labels = awkward_numbers(rows, columns), np.arange(rows) % 10
    hashes = split.row_hashes(features, labels, 7)
    assert hashlib.sha256(hashes.astype("<u8").tobytes()).hexdigest()[:16] == digest
    np.testing.assert_array_equal(split.row_hashes(SparseMatrix.of(features), labels, 7), hashes)


def awkward_numbers(rows: int, columns: int) -> NDArray[np.float32]:
    """Negative and positive numbers and zeros, the same on every machine."""
    numbers = np.arange(rows * columns, dtype=np.int64).reshape(rows, columns) * 2654435761 % 1009 - 504
    features = numbers.astype(np.float32) / np.float32(8)
    features[features < -30] = 0
    return features


@settings(deadline=None)
@given(matrices, st.integers(0, 2**32 - 1), st.randoms())
def test_a_sparse_row_has_the_hash_of_the_same_dense_row(
    features: NDArray[np.float32], seed: int, random: random.Random
) -> None:
    """Whatever the order of its columns, and whether it spells its zeros out."""
    rows, columns = features.shape
    expected = split.row_hashes(features, None, seed)
    np.testing.assert_array_equal(split.row_hashes(SparseMatrix.of(features), None, seed), expected)
    order = [random.sample(range(columns), columns) for _ in range(rows)]
    spelled = SparseMatrix(
        np.take_along_axis(features, np.array(order), axis=1).reshape(-1),
        np.array(order, dtype=np.int64).reshape(-1),
        np.arange(0, rows * columns + 1, columns),
        columns + 5,
    )
    np.testing.assert_array_equal(split.row_hashes(spelled, None, seed), expected)


def test_empty_rows_and_millions_of_columns_cost_nothing() -> None:
    wide = SparseMatrix(
        np.array([2, 3], dtype=np.float32), np.array([9_999_999, 0]), np.array([0, 0, 1, 1, 2, 2]), 10_000_000
    )
    tracemalloc.start()
    hashes = split.row_hashes(wide, None, 7)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000
    empty = split.row_hashes(np.zeros((1, 3), dtype=np.float32), None, 7)[0]
    assert [value == empty for value in hashes] == [True, False, True, False, True]
    assert split.row_hashes(np.array([[3]], dtype=np.float32), None, 7)[0] == hashes[3]
    assert len(split.row_hashes(wide.take(np.arange(0)), None, 7)) == 0


def test_a_class_counts_by_its_name() -> None:
    features = small_numbers(6, 4)
    few = split.row_hashes(features, np.array([0, 1, 0, 1, 0, 1]), 7, ["no", "yes"])
    more = split.row_hashes(features, np.array([1, 2, 1, 2, 1, 2]), 7, ["maybe", " no", "yes "])
    np.testing.assert_array_equal(few, more)
    same = np.zeros((2, 4), dtype=np.float32)
    assert len(set(split.row_hashes(same, np.array([0, 1]), 7, ["no", "yes"]).tolist())) == 2


def test_a_class_that_is_a_number_counts_as_that_number() -> None:
    features, numbers = small_numbers(5, 4), np.array([3.0, 0.5, -1.0, 3.0, 0.0])
    names = ["-1", "0.50", "3.0", "unknown", "-0"]
    indexes = np.array([2, 1, 0, 2, 4], dtype=np.float64)
    np.testing.assert_array_equal(split.row_hashes(features, indexes, 7, names), split.row_hashes(features, numbers, 7))


def test_class_bits_stay_what_they_are() -> None:
    assert [hex(bits) for bits in split.class_bits(["spam", "Spam", "été", "nan", "1e300", "1", ""])] == [
        "0xb3764038",
        "0x2257780a",
        "0x5908f84f",
        "0x59653710",
        "0x3d40411e",
        "0x3f807f00",
        "0x25cf7112",
    ]


def test_rows_that_differ_anywhere_get_different_hashes() -> None:
    features = np.unique(small_numbers(20_000, 8), axis=0)
    assert len(np.unique(split.row_hashes(features, None, 7))) == len(features)
    row = np.zeros((784, 784), dtype=np.float32)
    np.fill_diagonal(row, 1)
    assert len(np.unique(split.row_hashes(row, None, 7))) == 784
    same = np.ones((100, 5), dtype=np.float32)
    assert len(np.unique(split.row_hashes(same, np.arange(100), 7))) == 100
    assert len(np.unique(split.row_hashes(same, np.zeros(100), 7))) == 1


def test_width_of_the_blocks_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    features = small_numbers(500, 30)
    hashes = split.row_hashes(features, None, 7)
    monkeypatch.setattr(split, "_BLOCK_VALUES", 64)
    np.testing.assert_array_equal(split.row_hashes(features, None, 7), hashes)


@pytest.mark.parametrize(("validation", "test"), [(0.1, 0.1), (0.0, 0.2), (0.3, 0.05), (0.45, 0.5)])
@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1])
def test_shares_are_as_asked(validation: float, test: float, seed: int) -> None:
    features = np.unique(small_numbers(40_000, 9), axis=0)
    parts = split.assign_parts(split.row_hashes(features, None, seed), validation, test)
    shares = np.bincount(parts, minlength=3) / len(parts)
    expected = {TRAIN: 1 - validation - test, VALIDATION: validation, TEST: test}
    for part, share in expected.items():
        assert abs(shares[part] - share) < 5 * (0.25 / len(parts)) ** 0.5
    if validation == 0:
        assert shares[VALIDATION] == 0


def test_another_seed_is_another_division() -> None:
    features = np.unique(small_numbers(20_000, 9), axis=0)
    one, other = (split.assign_parts(split.row_hashes(features, None, seed), 0.0, 0.5) == TEST for seed in (1, 2))
    assert abs((one & other).mean() - 0.25) < 0.02


def test_the_validation_share_moves_no_test_row() -> None:
    hashes = split.row_hashes(small_numbers(5000, 9), None, 7)
    little, much = (split.assign_parts(hashes, validation, 0.1) == TEST for validation in (0.0, 0.6))
    np.testing.assert_array_equal(little, much)


def test_the_label_is_balanced_over_the_parts() -> None:
    features, labels = small_numbers(30_000, 20), np.arange(30_000) % 2
    parts = split.assign_parts(split.row_hashes(features, labels, 7), 0.1, 0.2)
    for part in (TRAIN, VALIDATION, TEST):
        assert abs(labels[parts == part].mean() - 0.5) < 0.04
