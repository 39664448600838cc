"""Evaluate Model against S3 and an endpoint whose answers the test decides."""

import io
import json
import math
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from threading import Lock
from typing import Any

import boto3
import numpy as np
import pytest
from botocore.exceptions import ClientError, ParamValidationError, ReadTimeoutError
from hypothesis import given
from hypothesis import strategies as st
from moto import mock_aws

from dropmill import aws, naming, settings, storage
from dropmill.contracts import (
    CreatedModel,
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
    ServedModel,
    Task,
    TransformedRows,
)
from dropmill.data import recordio
from dropmill.data.recordio import SparseMatrix
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
        features, labels = recordio.read_any(request["Body"])
        assert labels is None, "labels must never leave for an endpoint"
        with self._lock:
            self.requests.append(request)
            self.rows += len(features)
        body = self._answer(features.to_dense() if isinstance(features, SparseMatrix) else features)
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
    files: Sequence[tuple[np.ndarray | SparseMatrix, np.ndarray | None]],
    *,
    values: list[float] | None = None,
    classes: list[str] | None = None,
    positive: str | None = None,
    warnings: Sequence[str] = (),
    max_rows: int = 100_000,
) -> None:
    """Put a run's plan, dataset and test part files into the bucket."""
    features = files[0][0].shape[1] if files else 4
    sparse = any(isinstance(rows, SparseMatrix) for rows, _ in files)
    columns = 0 if sparse else features
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
            recipe=Recipe.model_validate(
                {
                    "algorithm": ALGORITHMS[task],
                    "data": {"positive": positive},
                    "evaluation": {"max_rows": max_rows},
                }
            ),
            drop=ObjectVersion(bucket="drops", key="drops/digits/points.csv", size=10),
            files=[
                DroppedFile(
                    source=ObjectVersion(bucket="drops", key="drops/digits/points.csv", size=10), name="points.csv"
                )
            ],
            layout=Layout(
                format=FileFormat.CSV,
                columns=[str(index) for index in range(columns)],
                feature_columns=list(range(columns)),
                sparse_columns=features if sparse else None,
                label_values=values,
                classes=classes,
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
            warnings=list(warnings),
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
    return EvaluateInput(run_id=RUN, model=CreatedModel(model="m", endpoint=ServedModel(endpoint="the-endpoint")))


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


def sparse_rows(rows: int, first: int = 0, width: int = 1000) -> tuple[SparseMatrix, np.ndarray]:
    """Rows of different lengths whose first value and label are their number."""
    numbers = np.arange(first, first + rows)
    dense = np.zeros((rows, width), np.float32)
    for row, number in enumerate(numbers.tolist()):
        dense[row, 1 : 1 + number % 90] = 1
        dense[row, 0] = number
    return SparseMatrix.of(dense), numbers.astype(np.float32)


def sent_rows(endpoint: Endpoint) -> list[float]:
    """The first value of every row that the endpoint was asked about."""
    rows: list[float] = []
    for sent in endpoint.requests:
        matrix = recordio.read_sparse(sent["Body"])[0]
        rows += matrix.to_dense()[:, 0].tolist()
    return rows


def test_sparse_rows_stay_sparse_and_meet_their_own_labels(bucket, monkeypatch):
    monkeypatch.setattr(module, "READ_BYTES", 5000)
    monkeypatch.setattr(module, "REQUEST_BYTES_MAX", 20_000)
    prepare(Task.REGRESSION, [sparse_rows(300), sparse_rows(1, 300), sparse_rows(150, 301)])
    endpoint = ask(monkeypatch, echo)
    evaluation = evaluate_model(request())
    assert (evaluation.rows, evaluation.metrics["mae"]) == (451, 0)
    assert sorted(sent_rows(endpoint)) == list(range(451))
    sizes = [len(sent["Body"]) for sent in endpoint.requests]
    assert max(sizes) <= 20_000
    assert sum(sizes) / len(sizes) > 15_000


def test_sparse_rows_are_sampled_as_dense_ones(bucket, monkeypatch):
    monkeypatch.setattr(module, "READ_BYTES", 5000)
    prepare(Task.REGRESSION, [numbered(300, features=1000), numbered(200, 300, features=1000)], max_rows=60)
    endpoint = ask(monkeypatch, echo)
    evaluate_model(request())
    expected = sorted(sent_rows(endpoint))
    prepare(Task.REGRESSION, [sparse_rows(300), sparse_rows(200, 300)], max_rows=60)
    endpoint = ask(monkeypatch, echo)
    assert evaluate_model(request()).metrics["mae"] == 0
    assert sorted(sent_rows(endpoint)) == expected


def test_a_sparse_row_that_no_endpoint_takes_is_told(bucket, monkeypatch):
    monkeypatch.setattr(module, "REQUEST_BYTES_MAX", 500)
    prepare(Task.REGRESSION, [sparse_rows(90)])
    ask(monkeypatch, echo)
    with pytest.raises(PredictionFailed, match="Drop rows with fewer values"):
        evaluate_model(request())


def test_wide_sparse_clusters_are_judged_without_their_zeros(bucket, monkeypatch):
    width = 1 << 22
    rows = SparseMatrix(np.ones(600, np.float32), np.arange(600) * 6007, np.arange(0, 601, 2), width)
    prepare(Task.CLUSTERING, [(rows, np.arange(300, dtype=np.float32) % 2)], values=[0.0, 1.0], classes=["ham", "spam"])
    endpoint = Endpoint(lambda _: None)

    def answer(**sent: Any) -> dict[str, Any]:
        count = len(recordio.read_sparse(sent["Body"])[0])
        answers = [{"closest_cluster": float(row % 2), "distance_to_cluster": 1.0} for row in range(count)]
        return {"Body": io.BytesIO(json.dumps({"predictions": answers}).encode()), "ContentType": "application/json"}

    monkeypatch.setattr(endpoint, "invoke_endpoint", answer)
    monkeypatch.setattr(aws, "sagemaker_runtime", lambda: endpoint)
    tracemalloc.start()
    evaluation = evaluate_model(request())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16_000_000
    assert evaluation.metrics["purity"] == 1
    clusters = metrics_document().clusters
    assert clusters is not None
    assert [cluster["label"] for cluster in clusters] == ["ham", "spam", None]


@given(
    st.integers(1, 10_000_000),
    st.lists(st.sets(st.integers(0, 9_999_999), max_size=300), min_size=1, max_size=5),
    st.booleans(),
)
def test_no_row_takes_more_of_a_request_than_was_reckoned(width, rows, full):
    columns = [[width - 1 - column for column in sorted(row) if column < width] for row in rows]
    if full:
        columns = [list(range(min(width, 5000)))]
    counts = [len(row) for row in columns]
    flat = np.array([column for row in columns for column in row], np.int64)
    matrix = SparseMatrix(np.ones(sum(counts), np.float32), flat, np.cumsum([0, *counts]), width)
    reckoned = module._request_bytes(matrix)
    for row, most in enumerate(reckoned.tolist()):
        assert len(recordio.encode(matrix.take(np.array([row])))) <= most


def test_of_a_test_part_too_large_to_read_some_files_are_judged(bucket, monkeypatch):
    files = [numbered(100, 100 * number) for number in range(20)]
    prepare(Task.REGRESSION, files)
    monkeypatch.setattr(module, "SAMPLED_BYTES_MAX", 5 * len(recordio.encode(*files[0])))
    read = []
    monkeypatch.setattr(
        module, "_read", lambda key, start, end, real=module._read: read.append(key) or real(key, start, end)
    )
    seen = []
    for _ in range(2):
        endpoint = ask(monkeypatch, echo)
        evaluation = evaluate_model(request())
        assert (evaluation.rows, evaluation.metrics["mae"]) == (500, 0)
        seen.append(sorted(sent_rows(endpoint)))
    assert seen[0] == seen[1]
    assert len(set(read)) == 5
    document = metrics_document()
    assert document.sampled_from == 2000
    assert any("too large to be read whole" in note for note in document.notes)


def test_classes_and_warnings_are_kept_by_name(bucket, monkeypatch):
    features = np.array([[0.9], [0.8], [0.2]], np.float32)
    warning = "Column 'a<b' holds 3 in every row."
    prepare(
        Task.BINARY,
        [(features, np.array([1, 0, 0], np.float32))],
        values=[0.0, 1.0, 2.0],
        classes=["ham", "spam & eggs", "tofu"],
        positive=" spam & eggs",
        warnings=[warning],
    )
    ask(monkeypatch, sign)
    evaluate_model(request())
    document = metrics_document()
    assert document.classes == ["not spam & eggs", "spam & eggs"]
    assert document.notes[-1] == warning
    page = boto3.client("s3").get_object(Bucket=BUCKET, Key=naming.report_key(RUN))["Body"].read().decode()
    assert "Column &#x27;a&lt;b&#x27; holds 3 in every row." in page
    assert "labelled &#x27;spam &amp; eggs&#x27;" in page


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


CHAMPION = {
    "champion_model": "c",
    "champion": "arn:aws:sagemaker:us-east-1:123456789012:model-package/digits/1",
    "champion_version": 4,
    "champion_run": "digits-fedcba987654",
    "champion_algorithm": "linear-learner",
}


def transformed(predictions: Sequence[Sequence[dict[str, Any]]], prefix: str = "transform") -> TransformedRows:
    """What a transform job leaves: an object for each file of the test part, an answer on each line."""
    for number, answers in enumerate(predictions):
        lines = "".join(json.dumps(answer) + "\n" for answer in answers)
        storage.write_object(f"work/{RUN}/{prefix}/part-{number:05}.pbr.out", lines.encode())
    return TransformedRows(transform_job=f"the-{prefix}", output=f"s3://{BUCKET}/work/{RUN}/{prefix}")


def scored(*numbers: float) -> list[dict[str, Any]]:
    return [{"score": number} for number in numbers]


def looked_up(**more: Any) -> EvaluateInput:
    return EvaluateInput(run_id=RUN, model=CreatedModel(model="m", **more))


def test_answers_of_a_transform_meet_their_rows(bucket, monkeypatch):
    monkeypatch.setattr(module, "READ_BYTES", 1000)
    monkeypatch.setattr(module, "REQUEST_ROWS_MAX", 7)
    prepare(Task.REGRESSION, [numbered(101), numbered(1, 101), numbered(20, 102)])
    transform = transformed([scored(*range(101)), scored(101), scored(*range(102, 122))])
    evaluation = evaluate_model(looked_up(transform=transform))
    assert (evaluation.rows, evaluation.metrics["mae"]) == (122, 0)
    assert metrics_document().champion is None


def test_a_sample_is_the_same_by_transform(bucket, monkeypatch):
    monkeypatch.setattr(module, "READ_BYTES", 1000)
    prepare(Task.REGRESSION, [numbered(300), numbered(200, 300)], max_rows=60)
    off = np.random.default_rng(3).normal(size=500)
    ask(monkeypatch, lambda rows: {"predictions": scored(*(row[0] + off[int(row[0])] for row in rows.tolist()))})
    asked = evaluate_model(request()).metrics
    answers = scored(*(number + off[number] for number in range(500)))
    evaluation = evaluate_model(looked_up(transform=transformed([answers[:300], answers[300:]])))
    assert evaluation.rows == 60
    assert evaluation.metrics == asked
    assert metrics_document().sampled_from == 500


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ([scored(0, 1), scored(3, 4)], "did not answer each test row once"),
        ([scored(0, 1, 2, 3), scored(3, 4)], "did not answer each test row once"),
        ([scored(0, 1, 2), scored(3, 4, 5)], "did not answer each test row once"),
        ([scored(0, 1, 2), scored(3)], "did not answer each test row once"),
        ([scored(0, 1, 2)], "has left no answers at"),
        ([scored(0, 1, 2), [{"score": float("nan")}, {"score": 4}]], "can't be read"),
    ],
)
def test_answers_that_are_not_one_for_each_row_are_refused(bucket, answers, said):
    prepare(Task.REGRESSION, [numbered(3), numbered(2, 3)])
    with pytest.raises(PredictionFailed, match=said) as caught:
        evaluate_model(looked_up(transform=transformed(answers)))
    assert "the-transform" in str(caught.value)
    with pytest.raises(storage.MissingDocument):
        metrics_document()


