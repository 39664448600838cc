"""What SageMaker holds with this stack's tag and no open lease knows.

SageMaker's own lists are asked, and the tags of what no lease names. The Resource Groups Tagging API would find tagged
resources in fewer calls, but it goes on naming every job that ever ran, and resources that are gone ("GetResources":
"tagged or previously tagged"), and follows changes late. Packages and artifacts are results, not left-overs.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, cast

from botocore.exceptions import ClientError

from dropmill import aws, ledger
from dropmill.ledger import LeaseState
from dropmill.naming import RUN_TAG, STACK_TAG, Step
from dropmill.resources import RESOURCES, Presence, is_missing
from dropmill.settings import setting

YOUNG: Final = timedelta(minutes=15)
"""What has just been made is looked at the next time: whoever makes or ends it is still at work."""

_LOOKS_AT_ONCE: Final = 4
_TOLD_MAX: Final = 100


@dataclass(frozen=True)
class _Kind:
    """How one kind of resource is listed; `step` is one whose leases are of this kind."""

    step: Step
    noun: str
    operation: str
    members: str
    prefix: str
    ending: str
    """The command of the AWS CLI that ends it, without the name."""
    running_only: bool = False

    @property
    def kind(self) -> str:
        return RESOURCES[self.step].kind


_KINDS: Final = (
    _Kind("endpoint", "endpoint", "list_endpoints", "Endpoints", "Endpoint", "delete-endpoint --endpoint-name"),
    _Kind(
        "tuning",
        "tuning job",
        "list_hyper_parameter_tuning_jobs",
        "HyperParameterTuningJobSummaries",
        "HyperParameterTuningJob",
        "stop-hyper-parameter-tuning-job --hyper-parameter-tuning-job-name",
        running_only=True,
    ),
    _Kind(
        "training",
        "training job",
        "list_training_jobs",
        "TrainingJobSummaries",
        "TrainingJob",
        "stop-training-job --training-job-name",
        running_only=True,
    ),
    _Kind(
        "transform",
        "transform job",
        "list_transform_jobs",
        "TransformJobSummaries",
        "TransformJob",
        "stop-transform-job --transform-job-name",
        running_only=True,
    ),
    _Kind(
        "endpoint-config",
        "endpoint configuration",
        "list_endpoint_configs",
        "EndpointConfigs",
        "EndpointConfig",
        "delete-endpoint-config --endpoint-config-name",
    ),
    _Kind("model", "model", "list_models", "Models", "Model", "delete-model --model-name"),
)
"""What is paid for comes first, and each before what it uses, so that one may be deleted after the other."""

_FREE: Final = {"endpoint-config", "model"}


@dataclass(frozen=True)
class Unknown:
    """A resource that no open lease knows."""

    kind: str
    noun: str
    name: str
    arn: str
    created_at: datetime
    run_id: str | None
    """What its tag says; None: it has none."""
    ending: str
    had_lease: bool
    """A lease on it was closed, and it is there all the same."""


def unknown_resources(now: datetime) -> list[Unknown]:
    """Everything with this stack's tag that was made a while ago and that no open lease knows."""
    leased = {(RESOURCES[lease.step].kind, lease.name) for lease in ledger.open_leases()}
    found: list[Unknown] = []
    with ThreadPoolExecutor(_LOOKS_AT_ONCE, thread_name_prefix="audit") as pool:
        for kind in _KINDS:
            candidates = [one for one in _listed(kind, now) if (kind.kind, one[f"{kind.prefix}Name"]) not in leased]
            looked = pool.map(lambda one, kind=kind: _unknown(kind, one), candidates)
            found += [one for one in looked if one is not None]
    return found


def _listed(kind: _Kind, now: datetime) -> Iterator[Any]:
    asked: dict[str, Any] = {"CreationTimeBefore": now - YOUNG}
    if kind.running_only:
        asked["StatusEquals"] = "InProgress"
    pages = aws.sagemaker().get_paginator(cast(Any, kind.operation))
    for page in pages.paginate(**asked, PaginationConfig={"PageSize": 100}):
        yield from page[kind.members]


