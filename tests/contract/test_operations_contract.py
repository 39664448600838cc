"""What every part of the template must have so that nothing is lost, unbounded, unencrypted or unheard of."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import BaseModel

from dropmill.errors import InvalidDrop
from dropmill.settings import Settings
from dropmill.step import logger, step
from localaws.template import translate

Resources = dict[str, dict[str, Any]]
BOUNDARY = {"Fn::If": ["HasPermissionsBoundary", {"Ref": "PermissionsBoundaryArn"}, {"Ref": "AWS::NoValue"}]}
KEY = {"Fn::If": ["CreatesKey", {"Fn::GetAtt": ["Key", "Arn"]}, {"Ref": "KmsKeyArn"}]}
QUEUE = {"Fn::GetAtt": ["DeadLetters", "Arn"]}


class Request(BaseModel):
    pass


def failing(error: Exception) -> Callable[[Request], None]:
    def work(_: Request) -> None:
        raise error

    return work


@pytest.fixture(scope="module")
def resources(root: Path) -> Resources:
    """The resources as CloudFormation gets them."""
    return dict(translate(root / "template.yaml")["Resources"])


@pytest.fixture(scope="module")
def root() -> Path:
    return Path(__file__).resolve().parents[2]


def of_type(resources: Resources, kind: str) -> dict[str, dict[str, Any]]:
    found = {name: body.get("Properties", {}) for name, body in resources.items() if body["Type"] == kind}
    assert found, kind
    return found


def statements(document: dict[str, Any], action: str) -> Iterator[dict[str, Any]]:
    for statement in document["Statement"]:
        actions = statement["Action"]
        if action in ([actions] if isinstance(actions, str) else actions):
            yield statement


def called_by_events(resources: Resources) -> set[str]:
    """The functions that a rule or a timer calls, whose caller does not wait."""
    targets = [target for rule in of_type(resources, "AWS::Events::Rule").values() for target in rule["Targets"]]
    targets += [timer["Target"] for timer in of_type(resources, "AWS::Scheduler::Schedule").values()]
    return {target["Arn"]["Fn::GetAtt"][0] for target in targets}


def test_what_a_rule_cannot_deliver_is_kept(resources: Resources) -> None:
    rules = of_type(resources, "AWS::Events::Rule")
    for rule in rules.values():
        for target in rule["Targets"]:
            assert target["DeadLetterConfig"] == {"Arn": QUEUE}
    policy = resources["DeadLettersPolicy"]["Properties"]["PolicyDocument"]
    statement, topics = statements(policy, "sqs:SendMessage")
    named = [arn["Fn::GetAtt"][0] for arn in statement["Condition"]["ArnEquals"]["aws:SourceArn"]]
    assert sorted(named) == sorted(rules), "the queue's policy must name every rule, and nothing else"
    assert statement["Principal"] == {"Service": "events.amazonaws.com"}
    assert topics["Principal"] == {"Service": "sns.amazonaws.com"}
    of_topics = [topic["Ref"] for topic in topics["Condition"]["ArnEquals"]["aws:SourceArn"]]
    assert sorted(of_topics) == sorted(of_type(resources, "AWS::SNS::Topic"))
    for subscription in of_type(resources, "AWS::SNS::Subscription").values():
        assert subscription["RedrivePolicy"] == {"deadLetterTargetArn": QUEUE}


def test_what_a_timer_cannot_deliver_is_kept(resources: Resources) -> None:
    for timer in of_type(resources, "AWS::Scheduler::Schedule").values():
        assert timer["Target"]["DeadLetterConfig"] == {"Arn": QUEUE}
        role = resources[timer["Target"]["RoleArn"]["Fn::GetAtt"][0]]["Properties"]
        (document,) = (policy["PolicyDocument"] for policy in role["Policies"])
        assert [statement["Resource"] for statement in statements(document, "sqs:SendMessage")] == [QUEUE]


def test_what_a_function_gives_up_on_is_kept(resources: Resources) -> None:
    functions = of_type(resources, "AWS::Lambda::Function")
    keeping = {name for name, function in functions.items() if function.get("DeadLetterConfig")}
    assert keeping == called_by_events(resources)
    assert all(functions[name]["DeadLetterConfig"] == {"TargetArn": QUEUE} for name in keeping)


def test_every_function_that_events_call_is_watched_for_throttles(resources: Resources) -> None:
    queries = resources["FunctionThrottlesAlarm"]["Properties"]["Metrics"]
    metrics = [query["MetricStat"]["Metric"] for query in queries if "MetricStat" in query]
    watched = {metric["Dimensions"][0]["Value"]["Ref"] for metric in metrics}
    assert watched == called_by_events(resources) | {"ConvertShardFunction", "ConvertRowsFunction"}
    assert len(metrics) <= 10


def test_an_alarm_reaches_a_topic_that_lets_it_in(resources: Resources) -> None:
    for alarm in of_type(resources, "AWS::CloudWatch::Alarm").values():
        assert alarm["AlarmActions"] == [{"Ref": "Alarms"}]
        assert "AlarmName" not in alarm  # the topic's policy knows them by the stack's name
    # CloudWatch may not use AWS's own key for SNS.
    assert "alias/aws/sns" not in json.dumps(resources["Alarms"])
    policy = resources["AlarmsPolicy"]["Properties"]["PolicyDocument"]
    (allowed, _) = statements(policy, "sns:Publish")
    assert allowed["Principal"] == {"Service": "cloudwatch.amazonaws.com"}


def test_silence_is_good_news_but_of_the_sweeper(resources: Resources) -> None:
    alarms = of_type(resources, "AWS::CloudWatch::Alarm")
    silent = {name: alarm["TreatMissingData"] for name, alarm in alarms.items()}
    assert {name for name, treated in silent.items() if treated != "notBreaching"} == {"SweeperSilentAlarm"}
    assert silent["SweeperSilentAlarm"] == "breaching"


def test_only_who_announces_may_publish(resources: Resources) -> None:
    policy = resources["NotificationsPolicy"]["Properties"]["PolicyDocument"]
    assert [one["Effect"] for one in policy["Statement"]] == ["Deny"], "roles are allowed by their own policies alone"
    roles = of_type(resources, "AWS::IAM::Role")
    publishing = {name for name, role in roles.items() if "sns:Publish" in json.dumps(role.get("Policies", []))}
    assert publishing == {"CloseRunFunctionRole", "SweepLeasesFunctionRole", "AuditResourcesFunctionRole"}


def test_everything_refuses_what_is_not_encrypted_on_its_way(resources: Resources) -> None:
    kinds = {
        "AWS::S3::Bucket": ("AWS::S3::BucketPolicy", "Bucket"),
        "AWS::SNS::Topic": ("AWS::SNS::TopicPolicy", "Topics"),
        "AWS::SQS::Queue": ("AWS::SQS::QueuePolicy", "Queues"),
    }
    for kind, (policy_kind, key) in kinds.items():
        guarded = []
        for policy in of_type(resources, policy_kind).values():
            denied = [one for one in policy["PolicyDocument"]["Statement"] if one["Effect"] == "Deny"]
            assert [one["Condition"] for one in denied] == [{"Bool": {"aws:SecureTransport": False}}]
            assert denied[0]["Principal"] == "*"
            target = policy[key]
            guarded += [one["Ref"] for one in (target if isinstance(target, list) else [target])]
        assert sorted(guarded) == sorted(of_type(resources, kind))


def test_every_role_is_bounded(resources: Resources) -> None:
    for name, role in of_type(resources, "AWS::IAM::Role").items():
        assert role.get("PermissionsBoundary") == BOUNDARY, name


def test_every_function_may_use_the_key(resources: Resources) -> None:
    policy = resources["UseKeyPolicy"]
    assert policy["Condition"] == "HasKey"
    roles = [role["Ref"] for role in policy["Properties"]["Roles"]]
    functions = of_type(resources, "AWS::Lambda::Function").values()
    assert sorted(roles) == sorted([*(one["Role"]["Fn::GetAtt"][0] for one in functions), "ScoringTimerRole"])
    for one in functions:
        assert one["Environment"]["Variables"]["KMS_KEY_ARN"] == KEY


def test_everything_that_stores_takes_the_key(resources: Resources) -> None:
    storing = {
        "AWS::S3::Bucket": "BucketEncryption",
        "AWS::DynamoDB::Table": "SSESpecification",
        "AWS::SNS::Topic": "KmsMasterKeyId",
        "AWS::SQS::Queue": "KmsMasterKeyId",
        "AWS::Logs::LogGroup": "KmsKeyId",
    }
    for kind, key in storing.items():
        for name, properties in of_type(resources, kind).items():
            text = json.dumps(properties[key])
            assert json.dumps({"Ref": "KmsKeyArn"}) in text, name
            assert json.dumps({"Fn::GetAtt": ["Key", "Arn"]}) in text, name


def test_a_key_is_used_by_way_of_a_service_or_a_grant(resources: Resources) -> None:
    for name in ("UseKeyPolicy", "JobKeyPolicy", "VolumeKeyPolicy"):
        for statement in resources[name]["Properties"]["PolicyDocument"]["Statement"]:
            assert statement["Resource"] == KEY
            keys = {key for test in statement.get("Condition", {}).values() for key in test}
            harmless = statement["Action"] in ("kms:DescribeKey", ["kms:DescribeKey", "kms:Encrypt"])
            assert keys & {"kms:ViaService", "kms:GrantIsForAWSResource"} or harmless


def test_who_launches_may_grant_the_key_for_volumes(resources: Resources) -> None:
    """SageMaker takes the grant for volumes from the caller, or for jobs from the role that they run as."""
    launchers = {f"{name}FunctionRole" for name in ("LaunchTraining", "LaunchTuning", "LaunchTransform")}
    holders = {role["Ref"] for role in resources["VolumeKeyPolicy"]["Properties"]["Roles"]}
    assert holders == launchers | {"DeployEndpointFunctionRole"}


def test_the_key_lets_in_logs_and_alarms_of_this_stack(resources: Resources) -> None:
    """Groups and alarms can't be named in the policy, which they depend on; so their names begin with the stack's."""
    policy = json.dumps(resources["Key"]["Properties"]["KeyPolicy"])
    for group in of_type(resources, "AWS::Logs::LogGroup").values():
        name = group.get("LogGroupName", {"Fn::Sub": "${AWS::StackName}-"})["Fn::Sub"]
        prefix = name[: name.index("${AWS::StackName}-")] + "${AWS::StackName}-*"
        assert f":log-group:{prefix}" in policy
    assert ":alarm:${AWS::StackName}-*" in policy


def test_logs_end(resources: Resources) -> None:
    groups = of_type(resources, "AWS::Logs::LogGroup")
    assert all(group["RetentionInDays"] == {"Ref": "LogRetentionDays"} for group in groups.values())
    used = {
        function["LoggingConfig"]["LogGroup"]["Ref"]
        for function in of_type(resources, "AWS::Lambda::Function").values()
    }
    for machine in of_type(resources, "AWS::StepFunctions::StateMachine").values():
        assert machine["LoggingConfiguration"]["IncludeExecutionData"] is False
        (destination,) = machine["LoggingConfiguration"]["Destinations"]
        used.add(destination["CloudWatchLogsLogGroup"]["LogGroupArn"]["Fn::GetAtt"][0])
    assert used == set(groups)


def test_nothing_is_named_but_by_its_stack(resources: Resources) -> None:
    """Two stacks live side by side in an account, and in any partition."""
    for name, body in resources.items():
        for key, value in body.get("Properties", {}).items():
            if key.endswith("Name") and key != "MetricName":
                ours = isinstance(value, dict) and value.get("Ref") in resources
                assert ours or "AWS::StackName" in json.dumps(value), f"{name}.{key}"
    text = json.dumps(resources)
    assert re.findall(r"arn:aws(?:-[a-z]+)*:(?!iam::aws:policy)[^\"]{0,40}", text) == []
    assert re.findall(r"\b\d{12}\b", text) == []


def test_every_parameter_is_shown_in_a_group(template: dict[str, Any]) -> None:
    groups = template["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
    shown = [name for group in groups for name in group["Parameters"]]
    assert sorted(shown) == sorted(template["Parameters"])
    for name, parameter in template["Parameters"].items():
        assert len(parameter["Description"].split()) > 3, name
        bounds = {"AllowedPattern", "AllowedValues", "MinValue"} & parameter.keys()
        assert bounds, f"{name} takes anything"


def test_a_failure_is_counted_and_a_refusal_is_not(
    resources: Resources, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The filter on the log group knows failures by what the steps write."""
    monkeypatch.setattr("dropmill.step.settings", lambda: Settings(stack_name="dropmill-test"))
    pattern = resources["FunctionFailures"]["Properties"]["FilterPattern"]
    assert f'($.service = "{logger.service}" && $.level = "ERROR")' in pattern
    # Lambda's own report of an invocation that it ended, where the function could log nothing.
    assert '$.record.status = "timeout" || $.record.errorType = "Runtime.*"' in pattern
    levels = []
    for raised in (RuntimeError("odd"), InvalidDrop("row 3")):
        caplog.clear()
        with pytest.raises(Exception, match=r"."):
            step(failing(raised))({}, SimpleNamespace(aws_request_id="1", function_name="f"))  # type: ignore[arg-type]  # all that is read
        levels.append([record.levelname for record in caplog.records if record.name == logger.name])
    assert levels == [["ERROR"], ["WARNING"]]


def test_what_holds_data_outlives_the_stack(resources: Resources) -> None:
    """Buckets and table of a first deployment that fails go, as nothing is in them; a key may be in use already."""
    policies = {
        name: body["DeletionPolicy"] for name, body in resources.items() if "Retain" in body.get("DeletionPolicy", "")
    }
    assert policies == {**dict.fromkeys(("Drops", "Artifacts", "Ledger"), "RetainExceptOnCreate"), "Key": "Retain"}
    assert all(resources[name]["UpdateReplacePolicy"] == "Retain" for name in policies)
