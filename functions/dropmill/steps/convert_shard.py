"""Convert Shard: one shard's rows become recordIO-protobuf part files; what is wrong with them goes into a report."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
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


class _HasProblems(Exception):
    """Some rows can't be converted, so what was written is taken back."""


def convert_shard(request: ShardInput) -> ConvertedShard:
    """Convert a shard, holding some blocks of rows at a time, and write its report.

    The same keys are written whenever it is run for the same shard, so a retry leaves no rows twice. Raises InvalidDrop
    where a file turns out to be damaged or gone.
    """
    plan = storage.read_document(Plan, plan_key(request.run_id))
    shards = storage.read_document(Shards, shards_key(request.run_id)).root
    report = _converted(plan, shards[request.shard], -(-plan.recipe.training.instance_count // len(shards)))
    storage.write_document(shard_report_key(request.run_id, request.shard), report)
    return ConvertedShard(shard=request.shard, rows=report.rows, problems=len(report.problems))


def _converted(plan: Plan, shard: Shard, training_files: int) -> ShardReport:
    """`training_files` are as many as all shards need so that each instance gets one."""

    spans = _spans(plan, shard.pieces)
    first = _spans(plan, shard.pieces[: blocks.PIECES_AT_ONCE])
    sources = {file.name: file.source for file in plan.files}
    begun = {name: storage.begin(sources[name], some, name=name) for name, some in first.items()}

    def opened(file: DroppedFile) -> OpenFile:
        return open_file(file, spans[file.name], begun.get(file.name))

    options = plan.recipe.data
    reading = blocks.Reading()
    summary = Summary()
    few: set[int] | None = set()
    counts: dict[Part, Counter[str]] = {part: Counter() for part in Part}
    try:
        with ExitStack() as stack:
            writers = {
                part: _Writer(stack, plan.run_id, part, shard.number, training_files if part is Part.TRAIN else 1)
                for part in Part
            }
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

    def __init__(self, stack: ExitStack, run: str, part: Part, shard: int, files: int) -> None:
        self._stack = stack
        self._keys = [part_file_key(run, part, shard, number) for number in range(files)]
        self._streams: dict[str, BinaryIO] = {}
        self._rows: Counter[str] = Counter()

    def write(self, features: Features, targets: Float32Array | None) -> None:
        for key, (some, labels) in zip(self._keys, _dealt(features, targets, len(self._keys)), strict=False):
            if key not in self._streams:
                self._streams[key] = self._stack.enter_context(storage.open_part(key))
            recordio.write(self._streams[key], some, labels)
            self._rows[key] += len(some)
        # The next rows begin where these ended, so that every file gets some of few.
        turn = len(features) % len(self._keys)
        self._keys = self._keys[turn:] + self._keys[:turn]

    def files(self) -> list[PartFile]:
        return [
            PartFile(key=key, rows=self._rows[key], size=stream.tell()) for key, stream in sorted(self._streams.items())
        ]


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
