"""The resource types of CloudFormation that the embedded cloud can make, each through the public API.

Each type lists the properties that it handles and those that it knowingly leaves out; any other is an error, so that a
template can't lose something that matters. Values are fitted to the API's own shapes: CloudFormation lets `"30"`
stand for 30.
"""

import contextlib
import fnmatch
import hashlib
import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote

import yaml
from botocore.exceptions import BotoCoreError, ClientError

from localaws import schedules
from localaws.events import TARGET_SERVICES

# Where a translated template keeps code and definitions that are files beside it: s3://<this>/<path>.
LOCAL_BUCKET = "local-folder"
LARGEST_DEFINITION = 1_048_576  # bytes, Step Functions' limit

# Types that AWS needs and that change nothing for a process on one machine, with the reason.
NO_LOCAL_MEANING = {
    "AWS::ApplicationInsights::Application": "a console's view",
    "AWS::Budgets::Budget": "nothing here costs money",
    "AWS::CDK::Metadata": "statistics for AWS",
    "AWS::CloudFormation::WaitConditionHandle": "a placeholder that makes nothing",
    "AWS::CloudWatch::Dashboard": "a console's view",
    "AWS::Logs::QueryDefinition": "a console's saved query",
    "AWS::Logs::ResourcePolicy": "log delivery is not authorized here",
    "AWS::ResourceGroups::Group": "a console's view",
    "AWS::XRay::Group": "no traces are kept here",
    "AWS::XRay::SamplingRule": "no traces are kept here",
}


class TemplateError(Exception):
    """The template can't be deployed as it is; the message names the resource and the reason."""


class FunctionRegistry(Protocol):
    """Who runs Lambda functions, as far as a deployment must know."""

    def register(
        self,
        function_name: str,
        code_folder: Path,
        handler: str,
        timeout: float,
        memory: int,
        environment: Mapping[str, str],
        dead_letter_arn: str | None,
        log_group: str | None,
        role_arn: str,
        ephemeral_storage: int,
        reserved_concurrency: int | None,
    ) -> None: ...

    def configure_async(self, function_name: str, *, retries: int, on_failure_arn: str | None) -> None: ...


@dataclass(frozen=True)
class Made:
    """A created resource: what `Ref` gives, and what `Fn::GetAtt` gives by attribute."""

    physical_id: str
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Context:
    """What creating the resource `logical_id` needs to know of its stack."""

    client: Callable[[str], Any]
    lambdas: FunctionRegistry
    folder: Path
    stack_name: str
    region: str
    account_id: str
    partition: str = "aws"
    logical_id: str = ""
    rule_targets: list[tuple[str, str, str]] = field(default_factory=list)
    permissions: list[tuple[str, str, str | None]] = field(default_factory=list)

    def arn(self, service: str, resource: str) -> str:
        return f"arn:{self.partition}:{service}:{self.region}:{self.account_id}:{resource}"

    def name(self, limit: int) -> str:
        """`<stack>-<LogicalId>`, cut to a limit; a cut name ends in a digest, so that two of them differ."""
        name = f"{self.stack_name}-{self.logical_id}"
        if len(name) <= limit:
            return name
        return f"{name[: limit - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"

    def path(self, location: str) -> Path:
        return self.folder / unquote(location)

    def call(self, service: str, operation: str, **parameters: Any) -> Any:
        """Call an API operation with values fitted to its shapes; None values are left out."""
        client = self.client(service)
        shape = client.meta.service_model.operation_model(client.meta.method_to_api_mapping[operation]).input_shape
        given = {name: value for name, value in parameters.items() if value is not None}
        return getattr(client, operation)(**fit(given, shape, operation))

    def check_invocable(self) -> None:
        """Refuse a rule that AWS would not let invoke its function: the permission is easily forgotten.

        Raises TemplateError.
        """
        for rule_name, rule_arn, function_arn in self.rule_targets:
            function = function_arn.split(":function:", 1)[-1]
            if not any(
                permitted.split(":function:", 1)[-1] == function
                and principal == "events.amazonaws.com"
                and (source is None or fnmatch.fnmatchcase(rule_arn, source))
                for permitted, principal, source in self.permissions
            ):
                raise TemplateError(
                    f"the rule {rule_name} may not invoke the function {function}: AWS would drop its events; add an "
                    "AWS::Lambda::Permission for events.amazonaws.com with the rule's ARN as SourceArn"
                )


Create = Callable[[Context, dict[str, Any]], Made]


@dataclass(frozen=True)
class Kind:
    """How a resource type is made. `ignored` are properties that mean nothing here, each with its reason."""

    create: Create
    handled: frozenset[str]
    ignored: Mapping[str, str]


