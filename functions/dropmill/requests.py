"""From a plan to SageMaker's requests: everything a create call is told, in one place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from dropmill import algorithms
from dropmill.algorithms.predictions import JSON_LINES, RECORDIO
from dropmill.contracts import Part, Plan, SealedDataset
from dropmill.instances import has_local_storage
from dropmill.naming import RUN_TAG, STACK_TAG, model_prefix, part_prefix
from dropmill.recipe import TuningOptions
from dropmill.settings import optional_setting, setting
from dropmill.storage import artifact_uri

if TYPE_CHECKING:
    from mypy_boto3_sagemaker.type_defs import (
        ChannelTypeDef,
        CreateEndpointConfigInputTypeDef,
        CreateEndpointInputTypeDef,
        CreateHyperParameterTuningJobRequestTypeDef,
        CreateModelInputTypeDef,
        CreateTrainingJobRequestTypeDef,
        CreateTransformJobRequestTypeDef,
        ParameterRangesTypeDef,
        ResourceLimitsTypeDef,
        TagTypeDef,
    )

VARIANT = "AllTraffic"
CHAMPION_VARIANT = "Champion"

_MEGABYTE = 1024**2
_PAYLOAD_MB_MAX = 6
_PAYLOAD_MB_EVER = 100
_ANSWER_BYTES_MAX = 100 * _MEGABYTE
_ANSWER_BYTES = 80
_NUMBER_BYTES = 26
"""What the rest of an answer, and a number in it, take in JSON at most."""


def tags(run_id: str) -> list[TagTypeDef]:
    return [{"Key": STACK_TAG, "Value": setting("stack_name")}, {"Key": RUN_TAG, "Value": run_id}]


def _key(member: str) -> dict[str, str]:
    """The stack's KMS key as a member of a request; nothing where it has none."""
    key = optional_setting("kms_key_arn")
    return {member: key} if key else {}


def _volume_key(member: str, *instance_types: str) -> dict[str, str]:
    """The key of the volumes of instances; those that have disks of their own have no volume to encrypt."""
    return {} if any(has_local_storage(one) for one in instance_types) else _key(member)


def _network() -> dict[str, Any]:
    """How jobs and models are cut off: in the stack's VPC if it names one, and without a way out if it says so.

    The built-in algorithms need none: SageMaker fetches rows and models for them, and stores what they make.
    """
    network: dict[str, Any] = {"EnableNetworkIsolation": optional_setting("network_isolation") == "true"}
    if subnets := optional_setting("subnet_ids"):
        groups = optional_setting("security_group_ids")
        network["VpcConfig"] = {"Subnets": subnets.split(","), "SecurityGroupIds": groups.split(",")}
    return network


def training_request(plan: Plan, dataset: SealedDataset, name: str) -> CreateTrainingJobRequestTypeDef:
    request: Any = {
        "TrainingJobName": name,
        "HyperParameters": dataset.hyperparameters,
        **_job(plan, dataset),
        "Tags": tags(plan.run_id),
    }
    return cast("CreateTrainingJobRequestTypeDef", request)


def tuning_request(
    plan: Plan, tuning: TuningOptions, dataset: SealedDataset, name: str
) -> CreateHyperParameterTuningJobRequestTypeDef:
    """The tags reach the training jobs too, as SageMaker passes a tuning job's on."""
    (metric,) = (metric for metric in algorithms.get(plan.recipe.algorithm).metrics if metric.name == tuning.objective)
    limits: ResourceLimitsTypeDef = {
        "MaxParallelTrainingJobs": tuning.max_parallel_jobs,
        "MaxRuntimeInSeconds": tuning.max_runtime,
    }
    # A Grid search takes as many jobs as it has combinations, and no other number.
    if tuning.strategy != "Grid":
        limits["MaxNumberOfTrainingJobs"] = tuning.max_jobs
    return {
        "HyperParameterTuningJobName": name,
        "HyperParameterTuningJobConfig": {
            "Strategy": tuning.strategy,
            "HyperParameterTuningJobObjective": {"Type": cast(Any, metric.goal), "MetricName": metric.name},
            "ResourceLimits": limits,
            "ParameterRanges": _ranges(tuning),
            "TrainingJobEarlyStoppingType": "Auto" if tuning.early_stopping else "Off",
            "RandomSeed": plan.recipe.data.split.seed,
        },
        "TrainingJobDefinition": cast(Any, {"StaticHyperParameters": dataset.hyperparameters, **_job(plan, dataset)}),
        "Tags": tags(plan.run_id),
    }


def _ranges(tuning: TuningOptions) -> ParameterRangesTypeDef:
    def bounded(kind: str) -> list[Any]:
        return [
            {"Name": name, "MinValue": bounds[0], "MaxValue": bounds[1], "ScalingType": entry.scale}
            for name, entry in tuning.ranges.items()
            if (bounds := getattr(entry, kind)) is not None
        ]

    return {
        "ContinuousParameterRanges": bounded("continuous"),
        "IntegerParameterRanges": bounded("integer"),
        "CategoricalParameterRanges": [
            {"Name": name, "Values": entry.categorical}
            for name, entry in tuning.ranges.items()
            if entry.categorical is not None
        ],
    }


