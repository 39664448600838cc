"""The paper on scale against what it describes: the workflow, the template, the streams; and its tables."""

import io
import json
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from benchmarks import scale
from dropmill import aws, storage
from dropmill.contracts import ObjectVersion
from dropmill.data.shards import SHARDS_MAX
from localaws import template

ROOT = Path(__file__).parents[2]


def test_the_tables_of_the_document_are_those_of_the_model() -> None:
    text = scale.DOC.read_text()
    assert scale.rendered(text) == text, "run python -m benchmarks.scale --write"


class CountingS3:
    """Counts requests, and answers them with zeros."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.seen: Counter[str] = Counter()

    def get_object(self, *, Range: str, **_: Any) -> dict[str, Any]:  # noqa: N803  # boto3's own name
        self.seen["get"] += 1
        start, end = map(int, Range.removeprefix("bytes=").split("-"))
        return {"Body": io.BytesIO(bytes(end + 1 - start)), "ContentRange": f"{Range.replace('=', ' ')}/{self.size}"}

    def __getattr__(self, operation: str) -> Any:
        def counted(**_: Any) -> dict[str, str]:
            self.seen["put"] += 1
            return {"UploadId": "u", "ETag": "e"}

        return counted


@pytest.mark.parametrize("size", [100_000, 1 << 20, 2 << 20, 4 << 20, 5_300_000, 9_000_001])
def test_a_piece_takes_as_many_ranges_as_the_model_says(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    start = 12_345_678
    s3 = CountingS3(start + 10 * size + (1 << 20))
    monkeypatch.setattr(aws, "s3", lambda: s3)
    source = ObjectVersion(bucket="drops", key="drops/r/x.csv", size=s3.size)
    with closing(storage.opened(source, spans=[(start, start + size)])) as stream:
        stream.seek(start - 1)
        left = size + 1
        while left:
            left -= len(stream.read(min(left, 1 << 20)))
    assert s3.seen["get"] == scale.ranges_of_piece(size)


@pytest.mark.parametrize("size", [1, storage.PART_BYTES - 1, storage.PART_BYTES, 3 * storage.PART_BYTES + 1])
def test_a_part_takes_as_many_requests_as_the_model_says(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    s3 = CountingS3(0)
    monkeypatch.setattr(aws, "s3", lambda: s3)
    monkeypatch.setenv("ARTIFACT_BUCKET", "artifacts")
    with storage.open_part("work/r/train/part-00000.pbr") as stream:
        stream.write(bytes(size))
    assert s3.seen["put"] == scale.uploads_of_part(size)


def test_the_history_and_the_transitions_are_those_of_the_workflow() -> None:
    states = json.loads((ROOT / "statemachine" / "train.asl.json").read_text())["States"]
    name, taken = "Inspect Drop", {}
    while name is not None:
        taken[name] = states[name]
        name = states[name].get("Next", states[name].get("Default"))
    waiting = [state for state in taken.values() if state.get("Resource", "").endswith("waitForTaskToken")]
    direct = [state for state in taken.values() if state["Type"] == "Task" and state not in waiting]
    choices = [state for state in taken.values() if state["Type"] == "Choice"]
    passes = [state for state in taken.values() if state["Type"] == "Pass"]
    assert 2 + 5 * len(direct) + 6 * len(waiting) + 2 * len(choices + passes) == scale.OTHER_EVENTS
    assert 2 + len(taken) == scale.OTHER_TRANSITIONS
    (one,) = (state for state in taken.values() if state["Type"] == "Map")
    assert len(one["ItemProcessor"]["States"]) == 1


def test_memory_and_concurrency_are_those_of_the_template() -> None:
    loaded = template.load(ROOT / "template.yaml")
    assert loaded["Parameters"]["ConversionConcurrency"]["Default"] == scale.CONCURRENCY
    assert scale.Memory() == scale.Memory(
        **{
            name: loaded["Resources"][f"{function}Function"]["Properties"]["MemorySize"]
            for name, function in {"convert": "ConvertShard", "inspect": "InspectDrop", "seal": "SealDataset"}.items()
        }
    )


def test_a_terabyte_stays_within_the_limits() -> None:
    drop = next(drop for drop in scale.DROPS if drop.name == "1 TB CSV")
    assert len(drop.shards) <= SHARDS_MAX
    assert drop.events + 10 * scale.RETRY_EVENTS * len(drop.shards) * scale.RETRIED < scale.HISTORY_MAX
    assert drop.state_bytes < scale.STATE_BYTES_MAX / 10
    assert max(drop.shard_seconds) < 900 / 10
    assert max(drop.plan_bytes, drop.shards_bytes) < storage.DOCUMENT_BYTES_MAX / 10


def test_more_workers_or_shorter_shards_end_sooner() -> None:
    drop = next(drop for drop in scale.DROPS if drop.name == "10 GB CSV")
    assert drop.seconds > max(drop.shard_seconds) * drop.waves
    assert scale.simulate(drop).minutes[1] == pytest.approx(drop.seconds / 60, rel=0.2)
