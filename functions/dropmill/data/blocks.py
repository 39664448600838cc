"""The rows of a shard in blocks, where they belong, and what is to be learned of them.

A block takes turns among the pieces of its shard, so that it holds rows from all over a drop, and its rows are ordered
by their hashes: data sorted by label is not trained on in that order.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from numpy.typing import NDArray

from dropmill.contracts import DroppedFile, FoundProblem, Layout, Part, Piece, PieceReport, Task, Unit
from dropmill.data import lines, split
from dropmill.data.checks import BLOCK_BYTES, MAX_CLASSES, ClassIndex, FoundProblems, Problems, TooManyProblems
from dropmill.data.readers import READERS
from dropmill.data.recordio import SparseMatrix
from dropmill.data.rows import Float32Array, Float64Array, OpenFile, Progress, Rows
from dropmill.errors import InvalidDrop
from dropmill.recipe import DataOptions
from dropmill.words import Cell

Features = Float32Array | SparseMatrix
Divided = tuple[Features, Float64Array | None]

PIECES_AT_ONCE = 16
OPEN_BYTES_MAX = 64 << 20
"""What pieces may take while they are read, beyond the first: those of row groups take much more than others."""
_PARTS = (Part.TRAIN, Part.VALIDATION, Part.TEST)  # in the order of the codes of `split`


@dataclass
class Reading:
    """What `blocks` gathers besides rows."""

    pieces: list[PieceReport] = field(default_factory=list)
    problems: list[FoundProblem] = field(default_factory=FoundProblems)
    filled: int = 0


@dataclass(frozen=True)
class Block:
    """Some rows of a drop: `features` [n, d]; `labels` [n], as the file has them, or None; their `hashes` [n].

    `part` is where the rows belong if the drop itself says so.
    """

    features: Features
    labels: Float64Array | None
    hashes: split.Hashes
    part: Part | None = None

    def __len__(self) -> int:
        return len(self.hashes)


def blocks(
    files: Sequence[DroppedFile],
    pieces: Sequence[Piece],
    opened: Callable[[DroppedFile], OpenFile],
    layout: Layout,
    options: DataOptions,
    reading: Reading,
) -> Iterator[Block]:
    """Yield the rows of `pieces` in blocks of bounded size.

    Rows with a problem are left out and the problem is noted in `reading`, which has room for ten; then the rows that
    are left are not read, and their lines only counted. Raises InvalidDrop where a file as a whole turns out to be
    damaged.
    """
    progress = [Progress(begin=piece.start, stop=piece.start) for piece in pieces]
    gathered: dict[Part | None, list[Rows]] = defaultdict(list)
    sizes: dict[Part | None, int] = defaultdict(int)
    try:
        for index, rows in _in_turns(files, pieces, opened, layout, reading, progress):
            part = rows.part or files[pieces[index].file].part
            gathered[part].append(rows)
            sizes[part] += _nbytes(rows.features)
            if sizes[part] >= BLOCK_BYTES:
                sizes[part] = 0
                yield _block(gathered.pop(part), part, layout, options, reading)
        while gathered:
            part, held = gathered.popitem()
            yield _block(held, part, layout, options, reading)
    except TooManyProblems:
        for index, piece in enumerate(pieces):
            if files[piece.file].unit is Unit.LINES:
                progress[index] = Progress(begin=piece.start, stop=piece.start)
                lines.count(opened(files[piece.file]), piece, progress[index])
    reading.pieces += [
        PieceReport(
            file=piece.file,
            start=piece.start,
            end=piece.end,
            begin=seen.begin,
            stop=seen.stop,
            rows=seen.rows,
            lines=seen.lines,
        )
        for piece, seen in zip(pieces, progress, strict=True)
    ]


def divide(block: Block, options: DataOptions) -> dict[Part, Divided]:
    """Divide a block's rows into parts, those of each part in the order of their hashes.

    A block that has a part already keeps it. Parts without rows are left out.
    """
    order = np.argsort(block.hashes, kind="stable")
    if block.part is not None:
        return {block.part: _taken(block, order)}
    codes = split.assign_parts(block.hashes, options.split.validation, options.split.test)[order]
    divided = {part: order[codes == code] for code, part in enumerate(_PARTS)}
    return {part: _taken(block, rows) for part, rows in divided.items() if len(rows)}


def different_rows(block: Block) -> set[int]:
    """The hashes of a block's different rows. Those of equal rows are equal, and so are their parts."""
    return set(np.unique(block.hashes).tolist())


