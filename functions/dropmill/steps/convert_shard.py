"""Convert Shard: one shard's rows become recordIO-protobuf part files; what is wrong with them goes into a report."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import BinaryIO

import numpy as np

from dropmill import storage
from dropmill.contracts import (
    FEW_ROWS,
    ConvertedShard,
    DroppedFile,
    Part,
    PartFile,
    Piece,
    Plan,
    Shard,
    ShardInput,
    ShardReport,
    Shards,
    Task,
    Unit,
)
from dropmill.data import blocks, recordio
from dropmill.data.blocks import Features
from dropmill.data.recordio import SparseMatrix
from dropmill.data.rows import Float32Array, OpenFile
from dropmill.data.summary import Summary
from dropmill.naming import part_file_key, plan_key, shard_report_key, shards_key
from dropmill.step import step

OpenPart = Callable[[str], AbstractContextManager[BinaryIO]]
"""Opens what becomes the object of a key where the block ends well, and nothing on any error."""


class _HasProblems(Exception):
    """Some rows can't be converted, so what was written is taken back."""


def convert_shard(request: ShardInput) -> ConvertedShard:
    """Convert a shard, holding some blocks of rows at a time, and write its report.

    The same keys are written whenever it is run for the same shard, so a retry leaves no rows twice. Raises InvalidDrop
    where a file turns out to be damaged or gone.
    """
    plan = storage.read_document(Plan, plan_key(request.run_id))
    shards = storage.read_document(Shards, shards_key(request.run_id)).root
    shard = shards[request.shard]
    spans = _spans(plan, shard.pieces)
    first = _spans(plan, shard.pieces[: blocks.PIECES_AT_ONCE])
    sources = {file.name: file.source for file in plan.files}
    begun = {name: storage.begin(sources[name], some, name=name) for name, some in first.items()}

    def opened(file: DroppedFile) -> OpenFile:
        return open_file(file, spans[file.name], begun.get(file.name))

    training_files = -(-plan.recipe.training.instance_count // len(shards))
    report = convert(plan, shard, training_files, opened, storage.open_part)
    storage.write_document(shard_report_key(request.run_id, request.shard), report)
    return ConvertedShard(shard=request.shard, rows=report.rows, problems=len(report.problems))


def convert(
    plan: Plan, shard: Shard, training_files: int, opened: Callable[[DroppedFile], OpenFile], open_part: OpenPart
) -> ShardReport:
    """Convert the rows of a shard, whose files `opened` opens, into part files, which `open_part` opens by their keys.

    Training rows are dealt out to `training_files` files: as many as all shards need so that each instance gets one.
    Nothing is written where there are problems. Raises InvalidDrop where a file turns out to be damaged or gone.
    """
    options = plan.recipe.data
    reading = blocks.Reading()
    summary = Summary()
    few: set[int] | None = set()
    counts: dict[Part, Counter[str]] = {part: Counter() for part in Part}
    try:
        with ExitStack() as stack:
            writers: dict[Part, _Writer] = {}
            for part in Part:
                numbers = range(training_files if part is Part.TRAIN else 1)
                keys = [part_file_key(plan.run_id, part, shard.number, number) for number in numbers]
                writers[part] = _Writer(keys, lambda key: stack.enter_context(open_part(key)))
            for block in blocks.blocks(plan.files, shard.pieces, opened, plan.layout, options, reading):
                if reading.problems:
                    continue  # nothing of this shard will be kept
                summary.add(block.features)
                if few is not None:
                    few |= blocks.different_rows(block)
                    few = few if len(few) <= FEW_ROWS else None
                divided = blocks.divide(block, options)
                del block  # or it would be held while the next is read
                while divided:
                    part, (features, labels) = divided.popitem()
                    targets = None
                    if labels is not None:
                        targets = blocks.target_labels(labels, plan.layout, options, plan.task)
                        counts[part].update(_counted(targets, plan))
                    writers[part].write(features, targets)
                    del features
            if reading.problems:
                raise _HasProblems
    except _HasProblems:
        writers = {}
    return ShardReport(
        shard=shard.number,
        rows=sum(piece.rows for piece in reading.pieces),
        pieces=reading.pieces,
        files={part: files for part, writer in writers.items() if (files := writer.files())},
        label_counts={part: dict(counts[part]) for part in Part if counts[part]},
        problems=reading.problems,
        filled=reading.filled,
        value_range=summary.value_range,
        constant_columns=summary.constant_columns(),
        few_hashes=None if few is None else sorted(few),
    )


def _spans(plan: Plan, pieces: Sequence[Piece]) -> dict[str, list[storage.Span]]:
    """The byte ranges that the pieces are, by the names of the files."""
    found: dict[str, list[storage.Span]] = defaultdict(list)
    for piece in pieces:
        file = plan.files[piece.file]
        if file.unit is Unit.LINES:
            found[file.name].append((piece.start, piece.end))
    return found


def open_file(file: DroppedFile, spans: Sequence[storage.Span], begun: storage.Begun | None) -> OpenFile:
    """A file of a drop in S3, of which `spans` will be read if they are given."""
    labels = file.labels
    return OpenFile(
        file.name,
        file.source.size,
        lambda: storage.opened(file.source, spans=spans, begun=begun, name=file.name),
        None
        if labels is None
        else OpenFile(labels.file_name, labels.size, lambda: storage.opened(labels, name=labels.file_name)),
    )


def _counted(targets: Float32Array, plan: Plan) -> dict[str, int]:
    """How many rows have which label, where labels are classes."""
    if plan.task is Task.REGRESSION or (plan.task is Task.CLUSTERING and plan.layout.label_values is None):
        return {}
    values, repeats = np.unique(targets, return_counts=True)
    return dict(zip(map(repr, values.tolist()), repeats.tolist(), strict=True))


class _Writer:
    """The files of one part of a shard, among which its rows are dealt out in turn."""

    def __init__(self, keys: Sequence[str], opened: Callable[[str], BinaryIO]) -> None:
        self._keys = list(keys)
        self._opened = opened
        self._streams: dict[str, BinaryIO] = {}
        self._rows: Counter[str] = Counter()
        self._sizes: Counter[str] = Counter()

    def write(self, features: Features, targets: Float32Array | None) -> None:
        for key, (some, labels) in zip(self._keys, _dealt(features, targets, len(self._keys)), strict=False):
            if key not in self._streams:
                self._streams[key] = self._opened(key)
            self._sizes[key] += recordio.write(self._streams[key], some, labels)
            self._rows[key] += len(some)
        # The next rows begin where these ended, so that every file gets some of few.
        turn = len(features) % len(self._keys)
        self._keys = self._keys[turn:] + self._keys[:turn]

    def files(self) -> list[PartFile]:
        return [PartFile(key=key, rows=self._rows[key], size=self._sizes[key]) for key in sorted(self._sizes)]


def _dealt(features: Features, targets: Float32Array | None, hands: int) -> list[tuple[Features, Float32Array | None]]:
    """Every n-th row for each of n hands, while there are any."""
    if hands == 1:
        return [(features, targets)]
    turns = [np.arange(hand, len(features), hands) for hand in range(min(hands, len(features)))]
    return [
        (
            features.take(rows) if isinstance(features, SparseMatrix) else features[rows],
            None if targets is None else targets[rows],
        )
        for rows in turns
    ]


handler = step(convert_shard)
