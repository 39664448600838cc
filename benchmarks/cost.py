"""What a run costs besides SageMaker: the calls of a run on MNIST, counted in the embedded cloud, at AWS's prices.

`python -m benchmarks.cost` runs one drop for each algorithm and prints the tables of docs/cost.md, `--write` puts them
there. What is counted is the product's own doing; what a Lambda's seconds are on AWS follows from its memory, as
`lambda_dollars` says.
"""

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import Any

from benchmarks.documents import put_tables, table
from benchmarks.prices import PRICES, Prices
from benchmarks.workflow import RECIPES, TEMPLATE, drop_and_wait
from localaws.cloud import Cloud
from localaws.journal import RecordedCall
from localaws.template import translate

DOC = Path(__file__).parents[1] / "docs" / "cost.md"
EVENT = TEMPLATE.with_name("events") / "sweep_leases.json"
TARGET = 0.01
"""Dollars: the most that a run on MNIST may cost besides SageMaker."""

CORE_MB = 1769
"""The memory that comes with one whole core; less comes with as much less of one
(https://docs.aws.amazon.com/lambda/latest/dg/configuration-memory.html)."""
START_SECONDS = 3.0
"""A Lambda's start, billed: assumed. Every function is taken to be started anew for the run, as on a run a day."""
INDEXES = 2
"""The ledger's: a write to an item is taken to be a write to each of them, of an item of `ITEM_KB`."""
ITEM_KB = 2
SWEEPS_A_MONTH = 30 * 24 * 12
NIGHTS_A_MONTH = 30
HOURS_A_MONTH = 730
LOG_EVENT_BYTES = 26
"""What CloudWatch adds to each line."""
HISTORY_LINE_BYTES = 700
"""An event of an execution in the workflow's log, without execution data: assumed."""

_REPORT = re.compile(r"REPORT .*Duration: ([\d.]+) ms\s.*Memory Size: (\d+) MB")
_PUTS = {
    "PutObject",
    "CopyObject",
    "CreateMultipartUpload",
    "UploadPart",
    "CompleteMultipartUpload",
    "ListObjectsV2",
    "ListObjectVersions",
}
_GETS = {"GetObject", "HeadObject", "HeadBucket"}
_WRITES = {"dynamodb:PutItem", "dynamodb:UpdateItem", "dynamodb:DeleteItem", "dynamodb:ConditionCheckItem"}


@dataclass
class Usage:
    """What was used: numbers of requests, DynamoDB's units, bytes of logs."""

    invocations: list[tuple[float, int]] = field(default_factory=list)
    """Each Lambda's seconds here, and its MB."""
    starts: list[int] = field(default_factory=list)
    """The MB of each Lambda that was started."""
    transitions: int = 0
    puts: int = 0
    gets: int = 0
    write_units: int = 0
    read_units: int = 0
    events: int = 0
    messages: int = 0
    log_bytes: int = 0
    metrics: set[str] = field(default_factory=set)
    """Custom metrics, each with its dimensions: they are billed for every hour in which they are told."""

    def gb_seconds(self) -> float:
        """On AWS: a function with part of a core takes as many times longer, as if it did nothing but compute."""
        ran = sum(seconds * max(1.0, CORE_MB / memory) * memory / 1024 for seconds, memory in self.invocations)
        return ran + sum(START_SECONDS * memory / 1024 for memory in self.starts)

    def dollars(self, prices: Prices = PRICES) -> dict[str, float]:
        """By service."""
        traces = len(self.invocations) * prices.trace
        metrics = len(self.metrics) * prices.metric_month / HOURS_A_MONTH
        return {
            "Lambda": self.gb_seconds() * prices.lambda_gb_second + len(self.invocations) * prices.lambda_request,
            "Step Functions": self.transitions * prices.transition,
            "S3": self.puts * prices.put + self.gets * prices.get,
            "DynamoDB": self.write_units * prices.write_unit + self.read_units * prices.read_unit,
            "events, e-mail": self.events * prices.event + self.messages * prices.message,
            "logs, metrics, traces": self.log_bytes / 10**9 * prices.log_gb + metrics + traces,
        }


