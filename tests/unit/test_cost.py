"""What a run's calls cost: counted by hand for a few of them, and the document's figure against its target."""

import json
import re

import pytest

from benchmarks import cost
from benchmarks.prices import PRICES
from localaws.actions import Need
from localaws.journal import RecordedCall

TABLE = "arn:aws:dynamodb:us-east-1:123456789012:table/ledger"


def call(
    service: str, operation: str, *actions: str, caller: str = "lambda:launch", answered: int = 100
) -> RecordedCall:
    needs = tuple(Need(action, TABLE) for action in actions)
    return RecordedCall(0.0, caller, "", service, operation, "", (), {}, 200, "", 0, answered, needs=needs)


def test_requests_and_units_are_counted_as_they_are_billed() -> None:
    used = cost.usage(
        [
            call("s3", "PutObject"),
            call("s3", "ListObjectsV2"),
            call("s3", "GetObject"),
            call("s3", "DeleteObject"),
            call("s3", "PutObject", caller="user"),
            call("dynamodb", "UpdateItem", "dynamodb:UpdateItem"),
            call("dynamodb", "TransactWriteItems", "dynamodb:PutItem", "dynamodb:ConditionCheckItem"),
            call("dynamodb", "Query", "dynamodb:Query", answered=9000),
            call("events", "PutEvents"),
            call("sns", "Publish"),
        ]
    )
    assert (used.puts, used.gets, used.events, used.messages) == (2, 1, 1, 1)
    item = cost.ITEM_KB * (1 + cost.INDEXES)
    assert used.write_units == item + 2 * 2 * item
    assert used.read_units == 3


def test_a_lambda_costs_its_seconds_by_its_share_of_a_core_and_its_start() -> None:
    metric = {"Namespace": "Dropmill", "Dimensions": [["stack"]], "Metrics": [{"Name": "OpenLeases"}]}
    told = json.dumps({"_aws": {"CloudWatchMetrics": [metric]}, "stack": "dropmill", "OpenLeases": [0]})
    report = "REPORT RequestId: 1\tDuration: 2000.00 ms\tMemory Size: 512 MB\tMax Memory Used: 99 MB"
    used = cost.usage([], {"a": [report, told, told, report], "b": [report]}, [{"type": "PassStateEntered"}])
    assert used.invocations == [(2.0, 512)] * 3
    assert used.starts == [512, 512]
    assert used.gb_seconds() == pytest.approx(3 * 2 * cost.CORE_MB / 1024 + 2 * cost.START_SECONDS / 2)
    assert len(used.metrics) == 1, "the same twice within the hour"
    assert used.transitions == 3
    assert used.dollars()["Step Functions"] == 3 * PRICES.transition


def test_the_document_tells_of_runs_that_cost_less_than_the_target() -> None:
    rows = re.findall(r"^\| [\w-]+ \|(?: [\d.]+ \|){6} ([\d.]+) \|$", cost.DOC.read_text(), re.MULTILINE)
    assert len(rows) == 4
    assert all(0 < float(dollars) < cost.TARGET for dollars in rows)
