"""The one place that builds strings which others must match: run ids, SageMaker names, S3 keys, tags."""

import hashlib
import re
from datetime import UTC, datetime
from typing import Final, Literal

from dropmill.recipe import RECIPE_NAME, RECIPE_NAME_MAX

SAGEMAKER_NAME_MAX: Final = 32
"""A tuning job's limit, the shortest of all SageMaker names."""

PACKAGE_GROUP_MAX: Final = 63

STACK_TAG: Final = "dropmill:stack"
RUN_TAG: Final = "dropmill:run"
RECIPE_TAG: Final = "dropmill:recipe"

Step = Literal[
    "training",
    "tuning",
    "transform",
    "champion-transform",
    "model",
    "champion-model",
    "endpoint-config",
    "endpoint",
]

_STEP_SLUGS: Final[dict[Step, str]] = {
    "training": "train",
    "tuning": "tune",
    "transform": "xform",
    "champion-transform": "cxform",
    "model": "model",
    "champion-model": "cmodel",
    "endpoint-config": "epcfg",
    "endpoint": "ep",
}
_SLUG_MAX: Final = 9
_DIGEST_DIGITS: Final = 12

SUCCESS: Final = "_SUCCESS"
"""The object that closes a folder drop, as Hadoop and Spark write it."""

PARTS: Final = ("train", "validation", "test")
"""The folders that a folder drop may be divided into, by the names of its parts."""

_KEY_BYTES_MAX: Final = 1024
_NAME_END_BYTES: Final = 100

_DROP_KEY: Final = re.compile(r"drops/(?P<recipe>[^/]+)/(?P<folders>(?:[^/]+/)*)(?P<name>[^/]+)", re.DOTALL)


def _digest(*texts: str) -> str:
    """Twelve hex digits over texts that can't be confused with each other's neighbours."""
    joined = hashlib.sha256()
    for text in texts:
        data = text.encode()
        joined.update(len(data).to_bytes(8, "big") + data)
    return joined.hexdigest()[:_DIGEST_DIGITS]


def recipe_of_drop(key: str) -> str | None:
    """The recipe that an object key asks for, or None where the key starts nothing.

    `drops/<recipe>/<file>` is a file; `drops/<recipe>/<folder...>/_SUCCESS` closes a folder. Nothing else starts a run:
    no key that ends in `/`, no other name or folder that starts with `_` or `.`, and no `_SUCCESS` of a part (`train`,
    `validation`, `test`) within a folder, which Spark leaves in each folder that it writes.
    """
    match = _DROP_KEY.fullmatch(key)
    if match is None:
        return None
    recipe, folders, name = match["recipe"], match["folders"].split("/")[:-1], match["name"]
    if not RECIPE_NAME.fullmatch(recipe) or len(recipe) > RECIPE_NAME_MAX:
        return None
    if not folders:
        return None if is_hidden(name) else recipe
    part_of_a_folder = len(folders) > 1 and folders[-1] in PARTS
    return recipe if name == SUCCESS and not part_of_a_folder and not any(map(is_hidden, folders)) else None


def is_hidden(path: str) -> bool:
    """Whether a path is no data: some name in it starts with `_` or `.`, or it is a folder's own object."""
    return path.endswith(("/", "_$folder$")) or any(name.startswith(("_", ".")) for name in path.split("/"))


def folder_of_drop(key: str) -> str | None:
    """The prefix, ending in `/`, of the folder that the key closes; None for a single file."""
    return key.removesuffix(SUCCESS) if key.endswith(f"/{SUCCESS}") else None


def run_id(recipe: str, bucket: str, key: str, version_id: str | None, recipe_text: str, rerun: int = 1) -> str:
    """`<recipe>-<12 hex digits>` of the drop's identity and the recipe's text; a rerun adds `-2`, `-3`."""
    digest = _digest(bucket, key, version_id or "", recipe_text)
    return f"{recipe}-{digest}" + (f"-{rerun}" if rerun > 1 else "")


def batch_id(recipe: str, moment: datetime, *, by_hand: bool = False) -> str:
    """`<recipe>-score-<yyyymmddThhmm>` in UTC, of the minute for which it is scheduled; by hand, of the second."""
    return f"{recipe}-score-{moment.astimezone(UTC):{'%Y%m%dt%H%M%S' if by_hand else '%Y%m%dt%H%M'}}"


def endpoint_run_id(recipe: str, moment: datetime) -> str:
    """The run of an endpoint that is brought up by hand."""
    return f"{recipe}-endpoint-{moment.astimezone(UTC):%Y%m%dt%H%M%S}"


