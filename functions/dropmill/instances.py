"""What is known of SageMaker's instance types, and how long a run may use them at most."""

import math
import re
from typing import Final

from dropmill.errors import InvalidRecipe
from dropmill.recipe import (
    TRANSFORM_SECONDS_MAX,
    TRANSFORM_SECONDS_MIN,
    EvaluationOptions,
    InstanceHours,
    Recipe,
    ScoringOptions,
    counted_instances,
    duration_text,
    training_hours,
)

ENDPOINT_LIFETIME_SECONDS: Final = 2 * 3600
"""Half an hour to come into service, an hour to be evaluated, and a margin."""

_VARIANTS: Final = 2
"""The model and, where there is one, its champion are asked at the same time, each on instances of its own."""

_DISK_LETTER: Final = re.compile(r"[a-z]+\d+[a-z]*d[a-z]*(-.+)?")
"""EC2's naming conventions: a `d` behind the generation stands for instance store volumes (m5d, g4dn, p4de, c6gd)."""

_DISKS_UNSAID: Final = frozenset(
    {
        "dl1",
        "g5",
        "g6",
        "g6e",
        "g7",
        "g7e",
        "p5",
        "p5e",
        "p5en",
        "p6-b200",
        "p6-b300",
        "p6e-gb200",
        "trn1",
        "trn1n",
        "trn2",
    }
)
"""Families with NVMe disks of which the name says nothing ("Amazon EC2 instance store volumes", read in 2025)."""


def has_local_storage(instance_type: str) -> bool:
    """Whether an instance such as `ml.g5.xlarge` keeps its data on its own disks and not on a volume.

    Such disks are encrypted by the hardware, and SageMaker refuses a key for a volume ("VolumeKmsKeyId" in its API
    reference).
    """
    family = instance_type.removeprefix("ml.").partition(".")[0]
    return family in _DISKS_UNSAID or _DISK_LETTER.fullmatch(family) is not None


def within(recipe: Recipe, most: float) -> Recipe:
    """The recipe, held against the stack's own limit: `most` instance-hours for a run and for a batch.

    Training and what serves the model count; a further round of the evaluation, which another run's new champion makes
    necessary, does not. Transforms whose time the recipe does not name get as much as there is left of the limit.

    Raises:
        InvalidRecipe: a run, or a batch that is scored with its model, may take more.
    """
    training = training_hours(recipe)
    evaluation, scoring = recipe.evaluation, recipe.scoring
    if evaluation.serve == "transform" and "max_runtime" not in evaluation.model_fields_set:
        seconds = _seconds(most - training.hours, _VARIANTS * evaluation.instance_count)
        evaluation = evaluation.model_copy(update={"max_runtime": seconds})
    if "max_runtime" not in scoring.model_fields_set:
        scoring = scoring.model_copy(update={"max_runtime": _seconds(most, scoring.instance_count)})
    fitted = recipe.model_copy(update={"evaluation": evaluation, "scoring": scoring})
    _check_run(training, _evaluation_hours(evaluation), most)
    _check_batch(scoring, most)
    return fitted


def batch_within(recipe: Recipe, most: float) -> Recipe:
    """The recipe, its batches held within a limit that may have been lowered since its run.

    Raises:
        InvalidRecipe: the limit leaves no time for so many instances.
    """
    scoring = recipe.scoring
    seconds = min(scoring.max_runtime, _seconds(most, scoring.instance_count))
    scoring = scoring.model_copy(update={"max_runtime": seconds})
    _check_batch(scoring, most)
    return recipe.model_copy(update={"scoring": scoring})


def _seconds(hours: float, instances: int) -> int:
    """How long so many instances may run within so many instance-hours."""
    return max(TRANSFORM_SECONDS_MIN, min(TRANSFORM_SECONDS_MAX, math.floor(hours * 3600 / instances)))


def _check_run(training: InstanceHours, evaluation: InstanceHours, most: float) -> None:
    hours = training.hours + evaluation.hours
    if hours <= most:
        return
    largest, other = (training, evaluation) if training.hours >= evaluation.hours else (evaluation, training)
    raise InvalidRecipe(
        f"a run may take up to {hours:.4g} instance-hours, more than this stack's limit MaxInstanceHours ({most:g}):"
        f" training {training.hours:.4g} ({training.how}), evaluation {evaluation.hours:.4g} ({evaluation.how});"
        f" lower {largest.keys}, then {other.keys}, or have MaxInstanceHours raised"
    )


def _check_batch(scoring: ScoringOptions, most: float) -> None:
    hours = scoring.max_runtime * scoring.instance_count / 3600
    if hours > most:
        raise InvalidRecipe(
            f"scoring a batch may take up to {hours:.4g} instance-hours ({duration_text(scoring.max_runtime)} on"
            f" {counted_instances(scoring.instance_count)}), more than this stack's limit MaxInstanceHours ({most:g});"
            " lower scoring.max_runtime or scoring.instance_count, or have MaxInstanceHours raised"
        )


def _evaluation_hours(evaluation: EvaluationOptions) -> InstanceHours:
    instances = f"on {counted_instances(evaluation.instance_count)} for the model and as many for its champion"
    if evaluation.serve == "transform":
        seconds, keys = evaluation.max_runtime, "evaluation.max_runtime or evaluation.instance_count"
        how = f"transforms of {duration_text(seconds)}, {instances}"
    elif evaluation.keep_endpoint:
        seconds = ENDPOINT_LIFETIME_SECONDS + evaluation.keep_endpoint
        keys = "evaluation.keep_endpoint or evaluation.instance_count"
        kept = duration_text(evaluation.keep_endpoint)
        how = f"an endpoint for {duration_text(ENDPOINT_LIFETIME_SECONDS)} and kept for {kept}, {instances}"
    else:
        seconds, keys = ENDPOINT_LIFETIME_SECONDS, "evaluation.instance_count"
        how = f"an endpoint for {duration_text(ENDPOINT_LIFETIME_SECONDS)}, {instances}"
    return InstanceHours(seconds * _VARIANTS * evaluation.instance_count / 3600, how, keys)