KINDS: dict[str, Kind] = {}


def kind(name: str, handled: str, **ignored: str) -> Callable[[Create], Create]:
    def add(create: Create) -> Create:
        KINDS[name] = Kind(create, frozenset(handled.split()), ignored)
        return create

    return add


@contextlib.contextmanager
def blame(logical_id: str, type_name: Any) -> Iterator[None]:
    """Name the resource in every error that leaves the block as TemplateError."""
    try:
        yield
    except (TemplateError, schedules.ScheduleError) as error:
        raise TemplateError(f"{logical_id} ({type_name}): {error}") from error
    except (ClientError, BotoCoreError) as error:
        raise TemplateError(f"{logical_id} ({type_name}) can't be created: {error}") from error
    except KeyError as error:
        raise TemplateError(f"{logical_id} ({type_name}) lacks {error}") from error


def check(type_name: Any, properties: Mapping[str, Any]) -> None:
    """Refuse a type or a property that would be lost. Raises TemplateError."""
    if type_name in NO_LOCAL_MEANING:
        return
    if type_name not in KINDS:
        raise TemplateError("the embedded cloud doesn't know this type")
    found = KINDS[type_name]
    unknown = sorted(properties.keys() - found.handled - found.ignored.keys())
    if unknown:
        raise TemplateError(f"the embedded cloud doesn't know the property {', '.join(unknown)}")


def create(context: Context, type_name: str, logical_id: str, properties: dict[str, Any]) -> Made:
    """Make one resource. `properties` are resolved. Raises TemplateError, ClientError, KeyError: see `blame`."""
    own = replace(context, logical_id=logical_id)
    if type_name in NO_LOCAL_MEANING:
        return Made(own.name(255))
    found = KINDS[type_name]
    return found.create(own, {key: properties[key] for key in properties if key in found.handled})


def fit(value: Any, shape: Any, where: str) -> Any:
    """A value as an API shape wants it: `"30"` becomes 30, `"true"` True, 30 `"30"`. Unknown members are an error."""
    if shape.type_name == "structure":
        if not isinstance(value, dict):
            raise TemplateError(f"{where} must be a map")
        unknown = sorted(value.keys() - shape.members.keys())
        if unknown:
            raise TemplateError(f"{where} has no {', '.join(unknown)}")
        return {name: fit(item, shape.members[name], f"{where}.{name}") for name, item in value.items()}
    if shape.type_name == "list":
        if not isinstance(value, list):
            raise TemplateError(f"{where} must be a list")
        return [fit(item, shape.member, f"{where}[{index}]") for index, item in enumerate(value)]
    if shape.type_name == "map":
        return {name: fit(item, shape.value, f"{where}.{name}") for name, item in value.items()}
    try:
        if shape.type_name in {"integer", "long"}:
            return int(value)
        if shape.type_name in {"float", "double"}:
            return float(value)
    except (TypeError, ValueError) as error:
        raise TemplateError(f"{where} is {value!r}, which is no number") from error
    if shape.type_name == "boolean":
        return truth(value, where)
    if shape.type_name == "string" and not isinstance(value, str):
        return json.dumps(value) if isinstance(value, dict | list | bool) else str(value)
    return value


def truth(value: Any, where: str) -> bool:
    if isinstance(value, bool):
        return value
    if str(value).lower() in {"true", "false"}:
        return str(value).lower() == "true"
    raise TemplateError(f"{where} is {value!r}; it may be true or false")


def only(value: Any, known: str, where: str) -> dict[str, Any]:
    """The map, once it is sure that it holds known keys alone."""
    if not isinstance(value, dict):
        raise TemplateError(f"{where} must be a map")
    unknown = sorted(value.keys() - set(known.split()))
    if unknown:
        raise TemplateError(f"the embedded cloud doesn't know {where}.{', '.join(unknown)}")
    return value


def lower_keys(value: Any) -> Any:
    """`{"LogGroupArn": x}` as `{"logGroupArn": x}`: the API of Step Functions begins in small letters."""
    if isinstance(value, dict):
        return {key[:1].lower() + key[1:]: lower_keys(item) for key, item in value.items()}
    return [lower_keys(item) for item in value] if isinstance(value, list) else value


def _tag_map(properties: dict[str, Any]) -> dict[str, str] | None:
    tags = properties.get("Tags")
    if isinstance(tags, list):
        return {tag["Key"]: str(tag["Value"]) for tag in tags}
    return tags


# -- IAM: `localaws.iam` holds calls against what is kept here


def _policy_text(document: dict[str, Any]) -> str:
    # AWS takes a document without a version for an old one and accepts it; moto does not.
    return json.dumps({"Version": "2012-10-17", **document})


