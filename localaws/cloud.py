"""The embedded cloud: one process, one port.

    with Cloud() as cloud:
        stack = cloud.deploy(Path("template.yaml"))
        cloud.client("s3").upload_file("points.csv", stack.outputs["DropBucket"], "drops/kmeans/points.csv")

moto answers for S3, DynamoDB, SNS, SQS, Logs, CloudWatch, IAM, STS, Step Functions, EventBridge and its Scheduler, and
keeps what it knows in memory; SageMaker, Lambda workers, events and schedules are our own. Any AWS client works with
`AWS_ENDPOINT_URL` at `endpoint_url` and any credentials. Every start is a fresh, empty cloud; one runs at a time in a
process, for moto's state is the process's.
"""

import atexit
import contextlib
import errno
import ipaddress
import logging
import os
import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import boto3
from botocore.config import Config

from localaws import dynamodb, iam, lambdas, s3, stepfunctions
from localaws.clock import Clock
from localaws.faults import Faults
from localaws.identities import CALLER_HEADER, USER, Identities, current_key
from localaws.journal import Journal
from localaws.lambdas import Lambdas, LogEvents
from localaws.stacks import Stacks

if TYPE_CHECKING:
    from localaws.events import Dispatcher
    from localaws.sagemaker.app import SageMaker
    from localaws.sagemaker.programs import Programs
    from localaws.server import Hooks
    from localaws.template import Stack

ACCOUNT_ID = "123456789012"

_running = threading.Lock()


class CloudError(Exception):
    """The embedded cloud can't start."""


