"""Evaluate Model: asks the endpoint about the held-out rows and judges the answers."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

from dropmill import algorithms, aws, naming, storage
from dropmill.algorithms import InvalidPredictions, Predictions
from dropmill.contracts import (
    EvaluateInput,
    Evaluation,
    Metrics,
    Part,
    PartFile,
    Plan,
    SealedDataset,
    Task,
    TrainedModel,
)
from dropmill.data import recordio
from dropmill.errors import PredictionFailed
from dropmill.evaluation import report
from dropmill.evaluation.judging import Judged, judge_for
from dropmill.settings import setting
from dropmill.step import step

REQUEST_BYTES_MAX = 5_000_000
"""SageMaker takes 6 MiB for a request and for its answer."""
REQUEST_ROWS_MAX = 5000
_NUMBER_BYTES = 26
_ANSWER_BYTES = 80
"""What a number, and the rest of an answer, take in JSON at most: a float64 has 17 digits, a sign and an exponent."""

READ_BYTES = 8 * 1024 * 1024
PARALLEL_REQUESTS = 4

_RECORDIO = "application/x-recordio-protobuf"
_JSON = "application/json"

Indexes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """Test rows of one request: features (n, d) and, where the part has them, labels (n,)."""

    features: npt.NDArray[np.float32]
    labels: npt.NDArray[np.float32] | None

    def rows(self, picked: slice | Indexes) -> "Batch":
        return Batch(self.features[picked], None if self.labels is None else self.labels[picked])


def evaluate_model(request: EvaluateInput) -> Evaluation:
    """Judge the model behind an endpoint on the run's held-out rows.

    Raises:
        PredictionFailed: there are no held-out rows, or the endpoint refused them or answered something else than was
            asked.
    """
    run = request.run_id
    plan = storage.read_document(Plan, naming.plan_key(run))
    dataset = _as_trained(storage.read_document(SealedDataset, naming.dataset_key(run)), request.training)
    test = dataset.parts.get(Part.TEST)
    if test is None or not test.rows:
        raise PredictionFailed(
            f"{plan.drop.file_name} left no rows for the test part, so the model can't be judged. "
            "Add rows, or raise data.split.test in the recipe."
        )
    sample = _sample(test.rows, plan.recipe.evaluation.max_rows, plan.recipe.data.split.seed)
    judge = judge_for(plan, dataset)
    batches = _batches(test.files, sample, _rows_per_request(plan, dataset))
    for batch, predictions in _asked(plan.recipe.algorithm, request.endpoint, batches):
        judge.add(batch.features, batch.labels, predictions)
    judged = judge.judged()

    sampled_from = test.rows if judged.rows < test.rows else None
    page = report.render(plan, dataset, judged, training=request.training, sampled_from=sampled_from)
    notes = report.notes(plan, dataset, judged, sampled_from)
    storage.write_document(naming.metrics_key(run), _metrics(judged, sampled_from, notes))
    storage.write_object(naming.report_key(run), page.encode(), "text/html; charset=utf-8")
    return Evaluation(metrics=judged.metrics, report=storage.artifact_uri(naming.report_key(run)), rows=judged.rows)


def _as_trained(dataset: SealedDataset, training: TrainedModel | None) -> SealedDataset:
    """The dataset with the hyperparameters that the judged model was trained with: a search's own among them."""
    found = training.hyperparameters if training else {}
    return dataset.model_copy(update={"hyperparameters": {**dataset.hyperparameters, **found}})


def _sample(rows: int, most: int, seed: int) -> Indexes:
    """The 0-based numbers of the rows to judge, ascending: all of them, or a seeded sample of `most`."""
    if rows <= most:
        return np.arange(rows)
    return np.sort(np.random.default_rng(seed).choice(rows, most, replace=False, shuffle=False))


