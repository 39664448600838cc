"""docs/policies suffice: they grant every call that deploying, looking and removing make in an embedded cloud."""

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator

import pytest

from localaws.actions import Need
from localaws.cloud import Cloud
from localaws.iam import Statement, decide, read_policy
from localaws.journal import RecordedCall
from tests.integration.conftest import ROOT

STACK = "guarded"
ANYTHING = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
PARAMETERS = {
    "NotificationEmail": "me@example.com",
    "CreateKmsKey": "yes",
    "PermissionsBoundaryArn": "arn:aws:iam::123456789012:policy/boundary",
}


def granted(*names: str) -> list[Statement]:
    found: list[Statement] = []
    for name in names:
        text = (ROOT / "docs" / "policies" / f"{name}.json").read_text()
        for word, value in (("ACCOUNT", "123456789012"), ("REGION", "us-east-1"), ("STACK", STACK)):
            text = text.replace(word, value)
        found += read_policy(json.loads(text))
    return found


# S3's operations whose actions have other names:
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/using-with-s3-policy-actions.html
ACTIONS = {
    "s3:DeleteObjects": "s3:DeleteObjectVersion",
    "s3:GetBucketNotificationConfiguration": "s3:GetBucketNotification",
    "s3:HeadBucket": "s3:ListBucket",
    "s3:ListMultipartUploads": "s3:ListBucketMultipartUploads",
    "s3:ListObjectVersions": "s3:ListBucketVersions",
    "s3:ListObjectsV2": "s3:ListBucket",
    "s3:PutBucketEncryption": "s3:PutEncryptionConfiguration",
    "s3:PutBucketLifecycleConfiguration": "s3:PutLifecycleConfiguration",
    "s3:PutBucketNotificationConfiguration": "s3:PutBucketNotification",
    "s3:PutPublicAccessBlock": "s3:PutBucketPublicAccessBlock",
}


def refused(statements: list[Statement], calls: Iterable[RecordedCall]) -> set[str]:
    """What the policies don't grant of a user's calls; where a call's resource is not known, its action counts."""
    found: set[str] = set()
    for call in calls:
        if not call.identity.is_user or call.action == "sts:GetCallerIdentity":
            continue  # that one needs no permission
        for need in call.needs or [Need(ACTIONS.get(call.action, call.action), "*")]:
            known = need.resource != "*"
            allowed = decide(statements, need, call.context).allowed
            if not allowed and (known or not any(one.covers_action(need.action) for one in statements)):
                found.add(f"{need.action} on {need.resource}")
    return found


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
    assert refused(granted("deploy", "key"), cloud.journal) == set()
    assert refused(granted("deploy"), cloud.journal), "the key needs its own"

    cloud.journal.clear()
    assert dropmill(cloud, "doctor") == 0
    assert dropmill(cloud, "remove", "--models", "--yes") == 0
    everything = granted("deploy", "key", "operate")
    assert refused(everything, cloud.journal) == set()
    assert refused(granted("deploy", "key"), cloud.journal)
