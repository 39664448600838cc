"""The one door for every ending of a run, and the row that a run begins with."""

import json
import time
import uuid
from datetime import UTC, datetime

from botocore.exceptions import ClientError

from dropmill import aws, ledger, notifications
from dropmill.contracts import LeaseRecord, Metrics, Plan, RunInput, RunRecord, RunStatus
from dropmill.leases import close_leases
from dropmill.ledger import Run
from dropmill.naming import metrics_key, plan_key, report_key, run_record_key
from dropmill.resources import RESOURCES, TRAINING_LOGS, log_link
from dropmill.storage import MissingDocument, artifact_uri, read_document, write_document

NEVER_STARTED_SECONDS = 900
"""After this time a run without an execution is taken for one that was never started."""


_WORDS = {
    "States.Timeout": "a state of the workflow took longer than it may",
    "TIMED_OUT": "the workflow took longer than it may",
    "ABORTED": "somebody stopped the execution",
}


def execution_arn(state_machine_arn: str, name: str) -> str:
    return f"{state_machine_arn.replace(':stateMachine:', ':execution:')}:{name}"


def open_run(run: RunInput, arn: str) -> bool:
    """Write the row of a run that is about to begin; False where it has one."""
    return ledger.open_run(
        Run(
            run_id=run.run_id,
            recipe=run.recipe,
            drop=run.drop,
            execution_arn=arn,
            started_at=int(time.time()),
        )
    )


def end_run(run: Run, now: int) -> RunStatus | None:
    """Deal with a run whose execution has ended: close, take down, record, announce.

    Returns the execution's status, RUNNING while it goes on, None while Step Functions does not know of it.

    May be called any number of times, by several at once: each part is idempotent, and one conditional write decides
    who announces.
    """
    execution = _execution(run, now)
    if execution is None:
        return None
    status, ended_at, error, cause = execution
    if status is RunStatus.RUNNING:
        return status
    ledger.close_run(run.run_id)
    left = close_leases(run.run_id, now)
    record = _record(run, status, ended_at, error, cause)
    write_document(run_record_key(run.run_id), record)
    ledger.record_end(
        run.run_id,
        status=status,
        ended_at=int(ended_at.timestamp()),
        error=error,
        metrics=record.metrics,
        report=record.report,
    )
    _announce(record, now)
    if not left:
        ledger.settle_run(run.run_id)
    return status


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
        never = "the execution was never started; drop the file again"
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


def _record(run: Run, status: RunStatus, ended_at: datetime, error: str | None, cause: str | None) -> RunRecord:
    started_at = datetime.fromtimestamp(run.started_at, UTC)
    metrics: dict[str, float] = {}
    report: str | None = None
    algorithm: str | None = None
    try:
        algorithm = read_document(Plan, plan_key(run.run_id)).recipe.algorithm
        metrics = read_document(Metrics, metrics_key(run.run_id)).metrics
        report = artifact_uri(report_key(run.run_id))
    except (MissingDocument, ValueError):
        # The run ended before it came that far, or a newer version of this code no longer reads what it wrote.
        pass
    return RunRecord(
        run_id=run.run_id,
        recipe=run.recipe,
        drop=run.drop,
        status=status,
        started_at=started_at,
        ended_at=ended_at,
        seconds=max(0.0, round((ended_at - started_at).total_seconds(), 3)),
        algorithm=algorithm,
        error=error,
        cause=cause,
        metrics=metrics,
        report=report,
        leases=[
            LeaseRecord(
                step=lease.step,
                kind=RESOURCES[lease.step].kind,
                name=lease.name,
                state=lease.state.value,
                attempt=lease.attempt,
                billable_seconds=lease.billable_seconds,
                log=log_link(TRAINING_LOGS, lease.name) if lease.step in ("training", "tuning") else None,
            )
            for lease in ledger.leases_of(run.run_id)
        ],
    )
