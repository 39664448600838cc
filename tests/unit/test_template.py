"""Reading, translating and resolving templates; nothing is deployed here."""

import json
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import pytest
from botocore.session import Session

from localaws import resources
from localaws.resources import Context, FunctionRegistry, Made, TemplateError, fit, substitute
from localaws.template import Resolver, creation_order, load, main, parameter_values, translate


def resolver(
    template: dict[str, Any] | None = None, made: dict[str, Made] | None = None, **parameters: str
) -> Resolver:
    return Resolver(
        template or {},
        parameters=parameters,
        stack_name="stack",
        region="eu-west-1",
        account_id="123456789012",
        made=made,
    )


MADE = {"Drops": Made("stack-drops", {"Arn": "arn:aws:s3:::stack-drops"})}
TEMPLATE: dict[str, Any] = {
    "Parameters": {"Stage": {"Type": "String", "Default": "test"}, "Zones": {"Type": "CommaDelimitedList"}},
    "Mappings": {"Sizes": {"test": {"memory": 128}, "live": {"memory": 512}}},
    "Conditions": {
        "IsTest": {"Fn::Equals": [{"Ref": "Stage"}, "test"]},
        "IsLive": {"Fn::Not": [{"Condition": "IsTest"}]},
        "Both": {"Fn::And": [{"Condition": "IsTest"}, {"Condition": "IsLive"}]},
        "Either": {"Fn::Or": [{"Condition": "IsTest"}, {"Condition": "IsLive"}]},
    },
    "Resources": {"Drops": {"Type": "AWS::S3::Bucket"}},
}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"Ref": "Stage"}, "test"),
        ({"Ref": "Zones"}, ["a", "b"]),
        ({"Ref": "Drops"}, "stack-drops"),
        ({"Ref": "AWS::Region"}, "eu-west-1"),
        ({"Ref": "AWS::Partition"}, "aws"),
        ({"Ref": "AWS::StackName"}, "stack"),
        ({"Fn::GetAtt": ["Drops", "Arn"]}, "arn:aws:s3:::stack-drops"),
        ({"Fn::GetAtt": "Drops.Arn"}, "arn:aws:s3:::stack-drops"),
        ({"Fn::Sub": "${Drops.Arn}/${Stage}/${!Kept}/*"}, "arn:aws:s3:::stack-drops/test/${Kept}/*"),
        ({"Fn::Sub": ["${a}-${Stage}", {"a": {"Ref": "AWS::AccountId"}}]}, "123456789012-test"),
        ({"Fn::Join": ["/", ["a", {"Ref": "Stage"}, 3]]}, "a/test/3"),
        ({"Fn::Split": [",", "x,y"]}, ["x", "y"]),
        ({"Fn::Select": ["1", {"Ref": "Zones"}]}, "b"),
        ({"Fn::FindInMap": ["Sizes", {"Ref": "Stage"}, "memory"]}, 128),
        ({"Fn::If": ["IsTest", "yes", "no"]}, "yes"),
        ({"Fn::If": ["IsLive", "yes", {"Ref": "Stage"}]}, "test"),
        ({"Fn::If": ["Both", "yes", "no"]}, "no"),
        ({"Fn::If": ["Either", "yes", "no"]}, "yes"),
        ({"keep": 1, "lose": {"Ref": "AWS::NoValue"}}, {"keep": 1}),
        ([1, {"Fn::If": ["IsLive", 2, {"Ref": "AWS::NoValue"}]}], [1]),
        # A policy's Condition is no function.
        (
            {"Condition": {"Bool": {"aws:SecureTransport": False}}},
            {"Condition": {"Bool": {"aws:SecureTransport": False}}},
        ),
    ],
)
def test_functions(value: Any, expected: Any) -> None:
    assert resolver(TEMPLATE, MADE, Zones="a, b").resolve(value) == expected


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"Ref": "Dorps"}, "Dorps is neither"),
        ({"Fn::GetAtt": ["Drops", "Arm"]}, "Drops has no attribute Arm here: Arn"),
        ({"Fn::Sub": "${Drops.Arm}"}, "no attribute Arm"),
        ({"Fn::Select": [5, ["a"]]}, "item 5 of 1"),
        ({"Fn::FindInMap": ["Sizes", "none", "memory"]}, "Sizes.none.memory"),
        ({"Fn::ImportValue": "other"}, "Fn::ImportValue"),
        ({"Fn::If": ["None", 1, 2]}, "no condition None"),
        ({"Fn::Join": ["/"]}, "needs 2 arguments"),
    ],
)
def test_a_function_that_cant_be_resolved(value: Any, reason: str) -> None:
    with pytest.raises(TemplateError, match=reason):
        resolver(TEMPLATE, MADE, Zones="a").resolve(value)


def test_conditions_in_a_circle() -> None:
    template = {"Conditions": {"A": {"Condition": "B"}, "B": {"Fn::Not": [{"Condition": "A"}]}}}
    with pytest.raises(TemplateError, match="A -> B -> A"):
        resolver(template).condition("A")


