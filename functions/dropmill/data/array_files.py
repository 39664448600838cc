"""Arrays as files hold them: what the head of one says, and its rows, some at a time.

Source of the head's format: numpy's `numpy.lib.format` documentation.
"""

import math
import tokenize
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from dropmill.data.checks import MAX_COLUMNS, MAX_WHOLE_BYTES, refuse, shortened
from dropmill.data.unpacked import Readable

MAX_DIMENSIONS = 8
MAX_TEXT_BYTES = 1024
"""The longest text in an array of labels."""
SLAB_BYTES = 64 << 20
PACKED_SLAB_BYTES = 16 << 20
"""So much of an array in Fortran order is held at once; the file is gone through once for each slab of its rows. Of
packed files, which may hold much more than they take, sixteen are open at once."""
MAX_SLAB_COLUMNS = 10_000
"""Each column of each slab is a request to S3, one behind the other: so many take some five minutes."""

DAMAGED = "the file is damaged or cut off: upload it again, whole"

_PIECE_BYTES = 1 << 20
_HEAD_ERRORS = (ValueError, TypeError, SyntaxError, KeyError, MemoryError, RecursionError, tokenize.TokenError)


class Numbers(Protocol):
    """The bytes of an array, from some place on."""

    def read(self, size: int, /) -> bytes: ...

    def skip(self, size: int, /) -> None: ...


@dataclass(frozen=True)
class ArrayHead:
    """What stands before the numbers of an array."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran_order: bool = False

    @property
    def rows(self) -> int:
        return self.shape[0]

    @property
    def columns(self) -> int:
        """Columns of the array when every dimension but the first is laid flat."""
        return math.prod(self.shape[1:])

    @property
    def row_bytes(self) -> int:
        return self.columns * self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def divisible(self) -> bool:
        """Whether the bytes of a row stand together."""
        return not self.fortran_order or len(self.shape) < 2


@dataclass(frozen=True)
class StoredArray:
    """An array in a file. `open` gives its bytes from a place on, counted from its first; `name` is for messages.

    What is `packed` can only be read on, and is read to its end, where a checksum tells of damage.
    """

    name: str
    head: ArrayHead
    open: Callable[[int], AbstractContextManager[Numbers]]
    packed: bool = False


class Seekable:
    """Bytes of a stream that can be sought, so that what is skipped isn't read."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def read(self, size: int, /) -> bytes:
        return self._stream.read(size)

    def skip(self, size: int, /) -> None:
        self._stream.seek(size, 1)


class Sequential:
    """Bytes of a stream that can only be read on. `position` counts them from where the stream was."""

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self.position = 0

    def read(self, size: int = -1, /) -> bytes:
        data = self._stream.read(size)
        self.position += len(data)
        return data

    def skip(self, size: int, /) -> None:
        """Skip up to `size` bytes; fewer where the stream ends, which the next `read` shows."""
        left = size
        while left and (data := self.read(min(_PIECE_BYTES, left))):
            left -= len(data)


def read_head(stream: Readable, name: str, size: int, *, texts: bool = False) -> tuple[ArrayHead, int]:
    """Read the head of numpy's own array files; the second result is its length.

    `size` is that of the whole, head included. Raises InvalidDrop for an array of anything but numbers (or texts,
    where `texts` are welcome), and where the size isn't what the head promises.
    """
    counted = Sequential(stream)
    try:
        version = np.lib.format.read_magic(counted)
        if version == (1, 0):
            shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(counted)
        elif version == (2, 0):
            shape, fortran_order, dtype = np.lib.format.read_array_header_2_0(counted)
        else:
            refuse(name, f"an array file of version {version}, which holds more than plain numbers")
    except _HEAD_ERRORS:
        refuse(name, "the head of the array can't be read: " + DAMAGED)
    if not (texts and dtype.kind in "US" and dtype.itemsize):
        check_numbers(name, dtype)
    elif dtype.itemsize > MAX_TEXT_BYTES:
        refuse(name, f"texts of {dtype.itemsize} bytes each; {MAX_TEXT_BYTES} is the most that a label may take")
    if len(shape) > MAX_DIMENSIONS:
        refuse(name, f"an array of {len(shape)} dimensions; {MAX_DIMENSIONS} is the most")
    if not all(type(length) is int and length >= 0 for length in shape):
        refuse(name, "an array of impossible shape: " + DAMAGED)
    head = ArrayHead(tuple(shape), dtype, bool(fortran_order))
    if counted.position + head.nbytes != size:
        said, there = head.nbytes, size - counted.position
        refuse(name, f"the array should have {said} bytes of numbers and has {there}: {DAMAGED}")
    return head, counted.position


