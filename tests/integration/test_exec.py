"""`dropmill exec`: the program's place in the world, its end, and what it can't reach."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from dropmill_cli import execute
from localaws.cloud import Cloud

DROPMILL = [sys.executable, "-m", "dropmill_cli.main", "exec"]
SECONDS = 120

# Ends any request that leaves this machine, and says so.
GUARD = """
import ipaddress, socket, sys
def guard(event, arguments):
    if event == "socket.getaddrinfo":
        host = arguments[0]
    elif event in ("socket.connect", "socket.sendto") and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    else:
        return
    host = host.decode() if isinstance(host, bytes) else host
    if host in (None, "", "localhost"):
        return
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    if not local:
        with open(LOG, "a") as log:
            log.write(f"{event} {host}\\n")
        raise OSError(f"{event} {host}")
sys.addaudithook(guard)
"""


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    with Cloud() as running:
        yield running


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "DROPMILL_"))}
    return {**kept, **more}


def run(arguments: Sequence[str], **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*DROPMILL, *arguments],
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def test_the_program_gets_its_arguments_its_streams_and_its_exit_code(cloud: Cloud) -> None:
    code = "import sys; print(sys.argv[1:], sys.stdin.read()); print('err', file=sys.stderr); sys.exit(41)"
    done = subprocess.run(
        [*DROPMILL, "--cloud", cloud.endpoint_url, "--", sys.executable, "-c", code, "--json", "-h"],
        env=environment(),
        input="said",
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 41
    assert done.stdout == "['--json', '-h'] said\n"
    assert done.stderr.endswith("err\n")


def test_a_cloud_that_answers_at_the_environments_address_is_used(cloud: Cloud) -> None:
    shown = "import json, os; print(json.dumps(dict(os.environ)))"
    done = run([sys.executable, "-c", shown], AWS_ENDPOINT_URL=cloud.endpoint_url, AWS_PROFILE="production")
    env = json.loads(done.stdout)
    assert env["AWS_ENDPOINT_URL"] == cloud.endpoint_url
    assert "AWS_PROFILE" not in env
    assert "LEDGER_TABLE" not in env
    assert f"running against the cloud at {cloud.endpoint_url}" in done.stderr


def test_a_cloud_that_does_not_answer_is_an_error(cloud: Cloud) -> None:
    done = run(["--cloud", "http://127.0.0.1:9", "--", "true"])
    assert done.returncode == 2
    assert "no embedded cloud answers at http://127.0.0.1:9" in done.stderr


@pytest.mark.parametrize(
    ("command", "code"), [(["./no-such-program"], 127), ([__file__], 126), (["sh", "-c", "kill -KILL $$"], 137)]
)
def test_exit_codes_are_a_shells(cloud: Cloud, command: list[str], code: int) -> None:
    assert run(["--cloud", cloud.endpoint_url, "--", *command]).returncode == code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_is_the_programs_to_answer(cloud: Cloud, number: signal.Signals) -> None:
    code = (
        "import signal, sys\n"
        f"signal.signal({int(number)}, lambda *_: sys.exit(7))\n"
        "print('ready', flush=True)\n"
        "signal.pause()\n"
    )
    command = [*DROPMILL, "--cloud", cloud.endpoint_url, "--", sys.executable, "-c", code]
    with subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        running.send_signal(number)
        assert running.wait(SECONDS) == 7


SDK = """
import boto3, sagemaker
session = sagemaker.Session()
print(session.default_bucket(), sagemaker.get_execution_role())
boto3.client("s3", endpoint_url="https://s3.us-east-1.amazonaws.com").put_object(
    Bucket=session.default_bucket(), Key="a/b", Body=b"here")
print(session.read_s3_file(session.default_bucket(), "a/b"))
# What the SDK does after each of its calls, and boto3's own most roundabout way to AWS.
from sagemaker.telemetry import telemetry_logging
class Reporting:
    sagemaker_session = session
    @telemetry_logging._telemetry_emitter("sdk", "test")
    def call(self):
        return "called"
telemetry_logging.FEATURE_TO_CODE.setdefault("sdk", 0)
print(Reporting().call())
"""


def test_the_sdk_is_at_home_and_nothing_leaves_the_machine(cloud: Cloud, tmp_path: Path) -> None:
    log = tmp_path / "left"
    (tmp_path / "sitecustomize.py").write_text(f"LOG = {str(log)!r}\n{GUARD}")
    arguments = ["--cloud", cloud.endpoint_url, "--", sys.executable, "-c", SDK]
    done = run(arguments, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-3:] == [
        f"sagemaker-us-east-1-123456789012 arn:aws:iam::123456789012:role{execute.ROLE_PATH}{execute.ROLE}",
        "here",
        "called",
    ]
    assert not log.exists(), log.read_text()
    assert "Request exception" not in done.stderr


def test_the_guard_of_these_tests_sees_what_leaves(tmp_path: Path) -> None:
    log = tmp_path / "left"
    code = f"LOG = {str(log)!r}\n{GUARD}\ntry:\n    socket.create_connection(('192.0.2.1', 9), 1)\nexcept OSError: pass"
    subprocess.run([sys.executable, "-c", code], timeout=SECONDS, check=True)
    assert "192.0.2.1" in log.read_text()


def test_a_cloud_of_its_own_ends_with_the_program() -> None:
    code = "import os; print(os.environ['AWS_ENDPOINT_URL'])"
    # A profile that isn't there: nothing of AWS's settings counts.
    done = run(["--cloud", "own", "--region", "eu-central-1", "--", sys.executable, "-c", code], AWS_PROFILE="no-such")
    assert done.returncode == 0, done.stderr
    assert "running against a cloud of its own" in done.stderr
    assert not execute.answers(done.stdout.strip())
