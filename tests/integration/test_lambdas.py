"""Workers on AWS's runtime client, without the rest of the cloud."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from localaws import memory
from localaws.lambdas import MAX_REQUEST_BYTES, Answer, LambdaError, Lambdas

HANDLERS = '''
import os, sys, time
from pathlib import Path

if "BORN" in os.environ:
    Path(os.environ["BORN"]).write_text(str(os.getpid()))

def environment(event, context):
    return {
        "variables": dict(os.environ),
        "folder": os.getcwd(),
        "name": context.function_name,
        "arn": context.invoked_function_arn,
        "left": context.get_remaining_time_in_millis(),
    }

def process(event, context):
    return os.getpid()

def echo(event, context):
    return event

def speak(event, context):
    print("one line")
    print("another line", file=sys.stderr)
    return None

def refuse(event, context):
    raise ValueError("the value is refused")

def refuse_loudly(event, context):
    with open(event["path"], "a") as file:
        file.write("x")
    raise ValueError("the value is refused")

def refuse_once(event, context):
    path = Path(event["path"])
    if not path.exists():
        path.touch()
        raise ValueError("not yet")
    path.write_text("done")

def hang(event, context):
    if event.get("hang"):
        Path(event["path"]).touch()
        time.sleep(60)
    return os.getpid()

def crash(event, context):
    os._exit(7)

def fill(event, context):
    """Take memory and use it, in a process of its own if asked."""
    if event.get("elsewhere"):
        import subprocess
        return subprocess.call([sys.executable, "-c", f"b'x' * ({event['megabytes']} << 20)"])
    taken = [b"x" * (1 << 20) for _ in range(event["megabytes"])]
    return {"pid": os.getpid(), "taken": len(taken)}

def leave(event, context):
    import subprocess
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    Path(event["path"]).write_text(str(child.pid))
    os._exit(7)

def long(event, context):
    return "x" * event["size"]

def meet(event, context):
    """Returns once as many calls as asked for are in here at one time."""
    folder = Path(event["folder"])
    (folder / context.aws_request_id).touch()
    while len(list(folder.iterdir())) < event["guests"]:
        time.sleep(0.005)
    return os.getpid()
'''


class Cloud:
    """What a pool needs of a cloud, kept in lists."""

    def __init__(self, folder: Path, *, hold_memory: bool = False, isolate: bool = False) -> None:
        (folder / "handlers.py").write_text(HANDLERS)
        self.folder = folder
        self.lines: list[tuple[str, str, str]] = []
        self.letters: list[tuple[str, str, dict[str, str]]] = []
        self.pool = Lambdas(
            endpoint_url="http://127.0.0.1:9",
            region="eu-west-1",
            account_id="123456789012",
            write_logs=lambda group, stream, events: self.lines.extend((group, stream, line) for _, line in events),
            deliver=lambda arn, body, attributes: self.letters.append((arn, body, attributes)),
            workers_per_function=4,
            retry_delays=(0.0, 0.0),
            hold_memory=hold_memory,
            isolate=isolate,
        )

    def register(self, name: str, **rest: Any) -> str:
        self.pool.register(name, self.folder, f"handlers.{rest.pop('handler', name)}", **{"timeout": 30, **rest})
        return name

    def call(self, name: str, event: Any = None) -> Any:
        answer = self.pool.invoke(name, json.dumps(event).encode())
        assert answer.error is None, answer.payload
        return json.loads(answer.payload)

    def fail(self, name: str, event: Any = None) -> dict[str, Any]:
        answer = self.pool.invoke(name, json.dumps(event).encode())
        assert answer.error == "Unhandled"
        said: dict[str, Any] = json.loads(answer.payload)
        return said


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    cloud = Cloud(tmp_path_factory.mktemp("code"))
    yield cloud
    cloud.pool.close()


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline, f"{path.name} never came"
        time.sleep(0.005)


def test_the_environment_is_the_functions_own(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOST_SECRET", "not for functions")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not for functions")
    cloud.register(
        "environment", timeout=9, memory=256, environment={"TABLE": "ledger", "AWS_ENDPOINT_URL": "", "TZ": "mine"}
    )
    seen = cloud.call("environment")
    variables = seen["variables"]
    assert "not for functions" not in variables.values()
    assert variables["TABLE"] == "ledger"
    assert variables["TZ"] == "mine"
    assert variables["AWS_ENDPOINT_URL"] == "http://127.0.0.1:9"
    assert variables["AWS_REGION"] == variables["AWS_DEFAULT_REGION"] == "eu-west-1"
    assert variables["AWS_LAMBDA_FUNCTION_NAME"] == seen["name"] == "environment"
    assert variables["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"] == "256"
    assert variables["AWS_LAMBDA_LOG_GROUP_NAME"] == "/aws/lambda/environment"
    assert variables["LAMBDA_TASK_ROOT"] == seen["folder"] == str(cloud.folder.resolve())
    assert seen["arn"] == "arn:aws:lambda:eu-west-1:123456789012:function:environment"
    assert 5000 < seen["left"] <= 9000
    # Whatever else there is was put there on purpose.
    ours = {name for name in variables if not name.startswith(("AWS_", "LAMBDA_", "POWERTOOLS_"))}
    assert ours <= {"TABLE", "TZ", "PATH", "LANG", "PYTHONPATH", "PYTHONNOUSERSITE", "_HANDLER", "LC_CTYPE"}


def test_a_warm_worker_is_used_again(cloud: Cloud) -> None:
    cloud.register("process")
    assert len({cloud.call("process") for _ in range(5)}) == 1


def test_an_error_has_lambdas_shape(cloud: Cloud) -> None:
    cloud.register("refuse")
    said = cloud.fail("refuse")
    assert said["errorType"] == "ValueError"
    assert said["errorMessage"] == "the value is refused"
    assert said["requestId"]
    assert "refuse" in said["stackTrace"][0]


def test_a_call_over_its_time_is_killed_and_the_next_one_served(cloud: Cloud, tmp_path: Path) -> None:
    cloud.register("impatient", handler="hang", timeout=0.25)
    first = cloud.call("impatient", {})
    said = cloud.fail("impatient", {"hang": True, "path": str(tmp_path / "in")})
    assert said["errorType"] == "Sandbox.Timedout"
    assert said["errorMessage"].startswith("RequestId: ")
    assert said["errorMessage"].endswith(" Error: Task timed out after 0.25 seconds")
    assert cloud.call("impatient", {}) != first


def test_a_worker_that_exits_is_an_exit_error(cloud: Cloud) -> None:
    cloud.register("crash")
    said = cloud.fail("crash")
    assert said["errorType"] == "Runtime.ExitError"
    assert said["errorMessage"].endswith("Runtime exited with error: exit status 7")


@pytest.fixture
def holding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    """A pool that holds its workers to their memory, with cgroups of its own to look at."""
    if memory.find_parent() is None:
        pytest.skip("no memory cgroup can be made here")
    (tmp_path / "code").mkdir()
    cloud = Cloud(tmp_path / "code", hold_memory=True)
    yield cloud
    cloud.pool.close()
    assert groups() == []


def groups() -> list[Path]:
    """The cgroups of this process's workers."""
    parent = memory.find_parent()
    assert parent is not None
    return list(parent.folder.glob(f"localaws-{os.getpid()}-*"))


