"""Challengers and champions through the whole workflow, and what people decide about them."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

GOOD, BAD = "{k: 3}", "{k: 1}"


@pytest.fixture(autouse=True)
def leaves_nothing(stand: Any) -> Iterator[None]:
    yield
    stand.assert_nothing_left()


def drop(stand: Any, recipe: str, hyperparameters: str, *more: str) -> str:
    """Put the recipe there and drop points for it; returns the run, which has begun."""
    stand.recipe(recipe, "\n".join(["algorithm: kmeans", f"hyperparameters: {hyperparameters}", *more]))
    return str(stand.run_of(stand.drop(recipe)))


def trained(stand: Any, recipe: str, hyperparameters: str, *more: str) -> dict[str, Any]:
    """The record of a run that was let run to its end."""
    run = drop(stand, recipe, hyperparameters, *more)
    assert stand.wait_for_end(run)["detail"]["status"] == "SUCCEEDED"
    return dict(stand.record(run))


def verdict(stand: Any, run: str) -> dict[str, Any]:
    key = f"runs/{run}/verdict.json"
    return dict(json.loads(stand.client("s3").get_object(Bucket=stand.artifact_bucket, Key=key)["Body"].read()))


def package(stand: Any, arn: str) -> dict[str, Any]:
    return dict(stand.client("sagemaker").describe_model_package(ModelPackageName=arn))


def cli(stand: Any, *arguments: str, code: int = 0) -> Any:
    """What a command prints as JSON; the message of one that can't be carried out."""
    done = subprocess.run(
        [sys.executable, "-m", "dropmill_cli.main", *arguments, "--endpoint-url", stand.cloud.endpoint_url, "--json"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout) if code == 0 else done.stderr


def champion(stand: Any, recipe: str) -> str | None:
    """The run whose model is the champion."""
    key = {"pk": {"S": f"CHAMPION#{recipe}"}, "sk": {"S": "META"}}
    table = stand.stack.outputs["LedgerTable"]
    item = stand.client("dynamodb").get_item(TableName=table, Key=key, ConsistentRead=True).get("Item", {})
    return str(json.loads(item["champion"]["S"])["run_id"]) if "champion" in item else None


def test_a_better_challenger_takes_over_and_a_worse_one_does_not(stand: Any) -> None:
    first = trained(stand, "clusters", BAD)
    assert (first["verdict"], first["reasons"]) == ("approved", ["there is no champion to beat"])

    better = trained(stand, "clusters", GOOD, "champion: {metric: msd, margin: 0.5}")
    assert better["verdict"] == "approved"
    assert better["reasons"][0].startswith("msd ")
    assert "beats the champion's" in better["reasons"][0]
    assert better["champion_run"] == first["run_id"]
    assert better["metrics"]["msd"] < better["champion_metrics"]["msd"]

    worse = trained(stand, "clusters", BAD)
    assert worse["verdict"] == "rejected"
    assert "worse than the champion's" in worse["reasons"][0]
    assert champion(stand, "clusters") == better["run_id"]
    assert verdict(stand, worse["run_id"])["champion"] == better["package"]

    (message,) = [one["Message"] for one in stand.notifications(worse["run_id"])]
    assert "Verdict: rejected." in message
    assert "(champion " in message
    assert "training-job" in message

    lines = cli(stand, "models", "clusters")
    assert [(line["version"], line["status"], line["champion"]) for line in lines] == [
        (3, "Rejected", False),
        (2, "Approved", True),
        (1, "Approved", False),
    ]
    shown = cli(stand, "show", better["run_id"])
    assert (shown["verdict"], shown["package"]) == ("approved", better["package"])
    runs = {line["run_id"]: line["verdict"] for line in cli(stand, "runs")}
    assert runs[worse["run_id"]] == "rejected"

    decided = cli(stand, "approve", first["run_id"])
    assert decided["champion"]["run_id"] == first["run_id"], "a person may bring a former champion back"
    stand.settle()
    assert champion(stand, "clusters") == first["run_id"]


def test_a_package_says_what_the_model_reached_and_where_it_came_from(stand: Any) -> None:
    record = trained(stand, "traced", GOOD, "gates: {msd: '<= 100', purity: '>= 0.5'}")
    assert record["reasons"][1:] == [
        f"msd {record['metrics']['msd']:.4f} meets <= 100.0",
        "purity 1.0000 meets >= 0.5",
    ]
    found = package(stand, record["package"])
    s3, uri = stand.client("s3"), found["ModelMetrics"]["ModelQuality"]["Statistics"]["S3Uri"]
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    measured = json.loads(s3.get_object(Bucket=bucket, Key=key)["Body"].read())["clustering_metrics"]
    assert measured["msd"]["value"] == record["metrics"]["msd"]
    metadata = found["CustomerMetadataProperties"]
    assert metadata["run"] == record["run_id"]
    assert metadata["drop_version"] == record["drop"]["version_id"]
    assert metadata["hyperparameters.k"] == "3"
    (container,) = found["InferenceSpecification"]["Containers"]
    assert container["Image"].endswith("/kmeans:1")
    job = found["MetadataProperties"]["GeneratedBy"]
    described = stand.client("sagemaker").describe_training_job(TrainingJobName=job.rpartition("/")[2])
    assert described["TrainingJobArn"] == job
    assert described["ModelArtifacts"]["S3ModelArtifacts"] == container["ModelDataUrl"]


def test_what_misses_a_gate_is_rejected_and_the_run_is_a_success(stand: Any) -> None:
    record = trained(stand, "gated", BAD, "gates: {purity: '>= 0.9'}")
    assert (record["status"], record["verdict"]) == ("SUCCEEDED", "rejected")
    assert record["reasons"][0].endswith("misses >= 0.9")
    assert package(stand, record["package"])["ModelApprovalStatus"] == "Rejected"
    assert champion(stand, "gated") is None


def test_a_gate_on_what_the_task_is_not_judged_by_is_refused_before_anything_starts(stand: Any) -> None:
    with stand.cloud.hooks.before("sagemaker.CreateTrainingJob", lambda call: None) as started:
        run = drop(stand, "misplaced", GOOD, "gates: {f1: '>= 0.9'}")
        stand.wait_for_end(run)
    assert started.calls == []
    record = stand.record(run)
    assert record["error"] == "InvalidRecipe"
    assert "gates.f1: f1 is no metric of a clustering model" in record["cause"]


def test_of_two_at_once_the_better_stays_and_one_of_them_was_compared_twice(stand: Any) -> None:
    together = threading.Barrier(2, timeout=60)
    with stand.cloud.hooks.before("sagemaker.CreateModelPackage", lambda call: together.wait()):
        bad = drop(stand, "raced", BAD)
        good = drop(stand, "raced", GOOD)
        ends = [stand.wait_for_end(run)["detail"]["status"] for run in (bad, good)]
    assert ends == ["SUCCEEDED", "SUCCEEDED"]
    assert champion(stand, "raced") == good
    assert sorted(verdict(stand, run)["round"] for run in (bad, good)) == [1, 2]
    assert verdict(stand, good)["verdict"] == "approved"
    second, first = sorted((bad, good), key=lambda run: -verdict(stand, run)["round"])
    assert verdict(stand, second)["champion_run"] == first
    assert {stand.record(run)["package"] for run in (bad, good)} == {
        line["package"] for line in cli(stand, "models", "raced")
    }, "one package for each run, however often it was compared"


def test_people_decide_in_the_console_and_by_command(stand: Any) -> None:
    record = trained(stand, "careful", GOOD, "approval: manual")
    run, arn = record["run_id"], record["package"]
    assert (record["verdict"], champion(stand, "careful")) == ("waiting", None)
    assert package(stand, arn)["ModelApprovalStatus"] == "PendingManualApproval"
    (message,) = [one["Message"] for one in stand.notifications(run)]
    assert f"dropmill approve {run}" in message

    sagemaker = stand.client("sagemaker")
    sagemaker.update_model_package(ModelPackageArn=arn, ModelApprovalStatus="Approved")
    stand.settle()
    assert champion(stand, "careful") == run

    sagemaker.update_model_package(ModelPackageArn=arn, ModelApprovalStatus="Rejected")
    stand.settle()
    assert champion(stand, "careful") is None

    decided = cli(stand, "approve", run, "--reason", "looked at it")
    assert (decided["status"], decided["champion"]["run_id"]) == ("Approved", run)
    assert package(stand, arn)["ApprovalDescription"] == "looked at it"
    stand.settle()
    version = decided["champion"]["version"]
    decided = cli(stand, "approve", arn)
    assert decided["champion"]["version"] == version, "what is the champion already does not move the pointer"

    assert cli(stand, "reject", run)["champion"] is None
    stand.settle()
    assert champion(stand, "careful") is None


def test_what_can_not_be_decided_is_said(stand: Any) -> None:
    sagemaker = stand.client("sagemaker")
    sagemaker.create_model_package_group(ModelPackageGroupName="dropmill-local-foreign")
    arn = sagemaker.create_model_package(
        ModelPackageGroupName="dropmill-local-foreign", ModelApprovalStatus="PendingManualApproval"
    )["ModelPackageArn"]
    sagemaker.update_model_package(ModelPackageArn=arn, ModelApprovalStatus="Approved")
    stand.settle()
    assert "was not registered by stack dropmill-local" in cli(stand, "approve", arn, code=2)
    assert "there is no model package" in cli(stand, "reject", f"{arn}7", code=2)
    assert "there is no run" in cli(stand, "approve", "nobody-0123456789ab", code=2)
    assert champion(stand, "foreign") is None