class Cloud:
    """An embedded cloud, between `start` and `stop` (or within a `with` block).

    `port` 0 takes a free one. With `rules=False` events reach no rule and schedules rest, for calling functions by
    hand. `programs` says what runs an algorithm's image (None: the built-in ones). Every Lambda is held to its memory,
    to read-only code and to a `/tmp` of its own, unless `hold_memory` or `isolate` is False. While it runs: `client`,
    `deploy`, `clock`, `events`, `lambdas`, `sagemaker`, `hooks`, `faults`, and the calls' `journal` if that is True.

    Calls of functions, state machines, jobs, rules and schedules are held against IAM (`localaws.iam`), as on AWS.
    """

    events: "Dispatcher"
    lambdas: Lambdas
    sagemaker: "SageMaker"
    hooks: "Hooks"
    faults: Faults
    clock: Clock

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        region: str = "us-east-1",
        *,
        rules: bool = True,
        programs: "Programs | None" = None,
        hold_memory: bool = True,
        isolate: bool = True,
        journal: bool = False,
    ) -> None:
        self.journal = Journal(recording=journal)
        self._identities = Identities()
        self._host = host
        self._port = port
        self.region = region
        self.account_id = ACCOUNT_ID
        self._rules = rules
        self._programs = programs
        self._hold_memory = hold_memory
        self._isolate = isolate
        # One session for all clients: each would parse the endpoints of all AWS again.
        self._session = boto3.Session(
            aws_access_key_id="local",
            aws_secret_access_key="local",  # noqa: S106  # made up: any credentials do
            region_name=region,
        )
        self._clients: dict[str, Any] = {}
        self._clients_lock = threading.Lock()
        self._stop = contextlib.ExitStack()
        self._running = False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def endpoint_url(self) -> str:
        """Where clients on this machine find it. Set once it has started."""
        host = self._host
        with contextlib.suppress(ValueError):
            if ipaddress.ip_address(host).is_unspecified:
                host = "::1" if ":" in host else "127.0.0.1"
        return f"http://[{host}]:{self._port}" if ":" in host else f"http://{host}:{self._port}"

    def start(self) -> None:
        """Serve.

        Raises CloudError if the address is taken or another cloud runs in this process, SeamMoved if the installed
        moto isn't the one that this package was written for.
        """
        if not _running.acquire(blocking=False):
            raise CloudError("an embedded cloud runs in this process already; stop it first")
        try:
            with contextlib.ExitStack() as stop:
                stop.callback(_running.release)
                self._start(stop)
                self._stop = stop.pop_all()
                self._running = True
                atexit.register(self.stop)
        except OSError as error:
            if error.errno not in {errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES}:
                raise
            raise CloudError(
                f"can't listen on {self._host} port {self._port}: {error.strerror}. Choose another with --host, --port"
            ) from error

    def _start(self, stop: contextlib.ExitStack) -> None:
        from localaws.server import Application, Hooks, Server

        server = Server(self._host, self._port)
        stop.callback(server.close)
        self._port = server.port
        os.environ["MOTO_PORT"] = str(server.port)
        _quieten()
        _empty_moto()

        self.clock = Clock()
        self._stacks = Stacks(
            region=self.region, account_id=self.account_id, client=self.client, lambdas=lambda: self.lambdas
        )
        stop.callback(self._stacks.close)
        from localaws.access import Access
        from localaws.actions import Where

        where = Where("aws", self.region, self.account_id, self._tags_of)
        access = Access(iam=iam.Iam(where), identities=self._identities, journal=self.journal)
        self.hooks = Hooks()
        self.faults = Faults(client=self.client)
        stop.callback(self.faults.close)
        self.lambdas = Lambdas(
            endpoint_url=self.endpoint_url,
            region=self.region,
            account_id=self.account_id,
            write_logs=_LogWriter(self).write,
            deliver=self._deliver,
            hold_memory=self._hold_memory,
            isolate=self._isolate,
            identities=self._identities,
        )
        stop.callback(self.lambdas.close)
        self.faults.kill_worker = self.lambdas.kill_at_work
        self.lambdas.faults = self.faults

        from localaws.events import Dispatcher

        self.events = Dispatcher(
            client=self.client,
            clock=self.clock,
            region=self.region,
            account_id=self.account_id,
            rules=self._rules,
            identities=self._identities,
        )
        self.events.faults = self.faults
        stop.callback(self.events.stop)

        from localaws.sagemaker.app import SageMaker

        self.sagemaker = SageMaker(
            endpoint_url=self.endpoint_url,
            emit=self.events.emit,
            programs=self._programs,
            identities=self._identities,
        )
        stop.callback(self.sagemaker.close)
        self.sagemaker.gates.faults = self.faults

        prepared: set[str] = set()

        def prepare(service: str) -> None:
            if service in prepared:
                return
            prepared.add(service)
            if service == "stepfunctions":
                stepfunctions.install()
                stepfunctions.connect(self.endpoint_url, self.events.emit, self._identities)
                stop_executions.callback(stepfunctions.connect, None, None)
                stop_executions.callback(stepfunctions.stop_all)
                stop_executions.callback(stepfunctions.connect, self.endpoint_url, None)
            elif service == "dynamodb":
                dynamodb.install()
            elif service == "s3":
                s3.install()
            elif service == "iam":
                iam.install()
            elif service == "awslambda":
                lambdas.install()
                lambdas.connect(self.lambdas)
            elif service == "cloudformation":
                self._stacks.serve()

        stop.callback(lambdas.connect, None)
        stop_executions = stop.enter_context(contextlib.ExitStack())
        _choose_backends()
        self.events.start()
        server.serve(
            Application(
                sagemaker=self.sagemaker.wsgi, hooks=self.hooks, prepare=prepare, faults=self.faults, access=access
            )
        )

    def stop(self) -> None:
        """End everything that was started: executions, workers, jobs, endpoints, threads, connections."""
        if not self._running:
            return
        self._running = False
        atexit.unregister(self.stop)
        self._stop.close()
        with self._clients_lock:
            for client in self._clients.values():
                client.close()
            self._clients.clear()

    def wait(self, ready: Callable[[], object] = lambda: None) -> None:
        """Call `ready`, and block until SIGTERM or Ctrl-C; both are caught before `ready` is called.

        Only the main thread may wait: Python delivers signals there.
        """
        ended = threading.Event()
        signals = (signal.SIGTERM, signal.SIGINT)
        before = [signal.signal(number, lambda *_: ended.set()) for number in signals]
        try:
            ready()
            ended.wait()
        finally:
            for number, handler in zip(signals, before, strict=True):
                signal.signal(number, handler)

    def client(self, service: str) -> Any:
        """A boto3 client of this cloud. Clients are made once and may be used by several threads."""
        with self._clients_lock:
            found = self._clients.get(service)
            if found is None:
                make: Any = self._session.client  # its stubs have an overload for each service, and this takes any
                found = make(
                    service,
                    endpoint_url=self.endpoint_url,
                    config=Config(
                        max_pool_connections=50, retries={"mode": "standard"}, s3={"addressing_style": "path"}
                    ),
                )
                found.meta.events.register("before-send", _name_caller)
                self._clients[service] = found
        return found

    def _tags_of(self, arn: str) -> Mapping[str, str]:
        return self.sagemaker.store.tags(arn) if ":sagemaker:" in arn else {}

    def deploy(
        self,
        template_path: Path,
        stack_name: str = "dropmill-local",
        parameters: Mapping[str, str] | None = None,
        *,
        prewarm: bool = False,
    ) -> "Stack":
        """Create the resources of a SAM template.

        With `prewarm` every function's first worker starts meanwhile, so that no first call waits for imports, at some
        60 MB of memory for each function.

        Raises what `localaws.template.deploy` raises: a template error names the resource.
        """
        from localaws.template import deploy

        self.lambdas.prewarming = prewarm
        try:
            stack = deploy(
                template_path,
                stack_name=stack_name,
                parameters=dict(parameters or {}),
                region=self.region,
                account_id=self.account_id,
                client=self.client,
                lambdas=self.lambdas,
            )
        finally:
            self.lambdas.prewarming = False
        self._stacks.add(stack)
        return stack

    def _deliver(self, arn: str, body: str, attributes: dict[str, str]) -> None:
        """Take a function's failed event to where the function wants it."""
        service = arn.split(":")[2]
        described = {name: {"DataType": "String", "StringValue": value} for name, value in attributes.items() if value}
        if service == "sqs":
            with self._identities.acting(USER):
                url = self.client("sqs").get_queue_url(QueueName=arn.rsplit(":", 1)[-1])["QueueUrl"]
            self.client("sqs").send_message(QueueUrl=url, MessageBody=body, MessageAttributes=described)
        elif service == "sns":
            self.client("sns").publish(TopicArn=arn, Message=body, MessageAttributes=described)
        elif service == "lambda":
            self.client("lambda").invoke(FunctionName=arn, InvocationType="Event", Payload=body)
        else:
            raise CloudError(f"a failed event can't go to {arn}: only SQS, SNS and Lambda are served here")


