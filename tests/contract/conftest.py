"""The repository's own files, read once."""

import importlib
import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from localaws.template import load

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class FunctionResource:
    """A function of the template, with the Globals merged in."""

    logical_id: str
    properties: dict[str, Any]

    @property
    def module(self) -> str:
        return str(self.properties["Handler"]).rpartition(".")[0]

    @property
    def step(self) -> str:
        return self.module.rpartition(".")[2]

    @property
    def timeout(self) -> int:
        return int(self.properties["Timeout"])

    @property
    def variables(self) -> dict[str, Any]:
        return dict(self.properties["Environment"]["Variables"])

    @property
    def layers(self) -> list[str]:
        return [layer["Ref"] for layer in self.properties.get("Layers", [])]

    @property
    def types(self) -> dict[str, Any]:
        """The types of the step's one parameter, as `request`, and of its answer, as `return`."""
        function: Callable[..., Any] = getattr(importlib.import_module(self.module), self.step)
        (parameter,) = inspect.signature(function).parameters
        hints = get_type_hints(function)
        return {"request": hints[parameter], "return": hints["return"]}


@pytest.fixture(scope="session")
def template() -> dict[str, Any]:
    return load(ROOT / "template.yaml")


@pytest.fixture(scope="session")
def functions(template: dict[str, Any]) -> dict[str, FunctionResource]:
    """The template's functions by step."""
    shared = template["Globals"]["Function"]
    found = {}
    for logical_id, resource in template["Resources"].items():
        if resource["Type"] == "AWS::Serverless::Function":
            properties = shared | resource["Properties"]
            own = resource["Properties"].get("Environment", {}).get("Variables", {})
            properties["Environment"] = {"Variables": shared["Environment"]["Variables"] | own}
            function = FunctionResource(logical_id, properties)
            found[function.step] = function
    return found


@pytest.fixture(scope="session")
def state_machines(template: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The properties of the template's state machines by logical id."""
    return {
        logical_id: resource["Properties"]
        for logical_id, resource in template["Resources"].items()
        if resource["Type"] == "AWS::Serverless::StateMachine"
    }


@pytest.fixture(scope="session")
def workflows(state_machines: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The state machines' definitions by logical id."""
    return {
        logical_id: json.loads((ROOT / properties["DefinitionUri"]).read_text())
        for logical_id, properties in state_machines.items()
    }


@pytest.fixture(scope="session")
def events() -> dict[str, dict[str, Any]]:
    """The sample payloads by step."""
    return {path.stem: json.loads(path.read_text()) for path in sorted((ROOT / "events").glob("*.json"))}
