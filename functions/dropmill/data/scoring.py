"""Files to be scored: looked at against the rows that a model learned from, and read in their own order.

Any format will do, and files of a batch need not be alike. Of tables the features are found by name, whatever else
there is and in whatever order; where columns have no names, by position (`checks.trained_columns`). Labels are passed
over.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dropmill.contracts import DroppedFile, FileFormat, FoundProblem, Layout, Piece, ReadingOrder, ScoringFile, Unit
from dropmill.data import delimited, libsvm
from dropmill.data.blocks import Features
from dropmill.data.checks import Problems, ScoredColumns, refuse, trained_columns
from dropmill.data.formats import SCAN_BYTES_MAX, WHOLE_BYTES_MAX, DropFile, dropped_file, read_whole
from dropmill.data.readers import READERS
from dropmill.data.recognise import recognise
from dropmill.data.recordio import SparseMatrix
from dropmill.data.rows import Look, OpenFile, Progress
from dropmill.recipe import DataOptions


@dataclass(frozen=True)
class LookedLike:
    """A file to be scored, and how its rows are read."""

    file: DroppedFile
    reading: ReadingOrder


def look_like(drop: DropFile, trained: Layout, options: DataOptions) -> LookedLike:
    """Say how a file is read so that its rows are such as a model learned from.

    `trained` is the layout that its run saw, and `options` are those of its recipe. Raises InvalidDrop for a file that
    can't be read, or lacks columns that the model learned from or that are carried to the predictions.
    """
    file = drop.file
    if not file.size:
        refuse(file.name, "the file is empty")
    kind, gzipped = recognise(file)
    wanted = ScoredColumns.model_construct(**{**dict(options), "label": None}, trained=trained)
    seen: Look
    if kind is FileFormat.LIBSVM:
        seen = libsvm.look(
            file, options.model_copy(update={"drop_columns": []}), gzipped=gzipped, width=trained.feature_dim
        )
    elif kind is FileFormat.RECORDIO:
        seen = READERS[kind].look(file, wanted.model_copy(update={"drop_columns": []}), gzipped=gzipped)
    else:
        seen = READERS[kind].look(file, wanted, gzipped=gzipped)
    if (
        kind is FileFormat.CSV
        and not gzipped
        and file.size <= SCAN_BYTES_MAX
        and delimited.has_quoted_line_ends(file, seen)
    ):
        layout = seen.layout.model_copy(update={"quoted_line_ends": True})
        seen = replace(read_whole(seen), layout=layout)
    if seen.unit is Unit.WHOLE and file.size > WHOLE_BYTES_MAX:
        refuse(file.name, f"has {file.size:,} bytes, and such a file can't be divided: at most {WHOLE_BYTES_MAX:,}")
    return LookedLike(
        dropped_file(drop, seen),
        _reading(file.name, seen.layout, wanted),
    )


def _reading(file_name: str, layout: Layout, wanted: ScoredColumns) -> ReadingOrder:
    trained = wanted.trained
    if layout.feature_dim != trained.feature_dim:
        refuse(file_name, f"has {layout.feature_dim} features, and the model learned from {trained.feature_dim}")
    if wanted.carried and len(layout.kept_columns) != len(wanted.carried):
        refuse(file_name, f"columns of {layout.format.value} can't be carried along (data.id, data.keep)")
    unlabelled: dict[str, Any] = {"label_array": None, "own_labels": layout.own_labels}
    if layout.format is FileFormat.LIBSVM:
        unlabelled["own_labels"] = False
        if trained.format is FileFormat.LIBSVM:
            unlabelled["first_index"] = trained.first_index
    layout = layout.model_copy(update=unlabelled)
    if layout.sparse_columns is not None:
        return ReadingOrder(layout=layout)
    order = None
    if layout.feature_array is None and layout.columns:
        found = trained_columns(file_name, layout.columns, wanted)
        places = {column: place for place, column in enumerate(layout.feature_columns)}
        order = [places[column] for column in found]
    fill = trained.fill
    if order == list(range(len(order or []))):
        order = None
    if fill is not None and order is not None:
        fill = [fill[feature] for feature in np.argsort(order).tolist()]
    return ReadingOrder(layout=layout.model_copy(update={"fill": fill}), order=order)


def gathered(looked: Sequence[LookedLike]) -> tuple[list[ScoringFile], list[ReadingOrder]]:
    """The files of a batch, and the ways in which they are read: each way once, however many files there are."""
    readings: dict[str, int] = {}
    found: list[ReadingOrder] = []
    files = []
    for one in looked:
        key = one.reading.model_dump_json()
        if key not in readings:
            readings[key] = len(found)
            found.append(one.reading)
        files.append(ScoringFile(file=one.file, reading=readings[key]))
    return files, found


@dataclass(frozen=True)
class RowsInOrder:
    """Some rows in the file's order: `features` [n, d] as the model takes them; `kept`, see `rows.Rows`."""

    features: Features
    kept: Any

    def __len__(self) -> int:
        return len(self.features)


def read_in_order(
    file: DroppedFile,
    piece: Piece,
    opened: Callable[[DroppedFile], OpenFile],
    reading: ReadingOrder,
    options: DataOptions,
    found: list[FoundProblem],
    progress: Progress,
) -> Iterator[RowsInOrder]:
    """Yield the rows of a piece in the file's order, filled and scaled as the rows that the model learned from.

    Rows with a problem are left out and the problem is noted in `found`; TooManyProblems ends the reading. Raises
    InvalidDrop where the file as a whole turns out to be damaged or gone.
    """
    layout = reading.layout
    problems = Problems(file.name, found)
    for rows in READERS[layout.format].read(opened(file), file, piece, layout, problems, progress):
        if not len(rows):
            continue
        features = _filled_and_scaled(rows.features, layout, options)
        if reading.order is not None and not isinstance(features, SparseMatrix):
            features = features[:, reading.order]
        yield RowsInOrder(features, rows.kept)
    if file.unit is not Unit.LINES:
        progress.stop = piece.end


def _filled_and_scaled(features: Features, layout: Layout, options: DataOptions) -> Features:
    """Rows as `blocks` gives those to learn from, to the last bit."""
    scale = np.float32(255 if options.scale == "255" else 1)
    if isinstance(features, SparseMatrix):
        return features if scale == 1 else replace(features, values=features.values / scale)
    if layout.fill is None:
        return features if scale == 1 else features / scale
    missing = np.nonzero(np.isnan(features))
    features = features / scale
    features[missing] = (np.array(layout.fill) / scale).astype(np.float32)[missing[1]]
    return features
