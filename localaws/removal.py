"""Deleting what a deployment made, as CloudFormation does: in the reverse of the order in which it was made.

What is not there any more counts as deleted. A resource with the DeletionPolicy Retain is left alone.
"""

import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

if TYPE_CHECKING:
    from localaws.lambdas import Lambdas
    from localaws.template import Stack

RETAINING = frozenset({"Retain", "RetainExceptOnCreate"})

# What goes with another resource of the same stack, with the reason.
GOES_WITH_ANOTHER = {
    "AWS::Lambda::EventInvokeConfig": "with its function",
    "AWS::Lambda::Permission": "with its function",
    "AWS::SNS::TopicPolicy": "with its topic",
    "AWS::SQS::QueuePolicy": "with its queue",
}

_GONE = ("notfound", "nosuch", "nonexistent", "doesnotexist", "resourcenotfound")


@dataclass
class Removal:
    """What became of each resource: its status and, where it could not be deleted, why."""

    statuses: dict[str, str] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        return not self.reasons


@dataclass(frozen=True)
class Thing:
    """A resource to be deleted."""

    client: Callable[[str], Any]
    lambdas: "Lambdas"
    physical_id: str
    properties: Mapping[str, Any]


Delete = Callable[[Thing], None]


def remove(stack: "Stack", *, client: Callable[[str], Any], lambdas: "Lambdas") -> Removal:
    """Delete a stack's resources. What can't be deleted is noted, and what is left of the others deleted all the same.

    May be called again: it goes on where it failed.
    """
    removal = Removal()
    for logical_id in reversed(stack.properties):
        body = stack.template["Resources"][logical_id]
        if body.get("DeletionPolicy") in RETAINING:
            removal.statuses[logical_id] = "DELETE_SKIPPED"
            continue
        delete = DELETES.get(body["Type"])
        removal.statuses[logical_id] = "DELETE_COMPLETE"
        if delete is None:
            continue
        thing = Thing(client, lambdas, stack.resources[logical_id], stack.properties[logical_id])
        try:
            delete(thing)
        except ClientError as error:
            if not _is_gone(error):
                removal.reasons[logical_id] = str(error)
        except BotoCoreError as error:
            removal.reasons[logical_id] = str(error)
        if logical_id in removal.reasons:
            removal.statuses[logical_id] = "DELETE_FAILED"
    return removal


def _is_gone(error: ClientError) -> bool:
    code = str(error.response["Error"]["Code"]).replace(".", "").lower()
    return any(word in code for word in _GONE)


@contextlib.contextmanager
def _gone_is_fine() -> Any:
    try:
        yield
    except ClientError as error:
        if not _is_gone(error):
            raise


def _role(thing: Thing) -> None:
    iam, name = thing.client("iam"), thing.physical_id
    for policy in iam.list_role_policies(RoleName=name)["PolicyNames"]:
        iam.delete_role_policy(RoleName=name, PolicyName=policy)
    for attached in iam.list_attached_role_policies(RoleName=name)["AttachedPolicies"]:
        iam.detach_role_policy(RoleName=name, PolicyArn=attached["PolicyArn"])
    iam.delete_role(RoleName=name)


def _inline_policy(thing: Thing) -> None:
    for role in thing.properties["Roles"]:
        with _gone_is_fine():
            thing.client("iam").delete_role_policy(RoleName=role, PolicyName=thing.physical_id)


def _managed_policy(thing: Thing) -> None:
    iam, arn = thing.client("iam"), thing.physical_id
    for role in iam.list_entities_for_policy(PolicyArn=arn)["PolicyRoles"]:
        iam.detach_role_policy(RoleName=role["RoleName"], PolicyArn=arn)
    iam.delete_policy(PolicyArn=arn)


def _function(thing: Thing) -> None:
    thing.lambdas.unregister(thing.physical_id)
    thing.client("lambda").delete_function(FunctionName=thing.physical_id)


