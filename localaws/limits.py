"""What AWS refuses because it is too large, too many or misnamed, where moto takes it.

`LIMITS` is the table: which calls, what is measured, how much of it there may be, and where AWS says so. Each figure
was looked up on 2026-11-21. Besides, requests to Step Functions and EventBridge are judged by botocore's own models of
them: lengths, patterns, counts, required members. SageMaker's are judged so in `localaws.sagemaker.shapes`, and what
is told about the workers of Lambda is in `localaws.lambdas`, `localaws.memory` and `localaws.sandbox`.
"""

import json
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final
from urllib.parse import parse_qs, unquote

from botocore.loaders import Loader
from botocore.model import ServiceModel

from localaws.sagemaker import shapes
from localaws.sagemaker.errors import ApiError

KB: Final = 1024
MB: Final = 1024 * 1024
GB: Final = 1024 * 1024 * 1024

HISTORY_EVENTS: Final = 25_000

Environ = Mapping[str, Any]


class OverLimit(Exception):
    """A call is refused as the service would. `code` and `status` are those of its answer."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status


@dataclass(frozen=True)
class Request:
    """A call as far as limits ask about it: a JSON document, or a form, and the headers and path of the request."""

    document: Mapping[str, Any]
    environ: Environ
    body: bytes = b""


@dataclass(frozen=True)
class Limit:
    """One limit: of `calls`, what `measure` finds must be at most `most`. The message may name `{most}`."""

    calls: tuple[str, ...]
    what: str
    most: int
    unit: str
    measure: Callable[[Request], int]
    code: str
    message: str
    source: str
    status: int = 400


# -- what is measured


def _bytes(value: Any) -> int:
    return len(value.encode("utf-8", "surrogatepass")) if isinstance(value, str) else 0


def _items(request: Request, name: str) -> Sequence[Any]:
    found = request.document.get(name)
    return found if isinstance(found, list) else ()


def _text(name: str) -> Callable[[Request], int]:
    return lambda request: _bytes(request.document.get(name))


def _event_entries(request: Request) -> int:
    """As https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-putevent-size.html counts them."""
    size = 0
    for entry in _items(request, "Entries"):
        size += 14 if entry.get("Time") is not None else 0
        size += sum(_bytes(entry.get(name)) for name in ("Source", "DetailType", "Detail"))
        size += sum(map(_bytes, entry.get("Resources") or ()))
    return size


def _log_events(request: Request) -> int:
    return sum(_bytes(event.get("message")) + 26 for event in _items(request, "logEvents"))


def _largest_log_event(request: Request) -> int:
    return max((_bytes(event.get("message")) + 26 for event in _items(request, "logEvents")), default=0)


def _items_written(request: Request) -> int:
    """What a transaction carries, about as DynamoDB counts it: names and values."""
    return sum(
        _attributes(action.get("Item")) + _attributes(action.get("Key")) + _values(action)
        for item in _items(request, "TransactItems")
        for action in item.values()
    )


def _values(action: Mapping[str, Any]) -> int:
    return sum(map(_attribute, (action.get("ExpressionAttributeValues") or {}).values()))


def _attributes(item: Mapping[str, Any] | None) -> int:
    return sum(_bytes(name) + _attribute(value) for name, value in (item or {}).items())


def _attribute(value: Any) -> int:
    found: tuple[str, Any] = next(iter(value.items())) if isinstance(value, dict) and value else ("", None)
    kind, content = found
    match kind:
        case "M":
            return 3 + _attributes(content)
        case "L":
            return 3 + sum(map(_attribute, content))
        case "SS" | "NS" | "BS":
            return sum(map(_bytes, content))
        case "S" | "N" | "B":
            return _bytes(content)
    return 1


def _expressions(request: Request) -> int:
    """The longest expression of a request, those of a transaction's parts among them."""
    parts = [request.document, *(action for item in _items(request, "TransactItems") for action in item.values())]
    names = ("ConditionExpression", "UpdateExpression", "FilterExpression", "KeyConditionExpression")
    return max(_bytes(part.get(f"{name}")) for part in parts for name in (*names, "ProjectionExpression"))


def _batch_writes(request: Request) -> int:
    return sum(len(writes) for writes in (request.document.get("RequestItems") or {}).values())


