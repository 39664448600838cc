"""Files that are divided by lines, read by their reader alone, in pieces cut anywhere. For tests."""

import gzip
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dropmill.contracts import DroppedFile, FoundProblem, Layout, ObjectVersion, Piece, Unit
from dropmill.data.checks import Problems, TooManyProblems
from dropmill.data.recordio import SparseMatrix
from dropmill.data.rows import Look, OpenFile, Progress, Rows
from dropmill.errors import InvalidDrop
from dropmill.recipe import DataOptions
from dropmill.words import IN_FULL


@dataclass
class Seen:
    """What a reader gave of a file. `problems` have the file's own line numbers; `cut_short` is after ten of them."""

    look: Look
    cells: list[float] | list[str] = field(default_factory=list)
    rows: list[Rows] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    pieces: list[Progress] = field(default_factory=list)
    cut_short: bool = False

    @property
    def layout(self) -> Layout:
        return self.look.layout

    @property
    def features(self) -> NDArray[np.float32]:
        return np.concatenate([np.empty((0, self.layout.feature_dim), np.float32), *map(_dense, self.rows)])

    @property
    def labels(self) -> list[float]:
        return [float(label) for rows in self.rows if rows.labels is not None for label in rows.labels]


def _dense(rows: Rows) -> NDArray[np.float32]:
    assert len(rows.features) == (len(rows) if rows.labels is None else len(rows.labels))
    if isinstance(rows.features, SparseMatrix):
        rows.features.check()
        return rows.features.to_dense()
    assert rows.features.dtype == np.float32
    assert rows.features.flags.c_contiguous
    return rows.features


def read_file(
    reader: ModuleType,
    data: bytes,
    *,
    cuts: Sequence[int] = (),
    gzipped: bool = False,
    changed: Callable[[Layout], dict[str, Any]] = lambda layout: {},
    look_at: dict[str, Any] | None = None,
    **options: Any,
) -> Seen:
    """Look at a file, scan its labels and read it in pieces. `changed` is what Inspect Drop adds to the layout."""
    name = "rows.txt"
    packed = gzip.compress(data, mtime=0) if gzipped else data
    file = OpenFile(name, len(packed), lambda: io.BytesIO(packed))
    look = reader.look(file, DataOptions(**options), gzipped=gzipped, **(look_at or {}))
    layout = look.layout.model_copy(update=changed(look.layout))
    assert Layout.model_validate_json(layout.model_dump_json()) == layout
    seen = Seen(Look(layout, look.unit, look.start, look.end, look.first_line, look.rows))
    if layout.labelled:
        scanned = Problems(name, [])
        try:
            for cells in reader.label_cells(file, look, scanned):
                seen.cells += cells.tolist() if isinstance(cells, np.ndarray) else cells
        except TooManyProblems:
            pass
    source = ObjectVersion(bucket="drops", key=name, version_id="1", size=len(packed))
    dropped = DroppedFile(source=source, name=name, unit=look.unit, start=look.start, end=look.end)
    bounds = sorted({look.start, look.end, *cuts}) if look.unit is Unit.LINES else [0, 1]
    lines = 0
    for start, end in pairwise(bounds):
        progress = Progress(start, start)
        found: list[FoundProblem] = []
        try:
            for rows in reader.read(
                file, dropped, Piece(file=0, start=start, end=end), layout, Problems(name, found), progress
            ):
                seen.rows.append(rows)
        except TooManyProblems:
            seen.cut_short = True
        for one in found:
            assert FoundProblem.model_validate_json(one.model_dump_json(context=IN_FULL)) == one
            row = one.problem.row
            absolute = one.problem.model_copy(update={"row": None if row is None else row + lines})
            seen.problems.append(absolute.words.in_full().removeprefix(f"{name}, "))
        lines += progress.lines
        seen.pieces.append(progress)
    return seen


def outcome(reader: ModuleType, data: bytes, **given: Any) -> tuple[Any, ...]:
    """All that a reader says of a file, to be compared."""
    try:
        seen = read_file(reader, data, **given)
    except InvalidDrop as error:
        return (error.words.in_full(),)
    rows = None if seen.cut_short else (seen.features.tobytes(), seen.labels, sum(piece.rows for piece in seen.pieces))
    return seen.layout, seen.cells, seen.problems, rows


def refused(reader: ModuleType, data: bytes, **given: Any) -> str:
    """Why a file is refused as a whole."""
    with pytest.raises(InvalidDrop) as caught:
        read_file(reader, data, **given)
    return caught.value.words.in_full().removeprefix("rows.txt").removeprefix(", ").removeprefix(": ")


@contextmanager
def line_by_line(reader: ModuleType) -> Iterator[None]:
    """Nothing is parsed as a whole here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "_parse", lambda *_: None)
        yield
