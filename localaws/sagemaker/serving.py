"""Programs that serve a model, as endpoints and transform jobs start them."""

import contextlib
import http.client
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from localaws.sagemaker.container import Container, Host, environment
from localaws.sagemaker.errors import Failure
from localaws.sagemaker.logs import LogShipper
from localaws.sagemaker.programs import Programs, repository
from localaws.sagemaker.resources import Document
from localaws.sagemaker.storage import Clients, fetch_model

HEALTH_SECONDS = 240
"""SageMaker gives a container four minutes to answer /ping."""
PING_SECONDS = 2
PING_PAUSE = 0.02
STOP_GRACE = 1.0


@dataclass(eq=False)
class Server:
    """One running program that serves a model; `name` is its variant's or job's."""

    name: str
    port: int
    container: Container
    root: Path
    log_name: str


class Unhealthy(Exception):
    """A program didn't answer /ping in time, or ended first."""


def with_role(model: Document) -> Document:
    """Return the container definition of a model as DescribeModel shows it, with the model's execution role."""
    container = model.get("PrimaryContainer") or model["Containers"][0]
    return {**container, "ExecutionRoleArn": model["ExecutionRoleArn"]}


class Serving:
    """Starts and ends the programs behind models."""

    def __init__(self, host: Host, clients: Clients, logs: LogShipper, programs: Programs) -> None:
        self._host = host
        self._clients = clients
        self._logs = logs
        self._programs = programs

    def start(
        self,
        name: str,
        region: str,
        container: Mapping[str, Any],
        log_group: str,
        log_name: Callable[[int], str],
        *,
        whose: str,
        asked: Mapping[str, str],
        own: Mapping[str, str],
    ) -> Server:
        """Unpack a model and start its program.

        `container` is what `with_role` gives; `log_name` makes a stream's name of the port; `whose` says in
        failures what the image belongs to; `asked` and `own` are the environment from the request and from us. Raises
        Failure.
        """
        image, role = container["Image"], container["ExecutionRoleArn"]
        try:
            argv = self._programs.command(repository(image), "serve")
        except LookupError:
            raise Failure(
                f"ClientError: Cannot pull the image {image} of {whose}: the embedded SageMaker has no algorithm "
                f"{repository(image)!r}."
            ) from None
        root = self._host.root(name)
        port = 0
        try:
            fetch_model(self._clients.s3(region, role), container["ModelDataUrl"], root / "model")
            port = self._host.take_port()
            stream = self._logs.stream(region, log_group, log_name(port), role)
            env = environment(
                {**container.get("Environment", {}), **asked},
                {**own, "SAGEMAKER_BIND_TO_PORT": str(port), "AWS_REGION": region},
            )
            try:
                program = Container(self._host, argv, root, env, stream.write)
            except OSError as error:
                raise Failure(f"InternalServerError: {argv[0]} can't be started: {error.strerror}") from error
        except BaseException:
            self._host.remove(root)
            self._host.give_back_port(port)
            raise
        return Server(name, port, program, root, log_name(port))

    def wait_healthy(self, server: Server, limit: float, abandoned: threading.Event) -> None:
        """Ask for /ping until it answers 200, or somebody gives up. Raises Unhealthy."""
        deadline = time.monotonic() + limit
        while not _ping(server.port, min(PING_SECONDS, limit)):
            if abandoned.is_set():
                return
            ended = server.container.ended.wait(PING_PAUSE)
            if ended or time.monotonic() > deadline:
                self._logs.flush()
                raise Unhealthy(f" It ended with exit code {server.container.code}." if ended else "")

    def end(self, servers: Iterable[Server]) -> None:
        """Stop programs, all at once, and wait until they have ended."""
        running = [*servers]
        for server in running:
            server.container.stop(STOP_GRACE)
        for server in running:
            server.container.ended.wait(STOP_GRACE + 5)
            self._host.give_back_port(server.port)
            self._host.remove(server.root)


def _ping(port: int, timeout: float) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    with contextlib.closing(connection):
        try:
            connection.request("GET", "/ping")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
