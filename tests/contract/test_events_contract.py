"""The sample payloads: each is what its function is really sent, and all are about one run."""

import json
import re
from datetime import datetime
from typing import Any

import pytest
from moto.events.models import EventPattern
from pydantic import BaseModel

from dropmill import naming
from dropmill.contracts import InspectInput
from localaws.cloud import ACCOUNT_ID

STACK = "dropmill-local"
STEPS = [
    "audit_resources",
    "claim_files",
    "close_run",
    "convert_rows",
    "convert_shard",
    "create_model",
    "deploy_endpoint",
    "evaluate_model",
    "follow_approval",
    "inspect_drop",
    "judge_model",
    "launch_training",
    "launch_transform",
    "launch_tuning",
    "publish_predictions",
    "register_model",
    "resume_task",
    "seal_batch",
    "seal_dataset",
    "start_run",
    "start_scoring",
    "sweep_leases",
    "tear_down",
]
OF_A_BATCH = ["claim_files", "convert_rows", "publish_predictions", "seal_batch"]
"""Functions of the scoring workflow alone, whose run is a batch."""
RULED = ["close_run", "follow_approval", "resume_task", "start_run"]
"""Functions that a rule with a pattern calls; the schedule's event has nothing to match."""


def resolved(value: Any) -> Any:
    """A pattern as the embedded cloud's stack has it."""
    if isinstance(value, list):
        return [resolved(item) for item in value]
    if isinstance(value, dict):
        if value.keys() == {"Ref"}:
            return {
                "AWS::StackName": STACK,
                "Drops": f"{STACK}-drops",
                "ScoreStateMachine": f"arn:aws:states:us-east-1:{ACCOUNT_ID}:stateMachine:{STACK}-ScoreStateMachine",
                "TrainStateMachine": f"arn:aws:states:us-east-1:{ACCOUNT_ID}:stateMachine:{STACK}-TrainStateMachine",
            }[value["Ref"]]
        if value.keys() == {"Fn::Sub"}:
            return value["Fn::Sub"].replace("${AWS::StackName}", STACK)
        return {key: resolved(item) for key, item in value.items()}
    return value


@pytest.fixture(scope="module")
def inspected(events: dict[str, Any]) -> InspectInput:
    return InspectInput.model_validate(events["inspect_drop"])


def test_every_function_has_an_event(events: dict[str, Any], functions: dict[str, Any]) -> None:
    assert events.keys() == functions.keys() == set(STEPS)


@pytest.mark.parametrize("step", STEPS)
def test_the_event_is_the_input_of_its_step(step: str, events: dict[str, Any], functions: dict[str, Any]) -> None:
    model: type[BaseModel] = functions[step].types["request"]
    model.model_validate(events[step])


@pytest.mark.parametrize("step", RULED)
def test_a_rule_of_the_template_lets_the_event_through(
    step: str, events: dict[str, Any], functions: dict[str, Any]
) -> None:
    rules = functions[step].properties["Events"].values()
    patterns = [EventPattern.load(json.dumps(resolved(rule["Properties"]["Pattern"]))) for rule in rules]
    assert sum(pattern.matches_event(events[step]) for pattern in patterns) == 1


@pytest.mark.parametrize(("field", "value"), [("TrainingJobStatus", "InProgress"), ("Tags", {"dropmill:stack": "b"})])
def test_what_is_not_ours_or_not_over_is_held_back(
    field: str, value: Any, events: dict[str, Any], functions: dict[str, Any]
) -> None:
    event = events["resume_task"] | {"detail": events["resume_task"]["detail"] | {field: value}}
    for rule in functions["resume_task"].properties["Events"].values():
        pattern = EventPattern.load(json.dumps(resolved(rule["Properties"]["Pattern"])))
        assert not pattern.matches_event(event)


@pytest.mark.parametrize(
    ("key", "passes"),
    [
        ("drops/kmeans/points.csv", True),
        ("drops/kmeans/digits/_SUCCESS", True),
        ("recipes/kmeans.yaml", False),
        ("scoring/kmeans/points.csv", False),
    ],
)
def test_what_is_dropped_reaches_start_run(
    key: str, passes: bool, events: dict[str, Any], functions: dict[str, Any]
) -> None:
    dropped = events["start_run"]["detail"]
    event = events["start_run"] | {"detail": dropped | {"object": dropped["object"] | {"key": key}}}
    (rule,) = functions["start_run"].properties["Events"].values()
    pattern = EventPattern.load(json.dumps(resolved(rule["Properties"]["Pattern"])))
    assert pattern.matches_event(event) is passes


def test_the_run_is_the_one_that_the_drop_starts(events: dict[str, Any], inspected: InspectInput) -> None:
    drop = inspected.drop
    dropped = events["start_run"]["detail"]
    assert (dropped["bucket"]["name"], dropped["object"]["key"]) == (drop.bucket, drop.key)
    assert (dropped["object"]["size"], dropped["object"].get("version-id")) == (drop.size, drop.version_id)
    assert drop.bucket == f"{STACK}-drops"
    assert naming.recipe_of_drop(drop.key) == inspected.recipe
    assert inspected.run_id == naming.run_id(inspected.recipe, drop.bucket, drop.key, drop.version_id, "")


def test_all_events_are_about_that_run(events: dict[str, Any], inspected: InspectInput) -> None:
    run, recipe = inspected.run_id, inspected.recipe
    job = naming.sagemaker_name(STACK, recipe, run, "training", 1)
    prefix = naming.model_prefix(recipe, run)
    artifact = f"s3://{STACK}-artifacts/{prefix}/{job}/output/model.tar.gz"
    ended = events["resume_task"]["detail"]
    batch = naming.batch_id(recipe, datetime.fromisoformat(events["start_scoring"]["scheduled_time"]))
    assert {events[step]["run_id"] for step in OF_A_BATCH} == {batch}
    of_runs = {event["run_id"] for step, event in events.items() if "run_id" in event and step not in OF_A_BATCH}
    assert of_runs == {run}
    assert events["create_model"]["artifact"] == artifact
    assert events["deploy_endpoint"]["model"] == naming.sagemaker_name(STACK, recipe, run, "model", 1)
    assert events["evaluate_model"]["model"]["endpoint"]["endpoint"] == naming.sagemaker_name(
        STACK, recipe, run, "endpoint", 1
    )
    assert (ended["TrainingJobName"], ended["ModelArtifacts"]["S3ModelArtifacts"]) == (job, artifact)
    assert ended["Tags"] == {naming.STACK_TAG: STACK, naming.RUN_TAG: run}
    assert events["close_run"]["detail"]["executionArn"] == inspected.execution_arn
    assert inspected.execution_arn.endswith(f":{run}")


def test_the_events_name_no_account_but_the_sample_one(events: dict[str, Any]) -> None:
    numbers = re.findall(r"(?<![0-9A-Za-z])[0-9]{12}(?![0-9A-Za-z])", str(events))
    assert set(numbers) == {ACCOUNT_ID}
