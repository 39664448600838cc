"""What `dropmill remove` leaves alone, and what it makes of stacks that were never whole."""

from typing import Any
from unittest.mock import MagicMock

import pytest

from dropmill_cli import removal
from dropmill_cli.errors import CommandError


def cloudformation(monkeypatch: pytest.MonkeyPatch, stack: dict[str, Any], resources: list[dict[str, Any]]) -> None:
    client = MagicMock()
    client.describe_stacks.return_value = {"Stacks": [stack]}
    client.get_paginator.return_value.paginate.return_value = [{"StackResourceSummaries": resources}]
    monkeypatch.setattr(removal, "_client", lambda _service: client)


def test_a_stack_that_is_protected_is_refused_before_anything_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    cloudformation(monkeypatch, {"StackId": "id", "EnableTerminationProtection": True}, [])
    with pytest.raises(CommandError, match=r"protected.*--no-enable-termination-protection --stack-name prod"):
        removal._living("prod")
    cloudformation(monkeypatch, {"StackId": "id", "EnableTerminationProtection": False}, [])
    assert removal._living("prod") == "id"


def test_what_was_never_created_is_no_resource(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = {"LogicalResourceId": "Rule", "ResourceType": "AWS::Events::Rule", "ResourceStatus": "DELETE_COMPLETE"}
    made = {
        "LogicalResourceId": "Ledger",
        "PhysicalResourceId": "dropmill-Ledger-1",
        "ResourceType": "AWS::DynamoDB::Table",
        "ResourceStatus": "DELETE_SKIPPED",
    }
    cloudformation(monkeypatch, {}, [failed, {**failed, "PhysicalResourceId": ""}, made])
    ledger = removal.StackResource("Ledger", "dropmill-Ledger-1", "AWS::DynamoDB::Table")
    assert list(removal._resources_of("id")) == [(ledger, "DELETE_SKIPPED")]


@pytest.mark.parametrize(
    ("group", "goes"),
    [({}, True), ({"metricFilterCount": 0}, True), ({"metricFilterCount": 1}, False), ({"kmsKeyId": "key"}, False)],
)
def test_a_group_of_the_account_that_somebody_has_set_up_stays(group: dict[str, Any], goes: bool) -> None:
    client = MagicMock()
    client.describe_log_groups.return_value = {"logGroups": [{"logGroupName": "/aws/sagemaker/TrainingJobs", **group}]}
    client.describe_log_streams.return_value = {"logStreams": []}
    gone: list[removal.Item] = []
    removal._delete_if_empty(client, "/aws/sagemaker/TrainingJobs", gone)
    assert [item.kind for item in gone] == (["log-group"] if goes else [])
