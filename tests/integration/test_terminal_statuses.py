"""Every status in which SageMaker's resources end reaches the task that waits for it: by event, without the sweeper."""

import contextlib
import json
import os
import re
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

REGION = "us-east-1"
ENDLESS = """
algorithm: linear-learner
hyperparameters: {epochs: 1000000, early_stopping_patience: 1000001}
"""
SEARCH = """
algorithm: linear-learner
hyperparameters: {epochs: 2, mini_batch_size: 50}
tuning:
  objective: validation:multiclass_accuracy
  strategy: Random
  max_jobs: 2
  max_parallel_jobs: 1
  ranges:
    learning_rate: {continuous: [0.001, 0.1], scale: Logarithmic}
"""


@pytest.fixture
def told(stand: Any) -> Iterator[list[dict[str, Any]]]:
    """What the workflow's waiting tasks were told, in order: the requests of SendTaskSuccess and SendTaskFailure."""
    requests: list[dict[str, Any]] = []
    swept: list[str] = []

    def watch(call: Any) -> None:
        if stand.function("sweep_leases") in call.path:
            swept.append(call.path)

    with contextlib.ExitStack() as hooks:
        for operation in ("SendTaskSuccess", "SendTaskFailure"):
            hooks.enter_context(
                stand.cloud.hooks.before(f"states.{operation}", lambda call: requests.append(call.request))
            )
        hooks.enter_context(stand.cloud.hooks.before("lambda.Invoke", watch))
        yield requests
    assert swept == []
    stand.assert_nothing_left()


