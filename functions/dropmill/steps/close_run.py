"""close_run: Step Functions says that an execution has ended."""

import time

from pydantic import BaseModel

from dropmill import ledger
from dropmill.runs import end_run
from dropmill.step import about_run, logger, step


class ExecutionDetail(BaseModel):
    name: str


class ExecutionEvent(BaseModel):
    """EventBridge "Step Functions Execution Status Change"; what it says of the status is looked up anew."""

    detail: ExecutionDetail


def close_run(event: ExecutionEvent) -> None:
    about_run(event.detail.name)
    run = ledger.find_run(event.detail.name)
    if run is None:
        logger.warning("an execution ended that has no run")
        return
    end_run(run, int(time.time()))


handler = step(close_run)
