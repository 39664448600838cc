"""The ledger: one DynamoDB table of runs and of leases on everything that must not be left behind.

    pk           sk              what
    RUN#<run>    META            the run: open or closed, its execution, how it ended, whether its end was announced
    RUN#<run>    LEASE#<step>    a lease: intended -> created -> closing -> closed
    CHAMPION#<recipe>  META      the recipe's model in use

Two sparse indexes: `open` (partition `open`: "run" or "lease") holds what still needs looking after, `runs`
(partition `listing`) lists runs by their start. Times are whole seconds since the epoch. Every change of state is one
conditional write, so that any number of Lambdas may act on the same row at once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from boto3.dynamodb.conditions import Key
from botocore.exceptions import ClientError

from dropmill import aws
from dropmill.contracts import Decision, ObjectVersion, RunKind, RunStatus
from dropmill.errors import RunClosed
from dropmill.naming import Step
from dropmill.settings import setting

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.service_resource import Table

CLAIM_SECONDS = 300

_META = "META"
_LEASE = "LEASE#"


class LeaseState(StrEnum):
    INTENDED = "intended"
    CREATED = "created"
    CLOSING = "closing"
    CLOSED = "closed"


class Outcome(StrEnum):
    """Why a lease is closing or closed."""

    ENDED = "ended"
    """The job reached a terminal status by itself."""
    RELEASED = "released"
    """The run no longer needs the resource."""
    CAPACITY = "capacity"
    """SageMaker had no instance to give: the next launch makes another attempt under a new name."""
    NEVER_CREATED = "never-created"
    """SageMaker refused the create call, or never saw it."""
    EXPIRED = "expired"
    """The deadline passed."""


class StaleLease(RuntimeError):
    """The row changed since it was read; read it again."""


@dataclass(frozen=True)
class Lease:
    run_id: str
    step: Step
    name: str
    """The SageMaker name of the resource."""
    attempt: int
    state: LeaseState
    deadline: int
    proof_after: int
    """Until then a create call may still be on its way, so that "not found" proves nothing."""
    token: str | None = None
    """The task token that waits for the resource; None once it has been answered."""
    token_order: int = 0
    """The retry that brought the token: an older invocation that runs late must not replace a newer one's."""
    was_created: bool = False
    outcome: Outcome | None = None
    billable_seconds: int | None = None
    round: int = 1
    """Which evaluation against a champion the resource was made for; a later one makes its own."""
    created_at: int | None = None
    kept: bool = False
    """The resource stays until the deadline, also when its run has ended."""
    billed_before: int = 0
    """The billable seconds of what earlier attempts and rounds made."""

    @property
    def stays(self) -> bool:
        return self.kept and self.state is LeaseState.CREATED


@dataclass(frozen=True)
class Run:
    run_id: str
    recipe: str
    drop: ObjectVersion | None
    execution_arn: str
    """Empty for an endpoint that was brought up by hand: no workflow looks after it."""
    started_at: int
    kind: RunKind = RunKind.TRAINING
    closed: bool = False
    status: RunStatus = RunStatus.RUNNING
    ended_at: int | None = None
    error: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    report: str | None = None
    package: str | None = None
    verdict: Decision | None = None
    note: str | None = None
    """What else to say of it in a listing."""
    committed: bool = False
    """A batch whose predictions count."""


def _table() -> Table:
    return aws.dynamodb_table(setting("ledger_table"))


def _pk(run_id: str) -> str:
    return f"RUN#{run_id}"


def _lease_key(run_id: str, step: str) -> dict[str, str]:
    return {"pk": _pk(run_id), "sk": f"{_LEASE}{step}"}


def _run_key(run_id: str) -> dict[str, str]:
    return {"pk": _pk(run_id), "sk": _META}


def _refused(error: ClientError) -> bool:
    return aws.error_code(error) == "ConditionalCheckFailedException"


def _update(key: dict[str, str], expression: str, *, condition: str, **values: Any) -> bool:
    """One conditional update; False where the condition does not hold.

    Attribute names are written `#name`, values `:name`; `values` gives the latter.
    """
    placeholders: Any = {
        "ExpressionAttributeNames": {f"#{name}": name for name in re.findall(r"#(\w+)", f"{expression} {condition}")}
    }
    if values:
        placeholders["ExpressionAttributeValues"] = {f":{name}": value for name, value in values.items()}
    try:
        _table().update_item(Key=key, UpdateExpression=expression, ConditionExpression=condition, **placeholders)
    except ClientError as error:
        if _refused(error):
            return False
        raise
    return True


