"""Publish Predictions: a batch's answers joined to the user's rows, and the manifest, without which nothing counts."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, BinaryIO

import pyarrow as pa

from dropmill import claims, predictions, storage
from dropmill.contracts import (
    BatchPlan,
    ObjectVersion,
    Plan,
    PredictionsFile,
    PredictionsManifest,
    PublishedPredictions,
    RunReference,
    ScoredFile,
    SealedBatch,
    SealedFile,
    SealedRows,
)
from dropmill.errors import PredictionFailed
from dropmill.naming import (
    batch_plan_key,
    kept_rows_key,
    plan_key,
    predictions_key,
    rows_name,
    sealed_batch_key,
    transform_prefix,
)
from dropmill.predictions import Answers
from dropmill.settings import setting
from dropmill.step import step

_PARTS_AT_ONCE = 6


def publish_predictions(request: RunReference) -> PublishedPredictions:
    """Join and write the predictions of each file, then commit the batch with its manifest.

    Run again, it writes the same objects. Raises PredictionFailed where the answers are not those of the rows, and
    RunClosed where the batch has ended, so that its files are another's to score.
    """
    batch = _Batch.read(request.run_id)
    parts = [(file, number, part) for file in batch.sealed.files for number, part in enumerate(file.parts)]
    with ThreadPoolExecutor(_PARTS_AT_ONCE, thread_name_prefix="publish") as pool:
        written = list(pool.map(lambda part: _publish(batch, *part), parts))
    by_file: dict[int, list[PredictionsFile]] = {}
    for (file, _, _), one in zip(parts, written, strict=True):
        by_file.setdefault(file.file, []).append(one)
    plan = batch.plan
    manifest = PredictionsManifest(
        batch=plan.run_id,
        recipe=plan.recipe_name,
        recipe_version=plan.recipe_version,
        model_package=plan.champion.package,
        training_run=plan.champion.run_id,
        algorithm=plan.champion.algorithm,
        task=plan.champion.task,
        format=plan.recipe.scoring.format,
        columns=batch.columns,
        rows=batch.sealed.rows,
        files=[
            ScoredFile(
                source=plan.files[file.file].file.source,
                name=plan.files[file.file].file.name,
                rows=file.rows,
                predictions=by_file[file.file],
            )
            for file in batch.sealed.files
        ],
        set_aside=batch.sealed.set_aside,
        created_at=datetime.now(UTC),
    )
    return PublishedPredictions(
        manifest=claims.commit(manifest),
        rows=manifest.rows,
        files=len(manifest.files),
        set_aside=len(manifest.set_aside),
    )


@dataclass(frozen=True)
class _Batch:
    """What is known of a batch before it is published. `outputs` are the sizes of the answers, by what they answer."""

    plan: BatchPlan
    sealed: SealedBatch
    answers: Answers
    columns: list[str]
    outputs: Mapping[str, tuple[str, int]]

    @classmethod
    def read(cls, run_id: str) -> "_Batch":
        plan = storage.read_document(BatchPlan, batch_plan_key(run_id))
        options = plan.recipe.data
        answers = predictions.answers_of(storage.read_document(Plan, plan_key(plan.champion.run_id)))
        return cls(
            plan=plan,
            sealed=storage.read_document(SealedBatch, sealed_batch_key(run_id)),
            answers=answers,
            columns=predictions.columns_of(answers, options.carried, has_id=options.id is not None),
            outputs={
                key.rsplit("/", 1)[-1]: (key, size)
                for key, size in storage.list_objects(transform_prefix(run_id)).items()
            },
        )


def _publish(batch: _Batch, file: SealedFile, number: int, part: SealedRows) -> PredictionsFile:
    """Write the predictions of what one shard read of a file, the file's `number`th."""
    plan = batch.plan
    source = plan.files[file.file].file
    kind = plan.recipe.scoring.format
    key = predictions_key(
        plan.recipe_name,
        plan.run_id,
        f"{source.name}-{number:05}{predictions.EXTENSIONS[kind]}",
    )
    output = rows_name(file.file, part.shard) + ".out"
    if output not in batch.outputs:
        raise PredictionFailed(f"{source.name}: the transform job left no answers to its rows ({output})")
    with ExitStack() as stack:
        stream = stack.enter_context(_opened(*batch.outputs[output]))
        kept = stack.enter_context(_kept(plan.run_id, file.file, part)) if part.kept else None
        target = stack.enter_context(storage.open_part(key))
        made: predictions.Writer | None = None
        for rows in predictions.joined(
            predictions.answered(stream, batch.answers, source.name),
            kept,
            rows=part.rows,
            first=part.first,
            columns=batch.columns,
            name=source.name,
        ):
            made = made or predictions.writer(target, kind, rows.schema)
            made.write(rows)
        if made is not None:
            made.close()
    return PredictionsFile(key=key, rows=part.rows)


@contextmanager
def _opened(key: str, size: int) -> Iterator[BinaryIO]:
    with storage.opened(ObjectVersion(bucket=setting("artifact_bucket"), key=key, size=size)) as stream:
        yield stream


@contextmanager
def _kept(batch: str, file: int, part: SealedRows) -> Iterator[Any]:
    key = kept_rows_key(batch, file, part.shard)
    with _opened(key, storage.list_objects(key)[key]) as stream, pa.ipc.open_stream(stream) as reader:
        yield reader


handler = step(publish_predictions)
