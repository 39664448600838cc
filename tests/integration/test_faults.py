"""Faults as callers meet them: calls, events and jobs of an embedded cloud that go wrong by rule."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from localaws.faults import FaultRule

CODE = """
import json, pathlib, time


def handler(event, context):
    place = pathlib.Path("/var/tmp") / event["mark"]
    with place.open("a") as file:
        file.write("x")
    while event.get("stay") and len(place.read_text()) < 2:
        time.sleep(0.01)
    return event["mark"]
"""


@pytest.fixture(autouse=True)
def peace(jobs: Any) -> Iterator[None]:
    yield
    jobs.cloud.faults.clear()
    jobs.cloud.faults.injected.clear()


def counts(jobs: Any) -> dict[str, int]:
    return dict(jobs.cloud.faults.counts())


def test_the_clients_own_retries_mend_what_is_short(jobs: Any) -> None:
    for number, effect in enumerate(("throttle", "fail", "lose-answer", "timeout")):
        jobs.cloud.faults.add(
            FaultRule.model_validate(
                {"call": "s3:PutObject", "effect": effect, "about": f"mended-{number}", "times": 2, "seconds": 0}
            )
        )
        jobs.put(f"mended-{number}", b"x")
        assert jobs.s3.get_object(Bucket=jobs.BUCKET, Key=f"mended-{number}")["Body"].read() == b"x"
    assert counts(jobs) == {"call fail": 2, "call lose-answer": 2, "call throttle": 2, "call timeout": 2}


def test_a_refusal_has_the_services_own_form(jobs: Any) -> None:
    jobs.cloud.faults.add(FaultRule(call="*", effect="fail", code="AccessDenied", status=403, message="not you"))
    for service, call in (
        ("s3", lambda client: client.get_object(Bucket=jobs.BUCKET, Key="x")),
        ("sns", lambda client: client.list_topics()),
        ("dynamodb", lambda client: client.list_tables()),
        ("lambda", lambda client: client.invoke(FunctionName="x")),
        ("sagemaker", lambda client: client.list_models()),
    ):
        with pytest.raises(ClientError) as refused:
            call(jobs.client(service))
        answer = refused.value.response
        assert answer["Error"]["Code"] == "AccessDenied", service
        assert answer["Error"]["Message"] == "not you"
        assert answer["ResponseMetadata"]["HTTPStatusCode"] == 403
        assert answer["ResponseMetadata"]["RequestId"]


def test_events_are_lost_late_and_doubled(jobs: Any) -> None:
    sqs, events = jobs.client("sqs"), jobs.client("events")
    url = sqs.create_queue(QueueName="told")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    statement = {
        "Effect": "Allow",
        "Principal": {"Service": "events.amazonaws.com"},
        "Action": "sqs:*",
        "Resource": arn,
    }
    policy = {"Version": "2012-10-17", "Statement": [statement]}
    sqs.set_queue_attributes(QueueUrl=url, Attributes={"Policy": json.dumps(policy)})
    events.put_rule(Name="all", EventPattern=json.dumps({"source": ["test"]}))
    events.put_targets(Rule="all", Targets=[{"Id": "queue", "Arn": arn}])
    for about, effect in (("one", "drop"), ("two", "repeat"), ("three", "delay")):
        jobs.cloud.faults.add(
            FaultRule.model_validate({"event": "Told", "effect": effect, "about": about, "seconds": 1})
        )
    for name in ("one", "two", "three", "four"):
        told = {"Source": "test", "DetailType": "Told", "Resources": ["x"], "Detail": json.dumps({"name": name})}
        events.put_events(Entries=[told])
    assert jobs.cloud.events.wait_idle(20)
    names = []
    while found := sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages"):
        for message in found:
            sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
            names.append(json.loads(message["Body"])["detail"]["name"])
    assert sorted(names) == ["four", "three", "two", "two"]


def training(jobs: Any, name: str) -> None:
    jobs.api.create_training_job(
        TrainingJobName=name,
        AlgorithmSpecification={"TrainingImage": jobs.IMAGE, "TrainingInputMode": "File"},
        RoleArn=jobs.ROLE,
        OutputDataConfig={"S3OutputPath": f"s3://{jobs.BUCKET}/models"},
        ResourceConfig={"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1},
        StoppingCondition={"MaxRuntimeInSeconds": 600},
    )


@pytest.mark.parametrize(
    ("effect", "status", "reason"),
    [
        ("capacity", "Failed", "CapacityError: Unable"),
        ("fail", "Failed", "InternalServerError"),
        ("stop", "Stopped", ""),
    ],
)
def test_jobs_end_as_they_are_told(jobs: Any, effect: str, status: str, reason: str) -> None:
    name = f"troubled-{effect}"
    jobs.cloud.faults.add(FaultRule.model_validate({"job": "training", "effect": effect, "about": name}))
    training(jobs, name)
    assert jobs.wait_for_status(name) == status
    assert jobs.api.describe_training_job(TrainingJobName=name).get("FailureReason", "").startswith(reason)


def test_a_job_hangs_until_it_is_stopped(jobs: Any) -> None:
    jobs.cloud.faults.add(FaultRule(job="training", effect="hang", about="hanging"))
    training(jobs, "hanging")
    assert jobs.wait_for_status("hanging", "InProgress") == "InProgress"
    while not counts(jobs):
        time.sleep(0.01)  # the job's own thread meets the rule
    assert jobs.api.describe_training_job(TrainingJobName="hanging")["TrainingJobStatus"] == "InProgress"
    jobs.api.stop_training_job(TrainingJobName="hanging")
    assert jobs.wait_for_status("hanging") == "Stopped"


def test_functions_are_killed_and_called_twice(jobs: Any, tmp_path: Path) -> None:
    (tmp_path / "marking.py").write_text(CODE)
    jobs.cloud.lambdas.register("marking", tmp_path, "marking.handler", timeout=30)
    mark = f"mark-{time.time_ns()}"
    place = Path("/var/tmp") / mark
    try:
        jobs.cloud.faults.add(FaultRule(function="marking", effect="repeat", copies=3, about=mark, times=1))
        jobs.cloud.lambdas.invoke_event("marking", json.dumps({"mark": mark}).encode())
        assert jobs.cloud.lambdas.wait_idle(30)
        assert place.read_text() == "xxx"
        place.unlink()
        jobs.cloud.faults.add(FaultRule(function="marking", effect="kill", seconds=0.5, about=mark, times=1))
        answer = jobs.cloud.lambdas.invoke("marking", json.dumps({"mark": mark, "stay": True}).encode())
        assert answer.error == "Unhandled"
        assert json.loads(answer.payload)["errorType"] == "Runtime.ExitError"
        again = jobs.cloud.lambdas.invoke("marking", json.dumps({"mark": mark, "stay": True}).encode())
        assert again.error is None
    finally:
        place.unlink(missing_ok=True)


def test_what_a_rule_calls_comes_behind_the_fault(jobs: Any) -> None:
    called = threading.Event()
    jobs.cloud.faults.add(FaultRule(call="s3:PutObject", effect="note", skip=1, times=1), then=called.set)
    jobs.put("first", b"x")
    assert not called.is_set()
    jobs.put("second", b"x")
    assert called.wait(10)