def _job(plan: Plan, dataset: SealedDataset) -> Any:
    """What a training job and each job of a search are told alike.

    The train part, and the validation part in the channel that the algorithm judges by. The test part is never named:
    what is held out reaches no job.
    """
    training = plan.recipe.training
    algorithm = algorithms.get(plan.recipe.algorithm)
    channels = [_channel(plan, "train", Part.TRAIN)]
    if dataset.parts[Part.VALIDATION].rows:
        channels.append(_channel(plan, algorithm.validation_channel, Part.VALIDATION))
    return {
        "AlgorithmSpecification": {
            "TrainingImage": algorithm.image_uri(setting("aws_region")),
            "TrainingInputMode": training.input_mode,
        },
        "RoleArn": setting("job_role_arn"),
        "InputDataConfig": channels,
        "OutputDataConfig": {
            "S3OutputPath": artifact_uri(model_prefix(plan.recipe_name, plan.run_id)),
            **_key("KmsKeyId"),
        },
        "ResourceConfig": {
            "InstanceType": training.instance_type,
            "InstanceCount": training.instance_count,
            "VolumeSizeInGB": training.volume_gb,
            **_volume_key("VolumeKmsKeyId", training.instance_type),
        },
        "StoppingCondition": {"MaxRuntimeInSeconds": training.max_runtime},
        **_network(),
        # What several instances tell each other follows from the rows.
        "EnableInterContainerTrafficEncryption": training.instance_count > 1,
    }


def _channel(plan: Plan, channel: str, part: Part) -> ChannelTypeDef:
    request: ChannelTypeDef = {
        "ChannelName": channel,
        "ContentType": RECORDIO,
        "DataSource": {
            "S3DataSource": {
                "S3DataType": "S3Prefix",
                "S3Uri": artifact_uri(part_prefix(plan.run_id, part)),
                "S3DataDistributionType": "FullyReplicated",
            }
        },
    }
    if part is Part.TRAIN:
        if plan.recipe.training.instance_count > 1:
            # Each instance gets its own files; there are at least as many of them.
            request["DataSource"]["S3DataSource"]["S3DataDistributionType"] = "ShardedByS3Key"
        request["ShuffleConfig"] = {"Seed": plan.recipe.data.split.seed}
    return request


def model_request(run_id: str, algorithm: str, artifact: str, name: str) -> CreateModelInputTypeDef:
    request: Any = {
        "ModelName": name,
        "PrimaryContainer": {
            "Image": algorithms.image_uri(algorithm, setting("aws_region")),
            "ModelDataUrl": artifact,
        },
        "ExecutionRoleArn": setting("job_role_arn"),
        **_network(),
        "Tags": tags(run_id),
    }
    return cast("CreateModelInputTypeDef", request)


def endpoint_config_request(
    plan: Plan, model: str, name: str, *, champion: str | None = None
) -> CreateEndpointConfigInputTypeDef:
    """The champion's model is asked by its variant's name only: with a weight of 0 it gets no other traffic."""
    evaluation = plan.recipe.evaluation
    variants: list[Any] = [(VARIANT, model, 1.0)]
    if champion is not None:
        variants.append((CHAMPION_VARIANT, champion, 0.0))
    request: Any = {
        "EndpointConfigName": name,
        "ProductionVariants": [
            {
                "VariantName": variant,
                "ModelName": served,
                "InstanceType": evaluation.instance_type,
                "InitialInstanceCount": evaluation.instance_count,
                "InitialVariantWeight": weight,
            }
            for variant, served, weight in variants
        ],
        **_volume_key("KmsKeyId", evaluation.instance_type),
        "Tags": tags(plan.run_id),
    }
    return cast("CreateEndpointConfigInputTypeDef", request)


def transform_request(
    name: str,
    run_id: str,
    model: str,
    algorithm: str,
    *,
    manifest: str | None = None,
    prefix: str = "",
    output: str,
    instance_type: str,
    instance_count: int,
    row_bytes: int,
    numbers: int,
) -> CreateTransformJobRequestTypeDef:
    """A transform of recordIO rows, whose answers come one on each line, in their order.

    The rows lie under the address `prefix`, or in what the `manifest` lists. A row has about `row_bytes`, and an answer
    up to about as many `numbers`.
    """
    table = algorithms.get(algorithm)
    if RECORDIO not in table.request_content_types or JSON_LINES not in table.response_content_types:
        raise ValueError(f"{algorithm} does not answer {RECORDIO} in {JSON_LINES}")
    answered = (_ANSWER_BYTES + _NUMBER_BYTES * numbers) * max(1, _MEGABYTE // max(row_bytes, 1))
    payload = max(1, min(_PAYLOAD_MB_MAX, _ANSWER_BYTES_MAX // answered), -(-row_bytes // _MEGABYTE))
    request: Any = {
        "TransformJobName": name,
        "ModelName": model,
        # Rows go in twos and more only where their answers are no larger than a container may be trusted with.
        "BatchStrategy": "MultiRecord" if answered <= _ANSWER_BYTES_MAX else "SingleRecord",
        "MaxPayloadInMB": min(payload, _PAYLOAD_MB_EVER),
        "TransformInput": {
            "DataSource": {
                "S3DataSource": {
                    "S3DataType": "S3Prefix" if manifest is None else "ManifestFile",
                    "S3Uri": prefix if manifest is None else manifest,
                }
            },
            "ContentType": RECORDIO,
            "SplitType": "RecordIO",
        },
        "TransformOutput": {
            "S3OutputPath": output,
            "Accept": JSON_LINES,
            "AssembleWith": "Line",
            **_key("KmsKeyId"),
        },
        "TransformResources": {
            "InstanceType": instance_type,
            "InstanceCount": instance_count,
            **_volume_key("VolumeKmsKeyId", instance_type),
        },
        "Tags": tags(run_id),
    }
    return cast("CreateTransformJobRequestTypeDef", request)


def endpoint_request(plan: Plan, config: str, name: str) -> CreateEndpointInputTypeDef:
    return {"EndpointName": name, "EndpointConfigName": config, "Tags": tags(plan.run_id)}