@kind(
    "AWS::IAM::Role",
    "RoleName AssumeRolePolicyDocument Path Description MaxSessionDuration PermissionsBoundary Policies Tags "
    "ManagedPolicyArns",
)
def _role(context: Context, properties: dict[str, Any]) -> Made:
    name = properties.get("RoleName") or context.name(64)
    role = context.call(
        "iam",
        "create_role",
        RoleName=name,
        AssumeRolePolicyDocument=_policy_text(properties["AssumeRolePolicyDocument"]),
        Path=properties.get("Path"),
        Description=properties.get("Description"),
        MaxSessionDuration=properties.get("MaxSessionDuration"),
        PermissionsBoundary=properties.get("PermissionsBoundary"),
        Tags=properties.get("Tags"),
    )["Role"]
    for policy in properties.get("Policies") or []:
        context.call(
            "iam",
            "put_role_policy",
            RoleName=name,
            PolicyName=policy["PolicyName"],
            PolicyDocument=_policy_text(policy["PolicyDocument"]),
        )
    for arn in properties.get("ManagedPolicyArns") or []:
        context.call("iam", "attach_role_policy", RoleName=name, PolicyArn=arn)
    return Made(name, {"Arn": role["Arn"], "RoleId": role["RoleId"]})


@kind("AWS::IAM::Policy", "PolicyName PolicyDocument Roles")
def _policy(context: Context, properties: dict[str, Any]) -> Made:
    for role in properties["Roles"]:
        context.call(
            "iam",
            "put_role_policy",
            RoleName=role,
            PolicyName=properties["PolicyName"],
            PolicyDocument=_policy_text(properties["PolicyDocument"]),
        )
    return Made(properties["PolicyName"])


@kind("AWS::IAM::ManagedPolicy", "ManagedPolicyName PolicyDocument Description Path Roles")
def _managed_policy(context: Context, properties: dict[str, Any]) -> Made:
    arn = context.call(
        "iam",
        "create_policy",
        PolicyName=properties.get("ManagedPolicyName") or context.name(128),
        PolicyDocument=_policy_text(properties["PolicyDocument"]),
        Description=properties.get("Description"),
        Path=properties.get("Path"),
    )["Policy"]["Arn"]
    for role in properties.get("Roles") or []:
        context.call("iam", "attach_role_policy", RoleName=role, PolicyArn=arn)
    return Made(arn, {"PolicyArn": arn})


# -- S3


@kind(
    "AWS::S3::Bucket",
    "BucketName VersioningConfiguration NotificationConfiguration BucketEncryption PublicAccessBlockConfiguration "
    "LifecycleConfiguration OwnershipControls Tags",
    LoggingConfiguration="access logs are of no use on one machine",
)
def _bucket(context: Context, properties: dict[str, Any]) -> Made:
    name = properties.get("BucketName") or context.name(63).lower()
    where = None if context.region == "us-east-1" else {"LocationConstraint": context.region}
    context.call("s3", "create_bucket", Bucket=name, CreateBucketConfiguration=where)
    if versioning := properties.get("VersioningConfiguration"):
        context.call("s3", "put_bucket_versioning", Bucket=name, VersioningConfiguration=versioning)
    if (notification := properties.get("NotificationConfiguration")) is not None:
        bridge = only(notification, "EventBridgeConfiguration", "NotificationConfiguration").get(
            "EventBridgeConfiguration"
        )
        # CloudFormation's default, where the configuration stands without the word.
        if bridge is not None and truth(bridge.get("EventBridgeEnabled", True), "EventBridgeEnabled"):
            context.call(
                "s3",
                "put_bucket_notification_configuration",
                Bucket=name,
                NotificationConfiguration={"EventBridgeConfiguration": {}},
            )
    if encryption := properties.get("BucketEncryption"):
        rules = [
            {
                "ApplyServerSideEncryptionByDefault": rule["ServerSideEncryptionByDefault"],
                "BucketKeyEnabled": rule.get("BucketKeyEnabled", False),
            }
            for rule in encryption["ServerSideEncryptionConfiguration"]
        ]
        context.call("s3", "put_bucket_encryption", Bucket=name, ServerSideEncryptionConfiguration={"Rules": rules})
    if block := properties.get("PublicAccessBlockConfiguration"):
        context.call("s3", "put_public_access_block", Bucket=name, PublicAccessBlockConfiguration=block)
    if lifecycle := properties.get("LifecycleConfiguration"):
        rules = [_lifecycle_rule(rule) for rule in lifecycle["Rules"]]
        context.call("s3", "put_bucket_lifecycle_configuration", Bucket=name, LifecycleConfiguration={"Rules": rules})
    if ownership := properties.get("OwnershipControls"):
        context.call("s3", "put_bucket_ownership_controls", Bucket=name, OwnershipControls=ownership)
    if tags := properties.get("Tags"):
        context.call("s3", "put_bucket_tagging", Bucket=name, Tagging={"TagSet": tags})
    return Made(
        name,
        {
            "Arn": f"arn:{context.partition}:s3:::{name}",
            "DomainName": f"{name}.s3.amazonaws.com",
            "RegionalDomainName": f"{name}.s3.{context.region}.amazonaws.com",
        },
    )