def usage(
    calls: Iterable[RecordedCall],
    log_streams: Mapping[str, Sequence[str]] | None = None,
    history: Sequence[Mapping[str, Any]] = (),
) -> Usage:
    """What these calls, what Lambdas printed and an execution's history amount to.

    A user's own calls are left out. Each log stream is that of one Lambda that was started.
    """
    used = Usage()
    for call in calls:
        if call.caller == "user":
            continue
        if call.service == "s3":
            used.puts += call.operation in _PUTS
            used.gets += call.operation in _GETS
        elif call.service == "dynamodb":
            written = sum(need.action in _WRITES for need in call.needs)
            transacted = 2 if call.operation.startswith("Transact") else 1
            if written:
                used.write_units += written * transacted * ITEM_KB * (1 + INDEXES)
            else:
                used.read_units += transacted * max(1, ceil(call.response_bytes / 4096))
        elif call.service == "events" and call.operation == "PutEvents":
            used.events += 1
        elif call.service == "sns" and call.operation == "Publish":
            used.messages += 1
    for lines in (log_streams or {}).values():
        memory = 0
        for line in lines:
            used.log_bytes += len(line.encode()) + LOG_EVENT_BYTES
            if found := _REPORT.search(line):
                memory = int(found[2])
                used.invocations.append((float(found[1]) / 1000, memory))
            elif '"CloudWatchMetrics"' in line:
                used.metrics |= _metrics(line)
        used.starts += [memory] if memory else []
    if history:
        used.transitions = 2 + sum(event["type"].endswith("StateEntered") for event in history)
        used.log_bytes += len(history) * (HISTORY_LINE_BYTES + LOG_EVENT_BYTES)
    return used


def _metrics(line: str) -> set[str]:
    """https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html"""
    told = json.loads(line)
    return {
        json.dumps([group["Namespace"], metric["Name"], [(name, told.get(name)) for name in sorted(dimensions)]])
        for group in told["_aws"]["CloudWatchMetrics"]
        for dimensions in group["Dimensions"]
        for metric in group["Metrics"]
    }


@dataclass(frozen=True)
class Measured:
    name: str
    usage: Usage


def measure() -> list[Measured]:
    """A run for each algorithm on MNIST, each with the ending that close_run gives it; and one sweep of a quiet stack.

    Raises RuntimeError where a run does not succeed, or DROPMILL_MNIST does not name the data.
    """
    if "DROPMILL_MNIST" not in os.environ:
        raise RuntimeError("DROPMILL_MNIST does not say where mnist.pkl.gz is")
    found = []
    for name, recipe in RECIPES.items():
        # A cloud of its own for each: on AWS functions are started anew for a run a day.
        with Cloud(journal=True) as cloud:
            stack = cloud.deploy(TEMPLATE)
            execution = drop_and_wait(cloud, stack, name, recipe)
            cloud.events.wait_idle(60)
            cloud.lambdas.wait_idle(60)
            states = cloud.client("stepfunctions")
            history = states.get_execution_history(executionArn=execution["executionArn"], maxResults=1000)["events"]
            used = usage(cloud.journal, _log_streams(cloud), history)
            used.events += 1  # S3's own, of the drop
            found.append(Measured(name, used))
    with Cloud(journal=True) as cloud:
        stack = cloud.deploy(TEMPLATE)
        for _ in range(2):
            cloud.journal.clear()
            before = {name: len(lines) for name, lines in _log_streams(cloud).items()}
            answer = cloud.lambdas.invoke(stack.resources["SweepLeasesFunction"], EVENT.read_bytes())
            if answer.error is not None:
                raise RuntimeError(f"a sweep of a quiet stack failed: {answer.payload.decode()}")
        lines = {name: lines[before.get(name, 0) :] for name, lines in _log_streams(cloud).items()}
        used = usage(cloud.journal, lines)
        used.starts = []  # every five minutes: it is warm
        found.append(Measured("a sweep", used))
    return found


