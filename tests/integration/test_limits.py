"""Calls at a limit of AWS's are taken, and those above it refused with the service's own error."""

import io
import json
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from localaws.cloud import Cloud
from localaws.limits import LIMITS

ROOT = Path(__file__).parents[2]
ROLE = "arn:aws:iam::123456789012:role/any"
KB, MB = 1024, 1024 * 1024
PASS = {"StartAt": "A", "States": {"A": {"Type": "Pass", "End": True}}}

Make = Callable[[Any, int], object]


def policy(statement: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    with Cloud() as cloud:
        iam = cloud.client("iam")
        trusted = {"Service": ["lambda.amazonaws.com", "states.amazonaws.com"]}
        trust = {"Effect": "Allow", "Principal": trusted, "Action": "sts:AssumeRole"}
        calls = {"Effect": "Allow", "Action": "lambda:InvokeFunction", "Resource": "*"}
        iam.create_role(RoleName="any", AssumeRolePolicyDocument=policy(trust))
        iam.put_role_policy(RoleName="any", PolicyName="calls", PolicyDocument=policy(calls))
        cloud.client("s3").create_bucket(Bucket="bucket")
        cloud.client("sns").create_topic(Name="topic")
        cloud.client("sqs").create_queue(QueueName="queue", Attributes={"MaximumMessageSize": f"{MB}"})
        cloud.client("events").put_rule(Name="rule", EventPattern='{"source": ["any"]}')
        logs = cloud.client("logs")
        logs.create_log_group(logGroupName="group")
        logs.create_log_stream(logGroupName="group", logStreamName="stream")
        cloud.client("stepfunctions").create_state_machine(name="machine", definition=json.dumps(PASS), roleArn=ROLE)
        cloud.client("dynamodb").create_table(
            TableName="table",
            KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "pk", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )
        yield cloud


def events(client: Any, size: int) -> object:
    detail = json.dumps({"x": ""})
    detail = json.dumps({"x": "x" * (size - len(detail) - len("source" + "type"))})
    return client.put_events(Entries=[{"Source": "source", "DetailType": "type", "Detail": detail}])


def pattern(client: Any, size: int) -> object:
    return client.put_rule(Name="long", EventPattern=json.dumps({"source": ["x" * (size - len('{"source": [""]}'))]}))


def targets(client: Any, count: int) -> object:
    arn = "arn:aws:sqs:us-east-1:123456789012:queue"
    return client.put_targets(Rule="rule", Targets=[{"Id": f"{n}", "Arn": arn} for n in range(count)])


def message(client: Any, size: int) -> object:
    return client.publish(TopicArn="arn:aws:sns:us-east-1:123456789012:topic", Message="é" * (size // 2))


def subject(client: Any, size: int) -> object:
    topic = "arn:aws:sns:us-east-1:123456789012:topic"
    return client.publish(TopicArn=topic, Message="x", Subject="s" * size)


def item(number: int, size: int = 0) -> dict[str, Any]:
    return {"pk": {"S": f"{number:04}"}, "x": {"S": "x" * size}}


def transaction(client: Any, size: int) -> object:
    each = size // 16 - len("pk" + "0000" + "x")
    return client.transact_write_items(
        TransactItems=[{"Put": {"TableName": "table", "Item": item(n, each)}} for n in range(16)]
    )


def writes(client: Any, count: int) -> object:
    return client.batch_write_item(RequestItems={"table": [{"PutRequest": {"Item": item(n)}} for n in range(count)]})


def expression(client: Any, size: int) -> object:
    text = "attribute_not_exists(a)"
    condition = text + " " * (size - len(text))
    return client.put_item(TableName="table", Item=item(-1), ConditionExpression=condition)


def log(client: Any, *sizes: int) -> object:
    now = int(time.time() * 1000)
    lines = [{"timestamp": now, "message": "x" * (size - 26)} for size in sizes]
    return client.put_log_events(logGroupName="group", logStreamName="stream", logEvents=lines)


def put(client: Any, key: str = "key", **rest: Any) -> object:
    return client.put_object(Bucket="bucket", Key=key, Body=b"", **rest)


def delete(client: Any, count: int) -> object:
    return client.delete_objects(Bucket="bucket", Delete={"Objects": [{"Key": f"{n}"} for n in range(count)]})


def function(client: Any, **rest: Any) -> object:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.py", "")
    name = rest.pop("FunctionName", f"f{time.monotonic_ns()}")
    code = {"ZipFile": archive.getvalue()}
    return client.create_function(FunctionName=name, Runtime="python3.13", Role=ROLE, Handler="a.b", Code=code, **rest)


def variables(client: Any, size: int) -> object:
    return function(client, Environment={"Variables": {"AA": "x" * (size - len('{"AA":""}'))}})


def layers(client: Any, count: int) -> object:
    arns = [
        client.publish_layer_version(LayerName=f"l{n}", Content={"ZipFile": b"PK\x05\x06" + bytes(18)})[
            "LayerVersionArn"
        ]
        for n in range(count)
    ]
    return function(client, Layers=arns)


def machine(client: Any, size: int) -> object:
    definition = json.dumps({**PASS, "Comment": ""})
    definition = json.dumps({**PASS, "Comment": "x" * (size - len(definition))})
    return client.create_state_machine(name="large", definition=definition, roleArn=ROLE)


def execution(client: Any, **rest: Any) -> object:
    arn = "arn:aws:states:us-east-1:123456789012:stateMachine:machine"
    return client.start_execution(**{"stateMachineArn": arn, "name": f"e{time.monotonic_ns()}", **rest})


def schedule(client: Any, size: int) -> object:
    return client.create_schedule(
        Name="s" * size,
        ScheduleExpression="rate(1 hour)",
        FlexibleTimeWindow={"Mode": "OFF"},
        Target={"Arn": "arn:aws:sqs:us-east-1:123456789012:queue", "RoleArn": ROLE},
    )


def queued(client: Any, size: int) -> object:
    return client.send_message(QueueUrl=client.get_queue_url(QueueName="queue")["QueueUrl"], MessageBody="x" * size)


# Service, how much is taken, how much isn't, a call of so much, and the error.
CALLS: dict[str, tuple[str, int, int, Make, str]] = {
    "an event": ("events", MB, MB + 1, events, "ValidationException"),
    "a pattern": ("events", 2048, 2049, pattern, "LimitExceededException"),
    "targets": ("events", 5, 6, targets, "LimitExceededException"),
    "a rule's name": (
        "events",
        64,
        65,
        lambda c, n: c.put_rule(Name="r" * n, EventPattern='{"source": ["any"]}'),
        "ValidationException",
    ),
    "a message to a topic": ("sns", 256 * KB, 256 * KB + 2, message, "InvalidParameter"),
    "a subject": ("sns", 100, 101, subject, "InvalidParameter"),
    "a message to a queue": ("sqs", MB, MB + 1, queued, "InvalidParameterValue"),
    "a transaction": ("dynamodb", 4 * MB, 4 * MB + 16, transaction, "ValidationException"),
    "a batch of writes": ("dynamodb", 25, 26, writes, "ValidationException"),
    "an item": (
        "dynamodb",
        400_000,
        400 * KB + 1,
        lambda c, n: c.put_item(TableName="table", Item=item(1, n)),
        "ValidationException",
    ),
    "an expression": ("dynamodb", 4096, 4097, expression, "ValidationException"),
    "a log event": ("logs", MB, MB + 1, log, "InvalidParameterException"),
    "all log events": ("logs", MB, MB + 1, lambda c, n: log(c, n // 2, n - n // 2), "InvalidParameterException"),
    "log events": ("logs", 10_000, 10_001, lambda c, n: log(c, *[27] * n), "InvalidParameterException"),
    "a key": ("s3", 512, 513, lambda c, n: put(c, "é" * n), "KeyTooLongError"),
    "metadata": ("s3", 2047, 2048, lambda c, n: put(c, Metadata={"a": "x" * n}), "MetadataTooLarge"),
    "deleted objects": ("s3", 1000, 1001, delete, "MalformedXML"),
    "variables": ("lambda", 4096, 4097, variables, "InvalidParameterValueException"),
    "time": ("lambda", 900, 901, lambda c, n: function(c, Timeout=n), "ValidationException"),
    "memory": ("lambda", 10_240, 10_241, lambda c, n: function(c, MemorySize=n), "ValidationException"),
    "ephemeral storage": (
        "lambda",
        10_240,
        10_241,
        lambda c, n: function(c, EphemeralStorage={"Size": n}),
        "ValidationException",
    ),
    "layers": ("lambda", 5, 6, layers, "InvalidParameterValueException"),
    "a function's name": (
        "lambda",
        64,
        65,
        lambda c, n: function(c, FunctionName="f" * n),
        "InvalidParameterValueException",
    ),
    "a definition": ("stepfunctions", MB, MB + 1, machine, "ValidationException"),
    "an input": (
        "stepfunctions",
        256 * KB - 2,
        256 * KB - 1,
        lambda c, n: execution(c, input=json.dumps("x" * n)),
        "ValidationException",
    ),
    "an execution's name": (
        "stepfunctions",
        80,
        81,
        lambda c, n: execution(c, name="e" * n),
        "ValidationException",
    ),
    "a schedule's name": ("scheduler", 64, 65, schedule, "ValidationException"),
}


@pytest.mark.parametrize("what", CALLS)
def test_what_is_at_a_limit_is_taken_and_what_is_above_it_is_not(cloud: Cloud, what: str) -> None:
    service, taken, refused, make, code = CALLS[what]
    client = cloud.client(service)
    make(client, taken)
    with pytest.raises(ClientError) as error:
        make(client, refused)
    assert error.value.response["Error"]["Code"] == code
    assert error.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400


@pytest.mark.parametrize(("cause", "error", "output"), [(32_769, 1, None), (1, 257, None), (0, 0, 256 * KB)])
def test_an_answer_to_a_task_is_judged_before_its_token(
    cloud: Cloud, cause: int, error: int, output: int | None
) -> None:
    client = cloud.client("stepfunctions")
    with pytest.raises(ClientError, match="Member must have length less than or equal to") as refused:
        if output is None:
            client.send_task_failure(taskToken="t", cause="c" * cause, error="e" * error)
        else:
            client.send_task_success(taskToken="t", output=json.dumps("x" * output))
    assert refused.value.response["Error"]["Code"] == "ValidationException"


def ended(client: Any, execution: str) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while (found := client.describe_execution(executionArn=execution))["status"] == "RUNNING":
        assert time.monotonic() < deadline
        time.sleep(0.02)  # Step Functions has no call that waits
    return dict(found)


def test_an_execution_whose_history_is_full_fails(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    from localaws import stepfunctions

    monkeypatch.setattr(stepfunctions, "HISTORY_EVENTS", 40)
    client = cloud.client("stepfunctions")
    again = {"StartAt": "A", "States": {"A": {"Type": "Pass", "Next": "B"}, "B": {"Type": "Pass", "Next": "A"}}}
    arn = client.create_state_machine(name="endless", definition=json.dumps(again), roleArn=ROLE)["stateMachineArn"]
    started = client.start_execution(stateMachineArn=arn, name="one")["executionArn"]
    found = ended(client, started)
    assert found["status"] == "FAILED"
    assert found["cause"] == "The execution reached the maximum number of history events (40)."
    history = client.get_execution_history(executionArn=started, maxResults=100)["events"]
    assert len(history) == 40
    assert history[-1]["type"] == "ExecutionFailed"
    assert history[-1]["executionFailedEventDetails"]["cause"] == found["cause"]


@pytest.mark.parametrize("resource", ["arn", "invoke"])
def test_a_throttled_function_is_an_error_by_lambda_s_name(cloud: Cloud, tmp_path: Path, resource: str) -> None:
    name = f"busy-{resource}"
    function(cloud.client("lambda"), FunctionName=name)
    cloud.lambdas.register(name, tmp_path, "handlers.none", reserved_concurrency=0)
    arn = cloud.lambdas.arn(name)
    task: dict[str, Any] = {"Type": "Task", "Resource": arn, "End": True}
    if resource == "invoke":
        task |= {"Resource": "arn:aws:states:::lambda:invoke", "Parameters": {"FunctionName": arn}}
    client = cloud.client("stepfunctions")
    definition = json.dumps({"StartAt": "A", "States": {"A": task}})
    made = client.create_state_machine(name=name, definition=definition, roleArn=ROLE)["stateMachineArn"]
    found = ended(client, client.start_execution(stateMachineArn=made, name="one")["executionArn"])
    assert found["error"] == "Lambda.TooManyRequestsException"
    assert "Rate Exceeded" in found["cause"]


def test_every_limit_is_documented() -> None:
    page = (ROOT / "docs" / "limits.md").read_text()
    assert [limit.what for limit in LIMITS if limit.what not in page] == []
    assert [limit.source for limit in LIMITS if limit.source not in page] == []
