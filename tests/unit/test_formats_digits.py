"""Every format carries the same digits to the same rows."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from dropmill.contracts import Part
from dropmill.data import recordio
from tests.reading import EVERY_FORMAT, PARTS, Divided, Read, dense, label_option, split_pickle

Digits = tuple[NDArray[np.float64], NDArray[np.int64]]


@pytest.fixture(scope="module")
def digits() -> Digits:
    features, labels = load_digits(return_X_y=True)
    return features, labels.astype(np.int64)


@pytest.fixture(scope="module")
def expected(digits: Digits) -> dict[Part, Divided]:
    return Read({"rows.npz": EVERY_FORMAT["npz"](*digits)["rows.npz"]}).divided()


def assert_same(found: dict[Part, Divided], expected: dict[Part, Divided]) -> None:
    for part in PARTS:
        np.testing.assert_array_equal(found[part].features, expected[part].features)
        np.testing.assert_array_equal(found[part].labels, expected[part].labels)


@pytest.mark.parametrize("kind", EVERY_FORMAT)
def test_every_format_carries_the_same_rows(kind: str, digits: Digits, expected: dict[Part, Divided]) -> None:
    read = Read(EVERY_FORMAT[kind](*digits), **label_option(kind, digits[0]))
    assert read.said == []
    assert sum(len(block) for block in read.blocks) == len(digits[0]) == 1797
    assert_same(read.divided(), expected)


@pytest.mark.parametrize("kind", EVERY_FORMAT)
def test_the_same_rows_in_recordio(kind: str, digits: Digits, expected: dict[Part, Divided]) -> None:
    """What is written is read back the same, dense or sparse."""
    divided = Read(EVERY_FORMAT[kind](*digits), **label_option(kind, digits[0]))
    for block in divided.blocks:
        features, labels = recordio.read_any(recordio.encode(block.features, block.labels))
        np.testing.assert_array_equal(dense(features), dense(block.features))
        assert block.labels is not None
        np.testing.assert_array_equal(labels, block.labels.astype(np.float32))


def test_the_pickle_carries_the_parts_it_is_given(digits: Digits, expected: dict[Part, Divided]) -> None:
    pairs: list[Any] = [(expected[part].features, expected[part].labels) for part in PARTS]
    assert_same(Read({"rows.pkl.gz": split_pickle(pairs)}).divided(), expected)


@pytest.mark.parametrize("kind", ["csv", "json-lines", "parquet", "libsvm", "recordio", "idx-gzip"])
def test_a_folder_carries_the_parts_it_is_given(kind: str, digits: Digits, expected: dict[Part, Divided]) -> None:
    files: dict[str, bytes] = {}
    parts: dict[str, Part] = {}
    for part in PARTS:
        rows = expected[part]
        assert rows.labels is not None
        for name, data in EVERY_FORMAT[kind](rows.features, rows.labels.astype(np.int64)).items():
            files[f"{part}/{name}"], parts[f"{part}/{name}"] = data, part
    read = Read(files, parts, **label_option(kind, digits[0]))
    assert read.layout.pre_split
    assert_same(read.divided(), expected)