def test_sparse_rows_meet_the_answers_of_a_transform(bucket, monkeypatch):
    monkeypatch.setattr(module, "READ_BYTES", 5000)
    prepare(Task.REGRESSION, [sparse_rows(300), sparse_rows(151, 300)])
    transform = transformed([scored(*range(300)), scored(*range(300, 451))])
    evaluation = evaluate_model(looked_up(transform=transform))
    assert (evaluation.rows, evaluation.metrics["mae"]) == (451, 0)


def test_the_champions_answers_are_judged_on_the_same_rows(bucket, monkeypatch):
    prepare(Task.REGRESSION, [numbered(40), numbered(60, 40)], max_rows=50)
    rows = transformed([scored(*range(40)), scored(*range(40, 100))])
    other = transformed([scored(*range(1, 41)), scored(*range(41, 101))], "champion-transform")
    evaluate_model(looked_up(transform=rows, champion_transform=other, **CHAMPION))
    document = metrics_document()
    assert document.metrics["mae"] == 0
    assert document.champion is not None
    assert document.champion.metrics["mae"] == 1
    assert (document.champion.package, document.champion.run_id) == (CHAMPION["champion"], CHAMPION["champion_run"])
    page = boto3.client("s3").get_object(Bucket=BUCKET, Key=naming.report_key(RUN))["Body"].read().decode()
    assert "the-champion-transform" in page
    assert "this model, by 1" in page


