"""The lease protocol: nothing is launched without a lease, nothing outlives its lease.

Launchers call `launch`; whoever hears that something may have changed calls `look_again`; whoever ends a run calls
`close_leases`. Each acts on what describe says, never on what an event says, and each may be run at any time, by
several at once, and again after dying half-way.
"""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from botocore.exceptions import ClientError

from dropmill import aws, ledger
from dropmill.errors import (
    CapacityError,
    DropmillError,
    EndpointFailed,
    JobFailed,
    LeaseExpired,
    RunClosed,
    StillClosing,
)
from dropmill.ledger import Lease, LeaseState, Outcome
from dropmill.naming import RUN_TAG, STACK_TAG, Step, sagemaker_name
from dropmill.resources import CLOSING_ORDER, RESOURCES, Observed, Presence, already_exists
from dropmill.settings import setting

LAUNCHER_TIMEOUT_SECONDS: Final = 60
"""The longest a launching Lambda runs, as the template says."""

PROVISIONING_SECONDS: Final = 3600
"""What a job may take beyond its own run time: waiting for the instance, downloading, uploading."""

_READS: Final = 4
"""How often a launcher reads a lease again that somebody else has just changed."""

PROOF_MARGIN_SECONDS: Final = 60
"""How long a create call may still surface after its launcher was cut off."""

LOOK_AGAIN_SOURCE: Final = "dropmill"
LOOK_AGAIN_DETAIL_TYPE: Final = "Dropmill Lease Look Again"

_MADE_ANEW: Final = {Outcome.CAPACITY, Outcome.NEVER_CREATED}
_OF_AN_ENDPOINT: Final[tuple[Step, ...]] = ("endpoint", "endpoint-config", "model", "champion-model")
_REFUSED_FOR_GOOD: Final = {
    "ValidationException",
    "AccessDeniedException",
    "ResourceLimitExceeded",
    "ResourceNotFound",
    "ConflictException",
}
_TOKEN_GONE: Final = {"TaskTimedOut", "TaskDoesNotExist", "InvalidToken"}


def launch(
    run_id: str,
    recipe: str,
    step: Step,
    *,
    lifetime_seconds: int,
    create: Callable[[str], object],
    token: str | None = None,
    token_order: int = 0,
    round: int = 1,  # noqa: A002  the workflow's own word
) -> str:
    """Create the resource of a step under a lease, or adopt the one that an earlier call created; returns its name.

    `create` gets the name. With `token`, the resource's end answers it; `token_order` rises with each retry. A run that
    is evaluated once more does so in a later `round`: what an earlier one made is taken down, and made anew.

    Raises:
        RunClosed: the run has ended; whatever had been made is being taken down.
        StillClosing: what an earlier attempt or round made is not gone yet, or a newer launcher is at work.
        CapacityError: SageMaker's quota or capacity does not allow it now.
        JobFailed, EndpointFailed: SageMaker refuses the request, or the resource was taken away from outside.
    """
    for _ in range(_READS):
        now = int(time.time())
        wanted = Lease(
            run_id=run_id,
            step=step,
            name=sagemaker_name(setting("stack_name"), recipe, run_id, step, 1),
            attempt=1,
            state=LeaseState.INTENDED,
            deadline=now + lifetime_seconds,
            proof_after=now + LAUNCHER_TIMEOUT_SECONDS + PROOF_MARGIN_SECONDS,
            token=token,
            token_order=token_order,
            round=round,
        )
        found = ledger.find_lease(run_id, step)
        if found is not None and found.round > round:
            raise StillClosing(f"a later round is at work on {RESOURCES[step].kind} {found.name}")
        earlier = found is not None and found.round < round
        if found is not None and earlier and found.state is not LeaseState.CLOSED:
            ledger.begin_closing(found, Outcome.RELEASED)
            _continue_closing(found, now)
            _refuse_if_closed(found)
            raise StillClosing(f"{RESOURCES[step].kind} {found.name} of an earlier round is not gone yet")
        try:
            if found is not None and not earlier and not _is_made_anew(found):
                lease = _take_over(found, wanted, now)
                if _adopt(lease):
                    return lease.name
            else:
                attempt = 1 if found is None else found.attempt + (earlier or found.outcome is Outcome.CAPACITY)
                billed = 0 if found is None else found.billable_seconds or found.billed_before
                name = sagemaker_name(setting("stack_name"), recipe, run_id, step, attempt)
                lease = replace(wanted, attempt=attempt, name=name, billed_before=billed)
                ledger.intend(lease)
        except ledger.StaleLease:
            continue
        return _create(lease, create)
    raise StillClosing(f"another launcher is at work on {step} of run {run_id}")


