"""docs/policies hold what a deployer needs, and nothing else: each type of resource in the template, action by action.

What CloudFormation calls for a type stands in its schema under "handlers", as in
https://github.com/aws-cloudformation/aws-cloudformation-resource-providers-logs (and -sns, -kms, -stepfunctions,
-events); here are those that make, read, change and delete what this template asks for. That the policies suffice for
the calls that are really made is tested in tests/integration/test_deployer_policies_calls.py.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from localaws.iam import read_policy
from localaws.template import translate

ROOT = Path(__file__).parents[2]
POLICIES = ROOT / "docs" / "policies"
LARGEST = 6144
"""Characters of a managed policy, white space not counted:
https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html"""


def _of(service: str, actions: str) -> set[str]:
    return {f"{service}:{action}" for action in actions.split()}


ACTIONS = {
    "AWS::CloudWatch::Alarm": _of(
        "cloudwatch",
        "DeleteAlarms DescribeAlarms ListTagsForResource PutMetricAlarm",
    ),
    "AWS::DynamoDB::Table": _of(
        "dynamodb",
        "CreateTable DescribeContinuousBackups DescribeContributorInsights "
        "DescribeKinesisStreamingDestination DescribeTable DescribeTimeToLive GetResourcePolicy "
        "ListTagsOfResource UpdateContinuousBackups UpdateTable",
    ),
    "AWS::Events::Rule": _of(
        "events",
        "DeleteRule DescribeRule ListTargetsByRule PutRule PutTargets RemoveTargets",
    ),
    "AWS::IAM::ManagedPolicy": _of(
        "iam",
        "CreatePolicy CreatePolicyVersion DeletePolicy DeletePolicyVersion GetPolicy GetPolicyVersion "
        "ListEntitiesForPolicy ListPolicyVersions",
    ),
    "AWS::IAM::Role": _of(
        "iam",
        "AttachRolePolicy CreateRole DeleteRole DeleteRolePermissionsBoundary DeleteRolePolicy "
        "DetachRolePolicy GetRole GetRolePolicy ListAttachedRolePolicies ListRolePolicies "
        "PutRolePermissionsBoundary PutRolePolicy TagRole UntagRole UpdateAssumeRolePolicy",
    ),
    "AWS::KMS::Key": _of(
        "kms",
        "CreateKey DescribeKey EnableKeyRotation GetKeyPolicy GetKeyRotationStatus ListResourceTags "
        "PutKeyPolicy UpdateKeyDescription",
    ),
    "AWS::Lambda::EventInvokeConfig": _of(
        "lambda",
        "DeleteFunctionEventInvokeConfig GetFunctionEventInvokeConfig PutFunctionEventInvokeConfig "
        "UpdateFunctionEventInvokeConfig",
    ),
    "AWS::Lambda::Function": _of(
        "lambda",
        "CreateFunction DeleteFunction GetFunction GetFunctionCodeSigningConfig "
        "GetFunctionConfiguration GetFunctionRecursionConfig GetRuntimeManagementConfig ListTags "
        "TagResource UntagResource UpdateFunctionCode UpdateFunctionConfiguration",
    ),
    "AWS::Lambda::LayerVersion": _of(
        "lambda",
        "DeleteLayerVersion GetLayerVersion PublishLayerVersion",
    ),
    "AWS::Lambda::Permission": _of(
        "lambda",
        "AddPermission GetPolicy RemovePermission",
    ),
    "AWS::Logs::LogGroup": _of(
        "logs",
        "AssociateKmsKey CreateLogGroup DeleteLogGroup DescribeIndexPolicies DescribeLogGroups "
        "DisassociateKmsKey GetDataProtectionPolicy ListTagsForResource PutRetentionPolicy",
    ),
    "AWS::Logs::MetricFilter": _of(
        "logs",
        "DeleteMetricFilter DescribeMetricFilters PutMetricFilter",
    ),
    "AWS::S3::Bucket": _of(
        "s3",
        "CreateBucket ListBucket PutBucketNotification PutBucketOwnershipControls "
        "PutBucketPublicAccessBlock PutBucketVersioning PutEncryptionConfiguration "
        "PutLifecycleConfiguration",
    ),
    "AWS::S3::BucketPolicy": _of(
        "s3",
        "DeleteBucketPolicy GetBucketPolicy PutBucketPolicy",
    ),
    "AWS::SNS::Subscription": _of(
        "sns",
        "GetSubscriptionAttributes SetSubscriptionAttributes Subscribe Unsubscribe",
    ),
    "AWS::SNS::Topic": _of(
        "sns",
        "CreateTopic DeleteTopic GetDataProtectionPolicy GetTopicAttributes ListSubscriptionsByTopic "
        "ListTagsForResource SetTopicAttributes",
    ),
    "AWS::SNS::TopicPolicy": _of(
        "sns",
        "SetTopicAttributes",
    ),
    "AWS::SQS::Queue": _of(
        "sqs",
        "CreateQueue DeleteQueue GetQueueAttributes GetQueueUrl ListQueueTags SetQueueAttributes",
    ),
    "AWS::SQS::QueuePolicy": _of(
        "sqs",
        "SetQueueAttributes",
    ),
    "AWS::Scheduler::Schedule": _of(
        "scheduler",
        "CreateSchedule DeleteSchedule GetSchedule UpdateSchedule",
    ),
    "AWS::StepFunctions::StateMachine": _of(
        "states",
        "CreateStateMachine DeleteStateMachine DescribeStateMachine ListTagsForResource TagResource "
        "UntagResource UpdateStateMachine",
    ),
}

# What deploying needs besides the resources: the stack itself, its code, and passing the roles on.
BESIDES = {"Deploy", "Templates", "Code", "PassRoles"}
USE = {"UseOfKeys"}
"""What DynamoDB and S3 do with a key in the deployer's name."""


