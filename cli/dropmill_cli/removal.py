"""Taking a whole stack away, so that nothing of it stays behind, wherever an earlier attempt was interrupted.

Every step may be done again. What starts runs is turned off first, then what costs money goes, then the stack, then
what CloudFormation keeps: the versioned buckets and, last of all, the table, whose rows say what else there was. A
stack that is gone is still known to CloudFormation for 90 days, with the resources that it left: ListStackResources
takes a deleted stack's id and says DELETE_SKIPPED of them
(docs.aws.amazon.com/AWSCloudFormation/latest/APIReference/API_ListStackResources.html).
"""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError
from pydantic import BaseModel, Field

from dropmill import audit, aws, ledger
from dropmill.leases import close_leases
from dropmill.ledger import LeaseState
from dropmill.naming import STACK_TAG, Step, sagemaker_name
from dropmill.resources import CLOSING_ORDER, RESOURCES, TRAINING_LOGS, TRANSFORM_LOGS, Presence
from dropmill.runs import end_run
from dropmill.settings import settings
from dropmill_cli.errors import CommandError
from dropmill_cli.stack import Place, point_at

ENDPOINT_LOGS: Final = "/aws/sagemaker/Endpoints/"
PATIENCE_SECONDS: Final = 1800
"""How long SageMaker and CloudFormation may take each; an endpoint that is being created can't be deleted before it
serves."""
LATE_SECONDS: Final = 30
"""How long a function that still ran may write to a bucket that is being emptied."""

_BUCKET: Final = "AWS::S3::Bucket"
_TABLE: Final = "AWS::DynamoDB::Table"
_LOG_GROUP: Final = "AWS::Logs::LogGroup"
_KEY: Final = "AWS::KMS::Key"
_KEPT: Final = (_BUCKET, _TABLE, _LOG_GROUP, _KEY)
_SETTINGS: Final = {
    "LEDGER_TABLE": "Ledger",
    "DROP_BUCKET": "Drops",
    "ARTIFACT_BUCKET": "Artifacts",
    "NOTIFICATION_TOPIC_ARN": "Notifications",
}
_KEY_DAYS: Final = 30
_STARTS_RUNS: Final = "StartRunFunction"
"""How the logical ids of the rules begin that start runs."""
_GONE: Final = {
    *("NoSuchBucket", "404", "ResourceNotFoundException", "ResourceNotFound", "NotFoundException"),
    *("StateMachineDoesNotExist", "ExecutionDoesNotExist", "NoSuchUpload"),
}
_SET_UP: Final = ("retentionInDays", "kmsKeyId", "metricFilterCount")
"""What shows that a log group was not only made by SageMaker, but set up by somebody."""
_BATCH: Final = 1000
"""Objects that one DeleteObjects takes."""

Say = Callable[[str], None]


class Item(BaseModel):
    """One thing, such as kind `bucket`."""

    kind: str
    name: str
    note: str | None = None


class RemovalDocument(BaseModel):
    """What `dropmill remove --json` prints. With --dry-run `removed` is what would be."""

    stack: str
    dry_run: bool
    removed: list[Item] = Field(default_factory=list)
    left: list[Item] = Field(default_factory=list, description="What stays, with the reason")


@dataclass(frozen=True)
class StackResource:
    logical_id: str
    physical_id: str
    type: str


@dataclass
class Remains:
    """A stack, or what is left of one: the resources of the stack that lives, and those that deleted ones left."""

    name: str
    stack_id: str | None
    """None: CloudFormation has deleted it."""
    resources: list[StackResource] = field(default_factory=list)
    retained: list[StackResource] = field(default_factory=list)

    def of(self, kind: str) -> list[StackResource]:
        """Those that there are or were, of a type."""
        found = {one.physical_id: one for one in (*self.resources, *self.retained) if one.type == kind}
        return list(found.values())

    def one(self, logical_id: str) -> str:
        """The physical id of a resource, or nothing."""
        return next((one.physical_id for one in (*self.resources, *self.retained) if one.logical_id == logical_id), "")


@dataclass
class Names:
    """What the ledger says there was."""

    runs: dict[str, str] = field(default_factory=dict)
    """The recipe of each run."""
    endpoints: set[str] = field(default_factory=set)
    open_leases: list[str] = field(default_factory=list)


