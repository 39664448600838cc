"""Training on several instances, with a stand-in for the algorithm; and what training tells CloudWatch."""

import datetime
import io
import json
import tarfile
import time
from typing import Any

import pytest
from botocore.exceptions import ClientError

GROUP = "/aws/sagemaker/TrainingJobs"


def train(jobs: Any, name: str, instances: int, *channels: tuple[str, str], **hyperparameters: str) -> None:
    described = [
        {
            "ChannelName": folder,
            "DataSource": {
                "S3DataSource": {
                    "S3DataType": "S3Prefix",
                    "S3Uri": f"s3://{jobs.BUCKET}/{name}/{folder}/",
                    "S3DataDistributionType": distribution,
                }
            },
        }
        for folder, distribution in channels
    ]
    jobs.api.create_training_job(
        TrainingJobName=name,
        AlgorithmSpecification={"TrainingImage": jobs.IMAGE, "TrainingInputMode": "File"},
        RoleArn=jobs.ROLE,
        OutputDataConfig={"S3OutputPath": f"s3://{jobs.BUCKET}/models"},
        ResourceConfig={"InstanceType": "ml.m5.large", "InstanceCount": instances, "VolumeSizeInGB": 1},
        StoppingCondition={"MaxRuntimeInSeconds": 60},
        HyperParameters=hyperparameters,
        **({"InputDataConfig": described} if described else {}),
    )


def files(lines: dict[str, list[str]]) -> list[dict[str, str]]:
    """The files that each host saw, by the hosts' names."""
    return [
        json.loads(line.removeprefix("files "))
        for _, stream in sorted(lines.items())
        for line in stream
        if line.startswith("files ")
    ]


def test_objects_are_split_and_the_rest_is_copied(jobs: Any) -> None:
    for number in range(3):
        jobs.put(f"split/train/{number}", b"%d" % number)
    jobs.put("split/test/all", b"whole")
    train(jobs, "split", 2, ("train", "ShardedByS3Key"), ("test", "FullyReplicated"), behave="tell")
    assert jobs.wait_for_status("split") == "Completed"
    lines = jobs.lines(GROUP, "split/")
    assert sorted(stream.rsplit("-", 1)[0] for stream in lines) == ["split/algo-1", "split/algo-2"]
    assert files(lines) == [
        {"train/0": "0", "train/2": "2", "test/all": "whole"},
        {"train/1": "1", "test/all": "whole"},
    ]
    job = jobs.api.describe_training_job(TrainingJobName="split")
    key = job["ModelArtifacts"]["S3ModelArtifacts"].split("/", 3)[3]
    body = jobs.s3.get_object(Bucket=jobs.BUCKET, Key=key)["Body"].read()
    with tarfile.open(fileobj=io.BytesIO(body)) as archive:
        model = archive.extractfile("model_algo-1")
        assert model is not None
        seen = json.load(model)
    assert seen["hosts"] == {
        "current_host": "algo-1",
        "hosts": ["algo-1", "algo-2"],
        "network_interface_name": "lo",
    }


def test_more_instances_than_objects_leave_some_without(jobs: Any) -> None:
    jobs.put("few/train/only", b"1")
    train(jobs, "few", 3, ("train", "ShardedByS3Key"), behave="tell")
    assert jobs.wait_for_status("few") == "Completed"
    assert files(jobs.lines(GROUP, "few/")) == [{"train/only": "1"}, {}, {}]


def test_one_failing_host_fails_the_job(jobs: Any) -> None:
    train(jobs, "lame", 3, behave="second-host-fails")
    assert jobs.wait_for_status("lame") == "Failed"
    job = jobs.api.describe_training_job(TrainingJobName="lame")
    assert job["FailureReason"] == "ClientError: the second host met bad rows"


def test_a_stop_reaches_every_host(jobs: Any) -> None:
    train(jobs, "halted", 3, behave="hang")
    jobs.wait_for(
        lambda event: event["resources"][0].endswith("/halted") and event["detail"]["SecondaryStatus"] == "Training"
    )
    started = time.monotonic()
    jobs.api.stop_training_job(TrainingJobName="halted")
    assert jobs.wait_for_status("halted") == "Stopped"
    assert time.monotonic() - started < 2


def test_too_many_instances_are_refused(jobs: Any) -> None:
    with pytest.raises(ClientError, match="1 to 20 instances, not 21") as caught:
        train(jobs, "crowd", 21)
    assert caught.value.response["Error"]["Code"] == "ResourceLimitExceeded"


def test_metrics_reach_cloudwatch(jobs: Any) -> None:
    train(jobs, "measured", 1, behave="judge", x="0.3")
    assert jobs.wait_for_status("measured") == "Completed"
    moment = datetime.datetime.now(datetime.UTC)
    (point,) = jobs.cloud.client("cloudwatch").get_metric_statistics(
        Namespace=GROUP,
        MetricName="test:msd",
        Dimensions=[{"Name": "TrainingJobName", "Value": "measured"}],
        StartTime=moment - datetime.timedelta(hours=1),
        EndTime=moment + datetime.timedelta(hours=1),
        Period=7200,
        Statistics=["Maximum", "Minimum", "SampleCount"],
    )["Datapoints"]
    assert (point["SampleCount"], point["Maximum"]) == (3, 1)
    assert point["Minimum"] == pytest.approx(1 / 3)


def test_a_key_for_a_volume_that_there_is_none_of_is_refused(jobs: Any) -> None:
    key = "arn:aws:kms:us-east-1:123456789012:key/0"
    said = "when using an instance type with local storage: ml.g4dn.xlarge"
    jobs.api.create_model(
        ModelName="keyed",
        ExecutionRoleArn=jobs.ROLE,
        PrimaryContainer={"Image": jobs.IMAGE, "ModelDataUrl": f"s3://{jobs.BUCKET}/m.tar.gz"},
    )
    with pytest.raises(ClientError, match=said):
        jobs.api.create_training_job(
            TrainingJobName="keyed",
            AlgorithmSpecification={"TrainingImage": jobs.IMAGE, "TrainingInputMode": "File"},
            RoleArn=jobs.ROLE,
            OutputDataConfig={"S3OutputPath": f"s3://{jobs.BUCKET}/models", "KmsKeyId": key},
            ResourceConfig={
                "InstanceType": "ml.g4dn.xlarge",
                "InstanceCount": 1,
                "VolumeSizeInGB": 1,
                "VolumeKmsKeyId": key,
            },
            StoppingCondition={"MaxRuntimeInSeconds": 60},
        )
    with pytest.raises(ClientError, match=said):
        jobs.api.create_transform_job(
            TransformJobName="keyed",
            ModelName="keyed",
            TransformInput={"DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": "s3://b/p"}}},
            TransformOutput={"S3OutputPath": f"s3://{jobs.BUCKET}/out"},
            TransformResources={"InstanceType": "ml.g4dn.xlarge", "InstanceCount": 1, "VolumeKmsKeyId": key},
        )
    variant = {"VariantName": "a", "ModelName": "keyed", "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
    jobs.api.create_endpoint_config(EndpointConfigName="keyed", ProductionVariants=[variant], KmsKeyId=key)
    with pytest.raises(ClientError, match=said):
        jobs.api.create_endpoint_config(
            EndpointConfigName="keyed-2",
            ProductionVariants=[variant, variant | {"VariantName": "b", "InstanceType": "ml.g4dn.xlarge"}],
            KmsKeyId=key,
        )
