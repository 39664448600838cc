"""The workflow files against themselves, the template and the code: what no linter looks at."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from dropmill.contracts import BatchInput, InspectedDrop, RunInput, ServedModel, TrainedModel, TransformedRows
from dropmill.errors import ERRORS_BY_NAME
from dropmill.leases import PROVISIONING_SECONDS
from dropmill.steps.inspect_drop import TIMEOUT_MARGIN_SECONDS
from dropmill.steps.start_scoring import ScoringRequest
from localaws import schedules

# https://docs.aws.amazon.com/step-functions/latest/dg/concepts-error-handling.html, and what the Lambda integration and
# the Lambda runtime raise.
AWS_ERRORS = {
    "States.ALL",
    "States.DataLimitExceeded",
    "States.ExceedToleratedFailureThreshold",
    "States.HeartbeatTimeout",
    "States.Http.Socket",
    "States.IntrinsicFailure",
    "States.ItemReaderFailed",
    "States.NoChoiceMatched",
    "States.ParameterPathFailure",
    "States.Permissions",
    "States.ResultPathMatchFailure",
    "States.ResultWriterFailed",
    "States.Runtime",
    "States.TaskFailed",
    "States.Timeout",
    "Lambda.AWSLambdaException",
    "Lambda.ClientExecutionTimeoutException",
    "Lambda.SdkClientException",
    "Lambda.ServiceException",
    "Lambda.TooManyRequestsException",
    "Lambda.Unknown",
    "Runtime.ExitError",
    "Sandbox.Timedout",
}
WAITS = "arn:${Partition}:states:::lambda:invoke.waitForTaskToken"
ANSWERS = {
    "Launch Training": TrainedModel,
    "Launch Tuning": TrainedModel,
    "Launch Transform": TransformedRows,
    "Launch Champion Transform": TransformedRows,
    "Deploy Endpoint": ServedModel,
}
"""What answers a state's task token."""

Scope = dict[str, Any]


def scopes(machine: Scope) -> Iterator[Scope]:
    """Every set of states among which `Next` chooses: the machine's own, and those inside Map and Parallel."""
    yield machine
    for state in machine["States"].values():
        inner = [state[key] for key in ("ItemProcessor", "Iterator") if key in state] + state.get("Branches", [])
        for scope in inner:
            yield from scopes(scope)


def states_of(machine: Scope) -> Iterator[tuple[str, dict[str, Any]]]:
    for scope in scopes(machine):
        yield from scope["States"].items()


def tasks_of(machine: Scope) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, state in states_of(machine):
        if state["Type"] == "Task":
            yield name, state


def targets(state: dict[str, Any]) -> list[str]:
    rules = state.get("Choices", []) + state.get("Catch", [])
    return [holder[key] for holder in [state, *rules] for key in ("Next", "Default") if key in holder]


def dangling(machine: Scope) -> list[str]:
    """The problems of a definition's transitions."""
    problems = []
    for scope in scopes(machine):
        known = scope["States"]
        reached, waiting = set(), [scope["StartAt"]]
        while waiting:
            name = waiting.pop()
            if name not in known:
                problems.append(f"no state is named {name}")
            elif name not in reached:
                reached.add(name)
                waiting += targets(known[name])
        problems += [f"{name} can't be reached" for name in known.keys() - reached]
        for name, state in known.items():
            if state["Type"] == "Choice":
                if "Default" not in state:
                    problems.append(f"{name} has no Default")
            elif state["Type"] not in ("Succeed", "Fail") and ("Next" in state) == (state.get("End") is True):
                problems.append(f"{name} needs either Next or End")
    return problems


def function_of(state: dict[str, Any]) -> str:
    """The substitution that a Task calls."""
    called = state["Parameters"]["FunctionName"] if state["Resource"] == WAITS else state["Resource"]
    match = re.fullmatch(r"\$\{(\w+)FunctionArn\}", called)
    assert match, f"{called} is no function of the template"
    return match[1]


def payload_of(name: str, machine: Scope) -> dict[str, Any] | None:
    """The template of what a Task's function gets: its own Parameters, or those of the Map around it."""
    for _, state in states_of(machine):
        inner = state.get("ItemProcessor", {}).get("States", {})
        if name in inner and "Parameters" not in inner[name]:
            return dict(state["ItemSelector"])
    state = dict(states_of(machine))[name]
    parameters: dict[str, Any] | None = state.get("Parameters")
    return parameters["Payload"] if parameters and state["Resource"] == WAITS else parameters


ALSO_CALLED_BY = {"Launch Champion Transform": "Launch Transform"}
"""States that call the function of another one."""


def snake(name: str) -> str:
    return ALSO_CALLED_BY.get(name, name).lower().replace(" ", "_")


