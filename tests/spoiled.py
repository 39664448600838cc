"""Drops of every format, spoiled in all the ways that files are: hypothesis strategies. For tests."""

import gzip
import io
import json
import pickle
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from dropmill.data import recordio
from tests.reading import EVERY_FORMAT, Files, gzipped, npy, npz, split_pickle

FEATURES = np.arange(15).reshape(5, 3) % 4
LABELS = np.array([0, 1, 2, 1, 0])
WORDS = np.array(["a", "b", "c c", "b", "a"])

_JUNK = [b"\0", b"\n", b'"', b",", b"\xff", b"{", b"]", b":", b"nan", b"1e999", b"\xef\xbb\xbf", b"1_0", b"PK\x05\x06"]
_LENGTHS = [0, 1, 7, 0x7F, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1, (1 << 64) - 1]
_SIGNS = '0123456789.,;|:-+eE"\n\r\t #{}[]naqid"\\u\u00e9\ud7ff\U0001f600_lbx'
_HEADS = [
    b"",
    b"\x1f\x8b\x08\0",
    b"PK\x03\x04",
    b"PK\x05\x06",
    b"\x93NUMPY\x01\x00",
    b"\x93NUMPY\x02\x00",
    b"PAR1",
    b"PARE",
    b"\x80\x02",
    b"\x80\x04\x95",
    b"\0\0\x08\x01",
    b"\0\0\x0d\x03",
    b"\x0a\x23\xd7\xce",
    b'{"a":',
    b"[1,",
    b"1 1:2\n",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
]


def _parquet(table: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    pq.write_table(table, stream, **options)
    return stream.getvalue()


def _others() -> dict[str, Files]:
    """Files that `EVERY_FORMAT` has not: labels that are texts, quotation marks, nesting, other ways of packing."""
    columns = {"a": FEATURES[:, 0], "b": FEATURES[:, 1] / 3, "label": WORDS}
    lists = pa.table({"x": pa.array(FEATURES.tolist()), "label": pa.array(LABELS)})
    rows = zip(FEATURES.tolist(), WORDS.tolist(), strict=True)
    text = b'\xef\xbb\xbf"a","b;",label\r\n1,"2",x\r\n"3",,"y\nz"\r\n\r\n5,6,x\r\n'
    return {
        "quoted": {"d.csv": text},
        "quoted-gzip": {"d.csv.gz": gzipped(text)},
        "one-column": {"d.txt": b"1\n2\n3\n"},
        "json-nested": {"d.jsonl": b"".join(json.dumps({"p": x, "label": y}).encode() + b"\n" for x, y in rows)},
        "json-arrays": {"d.jsonl": b"".join(json.dumps(row).encode() + b"\n" for row in FEATURES.tolist())},
        "json-gzip": {"d.json.gz": gzipped(b'{"a": 1, "label": "x"}\n{"label": "\\u00e9", "a": null}\n')},
        "parquet-text": {"d.parquet": _parquet(pa.table(columns), row_group_size=2)},
        "parquet-plain": {"d.pq": _parquet(pa.table(columns), use_dictionary=False, compression="none")},
        "parquet-lists": {"d.parquet": _parquet(lists, compression="gzip", data_page_version="2.0")},
        "parquet-packed": {"d.parquet": _parquet(pa.table(columns), compression="zstd", write_page_checksum=True)},
        "npy-fortran": {"d.npy": npy(np.asfortranarray(FEATURES.astype(float)))},
        "npy-pictures": {"d.npy": npy(FEATURES.reshape(5, 3, 1).astype(">i2"))},
        "npz-text": {"d.npz": npz(data=FEATURES, target=WORDS)},
        "libsvm-gzip": {"d.libsvm.gz": gzipped(b"# animals\ncat 1:2 3:1 # remark\ndog 2:-1e-2\ncat\n")},
        "pickle": {"d.pkl": pickle.dumps(((FEATURES, LABELS),) * 3, protocol=3)},
        "pickle-4": {"d.pkl": gzip.decompress(split_pickle([(FEATURES, LABELS)] * 3))},
        "pickle-gzip": {"d.pkl.gz": split_pickle([(FEATURES, LABELS)] * 3)},
        "recordio-unlabelled": {"d.rec": recordio.encode(FEATURES.astype(np.float32))},
        "recordio-mixed": {
            "d.rec": recordio.encode(FEATURES.astype(np.float32), LABELS)
            + recordio.encode(recordio.SparseMatrix.of(FEATURES.astype(np.float32)), LABELS)
        },
    }


WHOLE: dict[str, Files] = {kind: write(FEATURES, LABELS) for kind, write in EVERY_FORMAT.items()} | _others()
"""Good drops: two files where images have labels, else one."""

OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "label": st.sampled_from(["label", "0", "2", "x0", "y", "a", "99999"]),
        "missing": st.sampled_from(["0", "mean"]),
        "delimiter": st.sampled_from([",", "\t", ";", "|"]),
        "header": st.sampled_from(["true", "false"]),
        "classes": st.sampled_from([["a", "b"], ["0", "1", "2"], ["b", "a", "c c", "x", "1"]]),
        "drop_columns": st.sampled_from([["0"], ["x0", "x1"], ["b", "c"], ["label"]]),
        "scale": st.just("255"),
    },
)


