"""The log lines of a run's jobs and endpoint, from CloudWatch Logs: on AWS and in an embedded cloud alike."""

import heapq
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from botocore.config import Config
from botocore.exceptions import ClientError
from pydantic import BaseModel

from dropmill import aws
from dropmill.contracts import LeaseRecord
from dropmill.resources import TRAINING_LOGS, TRANSFORM_LOGS

if TYPE_CHECKING:
    from mypy_boto3_logs import CloudWatchLogsClient

TAIL_LINES: Final = 15
STREAMS_MAX: Final = 100
"""A job has one stream for each instance."""

_PLACES: Final[dict[str, Callable[[str], tuple[str, str]]]] = {
    "training-job": lambda name: (TRAINING_LOGS, f"{name}/"),
    # The names of a search's training jobs begin with its own.
    "tuning-job": lambda name: (TRAINING_LOGS, f"{name}-"),
    "transform-job": lambda name: (TRANSFORM_LOGS, f"{name}/"),
    "endpoint": lambda name: (f"/aws/sagemaker/Endpoints/{name}", ""),
}
"""Log group and prefix of the streams, by the kind of a lease. Nothing else writes a log."""

_FAILED: Final = {
    # What came last is what failed: a run that came to a transform has trained.
    "JobFailed": ("transform-job", "training-job", "tuning-job"),
    "JobStopped": ("transform-job", "training-job", "tuning-job"),
    "EndpointFailed": ("endpoint",),
    "PredictionFailed": ("endpoint",),
}


class LogLine(BaseModel):
    """What `dropmill logs --json` prints of each line."""

    resource: str
    stream: str
    at: datetime
    text: str


def lines_of(lease: LeaseRecord) -> Iterator[LogLine]:
    """All log lines of what a lease stands for, in the order of their times; none where it wrote none."""
    group, streams = _streams(lease)
    yield from heapq.merge(*(_lines(lease.name, group, stream) for stream in streams), key=lambda line: line.at)


def tail_of(lease: LeaseRecord, most: int) -> list[LogLine]:
    """The latest `most` of them; only those are fetched."""
    group, streams = _streams(lease)
    found = [line for stream in streams for line in _last(lease.name, group, stream, most)]
    return sorted(found, key=lambda line: line.at)[-most:]


def failed_lease(error: str | None, leases: Sequence[LeaseRecord]) -> LeaseRecord | None:
    """The lease of the job or endpoint that a run's error is about; None where its log wouldn't explain it."""
    kinds = _FAILED.get(error or "", ())
    return next((lease for kind in kinds for lease in leases if lease.kind == kind), None)


@cache
def _client() -> "CloudWatchLogsClient":
    import boto3

    retries: Any = {"mode": "standard", "total_max_attempts": 3}
    return boto3.client("logs", config=Config(retries=retries, connect_timeout=5, read_timeout=30))


def _streams(lease: LeaseRecord) -> tuple[str, list[str]]:
    if lease.kind not in _PLACES:
        return "", []
    group, prefix = _PLACES[lease.kind](lease.name)
    named: Any = {"logStreamNamePrefix": prefix} if prefix else {}
    pages = (
        _client()
        .get_paginator("describe_log_streams")
        .paginate(logGroupName=group, PaginationConfig={"MaxItems": STREAMS_MAX}, **named)
    )
    try:
        return group, [stream["logStreamName"] for page in pages for stream in page["logStreams"]]
    except ClientError as error:
        if aws.error_code(error) != "ResourceNotFoundException":
            raise
        return group, []


def _lines(resource: str, group: str, stream: str) -> Iterator[LogLine]:
    """Page by page; the last page is the one that answers the token it was asked with."""
    request: dict[str, Any] = {"logGroupName": group, "logStreamName": stream, "startFromHead": True}
    while True:
        answer = _client().get_log_events(**request)
        yield from (_line(resource, stream, event) for event in answer["events"])
        if answer["nextForwardToken"] == request.get("nextToken"):
            return
        request["nextToken"] = answer["nextForwardToken"]


def _last(resource: str, group: str, stream: str, most: int) -> list[LogLine]:
    answer = _client().get_log_events(logGroupName=group, logStreamName=stream, limit=most, startFromHead=False)
    return [_line(resource, stream, event) for event in answer["events"]]


def _line(resource: str, stream: str, event: Any) -> LogLine:
    at = datetime.fromtimestamp(event["timestamp"] / 1000, UTC)
    return LogLine(resource=resource, stream=stream, at=at, text=event["message"].rstrip("\n"))
