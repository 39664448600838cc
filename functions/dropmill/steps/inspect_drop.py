"""Inspect Drop: the recipe and a look at the data; refuses what can't be used before anything costs money."""

import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from dropmill import algorithms, aws, storage
from dropmill.contracts import InspectedDrop, InspectInput, ObjectVersion, Plan, RunInput, Shard, Shards
from dropmill.data import formats
from dropmill.decisions import check_objective, decide_task, naming_recipe, planned_hyperparameters
from dropmill.errors import InvalidDrop, InvalidRecipe, RunClosed
from dropmill.leases import PROVISIONING_SECONDS
from dropmill.ledger import find_run
from dropmill.naming import plan_key, recipe_key, shards_key
from dropmill.recipe import RECIPE_BYTES_MAX, Recipe, built_in_recipe, parse_recipe
from dropmill.runs import open_run
from dropmill.step import step

DROP_BYTES_MAX = 2 * 1024**3
"""The largest single-file drop: what one Lambda converts within its time and its local disk."""


TIMEOUT_MARGIN_SECONDS = 900
"""How much later than the lease's deadline nobody waits any more: the sweeper tells why before that."""


def inspect_drop(request: InspectInput) -> InspectedDrop:
    """Raises InvalidRecipe, InvalidDrop; RunClosed where the run has ended before."""
    _open(request)
    recipe = _recipe(request.drop.bucket, request.recipe, request.recipe_version)
    drop = _pinned(request.drop)
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / "drop"
        storage.download(drop, local)
        with local.open("rb") as source:
            layout = formats.look(source, drop.file_name, recipe.data)
    with naming_recipe(request.recipe):
        task = decide_task(recipe, layout, drop.file_name)
        check_objective(recipe, task)
        hyperparameters = planned_hyperparameters(recipe, layout, task)
    plan = Plan(
        run_id=request.run_id,
        recipe_name=request.recipe,
        recipe=recipe,
        recipe_version=request.recipe_version,
        drop=drop,
        layout=layout,
        task=task,
        hyperparameters=hyperparameters,
        created_at=datetime.now(UTC),
    )
    shards = [Shard(number=0, source=drop)]
    storage.write_document(plan_key(request.run_id), plan)
    storage.write_document(shards_key(request.run_id), Shards(shards))
    longest = recipe.tuning.max_runtime if recipe.tuning else recipe.training.max_runtime
    return InspectedDrop(
        shards=[shard.number for shard in shards],
        tuned=recipe.tuning is not None,
        training_timeout=longest + PROVISIONING_SECONDS + TIMEOUT_MARGIN_SECONDS,
        task=task,
        feature_dim=layout.feature_dim,
    )


def _open(request: InspectInput) -> None:
    """An execution that was started by hand has no row yet."""
    run = RunInput.model_validate(request.model_dump(exclude={"execution_arn"}))
    if not open_run(run, request.execution_arn):
        found = find_run(request.run_id)
        if found is not None and found.closed:
            raise RunClosed(f"run {request.run_id} has ended; drop the file again, or rerun it under a new name")


def _recipe(bucket: str, name: str, version: str | None) -> Recipe:
    if version is None:
        built_in = built_in_recipe(name)
        if built_in is None:
            raise InvalidRecipe(
                f"there is no recipe {name!r}: put it at s3://{bucket}/{recipe_key(name)}, or drop under one of the"
                f" built-in recipes: {', '.join(algorithms.ALGORITHMS)}"
            )
        return built_in
    try:
        text = storage.read_object(bucket, recipe_key(name), version_id=version, limit=RECIPE_BYTES_MAX)
    except storage.TooLarge:
        raise InvalidRecipe(f"recipe {name!r} is larger than {RECIPE_BYTES_MAX // 1024} KB") from None
    try:
        return parse_recipe(text.decode("utf-8-sig"), name)
    except UnicodeDecodeError:
        raise InvalidRecipe(f"recipe {name!r} is not UTF-8 text") from None


def _pinned(drop: ObjectVersion) -> ObjectVersion:
    """The drop as it is in S3: its true size, and the version that the whole run reads."""
    pinned: Any = {"VersionId": drop.version_id} if drop.version_id else {}
    try:
        head = aws.s3().head_object(Bucket=drop.bucket, Key=drop.key, **pinned)
    except ClientError as error:
        if aws.error_code(error) not in {"404", "NoSuchKey", "NoSuchVersion"}:
            raise
        raise InvalidDrop(f"{drop.file_name} is gone: {drop.uri} was deleted before it could be read") from None
    size = head["ContentLength"]
    if size == 0:
        raise InvalidDrop(f"{drop.file_name} is empty; drop a file with rows in it")
    if size > DROP_BYTES_MAX:
        raise InvalidDrop(f"{drop.file_name} has {size:,} bytes; a single file may have {DROP_BYTES_MAX:,}")
    return ObjectVersion(
        bucket=drop.bucket, key=drop.key, version_id=drop.version_id or head.get("VersionId"), size=size
    )


handler = step(inspect_drop)
