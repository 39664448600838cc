"""The lease protocol against a real ledger and a made-up SageMaker that can be told to misbehave."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from botocore.exceptions import ClientError

from dropmill import leases, ledger
from dropmill.contracts import ObjectVersion, RunStatus, ServedModel, TrainedModel
from dropmill.errors import CapacityError, EndpointFailed, JobFailed, RunClosed, StillClosing
from dropmill.ledger import LeaseState, Outcome, Run
from dropmill.resources import Observed, Presence, Resource

RUN = "digits-0123456789ab"


def client_error(code: str, message: str = "no") -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": message}}, "CreateSomething")


@dataclass
class FakeSageMaker:
    """Resources by step and name. `refuse_delete` keeps an endpoint that is still Creating."""

    observed: dict[tuple[str, str], Observed] = field(default_factory=dict)
    created: list[tuple[str, str]] = field(default_factory=list)
    ended: list[tuple[str, str]] = field(default_factory=list)
    refuse_delete: bool = False

    def creator(self, step: str, then: Callable[[], object] = lambda: None) -> Callable[[str], object]:
        def create(name: str) -> None:
            if (step, name) in self.observed:
                raise client_error("ResourceInUse", "already exists")
            self.created.append((step, name))
            settled = step in ("model", "endpoint-config")
            self.observed[step, name] = Observed(Presence.SETTLED if settled else Presence.PENDING)
            then()

        return create

    def describe(self, step: str, name: str) -> Observed:
        return self.observed.get((step, name), Observed(Presence.ABSENT))

    def end(self, step: str, name: str) -> None:
        self.ended.append((step, name))
        if step == "training":
            self.observed[step, name] = Observed(Presence.SETTLED)
        elif not self.refuse_delete:
            self.observed.pop((step, name), None)


@dataclass
class Answers:
    sent: list[tuple[str, str, str]] = field(default_factory=list)
    gone: bool = False

    def _send(self, token: str, kind: str, text: str) -> None:
        if self.gone:
            raise client_error("TaskTimedOut")
        self.sent.append((token, kind, text))

    def send_task_success(self, *, taskToken: str, output: str) -> None:  # noqa: N803  the API's name
        self._send(taskToken, "success", output)

    def send_task_failure(self, *, taskToken: str, error: str, cause: str) -> None:  # noqa: N803  the API's name
        self._send(taskToken, error, cause)


@dataclass
class Bus:
    entries: list[dict[str, Any]] = field(default_factory=list)

    def put_events(self, *, Entries: list[dict[str, Any]]) -> None:  # noqa: N803  the API's name
        self.entries += Entries


@pytest.fixture
def sagemaker(ledger_table: str, monkeypatch: pytest.MonkeyPatch) -> FakeSageMaker:
    fake = FakeSageMaker()
    resources = {
        step: Resource(
            kind=step,
            describe=lambda name, step=step: fake.describe(step, name),
            end=lambda name, step=step: fake.end(step, name),
            ends_by_itself=step == "training",
        )
        for step in ("training", "model", "endpoint-config", "endpoint")
    }
    monkeypatch.setattr(leases, "RESOURCES", resources)
    drop = ObjectVersion(bucket="drops", key="drops/digits/digits.csv", version_id="v1", size=1)
    assert ledger.open_run(Run(RUN, "digits", drop, "arn:execution", int(time.time())))
    return fake


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Answers:
    recorder = Answers()
    monkeypatch.setattr(leases.aws, "step_functions", lambda: recorder)
    return recorder


@pytest.fixture
def bus(monkeypatch: pytest.MonkeyPatch) -> Bus:
    recorder = Bus()
    monkeypatch.setattr(leases.aws, "events", lambda: recorder)
    return recorder


def launch(
    sagemaker: FakeSageMaker, step: Any, token: str | None = None, then: Callable[[], object] = lambda: None
) -> str:
    return leases.launch(RUN, "digits", step, lifetime_seconds=3600, create=sagemaker.creator(step, then), token=token)


def lease_of(step: Any) -> ledger.Lease:
    lease = ledger.find_lease(RUN, step)
    assert lease is not None
    return lease


def look(step: Any, at: float | None = None) -> None:
    leases.look_again(lease_of(step), int(at if at is not None else time.time()))


def trained(name: str) -> Observed:
    answer = TrainedModel(training_job=name, artifact="s3://b/model.tar.gz")
    return Observed(Presence.SETTLED, answer=answer, billable_seconds=7)


def open_steps() -> set[str]:
    return {lease.step for lease in ledger.open_leases()}


def test_a_launch_leaves_a_created_lease(sagemaker: FakeSageMaker) -> None:
    name = launch(sagemaker, "training", "token-1")
    lease = lease_of("training")
    assert (lease.state, lease.name, lease.attempt, lease.token) == (LeaseState.CREATED, name, 1, "token-1")
    assert sagemaker.created == [("training", name)]


def test_a_second_launcher_adopts_and_replaces_the_token(sagemaker: FakeSageMaker) -> None:
    first = launch(sagemaker, "training", "token-1")
    assert launch(sagemaker, "training", "token-2") == first
    assert sagemaker.created == [("training", first)]
    assert lease_of("training").token == "token-2"


def test_a_launcher_that_died_after_the_create_call_pays_for_one_job(sagemaker: FakeSageMaker) -> None:
    def die() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        launch(sagemaker, "training", "token-1", die)
    assert lease_of("training").state is LeaseState.INTENDED
    launch(sagemaker, "training", "token-2")
    assert len(sagemaker.created) == 1
    assert (lease_of("training").state, lease_of("training").token) == (LeaseState.CREATED, "token-2")


def test_adopting_what_has_ended_asks_to_look_again(sagemaker: FakeSageMaker, answers: Answers, bus: Bus) -> None:
    name = launch(sagemaker, "training", "token-1")
    sagemaker.observed["training", name] = trained(name)
    answers.gone = True
    look("training")
    assert lease_of("training").state is LeaseState.CLOSED
    answers.gone = False
    launch(sagemaker, "training", "token-2")
    assert bus.entries[0]["Source"] == "dropmill"
    look("training")
    assert [(token, kind) for token, kind, _ in answers.sent] == [("token-2", "success")]
    assert open_steps() == set()


def test_a_closed_run_launches_nothing(sagemaker: FakeSageMaker) -> None:
    ledger.close_run(RUN)
    with pytest.raises(RunClosed):
        launch(sagemaker, "training", "token-1")
    assert sagemaker.created == []
    assert ledger.find_lease(RUN, "training") is None


def test_a_run_closed_between_intent_and_create_leaves_nothing(sagemaker: FakeSageMaker) -> None:
    def close() -> None:
        ledger.close_run(RUN)
        leases.close_leases(RUN, int(time.time()))
        sagemaker.observed["model", lease_of("model").name] = Observed(Presence.SETTLED)

    with pytest.raises(RunClosed):
        launch(sagemaker, "model", then=close)
    assert sagemaker.observed == {}
    leases.close_leases(RUN, lease_of("model").proof_after)
    assert lease_of("model").state is LeaseState.CLOSED


def test_not_found_proves_nothing_while_a_create_call_may_be_on_its_way(sagemaker: FakeSageMaker) -> None:
    def cut_off(name: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        leases.launch(RUN, "digits", "endpoint", lifetime_seconds=3600, create=cut_off, token="token")
    ledger.close_run(RUN)
    proof_after = lease_of("endpoint").proof_after
    assert [lease.step for lease in leases.close_leases(RUN, proof_after - 1)] == ["endpoint"]
    assert leases.close_leases(RUN, proof_after) == []
    assert lease_of("endpoint").state is LeaseState.CLOSED


def test_a_refused_create_closes_the_lease_and_is_told_plainly(sagemaker: FakeSageMaker) -> None:
    def refuse(name: str) -> None:
        raise client_error("ValidationException", "1 validation error detected")

    with pytest.raises(JobFailed, match="SageMaker refused to create"):
        leases.launch(RUN, "digits", "training", lifetime_seconds=60, create=refuse, token="token")
    assert (lease_of("training").state, lease_of("training").outcome) == (LeaseState.CLOSED, Outcome.NEVER_CREATED)
    assert open_steps() == set()


def test_a_quota_is_a_capacity_error(sagemaker: FakeSageMaker) -> None:
    def refuse(name: str) -> None:
        raise client_error("ResourceLimitExceeded", "the account-level limit is 0 instances")

    with pytest.raises(CapacityError, match="quota"):
        leases.launch(RUN, "digits", "training", lifetime_seconds=60, create=refuse, token="token")
    assert launch(sagemaker, "training", "token-2").endswith("-1")


def test_a_job_that_ended_answers_and_closes(sagemaker: FakeSageMaker, answers: Answers) -> None:
    name = launch(sagemaker, "training", "token-1")
    sagemaker.observed["training", name] = trained(name)
    look("training")
    assert answers.sent[0][:2] == ("token-1", "success")
    lease = lease_of("training")
    assert (lease.state, lease.token, lease.billable_seconds) == (LeaseState.CLOSED, None, 7)
    assert open_steps() == set()


def test_a_capacity_error_lets_the_next_launch_take_a_new_name(sagemaker: FakeSageMaker, answers: Answers) -> None:
    first = launch(sagemaker, "training", "token-1")
    sagemaker.observed["training", first] = Observed(Presence.SETTLED, error=CapacityError("none free"))
    look("training")
    assert answers.sent[0][1] == "CapacityError"
    second = launch(sagemaker, "training", "token-2")
    assert (first[-2:], second[-2:]) == ("-1", "-2")
    assert lease_of("training").attempt == 2


def test_any_other_failure_is_not_paid_for_twice(sagemaker: FakeSageMaker, answers: Answers, bus: Bus) -> None:
    first = launch(sagemaker, "training", "token-1")
    sagemaker.observed["training", first] = Observed(Presence.SETTLED, error=JobFailed("bad data"))
    look("training")
    assert launch(sagemaker, "training", "token-2") == first
    look("training")
    assert [kind for _, kind, _ in answers.sent] == ["JobFailed", "JobFailed"]
    assert len(sagemaker.created) == 1


def test_an_endpoint_in_service_answers_and_stays_leased(sagemaker: FakeSageMaker, answers: Answers) -> None:
    name = launch(sagemaker, "endpoint", "token-1")
    sagemaker.observed["endpoint", name] = Observed(Presence.SETTLED, answer=ServedModel(endpoint=name))
    look("endpoint")
    look("endpoint")
    assert [kind for _, kind, _ in answers.sent] == ["success"]
    assert lease_of("endpoint").state is LeaseState.CREATED
    assert open_steps() == {"endpoint"}


def test_a_failed_endpoint_answers_and_is_taken_down(sagemaker: FakeSageMaker, answers: Answers) -> None:
    name = launch(sagemaker, "endpoint", "token-1")
    sagemaker.observed["endpoint", name] = Observed(Presence.SETTLED, error=EndpointFailed("no ping"))
    look("endpoint")
    assert answers.sent[0][1] == "EndpointFailed"
    assert sagemaker.observed == {}
    assert lease_of("endpoint").state is LeaseState.CLOSED


def test_a_lease_past_its_deadline_is_taken_down_and_told(sagemaker: FakeSageMaker, answers: Answers) -> None:
    launch(sagemaker, "endpoint", "token-1")
    look("endpoint", time.time() + 3601)
    assert answers.sent[0][1] == "LeaseExpired"
    assert sagemaker.observed == {}
    assert lease_of("endpoint").state is LeaseState.CLOSED


def test_what_sagemaker_will_not_delete_yet_stays_closing(sagemaker: FakeSageMaker, answers: Answers) -> None:
    launch(sagemaker, "model")
    launch(sagemaker, "endpoint-config")
    launch(sagemaker, "endpoint", "token-1")
    sagemaker.refuse_delete = True
    left = leases.close_leases(RUN, int(time.time()))
    assert [lease.step for lease in left] == ["endpoint", "endpoint-config", "model"]
    assert {state for step, state in sagemaker.ended} == {lease_of("endpoint").name}
    sagemaker.refuse_delete = False
    for step in ("endpoint", "endpoint-config", "model"):
        look(step)
    assert sagemaker.observed == {}
    assert [step for step, _ in sagemaker.ended[1:]] == ["endpoint", "endpoint-config", "model"]
    assert open_steps() == set()


def test_a_launch_waits_for_what_is_still_closing(sagemaker: FakeSageMaker) -> None:
    launch(sagemaker, "endpoint", "token-1")
    ledger.begin_closing(lease_of("endpoint"), Outcome.CAPACITY)
    with pytest.raises(StillClosing):
        launch(sagemaker, "endpoint", "token-2")


def test_a_closing_run_does_not_adopt(sagemaker: FakeSageMaker) -> None:
    launch(sagemaker, "endpoint", "token-1")
    ledger.close_run(RUN)
    ledger.begin_closing(lease_of("endpoint"), Outcome.RELEASED)
    with pytest.raises(RunClosed):
        launch(sagemaker, "endpoint", "token-2")


def test_a_running_job_of_a_closed_run_is_stopped(sagemaker: FakeSageMaker) -> None:
    name = launch(sagemaker, "training", "token-1")
    ledger.close_run(RUN)
    assert leases.close_leases(RUN, int(time.time())) == []
    assert sagemaker.ended == [("training", name)]


def test_what_was_taken_away_from_outside_is_told(sagemaker: FakeSageMaker, answers: Answers) -> None:
    launch(sagemaker, "endpoint", "token-1")
    sagemaker.observed.clear()
    look("endpoint")
    assert answers.sent[0][1] == "EndpointFailed"
    assert "taken away from outside" in answers.sent[0][2]
    assert open_steps() == set()


def test_only_one_of_many_announces_and_closes(sagemaker: FakeSageMaker) -> None:
    assert [ledger.close_run(RUN), ledger.close_run(RUN)] == [True, False]
    assert [ledger.claim_announcement(RUN), ledger.claim_announcement(RUN)] == [True, False]
    ledger.return_announcement(RUN)
    assert ledger.claim_announcement(RUN)
    assert [run.run_id for run in ledger.open_runs()] == [RUN]
    ledger.settle_run(RUN)
    assert list(ledger.open_runs()) == []


def test_a_run_is_opened_once_and_listed_newest_first(sagemaker: FakeSageMaker) -> None:
    drop = ObjectVersion(bucket="drops", key="drops/digits/b.csv", size=1)
    later = Run("digits-2", "digits", drop, "arn:2", int(time.time()) + 60)
    assert ledger.open_run(later)
    assert not ledger.open_run(later)
    assert [run.run_id for run in ledger.list_runs(10)] == ["digits-2", RUN]
    ledger.record_end(RUN, status=RunStatus.FAILED, ended_at=1, error="JobFailed", metrics={"f1": 0.5}, report=None)
    found = ledger.find_run(RUN)
    assert found is not None
    assert (found.status, found.error, found.metrics) == (RunStatus.FAILED, "JobFailed", {"f1": 0.5})