def _is_made_anew(lease: Lease) -> bool:
    return lease.state is LeaseState.CLOSED and lease.outcome in _MADE_ANEW


def _take_over(found: Lease, wanted: Lease, now: int) -> Lease:
    """Write this launcher's token and time into the lease that another one left.

    Raises:
        StaleLease: the lease has changed since it was read.
        StillClosing, RunClosed: there is nothing to take over any more.
    """
    if found.state is LeaseState.CLOSING:
        _continue_closing(found, now)
        _refuse_if_closed(found)
        raise StillClosing(f"{RESOURCES[found.step].kind} {found.name} is not gone yet")
    if found.kept:
        raise StillClosing(f"{RESOURCES[found.step].kind} {found.name} has done its work in the run, and is kept")
    if wanted.token is not None and found.token_order > wanted.token_order:
        raise StillClosing(f"a newer launcher is at work on {RESOURCES[found.step].kind} {found.name}")
    taken = replace(
        found,
        token=wanted.token,
        token_order=wanted.token_order,
        deadline=wanted.deadline,
        proof_after=wanted.proof_after,
    )
    if not ledger.take_over(
        found,
        token=taken.token,
        token_order=taken.token_order,
        deadline=taken.deadline,
        proof_after=taken.proof_after,
    ):
        raise ledger.StaleLease(found.step)
    return taken


def _refuse_if_closed(lease: Lease) -> None:
    run = ledger.find_run(lease.run_id)
    if run is None or run.closed:
        raise RunClosed(f"run {lease.run_id} has ended; {RESOURCES[lease.step].kind} {lease.name} is taken down")


def _adopt(lease: Lease) -> bool:
    """True where the resource of a lease that was taken over exists; False where it still has to be made."""
    presence = RESOURCES[lease.step].describe(lease.name).presence
    if presence is Presence.ABSENT:
        if lease.state is LeaseState.INTENDED:
            return False
        ledger.forget_token(lease)
        raise _gone(lease)
    if lease.state is LeaseState.INTENDED:
        _confirm(lease)
    if lease.token is not None and presence is Presence.SETTLED:
        _ask_to_look_again(lease)
    return True


def _create(lease: Lease, create: Callable[[str], object]) -> str:
    try:
        create(lease.name)
    except ClientError as error:
        # The call may have gone through all the same: an earlier one whose answer was lost, or another launcher's.
        if already_exists(error) or RESOURCES[lease.step].describe(lease.name).presence is not Presence.ABSENT:
            return _confirm(lease)
        _create_refused(lease, error)
        raise
    return _confirm(lease)


def _confirm(lease: Lease) -> str:
    """intended -> created, now that the resource exists; if the run was closed meanwhile, take it down again."""
    if ledger.mark_created(lease, int(time.time())):
        return lease.name
    current = ledger.find_lease(lease.run_id, lease.step)
    if current is not None and current.attempt == lease.attempt:
        if current.state is LeaseState.CREATED:
            return lease.name
        if current.state is LeaseState.CLOSED and current.outcome in (Outcome.ENDED, Outcome.CAPACITY):
            # A job that ended before its launcher did.
            if current.token is not None:
                _ask_to_look_again(current)
            return lease.name
        # What was closed as never created is there after all: it must be on record until it is gone.
        ledger.reopen(current)
    _end(lease)
    _refuse_if_closed(lease)
    raise StillClosing(f"{RESOURCES[lease.step].kind} {lease.name} is being taken down")


def _create_refused(lease: Lease, error: ClientError) -> None:
    """Close the lease of a request that SageMaker certainly did not carry out, and say why in plain words."""
    code = aws.error_code(error)
    if code not in _REFUSED_FOR_GOOD:
        return
    ledger.mark_closed(replace(lease, token=None), Outcome.NEVER_CREATED)
    ledger.forget_token(lease)
    what = f"SageMaker refused to create {RESOURCES[lease.step].kind} {lease.name}: {aws.error_message(error)}"
    if code == "ResourceLimitExceeded":
        raise CapacityError(f"{what} (raise the quota, or choose another instance type)") from error
    raise _failed(lease.step, what) from error


