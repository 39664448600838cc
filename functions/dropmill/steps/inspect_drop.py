"""Inspect Drop: the recipe and a look at the data; refuses what can't be used before anything costs money."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from typing import Any

from botocore.exceptions import ClientError

from dropmill import algorithms, aws, storage
from dropmill.algorithms.hyperparameters import AUTO
from dropmill.contracts import InspectedDrop, InspectInput, ObjectVersion, Part, Plan, RunInput, Shards
from dropmill.data import formats, shards
from dropmill.data.rows import OpenFile
from dropmill.decisions import (
    check_class_names,
    check_metrics,
    check_objective,
    decide_task,
    naming_recipe,
    planned_hyperparameters,
)
from dropmill.errors import InvalidDrop, InvalidRecipe, RunClosed, several
from dropmill.instances import within
from dropmill.leases import PROVISIONING_SECONDS
from dropmill.ledger import find_run
from dropmill.naming import folder_of_drop, is_hidden, package_group, plan_key, recipe_key, shards_key
from dropmill.recipe import RECIPE_BYTES_MAX, Recipe, built_in_recipe, parse_recipe
from dropmill.runs import open_run
from dropmill.settings import setting
from dropmill.step import step

DROP_BYTES_MAX = 20 * 1024**4
"""The largest drop: its thousand shards are what a Lambda converts within 900 seconds at 35 MB/s."""
FILES_MAX = 10_000

TIMEOUT_MARGIN_SECONDS = 900
"""How much later than the lease's deadline nobody waits any more: the sweeper tells why before that."""

_MISSING = {"404", "NoSuchKey", "NoSuchVersion"}


