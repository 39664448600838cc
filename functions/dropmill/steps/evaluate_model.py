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
from dropmill.classes import class_names
from dropmill.contracts import (
    EvaluateInput,
    Evaluation,
    Metrics,
    ObjectVersion,
    Part,
    PartFile,
    Plan,
    SealedDataset,
    Task,
    TrainedModel,
)
from dropmill.data import recordio
from dropmill.data.recordio import SparseMatrix
from dropmill.errors import PredictionFailed
from dropmill.evaluation import report
from dropmill.evaluation.judging import Features, Judged, judge_for
from dropmill.settings import setting
from dropmill.step import step

REQUEST_BYTES_MAX = 5_000_000
"""SageMaker takes 6 MiB for a request and for its answer."""
REQUEST_ROWS_MAX = 5000
_NUMBER_BYTES = 26
_ANSWER_BYTES = 80
"""What a number, and the rest of an answer, take in JSON at most: a float64 has 17 digits, a sign and an exponent."""

_SPARSE_RECORD_BYTES = 64
"""What a sparse record takes at most besides its values and columns."""

READ_BYTES = 8 * 1024 * 1024
SAMPLED_BYTES_MAX = 4 * 1024**3
"""Of a larger test part only some files are read: as much as leaves time to ask about what they hold."""
PARALLEL_REQUESTS = 4

_RECORDIO = "application/x-recordio-protobuf"
_JSON = "application/json"

Indexes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """Test rows of one request: features (n, d) and, where the part has them, labels (n,)."""

    features: Features
    labels: npt.NDArray[np.float32] | None

    def __len__(self) -> int:
        return len(self.features)

    def rows(self, picked: slice | Indexes) -> "Batch":
        if isinstance(self.features, SparseMatrix):
            numbers = np.arange(len(self))[picked] if isinstance(picked, slice) else picked
            features: Features = self.features.take(numbers)
        else:
            features = self.features[picked]
        return Batch(features, None if self.labels is None else self.labels[picked])


@dataclass(frozen=True)
class Sampled:
    """A file of the test part, and the 0-based numbers of the rows of it that are judged, ascending."""

    file: PartFile
    rows: Indexes


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
    sample = _sample(test.files, plan.recipe.evaluation.max_rows, plan.recipe.data.split.seed)
    judge = judge_for(plan, dataset)
    blocks = _blocks(sample, sparse=plan.layout.sparse_columns is not None)
    batches = _batches(blocks, _rows_per_request(plan))
    for batch, predictions in _asked(plan.recipe.algorithm, request.endpoint, batches):
        judge.add(batch.features, batch.labels, predictions)
    judged = judge.judged()

    sampled_from = test.rows if judged.rows < test.rows else None
    page = report.render(plan, dataset, judged, training=request.training, sampled_from=sampled_from)
    notes = report.notes(plan, dataset, judged, sampled_from) + dataset.warnings
    storage.write_document(naming.metrics_key(run), _metrics(judged, sampled_from, notes))
    storage.write_object(naming.report_key(run), page.encode(), "text/html; charset=utf-8")
    return Evaluation(metrics=judged.metrics, report=storage.artifact_uri(naming.report_key(run)), rows=judged.rows)


def _as_trained(dataset: SealedDataset, training: TrainedModel | None) -> SealedDataset:
    """The dataset with the hyperparameters that the judged model was trained with: a search's own among them."""
    found = training.hyperparameters if training else {}
    return dataset.model_copy(update={"hyperparameters": {**dataset.hyperparameters, **found}})


def _sample(files: list[PartFile], most: int, seed: int) -> list[Sampled]:
    """The rows to judge: all of them, or a seeded sample of `most`, of files of about `SAMPLED_BYTES_MAX` in all.

    Every shard's file holds rows from all over the drop, so that some files stand for all.
    """
    random = np.random.default_rng(seed)
    if sum(file.size for file in files) > SAMPLED_BYTES_MAX:
        order = random.permutation(len(files))
        sizes = np.cumsum([files[at].size for at in order])
        taken = max(1, int(np.searchsorted(sizes, SAMPLED_BYTES_MAX, side="right")))
        files = [files[at] for at in sorted(order[:taken].tolist())]
    ends = np.cumsum([file.rows for file in files])
    total = int(ends[-1])
    rows = np.arange(total)
    if total > most:
        rows = np.sort(random.choice(total, most, replace=False, shuffle=False))
    parts = np.split(rows, np.searchsorted(rows, ends[:-1]))
    return [
        Sampled(file, part - (end - file.rows))
        for file, end, part in zip(files, ends.tolist(), parts, strict=True)
        if part.size
    ]


