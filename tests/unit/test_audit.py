"""What the daily audit tells of, against a real ledger and a made-up SageMaker."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError

from dropmill import audit, aws, ledger
from dropmill.contracts import ObjectVersion
from dropmill.ledger import Lease, LeaseState, Outcome, Run
from dropmill.settings import settings
from dropmill.steps import audit_resources

NOW = datetime(2026, 1, 2, 11, tzinfo=UTC)
RUN = "digits-0123456789ab"
OURS = {"dropmill:stack": "dropmill-test", "dropmill:run": RUN}
LISTS = {
    "list_endpoints": ("Endpoints", "Endpoint"),
    "list_hyper_parameter_tuning_jobs": ("HyperParameterTuningJobSummaries", "HyperParameterTuningJob"),
    "list_training_jobs": ("TrainingJobSummaries", "TrainingJob"),
    "list_transform_jobs": ("TransformJobSummaries", "TransformJob"),
    "list_endpoint_configs": ("EndpointConfigs", "EndpointConfig"),
    "list_models": ("Models", "Model"),
}


def missing() -> ClientError:
    return ClientError({"Error": {"Code": "ValidationException", "Message": "Could not find it."}}, "Describe")


class SageMaker:
    """Resources by kind (the prefix of its members) and name: their tags, and what describe says."""

    meta = SimpleNamespace(region_name="us-east-1")

    def __init__(self) -> None:
        self.tags: dict[str, dict[str, str]] = {}
        self.shown: dict[tuple[str, str], dict[str, Any]] = {}
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.tags_asked: list[str] = []

    def add(self, kind: str, name: str, tags: dict[str, str], **shown: Any) -> None:
        self.tags[f"arn:{kind}/{name}"] = tags
        self.shown[kind, name] = shown

    def end(self, kind: str, name: str) -> None:
        """The resource is gone, though a list may still name it."""
        del self.shown[kind, name]

    def get_paginator(self, operation: str) -> Any:
        return SimpleNamespace(paginate=lambda **asked: self._pages(operation, asked))

    def _pages(self, operation: str, asked: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if operation == "list_tags":
            self.tags_asked.append(asked["ResourceArn"])
            found = self.tags[asked["ResourceArn"]]
            yield {"Tags": [{"Key": key, "Value": value} for key, value in found.items()]}
            return
        asked.pop("PaginationConfig")
        self.asked.append((operation, asked))
        members, kind = LISTS[operation]
        for arn in self.tags:
            listed, _, name = arn.removeprefix("arn:").partition("/")
            if listed == kind:
                # One to a page.
                made = NOW - timedelta(hours=3)
                yield {members: [{f"{kind}Name": name, f"{kind}Arn": arn, "CreationTime": made}]}

    def __getattr__(self, operation: str) -> Any:
        kind = "".join(word.capitalize() for word in operation.removeprefix("describe_").split("_"))

        def describe(**asked: str) -> dict[str, Any]:
            (name,) = asked.values()
            if (kind, name) not in self.shown:
                raise missing()
            return self.shown[kind, name]

        return describe


@pytest.fixture
def sagemaker(ledger_table: str, monkeypatch: pytest.MonkeyPatch) -> SageMaker:
    made = SageMaker()
    monkeypatch.setattr(aws, "sagemaker", lambda: made)
    monkeypatch.setenv("NOTIFICATION_TOPIC_ARN", "arn:topic")
    settings.cache_clear()
    drop = ObjectVersion(bucket="drops", key="drops/digits/a.csv", size=1)
    ledger.open_run(Run(RUN, "digits", drop, "arn:execution", 1))
    return made


def lease(step: Any, name: str, state: LeaseState = LeaseState.CREATED) -> None:
    intended = Lease(RUN, step, name, 1, LeaseState.INTENDED, deadline=2_000_000_000, proof_after=1)
    ledger.intend(intended)
    if state is not LeaseState.INTENDED:
        assert ledger.mark_created(intended, 1)
    if state is LeaseState.CLOSED:
        ledger.mark_closed(intended, Outcome.RELEASED)


def found() -> list[tuple[str, str, bool]]:
    return [(one.noun, one.name, one.had_lease) for one in audit.unknown_resources(NOW)]


def test_what_an_open_lease_knows_is_not_told(sagemaker: SageMaker) -> None:
    sagemaker.add("TrainingJob", "d-train-1", OURS, TrainingJobStatus="InProgress")
    sagemaker.add("Endpoint", "d-ep-1", OURS, EndpointStatus="InService")
    lease("training", "d-train-1", LeaseState.INTENDED)
    lease("endpoint", "d-ep-1")
    assert found() == []
    assert sagemaker.tags_asked == [], "its name says enough"


def test_running_jobs_are_asked_for_and_nothing_young(sagemaker: SageMaker) -> None:
    assert found() == []
    asked = dict(sagemaker.asked)
    assert {"CreationTimeBefore": NOW - timedelta(minutes=15)}.items() <= asked["list_models"].items()
    assert asked["list_training_jobs"] == asked["list_models"] | {"StatusEquals": "InProgress"}
    assert {name for name, what in asked.items() if "StatusEquals" in what} == {
        "list_training_jobs",
        "list_transform_jobs",
        "list_hyper_parameter_tuning_jobs",
    }


def test_what_costs_comes_first_and_others_stacks_are_left_alone(sagemaker: SageMaker) -> None:
    sagemaker.add("Model", "d-model-1", OURS)
    sagemaker.add("Model", "another", OURS | {"dropmill:stack": "dropmill"})
    sagemaker.add("Model", "untagged", {})
    sagemaker.add("EndpointConfig", "d-epcfg-1", OURS)
    sagemaker.add("TransformJob", "by-hand", {"dropmill:stack": "dropmill-test"}, TransformJobStatus="InProgress")
    sagemaker.add("Endpoint", "d-ep-1", OURS, EndpointStatus="Failed")
    lease("endpoint", "d-ep-1", LeaseState.CLOSED)
    assert found() == [
        ("endpoint", "d-ep-1", True),
        ("transform job", "by-hand", False),
        ("endpoint configuration", "d-epcfg-1", False),
        ("model", "d-model-1", False),
    ]


def test_a_searchs_own_jobs_are_known_by_its_lease(sagemaker: SageMaker) -> None:
    search = "arn:aws:sagemaker:us-east-1:123456789012:hyper-parameter-tuning-job/d-tune-1"
    running = {"TrainingJobStatus": "InProgress"}
    sagemaker.add("HyperParameterTuningJob", "d-tune-1", OURS, HyperParameterTuningJobStatus="InProgress")
    sagemaker.add("TrainingJob", "d-tune-1-001", OURS, **running, TuningJobArn=search)
    sagemaker.add("TrainingJob", "stray", OURS, **running)
    lease("tuning", "d-tune-1")
    assert found() == [("training job", "stray", False)]


@pytest.mark.parametrize(
    ("kind", "left"),
    [
        ("Endpoint", {"EndpointStatus": "Deleting"}),
        ("TrainingJob", {"TrainingJobStatus": "Stopped"}),
        ("TrainingJob", None),
        ("Model", None),
    ],
)
def test_what_has_gone_since_it_was_listed_is_not_told(
    kind: str, left: dict[str, str] | None, sagemaker: SageMaker
) -> None:
    sagemaker.add(kind, "d-1", OURS, **(left or {}))
    if left is None:
        sagemaker.end(kind, "d-1")
    assert found() == []


def test_one_message_says_what_to_do(
    sagemaker: SageMaker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sent: list[dict[str, Any]] = []
    monkeypatch.setattr(aws, "sns", lambda: SimpleNamespace(publish=lambda **message: sent.append(message)))
    event = {"time": NOW.isoformat()}
    context: Any = SimpleNamespace(aws_request_id="1", function_name="audit")
    audit_resources.handler(event, context)
    assert sent == []
    for number in range(130):
        sagemaker.add("Model", f"model-{number:03}", {"dropmill:stack": "dropmill-test"})
    sagemaker.add("Endpoint", "d-ep-1", OURS, EndpointStatus="InService")
    lease("endpoint", "d-ep-1", LeaseState.CLOSED)
    audit_resources.handler(event, context)
    (message,) = sent
    assert message["TopicArn"] == "arn:topic"
    assert message["Subject"] == "Dropmill: 131 resources that no run knows of, stack dropmill-test"
    lines = message["Message"].splitlines()
    assert lines[1] == "1 of them costs money as long as it is there; models and endpoint configurations cost nothing."
    assert f"- endpoint d-ep-1, since 2026-01-02 08:00 UTC, of run {RUN}, which should be gone. End it with:" in lines
    assert "  aws sagemaker delete-endpoint --endpoint-name d-ep-1 --region us-east-1" in lines
    assert "- and 31 more; the next audit tells of them when these are gone" in lines
    assert len(message["Message"].encode()) < 256 * 1024
    metrics = [json.loads(line) for line in capsys.readouterr().out.splitlines() if "UnknownResources" in line]
    assert [line["UnknownResources"] for line in metrics] == [[0.0], [131.0]], "what is watched is told each time"
