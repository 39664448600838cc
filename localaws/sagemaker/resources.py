"""What the embedded SageMaker knows: every resource by its ARN, its tags, and the events that its changes cause."""

import base64
import binascii
import copy
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from localaws.sagemaker import shapes
from localaws.sagemaker.errors import ValidationException

ACCOUNT = "123456789012"
TAG_LIMIT = 50
PAGE = 10

Document = dict[str, Any]
Emit = Callable[[dict[str, Any]], None]


def now() -> float:
    """Return the time in seconds since 1970, to the millisecond, as SageMaker keeps it."""
    return round(time.time(), 3)


def partition(region: str) -> str:
    """Return the partition that a region's ARNs name."""
    if region.startswith("cn-"):
        return "aws-cn"
    return "aws-us-gov" if region.startswith("us-gov-") else "aws"


def arn(kind: str, name: str, region: str) -> str:
    """Return a resource's ARN; SageMaker spells names in it in lower case, so names differ in more than case."""
    return f"arn:{partition(region)}:sagemaker:{region}:{ACCOUNT}:{kind}/{name.lower()}"


@dataclass
class Resource:
    """One resource: `document` is what its Describe operation answers."""

    kind: str
    name: str
    region: str
    document: Document
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def arn(self) -> str:
        """The resource's ARN, its key in the store."""
        return arn(self.kind, self.name, self.region)


@dataclass(frozen=True)
class Kind:
    """How a kind of resource is listed and announced.

    `prefix` begins its members' names (`EndpointName`, `EndpointArn`); `status` is the member with its status.
    `describe` is the operation whose output shape its events follow; None: changes cause no event. `spell_time` says
    how those events write a time; `untagged_events`: they name no tags where there are none.
    """

    prefix: str
    status: str | None = None
    describe: str | None = None
    event: str | None = None
    newest_first: bool = True
    spell_time: Callable[[float], int | str] = shapes.milliseconds
    untagged_events: bool = False


KINDS: Mapping[str, Kind] = {
    "training-job": Kind(
        "TrainingJob",
        "TrainingJobStatus",
        "DescribeTrainingJob",
        "SageMaker Training Job State Change",
        newest_first=False,
    ),
    "hyper-parameter-tuning-job": Kind(
        "HyperParameterTuningJob",
        "HyperParameterTuningJobStatus",
        "DescribeHyperParameterTuningJob",
        "SageMaker HyperParameter Tuning Job State Change",
        newest_first=False,
    ),
    "transform-job": Kind(
        "TransformJob", "TransformJobStatus", "DescribeTransformJob", "SageMaker Transform Job State Change"
    ),
    "model": Kind("Model"),
    "endpoint-config": Kind("EndpointConfig"),
    "endpoint": Kind("Endpoint", "EndpointStatus", "DescribeEndpoint", "SageMaker Endpoint State Change"),
    "model-package-group": Kind("ModelPackageGroup", newest_first=False),
    # By the example in "Events that Amazon SageMaker AI sends to Amazon EventBridge", of a version in a group.
    "model-package": Kind(
        "ModelPackage",
        "ModelPackageStatus",
        "DescribeModelPackage",
        "SageMaker Model Package State Change",
        newest_first=False,
        spell_time=shapes.iso_seconds,
        untagged_events=True,
    ),
}

# EventBridge spells an endpoint's status in capitals; the API doesn't.
_EVENT_STATUS = {
    "InService": "IN_SERVICE",
    "OutOfService": "OUT_OF_SERVICE",
    "SystemUpdating": "SYSTEM_UPDATING",
    "RollingBack": "ROLLING_BACK",
    "UpdateRollbackFailed": "UPDATE_ROLLBACK_FAILED",
}