def sagemaker_name(stack: str, recipe: str, run: str, step: Step, attempt: int) -> str:
    """Letters, digits and hyphens, at most 32; different for every stack, run, step and attempt.

    Two stacks of an account that score a recipe of the same name at the same minute have batches of the same name.
    """
    if not 1 <= attempt <= 99:
        raise ValueError(f"attempt {attempt} is outside 1..99")
    slug = recipe[:_SLUG_MAX].strip("-")
    return f"{slug}-{_digest(stack, run)}-{_STEP_SLUGS[step]}-{attempt}"


def package_group(stack: str, recipe: str) -> str:
    """The name of a recipe's model package group: `<stack>-<recipe>`, or a digest for what is too long of the recipe.

    Raises ValueError for a stack whose name alone is too long.
    """
    name = f"{stack}-{recipe}"
    if len(name) <= PACKAGE_GROUP_MAX:
        return name
    short = f"{stack}-{_digest(recipe)}"
    if len(short) > PACKAGE_GROUP_MAX:
        most = PACKAGE_GROUP_MAX - 1 - _DIGEST_DIGITS
        raise ValueError(f"the stack's name {stack} is too long for model package groups; it may have {most} letters")
    return short


def recipe_key(recipe: str) -> str:
    return f"recipes/{recipe}.yaml"


def plan_key(run: str) -> str:
    return f"runs/{run}/plan.json"


def dataset_key(run: str) -> str:
    return f"runs/{run}/dataset.json"


def metrics_key(run: str) -> str:
    return f"runs/{run}/metrics.json"


def verdict_key(run: str) -> str:
    return f"runs/{run}/verdict.json"


def model_quality_key(run: str) -> str:
    return f"runs/{run}/model-quality.json"


def report_key(run: str) -> str:
    return f"runs/{run}/report.html"


def run_record_key(run: str) -> str:
    return f"runs/{run}/run.json"


def refusal_key(run: str) -> str:
    return f"runs/{run}/refusal.json"


def shards_key(run: str) -> str:
    return f"work/{run}/shards.json"


def shard_report_key(run: str, shard: int) -> str:
    return f"work/{run}/reports/{shard:05}.json"


def part_prefix(run: str, part: str) -> str:
    return f"work/{run}/{part}/"


def transform_prefix(run: str, *, champion: bool = False) -> str:
    """Where a transform job writes: an object for each object that it read, whose name ends in `.out` besides."""
    return f"work/{run}/{'champion-' if champion else ''}transform/"


def part_file_key(run: str, part: str, shard: int, number: int = 0) -> str:
    """One of a shard's files of a part. SageMaker takes whatever lies under the part's prefix."""
    return f"{part_prefix(run, part)}part-{shard:05}" + (f"-{number:03}.pbr" if number else ".pbr")


def batch_plan_key(batch: str) -> str:
    return f"work/{batch}/batch.json"


def rows_prefix(batch: str) -> str:
    return f"work/{batch}/rows/"


def rows_name(file: int, shard: int) -> str:
    """What a shard read of one file of a batch, within `rows_prefix`; its answers are named so with `.out` behind."""
    return f"{file:05}-{shard:05}.pbr"


def kept_rows_key(batch: str, file: int, shard: int) -> str:
    """The kept columns of the same rows."""
    return f"work/{batch}/kept/{file:05}-{shard:05}.arrows"


def rows_manifest_key(batch: str) -> str:
    """The manifest of the rows that the transform job reads."""
    return f"work/{batch}/rows.manifest"


def sealed_batch_key(batch: str) -> str:
    return f"work/{batch}/sealed.json"


def staged_manifest_key(batch: str) -> str:
    """The manifest of a batch's predictions before they count."""
    return f"work/{batch}/manifest.json"


def scoring_prefix(recipe: str) -> str:
    return f"scoring/{recipe}/"


def predictions_prefix(recipe: str, batch: str) -> str:
    return f"predictions/{recipe}/{batch}/"


def predictions_key(recipe: str, batch: str, name: str) -> str:
    """An object of predictions, named by the file that they are of; what is too long for S3 is cut in its middle."""
    prefix = predictions_prefix(recipe, batch)
    room = _KEY_BYTES_MAX - len(prefix.encode())
    data = name.encode()
    if len(data) > room:
        mark = f"~{_digest(name)}~".encode()
        end = data[-_NAME_END_BYTES:]
        data = data[: room - len(mark) - len(end)] + mark + end
    return prefix + data.decode("utf-8", "ignore")


def predictions_manifest_key(recipe: str, batch: str) -> str:
    return f"{predictions_prefix(recipe, batch)}manifest.json"


def model_prefix(recipe: str, run: str) -> str:
    return f"models/{recipe}/{run}"
