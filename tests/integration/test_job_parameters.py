"""A stack with a network, a key and limits of its own: what its jobs and endpoints are told, and what is refused."""

import contextlib
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

KEY = "arn:aws:kms:us-east-1:123456789012:key/01234567-89ab-cdef-0123-456789abcdef"
SUBNETS = ["subnet-0123456789abcdef0", "subnet-0123456789abcdef1"]
GROUPS = ["sg-0123456789abcdef0"]
PARAMETERS = {
    "KmsKeyArn": KEY,
    "SubnetIds": ",".join(SUBNETS),
    "SecurityGroupIds": ",".join(GROUPS),
    "NetworkIsolation": "true",
    "TrainingInstanceType": "ml.c5.xlarge",
    "EvaluationInstanceType": "ml.m5d.large",
    "ScoringInstanceType": "ml.c5.large",
    "MaxInstanceHours": "6",
}
NETWORK = {"Subnets": SUBNETS, "SecurityGroupIds": GROUPS}


@pytest.fixture(autouse=True)
def leaves_nothing(stand: Any) -> Iterator[None]:
    yield
    stand.assert_nothing_left()


@contextlib.contextmanager
def told(stand: Any, *operations: str) -> Iterator[dict[str, dict[str, Any]]]:
    """The last request of each of SageMaker's operations."""
    requests: dict[str, dict[str, Any]] = {}
    with contextlib.ExitStack() as hooks:
        seen = {
            operation: hooks.enter_context(stand.cloud.hooks.before(f"sagemaker.{operation}", lambda call: None))
            for operation in operations
        }
        yield requests
        requests |= {operation: hook.calls[-1].request for operation, hook in seen.items() if hook.calls}


def test_a_run_is_in_the_stacks_network_under_its_key_on_its_instances(stand: Any) -> None:
    with told(stand, "CreateTrainingJob", "CreateModel", "CreateEndpointConfig") as requests:
        run = stand.run_of(stand.drop())
        assert stand.wait_for_end(run)["detail"]["status"] == "SUCCEEDED"
    job = requests["CreateTrainingJob"]
    assert (job["VpcConfig"], job["EnableNetworkIsolation"]) == (NETWORK, True)
    assert job["ResourceConfig"]["InstanceType"] == "ml.c5.xlarge"
    assert job["ResourceConfig"]["VolumeKmsKeyId"] == KEY
    assert job["OutputDataConfig"]["KmsKeyId"] == KEY
    assert job["EnableInterContainerTrafficEncryption"] is False
    model = requests["CreateModel"]
    assert (model["VpcConfig"], model["EnableNetworkIsolation"]) == (NETWORK, True)
    config = requests["CreateEndpointConfig"]
    assert config["ProductionVariants"][0]["InstanceType"] == "ml.m5d.large"
    assert "KmsKeyId" not in config, "its instances have disks of their own"
    plan = json.loads(stand.artifact(f"runs/{run}/plan.json"))["recipe"]
    sections = ("training", "evaluation", "scoring")
    assert [plan[one]["instance_type"] for one in sections] == ["ml.c5.xlarge", "ml.m5d.large", "ml.c5.large"]
    assert plan["scoring"]["max_runtime"] == 6 * 3600


def test_a_search_and_its_transform_take_a_recipes_own_instances(stand: Any) -> None:
    stand.recipe(
        "searched",
        """
        algorithm: kmeans
        hyperparameters: {k: 3}
        training: {instance_type: ml.m5.large, instance_count: 2, max_runtime: 30m}
        tuning:
          objective: test:msd
          max_jobs: 1
          max_parallel_jobs: 1
          ranges: {epochs: {integer: [1, 3]}}
        evaluation: {with: transform, instance_type: ml.m5.large}
        """,
    )
    with told(stand, "CreateHyperParameterTuningJob", "CreateTransformJob") as requests:
        run = stand.run_of(stand.drop("searched"))
        assert stand.wait_for_end(run)["detail"]["status"] == "SUCCEEDED"
    definition = requests["CreateHyperParameterTuningJob"]["TrainingJobDefinition"]
    assert (definition["VpcConfig"], definition["EnableNetworkIsolation"]) == (NETWORK, True)
    assert definition["EnableInterContainerTrafficEncryption"] is True, "two instances tell each other of rows"
    assert definition["ResourceConfig"]["VolumeKmsKeyId"] == KEY
    transform = requests["CreateTransformJob"]
    assert transform["TransformOutput"]["KmsKeyId"] == KEY
    assert transform["TransformResources"]["VolumeKmsKeyId"] == KEY
    plan = json.loads(stand.artifact(f"runs/{run}/plan.json"))["recipe"]
    # A job of half an hour on two instances takes 1 of the 6 hours; two transforms have the rest.
    assert plan["evaluation"]["max_runtime"] == 2.5 * 3600