def _lifecycle_rule(rule: dict[str, Any]) -> dict[str, Any]:
    """A lifecycle rule as the API spells it."""
    rule = only(
        rule,
        "Id Status Prefix ExpirationInDays ExpiredObjectDeleteMarker NoncurrentVersionExpirationInDays "
        "NoncurrentVersionExpiration AbortIncompleteMultipartUpload",
        "LifecycleConfiguration.Rules",
    )
    result: dict[str, Any] = {"Status": rule["Status"], "Filter": {"Prefix": rule.get("Prefix", "")}}
    if "Id" in rule:
        result["ID"] = rule["Id"]
    if "ExpirationInDays" in rule:
        result["Expiration"] = {"Days": rule["ExpirationInDays"]}
    elif "ExpiredObjectDeleteMarker" in rule:
        result["Expiration"] = {"ExpiredObjectDeleteMarker": rule["ExpiredObjectDeleteMarker"]}
    if "NoncurrentVersionExpirationInDays" in rule:
        result["NoncurrentVersionExpiration"] = {"NoncurrentDays": rule["NoncurrentVersionExpirationInDays"]}
    elif "NoncurrentVersionExpiration" in rule:
        result["NoncurrentVersionExpiration"] = rule["NoncurrentVersionExpiration"]
    if "AbortIncompleteMultipartUpload" in rule:
        result["AbortIncompleteMultipartUpload"] = rule["AbortIncompleteMultipartUpload"]
    return result


@kind("AWS::S3::BucketPolicy", "Bucket PolicyDocument")
def _bucket_policy(context: Context, properties: dict[str, Any]) -> Made:
    policy = _policy_text(properties["PolicyDocument"])
    context.call("s3", "put_bucket_policy", Bucket=properties["Bucket"], Policy=policy)
    return Made(properties["Bucket"])


# -- DynamoDB


@kind(
    "AWS::DynamoDB::Table",
    "TableName AttributeDefinitions KeySchema BillingMode ProvisionedThroughput GlobalSecondaryIndexes "
    "LocalSecondaryIndexes SSESpecification PointInTimeRecoverySpecification TimeToLiveSpecification "
    "StreamSpecification DeletionProtectionEnabled TableClass Tags",
)
def _table(context: Context, properties: dict[str, Any]) -> Made:
    name = properties.get("TableName") or context.name(255)
    encryption = properties.get("SSESpecification")
    if encryption:
        encryption = {("Enabled" if key == "SSEEnabled" else key): value for key, value in encryption.items()}
    stream = properties.get("StreamSpecification")
    table = context.call(
        "dynamodb",
        "create_table",
        TableName=name,
        SSESpecification=encryption,
        StreamSpecification={"StreamEnabled": True, **stream} if stream else None,
        **{
            key: properties.get(key)
            for key in (
                "AttributeDefinitions",
                "KeySchema",
                "BillingMode",
                "ProvisionedThroughput",
                "GlobalSecondaryIndexes",
                "LocalSecondaryIndexes",
                "DeletionProtectionEnabled",
                "TableClass",
                "Tags",
            )
        },
    )["TableDescription"]
    if recovery := properties.get("PointInTimeRecoverySpecification"):
        context.call("dynamodb", "update_continuous_backups", TableName=name, PointInTimeRecoverySpecification=recovery)
    if (expiry := properties.get("TimeToLiveSpecification")) and truth(expiry["Enabled"], "Enabled"):
        context.call("dynamodb", "update_time_to_live", TableName=name, TimeToLiveSpecification=expiry)
    attributes = {"Arn": table["TableArn"]}
    if "LatestStreamArn" in table:
        attributes["StreamArn"] = table["LatestStreamArn"]
    return Made(name, attributes)


# -- SQS and SNS

_QUEUE_ATTRIBUTES = (
    "VisibilityTimeout MessageRetentionPeriod DelaySeconds MaximumMessageSize ReceiveMessageWaitTimeSeconds "
    "KmsMasterKeyId KmsDataKeyReusePeriodSeconds SqsManagedSseEnabled FifoQueue ContentBasedDeduplication "
    "DeduplicationScope FifoThroughputLimit RedrivePolicy RedriveAllowPolicy"
)


