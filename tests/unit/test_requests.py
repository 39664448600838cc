"""What SageMaker is asked for, where it depends on the data."""

import json
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from botocore.validate import ParamValidator

from dropmill import algorithms, settings
from dropmill.contracts import Part, SealedDataset, SealedPart
from dropmill.recipe import Recipe
from dropmill.requests import endpoint_config_request, model_request, training_request, transform_request

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


# What the stack's parameters say

KEY = "arn:aws:kms:eu-west-1:123456789012:key/0"
PARAMETERS = {
    "KMS_KEY_ARN": KEY,
    "SUBNET_IDS": "subnet-01234567,subnet-12345678",
    "SECURITY_GROUP_IDS": "sg-01234567",
    "NETWORK_ISOLATION": "true",
    "JOB_ROLE_ARN": "arn:aws:iam::123456789012:role/jobs-of-the-stack",
    "ARTIFACT_BUCKET": "artifacts",
}


@pytest.fixture
def parameters(stack: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in PARAMETERS.items():
        monkeypatch.setenv(name, value)
    settings.settings.cache_clear()


def job(instance_type: str = "ml.m5.xlarge", instance_count: int = 1) -> dict[str, Any]:
    training = {"instance_type": instance_type, "instance_count": str(instance_count)}
    recipe = Recipe.model_validate({"algorithm": "knn", "training": training})
    plan: Any = SimpleNamespace(run_id="digits-1", recipe_name="digits", recipe=recipe)
    part = SealedPart(rows=1, size=1, files=[])
    dataset = SealedDataset(feature_dim=1, rows=2, parts=dict.fromkeys(Part, part), hyperparameters={"k": "1"})
    request = dict(training_request(plan, dataset, "digits-train-1"))
    assert problems("CreateTrainingJob", request) == ""
    return request


@pytest.mark.usefixtures("parameters")
def test_jobs_and_models_are_in_the_stacks_network() -> None:
    network = {"Subnets": ["subnet-01234567", "subnet-12345678"], "SecurityGroupIds": ["sg-01234567"]}
    model = dict(model_request("digits-1", "knn", "s3://artifacts/model.tar.gz", "digits-model-1"))
    assert problems("CreateModel", model) == ""
    for request in (job(), model):
        assert (request["VpcConfig"], request["EnableNetworkIsolation"]) == (network, True)


@pytest.mark.usefixtures("parameters")
def test_what_is_stored_is_under_the_stacks_key() -> None:
    request = job()
    assert (request["OutputDataConfig"]["KmsKeyId"], request["ResourceConfig"]["VolumeKmsKeyId"]) == (KEY, KEY)
    transformed = transform()
    assert problems("CreateTransformJob", transformed) == ""
    assert transformed["TransformOutput"]["KmsKeyId"] == transformed["TransformResources"]["VolumeKmsKeyId"] == KEY
    plan: Any = SimpleNamespace(run_id="digits-1", recipe=Recipe(algorithm="knn"))
    assert endpoint_config_request(plan, "own", "config")["KmsKeyId"] == KEY


@pytest.mark.usefixtures("parameters")
def test_instances_with_disks_of_their_own_have_no_volume_to_encrypt() -> None:
    request = job("ml.g5.xlarge")
    assert request["OutputDataConfig"]["KmsKeyId"] == KEY
    assert "VolumeKmsKeyId" not in request["ResourceConfig"]
    evaluation = {"instance_type": "ml.m5d.large"}
    recipe = Recipe.model_validate({"algorithm": "knn", "evaluation": evaluation})
    plan: Any = SimpleNamespace(run_id="digits-1", recipe=recipe)
    assert "KmsKeyId" not in endpoint_config_request(plan, "own", "config")


@pytest.mark.usefixtures("parameters")
def test_what_instances_tell_each_other_is_encrypted() -> None:
    assert [job(instance_count=count)["EnableInterContainerTrafficEncryption"] for count in (1, 2)] == [False, True]


def test_a_stack_without_network_and_key_asks_for_neither(parameters: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KMS_KEY_ARN", "SUBNET_IDS", "SECURITY_GROUP_IDS"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("NETWORK_ISOLATION", "false")
    settings.settings.cache_clear()
    text = json.dumps([job(), transform(), model_request("r", "knn", "s3://artifacts/m", "m")])
    assert "Kms" not in text
    assert "VpcConfig" not in text
    assert job()["EnableNetworkIsolation"] is False