def _rows_per_request(plan: Plan, dataset: SealedDataset) -> int:
    """As many rows as keep both request and answer within bounds."""
    request_bytes = len(recordio.encode(np.zeros((1, dataset.feature_dim), dtype=np.float32)))
    numbers = len(plan.layout.label_values or []) if plan.task is Task.MULTICLASS else 2
    answer_bytes = _ANSWER_BYTES + _NUMBER_BYTES * numbers
    return max(1, min(REQUEST_BYTES_MAX // request_bytes, REQUEST_BYTES_MAX // answer_bytes, REQUEST_ROWS_MAX))


def _batches(files: list[PartFile], sample: Indexes, most: int) -> Iterator[Batch]:
    """The sampled rows in batches of `most`, the last one being smaller."""
    waiting: list[Batch] = []
    for block in _blocks(files, sample, most):
        waiting.append(block)
        rows = sum(len(batch.features) for batch in waiting)
        if rows < most:
            continue
        merged = _merged(waiting)
        whole = rows - rows % most
        for start in range(0, whole, most):
            yield merged.rows(slice(start, start + most))
        waiting = [merged.rows(slice(whole, rows))] if whole < rows else []
    if waiting:
        yield _merged(waiting)


def _merged(batches: list[Batch]) -> Batch:
    if len(batches) == 1:
        return batches[0]
    labels = [batch.labels for batch in batches if batch.labels is not None]
    return Batch(
        np.concatenate([batch.features for batch in batches]),
        np.concatenate(labels) if len(labels) == len(batches) else None,
    )


def _blocks(files: list[PartFile], sample: Indexes, most: int) -> Iterator[Batch]:
    """The sampled rows of each few megabytes of the test part; what holds none of them is not read.

    Records of one width have one length, so that a block is a byte range; a file of any other kind is read whole.
    """
    first = 0
    for file in files:
        length, rest = divmod(file.size, file.rows)
        step_rows = file.rows if rest else most * max(1, READ_BYTES // (most * length))
        for start in range(0, file.rows, step_rows):
            end = min(start + step_rows, file.rows)
            low, high = np.searchsorted(sample, (first + start, first + end))
            if low == high:
                continue
            last_byte = file.size if end == file.rows else end * length
            features, labels = recordio.read(_read(file.key, start * length, last_byte))
            if len(features) != end - start:
                raise ValueError(f"{file.key} does not hold the {file.rows} rows that were sealed")
            block = Batch(features, labels)
            yield block if high - low == end - start else block.rows(sample[low:high] - (first + start))
        first += file.rows


def _read(key: str, start: int, end: int) -> bytes:
    answer = aws.s3().get_object(Bucket=setting("artifact_bucket"), Key=key, Range=f"bytes={start}-{end - 1}")
    with answer["Body"] as body:
        return body.read()


def _asked(algorithm: str, endpoint: str, batches: Iterator[Batch]) -> Iterator[tuple[Batch, Predictions]]:
    """Each batch with the endpoint's answer, in order; a few requests are on their way at once, the rest unread."""
    waiting: deque[tuple[Batch, Future[Predictions]]] = deque()
    pool = ThreadPoolExecutor(PARALLEL_REQUESTS, thread_name_prefix="ask")
    try:
        for batch in batches:
            waiting.append((batch, pool.submit(_ask, algorithm, endpoint, batch.features)))
            if len(waiting) > PARALLEL_REQUESTS:
                asked, answer = waiting.popleft()
                yield asked, answer.result()
        while waiting:
            asked, answer = waiting.popleft()
            yield asked, answer.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _ask(algorithm: str, endpoint: str, features: npt.NDArray[np.float32]) -> Predictions:
    """The endpoint's answer to some rows. Its own words stay out of the messages: they may quote the rows."""
    try:
        answer = aws.sagemaker_runtime().invoke_endpoint(
            EndpointName=endpoint, ContentType=_RECORDIO, Accept=_JSON, Body=recordio.encode(features)
        )
        with answer["Body"] as stream:
            body = stream.read()
    except ClientError as error:
        if aws.error_code(error) != "ModelError" and aws.service_unavailable(error):
            raise
        raise PredictionFailed(_refusal(endpoint, error)) from None
    except HTTPClientError:
        raise
    except BotoCoreError as error:
        raise PredictionFailed(
            f"The endpoint {endpoint} did not answer ({type(error).__name__}), also when asked again. "
            f"Its log is the group /aws/sagemaker/Endpoints/{endpoint}."
        ) from None
    try:
        predictions = algorithms.get(algorithm).parse_predictions(body, answer["ContentType"])
    except InvalidPredictions as error:
        raise PredictionFailed(f"The endpoint {endpoint} gave an answer that can't be read: {error}.") from None
    if predictions.rows != len(features):
        raise PredictionFailed(
            f"The endpoint {endpoint} was asked about {len(features)} rows and answered {predictions.rows}."
        )
    return predictions


def _refusal(endpoint: str, error: ClientError) -> str:
    status = error.response.get("OriginalStatusCode")
    said = f"{aws.error_code(error)}, status {status} from the model" if status else aws.error_code(error)
    return (
        f"The endpoint {endpoint} refused the test rows ({said}). "
        f"The reason is in its log, the group /aws/sagemaker/Endpoints/{endpoint}."
    )


def _metrics(judged: Judged, sampled_from: int | None, notes: list[str]) -> Metrics:
    return Metrics(
        task=judged.task,
        metrics=judged.metrics,
        rows=judged.rows,
        sampled_from=sampled_from,
        classes=judged.names if judged.confusion is not None else [],
        confusion=None if judged.confusion is None else judged.confusion.tolist(),
        clusters=[
            {
                "cluster": cluster.number,
                "rows": cluster.rows,
                "mean_distance": cluster.mean_distance,
                "label": cluster.label,
                "share": cluster.share,
            }
            for cluster in judged.clusters
        ]
        or None,
        notes=notes,
    )


handler = step(evaluate_model)