def find(place: Place, *, models: bool = False) -> Remains:
    """The stack, or what an earlier removal has left of it; points this process at it.

    With `models` its model package groups count as something that was left.

    Raises:
        CommandError: there is no such stack, and never was one that left anything; it is none of Dropmill's, or it is
            protected against being deleted.
    """
    point_at(place.checked_url(), place.region)
    remains = Remains(place.stack, _living(place.stack))
    if remains.stack_id is not None:
        remains.resources = [one for one, _ in _resources_of(remains.stack_id)]
        if not remains.one("Ledger") or not remains.one("Drops"):
            raise CommandError(f"stack {place.stack!r} is not a Dropmill stack, so it is left alone")
    else:
        _find_retained(remains)
        groups = [] if remains.retained else _package_groups(place.stack)
        if not remains.retained and not (models and groups):
            where = place.url or os.environ.get("AWS_DEFAULT_REGION", "your region")
            left = (
                f"anything but its model package groups ({len(groups)}); --models deletes them"
                if groups
                else "anything"
            )
            raise CommandError(f"there is no stack {place.stack!r} in {where}, and none deleted there has left {left}")
    os.environ["STACK_NAME"] = place.stack
    for variable, logical_id in _SETTINGS.items():
        os.environ[variable] = remains.one(logical_id)
    settings.cache_clear()
    return remains


def plan(remains: Remains, *, models: bool) -> RemovalDocument:
    """What `remove` would take away, and what not; changes nothing."""
    document = RemovalDocument(stack=remains.name, dry_run=True)
    add = document.removed
    names = _read_ledger(remains)
    if remains.stack_id is not None:
        for arn in _running(remains):
            add.append(Item(kind="execution", name=arn.rsplit(":", 1)[-1], note="is stopped"))
        add += [Item(kind="lease", name=name, note="is stopped or deleted") for name in names.open_leases]
        add.append(Item(kind="stack", name=remains.name, note=f"with {len(remains.resources)} resources"))
    add += [Item(kind="log-group", name=name) for name in _endpoint_groups(names)]
    if names.runs:
        add.append(Item(kind="log-streams", name="/aws/sagemaker/", note=f"of the jobs of {len(names.runs)} runs"))
    groups = [Item(kind="model-package-group", name=name) for name in _package_groups(remains.name)]
    _models_stay(document, groups, models=models)
    if models:
        add += groups
    for one in remains.of(_BUCKET):
        if _bucket_is_there(one.physical_id):
            add.append(Item(kind="bucket", name=one.physical_id, note="with every version of everything in it"))
    add += [Item(kind="table", name=one.physical_id) for one in remains.of(_TABLE) if _table_is_there(one.physical_id)]
    add += [Item(kind="key", name=one.physical_id) for one in remains.of(_KEY) if _key_is_there(one.physical_id)]
    return document


def remove(remains: Remains, say: Say, *, models: bool, pause: float) -> RemovalDocument:
    """Take the stack away. Interrupted, it goes on where it was when it is called again.

    Raises:
        CommandError: SageMaker or CloudFormation does not let go of something; the message says of what.
    """
    document = RemovalDocument(stack=remains.name, dry_run=False)
    gone = document.removed
    if remains.stack_id is not None:
        _turn_off(remains)
        say("nothing starts a run any more")
        _stop(remains, gone, say, pause)
    names = _read_ledger(remains)
    _end_strays(remains, gone, say, pause)
    if remains.stack_id is not None:
        say(f"deleting stack {remains.name} and its {len(remains.resources)} resources")
        _delete_stack(remains, pause)
        gone.append(Item(kind="stack", name=remains.name))
    _delete_logs(remains, names, gone)
    groups = _package_groups(remains.name)
    if models:
        for name in groups:
            _delete_package_group(name)
            gone.append(Item(kind="model-package-group", name=name))
    _models_stay(document, [Item(kind="model-package-group", name=name) for name in groups], models=models)
    for one in remains.of(_BUCKET):
        if _bucket_is_there(one.physical_id):
            say(f"emptying bucket {one.physical_id}")
            _delete_bucket(one.physical_id)
            gone.append(Item(kind="bucket", name=one.physical_id))
    # Its rows say what else there was, so it goes last.
    for one in remains.of(_TABLE):
        if _table_is_there(one.physical_id):
            _delete_table(one.physical_id, pause)
            gone.append(Item(kind="table", name=one.physical_id))
    for one in remains.retained:
        if one.type == _KEY and _key_is_there(one.physical_id):
            _client("kms").schedule_key_deletion(KeyId=one.physical_id, PendingWindowInDays=_KEY_DAYS)
            gone.append(Item(kind="key", name=one.physical_id, note=f"KMS deletes it in {_KEY_DAYS} days"))
        elif one.type not in _KEPT:
            document.left.append(Item(kind=one.type, name=one.physical_id, note="CloudFormation retained it"))
    return document