def open_run(run: Run) -> bool:
    """Write the run's row; False where there is one already."""
    item = {
        **_run_key(run.run_id),
        "run_id": run.run_id,
        "recipe": run.recipe,
        "kind": run.kind.value,
        "execution_arn": run.execution_arn,
        "started_at": run.started_at,
        "closed": False,
        "status": run.status.value,
        "open": "run",
        "since": run.started_at,
        "listing": "run",
    }
    if run.drop is not None:
        item["drop"] = run.drop.model_dump_json()
    try:
        _table().put_item(Item=item, ConditionExpression="attribute_not_exists(pk)")
    except ClientError as error:
        if _refused(error):
            return False
        raise
    return True


def record_package(run_id: str, package: str) -> None:
    """Keep with the run's row which model package its model became."""
    _update(_run_key(run_id), "SET #package = :package", condition="attribute_exists(pk)", package=package)


def package_of(run_id: str) -> str | None:
    """The ARN of the model package that a run's model became; None: it is not registered."""
    run = find_run(run_id)
    return run.package if run else None


def find_run(run_id: str) -> Run | None:
    item = _table().get_item(Key=_run_key(run_id), ConsistentRead=True).get("Item")
    return _run(item) if item else None


def close_run(run_id: str) -> bool:
    """Close the run's row, after which no lease can be written for it; False where it was closed already."""
    return _update(
        _run_key(run_id),
        "SET #closed = :yes",
        condition="attribute_exists(pk) AND #closed = :no",
        yes=True,
        no=False,
    )


def record_end(
    run_id: str,
    *,
    status: RunStatus,
    ended_at: int,
    error: str | None,
    metrics: dict[str, float],
    report: str | None,
    verdict: Decision | None = None,
    note: str | None = None,
) -> None:
    """Keep with the run's row how the run ended, for listings."""
    _update(
        _run_key(run_id),
        "SET #status = :status, #ended_at = :ended_at, #error = :error, #metrics = :metrics, #report = :report,"
        " #verdict = :verdict, #note = :note",
        condition="attribute_exists(pk)",
        status=status.value,
        ended_at=ended_at,
        error=error,
        metrics=json.dumps(metrics),
        report=report,
        verdict=verdict.value if verdict else None,
        note=note,
    )


def commit_run(run_id: str) -> bool:
    """Let what a batch has made count from here on; False where its run was closed before."""
    return _update(_run_key(run_id), "SET #committed = :yes", condition="#closed = :no", yes=True, no=False)


def settle_run(run_id: str) -> bool:
    """Take a run off the list of what needs looking after; False where it is not closed and announced yet."""
    return _update(
        _run_key(run_id),
        "REMOVE #open, #since",
        condition="#closed = :yes AND #announced = :yes",
        yes=True,
    )


def claim_announcement(run_id: str, claimant: str, now: int) -> bool:
    """True for the one caller that may announce the run's end now.

    A claim is good for five minutes: whoever died with it leaves the announcement to the next. The same claimant may
    ask again, as the client does by itself when an answer is lost.
    """
    return _update(
        _run_key(run_id),
        "SET #claimant = :claimant, #claimed_at = :now",
        condition="attribute_exists(pk) AND attribute_not_exists(#announced)"
        " AND (attribute_not_exists(#claimant) OR #claimant = :claimant OR #claimed_at < :stale)",
        claimant=claimant,
        now=now,
        stale=now - CLAIM_SECONDS,
    )


def mark_announced(run_id: str) -> None:
    """The run's end has been told."""
    _update(_run_key(run_id), "SET #announced = :yes", condition="attribute_exists(pk)", yes=True)


def return_announcement(run_id: str, claimant: str) -> None:
    """Give the claim back when the announcement could not be sent."""
    _update(_run_key(run_id), "REMOVE #claimant, #claimed_at", condition="#claimant = :claimant", claimant=claimant)


def open_runs() -> Iterator[Run]:
    """Every run whose ending has not been dealt with, oldest first."""
    yield from (_run(item) for item in _query("open", Key("open").eq("run")))


def list_runs(limit: int) -> list[Run]:
    """The latest runs, newest first."""
    answer = _table().query(
        IndexName="runs", KeyConditionExpression=Key("listing").eq("run"), ScanIndexForward=False, Limit=limit
    )
    return [_run(item) for item in answer["Items"]]


