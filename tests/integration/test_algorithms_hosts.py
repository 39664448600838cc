"""The algorithms on several instances: the shards are split, the model is one, the same as from all rows at once."""

import io
import json
import tarfile
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from dropmill import algorithms
from dropmill.data import recordio
from localaws.cloud import Cloud

BUCKET = "shards"
ROWS, WIDTH, PARTS = 240, 4, 3
_SMALL = {"feature_dim": str(WIDTH), "mini_batch_size": "50"}
HYPERPARAMETERS = {
    "kmeans": {"k": "3", "feature_dim": str(WIDTH)},
    "linear-learner": {**_SMALL, "predictor_type": "regressor", "epochs": "2", "num_models": "2"},
    "factorization-machines": {**_SMALL, "predictor_type": "regressor", "num_factors": "2"},
    "knn": {"predictor_type": "regressor", "feature_dim": str(WIDTH), "k": "3", "sample_size": "200"},
}


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    with Cloud() as cloud:
        s3 = cloud.client("s3")
        s3.create_bucket(Bucket=BUCKET)
        random = np.random.default_rng(5)
        labels = (np.arange(ROWS) % 3).astype(np.float32)
        features = (random.normal(size=(ROWS, WIDTH)) + 5 * labels[:, None]).astype(np.float32)
        # What the first of two instances gets, and then the second's: so lie the rows of the one model.
        order = [0, 2, 1]
        parts = np.array_split(np.arange(ROWS), PARTS)
        for number, rows in enumerate(parts):
            body = recordio.encode(features[rows], labels[rows])
            s3.put_object(Bucket=BUCKET, Key=f"parts/matrix_{number}.pbr", Body=body)
        manifest = [{"prefix": f"s3://{BUCKET}/parts/"}, *(f"matrix_{number}.pbr" for number in range(PARTS))]
        s3.put_object(Bucket=BUCKET, Key="parts/.amazon.manifest", Body=json.dumps(manifest))
        joined = np.concatenate([parts[number] for number in order])
        s3.put_object(Bucket=BUCKET, Key="whole/all.pbr", Body=recordio.encode(features[joined], labels[joined]))
        s3.put_object(Bucket=BUCKET, Key="bad/a.pbr", Body=recordio.encode(features, labels))
        s3.put_object(Bucket=BUCKET, Key="bad/b.pbr", Body=b"not recordIO at all")
        yield cloud


def train(cloud: Cloud, name: str, algorithm: str, instances: int, source: dict[str, str], **more: str) -> Any:
    sagemaker = cloud.client("sagemaker")
    sagemaker.create_training_job(
        TrainingJobName=name,
        AlgorithmSpecification={
            "TrainingImage": algorithms.image_uri(algorithm, "us-east-1"),
            "TrainingInputMode": "FastFile",
        },
        RoleArn="arn:aws:iam::123456789012:role/jobs",
        OutputDataConfig={"S3OutputPath": f"s3://{BUCKET}/models"},
        ResourceConfig={"InstanceType": "ml.m5.large", "InstanceCount": instances, "VolumeSizeInGB": 1},
        StoppingCondition={"MaxRuntimeInSeconds": 60},
        HyperParameters={**HYPERPARAMETERS[algorithm], **more},
        InputDataConfig=[{"ChannelName": "train", "DataSource": {"S3DataSource": source}}],
    )
    deadline = time.monotonic() + 60
    while (job := sagemaker.describe_training_job(TrainingJobName=name))["TrainingJobStatus"] == "InProgress":
        assert time.monotonic() < deadline
        time.sleep(0.05)  # as the SDK does
    return job


def completed(job: Any) -> Any:
    assert job["TrainingJobStatus"] == "Completed", job.get("FailureReason")
    return job


def manifest(distribution: str) -> dict[str, str]:
    uri = f"s3://{BUCKET}/parts/.amazon.manifest"
    return {"S3DataType": "ManifestFile", "S3Uri": uri, "S3DataDistributionType": distribution}


def prefix(folder: str, distribution: str = "FullyReplicated") -> dict[str, str]:
    uri = f"s3://{BUCKET}/{folder}/"
    return {"S3DataType": "S3Prefix", "S3Uri": uri, "S3DataDistributionType": distribution}


def model(cloud: Cloud, job: Any) -> dict[str, bytes]:
    key = completed(job)["ModelArtifacts"]["S3ModelArtifacts"].split("/", 3)[3]
    body = cloud.client("s3").get_object(Bucket=BUCKET, Key=key)["Body"].read()
    with tarfile.open(fileobj=io.BytesIO(body)) as archive:
        return {one.name: file.read() for one in archive if (file := archive.extractfile(one))}


@pytest.mark.parametrize("algorithm", HYPERPARAMETERS)
def test_two_instances_make_the_model_of_all_rows(cloud: Cloud, algorithm: str) -> None:
    single = train(cloud, f"{algorithm}-one", algorithm, 1, prefix("whole"))
    split = train(cloud, f"{algorithm}-two", algorithm, 2, manifest("ShardedByS3Key"))
    assert model(cloud, split) == model(cloud, single)
    copied = train(cloud, f"{algorithm}-copied", algorithm, 2, prefix("whole"))
    assert model(cloud, copied) == model(cloud, single)


def test_more_instances_than_objects_still_train(cloud: Cloud) -> None:
    completed(train(cloud, "idle", "kmeans", 4, manifest("ShardedByS3Key")))


def test_bad_rows_of_any_shard_fail_the_job(cloud: Cloud) -> None:
    job = train(cloud, "bad-shard", "kmeans", 2, prefix("bad", "ShardedByS3Key"))
    assert job["FailureReason"].startswith("ClientError: channel train, file b.pbr: Unable to parse record.")


def test_a_bad_hyperparameter_ends_all_hosts(cloud: Cloud) -> None:
    job = train(cloud, "bad-value", "kmeans", 2, manifest("ShardedByS3Key"), k="none")
    assert "ClientError: 'none' is not valid" in job["FailureReason"]