def test_each_variant_is_asked_about_the_same_rows(bucket, monkeypatch):
    monkeypatch.setattr(module, "REQUEST_ROWS_MAX", 7)
    prepare(Task.CLUSTERING, [numbered(90)])
    asked: dict[str, list[float]] = {"AllTraffic": [], "Champion": []}
    lock = Lock()

    class Variants:
        def invoke_endpoint(self, **sent: Any) -> dict[str, Any]:
            features, labels = recordio.read(sent["Body"])
            assert labels is None
            with lock:
                asked[sent["TargetVariant"]] += features[:, 0].tolist()
            # The champion has a cluster more than this model may have.
            cluster, distance = (3.0, 2.0) if sent["TargetVariant"] == "Champion" else (2.0, 1.0)
            answers = [{"closest_cluster": cluster, "distance_to_cluster": distance}] * len(features)
            body = json.dumps({"predictions": answers}).encode()
            return {"Body": io.BytesIO(body), "ContentType": "application/json"}

    monkeypatch.setattr(aws, "sagemaker_runtime", Variants)
    more = {**CHAMPION, "champion_algorithm": "kmeans"}
    evaluate_model(looked_up(endpoint=ServedModel(endpoint="e"), **more))
    assert sorted(asked["AllTraffic"]) == sorted(asked["Champion"]) == list(range(90))
    document = metrics_document()
    assert document.metrics == {"msd": 1.0}
    assert document.champion is not None
    assert document.champion.metrics == {"msd": 4.0}


def test_a_champion_that_can_not_be_compared_is_told(bucket, monkeypatch):
    prepare(Task.REGRESSION, [numbered(4)])
    ask(monkeypatch, echo)
    reason = "the champion takes 7 features, this model 4"
    known = {**CHAMPION, "champion_model": None, "champion_algorithm": None, "incomparable": reason}
    evaluate_model(looked_up(endpoint=ServedModel(endpoint="e"), **known))
    document = metrics_document()
    assert (document.champion, document.incomparable) == (None, reason)
    page = boto3.client("s3").get_object(Bucket=BUCKET, Key=naming.report_key(RUN))["Body"].read().decode()
    assert f"could not be put to these rows: {reason}." in page