MACHINES: dict[str, type[BaseModel]] = {"TrainStateMachine": RunInput, "ScoreStateMachine": BatchInput}
"""The state machines, and what an execution of each is given, besides its name."""


@pytest.fixture(scope="session", params=MACHINES)
def machine_id(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def machine(machine_id: str, workflows: dict[str, Scope]) -> Scope:
    return workflows[machine_id]


def test_every_state_machine_is_looked_at(workflows: dict[str, Scope]) -> None:
    assert workflows.keys() == MACHINES.keys()


def test_transitions_name_states_and_reach_them_all(machine: Scope) -> None:
    assert dangling(machine) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda states: states["Seal Dataset"].update(Next="Lunch Training"), "no state is named Lunch Training"),
        (lambda states: states["Tear Down"]["Catch"][0].update(Next="Nowhere"), "no state is named Nowhere"),
        (lambda states: states.update({"Island": {"Type": "Pass", "End": True}}), "Island can't be reached"),
        (lambda states: states["Seal Dataset"].pop("Next"), "Seal Dataset needs either Next or End"),
        (
            lambda states: states["Convert Shards"]["ItemProcessor"].update(StartAt="Convert"),
            "no state is named Convert",
        ),
    ],
)
def test_a_broken_transition_is_found(workflows: dict[str, Scope], change: Any, problem: str) -> None:
    broken = json.loads(json.dumps(workflows["TrainStateMachine"]))
    change(broken["States"])
    assert problem in dangling(broken)


def test_substitutions_are_used_and_given_and_stand_in_strings(
    root: Path, state_machines: dict[str, dict[str, Any]]
) -> None:
    for properties in state_machines.values():
        text = (root / properties["DefinitionUri"]).read_text()
        in_strings = [name for string in strings(json.loads(text)) for name in re.findall(r"\$\{(\w+)\}", string)]
        assert sorted(re.findall(r"\$\{(\w+)\}", text)) == sorted(in_strings)
        assert set(in_strings) == properties["DefinitionSubstitutions"].keys()


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)


def test_every_matched_error_exists(machine: Scope) -> None:
    for name, state in states_of(machine):
        for rule in state.get("Retry", []) + state.get("Catch", []):
            unknown = set(rule["ErrorEquals"]) - AWS_ERRORS - ERRORS_BY_NAME.keys()
            assert not unknown, f"{name} matches {unknown}, which nothing raises"


def test_errors_go_by_their_class_names() -> None:
    assert all(error.__name__ == name for name, error in ERRORS_BY_NAME.items())


LONGEST_RUNTIME = 30 * 86400


def shortest_timeout(state: dict[str, Any]) -> int:
    """In seconds; 0 for a task that never ends. A training's follows from the recipe."""
    if state.get("TimeoutSecondsPath") == "$.inspection.training_timeout":
        return PROVISIONING_SECONDS
    return int(state.get("TimeoutSeconds", 0))


def test_every_task_ends_and_outlives_its_function(machine: Scope, functions: dict[str, Any]) -> None:
    for name, state in tasks_of(machine):
        assert shortest_timeout(state) > functions[snake(name)].timeout, name


def test_the_workflow_ends_and_not_before_its_slowest_task(machine: Scope) -> None:
    """Step Functions by itself ends an execution after a year, which is too late."""
    longest_training = LONGEST_RUNTIME + PROVISIONING_SECONDS + TIMEOUT_MARGIN_SECONDS
    longest = max(state.get("TimeoutSeconds", longest_training) for _, state in tasks_of(machine))
    assert machine["TimeoutSeconds"] > longest


def test_state_module_and_resource_carry_one_name(
    machine_id: str, machine: Scope, functions: dict[str, Any], state_machines: dict[str, dict[str, Any]], root: Path
) -> None:
    substitutions = state_machines[machine_id]["DefinitionSubstitutions"]
    for name, state in tasks_of(machine):
        pascal = ALSO_CALLED_BY.get(name, name).replace(" ", "")
        assert function_of(state) == pascal
        assert functions[snake(name)].logical_id == f"{pascal}Function"
        assert substitutions[f"{pascal}FunctionArn"] == {"Fn::GetAtt": [f"{pascal}Function", "Arn"]}
    modules = {path.stem for path in (root / "functions/dropmill/steps").glob("[!_]*.py")}
    assert functions.keys() == modules
    for step, function in functions.items():
        assert function.logical_id == "".join(word.title() for word in step.split("_")) + "Function"
        assert function.properties["Handler"] == f"dropmill.steps.{step}.handler"


def test_the_machine_may_call_exactly_the_functions_it_calls(
    machine_id: str, machine: Scope, state_machines: dict[str, dict[str, Any]]
) -> None:
    called = {function_of(state) + "Function" for _, state in tasks_of(machine)}
    statements = [s for policy in state_machines[machine_id]["Policies"] for s in policy["Statement"]]
    (allowed,) = [s["Resource"] for s in statements if s["Action"] == "lambda:InvokeFunction"]
    assert sorted(resource["Fn::GetAtt"][0] for resource in allowed) == sorted(called)


