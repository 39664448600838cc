"""sweep_leases: on a schedule, deal with everything whose event never came and whose deadline has."""

from collections.abc import Callable
from datetime import datetime
from functools import partial

from pydantic import BaseModel

from dropmill import ledger
from dropmill.leases import look_again
from dropmill.ledger import Lease, LeaseState
from dropmill.resources import CLOSING_ORDER
from dropmill.runs import end_run
from dropmill.step import logger, metrics, step


class ScheduledEvent(BaseModel):
    """EventBridge "Scheduled Event"; its time is the sweeper's clock."""

    time: datetime


class SweepFailed(RuntimeError):
    """Some leases or runs could not be looked after; the others were."""


def sweep_leases(event: ScheduledEvent) -> None:
    now = int(event.time.timestamp())
    failed = 0
    by_run: dict[str, list[Lease]] = {}
    for lease in ledger.open_leases():
        by_run.setdefault(lease.run_id, []).append(lease)
    # The index gives the nearest deadline first, and so the run that holds it.
    for leases in by_run.values():
        for lease in sorted(leases, key=lambda lease: CLOSING_ORDER.index(lease.step)):
            failed += not _attempt(lease.run_id, partial(_sweep_lease, lease, now))
    for run in ledger.open_runs():
        failed += not _attempt(run.run_id, partial(end_run, run, now))
    metrics.add_metric("OpenLeases", "Count", sum(map(len, by_run.values())))
    if failed:
        raise SweepFailed(f"{failed} leases or runs could not be looked after; their errors are in the log")


def _sweep_lease(listed: Lease, now: int) -> None:
    """The index may lag behind, so the row itself is read again."""
    lease = ledger.find_lease(listed.run_id, listed.step)
    if lease is not None and (lease.state is not LeaseState.CLOSED or lease.token is not None):
        look_again(lease, now)


def _attempt(run_id: str, action: Callable[[], object]) -> bool:
    try:
        action()
    except Exception as error:  # noqa: BLE001  one broken row must not keep the others from being swept
        logger.error("sweep failed", run_id=run_id, error=type(error).__name__)
        return False
    return True


handler = step(sweep_leases)
