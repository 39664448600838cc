"""Launch Transform: a transform job under a lease; its end answers the task token with where the answers lie.

It puts a run's test rows to its own model, or to the champion, or a batch's rows to the champion.
"""

from dropmill import aws
from dropmill.classes import predicted_classes
from dropmill.contracts import BatchPlan, Part, Plan, SealedDataset, Task, TransformInput
from dropmill.leases import launch
from dropmill.naming import (
    batch_plan_key,
    dataset_key,
    part_prefix,
    plan_key,
    rows_manifest_key,
    transform_prefix,
)
from dropmill.requests import transform_request
from dropmill.step import step
from dropmill.storage import artifact_uri, read_document

_TOKENS_OF_A_ROUND = 1000
_SPARSE_ROW_BYTES = 1000
_RECORD_BYTES = 40


def launch_transform(request: TransformInput) -> None:
    if request.rows == "batch":
        _transform_batch(request)
    else:
        _transform_test_part(request)


def _transform_test_part(request: TransformInput) -> None:
    plan = read_document(Plan, plan_key(request.run_id))
    test = read_document(SealedDataset, dataset_key(request.run_id)).parts[Part.TEST]
    evaluation = plan.recipe.evaluation
    launch(
        request.run_id,
        plan.recipe_name,
        "champion-transform" if request.champion else "transform",
        lifetime_seconds=evaluation.max_runtime,
        create=lambda name: aws.sagemaker().create_transform_job(
            **transform_request(
                name,
                request.run_id,
                request.model,
                request.algorithm or plan.recipe.algorithm,
                prefix=artifact_uri(part_prefix(request.run_id, Part.TEST)),
                output=_address(request),
                instance_type=evaluation.instance_type,
                instance_count=evaluation.instance_count,
                row_bytes=test.size // max(test.rows, 1),
                numbers=max(len(predicted_classes(plan)), 2) if plan.task is Task.MULTICLASS else 2,
            )
        ),
        token=request.task_token,
        token_order=_TOKENS_OF_A_ROUND * request.round + request.retry_count,
        # The run's own model gives every round the same answers, which are paid for once.
        round=request.round if request.champion else 1,
    )


def _transform_batch(request: TransformInput) -> None:
    batch = read_document(BatchPlan, batch_plan_key(request.run_id))
    champion, scoring = batch.champion, batch.recipe.scoring
    launch(
        request.run_id,
        batch.recipe_name,
        "transform",
        lifetime_seconds=scoring.max_runtime,
        create=lambda name: aws.sagemaker().create_transform_job(
            **transform_request(
                name,
                request.run_id,
                request.model,
                champion.algorithm,
                manifest=artifact_uri(rows_manifest_key(request.run_id)),
                output=_address(request),
                instance_type=scoring.instance_type,
                instance_count=scoring.instance_count,
                row_bytes=_row_bytes(batch),
                numbers=max(len(champion.classes), 2) if champion.task is Task.MULTICLASS else 2,
            )
        ),
        token=request.task_token,
        token_order=request.retry_count,
    )


def _address(request: TransformInput) -> str:
    return artifact_uri(transform_prefix(request.run_id, champion=request.champion).removesuffix("/"))


def _row_bytes(batch: BatchPlan) -> int:
    """About as many as a record of the batch takes: of a sparse one it is not known how many values it has."""
    sparse = any(reading.layout.sparse_columns is not None for reading in batch.readings)
    return _SPARSE_ROW_BYTES if sparse else 4 * batch.champion.feature_dim + _RECORD_BYTES


handler = step(launch_transform)
