"""The longest names fit, and the template gives each function what its code reads."""

import ast
import importlib
import re
from functools import cache
from pathlib import Path
from typing import Any, get_args

import boto3
import pytest

from dropmill import leases, naming, recipe

LONGEST_RECIPE = "a" * recipe.RECIPE_NAME_MAX
LONGEST_RUN = naming.run_id(LONGEST_RECIPE, "bucket", "drops/x/y", "v", "text", rerun=999_999)
AWKWARD_RECIPES = [LONGEST_RECIPE, "a", "0", "a-b-c-d-e-f-g", "abcdefgh-i", "linear-learner", "1" * 40]

SHAPES = {
    "training": ("CreateTrainingJob", "TrainingJobName"),
    "tuning": ("CreateHyperParameterTuningJob", "HyperParameterTuningJobName"),
    "transform": ("CreateTransformJob", "TransformJobName"),
    "champion-transform": ("CreateTransformJob", "TransformJobName"),
    "model": ("CreateModel", "ModelName"),
    "champion-model": ("CreateModel", "ModelName"),
    "endpoint-config": ("CreateEndpointConfig", "EndpointConfigName"),
    "endpoint": ("CreateEndpoint", "EndpointName"),
}

# Lambda itself gives these to every function.
GIVEN_BY_LAMBDA = {"AWS_REGION"}

READS = {"setting", "optional_setting"}


@pytest.fixture(scope="module")
def shapes() -> Any:
    return boto3.client(
        "sagemaker", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x"
    ).meta.service_model


def test_every_step_with_a_name_is_looked_at() -> None:
    assert SHAPES.keys() == set(get_args(naming.Step))


@pytest.mark.parametrize("step", get_args(naming.Step))
@pytest.mark.parametrize("name", AWKWARD_RECIPES)
def test_the_longest_sagemaker_name_fits(step: naming.Step, name: str, shapes: Any) -> None:
    operation, member = SHAPES[step]
    shape = shapes.operation_model(operation).input_shape.members[member]
    for attempt in (1, 99):
        built = naming.sagemaker_name("s" * 128, name, LONGEST_RUN, step, attempt)
        assert len(built) <= naming.SAGEMAKER_NAME_MAX <= shape.metadata["max"]
        assert re.fullmatch(shape.metadata["pattern"], built), built


def test_the_longest_run_is_an_execution_name_and_a_run_id() -> None:
    execution_name_max = 80  # https://docs.aws.amazon.com/step-functions/latest/apireference/API_StartExecution.html
    assert len(LONGEST_RUN) <= execution_name_max
    assert re.fullmatch(r"[a-z0-9](-?[a-z0-9])*", LONGEST_RUN)


def test_the_longest_keys_fit_s3() -> None:
    keys = [
        naming.part_file_key(LONGEST_RUN, "validation", 99_999),
        f"{naming.model_prefix(LONGEST_RECIPE, LONGEST_RUN)}/{'j' * 63}/output/model.tar.gz",
    ]
    assert max(map(len, keys)) <= 1024


def test_the_proof_time_covers_every_launcher(functions: dict[str, Any]) -> None:
    for step in ("launch_training", "launch_tuning", "create_model", "deploy_endpoint"):
        assert functions[step].timeout <= leases.LAUNCHER_TIMEOUT_SECONDS, step


class Code:
    """What a function of the package uses, followed by name through the package's own modules."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @cache  # noqa: B019  one object, as long as the test session
    def module(self, name: str) -> tuple[dict[str, ast.stmt], dict[str, str]] | None:
        """A module's top-level definitions, and the dotted names that its imports stand for."""
        path = self._root / Path(*name.split("."))
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if not file.is_file():
            return None
        definitions: dict[str, ast.stmt] = {}
        imports: dict[str, str] = {}
        for statement in ast.parse(file.read_text()).body:
            if isinstance(statement, ast.ImportFrom):
                imports |= {a.asname or a.name: f"{statement.module}.{a.name}" for a in statement.names}
            elif isinstance(statement, ast.FunctionDef | ast.ClassDef):
                definitions[statement.name] = statement
            elif isinstance(statement, ast.Assign | ast.AnnAssign):
                for target in statement.targets if isinstance(statement, ast.Assign) else [statement.target]:
                    if isinstance(target, ast.Name):
                        definitions[target.id] = statement
        return definitions, imports

    def settings(self, module: str, name: str, seen: set[tuple[str, str]] | None = None) -> set[str]:
        """The settings that a definition reads, by itself or by what it uses."""
        seen = set() if seen is None else seen
        known = self.module(module)
        if known is None or (module, name) in seen:
            return set()
        seen.add((module, name))
        definitions, imports = known
        if name in imports:
            owner, _, member = imports[name].rpartition(".")
            return self.settings(owner, member, seen)
        found: set[str] = set()
        for node in ast.walk(definitions[name]) if name in definitions else ():
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in READS:
                (argument,) = node.args
                assert isinstance(argument, ast.Constant), f"{module}: {node.func.id}() needs a literal name"
                found.add(str(argument.value))
            elif isinstance(node, ast.Name):
                found |= self.settings(module, node.id, seen)
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in imports:
                found |= self.settings(imports[node.value.id], node.attr, seen)
        return found


def test_each_function_is_given_the_settings_that_its_code_reads(root: Path, functions: dict[str, Any]) -> None:
    code = Code(root / "functions")
    read: set[str] = set()
    for step, function in functions.items():
        wanted = {name.upper() for name in code.settings(function.module, step)}
        read |= wanted
        missing = wanted - function.variables.keys() - GIVEN_BY_LAMBDA
        assert not missing, f"{function.logical_id} reads {missing}, which the template does not declare"
    assert {"ARTIFACT_BUCKET", "JOB_ROLE_ARN", "LEDGER_TABLE", "NOTIFICATION_TOPIC_ARN", "STATE_MACHINE_ARN"} <= read
    own = {name for function in functions.values() for name in function.properties["Environment"]["Variables"]}
    settings = {name.upper() for name in importlib.import_module("dropmill.settings").Settings.__dataclass_fields__}
    assert not (own & settings) - read, "the template declares settings that nothing reads"
    assert settings <= read | GIVEN_BY_LAMBDA, "settings.py has settings that nothing reads"


def test_no_function_is_given_a_setting_that_it_does_not_read(
    root: Path, functions: dict[str, Any], template: dict[str, Any]
) -> None:
    code = Code(root / "functions")
    shared = template["Globals"]["Function"]["Environment"]["Variables"].keys()
    settings = {name.upper() for name in importlib.import_module("dropmill.settings").Settings.__dataclass_fields__}
    for step, function in functions.items():
        wanted = {name.upper() for name in code.settings(function.module, step)}
        idle = (function.variables.keys() & settings) - shared - wanted
        assert not idle, f"{function.logical_id} is given {idle}, which it does not read"