def intend(lease: Lease) -> None:
    """Write an intended lease, replacing a closed one of an earlier attempt.

    Raises:
        RunClosed: the run has ended; nothing may be launched for it.
        StaleLease: another launcher wrote the lease first.
    """
    item: dict[str, Any] = {
        **_lease_key(lease.run_id, lease.step),
        "run_id": lease.run_id,
        "step": lease.step,
        "name": lease.name,
        "attempt": lease.attempt,
        "state": LeaseState.INTENDED.value,
        "deadline": lease.deadline,
        "proof_after": lease.proof_after,
        "was_created": False,
        "round": lease.round,
        "billed_before": lease.billed_before,
        "open": "lease",
        "since": lease.deadline,
    }
    if lease.token is not None:
        item |= {"token": lease.token, "token_order": lease.token_order}
    table = _table()
    try:
        table.meta.client.transact_write_items(
            TransactItems=[
                {
                    "ConditionCheck": {
                        "TableName": table.name,
                        "Key": _run_key(lease.run_id),
                        "ConditionExpression": "closed = :no",
                        "ExpressionAttributeValues": {":no": False},
                    }
                },
                {
                    "Put": {
                        "TableName": table.name,
                        "Item": item,
                        "ConditionExpression": "attribute_not_exists(pk) OR (#state = :closed AND attempt <= :attempt)",
                        "ExpressionAttributeNames": {"#state": "state"},
                        "ExpressionAttributeValues": {":closed": LeaseState.CLOSED.value, ":attempt": lease.attempt},
                    }
                },
            ]
        )
    except ClientError as error:
        if aws.error_code(error) != "TransactionCanceledException":
            raise
        reasons: list[dict[str, Any]] = error.response.get("CancellationReasons", [])  # type: ignore[assignment]  # set by DynamoDB only
        if reasons and reasons[0].get("Code") == "ConditionalCheckFailed":
            raise RunClosed(f"run {lease.run_id} has ended; {lease.step} is not launched") from None
        if len(reasons) > 1 and reasons[1].get("Code") == "ConditionalCheckFailed":
            raise StaleLease(lease.step) from None
        raise


def find_lease(run_id: str, step: Step) -> Lease | None:
    item = _table().get_item(Key=_lease_key(run_id, step), ConsistentRead=True).get("Item")
    return _lease(item) if item else None


def leases_of(run_id: str) -> list[Lease]:
    """All leases of a run, as they are now."""
    answer = _table().query(
        KeyConditionExpression=Key("pk").eq(_pk(run_id)) & Key("sk").begins_with(_LEASE), ConsistentRead=True
    )
    return [_lease(item) for item in answer["Items"]]


def open_leases() -> Iterator[Lease]:
    """Every lease that is not closed, or whose token is unanswered; the nearest deadline first."""
    yield from (_lease(item) for item in _query("open", Key("open").eq("lease")))


def mark_created(lease: Lease, now: int) -> bool:
    """intended -> created; False where the lease is no longer intended."""
    return _update(
        _lease_key(lease.run_id, lease.step),
        "SET #state = :created, #was_created = :yes, #created_at = :now",
        condition="#state = :intended AND #attempt = :attempt",
        created=LeaseState.CREATED.value,
        intended=LeaseState.INTENDED.value,
        attempt=lease.attempt,
        yes=True,
        now=now,
    )


def keep(lease: Lease, deadline: int) -> bool:
    """Let a created resource stay until the deadline, whatever becomes of its run; False where it is kept already."""
    return _update(
        _lease_key(lease.run_id, lease.step),
        "SET #kept = :yes, #deadline = :deadline, #since = :deadline",
        condition="#attempt = :attempt AND #state = :created AND attribute_not_exists(#kept)",
        created=LeaseState.CREATED.value,
        attempt=lease.attempt,
        yes=True,
        deadline=deadline,
    )


def take_over(lease: Lease, *, token: str | None, token_order: int, deadline: int, proof_after: int) -> bool:
    """Let a launcher that runs again go on with a lease: its token waits now, and its time counts.

    False where the lease is closing or has gone on, or a newer launcher's token waits.
    """
    expression = "SET #proof_after = :proof_after, #deadline = :deadline, #open = :lease, #since = :deadline"
    condition = "#attempt = :attempt AND #state = :state"
    values: dict[str, Any] = {}
    if token is not None:
        expression += ", #token = :token, #token_order = :token_order"
        condition += " AND (attribute_not_exists(#token_order) OR #token_order <= :token_order)"
        values = {"token": token, "token_order": token_order}
    return _update(
        _lease_key(lease.run_id, lease.step),
        expression,
        condition=condition,
        proof_after=proof_after,
        deadline=deadline,
        lease="lease",
        attempt=lease.attempt,
        state=lease.state.value,
        **values,
    )


