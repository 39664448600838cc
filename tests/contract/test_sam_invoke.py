"""Which functions are run by `sam local invoke`, in which order, and on which events."""

import json
from pathlib import Path
from typing import Any

import pytest

from dropmill import naming
from tools.sam import __main__ as command
from tools.sam import build, engine, invoke
from tools.sam.chain import CALLS, EVENTS, STACK, Call, Unproved, World

OF_A_BATCH = sorted((EVENTS / "scoring").glob("*.json"))


def test_every_function_is_invoked_on_its_own_event(functions: dict[str, Any]) -> None:
    assert {call.event for call in CALLS} >= functions.keys()
    assert {call.step for call in CALLS} == functions.keys() == {function.step for function in build.functions()}


def test_every_event_is_used_and_is_what_its_function_takes(functions: dict[str, Any]) -> None:
    assert {call.file for call in CALLS} == set(EVENTS.rglob("*.json"))
    for call in CALLS:
        event = json.loads(call.file.read_text())
        functions[call.step].types["request"].model_validate(call.adapt(event) if call.adapt else event)


def test_a_call_waits_for_earlier_ones_only() -> None:
    names = [call.name for call in CALLS]
    assert len(set(names)) == len(names)
    for index, call in enumerate(CALLS):
        assert set(call.after) <= set(names[:index]), call.name


@pytest.mark.parametrize(("workflow", "prefix"), [("TrainStateMachine", ""), ("ScoreStateMachine", "scoring/")])
def test_the_order_is_that_of_the_workflows(workflow: str, prefix: str, workflows: dict[str, Any]) -> None:
    """What a state needs has been done: of two states in a row, the later one's function never has to come first."""
    before: dict[str, set[str]] = {}
    for call in CALLS:
        before[call.name] = set(call.after).union(*(before[name] for name in call.after))

    def name(state: str) -> str:
        step = state.lower().replace(" ", "_")
        return f"{prefix}{step}" if f"{prefix}{step}" in before else step

    states = workflows[workflow]["States"]
    pairs = [(name(state), name(told["Next"])) for state, told in states.items() if "Next" in told]
    known = [(first, then) for first, then in pairs if first in before and then in before]
    assert len(known) >= 3
    for first, then in known:
        assert then not in before[first], f"{then} comes before {first}"


@pytest.mark.parametrize("file", OF_A_BATCH, ids=lambda file: file.stem)
def test_the_scoring_events_are_about_the_batch(file: Path, events: dict[str, Any]) -> None:
    batch, recipe = events["claim_files"]["run_id"], events["claim_files"]["recipe"]
    event = json.loads(file.read_text())
    assert event["run_id"] == batch
    model = naming.sagemaker_name("dropmill-local", recipe, batch, "model", 1)
    model = naming.sagemaker_name(STACK, recipe, batch, "model", 1)
    assert event.get("model", model) == model
    assert event.get("rows", "batch") == "batch"


class _Sam:
    """Answers without a container; the functions named raise."""

    def __init__(self, *raising: str) -> None:
        self.raising = raising
        self.asked: list[str] = []

    def invoke(self, call: Call) -> invoke.Answer:
        self.asked.append(call.name)
        if call.step in self.raising:
            raise invoke.Raised("InvalidDrop", "row 7")
        return invoke.Answer(None, 1.0, 0.5)


def seen(_world: World, _answer: Any) -> str:
    return "seen"


def not_seen(_world: World, _answer: Any) -> str:
    raise Unproved("nothing came of it")


def table(sam: _Sam, *calls: Call) -> list[invoke.Outcome]:
    world = World("http://127.0.0.1:1")
    return invoke.run(sam, world, lambda _: None, calls)  # type: ignore[arg-type]  # it has the one method that is used


def test_a_function_that_raises_or_leaves_nothing_is_not_proved_and_nothing_comes_after_it() -> None:
    later = Call("tear_down", seen, ("inspect_drop",))
    sam = _Sam("inspect_drop")
    first, second = table(sam, Call("inspect_drop", seen), later)
    assert (first.proved, first.words) == (False, "InvalidDrop: row 7")
    assert (second.proved, second.words) == (False, "not invoked")
    assert sam.asked == ["inspect_drop"]
    first, second = table(_Sam(), Call("inspect_drop", not_seen), later)
    assert (first.proved, first.words, second.words) == (False, "nothing came of it", "not invoked")
    first, second = table(_Sam(), Call("inspect_drop", seen), later)
    assert first.proved
    assert second.proved


def test_what_was_not_invoked_is_said_and_fails() -> None:
    image = engine.Image("lambda:3.13", "0123456789ab", "a stand-in made here")
    done = [invoke.Outcome(Call("inspect_drop", seen), True, "seen", 2.0, 0.5)]
    assert invoke.Proof(image, done, [], 3.0).whole
    proof = invoke.Proof(image, done, ["tear_down"], 3.0)
    assert not proof.whole
    assert proof.document()["unproved"] == ["tear_down"]
    assert "functions  1 of 2" in proof.table()
    assert "not proved tear_down" in proof.table()


def test_where_no_engine_can_be_had_it_is_said_loudly_and_fails_unless_it_may_be_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def prove(_said: object) -> None:
        raise build.Missing("no Docker engine is installed")

    monkeypatch.setattr(invoke, "prove", prove)
    monkeypatch.setattr(command, "SKIPPED", tmp_path / "skipped")
    assert command.main(["invoke"]) == 1
    assert not (tmp_path / "skipped").exists()
    assert command.main(["invoke", "--may-skip"]) == 0
    assert "no Docker engine is installed" in (tmp_path / "skipped").read_text()
    assert "SKIPPED: no function was run" in capsys.readouterr().err
