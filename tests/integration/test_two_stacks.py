"""Two stacks in one account: what happens in one is nothing to the other."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from localaws.cloud import Cloud
from localaws.template import Stack

ROOT = Path(__file__).parents[2]
BOUNDARY = "arn:aws:iam::123456789012:policy/bounds"

# The one's name begins with the other's, as names do.
OWN, OTHER = "mill", "mill-two"


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    with Cloud() as running:
        yield running


@pytest.fixture(scope="module")
def stacks(cloud: Cloud) -> dict[str, Stack]:
    iam = cloud.client("iam")
    document = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
    iam.create_policy(PolicyName="bounds", PolicyDocument=json.dumps(document))
    parameters: dict[str, dict[str, str]] = {
        OWN: {"CreateKmsKey": "yes", "PermissionsBoundaryArn": BOUNDARY, "NotificationEmail": "who@example.org"},
        OTHER: {"AlarmsEnabled": "off"},
    }
    return {name: cloud.deploy(ROOT / "template.yaml", name, parameters[name]) for name in (OWN, OTHER)}


def invocations(cloud: Cloud, stack: Stack) -> int:
    found = cloud.client("logs").describe_log_streams(logGroupName=stack.resources["FunctionLogs"])
    return len(found["logStreams"])


def test_a_drop_starts_a_run_of_its_own_stack_alone(cloud: Cloud, stacks: dict[str, Stack]) -> None:
    """Inspect Drop refuses it, so that the run ends without a job; its end is its own stack's as well."""
    s3, states = cloud.client("s3"), cloud.client("stepfunctions")
    ended = threading.Event()

    def observe(event: dict[str, Any]) -> bool:
        if event["source"] == "aws.states" and event["detail"]["status"] != "RUNNING":
            ended.set()
        return False

    cloud.events.repeat(observe, 1)
    s3.put_object(Bucket=stacks[OWN].outputs["DropBucket"], Key="drops/no-such-recipe/a.csv", Body=b"1,2\n")
    assert ended.wait(60)
    assert cloud.events.wait_idle(60)
    assert cloud.lambdas.wait_idle(60)
    (run,) = states.list_executions(stateMachineArn=stacks[OWN].outputs["TrainStateMachineArn"])["executions"]
    assert states.list_executions(stateMachineArn=stacks[OTHER].outputs["TrainStateMachineArn"])["executions"] == []
    dynamodb = cloud.client("dynamodb")
    (row,) = dynamodb.scan(TableName=stacks[OWN].outputs["LedgerTable"], ConsistentRead=True)["Items"]
    assert (row["run_id"]["S"], row["status"]["S"]) == (run["name"], "FAILED")
    assert dynamodb.scan(TableName=stacks[OTHER].outputs["LedgerTable"], ConsistentRead=True)["Items"] == []
    assert s3.list_objects_v2(Bucket=stacks[OTHER].outputs["ArtifactBucket"])["KeyCount"] == 0
    assert invocations(cloud, stacks[OWN]) > 0
    assert invocations(cloud, stacks[OTHER]) == 0


def test_nothing_is_shared(stacks: dict[str, Stack]) -> None:
    own, other = (set(stack.resources.values()) for stack in stacks.values())
    assert own & other == set()