def _object_key(request: Request) -> int:
    """Of `/bucket/key`, as a WSGI server gives it: bytes in the guise of Latin-1."""
    _, _, key = str(request.environ.get("PATH_INFO", "")).lstrip("/").partition("/")
    return len(key.encode("latin-1", "replace"))


def _metadata(request: Request) -> int:
    prefix = "HTTP_X_AMZ_META_"
    return sum(
        len(name) - len(prefix) + len(str(value)) for name, value in request.environ.items() if name.startswith(prefix)
    )


def _content_length(request: Request) -> int:
    return int(request.environ.get("HTTP_X_AMZ_DECODED_CONTENT_LENGTH") or request.environ.get("CONTENT_LENGTH") or 0)


def _deleted_objects(request: Request) -> int:
    return request.body.count(b"<Key>")


def _environment_variables(request: Request) -> int:
    """Lambda measures them as a JSON document."""
    variables = (request.document.get("Environment") or {}).get("Variables") or {}
    return len(json.dumps(variables, separators=(",", ":"), ensure_ascii=False).encode()) if variables else 0


def _subject_with_controls(request: Request) -> int:
    return len(re.findall(r"[\x00-\x1f\x7f]", str(request.document.get("Subject") or "")))


# -- the table

_LAMBDA: Final = "https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html"
_PUT_LOGS: Final = "https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_PutLogEvents.html"
_DYNAMODB: Final = "https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/ServiceQuotas.html"
_EVENTS: Final = "https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-quota.html"
_PAYLOADS: Final = (
    "https://aws.amazon.com/blogs/compute/more-room-to-build-serverless-services-now-support-payloads-up-to-1-mb"
)
_PUBLISH: Final = "https://docs.aws.amazon.com/sns/latest/api/API_Publish.html"
_S3: Final = "https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html"
_S3_UPLOADS: Final = "https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html"
_S3_METADATA: Final = "https://docs.aws.amazon.com/AmazonS3/latest/userguide/UsingMetadata.html"
_S3_DELETE: Final = "https://docs.aws.amazon.com/AmazonS3/latest/API/API_DeleteObjects.html"
_STATES: Final = "https://docs.aws.amazon.com/step-functions/latest/dg/service-quotas.html"

_ITEM_CALLS: Final = ("PutItem", "UpdateItem", "DeleteItem", "GetItem")
_WRITES: Final = ("lambda:CreateFunction", "lambda:UpdateFunctionConfiguration")

