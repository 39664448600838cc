"""The tutorials' pickle as a drop: the rows of its three parts, each with its labels. It is read whole."""

import io
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Self

from dropmill.contracts import DroppedFile, FileFormat, Layout, Part, Piece
from dropmill.data import pickles
from dropmill.data.array_files import Numbers, Sequential, StoredArray, check_features
from dropmill.data.array_rows import label_cells_of, rows_of
from dropmill.data.checks import Problems, feature_columns, numbered, refuse
from dropmill.data.rows import Float64Array, Look, OpenFile, Progress, Rows
from dropmill.data.unpacked import unpacked
from dropmill.recipe import DataOptions

_PARTS = (Part.TRAIN, Part.VALIDATION, Part.TEST)


def look(file: OpenFile, options: DataOptions, *, gzipped: bool) -> Look:
    """Say what the three parts hold. Raises InvalidDrop for anything but rows of numbers, each with a label."""
    pairs = _found(file, gzipped=gzipped)
    columns = numbered(pairs[0][0].head.columns)
    layout = Layout(
        format=FileFormat.PICKLE,
        gzipped=gzipped,
        columns=columns,
        feature_columns=feature_columns(file.name, columns, None, options),
        own_labels=True,
        pre_split=True,
    )
    return Look(layout, rows=sum(features.head.rows for features, _ in pairs))


def label_cells(file: OpenFile, look: Look, problems: Problems) -> Iterator[Float64Array | list[str]]:
    with _Unpacked(file, gzipped=look.layout.gzipped) as stream:
        for part, (features, labels) in zip(_PARTS, _found(file, gzipped=look.layout.gzipped), strict=True):
            within = _within(problems, part)
            stored = _stored(labels, stream, within.file_name)
            yield from label_cells_of(_stored(features, stream, within.file_name), stored, look.layout, within)


def read(
    file: OpenFile,
    dropped: DroppedFile,  # noqa: ARG001  # readers of divided files want it
    piece: Piece,  # noqa: ARG001  # the whole file
    layout: Layout,
    problems: Problems,
    progress: Progress,
) -> Iterator[Rows]:
    gzipped = layout.gzipped
    pairs = _found(file, gzipped=gzipped)
    with _Unpacked(file, gzipped=gzipped) as numbers, _Unpacked(file, gzipped=gzipped) as beside:
        for part, (features, labels) in zip(_PARTS, pairs, strict=True):
            within = _within(problems, part)
            yield from rows_of(
                _stored(features, numbers, within.file_name),
                _stored(labels, beside, within.file_name),
                (0, features.head.rows),
                layout,
                within,
                progress,
                part,
            )


def _found(file: OpenFile, *, gzipped: bool) -> tuple[pickles.Pair, pickles.Pair, pickles.Pair]:
    """The three pairs, whose shapes fit each other."""
    pairs = pickles.find_split(file, gzipped=gzipped)
    width = pairs[0][0].head.columns
    for part, (features, labels) in zip(_PARTS, pairs, strict=True):
        where = f"{file.name} ({part} rows)"
        check_features(where, features.head)
        if labels.head.shape not in ((features.head.rows,), (features.head.rows, 1)):
            refuse(where, f"features of shape {features.head.shape}, but labels of shape {labels.head.shape}")
        if features.head.columns != width:
            refuse(where, f"rows of {features.head.columns} numbers where the training rows have {width}")
    return pairs


def _within(problems: Problems, part: Part) -> Problems:
    return Problems(f"{problems.file_name} ({part} rows)", problems.found, problems.piece)


class _Unpacked:
    """A pickle unpacked on and on, from one array to the next. To go back is to begin anew."""

    def __init__(self, file: OpenFile, *, gzipped: bool) -> None:
        self._file = file
        self._gzipped = gzipped
        self._opened = ExitStack()
        self._stream: Sequential | None = None

    def at(self, position: int) -> Sequential:
        if self._stream is None or self._stream.position > position:
            self._opened.close()
            source = self._opened.enter_context(self._file.open())
            readable = self._opened.enter_context(unpacked(source, self._file.name, gzipped=self._gzipped))
            self._stream = Sequential(readable)
        self._stream.skip(position - self._stream.position)
        return self._stream

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.__exit__(kind, error, trace)


def _stored(array: pickles.PickledArray, stream: _Unpacked, name: str) -> StoredArray:
    stretch = array.stretch

    @contextmanager
    def numbers(position: int) -> Iterator[Numbers]:
        if stretch.data is None:
            yield stream.at(stretch.position + position)
        else:
            yield Sequential(io.BytesIO(stretch.data[position:]))

    return StoredArray(name, array.head, numbers, packed=True)
