"""What stands between pyarrow and the bytes of a Parquet file: looked at before pyarrow acts on them.

pyarrow allocates what a file's directory and the heads of its pages ask for before it looks whether that is there: a
wrong byte in a page's length costs 2 GB and seconds, and a short directory can promise millions of entries. So the
directory is walked before pyarrow sees it, and the head of each page as the bytes pass by on their way to pyarrow.

Source of the formats: Apache Parquet's `parquet.thrift` and Thrift's compact protocol.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO, NoReturn

from dropmill.data.checks import refuse, shortened

MAX_PAGE_BYTES = 64 << 20
"""The largest page, as it is unpacked."""
MAX_PAGES_BYTES = 160 << 20
"""What the pages that are open at once, one of each column, may hold."""

_MAX_DIRECTORY_MEMORY = 256 << 20
_ROW_GROUP_DEPTH = 2
_MAX_HEAD_BYTES = 1 << 20
_MAX_DEPTH = 16
_MAX_VARINT_BYTES = 10
DAMAGED = "the file is damaged: upload it again, or write it anew"

_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 11, 12
_VARINTS = (4, 5, 6)
_INDEX_PAGE, _DICTIONARY_PAGE = 1, 2
_PAGE_TYPE, _UNPACKED_SIZE, _PACKED_SIZE = 1, 2, 3
_MAGIC_BYTES = 4
SMALLER = "write the file again with smaller row groups, of 20,000 rows or so"

_Fields = dict[int, "int | _Fields"]


class _CutOff(Exception):
    """The bytes end within what is read."""


class _Damaged(Exception):
    """The bytes are not what they should be."""


class _Thrift:
    """Reads a structure of Thrift's compact protocol: its integers, and about how much memory the rest takes."""

    def __init__(self, data: bytes, at: int = 0) -> None:
        self.data = data
        self.at = at
        self.memory = 0

    def structure(self, depth: int = 0) -> _Fields:
        """The integers and inner structures of a structure, by the numbers of their fields."""
        if depth > _MAX_DEPTH:
            raise _Damaged
        found: _Fields = {}
        field = 0
        while head := self._byte():
            kind = head & 15
            field = field + (head >> 4) if head >> 4 else self._signed()
            if kind in _VARINTS:
                found[field] = self._signed()
            elif kind == _STRUCT:
                found[field] = self.structure(depth + 1)
            else:
                self._skip(kind, depth)
        return found

    def _skip(self, kind: int, depth: int) -> None:
        if kind in (_TRUE, _FALSE):
            return
        if kind in (_LIST, _SET):
            head = self._byte()
            count = head >> 4 if head >> 4 < 15 else self._varint()
            self._items(count, (head & 15,), depth)
        elif kind == _MAP:
            if count := self._varint():
                kinds = self._byte()
                self._items(count, (kinds >> 4, kinds & 15), depth)
        elif kind == _STRUCT:
            self.structure(depth + 1)
        else:
            self._skip_plain(kind)

    def _items(self, count: int, kinds: tuple[int, ...], depth: int) -> None:
        # Measured: a column of a row group takes about 1000 bytes once it is read.
        size = 40 if _STRUCT not in kinds else 1000 if depth <= _ROW_GROUP_DEPTH else 100
        self.memory += count * size
        if self.memory > _MAX_DIRECTORY_MEMORY or depth > _MAX_DEPTH:
            raise _Damaged
        for _ in range(count):
            for kind in kinds:
                if kind in (_TRUE, _FALSE):
                    self._byte()
                else:
                    self._skip(kind, depth + 1)

    def _skip_plain(self, kind: int) -> None:
        if kind in _VARINTS:
            self._varint()
            return
        if kind == _BINARY:
            size = self._varint()
        elif kind in (_BYTE, _DOUBLE):
            size = 1 if kind == _BYTE else 8
        else:
            raise _Damaged
        self.at += size
        if self.at > len(self.data):
            raise _CutOff

    def _byte(self) -> int:
        if self.at >= len(self.data):
            raise _CutOff
        self.at += 1
        return self.data[self.at - 1]

    def _varint(self) -> int:
        number = shift = 0
        while True:
            byte = self._byte()
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                return number
            shift += 7
            if shift >= 7 * _MAX_VARINT_BYTES:
                raise _Damaged

    def _signed(self) -> int:
        number = self._varint()
        return number >> 1 ^ -(number & 1)


def check_directory(data: bytes, file_name: str) -> None:
    """Raise InvalidDrop for a directory (Thrift's `FileMetaData`) that is none, or would take up too much memory."""
    try:
        _Thrift(data).structure()
    except (_CutOff, _Damaged):
        refuse(file_name, f"the file's directory can't be read, or lists more than can be: {DAMAGED}")