def test_a_call_over_its_memory_is_killed_and_the_next_one_served(holding: Cloud) -> None:
    holding.register("fill", memory=128)
    first = holding.call("fill", {"megabytes": 10})
    assert len(groups()) == 1
    said = holding.fail("fill", {"megabytes": 200})
    assert said["errorType"] == "Runtime.ExitError"
    assert re.fullmatch(r"RequestId: \S+ Error: Runtime exited with error: signal: killed", said["errorMessage"])
    second = holding.call("fill", {"megabytes": 10})
    assert second["taken"] == first["taken"]
    assert second["pid"] != first["pid"]
    assert len(groups()) == 1
    holding.pool.flush_logs()
    reports = [line for _, _, line in holding.lines if line.startswith("REPORT")]
    used = [int(line.rpartition("Max Memory Used: ")[2].removesuffix(" MB")) for line in reports]
    assert len(used) == 3
    assert used[1] == 128
    assert 10 < used[0] < 128
    assert 10 < used[2] < 128
    assert f"{said['errorMessage']}\nRuntime.ExitError" in [line for _, _, line in holding.lines]


def test_what_a_function_starts_counts_and_does_not_outlive_it(holding: Cloud, tmp_path: Path) -> None:
    holding.register("fill", memory=128)
    pid = tmp_path / "pid"
    # The processes of a cgroup of version 2 end together, of version 1 it is the largest that ends.
    answer = holding.pool.invoke("fill", json.dumps({"megabytes": 200, "elsewhere": True}).encode())
    ended = json.loads(answer.payload)
    assert ended == -signal.SIGKILL or ended["errorType"] == "Runtime.ExitError"
    holding.register("leave", memory=128)
    assert holding.fail("leave", {"path": str(pid)})["errorType"] == "Runtime.ExitError"
    assert not running(int(pid.read_text()))