# -- finding


@cache
def _client(service: str) -> Any:
    retries: Any = {"mode": "standard", "total_max_attempts": 8}
    make: Any = boto3.client  # its stubs have an overload for each service, and this takes any
    return make(service, config=Config(retries=retries, connect_timeout=5, read_timeout=60))


def _cloudformation() -> Any:
    return _client("cloudformation")


def _living(name: str) -> str | None:
    """The id of the stack of this name.

    Raises CommandError where CloudFormation would not delete it: nothing of it must be stopped then.
    """
    try:
        (stack,) = _cloudformation().describe_stacks(StackName=name)["Stacks"]
    except ClientError as error:
        if aws.error_code(error) == "ValidationError" and "does not exist" in aws.error_message(error):
            return None
        raise
    if stack.get("EnableTerminationProtection"):
        raise CommandError(
            f"stack {name!r} is protected against being deleted, so nothing was touched; lift that by:"
            f" aws cloudformation update-termination-protection --no-enable-termination-protection --stack-name {name}"
        )
    return str(stack["StackId"])


def _resources_of(stack_id: str) -> Iterator[tuple[StackResource, str]]:
    """Each resource of a stack, with its status; what could not even be created has no physical id, and is left out."""
    pages = _cloudformation().get_paginator("list_stack_resources").paginate(StackName=stack_id)
    for page in pages:
        for one in page["StackResourceSummaries"]:
            if physical_id := one.get("PhysicalResourceId", ""):
                yield StackResource(one["LogicalResourceId"], physical_id, one["ResourceType"]), one["ResourceStatus"]


def _find_retained(remains: Remains) -> None:
    """What deleted stacks of this name have left: it is there, and no stack that lives has taken it over."""
    pages = _cloudformation().get_paginator("list_stacks").paginate(StackStatusFilter=["DELETE_COMPLETE"])
    ids = [one["StackId"] for page in pages for one in page["StackSummaries"] if one["StackName"] == remains.name]
    for stack_id in ids:
        known = list(_resources_of(stack_id))
        if not {"Ledger", "Drops", "Artifacts"} <= {one.logical_id for one, _ in known}:
            continue
        for one, status in known:
            if status == "DELETE_SKIPPED" and _is_there(one) and not _has_a_stack(one.physical_id):
                remains.retained.append(one)


def _is_there(one: StackResource) -> bool:
    """Whether what a deleted stack left has still to be deleted."""
    if one.type == _BUCKET:
        return _bucket_is_there(one.physical_id)
    if one.type == _KEY:
        return _key_is_there(one.physical_id)
    return one.type == _TABLE and _table_is_there(one.physical_id)


def _has_a_stack(physical_id: str) -> bool:
    try:
        found = _cloudformation().describe_stack_resources(PhysicalResourceId=physical_id)["StackResources"]
    except ClientError as error:
        if aws.error_code(error) == "ValidationError" and "does not exist" in aws.error_message(error):
            return False
        raise
    return any(one["ResourceStatus"] != "DELETE_SKIPPED" for one in found)


def _read_ledger(remains: Remains) -> Names:
    """Every run and endpoint that the table speaks of; nothing where the table is gone."""
    names = Names()
    for table in remains.of(_TABLE):
        try:
            for page in (
                _client("dynamodb").get_paginator("scan").paginate(TableName=table.physical_id, ConsistentRead=True)
            ):
                for row in page["Items"]:
                    _note(names, {key: next(iter(value.values())) for key, value in row.items()})
        except ClientError as error:
            if aws.error_code(error) not in _GONE:
                raise
    return names