def tag_map(tags: Sequence[Mapping[str, str]], known: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return tags as a map, merged into those already there; ValidationException beyond SageMaker's rules."""
    keys = [tag["Key"] for tag in tags]
    if len(set(keys)) != len(keys):
        raise ValidationException("Duplicate tag keys found. Please note that Tag keys are case insensitive.")
    for key in keys:
        if key.lower().startswith("aws:"):
            raise ValidationException(f"Tag key {key!r} is not allowed: the prefix 'aws:' is reserved.")
    merged = {**(known or {}), **{tag["Key"]: tag["Value"] for tag in tags}}
    if len(merged) > TAG_LIMIT:
        raise ValidationException(f"A resource may have at most {TAG_LIMIT} tags; this one would have {len(merged)}.")
    return merged


class Store:
    """Resources of all regions. Every method may be called from any thread.

    `emit` is called with each event while the store is locked, so that events leave in the order of the changes: it
    must only put the event aside, and neither block nor call SageMaker from another thread and wait for it.
    """

    def __init__(self, emit: Emit) -> None:
        self.lock = threading.RLock()
        self._emit = emit
        self._resources: dict[str, Resource] = {}

    def add(self, resource: Resource) -> None:
        """Keep a new resource and announce it; the caller has made sure, under the lock, that its name is free."""
        with self.lock:
            self._resources[resource.arn] = resource
            self.announce(resource)

    def find(self, kind: str, name: str, region: str) -> Resource | None:
        """Return the resource of this name, or None."""
        with self.lock:
            return self._resources.get(arn(kind, name, region))

    def tags(self, resource_arn: str) -> dict[str, str]:
        """Return the tags of the resource of this ARN; none if there is no such resource."""
        with self.lock:
            found = self._resources.get(resource_arn)
            return dict(found.tags) if found else {}

    def remove(self, resource: Resource) -> None:
        """Forget a resource."""
        with self.lock:
            self._resources.pop(resource.arn, None)

    def count(self, kind: str, statuses: Sequence[str]) -> int:
        """Return how many resources of this kind have one of these statuses."""
        status = KINDS[kind].status or ""
        with self.lock:
            found = self._resources.values()
            return sum(one.kind == kind and one.document.get(status) in statuses for one in found)

    def of_kind(self, kind: str, region: str) -> list[Resource]:
        """Return a region's resources of one kind, in the order in which they were added."""
        with self.lock:
            return [one for one in self._resources.values() if one.kind == kind and one.region == region]

    def describe(self, resource: Resource) -> Document:
        """Return a copy of what Describe answers."""
        with self.lock:
            return copy.deepcopy(resource.document)

    def announce(self, resource: Resource, status: str | None = None) -> None:
        """Send the resource's state (or the given status) as EventBridge would; nothing for kinds without events."""
        kind = KINDS[resource.kind]
        if not (kind.describe and kind.event and kind.status):
            return
        shape = shapes.operation(kind.describe).output_shape
        with self.lock:
            detail = shapes.with_times(shape, copy.deepcopy(resource.document), kind.spell_time) if shape else {}
            if status:
                detail[kind.status] = status
            if resource.kind == "endpoint":
                spelled = str(detail[kind.status])
                detail[kind.status] = _EVENT_STATUS.get(spelled, spelled.upper())
            if resource.tags or not kind.untagged_events:
                detail["Tags"] = dict(resource.tags)
            self._emit(
                {
                    "source": "aws.sagemaker",
                    "detail-type": kind.event,
                    "region": resource.region,
                    "account": ACCOUNT,
                    "resources": [resource.arn],
                    "detail": detail,
                }
            )

    def tagged(self, resource_arn: str) -> Resource:
        """Return the resource whose tags are meant; ValidationException if there is none."""
        with self.lock:
            head, _, name = resource_arn.partition("/")
            resource = self._resources.get(f"{head}/{name.lower()}")
        if resource is None:
            raise ValidationException(f'Could not find resource "{resource_arn}".')
        return resource

    def page(
        self,
        kind: str,
        region: str,
        request: Mapping[str, Any],
        summary: Sequence[str] | Callable[[Document], Document],
    ) -> tuple[list[Document], str | None]:
        """Return one page of a list operation and the token of the next page.

        `summary` names the members that are shown, or makes a summary of a resource's document.
        """
        naming = KINDS[kind]
        by = str(request.get("SortBy", "CreationTime"))
        keys = {"Name": f"{naming.prefix}Name", "Status": naming.status or "", "CreationTime": "CreationTime"}
        if by not in keys:
            raise ValidationException(f"SortBy {by!r} is not supported by the embedded SageMaker.")
        descending = request.get("SortOrder", "Descending" if naming.newest_first else "Ascending") == "Descending"

        def shown(document: Document) -> Document:
            if callable(summary):
                return summary(document)
            return {key: document[key] for key in summary if key in document}

        with self.lock:
            rows = [
                (one.document[keys[by]], one.arn, copy.deepcopy(shown(one.document)))
                for one in self.of_kind(kind, region)
                if wanted(one, naming, request)
            ]
        return page_of(rows, request, by=by, descending=descending)


def page_of(
    rows: Sequence[tuple[Any, str, Document]], request: Mapping[str, Any], *, by: str, descending: bool
) -> tuple[list[Document], str | None]:
    """Return one page of (what it is sorted by, ARN, summary) and the token of the next page.

    The token names the last resource shown, so a page is right even if others come and go meanwhile.
    """
    ordered = sorted(rows, key=lambda row: (row[0], row[1]), reverse=descending)
    if token := request.get("NextToken"):
        last = _read_token(token, by)
        ordered = [row for row in ordered if ((row[0], row[1]) < last if descending else (row[0], row[1]) > last)]
    size = int(request.get("MaxResults", PAGE))
    shown = ordered[:size]
    after = _write_token(by, shown[-1][0], shown[-1][1]) if len(ordered) > size else None
    return [row[2] for row in shown], after


def wanted(resource: Resource, kind: Kind, request: Mapping[str, Any]) -> bool:
    """Return whether a resource passes the filters that the list operations share."""
    document = resource.document
    if request.get("NameContains", "").lower() not in resource.name.lower():
        return False
    if "StatusEquals" in request and document.get(kind.status or "") != request["StatusEquals"]:
        return False
    for member in ("CreationTime", "LastModifiedTime"):
        moment = document.get(member, 0.0)
        if moment <= request.get(f"{member}After", float("-inf")):
            return False
        if moment >= request.get(f"{member}Before", float("inf")):
            return False
    return True


def _write_token(by: str, value: Any, last: str) -> str:
    return base64.urlsafe_b64encode(json.dumps([by, value, last]).encode()).decode()


def _read_token(token: str, by: str) -> tuple[Any, str]:
    try:
        sorted_by, value, last = json.loads(base64.urlsafe_b64decode(token.encode()))
    except (binascii.Error, ValueError, TypeError):
        raise ValidationException("The NextToken is not one that this operation gave out.") from None
    right_type = (
        isinstance(value, float | int)
        if by in ("CreationTime", "FinalObjectiveMetricValue")
        else isinstance(value, str)
    )
    if sorted_by != by or not right_type or not isinstance(last, str):
        raise ValidationException("The NextToken belongs to another request; give the same SortBy as before.")
    return value, last
