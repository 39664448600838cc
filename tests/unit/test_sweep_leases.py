"""What a sweep tells of what it found: the figures that alarms watch."""

import json
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dropmill import aws, leases, ledger
from dropmill.contracts import RunKind, RunStatus, TrainedModel
from dropmill.ledger import Lease, LeaseState, Run
from dropmill.resources import Observed, Presence, Resource
from dropmill.steps import sweep_leases as sweeper
from localaws.template import load

RUN = "digits-0123456789ab"
NOW = 2_000_000_000
ANSWER = TrainedModel(training_job="d-training", artifact="s3://b/m", metrics={})
TEMPLATE = Path(__file__).parents[2] / "template.yaml"


@dataclass
class World:
    """What SageMaker holds, by step, and what the sweeper told."""

    observed: dict[str, Observed] = field(default_factory=dict)
    emitted: dict[str, Any] = field(default_factory=dict)
    refuses: bool = False

    def end(self, step: str) -> None:
        if not self.refuses:
            self.observed.pop(step)

    def sweep(self, capture: pytest.CaptureFixture[str], now: int = NOW) -> dict[str, float]:
        capture.readouterr()
        event = {"time": datetime.fromtimestamp(now, UTC).isoformat()}
        sweeper.handler(event, SimpleNamespace(aws_request_id="1", function_name="sweep"))  # type: ignore[arg-type]  # all that is read
        lines = [json.loads(line) for line in capture.readouterr().out.splitlines() if '"_aws"' in line]
        (self.emitted,) = lines
        (definition,) = self.emitted["_aws"]["CloudWatchMetrics"]
        names = [metric["Name"] for metric in definition["Metrics"]]
        return {name: self.emitted[name][0] for name in names}


@pytest.fixture
def world(ledger_table: str, monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()

    monkeypatch.setattr(
        leases,
        "RESOURCES",
        {
            step: Resource(
                kind=step,
                describe=lambda _, step=step: world.observed.get(step, Observed(Presence.ABSENT)),
                end=lambda _, step=step: world.end(step),
                ends_by_itself=step == "training",
            )
            for step in ("training", "model", "endpoint-config", "endpoint")
        },
    )
    answers = SimpleNamespace(send_task_success=lambda **_: None, send_task_failure=lambda **_: None)
    monkeypatch.setattr(aws, "step_functions", lambda: answers)
    monkeypatch.setattr(sweeper, "end_run", lambda run, now: RunStatus.RUNNING)
    assert ledger.open_run(Run(RUN, "digits", None, "arn:execution", NOW - 900))
    return world


def lease(step: Any, *, age: int = 600, deadline: int = NOW + 3600, token: str | None = None) -> Lease:
    """A lease on something that was created `age` seconds ago."""
    made = Lease(RUN, step, f"d-{step}", 1, LeaseState.INTENDED, deadline, NOW - age + 120, token)
    ledger.intend(made)
    assert ledger.mark_created(made, NOW - age)
    return made


def test_a_quiet_sweep_tells_every_figure(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    lease("training")
    world.observed["training"] = Observed(Presence.PENDING)
    assert world.sweep(capsys) == {
        "OpenLeases": 1,
        "SweptLeases": 0,
        "SweptRuns": 0,
        "OldestLeaseSeconds": 600,
        "OverdueLeaseSeconds": 0,
    }
    world.observed.clear()
    assert world.sweep(capsys)["SweptLeases"] == 1  # taken away from outside
    assert world.sweep(capsys)["OldestLeaseSeconds"] == 0


def test_what_no_event_told_is_found_once(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    lease("training", token="waits")
    world.observed["training"] = Observed(Presence.SETTLED, ANSWER)
    assert world.sweep(capsys)["SweptLeases"] == 1
    assert world.sweep(capsys)["SweptLeases"] == 0


def test_an_endpoint_that_no_event_told_of_is_found(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    lease("endpoint", token="waits")
    world.observed["endpoint"] = Observed(Presence.SETTLED, ANSWER)
    assert world.sweep(capsys)["SweptLeases"] == 1
    assert world.sweep(capsys)["SweptLeases"] == 0  # it is in service, and somebody works with it


def test_what_cannot_be_ended_is_overdue_and_no_finding_again(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    lease("endpoint", deadline=NOW - 100)
    world.observed["endpoint"] = Observed(Presence.PENDING)
    world.refuses = True
    assert world.sweep(capsys)["SweptLeases"] == 1
    found = world.sweep(capsys, NOW + 1800)
    assert (found["SweptLeases"], found["OverdueLeaseSeconds"], found["OldestLeaseSeconds"]) == (0, 1900, 2400)


def test_the_end_of_what_is_kept_is_no_finding(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    kept = lease("endpoint", age=90_000)
    assert ledger.keep(kept, NOW)
    world.observed["endpoint"] = Observed(Presence.SETTLED)
    found = world.sweep(capsys)
    assert "endpoint" not in world.observed
    assert (found["SweptLeases"], found["OldestLeaseSeconds"]) == (0, 0)


@pytest.mark.parametrize(
    ("kind", "status", "found"),
    [
        (RunKind.TRAINING, RunStatus.FAILED, 1),
        (RunKind.SCORING, RunStatus.SUCCEEDED, 1),
        (RunKind.TRAINING, RunStatus.RUNNING, 0),
        (RunKind.TRAINING, None, 0),
        (RunKind.ENDPOINT, RunStatus.SUCCEEDED, 0),
    ],
)
def test_a_run_whose_end_no_event_told(
    world: World,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    kind: RunKind,
    status: RunStatus | None,
    found: int,
) -> None:
    monkeypatch.setattr(sweeper, "end_run", lambda run, now: status if run.run_id != RUN else RunStatus.RUNNING)
    assert ledger.open_run(Run("digits-ffffffffffff", "digits", None, "arn:other", NOW, kind=kind))
    assert world.sweep(capsys)["SweptRuns"] == found


def test_the_alarms_watch_what_is_told(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    told = world.sweep(capsys)
    ((dimensions,),) = (definition["Dimensions"] for definition in world.emitted["_aws"]["CloudWatchMetrics"])
    values = {name: world.emitted[name] for name in dimensions}
    watched = list(_metrics(load(TEMPLATE)["Resources"]))
    assert {metric["MetricName"] for metric in watched} <= told.keys()
    assert len(watched) >= 4
    for metric in watched:
        named = {d["Name"]: d["Value"] for d in metric["Dimensions"]}
        assert {**named, "stack": "dropmill-test"} == values
        assert named["stack"] == {"Ref": "AWS::StackName"}


def _metrics(resources: dict[str, Any]) -> Any:
    for body in resources.values():
        if body["Type"] == "AWS::CloudWatch::Alarm":
            properties = body["Properties"]
            queries = [query.get("MetricStat", {}).get("Metric", {}) for query in properties.get("Metrics", [])]
            yield from (metric for metric in [properties, *queries] if metric.get("Namespace") == "Dropmill")


@pytest.mark.usefixtures("world")
def test_a_sweep_that_comes_late_takes_no_claim_of_now_for_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lambda keeps an event for up to six hours."""
    moments: list[int] = []
    monkeypatch.setattr(sweeper, "_sweep_run", lambda run, now, findings: moments.append(now))
    before = int(time.time())
    for moment in (datetime(2020, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)):
        sweeper.sweep_leases(sweeper.ScheduledEvent(time=moment))
    late, early = moments
    assert late >= before
    assert early == int(datetime(2100, 1, 1, tzinfo=UTC).timestamp())