def check_numbers(name: str, dtype: np.dtype[Any]) -> None:
    if dtype.kind not in "fiub" or dtype.itemsize > 8:
        refuse(name, f"an array of type {shortened(str(dtype))!r}; only integers, floats and booleans are read")


def check_features(name: str, head: ArrayHead) -> None:
    """Refuse an array that can't be rows of features."""
    shape = head.shape
    if len(shape) < 2:
        refuse(name, f"an array of shape {shape}; features must have two dimensions or more, the first being the rows")
    if shape[0] == 0:
        refuse(name, "there are no rows")
    if not 1 <= head.columns <= MAX_COLUMNS:
        refuse(name, f"rows of {head.columns} numbers; there must be from 1 to {MAX_COLUMNS}")
    if not head.divisible and head.nbytes > MAX_WHOLE_BYTES:
        most = f"{MAX_WHOLE_BYTES >> 20} MB"
        refuse(name, f"an array of more than {most} must be saved in C order (numpy.ascontiguousarray)")
    if not head.divisible and head.columns * -(-head.nbytes // SLAB_BYTES) > MAX_SLAB_COLUMNS:
        refuse(name, "an array of so many rows and columns must be saved in C order (numpy.ascontiguousarray)")


def row_blocks(array: StoredArray, first: int, end: int, step: int) -> Iterator[NDArray[Any]]:
    """Yield the rows [n, columns] from `first` up to `end`, `step` at a time, in the type of the file.

    Raises InvalidDrop where the file ends before them.
    """
    head = array.head
    if not head.divisible:
        yield from _transposed(array, first, end, step)
        return
    with array.open(first * head.row_bytes) as numbers:
        for start in range(first, end, step):
            count = min(step, end - start)
            yield _read(numbers, array, count * head.columns).reshape(count, head.columns)


def column_blocks(array: StoredArray, column: int, step: int) -> Iterator[NDArray[Any]]:
    """Yield one column [n], `step` rows at a time."""
    head = array.head
    if head.divisible:
        for rows in row_blocks(array, 0, head.rows, step):
            yield rows[:, column]
        return
    inner = head.shape[1:]
    at = int(np.ravel_multi_index(np.unravel_index(column, inner), inner, order="F"))
    run = head.rows * head.dtype.itemsize
    with array.open(at * run) as numbers:
        for start in range(0, head.rows, step):
            yield _read(numbers, array, min(step, head.rows - start))
        if array.packed:
            numbers.skip(head.nbytes - (at + 1) * run)


def _transposed(array: StoredArray, first: int, end: int, step: int) -> Iterator[NDArray[Any]]:
    head = array.head
    slab_rows = max(1, (PACKED_SLAB_BYTES if array.packed else SLAB_BYTES) // head.row_bytes)
    for top in range(first, end, slab_rows):
        yield from _rows_of_slab(array, top, min(slab_rows, end - top), step)


def _rows_of_slab(array: StoredArray, top: int, count: int, step: int) -> Iterator[NDArray[Any]]:
    """Some rows of an array in Fortran order, in which all first numbers of the rows come before all second ones."""
    head = array.head
    item = head.dtype.itemsize
    slab: NDArray[Any] = np.empty(count * head.columns, dtype=head.dtype)
    with array.open(0) as numbers:
        for column in range(head.columns):
            numbers.skip(top * item)
            slab[column * count : (column + 1) * count] = _read(numbers, array, count)
            numbers.skip((head.rows - top - count) * item)
    shaped = slab.reshape((count, *head.shape[1:]), order="F")
    for start in range(0, count, step):
        rows = shaped[start : start + step].copy(order="C")  # so that nobody holds the slab
        yield rows.reshape(len(rows), head.columns)


def _read(numbers: Numbers, array: StoredArray, count: int) -> NDArray[Any]:
    return np.frombuffer(_exactly(numbers, array.name, count * array.head.dtype.itemsize), dtype=array.head.dtype)


def _exactly(stream: Readable, name: str, size: int) -> bytes | bytearray:
    data = stream.read(min(size, _PIECE_BYTES))
    if len(data) == size:
        return data
    out = bytearray(data)
    while len(out) < size:
        data = stream.read(min(_PIECE_BYTES, size - len(out)))
        if not data:
            refuse(name, DAMAGED)
        out += data
    return out