def test_a_run_that_may_take_too_long_is_refused_before_anything_starts(stand: Any) -> None:
    stand.recipe("kept", "algorithm: kmeans\nevaluation: {keep_endpoint: 4h}\n")
    run = stand.run_of(stand.drop("kept"))
    assert stand.wait_for_end(run)["detail"]["status"] == "FAILED"
    record = stand.record(run)
    assert record["error"] == "InvalidRecipe"
    assert "recipe 'kept': a run may take up to 13 instance-hours" in record["cause"]
    assert "MaxInstanceHours (6)" in record["cause"]
    assert record["leases"] == []


# The daily audit


def audit(stand: Any, hours: int = 1) -> list[str]:
    """What an audit so many hours from now tells."""
    before = len(told_of(stand))
    event = {"time": (datetime.now(UTC) + timedelta(hours=hours)).isoformat()}
    answer = stand.client("lambda").invoke(FunctionName=stand.function("audit_resources"), Payload=json.dumps(event))
    assert "FunctionError" not in answer, answer["Payload"].read()
    return told_of(stand)[before:]


def told_of(stand: Any) -> list[str]:
    stand.notifications("")
    return [one["Message"] for one in stand.messages if "finding" in one.get("MessageAttributes", {})]


def test_the_audit_tells_of_what_no_lease_knows_and_deletes_nothing(stand: Any) -> None:
    with stand.cloud.sagemaker.gates.hold("training") as gate:
        run = stand.run_of(stand.drop("kmeans"))
        assert gate.reached(60)
        assert audit(stand) == [], "a run in progress is known"
        stray_model, stray = strays(stand)
        assert audit(stand, hours=0) == [], "what is young may be being ended just now"
        (message,) = audit(stand)
    assert "- endpoint by-hand," in message
    assert f"aws sagemaker delete-endpoint --endpoint-name {stray} --region us-east-1" in message
    assert f"delete-model --model-name {stray_model}" in message
    assert "of run made-up-run, which the ledger has never heard of" in message
    assert "not-ours" not in message
    assert "train-1" not in message
    assert stand.wait_for_end(run)["detail"]["status"] == "SUCCEEDED"
    sagemaker = stand.client("sagemaker")
    assert [one["EndpointName"] for one in sagemaker.list_endpoints()["Endpoints"]] == [stray]
    assert len(audit(stand)) == 1, "it is told of again the next day"
    sagemaker.delete_endpoint(EndpointName=stray)
    sagemaker.delete_endpoint_config(EndpointConfigName=stray)
    for name in (stray_model, "not-ours"):
        sagemaker.delete_model(ModelName=name)
    deadline = time.monotonic() + 60
    while sagemaker.list_endpoints()["Endpoints"] and time.monotonic() < deadline:
        time.sleep(0.05)  # SageMaker tells of no deletion by an event
    assert audit(stand) == []


def strays(stand: Any) -> tuple[str, str]:
    """A model, a configuration and an endpoint by hand with the stack's tag, and a model of another stack's."""
    sagemaker = stand.client("sagemaker")
    artifact = next(key for key in stand.artifacts("models/") if key.endswith("model.tar.gz"))
    job = sagemaker.list_training_jobs(StatusEquals="Completed")["TrainingJobSummaries"][0]
    trained = sagemaker.describe_training_job(TrainingJobName=job["TrainingJobName"])
    for name, stack in (("by-hand-model", "dropmill-local"), ("not-ours", "another")):
        sagemaker.create_model(
            ModelName=name,
            PrimaryContainer={
                "Image": trained["AlgorithmSpecification"]["TrainingImage"],
                "ModelDataUrl": f"s3://{stand.artifact_bucket}/{artifact}",
            },
            ExecutionRoleArn=trained["RoleArn"],
            Tags=[{"Key": "dropmill:stack", "Value": stack}],
        )
    tags = [{"Key": "dropmill:stack", "Value": "dropmill-local"}, {"Key": "dropmill:run", "Value": "made-up-run"}]
    variant = {"VariantName": "AllTraffic", "ModelName": "by-hand-model", "InstanceType": "ml.m5.large"}
    sagemaker.create_endpoint_config(
        EndpointConfigName="by-hand", ProductionVariants=[variant | {"InitialInstanceCount": 1}]
    )
    sagemaker.create_endpoint(EndpointName="by-hand", EndpointConfigName="by-hand", Tags=tags)
    stand.wait_for(
        lambda event: (
            event["detail-type"] == "SageMaker Endpoint State Change"
            and event["detail"]["EndpointName"] == "by-hand"
            and event["detail"]["EndpointStatus"] in ("IN_SERVICE", "FAILED")
        )
    )
    return "by-hand-model", "by-hand"
