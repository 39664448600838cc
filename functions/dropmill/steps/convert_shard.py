"""Convert Shard: one shard's rows become recordIO-protobuf part files; what is wrong with them goes into a report."""

import tempfile
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import numpy as np

from dropmill import storage
from dropmill.contracts import (
    FEW_ROWS,
    ConvertedShard,
    Part,
    PartFile,
    Plan,
    Problem,
    ShardInput,
    ShardReport,
    Shards,
    Task,
)
from dropmill.data import formats, recordio
from dropmill.naming import part_file_key, plan_key, shard_report_key, shards_key
from dropmill.step import step


def convert_shard(request: ShardInput) -> ConvertedShard:
    """Writes the same keys whenever it is run for the same shard, so that a retry leaves no rows twice."""
    plan = storage.read_document(Plan, plan_key(request.run_id))
    shard = storage.read_document(Shards, shards_key(request.run_id)).root[request.shard]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        local = folder / "shard"
        storage.download(shard.source, local)
        with local.open("rb") as source:
            report = _convert(plan, request.shard, source, folder)
        if not report.problems:
            for part, files in report.files.items():
                for file in files:
                    storage.upload(folder / part, file.key)
    storage.write_document(shard_report_key(request.run_id, request.shard), report)
    return ConvertedShard(shard=request.shard, rows=report.rows, problems=len(report.problems))


def _convert(plan: Plan, number: int, source: BinaryIO, folder: Path) -> ShardReport:
    problems: list[Problem] = []
    rows: Counter[Part] = Counter()
    counts: dict[Part, Counter[str]] = {part: Counter() for part in Part}
    read = 0
    few: set[int] | None = set()
    with ExitStack() as stack:
        streams = {part: stack.enter_context((folder / part).open("wb")) for part in Part}
        for block in formats.blocks(source, plan.layout, plan.recipe.data, problems, file_name=plan.drop.file_name):
            read += len(block.features)
            if few is not None:
                few |= formats.different_rows(block, plan.recipe.data)
                few = few if len(few) <= FEW_ROWS else None
            for part, (features, labels) in formats.divide(block, plan.recipe.data).items():
                targets = None
                if labels is not None:
                    targets = formats.target_labels(labels, plan.layout, plan.recipe.data, plan.task)
                    if plan.task is not Task.REGRESSION:
                        values, repeats = np.unique(targets, return_counts=True)
                        counts[part].update(dict(zip(map(repr, values.tolist()), repeats.tolist(), strict=True)))
                recordio.write(streams[part], features, targets)
                rows[part] += len(features)
    return ShardReport(
        shard=number,
        rows=read,
        files={
            part: [
                PartFile(
                    key=part_file_key(plan.run_id, part, number), rows=rows[part], size=(folder / part).stat().st_size
                )
            ]
            for part in Part
            if rows[part]
        },
        label_counts={part: dict(counts[part]) for part in Part if counts[part]},
        problems=problems[:10],
        few_hashes=None if few is None else sorted(few),
    )


handler = step(convert_shard)
