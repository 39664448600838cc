"""The embedded cloud as its users meet it: one port, unmodified clients, a fresh start every time."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator

import boto3
import pytest
from botocore.exceptions import ClientError

from localaws.cloud import Cloud, CloudError
from localaws.server import Call, CallError

TEMPLATE = """
AWSTemplateFormatVersion: "2010-09-09"
Transform: AWS::Serverless-2016-10-31
Resources:
  Flow:
    Type: AWS::Serverless::StateMachine
    Properties:
      DefinitionUri: flow.asl.json
      DefinitionSubstitutions: {GreetArn: !GetAtt Greet.Arn}
      Policies: [{LambdaInvokePolicy: {FunctionName: !Ref Greet}}]
  Dead:
    Type: AWS::SQS::Queue
  Greet:
    Type: AWS::Serverless::Function
    Properties:
      Runtime: python3.13
      CodeUri: code/
      Handler: greet.handler
      Timeout: 20
      Environment: {Variables: {GREETING: hello, AWS_ENDPOINT_URL: ""}}
      DeadLetterQueue: {Type: SQS, TargetArn: !GetAtt Dead.Arn}
Outputs:
  Flow: {Value: !Ref Flow}
  Greet: {Value: !Ref Greet}
  Dead: {Value: !Ref Dead}
"""
FLOW = {
    "StartAt": "Greet",
    "States": {
        "Greet": {
            "Type": "Task",
            "Resource": "arn:aws:states:::lambda:invoke",
            "Parameters": {"FunctionName": "${GreetArn}", "Payload.$": "$"},
            "OutputPath": "$.Payload",
            "End": True,
        }
    },
}
GREET = """
import os
import boto3

def handler(event, context):
    if "name" not in event:
        raise ValueError("who is it?")
    account = boto3.client("sts").get_caller_identity()["Account"]
    print("greeting", event["name"])
    return {"said": f"{os.environ['GREETING']} {event['name']} of {account}"}
