"""The SageMaker resources that leases stand for: what each looks like now, and how it is ended.

Statuses come from the API's own spelling. SageMaker says that something is missing with a ValidationException, whose
message alone tells it from a bad request.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from botocore.exceptions import ClientError

from dropmill import aws
from dropmill.contracts import ServedModel, TrainedModel, TransformedRows
from dropmill.errors import CapacityError, DropmillError, EndpointFailed, JobFailed, JobStopped
from dropmill.naming import Step

_MISSING_WORDS: Final = ("could not find", "requested resource not found", "does not exist")
_EXISTS_CODES: Final = {"ResourceInUse"}
_EXISTS_WORDS: Final = ("already exist",)
_REFUSALS: Final = {"ValidationException", "ResourceNotFound", "ResourceInUse", "ConflictException"}


class Presence(StrEnum):
    ABSENT = "absent"
    PENDING = "pending"
    """On its way to a status that lasts."""
    SETTLED = "settled"
    """In a status that lasts: a job that has ended, a resource that serves or has failed."""
    LEAVING = "leaving"
    """Its deletion has been accepted."""


@dataclass(frozen=True)
class Observed:
    """What describe says: `answer` is what the waiting task token gets, `error` why it gets a failure instead."""

    presence: Presence
    answer: TrainedModel | TransformedRows | ServedModel | None = None
    error: DropmillError | None = None
    billable_seconds: int | None = None


@dataclass(frozen=True)
class Resource:
    """One kind of resource. `end` stops or deletes it; SageMaker may refuse that for now, which is not an error."""

    kind: str
    describe: Callable[[str], Observed]
    end: Callable[[str], None]
    ends_by_itself: bool
    """A job is over when it has ended; anything else costs until it has been deleted."""


def is_missing(error: ClientError) -> bool:
    message = aws.error_message(error).lower()
    return aws.error_code(error) in {"ValidationException", "ResourceNotFound"} and any(
        words in message for words in _MISSING_WORDS
    )


def already_exists(error: ClientError) -> bool:
    message = aws.error_message(error).lower()
    return aws.error_code(error) in _EXISTS_CODES or any(words in message for words in _EXISTS_WORDS)


def _describe(call: Callable[[], Any]) -> Any | None:
    try:
        return call()
    except ClientError as error:
        if is_missing(error):
            return None
        raise


def _tolerating(call: Callable[[], Any]) -> None:
    """Run a stop or delete; that it is too early (still Creating) or too late (gone, ended) is for describe to show."""
    try:
        call()
    except ClientError as error:
        if aws.error_code(error) not in _REFUSALS:
            raise


_CONSOLES: Final = {
    "cn-": "console.amazonaws.cn",
    "us-gov-": "console.amazonaws-us-gov.com",
    "us-iso-": "console.c2shome.ic.gov",
    "us-isob-": "console.sc2shome.sgov.gov",
    "us-isof-": "console.csphome.hci.ic.gov",
}
"""Where the console of a partition's regions is, by how their names begin; else it is console.aws.amazon.com."""


def console(region: str) -> str:
    """The host of a region's console."""
    host = next((host for start, host in _CONSOLES.items() if region.startswith(start)), "console.aws.amazon.com")
    return f"{region}.{host}"


def log_link(group: str, name: str) -> str:
    """The console's page of a resource's log streams."""
    region = aws.sagemaker().meta.region_name
    escaped = group.replace("/", "$252F")
    return (
        f"https://{console(region)}/cloudwatch/home?region={region}"
        f"#logsV2:log-groups/log-group/{escaped}$3FlogStreamNameFilter$3D{name}"
    )


TRAINING_LOGS: Final = "/aws/sagemaker/TrainingJobs"
TRANSFORM_LOGS: Final = "/aws/sagemaker/TransformJobs"