def _name_caller(request: Any, **_: Any) -> None:
    """Tell the server for whom the cloud itself calls; it would take every call for a user's."""
    if key := current_key():
        request.headers[CALLER_HEADER] = key


class _LogWriter:
    """Writes what functions print to CloudWatch Logs, making groups and streams as Lambda does."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._known: set[tuple[str, str]] = set()

    def write(self, group: str, stream: str, events: LogEvents) -> None:
        logs = self._cloud.client("logs")
        if (group, stream) not in self._known:
            with contextlib.suppress(logs.exceptions.ResourceAlreadyExistsException):
                logs.create_log_group(logGroupName=group)
            with contextlib.suppress(logs.exceptions.ResourceAlreadyExistsException):
                logs.create_log_stream(logGroupName=group, logStreamName=stream)
            self._known.add((group, stream))
        for first in range(0, len(events), 1000):
            logs.put_log_events(
                logGroupName=group,
                logStreamName=stream,
                logEvents=[{"timestamp": moment, "message": line} for moment, line in events[first : first + 1000]],
            )


def _quieten() -> None:
    # moto logs every failure of a state with its data; without a handler Python prints that to standard error.
    logger = logging.getLogger("moto")
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())


def _empty_moto() -> None:
    from moto.core.base_backend import BackendDict
    from moto.core.model_instances import reset_model_data

    BackendDict.reset()
    reset_model_data()


def _choose_backends() -> None:
    from moto.core.config import default_user_config

    default_user_config["stepfunctions"] = {"execute_state_machine": True}
    default_user_config["lambda"] = {"use_docker": False}
