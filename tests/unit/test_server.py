"""The HTTP server and the hooks on API calls, with applications of the tests' own."""

import http.client
import json
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from localaws.server import Application, Call, CallError, Hooks, Server, _trusted_host

SIGNED = "AWS4-HMAC-SHA256 Credential=key/20260101/eu-west-1/sagemaker/aws4_request, SignedHeaders=host, Signature=0"


def remember(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Answers by path: how, and whether the body is read."""
    path = environ["PATH_INFO"]
    if path == "/echo":
        body = environ["wsgi.input"].read()
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
        return [body]
    if path == "/stream":
        start_response("200 OK", [])
        return iter([b"one ", b"two ", b"three"])
    if path == "/empty":
        start_response("204 NO CONTENT", [])
        return []
    if path == "/bug":
        raise RuntimeError("a bug of the application")
    start_response("404 NOT FOUND", [("Content-Length", "7")])
    return [b"nothing"]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server("127.0.0.1", 0)
    server.serve(remember)
    yield server
    server.close()


def ask(
    connection: http.client.HTTPConnection, method: str, path: str, body: Any = None, **more: Any
) -> tuple[int, bytes]:
    connection.request(method, path, body, **more)
    response = connection.getresponse()
    return response.status, response.read()


def test_one_connection_serves_many_requests_also_when_a_body_is_not_read(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.connect()
    first = connection.sock
    for _ in range(2):
        assert ask(connection, "PUT", "/unread", b"x" * 3_000_000) == (404, b"nothing")
        assert ask(connection, "POST", "/echo", b"hello") == (200, b"hello")
        assert ask(connection, "POST", "/echo", b"") == (200, b"")
        assert ask(connection, "GET", "/stream") == (200, b"one two three")
        assert ask(connection, "GET", "/empty") == (204, b"")
        assert ask(connection, "HEAD", "/stream") == (200, b"")
        chunked = iter([b"in ", b"chunks"])
        assert ask(
            connection, "POST", "/echo", chunked, encode_chunked=True, headers={"Transfer-Encoding": "chunked"}
        ) == (
            200,
            b"in chunks",
        )
    assert connection.sock is first or connection.sock is None
    connection.close()


def test_a_client_that_waits_for_leave_gets_it(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.putrequest("POST", "/echo")
    connection.putheader("Content-Length", "5")
    connection.putheader("Expect", "100-continue")
    connection.endheaders()
    assert connection.sock.recv(25).startswith(b"HTTP/1.1 100 Continue")
    connection.send(b"hello")
    assert connection.getresponse().read() == b"hello"
    connection.close()


def test_a_bug_ends_one_connection_only(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    with pytest.raises(http.client.RemoteDisconnected):
        ask(connection, "GET", "/bug")
    connection.close()
    assert ask(connection, "POST", "/echo", b"hello") == (200, b"hello")
    connection.close()


def test_closing_ends_kept_connections() -> None:
    server = Server("127.0.0.1", 0)
    server.serve(remember)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    assert ask(connection, "POST", "/echo", b"hello") == (200, b"hello")
    server.close()
    with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
        ask(connection, "POST", "/echo", b"hello")
    connection.close()


@pytest.mark.parametrize(
    ("host", "trusted"),
    [
        ("127.0.0.1:4566", True),
        ("localhost:4566", True),
        ("[::1]:4566", True),
        ("172.17.0.1:4566", True),
        ("host.docker.internal:4566", True),
        ("bucket.localhost:4566", True),
        ("bucket.s3.us-east-1.amazonaws.com", True),
        ("dropmill:4566", True),
        ("", True),
        ("evil.example:4566", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example:4566", False),
    ],
)
def test_hosts_that_a_web_page_could_use_are_refused(host: str, trusted: bool) -> None:
    assert _trusted_host(host) is trusted


class Service:
    """An application that stands for SageMaker, and a caller."""

    def __init__(self) -> None:
        self.hooks = Hooks()
        self.created: list[dict[str, Any]] = []
        self.application = Application(sagemaker=self.answer, hooks=self.hooks, prepare=lambda _: None)

    def answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        self.created.append(json.loads(environ["wsgi.input"].read()))
        start_response("200 OK", [("Content-Length", "2")])
        return [b"{}"]

    def create(self, **parameters: Any) -> tuple[str, bytes]:
        from io import BytesIO

        body = json.dumps(parameters).encode()
        environ = {
            "REQUEST_METHOD": "POST",
            "PATH_INFO": "/",
            "HTTP_HOST": "127.0.0.1",
            "HTTP_AUTHORIZATION": SIGNED,
            "HTTP_X_AMZ_TARGET": "SageMaker.CreateTrainingJob",
            "CONTENT_LENGTH": str(len(body)),
            "wsgi.input": BytesIO(body),
        }
        said: list[str] = []
        answer = b"".join(self.application(environ, lambda status, _: said.append(status)))
        return said[-1], answer


def test_a_hook_sees_the_call_before_it_is_executed_until_it_is_removed() -> None:
    service = Service()
    with service.hooks.before("sagemaker.CreateTrainingJob", lambda _: None) as hook:
        assert service.create(TrainingJobName="one") == ("200 OK", b"{}")
    service.create(TrainingJobName="two")
    assert [call.request for call in hook.calls] == [{"TrainingJobName": "one"}]
    assert [call["TrainingJobName"] for call in service.created] == ["one", "two"]
    assert not service.hooks


def test_a_hook_may_refuse_a_call_before_it_is_executed() -> None:
    service = Service()

    def refuse(call: Call) -> None:
        raise CallError("ThrottlingException", "slow down")

    with service.hooks.before("sagemaker.CreateTrainingJob", refuse):
        status, answer = service.create(TrainingJobName="one")
    assert status.startswith("400")
    assert json.loads(answer) == {"__type": "ThrottlingException", "message": "slow down"}
    assert service.created == []


def test_a_hook_may_hide_that_a_call_was_executed() -> None:
    service = Service()

    def lose(call: Call) -> None:
        assert service.created
        raise CallError("InternalFailure", status=500)

    with service.hooks.after("sagemaker.CreateTrainingJob", lose):
        status, _ = service.create(TrainingJobName="one")
    assert status.startswith("500")
    assert len(service.created) == 1


def test_a_hook_may_hold_a_call_back() -> None:
    service = Service()
    held, release = threading.Event(), threading.Event()

    def hold(call: Call) -> None:
        held.set()
        assert release.wait(10)

    with service.hooks.before("sagemaker.CreateTrainingJob", hold):
        caller = threading.Thread(target=service.create, kwargs={"TrainingJobName": "one"})
        caller.start()
        assert held.wait(10)
        assert service.created == []
        release.set()
        caller.join(10)
    assert len(service.created) == 1


def test_other_operations_pass_by_a_hook() -> None:
    service = Service()
    with service.hooks.before("sagemaker.CreateModel", lambda _: None) as hook:
        service.create(TrainingJobName="one")
    assert hook.calls == []
