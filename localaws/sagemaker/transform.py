"""Transform jobs: every object's records through a model, each object's answers in an object of their own."""

import contextlib
import gzip
import http.client
import json
import logging
import shutil
import threading
import zlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from localaws.sagemaker import serving
from localaws.sagemaker.container import Host
from localaws.sagemaker.errors import Failure, ResourceInUse, ResourceLimitExceeded, ValidationException
from localaws.sagemaker.gates import Gates
from localaws.sagemaker.instances import check_volume_key
from localaws.sagemaker.logs import LogShipper, LogStream
from localaws.sagemaker.programs import Programs
from localaws.sagemaker.records import BadRecord, Processing, batches, media_type, payload, read_processing, split
from localaws.sagemaker.resources import Document, Resource, Store, arn, now, tag_map
from localaws.sagemaker.serving import Server, Serving, Unhealthy, with_role
from localaws.sagemaker.storage import Clients, fetch_object, find_objects, put_file

_log = logging.getLogger(__name__)

KIND = "transform-job"
GROUP = "/aws/sagemaker/TransformJobs"
JOBS_AT_ONCE = 20
INSTANCES_AT_MOST = 20
MEGABYTE = 1024**2
DEFAULT_PAYLOAD_MB = 6
PAYLOAD_LIMIT_MB = 100
DEFAULT_TIMEOUT = 600
DEFAULT_RETRIES = 3
ANSWER_BYTES = 256 * MEGABYTE
PARAMETERS_BYTES = 65_536
_DEFAULT_TYPE = "application/octet-stream"
_SHOWN = 512

_Object = tuple[str, str, str, int]


@dataclass(eq=False)
class _Run:
    """What goes on behind one job."""

    job: Resource
    container: Document
    processing: Processing
    stopping: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)
    servers: list[Server] = field(default_factory=list)
    thread: threading.Thread | None = None
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Limits:
    """How requests are made, by the job's own wish, else the container's, else SageMaker's defaults."""

    concurrent: int
    single: bool
    payload: int


class _Stopped(Exception):
    """The job is being stopped."""


