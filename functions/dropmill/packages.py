"""Model packages: how a judged model stands in SageMaker's registry, and what an approval there does.

Each recipe has a model package group, each run's model is a version in it. A version carries no tags of its own, so
whose it is and where it came from stands in its CustomerMetadataProperties.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

from botocore.exceptions import ClientError

from dropmill import algorithms, aws, champions
from dropmill.champions import Approval
from dropmill.classes import predicted_classes
from dropmill.contracts import (
    Champion,
    Decision,
    Judgement,
    Metrics,
    Plan,
    RegisteredModel,
    SealedDataset,
    Task,
    TrainedModel,
)
from dropmill.errors import ChampionMoved
from dropmill.model_quality import CONTENT_TYPE
from dropmill.naming import (
    RECIPE_TAG,
    STACK_TAG,
    dataset_key,
    model_quality_key,
    package_group,
    plan_key,
    report_key,
)
from dropmill.resources import already_exists, is_missing
from dropmill.settings import setting
from dropmill.storage import artifact_uri, read_document

if TYPE_CHECKING:
    from mypy_boto3_sagemaker.type_defs import (
        CreateModelPackageInputTypeDef,
        DescribeModelPackageOutputTypeDef,
    )

METADATA_VALUE_MAX = 256
HYPERPARAMETERS_MAX = 20
"""So many stand in the metadata, which holds 50 entries; all of them stand in dataset.json."""
TEXT_MAX = 1024
UNKNOWN = "unknown"
"""What the template says of a code version that it was not told."""

_TASKS = {
    Task.BINARY: "CLASSIFICATION",
    Task.MULTICLASS: "CLASSIFICATION",
    Task.REGRESSION: "REGRESSION",
    Task.CLUSTERING: "OTHER",
}
_APPROVALS: dict[Decision, Approval] = {Decision.APPROVED: "Approved", Decision.REJECTED: "Rejected"}
_TRIES = 8


class NotOurs(LookupError):
    """The model package is none that this stack registered."""


# Registration


def register(plan: Plan, dataset: SealedDataset, training: TrainedModel, metrics: Metrics) -> str:
    """The ARN of the run's model package, which is made unless there is one, and waits for its approval."""
    group = _group_arn(plan.recipe_name)
    request = package_request(plan, dataset, training, metrics, group)
    return aws.sagemaker().create_model_package(**request)["ModelPackageArn"]


def _group_arn(recipe: str) -> str:
    """The ARN of the recipe's model package group, which is made unless there is one."""
    name = package_group(setting("stack_name"), recipe)
    client = aws.sagemaker()
    try:
        return client.describe_model_package_group(ModelPackageGroupName=name)["ModelPackageGroupArn"]
    except ClientError as error:
        if not is_missing(error):
            raise
    try:
        return client.create_model_package_group(
            ModelPackageGroupName=name,
            ModelPackageGroupDescription=f"Models that Dropmill trained by the recipe {recipe}",
            Tags=[{"Key": STACK_TAG, "Value": setting("stack_name")}, {"Key": RECIPE_TAG, "Value": recipe}],
        )["ModelPackageGroupArn"]
    except ClientError as error:
        if not already_exists(error):
            raise
    return client.describe_model_package_group(ModelPackageGroupName=name)["ModelPackageGroupArn"]


def package_request(
    plan: Plan, dataset: SealedDataset, training: TrainedModel, metrics: Metrics, group_arn: str
) -> CreateModelPackageInputTypeDef:
    """The package of a run's model: what serves it, what it reached, and where it came from."""
    algorithm = algorithms.get(plan.recipe.algorithm)
    job = f"{group_arn.partition(':model-package-group/')[0]}:training-job/{training.training_job}"
    properties = {"GeneratedBy": job, "ProjectId": plan.run_id}
    version = setting("code_version")
    if version != UNKNOWN:
        properties["CommitId"] = version
    request: Any = {
        "ModelPackageGroupName": group_arn.rpartition("/")[2],
        "ModelPackageDescription": f"Trained by run {plan.run_id}, recipe {plan.recipe_name}",
        "ModelApprovalStatus": "PendingManualApproval",
        # The same run asks with the same token, however often it is tried.
        "ClientToken": hashlib.sha256(plan.run_id.encode()).hexdigest()[:36],
        "Domain": "MACHINE_LEARNING",
        "Task": _TASKS[plan.task],
        "InferenceSpecification": {
            "Containers": [
                {"Image": algorithm.image_uri(setting("aws_region")), "ModelDataUrl": training.artifact},
            ],
            "SupportedContentTypes": list(algorithm.request_content_types),
            "SupportedResponseMIMETypes": list(algorithm.response_content_types),
        },
        "ModelMetrics": {
            "ModelQuality": {
                "Statistics": {"ContentType": CONTENT_TYPE, "S3Uri": artifact_uri(model_quality_key(plan.run_id))}
            }
        },
        "MetadataProperties": properties,
        "CustomerMetadataProperties": _metadata(plan, dataset, training, metrics),
    }
    return cast("CreateModelPackageInputTypeDef", request)


