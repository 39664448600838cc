"""Events from their sources, through rules, to their targets, in a running embedded cloud."""

import json
import uuid
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from localaws.cloud import Cloud
from localaws.events import MOST_MISSED_FIRINGS, MOST_RETRIES
from localaws.server import Call, CallError

WORKFLOW = json.dumps({"StartAt": "Done", "States": {"Done": {"Type": "Succeed"}}})
ROLE = "arn:aws:iam::123456789012:role/any"


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    with Cloud() as running:
        yield running


def allow(service: str, action: str, resource: str) -> str:
    """The policy of a queue or a topic that a service may send to."""
    statement = {"Effect": "Allow", "Principal": {"Service": service}, "Action": action, "Resource": resource}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


class Inbox:
    """A queue to look into."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self.name = f"inbox-{uuid.uuid4()}"
        self.arn = f"arn:aws:sqs:us-east-1:123456789012:{self.name}"
        attributes = {"Policy": allow("events.amazonaws.com", "sqs:SendMessage", self.arn)}
        self.url = cloud.client("sqs").create_queue(QueueName=self.name, Attributes=attributes)["QueueUrl"]

    def messages(self) -> list[Any]:
        """Every message that has come, once all deliveries are done."""
        assert self._cloud.events.wait_idle()
        found: list[Any] = []
        while (
            got := self._cloud.client("sqs")
            .receive_message(QueueUrl=self.url, MaxNumberOfMessages=10, MessageAttributeNames=["All"])
            .get("Messages")
        ):
            found += got
        return found

    def bodies(self) -> list[Any]:
        return [json.loads(message["Body"]) for message in self.messages()]


@pytest.fixture
def inbox(cloud: Cloud) -> Inbox:
    return Inbox(cloud)


@pytest.fixture
def rule(cloud: Cloud) -> Iterator[Any]:
    """Makes rules that end with the test."""
    names: list[str] = []
    events = cloud.client("events")

    def make(*targets: dict[str, Any], pattern: dict[str, Any] | None = None, schedule: str | None = None) -> str:
        name = f"rule-{uuid.uuid4()}"
        names.append(name)
        asked = {"EventPattern": json.dumps(pattern)} if pattern else {"ScheduleExpression": schedule}
        arn: str = events.put_rule(Name=name, **asked)["RuleArn"]
        events.put_targets(Rule=name, Targets=[{"Id": str(number), **target} for number, target in enumerate(targets)])
        return arn

    yield make
    for name in names:
        ids = [target["Id"] for target in events.list_targets_by_rule(Rule=name)["Targets"]]
        events.remove_targets(Rule=name, Ids=ids)
        events.delete_rule(Name=name)


@pytest.fixture
def bucket(cloud: Cloud) -> str:
    s3, name = cloud.client("s3"), f"bucket-{uuid.uuid4()}"
    s3.create_bucket(Bucket=name)
    s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    s3.put_bucket_notification_configuration(Bucket=name, NotificationConfiguration={"EventBridgeConfiguration": {}})
    return name


def from_bucket(name: str) -> dict[str, Any]:
    return {"source": ["aws.s3"], "detail": {"bucket": {"name": [name]}}}


def put_event(cloud: Cloud, source: str, detail: dict[str, Any] | None = None, **more: Any) -> str:
    entry = {"Source": source, "DetailType": "Something Happened", "Detail": json.dumps(detail or {}), **more}
    found: str = cloud.client("events").put_events(Entries=[entry])["Entries"][0]["EventId"]
    return found


# -- S3


def test_a_put_has_the_shape_that_s3_sends(cloud: Cloud, rule: Any, inbox: Inbox, bucket: str) -> None:
    rule({"Arn": inbox.arn}, pattern=from_bucket(bucket))
    put = cloud.client("s3").put_object(Bucket=bucket, Key="drops/a b/ä.csv", Body=b"1,2\n")
    (event,) = inbox.bodies()
    assert event["detail-type"] == "Object Created"
    assert event["resources"] == [f"arn:aws:s3:::{bucket}"]
    assert (event["account"], event["region"], event["version"]) == ("123456789012", "us-east-1", "0")
    assert datetime.fromisoformat(event["time"]).utcoffset() is not None
    uuid.UUID(event["id"])
    sequencer = event["detail"]["object"].pop("sequencer")
    assert int(sequencer, 16) > 0
    assert event["detail"].pop("request-id")
    assert event["detail"] == {
        "version": "0",
        "bucket": {"name": bucket},
        "object": {
            "key": "drops/a b/ä.csv",
            "size": 4,
            "etag": put["ETag"].strip('"'),
            "version-id": put["VersionId"],
        },
        "requester": "123456789012",
        "source-ip-address": "127.0.0.1",
        "reason": "PutObject",
    }


def test_every_way_to_make_and_lose_an_object_is_one_event(cloud: Cloud, rule: Any, inbox: Inbox, bucket: str) -> None:
    rule({"Arn": inbox.arn}, pattern=from_bucket(bucket))
    s3 = cloud.client("s3")
    s3.put_object(Bucket=bucket, Key="a", Body=b"x", Tagging="k=v")
    s3.copy_object(Bucket=bucket, Key="b", CopySource={"Bucket": bucket, "Key": "a"})
    upload = s3.create_multipart_upload(Bucket=bucket, Key="c")["UploadId"]
    part = s3.upload_part(Bucket=bucket, Key="c", UploadId=upload, PartNumber=1, Body=b"y" * 10)
    s3.complete_multipart_upload(
        Bucket=bucket,
        Key="c",
        UploadId=upload,
        MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]},
    )
    s3.put_object_tagging(Bucket=bucket, Key="a", Tagging={"TagSet": [{"Key": "k", "Value": "w"}]})
    marker = s3.delete_object(Bucket=bucket, Key="a")["VersionId"]
    s3.delete_object(Bucket=bucket, Key="a", VersionId=marker)
    s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "b"}]})
    s3.delete_object(Bucket=bucket, Key="never-was")
    events = sorted(inbox.bodies(), key=lambda event: event["detail"]["object"]["sequencer"])
    assert [
        (
            event["detail"]["object"]["key"],
            event["detail-type"],
            event["detail"].get("reason"),
            event["detail"].get("deletion-type"),
        )
        for event in events
    ] == [
        ("a", "Object Created", "PutObject", None),
        ("b", "Object Created", "CopyObject", None),
        ("c", "Object Created", "CompleteMultipartUpload", None),
        ("a", "Object Tags Added", None, None),
        ("a", "Object Deleted", "DeleteObject", "Delete Marker Created"),
        ("a", "Object Deleted", "DeleteObject", "Permanently Deleted"),
        ("b", "Object Deleted", "DeleteObject", "Delete Marker Created"),
    ]
    assert len({event["id"] for event in events}) == len(events)
    assert events[4]["detail"]["object"]["version-id"] == marker


def test_a_bucket_that_sends_nothing_to_eventbridge(cloud: Cloud, rule: Any, inbox: Inbox) -> None:
    name = f"quiet-{uuid.uuid4()}"
    cloud.client("s3").create_bucket(Bucket=name)
    rule({"Arn": inbox.arn}, pattern=from_bucket(name))
    cloud.client("s3").put_object(Bucket=name, Key="a", Body=b"x")
    cloud.client("s3").delete_object(Bucket=name, Key="a")
    assert inbox.bodies() == []


# -- rules and targets


def test_put_events_reaches_every_kind_of_target(cloud: Cloud, rule: Any, inbox: Inbox) -> None:
    through_topic, logs = Inbox(cloud), cloud.client("logs")
    topic = cloud.client("sns").create_topic(Name=f"topic-{uuid.uuid4()}")["TopicArn"]
    policy = allow("events.amazonaws.com", "sns:Publish", topic)
    cloud.client("sns").set_topic_attributes(TopicArn=topic, AttributeName="Policy", AttributeValue=policy)
    cloud.client("sns").subscribe(
        TopicArn=topic, Protocol="sqs", Endpoint=through_topic.arn, Attributes={"RawMessageDelivery": "true"}
    )
    group = f"group-{uuid.uuid4()}"
    logs.create_log_group(logGroupName=group)
    machine = cloud.client("stepfunctions").create_state_machine(
        name=f"machine-{uuid.uuid4()}", definition=WORKFLOW, roleArn=ROLE
    )["stateMachineArn"]
    rule(
        {"Arn": inbox.arn},
        {"Arn": topic},
        {"Arn": f"arn:aws:logs:us-east-1:123456789012:log-group:{group}"},
        {"Arn": machine, "RoleArn": ROLE, "InputPath": "$.detail"},
        pattern={"source": ["test.fan-out"]},
    )
    event_id = put_event(cloud, "test.fan-out", {"n": 1}, Resources=["arn:of:it"])
    put_event(cloud, "test.other", {"n": 2})
    (event,) = inbox.bodies()
    assert (event["id"], event["detail"], event["resources"]) == (event_id, {"n": 1}, ["arn:of:it"])
    assert through_topic.bodies() == [event]
    assert [json.loads(entry["message"]) for entry in logs.filter_log_events(logGroupName=group)["events"]] == [event]
    (execution,) = cloud.client("stepfunctions").list_executions(stateMachineArn=machine)["executions"]
    described = cloud.client("stepfunctions").describe_execution(executionArn=execution["executionArn"])
    assert json.loads(described["input"]) == {"n": 1}


def test_a_transformed_input(cloud: Cloud, rule: Any, inbox: Inbox) -> None:
    transformer = {"InputPathsMap": {"who": "$.detail.name"}, "InputTemplate": '{"hello": <who>, "text": "to <who>"}'}
    rule({"Arn": inbox.arn, "InputTransformer": transformer}, pattern={"source": ["test.transform"]})
    put_event(cloud, "test.transform", {"name": 'the "world"'})
    assert inbox.bodies() == [{"hello": 'the "world"', "text": 'to the "world"'}]


def test_a_disabled_rule_rests(cloud: Cloud, rule: Any, inbox: Inbox) -> None:
    arn = rule({"Arn": inbox.arn}, pattern={"source": ["test.disabled"]})
    cloud.client("events").disable_rule(Name=arn.rsplit("/", 1)[-1])
    put_event(cloud, "test.disabled")
    assert inbox.bodies() == []


def test_a_target_that_is_gone_is_a_dead_letter_at_once(cloud: Cloud, rule: Any, inbox: Inbox) -> None:
    gone = "arn:aws:sqs:us-east-1:123456789012:gone"
    arn = rule({"Arn": gone, "DeadLetterConfig": {"Arn": inbox.arn}}, pattern={"source": ["test.gone"]})
    event_id = put_event(cloud, "test.gone", {"n": 1})
    (message,) = inbox.messages()
    assert json.loads(message["Body"])["id"] == event_id
    attributes = {name: value["StringValue"] for name, value in message["MessageAttributes"].items()}
    assert attributes.pop("ERROR_MESSAGE")
    assert attributes == {"RULE_ARN": arn, "TARGET_ARN": gone, "ERROR_CODE": "NO_RESOURCE", "RETRY_ATTEMPTS": "0"}


@pytest.mark.parametrize(("asked", "tries"), [(2, 3), (0, 1), (185, MOST_RETRIES + 1)])
def test_a_target_that_fails_is_tried_again(cloud: Cloud, rule: Any, inbox: Inbox, asked: int, tries: int) -> None:
    broken = Inbox(cloud)

    def fail(call: Call) -> None:
        if broken.name in call.request["QueueUrl"]:
            raise CallError("OverLimit", "the queue is full", status=403)

    rule(
        {
            "Arn": broken.arn,
            "RetryPolicy": {"MaximumRetryAttempts": asked, "MaximumEventAgeInSeconds": 3600},
            "DeadLetterConfig": {"Arn": inbox.arn},
        },
        pattern={"source": ["test.broken"]},
    )
    with cloud.hooks.before("sqs.SendMessage", fail) as hook:
        put_event(cloud, "test.broken")
        (message,) = inbox.messages()
    attributes = {name: value["StringValue"] for name, value in message["MessageAttributes"].items()}
    assert attributes["EXHAUSTED_RETRY_CONDITION"] == "MaximumRetryAttempts"
    assert attributes["ERROR_CODE"] == "ERROR_FROM_TARGET"
    assert int(attributes["RETRY_ATTEMPTS"]) == tries - 1
    assert sum(broken.name in call.request["QueueUrl"] for call in hook.calls) == tries


# -- what tests may do to events


def test_dropped_events_are_logged_and_go_nowhere(cloud: Cloud, rule: Any, inbox: Inbox) -> None:
    rule({"Arn": inbox.arn}, pattern={"source": ["test.drop"]})
    with cloud.events.drop(lambda event: event["detail"].get("lost") is True) as dropped:
        lost = put_event(cloud, "test.drop", {"lost": True})
        kept = put_event(cloud, "test.drop", {"lost": False})
    after = put_event(cloud, "test.drop", {"lost": True})
    assert sorted(event["id"] for event in inbox.bodies()) == sorted([kept, after])
    assert [event["id"] for event in dropped.events] == [lost]
    assert {lost, kept, after} <= {event["id"] for event in cloud.events.log}


def test_a_repeated_event_keeps_its_id(cloud: Cloud, rule: Any, inbox: Inbox) -> None:
    rule({"Arn": inbox.arn}, pattern={"source": ["test.repeat"]})
    with cloud.events.repeat(lambda event: event["source"] == "test.repeat", 3):
        event_id = put_event(cloud, "test.repeat")
    assert [event["id"] for event in inbox.bodies()] == [event_id] * 3


# -- schedules


def test_a_schedule_fires_when_the_clock_moves(cloud: Cloud, rule: Any, inbox: Inbox) -> None:
    before = cloud.clock.now()
    arn = rule({"Arn": inbox.arn}, schedule="rate(5 minutes)")
    assert inbox.bodies() == []
    cloud.clock.advance(301)
    (event,) = inbox.bodies()
    assert (event["detail-type"], event["source"], event["detail"]) == ("Scheduled Event", "aws.events", {})
    assert event["resources"] == [arn]
    assert 299 <= (datetime.fromisoformat(event["time"]) - before).total_seconds() <= 302
    cloud.clock.advance(600)
    times = sorted(datetime.fromisoformat(event["time"]) for event in inbox.bodies())
    assert [round((moment - datetime.fromisoformat(event["time"])).total_seconds()) for moment in times] == [300, 600]


def test_a_long_jump_fires_a_bounded_number_of_times(cloud: Cloud, rule: Any, inbox: Inbox) -> None:
    rule({"Arn": inbox.arn}, schedule="rate(1 minute)")
    cloud.clock.advance(86_400)
    assert len(inbox.bodies()) == MOST_MISSED_FIRINGS
    cloud.clock.advance(61)
    assert len(inbox.bodies()) == 1


def test_a_rule_with_a_schedule_matches_no_events(cloud: Cloud, rule: Any, inbox: Inbox) -> None:
    rule({"Arn": inbox.arn}, schedule="rate(100 days)")
    put_event(cloud, "test.anything")
    assert inbox.bodies() == []


def test_scheduler(cloud: Cloud, inbox: Inbox) -> None:
    scheduler, name = cloud.client("scheduler"), f"nightly-{uuid.uuid4()}"
    arn = scheduler.create_schedule(
        Name=name,
        ScheduleExpression="cron(0 3 * * ? *)",
        ScheduleExpressionTimezone="Europe/Berlin",
        FlexibleTimeWindow={"Mode": "OFF"},
        Target={
            "Arn": inbox.arn,
            "RoleArn": ROLE,
            "Input": '{"at": "<aws.scheduler.scheduled-time>", "by": "<aws.scheduler.schedule-arn>"}',
        },
    )["ScheduleArn"]
    cloud.clock.advance(86_400)
    (body,) = inbox.bodies()
    assert body["by"] == arn
    assert body["at"][11:] in {"01:00:00Z", "02:00:00Z"}
    scheduler.delete_schedule(Name=name)
    cloud.clock.advance(86_400)
    assert inbox.bodies() == []


def test_scheduler_once_and_away(cloud: Cloud, inbox: Inbox) -> None:
    scheduler, name = cloud.client("scheduler"), f"once-{uuid.uuid4()}"
    moment = cloud.clock.now().replace(microsecond=0, year=cloud.clock.now().year + 1)
    scheduler.create_schedule(
        Name=name,
        ScheduleExpression=f"at({moment:%Y-%m-%dT%H:%M:%S})",
        FlexibleTimeWindow={"Mode": "OFF"},
        Target={"Arn": inbox.arn, "RoleArn": ROLE},
        ActionAfterCompletion="DELETE",
    )
    cloud.clock.advance(400 * 86_400)
    (event,) = inbox.bodies()
    assert (event["source"], event["time"]) == ("aws.scheduler", f"{moment:%Y-%m-%dT%H:%M:%SZ}")
    with pytest.raises(scheduler.exceptions.ResourceNotFoundException):
        scheduler.get_schedule(Name=name)


def test_an_event_that_lacks_its_source_is_refused(cloud: Cloud) -> None:
    with pytest.raises(KeyError, match="source"):
        cloud.events.emit({"detail-type": "x", "detail": {}})
