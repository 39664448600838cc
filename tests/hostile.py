"""Drops that are bombs to readers that believe them, and a process that may not grow to read them in. For tests."""

import gzip
import io
import json
import pickle
import resource
import struct
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dropmill.data import blocks, formats, recordio, shards, unpacked
from dropmill.errors import InvalidDrop
from dropmill.recipe import DataOptions
from tests.reading import Files, drop_files, npz, parquet


def _packed(parts: list[tuple[bytes, int]]) -> bytes:
    """Gzip of some bytes, each so many times over, without ever holding them."""
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", compresslevel=9, mtime=0) as stream:
        for data, times in parts:
            many = max(1, (1 << 20) // len(data))
            for _ in range(times // many):
                stream.write(data * many)
            stream.write(data * (times % many))
    return out.getvalue()


def _npy_head(shape: tuple[int, ...], descr: str = "<f8") -> bytes:
    head = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode()
    head += b" " * (-(10 + len(head) + 1) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head


def _lying_npz() -> bytes:
    """An array whose directory says that it is as large as its head does: 1 GB."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", _npy_head((1 << 17, 1 << 10)) + bytes(1000))
    data = bytearray(stream.getvalue())
    for magic, at in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):
        start = data.rindex(magic)
        data[start + at : start + at + 4] = ((1 << 30) + 128).to_bytes(4, "little")
    return bytes(data)


def _lying_zip() -> bytes:
    """A directory of 1 GB, which isn't there."""
    data = bytearray(npz(x=[[1, 2]]))
    at = data.rindex(b"PK\x05\x06")
    data[at + 8 : at + 16] = struct.pack("<HHL", 0xFFFF, 0xFFFF, 1 << 30)
    return bytes(data)


def _overlapping_zip() -> bytes:
    """Every entry of the directory is the same deflated 100 MB."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", bytes(100 << 20))
    data = stream.getvalue()
    start, end = data.rindex(b"PK\x01\x02"), data.rindex(b"PK\x05\x06")
    entry, tail = data[start:end], bytearray(data[end:])
    name = entry.index(b"a.npy")
    entries = b"".join(entry[:name] + bytes([97 + index]) + entry[name + 1 :] for index in range(20))
    tail[8:16] = struct.pack("<HHL", 20, 20, len(entries))
    return data[:start] + entries + bytes(tail)


def _lying_pages() -> bytes:
    """Pages that say they unpack to 2 GB."""
    table = pa.table({"x": np.arange(1000)})
    stream = io.BytesIO()
    pq.write_table(table, stream, use_dictionary=False, compression="none")
    data = bytearray(stream.getvalue())
    data[6:] = b"\x15" + _varint(2 * 0x7FFFFFF0) + b"\x15" + _varint(2 * 0x7FFFFFF0) + data[12:]
    return bytes(data)


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def _parquet_directory(count: int) -> bytes:
    """A directory that promises so many row groups."""
    directory = b"\x19\xfc" + _varint(count) + bytes(1000)
    return b"PAR1" + directory + struct.pack("<I", len(directory)) + b"PAR1"


def _pickle_of(length: int) -> bytes:
    """A pickle whose array is said to be as long, in a text that is said to be so too."""
    data = pickle.dumps(((np.zeros((3, 2)), np.zeros(3)),) * 3, protocol=2)
    at = data.index(b"numpy")
    return data[: at - 1] + b"T" + struct.pack("<i", length) + b"\0" * 100


def _record(length: int) -> bytes:
    good = recordio.encode(np.zeros((2, 3), np.float32))
    return struct.pack("<II", recordio.MAGIC, length) + good[8:]


def _deep(opening: bytes, depth: int) -> bytes:
    return b'{"a": ' + opening * depth + b"\n"


DROPS: dict[str, Callable[[], Files]] = {
    "gzip of one endless line": lambda: {"bomb.csv.gz": _packed([(b"1,2\n", 1), (b"1", 1 << 25)])},
    "gzip of zeros": lambda: {"bomb.gz": _packed([(b"\0", 1 << 25)])},
    "gzip of blank lines": lambda: {"bomb.csv.gz": _packed([(b"\n", 1 << 25)])},
    "gzip of good rows": lambda: {"bomb.csv.gz": _packed([(b"a,label\n", 1), (b"1,2\n", 1 << 25)])},
    "gzip of an open quotation mark": lambda: {"bomb.csv.gz": _packed([(b'a,b\n1,"', 1), (b"1,2\n", 1 << 25)])},
    "gzip of sparse text": lambda: {"bomb.svm.gz": _packed([(b"1 1:2\n", 1 << 24)])},
    "gzip of JSON": lambda: {"bomb.jsonl.gz": _packed([(b"[1, 2]\n", 1 << 24)])},
    "gzip of a JSON line without an end": lambda: {"bomb.jsonl.gz": _packed([(b"[", 1 << 25)])},
    "gzip of a pickle's text": lambda: {
        "bomb.pkl.gz": _packed([(b"\x80\x02T" + struct.pack("<i", 1 << 30), 1), (b"a", 1 << 25)])
    },
    "gzip of IDX": lambda: {
        "bomb.gz": _packed([(b"\0\0\x08\x02" + struct.pack(">II", 1 << 30, 1), 1), (b"\0", 1 << 25)])
    },
    "a line without an end": lambda: {"bomb.csv": b"1,2\n" + b"1" * (64 << 20)},
    "a row of all delimiters": lambda: {"bomb.csv": b"," * (12 << 20)},
    "a row of many cells": lambda: {"bomb.csv": b"1," * (1 << 20) + b"1\n" + b"1\n" * 3},
    "rows of many names": lambda: {"bomb.csv": b"label," + b",".join(b"c%d" % n for n in range(1 << 20)) + b"\n1\n"},
    "a quotation mark left open": lambda: {"bomb.csv": b'a,label\n1,2\n"' + b"1,2\n" * (17 << 20)},
    "a quotation mark left open for a while": lambda: {"bomb.csv": b'a,label\n1,2\n"' + b"\n" * (1 << 20)},
    "a quotation mark left open far within": lambda: {
        "bomb.csv": b"a,label\n" + b"1,2\n" * (1 << 20) + b'"' + b"\n" * (20 << 20)
    },
    "nothing but quotation marks": lambda: {"bomb.csv": b"a,label\n" + b'"' * (8 << 20)},
    "quotation marks and line ends": lambda: {"bomb.csv": b'"\n' * (4 << 20)},
    "many texts as labels": lambda: {
        "bomb.csv": b"a,label\n" + b"".join(b"1,c%d\n" % number for number in range(20_000))
    },
    "long texts as labels": lambda: {
        "bomb.csv": b"a,label\n" + b"".join(b"1,%d%s\n" % (n, b"x" * (4 << 20)) for n in range(5))
    },
    "wrong cells only": lambda: {"bomb.csv": b"a,label\n1,2\n" + b"x,1\n" * (2 << 20)},
    "JSON nested deep": lambda: {"bomb.jsonl": _deep(b"[", 1 << 20)},
    "JSON nested deep and closed": lambda: {"bomb.jsonl": b'{"a": %s1%s}\n' % (b"[" * (1 << 20), b"]" * (1 << 20))},
    "JSON objects nested deep": lambda: {"bomb.jsonl": _deep(b'{"a":', 1 << 19)},
    "JSON nested in the second line": lambda: {"bomb.jsonl": b'{"a": 1, "label": 1}\n' * 9 + _deep(b"[", 1 << 20)},
    "JSON of a long number": lambda: {"bomb.jsonl": b'{"a": ' + b"9" * (3 << 20) + b', "label": 1}\n'},
    "JSON of many keys": lambda: {
        "bomb.jsonl": b"{" + b", ".join(b'"k%d": 1' % number for number in range(300_000)) + b"}\n"
    },
    "JSON of a long array": lambda: {"bomb.jsonl": b'{"label": 1, "p": [' + b"0," * (1 << 18) + b"0]}\n"},
    "an index beyond all columns": lambda: {"bomb.svm": b"1 99999999999999999999:1\n0 1:1\n"},
    "an index at the end of integers": lambda: {"bomb.svm": b"1 9223372036854775807:1\n0 1:1\n"},
    "an index of many digits": lambda: {"bomb.svm": b"1 " + b"9" * (4 << 20) + b":1\n"},
    "a label of many digits": lambda: {"bomb.svm": b"9" * (4 << 20) + b" 1:1\n"},
    "a sparse row of all columns": lambda: {"bomb.svm": b"1" + b" 1:1" * (1 << 18) + b"\n"},
    "an array that is not there": lambda: {"bomb.npy": _npy_head((1 << 40, 1 << 10)) + bytes(100)},
    "an array of no bytes": lambda: {"bomb.npy": _npy_head((1 << 62, 0))},
    "an array whose size wraps around": lambda: {"bomb.npy": _npy_head((1 << 32, 1 << 32), "<f8")},
    "an array of many dimensions": lambda: {"bomb.npy": _npy_head((1,) * 1000)},
    "an array with a head of nested brackets": lambda: {
        "bomb.npy": b"\x93NUMPY\x01\x00" + struct.pack("<H", 9000) + b"(" * 9000
    },
    "an array with a head of 4 GB": lambda: {
        "bomb.npy": b"\x93NUMPY\x02\x00" + struct.pack("<I", 0xFFFFFFF0) + bytes(99)
    },
    "an array of a type that is a program": lambda: {"bomb.npy": _npy_head((1, 1), "|O")},
    "an archive that lies about its sizes": lambda: {"bomb.npz": _lying_npz()},
    "an archive that lies about its directory": lambda: {"bomb.npz": _lying_zip()},
    "an archive whose members overlap": lambda: {"bomb.npz": _overlapping_zip()},
    "pages that lie about their size": lambda: {"bomb.parquet": _lying_pages()},
    "a directory of 2 billion row groups": lambda: {"bomb.parquet": _parquet_directory(0x7FFFFFFF)},
    "a directory of a million row groups": lambda: {"bomb.parquet": _parquet_directory(1_000_000)},
    "a directory larger than its file": lambda: {"bomb.parquet": b"PAR1" + struct.pack("<I", 0x7FFFFFFF) + b"PAR1"},
    "images that are not there": lambda: {"bomb": b"\0\0\x0e\x03" + struct.pack(">III", *[0xFFFFFFFF] * 3)},
    "labels for images that are not there": lambda: {
        "bomb-images": b"\0\0\x08\x02" + struct.pack(">II", 0xFFFFFFFF, 1),
        "bomb-labels": b"\0\0\x08\x01" + struct.pack(">I", 0xFFFFFFFF),
    },
    "images of no size": lambda: {"bomb": b"\0\0\x08\x03" + struct.pack(">III", 0xFFFFFFFF, 0, 0xFFFFFFFF)},
    "a pickle of a long text": lambda: {"bomb.pkl": _pickle_of(0x7FFFFFFF)},
    "a pickle of a text without an end": lambda: {"bomb.pkl": _pickle_of(-1)},
    "a pickle that repeats itself": lambda: {"bomb.pkl": b"\x80\x02(" + b"2" * 5000 + b"t."},
    "a pickle that multiplies": lambda: {"bomb.pkl": b"\x80\x02]" + b"q\x00h\x00h\x00\x86" * 500 + b"."},
    "a pickle of a large number": lambda: {"bomb.pkl": b"\x80\x02\x8b" + struct.pack("<i", 0x7FFFFFFF) + bytes(99)},
    "a pickle of a large frame": lambda: {"bomb.pkl": b"\x80\x04\x95" + struct.pack("<Q", 1 << 62) + bytes(99)},
    "records that lie about their length": lambda: {"bomb.rec": _record(0x1FFFFFFF)},
    "records in parts without an end": lambda: {
        "bomb.rec": (struct.pack("<II", recordio.MAGIC, 1 << 29 | 8) + bytes(8))
        + (struct.pack("<II", recordio.MAGIC, 2 << 29 | 8) + bytes(8)) * 100_000
    },
    "records of no length": lambda: {"bomb.rec": struct.pack("<II", recordio.MAGIC, 0) * 1_000_000},
    "a sparse record wider than memory": lambda: {"bomb.rec": _wide_record(1 << 62)},
    "a sparse record of columns beyond its width": lambda: {"bomb.rec": _wide_record(3, column=1 << 40)},
}
"""What makes each, by what it is."""


def _wide_record(width: int, column: int = 2) -> bytes:
    """A record of one value in one column, of a row of such a width, written field by field."""

    def field(number: int, data: bytes) -> bytes:
        return _varint(number << 3 | 2) + _varint(len(data)) + data

    tensor = field(1, struct.pack("<f", 1)) + field(2, _varint(column)) + field(3, _varint(width))
    value = field(2, tensor)  # Value.float32_tensor
    entry = field(1, field(1, b"values") + field(2, value))
    return struct.pack("<II", recordio.MAGIC, len(entry)) + entry + bytes(-len(entry) % 4)


def _address_space() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


def _drained(files: Files) -> str:
    """Read a drop to its end as the Lambdas do, keeping nothing of it; what is said of its first problem."""
    drops = drop_files(files)
    looked = formats.look(drops, DataOptions())
    by_name = {drop.file.name: drop.file for drop in drops}
    reading = blocks.Reading()
    for shard in shards.plan_shards(looked.files):
        for _ in blocks.blocks(
            looked.files, shard.pieces, lambda file: by_name[file.name], looked.layout, DataOptions(), reading
        ):
            pass
    return reading.problems[0].problem.words.in_full() if reading.problems else ""


def main(room: int) -> None:
    """Read each in an address space of what it takes by then and `room` bytes more; print what came of it as JSON."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    _drained({"warm.csv": b"a,label\n1,2\n"})
    _drained({"warm.parquet": parquet(np.zeros((2, 2)), None)})
    unpacked.RATIO_FREE_BYTES = 8 << 20  # for time's sake
    found = {}
    for name, make in DROPS.items():
        files = make()
        resource.setrlimit(resource.RLIMIT_AS, (_address_space() + room, limits[1]))
        began = time.monotonic()
        refused, error = "", ""
        try:
            refused = _drained(files)
        except InvalidDrop as said:
            refused = str(said)
        except Exception as other:  # noqa: BLE001  # told, so that the others are read too
            error = repr(other)[:500]
        seconds = time.monotonic() - began
        resource.setrlimit(resource.RLIMIT_AS, limits)
        found[name] = {"refused": refused, "error": error, "seconds": seconds}
    json.dump(found, sys.stdout)