LIMITS: Final[tuple[Limit, ...]] = (
    Limit(
        ("events:PutEvents",),
        "all entries of a PutEvents request",
        MB,
        "bytes",
        _event_entries,
        "ValidationException",
        "Total size of the entries in the request is over the limit.",
        _PAYLOADS,
    ),
    Limit(
        ("events:PutTargets",),
        "targets of a rule",
        5,
        "targets",
        lambda request: len(_items(request, "Targets")),
        "LimitExceededException",
        "The requested resource exceeds the maximum number allowed.",
        _EVENTS,
    ),
    Limit(
        ("events:PutRule",),
        "a rule's event pattern",
        2048,
        "characters",
        lambda request: len(str(request.document.get("EventPattern") or "")),
        "LimitExceededException",
        "The requested resource exceeds the maximum number allowed.",
        _EVENTS,
    ),
    Limit(
        ("sns:Publish",),
        "a message",
        256 * KB,
        "bytes",
        _text("Message"),
        "InvalidParameter",
        "Invalid parameter: Message too long",
        _PUBLISH,
    ),
    Limit(
        ("sns:Publish",),
        "line breaks and control characters in a subject",
        0,
        "characters",
        _subject_with_controls,
        "InvalidParameter",
        "Invalid parameter: Subject",
        _PUBLISH,
    ),
    Limit(
        ("dynamodb:TransactWriteItems",),
        "the items of a transaction",
        4 * MB,
        "bytes",
        _items_written,
        "ValidationException",
        "Collection of items in the transaction exceeds the maximum allowed size of 4 MB",
        _DYNAMODB,
    ),
    Limit(
        ("dynamodb:BatchWriteItem",),
        "requests of a batch write",
        25,
        "requests",
        _batch_writes,
        "ValidationException",
        "Too many items requested for the BatchWriteItem call",
        _DYNAMODB,
    ),
    Limit(
        tuple(f"dynamodb:{one}" for one in (*_ITEM_CALLS, "TransactWriteItems", "Query", "Scan")),
        "an expression",
        4 * KB,
        "bytes",
        _expressions,
        "ValidationException",
        "Invalid expression: Expression size has exceeded the maximum allowed size",
        _DYNAMODB,
    ),
    Limit(
        ("logs:PutLogEvents",),
        "events of a PutLogEvents request",
        10_000,
        "events",
        lambda request: len(_items(request, "logEvents")),
        "InvalidParameterException",
        "1 validation error detected: Value at 'logEvents' failed to satisfy constraint: Member must have length less "
        "than or equal to {most}",
        _PUT_LOGS,
    ),
    Limit(
        ("logs:PutLogEvents",),
        "a log event, with 26 bytes of its own",
        MB,
        "bytes",
        _largest_log_event,
        "InvalidParameterException",
        "Log event too large: the limit is {most} bytes",
        _PUT_LOGS,
    ),
    Limit(
        ("logs:PutLogEvents",),
        "all events of a PutLogEvents request, with 26 bytes for each",
        MB,
        "bytes",
        _log_events,
        "InvalidParameterException",
        "Upload too large: the limit is {most} bytes",
        _PUT_LOGS,
    ),
    Limit(
        ("s3:PUT", "s3:POST"),
        "an object's key",
        1024,
        "bytes",
        _object_key,
        "KeyTooLongError",
        "Your key is too long",
        _S3,
    ),
    Limit(
        ("s3:PUT", "s3:POST"),
        "an object's own metadata",
        2 * KB,
        "bytes",
        _metadata,
        "MetadataTooLarge",
        "Your metadata headers exceed the maximum allowed metadata size",
        _S3_METADATA,
    ),
    Limit(
        ("s3:PUT",),
        "one upload, whole or a part",
        5 * GB,
        "bytes",
        _content_length,
        "EntityTooLarge",
        "Your proposed upload exceeds the maximum allowed size",
        _S3_UPLOADS,
    ),
    Limit(
        ("s3:POST delete",),
        "objects of a DeleteObjects request",
        1000,
        "objects",
        _deleted_objects,
        "MalformedXML",
        "The XML you provided was not well-formed or did not validate against our published schema",
        _S3_DELETE,
    ),
    Limit(
        _WRITES,
        "a function's environment variables, as JSON",
        4 * KB,
        "bytes",
        _environment_variables,
        "InvalidParameterValueException",
        "Lambda was unable to configure your environment variables because the environment variables you have provided "
        "exceeded the 4KB limit.",
        _LAMBDA,
    ),
    Limit(
        _WRITES,
        "a function's time",
        900,
        "seconds",
        lambda request: int(request.document.get("Timeout") or 0),
        "ValidationException",
        "1 validation error detected: Value at 'timeout' failed to satisfy constraint: Member must have value less "
        "than or equal to {most}",
        _LAMBDA,
    ),
    Limit(
        _WRITES,
        "a function's memory",
        10_240,
        "MB",
        lambda request: int(request.document.get("MemorySize") or 0),
        "ValidationException",
        "1 validation error detected: Value at 'memorySize' failed to satisfy constraint: Member must have value less "
        "than or equal to {most}",
        _LAMBDA,
    ),
    Limit(
        _WRITES,
        "a function's /tmp",
        10_240,
        "MB",
        lambda request: int((request.document.get("EphemeralStorage") or {}).get("Size") or 0),
        "ValidationException",
        "1 validation error detected: Value at 'ephemeralStorage.size' failed to satisfy constraint: Member must have "
        "value less than or equal to {most}",
        _LAMBDA,
    ),
    Limit(
        _WRITES,
        "a function's layers",
        5,
        "layers",
        lambda request: len(_items(request, "Layers")),
        "InvalidParameterValueException",
        "Cannot reference more than {most} layers.",
        _LAMBDA,
    ),
    Limit(
        ("lambda:CreateFunction",),
        "a function's name",
        64,
        "characters",
        lambda request: len(str(request.document.get("FunctionName") or "").rpartition(":")[2]),
        "InvalidParameterValueException",
        "1 validation error detected: Value at 'functionName' failed to satisfy constraint: Member must have length "
        "less than or equal to {most}",
        "https://docs.aws.amazon.com/lambda/latest/api/API_CreateFunction.html",
    ),
)

