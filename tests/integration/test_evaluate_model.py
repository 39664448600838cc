"""Evaluate Model against S3 and an endpoint whose answers the test decides."""

import io
import json
import math
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from threading import Lock
from typing import Any

import boto3
import numpy as np
import pytest
from botocore.exceptions import ClientError, ParamValidationError, ReadTimeoutError
from moto import mock_aws

from dropmill import aws, naming, settings, storage
from dropmill.contracts import (
    DroppedFile,
    EvaluateInput,
    FileFormat,
    Layout,
    Metrics,
    ObjectVersion,
    Part,
    PartFile,
    Plan,
    SealedDataset,
    SealedPart,
    Task,
)
from dropmill.data import recordio
from dropmill.errors import PredictionFailed
from dropmill.recipe import Recipe
from dropmill.steps import evaluate_model as module
from dropmill.steps.evaluate_model import evaluate_model

RUN = "digits-0123456789ab"
BUCKET = "artifacts"
CELL = "417.25"

Answer = Callable[[np.ndarray], Any]


class Endpoint:
    """Stands in for the sagemaker-runtime client; `answer` makes the document for some rows."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._lock = Lock()
        self.requests: list[dict[str, Any]] = []
        self.rows = 0

    def invoke_endpoint(self, **request: Any) -> dict[str, Any]:
        features, labels = recordio.read(request["Body"])
        assert labels is None, "labels must never leave for an endpoint"
        with self._lock:
            self.requests.append(request)
            self.rows += len(features)
        body = self._answer(features)
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        return {"Body": io.BytesIO(body), "ContentType": "application/json"}


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in {
        "ARTIFACT_BUCKET": BUCKET,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    settings.settings.cache_clear()
    aws._client.cache_clear()
    with mock_aws():
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        yield
    settings.settings.cache_clear()
    aws._client.cache_clear()


def ask(monkeypatch: pytest.MonkeyPatch, answer: Answer) -> Endpoint:
    endpoint = Endpoint(answer)
    monkeypatch.setattr(aws, "sagemaker_runtime", lambda: endpoint)
    return endpoint


def prepare(
    task: Task,
    files: list[tuple[np.ndarray, np.ndarray | None]],
    *,
    values: list[float] | None = None,
    max_rows: int = 100_000,
) -> None:
    """Put a run's plan, dataset and test part files into the bucket."""
    features = files[0][0].shape[1] if files else 4
    parts = []
    for number, (rows, labels) in enumerate(files):
        body = recordio.encode(rows, labels)
        key = naming.part_file_key(RUN, Part.TEST, number)
        storage.write_object(key, body)
        parts.append(PartFile(key=key, rows=len(rows), size=len(body)))
    storage.write_document(
        naming.plan_key(RUN),
        Plan(
            run_id=RUN,
            recipe_name="digits",
            recipe=Recipe.model_validate({"algorithm": ALGORITHMS[task], "evaluation": {"max_rows": max_rows}}),
            drop=ObjectVersion(bucket="drops", key="drops/digits/points.csv", size=10),
            files=[
                DroppedFile(
                    source=ObjectVersion(bucket="drops", key="drops/digits/points.csv", size=10), name="points.csv"
                )
            ],
            layout=Layout(
                format=FileFormat.CSV,
                columns=[str(index) for index in range(features)],
                feature_columns=list(range(features)),
                label_values=values,
            ),
            task=task,
            hyperparameters={},
            created_at=datetime(2026, 1, 1, tzinfo=UTC),
        ),
    )
    rows_total = sum(part.rows for part in parts)
    storage.write_document(
        naming.dataset_key(RUN),
        SealedDataset(
            feature_dim=features,
            rows=max(rows_total, 1),
            parts={Part.TEST: SealedPart(rows=rows_total, size=sum(part.size for part in parts), files=parts)},
            hyperparameters={"k": "3"},
        ),
    )


ALGORITHMS = {
    Task.BINARY: "linear-learner",
    Task.MULTICLASS: "linear-learner",
    Task.REGRESSION: "linear-learner",
    Task.CLUSTERING: "kmeans",
}


def sign(features: np.ndarray) -> dict[str, Any]:
    """A binary classifier that answers whether the first value is above a half."""
    return {"predictions": [{"score": float(row[0]), "predicted_label": float(row[0] > 0.5)} for row in features]}


