"""The tutorials' `mnist.pkl.gz`, read without ever running a pickle.

The file is one pickled value, `((features, labels), (features, labels), (features, labels))`: the training, validation
and test rows as numpy arrays, written by Python 2 (protocol 2). A pickle is a program, and an unpickler runs it. This
module is a machine of its own that knows only what such a file needs: an allow-list of opcodes (named as in the
standard library's `pickletools`) and three names, `numpy.core.multiarray._reconstruct`, `numpy.ndarray` and
`numpy.dtype`, none of which it imports or calls. Protocols 3 and 4 write the same arrays with a few more opcodes, so
they are read as well. Everything else is `InvalidDrop`.

Memory does not grow with the file: the data of an array is skipped, and it is noted where it begins.
"""

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import NoReturn

import numpy as np

from dropmill.data.array_files import ArrayHead, Numbers, Seekable, Sequential
from dropmill.data.checks import MAX_UNPACKED_BYTES, refuse
from dropmill.data.rows import OpenFile
from dropmill.data.unpacked import unpacked

MAX_BYTES = MAX_UNPACKED_BYTES

_MAX_OPCODES = 2_000
_MAX_TEXT = 200  # bytes in a name or a short text; only the arrays' data is longer
_MAX_KEPT = 1 << 20
_MAX_KEPT_IN_ALL = 4 << 20
_MAX_DIMENSIONS = 4
_DTYPE = re.compile(r"[fiub][1248]")


@dataclass(frozen=True)
class Stretch:
    """Bytes of a pickle: where they begin once it is unpacked, and what they are if they are few."""

    position: int
    size: int
    data: bytes | None


@dataclass(frozen=True)
class PickledArray:
    head: ArrayHead
    stretch: Stretch


Pair = tuple[PickledArray, PickledArray]


class _NotReadable(Exception):
    """Why the machine stopped, in words for the user."""


class _Name(Enum):
    RECONSTRUCT = "numpy.core.multiarray._reconstruct"
    NDARRAY = "numpy.ndarray"
    DTYPE = "numpy.dtype"


class _Mark(Enum):
    MARK = "mark"


@dataclass
class _DType:
    code: str
    order: str = "|"


@dataclass
class _Array:
    value: PickledArray | None = None


_NAMES = {
    ("numpy.core.multiarray", "_reconstruct"): _Name.RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _Name.RECONSTRUCT,  # numpy 2
    ("numpy", "ndarray"): _Name.NDARRAY,
    ("numpy", "dtype"): _Name.DTYPE,
}


def find_split(file: OpenFile, *, gzipped: bool) -> tuple[Pair, Pair, Pair]:
    """Find `(features, labels)` of the training, validation and test rows in a pickle.

    The arrays may be of any integer, float or boolean type and have up to four dimensions. Only the nesting is checked
    here; shapes are for the caller to judge.

    Raises InvalidDrop, naming the file, for anything else.
    """
    with file.open() as source, unpacked(source, file.name, gzipped=gzipped) as stream:
        try:
            return _split(_Machine(Sequential(stream) if gzipped else Seekable(source)).run())
        except _NotReadable as error:
            refuse(file.name, str(error))


def _split(value: object) -> tuple[Pair, Pair, Pair]:
    if not (isinstance(value, tuple) and len(value) == 3):
        raise _NotReadable(_SHAPE)
    train, validation, test = (_pair(part) for part in value)
    return train, validation, test


def _pair(value: object) -> Pair:
    if not (isinstance(value, tuple) and len(value) == 2):
        raise _NotReadable(_SHAPE)
    features, labels = (part.value if isinstance(part, _Array) else None for part in value)
    if features is None or labels is None:
        raise _NotReadable(_SHAPE)
    return features, labels


_SHAPE = (
    "a pickle must hold ((features, labels), (features, labels), (features, labels)) for training, validation and "
    "test, all numpy arrays of numbers; for anything else use CSV, .npy or .npz"
)


