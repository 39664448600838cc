"""start_run: an object was created under `drops/`; start the run that it asks for, once."""

from pydantic import BaseModel, Field

from dropmill import aws
from dropmill.contracts import ObjectVersion, RunInput
from dropmill.naming import recipe_key, recipe_of_drop, run_id
from dropmill.recipe import RECIPE_BYTES_MAX
from dropmill.runs import execution_arn, open_run
from dropmill.settings import setting
from dropmill.step import about_run, logger, step


class Bucket(BaseModel):
    name: str


class S3Object(BaseModel):
    key: str
    size: int
    version_id: str | None = Field(default=None, alias="version-id")


class ObjectDetail(BaseModel):
    bucket: Bucket
    object: S3Object


class ObjectCreated(BaseModel):
    """EventBridge "Object Created" of S3."""

    detail: ObjectDetail


def start_run(event: ObjectCreated) -> None:
    bucket, dropped = event.detail.bucket.name, event.detail.object
    recipe = recipe_of_drop(dropped.key)
    if recipe is None:
        logger.warning("this key starts no run", key=dropped.key)
        return
    text, version = _recipe_text(bucket, recipe)
    run = RunInput(
        run_id=run_id(recipe, bucket, dropped.key, dropped.version_id, text),
        recipe=recipe,
        recipe_version=version,
        drop=ObjectVersion(bucket=bucket, key=dropped.key, version_id=dropped.version_id, size=dropped.size),
    )
    about_run(run.run_id)
    state_machine = setting("state_machine_arn")
    open_run(run, execution_arn(state_machine, run.run_id))
    client = aws.step_functions()
    try:
        client.start_execution(
            stateMachineArn=state_machine, name=run.run_id, input=run.model_dump_json(exclude={"run_id"})
        )
    except client.exceptions.ExecutionAlreadyExists:
        logger.info("this run was started before")


def _recipe_text(bucket: str, recipe: str) -> tuple[str, str | None]:
    """The recipe's text and version; empty and None where there is none. Inspect Drop refuses what can't be used."""
    client = aws.s3()
    try:
        answer = client.get_object(Bucket=bucket, Key=recipe_key(recipe))
    except client.exceptions.NoSuchKey:
        return "", None
    with answer["Body"] as body:
        # One byte more than a recipe may have tells a large one from a cut one.
        return body.read(RECIPE_BYTES_MAX + 1).decode("utf-8", "replace"), answer.get("VersionId")


handler = step(start_run)