# Constraints that a model says, by the signing name of the service.
_MODELLED: Final = {"states": "stepfunctions", "events": "events"}

_SCHEDULE: Final = re.compile(r"/schedules/([^/]+)")
_SCHEDULE_NAME: Final = re.compile(r"[0-9a-zA-Z\-_.]{1,64}")
_FUNCTIONS: Final = re.compile(r"/2015-03-31/functions(?:/[^/]+/configuration)?/?")


@cache
def _by_call() -> dict[str, list[Limit]]:
    found: dict[str, list[Limit]] = defaultdict(list)
    for limit in LIMITS:
        for call in limit.calls:
            found[call].append(limit)
    return dict(found)


@cache
def _model(service: str) -> ServiceModel:
    return ServiceModel(Loader().load_service_model(_MODELLED[service], "service-2"), service)


def reads_body(service: str, environ: Environ) -> bool:
    """Whether `check` must see the body of such a request. What S3 is to keep, and what functions get, it needs not."""
    match service:
        case "s3":
            return environ["REQUEST_METHOD"] == "POST" and _is_delete(environ)
        case "lambda":
            return environ["REQUEST_METHOD"] in {"POST", "PUT"} and bool(_FUNCTIONS.fullmatch(environ["PATH_INFO"]))
    return service in {"states", "events", "logs", "dynamodb", "sns"}


def check(service: str, environ: Environ, body: bytes = b"") -> None:
    """Judge a call, signed for such a service, before it is carried out.

    Raises OverLimit.
    """
    if service == "scheduler":
        _check_schedule(environ)
        return
    names, request = _called(service, environ, body)
    for name in names:
        for limit in _by_call().get(f"{service}:{name}", ()):
            if _measured(limit, request) > limit.most:
                raise OverLimit(limit.code, limit.message.format(most=limit.most), limit.status)
    if service in _MODELLED and names:
        _check_model(service, names[0], request.document)


def _measured(limit: Limit, request: Request) -> int:
    try:
        return limit.measure(request)
    except (AttributeError, TypeError, ValueError):
        return 0  # a document of another form is refused by whoever is to carry it out


def _called(service: str, environ: Environ, body: bytes) -> tuple[list[str], Request]:
    """The call's name, or names, in the table."""
    if service == "s3":
        method = environ["REQUEST_METHOD"]
        more = [f"{method} delete"] if _is_delete(environ) else []
        return [method, *more], Request({}, environ, body)
    if target := environ.get("HTTP_X_AMZ_TARGET"):
        return [str(target).rsplit(".", 1)[-1]], Request(_document(body), environ)
    if service == "sns":
        form = {name: values[0] for name, values in parse_qs(body.decode("utf-8", "replace")).items()}
        return [form.get("Action", "")], Request(form, environ)
    if service == "lambda" and body:
        name = "CreateFunction" if environ["REQUEST_METHOD"] == "POST" else "UpdateFunctionConfiguration"
        return [name], Request(_document(body), environ)
    return [], Request({}, environ)


def _is_delete(environ: Environ) -> bool:
    return "delete" in parse_qs(str(environ.get("QUERY_STRING", "")), keep_blank_values=True)


def _document(body: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(body or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _check_model(service: str, name: str, document: Mapping[str, Any]) -> None:
    model = _model(service)
    if name not in model.operation_names:
        return
    shape = model.operation_model(name).input_shape
    if shape is None:
        return
    try:
        problems = shapes.problems(shape, document)
    except ApiError as error:
        raise OverLimit(error.code, str(error)) from error
    if problems:
        raise OverLimit("ValidationException", shapes.told(problems))


def _check_schedule(environ: Environ) -> None:
    """https://docs.aws.amazon.com/scheduler/latest/APIReference/API_CreateSchedule.html"""
    found = _SCHEDULE.fullmatch(environ["PATH_INFO"])
    if found and environ["REQUEST_METHOD"] in {"POST", "PUT"} and not _SCHEDULE_NAME.fullmatch(unquote(found[1])):
        raise OverLimit(
            "ValidationException",
            f"1 validation error detected: Value '{found[1]}' at 'name' failed to satisfy constraint: Member must "
            f"satisfy regular expression pattern: {_SCHEDULE_NAME.pattern}",
        )