@dataclass
class Chunk:
    """Where the pages of one column of a row group lie, [start, end), and what is known of them so far."""

    column: str
    start: int
    end: int
    values: int
    seen: int = 0
    head_at: int = 0
    rest: bytes = b""
    values_seen: int = 0
    page: int = 0
    dictionary: int = 0

    def begin(self) -> None:
        self.seen = self.head_at = self.start
        self.rest = b""
        self.values_seen = 0


class CheckedFile:
    """A file for pyarrow to read `chunks` of, and nothing else, that looks at the head of each page in passing.

    Raises InvalidDrop where chunks overlap or leave the file, and from `read` where a page can't be as it says.
    """

    closed = False

    def __init__(self, stream: BinaryIO, file_name: str, size: int, chunks: Sequence[Chunk]) -> None:
        self._stream = stream
        self._file_name = file_name
        self._size = size
        self._position = 0
        self._chunks = sorted(chunks, key=lambda chunk: chunk.start)
        self._starts = [chunk.start for chunk in self._chunks]
        self._open_bytes = 0
        before = _MAGIC_BYTES
        for chunk in self._chunks:
            if not before <= chunk.start < chunk.end <= size:
                refuse(file_name, f"its columns overlap, or reach beyond its end: {DAMAGED}", column=chunk.column)
            before = chunk.end
            chunk.begin()

    def close(self) -> None:
        """Nothing: the stream is the caller's to close."""

    def flush(self) -> None:
        """Nothing: the file is only read."""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = 0) -> int:
        self._position = offset + (0, self._position, self._size)[whence]
        return self._position

    def read(self, size: int) -> bytes:
        at = bisect_right(self._starts, self._position) - 1
        chunk = self._chunks[at] if at >= 0 else None
        if chunk is None or self._position >= chunk.end:
            refuse(self._file_name, f"byte {self._position}: a column should go on here: {DAMAGED}")
        self._stream.seek(self._position)
        data = self._stream.read(min(size, self._size - self._position))
        if self._position != chunk.seen:
            chunk.begin()
        self._look(chunk, self._position, data)
        self._position += len(data)
        return data

    def _look(self, chunk: Chunk, position: int, data: bytes) -> None:
        """Look at the heads of pages in `data`, which follows what was seen of the chunk before."""
        end = chunk.seen = position + len(data)
        if chunk.rest:
            position -= len(chunk.rest)
            data = chunk.rest + data
            chunk.rest = b""
        while chunk.head_at < min(end, chunk.end) and chunk.values_seen < chunk.values:
            thrift = _Thrift(data, chunk.head_at - position)
            try:
                head = thrift.structure()
            except _CutOff:
                chunk.rest = data[chunk.head_at - position :]
                if len(chunk.rest) > _MAX_HEAD_BYTES:
                    self._refuse_page(chunk)
                return
            except _Damaged:
                self._refuse_page(chunk)
            body = position + thrift.at
            chunk.head_at = body + self._check(chunk, head, chunk.end - body)

    def _check(self, chunk: Chunk, head: "_Fields", room: int) -> int:
        """Check what the head of a page says, and give the length of what follows it."""
        kind, unpacked, packed = head.get(_PAGE_TYPE), head.get(_UNPACKED_SIZE), head.get(_PACKED_SIZE)
        values = next((inner.get(1) for inner in head.values() if isinstance(inner, dict)), None)
        if not isinstance(unpacked, int) or not isinstance(packed, int) or not isinstance(values, int):
            if isinstance(packed, int) and kind == _INDEX_PAGE and 0 <= packed <= room:
                return packed
            self._refuse_page(chunk)
        if unpacked < 0 or not 0 <= packed <= room or values < 0:
            self._refuse_page(chunk)
        if unpacked > MAX_PAGE_BYTES:
            rule = f"a page of {unpacked:,} bytes; {MAX_PAGE_BYTES:,} is the most: {SMALLER}"
            refuse(self._file_name, rule, column=shortened(chunk.column))
        before = chunk.dictionary + chunk.page
        if kind == _DICTIONARY_PAGE:
            if values > 8 * unpacked:
                self._refuse_page(chunk)
            chunk.dictionary = max(chunk.dictionary, unpacked)
        else:
            chunk.page = max(chunk.page, unpacked)
            chunk.values_seen += values
        self._open_bytes += chunk.dictionary + chunk.page - before
        if self._open_bytes > MAX_PAGES_BYTES:
            rule = f"its columns together need more than {MAX_PAGES_BYTES >> 20} MB to be read at once: {SMALLER}"
            refuse(self._file_name, rule)
        return packed

    def _refuse_page(self, chunk: Chunk) -> NoReturn:
        rule = f"byte {chunk.head_at}: the head of a page can't be read, or can't be right: {DAMAGED}"
        refuse(self._file_name, rule, column=shortened(chunk.column))
