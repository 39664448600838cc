"""Datasets written in every format that is read, and drops read to their end. For tests and benchmarks."""

import gzip
import io
import json
import pickle
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dropmill.contracts import DroppedFile, ObjectVersion, Part, Problem
from dropmill.data import blocks, formats, recordio, shards
from dropmill.data.recordio import SparseMatrix
from dropmill.data.rows import OpenFile
from dropmill.recipe import DataOptions

Array = NDArray[Any]
Files = dict[str, bytes]
PARTS = (Part.TRAIN, Part.VALIDATION, Part.TEST)


def gzipped(data: bytes) -> bytes:
    """Without the time, so that the same data is the same file."""
    return gzip.compress(data, mtime=0)


def _text(value: Any) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def delimited(features: Array, labels: Array | None, delimiter: str = ",") -> bytes:
    names = [f"x{column}" for column in range(features.shape[1])] + ([] if labels is None else ["label"])
    table = features if labels is None else np.column_stack([features, labels])
    lines = [delimiter.join(names), *(delimiter.join(map(_text, row)) for row in table), ""]
    return "\n".join(lines).encode()


def json_lines(features: Array, labels: Array | None) -> bytes:
    rows = [{f"x{column}": value for column, value in enumerate(row)} for row in features.tolist()]
    if labels is not None:
        rows = [{**row, "label": label} for row, label in zip(rows, labels.tolist(), strict=True)]
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def parquet(features: Array, labels: Array | None, row_group_size: int = 500) -> bytes:
    columns = {f"x{column}": features[:, column] for column in range(features.shape[1])}
    if labels is not None:
        columns["label"] = labels
    stream = io.BytesIO()
    pq.write_table(pa.table(columns), stream, row_group_size=row_group_size)
    return stream.getvalue()


def npy(array: Array) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def npz(**arrays: Any) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


def idx(array: Array) -> bytes:
    """IDX of the array's own type, which may be ubyte, byte, short, int, float or double."""
    codes = {"u1": 8, "i1": 9, "i2": 11, "i4": 12, "f4": 13, "f8": 14}
    code = codes[array.dtype.str[1:]]
    head = bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.astype(array.dtype.newbyteorder(">")).tobytes()


def libsvm(features: Array, labels: Array) -> bytes:
    lines = [
        " ".join([_text(label), *(f"{column + 1}:{_text(row[column])}" for column in np.flatnonzero(row))])
        for row, label in zip(features, labels, strict=True)
    ]
    return "\n".join([*lines, ""]).encode()


def split_pickle(pairs: list[tuple[Array, Array]]) -> bytes:
    return gzipped(pickle.dumps(tuple(pairs), protocol=4))


EVERY_FORMAT: Mapping[str, Callable[[Array, Array], Files]] = {
    "csv": lambda x, y: {"rows.csv": delimited(x, y)},
    "csv-gzip": lambda x, y: {"rows.csv.gz": gzipped(delimited(x, y))},
    "tsv": lambda x, y: {"rows.tsv": delimited(x, y, "\t")},
    "semicolons": lambda x, y: {"rows.txt": delimited(x, y, ";")},
    "json-lines": lambda x, y: {"rows.jsonl": json_lines(x, y)},
    "parquet": lambda x, y: {"rows.parquet": parquet(x, y)},
    "npy": lambda x, y: {"rows.npy": npy(np.column_stack([x, y]))},
    "npz": lambda x, y: {"rows.npz": npz(x=x, y=y)},
    "idx": lambda x, y: {
        "rows-images-idx3-ubyte": idx(x.astype(np.uint8).reshape(len(x), -1, 1)),
        "rows-labels-idx1-ubyte": idx(y.astype(np.uint8)),
    },
    "idx-gzip": lambda x, y: {
        "rows-images-idx3-ubyte.gz": gzipped(idx(x.astype(np.uint8).reshape(len(x), -1, 1))),
        "rows-labels-idx1-ubyte.gz": gzipped(idx(y.astype(np.uint8))),
    },
    "libsvm": lambda x, y: {"rows.libsvm": libsvm(x, y)},
    "recordio": lambda x, y: {"rows.pbr": recordio.encode(x.astype(np.float32), y)},
    "recordio-sparse": lambda x, y: {"rows.pbr": recordio.encode(SparseMatrix.of(x.astype(np.float32)), y)},
}
"""Writers of features [n, d] of whole numbers up to 255 and labels [n], by format; one file or several."""


def label_option(kind: str, features: Array) -> dict[str, str]:
    """What the recipe must say for the label to be found where a format has no names."""
    return {"label": str(features.shape[1])} if kind == "npy" else {}


def drop_files(files: Files, parts: Mapping[str, Part] | None = None) -> list[formats.DropFile]:
    """Files in memory as a drop. `parts` gives those that a folder would."""
    return [
        formats.DropFile(
            OpenFile(name, len(data), lambda data=data: io.BytesIO(data)),  # type: ignore[misc]  # the default binds it
            ObjectVersion(bucket="drops", key=f"drops/recipe/{name}", version_id="1", size=len(data)),
            (parts or {}).get(name),
        )
        for name, data in files.items()
    ]


@dataclass
class Divided:
    """The rows of one part: what recordIO would hold, features laid out dense."""

    features: NDArray[np.float32]
    labels: NDArray[np.float64] | None


class Read:
    """A drop, looked at and read to its end, through as many shards as `shard_bytes` makes of it."""

    def __init__(self, files: Files, parts: Mapping[str, Part] | None = None, **options: Any) -> None:
        self.options = DataOptions(**options)
        drops = drop_files(files, parts)
        looked = formats.look(drops, self.options)
        self.layout, self.files = looked.layout, looked.files
        self.shards = shards.plan_shards(self.files)
        self.readings = []
        self.blocks: list[blocks.Block] = []
        by_name = {drop.file.name: drop.file for drop in drops}

        def opened(file: DroppedFile) -> OpenFile:
            found = by_name[file.name]
            labels = None
            if file.labels is not None:
                labels = next(drop.file for drop in drops if drop.source == file.labels)
            return OpenFile(found.name, found.size, found.open, labels)

        for shard in self.shards:
            reading = blocks.Reading()
            self.blocks += blocks.blocks(self.files, shard.pieces, opened, self.layout, self.options, reading)
            self.readings.append(reading)
        for block in self.blocks:
            assert block.features.shape[1] == self.layout.feature_dim
            assert (block.labels is not None) == self.layout.labelled

    @property
    def features(self) -> NDArray[np.float32]:
        return np.concatenate([dense(block.features) for block in self.blocks])

    @property
    def labels(self) -> NDArray[np.float64]:
        return np.concatenate([block.labels for block in self.blocks if block.labels is not None])

    @property
    def problems(self) -> list[Problem]:
        return [found.problem for reading in self.readings for found in reading.problems]

    @property
    def said(self) -> list[str]:
        return [problem.words.in_full() for problem in self.problems]

    def divided(self) -> dict[Part, Divided]:
        """The rows of each part in the order that they are written."""
        gathered: dict[Part, list[blocks.Divided]] = {}
        for block in self.blocks:
            for part, rows in blocks.divide(block, self.options).items():
                gathered.setdefault(part, []).append(rows)
        return {
            part: Divided(
                np.concatenate([dense(features) for features, _ in held]),
                np.concatenate([labels for _, labels in held if labels is not None])
                if held[0][1] is not None
                else None,
            )
            for part, held in gathered.items()
        }


def dense(features: NDArray[np.float32] | SparseMatrix) -> NDArray[np.float32]:
    return features.to_dense() if isinstance(features, SparseMatrix) else features
