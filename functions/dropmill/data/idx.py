"""IDX, the format of the MNIST files: an array of features, whose labels are in a file of their own.

A file begins with two zeros, a byte for the type of number, a byte for the count of dimensions, and the dimensions as
big-endian uint32; the numbers follow, big-endian, the last dimension changing fastest. The first dimension is the rows,
further ones are laid flat. Files may be gzipped, and are read whole then; else they are divided by rows.

Source of the format: the description on the page of the MNIST database (LeCun, Cortes, Burges).
"""

import re
import struct
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from dropmill.contracts import DroppedFile, FileFormat, Layout, Piece, Unit
from dropmill.data.array_files import (
    DAMAGED,
    MAX_DIMENSIONS,
    ArrayHead,
    Numbers,
    Seekable,
    Sequential,
    StoredArray,
    check_features,
)
from dropmill.data.array_rows import check_labels, label_cells_of, look_at, rows_of
from dropmill.data.checks import MAX_UNPACKED_BYTES, Problems, feature_columns, label_column, numbered, refuse
from dropmill.data.rows import Float64Array, Look, OpenFile, Progress, Rows
from dropmill.data.unpacked import Readable, unpacked
from dropmill.recipe import DataOptions

_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_GZIP = b"\x1f\x8b"
_LABELS_ALONE = "these are labels; drop them in a folder with their images, closed by _SUCCESS"


def is_labels(file: OpenFile) -> bool:
    """Whether an IDX file has one dimension only, as labels do. Raises InvalidDrop for a damaged one."""
    return len(_array(file).head.shape) == 1


def paired(files: Sequence[OpenFile]) -> list[OpenFile]:
    """Give the IDX files of a drop their labels, which are files of the drop themselves, and return those with rows.

    Labels belong to the images of the same folder whose name is theirs, but for `images` instead of `labels` and `idx3`
    (or another number) instead of `idx1`; or to the only other IDX file of their folder. Raises InvalidDrop for labels
    without images, and for images without labels where others have some.
    """
    folders: dict[str, list[OpenFile]] = defaultdict(list)
    for file in files:
        folders[file.name.rpartition("/")[0]].append(file)
    found = [file for folder in folders.values() for file in _paired_in_folder(folder)]
    bare = next((file for file in found if file.labels is None), None)
    if bare is not None and any(file.labels is not None for file in found):
        wanted = _name_of_labels(bare.name)
        named = "" if wanted == _unzipped(bare.name) else f" (as {wanted.rpartition('/')[2]})"
        refuse(bare.name, f"there are no labels for this file, while others have some: drop them too{named}")
    return found


def _paired_in_folder(files: Sequence[OpenFile]) -> list[OpenFile]:
    labels = [file for file in files if is_labels(file)]
    images = [file for file in files if file not in labels]
    if labels and not images:
        refuse(labels[0].name, _LABELS_ALONE)
    if len(labels) == len(images) == 1:
        return [replace(images[0], labels=labels[0])]
    found = []
    for file in images:
        own = next((each for each in labels if _unzipped(each.name) == _name_of_labels(file.name)), None)
        if own is not None:
            labels.remove(own)
        found.append(replace(file, labels=own))
    if labels:
        rule = (
            "can't tell which images these labels belong to: name both alike, as in train-images-idx3-ubyte and "
            "train-labels-idx1-ubyte"
        )
        refuse(labels[0].name, rule)
    return found


def _name_of_labels(name: str) -> str:
    folder, slash, last = _unzipped(name).rpartition("/")
    return folder + slash + re.sub("idx[2-9]", "idx1", last.replace("images", "labels"))


def _unzipped(name: str) -> str:
    return name.removesuffix(".gz")


def look(file: OpenFile, options: DataOptions, *, gzipped: bool) -> Look:
    """Say how the images are laid out; without a file of labels, `label` may be a column.

    Raises InvalidDrop for anything but rows of numbers, and where the labels aren't as many.
    """
    features, labels = _arrays(file)
    columns = numbered(features.head.columns)
    label = None if labels is not None else label_column(file.name, columns, options)
    layout = Layout(
        format=FileFormat.IDX,
        gzipped=gzipped,
        columns=columns,
        label_column=label,
        feature_columns=feature_columns(file.name, columns, label, options),
        own_labels=labels is not None,
    )
    if features.packed or (labels is not None and labels.packed):
        return Look(layout, rows=features.head.rows)
    return look_at(features, layout)


def label_cells(file: OpenFile, look: Look, problems: Problems) -> Iterator[Float64Array | list[str]]:
    features, labels = _arrays(file)
    return label_cells_of(features, labels, look.layout, problems)


def read(
    file: OpenFile, dropped: DroppedFile, piece: Piece, layout: Layout, problems: Problems, progress: Progress
) -> Iterator[Rows]:
    features, labels = _arrays(file)
    bounds = (piece.start, piece.end) if dropped.unit is Unit.ROWS else (0, features.head.rows)
    return rows_of(features, labels, bounds, layout, problems, progress)


def _arrays(file: OpenFile) -> tuple[StoredArray, StoredArray | None]:
    features = _array(file)
    if len(features.head.shape) == 1:
        refuse(file.name, _LABELS_ALONE)
    check_features(file.name, features.head)
    if file.labels is None:
        return features, None
    labels = _array(file.labels)
    check_labels(file.labels.name, labels, features.head.rows)
    return features, labels


def _array(file: OpenFile) -> StoredArray:
    with file.open() as source:
        gzipped = source.read(2) == _GZIP
        with unpacked(source, file.name, gzipped=gzipped) as stream:
            head, length = _read_head(stream, file.name)
    if not gzipped and length + head.nbytes != file.size:
        said, there = head.nbytes, file.size - length
        refuse(file.name, f"the array should have {said} bytes of numbers and has {there}: {DAMAGED}")
    if head.nbytes > MAX_UNPACKED_BYTES and gzipped:
        refuse(file.name, f"the file unpacks to more than {MAX_UNPACKED_BYTES >> 30} GB: upload it unpacked")

    @contextmanager
    def numbers(position: int) -> Iterator[Numbers]:
        with file.open() as source:
            if not gzipped:
                source.seek(length + position)
                yield Seekable(source)
                return
            with unpacked(source, file.name, gzipped=True) as stream:
                within = Sequential(stream)
                within.skip(length + position)
                yield within
                if stream.read(1):  # the end is also where the checksum is compared
                    refuse(file.name, DAMAGED)

    return StoredArray(file.name, head, numbers, packed=gzipped)


def _read_head(stream: Readable, name: str) -> tuple[ArrayHead, int]:
    start = stream.read(4)
    if len(start) < 4 or start[:2] != b"\0\0" or start[2] not in _TYPES or not 1 <= start[3] <= MAX_DIMENSIONS:
        refuse(name, f"the head of the IDX file can't be read (1 to {MAX_DIMENSIONS} dimensions): {DAMAGED}")
    lengths = stream.read(4 * start[3])
    if len(lengths) < 4 * start[3]:
        refuse(name, DAMAGED)
    shape = struct.unpack(f">{start[3]}I", lengths)
    return ArrayHead(shape, np.dtype(_TYPES[start[2]])), 4 + len(lengths)
