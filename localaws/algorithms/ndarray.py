"""MXNet's NDArray save file, which is what `mx.nd.save` writes and the built-in algorithms keep their models in.

The layout is that of `NDArray::Save` in MXNet's `src/ndarray/ndarray.cc` (version 2), little-endian:

    uint64 0x112, uint64 0                     head of a list
    uint64 number of arrays, then for each     uint32 0xF993FAC9, int32 storage type (0: dense),
                                               uint32 dimensions, int64 for each of them,
                                               int32 device type (1: CPU), int32 device, int32 type (0: float32), values
    uint64 number of names (0 or as many), then for each   uint64 length, bytes
"""

import math
import struct
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

_LIST = 0x112
_ARRAY = 0xF993FAC9
_CPU = 1
_FLOAT32 = 0
_DIMENSIONS_MAX = 8
_ARRAYS_MAX = 1000


class NDArrayError(ValueError):
    """The bytes are not a save file of dense float32 arrays."""


def dumps(arrays: Sequence[NDArray[np.float32]], names: Sequence[str] = ()) -> bytes:
    """A save file of dense float32 arrays, with a name for each of them or none at all."""
    out = [struct.pack("<QQQ", _LIST, 0, len(arrays))]
    for array in arrays:
        values = np.ascontiguousarray(array, "<f4")
        out.append(struct.pack(f"<IiI{values.ndim}q", _ARRAY, 0, values.ndim, *values.shape))
        out.append(struct.pack("<iii", _CPU, 0, _FLOAT32))
        out.append(values.tobytes())
    out.append(struct.pack("<Q", len(names)))
    for name in names:
        text = name.encode()
        out.append(struct.pack("<Q", len(text)) + text)
    return b"".join(out)


def loads(data: bytes) -> tuple[list[NDArray[np.float32]], list[str]]:
    """The arrays of a save file and their names, of which there may be none. Raises NDArrayError."""
    reader = _Reader(data)
    head, _, count = reader.unpack("<QQQ")
    if head != _LIST or count > _ARRAYS_MAX:
        raise NDArrayError("not an MXNet NDArray file")
    arrays = [_array(reader) for _ in range(count)]
    (names,) = reader.unpack("<Q")
    if names not in (0, count):
        raise NDArrayError(f"{count} arrays with {names} names")
    try:
        return arrays, [reader.take(*reader.unpack("<Q")).decode() for _ in range(names)]
    except UnicodeDecodeError:
        raise NDArrayError("a name is not UTF-8") from None


def named(data: bytes) -> Mapping[str, NDArray[np.float32]]:
    """The arrays of a save file by name. Raises NDArrayError."""
    arrays, names = loads(data)
    return dict(zip(names, arrays, strict=True)) if names else {}


def _array(reader: "_Reader") -> NDArray[np.float32]:
    magic, storage, dimensions = reader.unpack("<IiI")
    if magic != _ARRAY or storage != 0 or not 1 <= dimensions <= _DIMENSIONS_MAX:
        raise NDArrayError("not a dense array of version 2")
    shape = reader.unpack(f"<{dimensions}q")
    _device, _number, kind = reader.unpack("<iii")
    if kind != _FLOAT32 or min(shape) < 0:
        raise NDArrayError("not an array of float32")
    return np.frombuffer(reader.take(4 * math.prod(shape)), "<f4").reshape(shape)


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        if size > len(self._data) - self._at:
            raise NDArrayError("the file ends too soon")
        self._at += size
        return self._data[self._at - size : self._at]

    def unpack(self, layout: str) -> tuple[int, ...]:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))
