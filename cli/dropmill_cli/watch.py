"""Follow an execution: which states it went through, live."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import ClientError

from dropmill import aws
from dropmill.contracts import RunStatus
from dropmill_cli.errors import CommandError

START_SECONDS = 60


@dataclass
class State:
    """One state of the workflow; `done` of `items` where it goes over items."""

    name: str
    entered: datetime
    exited: datetime | None = None
    items: int | None = None
    done: int = 0
    trouble: str | None = field(default=None)
    """The error of its latest attempt, while it is tried again."""

    def seconds(self, now: datetime) -> float:
        return max(0.0, ((self.exited or now) - self.entered).total_seconds())


@dataclass(frozen=True)
class Progress:
    status: RunStatus
    states: list[State]
    ended: datetime | None = None


def read_states(events: Iterable[dict[str, Any]]) -> list[State]:
    """The top states of a history (GetExecutionHistory), in their order; what a Map runs counts as its items."""
    states: list[State] = []
    within_map = False
    for event in events:
        kind: str = event["type"]
        if kind.endswith("StateEntered"):
            if not within_map:
                states.append(State(event["stateEnteredEventDetails"]["name"], event["timestamp"]))
                within_map = kind == "MapStateEntered"
            continue
        if not states:
            continue
        current = states[-1]
        if kind.endswith("StateExited"):
            if event["stateExitedEventDetails"]["name"] == current.name and current.exited is None:
                current.exited = event["timestamp"]
                current.trouble = None
                within_map = False
        elif kind == "MapStateStarted":
            current.items = event["mapStateStartedEventDetails"]["length"]
        elif kind == "MapIterationSucceeded":
            current.done += 1
        elif kind.endswith(("TimedOut", "Failed")) and not kind.startswith(("Execution", "Map")):
            current.trouble = _error(event) or ("States.Timeout" if kind.endswith("TimedOut") else None)
    return states


def _error(event: dict[str, Any]) -> str | None:
    for name, details in event.items():
        if name.endswith("EventDetails") and isinstance(details, dict) and details.get("error"):
            return str(details["error"])
    return None


def look(execution_arn: str) -> Progress | None:
    """How far the execution is; None where there is none."""
    client = aws.step_functions()
    try:
        execution = client.describe_execution(executionArn=execution_arn)
    except ClientError as error:
        if aws.error_code(error) != "ExecutionDoesNotExist":
            raise
        return None
    pages = client.get_paginator("get_execution_history").paginate(
        executionArn=execution_arn, includeExecutionData=False
    )
    events: Any = (event for page in pages for event in page["events"])
    return Progress(RunStatus(execution["status"]), read_states(events), execution.get("stopDate"))


def follow(
    execution_arn: str,
    show: Callable[[Progress], None],
    *,
    pause: float,
    start_seconds: float = START_SECONDS,
) -> Progress:
    """Show the execution's progress until it ends.

    Raises:
        CommandError: it has not begun after `start_seconds`.
    """
    give_up = time.monotonic() + start_seconds
    while True:
        asked = time.monotonic()
        progress = look(execution_arn)
        if progress is not None:
            show(progress)
            if progress.status is not RunStatus.RUNNING:
                return progress
        elif asked > give_up:
            raise CommandError(
                f"no run began within {start_seconds:.0f} s of the drop; are the stack's event rules off"
                " (`dropmill up --no-rules`), or is Start Run failing? Its log says why"
            )
        # A long history takes long to fetch: what watching costs stays a small share of the time.
        time.sleep(max(pause, 3 * (time.monotonic() - asked)))


def now() -> datetime:
    return datetime.now(UTC)