def _attribute_texts(properties: dict[str, Any], names: str) -> dict[str, str]:
    """Attributes as SQS and SNS take them: all text, documents as JSON."""
    return {
        name: properties[name] if isinstance(properties[name], str) else json.dumps(properties[name])
        for name in names.split()
        if name in properties
    }


@kind("AWS::SQS::Queue", f"QueueName Tags {_QUEUE_ATTRIBUTES}")
def _queue(context: Context, properties: dict[str, Any]) -> Made:
    fifo = truth(properties.get("FifoQueue", False), "FifoQueue")
    name = properties.get("QueueName") or context.name(75) + (".fifo" if fifo else "")
    attributes = _attribute_texts(properties, _QUEUE_ATTRIBUTES)
    url = context.call("sqs", "create_queue", QueueName=name, Attributes=attributes, tags=_tag_map(properties))[
        "QueueUrl"
    ]
    return Made(url, {"Arn": context.arn("sqs", name), "QueueName": name, "QueueUrl": url})


@kind("AWS::SQS::QueuePolicy", "Queues PolicyDocument")
def _queue_policy(context: Context, properties: dict[str, Any]) -> Made:
    for url in properties["Queues"]:
        attributes = {"Policy": _policy_text(properties["PolicyDocument"])}
        context.call("sqs", "set_queue_attributes", QueueUrl=url, Attributes=attributes)
    return Made(context.name(255))


@kind("AWS::SNS::Topic", "TopicName DisplayName KmsMasterKeyId FifoTopic ContentBasedDeduplication Subscription Tags")
def _topic(context: Context, properties: dict[str, Any]) -> Made:
    fifo = truth(properties.get("FifoTopic", False), "FifoTopic")
    name = properties.get("TopicName") or context.name(251) + (".fifo" if fifo else "")
    attributes = _attribute_texts(properties, "DisplayName KmsMasterKeyId FifoTopic ContentBasedDeduplication")
    arn = context.call("sns", "create_topic", Name=name, Attributes=attributes, Tags=properties.get("Tags"))["TopicArn"]
    for subscription in properties.get("Subscription") or []:
        _subscribe(context, {"TopicArn": arn, **only(subscription, "Protocol Endpoint", "Subscription")})
    return Made(arn, {"TopicArn": arn, "TopicName": name})


_SUBSCRIPTION_ATTRIBUTES = "FilterPolicy FilterPolicyScope RawMessageDelivery RedrivePolicy"


def _subscribe(context: Context, properties: dict[str, Any]) -> str:
    arn: str = context.call(
        "sns",
        "subscribe",
        TopicArn=properties["TopicArn"],
        Protocol=properties["Protocol"],
        Endpoint=properties.get("Endpoint"),
        Attributes=_attribute_texts(properties, _SUBSCRIPTION_ATTRIBUTES) or None,
        ReturnSubscriptionArn=True,
    )["SubscriptionArn"]
    return arn


@kind("AWS::SNS::Subscription", f"TopicArn Protocol Endpoint {_SUBSCRIPTION_ATTRIBUTES}")
def _subscription(context: Context, properties: dict[str, Any]) -> Made:
    return Made(_subscribe(context, properties))


@kind("AWS::SNS::TopicPolicy", "Topics PolicyDocument")
def _topic_policy(context: Context, properties: dict[str, Any]) -> Made:
    for arn in properties["Topics"]:
        context.call(
            "sns",
            "set_topic_attributes",
            TopicArn=arn,
            AttributeName="Policy",
            AttributeValue=_policy_text(properties["PolicyDocument"]),
        )
    return Made(context.name(255))


# -- CloudWatch


@kind(
    "AWS::Logs::LogGroup",
    "LogGroupName RetentionInDays KmsKeyId Tags",
    LogGroupClass="a price",
)
def _log_group(context: Context, properties: dict[str, Any]) -> Made:
    name = properties.get("LogGroupName") or context.name(512)
    context.call(
        "logs",
        "create_log_group",
        logGroupName=name,
        kmsKeyId=properties.get("KmsKeyId"),
        tags=_tag_map(properties),
    )
    if "RetentionInDays" in properties:
        days = properties["RetentionInDays"]
        context.call("logs", "put_retention_policy", logGroupName=name, retentionInDays=days)
    return Made(name, {"Arn": context.arn("logs", f"log-group:{name}:*")})