def test_references_come_first_and_only_from_the_chosen_branch() -> None:
    template: dict[str, Any] = {
        "Conditions": {"Never": {"Fn::Equals": ["a", "b"]}},
        "Resources": {
            "First": {"Type": "T", "Properties": {"A": {"Fn::Sub": "${Second.Arn}"}}},
            "Second": {"Type": "T", "Properties": {"A": {"Fn::If": ["Never", {"Ref": "First"}, {"Ref": "Third"}]}}},
            "Third": {"Type": "T", "DependsOn": "Fourth"},
            "Fourth": {"Type": "T"},
        },
    }
    order = creation_order(template["Resources"], resolver(template))
    assert order == ["Fourth", "Third", "Second", "First"]


def test_a_circle_is_named() -> None:
    bodies = {
        "A": {"Type": "T", "Properties": {"X": {"Ref": "B"}}},
        "B": {"Type": "T", "Properties": {"X": {"Fn::GetAtt": ["A", "Arn"]}}},
    }
    with pytest.raises(TemplateError, match=r"A -> B -> A|B -> A -> B"):
        creation_order(bodies, resolver({"Resources": bodies}))


def test_a_reference_to_what_its_condition_leaves_out() -> None:
    bodies = {"A": {"Type": "T", "Properties": {"X": {"Ref": "B"}}}}
    with pytest.raises(TemplateError, match=r"A .*refers to B, which is not made"):
        creation_order(bodies, resolver({"Resources": {**bodies, "B": {"Type": "T", "Condition": "Never"}}}))


@pytest.mark.parametrize(
    ("body", "given", "reason"),
    [
        ({"Type": "String"}, {}, "P has no default"),
        ({"Type": "String", "Default": "x"}, {"Q": "1"}, "no parameter Q"),
        ({"Type": "String", "AllowedValues": ["a", "b"]}, {"P": "c"}, "it may be a, b"),
        ({"Type": "String", "AllowedPattern": "[a-z]+"}, {"P": "9"}, "must match"),
        ({"Type": "String", "MaxLength": 2}, {"P": "abc"}, "3 characters"),
        ({"Type": "Number"}, {"P": "many"}, "no number"),
        ({"Type": "Number", "MaxValue": 40}, {"P": "41"}, "out of its range"),
        ({"Type": "AWS::SSM::Parameter::Value<String>", "Default": "/x"}, {}, "Parameter Store"),
    ],
)
def test_parameters_are_checked(body: dict[str, Any], given: dict[str, str], reason: str) -> None:
    with pytest.raises(TemplateError, match=reason):
        parameter_values({"P": body}, given)


