"""SAM CLI's profiles name what the template has, with values that it takes."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from localaws.template import parameter_values, translate

ROOT = Path(__file__).parents[2]
CONFIG = tomllib.loads((ROOT / "samconfig.toml").read_text())
PROFILES = [name for name in CONFIG if name != "version"]


def options(profile: str, command: str) -> dict[str, Any]:
    found: dict[str, Any] = CONFIG[profile].get(command, {}).get("parameters", {})
    return found


def overrides(profile: str) -> dict[str, str]:
    items = options(profile, "deploy").get("parameter_overrides", ())
    return {name: value for name, _, value in (item.partition("=") for item in items)}


def test_the_profiles() -> None:
    assert PROFILES == ["default", "dev", "prod", "local"]


@pytest.mark.parametrize("profile", PROFILES)
def test_its_parameters_are_the_template_s(profile: str) -> None:
    assert parameter_values(translate(ROOT / "template.yaml")["Parameters"], overrides(profile))
    assert options(profile, "validate")["lint"]


def test_what_deploys_is_told_apart_and_may_make_roles() -> None:
    names = [options(profile, "global").get("stack_name") for profile in PROFILES]
    assert names == ["dropmill", "dropmill-dev", "dropmill-prod", None]
    for profile in ("default", "dev", "prod"):
        deploy = options(profile, "deploy")
        assert (deploy["capabilities"], deploy["resolve_s3"]) == ("CAPABILITY_IAM", True)
    assert not options("local", "deploy")
    assert options("default", "deploy")["confirm_changeset"]
    assert options("prod", "deploy")["confirm_changeset"]
