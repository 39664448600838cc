"""What SageMaker is asked for, where it depends on the data."""

from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from botocore.validate import ParamValidator

from dropmill import algorithms, settings
from dropmill.recipe import Recipe
from dropmill.requests import endpoint_config_request, transform_request

MEGABYTE = 1024**2


@pytest.fixture(autouse=True)
def stack(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("STACK_NAME", "a-stack")
    settings.settings.cache_clear()
    yield
    settings.settings.cache_clear()


def transform(algorithm: str = "linear-learner", row_bytes: int = 100, numbers: int = 2, **more: Any) -> dict[str, Any]:
    where = {"prefix": "s3://b/work/r/test/"} if "manifest" not in more else {}
    request = transform_request(
        "digits-xform-1",
        "digits-1",
        "digits-model-1",
        algorithm,
        output="s3://b/work/r/transform",
        instance_type="ml.m5.large",
        instance_count=2,
        row_bytes=row_bytes,
        numbers=numbers,
        **where,
        **more,
    )
    return dict(request)


def problems(operation: str, request: dict[str, Any]) -> str:
    client = boto3.client("sagemaker", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
    shape = client.meta.service_model.operation_model(operation).input_shape
    return str(ParamValidator().validate(request, shape).generate_report())


@pytest.mark.parametrize("algorithm", algorithms.ALGORITHMS)
def test_every_algorithm_transforms_records_into_lines(algorithm: str) -> None:
    request = transform(algorithm)
    assert problems("CreateTransformJob", request) == ""
    table = algorithms.get(algorithm)
    assert request["TransformInput"]["ContentType"] in table.request_content_types
    assert request["TransformOutput"]["Accept"] in table.response_content_types
    assert request["TransformInput"]["SplitType"] == "RecordIO"
    assert request["TransformOutput"]["AssembleWith"] == "Line"
    assert request["TransformResources"] == {"InstanceType": "ml.m5.large", "InstanceCount": 2}
    assert {"Key": "dropmill:stack", "Value": "a-stack"} in request["Tags"]
    assert {"Key": "dropmill:run", "Value": "digits-1"} in request["Tags"]


def test_rows_are_those_of_a_prefix_or_of_a_manifest() -> None:
    def source(request: dict[str, Any]) -> Any:
        return request["TransformInput"]["DataSource"]["S3DataSource"]

    assert source(transform()) == {"S3DataType": "S3Prefix", "S3Uri": "s3://b/work/r/test/"}
    listed = transform(manifest="s3://b/work/r/rows.manifest")
    assert source(listed) == {"S3DataType": "ManifestFile", "S3Uri": "s3://b/work/r/rows.manifest"}


@pytest.mark.parametrize(
    ("row_bytes", "numbers", "strategy", "payload"),
    [
        (3200, 2, "MultiRecord", 6),
        (40, 2, "MultiRecord", 6),
        (40, 40, "MultiRecord", 3),  # 26,214 rows to the megabyte, of 1,120 bytes of answer each
        (40, 1000, "SingleRecord", 1),
        (9 * MEGABYTE, 2, "MultiRecord", 9),
        (200 * MEGABYTE, 2, "MultiRecord", 100),
    ],
)
def test_requests_and_answers_are_bounded(row_bytes: int, numbers: int, strategy: str, payload: int) -> None:
    request = transform(row_bytes=row_bytes, numbers=numbers)
    assert (request["BatchStrategy"], request["MaxPayloadInMB"]) == (strategy, payload)


def test_a_champion_gets_a_variant_but_no_other_traffic() -> None:
    plan: Any = SimpleNamespace(run_id="digits-1", recipe=Recipe(algorithm="knn"))
    request = dict(endpoint_config_request(plan, "own", "config", champion="other"))
    assert problems("CreateEndpointConfig", request) == ""
    variants = {
        one["VariantName"]: (one["ModelName"], one["InitialVariantWeight"]) for one in request["ProductionVariants"]
    }
    assert variants == {"AllTraffic": ("own", 1.0), "Champion": ("other", 0.0)}
    (alone,) = endpoint_config_request(plan, "own", "config")["ProductionVariants"]
    assert alone["VariantName"] == "AllTraffic"
