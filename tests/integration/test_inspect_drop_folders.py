"""Folder drops: what starts a run, which files belong to it, and what becomes of their rows."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dropmill import aws
from dropmill.data import recordio
from dropmill_cli import drops
from dropmill_cli.errors import CommandError
from dropmill_cli.stack import Stack

PARTS = ("train", "validation", "test")


def rows(count: int, seed: int) -> np.ndarray[Any, Any]:
    """Labelled points [count, 5], the label last."""
    random = np.random.default_rng(seed)
    labels = random.permutation(np.arange(count) % 3)
    return np.column_stack([random.normal(size=(count, 4)).round(3) + 6 * labels[:, None], labels])


def csv(table: np.ndarray[Any, Any]) -> bytes:
    return "\n".join(["a,b,c,d,label", *(",".join(f"{value:.3f}" for value in row) for row in table), ""]).encode()


class Folder:
    """A folder that is being filled."""

    def __init__(self, stand: Any, name: str, recipe: str = "linear-learner") -> None:
        self.stand = stand
        self.prefix = f"drops/{recipe}/{name}/"

    def put(self, name: str, body: bytes) -> None:
        self.stand.client("s3").put_object(Bucket=self.stand.drop_bucket, Key=self.prefix + name, Body=body)

    def close(self) -> str:
        """The run that closing the folder starts."""
        self.put("_SUCCESS", b"")
        return str(self.stand.run_of(f"{self.prefix}_SUCCESS"))

    def refused(self) -> str:
        run = self.close()
        assert self.stand.wait_for_end(run)["detail"]["status"] == "FAILED"
        record = self.stand.record(run)
        assert record["error"] == "InvalidDrop"
        assert self.stand.jobs(run) == []
        return str(record["refusal"] or record["cause"])


def document(stand: Any, key: str) -> dict[str, Any]:
    body = stand.client("s3").get_object(Bucket=stand.artifact_bucket, Key=key)["Body"].read()
    return dict(json.loads(body))


def part(stand: Any, run: str, name: str) -> np.ndarray[Any, Any]:
    """The rows of a part as a job gets them, sorted."""
    s3 = stand.client("s3")
    found = s3.list_objects_v2(Bucket=stand.artifact_bucket, Prefix=f"work/{run}/{name}/").get("Contents", [])
    read = []
    for one in found:
        body = s3.get_object(Bucket=stand.artifact_bucket, Key=one["Key"])["Body"].read()
        features, labels = recordio.read(body)
        assert labels is not None
        read.append(np.column_stack([features, labels]))
    return sorted_rows(np.concatenate(read))


def sorted_rows(table: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    table = table.astype(np.float32)
    return table[np.lexsort(table.T)]


def test_a_folder_is_one_drop_of_all_its_files(stand: Any) -> None:
    folder = Folder(stand, "monthly/points")
    tables = [rows(60, 1), rows(80, 2), rows(100, 3)]
    folder.put("july.csv", csv(rows(7, 9)))
    folder.put("july.csv", csv(tables[0]))  # the latest version counts
    folder.put("older/june.csv", csv(tables[1]))
    folder.put("older/2026/may.csv", csv(tables[2]))
    folder.put("april.csv", csv(rows(10, 4)))
    stand.client("s3").delete_object(Bucket=stand.drop_bucket, Key=f"{folder.prefix}april.csv")
    for name in ("_metadata", ".hidden", "_temporary/part.csv", "older/.crc", "older/"):
        folder.put(name, b"no,data\n")
    run = folder.close()
    assert stand.wait_for_end(run)["detail"]["status"] == "SUCCEEDED"
    plan = document(stand, f"runs/{run}/plan.json")
    assert [file["name"] for file in plan["files"]] == ["july.csv", "older/2026/may.csv", "older/june.csv"]
    versions = {file["source"]["version_id"] for file in plan["files"]}
    assert len(versions) == 3
    assert None not in versions
    sealed = document(stand, f"runs/{run}/dataset.json")
    assert sealed["rows"] == 240
    written = np.concatenate([part(stand, run, name) for name in PARTS])
    assert np.array_equal(sorted_rows(written), sorted_rows(np.concatenate(tables)))
    stand.assert_nothing_left()


def test_a_folder_may_be_divided_already(stand: Any) -> None:
    folder = Folder(stand, "divided")
    tables = {"train": rows(120, 5), "validation": rows(30, 6), "test": rows(30, 7)}
    for name, table in tables.items():
        folder.put(f"{name}/part-0.csv", csv(table[:20]))
        folder.put(f"{name}/part-1.csv", csv(table[20:]))
    run = folder.close()
    assert stand.wait_for_end(run)["detail"]["status"] == "SUCCEEDED"
    for name, table in tables.items():
        assert np.array_equal(part(stand, run, name), sorted_rows(table))


def test_several_instances_get_a_training_file_each(stand: Any) -> None:
    stand.recipe("shared", "algorithm: kmeans\ntraining: {instance_count: 3}\nhyperparameters: {k: 3}")
    folder = Folder(stand, "points", "shared")
    folder.put("points.csv", csv(rows(200, 8)))
    run = folder.close()
    assert stand.wait_for_end(run)["detail"]["status"] == "SUCCEEDED"
    files = document(stand, f"runs/{run}/dataset.json")["parts"]["train"]["files"]
    counts = [file["rows"] for file in files]
    assert len(counts) == 3
    assert max(counts) - min(counts) <= 1
    (job,) = stand.jobs(run)
    channels = stand.client("sagemaker").describe_training_job(TrainingJobName=job)["InputDataConfig"]
    shares = {c["ChannelName"]: c["DataSource"]["S3DataSource"]["S3DataDistributionType"] for c in channels}
    assert shares == {"train": "ShardedByS3Key", "test": "FullyReplicated"}


def test_neither_files_in_a_folder_nor_its_parts_start_a_run(stand: Any) -> None:
    folder = Folder(stand, "quiet")
    folder.put("train/part-0.csv", csv(rows(20, 1)))
    folder.put("train/_SUCCESS", b"")
    stand.settle()
    started = [event for event in stand.seen if event["source"] == "aws.states" and "quiet" in str(event["detail"])]
    assert started == []


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "there are no files in the folder"),
        ({"_metadata": 3}, "there are no files in the folder"),
        ({"a.csv": 3, "b.csv": 0, "c/d.csv": 0}, "these files are empty; fill or delete them:\n- b.csv\n- c/d.csv"),
        ({"train/a.csv": 3}, "is divided into train/, but there is no file in validation/ and test/: give all of"),
        ({"train/a.csv": 3, "test/a.csv": 3, "validation/_x": 3}, "into train/ and test/, but there is no file in va"),
        (
            {"train/a.csv": 3, "test/a.csv": 3, "validation/a.csv": 3, "extra.csv": 3, "other/b.csv": 3},
            "these files are beside them; move or delete them:\n- extra.csv\n- other/b.csv",
        ),
        ({"a.csv": 30, "b.npy": 30}, "b.npy"),
    ],
)
def test_a_folder_that_cannot_be_used(stand: Any, files: dict[str, int], said: str) -> None:
    name = f"bad-{len(stand.seen)}"
    folder = Folder(stand, name)
    for file, count in files.items():
        folder.put(file, csv(rows(count, 1)) if count else b"")
    cause = folder.refused()
    assert cause.startswith((name, "b.npy"))
    assert said in cause


def test_problems_are_named_with_their_file(stand: Any) -> None:
    folder = Folder(stand, "spoilt")
    good = csv(rows(20, 1))
    folder.put("a.csv", good)
    folder.put("b/c.csv", good + b"1,2,x,4,0\n1,2,3,4,0\n1,,3,4,1\n")
    said = folder.refused()
    assert "b/c.csv, row 22, column 'c': 'x'" in said
    assert "b/c.csv, row 24, column 'b'" in said


def test_the_command_drops_a_folder(stand: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All files first, and what starts the run behind them; and nothing of an earlier drop among them."""
    monkeypatch.setattr(aws, "s3", lambda: stand.client("s3"))
    stack = Stack("dropmill-local", stand.cloud.endpoint_url, stand.drop_bucket, stand.artifact_bucket, "")
    folder = tmp_path / "july"
    for name in ("a.csv", "older/b.csv", "_SUCCESS"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(csv(rows(50, len(name))))
    dropped = drops.drop(stack, folder, drops.RecipeChoice("kmeans"))
    assert dropped.uri == f"s3://{stand.drop_bucket}/drops/kmeans/july/"
    assert dropped.size == sum((folder / name).stat().st_size for name in ("a.csv", "older/b.csv"))
    assert stand.run_of("drops/kmeans/july/_SUCCESS") == dropped.run_id
    stand.wait_for_end(dropped.run_id)
    assert document(stand, f"runs/{dropped.run_id}/dataset.json")["rows"] == 100

    (folder / "older/b.csv").rename(folder / "older/c.csv")
    with pytest.raises(CommandError, match=r"july/older/b\.csv is there from an earlier drop and not in your folder"):
        drops.drop(stack, folder, drops.RecipeChoice("kmeans"))
    stand.client("s3").delete_object(Bucket=stand.drop_bucket, Key="drops/kmeans/july/older/b.csv")
    again = drops.drop(stack, folder, drops.RecipeChoice("kmeans"))
    assert again.run_id != dropped.run_id
    stand.wait_for_end(again.run_id)
    assert document(stand, f"runs/{again.run_id}/dataset.json")["rows"] == 100
