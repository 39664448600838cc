"""What an API call needs to be allowed: IAM actions, the resources that they act on, and condition keys.

The tables follow AWS's Service Authorization Reference
(https://docs.aws.amazon.com/service-authorization/latest/reference/), and for S3, whose actions aren't called as its
operations are, https://docs.aws.amazon.com/AmazonS3/latest/userguide/using-with-s3-policy-actions.html. Operations are
told apart by botocore's own service models.
"""

import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, parse_qsl, unquote

Context = Mapping[str, str | tuple[str, ...]]
Environ = dict[str, Any]

EVERYTHING = "*"  # the resource of an action that knows no resources


class UnknownAction(Exception):
    """The tables don't say what an operation needs."""


@dataclass(frozen=True)
class Need:
    """One action that a call needs, on one resource, with the condition keys that are known of it."""

    action: str
    resource: str
    context: Context = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Where:
    """The account that is called. `tags` gives a resource's tags by its ARN."""

    partition: str
    region: str
    account_id: str
    tags: Callable[[str], Mapping[str, str]]

    def arn(self, service: str, resource: str) -> str:
        return f"arn:{self.partition}:{service}:{self.region}:{self.account_id}:{resource}"


# The prefix of a service's actions, where it isn't the name that requests are signed for.
_PREFIXES = {"monitoring": "cloudwatch"}

# Signing names whose model has another name in botocore.
_MODELS = {"states": "stepfunctions", "monitoring": "cloudwatch"}


def prefix(service: str) -> str:
    """The prefix of a service's actions: `cloudwatch` for the signing name `monitoring`."""
    return _PREFIXES.get(service, service)


# -- the operation


# Clients compress large requests of these
# (https://docs.aws.amazon.com/sdkref/latest/guide/feature-compression.html).
_COMPRESSED = {"monitoring"}
_UNPACKED_AT_MOST = 16 << 20

_INVOCATION = re.compile(r"/endpoints/([^/]+)/(?:async-)?invocations")


def operation(service: str, environ: Environ, body: bytes) -> tuple[str, dict[str, Any]]:
    """The name of the called operation and what its request says.

    The parameters of a JSON request are whole; of a REST request they are its path, its query and its headers (in small
    letters); of a query request the form's fields. The name is empty where it can't be told.
    """
    if environ.get("HTTP_CONTENT_ENCODING") == "gzip" and service in _COMPRESSED:
        body = _unpacked(body)
    target = environ.get("HTTP_X_AMZ_TARGET")
    if target:
        return str(target).rsplit(".", 1)[-1], _json(body)
    path = environ.get("PATH_INFO", "")
    if service == "sagemaker" and (found := _INVOCATION.fullmatch(path)):
        variant = environ.get("HTTP_X_AMZN_SAGEMAKER_TARGET_VARIANT", "")
        return "InvokeEndpoint", {"EndpointName": unquote(found[1]), "TargetVariant": variant}
    if environ.get("CONTENT_TYPE", "").startswith("application/x-www-form-urlencoded"):
        form = {name: values[0] for name, values in parse_qs(body.decode("utf-8", "replace")).items()}
        return form.get("Action", ""), form
    return _rest_operation(service, environ)


def _unpacked(body: bytes) -> bytes:
    try:
        return zlib.decompressobj(wbits=31).decompress(body, _UNPACKED_AT_MOST)
    except zlib.error:
        return b""


def _json(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _rest_operation(service: str, environ: Environ) -> tuple[str, dict[str, Any]]:
    from moto.core.request import Request
    from moto.core.routing import get_service_router
    from werkzeug.exceptions import NotFound

    try:
        found, in_path = get_service_router(_MODELS.get(service, service)).match(Request(environ))
    except (NotFound, ValueError, LookupError):
        return "", {}
    parameters: dict[str, Any] = dict(parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True))
    parameters |= {
        name[5:].replace("_", "-").lower(): value for name, value in environ.items() if name.startswith("HTTP_X_AMZ")
    }
    return str(found.name), parameters | {name: unquote(str(value)) for name, value in in_path.items()}