def _failure(what: str, name: str, reason: str, log: str, *, failed: type[DropmillError]) -> DropmillError:
    capacity = "CapacityError" in reason or "Unable to provision requested ML compute capacity" in reason
    advice = (
        "SageMaker had no such instance free; it is tried again, or choose another instance_type"
        if capacity
        else "see its log"
    )
    return (CapacityError if capacity else failed)(f"{what} {name} failed: {reason} ({advice}: {log})")


def _training_job(name: str) -> Observed:
    job = _describe(lambda: aws.sagemaker().describe_training_job(TrainingJobName=name))
    if job is None:
        return Observed(Presence.ABSENT)
    status, secondary = job["TrainingJobStatus"], job.get("SecondaryStatus", "")
    billable = job.get("BillableTimeInSeconds")
    log = log_link(TRAINING_LOGS, name)
    if status == "Completed":
        answer = TrainedModel(
            training_job=name,
            artifact=job["ModelArtifacts"]["S3ModelArtifacts"],
            metrics={
                metric["MetricName"]: metric["Value"]
                for metric in job.get("FinalMetricDataList", [])
                if math.isfinite(metric["Value"])
            },
            billable_seconds=billable or 0,
        )
        return Observed(Presence.SETTLED, answer=answer, billable_seconds=billable)
    if status == "Failed":
        error = _failure("training job", name, job.get("FailureReason", "no reason given"), log, failed=JobFailed)
        return Observed(Presence.SETTLED, error=error, billable_seconds=billable)
    if status == "Stopped":
        why = {
            "MaxRuntimeExceeded": "it reached training.max_runtime; raise it in the recipe, or train on less data",
            "MaxWaitTimeExceeded": "it waited for a spot instance longer than training.max_wait",
        }.get(secondary, "somebody stopped it")
        stopped = JobStopped(f"training job {name} was stopped: {why} (log: {log})")
        return Observed(Presence.SETTLED, error=stopped, billable_seconds=billable)
    return Observed(Presence.PENDING)


def _billable_seconds(tuning_job: str) -> int:
    """What the jobs of a search ran for, all together."""
    pages = aws.sagemaker().get_paginator("list_training_jobs_for_hyper_parameter_tuning_job")
    seconds = 0.0
    for page in pages.paginate(HyperParameterTuningJobName=tuning_job):
        for job in page["TrainingJobSummaries"]:
            if "TrainingStartTime" in job and "TrainingEndTime" in job:
                seconds += (job["TrainingEndTime"] - job["TrainingStartTime"]).total_seconds()
    return math.ceil(seconds)


def _tuning_job(name: str) -> Observed:
    job = _describe(lambda: aws.sagemaker().describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=name))
    if job is None:
        return Observed(Presence.ABSENT)
    status = job["HyperParameterTuningJobStatus"]
    if status not in {"Completed", "Failed", "Stopped", "DeleteFailed"}:
        return Observed(Presence.PENDING)
    billable = _billable_seconds(name)
    log = log_link(TRAINING_LOGS, name)
    best = job.get("BestTrainingJob")
    if status == "Completed" and best:
        trained = _training_job(best["TrainingJobName"]).answer
        if isinstance(trained, TrainedModel):
            answer = trained.model_copy(
                update={
                    "tuning_job": name,
                    "hyperparameters": best["TunedHyperParameters"],
                    "billable_seconds": billable,
                }
            )
            return Observed(Presence.SETTLED, answer=answer, billable_seconds=billable)
    if status == "Stopped":
        stopped = JobStopped(
            f"tuning job {name} was stopped: it reached tuning.max_runtime, or somebody stopped it (logs: {log})"
        )
        return Observed(Presence.SETTLED, error=stopped, billable_seconds=billable)
    reason = job.get("FailureReason", "none of its training jobs gave a model")
    error = _failure("tuning job", name, reason, log, failed=JobFailed)
    return Observed(Presence.SETTLED, error=error, billable_seconds=billable)


