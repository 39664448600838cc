"""The one door to a dropped file: recognise it, describe it, and read its rows in blocks.

What is read, and how it is recognised (by its first bytes; a name that says otherwise is an error):

- CSV (commas; a row of names or none; quoted numbers; LF or CR LF), also gzipped
- `.npy`: an array of numbers, the first dimension being the rows; further dimensions are laid flat
- `.npz`: the features in the first member named x, features, data, images or inputs, or the only one that isn't the
  labels; the labels in the member that the recipe's `label` names, or the first named y, labels, label, targets or
  target
- the tutorials' pickle, gzipped or not: ((features, labels), (features, labels), (features, labels))

The label is a column by name or 0-based index, and without one a column named `label`. Where labels are an array of
their own, as always in the pickle, the recipe need not say it.

`look` at a file first; `blocks` reads its rows, `divide` tells where they belong and `target_labels` what is to be
learned of them.
"""

import gzip
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from dropmill.contracts import FileFormat, Layout, Part, Problem, Task
from dropmill.data import arrays, pickles, split, text
from dropmill.data.checks import (
    BEYOND_FLOAT32,
    BLOCK_BYTES,
    FLOAT32_MAX,
    MAX_CLASSES,
    MAX_PROBLEMS,
    MAX_UNPACKED_BYTES,
    NOT_FINITE,
    LabelValues,
    Problems,
    TooManyProblems,
    feature_columns,
    label_column,
    numbered,
    refuse,
)
from dropmill.errors import InvalidDrop
from dropmill.recipe import DataOptions

__all__ = ["Block", "blocks", "different_rows", "divide", "look", "target_labels"]

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]
Rows = tuple[Float32Array, Float64Array | None]

_GZIP = b"\x1f\x8b"
_NPY = b"\x93NUMPY"
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_PICKLE = b"\x80"  # the instruction that names the protocol; no text begins with it
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_UTF8_MARK = b"\xef\xbb\xbf"
_PARTS = (Part.TRAIN, Part.VALIDATION, Part.TEST)  # in the order of the pickle, and of the codes of `split`
_NAMED = {
    ".npy": FileFormat.NPY,
    ".npz": FileFormat.NPZ,
    ".pkl": FileFormat.PICKLE,
    ".pickle": FileFormat.PICKLE,
    ".csv": FileFormat.CSV,
}


@dataclass(frozen=True)
class Block:
    """Some rows of a file: `features` [n, d], contiguous; `labels` [n], as the file has them, or None.

    `part` is where the rows belong if the file itself says so.
    """

    features: Float32Array
    labels: Float64Array | None
    part: Part | None = None


def look(source: BinaryIO, file_name: str, options: DataOptions) -> Layout:
    """Recognise the file in the seekable `source` and say how its rows are to be read.

    A label column is read whole for its distinct values. Raises InvalidDrop, naming file, row and column, for what
    can't be read at all or has no usable label; wrong cells elsewhere are found by `blocks`.
    """
    kind, gzipped = _recognise(source, file_name)
    if kind is FileFormat.PICKLE:
        return _look_at_pickle(source, file_name, options, gzipped=gzipped)
    if kind is FileFormat.NPZ:
        return _look_at_npz(source, file_name, options)
    if kind is FileFormat.NPY:
        return _look_at_npy(source, file_name, options)
    with _unpacked(source, file_name, gzipped=gzipped) as stream:
        return text.look(stream, file_name, options, gzipped=gzipped)


def blocks(
    source: BinaryIO, layout: Layout, options: DataOptions, problems: list[Problem], *, file_name: str
) -> Iterator[Block]:
    """Yield the rows of the file in the seekable `source`, which `look` described, in blocks of bounded size.

    Rows with a problem (ragged, text, empty, not finite, beyond float32) are left out, and the problem is appended to
    `problems`; reading ends when there are ten. Raises InvalidDrop where the file as a whole turns out to be damaged.
    """
    collected = Problems(file_name, problems)
    read = {
        FileFormat.CSV: _csv_blocks,
        FileFormat.NPY: _npy_blocks,
        FileFormat.NPZ: _npz_blocks,
        FileFormat.PICKLE: _pickle_blocks,
    }[layout.format]
    if len(problems) >= MAX_PROBLEMS:
        return
    try:
        for block in read(source, layout, collected):
            if options.scale == "255":
                np.divide(block.features, np.float32(255), out=block.features)
            if len(block.features):
                yield block
    except TooManyProblems:
        return


