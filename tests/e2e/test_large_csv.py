"""A CSV of 2 GB through the whole conversion, every Lambda held to 512 MB by the operating system."""

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dropmill.contracts import SealedDataset, Shards
from dropmill.data import recordio
from dropmill.naming import dataset_key, shards_key
from localaws.cloud import Cloud

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
MEMORY_MB = 512
SIZE = 2 << 30
COLUMNS = 101  # the label, three that number the row, and what is drawn
DIGITS = 3
LINE_BYTES = COLUMNS * (DIGITS + 1)
ROWS = SIZE // LINE_BYTES + 1
CLASSES = 3
SECONDS = 600

RECIPE = f"""
algorithm: linear-learner
data:
  label: label
  classes: [{", ".join(f'"{value}"' for value in range(CLASSES))}]
hyperparameters: {{predictor_type: multiclass_classifier}}
"""


@dataclass(frozen=True)
class Table:
    path: Path
    sums: NDArray[np.int64]
    """Of each column."""


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Table]:
    """Numbers of three digits: a label, the row's own number in three columns, and random ones."""
    path = tmp_path_factory.mktemp("large") / "large.csv"
    random = np.random.default_rng(1)
    sums = np.zeros(COLUMNS, np.int64)
    weights = np.array([100, 10, 1])
    try:
        with path.open("wb") as file:
            names = ["label", *(f"number{column}" for column in range(3)), *(f"c{n}" for n in range(COLUMNS - 4))]
            file.write(",".join(names).encode() + b"\n")
            for first in range(0, ROWS, 50_000):
                numbers = np.arange(first, min(first + 50_000, ROWS))
                digits = random.integers(0, 10, (len(numbers), COLUMNS, DIGITS), np.uint8)
                digits[:, 0, :2] = 0
                digits[:, 0, 2] %= CLASSES
                for column in range(3):
                    group = numbers // 1000 ** (2 - column) % 1000
                    digits[:, 1 + column] = group[:, None] // weights % 10
                text = np.full((len(numbers), COLUMNS, DIGITS + 1), ord(","), np.uint8)
                text[:, :, :DIGITS] = digits + ord("0")
                text[:, -1, DIGITS] = ord("\n")
                file.write(text.tobytes())
                sums += digits.sum(axis=0, dtype=np.int64) @ weights
        assert path.stat().st_size >= SIZE
        yield Table(path, sums)
    finally:
        path.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    with Cloud(hold_memory=True) as cloud:
        yield cloud


def sealed(cloud: Cloud, execution: str) -> None:
    """Wait until the dataset is sealed: then the training job is about to start, and is held there."""
    deadline = time.monotonic() + SECONDS
    with cloud.sagemaker.gates.hold("training") as gate:
        while not gate.reached(timeout=1):
            told = cloud.client("stepfunctions").describe_execution(executionArn=execution)
            assert told["status"] == "RUNNING", told.get("cause")
            assert time.monotonic() < deadline, "the dataset was never sealed"
        cloud.client("stepfunctions").stop_execution(executionArn=execution)


def test_a_large_csv_arrives_whole_through_small_lambdas(cloud: Cloud, table: Table) -> None:
    stack = cloud.deploy(ROOT / "template.yaml", parameters={"ConversionConcurrency": "4"})
    for name in cloud.lambdas.function_names:
        cloud.lambdas.set_memory(name, MEMORY_MB)
    s3 = cloud.client("s3")
    drops, artifacts = stack.outputs["DropBucket"], stack.outputs["ArtifactBucket"]
    s3.put_object(Bucket=drops, Key="recipes/large.yaml", Body=RECIPE.encode())
    began = time.monotonic()
    s3.upload_file(str(table.path), drops, "drops/large/large.csv")
    uploaded = time.monotonic()
    (execution,) = started(cloud, stack.outputs["TrainStateMachineArn"])
    sealed(cloud, execution)
    converted = time.monotonic()
    run = execution.rpartition(":")[2]

    def document(key: str) -> bytes:
        body: bytes = s3.get_object(Bucket=artifacts, Key=key)["Body"].read()
        return body

    shards = Shards.model_validate_json(document(shards_key(run))).root
    assert len(shards) >= 8
    dataset = SealedDataset.model_validate_json(document(dataset_key(run)))
    assert dataset.rows == ROWS
    assert sum(part.rows for part in dataset.parts.values()) == ROWS

    sums = np.zeros(COLUMNS)
    times_seen = np.zeros(ROWS, np.uint8)
    for part in dataset.parts.values():
        for file in part.files:
            body: Any = s3.get_object(Bucket=artifacts, Key=file.key)["Body"]
            for features, labels in recordio.read_blocks(body):
                assert labels is not None
                sums[0] += labels.sum(dtype=np.float64)
                sums[1:] += features.sum(axis=0, dtype=np.float64)
                numbers = features[:, :3].astype(np.float64) @ [1_000_000, 1000, 1]
                np.add.at(times_seen, numbers.astype(np.int64), 1)
    assert sums.tolist() == table.sums.tolist()
    assert times_seen.min() == times_seen.max() == 1

    used = memory_used(cloud)
    print(  # noqa: T201  seen with -rP
        f"{SIZE / 1e6:.0f} MB, {ROWS} rows, {len(shards)} shards: uploaded in {uploaded - began:.0f} s, converted in"
        f" {converted - uploaded:.0f} s, read back in {time.monotonic() - converted:.0f} s; most memory {max(used)} MB"
    )
    assert max(used) <= MEMORY_MB


def started(cloud: Cloud, machine: str) -> list[str]:
    """The executions that the drop started."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = cloud.client("stepfunctions").list_executions(stateMachineArn=machine)["executions"]
        if found:
            return [str(one["executionArn"]) for one in found]
        time.sleep(0.1)  # Step Functions tells of no such thing by an event that lasts
    raise AssertionError("the drop started nothing")


def memory_used(cloud: Cloud) -> list[int]:
    """What the Lambdas' reports say that they used, in MB."""
    cloud.lambdas.flush_logs()
    logs = cloud.client("logs")
    used = []
    for group in logs.describe_log_groups()["logGroups"]:
        for page in logs.get_paginator("filter_log_events").paginate(logGroupName=group["logGroupName"]):
            for event in page["events"]:
                if said := re.search(r"\tMemory Size: (\d+) MB\tMax Memory Used: (\d+) MB", event["message"]):
                    assert int(said[1]) == MEMORY_MB
                    used.append(int(said[2]))
    return used
