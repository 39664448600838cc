"""docs/policies suffice: they grant every call that deploying, looking and removing make in an embedded cloud."""

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from localaws.cloud import Cloud
from tests.deployer import granted, refused
from tests.integration.conftest import ROOT

STACK = "guarded"
ANYTHING = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
PARAMETERS = {
    "NotificationEmail": "me@example.com",
    "CreateKmsKey": "yes",
    "PermissionsBoundaryArn": "arn:aws:iam::123456789012:policy/boundary",
}


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    with Cloud(rules=False, journal=True) as running:
        running.client("iam").create_policy(PolicyName="boundary", PolicyDocument=json.dumps(ANYTHING))
        running.journal.clear()
        yield running


def dropmill(cloud: Cloud, *arguments: str) -> int:
    command = [sys.executable, "-m", "dropmill_cli.main", *arguments]
    where = ["--stack", STACK, "--endpoint-url", cloud.endpoint_url]
    return subprocess.run([*command, *where], capture_output=True, timeout=120, check=False).returncode


def test_a_deployer_can_deploy_look_and_remove(cloud: Cloud) -> None:
    cloud.deploy(ROOT / "template.yaml", stack_name=STACK, parameters=PARAMETERS)
    assert len(cloud.journal) > 100
    assert refused(granted(STACK, "deploy", "roles", "key"), cloud.journal) == set()
    assert refused(granted(STACK, "deploy", "roles"), cloud.journal), "the key needs its own"

    cloud.journal.clear()
    assert dropmill(cloud, "doctor") == 0
    assert dropmill(cloud, "remove", "--models", "--yes") == 0
    everything = granted(STACK, "deploy", "roles", "key", "operate")
    assert refused(everything, cloud.journal) == set()
    assert refused(granted(STACK, "deploy", "roles", "key"), cloud.journal)