def _transform_job(name: str) -> Observed:
    job = _describe(lambda: aws.sagemaker().describe_transform_job(TransformJobName=name))
    if job is None:
        return Observed(Presence.ABSENT)
    status = job["TransformJobStatus"]
    if status not in {"Completed", "Failed", "Stopped"}:
        return Observed(Presence.PENDING)
    billable: int | None = None
    if "TransformStartTime" in job and "TransformEndTime" in job:
        billable = math.ceil((job["TransformEndTime"] - job["TransformStartTime"]).total_seconds())
    log = log_link(TRANSFORM_LOGS, name)
    error: DropmillError | None = None
    if status == "Failed":
        reason = job.get("FailureReason", "no reason given")
        error = _failure("transform job", name, reason, log, failed=JobFailed)
    elif status == "Stopped":
        error = JobStopped(f"transform job {name} was stopped: somebody stopped it (log: {log})")
    if error is not None:
        return Observed(Presence.SETTLED, error=error, billable_seconds=billable)
    output = job["TransformOutput"]["S3OutputPath"]
    answer = TransformedRows(transform_job=name, output=output, billable_seconds=billable or 0)
    return Observed(Presence.SETTLED, answer=answer, billable_seconds=billable)


def _endpoint(name: str) -> Observed:
    endpoint = _describe(lambda: aws.sagemaker().describe_endpoint(EndpointName=name))
    if endpoint is None:
        return Observed(Presence.ABSENT)
    status = endpoint["EndpointStatus"]
    if status == "InService":
        return Observed(Presence.SETTLED, answer=ServedModel(endpoint=name))
    if status in {"Failed", "OutOfService"}:
        reason = endpoint.get("FailureReason", f"status {status}, no reason given")
        log = log_link(f"/aws/sagemaker/Endpoints/{name}", "")
        return Observed(Presence.SETTLED, error=_failure("endpoint", name, reason, log, failed=EndpointFailed))
    return Observed(Presence.LEAVING if status == "Deleting" else Presence.PENDING)


def _present(call: Callable[[], Any]) -> Observed:
    return Observed(Presence.ABSENT if _describe(call) is None else Presence.SETTLED)


_TRANSFORM: Final = Resource(
    kind="transform-job",
    describe=_transform_job,
    end=lambda name: _tolerating(lambda: aws.sagemaker().stop_transform_job(TransformJobName=name)),
    ends_by_itself=True,
)

_MODEL: Final = Resource(
    kind="model",
    describe=lambda name: _present(lambda: aws.sagemaker().describe_model(ModelName=name)),
    end=lambda name: _tolerating(lambda: aws.sagemaker().delete_model(ModelName=name)),
    ends_by_itself=False,
)

RESOURCES: Final[dict[Step, Resource]] = {
    "training": Resource(
        kind="training-job",
        describe=_training_job,
        end=lambda name: _tolerating(lambda: aws.sagemaker().stop_training_job(TrainingJobName=name)),
        ends_by_itself=True,
    ),
    "tuning": Resource(
        kind="tuning-job",
        describe=_tuning_job,
        end=lambda name: _tolerating(
            lambda: aws.sagemaker().stop_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)
        ),
        ends_by_itself=True,
    ),
    "transform": _TRANSFORM,
    "champion-transform": _TRANSFORM,
    "model": _MODEL,
    "champion-model": _MODEL,
    "endpoint-config": Resource(
        kind="endpoint-config",
        describe=lambda name: _present(lambda: aws.sagemaker().describe_endpoint_config(EndpointConfigName=name)),
        end=lambda name: _tolerating(lambda: aws.sagemaker().delete_endpoint_config(EndpointConfigName=name)),
        ends_by_itself=False,
    ),
    "endpoint": Resource(
        kind="endpoint",
        describe=_endpoint,
        end=lambda name: _tolerating(lambda: aws.sagemaker().delete_endpoint(EndpointName=name)),
        ends_by_itself=False,
    ),
}

CLOSING_ORDER: Final[tuple[Step, ...]] = (
    "tuning",
    "training",
    "transform",
    "champion-transform",
    "endpoint",
    "endpoint-config",
    "model",
    "champion-model",
)
"""An endpoint goes before its configuration, a configuration before its models."""
