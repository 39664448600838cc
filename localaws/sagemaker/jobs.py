"""Training jobs that really train: fetch the channels, run the program, keep its log, metrics and model."""

import contextlib
import json
import logging
import math
import os
import queue
import re
import shutil
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from localaws.sagemaker.container import Container, Host, environment
from localaws.sagemaker.errors import (
    REASON_LIMIT,
    Failure,
    ResourceInUse,
    ResourceLimitExceeded,
    ValidationException,
)
from localaws.sagemaker.gates import Gates
from localaws.sagemaker.instances import check_volume_key
from localaws.sagemaker.logs import LogShipper, LogStream, Measured
from localaws.sagemaker.programs import Programs, repository
from localaws.sagemaker.resources import Document, Resource, Store, arn, now, tag_map
from localaws.sagemaker.storage import GIB, Clients, download_channel, upload_folder

_log = logging.getLogger(__name__)

JOBS_AT_ONCE = 64
INSTANCES_AT_ONCE = 20
STOP_GRACE = 1.5
"""Seconds from SIGTERM to SIGKILL. SageMaker gives 120; a laptop's user, and a test, won't wait for that."""
DEFAULT_RUNTIME = 86_400
RUNTIME_AT_MOST = 28 * 86_400
"""https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_StoppingCondition.html"""
VOLUME_GB_AT_MOST = 16_384
"""What an EBS volume of a training instance may have."""
REGEX_LINE = 4_096
"""Characters of a line that metrics are looked for in."""
_SUMMARY = (
    "TrainingJobName",
    "TrainingJobArn",
    "CreationTime",
    "TrainingEndTime",
    "LastModifiedTime",
    "TrainingJobStatus",
    "SecondaryStatus",
)
_SWITCHES = ("EnableNetworkIsolation", "EnableInterContainerTrafficEncryption", "EnableManagedSpotTraining")
# The texts that SageMaker shows with a job's secondary statuses.
_MESSAGES = {
    "Starting": "Preparing the instances for training",
    "Downloading": "Downloading input data",
    "Training": "Training image download completed. Training in progress.",
    "Uploading": "Uploading generated training model",
    "Stopping": "Stopping the training job",
    "Stopped": "Training job stopped",
    "MaxRuntimeExceeded": "Training job exceeded MaxRuntimeInSeconds provided",
    "Completed": "Training job completed",
    "Failed": "Training job failed",
}
_CUSTOMER_FAULT = 2
"""The exit code of a program that finds fault with its input; any other but 0 is the algorithm's fault."""


@dataclass(eq=False)
class _Run:
    """What goes on behind one job; `lock` guards the containers, which a stop may meet at any moment.

    `containers` has one for each instance, the first instance's first.
    """

    job: Resource
    on_metric: Callable[[str, float], None]
    on_end: Callable[[], None]
    stopping: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)
    containers: list[Container] = field(default_factory=list)
    thread: threading.Thread | None = None
    metrics: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def container(self) -> Container | None:
        """The first instance's container, once it runs."""
        return self.containers[0] if self.containers else None