class _Machine:
    """Runs the opcodes of one pickle over a stack of plain values."""

    def __init__(self, stream: Numbers) -> None:
        self.stream = stream
        self.position = 0
        self.kept = 0
        self.stack: list[object] = []
        self.memo: dict[int, object] = {}

    def run(self) -> object:
        for _ in range(_MAX_OPCODES):
            start = self.position
            opcode = self.take(1)
            if opcode == b".":
                return self.end()
            action = _OPCODES.get(opcode)
            if action is None:
                raise _NotReadable(
                    f"byte {start} holds the pickle instruction {opcode!r}, which plain arrays of numbers don't need; "
                    "save the data as CSV, .npy or .npz"
                )
            action(self)
        raise _NotReadable(f"a pickle of more than {_MAX_OPCODES} instructions; save the data as CSV, .npy or .npz")

    def end(self) -> object:
        value = self.pop()
        if self.stack:
            self.malformed()
        # Reading on to the end is also what makes gzip compare its checksum.
        if self.stream.read(1):
            raise _NotReadable(f"more data follows the end of the pickle at byte {self.position}")
        return value

    def malformed(self) -> NoReturn:
        raise _NotReadable(f"damaged at byte {self.position}: not a pickle that numpy could have written")

    # The stream

    def take(self, size: int) -> bytes:
        data = self.stream.read(size)
        if len(data) != size:
            raise _NotReadable("the pickle is cut off: upload it again, whole")
        self.position += size
        return data

    def number(self, layout: str) -> int:
        return int(struct.unpack(layout, self.take(struct.calcsize(layout)))[0])

    def line(self) -> str:
        out = bytearray()
        while (byte := self.take(1)) != b"\n":
            out += byte
            if len(out) > _MAX_TEXT:
                raise _NotReadable(f"a name of more than {_MAX_TEXT} bytes at byte {self.position}")
        return out.decode("ascii", "replace")

    def data(self, size: int) -> None:
        """Push a byte string: an array's data, or a short text."""
        if size < 0 or self.position + size > MAX_BYTES:
            raise _NotReadable(f"the pickle says it holds more than {MAX_BYTES >> 30} GB, the most that is read")
        start, data = self.position, None
        if size <= _MAX_TEXT or (size <= _MAX_KEPT and self.kept + size <= _MAX_KEPT_IN_ALL):
            data = self.take(size)
            self.kept += size
        else:
            self.stream.skip(size - 1)
            self.position += size - 1
            self.take(1)  # which shows whether the file goes so far
        self.push(Stretch(start, size, data))

    def text(self, size: int) -> None:
        if size > _MAX_TEXT:
            raise _NotReadable(f"a text of {size} bytes at byte {self.position}; only arrays of numbers are read")
        self.push(self.take(size).decode("utf-8", "replace"))

    # The stack

    def push(self, value: object) -> None:
        self.stack.append(value)

    def pop(self) -> object:
        if not self.stack:
            self.malformed()
        return self.stack.pop()

    def top(self) -> object:
        if not self.stack:
            self.malformed()
        return self.stack[-1]

    def tuple_of(self, size: int) -> None:
        if len(self.stack) < size:
            self.malformed()
        cut = len(self.stack) - size
        items = tuple(self.stack[cut:])
        del self.stack[cut:]
        self.push(items)

    def tuple_from_mark(self) -> None:
        size = 0
        while size < len(self.stack) and self.stack[-1 - size] is not _Mark.MARK:
            size += 1
        if size == len(self.stack):
            self.malformed()
        self.tuple_of(size)
        items = self.pop()
        self.pop()
        self.push(items)

    def remember(self, index: int) -> None:
        self.memo[index] = self.top()

    def recall(self, index: int) -> None:
        if index not in self.memo:
            self.malformed()
        self.push(self.memo[index])

    def proto(self) -> None:
        protocol = self.number("<B")
        if not 2 <= protocol <= 4:
            raise _NotReadable(
                f"pickle protocol {protocol} isn't read; use 2, 3 or 4, or save the data as .npy or .npz"
            )

    def frame(self) -> None:
        self.number("<Q")

    # Names, and what is made of them

    def name(self, module: object, name: object) -> None:
        known = _NAMES.get((str(module), str(name)))
        if known is None:
            raise _NotReadable(
                f"the pickle asks for {f'{module}.{name}'[:80]!r}; it was not run, since only arrays of numbers are "
                "read from a pickle"
            )
        self.push(known)

    def stack_global(self) -> None:
        name, module = self.pop(), self.pop()
        if not (isinstance(name, str) and isinstance(module, str)):
            self.malformed()
        self.name(module, name)

    def reduce(self) -> None:
        arguments, made = self.pop(), self.pop()
        if not isinstance(arguments, tuple) or len(arguments) != 3:
            self.malformed()
        if made is _Name.RECONSTRUCT and arguments[0] is _Name.NDARRAY and arguments[1] == (0,):
            self.push(_Array())
        elif made is _Name.DTYPE:
            self.push(_DType(self.dtype_code(arguments[0])))
        else:
            self.malformed()

    def dtype_code(self, code: object) -> str:
        text = _plain(code)
        if not _DTYPE.fullmatch(text):
            raise _NotReadable(f"an array of type {text[:20]!r}; only integers, floats and booleans are read")
        return text

    def build(self) -> None:
        state, made = self.pop(), self.top()
        if not isinstance(state, tuple):
            self.malformed()
        if isinstance(made, _DType):
            made.order = _plain(state[1]) if len(state) >= 2 else ""
            if made.order not in ("<", ">", "|", "="):
                self.malformed()
        elif isinstance(made, _Array) and made.value is None:
            made.value = self.array(state)
        else:
            self.malformed()

    def array(self, state: tuple[object, ...]) -> PickledArray:
        """Build an array of `(version, shape, dtype, is_fortran, data)`, as `numpy.ndarray.__reduce__` writes it."""
        if len(state) != 5:
            self.malformed()
        _, shape, kind, fortran, data = state
        if not isinstance(data, Stretch) or not isinstance(kind, _DType) or not isinstance(shape, tuple):
            raise _NotReadable("an array that doesn't hold plain numbers; only integers, floats and booleans are read")
        if len(shape) > _MAX_DIMENSIONS:
            raise _NotReadable(f"an array of {len(shape)} dimensions; {_MAX_DIMENSIONS} is the most")
        sizes = [size for size in shape if type(size) is int and size >= 0]
        if len(sizes) != len(shape):
            self.malformed()
        try:
            dtype = np.dtype(kind.order + kind.code)
        except TypeError:
            self.malformed()
        head = ArrayHead(tuple(sizes), dtype, bool(fortran))
        if head.nbytes != data.size:
            raise _NotReadable(f"an array of shape {head.shape} and type {dtype} with {data.size} bytes of data")
        return PickledArray(head, data)


