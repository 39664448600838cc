"""The lease protocol against a real ledger and a made-up SageMaker that can be told to misbehave."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from botocore.exceptions import ClientError

from dropmill import aws, leases, ledger
from dropmill.contracts import ObjectVersion, RunStatus, ServedModel, TrainedModel
from dropmill.errors import CapacityError, EndpointFailed, JobFailed, RunClosed, StillClosing
from dropmill.ledger import LeaseState, Outcome, Run
from dropmill.resources import Observed, Presence, Resource
from dropmill.settings import settings
from dropmill.steps import sweep_leases

RUN = "digits-0123456789ab"
JOBS = ("training", "transform", "champion-transform")


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
            settled = step in ("model", "champion-model", "endpoint-config")
            self.observed[step, name] = Observed(Presence.SETTLED if settled else Presence.PENDING)
            then()

        return create

    def describe(self, step: str, name: str) -> Observed:
        return self.observed.get((step, name), Observed(Presence.ABSENT))

    def end(self, step: str, name: str) -> None:
        self.ended.append((step, name))
        if step in JOBS:
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
            ends_by_itself=step in JOBS,
        )
        for step in (*JOBS, "model", "champion-model", "endpoint-config", "endpoint")
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
    sagemaker: FakeSageMaker,
    step: Any,
    token: str | None = None,
    then: Callable[[], object] = lambda: None,
    round_: int = 1,
) -> str:
    return leases.launch(
        RUN,
        "digits",
        step,
        lifetime_seconds=3600,
        create=sagemaker.creator(step, then),
        token=token,
        token_order=1000 * (round_ - 1),
        round=round_,
    )


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


def test_a_run_of_the_same_name_in_another_stack_is_another_one(
    sagemaker: FakeSageMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches are named by recipe and minute, so two stacks that score at the same time have the same ones."""
    first = launch(sagemaker, "training", "token-1")
    aws.dynamodb_table("ledger").delete_item(Key={"pk": f"RUN#{RUN}", "sk": "LEASE#training"})
    monkeypatch.setenv("STACK_NAME", "dropmill-other")
    settings.cache_clear()
    second = launch(sagemaker, "training", "token-1")
    assert second != first
    assert sagemaker.created == [("training", first), ("training", second)]


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


def test_one_of_many_announces(sagemaker: FakeSageMaker) -> None:
    assert [ledger.close_run(RUN), ledger.close_run(RUN)] == [True, False]
    assert ledger.claim_announcement(RUN, "a", 1000)
    assert not ledger.claim_announcement(RUN, "b", 1000)
    assert ledger.claim_announcement(RUN, "a", 1000), "a claim whose answer was lost is still the claimant's"
    ledger.return_announcement(RUN, "b")
    assert not ledger.claim_announcement(RUN, "b", 1000)
    ledger.return_announcement(RUN, "a")
    assert ledger.claim_announcement(RUN, "b", 1000)


def test_who_dies_with_a_claim_leaves_it_to_the_next(sagemaker: FakeSageMaker) -> None:
    assert ledger.claim_announcement(RUN, "a", 1000)
    assert not ledger.claim_announcement(RUN, "b", 1000 + ledger.CLAIM_SECONDS)
    assert ledger.claim_announcement(RUN, "b", 1001 + ledger.CLAIM_SECONDS)
    ledger.mark_announced(RUN)
    assert not ledger.claim_announcement(RUN, "c", 10_000)


def test_a_run_stays_on_the_list_until_it_is_closed_and_announced(sagemaker: FakeSageMaker) -> None:
    assert not ledger.settle_run(RUN)
    ledger.close_run(RUN)
    assert not ledger.settle_run(RUN)
    assert [run.run_id for run in ledger.open_runs()] == [RUN]
    ledger.mark_announced(RUN)
    assert ledger.settle_run(RUN)
    assert list(ledger.open_runs()) == []


def test_a_create_call_that_landed_after_a_time_out_is_adopted(sagemaker: FakeSageMaker) -> None:
    """The client's own retry meets what its first call made."""
    name = launch(sagemaker, "training", then=lambda: (_ for _ in ()).throw(client_error("ResourceInUse")))
    assert lease_of("training").state is LeaseState.CREATED
    assert sagemaker.created == [("training", name)]