def reads_body(service: str, environ: Environ) -> bool:
    """Whether the request's body must be read to tell what it needs; S3's and an endpoint's data need not."""
    if service == "s3":
        return environ["REQUEST_METHOD"] == "POST" and "delete" in environ.get("QUERY_STRING", "")
    if service == "sagemaker":
        return "HTTP_X_AMZ_TARGET" in environ
    return service != "lambda"


# -- what it needs


def needs(service: str, name: str, parameters: Mapping[str, Any], where: Where, body: bytes = b"") -> list[Need]:
    """Everything that a call needs to be allowed, its own action first.

    Raises UnknownAction for an operation that the tables don't have.
    """
    found = _SERVICES.get(service)
    if not name or found is None:
        raise UnknownAction(f"{service}:{name or 'an unknown operation'}")
    wanted = list(found(name, parameters, where, body))
    if not wanted:
        raise UnknownAction(f"{service}:{name}")
    return wanted


def missing_object(name: str, parameters: Mapping[str, Any], where: Where) -> list[Need]:
    """What S3 asks for besides before it says that an object isn't there; without it, it says that access is denied.

    https://docs.aws.amazon.com/AmazonS3/latest/API/API_GetObject.html, "Permissions"
    """
    if name in {"GetObject", "HeadObject", "GetObjectAttributes"}:
        return [Need("s3:ListBucket", _bucket(parameters["Bucket"], where))]
    return []


def acts_on(action: str, pattern: str) -> bool:
    """Whether an action may act on what a policy's resource pattern names; False where their kinds differ.

    A statement often lists several actions and several kinds of resources; IAM takes no notice of the other pairs.
    """
    name = action.removeprefix("sagemaker:")
    kind = _SAGEMAKER.get(name, ("",))[0] if action.startswith("sagemaker:") else ""
    named = pattern.split(":", 5)[-1].partition("/")
    if not kind or not named[1] or named[0] not in _SAGEMAKER_KINDS:
        return True
    return named[0] == kind or (name, named[0]) in _SAGEMAKER_ALSO


def _bucket(name: str, where: Where) -> str:
    return f"arn:{where.partition}:s3:::{name}"


# Operation: the action on the object, and the one where a version is named.
_S3_OBJECT = {
    "GetObject": ("GetObject", "GetObjectVersion"),
    "HeadObject": ("GetObject", "GetObjectVersion"),
    "GetObjectAttributes": ("GetObjectAttributes", "GetObjectVersionAttributes"),
    "GetObjectTagging": ("GetObjectTagging", "GetObjectVersionTagging"),
    "PutObjectTagging": ("PutObjectTagging", "PutObjectVersionTagging"),
    "DeleteObjectTagging": ("DeleteObjectTagging", "DeleteObjectVersionTagging"),
    "GetObjectAcl": ("GetObjectAcl", "GetObjectVersionAcl"),
    "DeleteObject": ("DeleteObject", "DeleteObjectVersion"),
    "PutObject": ("PutObject", "PutObject"),
    "CreateMultipartUpload": ("PutObject", "PutObject"),
    "UploadPart": ("PutObject", "PutObject"),
    "CompleteMultipartUpload": ("PutObject", "PutObject"),
    "AbortMultipartUpload": ("AbortMultipartUpload", "AbortMultipartUpload"),
    "ListParts": ("ListMultipartUploadParts", "ListMultipartUploadParts"),
}
_S3_BUCKET = {
    "ListObjects": "ListBucket",
    "ListObjectsV2": "ListBucket",
    "HeadBucket": "ListBucket",
    "ListObjectVersions": "ListBucketVersions",
    "ListMultipartUploads": "ListBucketMultipartUploads",
    "GetBucketLocation": "GetBucketLocation",
    "GetBucketVersioning": "GetBucketVersioning",
    "GetBucketPolicy": "GetBucketPolicy",
    "GetBucketNotificationConfiguration": "GetBucketNotification",
}
_S3_LIST_KEYS = {"prefix": "s3:prefix", "delimiter": "s3:delimiter", "max-keys": "s3:max-keys"}
_S3_PUT_KEYS = {
    "x-amz-server-side-encryption": "s3:x-amz-server-side-encryption",
    "x-amz-server-side-encryption-aws-kms-key-id": "s3:x-amz-server-side-encryption-aws-kms-key-id",
}
_KEY = re.compile(rb"<Object>(.*?)</Object>", re.DOTALL)


