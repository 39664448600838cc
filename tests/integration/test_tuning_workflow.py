"""The workflow's search for hyperparameters, whole: its success, its ends, and what no job may see."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

TUNING_EVENT = "SageMaker HyperParameter Tuning Job State Change"
RECIPE = """
algorithm: linear-learner
hyperparameters: {epochs: 2, mini_batch_size: 20, num_models: 2}
tuning:
  objective: validation:objective_loss
  strategy: Random
  max_jobs: 3
  max_parallel_jobs: 2
  ranges:
    wd: {continuous: [0.0000001, 1], scale: Logarithmic}
    learning_rate: {continuous: [0.001, 1], scale: Logarithmic}
"""


@pytest.fixture(autouse=True)
def leaves_nothing(stand: Any) -> Iterator[None]:
    yield
    stand.assert_nothing_left()


@pytest.fixture
def tuned(stand: Any) -> str:
    stand.recipe("tuned", RECIPE)
    return "tuned"


def test_a_search_for_the_number_of_clusters_is_judged_with_what_it_found(stand: Any) -> None:
    stand.recipe(
        "clusters",
        "algorithm: kmeans\ntuning:\n  objective: test:msd\n  max_jobs: 2\n  ranges:\n    k: {integer: [3, 5]}\n",
    )
    run = stand.run_of(stand.drop("clusters"))
    assert stand.wait_for_end(run)["detail"]["status"] == "SUCCEEDED"
    s3 = stand.client("s3")
    report = s3.get_object(Bucket=stand.artifact_bucket, Key=f"runs/{run}/report.html")["Body"].read().decode()
    assert "What was searched" in report
    assert "3 to 5" in report
    metrics = json.loads(s3.get_object(Bucket=stand.artifact_bucket, Key=f"runs/{run}/metrics.json")["Body"].read())
    (search,) = searches(stand, run)
    assert len(metrics["clusters"]) == int(search["BestTrainingJob"]["TunedHyperParameters"]["k"])


def searches(stand: Any, run: str) -> list[dict[str, Any]]:
    """What describe says of each search of a run."""
    sagemaker = stand.client("sagemaker")
    found = []
    for one in sagemaker.list_hyper_parameter_tuning_jobs(MaxResults=100)["HyperParameterTuningJobSummaries"]:
        tags = sagemaker.list_tags(ResourceArn=one["HyperParameterTuningJobArn"])["Tags"]
        if {"Key": "dropmill:run", "Value": run} in tags:
            name = one["HyperParameterTuningJobName"]
            found.append(sagemaker.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=name))
    return found


def test_the_best_job_of_a_search_becomes_the_model(stand: Any, tuned: str) -> None:
    with stand.cloud.hooks.before("sagemaker.CreateTrainingJob", lambda call: None) as plain:
        run = stand.run_of(stand.drop(tuned))
        assert stand.wait_for_end(run)["detail"]["status"] == "SUCCEEDED"
    assert plain.calls == [], "the search starts its jobs itself"
    (search,) = searches(stand, run)
    assert search["HyperParameterTuningJobStatus"] == "Completed"
    assert search["TrainingJobStatusCounters"]["Completed"] == 3
    best = search["BestTrainingJob"]
    artifact = stand.client("sagemaker").describe_training_job(TrainingJobName=best["TrainingJobName"])[
        "ModelArtifacts"
    ]["S3ModelArtifacts"]

    states = stand.client("stepfunctions")
    output = states.describe_execution(executionArn=stand.execution_of(run))["output"]
    assert artifact in output
    assert search["HyperParameterTuningJobName"] in output
    for value in best["TunedHyperParameters"].values():
        assert value in output

    record = stand.record(run)
    assert record["metrics"]["accuracy"] > 0.8
    leases = {lease["step"]: lease for lease in record["leases"]}
    assert set(leases) == {"tuning", "model", "endpoint-config", "endpoint"}
    assert {lease["state"] for lease in leases.values()} == {"closed"}
    assert leases["tuning"]["kind"] == "tuning-job"
    assert leases["tuning"]["billable_seconds"] >= 1
    assert len(stand.jobs(run)) == 3, "the jobs of a search carry the run's tags"
    assert stand.open_rows(run) == []
    report = stand.client("s3").get_object(Bucket=stand.artifact_bucket, Key=f"runs/{run}/report.html")["Body"].read()
    for value in best["TunedHyperParameters"].values():
        assert value.encode() in report
    assert len(stand.notifications(run)) == 1


def test_the_held_out_rows_reach_no_job_of_a_search(stand: Any) -> None:
    stand.recipe(
        "clusters",
        """
algorithm: kmeans
tuning:
  objective: test:msd
  strategy: Grid
  max_jobs: 2
  ranges:
    init_method: {categorical: [random, kmeans++]}
