"""Carries the programs' lines to CloudWatch Logs and their metrics to CloudWatch, off the threads that read them."""

import contextlib
import datetime
import logging
import queue
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from localaws.sagemaker.storage import Clients

if TYPE_CHECKING:
    from mypy_boto3_cloudwatch.type_defs import MetricDatumTypeDef
    from mypy_boto3_logs.type_defs import InputLogEventTypeDef

_log = logging.getLogger(__name__)

# PutLogEvents takes 10,000 events and 1 MiB, each event counted with 26 bytes more.
BATCH_EVENTS = 10_000
BATCH_BYTES = 1_000_000
EVENT_OVERHEAD = 26
STREAM_BYTES = 64 * 1024**2
"""More than this of one stream isn't kept: the embedded cloud holds its logs in memory."""
QUEUE_LINES = 50_000
TRAINING_NAMESPACE = "/aws/sagemaker/TrainingJobs"
BATCH_METRICS = 500
"""PutMetricData takes 1,000."""
_PAUSE = 0.05


@dataclass(eq=False)
class LogStream:
    """One log stream; `write` may be called from any thread."""

    shipper: "LogShipper"
    region: str
    group: str
    name: str
    role: str
    made: bool = False
    size: int = 0
    _full: bool = field(default=False, repr=False)

    def write(self, line: str) -> None:
        """Add a line, unless the stream is full."""
        if self._full or not line:
            return
        self.size += len(line) + EVENT_OVERHEAD
        if self.size > STREAM_BYTES:
            self._full = True
            line = f"The log is cut here: the embedded cloud keeps {STREAM_BYTES} bytes of a stream."
        self.shipper.put(self, line)


@dataclass(frozen=True)
class Measured:
    """A value of a metric of a training job, as its log showed it at `moment`, seconds since 1970."""

    region: str
    job: str
    name: str
    value: float
    moment: float
    role: str


@dataclass
class _Flush:
    done: threading.Event = field(default_factory=threading.Event)


class LogShipper:
    """One thread that puts lines into CloudWatch Logs. Log lines are best effort: no job fails for want of its log."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients
        # Bounded: a program that prints faster than lines can be kept waits, as it would on a full pipe.
        self._queue: queue.Queue[tuple[LogStream, int, str] | Measured | _Flush | None] = queue.Queue(QUEUE_LINES)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sagemaker logs", daemon=True)
        self._thread.start()

    def stream(self, region: str, group: str, name: str, role: str) -> LogStream:
        """Return a log stream, which a role writes to; it is made with its first line."""
        return LogStream(self, region, group, name, role)

    def put(self, stream: LogStream, line: str) -> None:
        """Queue a line; lines that come while everything ends are dropped."""
        self._put((stream, int(time.time() * 1000), line))

    def measure(self, measured: Measured) -> None:
        """Queue a value for CloudWatch."""
        self._put(measured)

    def _put(self, item: tuple[LogStream, int, str] | Measured) -> None:
        while not self._closing.is_set():
            with contextlib.suppress(queue.Full):
                self._queue.put(item, timeout=1)
                return

    def flush(self, timeout: float = 10) -> None:
        """Wait until every line written so far is in CloudWatch Logs."""
        mark = _Flush()
        if not self._closing.is_set():
            with contextlib.suppress(queue.Full):
                self._queue.put(mark, timeout=timeout)
                mark.done.wait(timeout)

    def close(self) -> None:
        """End the thread; what is still queued is dropped."""
        self._closing.set()
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(None)
        self._thread.join(5)

    def _run(self) -> None:
        while not self._closing.is_set():
            items = [self._queue.get()]
            # Lines come in bursts: a short pause makes one request of many, unless somebody waits for them.
            if not isinstance(items[0], _Flush):
                self._closing.wait(_PAUSE)
            with contextlib.suppress(queue.Empty):
                while len(items) < BATCH_EVENTS:
                    items.append(self._queue.get_nowait())
            lines: dict[LogStream, list[InputLogEventTypeDef]] = defaultdict(list)
            values: dict[tuple[str, str], list[MetricDatumTypeDef]] = defaultdict(list)
            for item in items:
                if isinstance(item, tuple):
                    stream, moment, line = item
                    lines[stream].append({"timestamp": moment, "message": line})
                elif isinstance(item, Measured):
                    values[item.region, item.role].append(_datum(item))
            for stream, events in lines.items():
                if not self._closing.is_set():
                    self._ship(stream, events)
            for (region, role), data in values.items():
                if not self._closing.is_set():
                    self._ship_values(region, role, data)
            for item in items:
                if isinstance(item, _Flush):
                    item.done.set()

    def _ship(self, stream: LogStream, events: "list[InputLogEventTypeDef]") -> None:
        try:
            client = self._clients.logs(stream.region, stream.role)
            if not stream.made:
                with contextlib.suppress(client.exceptions.ResourceAlreadyExistsException):
                    client.create_log_group(logGroupName=stream.group)
                with contextlib.suppress(client.exceptions.ResourceAlreadyExistsException):
                    client.create_log_stream(logGroupName=stream.group, logStreamName=stream.name)
                stream.made = True
            batch: list[InputLogEventTypeDef] = []
            size = 0
            for event in events:
                cost = len(event["message"].encode()) + EVENT_OVERHEAD
                if batch and size + cost > BATCH_BYTES:
                    client.put_log_events(logGroupName=stream.group, logStreamName=stream.name, logEvents=batch)
                    batch, size = [], 0
                batch.append(event)
                size += cost
            client.put_log_events(logGroupName=stream.group, logStreamName=stream.name, logEvents=batch)
        except (BotoCoreError, ClientError) as error:
            _log.warning("lines of %s %s are lost: %s", stream.group, stream.name, error)

    def _ship_values(self, region: str, role: str, data: "list[MetricDatumTypeDef]") -> None:
        try:
            for start in range(0, len(data), BATCH_METRICS):
                self._clients.cloudwatch(region, role).put_metric_data(
                    Namespace=TRAINING_NAMESPACE, MetricData=data[start : start + BATCH_METRICS]
                )
        except (BotoCoreError, ClientError) as error:
            _log.warning("metrics of training jobs are lost: %s", error)


def _datum(measured: Measured) -> "MetricDatumTypeDef":
    return {
        "MetricName": measured.name,
        "Value": measured.value,
        "Timestamp": datetime.datetime.fromtimestamp(measured.moment, datetime.UTC),
        "Dimensions": [{"Name": "TrainingJobName", "Value": measured.job}],
    }