def _ask_to_look_again(lease: Lease) -> None:
    """Only `resume_task` and the sweeper answer tokens; an event asks the former to look at once."""
    aws.events().put_events(
        Entries=[
            {
                "Source": LOOK_AGAIN_SOURCE,
                "DetailType": LOOK_AGAIN_DETAIL_TYPE,
                "Detail": json.dumps({"Tags": {STACK_TAG: setting("stack_name"), RUN_TAG: lease.run_id}}),
            }
        ]
    )


def look_again(lease: Lease, now: int) -> None:
    """Hold a lease against what is there, answer its token if that is due, and take it a state further if it can go.

    `now` is in seconds since the epoch.
    """
    resource = RESOURCES[lease.step]
    observed = resource.describe(lease.name)
    if lease.state is LeaseState.CLOSING:
        if lease.outcome is Outcome.EXPIRED:
            _fail_token(lease, _expired(lease))
        elif lease.outcome is not Outcome.RELEASED:
            _answer(lease, observed)
        _continue_closing(lease, now)
        return
    if lease.state is LeaseState.CLOSED:
        _answer(lease, observed)
        return
    if now >= lease.deadline and not (resource.ends_by_itself and observed.presence is Presence.SETTLED):
        _expire(lease, now)
        return
    if observed.presence is Presence.ABSENT:
        _lost(lease, now)
        return
    if lease.state is LeaseState.INTENDED and not ledger.mark_created(lease, now):
        return
    if observed.presence is not Presence.SETTLED:
        return
    if resource.ends_by_itself:
        outcome = Outcome.CAPACITY if isinstance(observed.error, CapacityError) else Outcome.ENDED
        ledger.mark_closed(lease, outcome, observed.billable_seconds)
        _answer(lease, observed)
    elif observed.error is not None:
        capacity = isinstance(observed.error, CapacityError)
        ledger.begin_closing(lease, Outcome.CAPACITY if capacity else Outcome.ENDED)
        _answer(lease, observed)
        _continue_closing(lease, now)
    else:
        _answer(lease, observed)


def _failed(step: Step, message: str) -> DropmillError:
    return JobFailed(message) if RESOURCES[step].ends_by_itself else EndpointFailed(message)


def _gone(lease: Lease) -> DropmillError:
    kind = RESOURCES[lease.step].kind
    return _failed(lease.step, f"{kind} {lease.name} is gone: it was taken away from outside; run the drop again")


def _expired(lease: Lease) -> LeaseExpired:
    kind = RESOURCES[lease.step].kind
    return LeaseExpired(f"{kind} {lease.name} was still there at the deadline of its lease and is taken down")


def _expire(lease: Lease, now: int) -> None:
    if lease.kept:
        ledger.begin_closing(lease, Outcome.RELEASED)
    elif ledger.begin_closing(lease, Outcome.EXPIRED):
        _fail_token(lease, _expired(lease))
    _continue_closing(lease, now)


def _lost(lease: Lease, now: int) -> None:
    """The resource is not there: it was never made, is being made just now, or was taken away from outside."""
    if lease.state is LeaseState.INTENDED:
        if now >= lease.proof_after:
            ledger.mark_closed(replace(lease, token=None), Outcome.NEVER_CREATED)
        return
    ledger.mark_closed(lease, Outcome.RELEASED)
    _fail_token(lease, _gone(lease))


def _answer(lease: Lease, observed: Observed) -> None:
    """Answer the token with what is there; a resource that is gone before it was answered is a failure too."""
    if lease.token is None:
        return
    if observed.error is not None:
        _fail_token(lease, observed.error)
    elif observed.presence is Presence.ABSENT:
        _fail_token(lease, _gone(lease))
    elif observed.answer is not None:
        answer = observed.answer.model_dump_json()
        _send(lease, lambda token: aws.step_functions().send_task_success(taskToken=token, output=answer))


def _fail_token(lease: Lease, error: DropmillError) -> None:
    # Step Functions takes at most 256 characters of error and 32,768 of cause.
    name, cause = type(error).__name__, str(error)[:32_768]
    _send(lease, lambda token: aws.step_functions().send_task_failure(taskToken=token, error=name, cause=cause))


