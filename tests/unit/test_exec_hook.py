"""What `dropmill exec` puts into a Python program: AWS's names lead here, and clocks that only wait go faster."""

import http.server
import importlib.util
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dropmill_cli import execute

HOOK = execute.HOOK / "sitecustomize.py"


@pytest.fixture(scope="module")
def hook() -> ModuleType:
    """The hook as a module of another name, which installs nothing in this process."""
    spec = importlib.util.spec_from_file_location("exec_hook_under_test", HOOK)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "name",
    [
        "sts.us-east-1.amazonaws.com",
        "amazonaws.com",
        "Bucket.S3.us-east-1.AmazonAWS.com.",
        "sts.cn-north-1.amazonaws.com.cn",
        "s3.dualstack.api.aws",
        b"sts.amazonaws.com",
    ],
)
def test_aws_has_these_names(hook: ModuleType, name: str | bytes) -> None:
    assert hook.is_aws(name)


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "notamazonaws.com", "amazonaws.com.example.org", "", None])
def test_aws_has_no_other_names(hook: ModuleType, name: str | None) -> None:
    assert not hook.is_aws(name)


def test_every_partition_of_botocore_is_known(hook: ModuleType) -> None:
    from botocore.loaders import Loader

    data = Loader().load_data("endpoints")
    suffixes = {
        entry["dnsSuffix"]
        for partition in data["partitions"]
        for entry in (partition, *partition["defaults"].get("variants", []))
        if "dnsSuffix" in entry
    }
    assert suffixes
    assert {suffix for suffix in suffixes if not hook.is_aws(f"sts.{suffix}")} == set()


def test_a_fast_clock_shortens_pauses_and_counts_them_in_full(
    hook: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(hook.time, "time", lambda: clock[0])
    monkeypatch.setattr(hook.time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    fast = hook.FastTime()
    fast.sleep(30)
    assert clock[0] == pytest.approx(1001.5)
    assert fast.time() == pytest.approx(1030)
    assert fast.monotonic is hook.time.monotonic


def python(code: str, path: list[Path], env: Mapping[str, str] = {}) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**kept, "PYTHONPATH": os.pathsep.join(map(str, path)), **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


RESOLVE = """
import socket
try:
    socket.getaddrinfo("sts.us-east-1.amazonaws.com", 443)
except socket.gaierror as error:
    print(error)
"""


def test_what_does_not_use_urllib3_finds_no_aws() -> None:
    done = python(RESOLVE, [execute.HOOK], {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"})
    assert "dropmill exec keeps sts.us-east-1.amazonaws.com away" in done.stdout


def test_without_an_endpoint_nothing_is_installed() -> None:
    show = "import sys; print([finder for finder in sys.meta_path if type(finder).__module__ == 'sitecustomize'])"
    assert python(show, [execute.HOOK]).stdout == "[]\n"
    assert python(show, [execute.HOOK], {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}).stdout != "[]\n"


def test_the_sitecustomize_behind_it_runs_too(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import os; os.environ['CHAINED'] = __file__\n")
    done = python("import os; print(os.environ['CHAINED'])", [execute.HOOK, tmp_path])
    assert done.stdout.strip() == str(tmp_path / "sitecustomize.py")


def test_nothing_is_imported_that_the_program_did_not_ask_for() -> None:
    done = python(
        "import sys; print(*sorted({'typing', 'urllib3', 'botocore', 'pathlib'} & set(sys.modules)))",
        [execute.HOOK],
        {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"},
    )
    bare = python("import sys; print(*sorted({'typing', 'urllib3', 'botocore', 'pathlib'} & set(sys.modules)))", [])
    assert done.stdout == bare.stdout


@pytest.fixture
def listener() -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """An HTTP server, and (Host, path) of each request that it got."""
    seen: list[tuple[str, str]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append((self.headers["Host"], self.path))
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *_arguments: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", seen
    server.shutdown()
    thread.join()
    server.server_close()


ASK = """
import urllib3
pool = urllib3.PoolManager()
for _ in range(2):
    assert pool.request("GET", "https://bucket.s3.us-east-1.amazonaws.com/key?a=1").data == b"ok"
assert pool.request("GET", "http://sts.amazonaws.com:8443/").data == b"ok"
import requests
assert requests.get("https://telemetry.s3.eu-west-1.amazonaws.com/x").text == "ok"
"""


def test_urllib3_and_requests_are_sent_to_the_endpoint(listener: tuple[str, list[tuple[str, str]]]) -> None:
    url, seen = listener
    # A proxy that nobody answers at: what is meant for AWS must not be sent to it either.
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        proxy = f"http://127.0.0.1:{closed.getsockname()[1]}"
        env = execute.environment({**os.environ, "HTTPS_PROXY": proxy, "HTTP_PROXY": proxy}, url, "us-east-1", {})
        done = python(ASK, [execute.HOOK], {**env, "PYTHONPATH": str(execute.HOOK)})
    assert done.returncode == 0, done.stderr
    assert seen == [
        ("bucket.s3.us-east-1.amazonaws.com", "/key?a=1"),
        ("bucket.s3.us-east-1.amazonaws.com", "/key?a=1"),
        ("sts.amazonaws.com", "/"),
        ("telemetry.s3.eu-west-1.amazonaws.com", "/x"),
    ]


def test_a_programs_environment_leads_to_no_other_cloud() -> None:
    base = {
        "PATH": "/bin",
        "PYTHONPATH": "/mine",
        "AWS_PROFILE": "production",
        "AWS_ENDPOINT_URL_S3": "https://s3.example.org",
        "AWS_SESSION_TOKEN": "real",
        "NO_PROXY": "intra",
    }
    made = execute.environment(base, "http://127.0.0.1:4566", "eu-west-1", {"AWS_ACCESS_KEY_ID": "here"})
    assert made["AWS_ENDPOINT_URL"] == "http://127.0.0.1:4566"
    assert made["AWS_REGION"] == made["AWS_DEFAULT_REGION"] == "eu-west-1"
    assert made["AWS_ACCESS_KEY_ID"] == "here"
    assert not {"AWS_PROFILE", "AWS_ENDPOINT_URL_S3", "AWS_SESSION_TOKEN"} & made.keys()
    assert made["PYTHONPATH"] == f"{execute.HOOK}{os.pathsep}/mine"
    assert made["NO_PROXY"].startswith("intra,127.0.0.1,")
    assert made["PATH"] == "/bin"


@pytest.mark.parametrize("url", ["https://127.0.0.1:4566", "127.0.0.1:4566", "http://", "file:///etc/passwd"])
def test_an_address_that_no_embedded_cloud_has_is_refused(url: str) -> None:
    from dropmill_cli.errors import CommandError

    with pytest.raises(CommandError, match="not the address of an embedded cloud"):
        execute.answers(url)


def test_another_server_is_no_embedded_cloud(listener: tuple[str, list[tuple[str, str]]]) -> None:
    assert not execute.answers(listener[0])


def test_where_nobody_listens_there_is_no_cloud() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        assert not execute.answers(f"http://127.0.0.1:{closed.getsockname()[1]}")