def echo(features: np.ndarray) -> dict[str, Any]:
    """A regressor that answers the first value."""
    return {"predictions": [{"score": float(row[0])} for row in features]}


def numbered(rows: int, first: int = 0, features: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Rows whose first value and label are their number."""
    numbers = np.arange(first, first + rows, dtype=np.float32)
    return np.repeat(numbers[:, None], features, axis=1), numbers


def request() -> EvaluateInput:
    return EvaluateInput(run_id=RUN, endpoint="the-endpoint")


def metrics_document() -> Metrics:
    return storage.read_document(Metrics, naming.metrics_key(RUN))


def test_metrics_and_report_are_written_and_summed_up(bucket, monkeypatch):
    features = np.array([[0.9], [0.8], [0.2], [0.1], [0.7]], np.float32)
    prepare(Task.BINARY, [(features, np.array([1, 1, 0, 0, 0], np.float32))], values=[3.0, 8.0])
    endpoint = ask(monkeypatch, sign)
    evaluation = evaluate_model(request())
    assert evaluation.rows == 5
    assert evaluation.metrics == pytest.approx(
        {"accuracy": 0.8, "precision": 2 / 3, "recall": 1.0, "f1": 0.8, "roc_auc": 1.0}
    )
    assert evaluation.report == f"s3://{BUCKET}/runs/{RUN}/report.html"
    document = metrics_document()
    assert (document.classes, document.confusion, document.sampled_from) == (["3", "8"], [[2, 1], [0, 2]], None)
    assert document.notes[0] == "Only 5 rows were held out, so the metrics are rough."
    stored = boto3.client("s3").get_object(Bucket=BUCKET, Key=naming.report_key(RUN))
    assert stored["ContentType"] == "text/html; charset=utf-8"
    assert stored["Body"].read().startswith(b"<!doctype html>")
    (sent,) = endpoint.requests
    assert (sent["EndpointName"], sent["ContentType"], sent["Accept"]) == (
        "the-endpoint",
        "application/x-recordio-protobuf",
        "application/json",
    )


def test_clusters_are_kept_with_their_numbers(bucket, monkeypatch):
    prepare(Task.CLUSTERING, [(np.ones((4, 2), np.float32), None)])
    ask(monkeypatch, lambda rows: {"predictions": [{"closest_cluster": 2.0, "distance_to_cluster": 1.5}] * len(rows)})
    assert evaluate_model(request()).metrics == {"msd": 2.25}
    assert metrics_document().clusters == [
        {"cluster": 0, "rows": 0, "mean_distance": None, "label": None, "share": None},
        {"cluster": 1, "rows": 0, "mean_distance": None, "label": None, "share": None},
        {"cluster": 2, "rows": 4, "mean_distance": 1.5, "label": None, "share": None},
    ]


def test_every_row_of_every_file_is_asked_once_and_meets_its_own_label(bucket, monkeypatch):
    monkeypatch.setattr(module, "READ_BYTES", 1000)
    monkeypatch.setattr(module, "REQUEST_ROWS_MAX", 7)
    prepare(Task.REGRESSION, [numbered(101), numbered(1, 101), numbered(20, 102)])
    endpoint = ask(monkeypatch, echo)
    evaluation = evaluate_model(request())
    assert (evaluation.rows, endpoint.rows) == (122, 122)
    assert evaluation.metrics["mae"] == 0
    assert max(len(recordio.read(sent["Body"])[0]) for sent in endpoint.requests) == 7
    assert len(endpoint.requests) == math.ceil(122 / 7)


def test_above_max_rows_the_same_sample_is_judged_every_time(bucket, monkeypatch):
    monkeypatch.setattr(module, "READ_BYTES", 1000)
    prepare(Task.REGRESSION, [numbered(300), numbered(200, 300)], max_rows=60)
    seen = []
    for _ in range(2):
        endpoint = ask(monkeypatch, echo)
        evaluation = evaluate_model(request())
        assert (evaluation.rows, evaluation.metrics["mae"]) == (60, 0)
        seen.append(sorted(row[0] for sent in endpoint.requests for row in recordio.read(sent["Body"])[0].tolist()))
    assert seen[0] == seen[1]
    assert len(set(seen[0])) == 60
    assert seen[0][0] < 100
    assert seen[0][-1] > 400
    assert metrics_document().sampled_from == 500
    page = boto3.client("s3").get_object(Bucket=BUCKET, Key=naming.report_key(RUN))["Body"].read().decode()
    assert "60 of 500 test rows" in page


def test_requests_stay_below_the_limit_of_bytes(bucket, monkeypatch):
    prepare(Task.REGRESSION, [numbered(500, features=5000)])
    endpoint = ask(monkeypatch, echo)
    evaluate_model(request())
    assert len(endpoint.requests) > 1
    assert max(len(sent["Body"]) for sent in endpoint.requests) <= 5_000_000


def test_answers_of_many_classes_stay_below_the_limit_of_bytes(bucket, monkeypatch):
    classes = 200
    features, numbers = numbered(3000)
    score = [-1.2345678901234567e-100] * classes
    prepare(Task.MULTICLASS, [(features, numbers % classes)], values=[float(index) for index in range(classes)])
    sizes = []

    def answer(rows: np.ndarray) -> bytes:
        body = json.dumps({"predictions": [{"score": score, "predicted_label": 0.0}] * len(rows)}).encode()
        sizes.append(len(body))
        return body

    ask(monkeypatch, answer)
    evaluate_model(request())
    assert max(sizes) <= 5_000_000


def refusing(error: Exception) -> Answer:
    def answer(_: np.ndarray) -> Any:
        raise error

    return answer


MODEL_ERROR = ClientError(
    {
        "Error": {"Code": "ModelError", "Message": f'Received client error (400) with message "bad row {CELL}"'},
        "OriginalStatusCode": 400,  # type: ignore[typeddict-unknown-key]  # what a ModelError carries besides
    },
    "InvokeEndpoint",
)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (refusing(MODEL_ERROR), "ModelError, status 400"),
        (refusing(ParamValidationError(report="x")), "did not answer"),
        (lambda rows: {"predictions": [{"score": 1.0}] * (len(rows) - 1)}, "asked about 3 rows and answered 2"),
        (lambda _: b"<html>" + CELL.encode(), "can't be read"),
        (lambda rows: {"predictions": [{"score": float("nan")}] * len(rows)}, "can't be read"),
        (lambda rows: {"predictions": [{"score": [1.0, 2.0]}] * len(rows)}, "one number for each row"),
    ],
)
def test_a_refused_or_garbled_answer_is_told_without_the_rows(bucket, monkeypatch, answer, said):
    prepare(Task.REGRESSION, [(np.full((3, 2), float(CELL), np.float32), np.ones(3, np.float32))])
    ask(monkeypatch, answer)
    with pytest.raises(PredictionFailed, match=said) as caught:
        evaluate_model(request())
    assert CELL not in str(caught.value)
    with pytest.raises(storage.MissingDocument):
        metrics_document()


def test_a_failing_endpoint_is_not_asked_about_the_rest(bucket, monkeypatch):
    monkeypatch.setattr(module, "REQUEST_ROWS_MAX", 1)
    prepare(Task.REGRESSION, [numbered(200)])
    endpoint = ask(monkeypatch, refusing(MODEL_ERROR))
    with pytest.raises(PredictionFailed):
        evaluate_model(request())
    assert len(endpoint.requests) < 20


@pytest.mark.parametrize(
    "error",
    [
        ReadTimeoutError(endpoint_url="http://x"),
        ClientError({"Error": {"Code": "ThrottlingException", "Message": ""}}, "InvokeEndpoint"),
        ClientError(
            {
                "Error": {"Code": "ServiceUnavailable", "Message": ""},
                "ResponseMetadata": {"HTTPStatusCode": 503},  # type: ignore[typeddict-item]  # all that is read of it
            },
            "InvokeEndpoint",
        ),
    ],
)
def test_a_service_that_takes_no_calls_is_for_the_workflow_to_retry(bucket, monkeypatch, error):
    prepare(Task.REGRESSION, [numbered(5)])
    ask(monkeypatch, refusing(error))
    with pytest.raises(type(error)):
        evaluate_model(request())


def test_without_test_rows_there_is_nothing_to_judge(bucket, monkeypatch):
    prepare(Task.REGRESSION, [])
    ask(monkeypatch, echo)
    with pytest.raises(PredictionFailed, match=r"points\.csv left no rows"):
        evaluate_model(request())
