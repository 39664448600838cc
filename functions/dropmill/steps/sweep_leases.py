"""sweep_leases: on a schedule, deal with everything whose event never came and whose deadline has."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from aws_lambda_powertools.metrics import MetricUnit
from pydantic import BaseModel

from dropmill import ledger
from dropmill.contracts import RunKind, RunStatus
from dropmill.leases import look_again
from dropmill.ledger import Lease, LeaseState, Run
from dropmill.resources import CLOSING_ORDER
from dropmill.runs import end_run
from dropmill.step import logger, metrics, step


class ScheduledEvent(BaseModel):
    """EventBridge "Scheduled Event"; its time is the sweeper's clock, unless it comes late."""

    time: datetime


class SweepFailed(RuntimeError):
    """Some leases or runs could not be looked after; the others were."""


@dataclass
class _Findings:
    swept_leases: int = 0
    """Leases that were ended, or whose token was answered, because no event had done so."""
    swept_runs: int = 0
    """Runs that had ended without their event having been dealt with."""
    oldest: int = 0
    """Seconds since the oldest resource was made; what is kept on purpose does not count."""
    overdue: int = 0
    """Seconds since the earliest deadline that has passed."""


def sweep_leases(event: ScheduledEvent) -> None:
    """Look after every open lease and run.

    Alarms watch what is found, so every sweep tells it, nothing found as zero.
    """
    # An event that comes late must not hold what was claimed since for stale.
    now = max(int(event.time.timestamp()), int(time.time()))
    failed = 0
    findings = _Findings()
    by_run: dict[str, list[Lease]] = {}
    for lease in ledger.open_leases():
        by_run.setdefault(lease.run_id, []).append(lease)
    # The index gives the nearest deadline first, and so the run that holds it.
    for leases in by_run.values():
        for lease in sorted(leases, key=lambda lease: CLOSING_ORDER.index(lease.step)):
            failed += not _attempt(lease.run_id, partial(_sweep_lease, lease, now, findings))
    for run in ledger.open_runs():
        failed += not _attempt(run.run_id, partial(_sweep_run, run, now, findings))
    metrics.add_metric("OpenLeases", MetricUnit.Count, sum(map(len, by_run.values())))
    metrics.add_metric("SweptLeases", MetricUnit.Count, findings.swept_leases)
    metrics.add_metric("SweptRuns", MetricUnit.Count, findings.swept_runs)
    metrics.add_metric("OldestLeaseSeconds", MetricUnit.Seconds, findings.oldest)
    metrics.add_metric("OverdueLeaseSeconds", MetricUnit.Seconds, findings.overdue)
    if failed:
        raise SweepFailed(f"{failed} leases or runs could not be looked after; their errors are in the log")


def _sweep_lease(listed: Lease, now: int, findings: _Findings) -> None:
    """The index may lag behind, so the row itself is read again."""
    lease = ledger.find_lease(listed.run_id, listed.step)
    if lease is None:
        return
    if lease.state is LeaseState.CLOSED and lease.token is None:
        # Whoever answered the token was cut off before this.
        ledger.settle_lease(lease)
        return
    if lease.state is not LeaseState.CLOSED:
        findings.overdue = max(findings.overdue, now - lease.deadline)
        if not lease.kept:
            findings.oldest = max(findings.oldest, now - (lease.created_at or lease.proof_after))
    look_again(lease, now)
    # To end what was kept, and what is closing already, is the sweeper's own work.
    if not lease.kept and lease.state is not LeaseState.CLOSING:
        after = ledger.find_lease(lease.run_id, lease.step)
        answered = after is not None and lease.token is not None and after.token is None
        ended = after is not None and after.state is not lease.state and after.state is not LeaseState.CREATED
        findings.swept_leases += answered or ended


def _sweep_run(run: Run, now: int, findings: _Findings) -> None:
    status = end_run(run, now)
    # An endpoint that was brought up by hand has no execution that could tell of its end.
    findings.swept_runs += (
        not run.closed and run.kind is not RunKind.ENDPOINT and status not in (None, RunStatus.RUNNING)
    )


def _attempt(run_id: str, action: Callable[[], object]) -> bool:
    try:
        action()
    except Exception as error:  # noqa: BLE001  one broken row must not keep the others from being swept
        logger.error("sweep failed", run_id=run_id, error=type(error).__name__)
        return False
    return True


handler = step(sweep_leases)