def _s3(name: str, parameters: Mapping[str, Any], where: Where, body: bytes) -> Iterator[Need]:
    if name == "ListBuckets":
        yield Need("s3:ListAllMyBuckets", EVERYTHING)
        return
    bucket = _bucket(parameters["Bucket"], where)
    if name in _S3_OBJECT:
        version = parameters.get("versionId")
        action = _S3_OBJECT[name][bool(version)]
        context = {key: parameters[field] for field, key in _S3_PUT_KEYS.items() if field in parameters}
        if version:
            context["s3:VersionId"] = version
        yield Need(f"s3:{action}", f"{bucket}/{parameters['Key']}", context)
        if "x-amz-tagging" in parameters and name in {"PutObject", "CreateMultipartUpload"}:
            yield Need("s3:PutObjectTagging", f"{bucket}/{parameters['Key']}")
        if name == "GetObjectAttributes":
            yield Need("s3:GetObject", f"{bucket}/{parameters['Key']}")
    elif name in _S3_BUCKET:
        context = {key: parameters[field] for field, key in _S3_LIST_KEYS.items() if field in parameters}
        yield Need(f"s3:{_S3_BUCKET[name]}", bucket, context)
    elif name == "DeleteObjects":
        for found in _KEY.findall(body):
            key = _xml_text(found, b"Key")
            action = "DeleteObjectVersion" if b"<VersionId>" in found else "DeleteObject"
            yield Need(f"s3:{action}", f"{bucket}/{key}")
    elif name in {"CopyObject", "UploadPartCopy"}:
        yield Need("s3:PutObject", f"{bucket}/{parameters['Key']}")
        source, _, version = unquote(parameters["x-amz-copy-source"]).lstrip("/").partition("?versionId=")
        action = "GetObjectVersion" if version else "GetObject"
        yield Need(f"s3:{action}", _bucket(source, where))


def _xml_text(element: bytes, tag: bytes) -> str:
    from xml.sax.saxutils import unescape

    found = re.search(rb"<%s>(.*?)</%s>" % (tag, tag), element, re.DOTALL)
    return unescape(found[1].decode(), {"&quot;": '"', "&apos;": "'", "&#13;": "\r", "&#10;": "\n"}) if found else ""


_TRANSACTION_PARTS = {
    "Put": "PutItem",
    "Update": "UpdateItem",
    "Delete": "DeleteItem",
    "ConditionCheck": "ConditionCheckItem",
    "Get": "GetItem",
}


def _dynamodb(name: str, parameters: Mapping[str, Any], where: Where, _body: bytes) -> Iterator[Need]:
    def table(given: str) -> str:
        return given if given.startswith("arn:") else where.arn("dynamodb", f"table/{given}")

    if name in {"TransactWriteItems", "TransactGetItems"}:
        # A transaction is checked against the actions that it is made of.
        for item in parameters["TransactItems"]:
            for part, what in item.items():
                yield Need(f"dynamodb:{_TRANSACTION_PARTS[part]}", table(what["TableName"]))
    elif name in {"BatchGetItem", "BatchWriteItem"}:
        for given in parameters["RequestItems"]:
            yield Need(f"dynamodb:{name}", table(given))
    elif name == "ListTables":
        yield Need("dynamodb:ListTables", EVERYTHING)
    elif "TableName" in parameters:
        index = f"/index/{parameters['IndexName']}" if "IndexName" in parameters else ""
        yield Need(f"dynamodb:{name}", table(parameters["TableName"]) + index)


