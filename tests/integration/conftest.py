"""The application in an embedded cloud of its own, and what a whole-workflow test asks of it."""

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from localaws.cloud import Cloud
from localaws.sagemaker import shapes
from localaws.sagemaker.programs import Programs
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
class Witness:
    """A cloud and everything that was ever emitted in it."""

    cloud: Cloud
    seen: list[Event] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

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


@dataclass(kw_only=True)
class Stand(Witness):
    """A deployed stack and everything that was ever emitted in its cloud."""

    stack: Stack
    queue_url: str
    messages: list[dict[str, Any]] = field(default_factory=list)
    drops: int = 0

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

    def to_score(self, recipe: str, name: str, body: bytes) -> None:
        """Put a file where the next batch finds it."""
        self.client("s3").put_object(Bucket=self.drop_bucket, Key=f"scoring/{recipe}/{name}", Body=body)

    def score(self, recipe: str, moment: datetime | None = None) -> str:
        """Start a batch by hand; returns its name."""
        request = {"recipe": recipe, "scheduled_time": (moment or datetime.now(UTC)).isoformat()}
        answer = self.client("lambda").invoke(
            FunctionName=self.stack.outputs["StartScoringFunctionName"], Payload=json.dumps(request)
        )
        return str(json.loads(answer["Payload"].read())["batches"][0]["batch"])

    def artifact(self, key: str) -> bytes:
        return bytes(self.client("s3").get_object(Bucket=self.artifact_bucket, Key=key)["Body"].read())

    def artifacts(self, prefix: str) -> list[str]:
        """The keys under a prefix of the artifact bucket."""
        found = self.client("s3").list_objects_v2(Bucket=self.artifact_bucket, Prefix=prefix)
        return [item["Key"] for item in found.get("Contents", ())]

    def run_of(self, key: str) -> str:
        """The run that a drop started."""
        return str(self.wait_for(lambda event: _is_execution(event, key, "RUNNING"))["detail"]["name"])

    def execution_of(self, run: str) -> str:
        machine = "ScoreStateMachineArn" if "-score-" in run else "TrainStateMachineArn"
        return f"{self.stack.outputs[machine].replace(':stateMachine:', ':execution:')}:{run}"

    def wait_for_end(self, run: str) -> Event:
        """Wait until the execution has ended and everything that follows from it is done."""

        def ended(event: Event) -> bool:
            detail = event["detail"]
            return bool(event["source"] == "aws.states" and detail["name"] == run and detail["status"] != "RUNNING")

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
        return [m for m in self.messages if m.get("MessageAttributes", {}).get("run_id", {}).get("Value") == run]

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
            assert sagemaker.list_transform_jobs(StatusEquals=status)["TransformJobSummaries"] == []
            searches = sagemaker.list_hyper_parameter_tuning_jobs(StatusEquals=status)
            assert searches["HyperParameterTuningJobSummaries"] == []

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
    drop = json.loads(event["detail"]["input"]).get("drop", {})  # a batch has none
    return bool(drop.get("key") == key)


@pytest.fixture(scope="module")
def stand(request: pytest.FixtureRequest) -> Iterator[Stand]:
    """The stack, with the parameters that a module may name as `PARAMETERS`; its calls are recorded for `JOURNAL`."""
    with Cloud(journal=getattr(request.module, "JOURNAL", False)) as cloud:
        stack = cloud.deploy(
            ROOT / "template.yaml", parameters=getattr(request.module, "PARAMETERS", None), prewarm=True
        )
        sqs = cloud.client("sqs")
        queue_url = sqs.create_queue(QueueName="inbox")["QueueUrl"]
        cloud.client("sns").subscribe(
            TopicArn=stack.outputs["NotificationTopicArn"],
            Protocol="sqs",
            Endpoint=sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["QueueArn"])["Attributes"][
                "QueueArn"
            ],
        )
        stand = Stand(cloud, stack=stack, queue_url=queue_url)
        cloud.events.repeat(stand.observe, 1)
        yield stand


@dataclass(kw_only=True)
class Jobs(Witness):
    """An embedded SageMaker whose every algorithm is a stand-in, and every event that it sent."""

    IMAGE: ClassVar = "382416733822.dkr.ecr.us-east-1.amazonaws.com/kmeans:1"
    ROLE: ClassVar = "arn:aws:iam::123456789012:role/jobs"
    BUCKET: ClassVar = "artifacts"

    @property
    def api(self) -> Any:
        return self.cloud.client("sagemaker")

    @property
    def s3(self) -> Any:
        return self.cloud.client("s3")

    def of(self, name: str) -> list[Event]:
        """The details of a resource's events so far."""
        with self.changed:
            return [event["detail"] for event in self.seen if event["resources"][0].endswith(f"/{name}")]

    def wait_for_status(self, name: str, *statuses: str) -> str:
        """Wait until a job of this name has one of these statuses (or any that a job ends with), and return it."""

        def status(event: Event) -> str:
            if not event["resources"][0].endswith(f"/{name}"):
                return ""
            kinds = ("TrainingJobStatus", "HyperParameterTuningJobStatus", "TransformJobStatus", "EndpointStatus")
            return next((event["detail"][kind] for kind in kinds if kind in event["detail"]), "")

        wanted = statuses or ("Completed", "Failed", "Stopped")
        return status(self.wait_for(lambda event: status(event) in wanted))

    def put(self, key: str, body: bytes) -> str:
        self.s3.put_object(Bucket=self.BUCKET, Key=key, Body=body)
        return f"s3://{self.BUCKET}/{key}"

    def lines(self, group: str, prefix: str) -> dict[str, list[str]]:
        """The lines of a log group's streams whose names begin so."""
        self.cloud.sagemaker._logs.flush()
        logs = self.cloud.client("logs")
        streams = logs.describe_log_streams(logGroupName=group, logStreamNamePrefix=prefix)["logStreams"]
        return {
            one["logStreamName"]: [
                event["message"]
                for event in logs.get_log_events(
                    logGroupName=group, logStreamName=one["logStreamName"], startFromHead=True
                )["events"]
            ]
            for one in streams
        }


def _judged(name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
    """The operation, whose every answer must fit botocore's shape: clients would quietly drop what it doesn't know."""
    shape = shapes.operation(name).output_shape

    def call(region: str, request: dict[str, Any]) -> Any:
        answer = operation(region, request)
        problems: list[str] = []
        known = shapes._walk(shape, answer, "", problems) if shape else {}
        assert known == answer, f"{name} answers members that it doesn't have"
        # SageMaker's model requires ModelArtifacts even of a job that has none yet, and a name of a package's version.
        lacked = ("'modelArtifacts'", "'modelPackageName'")
        assert [problem for problem in problems if not any(member in problem for member in lacked)] == []
        return answer

    return call


@pytest.fixture(scope="module")
def jobs() -> Iterator[Jobs]:
    program = str(Path(__file__).with_name("sagemaker_program.py"))

    def command(_repository: str, action: str) -> list[str]:
        return [sys.executable, "-S", program, action]

    def metrics(_repository: str) -> list[tuple[str, str]]:
        return [("test:msd", r"#quality_metric: host=\S+, (?:epoch=\d+, )?test msd <loss>=(\S+)")]

    with Cloud(programs=Programs(command, metrics, lambda _repository: {"test:msd": "Minimize"})) as cloud:
        operations = cloud.sagemaker.operations
        for name, operation in operations.items():
            operations[name] = _judged(name, operation)
        jobs = Jobs(cloud)
        cloud.events.repeat(jobs.observe, 1)
        jobs.s3.create_bucket(Bucket=jobs.BUCKET)
        yield jobs