def _send(lease: Lease, send: Callable[[str], object]) -> None:
    """Answer the token. One that is gone (timed out, aborted, answered) is no error; nobody waits for it any more."""
    if lease.token is None:
        return
    try:
        send(lease.token)
    except ClientError as error:
        if aws.error_code(error) not in _TOKEN_GONE:
            raise
    ledger.forget_token(lease)


def close_leases(run_id: str, now: int, *, kept_too: bool = False) -> list[Lease]:
    """Take down what a run holds, in the order in which SageMaker lets go; returns the leases that are still closing.

    What is kept stays until its deadline, unless `kept_too`.
    """
    return _close(run_id, now, lambda lease: kept_too or not _stays(lease, now))


def end_earlier_rounds(run_id: str, later: int) -> None:
    """Take down what the rounds before this one still hold, what was to be kept among it.

    Raises:
        StillClosing: not all of it is gone yet.
    """
    left = _close(run_id, int(time.time()), lambda lease: lease.round < later)
    if left:
        raise StillClosing(f"of an earlier round, not gone yet: {', '.join(lease.name for lease in left)}")


def keep_endpoint(run_id: str, deadline: int) -> None:
    """Let a run's endpoint, its configuration and its models stay until the deadline, also when the run has ended."""
    for lease in ledger.leases_of(run_id):
        if lease.step in _OF_AN_ENDPOINT and lease.state is LeaseState.CREATED:
            ledger.keep(lease, deadline)


def _stays(lease: Lease, now: int) -> bool:
    return lease.stays and now < lease.deadline


def _close(run_id: str, now: int, which: Callable[[Lease], bool]) -> list[Lease]:
    """Take down some of a run's leases; returns those of them that are still open."""
    leases = {lease.step: lease for lease in ledger.leases_of(run_id) if which(lease)}
    for step in CLOSING_ORDER:
        lease = leases.get(step)
        if lease is not None and lease.state is not LeaseState.CLOSED:
            ledger.begin_closing(lease, Outcome.RELEASED)
            _continue_closing(lease, now)
    return [
        lease for lease in ledger.leases_of(run_id) if lease.step in leases and lease.state is not LeaseState.CLOSED
    ]


def _continue_closing(lease: Lease, now: int) -> None:
    """End the resource of a closing lease, and write `closed` only if describe then says that it is gone or ended."""
    resource = RESOURCES[lease.step]
    if lease.step in _OF_AN_ENDPOINT and lease.step != "endpoint" and _endpoint_still_serves(lease):
        return
    observed = resource.describe(lease.name)
    if observed.presence in (Presence.SETTLED, Presence.PENDING) and not _over(lease, observed):
        _end(lease)
        observed = resource.describe(lease.name)
    if _over(lease, observed):
        ledger.mark_closed(replace(lease, token=None), Outcome.RELEASED, observed.billable_seconds)
    elif observed.presence is Presence.ABSENT and (lease.was_created or now >= lease.proof_after):
        ledger.mark_closed(replace(lease, token=None), Outcome.RELEASED, _seconds_served(lease, now))


def _seconds_served(lease: Lease, now: int) -> int | None:
    """What an endpoint has cost: jobs say it themselves, models and configurations are free."""
    if lease.step != "endpoint" or lease.created_at is None:
        return None
    return max(0, now - lease.created_at)


def _end(lease: Lease) -> None:
    """Stop or delete. The right to do so hangs on the resource's tags, so it is denied for what has just gone."""
    resource = RESOURCES[lease.step]
    try:
        resource.end(lease.name)
    except ClientError as error:
        if aws.error_code(error) != "AccessDeniedException":
            raise
        if resource.describe(lease.name).presence in (Presence.PENDING, Presence.SETTLED):
            raise


def _over(lease: Lease, observed: Observed) -> bool:
    return RESOURCES[lease.step].ends_by_itself and observed.presence is Presence.SETTLED


def _endpoint_still_serves(lease: Lease) -> bool:
    endpoint = ledger.find_lease(lease.run_id, "endpoint")
    if endpoint is None or endpoint.state is LeaseState.CLOSED:
        return False
    return RESOURCES["endpoint"].describe(endpoint.name).presence in (Presence.PENDING, Presence.SETTLED)
