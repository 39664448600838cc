"""Which format a file is in, told by its first bytes; a name that says otherwise is an error."""

import re
from pathlib import PurePosixPath

from dropmill.contracts import FileFormat
from dropmill.data.checks import refuse
from dropmill.data.recordio import MAGIC
from dropmill.data.rows import OpenFile
from dropmill.data.unpacked import unpacked

HEAD_BYTES = 64 << 10

WORDS = {
    FileFormat.CSV: "CSV",
    FileFormat.JSON_LINES: "JSON Lines",
    FileFormat.PARQUET: "Parquet",
    FileFormat.NPY: ".npy",
    FileFormat.NPZ: ".npz",
    FileFormat.PICKLE: "a pickle",
    FileFormat.IDX: "IDX",
    FileFormat.LIBSVM: "LIBSVM",
    FileFormat.RECORDIO: "recordIO",
}
NAMES = {
    FileFormat.CSV: (".csv", ".tsv", ".tab"),
    FileFormat.JSON_LINES: (".jsonl", ".ndjson", ".jsonlines"),
    FileFormat.PARQUET: (".parquet", ".pq"),
    FileFormat.NPY: (".npy",),
    FileFormat.NPZ: (".npz",),
    FileFormat.PICKLE: (".pkl", ".pickle"),
    FileFormat.IDX: (".idx",),
    FileFormat.LIBSVM: (".libsvm", ".svmlight", ".svm"),
    FileFormat.RECORDIO: (".recordio", ".rec", ".pbr"),
}
"""Endings of names that promise a format. Other names promise nothing."""
GZIPPED = {FileFormat.CSV, FileFormat.JSON_LINES, FileFormat.LIBSVM, FileFormat.PICKLE, FileFormat.IDX}
"""The formats that are read from within gzip; the others compress by themselves, or would lose what divides them."""

_SAID = {ending: kind for kind, endings in NAMES.items() for ending in endings}
_TEXT = {FileFormat.CSV, FileFormat.LIBSVM}
_GZIP = b"\x1f\x8b"
_ZIP = b"PK\x03\x04"
_OLE = b"\xd0\xcf\x11\xe0"
_EXCEL_MEMBERS = (b"[Content_Types].xml", b"_rels/", b"docProps/", b"xl/")
"""How the first file in a workbook's zip is named, by whatever program wrote it (ECMA-376, part 2)."""
_ZIPPED = tuple(
    ending.encode()
    for kind, endings in NAMES.items()
    if kind is not FileFormat.NPY
    for ending in (*endings, *(f"{one}.gz" for one in endings), "/")
)
_SAVE_AS_CSV = "save the sheet as CSV, and drop that"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_UTF8_MARK = b"\xef\xbb\xbf"
_PICKLE = b"\x80"  # the instruction that names the protocol; no text begins with it
_IDX = re.compile(rb"\0\0[\x08\x09\x0b-\x0e][\x01-\x08]", re.DOTALL)
_LIBSVM_LINE = re.compile(rb"[^\s,:]+(?:[ \t]+[0-9]+:[^\s,;:]+)+[ \t]*(?:#.*)?\r?")


def recognise(file: OpenFile) -> tuple[FileFormat, bool]:
    """The format of a file, and whether it is gzipped. Raises InvalidDrop for what is none that is read."""
    if file.size == 0:
        refuse(file.name, "the file is empty")
    with file.open() as source:
        head = source.read(HEAD_BYTES)
        gzipped = head.startswith(_GZIP)
        if gzipped:
            with unpacked(source, file.name, gzipped=True) as stream:
                head = stream.read(HEAD_BYTES)
    if not head:
        refuse(file.name, "the file is empty")
    said = _said_by(file.name)
    kind = _kind_of(head, said, file.name)
    if said not in (None, kind):
        rule = f"the name says {WORDS[said]}, but the content looks like {WORDS[kind]}: rename or mend the file"
        refuse(file.name, rule)
    if gzipped and kind not in GZIPPED:
        refuse(file.name, f"{WORDS[kind]} is not read from within gzip: unpack the file")
    return kind, gzipped


def _said_by(name: str) -> FileFormat | None:
    suffixes = [suffix.lower() for suffix in PurePosixPath(name).suffixes]
    if suffixes and suffixes[-1] == ".gz":
        suffixes.pop()
    return _SAID.get(suffixes[-1]) if suffixes else None


def _refuse_workbook(head: bytes, name: str) -> None:
    """Refuse the files of spreadsheet programs, and zip files of other things, which look like an `.npz` at first."""
    if head.startswith(_OLE):
        refuse(name, f"looks like an old Excel workbook: {_SAVE_AS_CSV}")
    if not head.startswith(_ZIP):
        return
    size = int.from_bytes(head[26:28], "little")
    first = head[30 : 30 + size]
    if first.startswith(_EXCEL_MEMBERS):
        refuse(name, f"looks like an Excel workbook: {_SAVE_AS_CSV}")
    if first == b"mimetype" and b"opendocument" in head[: 30 + size + 100]:
        refuse(name, f"looks like an OpenDocument spreadsheet: {_SAVE_AS_CSV}")
    if first.lower().endswith(_ZIPPED):
        refuse(name, "is a zip file: unpack it, and drop what is in it")


def _kind_of(head: bytes, said: FileFormat | None, name: str) -> FileFormat:
    _refuse_workbook(head, name)
    for start, kind in (
        (b"\x93NUMPY", FileFormat.NPY),
        (b"PK\x03\x04", FileFormat.NPZ),
        (b"PK\x05\x06", FileFormat.NPZ),
        (b"PAR1", FileFormat.PARQUET),
        (_PICKLE, FileFormat.PICKLE),
        (MAGIC.to_bytes(4, "little"), FileFormat.RECORDIO),
    ):
        if head.startswith(start):
            return kind
    if _IDX.match(head):
        return FileFormat.IDX
    if head.startswith(b"PARE"):
        refuse(name, "the Parquet file is encrypted: save it without encryption")
    if head.startswith(_UTF16):
        refuse(name, "the text is in UTF-16: save it as UTF-8")
    if b"\0" in head or head.startswith(_GZIP):
        refuse(name, f"an unknown format; use {', '.join(WORDS.values())}")
    text = head.removeprefix(_UTF8_MARK).lstrip()
    if text.startswith((b"{", b"[")):
        return FileFormat.JSON_LINES
    if said in _TEXT:
        return said
    first = [line for line in text.split(b"\n")[:20] if line.strip() and not line.startswith(b"#")]
    return FileFormat.LIBSVM if any(_LIBSVM_LINE.fullmatch(line) for line in first) else FileFormat.CSV
