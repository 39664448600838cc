"""Tuning jobs of the embedded SageMaker, as botocore sees them; the algorithm is a stand-in whose best x is 0.3."""

import re
import time
from typing import Any

import pytest
from botocore.exceptions import ClientError

GROUP = "SageMaker HyperParameter Tuning Job State Change"


def search(jobs: Any, name: str, region: str | None = None, **changed: Any) -> Any:
    """Create a tuning job; what is changed goes where SageMaker has it."""
    api = jobs.cloud._session.client("sagemaker", region, endpoint_url=jobs.cloud.endpoint_url) if region else jobs.api
    limits = {"MaxNumberOfTrainingJobs": 4, "MaxParallelTrainingJobs": 2, **changed.pop("limits", {})}
    static = {"behave": "judge", **changed.pop("static", {})}
    definition = {
        "AlgorithmSpecification": {"TrainingImage": jobs.IMAGE, "TrainingInputMode": "File"},
        "RoleArn": jobs.ROLE,
        "OutputDataConfig": {"S3OutputPath": f"s3://{jobs.BUCKET}/models"},
        "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1},
        "StoppingCondition": {"MaxRuntimeInSeconds": 60},
        "StaticHyperParameters": static,
        **changed.pop("definition", {}),
    }
    more = {key: changed.pop(key) for key in ("WarmStartConfig", "Tags", "Autotune") if key in changed}
    return api.create_hyper_parameter_tuning_job(
        HyperParameterTuningJobName=name,
        HyperParameterTuningJobConfig={
            "Strategy": "Random",
            "HyperParameterTuningJobObjective": {"Type": "Minimize", "MetricName": "test:msd"},
            "ResourceLimits": {key: value for key, value in limits.items() if value is not None},
            "ParameterRanges": {"ContinuousParameterRanges": [{"Name": "x", "MinValue": "0", "MaxValue": "1"}]},
            "RandomSeed": 1,
            **changed,
        },
        TrainingJobDefinition=definition,
        **more,
    )


def described(jobs: Any, name: str) -> Any:
    return jobs.api.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)


def children(jobs: Any, name: str, **request: Any) -> list[dict[str, Any]]:
    answer = jobs.api.list_training_jobs_for_hyper_parameter_tuning_job(HyperParameterTuningJobName=name, **request)
    return list(answer["TrainingJobSummaries"])


def categories(*values: str) -> dict[str, Any]:
    return {"CategoricalParameterRanges": [{"Name": "x", "Values": list(values)}]}