def _log_streams(cloud: Cloud) -> dict[str, list[str]]:
    cloud.lambdas.flush_logs()
    logs = cloud.client("logs")
    found: dict[str, list[str]] = {}
    for group in logs.describe_log_groups()["logGroups"]:
        for page in logs.get_paginator("filter_log_events").paginate(logGroupName=group["logGroupName"]):
            for event in page["events"]:
                found.setdefault(event["logStreamName"], []).append(event["message"])
    return {stream: lines for stream, lines in found.items() if "[$LATEST]" in stream}


def tables(found: Sequence[Measured]) -> dict[str, str]:
    """The generated parts of the document, by their names."""
    *runs, sweep = found
    return {"run": _runs(runs), "used": _used(runs), "month": _month(sweep.usage)}


def _runs(runs: Sequence[Measured]) -> str:
    services = list(runs[0].usage.dollars())
    rows = []
    for run in runs:
        dollars = run.usage.dollars()
        rows.append([run.name, *(f"{dollars[name]:.5f}" for name in services), f"{sum(dollars.values()):.5f}"])
    return table(["run", *(f"{name}, $" for name in services), "all, $"], rows)


def _used(runs: Sequence[Measured]) -> str:
    columns: dict[str, Callable[[Usage], str]] = {
        "Lambda calls": lambda used: f"{len(used.invocations)}",
        "started": lambda used: f"{len(used.starts)}",
        "GB-seconds": lambda used: f"{used.gb_seconds():.0f}",
        "state transitions": lambda used: f"{used.transitions}",
        "PUT, LIST": lambda used: f"{used.puts}",
        "GET, HEAD": lambda used: f"{used.gets}",
        "write units": lambda used: f"{used.write_units}",
        "read units": lambda used: f"{used.read_units}",
        "log KB": lambda used: f"{used.log_bytes / 1000:.0f}",
        "custom metrics": lambda used: f"{len(used.metrics)}",
    }
    return table(["run", *columns], [[run.name, *(column(run.usage) for column in columns.values())] for run in runs])


def _month(sweep: Usage) -> str:
    resources = translate(TEMPLATE)["Resources"].values()
    alarms = [one["Properties"] for one in resources if one["Type"] == "AWS::CloudWatch::Alarm"]
    watched = sum(max(1, sum("MetricStat" in query for query in alarm.get("Metrics", ()))) for alarm in alarms)
    telling = len(sweep.metrics) * PRICES.metric_month
    swept = sum(sweep.dollars().values()) - telling / HOURS_A_MONTH
    rows = [
        [f"{SWEEPS_A_MONTH:,} sweeps", f"{SWEEPS_A_MONTH * swept:.2f}"],
        [f"{len(sweep.metrics)} custom metrics of the sweep", f"{telling:.2f}"],
        [f"{len(alarms)} alarms, on {watched} metrics", f"{watched * PRICES.alarm_month:.2f}"],
        ["the nightly schedule", f"{NIGHTS_A_MONTH * PRICES.schedule:.2f}"],
        ["a key of the stack's own, where it is asked for", f"{PRICES.key_month:.2f}"],
    ]
    return table(["a month with no run", "$"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cost", description="What a run costs besides SageMaker."
    )
    parser.add_argument("--write", action="store_true", help="put the tables into docs/cost.md")
    arguments = parser.parse_args()
    try:
        found = measure()
    except RuntimeError as error:
        sys.exit(str(error))
    made = tables(found)
    if arguments.write:
        DOC.write_text(put_tables(DOC.read_text(), made))
    for one in made.values():
        print(one, end="\n\n")
    most = max(sum(run.usage.dollars().values()) for run in found[:-1])
    print(f"the dearest run: ${most:.4f}, against at most ${TARGET:g}")
    sys.exit(most > TARGET)


if __name__ == "__main__":
    main()