@kind("AWS::Logs::MetricFilter", "FilterName FilterPattern LogGroupName MetricTransformations")
def _metric_filter(context: Context, properties: dict[str, Any]) -> Made:
    name = properties.get("FilterName") or context.name(512)
    context.call(
        "logs",
        "put_metric_filter",
        filterName=name,
        filterPattern=properties["FilterPattern"],
        logGroupName=properties["LogGroupName"],
        metricTransformations=lower_keys(properties["MetricTransformations"]),
    )
    return Made(name)


@kind(
    "AWS::CloudWatch::Alarm",
    "AlarmName AlarmDescription ActionsEnabled OKActions AlarmActions InsufficientDataActions MetricName Namespace "
    "Statistic ExtendedStatistic Dimensions Period Unit EvaluationPeriods DatapointsToAlarm Threshold "
    "ComparisonOperator TreatMissingData EvaluateLowSampleCountPercentile Metrics ThresholdMetricId Tags",
)
def _alarm(context: Context, properties: dict[str, Any]) -> Made:
    name = properties.get("AlarmName") or context.name(255)
    context.call("cloudwatch", "put_metric_alarm", **{**properties, "AlarmName": name})
    return Made(name, {"Arn": context.arn("cloudwatch", f"alarm:{name}")})


# -- Lambda


@kind(
    "AWS::Lambda::Function",
    "FunctionName Code Handler Runtime Role Timeout MemorySize Environment Layers DeadLetterConfig Description "
    "Architectures Tags EphemeralStorage LoggingConfig PackageType ReservedConcurrentExecutions",
    TracingConfig="no traces are kept here",
    KmsKeyArn="the environment is not encrypted here",
    SnapStart="workers start in milliseconds here",
    RuntimeManagementConfig="the runtime is this machine's Python",
    RecursiveLoop="loops are not watched here",
)
def _function(context: Context, properties: dict[str, Any]) -> Made:
    name = properties.get("FunctionName") or context.name(64)
    code = properties["Code"]
    if code.get("S3Bucket") != LOCAL_BUCKET:
        raise TemplateError("its code must be a local folder (CodeUri)")
    folder = context.path(code["S3Key"])
    if not folder.is_dir():
        raise TemplateError(f"its code folder {unquote(code['S3Key'])} doesn't exist beside the template")
    if not str(properties["Runtime"]).startswith("python"):
        raise TemplateError(f"the embedded cloud runs Python, not {properties['Runtime']}")
    environment = fit_texts((properties.get("Environment") or {}).get("Variables") or {})
    dead_letters = (properties.get("DeadLetterConfig") or {}).get("TargetArn")
    timeout, memory = int(properties.get("Timeout", 3)), int(properties.get("MemorySize", 128))
    arn = context.call(
        "lambda",
        "create_function",
        FunctionName=name,
        Runtime=properties["Runtime"],
        Role=properties["Role"],
        Handler=properties["Handler"],
        Code={"ZipFile": _empty_zip()},
        Description=properties.get("Description"),
        Timeout=timeout,
        MemorySize=memory,
        Environment={"Variables": environment},
        Layers=properties.get("Layers") or None,
        DeadLetterConfig=properties.get("DeadLetterConfig"),
        Architectures=properties.get("Architectures"),
        EphemeralStorage=properties.get("EphemeralStorage"),
        LoggingConfig=properties.get("LoggingConfig"),
        PackageType=properties.get("PackageType"),
        Tags=_tag_map(properties),
    )["FunctionArn"]
    reserved = properties.get("ReservedConcurrentExecutions")
    if reserved is not None:
        context.call("lambda", "put_function_concurrency", FunctionName=name, ReservedConcurrentExecutions=reserved)
    context.lambdas.register(
        function_name=name,
        code_folder=folder,
        handler=properties["Handler"],
        timeout=timeout,
        memory=memory,
        environment=environment,
        dead_letter_arn=dead_letters,
        log_group=(properties.get("LoggingConfig") or {}).get("LogGroup"),
        role_arn=properties["Role"],
        ephemeral_storage=int((properties.get("EphemeralStorage") or {}).get("Size", 512)),
        reserved_concurrency=None if reserved is None else int(reserved),
    )
    return Made(name, {"Arn": arn})


def fit_texts(values: Mapping[str, Any]) -> dict[str, str]:
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}