def divide(block: Block, options: DataOptions) -> dict[Part, Rows]:
    """Divide a block's rows into parts, those of each part in the order of their hashes.

    A block that has a part already keeps it. Parts without rows are left out.
    """
    hashes = split.row_hashes(block.features, block.labels, options.split.seed)
    order = np.argsort(hashes, kind="stable")
    if block.part is not None:
        return {block.part: _taken(block, order)}
    codes = split.assign_parts(hashes, options.split.validation, options.split.test)[order]
    divided = {part: order[codes == code] for code, part in enumerate(_PARTS)}
    return {part: _taken(block, rows) for part, rows in divided.items() if len(rows)}


def different_rows(block: Block, options: DataOptions) -> set[int]:
    """The hashes of a block's different rows. Those of equal rows are equal, and so are their parts."""
    return set(np.unique(split.row_hashes(block.features, block.labels, options.split.seed)).tolist())


def _taken(block: Block, rows: NDArray[np.intp]) -> Rows:
    return block.features[rows], None if block.labels is None else block.labels[rows]


def target_labels(labels: Float64Array, layout: Layout, options: DataOptions, task: Task) -> Float32Array:
    """Map the file's own labels [n] to what is learned.

    With `positive`, 1 where the label equals it, else 0. Otherwise, binary: 0 for the lower of the two values, 1 for
    the higher; multiclass: the index of the value among `layout.label_values`; regression and clustering: the label.

    Raises InvalidDrop where the labels can't be the classes that the task needs.
    """
    if task in (Task.REGRESSION, Task.CLUSTERING):
        return labels.astype(np.float32)
    if options.positive is not None:
        positive: NDArray[np.bool_] = labels == float(options.positive)
        return positive.astype(np.float32)
    values = layout.label_values
    if values is None:
        raise InvalidDrop(f"the label has more than {MAX_CLASSES} different values, so they can't be classes")
    if task is Task.BINARY and len(values) != 2:
        raise InvalidDrop(f"the label has {len(values)} different values; two are needed, or `positive` in the recipe")
    known = np.array(values, dtype=np.float64)
    indexes = np.minimum(np.searchsorted(known, labels), len(known) - 1)
    strange = np.flatnonzero(known[indexes] != labels)
    if len(strange):
        raise InvalidDrop(
            f"the label {float(labels[strange[0]])!r} isn't one of those found when the drop was inspected"
        )
    return indexes.astype(np.float32)


# Recognising


def _recognise(source: BinaryIO, file_name: str) -> tuple[FileFormat, bool]:
    source.seek(0)
    head = source.read(512)
    if not head:
        refuse(file_name, "the file is empty")
    gzipped = head.startswith(_GZIP)
    if gzipped:
        with _unpacked(source, file_name, gzipped=True) as stream:
            head = stream.read(512)
        if not head:
            refuse(file_name, "the file is empty")
    kind = _kind_of(head, file_name, gzipped=gzipped)
    suffixes = [suffix.lower() for suffix in PurePosixPath(file_name).suffixes]
    if suffixes and suffixes[-1] == ".gz":
        suffixes.pop()
    said = _NAMED.get(suffixes[-1]) if suffixes else None
    if said is not None and said is not kind:
        refuse(
            file_name, f"the name says {said.value}, but the content looks like {kind.value}: rename or mend the file"
        )
    return kind, gzipped


def _kind_of(head: bytes, file_name: str, *, gzipped: bool) -> FileFormat:
    kind = FileFormat.CSV
    if head.startswith(_NPY):
        kind = FileFormat.NPY
    elif head.startswith(_ZIP):
        kind = FileFormat.NPZ
    elif head.startswith(_PICKLE):
        kind = FileFormat.PICKLE
    elif head.startswith(_UTF16):
        refuse(file_name, "the text is in UTF-16: save it as UTF-8")
    elif head.removeprefix(_UTF8_MARK).lstrip().startswith((b"{", b"[")):
        refuse(file_name, "JSON is not read: use CSV, .npy or .npz")
    elif b"\0" in head or head.startswith(_GZIP):
        refuse(file_name, "an unknown format; use CSV, .npy, .npz or the tutorials' pickle")
    if gzipped and kind in (FileFormat.NPY, FileFormat.NPZ):
        refuse(
            file_name, "arrays can't be read from within gzip: unpack the file, or save an .npz, which is compressed"
        )
    return kind


@contextmanager
def _unpacked(source: BinaryIO, file_name: str, *, gzipped: bool) -> Iterator[text.Readable]:
    """The file from its start, decompressed if need be.

    Raises InvalidDrop for gzip that is cut off, damaged or a bomb.
    """
    source.seek(0)
    if not gzipped:
        yield source
        return
    try:
        with gzip.GzipFile(fileobj=source) as stream:
            yield _Capped(stream, file_name)
    except EOFError:
        refuse(file_name, "the gzip file is cut off: upload it again, whole")
    except (gzip.BadGzipFile, zlib.error):
        refuse(file_name, "the gzip file is damaged: upload it again")


