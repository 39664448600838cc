"""The one port: an HTTP server, test hooks on API calls, and the way to moto or to our own SageMaker."""

import contextlib
import functools
import ipaddress
import json
import logging
import re
import socket
import socketserver
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from io import BytesIO
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, unquote
from xml.sax.saxutils import escape

from moto.moto_server import werkzeug_app
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app

from localaws import limits
from localaws.access import Access
from localaws.faults import Faults, Refused, s3_operation, xml_error
from localaws.identities import USER
from localaws.limits import OverLimit

LOG = logging.getLogger(__name__)

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
WsgiApp = Callable[[Environ, StartResponse], Iterable[bytes]]

_SCOPE = re.compile(r"Credential=[^/]*/\d+/([^/]+)/([^/]+)/aws4_request")
_INVOKE = re.compile(r"/2015-03-31/functions/[^/]+/invocations/?")
_NAMES = {"localhost", "host.docker.internal"}
_CLOSE_SECONDS = 2.0
_MAX_DRAIN_BYTES = 16 * 1024 * 1024


class CallError(Exception):
    """What a hook raises to make the call fail: an error as the service would answer it."""

    def __init__(self, code: str, message: str = "", *, status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status


@dataclass(frozen=True)
class Call:
    """One call of an AWS API, such as service `sagemaker`, operation `CreateTrainingJob`."""

    service: str
    operation: str
    path: str
    body: bytes

    @property
    def request(self) -> dict[str, Any]:
        """The request's parameters, for services that take JSON.

        Raises ValueError for others.
        """
        parsed: dict[str, Any] = json.loads(self.body or b"{}")
        return parsed


@dataclass(eq=False)
class Hook:
    """A function that runs at an API call, until it is removed (or its `with` block ends)."""

    remove: Callable[[], None]
    calls: list[Call] = field(default_factory=list)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()


class Hooks:
    """Functions that tests hang on API calls, by `<service>.<Operation>`: `sagemaker.CreateTrainingJob`,
    `dynamodb.UpdateItem`, `lambda.Invoke`. The service is its signing name.

    A function runs on the thread that serves the call, so it may block, and the caller waits. `before` runs instead of
    nothing and may raise CallError, which is answered instead of the call; `after` runs when the call has been
    executed and before the caller gets the answer, which CallError replaces.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._before: dict[str, list[tuple[Hook, Callable[[Call], None]]]] = {}
        self._after: dict[str, list[tuple[Hook, Callable[[Call], None]]]] = {}

    def before(self, operation: str, function: Callable[[Call], None]) -> Hook:
        return self._add(self._before, operation, function)

    def after(self, operation: str, function: Callable[[Call], None]) -> Hook:
        return self._add(self._after, operation, function)

    def _add(
        self,
        hooks: dict[str, list[tuple[Hook, Callable[[Call], None]]]],
        operation: str,
        function: Callable[[Call], None],
    ) -> Hook:
        def remove() -> None:
            with self._lock:
                hooks[operation] = [entry for entry in hooks.get(operation, []) if entry[0] is not hook]
                if not hooks[operation]:
                    del hooks[operation]

        hook = Hook(remove)
        with self._lock:
            hooks.setdefault(operation, []).append((hook, function))
        return hook

    def __bool__(self) -> bool:
        return bool(self._before or self._after)

    def run_before(self, call: Call) -> None:
        self._run(self._before, call)

    def run_after(self, call: Call) -> None:
        self._run(self._after, call)

    def _run(self, hooks: dict[str, list[tuple[Hook, Callable[[Call], None]]]], call: Call) -> None:
        with self._lock:
            found = list(hooks.get(f"{call.service}.{call.operation}", []))
        for hook, function in found:
            hook.calls.append(call)
            function(call)


class Application(DomainDispatcherApplication):
    """Everything behind the port: requests signed for `sagemaker` go to our own, all others to moto.

    `prepare(service)` is called before moto's part for that service is first used.
    """

    def __init__(
        self,
        *,
        sagemaker: WsgiApp,
        hooks: Hooks,
        prepare: Callable[[str], None],
        faults: Faults | None = None,
        access: Access | None = None,
    ) -> None:
        def create_app(service: Any) -> Any:
            prepare(str(service))
            # Otherwise any page in this machine's browser may read what is here.
            vars(werkzeug_app)["DISABLE_GLOBAL_CORS"] = True
            return create_backend_app(service)

        super().__init__(create_app)
        self._sagemaker = sagemaker
        self._hooks = hooks
        self._faults = Faults() if faults is None else faults  # one without rules is false
        self._access = access
        # moto lists its own folder to answer this, twice for each request.
        self._backend_for_host = functools.lru_cache(maxsize=256)(super().get_backend_for_host)

    def get_backend_for_host(self, host: str | None) -> Any:
        return self._backend_for_host(host)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if not _trusted_host(environ.get("HTTP_HOST", "")):
            # A web page may make a browser send requests here under a name that resolves to this machine.
            return _answer_json(
                start_response, 403, "AccessDenied", "this cloud answers to addresses and localhost only"
            )
        if environ.get("PATH_INFO", "").startswith("/moto-api"):
            return _answer_json(start_response, 404, "NotFound", "moto's own control interface isn't served")
        scope = _SCOPE.search(environ.get("HTTP_AUTHORIZATION", ""))
        service = scope.group(2).lower() if scope else ""
        if not service:
            return self._execute(service, environ, start_response)
        if self._access is None:
            return self._execute_signed(service, environ, start_response)
        return self._access.serve(service, environ, start_response, self._execute_signed)

    def _execute_signed(self, service: str, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if not (self._hooks or self._faults):
            return self._execute(service, environ, start_response)
        return self._execute_with_hooks(service, environ, start_response)

    def _execute(self, service: str, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if service == "sagemaker":
            return self._sagemaker(environ, start_response)
        try:
            _check_limits(service, environ)
        except OverLimit as error:
            return _answer_refusal(environ, start_response, service, Refused(error.code, error.message, error.status))
        try:
            answer: Iterable[bytes] = super().__call__(environ, start_response)
        except NotImplementedError as error:
            return _not_served(environ, start_response, service, str(error))
        return answer

    def _execute_with_hooks(self, service: str, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        body = environ["wsgi.input"].read() if _has_body(environ) else b""
        environ["wsgi.input"] = BytesIO(body)
        environ["CONTENT_LENGTH"] = str(len(body))
        environ.pop("HTTP_TRANSFER_ENCODING", None)
        call = Call(service, _operation(service, environ, body), environ.get("PATH_INFO", ""), body)
        held: list[Any] = []
        after: Callable[[], None] | None = None
        try:
            if self._faults:
                after = self._meet_faults(call, environ)
            self._hooks.run_before(call)
            answer = self._execute(service, environ, lambda *arguments: held.append(arguments))
            try:
                chunks = list(answer)
            finally:
                close = getattr(answer, "close", None)
                if close is not None:
                    close()
            self._hooks.run_after(call)
            if after is not None:
                after()
        except CallError as error:
            return _answer_json(start_response, error.status, error.code, error.message)
        except Refused as error:
            return _answer_refusal(environ, start_response, service, error)
        start_response(*held[-1])
        return chunks

    def _meet_faults(self, call: Call, environ: Environ) -> Callable[[], None] | None:
        query = environ.get("QUERY_STRING", "")
        operation = call.operation
        if call.service == "s3":
            operation = s3_operation(environ["REQUEST_METHOD"], call.path, query)
        return self._faults.before_call(
            f"{call.service}:{operation}",
            lambda: b"\n".join([call.path.encode(), unquote(query).encode(), call.body]),
            self._caller(environ),
        )

    def _caller(self, environ: Environ) -> str:
        """`user`, or such as `lambda:<function>`."""
        return (self._access.identify(environ) if self._access is not None else USER).caller


def _check_limits(service: str, environ: Environ) -> None:
    """Raises OverLimit for what AWS would refuse and moto doesn't."""
    body = b""
    if limits.reads_body(service, environ) and _has_body(environ):
        body = environ["wsgi.input"].read()
        environ["wsgi.input"] = BytesIO(body)
        environ["CONTENT_LENGTH"] = str(len(body))
        environ.pop("HTTP_TRANSFER_ENCODING", None)
    limits.check(service, environ, body)


def _answer_refusal(environ: Environ, start_response: StartResponse, service: str, error: Refused) -> list[bytes]:
    """An error in the form in which the service's clients read errors."""
    asked_in_words = environ.get("CONTENT_TYPE", "").startswith("application/x-www-form-urlencoded")
    if service != "s3" and not asked_in_words:
        return _answer_json(start_response, error.status, error.code, error.message)
    body = b"" if environ["REQUEST_METHOD"] == "HEAD" else xml_error(service, error.code, error.message)
    request_id = str(uuid.uuid4())
    headers = [
        ("Content-Type", "text/xml"),
        ("Content-Length", str(len(body))),
        ("x-amzn-RequestId", request_id),
        ("x-amz-request-id", request_id),
    ]
    start_response(f"{error.status} {error.code}", headers)
    return [body]


def _has_body(environ: Environ) -> bool:
    return bool(environ.get("CONTENT_LENGTH")) or "HTTP_TRANSFER_ENCODING" in environ


def _operation(service: str, environ: Environ, body: bytes) -> str:
    if target := environ.get("HTTP_X_AMZ_TARGET"):
        return str(target).rsplit(".", 1)[-1]
    path = environ.get("PATH_INFO", "")
    if service == "lambda" and _INVOKE.fullmatch(path):
        return "Invoke"
    if service == "sagemaker" and path.endswith("/invocations"):
        return "InvokeEndpoint"
    if environ.get("CONTENT_TYPE", "").startswith("application/x-www-form-urlencoded"):
        return parse_qs(body.decode("utf-8", "replace")).get("Action", [""])[0]
    return f"{environ['REQUEST_METHOD']} {path}"


def _trusted_host(host: str) -> bool:
    name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
    name = name.strip("[]").lower()
    if not name or name in _NAMES or name.endswith((".localhost", ".amazonaws.com", ".amazonaws.com.cn")):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        # A container calls by the name of another one on its own network: one word, which no web page can have.
        return "." not in name
    return True


def _answer_json(start_response: StartResponse, status: int, code: str, message: str) -> list[bytes]:
    body = json.dumps({"__type": code, "message": message}).encode()
    headers = [
        ("Content-Type", "application/x-amz-json-1.1"),
        ("Content-Length", str(len(body))),
        ("x-amzn-ErrorType", code),
        ("x-amzn-RequestId", str(uuid.uuid4())),
    ]
    start_response(f"{status} {code}", headers)
    return [body]


def _not_served(environ: Environ, start_response: StartResponse, service: str, reason: str) -> list[bytes]:
    """Say that moto doesn't know an operation, in the form in which the service's clients read errors."""
    message = f"{service} doesn't serve this here: {reason}"
    if environ.get("HTTP_X_AMZ_TARGET"):
        return _answer_json(start_response, 501, "UnknownOperationException", message)
    error = f"<Error><Code>UnknownOperationException</Code><Message>{escape(message)}</Message></Error>"
    body = f"<ErrorResponse>{error}</ErrorResponse>".encode()
    start_response("501 Not Implemented", [("Content-Type", "text/xml"), ("Content-Length", str(len(body)))])
    return [body]


class _Body:
    """A request's body, which ends where its Content-Length says, so that the next request can follow it.

    Raises ConnectionError where the client went away before it had sent all: half a request must not be carried out.
    """

    def __init__(self, stream: Any, size: int) -> None:
        self._stream = stream
        self.left = size

    def read(self, size: int | None = -1) -> bytes:
        wanted = self.left if size is None or size < 0 else min(size, self.left)
        data: bytes = self._stream.read(wanted) if wanted else b""
        if len(data) < wanted:
            raise ConnectionError("the client went away in the middle of a request")
        self.left -= len(data)
        return data

    def readline(self, size: int | None = -1) -> bytes:
        wanted = self.left if size is None or size < 0 else min(size, self.left)
        data: bytes = self._stream.readline(wanted) if wanted else b""
        if wanted and not data:
            raise ConnectionError("the client went away in the middle of a request")
        self.left -= len(data)
        return data

    def __iter__(self) -> Any:
        return iter(self.readline, b"")


class _Handler(MotoRequestHandler):
    """werkzeug's handler, kept alive between requests: clients of AWS make many small ones."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 64 * 1024

    def make_environ(self) -> Environ:
        environ: Environ = super().make_environ()
        if not environ.get("wsgi.input_terminated"):
            environ["wsgi.input"] = _Body(self.rfile, int(environ.get("CONTENT_LENGTH") or 0))
            environ["wsgi.input_terminated"] = True
        return environ

    def run_wsgi(self) -> None:
        if self.headers.get("Expect", "").lower().strip() == "100-continue":
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.wfile.flush()
        try:
            self.environ = environ = self.make_environ()
        except ValueError:
            self.close_connection = True
            self.send_error(400)
            return
        body = environ["wsgi.input"]
        held: list[tuple[str, list[tuple[str, str]]]] = []
        try:
            app: WsgiApp = self.server.app
            answer = app(environ, lambda status, headers, _=None: held.append((status, headers)))
            self._send(answer, held)
        except (ConnectionError, TimeoutError):
            self.close_connection = True
            return
        except Exception:
            LOG.exception("an error while answering %s %s", self.command, self.path.partition("?")[0])
            self.close_connection = True
            return
        # What the application left unread stands before the next request.
        drained = 0
        try:
            while unread := body.read(1024 * 1024):
                drained += len(unread)
                if drained > _MAX_DRAIN_BYTES:
                    self.close_connection = True
                    return
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def _send(self, answer: Iterable[bytes], held: list[tuple[str, list[tuple[str, str]]]]) -> None:
        try:
            chunks = iter(answer)
            first = next(chunks, b"")
            status, headers = held[-1]
            code = int(status.split(" ", 1)[0])
            names = {name.lower() for name, _ in headers}
            bodiless = self.command == "HEAD" or code in {204, 304} or code < 200
            rest = [] if bodiless else list(chunks) if "content-length" not in names else chunks
            self.send_response(code, status.partition(" ")[2] or None)
            for name, value in headers:
                if name.lower() not in {"connection", "transfer-encoding"}:
                    self.send_header(name, value)
            if "content-length" not in names and not bodiless:
                self.send_header("Content-Length", str(len(first) + sum(map(len, rest))))
            if self.close_connection:
                self.send_header("Connection", "close")
            self.end_headers()
            if not bodiless:
                self.wfile.write(first)
                for chunk in rest:
                    self.wfile.write(chunk)
            self.wfile.flush()
        finally:
            close = getattr(answer, "close", None)
            if close is not None:
                close()

    def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002, ARG002  # werkzeug's signature
        LOG.debug(message.rstrip().replace("%%", "%"), *args)


class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """A threaded HTTP server for one WSGI application; `close` also ends the connections that are kept alive."""

    allow_reuse_address = True
    request_queue_size = 256
    # What werkzeug's handler asks its server about.
    ssl_context = None
    multithread = True
    multiprocess = False
    passthrough_errors = False
    _server_version = "localaws"
    app: WsgiApp

    def __init__(self, host: str, port: int) -> None:
        """Bind the address; `serve` starts to answer.

        Raises OSError if the address is taken.
        """
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Handler)
        self._connections: dict[threading.Thread, socket.socket] = {}
        self._thread = threading.Thread(
            target=self.serve_forever, kwargs={"poll_interval": 0.05}, name="http", daemon=True
        )

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def serve(self, app: WsgiApp) -> None:
        self.app = app
        self._thread.start()

    def close(self) -> None:
        if self._thread.is_alive():
            self.shutdown()
            self._thread.join()
        self.server_close()
        # New connections come from the thread that has just ended, so nobody changes this any more.
        for connection in self._connections.values():
            with contextlib.suppress(OSError):  # the client has closed it already
                connection.shutdown(socket.SHUT_RDWR)
        deadline = time.monotonic() + _CLOSE_SECONDS
        for thread in self._connections:
            thread.join(max(0, deadline - time.monotonic()))

    def process_request(self, request: Any, client_address: Any) -> None:
        for ended in [thread for thread in self._connections if not thread.is_alive()]:
            del self._connections[ended]
        thread = threading.Thread(
            target=self.process_request_thread, args=(request, client_address), name="http-connection", daemon=True
        )
        self._connections[thread] = request
        thread.start()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002  # socketserver's signature
        error = sys.exc_info()[1]
        if not isinstance(error, ConnectionError | TimeoutError):
            LOG.error("an error on a connection", exc_info=error)