def _note(names: Names, row: dict[str, Any]) -> None:
    pk, sk = str(row["pk"]), str(row["sk"])
    if sk == "META" and "recipe" in row and pk.startswith("RUN#"):
        names.runs[pk.removeprefix("RUN#")] = str(row["recipe"])
    elif sk.startswith("LEASE#"):
        if row["state"] != LeaseState.CLOSED.value:
            names.open_leases.append(str(row["name"]))
        if row["step"] == "endpoint":
            stem, _, attempts = str(row["name"]).rpartition("-")
            # The row names the latest attempt, and those before it were numbered from 1.
            names.endpoints |= {f"{stem}-{number}" for number in range(1, int(attempts) + 1)}


# -- before the stack goes


def _turn_off(remains: Remains) -> None:
    """Disable the rules that start runs, and every schedule. What ends runs and tells of it stays on."""
    events, scheduler = _client("events"), _client("scheduler")
    for one in remains.resources:
        try:
            if one.type == "AWS::Events::Rule" and one.logical_id.startswith(_STARTS_RUNS):
                events.disable_rule(Name=one.physical_id)
            elif one.type == "AWS::Scheduler::Schedule":
                schedule = scheduler.get_schedule(Name=one.physical_id)
                keys = scheduler.meta.service_model.operation_model("UpdateSchedule").input_shape.members
                same = {key: value for key, value in schedule.items() if key in keys}
                scheduler.update_schedule(**{**same, "State": "DISABLED"})
        except ClientError as error:
            if aws.error_code(error) not in _GONE:
                raise


def _running(remains: Remains) -> list[str]:
    """The ARNs of executions that have not ended."""
    found: list[str] = []
    for machine in remains.of("AWS::StepFunctions::StateMachine"):
        pages = aws.step_functions().get_paginator("list_executions")
        try:
            for page in pages.paginate(stateMachineArn=machine.physical_id, statusFilter="RUNNING"):
                found += [one["executionArn"] for one in page["executions"]]
        except ClientError as error:
            if aws.error_code(error) not in _GONE:
                raise
    return found


def _stop(remains: Remains, gone: list[Item], say: Say, pause: float) -> None:
    """Stop executions, close runs, and wait until SageMaker says that nothing of any lease is left.

    Raises CommandError where that takes too long.
    """
    give_up = time.monotonic() + PATIENCE_SECONDS
    said = ""
    failed: set[str] = set()
    while _table_is_there(remains.one("Ledger")):
        running = _running(remains)
        for arn in running:
            aws.step_functions().stop_execution(executionArn=arn, error="Removed", cause="the stack is being removed")
            gone.append(Item(kind="execution", name=arn.rsplit(":", 1)[-1], note="stopped"))
        _end_runs(say, failed)
        held = {lease.run_id for lease in ledger.open_leases() if lease.state is not LeaseState.CLOSED}
        left = [lease for run_id in held for lease in close_leases(run_id, int(time.time()), kept_too=True)]
        # The index may lag behind the rows.
        names = [lease.name for lease in left] or _read_ledger(remains).open_leases
        if not names and not running:
            return
        if time.monotonic() > give_up:
            raise CommandError(
                f"SageMaker has not let go of {', '.join(names)} in {PATIENCE_SECONDS // 60} minutes; run this again"
            )
        text = f"waiting for SageMaker to let go of {', '.join(sorted(names))}" if names else said
        if text != said:
            say(text)
            said = text
        time.sleep(pause)


def _end_runs(say: Say, failed: set[str]) -> None:
    """Let every run that is still open come to its end, as the stack's own functions do: record and notification."""
    for run in ledger.open_runs():
        ledger.close_run(run.run_id)
        try:
            end_run(run, int(time.time()))
        except Exception as error:  # noqa: BLE001  one broken row must not keep the stack
            if run.run_id not in failed:
                say(f"run {run.run_id} gets no record: {type(error).__name__}")
                failed.add(run.run_id)


def _end_strays(remains: Remains, gone: list[Item], say: Say, pause: float) -> None:
    """End what carries the stack's tag and no lease knows, also what has just been made.

    Raises CommandError where SageMaker doesn't let go of it.
    """
    if not _table_is_there(remains.one("Ledger")):
        return  # an earlier attempt has come further than this
    give_up = time.monotonic() + PATIENCE_SECONDS
    steps = {RESOURCES[step].kind: step for step in reversed(CLOSING_ORDER)}
    found = audit.unknown_resources(datetime.now(UTC) + 2 * audit.YOUNG)
    strays = sorted({(steps[one.kind], one.name) for one in found}, key=lambda stray: CLOSING_ORDER.index(stray[0]))
    for step, name in strays:
        kind = RESOURCES[step].kind
        say(f"ending {kind} {name}, which no lease knows")
        while not _is_over(step, name):
            if time.monotonic() > give_up:
                raise CommandError(f"SageMaker has not let go of {kind} {name}; run this again")
            RESOURCES[step].end(name)
            if not _is_over(step, name):
                time.sleep(pause)
        gone.append(Item(kind=kind, name=name))