def test_a_quota_filled_by_the_first_of_two_calls_is_no_refusal(sagemaker: FakeSageMaker) -> None:
    def quota() -> None:
        raise client_error("ResourceLimitExceeded")

    launch(sagemaker, "endpoint", "token-1", quota)
    assert lease_of("endpoint").state is LeaseState.CREATED


def test_a_throttled_create_leaves_the_intent(sagemaker: FakeSageMaker) -> None:
    def throttle(name: str) -> None:
        raise client_error("ThrottlingException")

    with pytest.raises(ClientError):
        leases.launch(RUN, "digits", "endpoint", lifetime_seconds=60, create=throttle, token="token")
    assert lease_of("endpoint").state is LeaseState.INTENDED
    assert launch(sagemaker, "endpoint", "token-2").endswith("-1")


def dies(name: str) -> None:
    raise KeyboardInterrupt


def test_a_launcher_that_goes_on_gets_its_own_time(sagemaker: FakeSageMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt):
        leases.launch(RUN, "digits", "endpoint", lifetime_seconds=3600, create=dies, token="token-1")
    first = lease_of("endpoint")
    later = first.proof_after - 5
    monkeypatch.setattr(leases.time, "time", lambda: float(later))

    def sweep_at_the_first_ones_end(name: str) -> None:
        look("endpoint", first.proof_after + 1)
        sagemaker.creator("endpoint")(name)

    leases.launch(RUN, "digits", "endpoint", lifetime_seconds=3600, create=sweep_at_the_first_ones_end, token="token-2")
    lease = lease_of("endpoint")
    assert (lease.state, lease.token) == (LeaseState.CREATED, "token-2")
    assert lease.deadline == later + 3600


def test_what_turns_up_after_its_lease_was_closed_is_on_record_until_it_is_gone(sagemaker: FakeSageMaker) -> None:
    """The worst case: the create call outlives its launcher's time, and SageMaker refuses the delete."""
    sagemaker.refuse_delete = True

    def closed_too_soon() -> None:
        look_absent = sagemaker.observed.pop(("endpoint", lease_of("endpoint").name))
        look("endpoint", lease_of("endpoint").proof_after)
        assert lease_of("endpoint").state is LeaseState.CLOSED
        sagemaker.observed["endpoint", lease_of("endpoint").name] = look_absent

    with pytest.raises(StillClosing):
        launch(sagemaker, "endpoint", "token-1", closed_too_soon)
    assert lease_of("endpoint").state is LeaseState.CLOSING
    assert open_steps() == {"endpoint"}
    sagemaker.refuse_delete = False
    look("endpoint")
    assert sagemaker.observed == {}
    assert (lease_of("endpoint").state, open_steps()) == (LeaseState.CLOSED, set())


def test_an_intended_lease_is_not_closed_before_its_launcher_must_be_dead(sagemaker: FakeSageMaker) -> None:
    with pytest.raises(KeyboardInterrupt):
        leases.launch(RUN, "digits", "endpoint", lifetime_seconds=3600, create=dies, token="token-1")
    look("endpoint", lease_of("endpoint").proof_after - 1)
    assert lease_of("endpoint").state is LeaseState.INTENDED
    look("endpoint", lease_of("endpoint").proof_after)
    assert lease_of("endpoint").state is LeaseState.CLOSED


