"""The zip file of an `.npz`: which arrays it holds, with nothing in it followed, unpacked to disk or run.

Source of the format: PKWARE's APPNOTE.
"""

import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, NoReturn

from dropmill.data.array_files import DAMAGED, Numbers, Sequential, StoredArray, read_head
from dropmill.data.checks import MAX_UNPACKED_BYTES, refuse, shortened
from dropmill.data.rows import OpenFile
from dropmill.data.unpacked import Readable
from dropmill.words import Cell

FEATURE_MEMBERS = ("x", "features", "data", "images", "inputs")
LABEL_MEMBERS = ("y", "labels", "label", "targets", "target")
"""The names, in any case, by which an `.npz` is understood, the first that is there counting."""

MAX_MEMBERS = 100

_MAX_DIRECTORY_BYTES = 1 << 20
_DEFLATE_RATIO = 1032  # no deflate stream unpacks to more than this, so a member that says so lies
_END_RECORD = struct.Struct("<4s4H2LH")
_MEMBER_NAME = re.compile(r"[^/\\:\x00-\x1f]{1,200}\.npy")
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, struct.error, NotImplementedError, RuntimeError, ValueError)


@dataclass(frozen=True)
class Archive:
    """The directory of an `.npz`, checked. `members` are its arrays by name, without `.npy`."""

    file: OpenFile
    members: dict[str, zipfile.ZipInfo]

    def choose(self, label: str | None) -> tuple[str, str | None]:
        """Say which member holds the features and which, if any, the labels.

        The labels are the member that `label` names; without `label`, or where it is one of these names, the first of
        LABEL_MEMBERS. An index means a column of the features. The features are the first of FEATURE_MEMBERS, else the
        only other member. Raises InvalidDrop where there is no such member, and where that finds no features.
        """
        labels = label
        if label is None or (label not in self.members and label.lower() in LABEL_MEMBERS):
            labels = self._first(LABEL_MEMBERS)
        elif label not in self.members and label.isascii() and label.isdigit():
            labels = None
        elif label not in self.members:
            there = ", ".join(shortened(name) for name in list(self.members)[:10]) or "none"
            refuse(self.file.name, f"there is no array {shortened(label)!r} for the labels; the arrays are {there}")
        others = [name for name in self.members if name != labels]
        features = self._first(FEATURE_MEMBERS, but=labels) or (others[0] if len(others) == 1 else None)
        if features is None:
            there = ", ".join(shortened(name) for name in list(self.members)[:10]) or "none"
            refuse(
                self.file.name,
                f"can't tell which array holds the features: name it x (and the labels y); the arrays are {there}",
            )
        return features, labels

    def _first(self, names: tuple[str, ...], but: str | None = None) -> str | None:
        known = {member.lower(): member for member in reversed(self.members) if member != but}
        return next((known[name] for name in names if name in known), None)

    def array(self, member: str, *, texts: bool = False) -> StoredArray:
        """Raises InvalidDrop for an array of anything but numbers (or texts, where they are welcome)."""
        if member not in self.members:
            refuse(self.file.name, f"there is no array {shortened(member)!r}, as in the file that was inspected first")
        info = self.members[member]
        name = f"{self.file.name}:{info.filename}"
        with self._opened(info) as stream:
            head, length = read_head(stream, name, info.file_size, texts=texts)

        @contextmanager
        def numbers(position: int) -> Iterator[Numbers]:
            with self._opened(info) as stream:
                within = Sequential(stream)
                within.skip(length + position)
                yield within
                if stream.read(1):  # the end is also where the checksum is compared
                    refuse(name, DAMAGED)

        return StoredArray(name, head, numbers, packed=True)

    @contextmanager
    def _opened(self, info: zipfile.ZipInfo) -> Iterator[Readable]:
        with self.file.open() as source:
            try:
                member = zipfile.ZipFile(source).open(info)  # noqa: SIM115  # closed below; errors of its readers stay theirs
            except _ZIP_ERRORS as error:
                _refuse_damaged(self.file.name, error)
            with member:
                yield _Member(member, self.file.name)


class _Member:
    """A member being unpacked. Damage is refused where it is met."""

    def __init__(self, stream: Readable, file_name: str) -> None:
        self._stream = stream
        self._file_name = file_name

    def read(self, size: int, /) -> bytes:
        try:
            return self._stream.read(size)
        except _ZIP_ERRORS as error:
            _refuse_damaged(self._file_name, error)


def open_archive(file: OpenFile) -> Archive:
    """Read and check the directory of an `.npz`. Raises InvalidDrop."""
    with file.open() as source:
        _check_directory_size(source, file)
        try:
            with zipfile.ZipFile(source) as archive:
                infos = archive.infolist()
        except _ZIP_ERRORS as error:
            _refuse_damaged(file.name, error)
    return Archive(file, _members(file.name, infos))


def _refuse_damaged(file_name: str, error: Exception) -> NoReturn:
    refuse(file_name, DAMAGED, Cell(f" ({shortened(str(error))})", ""))


def _check_directory_size(source: BinaryIO, file: OpenFile) -> None:
    """Refuse a directory so large that listing it would take up the memory."""
    tail_at = max(0, file.size - _END_RECORD.size - 0xFFFF - 20)
    source.seek(tail_at)
    tail = source.read(file.size - tail_at)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or at + _END_RECORD.size > len(tail):
        refuse(file.name, "the zip file's directory is missing: " + DAMAGED)
    directory_bytes = _END_RECORD.unpack_from(tail, at)[5]
    zip64 = at >= 20 and tail[at - 20 : at - 16] == b"PK\x06\x07"
    if zip64 or directory_bytes > _MAX_DIRECTORY_BYTES:
        refuse(file.name, f"too large an archive: at most {MAX_MEMBERS} arrays and 4 GB are read")


def _members(file_name: str, infos: list[zipfile.ZipInfo]) -> dict[str, zipfile.ZipInfo]:
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
            refuse(file_name, f"the member {shown} can't be as large as it says: {DAMAGED}")
        members[info.filename.removesuffix(".npy")] = info
    return members
