"""State machines behave as on AWS where a workflow with task tokens would notice."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from localaws.cloud import Cloud
from localaws.server import Call

ROLE = "arn:aws:iam::123456789012:role/workflow"
TRUST = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": {"Service": "states.amazonaws.com"}, "Action": "sts:AssumeRole"}],
}
ALLOWED = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": "lambda:InvokeFunction", "Resource": "*"}],
}
HANDLERS = """
import time
from pathlib import Path

def nothing(event, context):
    return None

def refuse(event, context):
    raise KeyError("nobody has this")

def wait_for_file(event, context):
    while not Path(event["path"]).exists():
        time.sleep(0.005)
    raise RuntimeError("too late")
"""


class World:
    """A cloud with a few functions; `tokens` holds every task token that a launcher was called with."""

    def __init__(self, cloud: Cloud, folder: Path) -> None:
        self.cloud = cloud
        self.states = cloud.client("stepfunctions")
        self.tokens: list[str] = []
        self.payloads: list[dict[str, Any]] = []
        self._came = threading.Condition()
        (folder / "handlers.py").write_text(HANDLERS)
        cloud.client("iam").create_role(RoleName="workflow", AssumeRolePolicyDocument=json.dumps(TRUST))
        cloud.client("iam").put_role_policy(
            RoleName="workflow", PolicyName="workflow", PolicyDocument=json.dumps(ALLOWED)
        )
        for name in ("nothing", "refuse", "wait_for_file"):
            cloud.lambdas.register(name, folder, f"handlers.{name}", timeout=30)
            cloud.client("lambda").create_function(
                FunctionName=name,
                Runtime="python3.13",
                Role=ROLE,
                Handler=f"handlers.{name}",
                Code={"ZipFile": b"not looked at"},
            )
        cloud.hooks.before("lambda.Invoke", self._saw)

    def _saw(self, call: Call) -> None:
        with self._came:
            self.payloads.append(call.request)
            if "token" in call.request:
                self.tokens.append(call.request["token"])
            self._came.notify_all()

    def token(self, number: int) -> str:
        """The next token, once there are `number` of them since the world began."""
        with self._came:
            assert self._came.wait_for(lambda: len(self.tokens) >= number, 20)
            return self.tokens[number - 1]

    def machine(self, name: str, *states: tuple[str, dict[str, Any]], **top: Any) -> str:
        """A state machine that runs the given states one after the other."""
        names = [state for state, _ in states]
        chained = {
            state: body | ({"Next": names[index + 1]} if index + 1 < len(names) else {"End": True})
            for index, (state, body) in enumerate(states)
        }
        definition = {"StartAt": names[0], "States": chained, **top}
        created = self.states.create_state_machine(name=name, definition=json.dumps(definition), roleArn=ROLE)
        return str(created["stateMachineArn"])

    def start(self, machine: str, name: str, **given: Any) -> str:
        return str(
            self.states.start_execution(stateMachineArn=machine, name=name, input=json.dumps(given))["executionArn"]
        )

    def end(self, execution: str) -> dict[str, Any]:
        return until(
            lambda: self.states.describe_execution(executionArn=execution), lambda found: found["status"] != "RUNNING"
        )

    def history(self, execution: str) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = self.states.get_execution_history(executionArn=execution)["events"]
        return events

    def events(self, execution: str) -> list[dict[str, Any]]:
        return [event for event in self.cloud.events.log if event["resources"] == [execution]]


def until(look: Callable[[], Any], right: Callable[[Any], bool], timeout: float = 20) -> Any:
    deadline = time.monotonic() + timeout
    while not right(found := look()):
        assert time.monotonic() < deadline, f"still {found}"
        time.sleep(0.01)
    return found


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with Cloud() as cloud:
        yield World(cloud, tmp_path_factory.mktemp("code"))


def by_token(**rest: Any) -> dict[str, Any]:
    return {
        "Type": "Task",
        "Resource": "arn:aws:states:::lambda:invoke.waitForTaskToken",
        "Parameters": {"FunctionName": "nothing", "Payload": {"token.$": "$$.Task.Token"}},
        **rest,
    }


def call(function: str, **payload: Any) -> dict[str, Any]:
    return {
        "Type": "Task",
        "Resource": "arn:aws:states:::lambda:invoke",
        "Parameters": {"FunctionName": function, "Payload": payload},
    }


def refused(function: Callable[..., Any], **arguments: Any) -> str:
    with pytest.raises(ClientError) as caught:
        function(**arguments)
    return str(caught.value.response["Error"]["Code"])


def test_an_answered_token_carries_the_result_on_and_is_spent(world: World) -> None:
    machine = world.machine("answered", ("Launch", by_token(ResultPath="$.model")))
    seen = len(world.tokens)
    execution = world.start(machine, "run", drop="digits")
    token = world.token(seen + 1)
    world.states.send_task_success(taskToken=token, output=json.dumps({"artifact": "s3://x/model.tar.gz"}))
    found = world.end(execution)
    assert found["status"] == "SUCCEEDED"
    assert json.loads(found["output"]) == {"drop": "digits", "model": {"artifact": "s3://x/model.tar.gz"}}
    assert refused(world.states.send_task_success, taskToken=token, output="{}") == "TaskTimedOut"
    assert refused(world.states.send_task_failure, taskToken=token, error="Late") == "TaskTimedOut"
    assert refused(world.states.send_task_heartbeat, taskToken=token) == "TaskTimedOut"


def test_a_token_that_never_was_is_invalid_and_so_is_output_that_is_not_json(world: World) -> None:
    assert refused(world.states.send_task_success, taskToken="never", output="{}") == "InvalidToken"
    machine = world.machine("garbled", ("Launch", by_token()))
    seen = len(world.tokens)
    execution = world.start(machine, "run")
    token = world.token(seen + 1)
    assert refused(world.states.send_task_success, taskToken=token, output="{not json") == "InvalidOutput"
    world.states.send_task_heartbeat(taskToken=token)
    world.states.send_task_success(taskToken=token, output="{}")
    assert world.end(execution)["status"] == "SUCCEEDED"


def test_a_failure_keeps_its_error_and_cause(world: World) -> None:
    machine = world.machine("failed", ("Launch", by_token()))
    seen = len(world.tokens)
    execution = world.start(machine, "run", drop="digits")
    world.states.send_task_failure(taskToken=world.token(seen + 1), error="JobFailed", cause="the label is missing")
    found = world.end(execution)
    assert (found["status"], found["error"], found["cause"]) == ("FAILED", "JobFailed", "the label is missing")
    assert found["stopDate"] >= found["startDate"]
    last = world.history(execution)[-1]
    assert last["type"] == "ExecutionFailed"
    assert last["executionFailedEventDetails"] == {"error": "JobFailed", "cause": "the label is missing"}


def test_every_attempt_has_a_token_of_its_own(world: World) -> None:
    retry = {"ErrorEquals": ["CapacityError"], "IntervalSeconds": 1, "MaxAttempts": 2, "BackoffRate": 1.0}
    machine = world.machine("retried", ("Launch", by_token(Retry=[retry])))
    seen = len(world.tokens)
    execution = world.start(machine, "run")
    first = world.token(seen + 1)
    world.states.send_task_failure(taskToken=first, error="CapacityError", cause="no instance")
    second = world.token(seen + 2)
    assert second != first
    assert refused(world.states.send_task_success, taskToken=first, output='"stale"') == "TaskTimedOut"
    assert world.states.describe_execution(executionArn=execution)["status"] == "RUNNING"
    world.states.send_task_success(taskToken=second, output='"fresh"')
    found = world.end(execution)
    assert (found["status"], json.loads(found["output"])) == ("SUCCEEDED", "fresh")


def test_a_launcher_that_fails_is_called_again_with_another_token(world: World) -> None:
    parameters = {"FunctionName": "refuse", "Payload": {"token.$": "$$.Task.Token"}}
    retry = {"ErrorEquals": ["KeyError"], "IntervalSeconds": 1, "MaxAttempts": 1}
    machine = world.machine("launcher", ("Launch", by_token(Parameters=parameters, Retry=[retry])))
    seen = len(world.tokens)
    found = world.end(world.start(machine, "run"))
    assert (found["status"], found["error"]) == ("FAILED", "KeyError")
    assert "nobody has this" in json.loads(found["cause"])["errorMessage"]
    assert len(set(world.tokens[seen:])) == 2


def test_a_task_that_times_out_spends_its_token(world: World) -> None:
    caught = [{"ErrorEquals": ["States.Timeout"], "Next": "Look"}]
    machine = world.machine(
        "late", ("Launch", by_token(TimeoutSeconds=1, Catch=caught)), ("Look", {"Type": "Pass", "Result": "went on"})
    )
    seen = len(world.tokens)
    execution = world.start(machine, "run")
    token = world.token(seen + 1)
    assert json.loads(world.end(execution)["output"]) == "went on"
    assert refused(world.states.send_task_success, taskToken=token, output="{}") == "TaskTimedOut"


def test_a_stop_ends_at_once_and_stays(world: World, tmp_path: Path) -> None:
    release = tmp_path / "release"
    machine = world.machine("stopped", ("Work", call("wait_for_file", path=str(release))), ("More", call("nothing")))
    calls = len(world.payloads)
    execution = world.start(machine, "run")
    until(lambda: len(world.payloads), lambda seen: seen > calls)
    began = time.monotonic()
    stopped = world.states.stop_execution(executionArn=execution, error="Enough", cause="by hand")
    found = world.states.describe_execution(executionArn=execution)
    assert time.monotonic() - began < 5
    assert (found["status"], found["error"], found["cause"]) == ("ABORTED", "Enough", "by hand")
    assert found["stopDate"] == stopped["stopDate"]
    # The function fails now, and its failure must change nothing.
    release.touch()
    assert world.cloud.lambdas.wait_idle(10)
    again = world.states.stop_execution(executionArn=execution, error="Other", cause="again")
    assert again["stopDate"] == stopped["stopDate"]
    history = world.history(execution)
    assert history[-1]["type"] == "ExecutionAborted"
    assert history[-1]["executionAbortedEventDetails"] == {"error": "Enough", "cause": "by hand"}
    assert [event["detail"]["status"] for event in world.events(execution)] == ["RUNNING", "ABORTED"]


def test_a_stop_reaches_a_run_that_waits_for_a_token(world: World) -> None:
    machine = world.machine("waiting", ("Launch", by_token(TimeoutSeconds=3000)))
    seen = len(world.tokens)
    execution = world.start(machine, "run")
    token = world.token(seen + 1)
    world.states.stop_execution(executionArn=execution)
    found = world.states.describe_execution(executionArn=execution)
    assert found["status"] == "ABORTED"
    assert "error" not in found
    assert refused(world.states.send_task_success, taskToken=token, output="{}") == "TaskTimedOut"


def test_a_stop_right_after_the_start_is_not_lost(world: World) -> None:
    machine = world.machine("hasty", ("Launch", by_token(TimeoutSeconds=3000)))
    for number in range(5):
        execution = world.start(machine, f"run-{number}")
        world.states.stop_execution(executionArn=execution)
        assert world.states.describe_execution(executionArn=execution)["status"] == "ABORTED"


def test_the_whole_time_out_ends_the_run(world: World) -> None:
    machine = world.machine("slow", ("Launch", by_token()), TimeoutSeconds=1)
    seen = len(world.tokens)
    execution = world.start(machine, "run")
    token = world.token(seen + 1)
    found = world.end(execution)
    assert found["status"] == "TIMED_OUT"
    assert found["stopDate"] >= found["startDate"]
    assert world.history(execution)[-1]["type"] == "ExecutionTimedOut"
    assert refused(world.states.send_task_success, taskToken=token, output="{}") == "TaskTimedOut"
    assert [event["detail"]["status"] for event in world.events(execution)] == ["RUNNING", "TIMED_OUT"]
    listed = world.states.list_executions(stateMachineArn=machine)["executions"]
    assert [item["stopDate"] for item in listed] == [found["stopDate"]]


def test_the_status_event_has_awss_fields(world: World) -> None:
    machine = world.machine("reported", ("Fail", call("refuse")))
    execution = world.start(machine, "run", drop="digits")
    found = world.end(execution)
    started, ended = until(lambda: world.events(execution), lambda events: len(events) == 2)
    assert started["detail"] | {"startDate": 0} == {
        "executionArn": execution,
        "stateMachineArn": machine,
        "name": "run",
        "status": "RUNNING",
        "startDate": 0,
        "stopDate": None,
        "input": '{"drop": "digits"}',
        "inputDetails": {"included": True},
        "output": None,
        "outputDetails": None,
        "error": None,
        "cause": None,
        "stateMachineVersionArn": None,
        "stateMachineAliasArn": None,
        "redriveCount": 0,
        "redriveDate": None,
        "redriveStatus": "NOT_REDRIVABLE",
        "redriveStatusReason": None,
    }
    assert ended["source"] == "aws.states"
    assert ended["detail-type"] == "Step Functions Execution Status Change"
    detail = ended["detail"]
    assert (detail["status"], detail["error"], detail["cause"]) == ("FAILED", "KeyError", found["cause"])
    assert detail["startDate"] == int(found["startDate"].timestamp() * 1000)
    assert detail["stopDate"] == int(found["stopDate"].timestamp() * 1000)


def test_a_success_event_carries_the_output(world: World) -> None:
    machine = world.machine("told", ("Pass", {"Type": "Pass", "Result": {"rows": 3}}))
    execution = world.start(machine, "run")
    _, ended = until(lambda: world.events(execution), lambda events: len(events) == 2)
    assert ended["detail"]["status"] == "SUCCEEDED"
    assert json.loads(ended["detail"]["output"]) == {"rows": 3}


def test_one_name_starts_one_execution_however_often_it_is_asked_for(world: World) -> None:
    machine = world.machine("named", ("Launch", by_token(TimeoutSeconds=3000)))
    seen = len(world.tokens)
    with ThreadPoolExecutor(8) as threads:
        started = set(threads.map(lambda _: world.start(machine, "digits-0123456789ab"), range(8)))
    assert len(started) == 1
    world.states.send_task_success(taskToken=world.token(seen + 1), output="{}")
    assert world.end(started.pop())["status"] == "SUCCEEDED"
    assert len(world.states.list_executions(stateMachineArn=machine)["executions"]) == 1
    assert len(world.tokens) == seen + 1
    assert refused(world.states.start_execution, stateMachineArn=machine, name="digits-0123456789ab", input="{}") == (
        "ExecutionAlreadyExists"
    )


def test_names_are_checked_and_made_up_where_there_is_none(world: World) -> None:
    machine = world.machine("nameless", ("Pass", {"Type": "Pass"}))
    assert refused(world.states.start_execution, stateMachineArn=machine, name="with space") == "InvalidName"
    made = [world.states.start_execution(stateMachineArn=machine)["executionArn"].rsplit(":", 1)[1] for _ in range(2)]
    assert len(set(made)) == 2
    assert "None" not in made


def test_the_context_has_awss_times(world: World) -> None:
    wanted = {"started.$": "$$.Execution.StartTime", "entered.$": "$$.State.EnteredTime", "name.$": "$$.Execution.Name"}
    machine = world.machine("context", ("Pass", {"Type": "Pass", "Parameters": wanted}))
    found = world.end(world.start(machine, "run"))
    output = json.loads(found["output"])
    assert output["name"] == "run"
    for moment in (output["started"], output["entered"]):
        assert moment.endswith("Z")
        assert len(moment) == len("2026-01-02T03:04:05.678Z")
    assert datetime.fromisoformat(output["started"]).timestamp() == pytest.approx(
        found["startDate"].timestamp(), abs=0.01
    )


def test_the_history_comes_in_pages_and_backwards(world: World) -> None:
    machine = world.machine("paged", *((f"Pass {number}", {"Type": "Pass"}) for number in range(3)))
    execution = world.start(machine, "run")
    world.end(execution)
    whole = [event["id"] for event in world.history(execution)]
    assert len(whole) == 8
    pages = world.states.get_paginator("get_execution_history").paginate(
        executionArn=execution, reverseOrder=True, PaginationConfig={"PageSize": 3}
    )
    assert [event["id"] for page in pages for event in page["events"]] == whole[::-1]


def test_a_map_runs_its_items_and_a_stop_ends_it(world: World, tmp_path: Path) -> None:
    def mapped(inner: dict[str, Any]) -> dict[str, Any]:
        processor = {"StartAt": "Item", "States": {"Item": inner | {"End": True}}}
        return {"Type": "Map", "ItemsPath": "$.items", "MaxConcurrency": 4, "ItemProcessor": processor}

    done = world.machine("mapped", ("Each", mapped({"Type": "Pass"})))
    found = world.end(world.start(done, "run", items=[1, 2, 3, 4, 5]))
    assert json.loads(found["output"]) == [1, 2, 3, 4, 5]

    stuck = world.machine("stuck", ("Each", mapped(by_token(TimeoutSeconds=3000))))
    seen = len(world.tokens)
    execution = world.start(stuck, "run", items=[1, 2, 3, 4, 5, 6])
    tokens = [world.token(seen + number) for number in (1, 2, 3, 4)]
    world.states.stop_execution(executionArn=execution)
    assert world.states.describe_execution(executionArn=execution)["status"] == "ABORTED"
    assert {refused(world.states.send_task_success, taskToken=token, output="{}") for token in tokens} == {
        "TaskTimedOut"
    }
    assert len(world.tokens) == seen + 4