def _unknown(kind: _Kind, listed: Any) -> Unknown | None:
    """What is unknown about a listed resource; None where it is not ours, or known, or gone by now."""
    name, arn = listed[f"{kind.prefix}Name"], listed[f"{kind.prefix}Arn"]
    tags = _tags(arn)
    if tags.get(STACK_TAG) != setting("stack_name"):
        return None
    run_id = tags.get(RUN_TAG)
    names = {(kind.kind, name), *_search_of(kind, name)}
    # The index of open leases follows changes a little later; the run's own rows say what is.
    leases = ledger.leases_of(run_id) if run_id else []
    ours = [lease for lease in leases if (RESOURCES[lease.step].kind, lease.name) in names]
    if any(lease.state is not LeaseState.CLOSED for lease in ours):
        return None
    # A run may have ended since the list was read.
    presence = RESOURCES[kind.step].describe(name).presence
    if presence in (Presence.ABSENT, Presence.LEAVING) or (kind.running_only and presence is Presence.SETTLED):
        return None
    return Unknown(
        kind=kind.kind,
        noun=kind.noun,
        name=name,
        arn=arn,
        created_at=listed["CreationTime"],
        run_id=run_id,
        ending=kind.ending,
        had_lease=bool(ours),
    )


def _tags(arn: str) -> dict[str, str]:
    """The tags of a resource; none where it has gone meanwhile."""
    try:
        pages = list(aws.sagemaker().get_paginator("list_tags").paginate(ResourceArn=arn))
    except ClientError as error:
        if is_missing(error):
            return {}
        raise
    return {tag["Key"]: tag["Value"] for page in pages for tag in page["Tags"]}


def _search_of(kind: _Kind, name: str) -> set[tuple[str, str]]:
    """The search that a training job belongs to: it has its tags, and one lease is on the search and all its jobs."""
    if kind.step != "training":
        return set()
    try:
        search = aws.sagemaker().describe_training_job(TrainingJobName=name).get("TuningJobArn")
    except ClientError as error:
        if is_missing(error):
            return set()
        raise
    return {(RESOURCES["tuning"].kind, search.rpartition("/")[2])} if search else set()


def subject(found: list[Unknown]) -> str:
    """At most 100 printable ASCII characters, as SNS asks."""
    counted = "1 resource" if len(found) == 1 else f"{len(found)} resources"
    text = f"Dropmill: {counted} that no run knows of, stack {setting('stack_name')}"
    return text.encode("ascii", "replace").decode()[:100]


def message(found: list[Unknown]) -> str:
    """What was found and what to do about it, in plain words."""
    stack, region = setting("stack_name"), setting("aws_region")
    paid = sum(one.kind not in _FREE for one in found)
    counted = "1 of them costs" if paid == 1 else f"{paid} of them cost"
    lines = [
        f"The daily audit of stack {stack} in {region} found what carries its tag {STACK_TAG}={stack}, and what no run"
        " or endpoint of it accounts for. Nothing was deleted.",
        f"{counted} money as long as it is there; models and endpoint configurations cost nothing."
        if paid
        else "These cost nothing: models and endpoint configurations are free.",
        "",
    ]
    for one in found[:_TOLD_MAX]:
        whose = f"of run {one.run_id}" if one.run_id else "of no run"
        why = "which should be gone" if one.had_lease else "which the ledger has never heard of"
        lines += [
            f"- {one.noun} {one.name}, since {one.created_at:%Y-%m-%d %H:%M} UTC, {whose}, {why}. End it with:",
            f"  aws sagemaker {one.ending} {one.name} --region {region}",
        ]
    if len(found) > _TOLD_MAX:
        lines.append(f"- and {len(found) - _TOLD_MAX} more; the next audit tells of them when these are gone")
    lines += [
        "",
        "If one is yours and should stay, take the tag off it, and it is not told of again:",
        f"  aws sagemaker delete-tags --resource-arn <ARN> --tag-keys {STACK_TAG} --region {region}",
    ]
    return "\n".join(lines)
