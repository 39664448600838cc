"""Which part a row belongs to: decided by the row's own values, so that nothing around it matters.

The hash of a row is the sum over its columns of the value's bits times a constant of the column, modulo 2^64, put
through a mixer (multilinear hashing; the mixer and the constants are those of splitmix64, public domain, by S. Vigna).
A zero adds nothing, so that a row costs what it holds and the same row in a sparse file gets the same hash.

The same rows land in the same parts whatever the file's format, order or cutting; duplicates stay together, and new
rows move no old ones. Changing the validation share never changes which rows are held out for the test.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

TRAIN, VALIDATION, TEST = 0, 1, 2
"""The codes that `assign_parts` gives."""

Hashes = NDArray[np.uint64]

_GAMMA = 0x9E3779B97F4A7C15
_MASK = 2**64 - 1
_BLOCK_VALUES = 1 << 15  # few enough to stay in a core's cache


def row_hashes(features: NDArray[np.float32], labels: NDArray[Any] | None, seed: int) -> Hashes:
    """Hash each row of `features` [n, d] with its label from `labels` [n], if there are labels, to a uint64 [n].

    The label counts as float32, and -0.0 as 0.0. The values must not be NaN. `seed` is any integer from 0 up to 2^32.
    """
    rows, columns = features.shape
    # Constant 0 belongs to the label, so that a row's hash doesn't depend on how many columns follow.
    constants = _mix(np.arange(columns + 1, dtype=np.uint64) * np.uint64(_GAMMA) + _start(seed)) | np.uint64(1)
    hashes: Hashes = np.zeros(rows, dtype=np.uint64)
    step = max(1, _BLOCK_VALUES // max(1, columns))
    for start in range(0, rows, step):
        block = slice(start, start + step)
        hashes[block] = np.einsum("ij,j->i", _bits(features[block]), constants[1:])
    if labels is not None:
        hashes += _bits(labels.astype(np.float32)).astype(np.uint64) * constants[0]
    return _mix(hashes + _start(seed))


def assign_parts(hashes: Hashes, validation: float, test: float) -> NDArray[np.uint8]:
    """Give each row its part: TEST below the share `test` of all hashes, VALIDATION above it, TRAIN where both end.

    The shares are at least 0 and together less than 1.
    """
    parts: NDArray[np.uint8] = np.full(hashes.shape, TRAIN, dtype=np.uint8)
    parts[hashes < np.uint64(int((test + validation) * 2.0**64))] = VALIDATION
    parts[hashes < np.uint64(int(test * 2.0**64))] = TEST
    return parts


def _bits(values: NDArray[np.float32]) -> NDArray[np.uint32]:
    """The bit patterns, with those of round numbers spread out: their low bits are all zero."""
    bits = (values + np.float32(0)).view(np.uint32)  # adding zero turns -0.0 into 0.0 and changes nothing else
    return bits ^ (bits >> np.uint32(15))


def _start(seed: int) -> np.uint64:
    return np.uint64((seed + 1) * _GAMMA & _MASK)


def _mix(values: Hashes) -> Hashes:
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
