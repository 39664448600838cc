"""Seal Dataset with the reports of a thousand shards, whose columns are constant as often as reports tell.

S3 is stood in for by a dictionary that takes as long for a request as S3 does. Measured in a process of its own.
"""

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from benchmarks.conversion import peak_mb
from benchmarks.timing import Figure
from dropmill import aws
from dropmill.contracts import (
    CONSTANT_COLUMNS_MAX,
    DroppedFile,
    FileFormat,
    Layout,
    ObjectVersion,
    Part,
    PartFile,
    PieceReport,
    Plan,
    RunReference,
    Shard,
    ShardReport,
    Shards,
    Task,
    Unit,
)
from dropmill.data.shards import plan_shards
from dropmill.naming import part_file_key, plan_key, shard_report_key, shards_key
from dropmill.recipe import Recipe
from dropmill.steps.seal_dataset import seal_dataset

RUN = "benchmark-0123456789ab"
SIZE = 10**12
REQUEST_SECONDS = 0.03
SECONDS_MAX = 10.0
PEAK_MB_MAX = 256
_COLUMNS = 2000
_ROWS = 10_000  # of each shard


def figures() -> Iterator[Figure]:
    done = subprocess.run([sys.executable, "-m", "benchmarks.sealing"], stdout=subprocess.PIPE, text=True, check=True)
    told = json.loads(done.stdout)
    name = f"seal {told['shards']} shards, {CONSTANT_COLUMNS_MAX} constant columns"
    yield Figure(f"{name}, seconds", told["seconds"], at_most=SECONDS_MAX)
    yield Figure("  most memory of sealing, MB", told["peak_mb"], at_most=PEAK_MB_MAX)


class _Objects:
    """As much of S3's client as Seal Dataset uses."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.sizes: dict[str, int] = {}

    def get_object(self, *, Key: str, **_: Any) -> dict[str, Any]:  # noqa: N803  # boto3's own name
        time.sleep(REQUEST_SECONDS)
        data = self.objects[Key]
        return {"Body": io.BytesIO(data), "ContentLength": len(data)}

    def put_object(self, *, Key: str, Body: bytes, **_: Any) -> None:  # noqa: N803  # boto3's own names
        time.sleep(REQUEST_SECONDS)
        self.objects[Key] = Body

    def get_paginator(self, _operation: str) -> "_Objects":
        return self

    def paginate(self, *, Prefix: str, **_: Any) -> Iterator[dict[str, Any]]:  # noqa: N803  # boto3's own name
        found = [{"Key": key, "Size": size} for key, size in self.sizes.items() if key.startswith(Prefix)]
        for first in range(0, len(found), 1000):
            time.sleep(REQUEST_SECONDS)
            yield {"Contents": found[first : first + 1000]}


def _main() -> None:
    os.environ["ARTIFACT_BUCKET"] = "artifacts"
    objects = _Objects()
    aws.s3 = lambda: objects  # type: ignore[assignment, return-value]  # the stand-in has what is used
    source = ObjectVersion(bucket="drops", key="drops/benchmark/rows.csv", size=SIZE)
    file = DroppedFile(source=source, name="rows.csv", unit=Unit.LINES, start=0, end=SIZE)
    columns = [f"x{column}" for column in range(_COLUMNS)]
    plan = Plan(
        run_id=RUN,
        recipe_name="benchmark",
        recipe=Recipe.model_validate(
            {"algorithm": "kmeans", "hyperparameters": {"k": "10"}, "training": {"volume_gb": 100}}
        ),
        drop=source,
        files=[file],
        layout=Layout(format=FileFormat.CSV, columns=columns, feature_columns=list(range(_COLUMNS))),
        task=Task.CLUSTERING,
        hyperparameters={},
        created_at=datetime.now(UTC),
    )
    shards = plan_shards(plan.files)
    objects.objects[plan_key(RUN)] = plan.model_dump_json(indent=2).encode()
    objects.objects[shards_key(RUN)] = Shards(shards).model_dump_json().encode()
    for shard in shards:
        report = _report(shard)
        objects.objects[shard_report_key(RUN, shard.number)] = report.model_dump_json(indent=2).encode()
        objects.sizes |= {one.key: one.size for files in report.files.values() for one in files}
    held = peak_mb()
    start = time.perf_counter()
    seal_dataset(RunReference(run_id=RUN))
    seconds = time.perf_counter() - start
    stood_in = sum(map(len, objects.objects.values())) / 1e6
    print(json.dumps({"seconds": seconds, "peak_mb": max(held, peak_mb()) - stood_in, "shards": len(shards)}))


def _report(shard: Shard) -> ShardReport:
    """What Convert Shard would write about a shard."""
    each, more = divmod(_ROWS, len(shard.pieces))
    pieces = [
        PieceReport(
            file=piece.file,
            start=piece.start,
            end=piece.end,
            begin=piece.start,
            stop=piece.end,
            rows=each + (more if not index else 0),
            lines=each,
        )
        for index, piece in enumerate(shard.pieces)
    ]
    shares = {Part.TRAIN: _ROWS * 8 // 10, Part.VALIDATION: _ROWS // 10, Part.TEST: _ROWS // 10}
    return ShardReport(
        shard=shard.number,
        rows=_ROWS,
        pieces=pieces,
        files={
            part: [PartFile(key=part_file_key(RUN, part, shard.number), rows=rows, size=4 * _COLUMNS * rows)]
            for part, rows in shares.items()
        },
        label_counts={part: {f"{label}.0": rows // 10 for label in range(10)} for part, rows in shares.items()},
        value_range=(0.0, 1.0),
        constant_columns=dict.fromkeys(range(CONSTANT_COLUMNS_MAX), 0.5),
    )


if __name__ == "__main__":
    _main()