def reopen(lease: Lease) -> bool:
    """closed -> closing: the resource of a closed lease has turned up after all; False where it is not closed."""
    return _update(
        _lease_key(lease.run_id, lease.step),
        "SET #state = :closing, #was_created = :yes, #open = :lease, #since = :since",
        condition="#attempt = :attempt AND #state = :closed",
        closing=LeaseState.CLOSING.value,
        closed=LeaseState.CLOSED.value,
        yes=True,
        lease="lease",
        since=lease.deadline,
        attempt=lease.attempt,
    )


def begin_closing(lease: Lease, outcome: Outcome) -> bool:
    """intended or created -> closing; False where somebody did so before."""
    return _update(
        _lease_key(lease.run_id, lease.step),
        "SET #state = :closing, #outcome = :outcome",
        condition="#attempt = :attempt AND #state IN (:intended, :created)",
        closing=LeaseState.CLOSING.value,
        intended=LeaseState.INTENDED.value,
        created=LeaseState.CREATED.value,
        attempt=lease.attempt,
        outcome=outcome.value,
    )


def mark_closed(lease: Lease, outcome: Outcome, billable_seconds: int | None = None) -> bool:
    """Write `closed`: only for a caller that has just seen the resource gone or terminal.

    The outcome that began the closing stays; to the seconds, those of earlier attempts are added. A lease with an
    unanswered token stays on the list of what needs looking after.
    """
    return _update(
        _lease_key(lease.run_id, lease.step),
        "SET #state = :closed, #outcome = if_not_exists(#outcome, :outcome), #billable_seconds = :billable_seconds"
        + ("" if lease.token else " REMOVE #open, #since"),
        condition="#attempt = :attempt AND #state <> :closed",
        closed=LeaseState.CLOSED.value,
        outcome=outcome.value,
        billable_seconds=None if billable_seconds is None else billable_seconds + lease.billed_before,
        attempt=lease.attempt,
    )


def forget_token(lease: Lease) -> None:
    """Take an answered token off the lease, unless another one has replaced it."""
    key = _lease_key(lease.run_id, lease.step)
    _update(key, "REMOVE #token", condition="#token = :token", token=lease.token)
    settle_lease(lease)


def settle_lease(lease: Lease) -> None:
    """Take a lease off the list of what needs looking after, if it is closed and nobody waits for it."""
    _update(
        _lease_key(lease.run_id, lease.step),
        "REMOVE #open, #since",
        condition="#state = :closed AND attribute_not_exists(#token)",
        closed=LeaseState.CLOSED.value,
    )


def _query(index: str, condition: Any) -> Iterator[dict[str, Any]]:
    start: dict[str, Any] = {}
    while True:
        answer = _table().query(IndexName=index, KeyConditionExpression=condition, **start)
        yield from answer["Items"]
        if "LastEvaluatedKey" not in answer:
            return
        start = {"ExclusiveStartKey": answer["LastEvaluatedKey"]}


def _run(item: dict[str, Any]) -> Run:
    return Run(
        run_id=item["run_id"],
        recipe=item["recipe"],
        drop=ObjectVersion.model_validate_json(item["drop"]) if "drop" in item else None,
        execution_arn=item["execution_arn"],
        started_at=int(item["started_at"]),
        kind=RunKind(item.get("kind", RunKind.TRAINING)),
        closed=item["closed"],
        status=RunStatus(item["status"]),
        ended_at=int(item["ended_at"]) if "ended_at" in item else None,
        error=item.get("error"),
        metrics=json.loads(item.get("metrics", "{}")),
        report=item.get("report"),
        package=item.get("package"),
        verdict=Decision(item["verdict"]) if item.get("verdict") else None,
        note=item.get("note"),
        committed=item.get("committed", False),
    )


def _lease(item: dict[str, Any]) -> Lease:
    billable = item.get("billable_seconds")
    return Lease(
        run_id=item["run_id"],
        step=item["step"],
        name=item["name"],
        attempt=int(item["attempt"]),
        state=LeaseState(item["state"]),
        deadline=int(item["deadline"]),
        proof_after=int(item["proof_after"]),
        token=item.get("token"),
        token_order=int(item.get("token_order", 0)),
        was_created=item["was_created"],
        outcome=Outcome(item["outcome"]) if item.get("outcome") else None,
        billable_seconds=int(billable) if billable is not None else None,
        round=int(item.get("round", 1)),
        created_at=int(item["created_at"]) if "created_at" in item else None,
        kept=item.get("kept", False),
        billed_before=int(item.get("billed_before", 0)),
    )
