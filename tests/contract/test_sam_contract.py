"""What `sam build` makes of the template, and what CloudFormation gets."""

import importlib.util
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tools.sam import build

IMPORT = """
import importlib, json, sys
sys.path[:] = [path for path in sys.path if "site-packages" not in path] + json.loads(sys.argv[1])
for name in sys.argv[2:]:
    assert callable(importlib.import_module(name).handler), name
"""


def test_every_function_and_layer_is_built_within_lambda_s_limit(built: Path, functions: dict[str, Any]) -> None:
    sizes = build.sizes(built)
    assert {one.function.step for one in sizes} == functions.keys()
    assert [one.total for one in sizes] == sorted((one.total for one in sizes), reverse=True)
    assert sizes[0].own < sizes[0].total < build.UNZIPPED_MAX
    largest, *_ = [line for line in build.table_of_sizes(sizes).splitlines() if "MB" in line]
    assert largest.startswith(f"{sizes[0].function.logical_id} ")
    assert largest.endswith("<- the largest")


def test_what_sam_build_leaves_out_is_noticed(built: Path, tmp_path: Path) -> None:
    """SAM CLI ends well without a function whose folder it does not find."""
    for folder in built.iterdir():
        if folder.name != "InspectDropFunction":
            (tmp_path / folder.name).symlink_to(folder)
    with pytest.raises(build.BuildFailed, match="left InspectDropFunction out"):
        build.sizes(tmp_path)


def test_what_is_built_imports_on_the_lambda_runtime_s_interpreter(
    built: Path, runtime: str, functions: dict[str, Any], tmp_path: Path
) -> None:
    """The locked wheels themselves, without boto3, which the Lambda runtime brings: it is linked from here."""
    for name in ("boto3", "botocore", "dateutil", "s3transfer", "six", "urllib3"):
        found = importlib.util.find_spec(name)
        assert found is not None and found.origin is not None
        origin = Path(found.origin)
        source = origin.parent if origin.name == "__init__.py" else origin
        (tmp_path / source.name).symlink_to(source)
    groups: dict[tuple[str, ...], list[Any]] = {}
    for function in functions.values():
        groups.setdefault(tuple(function.layers), []).append(function)
    for layers, members in groups.items():
        path = [built / members[0].logical_id, *(built / layer / "python" for layer in layers), tmp_path]
        done = subprocess.run(
            [
                *(runtime, "-I", "-S", "-B", "-c", IMPORT, json.dumps([str(folder) for folder in path])),
                *(function.module for function in members),
            ],
            env=os.environ | {"MPLCONFIGDIR": str(tmp_path / "matplotlib")},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr


def test_cloudformation_gets_a_clean_template(root: Path, tmp_path: Path) -> None:
    """The translated template shows what hides in the SAM one: references to nothing, limits, circles."""
    from cfnlint import api, config  # type: ignore[import-untyped]  # it ships no types

    from localaws.template import translate

    translated = json.dumps(translate(root / "template.yaml"))
    found = api.lint(translated, config=config.ManualArgs(regions=["us-east-1"]))
    assert [str(match) for match in found] == []

    broken = json.loads(translated)
    broken["Resources"]["InspectDropFunction"]["Properties"]["Timeout"] = 901
    assert api.lint(json.dumps(broken), config=config.ManualArgs(regions=["us-east-1"]))
