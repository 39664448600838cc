"""The one door for every ending of a run, and the row that a run begins with."""

import json
import time
import uuid
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import ClientError

from dropmill import aws, claims, ledger, notifications
from dropmill.contracts import (
    PROBLEMS_MAX,
    BatchInput,
    BatchRecord,
    Judgement,
    LeaseRecord,
    Metrics,
    Plan,
    PredictionsManifest,
    Refusal,
    RunInput,
    RunKind,
    RunRecord,
    RunStatus,
)
from dropmill.errors import InvalidDrop, InvalidRecipe
from dropmill.leases import close_leases
from dropmill.ledger import LeaseState, Outcome, Run
from dropmill.naming import (
    Step,
    metrics_key,
    plan_key,
    predictions_manifest_key,
    predictions_prefix,
    refusal_key,
    report_key,
    run_record_key,
    verdict_key,
)
from dropmill.resources import RESOURCES, TRAINING_LOGS, TRANSFORM_LOGS, log_link
from dropmill.storage import MissingDocument, artifact_uri, delete_objects, read_document, write_document
from dropmill.words import Words, joined

NEVER_STARTED_SECONDS = 900
"""After this time a run without an execution is taken for one that was never started."""
PUBLISHING_SECONDS = 960
"""How long a Lambda that publishes predictions may outlive the execution that called it."""

_LOGS: dict[Step, str] = {
    "training": TRAINING_LOGS,
    "tuning": TRAINING_LOGS,
    "transform": TRANSFORM_LOGS,
    "champion-transform": TRANSFORM_LOGS,
}
_TOLD_IN_FULL = {InvalidDrop.__name__, InvalidRecipe.__name__}
_WORDS = {
    "States.Timeout": "a state of the workflow took longer than it may",
    "TIMED_OUT": "the workflow took longer than it may",
    "ABORTED": "somebody stopped the execution",
}


def execution_arn(state_machine_arn: str, name: str) -> str:
    return f"{state_machine_arn.replace(':stateMachine:', ':execution:')}:{name}"


def open_run(run: RunInput | BatchInput, arn: str) -> bool:
    """Write the row of a run or batch that is about to begin; False where it has one."""
    drop = run.drop if isinstance(run, RunInput) else None
    return ledger.open_run(
        Run(
            run_id=run.run_id,
            kind=RunKind.SCORING if drop is None else RunKind.TRAINING,
            recipe=run.recipe,
            drop=drop,
            execution_arn=arn,
            started_at=int(time.time()),
        )
    )


def end_run(run: Run, now: int) -> RunStatus | None:
    """Deal with a run whose execution has ended: close, take down, record, announce.

    A batch's claims are settled besides, or given back. Returns the execution's status, RUNNING while it goes on, None
    while Step Functions does not know of it.

    May be called any number of times, by several at once: each part is idempotent, and one conditional write decides
    who announces.
    """
    ending = _endpoint(run, now) if run.kind is RunKind.ENDPOINT else _execution(run, now)
    if ending is None:
        return None
    status, ended_at, error, cause = ending
    if status is RunStatus.RUNNING:
        return status
    ledger.close_run(run.run_id)
    # Only a run that went well keeps an endpoint.
    left = close_leases(run.run_id, now, kept_too=status is not RunStatus.SUCCEEDED)
    batch = _end_batch(run) if run.kind is RunKind.SCORING else None
    record = _record(run, status, ended_at, error, cause).model_copy(update={"batch": batch})
    write_document(run_record_key(run.run_id), record)
    ledger.record_end(
        run.run_id,
        status=status,
        ended_at=int(ended_at.timestamp()),
        error=error,
        metrics=record.metrics,
        report=record.report,
        verdict=record.verdict,
        note=batch.words if batch else None,
    )
    _announce(record, now)
    # Of a batch that failed, a Lambda may be writing predictions still, which have to be cleared away as well.
    publishing = run.kind is RunKind.SCORING and batch is None and status is not RunStatus.SUCCEEDED
    if not left and not (publishing and now < ended_at.timestamp() + PUBLISHING_SECONDS):
        ledger.settle_run(run.run_id)
    return status


def _end_batch(run: Run) -> BatchRecord | None:
    """Settle the claims of a batch whose predictions count; of another, give them back and clear what it has written.

    The run is closed, so that whether they count can't change any more.
    """
    current = ledger.find_run(run.run_id)
    if current is None or not current.committed:
        claims.give_back(run.run_id)
        delete_objects(predictions_prefix(run.recipe, run.run_id))
        return None
    manifest = claims.manifest_of(run.run_id, run.recipe)
    claims.settle(manifest)
    return _batch_record(manifest)


def _batch_record(manifest: PredictionsManifest) -> BatchRecord:
    return BatchRecord(
        manifest=artifact_uri(predictions_manifest_key(manifest.recipe, manifest.batch)),
        model_package=manifest.model_package,
        training_run=manifest.training_run,
        files=len(manifest.files),
        rows=manifest.rows,
        set_aside=len(manifest.set_aside),
        reasons=[Words(f"{file.name}: ", joined("; ", file.reasons)) for file in manifest.set_aside[:PROBLEMS_MAX]],
        rules=[f"{file.name}: {'; '.join(file.rules)}" for file in manifest.set_aside[:PROBLEMS_MAX]],
    )