"""


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    with Cloud() as cloud:
        yield cloud


@pytest.fixture(scope="module")
def outputs(cloud: Cloud, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("application")
    (folder / "code").mkdir()
    (folder / "code" / "greet.py").write_text(GREET)
    (folder / "flow.asl.json").write_text(json.dumps(FLOW))
    (folder / "template.yaml").write_text(TEMPLATE)
    return dict(cloud.deploy(folder / "template.yaml", "greeter", prewarm=True).outputs)


def test_a_deployed_application_runs_and_its_functions_reach_the_cloud(cloud: Cloud, outputs: dict[str, str]) -> None:
    states = cloud.client("stepfunctions")
    ended = threading.Event()
    with cloud.hooks.after("lambda.Invoke", lambda _: ended.set()):
        execution = states.start_execution(stateMachineArn=outputs["Flow"], name="run", input='{"name": "Ada"}')
        assert ended.wait(20)
    arn = execution["executionArn"]
    waiting = threading.Event()
    for _ in range(500):
        found = states.describe_execution(executionArn=arn)
        if found["status"] != "RUNNING":
            break
        waiting.wait(0.01)
    assert json.loads(found["output"]) == {"said": "hello Ada of 123456789012"}
    statuses = [event["detail"]["status"] for event in cloud.events.log if event["resources"] == [arn]]
    assert statuses == ["RUNNING", "SUCCEEDED"]


def test_any_client_and_any_credentials_do(
    cloud: Cloud, outputs: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", cloud.endpoint_url)
    session = boto3.Session(aws_access_key_id="whoever", aws_secret_access_key="whatever", region_name="us-east-1")
    answer = session.client("lambda").invoke(FunctionName=outputs["Greet"], Payload=b'{"name": "Bo"}', LogType="Tail")
    assert json.load(answer["Payload"])["said"] == "hello Bo of 123456789012"
    assert "FunctionError" not in answer
    assert answer["LogResult"]
    assert session.client("sagemaker").list_training_jobs()["TrainingJobSummaries"] == []


def test_a_functions_error_says_so(cloud: Cloud, outputs: dict[str, str]) -> None:
    answer = cloud.client("lambda").invoke(FunctionName=outputs["Greet"], Payload=b"{}")
    assert answer["FunctionError"] == "Unhandled"
    assert json.load(answer["Payload"])["errorMessage"] == "who is it?"


def test_an_unknown_function_is_not_found_and_a_bad_payload_refused(cloud: Cloud, outputs: dict[str, str]) -> None:
    functions = cloud.client("lambda")
    with pytest.raises(functions.exceptions.ResourceNotFoundException):
        functions.invoke(FunctionName="nobody")
    with pytest.raises(functions.exceptions.InvalidRequestContentException):
        functions.invoke(FunctionName=outputs["Greet"], Payload=b"{not json")
    with pytest.raises(functions.exceptions.RequestTooLargeException):
        functions.invoke(FunctionName=outputs["Greet"], Payload=json.dumps("x" * 7_000_000).encode())
    assert functions.invoke(FunctionName=outputs["Greet"], InvocationType="DryRun")["StatusCode"] == 204


def test_an_event_that_fails_for_good_reaches_the_dead_letter_queue(cloud: Cloud, outputs: dict[str, str]) -> None:
    answer = cloud.client("lambda").invoke(FunctionName=outputs["Greet"], InvocationType="Event", Payload=b'{"a": 1}')
    assert answer["StatusCode"] == 202
    assert cloud.lambdas.wait_idle(20)
    queue = cloud.client("sqs")
    (message,) = queue.receive_message(QueueUrl=outputs["Dead"], MessageAttributeNames=["All"])["Messages"]
    assert json.loads(message["Body"]) == {"a": 1}
    assert "who is it?" in message["MessageAttributes"]["ErrorMessage"]["StringValue"]


def test_what_functions_print_is_in_cloudwatch_logs(cloud: Cloud, outputs: dict[str, str]) -> None:
    cloud.client("lambda").invoke(FunctionName=outputs["Greet"], Payload=b'{"name": "Cy"}')
    cloud.lambdas.flush_logs()
    found = cloud.client("logs").filter_log_events(logGroupName=f"/aws/lambda/{outputs['Greet']}")["events"]
    assert "greeting Cy" in [event["message"] for event in found]


def test_hooks_catch_real_calls(cloud: Cloud) -> None:
    def refuse(call: Call) -> None:
        raise CallError("ThrottlingException", "not now")

    jobs = boto3.Session(aws_access_key_id="a", aws_secret_access_key="b", region_name="us-east-1").client(
        "sagemaker", endpoint_url=cloud.endpoint_url, config=boto3.session.Config(retries={"total_max_attempts": 1})
    )
    with cloud.hooks.before("sagemaker.ListModels", refuse) as hook, pytest.raises(ClientError) as caught:
        jobs.list_models(NameContains="digits")
    assert caught.value.response["Error"]["Code"] == "ThrottlingException"
    assert hook.calls[0].request == {"NameContains": "digits"}
    assert jobs.list_models()["Models"] == []
    queue = cloud.client("sqs")
    with cloud.hooks.after("sqs.CreateQueue", lambda _: None) as hook:
        queue.create_queue(QueueName="hooked")
    assert hook.calls[0].request["QueueName"] == "hooked"


def test_a_function_can_be_made_to_die_right_after_a_call_that_it_made(cloud: Cloud, outputs: dict[str, str]) -> None:
    killed: list[int] = []
    with cloud.hooks.after("sts.GetCallerIdentity", lambda _: killed.append(cloud.lambdas.kill(outputs["Greet"]))):
        answer = cloud.client("lambda").invoke(FunctionName=outputs["Greet"], Payload=b'{"name": "Di"}')
    assert killed == [1]
    assert answer["FunctionError"] == "Unhandled"
    assert json.load(answer["Payload"])["errorType"] == "Runtime.ExitError"
    assert "FunctionError" not in cloud.client("lambda").invoke(
        FunctionName=outputs["Greet"], Payload=b'{"name": "Di"}'
    )


def test_large_objects_and_names_come_back_as_they_were(cloud: Cloud) -> None:
    store = cloud.client("s3")
    store.create_bucket(Bucket="shelf")
    body = os.urandom(12_000_000)
    store.put_object(Bucket="shelf", Key="a b/ü.bin", Body=body, Metadata={"under_score": "1"})
    found = store.get_object(Bucket="shelf", Key="a b/ü.bin")
    assert found["Body"].read() == body
    assert found["Metadata"] == {"under_score": "1"}
    assert [item["Key"] for item in store.list_objects_v2(Bucket="shelf")["Contents"]] == ["a b/ü.bin"]


@pytest.mark.parametrize(
    ("path", "host", "status"), [("/", "evil.example", 403), ("/moto-api/data.json", "127.0.0.1", 404)]
)
def test_pages_and_passers_by_are_refused(cloud: Cloud, path: str, host: str, status: int) -> None:
    request = urllib.request.Request(cloud.endpoint_url + path, headers={"Host": host})  # noqa: S310  # our own server
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=10)  # noqa: S310  # our own server
    assert caught.value.code == status
    caught.value.close()


def test_half_a_request_is_not_carried_out(cloud: Cloud, caplog: pytest.LogCaptureFixture) -> None:
    """A worker that is killed while it sends must leave neither its call nor a traceback."""
    body = b'{"TableName": "never"'
    head = (
        b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Amz-Target: DynamoDB_20120810.DescribeTable\r\n"
        b"Authorization: AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/dynamodb/aws4_request\r\n"
        b"Content-Type: application/x-amz-json-1.0\r\nContent-Length: 1000\r\n\r\n"
    )
    port = int(cloud.endpoint_url.rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(head + body)
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(100) == b""
    assert "error while answering" not in caplog.text


def test_a_page_in_a_browser_may_not_read_answers(cloud: Cloud) -> None:
    request = urllib.request.Request(cloud.endpoint_url, headers={"Origin": "https://evil.example"})  # noqa: S310  # ours
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310  # our own server
        assert answer.status == 200
        assert "access-control-allow-origin" not in answer.headers


def test_it_listens_on_this_machine_only(cloud: Cloud) -> None:
    assert cloud.endpoint_url.startswith("http://127.0.0.1:")


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:4566"),
        ("0.0.0.0", "http://127.0.0.1:4566"),  # noqa: S104  # not bound here
        ("::", "http://[::1]:4566"),
        ("172.17.0.1", "http://172.17.0.1:4566"),
        ("localhost", "http://localhost:4566"),
    ],
)
def test_functions_are_told_an_address_that_they_can_call(host: str, url: str) -> None:
    assert Cloud(host, 4566).endpoint_url == url


def test_only_one_runs_in_a_process(cloud: Cloud) -> None:
    with pytest.raises(CloudError, match="stop it first"):
        Cloud().start()


LIFE = """
import sys, threading
from localaws.cloud import Cloud, CloudError

for _ in range(2):
    with Cloud() as cloud:
        assert cloud.client("s3").list_buckets()["Buckets"] == []
        cloud.client("s3").create_bucket(Bucket="once")
    assert [thread.name for thread in threading.enumerate()] == ["MainThread"], threading.enumerate()

try:
    Cloud(port=int(sys.argv[1])).start()
except CloudError as error:
    assert "Choose another" in str(error), error
else:
    raise AssertionError("the port is taken")

with Cloud() as cloud:
    cloud.wait(lambda: print(cloud.endpoint_url, flush=True))
print("stopped", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_every_start_is_fresh_and_a_signal_stops_it_in_order(number: signal.Signals) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        command = [sys.executable, "-c", LIFE, str(taken.getsockname()[1])]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            line = process.stdout.readline()
            assert line.startswith("http://127.0.0.1:"), process.stderr.read()
            process.send_signal(number)
            out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (0, "stopped\n", "")