def test_a_search_ends_with_its_best_job(jobs: Any) -> None:
    with jobs.cloud.sagemaker.gates.hold("training") as gate:
        made = search(jobs, "Random", Tags=[{"Key": "dropmill:run", "Value": "r-1"}])
        assert made["HyperParameterTuningJobArn"].endswith(":hyper-parameter-tuning-job/random")
        jobs.wait_for(lambda event: "/random-002-" in event["resources"][0])
        for child in children(jobs, "Random"):
            assert gate.reached(10, child["TrainingJobName"])
        shown = described(jobs, "Random")
        assert shown["HyperParameterTuningJobStatus"] == "InProgress"
        assert shown["TrainingJobStatusCounters"]["InProgress"] == 2, "no more than are allowed at once"
        assert shown["ObjectiveStatusCounters"] == {"Succeeded": 0, "Pending": 2, "Failed": 0}
        assert "BestTrainingJob" not in shown
    assert jobs.wait_for_status("random") == "Completed"
    shown = described(jobs, "Random")
    assert shown["TrainingJobStatusCounters"] == {
        "Completed": 4,
        "InProgress": 0,
        "RetryableError": 0,
        "NonRetryableError": 0,
        "Stopped": 0,
    }
    assert shown["ObjectiveStatusCounters"] == {"Succeeded": 4, "Pending": 0, "Failed": 0}
    assert shown["ConsumedResources"]["RuntimeInSeconds"] >= 1
    assert shown["HyperParameterTuningEndTime"] >= shown["CreationTime"]

    found = children(jobs, "Random")
    for number, child in enumerate(found, 1):
        assert re.fullmatch(rf"Random-{number:03d}-[0-9a-f]{{8}}", child["TrainingJobName"])
        assert child["ObjectiveStatus"] == "Succeeded"
    losses = {one["TrainingJobName"]: (float(one["TunedHyperParameters"]["x"]) - 0.3) ** 2 for one in found}
    by_value = children(jobs, "Random", SortBy="FinalObjectiveMetricValue", SortOrder="Ascending")
    assert [one["TrainingJobName"] for one in by_value] == sorted(losses, key=lambda name: losses[name])
    best = shown["BestTrainingJob"]
    assert best["TrainingJobName"] == by_value[0]["TrainingJobName"]
    metric = best["FinalHyperParameterTuningJobObjectiveMetric"]
    assert (metric["Type"], metric["MetricName"]) == ("Minimize", "test:msd")
    assert metric["Value"] == pytest.approx(losses[best["TrainingJobName"]] + 1 / 3)

    job = jobs.api.describe_training_job(TrainingJobName=best["TrainingJobName"])
    assert job["TuningJobArn"] == made["HyperParameterTuningJobArn"]
    assert job["HyperParameters"] == {
        "behave": "judge",
        "_tuning_objective_metric": "test:msd",
        **best["TunedHyperParameters"],
    }
    regexes = {one["Name"]: one["Regex"] for one in job["AlgorithmSpecification"]["MetricDefinitions"]}
    assert regexes["ObjectiveMetric"] == regexes["test:msd"]
    values = {one["MetricName"]: one["Value"] for one in job["FinalMetricDataList"]}
    assert values["ObjectiveMetric"] == values["test:msd"]
    tags = jobs.api.list_tags(ResourceArn=job["TrainingJobArn"])["Tags"]
    assert tags == [{"Key": "dropmill:run", "Value": "r-1"}]

    events = jobs.of("random")
    assert [event["HyperParameterTuningJobStatus"] for event in events] == ["InProgress", "Completed"]
    assert events[-1]["HyperParameterTuningJobName"] == "Random"
    assert events[-1]["Tags"] == {"dropmill:run": "r-1"}
    assert isinstance(events[-1]["CreationTime"], int)
    assert {event["detail-type"] for event in jobs.seen if event["resources"][0].endswith("/random")} == {GROUP}

    listed = jobs.api.list_hyper_parameter_tuning_jobs(NameContains="Random", StatusEquals="Completed")
    (one,) = listed["HyperParameterTuningJobSummaries"]
    assert (one["Strategy"], one["ResourceLimits"]["MaxNumberOfTrainingJobs"]) == ("Random", 4)
    pages = jobs.api.get_paginator("list_training_jobs_for_hyper_parameter_tuning_job").paginate(
        HyperParameterTuningJobName="Random",
        SortBy="FinalObjectiveMetricValue",
        SortOrder="Descending",
        PaginationConfig={"PageSize": 1},
    )
    assert [one["TrainingJobName"] for page in pages for one in page["TrainingJobSummaries"]] == [
        one["TrainingJobName"] for one in reversed(by_value)
    ]


def test_a_seed_gives_the_same_search_again(jobs: Any) -> None:
    for name in ("seeded-a", "seeded-b"):
        search(jobs, name, limits={"MaxNumberOfTrainingJobs": 3, "MaxParallelTrainingJobs": 3}, RandomSeed=7)
    for name in ("seeded-a", "seeded-b"):
        assert jobs.wait_for_status(name) == "Completed"
    tuned = [[one["TunedHyperParameters"] for one in children(jobs, name)] for name in ("seeded-a", "seeded-b")]
    assert tuned[0] == tuned[1]


def test_a_bayesian_search_closes_in(jobs: Any) -> None:
    search(
        jobs,
        "bayesian",
        Strategy="Bayesian",
        limits={"MaxNumberOfTrainingJobs": 10},
        ParameterRanges={
            "ContinuousParameterRanges": [{"Name": "x", "MinValue": "0.001", "MaxValue": "1"}],
            "IntegerParameterRanges": [{"Name": "y", "MinValue": "1", "MaxValue": "9"}],
            "CategoricalParameterRanges": [{"Name": "z", "Values": ["a", "b"]}],
        },
    )
    assert jobs.wait_for_status("bayesian") == "Completed"
    best = described(jobs, "bayesian")["BestTrainingJob"]
    assert abs(float(best["TunedHyperParameters"]["x"]) - 0.3) < 0.1
    assert set(best["TunedHyperParameters"]) == {"x", "y", "z"}