def _rows_per_request(plan: Plan) -> int:
    """As many rows as keep the answer within bounds."""
    numbers = len(class_names(plan)) if plan.task is Task.MULTICLASS else 2
    return max(1, min(REQUEST_BYTES_MAX // (_ANSWER_BYTES + _NUMBER_BYTES * numbers), REQUEST_ROWS_MAX))


def _request_bytes(features: Features) -> Indexes:
    """How many bytes each row takes in a request, (n,); of a sparse row at most."""
    if not isinstance(features, SparseMatrix):
        record = len(recordio.encode(np.zeros((1, features.shape[1]), dtype=np.float32)))
        return np.full(len(features), record)
    sizes = np.full(len(features.columns), 4 + 1)  # a float32, and a column as a varint
    for bits in range(7, (features.width - 1).bit_length(), 7):
        sizes += features.columns >> bits > 0
    ends = np.concatenate(([0], np.cumsum(sizes)))
    return _SPARSE_RECORD_BYTES + np.diff(ends[features.offsets])


def _batches(blocks: Iterator[Batch], most: int) -> Iterator[Batch]:
    """The rows of all blocks in batches of at most `most` rows that make a request within bounds.

    Raises:
        PredictionFailed: a single row is larger than a request may be.
    """
    waiting: list[Batch] = []
    rows, size = 0, 0
    for block in blocks:
        ends = np.cumsum(_request_bytes(block.features))
        start, before = 0, 0
        while start < len(block):
            fitting = int(np.searchsorted(ends, before + REQUEST_BYTES_MAX - size, side="right"))
            stop = min(fitting, start + most - rows)
            if stop > start:
                waiting.append(block.rows(slice(start, stop)))
                rows, size = rows + stop - start, size + int(ends[stop - 1]) - before
                start, before = stop, int(ends[stop - 1])
            elif waiting:
                yield _merged(waiting)
                waiting, rows, size = [], 0, 0
            else:
                raise PredictionFailed(
                    f"A test row takes up to {int(ends[start]) - before:,} bytes in a request, and an endpoint takes "
                    f"{REQUEST_BYTES_MAX:,}. Drop rows with fewer values."
                )
    if waiting:
        yield _merged(waiting)


def _merged(batches: list[Batch]) -> Batch:
    if len(batches) == 1:
        return batches[0]
    sparse = [batch.features for batch in batches if isinstance(batch.features, SparseMatrix)]
    dense = [batch.features for batch in batches if not isinstance(batch.features, SparseMatrix)]
    labels = [batch.labels for batch in batches if batch.labels is not None]
    return Batch(
        SparseMatrix.joined(sparse) if sparse else np.concatenate(dense),
        np.concatenate(labels) if len(labels) == len(batches) else None,
    )


def _blocks(sample: list[Sampled], *, sparse: bool) -> Iterator[Batch]:
    """The sampled rows, some megabytes at a time; all dense, or all sparse."""
    for sampled in sample:
        file, wanted = sampled.file, sampled.rows
        given = 0
        for first, block in _stream(file) if sparse else _ranges(file, wanted):
            low, high = np.searchsorted(wanted, (first, first + len(block))).tolist()
            if low < high:
                yield block if high - low == len(block) else block.rows(wanted[low:high] - first)
                given += high - low
            if given == len(wanted):
                break
        if given < len(wanted):
            raise _unlike_sealed(file)


def _ranges(file: PartFile, wanted: Indexes) -> Iterator[tuple[int, Batch]]:
    """Blocks of a file of dense records, with the numbers of their first rows; none without wanted rows.

    Dense records of one width have one length, so that a block is a range of bytes.
    """
    length, rest = divmod(file.size, file.rows)
    if rest:
        raise _unlike_sealed(file)
    rows = max(1, READ_BYTES // length)
    for start in range(0, file.rows, rows):
        end = min(start + rows, file.rows)
        low, high = np.searchsorted(wanted, (start, end))
        if low == high:
            continue
        features, labels = recordio.read(_read(file.key, start * length, end * length))
        if len(features) != end - start:
            raise _unlike_sealed(file)
        yield start, Batch(features, labels)


def _stream(file: PartFile) -> Iterator[tuple[int, Batch]]:
    """Blocks of a file of sparse records from its beginning, with the numbers of their first rows."""
    source = ObjectVersion(bucket=setting("artifact_bucket"), key=file.key, size=file.size)
    first = 0
    with storage.opened(source) as stream:
        for features, labels in recordio.read_sparse_blocks(stream, block_bytes=READ_BYTES):
            yield first, Batch(features, labels)
            first += len(features)


def _unlike_sealed(file: PartFile) -> ValueError:
    return ValueError(f"{file.key} does not hold the {file.rows} rows that were sealed")


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


def _ask(algorithm: str, endpoint: str, features: Features) -> Predictions:
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
