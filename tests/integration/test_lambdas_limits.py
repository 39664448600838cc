"""What Lambda holds its functions to, besides their time: files, memory, calls at once. See docs/limits.md."""

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from localaws import memory, sandbox
from localaws.lambdas import Answer, LambdaError, Lambdas, Throttled

HANDLERS = '''
import os, tempfile, urllib.request
from pathlib import Path

def write(event, context):
    """Try to write to each place, and say what came of it."""
    said = {}
    places = {"tmp": Path(tempfile.gettempdir(), "file"), "code": Path(__file__).with_name("file"), "cwd": Path("file")}
    for name, path in places.items():
        try:
            path.write_text("x")
            said[name] = "written"
        except OSError as error:
            said[name] = error.strerror
    return said | {"seen": sorted(os.listdir("/tmp")), "tempdir": tempfile.gettempdir()}

def fill(event, context):
    try:
        with open("/tmp/large", "wb") as file:
            for _ in range(event["megabytes"]):
                file.write(bytes(1 << 20))
    except OSError as error:
        return error.strerror
    return "written"

def ask(event, context):
    """Wait for an answer from outside."""
    return urllib.request.urlopen(event["url"]).read().decode()
'''


def make(folder: Path, **options: Any) -> Lambdas:
    (folder / "handlers.py").write_text(HANDLERS)
    return Lambdas(
        endpoint_url="http://127.0.0.1:9",
        region="eu-west-1",
        account_id="123456789012",
        write_logs=lambda *_: None,
        deliver=lambda *_: None,
        workers_per_function=4,
        **options,
    )


@pytest.fixture(scope="module", params=["root", "user"])
def pool(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lambdas]:
    """A pool as the cloud makes it. Its code is below /tmp, which every worker has another one of."""
    if not sandbox.works(request.param):
        pytest.skip(f"no mount namespace can be made here as {request.param}")
    folder = tmp_path_factory.mktemp("code")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sandbox, "namespace_kind", lambda: request.param)
        pool = make(folder)
        for name, storage in (("write", 512), ("fill", 8)):
            pool.register(name, folder, f"handlers.{name}", 30, 128, ephemeral_storage=storage)
        yield pool
        pool.close()


def call(pool: Lambdas, name: str, event: object) -> Any:
    answer = pool.invoke(name, json.dumps(event).encode())
    assert answer.error is None, answer.payload
    return json.loads(answer.payload)


def test_code_is_read_only_and_tmp_is_the_workers_own(pool: Lambdas) -> None:
    Path("/tmp/localaws-a-file-of-the-host").touch()  # what a worker must not see
    try:
        first = call(pool, "write", {})
    finally:
        Path("/tmp/localaws-a-file-of-the-host").unlink()
    assert first["tmp"] == "written"
    assert first["code"] == first["cwd"] == "Read-only file system"
    assert "file" in first["seen"]
    assert "localaws-a-file-of-the-host" not in first["seen"]
    assert first["tempdir"] == "/tmp"
    assert not Path("/tmp/file").exists()


def test_tmp_ends_where_its_size_does(pool: Lambdas) -> None:
    assert call(pool, "fill", {"megabytes": 6}) == "written"
    assert call(pool, "fill", {"megabytes": 9}) == "No space left on device"


def test_without_namespaces_a_worker_has_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "namespace_kind", lambda: None)
    pool = make(tmp_path)
    try:
        pool.register("write", tmp_path, "handlers.write", 30, 128)
        folder = Path(call(pool, "write", {})["tempdir"])
        assert folder.name.startswith("localaws-lambda-")
        assert folder.is_dir()
    finally:
        pool.close()
    assert not folder.exists()


def test_namespaces_that_are_refused_are_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        return subprocess.CompletedProcess([], 1)

    monkeypatch.setattr(subprocess, "run", refuse)
    assert not sandbox.works("root")
    assert not sandbox.works("user")


def test_a_cgroup_that_may_not_be_entered_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    parent = memory.find_parent()
    if parent is None:
        pytest.skip("no memory cgroup can be made here")
    assert memory.find_working_parent() == parent
    before = set(parent.folder.iterdir())

    def refuse(*_: Any, **__: Any) -> Any:
        return subprocess.CompletedProcess([], 1)

    monkeypatch.setattr(subprocess, "run", refuse)
    assert memory.find_working_parent() is None
    assert set(parent.folder.glob(f"localaws-{os.getpid()}-*")) <= before


class Doors:
    """A server that lets its visitors go when the door is opened."""

    def __init__(self) -> None:
        from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

        self.inside = threading.Semaphore(0)
        self.opened = threading.Event()
        doors = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                doors.inside.release()
                doors.opened.wait(30)
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"open")

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def doors() -> Iterator[Doors]:
    doors = Doors()
    yield doors
    doors.opened.set()
    doors.server.shutdown()
    doors.server.server_close()


def test_calls_beyond_the_quotas_are_throttled(tmp_path: Path, doors: Doors) -> None:
    pool = make(tmp_path, account_concurrency=102)
    payload = json.dumps({"url": doors.url}).encode()

    def ask(name: str) -> Answer:
        return pool.invoke(name, payload)

    try:
        pool.register("some", tmp_path, "handlers.ask", 30, 128, reserved_concurrency=1)
        pool.register("none", tmp_path, "handlers.ask", 30, 128, reserved_concurrency=0)
        with pytest.raises(LambdaError, match=r"below its minimum value of \[100\]"):
            pool.register("more", tmp_path, "handlers.ask", 30, 128, reserved_concurrency=2)
        pool.register("rest", tmp_path, "handlers.ask", 30, 128)
        with pytest.raises(Throttled):
            ask("none")
        with ThreadPoolExecutor(1) as threads:
            held = threads.submit(ask, "some")
            assert doors.inside.acquire(timeout=30)
            with pytest.raises(Throttled) as refused:
                ask("some")
            assert refused.value.reason == "ReservedFunctionConcurrentInvocationLimitExceeded"
            pool.invoke_event("some", payload)
            assert not pool.wait_idle(0.3), "a throttled event waits"
            pool._account_concurrency = 1  # nothing is left for functions that reserve nothing
            with pytest.raises(Throttled) as refused:
                ask("rest")
            assert refused.value.reason == "ConcurrentInvocationLimitExceeded"
            doors.opened.set()
            assert held.result().error is None
        assert pool.wait_idle(30)
    finally:
        pool.close()
