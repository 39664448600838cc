"""A row is answered alike, to the last digit, however the rows are divided into requests."""

import numpy as np
import pytest

from localaws.algorithms.factorization_model import FactorizationModel
from localaws.algorithms.kmeans_model import KMeansModel
from localaws.algorithms.linear_model import LinearModel
from localaws.algorithms.products import product

ROWS = 2600
STEPS = (1, 7, 100, 1600)

Model = LinearModel | KMeansModel | FactorizationModel


def numbers(*shape: int, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def models(width: int) -> list[Model]:
    return [
        LinearModel("regressor", "squared_loss", numbers(width, 1), numbers(1)),
        LinearModel("binary_classifier", "logistic", numbers(width, 1), numbers(1)),
        LinearModel("multiclass_classifier", "softmax_loss", numbers(width, 10), numbers(10)),
        KMeansModel(numbers(10, width)),
        FactorizationModel("binary_classifier", numbers(width, 9) / width, 0.5),
    ]


@pytest.mark.parametrize("width", [4, 57, 784])
def test_answers_do_not_depend_on_the_request(width: int) -> None:
    rows = numbers(ROWS, width, seed=5)
    for model in models(width):
        whole = model.predict(rows)
        for step in STEPS:
            parts = [model.predict(rows[start : start + step]) for start in range(0, ROWS, step)]
            for key, values in whole.items():
                assert np.array_equal(np.concatenate([part[key] for part in parts]), values), (type(model), key, step)


@pytest.mark.parametrize(("width", "columns"), [(1, 1), (4095, 2), (4096, 2), (4097, 2), (20_000, 3)])
def test_a_product_is_one_however_wide(width: int, columns: int) -> None:
    rows, matrix = numbers(60, width), numbers(width, columns, seed=4)
    whole = product(rows, matrix)
    wanted = rows.astype(np.float64) @ matrix.astype(np.float64)
    assert np.allclose(whole, wanted, atol=1e-5 * width)
    assert np.array_equal(np.concatenate([product(row[None], matrix) for row in rows]), whole)