SAM = """
AWSTemplateFormatVersion: "2010-09-09"
Transform: AWS::Serverless-2016-10-31
Globals:
  Function: {Runtime: python3.13, CodeUri: functions/, Handler: app.handler}
Parameters:
  Day: {Type: String, Default: 2012-10-17}
Resources:
  Hello:
    Type: AWS::Serverless::Function
    Properties:
      Environment: {Variables: {NAME: !Sub "${AWS::StackName}-x", WHERE: !GetAtt Flow.Arn}}
  Flow:
    Type: AWS::Serverless::StateMachine
    Properties:
      DefinitionUri: ./flow.asl.json
      Role: arn:aws:iam::123456789012:role/r
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "template.yaml"
    path.write_text(text)
    return path


def test_translation_keeps_local_paths_and_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("the translation asked the network")

    monkeypatch.setattr("socket.socket.connect", refuse)
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    template = translate(write(tmp_path, SAM))
    code = template["Resources"]["Hello"]["Properties"]["Code"]
    assert code == {"S3Bucket": resources.LOCAL_BUCKET, "S3Key": "functions/"}
    location = template["Resources"]["Flow"]["Properties"]["DefinitionS3Location"]
    assert location == {"Bucket": resources.LOCAL_BUCKET, "Key": "./flow.asl.json"}
    assert template["Resources"]["HelloRole"]["Type"] == "AWS::IAM::Role"
    assert template["Parameters"]["Day"]["Default"] == "2012-10-17"


def test_the_command_prints_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["translate", str(write(tmp_path, SAM))]) == 0
    assert "Hello" in json.loads(capsys.readouterr().out)["Resources"]
    assert main(["translate", str(tmp_path / "none.yaml")]) == 1
    assert "none.yaml can't be read" in capsys.readouterr().err


def test_anchors_are_copies(tmp_path: Path) -> None:
    text = "Resources:\n  A: {Type: T, Properties: &p {X: 1}}\n  B: {Type: T, Properties: {<<: *p, Y: 2}}\n"
    document = load(write(tmp_path, text))
    assert document["Resources"]["B"]["Properties"] == {"X": 1, "Y": 2}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Resources: [", "is not YAML"),
        ("- 1", "has no Resources"),
        ("Resources: {}\nOutput: {}", "section Output"),
        ("Resources:\n  A: {Type: T}\n  A: {Type: U}", "line 3: the key 'A' is given twice"),
        ("Resources:\n  A: !!python/object/apply:os.system [id]", "is not YAML"),
    ],
)
def test_no_template(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(TemplateError, match=reason):
        load(write(tmp_path, text))


def test_the_translators_complaint_is_passed_on(tmp_path: Path) -> None:
    text = SAM.replace("CodeUri: functions/, ", "").replace("Transform", "Description: x\nTransform")
    with pytest.raises(TemplateError, match="Hello"):
        translate(write(tmp_path, text))


def test_an_unknown_type_or_property_is_refused() -> None:
    with pytest.raises(TemplateError, match="doesn't know this type"):
        resources.check("AWS::EC2::Instance", {})
    with pytest.raises(TemplateError, match="property AccelerateConfiguration"):
        resources.check("AWS::S3::Bucket", {"BucketName": "b", "AccelerateConfiguration": {}})
    resources.check("AWS::XRay::Group", {"GroupName": "g"})


def test_every_exception_has_a_reason() -> None:
    assert all(reason for reason in resources.NO_LOCAL_MEANING.values())
    assert not resources.NO_LOCAL_MEANING.keys() & resources.KINDS.keys()
    for name, found in resources.KINDS.items():
        assert all(found.ignored.values()), name
        assert not found.handled & found.ignored.keys(), name


def test_substitutions() -> None:
    definition = '{"Resource": "${FunctionArn}", "Max": ${Many}, "Text": "$.x ${FunctionArn}"}'
    filled = substitute(definition, {"FunctionArn": "arn", "Many": 3, "Unused": "u"})
    assert json.loads(filled) == {"Resource": "arn", "Max": 3, "Text": "$.x arn"}
    with pytest.raises(TemplateError, match="no value for Many"):
        substitute(definition, {"FunctionArn": "arn"})
    with pytest.raises(TemplateError, match="not JSON"):
        substitute(definition, {"FunctionArn": "arn", "Many": "three"})


def shape(service: str, operation: str) -> Any:
    return Session().get_service_model(service).operation_model(operation).input_shape


def test_values_are_fitted_to_the_api() -> None:
    given = {"AlarmName": "a", "EvaluationPeriods": "3", "Threshold": "1.5", "ActionsEnabled": "true", "Period": 60}
    assert fit(given, shape("cloudwatch", "PutMetricAlarm"), "alarm") == {
        "AlarmName": "a",
        "EvaluationPeriods": 3,
        "Threshold": 1.5,
        "ActionsEnabled": True,
        "Period": 60,
    }
    with pytest.raises(TemplateError, match=r"alarm.Threshold is 'high'"):
        fit({"Threshold": "high"}, shape("cloudwatch", "PutMetricAlarm"), "alarm")
    with pytest.raises(TemplateError, match="alarm has no Colour"):
        fit({"Colour": "red"}, shape("cloudwatch", "PutMetricAlarm"), "alarm")


def context(logical_id: str) -> Context:
    return Context(
        client=lambda _service: None,
        lambdas=create_autospec(FunctionRegistry, instance=True),
        folder=Path(),
        stack_name="dropmill-local",
        region="us-east-1",
        account_id="123456789012",
        logical_id=logical_id,
    )


def test_names() -> None:
    assert context("InspectDropFunction").name(64) == "dropmill-local-InspectDropFunction"
    long, other = context("A" * 60 + "B").name(64), context("A" * 60 + "C").name(64)
    assert len(long) == len(other) == 64
    assert long != other


def test_a_rule_without_permission_is_refused() -> None:
    found = context("X")
    rule_arn = "arn:aws:events:us-east-1:123456789012:rule/r"
    found.rule_targets.append(("r", rule_arn, "arn:aws:lambda:us-east-1:123456789012:function:f"))
    found.permissions.append(("f", "events.amazonaws.com", rule_arn + "-other"))
    with pytest.raises(TemplateError, match="rule r may not invoke the function f"):
        found.check_invocable()
    found.permissions.append(("f", "events.amazonaws.com", rule_arn))
    found.check_invocable()


def test_a_rule_of_parameters_is_held() -> None:
    template = {
        "Parameters": {"Subnets": {"Type": "String", "Default": ""}, "Groups": {"Type": "String", "Default": ""}},
    }
    rules = {
        "Network": {
            "RuleCondition": {"Fn::Not": [{"Fn::Equals": [{"Ref": "Subnets"}, ""]}]},
            "Assertions": [
                {
                    "Assert": {"Fn::Not": [{"Fn::Equals": [{"Ref": "Groups"}, ""]}]},
                    "AssertDescription": "Subnets needs Groups",
                }
            ],
        }
    }
    held: list[dict[str, Any]] = [{}, {"Groups": "sg-1"}, {"Subnets": "subnet-1", "Groups": "sg-1"}]
    for parameters in held:
        resolver(template, **parameters).check_rules(rules)
    with pytest.raises(TemplateError, match=r"Network \(rule\): Subnets needs Groups"):
        resolver(template, Subnets="subnet-1").check_rules(rules)
