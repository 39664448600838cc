"""Registered models as the commands know them: listed, approved, rejected."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any, Literal

from botocore.exceptions import ClientError
from pydantic import BaseModel, Field

from dropmill import aws, champions, ledger, packages
from dropmill.contracts import Champion
from dropmill.naming import RECIPE_TAG, STACK_TAG, package_group
from dropmill.recipe import RECIPE_NAME, RECIPE_NAME_MAX
from dropmill.resources import is_missing
from dropmill.storage import MissingDocument
from dropmill_cli.errors import CommandError
from dropmill_cli.runs import check_run_id
from dropmill_cli.stack import Stack

Approval = Literal["Approved", "Rejected"]

_METRIC = "metric."
_TRIES = 8


class ModelLine(BaseModel):
    """What `dropmill models --json` prints of each model package."""

    recipe: str
    version: int
    champion: bool
    status: str
    run_id: str | None
    algorithm: str | None
    metrics: dict[str, str] = Field(description="On the test rows of its run, as reports print them")
    verdict: str | None = Field(description="Dropmill's own; a person may have decided otherwise")
    reason: str | None
    created_at: datetime
    package: str


class DecidedModel(BaseModel):
    """What `dropmill approve --json` and `reject --json` print."""

    package: str
    status: Approval
    recipe: str
    run_id: str
    champion: Champion | None = Field(description="The recipe's, as it is now")


def list_models(stack: Stack, recipe: str | None, limit: int) -> list[ModelLine]:
    """The latest model packages of a recipe, or of each; newest first. Raises CommandError for what is no recipe."""
    if recipe is not None and (len(recipe) > RECIPE_NAME_MAX or not RECIPE_NAME.fullmatch(recipe)):
        raise CommandError(f"{recipe[:80]!r} is not a recipe's name; `dropmill models` lists the models of all recipes")
    groups = [(recipe, package_group(stack.name, recipe))] if recipe else sorted(_groups(stack))
    return [line for name, group in groups for line in _versions(name, group, limit)]


def _groups(stack: Stack) -> Iterator[tuple[str, str]]:
    """Each recipe and its model package group."""
    client = aws.sagemaker()
    for page in client.get_paginator("list_model_package_groups").paginate(NameContains=stack.name):
        for group in page["ModelPackageGroupSummaryList"]:
            found = client.list_tags(ResourceArn=group["ModelPackageGroupArn"])["Tags"]
            tags = {tag["Key"]: tag["Value"] for tag in found}
            if tags.get(STACK_TAG) == stack.name and RECIPE_TAG in tags:
                yield tags[RECIPE_TAG], group["ModelPackageGroupName"]


def _versions(recipe: str, group: str, limit: int) -> Iterator[ModelLine]:
    client = aws.sagemaker()
    champion = champions.find_pointer(recipe).champion
    newest: Any = {"SortBy": "CreationTime", "SortOrder": "Descending", "MaxResults": min(limit, 100)}
    shown = 0
    try:
        for page in client.get_paginator("list_model_packages").paginate(ModelPackageGroupName=group, **newest):
            for summary in page["ModelPackageSummaryList"]:
                if shown == limit:
                    return
                shown += 1
                described = client.describe_model_package(ModelPackageName=summary["ModelPackageArn"])
                yield _line(recipe, described, champion)
    except ClientError as error:
        if not is_missing(error):
            raise


def _line(recipe: str, described: Any, champion: Champion | None) -> ModelLine:
    metadata: dict[str, str] = described.get("CustomerMetadataProperties", {})
    return ModelLine(
        recipe=recipe,
        version=described.get("ModelPackageVersion", 0),
        champion=champion is not None and champion.package == described["ModelPackageArn"],
        status=described["ModelApprovalStatus"],
        run_id=metadata.get("run"),
        algorithm=metadata.get("algorithm"),
        metrics={name[len(_METRIC) :]: value for name, value in metadata.items() if name.startswith(_METRIC)},
        verdict=metadata.get("verdict"),
        reason=described.get("ApprovalDescription"),
        created_at=described["CreationTime"],
        package=described["ModelPackageArn"],
    )


def decide(stack: Stack, package_or_run: str, approval: Approval, reason: str) -> DecidedModel:
    """Approve or reject a model package, and let the champion's pointer follow at once.

    Raises:
        CommandError: there is no such package or run, or the stack did not register it.
    """
    package = _package(stack, package_or_run)
    client = aws.sagemaker()
    try:
        plan = packages.plan_of(client.describe_model_package(ModelPackageName=package))
    except ClientError as error:
        if not is_missing(error):
            raise
        dethroned = _dethrone(stack, package) if approval == "Rejected" else None
        if dethroned is not None:
            return dethroned
        raise CommandError(f"there is no model package {package}; `dropmill models` lists them") from None
    except packages.NotOurs as error:
        raise CommandError(f"{error}; `dropmill models` lists those that it did") from None
    except MissingDocument as error:
        raise CommandError(f"the records of the run that trained {package} are gone: {error}") from None
    client.update_model_package(ModelPackageArn=package, ModelApprovalStatus=approval, ApprovalDescription=reason)
    champion = packages.follow(package, deliberate=True)
    return DecidedModel(
        package=package, status=approval, recipe=plan.recipe_name, run_id=plan.run_id, champion=champion
    )


def _dethrone(stack: Stack, package: str) -> DecidedModel | None:
    """Take the crown of a champion whose package was deleted; None where it is no champion."""
    recipe = package.partition(":model-package/")[2].partition("/")[0].removeprefix(f"{stack.name}-")
    for _ in range(_TRIES):
        pointer = champions.find_pointer(recipe)
        champion = pointer.champion
        if champion is None or champion.package != package:
            return None
        if champions.dethrone(champion, pointer, champions.acted_on(recipe, package)):
            return DecidedModel(
                package=package, status="Rejected", recipe=recipe, run_id=champion.run_id, champion=None
            )
    raise CommandError(f"the champion of {recipe} keeps changing; try again")


def _package(stack: Stack, package_or_run: str) -> str:
    if package_or_run.startswith("arn:"):
        return package_or_run
    run = ledger.find_run(check_run_id(package_or_run))
    if run is None:
        raise CommandError(f"there is no run {package_or_run} in stack {stack.name}; `dropmill runs` lists them")
    if run.package is None:
        raise CommandError(f"run {run.run_id} has no model in the registry; `dropmill show {run.run_id}` says why")
    return run.package