def _layer_version(thing: Thing) -> None:
    name, version = thing.physical_id.rsplit(":", 2)[-2:]
    thing.client("lambda").delete_layer_version(LayerName=name, VersionNumber=int(version))


def _rule(thing: Thing) -> None:
    events, bus = thing.client("events"), thing.properties.get("EventBusName") or "default"
    targets = [target["Id"] for target in thing.properties.get("Targets") or []]
    if targets:
        events.remove_targets(Rule=thing.physical_id, EventBusName=bus, Ids=targets)
    events.delete_rule(Name=thing.physical_id, EventBusName=bus)


def _schedule(thing: Thing) -> None:
    group = thing.properties.get("GroupName") or "default"
    thing.client("scheduler").delete_schedule(Name=thing.physical_id, GroupName=group)


def _state_machine(thing: Thing) -> None:
    """Step Functions ends the executions of a machine that is deleted."""
    machines, arn = thing.client("stepfunctions"), thing.physical_id
    pages = machines.get_paginator("list_executions").paginate(stateMachineArn=arn, statusFilter="RUNNING")
    for execution in [one for page in pages for one in page["executions"]]:
        machines.stop_execution(executionArn=execution["executionArn"])
    machines.delete_state_machine(stateMachineArn=arn)


def _key(thing: Thing) -> None:
    days = int(thing.properties.get("PendingWindowInDays", 30))
    kms = thing.client("kms")
    if kms.describe_key(KeyId=thing.physical_id)["KeyMetadata"]["KeyState"] != "PendingDeletion":
        kms.schedule_key_deletion(KeyId=thing.physical_id, PendingWindowInDays=days)


def _metric_filter(thing: Thing) -> None:
    group = thing.properties["LogGroupName"]
    thing.client("logs").delete_metric_filter(logGroupName=group, filterName=thing.physical_id)


def _by(service: str, operation: str, parameter: str) -> Delete:
    """A deletion that is one call with the physical id."""

    def delete(thing: Thing) -> None:
        getattr(thing.client(service), operation)(**{parameter: thing.physical_id})

    return delete


DELETES: dict[str, Delete] = {
    "AWS::CloudWatch::Alarm": lambda thing: thing.client("cloudwatch").delete_alarms(AlarmNames=[thing.physical_id]),
    "AWS::DynamoDB::Table": _by("dynamodb", "delete_table", "TableName"),
    "AWS::Events::EventBus": _by("events", "delete_event_bus", "Name"),
    "AWS::Events::Rule": _rule,
    "AWS::IAM::ManagedPolicy": _managed_policy,
    "AWS::IAM::Policy": _inline_policy,
    "AWS::IAM::Role": _role,
    "AWS::KMS::Alias": _by("kms", "delete_alias", "AliasName"),
    "AWS::KMS::Key": _key,
    "AWS::Lambda::Function": _function,
    "AWS::Lambda::LayerVersion": _layer_version,
    "AWS::Logs::LogGroup": _by("logs", "delete_log_group", "logGroupName"),
    "AWS::Logs::MetricFilter": _metric_filter,
    "AWS::S3::Bucket": _by("s3", "delete_bucket", "Bucket"),
    "AWS::S3::BucketPolicy": _by("s3", "delete_bucket_policy", "Bucket"),
    "AWS::SNS::Subscription": _by("sns", "unsubscribe", "SubscriptionArn"),
    "AWS::SNS::Topic": _by("sns", "delete_topic", "TopicArn"),
    "AWS::SQS::Queue": _by("sqs", "delete_queue", "QueueUrl"),
    "AWS::Scheduler::Schedule": _schedule,
    "AWS::Scheduler::ScheduleGroup": _by("scheduler", "delete_schedule_group", "Name"),
    "AWS::StepFunctions::StateMachine": _state_machine,
}


def reason_text(removal: Removal) -> str:
    """Why a stack could not be deleted whole, as CloudFormation says it."""
    return f"The following resource(s) failed to delete: [{', '.join(removal.reasons)}]. " + json.dumps(removal.reasons)