""",
    )
    with stand.cloud.hooks.before("sagemaker.CreateHyperParameterTuningJob", lambda call: None) as hook:
        run = stand.run_of(stand.drop("clusters"))
        assert stand.wait_for_end(run)["detail"]["status"] == "SUCCEEDED"
    (call,) = hook.calls
    asked = [call.request["TrainingJobDefinition"]]
    sagemaker = stand.client("sagemaker")
    names = stand.jobs(run)
    assert len(names) == 2
    asked += [sagemaker.describe_training_job(TrainingJobName=name) for name in names]
    for one in asked:
        parts = {
            channel["ChannelName"]: channel["DataSource"]["S3DataSource"]["S3Uri"].rsplit("/", 2)[-2]
            for channel in one["InputDataConfig"]
        }
        assert parts == {"train": "train", "test": "validation"}
    tried = [sagemaker.describe_training_job(TrainingJobName=name)["HyperParameters"]["init_method"] for name in names]
    assert sorted(tried) == ["kmeans++", "random"]


def test_an_abort_stops_the_search_and_its_jobs(stand: Any, tuned: str) -> None:
    with stand.cloud.sagemaker.gates.hold("training") as gate:
        run = stand.run_of(stand.drop(tuned))
        assert gate.reached(60)
        started = time.monotonic()
        stand.client("stepfunctions").stop_execution(executionArn=stand.execution_of(run))
        stand.wait_for(
            lambda event: (
                event["detail-type"] == TUNING_EVENT
                and event["detail"]["Tags"]["dropmill:run"] == run
                and event["detail"]["HyperParameterTuningJobStatus"] == "Stopped"
            )
        )
        assert time.monotonic() - started < 10
        stand.wait_for_end(run)
        stand.assert_nothing_left()
    stand.sweep()
    record = stand.record(run)
    assert record["status"] == "ABORTED"
    assert [lease["state"] for lease in record["leases"]] == ["closed"]
    assert stand.open_rows(run) == []
    assert len(stand.notifications(run)) == 1


def test_a_search_stopped_by_hand_is_told_plainly(stand: Any, tuned: str) -> None:
    with stand.cloud.sagemaker.gates.hold("training") as gate:
        run = stand.run_of(stand.drop(tuned))
        assert gate.reached(60)
        (search,) = searches(stand, run)
        stand.client("sagemaker").stop_hyper_parameter_tuning_job(
            HyperParameterTuningJobName=search["HyperParameterTuningJobName"]
        )
        assert stand.wait_for_end(run)["detail"]["status"] == "FAILED"
    record = stand.record(run)
    assert record["error"] == "JobStopped"
    assert "somebody stopped it" in record["cause"]
    assert stand.open_rows(run) == []


def test_a_search_whose_every_job_fails_is_told_plainly(stand: Any, tuned: str) -> None:
    with stand.cloud.sagemaker.gates.hold("training") as gate:
        run = stand.run_of(stand.drop(tuned))
        assert gate.reached(60)
        s3 = stand.client("s3")
        for item in s3.list_objects_v2(Bucket=stand.artifact_bucket, Prefix=f"work/{run}/train/")["Contents"]:
            s3.put_object(Bucket=stand.artifact_bucket, Key=item["Key"], Body=b"not recordIO at all")
    assert stand.wait_for_end(run)["detail"]["status"] == "FAILED"
    record = stand.record(run)
    assert record["error"] == "JobFailed"
    assert "All training jobs failed" in record["cause"]
    assert "ClientError" in record["cause"], "the first job's own reason"
    (message,) = stand.notifications(run)
    assert record["cause"] in message["Message"]
    assert stand.open_rows(run) == []


def test_a_launcher_that_dies_after_the_create_call_adopts_the_search(stand: Any, tuned: str) -> None:
    died: list[int] = []

    def die_once(call: Any) -> None:
        if not died:
            died.append(stand.cloud.lambdas.kill(stand.function("launch_tuning")))

    with stand.cloud.hooks.after("sagemaker.CreateHyperParameterTuningJob", die_once) as hook:
        run = stand.run_of(stand.drop(tuned))
        assert stand.wait_for_end(run)["detail"]["status"] == "SUCCEEDED"
    assert died == [1]
    assert len(hook.calls) == 1, "the create call was made once, and adopted"
    assert len(searches(stand, run)) == 1
    assert stand.open_rows(run) == []


def test_a_lost_event_costs_minutes(stand: Any, tuned: str) -> None:
    with stand.cloud.events.drop(lambda event: bool(event["detail-type"] == TUNING_EVENT)):
        run = stand.run_of(stand.drop(tuned))
        stand.wait_for(
            lambda event: (
                event["detail-type"] == "SageMaker Training Job State Change"
                and event["detail"]["Tags"]["dropmill:run"] == run
                and "-003-" in event["detail"]["TrainingJobName"]
                and event["detail"]["TrainingJobStatus"] == "Completed"
            )
        )
        deadline = time.monotonic() + 30
        while searches(stand, run)[0]["HyperParameterTuningJobStatus"] != "Completed":
            assert time.monotonic() < deadline
            time.sleep(0.05)  # its event is the one that is lost
        stand.settle()
        stand.sweep()
    assert stand.wait_for_end(run)["detail"]["status"] == "SUCCEEDED"
    assert stand.open_rows(run) == []