def _is_over(step: Step, name: str) -> bool:
    presence = RESOURCES[step].describe(name).presence
    return presence is Presence.ABSENT or (RESOURCES[step].ends_by_itself and presence is Presence.SETTLED)


def _delete_stack(remains: Remains, pause: float) -> None:
    """Raises CommandError, with CloudFormation's reason, where it can't be deleted whole."""
    client = _cloudformation()
    client.delete_stack(StackName=remains.stack_id)
    give_up = time.monotonic() + PATIENCE_SECONDS
    while True:
        (stack,) = client.describe_stacks(StackName=remains.stack_id)["Stacks"]
        status = stack["StackStatus"]
        if status == "DELETE_COMPLETE":
            break
        if status != "DELETE_IN_PROGRESS":
            reason = stack.get("StackStatusReason", status)
            raise CommandError(f"CloudFormation can't delete {remains.name}: {reason}; mend that, and run this again")
        if time.monotonic() > give_up:
            raise CommandError(f"CloudFormation is still deleting stack {remains.name}; run this again later")
        time.sleep(pause)
    remains.retained += [one for one, said in _resources_of(str(remains.stack_id)) if said == "DELETE_SKIPPED"]


# -- after it has gone


def _delete_logs(remains: Remains, names: Names, gone: list[Item]) -> None:
    """The log groups that a function which ran late has made anew, and what SageMaker logged of our jobs.

    SageMaker's own groups are the account's: of those only our jobs' streams go, and a group that is empty then, unless
    somebody has set it up.
    """
    client: Any = _client("logs")
    groups = [one.physical_id for one in remains.of(_LOG_GROUP)]
    groups += [f"/aws/lambda/{one.physical_id}" for one in remains.of("AWS::Lambda::Function")]
    for name in groups:
        _delete_group(client, name, gone)
    for name in _endpoint_groups(names):
        _delete_group(client, name, gone)
    for group_name in (TRAINING_LOGS, TRANSFORM_LOGS):
        deleted = sum(_delete_streams(client, group_name, prefix) for prefix in _job_prefixes(remains.name, names))
        if deleted:
            gone.append(Item(kind="log-streams", name=group_name, note=f"{deleted} of this stack's jobs"))
            _delete_if_empty(client, group_name, gone)


def _job_prefixes(stack: str, names: Names) -> list[str]:
    """How the names of each run's jobs begin."""
    return sorted(
        {sagemaker_name(stack, recipe, run, "tuning", 1).removesuffix("tune-1") for run, recipe in names.runs.items()}
    )


def _endpoint_groups(names: Names) -> list[str]:
    """The log groups that SageMaker has made for endpoints."""
    client: Any = _client("logs")
    wanted = {ENDPOINT_LOGS + name for name in names.endpoints}
    if not wanted:
        return []
    pages = client.get_paginator("describe_log_groups").paginate(logGroupNamePrefix=ENDPOINT_LOGS)
    return [group["logGroupName"] for page in pages for group in page["logGroups"] if group["logGroupName"] in wanted]


def _delete_group(client: Any, name: str, gone: list[Item]) -> None:
    try:
        client.delete_log_group(logGroupName=name)
    except ClientError as error:
        if aws.error_code(error) not in _GONE:
            raise
        return
    gone.append(Item(kind="log-group", name=name))


def _delete_streams(client: Any, group: str, prefix: str) -> int:
    try:
        pages = client.get_paginator("describe_log_streams").paginate(logGroupName=group, logStreamNamePrefix=prefix)
        streams = [stream["logStreamName"] for page in pages for stream in page["logStreams"]]
    except ClientError as error:
        if aws.error_code(error) not in _GONE:
            raise
        return 0
    for stream in streams:
        client.delete_log_stream(logGroupName=group, logStreamName=stream)
    return len(streams)