# Operation: the kind of resource and the parameter that names it.
_SAGEMAKER: dict[str, tuple[str, str]] = {
    f"{verb}{noun}": (kind, f"{noun}Name")
    for noun, kind, verbs in (
        ("TrainingJob", "training-job", "Create Describe Stop Delete"),
        ("HyperParameterTuningJob", "hyper-parameter-tuning-job", "Create Describe Stop Delete"),
        ("TransformJob", "transform-job", "Create Describe Stop"),
        ("Model", "model", "Create Describe Delete"),
        ("EndpointConfig", "endpoint-config", "Create Describe Delete"),
        ("Endpoint", "endpoint", "Create Describe Update Delete Invoke"),
        ("ModelPackageGroup", "model-package-group", "Create Describe Delete"),
        ("ModelPackage", "model-package", "Create Describe Update Delete"),
    )
    for verb in verbs.split()
} | {
    "ListTrainingJobsForHyperParameterTuningJob": ("hyper-parameter-tuning-job", "HyperParameterTuningJobName"),
    "UpdateEndpointWeightsAndCapacities": ("endpoint", "EndpointName"),
    "UpdateModelPackage": ("model-package", "ModelPackageArn"),
    "AddTags": ("", "ResourceArn"),
    "ListTags": ("", "ResourceArn"),
    "DeleteTags": ("", "ResourceArn"),
}
_SAGEMAKER_KINDS = frozenset(kind for kind, _ in _SAGEMAKER.values())
# Operations that are asked for on a second kind of resource.
_SAGEMAKER_ALSO = frozenset({("CreateEndpoint", "endpoint-config"), ("CreateModelPackage", "model-package-group")})
_SAGEMAKER_LISTS = frozenset(
    {
        "ListTrainingJobs",
        "ListHyperParameterTuningJobs",
        "ListTransformJobs",
        "ListModels",
        "ListEndpointConfigs",
        "ListEndpoints",
        "ListModelPackageGroups",
        "ListModelPackages",
        "Search",
    }
)


def _sagemaker(name: str, parameters: Mapping[str, Any], where: Where, _body: bytes) -> Iterator[Need]:
    if name in _SAGEMAKER_LISTS:
        yield Need(f"sagemaker:{name}", EVERYTHING)
        return
    if name not in _SAGEMAKER:
        return
    kind, field_name = _SAGEMAKER[name]
    named = str(parameters.get(field_name) or parameters.get("ModelPackageGroupName") or "")
    # SageMaker writes names in small letters in its ARNs.
    resource = named if named.startswith("arn:") else where.arn("sagemaker", f"{kind}/{named.lower()}")
    if not name.startswith("Create"):
        yield Need(f"sagemaker:{name}", resource, _resource_tags(where.tags(resource)))
        return
    tags = {tag["Key"]: tag["Value"] for tag in parameters.get("Tags") or ()}
    requested = _request_tags(tags) | _sagemaker_context(parameters)
    if name == "CreateEndpoint":
        yield Need("sagemaker:CreateEndpoint", resource, requested)
        # The configuration is asked for as well; request tags are none of its own.
        config = where.arn("sagemaker", f"endpoint-config/{parameters['EndpointConfigName'].lower()}")
        yield Need("sagemaker:CreateEndpoint", config, _resource_tags(where.tags(config)))
    elif name == "CreateModelPackage":
        group = named if named.startswith("arn:") else where.arn("sagemaker", f"model-package-group/{named.lower()}")
        slug = group.rsplit("/", 1)[-1]
        yield Need("sagemaker:CreateModelPackage", group, requested | _resource_tags(where.tags(group)))
        yield Need("sagemaker:CreateModelPackage", where.arn("sagemaker", f"model-package/{slug}/*"), requested)
    else:
        yield Need(f"sagemaker:{name}", resource, requested)
    if tags:
        yield Need("sagemaker:AddTags", resource, _request_tags(tags) | {"sagemaker:TaggingAction": name})
    for role in sorted(set(_find(parameters, {"RoleArn", "ExecutionRoleArn"}))):
        yield Need("iam:PassRole", role, {"iam:PassedToService": "sagemaker.amazonaws.com"})
    if name in {"CreateModel", "CreateModelPackage"}:
        # SageMaker looks at the artifact with the caller's rights; at the image of a package as well.
        for uri in sorted(set(_find(parameters, {"ModelDataUrl"}))):
            yield Need("s3:GetObject", f"arn:{where.partition}:s3:::{uri.removeprefix('s3://')}")
    if name == "CreateModelPackage":
        for image in sorted(set(_find(parameters, {"Image"}))):
            yield from image_needs(image, where.partition)