class _Capped:
    """A stream that refuses to give more than MAX_UNPACKED_BYTES."""

    def __init__(self, stream: text.Readable, file_name: str) -> None:
        self._stream = stream
        self._file_name = file_name
        self._left = MAX_UNPACKED_BYTES

    def read(self, size: int, /) -> bytes:
        data = self._stream.read(size)
        self._left -= len(data)
        if self._left < 0:
            refuse(self._file_name, f"the file unpacks to more than {MAX_UNPACKED_BYTES >> 30} GB: upload it unpacked")
        return data


# CSV


def _csv_blocks(source: BinaryIO, layout: Layout, problems: Problems) -> Iterator[Block]:
    with _unpacked(source, problems.file_name, gzipped=layout.gzipped) as stream:
        gathered: list[Block] = []
        size = 0
        for table in text.tables(stream, layout, problems):
            features = np.ascontiguousarray(table[:, : layout.feature_dim], dtype=np.float32)
            labels = table[:, layout.feature_dim].copy() if layout.labelled else None
            gathered.append(Block(features, labels))
            size += features.nbytes
            if size >= BLOCK_BYTES // 2:
                yield _joined(gathered)
                gathered, size = [], 0
        if gathered:
            yield _joined(gathered)


def _joined(gathered: Sequence[Block]) -> Block:
    if len(gathered) == 1:
        return gathered[0]
    labels = [block.labels for block in gathered if block.labels is not None]
    return Block(np.concatenate([block.features for block in gathered]), np.concatenate(labels) if labels else None)


# Arrays


def _look_at_npy(source: BinaryIO, file_name: str, options: DataOptions) -> Layout:
    header = _npy_header(source, file_name)
    columns = numbered(header.columns)
    label = label_column(file_name, columns, options)
    layout = Layout(
        format=FileFormat.NPY,
        columns=columns,
        label_column=label,
        feature_columns=feature_columns(file_name, columns, label, options),
    )
    if label is None:
        return layout
    blocks_of_labels = (rows[:, label] for rows in arrays.row_blocks(source, file_name, header))
    return _with_label_values(layout, file_name, blocks_of_labels)


def _npy_header(source: BinaryIO, file_name: str) -> arrays.ArrayHeader:
    size = source.seek(0, 2)
    source.seek(0)
    header = arrays.read_header(source, file_name, size)
    arrays.check_features(file_name, header.shape)
    return header


def _npy_blocks(source: BinaryIO, layout: Layout, problems: Problems) -> Iterator[Block]:
    header = _npy_header(source, problems.file_name)
    first_row = 0
    for rows in arrays.row_blocks(source, problems.file_name, header):
        labels = None if layout.label_column is None else rows[:, layout.label_column]
        yield _clean(rows, labels, first_row, layout, problems)
        first_row += len(rows)


def _look_at_npz(source: BinaryIO, file_name: str, options: DataOptions) -> Layout:
    with arrays.open_archive(source, file_name) as archive:
        features, labels = archive.choose(options.label)
        with archive.open(features) as (header, stream):
            arrays.check_features(file_name, header.shape)
            columns = numbered(header.columns)
            label = None if labels is not None else label_column(file_name, columns, options)
            layout = Layout(
                format=FileFormat.NPZ,
                columns=columns,
                label_column=label,
                feature_columns=feature_columns(file_name, columns, label, options),
                feature_array=features,
                label_array=labels,
            )
            if label is not None:
                found = (rows[:, label] for rows in arrays.row_blocks(stream, file_name, header))
                return _with_label_values(layout, file_name, found)
        if labels is None:
            return layout
        return _with_label_values(layout, file_name, [_label_vector(archive, labels, header.rows)])


def _label_vector(archive: arrays.Archive, member: str, rows: int) -> NDArray[Any]:
    with archive.open(member) as (header, stream):
        vector = arrays.read_vector(stream, archive.file_name, header)
    if len(vector) != rows:
        refuse(archive.file_name, f"{rows} rows of features, but {len(vector)} labels")
    return vector


def _npz_blocks(source: BinaryIO, layout: Layout, problems: Problems) -> Iterator[Block]:
    assert layout.feature_array is not None  # noqa: S101  # said to the type checker; every .npz layout names one
    with arrays.open_archive(source, problems.file_name) as archive:
        first_row = 0
        with archive.open(layout.feature_array) as (header, stream):
            vector = None
            if layout.label_array is not None:
                vector = _label_vector(archive, layout.label_array, header.rows)
            for rows in arrays.row_blocks(stream, problems.file_name, header):
                labels = None if layout.label_column is None else rows[:, layout.label_column]
                if vector is not None:
                    labels = vector[first_row : first_row + len(rows)]
                yield _clean(rows, labels, first_row, layout, problems)
                first_row += len(rows)