def _metadata(plan: Plan, dataset: SealedDataset, training: TrainedModel, metrics: Metrics) -> dict[str, str]:
    found = {
        "stack": setting("stack_name"),
        "recipe": plan.recipe_name,
        "recipe_version": plan.recipe_version or "built-in",
        "run": plan.run_id,
        "plan": artifact_uri(plan_key(plan.run_id)),
        "report": artifact_uri(report_key(plan.run_id)),
        "drop": plan.drop.uri,
        "drop_version": plan.drop.version_id or "none",
        "algorithm": plan.recipe.algorithm,
        "task": plan.task.value,
        "features": str(dataset.feature_dim),
        "training_rows": str(sum(part.rows for name, part in dataset.parts.items() if name == "train")),
        "test_rows": str(metrics.rows),
        "training_job": training.training_job,
    }
    if training.tuning_job:
        found["tuning_job"] = training.tuning_job
    found |= {f"metric.{name}": f"{value:.6g}" for name, value in metrics.metrics.items()}
    hyperparameters = {**dataset.hyperparameters, **training.hyperparameters}
    shown = sorted(hyperparameters.items())[:HYPERPARAMETERS_MAX]
    found |= {f"hyperparameters.{name}": value for name, value in shown}
    return {name: text for name, value in found.items() if (text := metadata_value(value))}


def metadata_value(text: str) -> str:
    """The text as CustomerMetadataProperties take it: letters, digits, spaces and `_.:/=+-@`, at most 256."""
    kept = (letter if unicodedata.category(letter)[0] in "LNZ" or letter in "_.:/=+-@" else "-" for letter in text)
    return "".join(kept)[:METADATA_VALUE_MAX]


def decide(plan: Plan, dataset: SealedDataset, package: str, judgement: Judgement) -> RegisteredModel:
    """Carry out a verdict on a registered package: move the champion's pointer if it is approved, then say so.

    What a person has decided about the package meanwhile stands.

    Raises:
        ChampionMoved: the champion is not the one that the model was judged against.
    """
    described = aws.sagemaker().describe_model_package(ModelPackageName=package)
    if described["ModelApprovalStatus"] == "PendingManualApproval":
        if judgement.verdict is Decision.APPROVED:
            _crown(plan, dataset, described, judgement)
        if judgement.verdict is not Decision.REJECTED or _note_rejection(plan, package):
            # SageMaker compares nothing when it swaps, so a decision of the last moment is looked for here.
            now = aws.sagemaker().describe_model_package(ModelPackageName=package)["ModelApprovalStatus"]
            decided = now != "PendingManualApproval"
            _say(package, judgement, approve=not decided)
            if decided:
                follow(package)
    champion = champions.find_pointer(plan.recipe_name).champion
    return RegisteredModel(
        package=package, verdict=judgement.verdict, champion=champion is not None and champion.package == package
    )


def _crown(
    plan: Plan, dataset: SealedDataset, described: DescribeModelPackageOutputTypeDef, judgement: Judgement
) -> None:
    package = described["ModelPackageArn"]
    for _ in range(_TRIES):
        known = champions.acted_on(plan.recipe_name, package)
        if known == "Approved":
            return  # by an earlier call, which died before it could say so
        pointer = champions.find_pointer(plan.recipe_name)
        judged_against = pointer.champion.version if pointer.champion else 0
        if judged_against != judgement.champion_version:
            break
        if champions.crown(_candidate(plan, dataset, described), pointer, known):
            return
        # That the package is pending may just have been noted, which moves no champion.
    raise ChampionMoved(
        f"the champion of {plan.recipe_name} changed while run {plan.run_id} was judged; it is compared again"
    )


