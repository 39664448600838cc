"""Claim Files: what is new under `scoring/<recipe>/` becomes a batch, which no other batch takes from it."""

import heapq
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial

from dropmill import aws, champions, claims, ledger, storage
from dropmill.contracts import (
    BatchPlan,
    Champion,
    ClaimedFiles,
    ClaimInput,
    ObjectVersion,
    Plan,
    ReadingOrder,
    ScoringFile,
    SetAside,
    Shards,
)
from dropmill.data import scoring, shards
from dropmill.data.formats import DropFile
from dropmill.data.rows import OpenFile
from dropmill.decisions import naming_recipe
from dropmill.errors import InvalidDrop, NoChampion, RunClosed
from dropmill.instances import batch_within
from dropmill.naming import batch_plan_key, is_hidden, plan_key, scoring_prefix, shards_key
from dropmill.runs import open_run
from dropmill.settings import setting
from dropmill.step import logger, step

FILES_MAX = 1000
"""A batch takes so many files, the oldest first; what is left is for the next."""

_LISTED_AT_ONCE = 1000
_LOOKS_AT_ONCE = 16


def claim_files(request: ClaimInput) -> ClaimedFiles:
    """Claim files, look at each, set aside what can't be read, and write the batch's plan and shards.

    Run again, it goes on where it was cut off. Raises NoChampion where there are files and no model to score them with,
    and RunClosed where the batch has ended.
    """
    _open(request)
    sources = claims.held_by(request.run_id)
    new = [] if sources else _unclaimed(request.recipe)
    if not sources and not new:
        return _claimed(0, 0)
    champion = champions.find_pointer(request.recipe).champion
    if champion is None:
        raise NoChampion(
            f"recipe {request.recipe} has no model in use: train one (dropmill drop), or approve one (dropmill models"
            f" {request.recipe}); what is under {scoring_prefix(request.recipe)} is scored then"
        )
    if new:
        claims.claim(request.run_id, new, int(time.time()))
        sources = claims.held_by(request.run_id)
        logger.info("claimed", files=len(sources))
    if not sources:
        return _claimed(0, 0)
    plan = _plan(champion)
    with naming_recipe(request.recipe):
        recipe = batch_within(plan.recipe, float(setting("max_instance_hours")))
    files, readings, set_aside = _looked_at(request.recipe, sources, plan)
    batch = BatchPlan(
        run_id=request.run_id,
        recipe_name=request.recipe,
        recipe=recipe,
        recipe_version=plan.recipe_version,
        champion=champion,
        files=files,
        readings=readings,
        set_aside=set_aside,
        created_at=datetime.now(UTC),
    )
    planned = shards.plan_in_order([one.file for one in batch.files])
    storage.write_document(shards_key(request.run_id), Shards(planned))
    storage.write_document(batch_plan_key(request.run_id), batch)
    return _claimed(len(sources), len(planned))


def _open(request: ClaimInput) -> None:
    """An execution that was started by hand has no row yet."""
    if not open_run(request, request.execution_arn):
        found = ledger.find_run(request.run_id)
        if found is not None and found.closed:
            raise RunClosed(f"batch {request.run_id} has ended; its files are scored by the next one")


def _claimed(files: int, shards: int) -> ClaimedFiles:
    return ClaimedFiles(claimed=files, shards=list(range(shards)), concurrency=int(setting("conversion_concurrency")))


def _unclaimed(recipe: str) -> list[ObjectVersion]:
    """The oldest files that are there and that no batch has claimed."""
    oldest: list[tuple[float, str, ObjectVersion]] = []
    for listed in _listed(recipe):
        since = {source.key: moment for moment, source in listed}
        for source in claims.unclaimed([source for _, source in listed]):
            # A heap gives its least item: here the newest of the oldest.
            item = (-since[source.key], source.key, source)
            if len(oldest) < FILES_MAX:
                heapq.heappush(oldest, item)
            else:
                heapq.heappushpop(oldest, item)
    return [source for _, _, source in sorted(oldest, key=lambda item: item[1])]


def _listed(recipe: str) -> Iterator[list[tuple[float, ObjectVersion]]]:
    """The latest version of each object, and since when it is there; some at a time."""
    bucket, prefix = setting("drop_bucket"), scoring_prefix(recipe)
    pages = (
        aws.s3()
        .get_paginator("list_object_versions")
        .paginate(Bucket=bucket, Prefix=prefix, PaginationConfig={"PageSize": _LISTED_AT_ONCE})
    )
    for page in pages:
        yield [
            (
                found["LastModified"].timestamp(),
                ObjectVersion(bucket=bucket, key=found["Key"], version_id=found["VersionId"], size=found["Size"]),
            )
            for found in page.get("Versions", ())
            if found["IsLatest"] and not is_hidden(found["Key"])
        ]


def _plan(champion: Champion) -> Plan:
    """What the champion's run did, so that rows are read as those were that it learned from."""
    try:
        return storage.read_document(Plan, plan_key(champion.run_id))
    except storage.MissingDocument:
        raise NoChampion(
            f"the run {champion.run_id} that trained the model in use has no plan any more, so it is not known how to"
            " read files for it; train the recipe anew"
        ) from None


def _looked_at(
    recipe: str, sources: Sequence[ObjectVersion], plan: Plan
) -> tuple[list[ScoringFile], list[ReadingOrder], list[SetAside]]:
    prefix = scoring_prefix(recipe)

    def look(source: ObjectVersion) -> scoring.LookedLike | SetAside:
        name = source.key.removeprefix(prefix)
        file = OpenFile(name, source.size, partial(storage.opened, source, name=name))
        try:
            return scoring.look_like(DropFile(file, source), plan.layout, plan.recipe.data)
        except InvalidDrop as error:
            return SetAside.of(source, name, [error.words])

    with ThreadPoolExecutor(_LOOKS_AT_ONCE, thread_name_prefix="look") as pool:
        looked = list(pool.map(look, sources))
    files, readings = scoring.gathered([one for one in looked if isinstance(one, scoring.LookedLike)])
    return files, readings, [one for one in looked if isinstance(one, SetAside)]


handler = step(claim_files)