def _empty_zip() -> bytes:
    """An archive for the API's sake: workers import the code from its folder."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(zipfile.ZipInfo("README"), "The code is in the folder that the template names.\n")
    return buffer.getvalue()


@kind(
    "AWS::Lambda::LayerVersion",
    "LayerName Content CompatibleRuntimes Description LicenseInfo",
    CompatibleArchitectures="the machine's own is used",
)
def _layer_version(context: Context, properties: dict[str, Any]) -> Made:
    # Workers share one environment that has every layer's packages, so only the version's ARN matters.
    arn = context.call(
        "lambda",
        "publish_layer_version",
        LayerName=properties.get("LayerName") or context.name(64),
        Content={"ZipFile": _empty_zip()},
        CompatibleRuntimes=properties.get("CompatibleRuntimes"),
        Description=properties.get("Description"),
        LicenseInfo=properties.get("LicenseInfo"),
    )["LayerVersionArn"]
    return Made(arn, {"LayerVersionArn": arn})


@kind("AWS::Lambda::Permission", "FunctionName Action Principal SourceArn SourceAccount")
def _permission(context: Context, properties: dict[str, Any]) -> Made:
    context.call("lambda", "add_permission", StatementId=context.logical_id, **properties)
    context.permissions.append((properties["FunctionName"], properties["Principal"], properties.get("SourceArn")))
    return Made(context.name(255))


@kind(
    "AWS::Lambda::EventInvokeConfig",
    "FunctionName Qualifier MaximumRetryAttempts DestinationConfig",
    MaximumEventAgeInSeconds="retries here take seconds",
)
def _event_invoke_config(context: Context, properties: dict[str, Any]) -> Made:
    destinations = only(properties.get("DestinationConfig") or {}, "OnFailure", "DestinationConfig")
    name = properties["FunctionName"].split(":function:", 1)[-1]
    context.lambdas.configure_async(
        name,
        retries=int(properties.get("MaximumRetryAttempts", 2)),
        on_failure_arn=(destinations.get("OnFailure") or {}).get("Destination"),
    )
    return Made(context.name(255))


# -- Step Functions

_PLACEHOLDER = re.compile(r"\$\{([A-Za-z0-9_]+)\}")


@kind(
    "AWS::StepFunctions::StateMachine",
    "StateMachineName StateMachineType RoleArn DefinitionS3Location DefinitionString Definition "
    "DefinitionSubstitutions LoggingConfiguration Tags",
    TracingConfiguration="no traces are kept here",
)
def _state_machine(context: Context, properties: dict[str, Any]) -> Made:
    name = properties.get("StateMachineName") or context.name(80)
    text = substitute(_definition(context, properties), properties.get("DefinitionSubstitutions") or {})
    arn = context.call(
        "stepfunctions",
        "create_state_machine",
        name=name,
        definition=text,
        roleArn=properties["RoleArn"],
        type=properties.get("StateMachineType"),
        loggingConfiguration=lower_keys(properties.get("LoggingConfiguration")),
        tags=lower_keys(properties.get("Tags")),
    )["stateMachineArn"]
    return Made(arn, {"Arn": arn, "Name": name})


def _definition(context: Context, properties: dict[str, Any]) -> str:
    if "DefinitionString" in properties:
        return str(properties["DefinitionString"])
    if "Definition" in properties:
        return json.dumps(properties["Definition"])
    location = properties["DefinitionS3Location"]
    if location.get("Bucket") != LOCAL_BUCKET:
        raise TemplateError("its definition must be a file (DefinitionUri) or stand in the template")
    path = context.path(location["Key"])
    if not path.is_file():
        raise TemplateError(f"its definition file {unquote(location['Key'])} doesn't exist beside the template")
    if path.stat().st_size > LARGEST_DEFINITION:
        raise TemplateError(f"{path.name} has more than {LARGEST_DEFINITION} bytes, which Step Functions refuses")
    text = path.read_text(encoding="utf-8")
    return json.dumps(yaml.safe_load(text)) if path.suffix in {".yaml", ".yml"} else text


def substitute(definition: str, values: Mapping[str, Any]) -> str:
    """Put DefinitionSubstitutions into a definition.

    Raises TemplateError for a placeholder that has no value: CloudFormation would leave it in the running workflow.
    """
    texts = fit_texts(values)
    missing = sorted(set(_PLACEHOLDER.findall(definition)) - texts.keys())
    if missing:
        raise TemplateError(f"DefinitionSubstitutions has no value for {', '.join(missing)}")
    text = _PLACEHOLDER.sub(lambda match: texts[match[1]], definition)
    try:
        json.loads(text)
    except ValueError as error:
        raise TemplateError(f"its definition is not JSON once its values are put in: {error}") from error
    return text


# -- EventBridge

_TARGET_KEYS = "Id Arn RoleArn Input InputPath InputTransformer RetryPolicy DeadLetterConfig SqsParameters"


def _check_target(target: dict[str, Any], known: str) -> None:
    service = only(target, known, "Targets")["Arn"].split(":")[2]
    if service not in TARGET_SERVICES:
        raise TemplateError(f"the embedded cloud delivers no event to {service} ({target['Arn']})")
    if service == "states" and "RoleArn" not in target:
        raise TemplateError(f"the target {target['Arn']} needs a RoleArn that may start executions")


@kind("AWS::Events::Rule", "Name Description EventPattern ScheduleExpression State RoleArn EventBusName Targets Tags")
def _rule(context: Context, properties: dict[str, Any]) -> Made:
    name, bus = properties.get("Name") or context.name(64), properties.get("EventBusName")
    if "ScheduleExpression" in properties:
        _check_schedule(properties["ScheduleExpression"])
    pattern = properties.get("EventPattern")
    arn = context.call(
        "events",
        "put_rule",
        Name=name,
        Description=properties.get("Description"),
        EventPattern=json.dumps(pattern) if isinstance(pattern, dict) else pattern,
        ScheduleExpression=properties.get("ScheduleExpression"),
        State=properties.get("State"),
        RoleArn=properties.get("RoleArn"),
        EventBusName=bus,
        Tags=properties.get("Tags"),
    )["RuleArn"]
    targets = properties.get("Targets") or []
    for target in targets:
        _check_target(target, _TARGET_KEYS)
        if target["Arn"].split(":")[2] == "lambda":
            context.rule_targets.append((name, arn, target["Arn"]))
    if targets:
        context.call("events", "put_targets", Rule=name, EventBusName=bus, Targets=targets)
    return Made(name, {"Arn": arn})


def _check_schedule(expression: str, zone: str = "UTC", *, once: bool = False) -> None:
    from datetime import UTC, datetime

    schedules.parse(expression, start=datetime.now(UTC), zone=zone, once=once)


@kind("AWS::Events::EventBus", "Name Description Tags")
def _event_bus(context: Context, properties: dict[str, Any]) -> Made:
    name = properties.get("Name") or context.name(256)
    arn = context.call("events", "create_event_bus", **{**properties, "Name": name})["EventBusArn"]
    return Made(name, {"Arn": arn, "Name": name})


@kind("AWS::Scheduler::ScheduleGroup", "Name Tags")
def _schedule_group(context: Context, properties: dict[str, Any]) -> Made:
    name = properties.get("Name") or context.name(64)
    arn = context.call("scheduler", "create_schedule_group", Name=name, Tags=properties.get("Tags"))["ScheduleGroupArn"]
    return Made(name, {"Arn": arn})


@kind(
    "AWS::Scheduler::Schedule",
    "Name GroupName Description ScheduleExpression ScheduleExpressionTimezone FlexibleTimeWindow StartDate EndDate "
    "State Target KmsKeyArn",
)
def _schedule(context: Context, properties: dict[str, Any]) -> Made:
    name = properties.get("Name") or context.name(64)
    zone = properties.get("ScheduleExpressionTimezone", "UTC")
    _check_schedule(properties["ScheduleExpression"], zone, once=True)
    _check_target(properties["Target"], "Arn RoleArn Input RetryPolicy DeadLetterConfig SqsParameters")
    arn = context.call("scheduler", "create_schedule", **{**properties, "Name": name})["ScheduleArn"]
    return Made(name, {"Arn": arn})


# -- KMS: keys exist, nothing is encrypted with them


@kind(
    "AWS::KMS::Key",
    "Description KeyPolicy EnableKeyRotation KeySpec KeyUsage MultiRegion Tags",
    PendingWindowInDays="nothing is deleted here",
)
def _key(context: Context, properties: dict[str, Any]) -> Made:
    metadata = context.call(
        "kms",
        "create_key",
        Description=properties.get("Description"),
        Policy=json.dumps(properties["KeyPolicy"]) if "KeyPolicy" in properties else None,
        KeySpec=properties.get("KeySpec"),
        KeyUsage=properties.get("KeyUsage"),
        MultiRegion=properties.get("MultiRegion"),
        Tags=[{"TagKey": tag["Key"], "TagValue": tag["Value"]} for tag in properties.get("Tags") or []] or None,
    )["KeyMetadata"]
    if truth(properties.get("EnableKeyRotation", False), "EnableKeyRotation"):
        context.call("kms", "enable_key_rotation", KeyId=metadata["KeyId"])
    return Made(metadata["KeyId"], {"Arn": metadata["Arn"], "KeyId": metadata["KeyId"]})


@kind("AWS::KMS::Alias", "AliasName TargetKeyId")
def _alias(context: Context, properties: dict[str, Any]) -> Made:
    context.call("kms", "create_alias", **properties)
    return Made(properties["AliasName"])
