"""Runs as the commands know them: found, described, started again."""

import os
import re
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError
from pydantic import BaseModel, Field

from dropmill import aws, ledger
from dropmill.contracts import BatchRecord, Decision, LeaseRecord, Metrics, Plan, RunKind, RunRecord, RunStatus
from dropmill.ledger import Lease, LeaseState, Run
from dropmill.naming import metrics_key, plan_key, report_key, run_record_key
from dropmill.resources import RESOURCES
from dropmill.runs import execution_arn
from dropmill.storage import MissingDocument, read_document, read_object
from dropmill.words import IN_FULL, Words
from dropmill_cli.errors import CommandError
from dropmill_cli.stack import Stack

REPORT_BYTES_MAX = 256 * 1024 * 1024

_RUN_ID = re.compile(r"[a-z0-9](-?[a-z0-9])*")
_RERUN = re.compile(r"(?P<first>.+-[0-9a-f]{12})-[0-9]{1,4}")
_RERUNS_MAX = 1000
_CONSOLE_LINK = re.compile(r"https://[a-z0-9-]+\.console\.aws\.amazon\.com/cloudwatch/[^\s()]*")


_RECORDED = {
    *("algorithm", "metrics", "seconds", "ended_at", "error", "cause", "refusal", "report"),
    *("verdict", "reasons", "package", "champion_run", "champion_metrics", "batch"),
}


class RunDocument(BaseModel):
    """What `--json` prints of a run. `seconds` runs from its start, with `--wait` from the drop, to its end."""

    run_id: str
    status: RunStatus
    algorithm: str | None = None
    metrics: dict[str, float] = Field(default_factory=dict)
    seconds: float | None = None
    open_leases: int = 0
    report: str | None = None
    verdict: Decision | None = None
    reasons: list[str] = Field(default_factory=list)
    package: str | None = None
    champion_run: str | None = None
    champion_metrics: dict[str, float] = Field(default_factory=dict)
    kind: RunKind = RunKind.TRAINING
    recipe: str
    drop: str | None = None
    version_id: str | None = None
    batch: BatchRecord | None = None
    started_at: datetime
    ended_at: datetime | None = None
    error: str | None = None
    cause: str | None = None
    refusal: Words | None = None
    leases: list[LeaseRecord] = Field(default_factory=list)

    def in_full(self) -> dict[str, Any]:
        """As JSON, with the values of rows that it holds: for the user's own eyes."""
        return self.model_dump(mode="json", context=IN_FULL)


class RunLine(BaseModel):
    """What `dropmill runs --json` prints of each run."""

    run_id: str
    kind: RunKind = RunKind.TRAINING
    recipe: str
    status: RunStatus
    drop: str | None
    started_at: datetime
    ended_at: datetime | None
    seconds: float | None
    metrics: dict[str, float]
    verdict: Decision | None = None
    open_leases: int
    error: str | None
    note: str | None = None


def check_run_id(run_id: str) -> str:
    """Raises CommandError for what is no run id."""
    if len(run_id) > 80 or not _RUN_ID.fullmatch(run_id):
        raise CommandError(f"{run_id[:80]!r} is not a run id; `dropmill runs` lists them")
    return run_id


def find_run(stack: Stack, run_id: str) -> Run:
    """The run's row. Raises CommandError where there is none."""
    run = ledger.find_run(check_run_id(run_id))
    if run is None:
        raise CommandError(f"there is no run {run_id} in stack {stack.name}; `dropmill runs` lists them")
    return run


def list_runs(limit: int) -> list[RunLine]:
    """The latest runs, newest first."""
    held = Counter(lease.run_id for lease in ledger.open_leases() if lease.state is not LeaseState.CLOSED)
    return [_line(run, held[run.run_id]) for run in ledger.list_runs(limit)]


def _line(run: Run, open_leases: int) -> RunLine:
    return RunLine(
        run_id=run.run_id,
        kind=run.kind,
        recipe=run.recipe,
        status=run.status,
        drop=run.drop.uri if run.drop else None,
        started_at=_moment(run.started_at),
        ended_at=_moment(run.ended_at) if run.ended_at is not None else None,
        seconds=float(run.ended_at - run.started_at) if run.ended_at is not None else None,
        metrics=run.metrics,
        verdict=run.verdict,
        open_leases=open_leases,
        error=run.error,
        note=run.note,
    )


def describe(run: Run) -> RunDocument:
    """All that is known of a run: its record where it has ended, and its leases as they are now."""
    record = read_record(run.run_id)
    leases = ledger.leases_of(run.run_id)
    logs = {lease.step: lease.log for lease in record.leases} if record else {}
    document = RunDocument(
        run_id=run.run_id,
        status=record.status if record else run.status,
        kind=run.kind,
        recipe=run.recipe,
        drop=run.drop.uri if run.drop else None,
        version_id=run.drop.version_id if run.drop else None,
        started_at=record.started_at if record else _moment(run.started_at),
        open_leases=sum(lease.state is not LeaseState.CLOSED for lease in leases),
        leases=[_lease_record(lease, logs.get(lease.step)) for lease in sorted(leases, key=_creation_order)],
    )
    if record is None:
        return document.model_copy(update={"algorithm": _algorithm(run.run_id)})
    return document.model_copy(update={name: getattr(record, name) for name in _RECORDED})