def test_without_a_cgroup_what_a_call_may_write_to_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if sys.platform != "linux":
        pytest.skip("this system has no limit on what a process may write to")
    monkeypatch.setattr(memory, "find_parent", lambda: None)
    monkeypatch.setattr(memory, "ALLOWANCE_MB", 32)
    monkeypatch.setattr(memory, "CORE_ALLOWANCE_MB", 0)
    cloud = Cloud(tmp_path, hold_memory=True)
    try:
        cloud.register("fill", memory=128)
        first = cloud.call("fill", {"megabytes": 50})
        assert cloud.fail("fill", {"megabytes": 250})["errorType"] == "MemoryError"
        assert cloud.call("fill", {"megabytes": 50})["taken"] == first["taken"]
    finally:
        cloud.pool.close()


def test_a_killed_worker_is_an_exit_error(cloud: Cloud, tmp_path: Path) -> None:
    cloud.register("hang")
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(cloud.fail, "hang", {"hang": True, "path": str(tmp_path / "in")})
        wait_for(tmp_path / "in")
        assert cloud.pool.kill("hang") == 1
        assert answer.result()["errorType"] == "Runtime.ExitError"
    assert cloud.pool.kill("hang") == 0


@pytest.mark.parametrize(
    ("handler", "error"),
    [("nowhere.handler", "Runtime.ImportModuleError"), ("handlers.nothing", "Runtime.HandlerNotFound")],
)
def test_a_handler_that_cant_be_loaded_is_named(cloud: Cloud, handler: str, error: str) -> None:
    cloud.pool.register("broken", cloud.folder, handler, timeout=30)
    for _ in range(2):
        said = cloud.fail("broken")
        assert said["errorType"] == error
        assert handler.split(".")[0] in said["errorMessage"]


def test_calls_run_at_one_time_up_to_the_limit_and_then_wait(cloud: Cloud, tmp_path: Path) -> None:
    cloud.register("meet")
    event = {"folder": str(tmp_path), "guests": 4}
    with ThreadPoolExecutor(6) as threads:
        pids = list(threads.map(lambda _: cloud.call("meet", event), range(6)))
    assert len(set(pids)) == 4


def test_what_is_printed_goes_to_the_log_between_start_and_end(cloud: Cloud) -> None:
    cloud.register("speak", log_group="/somewhere/else")
    answer = cloud.pool.invoke("speak", b"{}", request_id="the-request")
    cloud.pool.flush_logs()
    lines = [line for group, _, line in cloud.lines if group == "/somewhere/else"]
    assert lines[0] == "START RequestId: the-request Version: $LATEST"
    assert set(lines[1:3]) == {"one line", "another line"}
    assert lines[3] == "END RequestId: the-request"
    assert lines[4].startswith("REPORT RequestId: the-request\tDuration: ")
    if Path("/proc/self/status").exists():
        assert re.search(r"\tMemory Size: 128 MB\tMax Memory Used: [1-9]\d* MB$", lines[4])
    assert b"one line" in answer.log_tail


def test_large_documents_pass_and_too_large_ones_are_refused(cloud: Cloud) -> None:
    cloud.register("echo")
    cloud.register("long")
    event = {"text": "y" * (MAX_REQUEST_BYTES - 100)}
    assert cloud.call("echo", event) == event
    assert cloud.fail("long", {"size": 7_000_000})["errorType"] == "Function.ResponseSizeTooLarge"
    assert len(cloud.call("long", {"size": 1000})) == 1000


def test_a_failing_event_is_tried_three_times_and_then_a_dead_letter(cloud: Cloud, tmp_path: Path) -> None:
    cloud.register("refuse_loudly", dead_letter_arn="arn:aws:sqs:eu-west-1:123456789012:dead")
    cloud.pool.configure_async("refuse_loudly", retries=2, on_failure_arn="arn:aws:sns:eu-west-1:123456789012:failed")
    event = {"path": str(tmp_path / "tries")}
    request = cloud.pool.invoke_event("refuse_loudly", json.dumps(event).encode())
    assert cloud.pool.wait_idle(20)
    assert (tmp_path / "tries").read_text() == "xxx"
    (queue, body, attributes), (topic, record, _) = cloud.letters[-2:]
    assert (queue, topic) == (
        "arn:aws:sqs:eu-west-1:123456789012:dead",
        "arn:aws:sns:eu-west-1:123456789012:failed",
    )
    assert json.loads(body) == event
    assert attributes["RequestID"] == request
    assert attributes["ErrorCode"] == "200"
    assert "the value is refused" in attributes["ErrorMessage"]
    told = json.loads(record)
    assert told["requestContext"]["condition"] == "RetriesExhausted"
    assert told["requestContext"]["approximateInvokeCount"] == 3
    assert told["requestPayload"] == event
    assert told["responsePayload"]["errorType"] == "ValueError"