def inspect_drop(request: InspectInput) -> InspectedDrop:
    """Raises InvalidRecipe, InvalidDrop; RunClosed where the run has ended before."""
    _open(request)
    recipe = _recipe(request.drop.bucket, request.recipe, request.recipe_version).with_instance_types(
        training=setting("training_instance_type"),
        evaluation=setting("evaluation_instance_type"),
        scoring=setting("scoring_instance_type"),
    )
    with naming_recipe(request.recipe):
        recipe = within(recipe, float(setting("max_instance_hours")))
        _check_region(recipe)
        _check_stack(request.recipe)
    drop = _pinned(request.drop)
    files = [drop_file(drop, source) for source in _sources(drop)]
    _check_parts(drop, files)
    _check_sizes(drop, files)
    looked = formats.look(files, recipe.data, width=_width(recipe))
    layout = looked.layout
    scanned = sum(file.source.size for file in files) <= formats.SCAN_BYTES_MAX
    with naming_recipe(request.recipe):
        task = decide_task(recipe, layout, drop.file_name, scanned=scanned)
        check_objective(recipe, task)
        check_metrics(recipe, layout, task)
        check_class_names(layout, drop.file_name)
        hyperparameters = planned_hyperparameters(recipe, layout, task)
    plan = Plan(
        run_id=request.run_id,
        recipe_name=request.recipe,
        recipe=recipe,
        recipe_version=request.recipe_version,
        drop=drop,
        files=looked.files,
        layout=layout,
        task=task,
        hyperparameters=hyperparameters,
        created_at=datetime.now(UTC),
    )
    planned = shards.plan_shards(looked.files)
    if not planned:
        raise InvalidDrop(f"{drop.file_name} holds no rows; drop some")
    storage.write_document(plan_key(request.run_id), plan)
    storage.write_document(shards_key(request.run_id), Shards(planned))
    longest = recipe.tuning.max_runtime if recipe.tuning else recipe.training.max_runtime
    return InspectedDrop(
        shards=[shard.number for shard in planned],
        tuned=recipe.tuning is not None,
        training_timeout=longest + PROVISIONING_SECONDS + TIMEOUT_MARGIN_SECONDS,
        task=task,
        feature_dim=layout.feature_dim,
        concurrency=int(setting("conversion_concurrency")),
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


def _check_region(recipe: Recipe) -> None:
    try:
        algorithms.image_uri(recipe.algorithm, setting("aws_region"))
    except algorithms.UnsupportedRegion as error:
        raise InvalidRecipe(f"{error}; deploy the stack in another one") from None


def _check_stack(recipe: str) -> None:
    """The model would be trained, and then could not be registered."""
    try:
        package_group(setting("stack_name"), recipe)
    except ValueError as error:
        raise InvalidRecipe(f"{error}; deploy it under a shorter one") from None


def _width(recipe: Recipe) -> int | None:
    """How many columns the recipe says that there are. It has been checked to be a whole number."""
    given = recipe.hyperparameters.get("feature_dim", AUTO)
    return None if given == AUTO else int(given)


def _pinned(drop: ObjectVersion) -> ObjectVersion:
    """The drop as it is in S3: its true size, and the version that the whole run reads."""
    pinned: Any = {"VersionId": drop.version_id} if drop.version_id else {}
    try:
        head = aws.s3().head_object(Bucket=drop.bucket, Key=drop.key, **pinned)
    except ClientError as error:
        if aws.error_code(error) not in _MISSING:
            raise
        raise InvalidDrop(storage.gone(drop, drop.file_name)) from None
    return drop.model_copy(
        update={"version_id": drop.version_id or head.get("VersionId"), "size": head["ContentLength"]}
    )


# The files of a drop


def _sources(drop: ObjectVersion) -> list[ObjectVersion]:
    """The dropped file, or every file of the folder that is closed with it, pinned to its version."""
    folder = folder_of_drop(drop.key)
    if folder is None:
        return [drop]
    found = list(islice(_in_folder(drop.bucket, folder), FILES_MAX + 1))
    if not found:
        raise InvalidDrop(f"{drop.file_name}: there are no files in the folder; add them before {drop.key}")
    if len(found) > FILES_MAX:
        raise InvalidDrop(f"{drop.file_name} holds more than {FILES_MAX:,} files; drop fewer and larger ones")
    return found


def _in_folder(bucket: str, folder: str) -> Iterator[ObjectVersion]:
    """The latest version of each object that is there, but for hidden ones."""
    for page in aws.s3().get_paginator("list_object_versions").paginate(Bucket=bucket, Prefix=folder):
        for found in page.get("Versions", ()):
            if found["IsLatest"] and not is_hidden(found["Key"].removeprefix(folder)):
                version = found["VersionId"]
                yield ObjectVersion(bucket=bucket, key=found["Key"], version_id=version, size=found["Size"])


def drop_file(drop: ObjectVersion, source: ObjectVersion) -> formats.DropFile:
    """A file of a drop as the readers take it, named by its path below the drop's folder."""
    folder = folder_of_drop(drop.key)
    name = source.file_name if folder is None else source.key.removeprefix(folder)
    first, slash, _ = name.partition("/")
    part = Part(first) if slash and first in set(Part) else None
    return formats.DropFile(OpenFile(name, source.size, partial(storage.opened, source, name=name)), source, part)


def _check_parts(drop: ObjectVersion, files: Sequence[formats.DropFile]) -> None:
    """The folders of the parts are all there or none, and then nothing is beside them."""
    given = {file.part for file in files if file.part is not None}
    if not given:
        return
    missing = [part for part in Part if part not in given]
    if missing:
        there = " and ".join(f"{part}/" for part in Part if part in given)
        lacking = " and ".join(f"{part}/" for part in missing)
        raise InvalidDrop(
            f"{drop.file_name} is divided into {there}, but there is no file in {lacking}: give all of train/,"
            " validation/ and test/, or none of them"
        )
    beside = [file.file.name for file in files if file.part is None]
    if beside:
        raise InvalidDrop(
            f"{drop.file_name} is divided into train/, validation/ and test/, and these files are beside them; move or"
            f" delete them:\n{several(beside)}"
        )


def _check_sizes(drop: ObjectVersion, files: Sequence[formats.DropFile]) -> None:
    empty = [file.file.name for file in files if file.file.size == 0]
    if empty and folder_of_drop(drop.key) is None:
        raise InvalidDrop(f"{drop.file_name} is empty; drop a file with rows in it")
    if empty:
        raise InvalidDrop(f"{drop.file_name}: these files are empty; fill or delete them:\n{several(empty)}")
    size = sum(file.file.size for file in files)
    if size > DROP_BYTES_MAX:
        raise InvalidDrop(f"{drop.file_name} has {size:,} bytes; a drop may have {DROP_BYTES_MAX:,}")


handler = step(inspect_drop)
