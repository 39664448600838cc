"""What stands between pyarrow and the bytes of a Parquet file: looked at before pyarrow acts on them.

pyarrow allocates what a file's directory and the heads of its pages ask for before it looks whether that is there: a
wrong byte in a page's length costs 2 GB and seconds, and a short directory can promise millions of entries. So the
directory is walked before pyarrow sees it, and the head of each page as the bytes pass by on their way to pyarrow.

Source of the formats: Apache Parquet's `parquet.thrift` and Thrift's compact protocol.
"""

from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, NoReturn

import numpy as np
from numpy.typing import NDArray

from dropmill.data.checks import refuse, shortened

MAX_PAGE_BYTES = 64 << 20
"""The largest page, as it is unpacked."""
MAX_PAGES_BYTES = 160 << 20
"""What the pages that are open at once, one of each column, may hold."""

MAX_DIRECTORY_MEMORY = 256 << 20
"""What pyarrow may need for a directory; it took about 1000 bytes for a column of a row group."""

_MAX_HEAD_BYTES = 1 << 20
_MAX_DEPTH = 16
_MAX_VARINT_BYTES = 10
_MAGIC_BYTES = 4
DAMAGED = "the file is damaged: upload it again, or write it anew"
SMALLER = "write the file again with smaller row groups, of 20,000 rows or so"

_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 11, 12
_INTEGERS = (4, 5, 6)
_INDEX_PAGE, _DICTIONARY_PAGE = 1, 2
_FILE_ROWS, _FILE_ROW_GROUPS = 3, 4
_GROUP_COLUMNS, _GROUP_ROWS = 1, 3
_CHUNK_METADATA = 3
_COLUMN_VALUES, _COLUMN_UNPACKED, _COLUMN_SIZE, _COLUMN_DATA, _COLUMN_DICTIONARY = 5, 6, 7, 9, 11
_CHUNK_NUMBERS = 4
_PAGE_TYPE, _UNPACKED_SIZE, _PACKED_SIZE = 1, 2, 3
_STRUCTURE_BYTES, _ENTRY_BYTES = 1000, 40

_Fields = dict[int, "int | _Fields"]


class _CutOff(Exception):
    """The bytes end within what is read."""


class _Damaged(Exception):
    """The bytes are not what they should be."""


class _Thrift:
    """Reads Thrift's compact protocol, from `at` on.

    `fields` yields the number and type of each field of a structure; the caller reads its value, or skips it.
    """

    def __init__(self, data: bytes, at: int = 0) -> None:
        self.data = data
        self.at = at
        self.memory = 0

    def fields(self) -> Iterator[tuple[int, int]]:
        field = 0
        while head := self._byte():
            field = field + (head >> 4) if head >> 4 else self.integer()
            yield field, head & 15

    def integer(self) -> int:
        number = self._varint()
        return number >> 1 ^ -(number & 1)

    def structures(self, entry_bytes: int) -> Iterator[int]:
        """Where the caller reads a list of structures: yields for each of them. Of other items raises _Damaged."""
        kind, count = self._list_head(entry_bytes)
        if kind != _STRUCT and count:
            raise _Damaged
        yield from range(count)

    def integers(self, depth: int = 0) -> _Fields:
        """The integers of a structure, and of those in it, by the numbers of their fields."""
        found: _Fields = {}
        for field, kind in self.fields():
            if kind in _INTEGERS:
                found[field] = self.integer()
            elif kind == _STRUCT and depth < _MAX_DEPTH:
                found[field] = self.integers(depth + 1)
            else:
                self.skip(kind, depth)
        return found

    def skip(self, kind: int, depth: int = 0) -> None:
        """Pass over the value of a field."""
        if depth > _MAX_DEPTH:
            raise _Damaged
        if kind in _INTEGERS:
            self._varint()
        elif kind == _STRUCT:
            for _, inner in self.fields():
                self.skip(inner, depth + 1)
        elif kind in (_LIST, _SET):
            inner, count = self._list_head(_ENTRY_BYTES)
            self._skip_items(count, (inner,), depth)
        elif kind == _MAP:
            if count := self._varint():
                kinds = self._byte()
                self._take_memory(count, _ENTRY_BYTES)
                self._skip_items(count, (kinds >> 4, kinds & 15), depth)
        elif kind == _BINARY:
            self._pass(self._varint())
        elif kind in (_BYTE, _DOUBLE):
            self._pass(1 if kind == _BYTE else 8)
        elif kind not in (_TRUE, _FALSE):
            raise _Damaged

    def _skip_items(self, count: int, kinds: tuple[int, ...], depth: int) -> None:
        for _ in range(count):
            for kind in kinds:
                if kind in (_TRUE, _FALSE):
                    self._pass(1)
                else:
                    self.skip(kind, depth + 1)

    def _list_head(self, entry_bytes: int) -> tuple[int, int]:
        head = self._byte()
        count = head >> 4 if head >> 4 < 15 else self._varint()
        self._take_memory(count, entry_bytes)
        return head & 15, count

    def _take_memory(self, count: int, entry_bytes: int) -> None:
        self.memory += count * entry_bytes
        if self.memory > MAX_DIRECTORY_MEMORY:
            raise _Damaged

    def _pass(self, size: int) -> None:
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


