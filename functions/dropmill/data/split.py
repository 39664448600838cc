"""Which part a row belongs to: decided by the row's own values, so that nothing around it matters.

The hash of a row is the sum over its columns of the value's bits times a constant of the column, modulo 2^64, put
through a mixer (multilinear hashing; the mixer and the constants are those of splitmix64, public domain, by S. Vigna).
A zero adds nothing, so that a row costs what it holds and the same row in a sparse file gets the same hash.

The same rows land in the same parts whatever the file's format, order or cutting; duplicates stay together, and new
rows move no old ones. Changing the validation share never changes which rows are held out for the test.
"""

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dropmill.data.checks import FLOAT32_MAX, class_name
from dropmill.data.recordio import SparseMatrix

TRAIN, VALIDATION, TEST = 0, 1, 2
"""The codes that `assign_parts` gives."""

Hashes = NDArray[np.uint64]
Bits = NDArray[np.uint32]

_GAMMA = 0x9E3779B97F4A7C15
_MASK = 2**64 - 1
_BLOCK_VALUES = 1 << 16  # few enough to stay in a core's cache


def row_hashes(
    features: NDArray[np.float32] | SparseMatrix,
    labels: NDArray[Any] | None,
    seed: int,
    classes: Sequence[str] | None = None,
) -> Hashes:
    """Hash each row of `features` [n, d] with its label from `labels` [n], if there are labels, to a uint64 [n].

    A label counts as float32, and -0.0 as 0.0; with `classes` the labels are indexes into these, and count by name
    (`class_bits`). The values must not be NaN. `seed` is any integer from 0 up to 2^32.
    """
    hashes = _of_sparse(features, seed) if isinstance(features, SparseMatrix) else _of_dense(features, seed)
    if labels is not None:
        bits = _bits(labels.astype(np.float32)) if classes is None else class_bits(classes)[labels.astype(np.intp)]
        hashes += bits * _constants(1, seed)[0]
    return _mix(hashes + _start(seed))


def class_bits(classes: Sequence[str]) -> Bits:
    """What each class adds to the hashes of its rows, uint32 [k], whatever the other classes are.

    A class whose name is a number adds what the number would; a text adds the first bytes of its BLAKE2b.
    """
    return _all_class_bits(tuple(classes))


@lru_cache(maxsize=8)
def _all_class_bits(classes: tuple[str, ...]) -> Bits:
    return _read_only(np.array([_class_bits(class_name(name)) for name in classes], dtype=np.uint32))


def _class_bits(name: str) -> int:
    try:
        value = float(name)
    except ValueError:
        value = float("nan")
    if abs(value) <= FLOAT32_MAX:
        return int(_bits(np.array([value], dtype=np.float32))[0])
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=4).digest(), "little")


def _of_dense(features: NDArray[np.float32], seed: int) -> Hashes:
    rows, columns = features.shape
    constants = _constants(columns + 1, seed)[1:]
    hashes: Hashes = np.zeros(rows, dtype=np.uint64)
    step = max(1, min(rows, _BLOCK_VALUES // max(1, columns)))
    values = np.empty((step, columns), dtype=np.float32)
    shifted = np.empty((step, columns), dtype=np.uint32)
    for start in range(0, rows, step):
        count = min(step, rows - start)
        bits = _bits(features[start : start + count], values[:count], shifted[:count])
        np.einsum("ij,j->i", bits, constants, out=hashes[start : start + count])
    return hashes


def _of_sparse(features: SparseMatrix, seed: int) -> Hashes:
    hashes: Hashes = np.zeros(len(features), dtype=np.uint64)
    filled = np.flatnonzero(np.diff(features.offsets))
    if len(filled):
        # Of the columns that occur, and no others: there may be millions.
        terms = _mix((features.columns.view(np.uint64) + np.uint64(1)) * np.uint64(_GAMMA) + _start(seed))
        terms |= np.uint64(1)
        terms *= _bits(features.values)
        hashes[filled] = np.add.reduceat(terms, features.offsets[filled])
    return hashes


@lru_cache(maxsize=4)
def _constants(count: int, seed: int) -> Hashes:
    """The first odd constants of a seed. Number 0 belongs to the label, so that columns can be added behind."""
    numbers = np.arange(count, dtype=np.uint64)
    return _read_only(_mix(numbers * np.uint64(_GAMMA) + _start(seed)) | np.uint64(1))


def assign_parts(hashes: Hashes, validation: float, test: float) -> NDArray[np.uint8]:
    """Give each row its part: TEST below the share `test` of all hashes, VALIDATION above it, TRAIN where both end.

    The shares are at least 0 and together less than 1.
    """
    parts: NDArray[np.uint8] = np.full(hashes.shape, TRAIN, dtype=np.uint8)
    parts[hashes < np.uint64(int((test + validation) * 2.0**64))] = VALIDATION
    parts[hashes < np.uint64(int(test * 2.0**64))] = TEST
    return parts


def _bits(values: NDArray[np.float32], whole: NDArray[np.float32] | None = None, shifted: Bits | None = None) -> Bits:
    """The bit patterns, with those of round numbers spread out: their low bits are all zero.

    `whole` and `shifted` are arrays of the values' shape to work in, the second of which becomes the result.
    """
    bits = np.add(values, np.float32(0), out=whole).view(np.uint32)  # which turns -0.0 into 0.0 and leaves the others
    shifted = np.right_shift(bits, np.uint32(15), out=shifted)
    return np.bitwise_xor(bits, shifted, out=shifted)


def _start(seed: int) -> np.uint64:
    return np.uint64((seed + 1) * _GAMMA & _MASK)


def _mix(values: Hashes) -> Hashes:
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    """Marked so, because it is shared by all who ask for it."""
    array.flags.writeable = False
    return array