@st.composite
def spoiled(draw: st.DrawFn, whole: bytes) -> bytes:
    """A good file with bytes set, cut out, put in or repeated, lengths that lie, or another file's head or tail."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        size = draw(st.integers(0, 16))
        change = draw(
            st.sampled_from(["set", "flip", "junk", "bytes", "out", "repeat", "length", "cut", "head", "tail"])
        )
        if change == "set":
            data[at : at + 1] = bytes([draw(st.integers(0, 255))])
        elif change == "flip" and at < len(data):
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif change == "junk":
            data[at:at] = draw(st.sampled_from(_JUNK))
        elif change == "bytes":
            data[at : at + size] = draw(st.binary(max_size=16))
        elif change == "out":
            del data[at : at + size]
        elif change == "repeat":
            data[at:at] = data[at : at + 4 * size] * draw(st.integers(1, 3))
        elif change == "length":
            width = draw(st.sampled_from([1, 2, 4, 8]))
            order = draw(st.sampled_from(["little", "big"]))
            number = draw(st.sampled_from(_LENGTHS)) & (1 << 8 * width) - 1
            data[at : at + width] = number.to_bytes(width, "little" if order == "little" else "big")
        elif change == "cut":
            del data[at:]
        elif change == "head":
            other = next(iter(draw(st.sampled_from(list(WHOLE.values()))).values()))
            data[:size] = other[: draw(st.integers(0, 40))]
        elif change == "tail":
            data += next(iter(draw(st.sampled_from(list(WHOLE.values()))).values()))[-draw(st.integers(1, 80)) :]
    return bytes(data)


@st.composite
def spoiled_drops(draw: st.DrawFn, kind: str) -> Files:
    """A drop of a kind of which one file is spoiled, within its gzip where it has one, alone or beside a good drop."""
    files = dict(WHOLE[kind])
    name = draw(st.sampled_from(sorted(files)))
    data = files[name]
    if data.startswith(b"\x1f\x8b") and draw(st.booleans()):
        files[name] = gzipped(draw(spoiled(gzip.decompress(data))))
    else:
        files[name] = draw(spoiled(data))
    if draw(st.integers(0, 5)) == 0:
        files |= {f"z/{other}": good for other, good in WHOLE[kind].items()}
    if draw(st.integers(0, 2)) == 0:
        files = {other.rsplit(".", 1)[0] if "." in other else other: held for other, held in files.items()}
    return files


@st.composite
def any_drops(draw: st.DrawFn) -> Files:
    """One or two files of any bytes, of any text, or of a head that promises something."""
    texts = st.text(alphabet=_SIGNS, max_size=80).map(lambda text: text.encode("utf-8", "replace"))
    heads = st.builds(lambda head, rest: head + rest, st.sampled_from(_HEADS), st.binary(max_size=80) | texts)
    contents = texts | heads | heads.map(gzipped) | st.binary(max_size=60)
    names = st.sampled_from(["d", "d.csv", "d.jsonl", "d.svm", "d.gz", "d.npz", "e/d.txt", "images", "d.parquet"])
    return draw(st.dictionaries(names, contents, min_size=1, max_size=2))