def test_a_grid_tries_every_combination(jobs: Any) -> None:
    search(
        jobs,
        "grid",
        Strategy="Grid",
        limits={"MaxNumberOfTrainingJobs": None},
        ParameterRanges={
            "CategoricalParameterRanges": [
                {"Name": "x", "Values": ["0.1", "0.3"]},
                {"Name": "y", "Values": ["a", "b"]},
            ]
        },
    )
    assert jobs.wait_for_status("grid") == "Completed"
    tried = [tuple(one["TunedHyperParameters"].values()) for one in children(jobs, "grid")]
    assert tried == [("0.1", "a"), ("0.1", "b"), ("0.3", "a"), ("0.3", "b")]
    assert described(jobs, "grid")["BestTrainingJob"]["TunedHyperParameters"]["x"] == "0.3"


def test_a_hopeless_job_is_stopped_early(jobs: Any) -> None:
    search(
        jobs,
        "early",
        Strategy="Grid",
        TrainingJobEarlyStoppingType="Auto",
        limits={"MaxNumberOfTrainingJobs": 4, "MaxParallelTrainingJobs": 1},
        ParameterRanges=categories("0.3", "0.31", "0.29", "9"),
    )
    assert jobs.wait_for_status("early") == "Completed"
    last = children(jobs, "early")[-1]
    assert (last["TrainingJobStatus"], last["ObjectiveStatus"]) == ("Stopped", "Succeeded")
    assert last["FinalHyperParameterTuningJobObjectiveMetric"]["Value"] > 70
    assert described(jobs, "early")["TrainingJobStatusCounters"]["Stopped"] == 1


def test_one_failing_job_fails_no_search(jobs: Any) -> None:
    search(
        jobs,
        "mixed",
        Strategy="Grid",
        static={"x": "0.3"},
        limits={"MaxNumberOfTrainingJobs": 2},
        ParameterRanges={"CategoricalParameterRanges": [{"Name": "behave", "Values": ["judge", "crash"]}]},
        definition={"StaticHyperParameters": {"x": "0.3"}},
    )
    assert jobs.wait_for_status("mixed") == "Completed"
    shown = described(jobs, "mixed")
    assert shown["TrainingJobStatusCounters"]["NonRetryableError"] == 1
    assert shown["ObjectiveStatusCounters"] == {"Succeeded": 1, "Pending": 0, "Failed": 1}
    (failed,) = children(jobs, "mixed", StatusEquals="Failed")
    assert failed["FailureReason"] == "AlgorithmError: Exit Code: 1"
    assert "FinalHyperParameterTuningJobObjectiveMetric" not in failed
    valued = children(jobs, "mixed", SortBy="FinalObjectiveMetricValue")
    assert [one["TrainingJobStatus"] for one in valued] == ["Completed"]


@pytest.mark.parametrize(
    ("behave", "words"),
    [("plain-user-error", "ClientError: k is missing"), ("succeed", "No objective metrics found after running 4")],
)
def test_a_search_without_any_objective_fails(jobs: Any, behave: str, words: str) -> None:
    name = f"fails-{behave[:5]}"
    search(jobs, name, static={"behave": behave})
    assert jobs.wait_for_status(name) == "Failed"
    shown = described(jobs, name)
    assert words in shown["FailureReason"]
    assert shown["ObjectiveStatusCounters"] == {"Succeeded": 0, "Pending": 0, "Failed": 4}
    assert "BestTrainingJob" not in shown


def test_a_stop_ends_the_jobs_too(jobs: Any) -> None:
    search(jobs, "stopped", static={"behave": "hang"})
    jobs.wait_for(lambda event: "/stopped-002-" in event["resources"][0])
    for child in children(jobs, "stopped"):
        jobs.wait_for(
            lambda event, arn=child["TrainingJobArn"]: (
                event["resources"] == [arn] and event["detail"]["SecondaryStatus"] == "Training"
            )
        )
    started = time.monotonic()
    jobs.api.stop_hyper_parameter_tuning_job(HyperParameterTuningJobName="stopped")
    jobs.api.stop_hyper_parameter_tuning_job(HyperParameterTuningJobName="stopped")
    assert jobs.wait_for_status("stopped") == "Stopped"
    assert time.monotonic() - started < 2
    assert [one["TrainingJobStatus"] for one in children(jobs, "stopped")] == ["Stopped", "Stopped"]
    assert [event["HyperParameterTuningJobStatus"] for event in jobs.of("stopped")] == [
        "InProgress",
        "Stopping",
        "Stopped",
    ]
    with pytest.raises(ClientError, match="is in status Stopped"):
        jobs.api.stop_hyper_parameter_tuning_job(HyperParameterTuningJobName="stopped")
    jobs.api.delete_hyper_parameter_tuning_job(HyperParameterTuningJobName="stopped")
    with pytest.raises(ClientError, match="Could not find"):
        described(jobs, "stopped")