def image_needs(image: str, partition: str) -> Iterator[Need]:
    """What it takes to pull an image from a private registry.

    https://docs.aws.amazon.com/AmazonECR/latest/userguide/repository-policy-examples.html
    """
    registry, _, rest = image.partition("/")
    account, _, _, region = registry.split(".")[:4]
    repository = rest.partition(":")[0]
    yield Need("ecr:GetAuthorizationToken", EVERYTHING)
    for action in ("BatchCheckLayerAvailability", "GetDownloadUrlForLayer", "BatchGetImage"):
        yield Need(f"ecr:{action}", f"arn:{partition}:ecr:{region}:{account}:repository/{repository}")


def _request_tags(tags: Mapping[str, str]) -> dict[str, str | tuple[str, ...]]:
    found: dict[str, str | tuple[str, ...]] = {f"aws:RequestTag/{key}": value for key, value in tags.items()}
    if tags:
        found["aws:TagKeys"] = tuple(tags)
    return found


def _resource_tags(tags: Mapping[str, str]) -> dict[str, str | tuple[str, ...]]:
    return {f"aws:ResourceTag/{key}": value for key, value in tags.items()}


_SAGEMAKER_KEYS = {
    "InstanceType": "sagemaker:InstanceTypes",
    "VolumeKmsKeyId": "sagemaker:VolumeKmsKey",
    "KmsKeyId": "sagemaker:OutputKmsKey",
    "Subnets": "sagemaker:VpcSubnets",
    "SecurityGroupIds": "sagemaker:VpcSecurityGroupIds",
}


def _sagemaker_context(parameters: Mapping[str, Any]) -> dict[str, str | tuple[str, ...]]:
    context: dict[str, str | tuple[str, ...]] = {}
    for name, key in _SAGEMAKER_KEYS.items():
        if found := tuple(sorted(set(_find(parameters, {name})))):
            context[key] = found
    # A search says it of its jobs.
    job = parameters.get("TrainingJobDefinition", parameters)
    if "EnableNetworkIsolation" in job:
        context["sagemaker:NetworkIsolation"] = str(job["EnableNetworkIsolation"]).lower()
    return context


def _find(document: Any, names: set[str]) -> Iterator[str]:
    """Every text, or text in a list, that stands under one of these names anywhere in a document."""
    if isinstance(document, Mapping):
        for name, value in document.items():
            if name in names:
                yield from [value] if isinstance(value, str) else [one for one in value if isinstance(one, str)]
            else:
                yield from _find(value, names)
    elif isinstance(document, list):
        for value in document:
            yield from _find(value, names)


_STATES_ON_MACHINE = {"StartExecution", "DescribeStateMachine", "ListExecutions", "UpdateStateMachine"}
_STATES_ON_EXECUTION = {"DescribeExecution", "StopExecution", "GetExecutionHistory", "RedriveExecution"}
# The token is the key: these know no resources.
_STATES_ON_TOKEN = {"SendTaskSuccess", "SendTaskFailure", "SendTaskHeartbeat"}


