"""What the features of a shard are like, gathered block by block: their range, and columns that never change."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dropmill.contracts import CONSTANT_COLUMNS_MAX
from dropmill.data.recordio import SparseMatrix
from dropmill.data.rows import Float32Array

Indexes = NDArray[np.int64]

_SAMPLE_ROWS = 64
_COMPARED_ROWS = 1024


class Summary:
    """Add blocks of features [n, d], all of one width and kind."""

    def __init__(self) -> None:
        self.value_range: tuple[float, float] | None = None
        """The least and the largest value; None before any."""
        self._candidates: Indexes | None = None
        self._values: Float32Array = np.empty(0, np.float32)
        """The columns that held one value so far, and that; of sparse rows those only that are not zero."""
        self._zero: NDArray[np.bool_] | None = None
        """The columns of sparse rows that were zero so far."""

    def add(self, features: Float32Array | SparseMatrix) -> None:
        if not len(features):
            return
        if isinstance(features, SparseMatrix):
            self._add_sparse(features)
        else:
            self._add_dense(features)

    def constant_columns(self) -> dict[int, float] | None:
        """The columns that hold one value, and that; None where they are too many to tell."""
        columns = np.empty(0, np.int64) if self._candidates is None else self._candidates
        zeros = np.empty(0, np.int64) if self._zero is None else np.flatnonzero(self._zero)
        if len(columns) + len(zeros) > CONSTANT_COLUMNS_MAX:
            return None
        return dict(sorted({**dict.fromkeys(zeros.tolist(), 0.0), **_pairs(columns, self._values)}.items()))

    def _add_dense(self, features: Float32Array) -> None:
        if features.size:
            self._widen(features.min(), features.max())
        if self._candidates is None:
            self._candidates, self._values = np.arange(features.shape[1]), features[0].copy()
        # Most columns fall out within the first rows, so the rest of them are compared in few columns.
        start = 0
        while start < len(features) and len(self._candidates):
            stop = start + (_COMPARED_ROWS if start else _SAMPLE_ROWS)
            self._keep((features[start:stop, self._candidates] == self._values).all(axis=0))
            start = stop

    def _add_sparse(self, features: SparseMatrix) -> None:
        if len(features.values):
            self._widen(features.values.min(), features.values.max())
        if len(features.values) < len(features) * features.width:
            self._widen(0, 0)
        held = features.values != 0
        columns, values = features.columns[held], features.values[held]
        if self._zero is None or self._candidates is None:
            self._zero = np.ones(features.width, np.bool_)
            first = slice(0, int(np.count_nonzero(held[: features.offsets[1]])))
            order = np.argsort(columns[first])
            self._candidates, self._values = columns[first][order], values[first][order]
        self._zero[columns] = False
        if len(self._candidates):
            places = np.minimum(np.searchsorted(self._candidates, columns), len(self._candidates) - 1)
            alike = (self._candidates[places] == columns) & (self._values[places] == values)
            repeats = np.bincount(places[alike], minlength=len(self._candidates))
            self._keep(repeats == len(features))

    def _keep(self, alike: NDArray[np.bool_]) -> None:
        assert self._candidates is not None  # noqa: S101  # said to the type checker; both callers have set it
        self._candidates, self._values = self._candidates[alike], self._values[alike]

    def _widen(self, low: Any, high: Any) -> None:
        least, largest = self.value_range or (float(low), float(high))
        self.value_range = min(least, float(low)), max(largest, float(high))


def _pairs(columns: Indexes, values: Float32Array) -> dict[int, float]:
    return dict(zip(columns.tolist(), (values + np.float32(0)).tolist(), strict=True))
