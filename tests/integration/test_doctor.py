"""`dropmill doctor` against an embedded cloud: all well at first, and each thing that is then broken is found."""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from localaws.cloud import Cloud
from localaws.template import Stack
from tests.integration.conftest import ROOT


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    with Cloud(rules=False) as running:
        yield running


@pytest.fixture(scope="module")
def stack(cloud: Cloud) -> Stack:
    return cloud.deploy(ROOT / "template.yaml", parameters={"NotificationEmail": "me@example.com"})


def look(cloud: Cloud, *arguments: str) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "dropmill_cli.main",
            "doctor",
            "--endpoint-url",
            cloud.endpoint_url,
            "--json",
            *arguments,
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout)


def found(document: dict[str, Any], *statuses: str) -> dict[str, str]:
    return {check["name"]: check["found"] for check in document["checks"] if check["status"] in statuses}


def test_all_is_well_and_what_is_not_served_is_said(cloud: Cloud, stack: Stack) -> None:
    code, document = look(cloud)
    assert (code, document["ok"], document["account"]) == (0, True, cloud.account_id)
    assert found(document, "failure") == {}
    assert found(document, "skipped").keys() == {"quotas", "concurrency", "permissions"}
    well = found(document, "ok").keys()
    assert well >= {
        "credentials",
        "stack",
        "recipes",
        "images",
        "drop bucket",
        "rules",
        "dead letters",
        "logs",
        "leases",
    }


def test_what_is_broken_is_found(cloud: Cloud, stack: Stack) -> None:
    bucket = stack.outputs["DropBucket"]
    s3, rule = cloud.client("s3"), stack.resources["StartRunFunctionObjectCreated"]
    cloud.client("events").disable_rule(Name=rule)
    s3.put_bucket_notification_configuration(Bucket=bucket, NotificationConfiguration={})
    s3.put_object(Bucket=bucket, Key="recipes/odd.yaml", Body=b"algorithm: guesswork\n")
    cloud.client("sqs").send_message(QueueUrl=stack.resources["DeadLetters"], MessageBody="{}")
    alarm = next(name for logical, name in stack.resources.items() if logical.endswith("Alarm"))
    cloud.client("cloudwatch").set_alarm_state(AlarmName=alarm, StateValue="ALARM", StateReason="a test")

    code, document = look(cloud)
    assert (code, document["ok"]) == (1, False)
    failed = found(document, "failure")
    assert failed.keys() == {"rules", "drop bucket", "recipes"}
    assert rule in failed["rules"]
    assert "odd: recipe 'odd', line 1: " in failed["recipes"]
    warned = found(document, "warning")
    assert "1 in " in warned["dead letters"]
    assert alarm in warned["alarms"]

    code, document = look(cloud, "kmeans")
    assert "recipes" not in found(document, "failure")


def test_an_account_without_the_stack(cloud: Cloud) -> None:
    code, document = look(cloud, "--stack", "nowhere")
    assert code == 1
    assert "there is no stack nowhere" in found(document, "failure")["stack"]
    assert found(document, "ok").keys() == {"credentials", "images"}