def test_a_key_of_its_own_encrypts_all_that_is_stored(cloud: Cloud, stacks: dict[str, Stack]) -> None:
    stack = stacks[OWN]
    key = stack.outputs["KmsKeyArn"]
    for name in ("DropBucket", "ArtifactBucket"):
        found = cloud.client("s3").get_bucket_encryption(Bucket=stack.outputs[name])
        (rule,) = found["ServerSideEncryptionConfiguration"]["Rules"]
        default = {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": key}
        assert rule == {"ApplyServerSideEncryptionByDefault": default, "BucketKeyEnabled": True}
    table = cloud.client("dynamodb").describe_table(TableName=stack.outputs["LedgerTable"])["Table"]
    assert table["SSEDescription"]["KMSMasterKeyArn"] == key
    for name in ("NotificationTopicArn", "AlarmTopicArn"):
        attributes = cloud.client("sns").get_topic_attributes(TopicArn=stack.outputs[name])["Attributes"]
        assert attributes["KmsMasterKeyId"] == key
    queue = cloud.client("sqs").get_queue_attributes(
        QueueUrl=stack.outputs["DeadLetterQueueUrl"], AttributeNames=["KmsMasterKeyId"]
    )
    assert queue["Attributes"] == {"KmsMasterKeyId": key}
    for name in ("FunctionLogs", "WorkflowLogs", "ScoringWorkflowLogs"):
        groups = cloud.client("logs").describe_log_groups(logGroupNamePrefix=stack.resources[name])["logGroups"]
        assert next(one for one in groups if one["logGroupName"] == stack.resources[name])["kmsKeyId"] == key
    kms = cloud.client("kms")
    assert kms.get_key_rotation_status(KeyId=key)["KeyRotationEnabled"]
    policy = json.loads(kms.get_key_policy(KeyId=key, PolicyName="default")["Policy"])
    assert policy["Statement"][0]["Principal"] == {"AWS": "arn:aws:iam::123456789012:root"}


def test_without_a_key_nothing_asks_for_one(cloud: Cloud, stacks: dict[str, Stack]) -> None:
    stack = stacks[OTHER]
    assert {"Key", "UseKeyPolicy", "JobKeyPolicy", "VolumeKeyPolicy"} & stack.resources.keys() == set()
    (rule,) = cloud.client("s3").get_bucket_encryption(Bucket=stack.outputs["DropBucket"])[
        "ServerSideEncryptionConfiguration"
    ]["Rules"]
    assert rule["ApplyServerSideEncryptionByDefault"] == {"SSEAlgorithm": "AES256"}
    queue = cloud.client("sqs").get_queue_attributes(
        QueueUrl=stack.outputs["DeadLetterQueueUrl"], AttributeNames=["SqsManagedSseEnabled"]
    )
    assert queue["Attributes"] == {"SqsManagedSseEnabled": "true"}


def test_every_role_is_bounded_where_a_boundary_is_given(cloud: Cloud, stacks: dict[str, Stack]) -> None:
    iam = cloud.client("iam")
    roles = {name: value for name, value in stacks[OWN].resources.items() if name.endswith("Role")}
    assert len(roles) > 20
    for role in roles.values():
        assert iam.get_role(RoleName=role)["Role"]["PermissionsBoundary"]["PermissionsBoundaryArn"] == BOUNDARY
    free = iam.get_role(RoleName=stacks[OTHER].resources["JobRole"])["Role"]
    assert "PermissionsBoundary" not in free


def test_policies_fit_iam_s_limits(cloud: Cloud, stacks: dict[str, Stack]) -> None:
    """https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html; white space does not count."""
    iam = cloud.client("iam")

    def size(document: Any) -> int:
        return len(json.dumps(document, separators=(",", ":")))

    for name, role in stacks[OWN].resources.items():
        if name.endswith("Role"):
            found = iam.get_role(RoleName=role)["Role"]
            inline = iam.list_role_policies(RoleName=role)["PolicyNames"]
            documents = [iam.get_role_policy(RoleName=role, PolicyName=one)["PolicyDocument"] for one in inline]
            attached = iam.list_attached_role_policies(RoleName=role)["AttachedPolicies"]
            assert size(found["AssumeRolePolicyDocument"]) <= 2048
            assert sum(map(size, documents)) <= 10_240, name
            assert len(attached) <= 10, name
    for policy in iam.list_policies(Scope="Local", MaxItems=1000)["Policies"]:
        version = iam.get_policy_version(PolicyArn=policy["Arn"], VersionId=policy["DefaultVersionId"])
        assert size(version["PolicyVersion"]["Document"]) <= 6144, policy["PolicyName"]


def test_alarms_are_the_user_s_choice(cloud: Cloud, stacks: dict[str, Stack]) -> None:
    alarms: list[Any] = cloud.client("cloudwatch").describe_alarms()["MetricAlarms"]
    assert {alarm["AlarmName"].startswith(f"{OWN}-") for alarm in alarms} == {True}
    assert len(alarms) == 9
    assert not any(alarm["AlarmName"].startswith(f"{OTHER}-") for alarm in alarms)
    sns = cloud.client("sns")
    for name in ("NotificationTopicArn", "AlarmTopicArn"):
        (subscription,) = sns.list_subscriptions_by_topic(TopicArn=stacks[OWN].outputs[name])["Subscriptions"]
        assert (subscription["Protocol"], subscription["Endpoint"]) == ("email", "who@example.org")
