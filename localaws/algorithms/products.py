"""Matrix products whose every row is the same to the last digit, whatever rows it is asked for together with.

BLAS adds up in another order at the edges of a matrix than within it, and in another one for few rows than for many. A
model has to answer a row alike from an endpoint and in a batch transform, where requests are cut otherwise.
"""

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]

_SUMMED = 4096
"""So many numbers einsum adds up in one go, whatever rows there are; wider ones are cut, always at the same places."""


def product(rows: FloatArray, matrix: FloatArray) -> FloatArray:
    """`rows @ matrix` [n, c], each number a sum over its own row and column."""
    rows, columns = np.ascontiguousarray(rows), np.ascontiguousarray(matrix.T)
    found = np.zeros((len(columns), len(rows)), np.float32)
    for start in range(0, rows.shape[1], _SUMMED):
        cut = slice(start, start + _SUMMED)
        for number, column in enumerate(columns):
            found[number] += np.einsum("ij,j->i", rows[:, cut], column[cut])
    return np.ascontiguousarray(found.T)
