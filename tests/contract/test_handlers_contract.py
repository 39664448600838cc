"""Each handler imports with nothing but its own requirements, its layers, and what the Lambda runtime brings.

The embedded cloud's workers share one environment, which would hide a missing requirement. Here each handler is
imported by an interpreter that sees only the distributions that the function's own lock files name, linked from this
environment: the same names, no download.
"""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

RUNTIME = ["boto3", "botocore", "python-dateutil", "s3transfer", "six", "urllib3"]
"""What the Lambda runtime brings: boto3 and what it needs, but for jmespath, which is locked with the functions."""

STEPS = [
    "audit_resources",
    "claim_files",
    "close_run",
    "convert_rows",
    "convert_shard",
    "create_model",
    "deploy_endpoint",
    "evaluate_model",
    "follow_approval",
    "inspect_drop",
    "judge_model",
    "launch_training",
    "launch_transform",
    "launch_tuning",
    "publish_predictions",
    "register_model",
    "resume_task",
    "seal_batch",
    "seal_dataset",
    "start_run",
    "start_scoring",
    "sweep_leases",
    "tear_down",
]
WITH_LAYERS = {"claim_files", "convert_rows", "convert_shard", "evaluate_model", "inspect_drop", "publish_predictions"}

PROGRAM = """
import json, sys, time
sys.path[:] = [p for p in sys.path if "site-packages" not in p] + json.loads(sys.argv[1])
import boto3, pydantic, aws_lambda_powertools, aws_lambda_powertools.metrics
boto3.client("s3", region_name="us-east-1")
before = time.process_time()
module = __import__(sys.argv[2], fromlist=["handler"])
print(json.dumps({
    "callable": callable(module.handler),
    "milliseconds": round((time.process_time() - before) * 1000),
    "file": module.__file__,
    "modules": sorted({name.partition(".")[0] for name in sys.modules}),
}))
"""


def names_in(lock: Path) -> list[str]:
    return re.findall(r"^([A-Za-z0-9._-]+)==", lock.read_text(), re.MULTILINE)


def link(names: Iterable[str], folder: Path) -> None:
    """Fill a folder with links to the top-level files and folders of installed distributions."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        distribution = metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or [] if file.parts[0] != ".."}:
            target = folder / top
            if not target.exists():
                target.symlink_to(Path(str(distribution.locate_file(top))).resolve())


def import_handler(module: str, folders: list[Path], *, environment: dict[str, str]) -> dict[str, Any]:
    """Import a handler in a process of its own; `-I -S`: no site-packages, nothing from the environment."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-B", "-c", PROGRAM, json.dumps([str(folder) for folder in folders]), module],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.fixture(scope="module")
def folders(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What a function sees, by its source: the code, the requirements of all functions, each layer."""
    base = tmp_path_factory.mktemp("lambda")
    link([*names_in(root / "functions/requirements.txt"), *RUNTIME], base / "functions")
    for layer in ("data", "pictures"):
        link(names_in(root / f"layers/{layer}/requirements.txt"), base / layer)
    return {"code": root / "functions"} | {name: base / name for name in ("functions", "data", "pictures")}


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """No variable of a stack is set: a handler must import without them."""
    return {
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_LAMBDA_FUNCTION_NAME": "function",
        "MPLCONFIGDIR": str(tmp_path_factory.mktemp("matplotlib")),
    }


def visible(function: Any, template: dict[str, Any], folders: dict[str, Path]) -> list[Path]:
    uris = [template["Resources"][layer]["Properties"]["ContentUri"] for layer in function.layers]
    return [folders["code"], folders["functions"], *(folders[Path(uri).name] for uri in uris)]


def test_every_function_is_looked_at(functions: dict[str, Any]) -> None:
    assert functions.keys() == set(STEPS)
    assert {step for step, function in functions.items() if function.layers} == WITH_LAYERS


@pytest.mark.parametrize("step", STEPS)
def test_a_handler_imports_with_only_what_it_is_given(
    step: str,
    functions: dict[str, Any],
    template: dict[str, Any],
    folders: dict[str, Path],
    environment: dict[str, str],
    record_property: Callable[[str, object], None],
) -> None:
    function = functions[step]
    imported = import_handler(function.module, visible(function, template, folders), environment=environment)
    assert imported["callable"]
    assert imported["file"] == str(folders["code"] / f"dropmill/steps/{step}.py")
    assert ("numpy" in imported["modules"]) == (step in WITH_LAYERS)
    # A deciding function should add some 100 ms of processor time to what its libraries take; far more is a slip.
    record_property("milliseconds", imported["milliseconds"])
    print(step, imported["milliseconds"], "ms beyond boto3, pydantic and Powertools")  # noqa: T201  seen with -rP
    assert step in WITH_LAYERS or imported["milliseconds"] < 500


def test_a_missing_layer_is_noticed(folders: dict[str, Path], environment: dict[str, str]) -> None:
    with pytest.raises(AssertionError, match="No module named 'numpy'"):
        import_handler("dropmill.steps.convert_shard", [folders["code"], folders["functions"]], environment=environment)