def test_the_time_limit_stops_a_search(jobs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tuning = jobs.cloud.sagemaker._tuning
    make = tuning._search

    def soon(region: str, request: dict[str, Any]) -> Any:
        made = make(region, request)
        made.deadline = time.monotonic() + 0.2
        return made

    monkeypatch.setattr(tuning, "_search", soon)
    search(jobs, "late", static={"behave": "hang"}, limits={"MaxRuntimeInSeconds": 120})
    assert jobs.wait_for_status("late") == "Stopped"
    assert {one["TrainingJobStatus"] for one in children(jobs, "late")} == {"Stopped"}


def test_regions_are_worlds_apart(jobs: Any) -> None:
    search(jobs, "abroad", region="eu-west-1", limits={"MaxNumberOfTrainingJobs": 1, "MaxParallelTrainingJobs": 1})
    assert jobs.wait_for_status("abroad") == "Completed"
    with pytest.raises(ClientError, match="Could not find"):
        described(jobs, "abroad")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"Strategy": "Hyperband"}, "The Hyperband strategy is not supported by the embedded SageMaker"),
        (
            {
                "WarmStartConfig": {
                    "ParentHyperParameterTuningJobs": [{"HyperParameterTuningJobName": "a"}],
                    "WarmStartType": "TransferLearning",
                }
            },
            "WarmStartConfig is not supported by the embedded SageMaker",
        ),
        ({"Autotune": {"Mode": "Enabled"}}, "Autotune is not supported"),
        (
            {"HyperParameterTuningJobObjective": {"Type": "Minimize", "MetricName": "test:nothing"}},
            r"Choose a valid objective metric: \[test:msd\]",
        ),
        (
            {"HyperParameterTuningJobObjective": {"Type": "Maximize", "MetricName": "test:msd"}},
            r"Choose a valid objective type: \[Minimize\]",
        ),
        ({"Strategy": "Grid"}, "categorical hyperparameters only"),
        ({"Strategy": "Grid", "ParameterRanges": categories("1", "2")}, "number of combinations, 2"),
        ({"limits": {"MaxNumberOfTrainingJobs": None}}, "needs MaxNumberOfTrainingJobs"),
        ({"limits": {"MaxParallelTrainingJobs": 5}}, "must not be larger than MaxNumberOfTrainingJobs"),
        ({"limits": {"MaxParallelTrainingJobs": 101, "MaxNumberOfTrainingJobs": 200}}, "at most 100 training jobs at"),
        ({"ParameterRanges": {}}, "at least one hyperparameter range"),
        ({"static": {"x": "1"}}, "both static and in the ranges"),
        (
            {"ParameterRanges": {"ContinuousParameterRanges": [{"Name": "x", "MinValue": "2", "MaxValue": "1"}]}},
            "is larger than its MaxValue",
        ),
        (
            {"ParameterRanges": {"IntegerParameterRanges": [{"Name": "x", "MinValue": "1.5", "MaxValue": "2"}]}},
            "is not an integer",
        ),
        (
            {"ParameterRanges": {"ContinuousParameterRanges": [{"Name": "x", "MinValue": "nan", "MaxValue": "1"}]}},
            "is not a number",
        ),
        ({"definition": {"StoppingCondition": {"MaxRuntimeInSeconds": 1, "MaxWaitTimeInSeconds": 2}}}, "only when"),
    ],
)
def test_a_request_against_the_rules_makes_nothing(jobs: Any, changed: dict[str, Any], words: str) -> None:
    with pytest.raises(ClientError, match=words) as caught:
        search(jobs, "refused", **changed)
    assert caught.value.response["Error"]["Code"] == "ValidationException"
    with pytest.raises(ClientError, match="Could not find"):
        described(jobs, "refused")


def test_names_are_unique(jobs: Any) -> None:
    with jobs.cloud.sagemaker.gates.hold("training"):
        search(jobs, "Twice", limits={"MaxNumberOfTrainingJobs": 1, "MaxParallelTrainingJobs": 1})
        with pytest.raises(ClientError, match="must be unique") as caught:
            search(jobs, "twice")
        assert caught.value.response["Error"]["Code"] == "ResourceInUse"
        with pytest.raises(ClientError, match="can't be deleted"):
            jobs.api.delete_hyper_parameter_tuning_job(HyperParameterTuningJobName="Twice")
    assert jobs.wait_for_status("twice") == "Completed"
