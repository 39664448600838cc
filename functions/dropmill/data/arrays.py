"""`.npy` and `.npz`: numpy's own files, read block by block, with nothing in them that could run.

Sources of the formats: numpy's `numpy.lib.format` documentation, and PKWARE's APPNOTE for the zip around an `.npz`.
"""

import math
import re
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from dropmill.data.checks import BLOCK_BYTES, MAX_COLUMNS, MAX_UNPACKED_BYTES, MAX_WHOLE_BYTES, refuse, shortened

FEATURE_MEMBERS = ("x", "features", "data", "images", "inputs")
LABEL_MEMBERS = ("y", "labels", "label", "targets", "target")
"""The names, in any case, by which an `.npz` is understood, the first that is there counting."""

MAX_MEMBERS = 100
MAX_DIMENSIONS = 8

_MAX_DIRECTORY_BYTES = 1 << 20
_DEFLATE_RATIO = 1032  # no deflate stream unpacks to more than this, so a member that says so lies
_PIECE_BYTES = 1 << 20
_END_RECORD = struct.Struct("<4s4H2LH")
_DAMAGED = "the file is damaged or cut off: upload it again, whole"

_HEADER_ERRORS = (ValueError, TypeError, SyntaxError, KeyError, MemoryError, RecursionError, tokenize.TokenError)
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, struct.error, NotImplementedError, RuntimeError, ValueError)


class Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True)
class ArrayHeader:
    """What stands before the numbers of an array file."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran_order: bool

    @property
    def rows(self) -> int:
        return self.shape[0]

    @property
    def columns(self) -> int:
        """Columns of the array when every dimension but the first is laid flat."""
        return math.prod(self.shape[1:])

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(stream: Readable, file_name: str, size: int) -> ArrayHeader:
    """Read the head of an array of `size` bytes in all, leaving `stream` at its first number.

    Raises InvalidDrop for an array of anything but numbers, and where the size isn't what the head promises.
    """
    counted = _Counted(stream)
    try:
        version = np.lib.format.read_magic(counted)
        if version == (1, 0):
            shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(counted)
        elif version == (2, 0):
            shape, fortran_order, dtype = np.lib.format.read_array_header_2_0(counted)
        else:
            refuse(file_name, f"an array file of version {version}, which holds more than plain numbers")
    except _HEADER_ERRORS:
        refuse(file_name, "the head of the array can't be read: " + _DAMAGED)
    if dtype.kind not in "fiub" or dtype.itemsize > 8:
        refuse(file_name, f"an array of type {shortened(str(dtype))!r}; only integers, floats and booleans are read")
    if len(shape) > MAX_DIMENSIONS:
        refuse(file_name, f"an array of {len(shape)} dimensions; {MAX_DIMENSIONS} is the most")
    if not all(type(length) is int and length >= 0 for length in shape):
        refuse(file_name, "an array of impossible shape: " + _DAMAGED)
    header = ArrayHeader(tuple(shape), dtype, bool(fortran_order))
    if counted.position + header.nbytes != size:
        said, there = header.nbytes, size - counted.position
        refuse(file_name, f"the array should have {said} bytes of numbers and has {there}: {_DAMAGED}")
    return header


def check_features(file_name: str, shape: tuple[int, ...]) -> None:
    """Refuse a shape that can't be rows of features."""
    if len(shape) < 2:
        rule = f"an array of shape {shape}; features must have two dimensions or more, the first being the rows"
        refuse(file_name, rule)
    if shape[0] == 0:
        refuse(file_name, "there are no rows")
    if not 1 <= math.prod(shape[1:]) <= MAX_COLUMNS:
        refuse(file_name, f"rows of {math.prod(shape[1:])} numbers; there must be from 1 to {MAX_COLUMNS}")


def row_blocks(stream: Readable, file_name: str, header: ArrayHeader) -> Iterator[NDArray[Any]]:
    """Yield the rows [n, columns] that follow the head, some at a time, in the type of the file."""
    if header.fortran_order and len(header.shape) > 1:
        if header.nbytes > MAX_WHOLE_BYTES:
            rule = (
                f"an array of more than {MAX_WHOLE_BYTES >> 20} MB must be saved in C order (numpy.ascontiguousarray)"
            )
            refuse(file_name, rule)
        whole: NDArray[Any] = np.frombuffer(_exactly(stream, file_name, header.nbytes), dtype=header.dtype)
        rows = whole.reshape(header.shape, order="F").reshape(header.rows, header.columns)
        _check_end(stream, file_name)
        step = _rows_at_once(header)
        for start in range(0, header.rows, step):
            yield rows[start : start + step]
        return
    step = _rows_at_once(header)
    width = header.columns * header.dtype.itemsize
    for start in range(0, header.rows, step):
        count = min(step, header.rows - start)
        block: NDArray[Any] = np.frombuffer(_exactly(stream, file_name, count * width), dtype=header.dtype)
        yield block.reshape(count, header.columns)
    _check_end(stream, file_name)