class TransformJobs:
    """The transform job operations; methods named like operations take a checked request and return its answer."""

    def __init__(
        self, store: Store, host: Host, clients: Clients, logs: LogShipper, gates: Gates, programs: Programs
    ) -> None:
        self._store = store
        self._host = host
        self._clients = clients
        self._logs = logs
        self._gates = gates
        self._serving = Serving(host, clients, logs, programs)
        self._runs: dict[str, _Run] = {}
        self._closed = False

    def create(self, region: str, request: Document) -> Document:
        """CreateTransformJob. Raises ValidationException, ResourceInUse, ResourceLimitExceeded."""
        processing = _check(request)
        name, model_name = request["TransformJobName"], request["ModelName"]
        moment = now()
        document = {key: value for key, value in request.items() if key != "Tags"}
        document.update(
            TransformJobArn=arn(KIND, name, region),
            TransformJobStatus="InProgress",
            CreationTime=moment,
            LastModifiedTime=moment,
            TransformInput={"CompressionType": "None", "SplitType": "None", **request["TransformInput"]},
            TransformOutput={"AssembleWith": "None", **request["TransformOutput"]},
            DataProcessing={
                "InputFilter": "$",
                "OutputFilter": "$",
                "JoinSource": "None",
                **request.get("DataProcessing", {}),
            },
        )
        job = Resource(KIND, name, region, document, tag_map(request.get("Tags", [])))
        with self._store.lock:
            model = self._store.find("model", model_name, region)
            if model is None:
                raise ValidationException(f'Could not find model "{arn("model", model_name, region)}".')
            if self._store.find(KIND, name, region):
                raise ResourceInUse(
                    "Job name must be unique within an AWS account and region, and a job with this name already exists "
                    f"({job.arn})"
                )
            if self._store.count(KIND, ("InProgress", "Stopping")) >= JOBS_AT_ONCE or self._closed:
                raise ResourceLimitExceeded(
                    f"The embedded SageMaker runs at most {JOBS_AT_ONCE} transform jobs at once; wait for one to end."
                )
            described = self._store.describe(model)
            container = with_role(described)
            self._store.add(job)
            run = _Run(job, container, processing)
            self._runs[job.arn] = run
            run.thread = threading.Thread(target=self._run, args=(run,), name=f"transform job {name}", daemon=True)
            run.thread.start()
        return {"TransformJobArn": job.arn}

    def describe(self, region: str, request: Document) -> Document:
        """DescribeTransformJob. Raises ValidationException for a job that doesn't exist."""
        shown = self._store.describe(self._find(region, request))
        del shown["LastModifiedTime"]  # only lists show it
        return shown

    def list_jobs(self, region: str, request: Document) -> Document:
        """ListTransformJobs."""
        members = (
            "TransformJobName",
            "TransformJobArn",
            "CreationTime",
            "TransformEndTime",
            "LastModifiedTime",
            "TransformJobStatus",
            "FailureReason",
        )
        found, token = self._store.page(KIND, region, request, members)
        return {"TransformJobSummaries": found, **({"NextToken": token} if token else {})}

    def stop(self, region: str, request: Document) -> Document:
        """StopTransformJob; it returns at once. Raises ValidationException for a job that has ended."""
        job = self._find(region, request)
        with self._store.lock:
            status = job.document["TransformJobStatus"]
            if status not in ("InProgress", "Stopping"):
                raise ValidationException(f"The request was rejected because the transform job is in status {status}.")
            run = self._runs[job.arn]
            if status == "InProgress":
                run.stopping.set()
                self._move(job, "Stopping")
        self._interrupt(run)
        return {}

    def close(self) -> None:
        """Stop every job and wait for the last to end."""
        with self._store.lock:
            self._closed = True
            runs = [*self._runs.values()]
        for run in runs:
            self._interrupt(run)
        for run in runs:
            if run.thread:
                run.thread.join(serving.STOP_GRACE + 10)

    def _find(self, region: str, request: Document) -> Resource:
        name = request["TransformJobName"]
        job = self._store.find(KIND, name, region)
        if job is None:
            raise ValidationException(f'Could not find transform job "{arn(KIND, name, region)}".')
        return job

    def _interrupt(self, run: _Run) -> None:
        run.stopping.set()
        self._gates.wake()
        with run.lock:
            for server in run.servers:
                server.container.stop(serving.STOP_GRACE)

    def _move(self, job: Resource, status: str, **more: Any) -> None:
        with self._store.lock:
            job.document.update(more, TransformJobStatus=status, LastModifiedTime=now())
            self._store.announce(job)

    def _run(self, run: _Run) -> None:
        """Take one job from its creation to its end; the body of its thread."""
        job = run.job
        status, more = "Completed", {}
        try:
            self._work(run)
            if run.problems:
                raise Failure(run.problems[0])
        except _Stopped:
            status = "Stopped"
        except Failure as failure:
            status, more = "Failed", {"FailureReason": failure.reason}
        except Exception:  # noqa: BLE001 - whatever it is, the job must end, and Describe must say so
            _log.exception("transform job %s met a bug of the embedded SageMaker", job.name)
            status = "Failed"
            more = {"FailureReason": "InternalServerError: We encountered an internal error. Please try again."}
        self._serving.end(run.servers)
        self._logs.flush()
        with self._store.lock:
            if run.stopping.is_set():
                status, more = "Stopped", {}
            if "TransformStartTime" in job.document:
                more["TransformEndTime"] = now()  # type: ignore[assignment]  # a time among texts
            self._move(job, status, **more)
            del self._runs[job.arn]

    def _work(self, run: _Run) -> None:
        """Do the job; problems of single objects are kept in `run.problems`. Raises Failure, _Stopped."""
        job, document = run.job, run.job.document
        self._gates.pass_through("transform", job.name, run.stopping.is_set)
        if run.stopping.is_set():
            raise _Stopped
        s3 = self._clients.s3(job.region, run.container["ExecutionRoleArn"])
        objects = find_objects(s3, document["TransformInput"]["DataSource"]["S3DataSource"])
        with self._store.lock:
            document["TransformStartTime"] = now()
        instances = min(document["TransformResources"]["InstanceCount"], len(objects))
        for number in range(instances):
            with run.lock:
                if run.stopping.is_set():
                    raise _Stopped
                run.servers.append(self._start(run, number))
        for server in run.servers:
            try:
                self._serving.wait_healthy(server, serving.HEALTH_SECONDS, run.stopping)
            except Unhealthy as how:
                if run.stopping.is_set():
                    raise _Stopped from None
                raise Failure(
                    f"AlgorithmError: The container of the model {document['ModelName']} did not pass the ping health "
                    f"check.{how} See job logs for more information"
                ) from None
        workers = [
            threading.Thread(
                target=self._serve, args=(run, server, objects[number::instances]), name=f"{job.name} {number}"
            )
            for number, server in enumerate(run.servers)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        if run.stopping.is_set():
            raise _Stopped

    def _start(self, run: _Run, number: int) -> Server:
        job, document = run.job, run.job.document
        started = int(document["TransformStartTime"])
        own = {"SAGEMAKER_BATCH": "true"}
        for member, name in (
            ("MaxPayloadInMB", "SAGEMAKER_MAX_PAYLOAD_IN_MB"),
            ("MaxConcurrentTransforms", "SAGEMAKER_MAX_CONCURRENT_TRANSFORMS"),
        ):
            if member in document:
                own[name] = str(document[member])
        if "BatchStrategy" in document:
            strategies = {"SingleRecord": "SINGLE_RECORD", "MultiRecord": "MULTI_RECORD"}
            own["SAGEMAKER_BATCH_STRATEGY"] = strategies[document["BatchStrategy"]]
        return self._serving.start(
            job.name,
            job.region,
            run.container,
            GROUP,
            lambda port: f"{job.name}/i-{number:04x}{port:013x}-{started}",
            whose=f"the model {document['ModelName']}",
            asked=document.get("Environment", {}),
            own=own,
        )

    def _serve(self, run: _Run, server: Server, objects: Sequence[_Object]) -> None:
        """Transform one instance's objects; the body of a thread."""
        role = run.container["ExecutionRoleArn"]
        data_log = self._logs.stream(run.job.region, GROUP, f"{server.log_name}/data-log", role)
        caller = _Caller(server, run.job.document)
        try:
            limits = self._limits(run, caller)
            with ThreadPoolExecutor(limits.concurrent, thread_name_prefix=f"requests of {run.job.name}") as pool:
                for one in objects:
                    if run.stopping.is_set():
                        return
                    self._guarded(run, one, data_log, pool, caller, limits)
        finally:
            caller.close()

    def _guarded(
        self, run: _Run, one: _Object, data_log: LogStream, pool: ThreadPoolExecutor, caller: "_Caller", limits: _Limits
    ) -> None:
        """Transform one object, and keep why if it can't be."""
        bucket, key, _, _ = one
        try:
            self._transform(run, one, pool, caller, limits)
        except _Stopped:
            return
        except BadRecord as bad:
            problem = f"ClientError: s3://{bucket}/{key}: {bad}"
        except Failure as failure:
            problem = f"{failure} (s3://{bucket}/{key})"
        except Exception:  # noqa: BLE001 - one object must not take the others with it
            _log.exception("transform job %s met a bug of the embedded SageMaker", run.job.name)
            problem = "InternalServerError: We encountered an internal error. Please try again."
        else:
            return
        if not run.stopping.is_set():
            data_log.write(f"{bucket}/{key}: {problem}")
            with run.lock:
                run.problems.append(f"{problem}. See job logs for more information")

    def _limits(self, run: _Run, caller: "_Caller") -> _Limits:
        document = run.job.document
        told = caller.execution_parameters()
        payload_mb = document.get("MaxPayloadInMB") or told.get("MaxPayloadInMB") or DEFAULT_PAYLOAD_MB
        payload_mb = min(int(payload_mb), PAYLOAD_LIMIT_MB)
        concurrent = document.get("MaxConcurrentTransforms") or told.get("MaxConcurrentTransforms") or 1
        strategy = document.get("BatchStrategy") or told.get("BatchStrategy") or "MULTI_RECORD"
        return _Limits(
            max(1, min(int(concurrent), PAYLOAD_LIMIT_MB // payload_mb)),
            str(strategy).upper().startswith("SINGLE"),
            payload_mb * MEGABYTE,
        )

    def _transform(self, run: _Run, one: _Object, pool: ThreadPoolExecutor, caller: "_Caller", limits: _Limits) -> None:
        """Read one object, ask the model, and put the answers in order. Raises BadRecord, Failure, _Stopped."""
        document = run.job.document
        bucket, key, name, _ = one
        place = self._host.root(run.job.name)
        source, result = place / "tmp" / "object", place / "tmp" / "answers"
        s3 = self._clients.s3(run.job.region, run.container["ExecutionRoleArn"])
        try:
            fetch_object(s3, bucket, key, source)
            compressed = document["TransformInput"]["CompressionType"] == "Gzip"
            with _opened(source, compressed) as stream, result.open("wb") as answers:
                self._ask(run, stream, answers, pool, caller, limits)
            if run.stopping.is_set():
                raise _Stopped
            put_file(s3, result, f"{document['TransformOutput']['S3OutputPath'].rstrip('/')}/{name}.out")
        except (zlib.error, EOFError, gzip.BadGzipFile) as error:
            raise BadRecord(f"it can't be unpacked as gzip: {error}") from None
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def _ask(
        self,
        run: _Run,
        stream: BinaryIO,
        answers: IO[bytes],
        pool: ThreadPoolExecutor,
        caller: "_Caller",
        limits: _Limits,
    ) -> None:
        document, processing = run.job.document, run.processing
        kind = document["TransformInput"]["SplitType"]
        as_lines = document["TransformOutput"]["AssembleWith"] == "Line"
        # An answer in JSON is one document, which belongs to one record.
        single = limits.single or (processing.works_on_answers and processing.content_type == "application/json")

        def ask(group: list[bytes]) -> bytes:
            if run.stopping.is_set():
                raise _Stopped
            body, content_type = caller.invoke(payload([processing.filter_input(one) for one in group], kind))
            if not processing.works_on_answers:
                return body
            return processing.finish(group, body, media_type(document["TransformOutput"].get("Accept", content_type)))

        def write(body: bytes) -> None:
            answers.write(body)
            if as_lines and not body.endswith(b"\n"):
                answers.write(b"\n")

        waiting: deque[Future[bytes]] = deque()
        try:
            for group in batches(split(stream, kind, limits.payload), kind, single=single, most=limits.payload):
                waiting.append(pool.submit(ask, group))
                if len(waiting) >= limits.concurrent:
                    write(waiting.popleft().result())
            while waiting:
                write(waiting.popleft().result())
        finally:
            for future in waiting:
                future.cancel()


class _Caller:
    """Asks one program, over connections that are kept."""

    def __init__(self, server: Server, document: Mapping[str, Any]) -> None:
        asked = document.get("ModelClientConfig", {})
        self._server = server
        self._timeout = asked.get("InvocationsTimeoutInSeconds", DEFAULT_TIMEOUT)
        self._retries = asked.get("InvocationsMaxRetries", DEFAULT_RETRIES)
        self._headers = {
            "Content-Type": document["TransformInput"].get("ContentType", _DEFAULT_TYPE),
            **({"Accept": document["TransformOutput"]["Accept"]} if "Accept" in document["TransformOutput"] else {}),
        }
        self._idle: deque[http.client.HTTPConnection] = deque()

    def execution_parameters(self) -> dict[str, Any]:
        """Return what the program says of itself; most say nothing."""
        connection = self._connection()
        with contextlib.closing(connection):
            try:
                connection.request("GET", "/execution-parameters")
                response = connection.getresponse()
                told = json.loads(response.read(PARAMETERS_BYTES)) if response.status == 200 else {}
            except (OSError, http.client.HTTPException, ValueError, RecursionError):
                return {}
        return told if isinstance(told, dict) else {}

    def invoke(self, body: bytes) -> tuple[bytes, str]:
        """Return an answer and its content type. Raises BadRecord for a refusal, Failure where none comes."""
        for last in (*[False] * self._retries, True):
            try:
                connection = self._idle.pop()
            except IndexError:
                connection = self._connection()
            try:
                connection.request("POST", "/invocations", body, self._headers)
                response = connection.getresponse()
                said = response.read(ANSWER_BYTES + 1)
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                if last:
                    ended = self._server.container.code
                    why = f"the container ended with exit code {ended}" if ended is not None else type(error).__name__
                    raise Failure(f"AlgorithmError: Unable to get response from algorithm: {why}") from None
                continue
            if len(said) > ANSWER_BYTES:
                connection.close()
                raise BadRecord(f"an answer is larger than {ANSWER_BYTES} bytes")
            self._idle.append(connection)
            if 200 <= response.status < 300:
                return said, response.getheader("Content-Type") or _DEFAULT_TYPE
            if response.status < 500 or last:
                text = said.decode("utf-8", "replace")[:_SHOWN]
                told = f"Bad HTTP status received from algorithm: {response.status}: {text}"
                if response.status < 500:
                    raise BadRecord(told)
                raise Failure(f"AlgorithmError: {told}")
        raise AssertionError("the last try returns or raises")

    def close(self) -> None:
        """Close the connections."""
        while self._idle:
            self._idle.pop().close()

    def _connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=self._timeout)


@contextlib.contextmanager
def _opened(path: Path, compressed: bool) -> Iterator[BinaryIO]:
    with path.open("rb") as file:
        if not compressed:
            yield file
            return
        with gzip.GzipFile(fileobj=file, mode="rb") as plain:
            yield cast(BinaryIO, plain)


def _check(request: Mapping[str, Any]) -> Processing:
    """Refuse what SageMaker refuses, or what the embedded SageMaker can't do; return the data processing."""
    source, target = request["TransformInput"], request["TransformOutput"]
    if "S3DataSource" not in source["DataSource"]:
        raise _unsupported("a data source that is not S3DataSource")
    kind = source["DataSource"]["S3DataSource"]["S3DataType"]
    if kind not in ("S3Prefix", "ManifestFile"):
        raise _unsupported(f"S3DataType {kind}")
    splits, assembles = source.get("SplitType", "None"), target.get("AssembleWith", "None")
    if splits == "TFRecord":
        raise _unsupported("SplitType TFRecord")
    if "DataCaptureConfig" in request:
        raise _unsupported("DataCaptureConfig")
    if not target["S3OutputPath"].startswith("s3://"):
        raise ValidationException(f"The S3OutputPath {target['S3OutputPath']!r} is not an S3 address.")
    payload_mb = request.get("MaxPayloadInMB")
    if payload_mb == 0:
        raise _unsupported("MaxPayloadInMB 0 (streaming)")
    if (payload_mb or 0) > PAYLOAD_LIMIT_MB:
        raise ValidationException(f"MaxPayloadInMB must be at most {PAYLOAD_LIMIT_MB}.")
    if request.get("MaxConcurrentTransforms", 0) * (payload_mb or DEFAULT_PAYLOAD_MB) > PAYLOAD_LIMIT_MB:
        raise ValidationException(
            f"MaxConcurrentTransforms * MaxPayloadInMB must not exceed {PAYLOAD_LIMIT_MB}; MaxPayloadInMB is "
            f"{payload_mb or DEFAULT_PAYLOAD_MB}."
        )
    resources = request["TransformResources"]
    check_volume_key("VolumeKmsKeyId", resources.get("VolumeKmsKeyId"), [resources["InstanceType"]])
    instances = resources["InstanceCount"]
    if instances > INSTANCES_AT_MOST:
        raise ResourceLimitExceeded(
            f"The embedded SageMaker transforms on 1 to {INSTANCES_AT_MOST} instances, not {instances}."
        )
    content_type, accept = source.get("ContentType", ""), target.get("Accept", "")
    return read_processing(request.get("DataProcessing", {}), content_type, accept, splits, assembles)


def _unsupported(what: str) -> ValidationException:
    return ValidationException(f"{what} is not supported by the embedded SageMaker.")