def test_an_event_that_succeeds_at_last_is_no_dead_letter(cloud: Cloud, tmp_path: Path) -> None:
    cloud.register("refuse_once", dead_letter_arn="arn:aws:sqs:eu-west-1:123456789012:dead")
    letters = len(cloud.letters)
    cloud.pool.invoke_event("refuse_once", json.dumps({"path": str(tmp_path / "done")}).encode())
    assert cloud.pool.wait_idle(20)
    assert (tmp_path / "done").read_text() == "done"
    assert len(cloud.letters) == letters


def test_a_prewarmed_worker_has_loaded_the_handler_and_takes_the_first_call(cloud: Cloud, tmp_path: Path) -> None:
    cloud.register("warm", handler="process", environment={"BORN": str(tmp_path / "born")})
    cloud.pool.prewarm(["warm"], wait=True)
    assert cloud.call("warm") == int((tmp_path / "born").read_text())


def test_a_function_registered_again_runs_the_new_handler(cloud: Cloud) -> None:
    cloud.register("changing", handler="echo")
    assert cloud.call("changing", {"a": 1}) == {"a": 1}
    cloud.register("changing", handler="process")
    assert isinstance(cloud.call("changing"), int)


def test_a_function_is_given_other_memory_and_keeps_the_rest(cloud: Cloud, tmp_path: Path) -> None:
    cloud.register("sized", handler="environment", memory=256, environment={"TABLE": "ledger"})
    assert cloud.call("sized")["variables"]["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"] == "256"
    cloud.pool.set_memory("sized", 512)
    variables = cloud.call("sized")["variables"]
    assert (variables["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"], variables["TABLE"]) == ("512", "ledger")
    cloud.register("once", handler="refuse_loudly")
    cloud.pool.configure_async("once", retries=0)
    cloud.pool.set_memory("once", 256)
    cloud.pool.invoke_event("once", json.dumps({"path": str(tmp_path / "tries")}).encode())
    assert cloud.pool.wait_idle(20)
    assert (tmp_path / "tries").read_text() == "x"


def test_unknown_functions_and_missing_folders_are_refused(cloud: Cloud, tmp_path: Path) -> None:
    with pytest.raises(LambdaError, match="no function nobody"):
        cloud.pool.invoke("nobody", b"{}")
    with pytest.raises(LambdaError, match="doesn't exist"):
        cloud.pool.register("lost", tmp_path / "lost", "handlers.echo")


def running(pid: int) -> bool:
    """Whether a process is there and not only waiting to be collected."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0]
    except FileNotFoundError:
        return False
    return state != "Z"


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc here to look for processes")


@needs_proc
def test_closing_ends_workers_and_calls(tmp_path: Path) -> None:
    cloud = Cloud(tmp_path)
    cloud.register("process")
    cloud.register("hang")
    pid = cloud.call("process")
    outcome: list[BaseException | Answer] = []

    def call() -> None:
        try:
            outcome.append(cloud.pool.invoke("hang", json.dumps({"hang": True, "path": str(tmp_path / "in")}).encode()))
        except LambdaError as error:
            outcome.append(error)

    caller = threading.Thread(target=call)
    caller.start()
    wait_for(tmp_path / "in")
    cloud.pool.close()
    caller.join(10)
    assert isinstance(outcome[0], LambdaError)
    assert not running(pid)
    with pytest.raises(LambdaError, match="stopping"):
        cloud.pool.invoke("process", b"{}")
    cloud.pool.close()


PARENT = """
import os, sys
from pathlib import Path
from localaws.lambdas import Lambdas

pool = Lambdas(endpoint_url="", region="us-east-1", account_id="123456789012",
               write_logs=lambda *_: None, deliver=lambda *_: None)
pool.register("process", Path(sys.argv[1]), "handlers.process", timeout=30)
print(pool.invoke("process", b"{}").payload.decode(), flush=True)
os._exit(9)
"""


@needs_proc
def test_workers_end_with_a_parent_that_dies(tmp_path: Path) -> None:
    (tmp_path / "handlers.py").write_text(HANDLERS)
    done = subprocess.run(
        [sys.executable, "-c", PARENT, str(tmp_path)], capture_output=True, text=True, timeout=60, env=dict(os.environ)
    )
    assert done.returncode == 9, done.stderr
    pid = int(done.stdout)
    deadline = time.monotonic() + 10
    while running(pid):
        assert time.monotonic() < deadline, "the worker outlived its cloud"
        time.sleep(0.01)