def read_vector(stream: Readable, file_name: str, header: ArrayHeader) -> NDArray[Any]:
    """Read an array [n] or [n, 1] whole."""
    if header.columns != 1 or not header.shape:
        refuse(file_name, f"labels of shape {header.shape}; there must be one for each row")
    if header.nbytes > MAX_WHOLE_BYTES:
        refuse(file_name, f"labels of more than {MAX_WHOLE_BYTES >> 20} MB")
    vector: NDArray[Any] = np.frombuffer(_exactly(stream, file_name, header.nbytes), dtype=header.dtype)
    _check_end(stream, file_name)
    return vector


def _rows_at_once(header: ArrayHeader) -> int:
    return max(1, BLOCK_BYTES // max(1, header.columns * max(4, header.dtype.itemsize)))


def _exactly(stream: Readable, file_name: str, size: int) -> bytearray:
    out = bytearray()
    while len(out) < size:
        piece = stream.read(min(_PIECE_BYTES, size - len(out)))
        if not piece:
            refuse(file_name, _DAMAGED)
        out += piece
    return out


def _check_end(stream: Readable, file_name: str) -> None:
    if stream.read(1):  # in a zip file, the end is also where the checksum is compared
        refuse(file_name, _DAMAGED)


class _Counted:
    """A stream that knows how far it has been read."""

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self.position = 0

    def read(self, size: int = -1, /) -> bytes:
        data = self._stream.read(size)
        self.position += len(data)
        return data


# .npz


@contextmanager
def open_archive(source: BinaryIO, file_name: str) -> Iterator["Archive"]:
    """Open an `.npz` whose directory has been checked. Raises InvalidDrop, also for damage found while it is read."""
    _check_directory_size(source, file_name)
    try:
        with zipfile.ZipFile(source) as archive:
            yield Archive(file_name, archive, _members(file_name, archive))
    except _ZIP_ERRORS as error:
        refuse(file_name, f"{_DAMAGED} ({shortened(str(error))})")


@dataclass(frozen=True)
class Archive:
    """An open `.npz`. `members` are its arrays by name, without `.npy`."""

    file_name: str
    zip_file: zipfile.ZipFile
    members: dict[str, zipfile.ZipInfo]

    def choose(self, label: str | None) -> tuple[str, str | None]:
        """Say which member holds the features and which, if any, the labels.

        The labels are the member that `label` names, else the first of LABEL_MEMBERS. The features are the first of
        FEATURE_MEMBERS, else the only other member. Raises InvalidDrop if that finds no features.
        """
        labels = label if label in self.members else self._first(LABEL_MEMBERS)
        others = [name for name in self.members if name != labels]
        features = self._first(FEATURE_MEMBERS, but=labels) or (others[0] if len(others) == 1 else None)
        if features is None:
            there = ", ".join(shortened(name) for name in list(self.members)[:10]) or "none"
            refuse(
                self.file_name,
                f"can't tell which array holds the features: name it x (and the labels y); the arrays are {there}",
            )
        return features, labels

    def _first(self, names: tuple[str, ...], but: str | None = None) -> str | None:
        known = {member.lower(): member for member in reversed(self.members) if member != but}
        return next((known[name] for name in names if name in known), None)

    @contextmanager
    def open(self, member: str) -> Iterator[tuple[ArrayHeader, Readable]]:
        info = self.members[member]
        with self.zip_file.open(info) as stream:
            yield read_header(stream, f"{self.file_name}:{info.filename}", info.file_size), stream


def _check_directory_size(source: BinaryIO, file_name: str) -> None:
    """Refuse a directory so large that listing it would take up the memory."""
    size = source.seek(0, 2)
    tail_at = max(0, size - _END_RECORD.size - 0xFFFF - 20)
    source.seek(tail_at)
    tail = source.read(size - tail_at)
    source.seek(0)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or at + _END_RECORD.size > len(tail):
        refuse(file_name, "the zip file's directory is missing: " + _DAMAGED)
    directory_bytes = _END_RECORD.unpack_from(tail, at)[5]
    zip64 = at >= 20 and tail[at - 20 : at - 16] == b"PK\x06\x07"
    if zip64 or directory_bytes > _MAX_DIRECTORY_BYTES:
        refuse(file_name, f"too large an archive: at most {MAX_MEMBERS} arrays and 4 GB are read")


_MEMBER_NAME = re.compile(r"[^/\\:\x00-\x1f]{1,200}\.npy")


def _members(file_name: str, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    infos = archive.infolist()
    if len(infos) > MAX_MEMBERS:
        refuse(file_name, f"{len(infos)} members; {MAX_MEMBERS} is the most")
    members: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        shown = repr(shortened(info.filename))
        if not _MEMBER_NAME.fullmatch(info.filename) or info.filename.startswith("."):
            refuse(
                file_name, f"the member {shown} isn't an array of an .npz file (a name without folders, ending in .npy)"
            )
        if info.filename.removesuffix(".npy") in members:
            refuse(file_name, f"two members are named {shown}")
        if info.flag_bits & 0x1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            refuse(file_name, f"the member {shown} is encrypted or packed in a way that numpy doesn't use")
        if info.file_size > MAX_UNPACKED_BYTES:
            refuse(file_name, f"the member {shown} is larger than {MAX_UNPACKED_BYTES >> 30} GB")
        if info.file_size > info.compress_size * _DEFLATE_RATIO + _DEFLATE_RATIO:
            refuse(file_name, f"the member {shown} can't be as large as it says: {_DAMAGED}")
        members[info.filename.removesuffix(".npy")] = info
    return members