def _plain(value: object) -> str:
    """A short text, as Python 2 or 3 writes it. Anything else is none: to spell out nested tuples may take for ever."""
    if isinstance(value, Stretch):
        return (value.data or b"").decode("ascii", "replace")
    return value if isinstance(value, str) else ""


_Action = Callable[[_Machine], None]

# What Python and numpy write for such a file, and nothing else.
_OPCODES: dict[bytes, _Action] = {
    b"\x80": _Machine.proto,  # PROTO
    b"\x95": _Machine.frame,  # FRAME: a hint for reading ahead
    b"(": lambda m: m.push(_Mark.MARK),  # MARK
    b"t": _Machine.tuple_from_mark,  # TUPLE
    b")": lambda m: m.push(()),  # EMPTY_TUPLE
    b"\x85": lambda m: m.tuple_of(1),  # TUPLE1
    b"\x86": lambda m: m.tuple_of(2),  # TUPLE2
    b"\x87": lambda m: m.tuple_of(3),  # TUPLE3
    b"N": lambda m: m.push(None),  # NONE
    b"\x88": lambda m: m.push(True),  # NEWTRUE
    b"\x89": lambda m: m.push(False),  # NEWFALSE
    b"K": lambda m: m.push(m.number("<B")),  # BININT1
    b"M": lambda m: m.push(m.number("<H")),  # BININT2
    b"J": lambda m: m.push(m.number("<i")),  # BININT
    b"U": lambda m: m.data(m.number("<B")),  # SHORT_BINSTRING
    b"T": lambda m: m.data(m.number("<i")),  # BINSTRING
    b"C": lambda m: m.data(m.number("<B")),  # SHORT_BINBYTES
    b"B": lambda m: m.data(m.number("<I")),  # BINBYTES
    b"\x8e": lambda m: m.data(m.number("<Q")),  # BINBYTES8
    b"X": lambda m: m.text(m.number("<I")),  # BINUNICODE
    b"\x8c": lambda m: m.text(m.number("<B")),  # SHORT_BINUNICODE
    b"q": lambda m: m.remember(m.number("<B")),  # BINPUT
    b"r": lambda m: m.remember(m.number("<I")),  # LONG_BINPUT
    b"\x94": lambda m: m.remember(len(m.memo)),  # MEMOIZE
    b"h": lambda m: m.recall(m.number("<B")),  # BINGET
    b"j": lambda m: m.recall(m.number("<I")),  # LONG_BINGET
    b"c": lambda m: m.name(m.line(), m.line()),  # GLOBAL
    b"\x93": _Machine.stack_global,  # STACK_GLOBAL
    b"R": _Machine.reduce,  # REDUCE
    b"b": _Machine.build,  # BUILD
}