def _states(name: str, parameters: Mapping[str, Any], _where: Where, _body: bytes) -> Iterator[Need]:
    if name in _STATES_ON_TOKEN or name == "ListStateMachines":
        yield Need(f"states:{name}", EVERYTHING)
    elif name in _STATES_ON_MACHINE:
        yield Need(f"states:{name}", parameters["stateMachineArn"])
    elif name in _STATES_ON_EXECUTION:
        yield Need(f"states:{name}", parameters["executionArn"])


def _events(name: str, parameters: Mapping[str, Any], where: Where, _body: bytes) -> Iterator[Need]:
    if name == "PutEvents":
        for entry in parameters["Entries"]:
            bus = entry.get("EventBusName") or "default"
            resource = bus if bus.startswith("arn:") else where.arn("events", f"event-bus/{bus}")
            context = {"events:source": entry["Source"], "events:detail-type": entry["DetailType"]}
            yield Need("events:PutEvents", resource, context)


def _lambda(name: str, parameters: Mapping[str, Any], where: Where, _body: bytes) -> Iterator[Need]:
    if name in {"Invoke", "InvokeAsync"}:
        function = parameters["FunctionName"]
        resource = function if function.startswith("arn:") else where.arn("lambda", f"function:{function}")
        yield Need("lambda:InvokeFunction", resource)


def _sns(name: str, parameters: Mapping[str, Any], _where: Where, _body: bytes) -> Iterator[Need]:
    arn = parameters.get("TopicArn") or parameters.get("TargetArn")
    if arn:
        yield Need(f"sns:{name}", arn)


def _sqs(name: str, parameters: Mapping[str, Any], where: Where, _body: bytes) -> Iterator[Need]:
    queue = parameters.get("QueueName") or str(parameters.get("QueueUrl", "")).rstrip("/").rsplit("/", 1)[-1]
    if queue:
        yield Need(f"sqs:{name.removesuffix('Batch')}", where.arn("sqs", queue))


# Actions of Logs that are asked of the group or its streams.
_LOGS_ON_STREAM = {"PutLogEvents", "GetLogEvents", "CreateLogStream", "DeleteLogStream"}


def _logs(name: str, parameters: Mapping[str, Any], where: Where, _body: bytes) -> Iterator[Need]:
    group = parameters.get("logGroupName")
    if group is None:
        yield Need(f"logs:{name}", EVERYTHING)
        return
    stream = parameters.get("logStreamName", "")
    tail = f":log-stream:{stream}" if name in _LOGS_ON_STREAM and name != "CreateLogStream" else ""
    yield Need(f"logs:{name}", where.arn("logs", f"log-group:{group}{tail}"))


def _cloudwatch(name: str, parameters: Mapping[str, Any], _where: Where, _body: bytes) -> Iterator[Need]:
    namespace = parameters.get("Namespace")
    yield Need(f"cloudwatch:{name}", EVERYTHING, {"cloudwatch:namespace": namespace} if namespace else {})


def _sts(name: str, _parameters: Mapping[str, Any], _where: Where, _body: bytes) -> Iterator[Need]:
    if name == "GetCallerIdentity":  # allowed to everybody, whatever a policy says
        yield Need("sts:GetCallerIdentity", EVERYTHING)


def _cloudformation(name: str, parameters: Mapping[str, Any], where: Where, _body: bytes) -> Iterator[Need]:
    stack = parameters.get("StackName") or ""
    # A stack that is deleted goes by its id alone, which is an ARN.
    resource = stack if stack.startswith("arn:") else where.arn("cloudformation", f"stack/{stack}/*")
    yield Need(f"cloudformation:{name}", resource if stack else EVERYTHING)


_SERVICES: Mapping[str, Callable[[str, Mapping[str, Any], Where, bytes], Iterator[Need]]] = {
    "s3": _s3,
    "dynamodb": _dynamodb,
    "sagemaker": _sagemaker,
    "states": _states,
    "events": _events,
    "lambda": _lambda,
    "sns": _sns,
    "sqs": _sqs,
    "logs": _logs,
    "monitoring": _cloudwatch,
    "sts": _sts,
    "cloudformation": _cloudformation,
}