def _note_rejection(plan: Plan, package: str) -> bool:
    """False where a person's decision about the package has been acted on meanwhile."""
    for _ in range(_TRIES):
        known = champions.acted_on(plan.recipe_name, package)
        if known == "Approved":
            return False
        if champions.note(plan.recipe_name, package, plan.run_id, "Rejected", known):
            return True
    return False


def _say(package: str, judgement: Judgement, *, approve: bool) -> None:
    """Write a verdict into the package, and without `approve` only its words; for one that waits, why it does."""
    words = {"verdict": judgement.verdict.value, "judged_against": judgement.champion_run or "no champion"}
    request: Any = {
        "ModelPackageArn": package,
        "CustomerMetadataProperties": {name: metadata_value(text) for name, text in words.items()},
        "ApprovalDescription": "; ".join(judgement.reasons)[:TEXT_MAX],
    }
    if approve and judgement.verdict in _APPROVALS:
        request["ModelApprovalStatus"] = _APPROVALS[judgement.verdict]
    aws.sagemaker().update_model_package(**request)


def _candidate(plan: Plan, dataset: SealedDataset, described: DescribeModelPackageOutputTypeDef) -> Champion:
    (container,) = described["InferenceSpecification"]["Containers"]
    return Champion(
        recipe=plan.recipe_name,
        version=1,
        package=described["ModelPackageArn"],
        run_id=plan.run_id,
        algorithm=plan.recipe.algorithm,
        task=plan.task,
        feature_dim=dataset.feature_dim,
        classes=predicted_classes(plan),
        artifact=container["ModelDataUrl"],
        moved_at=datetime.now(UTC),
    )


# Approvals


def follow(package: str, *, deliberate: bool = False) -> Champion | None:
    """Let the champion's pointer follow the approval of a package; returns the recipe's champion as it is then.

    An approval that was acted on before moves nothing, unless it is given `deliberate`ly once more.

    Raises:
        NotOurs: this stack did not register the package.
    """
    for _ in range(_TRIES):
        described = aws.sagemaker().describe_model_package(ModelPackageName=package)
        plan = plan_of(described)
        recipe, arn, approval = plan.recipe_name, described["ModelPackageArn"], described["ModelApprovalStatus"]
        known = champions.acted_on(recipe, arn)
        pointer = champions.find_pointer(recipe)
        current = pointer.champion
        if approval == "PendingManualApproval" and "verdict" not in described.get("CustomerMetadataProperties", {}):
            # Nobody has decided yet. If this were noted behind the crown that Register Model gives, the approval that
            # it then says would be taken for a person's, whenever its event comes.
            return current
        reigns = current is not None and current.package == arn
        if known == approval and (reigns or not (deliberate and approval == "Approved")):
            return current
        if approval == "Approved" and not reigns:
            dataset = read_document(SealedDataset, dataset_key(plan.run_id))
            done = champions.crown(_candidate(plan, dataset, described), pointer, known)
        elif approval == "Rejected" and current is not None and reigns:
            done = champions.dethrone(current, pointer, known)
        else:
            done = champions.note(recipe, arn, plan.run_id, approval, known)
        if done:
            return champions.find_pointer(recipe).champion
    raise ChampionMoved(f"the champion kept changing while the approval of {package} was followed; it is tried again")


_RUN_ID = re.compile(r"[a-z0-9](-?[a-z0-9]){0,79}")


def plan_of(described: DescribeModelPackageOutputTypeDef) -> Plan:
    """The plan of the run that a package came from."""
    metadata = described.get("CustomerMetadataProperties", {})
    package, stack, run = described["ModelPackageArn"], setting("stack_name"), metadata.get("run", "")
    if metadata.get("stack") != stack or not _RUN_ID.fullmatch(run):
        raise NotOurs(f"model package {package} was not registered by stack {stack}")
    plan = read_document(Plan, plan_key(run))
    if described.get("ModelPackageGroupName") != package_group(stack, plan.recipe_name):
        raise NotOurs(f"model package {package} is not in the group of its run's recipe, {plan.recipe_name}")
    return plan
