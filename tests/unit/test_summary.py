"""The range of features and the columns that never change, against numpy on all rows at once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dropmill.contracts import CONSTANT_COLUMNS_MAX
from dropmill.data.recordio import SparseMatrix
from dropmill.data.rows import Float32Array
from dropmill.data.summary import Summary

values = st.sampled_from([0.0, -0.0, 1.0, -2.5, 7.0])


@st.composite
def blocks(draw: st.DrawFn) -> list[Float32Array]:
    """Blocks of one width in which columns are often constant."""
    width = draw(st.integers(1, 6))
    constant = [draw(st.one_of(st.none(), values)) for _ in range(width)]
    lengths = draw(st.lists(st.integers(0, 5), min_size=1, max_size=4))
    found = []
    for length in lengths:
        rows = [[draw(values) if fixed is None else fixed for fixed in constant] for _ in range(length)]
        found.append(np.array(rows, np.float32).reshape(length, width))
    return found


def expected(table: Float32Array) -> tuple[tuple[float, float] | None, dict[int, float]]:
    if not len(table):
        return None, {}
    constant = np.flatnonzero((table == table[0]).all(axis=0))
    return (float(table.min()), float(table.max())), {int(column): float(table[0, column]) for column in constant}


@pytest.mark.parametrize("sparse", [False, True])
@given(found=blocks())
def test_is_as_of_all_rows_at_once(sparse: bool, found: list[Float32Array]) -> None:
    summary = Summary()
    for block in found:
        summary.add(SparseMatrix.of(block) if sparse else block)
    value_range, constant = expected(np.concatenate(found))
    assert summary.value_range == value_range
    assert summary.constant_columns() == constant


def test_values_that_a_sparse_row_spells_out_as_zero_are_zeros() -> None:
    matrix = SparseMatrix(np.array([0, 3, 3], np.float32), np.array([0, 1, 1]), np.array([0, 2, 3]), 4)
    summary = Summary()
    summary.add(matrix)
    assert summary.constant_columns() == {0: 0.0, 1: 3.0, 2: 0.0, 3: 0.0}


def test_a_column_that_changes_in_the_very_last_row_is_found_out() -> None:
    table = np.zeros((5000, 3), np.float32)
    table[-1, 1] = 1
    summary = Summary()
    summary.add(table)
    assert summary.constant_columns() == {0: 0.0, 2: 0.0}


@pytest.mark.parametrize("sparse", [False, True])
def test_too_many_constant_columns_are_not_told(sparse: bool) -> None:
    summary = Summary()
    table = np.zeros((2, CONSTANT_COLUMNS_MAX + 1), np.float32)
    summary.add(SparseMatrix.of(table) if sparse else table)
    assert summary.constant_columns() is None
