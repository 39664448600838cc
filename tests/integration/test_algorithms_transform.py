"""Transform jobs with the algorithms themselves: what they answer in bulk, and what they refuse."""

import csv
import json
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from dropmill import algorithms
from dropmill.data import recordio
from localaws.cloud import Cloud

BUCKET = "bulk"
ROWS, WIDTH = 60, 4
ROLE = "arn:aws:iam::123456789012:role/jobs"
HYPERPARAMETERS = {
    "kmeans": {"k": "3", "feature_dim": str(WIDTH)},
    "linear-learner": {
        "predictor_type": "regressor",
        "feature_dim": str(WIDTH),
        "epochs": "2",
        "num_models": "2",
        "mini_batch_size": "20",
    },
}


def ended(describe: Any, status: str, **name: str) -> Any:
    deadline = time.monotonic() + 60
    while (job := describe(**name))[status] == "InProgress":
        assert time.monotonic() < deadline
        time.sleep(0.05)  # as the SDK does
    return job


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    with Cloud() as cloud:
        s3, sagemaker = cloud.client("s3"), cloud.client("sagemaker")
        s3.create_bucket(Bucket=BUCKET)
        random = np.random.default_rng(5)
        labels = (np.arange(ROWS) % 3).astype(np.float32)
        features = (random.normal(size=(ROWS, WIDTH)) + 5 * labels[:, None]).astype(np.float32)
        s3.put_object(Bucket=BUCKET, Key="train/a.pbr", Body=recordio.encode(features, labels))
        rows = "".join(f"row-{n}," + ",".join(f"{cell:.4f}" for cell in row) + "\n" for n, row in enumerate(features))
        s3.put_object(Bucket=BUCKET, Key="rows/a.csv", Body=rows.encode())
        s3.put_object(Bucket=BUCKET, Key="records/a.pbr", Body=recordio.encode(features))
        for algorithm, hyperparameters in HYPERPARAMETERS.items():
            image = algorithms.image_uri(algorithm, "us-east-1")
            source = {"S3DataType": "S3Prefix", "S3Uri": f"s3://{BUCKET}/train/"}
            sagemaker.create_training_job(
                TrainingJobName=algorithm,
                AlgorithmSpecification={"TrainingImage": image, "TrainingInputMode": "File"},
                RoleArn=ROLE,
                OutputDataConfig={"S3OutputPath": f"s3://{BUCKET}/models"},
                ResourceConfig={"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1},
                StoppingCondition={"MaxRuntimeInSeconds": 60},
                HyperParameters=hyperparameters,
                InputDataConfig=[{"ChannelName": "train", "DataSource": {"S3DataSource": source}}],
            )
        for algorithm in HYPERPARAMETERS:
            job = ended(sagemaker.describe_training_job, "TrainingJobStatus", TrainingJobName=algorithm)
            sagemaker.create_model(
                ModelName=algorithm,
                ExecutionRoleArn=ROLE,
                PrimaryContainer={
                    "Image": job["AlgorithmSpecification"]["TrainingImage"],
                    "ModelDataUrl": job["ModelArtifacts"]["S3ModelArtifacts"],
                },
            )
        yield cloud


def transform(
    cloud: Cloud, name: str, model: str, folder: str, content_type: str, accept: str, split: str, **more: Any
) -> Any:
    sagemaker = cloud.client("sagemaker")
    source = {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"s3://{BUCKET}/{folder}/"}}
    sagemaker.create_transform_job(
        TransformJobName=name,
        ModelName=model,
        TransformInput={"DataSource": source, "ContentType": content_type, "SplitType": split},
        TransformOutput={
            "S3OutputPath": f"s3://{BUCKET}/out/{name}",
            "Accept": accept,
            "AssembleWith": "Line",
        },
        TransformResources={"InstanceType": "ml.m5.large", "InstanceCount": 1},
        **more,
    )
    return ended(sagemaker.describe_transform_job, "TransformJobStatus", TransformJobName=name)


def lines(cloud: Cloud, key: str) -> list[str]:
    body: bytes = cloud.client("s3").get_object(Bucket=BUCKET, Key=f"out/{key}.out")["Body"].read()
    return body.decode().splitlines()


def test_clusters_stand_beside_their_rows(cloud: Cloud) -> None:
    processing = {"InputFilter": "$[1:]", "JoinSource": "Input", "OutputFilter": "$[0,-2:]"}
    job = transform(cloud, "joined", "kmeans", "rows", "text/csv", "text/csv", "Line", DataProcessing=processing)
    assert job["TransformJobStatus"] == "Completed", job.get("FailureReason")
    rows = list(csv.reader(lines(cloud, "joined/a.csv")))
    assert [row[0] for row in rows] == [f"row-{number}" for number in range(ROWS)]
    clusters = [row[1] for row in rows]
    assert len(set(clusters)) == 3
    assert all(clusters[number] == clusters[number % 3] for number in range(ROWS))


@pytest.mark.parametrize("strategy", ["SingleRecord", "MultiRecord"])
def test_predictions_come_in_order(cloud: Cloud, strategy: str) -> None:
    job = transform(
        cloud,
        strategy,
        "linear-learner",
        "records",
        "application/x-recordio-protobuf",
        "application/jsonlines",
        "RecordIO",
        BatchStrategy=strategy,
    )
    assert job["TransformJobStatus"] == "Completed", job.get("FailureReason")
    scores = [json.loads(line)["score"] for line in lines(cloud, f"{strategy}/a.pbr")]
    assert len(scores) == ROWS
    assert np.corrcoef(scores, np.arange(ROWS) % 3)[0, 1] > 0.8


def test_linear_learner_answers_no_csv(cloud: Cloud) -> None:
    processing = {"InputFilter": "$[1:]"}
    job = transform(
        cloud, "no-csv", "linear-learner", "rows", "text/csv", "text/csv", "Line", DataProcessing=processing
    )
    assert job["TransformJobStatus"] == "Failed"
    assert job["FailureReason"].startswith(
        f"ClientError: s3://{BUCKET}/rows/a.csv: Bad HTTP status received from algorithm: 4"
    )
    assert "text/csv" in job["FailureReason"]