def outputs(told: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The answers, one for each token: of a token that is told twice at once, Step Functions takes the first."""
    return [
        json.loads(output) for output in {one["taskToken"]: one["output"] for one in told if "output" in one}.values()
    ]


def failures(told: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Error and cause, one for each token; see `outputs`."""
    return [*{one["taskToken"]: (one["error"], one["cause"]) for one in told if "error" in one}.values()]


def statuses(stand: Any, run: str, member: str) -> list[tuple[str, str]]:
    """Status and secondary status, if it has one, of each of a run's events."""
    return [
        (event["detail"][member], event["detail"].get("SecondaryStatus", ""))
        for event in stand.seen
        if event["source"] == "aws.sagemaker"
        and member in event["detail"]
        and event["detail"]["Tags"].get("dropmill:run") == run
    ]


def job_at(stand: Any, run: str) -> str:
    """The name of a run's training job, which stands at the gate."""
    (name,) = stand.jobs(run)
    return str(name)


def log_of(stand: Any, job: str) -> list[str]:
    """What a job's program has printed by now."""
    group, logs = "/aws/sagemaker/TrainingJobs", stand.client("logs")
    stand.cloud.sagemaker._logs.flush()
    try:
        streams = logs.describe_log_streams(logGroupName=group, logStreamNamePrefix=f"{job}/")["logStreams"]
    except logs.exceptions.ResourceNotFoundException:
        return []
    names = [stream["logStreamName"] for stream in streams]
    if not names:
        return []
    return [event["message"] for event in logs.filter_log_events(logGroupName=group, logStreamNames=names)["events"]]


def long_run(stand: Any) -> tuple[str, str, int]:
    """A run whose job trains for hours: its id, the job's name and the program's process."""
    stand.recipe("endless", ENDLESS)
    run = stand.run_of(stand.drop("endless"))
    event = stand.wait_for(
        lambda event: (
            event["source"] == "aws.sagemaker"
            and event["detail"].get("SecondaryStatus") == "Training"
            and event["detail"]["Tags"].get("dropmill:run") == run
        )
    )
    name = event["detail"]["TrainingJobName"]
    deadline = time.monotonic() + 20
    while not any("epoch=0" in line for line in log_of(stand, name)):
        assert time.monotonic() < deadline
        time.sleep(0.02)  # the log is the only sign of life of another process
    (pid,) = [
        one.container.pid
        for one in stand.cloud.sagemaker._jobs._runs.values()
        if one.job.name == name and one.container is not None
    ]
    return run, name, pid


def test_completed_and_in_service(stand: Any, told: list[dict[str, Any]]) -> None:
    run = stand.run_of(stand.drop())
    assert stand.wait_for_end(run)["detail"]["status"] == "SUCCEEDED"
    assert statuses(stand, run, "TrainingJobStatus")[-1] == ("Completed", "Completed")
    assert ("IN_SERVICE", "") in statuses(stand, run, "EndpointStatus")
    trained, served = outputs(told)
    assert trained["artifact"].endswith("/output/model.tar.gz")
    assert served["endpoint"]
    assert failures(told) == []


def test_failed(stand: Any, told: list[dict[str, Any]]) -> None:
    with stand.cloud.sagemaker.gates.hold("training") as gate:
        run = stand.run_of(stand.drop())
        assert gate.reached(30)
        s3 = stand.client("s3")
        for item in s3.list_objects_v2(Bucket=stand.artifact_bucket, Prefix=f"work/{run}/train/")["Contents"]:
            s3.put_object(Bucket=stand.artifact_bucket, Key=item["Key"], Body=b"not recordIO at all")
    assert stand.wait_for_end(run)["detail"]["status"] == "FAILED"
    assert statuses(stand, run, "TrainingJobStatus")[-1] == ("Failed", "Failed")
    ((error, cause),) = failures(told)
    assert error == "JobFailed"
    assert "ClientError: " in cause
    assert outputs(told) == []


def test_stopped(stand: Any, told: list[dict[str, Any]]) -> None:
    with stand.cloud.sagemaker.gates.hold("training") as gate:
        run = stand.run_of(stand.drop())
        assert gate.reached(30)
        stand.client("sagemaker").stop_training_job(TrainingJobName=job_at(stand, run))
        assert stand.wait_for_end(run)["detail"]["status"] == "FAILED"
    assert statuses(stand, run, "TrainingJobStatus")[-1] == ("Stopped", "Stopped")
    ((error, cause),) = failures(told)
    assert error == "JobStopped"
    assert "somebody stopped it" in cause


def test_a_long_job_stops_within_two_seconds(stand: Any, told: list[dict[str, Any]]) -> None:
    run, name, _ = long_run(stand)
    begun = time.monotonic()
    stand.client("sagemaker").stop_training_job(TrainingJobName=name)
    stand.wait_for(
        lambda event: (
            event["source"] == "aws.sagemaker"
            and event["detail"].get("TrainingJobName") == name
            and event["detail"]["TrainingJobStatus"] == "Stopped"
        )
    )
    assert time.monotonic() - begun < 2
    assert stand.wait_for_end(run)["detail"]["status"] == "FAILED"
    assert [error for error, _ in failures(told)] == ["JobStopped"]


def test_a_killed_program_fails_its_job(stand: Any, told: list[dict[str, Any]]) -> None:
    run, _, pid = long_run(stand)
    os.kill(pid, signal.SIGKILL)
    assert stand.wait_for_end(run)["detail"]["status"] == "FAILED"
    assert statuses(stand, run, "TrainingJobStatus")[-1] == ("Failed", "Failed")
    ((error, cause),) = failures(told)
    assert error == "JobFailed"
    assert "AlgorithmError: Exit Code: 137" in cause


def test_stopped_because_its_time_was_up(stand: Any, told: list[dict[str, Any]]) -> None:
    with stand.cloud.sagemaker.gates.hold("training") as gate:
        run = stand.run_of(stand.drop())
        assert gate.reached(30)
        # A recipe gives a job a minute at least, which no test should wait for.
        job = stand.cloud.sagemaker.store.find("training-job", job_at(stand, run), REGION)
        job.document["StoppingCondition"]["MaxRuntimeInSeconds"] = 0
    assert stand.wait_for_end(run)["detail"]["status"] == "FAILED"
    assert statuses(stand, run, "TrainingJobStatus")[-1] == ("Stopped", "MaxRuntimeExceeded")
    ((error, cause),) = failures(told)
    assert error == "JobStopped"
    assert "training.max_runtime" in cause
    assert stand.record(run)["cause"] == cause


def test_endpoint_failed(stand: Any, told: list[dict[str, Any]]) -> None:
    with stand.cloud.sagemaker.gates.hold("endpoint") as gate:
        run = stand.run_of(stand.drop())
        assert gate.reached(30)
        (trained,) = outputs(told)
        bucket, key = trained["artifact"].removeprefix("s3://").split("/", 1)
        stand.client("s3").put_object(Bucket=bucket, Key=key, Body=b"no archive at all")
    assert stand.wait_for_end(run)["detail"]["status"] == "FAILED"
    assert ("FAILED", "") in statuses(stand, run, "EndpointStatus")
    ((error, cause),) = failures(told)
    assert error == "EndpointFailed"
    assert "log" in cause
    assert stand.record(run)["error"] == "EndpointFailed"


def search(stand: Any) -> str:
    """A run that looks for hyperparameters."""
    stand.recipe("search", SEARCH)
    return str(stand.run_of(stand.drop("search")))


def test_search_completed(stand: Any, told: list[dict[str, Any]]) -> None:
    run = search(stand)
    assert stand.wait_for_end(run)["detail"]["status"] == "SUCCEEDED"
    assert statuses(stand, run, "HyperParameterTuningJobStatus")[-1] == ("Completed", "")
    trained, served = outputs(told)
    assert trained["tuning_job"]
    assert re.fullmatch(re.escape(trained["tuning_job"]) + r"-\d{3}-[0-9a-f]{8}", trained["training_job"])
    best = stand.client("sagemaker").describe_training_job(TrainingJobName=trained["training_job"])
    assert best["HyperParameters"]["_tuning_objective_metric"] == "validation:multiclass_accuracy"
    assert "ObjectiveMetric" in {one["Name"] for one in best["AlgorithmSpecification"]["MetricDefinitions"]}
    assert [*trained["hyperparameters"]] == ["learning_rate"]
    assert served["endpoint"]


def test_search_failed(stand: Any, told: list[dict[str, Any]]) -> None:
    with stand.cloud.sagemaker.gates.hold("training") as gate:
        run = search(stand)
        assert gate.reached(30)
        s3 = stand.client("s3")
        for item in s3.list_objects_v2(Bucket=stand.artifact_bucket, Prefix=f"work/{run}/train/")["Contents"]:
            s3.put_object(Bucket=stand.artifact_bucket, Key=item["Key"], Body=b"not recordIO at all")
    assert stand.wait_for_end(run)["detail"]["status"] == "FAILED"
    assert statuses(stand, run, "HyperParameterTuningJobStatus")[-1] == ("Failed", "")
    assert [error for error, _ in failures(told)] == ["JobFailed"]


def test_search_stopped(stand: Any, told: list[dict[str, Any]]) -> None:
    with stand.cloud.sagemaker.gates.hold("training") as gate:
        run = search(stand)
        assert gate.reached(30)
        sagemaker = stand.client("sagemaker")
        (tuning,) = sagemaker.list_hyper_parameter_tuning_jobs(StatusEquals="InProgress")[
            "HyperParameterTuningJobSummaries"
        ]
        sagemaker.stop_hyper_parameter_tuning_job(HyperParameterTuningJobName=tuning["HyperParameterTuningJobName"])
        assert stand.wait_for_end(run)["detail"]["status"] == "FAILED"
    assert statuses(stand, run, "HyperParameterTuningJobStatus")[-1] == ("Stopped", "")
    assert [error for error, _ in failures(told)] == ["JobStopped"]