def at_home(document: RunDocument, log: str) -> RunDocument:
    """The document of a run in an embedded cloud, of which AWS's console knows nothing: `log` says where its log is."""
    return document.model_copy(
        update={
            "cause": document.cause and _CONSOLE_LINK.sub(lambda _: log, document.cause),
            "leases": [lease.model_copy(update={"log": None}) for lease in document.leases],
        }
    )


def _creation_order(lease: Lease) -> int:
    return list(RESOURCES).index(lease.step)


def _lease_record(lease: Lease, log: str | None) -> LeaseRecord:
    return LeaseRecord(
        step=lease.step,
        kind=RESOURCES[lease.step].kind,
        name=lease.name,
        state=lease.state.value,
        attempt=lease.attempt,
        billable_seconds=lease.billable_seconds,
        log=log,
    )


def _algorithm(run_id: str) -> str | None:
    try:
        return read_document(Plan, plan_key(run_id)).recipe.algorithm
    except MissingDocument:
        return None


def read_record(run_id: str) -> RunRecord | None:
    try:
        return read_document(RunRecord, run_record_key(run_id))
    except MissingDocument:
        return None


def read_metrics(run_id: str) -> Metrics | None:
    try:
        return read_document(Metrics, metrics_key(run_id))
    except MissingDocument:
        return None


def wait_for_record(run_id: str, *, seconds: float = 30, pause: float = 0.2) -> bool:
    """Wait until an ended run has its record and holds no lease; False where one of them is still missing.

    The one door for every ending is a Lambda that an event calls, so the record follows the execution's end.
    """
    give_up = time.monotonic() + seconds
    while True:
        if read_record(run_id) is not None and all(
            lease.state is LeaseState.CLOSED for lease in ledger.leases_of(run_id)
        ):
            return True
        if time.monotonic() > give_up:
            return False
        time.sleep(pause)


def check_output(folder: Path) -> Path:
    """The folder that reports are copied to, before anything is started for them; it is not made yet.

    Raises:
        CommandError: it can't be made or written to.
    """
    known = folder.absolute()
    while not known.exists() and known != known.parent:
        known = known.parent
    if not known.is_dir():
        raise CommandError(f"the report can't be written to {folder}: {known} is no folder; choose another --output")
    if not os.access(known, os.W_OK | os.X_OK):
        raise CommandError(f"the report can't be written to {folder}: {known} is not yours; choose another --output")
    return folder


def save_report(run_id: str, folder: Path) -> Path | None:
    """Copy the run's report to `<folder>/<run>/report.html`; None where it has none."""
    from dropmill.settings import setting

    try:
        page = read_object(setting("artifact_bucket"), report_key(run_id), limit=REPORT_BYTES_MAX)
    except MissingDocument:
        return None
    target = folder / run_id / "report.html"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(page)
    except OSError as error:
        raise CommandError(
            f"the report can't be written to {target}: {error.strerror}; choose another --output"
        ) from None
    return target.resolve()


def rerun(stack: Stack, run: Run) -> str:
    """Start the run's execution again, with the same input, under the first of `-2`, `-3`, ... that does not exist.

    Raises:
        CommandError: it is no training run, or Step Functions no longer knows its input.
    """
    if run.kind is not RunKind.TRAINING:
        advice = f"dropmill {'score' if run.kind is RunKind.SCORING else 'endpoint up'} {run.recipe}"
        raise CommandError(f"{run.run_id} trained nothing that could be run again; use: {advice}")
    client = aws.step_functions()
    try:
        text = client.describe_execution(executionArn=run.execution_arn).get("input", "{}")
    except ClientError as error:
        if aws.error_code(error) != "ExecutionDoesNotExist":
            raise
        raise CommandError(
            f"Step Functions no longer knows the input of {run.run_id} (it forgets after 90 days); drop the file again"
        ) from None
    match = _RERUN.fullmatch(run.run_id)
    first = match["first"] if match else run.run_id
    for number in range(2, _RERUNS_MAX):
        name = f"{first}-{number}"
        # The same name and input would be answered with the execution that runs already.
        if ledger.find_run(name) is not None or _exists(execution_arn(stack.state_machine_arn, name)):
            continue
        try:
            client.start_execution(stateMachineArn=stack.state_machine_arn, name=name, input=text)
        except client.exceptions.ExecutionAlreadyExists:
            continue
        return name
    raise CommandError(f"{first} has been rerun {_RERUNS_MAX} times; drop the file again")


def _exists(arn: str) -> bool:
    try:
        aws.step_functions().describe_execution(executionArn=arn)
    except ClientError as error:
        if aws.error_code(error) != "ExecutionDoesNotExist":
            raise
        return False
    return True


def _moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
