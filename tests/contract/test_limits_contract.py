"""What CloudFormation would refuse of the translated template for its size or number, at the longest names."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from dropmill import naming
from localaws.template import translate

KB = 1024

STACK_NAME_MAX = naming.PACKAGE_GROUP_MAX - 1 - 12
"""Of a longer one no model package group can be named; see `dropmill.naming.package_group`."""

# The longest that stands for what is known at deployment only.
LONGEST = {
    "AWS::StackName": "s" * STACK_NAME_MAX,
    "AWS::Partition": "aws-us-gov",
    "AWS::Region": "ap-southeast-1",
    "AWS::AccountId": "1" * 12,
    "AWS::URLSuffix": "amazonaws.com.cn",
    "AWS::NoValue": "",
}
LONGEST_ARN = "a" * 160
LONGEST_NAME = "n" * 64
VARIABLE = re.compile(r"\$\{([^!}]+)\}")


def longest(value: Any) -> Any:
    """The value with every intrinsic function at its longest; of a choice the longer branch."""
    if isinstance(value, list):
        return [longest(one) for one in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((name, argument),) = value.items()
        match name:
            case "Ref":
                return LONGEST.get(argument, LONGEST_ARN)
            case "Fn::GetAtt" | "Fn::ImportValue" | "Fn::Select":
                return LONGEST_ARN
            case "Fn::Sub":
                text, given = (argument, {}) if isinstance(argument, str) else argument
                return VARIABLE.sub(lambda found: _variable(found[1], given), text)
            case "Fn::Join":
                return argument[0].join(map(str, longest(argument[1])))
            case "Fn::If":
                return max(map(longest, argument[1:]), key=lambda one: len(json.dumps(one)))
    return {key: longest(one) for key, one in value.items()}


def _variable(name: str, given: dict[str, Any]) -> str:
    if name in given:
        return str(longest(given[name]))
    return LONGEST.get(name, LONGEST_ARN if "." in name else LONGEST_NAME)


@pytest.fixture(scope="module")
def translated(root: Path) -> dict[str, Any]:
    return dict(translate(root / "template.yaml"))


@pytest.fixture(scope="module")
def resources(translated: dict[str, Any]) -> dict[str, tuple[str, dict[str, Any]]]:
    return {
        name: (resource["Type"], longest(resource.get("Properties", {})))
        for name, resource in translated["Resources"].items()
    }


def of(resources: dict[str, tuple[str, dict[str, Any]]], kind: str) -> dict[str, dict[str, Any]]:
    found = {name: properties for name, (kind_, properties) in resources.items() if kind_ == kind}
    assert found, f"the template has no {kind}"
    return found


def letters(policy: Any) -> int:
    """IAM counts no white space."""
    return len(re.sub(r"\s", "", json.dumps(policy)))


def test_the_template_itself(translated: dict[str, Any]) -> None:
    # https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/cloudformation-limits.html
    assert len(json.dumps(translated).encode()) <= 1024 * KB
    assert len(translated["Resources"]) <= 500
    assert len(translated.get("Parameters", {})) <= 200
    assert len(translated.get("Outputs", {})) <= 200
    assert len(translated.get("Mappings", {})) <= 200
    assert len(translated["Description"].encode()) <= 1024
    for name, parameter in translated["Parameters"].items():
        assert len(parameter.get("Description", "")) <= 4000, name
    for name in [*translated["Resources"], *translated["Parameters"], *translated["Outputs"]]:
        assert len(name) <= 255


def test_policies(resources: dict[str, tuple[str, dict[str, Any]]]) -> None:
    # https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html
    for name, role in of(resources, "AWS::IAM::Role").items():
        inline = sum(letters(policy["PolicyDocument"]) for policy in role.get("Policies", []))
        assert inline <= 10_240, f"{name} has {inline} characters of inline policies"
        assert letters(role["AssumeRolePolicyDocument"]) <= 2048, name
        assert len(role.get("ManagedPolicyArns", [])) <= 10, name
        assert len(role.get("Description", "")) <= 1000, name
    for name, policy in of(resources, "AWS::IAM::ManagedPolicy").items():
        assert letters(policy["PolicyDocument"]) <= 6144, name
    for kind, most in (
        ("AWS::S3::BucketPolicy", 20 * KB),
        ("AWS::SQS::QueuePolicy", 8 * KB),
        ("AWS::KMS::Key", 32 * KB),
    ):
        for name, properties in of(resources, kind).items():
            assert len(json.dumps(properties.get("PolicyDocument", properties.get("KeyPolicy")))) <= most, name


def test_functions(resources: dict[str, tuple[str, dict[str, Any]]]) -> None:
    # https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html
    for name, function in of(resources, "AWS::Lambda::Function").items():
        variables = function["Environment"]["Variables"]
        assert len(json.dumps(variables).encode()) <= 4 * KB, name
        # A new account's functions may have no more than this until it has been used for a while.
        assert 128 <= function["MemorySize"] <= 3008, name
        assert 1 <= function["Timeout"] <= 900, name
        assert len(function.get("Layers", [])) <= 5, name
        assert len(function.get("Description", "")) <= 256, name


def test_rules_and_schedules(resources: dict[str, tuple[str, dict[str, Any]]]) -> None:
    # https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-quota.html
    for name, rule in of(resources, "AWS::Events::Rule").items():
        assert len(json.dumps(rule.get("EventPattern", {}), separators=(",", ":"))) <= 2048, name
        assert len(rule.get("Targets", [])) <= 5, name
        assert len(rule.get("Description", "")) <= 512, name


def test_alarms_and_groups(resources: dict[str, tuple[str, dict[str, Any]]]) -> None:
    # https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/cloudwatch_limits.html
    for name, alarm in of(resources, "AWS::CloudWatch::Alarm").items():
        assert len(alarm.get("AlarmName", "")) <= 255, name
        assert len(alarm.get("AlarmDescription", "")) <= 1024, name
        for metric in alarm.get("Metrics", []):
            assert len(metric.get("Expression", "")) <= 1024, name
        assert len(alarm.get("Dimensions", [])) <= 30, name
    for name, group in of(resources, "AWS::Logs::LogGroup").items():
        assert len(group.get("LogGroupName", "")) <= 512, name
    for name, layer in of(resources, "AWS::Lambda::LayerVersion").items():
        assert len(layer.get("LayerName", "")) <= 140, name


def test_definitions(root: Path) -> None:
    # https://docs.aws.amazon.com/step-functions/latest/dg/service-quotas.html
    for file in (root / "statemachine").glob("*.asl.json"):
        assert len(file.read_bytes()) <= 1024 * KB // 2, f"{file.name} has no room for what is substituted"


def states(definition: dict[str, Any]) -> list[dict[str, Any]]:
    found = [*definition["States"].values()]
    return found + [one for state in found if "ItemProcessor" in state for one in states(state["ItemProcessor"])]


@pytest.mark.parametrize("file", ["train.asl.json", "score.asl.json"])
def test_calls_that_an_account_s_concurrency_throttles_are_tried_for_half_an_hour(root: Path, file: str) -> None:
    """A new account runs ten functions at once, and a Map asks for forty, each of which may take minutes."""
    for state in states(json.loads((root / "statemachine" / file).read_text())):
        if state["Type"] != "Task" or "lambda" not in state["Resource"].lower():
            continue
        rule = next(one for one in state["Retry"] if "Lambda.TooManyRequestsException" in one["ErrorEquals"])
        interval, waited = float(rule["IntervalSeconds"]), 0.0
        for _ in range(rule["MaxAttempts"]):
            waited += min(interval, rule["MaxDelaySeconds"])
            interval *= rule["BackoffRate"]
        assert waited / 2 >= 1800, "with full jitter half of it is waited, on average"
