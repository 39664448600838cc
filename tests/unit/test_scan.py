"""What the scanners are given, and what is made of what they find."""

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("scan_check", ROOT / "tools" / "scan" / "check.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TEMPLATE: dict[str, Any] = {
    "Parameters": {"Key": {"Type": "String", "Default": ""}},
    "Conditions": {"HasKey": {"Fn::Not": [{"Fn::Equals": [{"Ref": "Key"}, ""]}]}},
    "Resources": {
        "Topic": {
            "Type": "AWS::SNS::Topic",
            "Properties": {"KmsMasterKeyId": {"Fn::If": ["HasKey", {"Ref": "Key"}, {"Ref": "AWS::NoValue"}]}},
        },
        "Mail": {"Type": "AWS::SNS::Subscription", "Condition": "HasKey", "Properties": {"TopicArn": {"Ref": "Topic"}}},
        "Queues": {"Type": "X", "Properties": {"List": [{"Fn::If": ["HasKey", 1, {"Ref": "AWS::NoValue"}]}, 2]}},
    },
    "Outputs": {"Key": {"Condition": "HasKey", "Value": {"Ref": "Key"}}},
}


def test_conditions_are_decided(check: ModuleType) -> None:
    off = check.decided(TEMPLATE, {})
    assert off["Resources"]["Topic"]["Properties"] == {}
    assert off["Resources"]["Queues"]["Properties"] == {"List": [2]}
    assert off["Resources"].keys() == {"Topic", "Queues"}
    assert off["Outputs"] == {}
    on = check.decided(TEMPLATE, {"Key": "k"})
    assert on["Resources"]["Topic"]["Properties"] == {"KmsMasterKeyId": {"Ref": "Key"}}
    assert on["Resources"]["Mail"] == {"Type": "AWS::SNS::Subscription", "Properties": {"TopicArn": {"Ref": "Topic"}}}
    assert on["Resources"]["Queues"]["Properties"] == {"List": [1, 2]}


def test_the_options_decide_every_condition_of_the_template_both_ways(check: ModuleType) -> None:
    template = check.translate(ROOT / "template.yaml")
    truths: dict[str, set[bool]] = {}
    for parameters in check.OPTIONS.values():
        resolver = check.Resolver(template, parameters=parameters, stack_name="s", region="us-east-1", account_id="1")
        for name in template["Conditions"]:
            truths.setdefault(name, set()).add(resolver.condition(name))
    # A key is made or given, and it is the same to whatever uses it.
    assert {name for name, values in truths.items() if len(values) < 2} == {"GivenKey"}


def test_workflows_are_whole_when_the_validator_gets_them(check: ModuleType) -> None:
    texts = dict(check.definitions(check.translate(ROOT / "template.yaml")))
    assert texts.keys() == {"TrainStateMachine", "ScoreStateMachine"}
    for text in texts.values():
        assert "${" not in text
        assert "arn:aws:lambda:us-east-1:123456789012:function:" in text


def finding(name: str, resource: str, description: str = "why") -> dict[str, str]:
    return {"name": name, "resource": resource, "description": description}


def test_only_what_no_exception_covers_is_left(check: ModuleType) -> None:
    found = check.parse_findings(
        [
            finding("AwsSolutions-IAM5[Resource::*]", "JobRole"),
            finding("AwsSolutions-IAM5[Resource::*]", "OtherRole"),
            finding("AwsSolutions-IAM5[Action::s3:*]", "JobRole"),
            finding("AwsSolutions-S1", "Drops"),
        ]
    )
    excepted = check.Excepted(rule="AwsSolutions-IAM5", detail=r"Resource::\*", resources="JobRole", reason="r")
    idle = check.Excepted(rule="AwsSolutions-S1", resources="Artifacts", reason="r")
    left, unneeded = check.judge(found, [excepted, idle])
    assert [(one.rule, one.detail, one.resource) for one in left] == [
        ("AwsSolutions-S1", "", "Drops"),
        ("AwsSolutions-IAM5", "Action::s3:*", "JobRole"),
        ("AwsSolutions-IAM5", "Resource::*", "OtherRole"),
    ]
    assert unneeded == [idle]


def test_a_rule_that_could_not_be_applied_is_no_exception_s(check: ModuleType) -> None:
    found = check.parse_findings([finding("AwsSolutions-S1", "Drops", "Rule threw an error during validation.")])
    left, _ = check.judge(found, [check.Excepted(rule="AwsSolutions-S1", reason="r")])
    assert [one.detail for one in left] == ["could not be applied"]


def test_every_exception_has_a_reason(check: ModuleType) -> None:
    exceptions = check.read_exceptions()
    assert exceptions
    for one in exceptions:
        assert len(one.reason.split()) > 1
        re.compile(one.detail)
        re.compile(one.resources)


@pytest.mark.parametrize("tool", ["cdk-nag", "asl-validator"])
def test_locks_hold_digests_and_no_registry(tool: str) -> None:
    text = (ROOT / "tools" / "scan" / tool / "package-lock.json").read_text()
    packages = json.loads(text)["packages"]
    assert all("integrity" in one or one.get("inBundle") for path, one in packages.items() if path)
    assert '"resolved"' not in text
    wanted = json.loads((ROOT / "tools" / "scan" / tool / "package.json").read_text())["dependencies"]
    assert {name: packages[f"node_modules/{name}"]["version"] for name in wanted} == wanted