class TrainingJobs:
    """The training job operations; methods named like operations take a checked request and return its answer."""

    def __init__(
        self, store: Store, host: Host, clients: Clients, logs: LogShipper, gates: Gates, programs: Programs
    ) -> None:
        self._store = store
        self._host = host
        self._clients = clients
        self._logs = logs
        self._gates = gates
        self._programs = programs
        self._runs: dict[str, _Run] = {}
        self._closed = False

    def create(self, region: str, request: Document) -> Document:
        """CreateTrainingJob. Raises ValidationException, ResourceInUse, ResourceLimitExceeded."""
        check_request(request)
        tags = tag_map(request.get("Tags", []))
        with self._store.lock:
            if self._store.count("training-job", ("InProgress", "Stopping")) >= JOBS_AT_ONCE or self._closed:
                raise ResourceLimitExceeded(
                    f"The embedded SageMaker takes at most {JOBS_AT_ONCE} training jobs at once; wait for one to end."
                )
            return {"TrainingJobArn": self.start(region, request, tags=tags).arn}

    def start(
        self,
        region: str,
        request: Document,
        *,
        tags: Mapping[str, str],
        tuning_job: str | None = None,
        on_metric: Callable[[str, float], None] = lambda _name, _value: None,
        on_end: Callable[[], None] = lambda: None,
    ) -> Resource:
        """Start a job by a checked request, whatever its number. Raises ResourceInUse.

        `tuning_job` is the ARN of the search that it belongs to; `on_metric` hears every metric that the log shows, and
        `on_end` is called when the job has ended, both from the job's own threads.
        """
        name = request["TrainingJobName"]
        moment = now()
        document = {**dict.fromkeys(_SWITCHES, False), **request}
        document.pop("Tags", None)
        document["StoppingCondition"] = {"MaxRuntimeInSeconds": DEFAULT_RUNTIME, **request["StoppingCondition"]}
        document["AlgorithmSpecification"] = self._specification(request["AlgorithmSpecification"])
        document["OutputDataConfig"] = {"KmsKeyId": "", **request["OutputDataConfig"]}  # the SDK looks for the key
        document.update(
            TrainingJobArn=arn("training-job", name, region),
            TrainingJobStatus="InProgress",
            SecondaryStatus="Starting",
            SecondaryStatusTransitions=[
                {"Status": "Starting", "StartTime": moment, "StatusMessage": _MESSAGES["Starting"]}
            ],
            CreationTime=moment,
            LastModifiedTime=moment,
        )
        if tuning_job:
            document["TuningJobArn"] = tuning_job
        job = Resource("training-job", name, region, document, dict(tags))
        run = _Run(job, on_metric, on_end)
        with self._store.lock:
            if self._store.find("training-job", name, region):
                raise ResourceInUse(
                    "Training job names must be unique within an AWS account and region, and a training job with this "
                    f"name already exists ({job.arn})"
                )
            self._store.add(job)
            self._runs[job.arn] = run
            run.thread = threading.Thread(target=self._run, args=(run,), name=f"training job {name}", daemon=True)
            run.thread.start()
        return job

    def describe(self, region: str, request: Document) -> Document:
        """DescribeTrainingJob. Raises ValidationException for a job that doesn't exist."""
        return self._store.describe(self._find(region, request))

    def list_jobs(self, region: str, request: Document) -> Document:
        """ListTrainingJobs."""
        found, token = self._store.page("training-job", region, request, _SUMMARY)
        return {"TrainingJobSummaries": found, **({"NextToken": token} if token else {})}

    def stop(self, region: str, request: Document) -> Document:
        """StopTrainingJob; it returns at once. Raises ValidationException for a job that has ended."""
        job = self._find(region, request)
        with self._store.lock:
            status = job.document["TrainingJobStatus"]
            if status not in ("InProgress", "Stopping"):
                raise ValidationException(f"The request was rejected because the training job is in status {status}.")
        self.interrupt(job)
        return {}

    def delete(self, region: str, request: Document) -> Document:
        """DeleteTrainingJob. Raises ValidationException for a job that doesn't exist or hasn't ended."""
        job = self._find(region, request)
        with self._store.lock:
            status = job.document["TrainingJobStatus"]
            if status in ("InProgress", "Stopping"):
                raise ValidationException(f"A training job in status {status} can't be deleted; stop it first.")
            self._store.remove(job)
        return {}

    def interrupt(self, job: Resource) -> None:
        """Stop a job if it hasn't ended; returns at once."""
        with self._store.lock:
            run = self._runs.get(job.arn)
            if run is None:
                return
            if job.document["TrainingJobStatus"] == "InProgress":
                run.stopping.set()
                self._move(job, "Stopping", status="Stopping")
        self._interrupt(run)

    def close(self) -> None:
        """Stop every job and wait for the last to end."""
        with self._store.lock:
            self._closed = True
            runs = [*self._runs.values()]
        for run in runs:
            self._interrupt(run)
        for run in runs:
            if run.thread:
                run.thread.join(STOP_GRACE + 10)

    def _find(self, region: str, request: Document) -> Resource:
        job = self._store.find("training-job", request["TrainingJobName"], region)
        if job is None:
            raise ValidationException("Requested resource not found.")
        return job

    def _interrupt(self, run: _Run) -> None:
        run.stopping.set()
        self._gates.wake()
        with run.lock:
            for container in run.containers:
                container.stop(STOP_GRACE)

    def _specification(self, asked: Mapping[str, Any]) -> Document:
        """Return the AlgorithmSpecification with the metrics that SageMaker fills in for a built-in algorithm."""
        definitions = {one["Name"]: one["Regex"] for one in asked.get("MetricDefinitions", [])}
        # The service's own definitions of a built-in algorithm win over those of a request. An unknown image has
        # none; it has no program either, and the job will end saying so.
        with contextlib.suppress(LookupError):
            definitions.update(self._programs.metrics(repository(asked["TrainingImage"])))
        return {
            **asked,
            "MetricDefinitions": [{"Name": name, "Regex": regex} for name, regex in definitions.items()],
        }

    def _move(self, job: Resource, secondary: str, *, status: str | None = None, **more: Any) -> None:
        """Put a job into its next secondary status (and status), and tell the world."""
        with self._store.lock:
            moment = now()
            document = job.document
            document["SecondaryStatusTransitions"][-1].setdefault("EndTime", moment)
            last: Document = {"Status": secondary, "StartTime": moment, "StatusMessage": _MESSAGES[secondary]}
            if status in ("Completed", "Failed", "Stopped"):
                last["EndTime"] = moment
                if status == "Failed":
                    last["StatusMessage"] = f"{_MESSAGES['Failed']}: {more['FailureReason']}"[:REASON_LIMIT]
            document["SecondaryStatusTransitions"].append(last)
            document.update(more, SecondaryStatus=secondary, LastModifiedTime=moment)
            if status:
                document["TrainingJobStatus"] = status
            self._store.announce(job)

    def _advance(self, run: _Run, secondary: str) -> None:
        """Go on to the next step, unless the job is being stopped: then its status stays what the stop made it."""
        with self._store.lock:
            if not run.stopping.is_set() and run.job.document["TrainingJobStatus"] == "InProgress":
                self._move(run.job, secondary)

    def _run(self, run: _Run) -> None:
        """Take one job from Starting to its end; the body of its thread."""
        job = run.job
        try:
            secondary = self._work(run)
            status = "Completed" if secondary == "Completed" else "Stopped"
            more: Document = {}
        except Failure as failure:
            secondary = status = "Failed"
            more = {"FailureReason": failure.reason}
        except Exception:  # noqa: BLE001 - whatever it is, the job must end, and Describe must say so
            _log.exception("training job %s met a bug of the embedded SageMaker", job.name)
            secondary = status = "Failed"
            more = {"FailureReason": "InternalServerError: We encountered an internal error. Please try again."}
        with self._store.lock:
            moment = now()
            started = job.document.get("TrainingStartTime")
            if started is not None:
                seconds = max(1, math.ceil(moment - started))
                more.update(TrainingEndTime=moment, TrainingTimeInSeconds=seconds, BillableTimeInSeconds=seconds)
            if run.metrics:
                more["FinalMetricDataList"] = [
                    {"MetricName": name, "Value": value, "Timestamp": at} for name, (value, at) in run.metrics.items()
                ]
            self._move(job, secondary, status=status, **more)
            del self._runs[job.arn]
        run.on_end()

    def _work(self, run: _Run) -> str:
        """Do the job and return its last secondary status; Failure if it fails."""
        job, document = run.job, run.job.document
        self._gates.pass_through("training", job.name, run.stopping.is_set)
        if run.stopping.is_set():
            return "Stopped"
        image = document["AlgorithmSpecification"]["TrainingImage"]
        try:
            argv = self._programs.command(repository(image), "train")
        except LookupError:
            raise Failure(
                f"ClientError: Cannot pull the training image {image}: the embedded SageMaker has no algorithm "
                f"{repository(image)!r}."
            ) from None
        with self._store.lock:
            document["TrainingStartTime"] = now()
        self._advance(run, "Downloading")
        hosts = [f"algo-{number}" for number in range(1, document["ResourceConfig"]["InstanceCount"] + 1)]
        meeting = self._host.rendezvous(job.name, hosts[1:]) if len(hosts) > 1 else None
        roots = {host: self._host.root(job.name) for host in hosts}
        root = roots[hosts[0]]
        try:
            self._prepare(run, roots)
            self._advance(run, "Training")
            failed, timed_out = self._train(run, argv, roots, meeting)
            self._logs.flush()
            model, extra = root / "model", root / "output" / "data"
            stopped = run.stopping.is_set()
            if failed and not stopped and not timed_out:
                raise Failure(_reason(roots[failed] / "output" / "failure", run.containers[hosts.index(failed)].code))
            if self._closed:
                return "Stopped"  # the cloud ends, its S3 with it
            self._advance(run, "Uploading")
            output = f"{document['OutputDataConfig']['S3OutputPath'].rstrip('/')}/{job.name}/output"
            s3 = self._clients.s3(job.region, document["RoleArn"])
            if any(extra.iterdir()):
                upload_folder(s3, extra, f"{output}/output.tar.gz")
            # A job that was stopped keeps what model it had saved by then.
            if any(model.iterdir()) or not (stopped or timed_out):
                upload_folder(s3, model, f"{output}/model.tar.gz")
                with self._store.lock:
                    document["ModelArtifacts"] = {"S3ModelArtifacts": f"{output}/model.tar.gz"}
        finally:
            for folder in (*roots.values(), *([meeting] if meeting else [])):
                self._host.remove(folder)
        if run.stopping.is_set():
            return "Stopped"
        return "MaxRuntimeExceeded" if timed_out else "Completed"

    def _prepare(self, run: _Run, roots: Mapping[str, Path]) -> None:
        """Write each host's configuration and fetch its channels."""
        job, document = run.job, run.job.document
        specification = document["AlgorithmSpecification"]
        channels = document.get("InputDataConfig", [])
        described = {
            channel["ChannelName"]: {
                **({"ContentType": channel["ContentType"]} if "ContentType" in channel else {}),
                "TrainingInputMode": channel.get("InputMode", specification["TrainingInputMode"]),
                "S3DistributionType": _distribution(channel),
                "RecordWrapperType": channel.get("RecordWrapperType", "None"),
            }
            for channel in channels
        }
        s3 = self._clients.s3(job.region, document["RoleArn"])
        first = next(iter(roots.values()))
        for number, (host, root) in enumerate(roots.items()):
            hosts = {"current_host": host, "hosts": [*roots], "network_interface_name": "lo"}
            for name, content in (
                ("hyperparameters", document.get("HyperParameters", {})),
                ("inputdataconfig", described),
                ("resourceconfig", hosts),
            ):
                (root / "input" / "config" / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
            room = document["ResourceConfig"]["VolumeSizeInGB"] * GIB
            for channel in channels:
                if run.stopping.is_set():
                    return
                place = Path("input", "data", channel["ChannelName"])
                sharded = _distribution(channel) == "ShardedByS3Key"
                if number and not sharded:
                    # The same bytes as on the first host, which only programs of this job read.
                    shutil.copytree(first / place, root / place, copy_function=os.link)
                    continue
                shard = (number, len(roots)) if sharded else (0, 1)
                room -= download_channel(s3, _source(channel), root / place, room, run.stopping.is_set, shard=shard)

    def _train(
        self, run: _Run, argv: list[str], roots: Mapping[str, Path], meeting: Path | None
    ) -> tuple[str | None, bool]:
        """Run the program on each host to its end. Return the first host that failed, and whether time ran out.

        As soon as one has failed, or time runs out, the others are ended.
        """
        job, document = run.job, run.job.document
        patterns = [
            (one["Name"], re.compile(one["Regex"])) for one in document["AlgorithmSpecification"]["MetricDefinitions"]
        ]

        def on_line(stream: LogStream, line: str) -> None:
            stream.write(line)
            for name, pattern in patterns:
                if found := pattern.search(line[:REGEX_LINE]):
                    value = _number(found)
                    if value is not None:
                        run.metrics[name] = (value, now())
                        self._logs.measure(Measured(job.region, job.name, name, value, now(), document["RoleArn"]))
                        run.on_metric(name, value)

        started = document["TrainingStartTime"]
        ended: queue.SimpleQueue[str] = queue.SimpleQueue()
        with run.lock:
            if run.stopping.is_set():
                return None, False
            for host, root in roots.items():
                own = {
                    "TRAINING_JOB_NAME": job.name,
                    "TRAINING_JOB_ARN": job.arn,
                    "AWS_REGION": job.region,
                    "SAGEMAKER_METRICS_DIRECTORY": str(root / "output" / "metrics" / "sagemaker"),
                    **({"SAGEMAKER_HOSTS_DIR": str(meeting)} if meeting else {}),
                }
                stream = self._logs.stream(
                    job.region,
                    "/aws/sagemaker/TrainingJobs",
                    f"{job.name}/{host}-{int(started)}",
                    document["RoleArn"],
                )
                try:
                    container = Container(
                        self._host,
                        argv,
                        root,
                        environment(document.get("Environment", {}), own),
                        partial(on_line, stream),
                        partial(ended.put, host),
                    )
                except OSError as error:
                    for other in run.containers:
                        other.stop(0)
                        other.ended.wait()
                    raise Failure(f"InternalServerError: {argv[0]} can't be started: {error.strerror}") from error
                run.containers.append(container)
        containers = dict(zip(roots, run.containers, strict=True))
        failed, timed_out = None, False
        for _ in containers:
            limit = max(document["StoppingCondition"]["MaxRuntimeInSeconds"] - (now() - started), 0)
            try:
                host = ended.get(timeout=None if timed_out else limit)
            except queue.Empty:
                timed_out = True
                self._end_all(containers.values())
                host = ended.get()
            if containers[host].code != 0 and failed is None:
                failed = host
                self._end_all(containers.values())
        return failed, timed_out

    @staticmethod
    def _end_all(containers: Iterable[Container]) -> None:
        for container in containers:
            container.stop(STOP_GRACE)


def _source(channel: Mapping[str, Any]) -> Mapping[str, Any]:
    source: Mapping[str, Any] = channel["DataSource"]["S3DataSource"]
    return source


def _distribution(channel: Mapping[str, Any]) -> str:
    return str(_source(channel).get("S3DataDistributionType", "FullyReplicated"))


def _number(found: re.Match[str]) -> float | None:
    """Return a metric's value: the first group, if it is a finite number."""
    try:
        value = float(found.group(1))
    except (IndexError, TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def _reason(failure: Path, code: int | None) -> str:
    """Return why a program failed, from what it wrote to its failure file and its exit code."""
    try:
        with failure.open(encoding="utf-8", errors="replace") as file:
            said = file.read(REASON_LIMIT).strip()
    except OSError:
        said = ""
    if said.startswith(("ClientError:", "AlgorithmError:", "InternalServerError:")):
        return said
    fault = "ClientError" if code == _CUSTOMER_FAULT else "AlgorithmError"
    return f"{fault}: {said or f'Exit Code: {code}'}"


def check_request(request: Mapping[str, Any]) -> None:
    """Refuse what the model's shapes allow and SageMaker doesn't, and what the embedded SageMaker can't do."""
    for member in ("AlgorithmSpecification", "ResourceConfig", "StoppingCondition"):
        if member not in request:
            place = member[:1].lower() + member[1:]
            raise ValidationException(
                f"1 validation error detected: Value at '{place}' failed to satisfy constraint: Member must not be null"
            )
    specification, resources = request["AlgorithmSpecification"], request["ResourceConfig"]
    if "TrainingImage" not in specification:
        raise _unsupported("AlgorithmSpecification without TrainingImage")
    for asked in ("ContainerEntrypoint", "ContainerArguments"):
        if asked in specification:
            raise _unsupported(asked)
    for definition in specification.get("MetricDefinitions", []):
        try:
            re.compile(definition["Regex"])
        except re.error as error:
            raise ValidationException(f"The Regex of the metric {definition['Name']!r} is invalid: {error}") from None
    for missing in ("InstanceType", "InstanceCount", "VolumeSizeInGB"):
        if missing not in resources:
            raise _unsupported(f"ResourceConfig without {missing}")
    if not 1 <= resources["InstanceCount"] <= INSTANCES_AT_ONCE:
        raise ResourceLimitExceeded(
            f"The embedded SageMaker trains on 1 to {INSTANCES_AT_ONCE} instances, not {resources['InstanceCount']}."
        )
    check_volume_key("VolumeKmsKeyId", resources.get("VolumeKmsKeyId"), [resources["InstanceType"]])
    channels = request.get("InputDataConfig", [])
    names = [channel["ChannelName"] for channel in channels]
    if len(set(names)) != len(names):
        raise ValidationException("Channel names must be unique within InputDataConfig.")
    for channel in channels:
        _check_channel(channel, specification["TrainingInputMode"])
    if resources["VolumeSizeInGB"] > VOLUME_GB_AT_MOST:
        raise ValidationException(f"VolumeSizeInGB must be at most {VOLUME_GB_AT_MOST}.")
    stopping = request["StoppingCondition"]
    if stopping.get("MaxRuntimeInSeconds", 0) > RUNTIME_AT_MOST:
        raise ValidationException(f"MaxRuntimeInSeconds must be at most {RUNTIME_AT_MOST}.")
    wait = stopping.get("MaxWaitTimeInSeconds")
    if request.get("EnableManagedSpotTraining"):
        if wait is None or wait < stopping.get("MaxRuntimeInSeconds", DEFAULT_RUNTIME):
            raise ValidationException(
                "Invalid MaxWaitTimeInSeconds. It must be present and be greater than or equal to MaxRuntimeInSeconds "
                "when EnableManagedSpotTraining is true."
            )
    elif wait is not None:
        raise ValidationException("MaxWaitTimeInSeconds is allowed only when EnableManagedSpotTraining is true.")


def _check_channel(channel: Mapping[str, Any], default_mode: str) -> None:
    name = channel["ChannelName"]
    if name in (".", ".."):
        raise ValidationException(f"The channel name {name!r} is not a folder's name.")
    if "S3DataSource" not in channel["DataSource"]:
        raise _unsupported(f"the data source of the channel {name!r}, which is not S3DataSource,")
    if channel.get("InputMode", default_mode) == "Pipe":
        raise _unsupported("TrainingInputMode Pipe")
    if channel.get("CompressionType", "None") != "None":
        raise _unsupported("a compressed channel")
    if channel.get("RecordWrapperType", "None") != "None":
        raise _unsupported("RecordWrapperType RecordIO")
    source = _source(channel)
    if source["S3DataType"] not in ("S3Prefix", "ManifestFile"):
        raise _unsupported(f"S3DataType {source['S3DataType']}")


def _unsupported(what: str) -> ValidationException:
    return ValidationException(f"{what} is not supported by the embedded SageMaker.")