def test_every_task_sends_what_its_step_takes(machine: Scope, functions: dict[str, Any]) -> None:
    for name, _ in tasks_of(machine):
        payload = payload_of(name, machine)
        assert payload is not None, f"{name} sends its whole input"
        fields: dict[str, Any] = functions[snake(name)].types["request"].model_fields
        sent = {key.removesuffix(".$") for key in payload}
        assert sent <= fields.keys(), name
        assert {field for field, info in fields.items() if info.is_required()} <= sent, name


LATER_FIELDS = {"model": "Create Model"}
"""Results to which later states add, and whose they are."""


def test_every_path_leads_to_a_result(machine_id: str, machine: Scope, functions: dict[str, Any]) -> None:
    """`$.model.model` needs a state whose ResultPath is `$.model` and whose answer has a field `model`."""
    results: dict[str, set[str]] = {name: set() for name in MACHINES[machine_id].model_fields}
    for name, state in machine["States"].items():
        if state["Type"] == "Task":
            answer: Any = ANSWERS[name] if state["Resource"] == WAITS else functions[snake(name)].types["return"]
            assert state.get("ResultPath", "$") != "$", f"the answer of {name} replaces the whole state"
            head, _, field = state["ResultPath"][2:].partition(".")
            if field:
                model, kept = results[head], functions[snake(LATER_FIELDS[head])].types["return"].model_fields[field]
                assert field in model
                assert answer in get_args(kept.annotation), (
                    f"{name} writes another {field} than {LATER_FIELDS[head]} has"
                )
            else:
                results[head] = set(answer.model_fields)
        elif state["Type"] == "Pass":
            given = state.get("Result", state.get("Parameters", {}))
            results[state["ResultPath"][2:]] = {key.removesuffix(".$") for key in given}
    for name, state in machine["States"].items():
        paths = [state.get("ItemsPath", ""), state.get("MaxConcurrencyPath", "")]
        paths += [rule["Variable"] for rule in state.get("Choices", [])]
        if state["Type"] == "Task":
            paths += strings(payload_of(name, machine))
        for path in paths:
            if path.startswith("$."):
                head, _, field = path[2:].partition(".")
                assert head in results, f"{name} reads {path}"
                assert not field or field in results[head], f"{name} reads {path}"


def test_the_template_bounds_how_much_is_converted_at_once(template: dict[str, Any], functions: dict[str, Any]) -> None:
    """The parameter becomes a variable, and that a result of Inspect Drop, which the Map takes its bound from."""
    parameter = template["Parameters"]["ConversionConcurrency"]
    assert functions["inspect_drop"].variables["CONVERSION_CONCURRENCY"] == {"Ref": "ConversionConcurrency"}
    bounds = InspectedDrop.model_json_schema()["properties"]["concurrency"]
    assert (bounds["minimum"], bounds["maximum"]) == (parameter["MinValue"], parameter["MaxValue"])
    assert bounds["minimum"] <= parameter["Default"] <= bounds["maximum"]


def test_schedules_parse(functions: dict[str, Any]) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    expressions = [
        event["Properties"]["Schedule"]
        for function in functions.values()
        for event in function.properties.get("Events", {}).values()
        if event["Type"].startswith("Schedule")
    ]
    assert expressions
    for expression in expressions:
        assert schedules.parse(expression, start=now).after(now) is not None


def test_scoring_is_timed_by_the_parameters(template: dict[str, Any]) -> None:
    parameters = template["Parameters"]
    timer = template["Resources"]["ScoringTimer"]["Properties"]
    expression, zone = parameters["ScoringSchedule"]["Default"], parameters["ScoringTimeZone"]["Default"]
    now = datetime(2026, 1, 1, 12, tzinfo=UTC)
    assert schedules.parse(expression, start=now, zone=zone).after(now) == datetime(2026, 1, 2, 3, tzinfo=UTC)
    assert timer["ScheduleExpression"] == {"Ref": "ScoringSchedule"}
    assert timer["ScheduleExpressionTimezone"] == {"Ref": "ScoringTimeZone"}
    for kind, name in (("ScoringSchedule", expression), ("ScoringTimeZone", "America/Argentina/Buenos_Aires")):
        assert re.fullmatch(parameters[kind]["AllowedPattern"], name)
    request = json.loads(timer["Target"]["Input"].replace("<aws.scheduler.scheduled-time>", "2026-01-02T03:00:00Z"))
    assert ScoringRequest.model_validate(request) == ScoringRequest(scheduled_time=datetime(2026, 1, 2, 3, tzinfo=UTC))
