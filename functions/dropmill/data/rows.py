"""What the readers of formats take and give.

Every format is a module of `dropmill.data` with three functions:

- `look(file, options, *, gzipped) -> Look`: how a file is laid out and how far it can be divided. Looks at no more of
  the file than that takes. Raises InvalidDrop for what can't be read at all.
- `label_cells(file, look, problems) -> Iterator[Float64Array | list[str]]`: all labels of a file in order, some at a
  time; numbers where all cells of that part of the column are numbers, else texts as `checks.class_name` spells them.
  Called for labelled layouts only.
- `read(file, dropped, piece, layout, problems, progress) -> Iterator[Rows]`: the rows of a piece, about `ROWS_BYTES` of
  float32 at a time, so that many pieces can be read in turns. A row with a problem (ragged, text, not finite, beyond
  float32, missing where `layout.fill` is None, of an unknown class) is left out and noted with `problems.add`, which
  raises TooManyProblems in the end; that is the caller's to catch. `progress` is kept up to date while reading.

A format whose pieces take more than a few MB while they are read has `open_bytes(file, piece, layout) -> int` as
well: about how much.

Row numbers in problems count as the user's own tool does: the number of a line in a text file (from 1, the header being
line 1), the 0-based index in an array or table. In a piece whose file is divided by lines, 1 is the first line that
begins in the piece; Seal Dataset knows how many lines came before.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from dropmill.contracts import Layout, Part, Unit
from dropmill.data.recordio import SparseMatrix

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]

ROWS_BYTES = 1 << 20
"""About as much as a reader gives at a time, as float32."""


@dataclass(frozen=True)
class OpenFile:
    """A file of a drop. `open` gives a new seekable binary stream of it, as often as asked; the caller closes it."""

    name: str
    size: int
    open: Callable[[], BinaryIO]
    labels: "OpenFile | None" = None


@dataclass(frozen=True)
class Look:
    """How a file is laid out (without what needs its rows: `label_values`, `classes`, `fill`), and its extent.

    `unit`, `start`, `end`, `first_line` and `rows` are as in `contracts.DroppedFile`.
    """

    layout: Layout
    unit: Unit = Unit.WHOLE
    start: int = 0
    end: int = 1
    first_line: int = 1
    rows: int | None = None


@dataclass(frozen=True)
class Rows:
    """Some rows: `features` [n, d], contiguous, NaN where a value is missing; `labels` [n], or None.

    `kept` are the `kept_columns` of the layout, if it has any, as a `pyarrow.RecordBatch` of texts, empty where there
    is no value. Labels are numbers as the file has them, or indexes into `layout.classes`. `part` is where the rows
    belong if the file itself says so.
    """

    features: Float32Array | SparseMatrix
    labels: Float64Array | None
    part: Part | None = None
    kept: Any = None

    def __len__(self) -> int:
        return len(self.features)


@dataclass
class Progress:
    """How far a piece has been read; `contracts.PieceReport` says what the fields mean."""

    begin: int
    stop: int
    rows: int = 0
    lines: int = 0