def _endpoint(run: Run, now: int) -> tuple[RunStatus, datetime, str | None, str | None]:
    """How it is with an endpoint that was brought up by hand: its lease says so, for no execution does."""
    moment = datetime.fromtimestamp(now, UTC)
    if run.closed:
        return RunStatus.SUCCEEDED, moment, None, None
    lease = ledger.find_lease(run.run_id, "endpoint")
    if lease is None:
        if now < run.started_at + NEVER_STARTED_SECONDS:
            return RunStatus.RUNNING, moment, None, None
        return RunStatus.FAILED, moment, "NeverStarted", "the endpoint was never created; bring it up again"
    if lease.state in (LeaseState.INTENDED, LeaseState.CREATED):
        return RunStatus.RUNNING, moment, None, None
    if lease.outcome is Outcome.EXPIRED:
        return RunStatus.SUCCEEDED, moment, None, None
    log = log_link(f"/aws/sagemaker/Endpoints/{lease.name}", "")
    cause = {
        Outcome.CAPACITY: f"SageMaker had no such instance free for endpoint {lease.name}; bring it up later",
        Outcome.ENDED: f"endpoint {lease.name} failed; its log says why: {log}",
        Outcome.NEVER_CREATED: f"SageMaker did not create endpoint {lease.name}; bring it up again",
    }.get(lease.outcome or Outcome.RELEASED, f"endpoint {lease.name} was taken away from outside")
    return RunStatus.FAILED, moment, "EndpointFailed", cause


def _announce(record: RunRecord, now: int) -> None:
    """Tell the end once: twice only if a Lambda dies between the message and the note that it was sent."""
    claimant = uuid.uuid4().hex
    if not ledger.claim_announcement(record.run_id, claimant, now):
        return
    try:
        notifications.announce(record)
    except Exception:
        ledger.return_announcement(record.run_id, claimant)
        raise
    ledger.mark_announced(record.run_id)


def _execution(run: Run, now: int) -> tuple[RunStatus, datetime, str | None, str | None] | None:
    """The execution's status, when it ended, its error and the cause in plain words; None if it is not known."""
    try:
        execution = aws.step_functions().describe_execution(executionArn=run.execution_arn)
    except ClientError as error:
        if aws.error_code(error) != "ExecutionDoesNotExist":
            raise
        if now < run.started_at + NEVER_STARTED_SECONDS:
            return None
        again = "drop the file again" if run.kind is RunKind.TRAINING else "score again"
        never = f"the execution was never started; {again}"
        return RunStatus.FAILED, datetime.fromtimestamp(now, UTC), "NeverStarted", never
    status = RunStatus(execution["status"])
    if status is RunStatus.RUNNING:
        return status, datetime.fromtimestamp(now, UTC), None, None
    error_name = execution.get("error")
    cause = plain_cause(execution.get("cause")) or _WORDS.get(error_name or status)
    return status, execution["stopDate"].astimezone(UTC), error_name, cause


def plain_cause(cause: str | None) -> str | None:
    """The message inside a Lambda's failure document, which Step Functions passes on as JSON."""
    if cause is None:
        return None
    try:
        document = json.loads(cause)
    except ValueError:
        return cause
    if isinstance(document, dict) and "errorMessage" in document:
        return str(document["errorMessage"])
    return cause


def _refusal(run_id: str, error: str | None) -> Words | None:
    """What the execution's cause leaves out of its error."""
    if error not in _TOLD_IN_FULL:
        return None
    try:
        refusal = read_document(Refusal, refusal_key(run_id))
    except (MissingDocument, ValueError):
        return None  # there was no more to tell
    return refusal.words if refusal.error == error else None


def _record(run: Run, status: RunStatus, ended_at: datetime, error: str | None, cause: str | None) -> RunRecord:
    started_at = datetime.fromtimestamp(run.started_at, UTC)
    metrics: dict[str, float] = {}
    report: str | None = None
    algorithm: str | None = None
    judged: dict[str, Any] = {}
    try:
        algorithm = read_document(Plan, plan_key(run.run_id)).recipe.algorithm
        measured = read_document(Metrics, metrics_key(run.run_id))
        metrics = measured.metrics
        report = artifact_uri(report_key(run.run_id))
        package = ledger.package_of(run.run_id)
        if status is RunStatus.SUCCEEDED and package is not None:
            judgement = read_document(Judgement, verdict_key(run.run_id))
            judged = {"verdict": judgement.verdict, "reasons": judgement.reasons, "package": package}
            if measured.champion is not None and judgement.champion is not None:
                judged |= {
                    "champion_run": measured.champion.run_id,
                    "champion_metrics": measured.champion.metrics,
                }
    except (MissingDocument, ValueError):
        # The run ended before it came that far, or a newer version of this code no longer reads what it wrote.
        pass
    return RunRecord(
        run_id=run.run_id,
        kind=run.kind,
        recipe=run.recipe,
        drop=run.drop,
        status=status,
        started_at=started_at,
        ended_at=ended_at,
        seconds=max(0.0, round((ended_at - started_at).total_seconds(), 3)),
        algorithm=algorithm,
        error=error,
        cause=cause,
        refusal=_refusal(run.run_id, error),
        metrics=metrics,
        report=report,
        **judged,
        leases=[
            LeaseRecord(
                step=lease.step,
                kind=RESOURCES[lease.step].kind,
                name=lease.name,
                state=lease.state.value,
                attempt=lease.attempt,
                billable_seconds=lease.billable_seconds,
                log=log_link(_LOGS[lease.step], lease.name) if lease.step in _LOGS else None,
                kept_until=datetime.fromtimestamp(lease.deadline, UTC) if lease.stays else None,
            )
            for lease in ledger.leases_of(run.run_id)
        ],
    )
