"""From a plan to SageMaker's requests: everything a create call is told, in one place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from dropmill import algorithms
from dropmill.contracts import Part, Plan, SealedDataset
from dropmill.naming import RUN_TAG, STACK_TAG, model_prefix, part_prefix
from dropmill.settings import setting
from dropmill.storage import artifact_uri

if TYPE_CHECKING:
    from mypy_boto3_sagemaker.type_defs import (
        ChannelTypeDef,
        CreateEndpointConfigInputTypeDef,
        CreateEndpointInputTypeDef,
        CreateModelInputTypeDef,
        CreateTrainingJobRequestTypeDef,
        TagTypeDef,
    )

RECORDIO = "application/x-recordio-protobuf"
VARIANT = "AllTraffic"


def tags(run_id: str) -> list[TagTypeDef]:
    return [{"Key": STACK_TAG, "Value": setting("stack_name")}, {"Key": RUN_TAG, "Value": run_id}]


def training_request(plan: Plan, dataset: SealedDataset, name: str) -> CreateTrainingJobRequestTypeDef:
    """The training job: the train part, and the validation part in the channel that the algorithm judges by.

    The test part is never named: what is held out reaches no job.
    """
    training = plan.recipe.training
    algorithm = algorithms.get(plan.recipe.algorithm)
    channels = [_channel(plan, "train", Part.TRAIN)]
    if dataset.parts[Part.VALIDATION].rows:
        channels.append(_channel(plan, algorithm.validation_channel, Part.VALIDATION))
    return {
        "TrainingJobName": name,
        "AlgorithmSpecification": {
            "TrainingImage": algorithm.image_uri(setting("aws_region")),
            "TrainingInputMode": training.input_mode,
        },
        "RoleArn": setting("job_role_arn"),
        "HyperParameters": dataset.hyperparameters,
        "InputDataConfig": channels,
        "OutputDataConfig": {"S3OutputPath": artifact_uri(model_prefix(plan.recipe_name, plan.run_id))},
        "ResourceConfig": {
            "InstanceType": cast(Any, training.instance_type),  # any type that SageMaker knows, also a newer one
            "InstanceCount": training.instance_count,
            "VolumeSizeInGB": training.volume_gb,
        },
        "StoppingCondition": {"MaxRuntimeInSeconds": training.max_runtime},
        "Tags": tags(plan.run_id),
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
        request["ShuffleConfig"] = {"Seed": plan.recipe.data.split.seed}
    return request


def model_request(plan: Plan, artifact: str, name: str) -> CreateModelInputTypeDef:
    return {
        "ModelName": name,
        "PrimaryContainer": {
            "Image": algorithms.image_uri(plan.recipe.algorithm, setting("aws_region")),
            "ModelDataUrl": artifact,
        },
        "ExecutionRoleArn": setting("job_role_arn"),
        "Tags": tags(plan.run_id),
    }


def endpoint_config_request(plan: Plan, model: str, name: str) -> CreateEndpointConfigInputTypeDef:
    evaluation = plan.recipe.evaluation
    return {
        "EndpointConfigName": name,
        "ProductionVariants": [
            {
                "VariantName": VARIANT,
                "ModelName": model,
                "InstanceType": cast(Any, evaluation.instance_type),
                "InitialInstanceCount": evaluation.instance_count,
            }
        ],
        "Tags": tags(plan.run_id),
    }


def endpoint_request(plan: Plan, config: str, name: str) -> CreateEndpointInputTypeDef:
    return {"EndpointName": name, "EndpointConfigName": config, "Tags": tags(plan.run_id)}
