"""What people are told of an ending."""

from datetime import UTC, datetime
from typing import Any

import pytest

from dropmill.contracts import Decision, LeaseRecord, ObjectVersion, RunRecord, RunStatus
from dropmill.notifications import message, subject

AT = datetime(2026, 1, 2, tzinfo=UTC)
DROP = ObjectVersion(bucket="drops", key="drops/x/x.csv", version_id="v1", size=9)


def record(status: RunStatus = RunStatus.SUCCEEDED, **more: Any) -> RunRecord:
    return RunRecord.model_validate(
        {
            "run_id": "x-0123456789ab",
            "recipe": "x",
            "drop": DROP,
            "status": status,
            "started_at": AT,
            "ended_at": AT,
            "seconds": 90,
            **more,
        }
    )


def lease(step: Any, kind: Any, seconds: int | None) -> LeaseRecord:
    return LeaseRecord(step=step, kind=kind, name=f"n-{step}", state="closed", attempt=1, billable_seconds=seconds)


@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        (Decision.APPROVED, "has an approved model"),
        (Decision.REJECTED, "has a model that was rejected"),
        (Decision.WAITING, "has a model that waits for approval"),
    ],
)
def test_the_verdict_is_in_the_subject_and_the_reasons_in_the_message(verdict: Decision, said: str) -> None:
    judged = record(verdict=verdict, reasons=["f1 0.9 beats the champion's 0.8 by 0.1"], package="arn:package")
    assert subject(judged) == f"Dropmill: x-0123456789ab {said}"
    text = message(judged)
    assert f"Verdict: {verdict.value}.\n  f1 0.9 beats the champion's 0.8 by 0.1\nModel package: arn:package" in text
    assert ("dropmill approve x-0123456789ab" in text) == (verdict is Decision.WAITING)


def test_metrics_stand_beside_the_champion_s() -> None:
    text = message(
        record(
            metrics={"f1": 0.9, "msd": 1234567.0},
            champion_metrics={"f1": 0.85},
            champion_run="x-ba9876543210",
        )
    )
    assert "  f1: 0.9000 (champion 0.8500)\n  msd: 1.23e+06\n" in text
    assert "champion: the model of run x-ba9876543210, on the same rows" in text


def test_what_each_resource_cost_is_said() -> None:
    leases = [lease("training", "training-job", 61), lease("endpoint", "endpoint", 240), lease("model", "model", None)]
    text = message(record(leases=leases))
    assert "Billable:\n  training-job n-training: 61 s\n  endpoint n-endpoint: 240 s\nNothing billable is left" in text
    assert "Nothing billable was started." in message(record(leases=leases[2:]))


def test_a_failure_says_cause_and_log() -> None:
    failed = lease("training", "training-job", 5).model_copy(update={"log": "https://log"})
    text = message(record(RunStatus.FAILED, error="JobFailed", cause="the job failed: see its log", leases=[failed]))
    assert "What happened: the job failed: see its log" in text
    assert "Log of training-job n-training: https://log" in text
    assert "Verdict" not in text
