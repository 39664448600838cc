"""Every way in which a run can end, and what is left after it: nothing.

Each test asks SageMaker itself, not the ledger, that nothing billable remains.
"""

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from localaws.server import CallError

TRAINING_EVENT = "SageMaker Training Job State Change"
ENDPOINT_EVENT = "SageMaker Endpoint State Change"


@pytest.fixture(autouse=True)
def leaves_nothing(stand: Any) -> Iterator[None]:
    yield
    stand.assert_nothing_left()


def test_a_good_drop_ends_with_a_judged_model(stand: Any) -> None:
    run = stand.run_of(stand.drop())
    assert stand.wait_for_end(run)["detail"]["status"] == "SUCCEEDED"
    record = stand.record(run)
    assert record["status"] == "SUCCEEDED"
    assert record["metrics"]["accuracy"] > 0.9
    assert {lease["step"]: lease["state"] for lease in record["leases"]} == {
        "training": "closed",
        "model": "closed",
        "endpoint-config": "closed",
        "endpoint": "closed",
    }
    assert stand.open_rows(run) == []
    report = stand.client("s3").get_object(Bucket=stand.artifact_bucket, Key=f"runs/{run}/report.html")
    assert b"<html" in report["Body"].read()
    (message,) = stand.notifications(run)
    assert "has an approved model" in message["Subject"]
    assert "Nothing billable is left running." in message["Message"]


def test_points_are_clustered_with_the_recipe_of_that_name(stand: Any) -> None:
    run = stand.run_of(stand.drop("kmeans"))
    assert stand.wait_for_end(run)["detail"]["status"] == "SUCCEEDED"
    metrics = stand.record(run)["metrics"]
    assert metrics["purity"] > 0.9
    assert set(metrics) == {"msd", "purity", "nmi"}


def test_the_held_out_rows_never_reach_a_job(stand: Any) -> None:
    with stand.cloud.hooks.before("sagemaker.CreateTrainingJob", lambda call: None) as hook:
        run = stand.run_of(stand.drop("kmeans"))
        stand.wait_for_end(run)
    (call,) = hook.calls
    channels = {
        channel["ChannelName"]: channel["DataSource"]["S3DataSource"]["S3Uri"].rsplit("/", 2)[-2]
        for channel in call.request["InputDataConfig"]
    }
    assert channels == {"train": "train", "test": "validation"}


def test_a_training_that_fails_is_told_plainly(stand: Any) -> None:
    with stand.cloud.sagemaker.gates.hold("training") as gate:
        run = stand.run_of(stand.drop())
        assert gate.reached(30)
        s3 = stand.client("s3")
        for item in s3.list_objects_v2(Bucket=stand.artifact_bucket, Prefix=f"work/{run}/train/")["Contents"]:
            s3.put_object(Bucket=stand.artifact_bucket, Key=item["Key"], Body=b"not recordIO at all")
    assert stand.wait_for_end(run)["detail"]["status"] == "FAILED"
    record = stand.record(run)
    assert record["error"] == "JobFailed"
    assert "ClientError" in record["cause"]
    assert "log" in record["cause"]
    (message,) = stand.notifications(run)
    assert record["cause"] in message["Message"]
    assert stand.open_rows(run) == []


def test_an_abort_while_the_endpoint_is_being_created(stand: Any) -> None:
    with stand.cloud.sagemaker.gates.hold("endpoint") as gate:
        run = stand.run_of(stand.drop())
        assert gate.reached(60)
        stand.client("stepfunctions").stop_execution(executionArn=stand.execution_of(run))
        stand.wait_for_end(run)
        # SageMaker deletes no endpoint that it is still creating, so it is there, and on record as closing.
        assert len(stand.client("sagemaker").list_endpoints()["Endpoints"]) == 1
        assert "LEASE#endpoint" in stand.open_rows(run)
    stand.wait_for(
        lambda event: (
            event["detail-type"] == ENDPOINT_EVENT
            and event["detail"]["EndpointStatus"] == "IN_SERVICE"
            and event["detail"]["Tags"]["dropmill:run"] == run
        )
    )
    stand.settle()
    stand.sweep()
    assert stand.record(run)["status"] == "ABORTED"
    assert stand.open_rows(run) == []
    assert len(stand.notifications(run)) == 1


