import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from moto import mock_aws

from dropmill import aws
from dropmill.settings import settings

TEMPLATE = Path(__file__).parents[2] / "template.yaml"


class _Loader(yaml.SafeLoader):
    """Reads CloudFormation's short tags as plain values."""


_Loader.add_multi_constructor("!", lambda loader, suffix, node: f"!{suffix}")


@pytest.fixture
def ledger_table(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The ledger as the template describes it, empty, in this process's own AWS."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REGION": "us-east-1",
        "LEDGER_TABLE": "ledger",
        "STACK_NAME": "dropmill-test",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    os.environ.setdefault("POWERTOOLS_TRACE_DISABLED", "true")
    _forget()
    with mock_aws():
        properties: dict[str, Any] = yaml.load(TEMPLATE.read_text(), Loader=_Loader)["Resources"]["Ledger"][  # noqa: S506  a SafeLoader
            "Properties"
        ]
        boto3.client("dynamodb").create_table(
            TableName="ledger",
            **{
                name: properties[name]
                for name in ("AttributeDefinitions", "KeySchema", "GlobalSecondaryIndexes", "BillingMode")
            },
        )
        yield "ledger"
    _forget()


def _forget() -> None:
    settings.cache_clear()
    aws._client.cache_clear()
    aws.dynamodb_table.cache_clear()