def target_labels(labels: Float64Array, layout: Layout, options: DataOptions, task: Task) -> Float32Array:
    """Map the file's own labels [n] to what is learned.

    With `positive`, 1 where the label equals it, else 0. Otherwise, binary: 0 for the lower of the two values, 1 for
    the higher; multiclass: the index of the value among `layout.label_values`; regression and clustering: the label.

    Raises InvalidDrop where the labels can't be the classes that the task needs.
    """
    if task in (Task.REGRESSION, Task.CLUSTERING):
        return labels.astype(np.float32)
    if options.positive is not None:
        positive: NDArray[np.bool_] = labels == _value_of(options.positive, layout)
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
        label = Cell(f"the label {float(labels[strange[0]])!r}", "a label")
        raise InvalidDrop(label, " isn't one of those found when the drop was inspected")
    return indexes.astype(np.float32)


def _value_of(label: str, layout: Layout) -> float:
    """A label of the recipe as the rows of a drop have it."""
    return float(label) if layout.classes is None else float(ClassIndex(layout.classes).of([label])[0])


def _in_turns(
    files: Sequence[DroppedFile],
    pieces: Sequence[Piece],
    opened: Callable[[DroppedFile], OpenFile],
    layout: Layout,
    reading: Reading,
    progress: Sequence[Progress],
) -> Iterator[tuple[int, Rows]]:
    """Some rows of each piece in turn, each with the piece's index.

    Not more than `PIECES_AT_ONCE` are open at once, nor more than `OPEN_BYTES_MAX` has room for.
    """
    reader = READERS[layout.format]

    def read(index: int) -> Iterator[Rows]:
        piece = pieces[index]
        file = files[piece.file]
        problems = Problems(file.name, reading.problems, index)
        yield from reader.read(opened(file), file, piece, layout, problems, progress[index])
        if file.unit is not Unit.LINES:
            progress[index].stop = piece.end

    @cache
    def size(index: int) -> int:
        if not hasattr(reader, "open_bytes"):
            return OPEN_BYTES_MAX // PIECES_AT_ONCE
        taken: int = reader.open_bytes(opened(files[pieces[index].file]), pieces[index], layout)
        return taken

    waiting = deque(range(len(pieces)))
    active: deque[tuple[int, Iterator[Rows]]] = deque()
    while waiting or active:
        while waiting and (
            not active
            or (
                len(active) < PIECES_AT_ONCE
                and sum(size(index) for index, _ in active) + size(waiting[0]) <= OPEN_BYTES_MAX
            )
        ):
            index = waiting.popleft()
            active.append((index, read(index)))
        index, rows = active.popleft()
        taken = next(rows, None)
        if taken is None:
            continue
        active.append((index, rows))
        if len(taken):
            yield index, taken


def _block(held: Sequence[Rows], part: Part | None, layout: Layout, options: DataOptions, reading: Reading) -> Block:
    """Rows joined, hashed, filled and scaled. A missing value counts as zero in the hash, whatever fills it."""
    labels = [rows.labels for rows in held if rows.labels is not None]
    joined = np.concatenate(labels) if labels else None
    features = _joined([rows.features for rows in held])
    scale = np.float32(255 if options.scale == "255" else 1)
    if isinstance(features, SparseMatrix):
        if scale != 1:
            np.divide(features.values, scale, out=features.values)
        return Block(features, joined, _hashes(features, joined, layout, options), part)
    missing = None
    if layout.fill is not None:
        missing = np.nonzero(np.isnan(features))
        features[missing] = 0
        reading.filled += len(missing[0])
    if scale != 1:
        np.divide(features, scale, out=features)
    hashes = _hashes(features, joined, layout, options)
    if missing is not None and layout.fill is not None and any(layout.fill):
        features[missing] = (np.array(layout.fill) / scale).astype(np.float32)[missing[1]]
    return Block(features, joined, hashes, part)


def _hashes(features: Features, labels: Float64Array | None, layout: Layout, options: DataOptions) -> split.Hashes:
    return split.row_hashes(features, labels, options.split.seed, layout.classes)


def _joined(features: Sequence[Features]) -> Features:
    sparse = [matrix for matrix in features if isinstance(matrix, SparseMatrix)]
    if sparse:
        return SparseMatrix.joined(sparse)
    dense = [matrix for matrix in features if not isinstance(matrix, SparseMatrix)]
    return dense[0] if len(dense) == 1 and dense[0].flags.writeable else np.concatenate(dense)


def _taken(block: Block, rows: NDArray[np.intp]) -> Divided:
    taken = block.features.take(rows) if isinstance(block.features, SparseMatrix) else block.features[rows]
    return taken, None if block.labels is None else block.labels[rows]


def _nbytes(features: Features) -> int:
    if isinstance(features, SparseMatrix):
        return features.values.nbytes + features.columns.nbytes + features.offsets.nbytes
    return features.nbytes
