"""How it is with an endpoint that was brought up by hand, of which only its lease tells."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from dropmill import ledger, runs
from dropmill.contracts import RunKind, RunStatus
from dropmill.ledger import Lease, LeaseState, Outcome, Run

RUN = Run("digits-endpoint-20260101t120000", "digits", None, "", 1_000_000, RunKind.ENDPOINT)
LEASE = Lease(RUN.run_id, "endpoint", "digits-ep-1", 1, LeaseState.INTENDED, RUN.started_at + 7200, RUN.started_at + 60)
SOON, LATER = RUN.started_at + 60, RUN.started_at + runs.NEVER_STARTED_SECONDS


@pytest.fixture(autouse=True)
def row(ledger_table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "log_link", lambda group, name: f"log:{group}")
    ledger.open_run(RUN)


def refused() -> None:
    ledger.intend(LEASE)
    ledger.mark_closed(LEASE, Outcome.NEVER_CREATED)


def closing(outcome: Outcome) -> Callable[[], None]:
    def close() -> None:
        ledger.intend(LEASE)
        ledger.mark_created(LEASE, SOON)
        ledger.begin_closing(replace(LEASE, state=LeaseState.CREATED), outcome)

    return close


@pytest.mark.parametrize(
    ("happened", "now", "status", "words"),
    [
        (lambda: None, SOON, RunStatus.RUNNING, None),
        (lambda: None, LATER, RunStatus.FAILED, "never created"),
        (lambda: ledger.intend(LEASE), LATER, RunStatus.RUNNING, None),
        (closing(Outcome.EXPIRED), LATER, RunStatus.SUCCEEDED, None),
        (closing(Outcome.ENDED), LATER, RunStatus.FAILED, "its log says why: log:/aws/sagemaker/Endpoints/digits-ep-1"),
        (closing(Outcome.CAPACITY), LATER, RunStatus.FAILED, "no such instance free"),
        (closing(Outcome.RELEASED), LATER, RunStatus.FAILED, "taken away from outside"),
        (refused, LATER, RunStatus.FAILED, "did not create"),
        (lambda: ledger.close_run(RUN.run_id), SOON, RunStatus.SUCCEEDED, None),
    ],
)
def test_its_lease_tells(happened: Callable[[], Any], now: int, status: RunStatus, words: str | None) -> None:
    happened()
    run = ledger.find_run(RUN.run_id)
    assert run is not None
    found, _, error, cause = runs._endpoint(run, now)
    assert found is status
    assert (error is None) == (words is None) == (cause is None)
    assert words is None or words in str(cause)