# The directory


@dataclass(frozen=True)
class Groups:
    """The row groups of a file: the `rows` of each, and where their columns lie and how much they are.

    `chunks` is [groups, columns, (start, end, values, bytes unpacked)].
    pyarrow knows this too, but ends the process where its directory holds contradictions.
    """

    rows: list[int]
    chunks: NDArray[np.int64]


def groups_of(directory: bytes, file_name: str) -> Groups:
    """The row groups that a directory (Thrift's `FileMetaData`) lists.

    Raises InvalidDrop where it can't be read, contradicts itself, or would take up too much memory.
    """
    rows: list[int] = []
    chunks = array("q")
    thrift = _Thrift(directory)
    total = 0
    try:
        for field, kind in thrift.fields():
            if field == _FILE_ROWS and kind in _INTEGERS:
                total = thrift.integer()
            elif field == _FILE_ROW_GROUPS and kind == _LIST:
                for _ in thrift.structures(_STRUCTURE_BYTES):
                    rows.append(_row_group(thrift, chunks))
            elif kind == _LIST:
                for _ in thrift.structures(_STRUCTURE_BYTES):
                    thrift.skip(_STRUCT)
            else:
                thrift.skip(kind)
    except (_CutOff, _Damaged, OverflowError):
        refuse(file_name, f"the file's directory can't be read, or lists more than can be: {DAMAGED}")
    columns = len(chunks) // (_CHUNK_NUMBERS * len(rows)) if rows else 0
    if min(rows, default=0) < 0 or sum(rows) != total or len(chunks) != _CHUNK_NUMBERS * len(rows) * columns:
        refuse(file_name, f"the file's directory contradicts itself: {DAMAGED}")
    return Groups(rows, np.frombuffer(chunks, dtype=np.int64).reshape(len(rows), columns, _CHUNK_NUMBERS))


def _row_group(thrift: _Thrift, chunks: "array[int]") -> int:
    """The number of rows of a row group; where its columns are goes into `chunks`."""
    rows = 0
    for field, kind in thrift.fields():
        if field == _GROUP_ROWS and kind in _INTEGERS:
            rows = thrift.integer()
        elif field == _GROUP_COLUMNS and kind == _LIST:
            for _ in thrift.structures(_STRUCTURE_BYTES):
                chunks.extend(_column(thrift))
        else:
            thrift.skip(kind)
    return rows


def _column(thrift: _Thrift) -> tuple[int, int, int, int]:
    """Where the pages of a column begin and end, how many values they hold, and their size unpacked."""
    values = size = unpacked = start = dictionary = 0
    for outer, outer_kind in thrift.fields():
        if outer != _CHUNK_METADATA or outer_kind != _STRUCT:
            thrift.skip(outer_kind)
            continue
        for field, kind in thrift.fields():
            if kind not in _INTEGERS:
                thrift.skip(kind)
            elif field == _COLUMN_VALUES:
                values = thrift.integer()
            elif field == _COLUMN_UNPACKED:
                unpacked = thrift.integer()
            elif field == _COLUMN_SIZE:
                size = thrift.integer()
            elif field == _COLUMN_DATA:
                start = thrift.integer()
            elif field == _COLUMN_DICTIONARY:
                dictionary = thrift.integer()
            else:
                thrift.skip(kind)
    if 0 < dictionary < start:
        start = dictionary
    return start, start + size, values, unpacked


# Pages


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
                head = thrift.integers()
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