def _delete_if_empty(client: Any, name: str, gone: list[Item]) -> None:
    found = client.describe_log_groups(logGroupNamePrefix=name)["logGroups"]
    kept = any(group["logGroupName"] == name and any(map(group.get, _SET_UP)) for group in found)
    if not kept and not client.describe_log_streams(logGroupName=name, limit=1)["logStreams"]:
        _delete_group(client, name, gone)


def _package_groups(stack: str) -> list[str]:
    """The model package groups of the stack: those whose names begin with its own and that carry its tag.

    They are listed, since the ledger, which knows the recipes, may be gone.
    """
    client: Any = aws.sagemaker()
    found: list[str] = []
    for page in client.get_paginator("list_model_package_groups").paginate(NameContains=f"{stack}-"):
        for group in page["ModelPackageGroupSummaryList"]:
            name = group["ModelPackageGroupName"]
            if not name.startswith(f"{stack}-"):
                continue
            tags = client.get_paginator("list_tags").paginate(ResourceArn=group["ModelPackageGroupArn"])
            if any({"Key": STACK_TAG, "Value": stack} in one["Tags"] for one in tags):
                found.append(name)
    return sorted(found)


def _models_stay(document: RemovalDocument, groups: list[Item], *, models: bool) -> None:
    if not models:
        note = "costs nothing, but its artifacts go with the artifact bucket; --models deletes it too"
        document.left += [group.model_copy(update={"note": note}) for group in groups]


def _delete_package_group(name: str) -> None:
    client: Any = aws.sagemaker()
    pages = client.get_paginator("list_model_packages").paginate(ModelPackageGroupName=name)
    for arn in [one["ModelPackageArn"] for page in pages for one in page["ModelPackageSummaryList"]]:
        client.delete_model_package(ModelPackageName=arn)
    client.delete_model_package_group(ModelPackageGroupName=name)


def _bucket_is_there(name: str) -> bool:
    try:
        aws.s3().head_bucket(Bucket=name)
    except ClientError as error:
        if aws.error_code(error) not in _GONE:
            raise
        return False
    return True


def _delete_bucket(name: str) -> None:
    """Raises CommandError where an object can't be deleted, as under a legal hold."""
    give_up = time.monotonic() + LATE_SECONDS
    while True:
        _empty_bucket(name)
        try:
            aws.s3().delete_bucket(Bucket=name)
        except ClientError as error:
            # A function that still ran may have written one more object.
            if aws.error_code(error) != "BucketNotEmpty" or time.monotonic() > give_up:
                raise
            continue
        return


def _empty_bucket(name: str) -> None:
    client: Any = aws.s3()
    for page in client.get_paginator("list_multipart_uploads").paginate(Bucket=name):
        for upload in page.get("Uploads", ()):
            client.abort_multipart_upload(Bucket=name, Key=upload["Key"], UploadId=upload["UploadId"])
    for page in client.get_paginator("list_object_versions").paginate(
        Bucket=name, PaginationConfig={"PageSize": _BATCH}
    ):
        versions = [*page.get("Versions", ()), *page.get("DeleteMarkers", ())]
        objects = [{"Key": one["Key"], "VersionId": one["VersionId"]} for one in versions]
        if not objects:
            continue
        refused = client.delete_objects(Bucket=name, Delete={"Objects": objects, "Quiet": True}).get("Errors")
        if refused:
            first = refused[0]
            said = f"{first.get('Code', '')}: {first.get('Message', '')}"
            raise CommandError(f"s3://{name}/{first['Key']} and {len(refused) - 1} more can't be deleted: {said}")


def _table_is_there(name: str) -> bool:
    if not name:
        return False
    try:
        _client("dynamodb").describe_table(TableName=name)
    except ClientError as error:
        if aws.error_code(error) not in _GONE:
            raise
        return False
    return True


def _delete_table(name: str, pause: float) -> None:
    client: Any = _client("dynamodb")
    if client.describe_table(TableName=name)["Table"].get("DeletionProtectionEnabled"):
        client.update_table(TableName=name, DeletionProtectionEnabled=False)
    client.delete_table(TableName=name)
    while _table_is_there(name):
        time.sleep(pause)


def _key_is_there(key: str) -> bool:
    try:
        state = _client("kms").describe_key(KeyId=key)["KeyMetadata"]["KeyState"]
    except ClientError as error:
        if aws.error_code(error) not in _GONE:
            raise
        return False
    return bool(state != "PendingDeletion")
