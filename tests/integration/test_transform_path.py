"""Evaluation by batch transform, beside a champion, in rounds, and endpoints that are kept: whole workflows.

Each test asks SageMaker itself, not the ledger, what is there.
"""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

TRANSFORM_EVENT = "SageMaker Transform Job State Change"
RECIPES = {
    "binary": "algorithm: linear-learner\ndata: {positive: 2}\nhyperparameters: {epochs: 3, num_models: 2}\n",
    "classes": "algorithm: linear-learner\nhyperparameters: {epochs: 3, num_models: 2}\n",
    "regression": "algorithm: linear-learner\n"
    "hyperparameters: {predictor_type: regressor, epochs: 3, num_models: 2, mini_batch_size: 50}\n",
    "clusters": "algorithm: kmeans\n",
    "neighbours": "algorithm: knn\nhyperparameters: {k: 5}\n",
    "machines": "algorithm: factorization-machines\ndata: {positive: 2}\n"
    "hyperparameters: {num_factors: 4, epochs: 5, mini_batch_size: 50}\n",
}
TRANSFORMED = "evaluation: {with: transform}\n"


def rows(count: int, seed: int) -> bytes:
    """A labelled CSV of groups of points that overlap, so that no metric is perfect."""
    random = np.random.default_rng(seed)
    labels = random.permutation(np.arange(count) % 3)
    features = random.normal(size=(count, 4)) + 1.5 * labels[:, None]
    lines = [
        ",".join([*(f"{value:.4f}" for value in row), str(label)]) for row, label in zip(features, labels, strict=True)
    ]
    return "\n".join(["a,b,c,d,label", *lines, ""]).encode()


@pytest.fixture(autouse=True)
def leaves_nothing(stand: Any) -> Iterator[None]:
    yield
    stand.assert_nothing_left()


def succeeded(stand: Any, recipe: str, body: bytes | None = None, file: str | None = None) -> str:
    run: str = stand.run_of(stand.drop(recipe, body, file))
    assert stand.wait_for_end(run)["detail"]["status"] == "SUCCEEDED", stand.record(run)["cause"]
    return run


def document(stand: Any, run: str, name: str) -> dict[str, Any]:
    body = stand.client("s3").get_object(Bucket=stand.artifact_bucket, Key=f"runs/{run}/{name}.json")["Body"].read()
    return dict(json.loads(body))


def report(stand: Any, run: str) -> str:
    answer = stand.client("s3").get_object(Bucket=stand.artifact_bucket, Key=f"runs/{run}/report.html")
    text: str = answer["Body"].read().decode()
    return text


def leases(stand: Any, run: str) -> dict[str, dict[str, Any]]:
    return {lease["step"]: lease for lease in stand.record(run)["leases"]}


@pytest.mark.parametrize("kind", RECIPES)
def test_a_transform_finds_the_metrics_of_an_endpoint(stand: Any, kind: str) -> None:
    body = rows(600, seed=len(kind))
    stand.recipe(f"{kind}-asked", RECIPES[kind])
    stand.recipe(f"{kind}-transformed", RECIPES[kind] + TRANSFORMED)
    asked = succeeded(stand, f"{kind}-asked", body)
    with stand.cloud.hooks.before("sagemaker.CreateTransformJob", lambda call: None) as hook:
        transformed = succeeded(stand, f"{kind}-transformed", body)
    one, two = (document(stand, run, "metrics") for run in (asked, transformed))
    assert one == two
    assert one["rows"] > 30

    (call,) = hook.calls
    assert call.request["TransformInput"]["ContentType"] == "application/x-recordio-protobuf"
    assert call.request["TransformInput"]["SplitType"] == "RecordIO"
    assert call.request["TransformOutput"]["Accept"] == "application/jsonlines"
    assert call.request["TransformOutput"]["AssembleWith"] == "Line"
    held = leases(stand, transformed)
    assert {step: lease["state"] for step, lease in held.items()} == {
        "training": "closed",
        "transform": "closed",
        "model": "closed",
    }
    assert held["transform"]["billable_seconds"] >= 1
    assert call.request["TransformJobName"] in report(stand, transformed)