def policy(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((POLICIES / f"{name}.json").read_text())
    return document


def statements(name: str, *, without: set[str]) -> set[str]:
    return {action for one in policy(name)["Statement"] if one["Sid"] not in without for action in one["Action"]}


@pytest.fixture(scope="module")
def types() -> set[str]:
    return {body["Type"] for body in translate(ROOT / "template.yaml")["Resources"].values()}


def test_the_table_knows_the_types_of_the_template_and_no_others(types: set[str]) -> None:
    assert types == ACTIONS.keys()


def test_each_type_s_actions_are_granted_and_no_others() -> None:
    elsewhere = {"AWS::KMS::Key", "AWS::IAM::ManagedPolicy", "AWS::IAM::Role"}
    needed = {type_: actions for type_, actions in ACTIONS.items() if type_ not in elsewhere}
    assert statements("deploy", without=BESIDES) == set().union(*needed.values())
    written = ACTIONS["AWS::IAM::ManagedPolicy"] | ACTIONS["AWS::IAM::Role"]
    assert statements("roles", without=BESIDES) == written
    assert statements("key", without=USE) == ACTIONS["AWS::KMS::Key"]


@pytest.mark.parametrize("name", ["deploy", "roles", "key", "operate"])
def test_a_policy_is_one_that_iam_takes(name: str) -> None:
    document = policy(name)
    assert read_policy(document)
    filled = json.dumps(document, separators=(",", ":"))
    for word, longest in (("ACCOUNT", "123456789012"), ("REGION", "ap-southeast-1"), ("STACK", "dropmill-production")):
        filled = filled.replace(word, longest)
    assert len(filled) <= LARGEST
    sids = [one["Sid"] for one in document["Statement"]]
    assert len(sids) == len(set(sids))
    assert all(re.fullmatch("[A-Za-z0-9]+", sid) for sid in sids)
    for one in document["Statement"]:
        assert one["Action"] == list(dict.fromkeys(one["Action"])), "an action stands twice"
        assert not any("*" in action for action in one["Action"])


def test_only_the_templates_own_roles_and_policies_can_be_written() -> None:
    """By the names that CloudFormation makes for them, so that nobody's own policy can be among them."""
    resources = translate(ROOT / "template.yaml")["Resources"]

    def arns(kind: str, type_: str) -> set[str]:
        names = {name for name, body in resources.items() if body["Type"] == type_}
        return {f"arn:aws:iam::ACCOUNT:{kind}/STACK-{name}-*" for name in names}

    written = {one["Sid"]: set(one["Resource"]) for one in policy("roles")["Statement"]}
    roles = arns("role", "AWS::IAM::Role")
    assert written == {
        "Policies": arns("policy", "AWS::IAM::ManagedPolicy"),
        "Roles": roles,
        # SageMaker gets this one from the functions.
        "PassRoles": roles - {"arn:aws:iam::ACCOUNT:role/STACK-JobRole-*"},
    }
    assert not any(action.startswith("iam:") for action in statements("deploy", without=set()))


def test_the_page_explains_every_parameter_and_policy() -> None:
    page = (ROOT / "docs" / "deploy.md").read_text()
    for name in translate(ROOT / "template.yaml")["Parameters"]:
        assert f"`{name}`" in page
    for file in POLICIES.glob("*.json"):
        assert f"policies/{file.name}" in page