def test_an_abort_between_the_intent_and_the_create_call(stand: Any) -> None:
    at_create, go_on = threading.Event(), threading.Event()

    def hold(call: Any) -> None:
        at_create.set()
        assert go_on.wait(60)

    with stand.cloud.hooks.before("sagemaker.CreateTrainingJob", hold) as hook:
        run = stand.run_of(stand.drop())
        assert at_create.wait(60)
        stand.client("stepfunctions").stop_execution(executionArn=stand.execution_of(run))
        stand.wait_for_end(run)
        go_on.set()
        stand.wait_for(
            lambda event: (
                event["detail-type"] == TRAINING_EVENT
                and event["detail"]["Tags"]["dropmill:run"] == run
                and event["detail"]["TrainingJobStatus"] == "Stopped"
            )
        )
        stand.settle()
    assert len(hook.calls) == 1
    stand.sweep()
    assert stand.open_rows(run) == []
    assert stand.record(run)["status"] == "ABORTED"
    assert len(stand.notifications(run)) == 1


@pytest.mark.parametrize(
    ("step", "operation"), [("launch_training", "CreateTrainingJob"), ("deploy_endpoint", "CreateEndpoint")]
)
def test_a_launcher_that_dies_after_the_create_call_adopts_it(stand: Any, step: str, operation: str) -> None:
    died: list[int] = []

    def die_once(call: Any) -> None:
        if not died:
            died.append(stand.cloud.lambdas.kill(stand.function(step)))

    with stand.cloud.hooks.after(f"sagemaker.{operation}", die_once) as hook:
        run = stand.run_of(stand.drop())
        assert stand.wait_for_end(run)["detail"]["status"] == "SUCCEEDED"
    assert died == [1]
    assert len(hook.calls) == 1, "the create call was made once, and adopted"
    assert len(stand.jobs(run)) == 1
    assert stand.open_rows(run) == []


def test_a_launcher_that_dies_before_the_create_call_is_run_again(stand: Any) -> None:
    died: list[int] = []

    def die_once(call: Any) -> None:
        if not died:
            died.append(stand.cloud.lambdas.kill(stand.function("deploy_endpoint")))
            raise CallError("ServiceUnavailable", status=503)

    with stand.cloud.hooks.before("sagemaker.CreateEndpoint", die_once):
        run = stand.run_of(stand.drop())
        assert stand.wait_for_end(run)["detail"]["status"] == "SUCCEEDED"
    assert died == [1]
    assert stand.open_rows(run) == []


def test_a_quota_is_waited_for_and_told(stand: Any) -> None:
    """The workflow waits minutes before it tries again; the run is aborted meanwhile."""

    def refuse(call: Any) -> None:
        raise CallError("ResourceLimitExceeded", "the account-level service limit is 0 instances")

    with stand.cloud.hooks.before("sagemaker.CreateTrainingJob", refuse) as hook:
        run = stand.run_of(stand.drop())
        history = stand.wait_for_history(run, "TaskFailed", "LambdaFunctionFailed", "TaskSubmitFailed")
        stand.client("stepfunctions").stop_execution(executionArn=stand.execution_of(run))
        stand.wait_for_end(run)
    assert "CapacityError" in json.dumps(history, default=str)
    assert "raise the quota" in json.dumps(history, default=str)
    assert len(hook.calls) == 1
    assert stand.open_rows(run) == []


def test_a_notification_that_could_not_be_sent_is_sent_later(stand: Any) -> None:
    def refuse(call: Any) -> None:
        raise CallError("InternalError", status=400)

    with stand.cloud.hooks.before("sns.Publish", refuse) as hook:
        run = stand.run_of(stand.drop())
        stand.wait_for_end(run)
        assert len(hook.calls) == 3, "Lambda tries an event three times"
        assert stand.notifications(run) == []
        assert stand.open_rows(run) == ["META"]
    stand.sweep()
    assert len(stand.notifications(run)) == 1
    assert stand.open_rows(run) == []


