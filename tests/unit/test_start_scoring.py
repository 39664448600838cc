"""Which batches are started, and that each is started once."""

import json
from datetime import UTC, datetime
from typing import Any

import boto3
import pytest
from pydantic import ValidationError

from dropmill import ledger
from dropmill.contracts import RunKind
from dropmill.settings import settings
from dropmill.steps import start_scoring
from dropmill.steps.start_scoring import ScoringNotStarted, ScoringRequest

THREE = datetime(2026, 1, 2, 3, 0, 30, tzinfo=UTC)
DEFINITION = json.dumps({"StartAt": "End", "States": {"End": {"Type": "Succeed"}}})


@pytest.fixture(autouse=True)
def stack(ledger_table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = boto3.client("stepfunctions").create_state_machine(
        name="score", definition=DEFINITION, roleArn="arn:aws:iam::123456789012:role/workflow"
    )
    monkeypatch.setenv("SCORING_STATE_MACHINE_ARN", machine["stateMachineArn"])
    monkeypatch.setenv("DROP_BUCKET", "drops")
    settings.cache_clear()
    boto3.client("s3").create_bucket(Bucket="drops")


def put(*keys: str) -> None:
    for key in keys:
        boto3.client("s3").put_object(Bucket="drops", Key=key, Body=b"x")


def started(request: ScoringRequest) -> dict[str, bool]:
    return {one.batch: one.started for one in start_scoring.start_scoring(request).batches}


def test_each_recipe_with_files_gets_a_batch_named_by_the_minute() -> None:
    put("scoring/kmeans/a.csv", "scoring/digits/july/a.csv", "scoring/loose.csv", "drops/knn/a.csv")
    assert started(ScoringRequest(scheduled_time=THREE)) == {
        "digits-score-20260102t0300": True,
        "kmeans-score-20260102t0300": True,
    }
    run = ledger.find_run("kmeans-score-20260102t0300")
    assert run is not None
    assert (run.kind, run.recipe, run.drop) == (RunKind.SCORING, "kmeans", None)
    assert run.execution_arn.endswith(":execution:score:kmeans-score-20260102t0300")


def test_a_second_event_of_the_same_minute_starts_nothing() -> None:
    put("scoring/kmeans/a.csv")
    assert started(ScoringRequest(scheduled_time=THREE)) == {"kmeans-score-20260102t0300": True}
    assert started(ScoringRequest(scheduled_time=THREE.replace(second=59))) == {"kmeans-score-20260102t0300": False}


@pytest.mark.parametrize("folder", ["No Recipe", "two--hyphens", "x" * 41, "..", "under_score"])
def test_folders_that_name_no_recipe_are_passed_over(folder: str) -> None:
    put(f"scoring/{folder}/a.csv")
    assert started(ScoringRequest(scheduled_time=THREE)) == {}


def test_a_recipe_by_hand_is_named_by_the_second_and_needs_no_files() -> None:
    assert started(ScoringRequest(scheduled_time=THREE, recipe="kmeans")) == {"kmeans-score-20260102t030030": True}


@pytest.mark.parametrize(
    "request_",
    [
        {"scheduled_time": "2026-01-02T03:00:00", "recipe": None},  # of which zone?
        {"scheduled_time": "<aws.scheduler.scheduled-time>"},
        {"scheduled_time": "2026-01-02T03:00:00Z", "recipe": "No Recipe"},
        {"scheduled_time": "2026-01-02T03:00:00Z", "recipe": "kmeans\n"},
        {"scheduled_time": "2026-01-02T03:00:00Z", "recipe": "x" * 41},
        {"recipe": "kmeans"},
    ],
)
def test_a_request_that_says_too_little_or_too_much(request_: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ScoringRequest.model_validate(request_)


def test_one_recipe_that_can_not_be_started_stops_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    put("scoring/digits/a.csv", "scoring/kmeans/a.csv")
    start = start_scoring._start

    def refuse(recipe: str, moment: datetime) -> Any:
        if recipe == "digits":
            raise RuntimeError("no")
        return start(recipe, moment)

    monkeypatch.setattr(start_scoring, "_start", refuse)
    with pytest.raises(ScoringNotStarted, match="of digits could not"):
        start_scoring.start_scoring(ScoringRequest(scheduled_time=THREE))
    assert ledger.find_run("kmeans-score-20260102t0300") is not None
