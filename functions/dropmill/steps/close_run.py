"""close_run: Step Functions says that an execution has ended."""

import json
import time

from pydantic import BaseModel

from dropmill import ledger
from dropmill.contracts import BatchInput, RunInput, RunStatus
from dropmill.ledger import Run
from dropmill.runs import end_run, open_run
from dropmill.step import about_run, logger, step


class ExecutionDetail(BaseModel):
    name: str
    executionArn: str  # noqa: N815  the event's own name
    input: str | None = None


class ExecutionEvent(BaseModel):
    """EventBridge "Step Functions Execution Status Change"; what it says of the status is looked up anew."""

    detail: ExecutionDetail


class NotEndedYet(RuntimeError):
    """DescribeExecution lags behind its own event; Lambda tries again a minute later."""


def close_run(event: ExecutionEvent) -> None:
    about_run(event.detail.name)
    run = ledger.find_run(event.detail.name) or _started_by_hand(event.detail)
    if run is None:
        logger.warning("an execution ended that has no run")
        return
    if end_run(run, int(time.time())) is RunStatus.RUNNING:
        raise NotEndedYet(f"Step Functions does not know yet that {run.run_id} has ended")


def _started_by_hand(detail: ExecutionDetail) -> Run | None:
    """An execution whose first state died before it could write the run's row still has its input."""
    for model in (RunInput, BatchInput):
        try:
            run = model.model_validate({**json.loads(detail.input or "{}"), "run_id": detail.name})
        except ValueError:
            continue
        open_run(run, detail.executionArn)
        return ledger.find_run(detail.name)
    return None


handler = step(close_run)
