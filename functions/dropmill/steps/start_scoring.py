"""start_scoring: on a schedule, or asked for by hand, start a batch for each recipe that has files to be scored."""

from collections.abc import Iterator
from datetime import datetime

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from dropmill import aws
from dropmill.contracts import BatchInput, RecipeName, StartedBatch, StartedBatches
from dropmill.naming import batch_id
from dropmill.recipe import RECIPE_NAME, RECIPE_NAME_MAX
from dropmill.runs import execution_arn, open_run
from dropmill.settings import setting
from dropmill.step import logger, metrics, step

_SCORING = "scoring/"


class ScoringRequest(BaseModel):
    """What EventBridge Scheduler sends, and with a recipe, `dropmill score`."""

    model_config = ConfigDict(extra="forbid")

    scheduled_time: AwareDatetime
    recipe: RecipeName | None = Field(default=None, description="Only this one")


class ScoringNotStarted(RuntimeError):
    """Some recipes' batches could not be started; the others were."""


def start_scoring(request: ScoringRequest) -> StartedBatches:
    """A batch is named by its recipe and the scheduled minute, so that one that is asked for twice runs once.

    Raises ScoringNotStarted where a batch could not be started, once all others are.
    """
    if request.recipe is not None:
        return StartedBatches(batches=[_start(request.recipe, request.scheduled_time, by_hand=True)])
    started, failed = [], []
    for recipe in _recipes():
        try:
            started.append(_start(recipe, request.scheduled_time))
        except Exception as error:  # noqa: BLE001  one recipe's trouble must not keep the others from being scored
            logger.error("not started", recipe=recipe, error=type(error).__name__)
            failed.append(recipe)
    metrics.add_metric("StartedBatches", "Count", len(started))
    if failed:
        raise ScoringNotStarted(f"the batches of {', '.join(failed)} could not be started; their errors are in the log")
    return StartedBatches(batches=started)


def _recipes() -> Iterator[str]:
    """Every recipe that has a folder under `scoring/`."""
    pages = (
        aws.s3()
        .get_paginator("list_objects_v2")
        .paginate(Bucket=setting("drop_bucket"), Prefix=_SCORING, Delimiter="/")
    )
    for page in pages:
        for folder in page.get("CommonPrefixes", ()):
            recipe = folder["Prefix"].removeprefix(_SCORING).rstrip("/")
            if RECIPE_NAME.fullmatch(recipe) and len(recipe) <= RECIPE_NAME_MAX:
                yield recipe
            else:
                logger.warning("this folder names no recipe", folder=recipe)


def _start(recipe: str, moment: datetime, *, by_hand: bool = False) -> StartedBatch:
    batch = BatchInput(run_id=batch_id(recipe, moment, by_hand=by_hand), recipe=recipe)
    state_machine = setting("scoring_state_machine_arn")
    opened = open_run(batch, execution_arn(state_machine, batch.run_id))
    client = aws.step_functions()
    try:
        client.start_execution(
            stateMachineArn=state_machine, name=batch.run_id, input=batch.model_dump_json(exclude={"run_id"})
        )
    except client.exceptions.ExecutionAlreadyExists:
        logger.info("this batch was started before", batch=batch.run_id)
        return StartedBatch(batch=batch.run_id, recipe=recipe, started=False)
    return StartedBatch(batch=batch.run_id, recipe=recipe, started=opened)


handler = step(start_scoring)