# The tutorials' pickle


def _look_at_pickle(source: BinaryIO, file_name: str, options: DataOptions, *, gzipped: bool) -> Layout:
    pairs = _pickled(source, file_name)
    columns = numbered(pairs[0][0].shape[1])
    layout = Layout(
        format=FileFormat.PICKLE,
        gzipped=gzipped,
        columns=columns,
        feature_columns=feature_columns(file_name, columns, None, options),
        pre_split=True,
    )
    return _with_label_values(layout, file_name, [labels for _, labels in pairs])


def _pickled(source: BinaryIO, file_name: str) -> list[pickles.Pair]:
    """The three pairs as matrices and vectors that fit each other."""
    pairs = []
    width = None
    for part, (features, labels) in zip(_PARTS, pickles.read_split(source, file_name), strict=True):
        where = f"{file_name} ({part} rows)"
        arrays.check_features(where, features.shape)
        if labels.shape not in ((len(features),), (len(features), 1)):
            refuse(where, f"features of shape {features.shape}, but labels of shape {labels.shape}")
        matrix = features.reshape(len(features), -1)
        if width not in (None, matrix.shape[1]):
            refuse(where, f"rows of {matrix.shape[1]} numbers where the training rows have {width}")
        width = matrix.shape[1]
        pairs.append((matrix, labels.reshape(-1)))
    return pairs


def _pickle_blocks(source: BinaryIO, layout: Layout, problems: Problems) -> Iterator[Block]:
    for part, (features, labels) in zip(_PARTS, _pickled(source, problems.file_name), strict=True):
        within = Problems(f"{problems.file_name} ({part} rows)", problems.found)
        step = max(1, BLOCK_BYTES // (4 * features.shape[1]))
        for start in range(0, len(features), step):
            rows = slice(start, start + step)
            block = _clean(features[rows], labels[rows], start, layout, within)
            yield Block(block.features, block.labels, part)


# Numbers of any type to clean float32


def _with_label_values(
    layout: Layout, file_name: str, blocks_of_labels: Iterator[NDArray[Any]] | Sequence[NDArray[Any]]
) -> Layout:
    values = LabelValues()
    problems = Problems(file_name, [])
    column = "label" if layout.label_column is None else layout.columns[layout.label_column]
    first_row = 0
    try:
        for labels in blocks_of_labels:
            _check_labels(labels.astype(np.float64), first_row, column, problems)
            values.add(labels)
            first_row += len(labels)
    except TooManyProblems:
        pass
    problems.raise_any()
    return layout.model_copy(update={"label_values": values.result()})


def _check_labels(labels: Float64Array, first_row: int, column: str, problems: Problems) -> NDArray[np.bool_]:
    good = np.abs(labels) <= FLOAT32_MAX
    for index in np.flatnonzero(~good):
        _wrong(labels[index], first_row + int(index), column, problems)
    return good


def _wrong(value: Any, row: int, column: str, problems: Problems) -> None:
    rule = BEYOND_FLOAT32 if np.isfinite(value) else NOT_FINITE
    problems.add(rule, row=row, column=column, value=value)


def _clean(
    rows: NDArray[Any], labels: NDArray[Any] | None, first_row: int, layout: Layout, problems: Problems
) -> Block:
    """Cast rows of any numeric type [n, columns], leaving out those that float32 can't hold."""
    wanted = layout.feature_columns
    picked = rows if wanted == list(range(rows.shape[1])) else rows[:, wanted]
    with np.errstate(over="ignore"):  # it shows as infinity, and is named below
        features = picked.astype(np.float32, order="C")
    cast = None if labels is None else labels.astype(np.float64)
    good: NDArray[np.bool_] = np.ones(len(rows), dtype=np.bool_)
    if not np.isfinite(features).all():
        good &= np.isfinite(features).all(axis=1)
        for row in np.flatnonzero(~good):
            for column in np.flatnonzero(~np.isfinite(features[row])):
                _wrong(picked[row, column], first_row + int(row), layout.columns[wanted[column]], problems)
    if cast is not None:
        name = "label" if layout.label_column is None else layout.columns[layout.label_column]
        good &= _check_labels(cast, first_row, name, problems)
    if good.all():
        return Block(features, cast)
    return Block(features[good], None if cast is None else cast[good])