def test_two_launchers_at_once_make_one_job(sagemaker: FakeSageMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    first = ledger.intend
    second: list[str] = []

    def overtaken(lease: ledger.Lease) -> None:
        if not second:
            second.append("")
            second[0] = launch(sagemaker, "training", "token-1")
        first(lease)

    monkeypatch.setattr(ledger, "intend", overtaken)
    name = leases.launch(
        RUN, "digits", "training", lifetime_seconds=3600, create=sagemaker.creator("training"), token="token-2"
    )
    assert second == [name]
    assert sagemaker.created == [("training", name)]


def test_an_older_launchers_token_does_not_replace_a_newer_ones(sagemaker: FakeSageMaker) -> None:
    def launch_as(retry: int) -> str:
        return leases.launch(
            RUN,
            "digits",
            "training",
            lifetime_seconds=3600,
            create=sagemaker.creator("training"),
            token=f"token-{retry}",
            token_order=retry,
        )

    launch_as(2)
    with pytest.raises(StillClosing):
        launch_as(1)
    assert lease_of("training").token == "token-2"
    launch_as(3)
    assert lease_of("training").token == "token-3"


def test_a_job_that_ends_before_its_launcher_has_not_failed(
    sagemaker: FakeSageMaker, answers: Answers, bus: Bus
) -> None:
    def end_and_sweep() -> None:
        sagemaker.observed["training", lease_of("training").name] = trained(lease_of("training").name)
        look("training")

    name = launch(sagemaker, "training", "token-1", end_and_sweep)
    assert lease_of("training").state is LeaseState.CLOSED
    assert [kind for _, kind, _ in answers.sent] == ["success"]
    assert lease_of("training").name == name


def test_a_job_seen_after_its_deadline_counts_as_it_ended(sagemaker: FakeSageMaker, answers: Answers) -> None:
    name = launch(sagemaker, "training", "token-1")
    sagemaker.observed["training", name] = trained(name)
    look("training", time.time() + 10_000)
    assert [kind for _, kind, _ in answers.sent] == ["success"]


def test_an_endpoint_without_capacity_is_made_again_under_a_new_name(
    sagemaker: FakeSageMaker, answers: Answers
) -> None:
    first = launch(sagemaker, "endpoint", "token-1")
    sagemaker.observed["endpoint", first] = Observed(Presence.SETTLED, error=CapacityError("none free"))
    look("endpoint")
    assert answers.sent[0][1] == "CapacityError"
    assert launch(sagemaker, "endpoint", "token-2").endswith("-2")


@pytest.mark.parametrize("outcome", [Outcome.EXPIRED, Outcome.CAPACITY])
def test_who_dies_before_the_answer_leaves_it_to_the_next(
    sagemaker: FakeSageMaker, answers: Answers, outcome: Outcome
) -> None:
    name = launch(sagemaker, "endpoint", "token-1")
    sagemaker.observed["endpoint", name] = Observed(Presence.SETTLED, error=CapacityError("none free"))
    ledger.begin_closing(lease_of("endpoint"), outcome)
    look("endpoint")
    expected = "LeaseExpired" if outcome is Outcome.EXPIRED else "CapacityError"
    assert [kind for _, kind, _ in answers.sent] == [expected]
    assert open_steps() == set()


def test_a_closed_lease_whose_token_was_never_answered_is_answered(sagemaker: FakeSageMaker, answers: Answers) -> None:
    launch(sagemaker, "endpoint", "token-1")
    sagemaker.observed.clear()
    ledger.mark_closed(lease_of("endpoint"), Outcome.RELEASED)
    assert open_steps() == {"endpoint"}
    look("endpoint")
    assert answers.sent[0][1] == "EndpointFailed"
    assert open_steps() == set()


def test_an_answer_that_step_functions_does_not_take_keeps_the_token(
    sagemaker: FakeSageMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Busy:
        def send_task_success(self, **_: str) -> None:
            raise client_error("ThrottlingException")

    monkeypatch.setattr(leases.aws, "step_functions", Busy)
    name = launch(sagemaker, "endpoint", "token-1")
    sagemaker.observed["endpoint", name] = Observed(Presence.SETTLED, answer=ServedModel(endpoint=name))
    with pytest.raises(ClientError):
        look("endpoint")
    assert lease_of("endpoint").token == "token-1"


def test_a_token_that_was_replaced_meanwhile_is_kept(sagemaker: FakeSageMaker) -> None:
    launch(sagemaker, "training", "token-1")
    stale = lease_of("training")
    launch(sagemaker, "training", "token-2")
    ledger.forget_token(stale)
    assert lease_of("training").token == "token-2"


@pytest.mark.usefixtures("answers")
def test_who_dies_behind_the_answer_leaves_the_list_to_the_sweeper(
    sagemaker: FakeSageMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = launch(sagemaker, "training", token="one")
    sagemaker.observed["training", name] = trained(name)

    def die(lease: ledger.Lease) -> None:
        raise ConnectionError

    with monkeypatch.context() as patched:
        patched.setattr(ledger, "settle_lease", die)
        with pytest.raises(ConnectionError):
            look("training")
    lease = lease_of("training")
    assert (lease.state, lease.token) == (LeaseState.CLOSED, None)
    assert open_steps() == {"training"}
    sweep_leases._sweep_lease(lease, int(time.time()), sweep_leases._Findings())
    assert open_steps() == set()


def test_a_stale_attempt_changes_nothing(sagemaker: FakeSageMaker, answers: Answers) -> None:
    first = launch(sagemaker, "training", "token-1")
    stale = lease_of("training")
    sagemaker.observed["training", first] = Observed(Presence.SETTLED, error=CapacityError("none free"))
    look("training")
    launch(sagemaker, "training", "token-2")
    assert not ledger.mark_closed(stale, Outcome.ENDED)
    assert not ledger.mark_created(stale, 0)
    assert not ledger.begin_closing(stale, Outcome.RELEASED)
    assert (lease_of("training").state, lease_of("training").attempt) == (LeaseState.CREATED, 2)


def test_a_run_lets_go_in_the_order_that_sagemaker_asks_for(sagemaker: FakeSageMaker) -> None:
    for step in ("model", "endpoint-config", "endpoint", "training"):
        launch(sagemaker, step)
    assert leases.close_leases(RUN, int(time.time())) == []
    assert [step for step, _ in sagemaker.ended] == ["training", "endpoint", "endpoint-config", "model"]


def test_a_delete_that_is_denied_matters_only_while_the_resource_is_there(
    sagemaker: FakeSageMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = launch(sagemaker, "endpoint")
    vanish = [True]

    def denied(step: str, name: str) -> None:
        if vanish[0]:
            sagemaker.observed.pop((step, name))
        raise client_error("AccessDeniedException")

    monkeypatch.setattr(sagemaker, "end", denied)
    assert leases.close_leases(RUN, int(time.time())) == []
    vanish[0] = False
    ledger.reopen(lease_of("endpoint"))
    sagemaker.observed["endpoint", name] = Observed(Presence.SETTLED)
    with pytest.raises(ClientError):
        look("endpoint")


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


SERVED = ("model", "champion-model", "endpoint-config", "endpoint")


def serve(sagemaker: FakeSageMaker, round_: int = 1) -> list[str]:
    return [launch(sagemaker, step, round_=round_) for step in SERVED]


def test_a_later_round_makes_new_resources(sagemaker: FakeSageMaker) -> None:
    first = serve(sagemaker)
    assert leases.close_leases(RUN, int(time.time())) == []
    second = serve(sagemaker, 2)
    assert [name[-2:] for name in first + second] == ["-1"] * 4 + ["-2"] * 4
    assert [name for _, name in sagemaker.created] == first + second
    assert {(lease_of(step).round, lease_of(step).attempt, lease_of(step).state) for step in SERVED} == {
        (2, 2, LeaseState.CREATED)
    }
    assert leases.close_leases(RUN, int(time.time())) == []
    assert sagemaker.observed == {}


def test_a_later_round_has_a_job_answer_anew(sagemaker: FakeSageMaker, answers: Answers) -> None:
    first = launch(sagemaker, "champion-transform", "token-1")
    sagemaker.observed["champion-transform", first] = Observed(Presence.SETTLED, billable_seconds=40)
    look("champion-transform")
    second = launch(sagemaker, "champion-transform", "token-2", round_=2)
    assert second != first
    sagemaker.observed["champion-transform", second] = Observed(Presence.SETTLED, billable_seconds=2)
    look("champion-transform")
    assert lease_of("champion-transform").billable_seconds == 42, "both were paid for"


def test_a_job_that_serves_all_rounds_is_adopted(sagemaker: FakeSageMaker, answers: Answers, bus: Bus) -> None:
    name = launch(sagemaker, "transform", "token-1")
    sagemaker.observed["transform", name] = trained(name)
    look("transform")
    again = leases.launch(
        RUN,
        "digits",
        "transform",
        lifetime_seconds=3600,
        create=sagemaker.creator("transform"),
        token="token-2",
        token_order=2000,
    )
    assert again == name
    look("transform")
    assert [token for token, _, _ in answers.sent] == ["token-1", "token-2"]
    assert len(sagemaker.created) == 1


@pytest.mark.parametrize("step", ["model", "endpoint", "champion-transform"])
@pytest.mark.parametrize("ended", [False, True])
def test_an_earlier_rounds_invocation_makes_nothing(sagemaker: FakeSageMaker, step: str, ended: bool) -> None:
    launch(sagemaker, step, "token-1")
    leases.close_leases(RUN, int(time.time()))
    name = launch(sagemaker, step, "token-2", round_=2)
    if ended:
        leases.close_leases(RUN, int(time.time()))
    with pytest.raises(StillClosing, match="later round"):
        launch(sagemaker, step, "token-1")
    lease = lease_of(step)
    assert (lease.name, lease.round, lease.token) == (name, 2, "token-2")
    assert len(sagemaker.created) == 2


def test_an_earlier_round_that_loses_the_race_makes_nothing(
    sagemaker: FakeSageMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It read the lease of its own round, closed as never created, just before the next round wrote its own."""
    launch(sagemaker, "endpoint", "token-1")
    sagemaker.observed.clear()
    ledger.mark_closed(lease_of("endpoint"), Outcome.NEVER_CREATED)
    intend = ledger.intend
    overtaken: list[str] = []

    def overtake(lease: ledger.Lease) -> None:
        if not overtaken:
            overtaken.append("")
            overtaken[0] = launch(sagemaker, "endpoint", "token-2", round_=2)
        intend(lease)

    monkeypatch.setattr(ledger, "intend", overtake)
    with pytest.raises(StillClosing, match="later round"):
        launch(sagemaker, "endpoint", "token-1")
    assert sagemaker.created[1:] == [("endpoint", overtaken[0])]


def test_a_later_round_takes_down_what_an_earlier_one_left(sagemaker: FakeSageMaker) -> None:
    serve(sagemaker)
    leases.keep_endpoint(RUN, int(time.time()) + 7200)
    sagemaker.refuse_delete = True
    with pytest.raises(StillClosing):
        leases.end_earlier_rounds(RUN, 2)
    with pytest.raises(StillClosing, match="earlier round"):
        launch(sagemaker, "endpoint", "token-2", round_=2)
    sagemaker.refuse_delete = False
    leases.end_earlier_rounds(RUN, 2)
    assert sagemaker.observed == {}
    serve(sagemaker, 2)
    leases.end_earlier_rounds(RUN, 2)
    assert len(sagemaker.observed) == 4, "its own round's stay"


def test_what_is_kept_stays_until_its_deadline(sagemaker: FakeSageMaker, answers: Answers) -> None:
    began = int(time.time())
    serve(sagemaker)
    launch(sagemaker, "champion-transform")
    now = int(time.time())
    deadline = now + 7200
    leases.keep_endpoint(RUN, deadline)
    assert leases.close_leases(RUN, now) == []
    assert [step for step, _ in sagemaker.ended] == ["champion-transform"], "jobs are never kept"
    ledger.close_run(RUN)
    assert leases.close_leases(RUN, now) == []
    for step in SERVED:
        look(step, deadline - 1)
    served = {step for step, _ in sagemaker.observed} - set(JOBS)
    assert served == set(SERVED)
    assert open_steps() == set(SERVED)

    for step in reversed(SERVED):
        look(step, deadline)
        look(step, deadline)
    assert {step for step, _ in sagemaker.observed} == {"champion-transform"}
    assert open_steps() == set()
    assert lease_of("endpoint").outcome is Outcome.RELEASED
    seconds = lease_of("endpoint").billable_seconds
    assert seconds is not None
    assert deadline - now <= seconds <= deadline - began
    assert lease_of("model").billable_seconds is None


def test_what_is_kept_goes_with_a_run_that_did_not_go_well(sagemaker: FakeSageMaker) -> None:
    serve(sagemaker)
    now = int(time.time())
    leases.keep_endpoint(RUN, now + 7200)
    assert leases.close_leases(RUN, now, kept_too=True) == []
    assert sagemaker.observed == {}


def test_a_deadline_is_set_once(sagemaker: FakeSageMaker) -> None:
    launch(sagemaker, "endpoint", "token-1")
    deadline = int(time.time()) + 7200
    leases.keep_endpoint(RUN, deadline)
    leases.keep_endpoint(RUN, deadline + 60)
    with pytest.raises(StillClosing, match="kept"):
        launch(sagemaker, "endpoint", "token-2")
    assert (lease_of("endpoint").deadline, lease_of("endpoint").token) == (deadline, "token-1")


def test_what_is_closing_is_not_kept(sagemaker: FakeSageMaker) -> None:
    launch(sagemaker, "endpoint")
    sagemaker.refuse_delete = True
    now = int(time.time())
    leases.close_leases(RUN, now)
    leases.keep_endpoint(RUN, now + 7200)
    sagemaker.refuse_delete = False
    assert leases.close_leases(RUN, now) == []
    assert sagemaker.observed == {}