def test_an_execution_started_by_hand_that_never_came_to_write_its_row(stand: Any) -> None:
    run = "linear-learner-by-hand"
    drop = {"bucket": stand.drop_bucket, "key": "drops/linear-learner/by-hand.csv", "version_id": None, "size": 1}

    def refuse(call: Any) -> None:
        raise CallError("ValidationException")

    with stand.cloud.hooks.before("dynamodb.PutItem", refuse):
        stand.client("stepfunctions").start_execution(
            stateMachineArn=stand.stack.outputs["TrainStateMachineArn"],
            name=run,
            input=json.dumps({"recipe": "linear-learner", "recipe_version": None, "drop": drop}),
        )
        stand.wait_for(
            lambda event: (
                event["source"] == "aws.states"
                and event["detail"]["status"] == "FAILED"
                and event["detail"]["name"] == run
            )
        )
    stand.settle()
    assert stand.record(run)["status"] == "FAILED"
    assert len(stand.notifications(run)) == 1


def test_an_execution_that_runs_out_of_time(stand: Any) -> None:
    machine = stand.stack.outputs["TrainStateMachineArn"]
    states = stand.client("stepfunctions")
    definition = states.describe_state_machine(stateMachineArn=machine)["definition"]
    states.update_state_machine(
        stateMachineArn=machine, definition=json.dumps({**json.loads(definition), "TimeoutSeconds": 4})
    )
    try:
        with stand.cloud.sagemaker.gates.hold("training"):
            run = stand.run_of(stand.drop())
            assert stand.wait_for_end(run)["detail"]["status"] == "TIMED_OUT"
    finally:
        states.update_state_machine(stateMachineArn=machine, definition=definition)
    stand.settle()
    stand.sweep()
    assert stand.record(run)["status"] == "TIMED_OUT"
    assert stand.open_rows(run) == []
    (message,) = stand.notifications(run)
    assert "ran out of time" in message["Subject"]


def test_an_event_that_comes_three_times_starts_one_run(stand: Any) -> None:
    with stand.cloud.events.repeat(lambda event: event["detail-type"] == "Object Created", 3):
        key = stand.drop()
        run = stand.run_of(key)
        assert stand.wait_for_end(run)["detail"]["status"] == "SUCCEEDED"
    starts = [
        event
        for event in stand.seen
        if event["source"] == "aws.states"
        and event["detail"]["status"] == "RUNNING"
        and json.loads(event["detail"]["input"])["drop"]["key"] == key
    ]
    assert len(starts) == 1
    assert len(stand.jobs(run)) == 1
    assert len(stand.notifications(run)) == 1


def test_an_ending_that_is_told_three_times_is_announced_once(stand: Any) -> None:
    with stand.cloud.events.repeat(
        lambda event: event["source"] == "aws.states" and event["detail"]["status"] != "RUNNING", 3
    ):
        run = stand.run_of(stand.drop())
        stand.wait_for_end(run)
    assert len(stand.notifications(run)) == 1


def test_sagemaker_events_that_never_come_cost_minutes(stand: Any) -> None:
    def is_lost(event: dict[str, Any]) -> bool:
        return bool(event["source"] == "aws.sagemaker")

    with stand.cloud.events.drop(is_lost):
        run = stand.run_of(stand.drop())
        for detail_type, key, status in (
            (TRAINING_EVENT, "TrainingJobStatus", "Completed"),
            (ENDPOINT_EVENT, "EndpointStatus", "IN_SERVICE"),
        ):
            stand.wait_for(
                lambda event, t=detail_type, k=key, s=status: (
                    event["detail-type"] == t
                    and event["detail"][k] == s
                    and event["detail"]["Tags"]["dropmill:run"] == run
                )
            )
            stand.sweep()
        assert stand.wait_for_end(run)["detail"]["status"] == "SUCCEEDED"
    assert stand.record(run)["status"] == "SUCCEEDED"
    assert len(stand.notifications(run)) == 1


def test_an_ending_event_that_never_comes_is_noticed_by_the_sweeper(stand: Any) -> None:
    with stand.cloud.events.drop(
        lambda event: event["source"] == "aws.states" and event["detail"]["status"] != "RUNNING"
    ):
        run = stand.run_of(stand.drop())
        stand.wait_for_end(run)
        assert stand.notifications(run) == []
        assert stand.open_rows(run) == ["META"]
        stand.sweep()
        stand.sweep()
    assert stand.record(run)["status"] == "SUCCEEDED"
    assert len(stand.notifications(run)) == 1
    assert stand.open_rows(run) == []
