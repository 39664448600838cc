"""The application in an embedded cloud of its own, and what a whole-workflow test asks of it."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from localaws.cloud import Cloud
from localaws.template import Stack

ROOT = Path(__file__).parents[2]
TIMEOUT = 60.0

Event = dict[str, Any]


def points(rows: int, seed: int, classes: int = 3) -> bytes:
    """A labelled CSV of well-separated groups of points."""
    random = np.random.default_rng(seed)
    labels = random.permutation(np.arange(rows) % classes)
    features = random.normal(size=(rows, 4)) + 6 * labels[:, None]
    lines = [
        ",".join([*(f"{value:.4f}" for value in row), str(label)]) for row, label in zip(features, labels, strict=True)
    ]
    return "\n".join(["a,b,c,d,label", *lines, ""]).encode()


@dataclass
class Stand:
    """A deployed stack and everything that was ever emitted in its cloud."""

    cloud: Cloud
    stack: Stack
    queue_url: str
    seen: list[Event] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)
    messages: list[dict[str, Any]] = field(default_factory=list)
    drops: int = 0

    def observe(self, event: Event) -> bool:
        with self.changed:
            self.seen.append(event)
            self.changed.notify_all()
        return False

    def wait_for(self, matches: Callable[[Event], bool], timeout: float = TIMEOUT) -> Event:
        """The first event that matches, past or to come."""

        def found() -> Event | None:
            return next((event for event in self.seen if matches(event)), None)

        with self.changed:
            self.changed.wait_for(lambda: found() is not None, timeout)
            event = found()
        assert event is not None, f"no such event; the last were {[e['detail-type'] for e in self.seen[-8:]]}"
        return event

    def client(self, service: str) -> Any:
        return self.cloud.client(service)

    @property
    def drop_bucket(self) -> str:
        return self.stack.outputs["DropBucket"]

    @property
    def artifact_bucket(self) -> str:
        return self.stack.outputs["ArtifactBucket"]

    def recipe(self, name: str, text: str) -> None:
        self.client("s3").put_object(Bucket=self.drop_bucket, Key=f"recipes/{name}.yaml", Body=text.encode())

    def drop(self, recipe: str = "linear-learner", body: bytes | None = None, file: str | None = None) -> str:
        """Drop a file that was never dropped before; returns its key."""
        self.drops += 1
        key = f"drops/{recipe}/{file or f'points-{self.drops}.csv'}"
        content = points(240, seed=self.drops) if body is None else body
        self.client("s3").put_object(Bucket=self.drop_bucket, Key=key, Body=content)
        return key

    def run_of(self, key: str) -> str:
        """The run that a drop started."""
        return str(self.wait_for(lambda event: _is_execution(event, key, "RUNNING"))["detail"]["name"])

    def execution_of(self, run: str) -> str:
        return f"{self.stack.outputs['TrainStateMachineArn'].replace(':stateMachine:', ':execution:')}:{run}"

    def wait_for_end(self, run: str) -> Event:
        """Wait until the execution has ended and everything that follows from it is done."""

        def ended(event: Event) -> bool:
            detail = event["detail"]
            return event["source"] == "aws.states" and detail["name"] == run and detail["status"] != "RUNNING"

        event = self.wait_for(ended)
        self.settle()
        return event

    def wait_for_history(self, run: str, *types: str) -> dict[str, Any]:
        """The first history event of one of these types."""
        arn = self.execution_of(run)
        deadline = time.monotonic() + TIMEOUT
        while time.monotonic() < deadline:
            for event in self.client("stepfunctions").get_execution_history(executionArn=arn)["events"]:
                if event["type"] in types:
                    return dict(event)
            time.sleep(0.05)  # Step Functions tells of no such thing by an event
        raise AssertionError(f"no {' or '.join(types)} in the history of {run}")

    def settle(self) -> None:
        """Wait until every event has been delivered and dealt with."""
        deadline = time.monotonic() + TIMEOUT
        quiet = 0
        while quiet < 2:
            before = len(self.seen)
            assert self.cloud.events.wait_idle(TIMEOUT)
            assert self.cloud.lambdas.wait_idle(TIMEOUT)
            quiet = quiet + 1 if len(self.seen) == before else 0
            assert time.monotonic() < deadline

    def sweep(self) -> None:
        """Let five minutes pass, so that the sweeper's schedule fires."""
        self.cloud.clock.advance(300)
        self.settle()

    def record(self, run: str) -> dict[str, Any]:
        body = self.client("s3").get_object(Bucket=self.artifact_bucket, Key=f"runs/{run}/run.json")["Body"].read()
        return dict(json.loads(body))

    def notifications(self, run: str) -> list[dict[str, Any]]:
        sqs = self.client("sqs")
        while received := sqs.receive_message(QueueUrl=self.queue_url, MaxNumberOfMessages=10).get("Messages"):
            self.messages += [json.loads(message["Body"]) for message in received]
            for message in received:
                sqs.delete_message(QueueUrl=self.queue_url, ReceiptHandle=message["ReceiptHandle"])
        return [m for m in self.messages if m["MessageAttributes"]["run_id"]["Value"] == run]

    def jobs(self, run: str) -> list[str]:
        sagemaker = self.client("sagemaker")
        names = []
        for job in sagemaker.list_training_jobs(MaxResults=100)["TrainingJobSummaries"]:
            tags = sagemaker.list_tags(ResourceArn=job["TrainingJobArn"])["Tags"]
            if {"Key": "dropmill:run", "Value": run} in tags:
                names.append(job["TrainingJobName"])
        return names

    def assert_nothing_left(self) -> None:
        """SageMaker itself holds no endpoint, configuration, model or running job."""
        sagemaker = self.client("sagemaker")
        assert sagemaker.list_endpoints()["Endpoints"] == []
        assert sagemaker.list_endpoint_configs()["EndpointConfigs"] == []
        assert sagemaker.list_models()["Models"] == []
        for status in ("InProgress", "Stopping"):
            assert sagemaker.list_training_jobs(StatusEquals=status)["TrainingJobSummaries"] == []

    def open_rows(self, run: str) -> list[str]:
        """What the ledger still looks after for a run."""
        table = self.stack.outputs["LedgerTable"]
        items = self.client("dynamodb").scan(TableName=table, ConsistentRead=True)["Items"]
        return sorted(item["sk"]["S"] for item in items if item["run_id"]["S"] == run and "open" in item)

    def function(self, step: str) -> str:
        """The physical name of a step's function: `launch_training`."""
        logical = "".join(word.capitalize() for word in step.split("_")) + "Function"
        return str(self.stack.resources[logical])


def _is_execution(event: Event, key: str, status: str) -> bool:
    if event["source"] != "aws.states" or event["detail"]["status"] != status:
        return False
    return bool(json.loads(event["detail"]["input"])["drop"]["key"] == key)


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    with Cloud() as cloud:
        stack = cloud.deploy(ROOT / "template.yaml", prewarm=True)
        sqs = cloud.client("sqs")
        queue_url = sqs.create_queue(QueueName="inbox")["QueueUrl"]
        cloud.client("sns").subscribe(
            TopicArn=stack.outputs["NotificationTopicArn"],
            Protocol="sqs",
            Endpoint=sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["QueueArn"])["Attributes"][
                "QueueArn"
            ],
        )
        stand = Stand(cloud, stack, queue_url)
        cloud.events.repeat(stand.observe, 1)
        yield stand
