"""Evaluate Model: judges the answers to the held-out rows, the champion's to the same rows among them.

An endpoint is asked for them; those of a transform lie in S3, one on each line, in the order of the rows.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

from dropmill import algorithms, aws, naming, storage
from dropmill.algorithms import InvalidPredictions, Predictions
from dropmill.algorithms.predictions import JSON, JSON_LINES, RECORDIO
from dropmill.classes import class_names
from dropmill.contracts import (
    ChampionMetrics,
    CreatedModel,
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
    TransformedRows,
)
from dropmill.data import recordio
from dropmill.data.recordio import SparseMatrix
from dropmill.errors import PredictionFailed
from dropmill.evaluation import report
from dropmill.evaluation.judging import Features, Judged, judge_for, judge_of_champion
from dropmill.requests import CHAMPION_VARIANT, VARIANT
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

_LINE_BYTES_MAX = 32 * 1024 * 1024

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
    """Judge a model, and the champion beside it, on the run's held-out rows.

    Raises:
        PredictionFailed: there are no held-out rows, or a model refused them or answered something else than was asked.
    """
    run, model = request.run_id, request.model
    plan = storage.read_document(Plan, naming.plan_key(run))
    dataset = _as_trained(storage.read_document(SealedDataset, naming.dataset_key(run)), request.training)
    test = dataset.parts.get(Part.TEST)
    if test is None or not test.rows:
        raise PredictionFailed(
            f"{plan.drop.file_name} left no rows for the test part, so the model can't be judged. "
            "Add rows, or raise data.split.test in the recipe."
        )
    sample = _sample(test.files, plan.recipe.evaluation.max_rows, plan.recipe.data.split.seed)
    blocks = _blocks(sample, sparse=plan.layout.sparse_columns is not None)
    batches = _batches(blocks, _rows_per_request(plan))
    judge = judge_for(plan, dataset)
    other = judge_of_champion(plan) if model.champion_model is not None else None
    answered = _asked(plan, model, batches) if model.endpoint is not None else _looked_up(plan, model, sample, batches)
    for batch, predictions, champions in answered:
        judge.add(batch.features, batch.labels, predictions)
        if other is not None and champions is not None:
            other.add(batch.features, batch.labels, champions)
    judged = judge.judged()
    champion = None
    if other is not None and model.champion is not None and model.champion_run is not None:
        metrics = other.judged().metrics
        champion = ChampionMetrics(package=model.champion, run_id=model.champion_run, metrics=metrics)

    sampled_from = test.rows if judged.rows < test.rows else None
    page = report.render(
        plan, dataset, judged, training=request.training, sampled_from=sampled_from, model=model, champion=champion
    )
    notes = report.notes(plan, dataset, judged, sampled_from) + dataset.warnings
    document = _metrics(judged, sampled_from, notes)
    storage.write_document(
        naming.metrics_key(run),
        document.model_copy(
            update={
                "champion": champion,
                "incomparable": model.incomparable,
                "champion_version": model.champion_version,
            }
        ),
    )
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


Answered = Iterator[tuple[Batch, Predictions, Predictions | None]]
"""Each batch with a model's answer, and the champion's where there is one."""


def _looked_up(plan: Plan, model: CreatedModel, sample: list[Sampled], batches: Iterator[Batch]) -> Answered:
    """The answers of transform jobs to the sampled rows."""
    if model.transform is None or (model.champion_model is not None and model.champion_transform is None):
        raise ValueError("a model was served neither by an endpoint nor by a transform")
    own = _Lines(plan.recipe.algorithm, model.transform, sample)
    champions: _Lines | None = None
    if model.champion_transform is not None:
        champions = _Lines(model.champion_algorithm or plan.recipe.algorithm, model.champion_transform, sample)
    for batch in batches:
        yield batch, own.take(len(batch)), None if champions is None else champions.take(len(batch))
    for lines in (own, champions):
        if lines is not None:
            lines.end()


class _Lines:
    """The answers of a transform job to the sampled rows, in their order."""

    def __init__(self, algorithm: str, rows: TransformedRows, sample: list[Sampled]) -> None:
        self._algorithm, self._job = algorithm, rows.transform_job
        self._lines = self._wanted(rows.output, sample)

    def take(self, count: int) -> Predictions:
        lines = list(islice(self._lines, count))
        try:
            predictions = algorithms.get(self._algorithm).parse_predictions(b"\n".join(lines), JSON_LINES)
        except InvalidPredictions as error:
            raise PredictionFailed(f"The answers of transform job {self._job} can't be read: {error}.") from None
        if predictions.rows != count:
            raise self._other_rows()
        return predictions

    def end(self) -> None:
        """Every row has been taken; what is left is to see that no file holds more answers than rows."""
        for _ in self._lines:
            raise self._other_rows()

    def _wanted(self, output: str, sample: list[Sampled]) -> Iterator[bytes]:
        for sampled in sample:
            wanted = iter(sampled.rows.tolist())
            following = next(wanted, None)
            count = 0
            for line in self._all(f"{output.rstrip('/')}/{sampled.file.key.rsplit('/', 1)[-1]}.out"):
                if count == following:
                    yield line
                    following = next(wanted, None)
                count += 1
            if count != sampled.file.rows:
                raise self._other_rows()

    def _all(self, address: str) -> Iterator[bytes]:
        bucket, _, key = address.removeprefix("s3://").partition("/")
        try:
            size = aws.s3().head_object(Bucket=bucket, Key=key)["ContentLength"]
        except ClientError as error:
            if aws.error_code(error) not in ("403", "404"):
                raise
            raise PredictionFailed(f"Transform job {self._job} has left no answers at {address}.") from None
        with storage.opened(ObjectVersion(bucket=bucket, key=key, size=size)) as stream:
            while line := stream.readline(_LINE_BYTES_MAX):
                if line.strip():
                    yield line

    def _other_rows(self) -> PredictionFailed:
        return PredictionFailed(f"Transform job {self._job} did not answer each test row once.")


def _asked(plan: Plan, model: CreatedModel, batches: Iterator[Batch]) -> Answered:
    """The endpoint's answers, in order; a few requests are on their way at once, the rest unread."""
    if model.endpoint is None:
        raise ValueError("the model has no endpoint")
    endpoint, champion = model.endpoint.endpoint, model.champion_model is not None

    def own(features: Features) -> Predictions:
        return _ask(plan.recipe.algorithm, endpoint, features, VARIANT if champion else None)

    def champions(features: Features) -> Predictions:
        return _ask(model.champion_algorithm or plan.recipe.algorithm, endpoint, features, CHAMPION_VARIANT)

    waiting: deque[tuple[Batch, Future[Predictions], Future[Predictions] | None]] = deque()
    pool = ThreadPoolExecutor(PARALLEL_REQUESTS, thread_name_prefix="ask")
    try:
        for batch in batches:
            other = pool.submit(champions, batch.features) if champion else None
            waiting.append((batch, pool.submit(own, batch.features), other))
            if len(waiting) > PARALLEL_REQUESTS:
                yield _results(*waiting.popleft())
        while waiting:
            yield _results(*waiting.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def _results(
    batch: Batch, own: Future[Predictions], champions: Future[Predictions] | None
) -> tuple[Batch, Predictions, Predictions | None]:
    return batch, own.result(), None if champions is None else champions.result()


def _ask(algorithm: str, endpoint: str, features: Features, variant: str | None) -> Predictions:
    """The endpoint's answer to some rows. Its own words stay out of the messages: they may quote the rows."""
    named: Any = {} if variant is None else {"TargetVariant": variant}
    try:
        answer = aws.sagemaker_runtime().invoke_endpoint(
            EndpointName=endpoint, ContentType=RECORDIO, Accept=JSON, Body=recordio.encode(features), **named
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
