"""From a registered model to what answers: the registry, its events on the bus, and a champion beside a challenger."""

import io
import json
import tarfile
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

EVENT = "SageMaker Model Package State Change"


@pytest.fixture(scope="module")
def data(jobs: Any) -> str:
    """The address of a model that the stand-in serves."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("model_algo-1"))
    return str(jobs.put("registered/model.tar.gz", packed.getvalue()))


def register(jobs: Any, group: str, data: str, status: str, **environment: str) -> str:
    container = {"Image": jobs.IMAGE, "ModelDataUrl": data, "Environment": environment}
    return str(
        jobs.api.create_model_package(
            ModelPackageGroupName=group,
            ModelApprovalStatus=status,
            InferenceSpecification={
                "Containers": [container],
                "SupportedContentTypes": ["text/csv"],
                "SupportedResponseMIMETypes": ["text/csv"],
            },
        )["ModelPackageArn"]
    )


def test_an_approval_reaches_a_rule_and_lets_the_version_score(jobs: Any, data: str) -> None:
    jobs.api.create_model_package_group(ModelPackageGroupName="scored")
    events, sqs = jobs.cloud.client("events"), jobs.cloud.client("sqs")
    queue = sqs.create_queue(QueueName="approvals")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    pattern = {
        "source": ["aws.sagemaker"],
        "detail-type": [EVENT],
        "detail": {"ModelPackageGroupName": [{"prefix": "sco"}], "ModelApprovalStatus": ["Approved", "Rejected"]},
    }
    rules = {"Service": "events.amazonaws.com"}
    statement = {"Effect": "Allow", "Principal": rules, "Action": "sqs:SendMessage", "Resource": arn}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    sqs.set_queue_attributes(QueueUrl=queue, Attributes={"Policy": policy})
    events.put_rule(Name="approvals", EventPattern=json.dumps(pattern))
    events.put_targets(Rule="approvals", Targets=[{"Id": "queue", "Arn": arn}])

    made = register(jobs, "scored", data, "PendingManualApproval", BEHAVE="sum")
    container = {"ModelPackageName": made}
    with pytest.raises(ClientError, match="only an Approved one makes a model"):
        jobs.api.create_model(ModelName="scored", ExecutionRoleArn=jobs.ROLE, PrimaryContainer=container)
    jobs.api.update_model_package(ModelPackageArn=made, ModelApprovalStatus="Approved", ApprovalDescription="by hand")
    assert jobs.cloud.events.wait_idle(20)
    received = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10)["Messages"]
    told = [json.loads(message["Body"]) for message in received]
    assert [(one["detail-type"], one["resources"]) for one in told] == [(EVENT, [made])]
    assert (told[0]["detail"]["ModelPackageVersion"], told[0]["detail"]["ApprovalDescription"]) == (1, "by hand")

    jobs.api.create_model(ModelName="scored", ExecutionRoleArn=jobs.ROLE, PrimaryContainer=container)
    # What a model was made from may go; the model goes on.
    jobs.api.delete_model_package(ModelPackageName=made)
    jobs.put("unscored/a.csv", b"1,2\n3,4\n")
    jobs.api.create_transform_job(
        TransformJobName="scored",
        ModelName="scored",
        TransformInput={
            "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"s3://{jobs.BUCKET}/unscored/"}},
            "ContentType": "text/csv",
            "SplitType": "Line",
        },
        TransformOutput={"S3OutputPath": f"s3://{jobs.BUCKET}/scores", "AssembleWith": "Line"},
        TransformResources={"InstanceType": "ml.m5.large", "InstanceCount": 1},
    )
    assert jobs.wait_for_status("scored") == "Completed"
    assert jobs.s3.get_object(Bucket=jobs.BUCKET, Key="scores/a.csv.out")["Body"].read() == b"3\n7\n"


@pytest.fixture(scope="module")
def configuration(jobs: Any, data: str) -> str:
    """A champion from the registry and a challenger, each with its own instances and weight."""
    jobs.api.create_model_package_group(ModelPackageGroupName="served")
    champion = {"ModelPackageName": register(jobs, "served", data, "Approved", NAME="champion")}
    challenger = {"Image": jobs.IMAGE, "ModelDataUrl": data, "Environment": {"NAME": "challenger"}}
    for name, container in (("champion", champion), ("challenger", challenger)):
        jobs.api.create_model(ModelName=name, ExecutionRoleArn=jobs.ROLE, PrimaryContainer=container)
    configure(jobs, "served", champion=("ml.m5.large", 2, 3.0), challenger=("ml.c5.xlarge", 1, 1.0))
    return "served"


@pytest.fixture
def endpoint(jobs: Any, configuration: str, request: pytest.FixtureRequest) -> Iterator[str]:
    name = "served-" + "".join(letter if letter.isalnum() else "-" for letter in request.node.name)[-50:].strip("-")
    jobs.api.create_endpoint(EndpointName=name, EndpointConfigName=configuration)
    assert jobs.wait_for_status(name, "IN_SERVICE", "FAILED") == "IN_SERVICE"
    yield name
    jobs.api.delete_endpoint(EndpointName=name)
    jobs.wait_for_status(name, "DELETED")


class TestChampionAndChallenger:
    """One endpoint with two variants."""

    def test_both_are_listed(self, jobs: Any, endpoint: str) -> None:
        shown = jobs.api.describe_endpoint(EndpointName=endpoint)["ProductionVariants"]
        assert [
            (one["VariantName"], one["CurrentWeight"], one["DesiredInstanceCount"], one["CurrentInstanceCount"])
            for one in shown
        ] == [("champion", 3.0, 2, 2), ("challenger", 1.0, 1, 1)]
        event = next(one for one in jobs.of(endpoint) if one["EndpointStatus"] == "IN_SERVICE")
        assert [one["VariantName"] for one in event["ProductionVariants"]] == ["champion", "challenger"]
        config = jobs.api.describe_endpoint_config(EndpointConfigName="served")["ProductionVariants"]
        assert [one["InstanceType"] for one in config] == ["ml.m5.large", "ml.c5.xlarge"]

    @pytest.mark.parametrize("variant", ["champion", "challenger"])
    def test_each_answers_for_itself(self, jobs: Any, endpoint: str, variant: str) -> None:
        assert asked(jobs, endpoint, TargetVariant=variant) == (variant, variant)
        with pytest.raises(ClientError) as caught:
            jobs.cloud.client("sagemaker-runtime").invoke_endpoint(
                EndpointName=endpoint, Body=b"bad", TargetVariant=variant
            )
        said: Any = caught.value.response
        assert said["OriginalStatusCode"] == 400
        assert f":log-stream:{variant}/" in said["LogStreamArn"]

    def test_untargeted_requests_follow_the_weights(self, jobs: Any, endpoint: str) -> None:
        jobs.cloud.sagemaker._endpoints._random.seed(7)
        answers = Counter(asked(jobs, endpoint) for _ in range(120))
        assert answers.keys() == {("champion", "champion"), ("challenger", "challenger")}
        assert 70 <= answers["champion", "champion"] <= 110

    def test_one_that_never_starts_fails_both(self, jobs: Any, data: str) -> None:
        container = {"Image": jobs.IMAGE, "ModelDataUrl": data}
        for name, environment in (("starts", {}), ("ends", {"BEHAVE": "exit"})):
            jobs.api.create_model(
                ModelName=name, ExecutionRoleArn=jobs.ROLE, PrimaryContainer={**container, "Environment": environment}
            )
        configure(jobs, "halved", starts=("ml.m5.large", 1, 1.0), ends=("ml.m5.large", 1, 1.0))
        jobs.api.create_endpoint(EndpointName="halved", EndpointConfigName="halved")
        assert jobs.wait_for_status("halved", "IN_SERVICE", "FAILED") == "FAILED"
        reason = jobs.api.describe_endpoint(EndpointName="halved")["FailureReason"]
        assert "production variant ends did not pass the ping health check" in reason
        with pytest.raises(ClientError, match="not found"):
            asked(jobs, "halved", TargetVariant="starts")
        jobs.api.delete_endpoint(EndpointName="halved")
        jobs.wait_for_status("halved", "DELETED")

    def test_the_one_left_takes_everything_after_an_update(self, jobs: Any, endpoint: str) -> None:
        configure(jobs, "decided", challenger=("ml.m5.large", 1, 1.0))
        jobs.api.update_endpoint(EndpointName=endpoint, EndpointConfigName="decided")
        decided = jobs.wait_for(
            lambda event: (
                event["resources"][0].endswith(f"/{endpoint}")
                and event["detail"].get("EndpointConfigName") == "decided"
                and event["detail"]["EndpointStatus"] == "IN_SERVICE"
            )
        )
        assert [one["VariantName"] for one in decided["detail"]["ProductionVariants"]] == ["challenger"]
        assert {asked(jobs, endpoint) for _ in range(5)} == {("challenger", "challenger")}
        with pytest.raises(ClientError, match="Variant champion not found"):
            asked(jobs, endpoint, TargetVariant="champion")


def configure(jobs: Any, name: str, **variants: tuple[str, int, float]) -> None:
    """Create an endpoint configuration of models by name: instance type, count and weight."""
    jobs.api.create_endpoint_config(
        EndpointConfigName=name,
        ProductionVariants=[
            {
                "VariantName": model,
                "ModelName": model,
                "InstanceType": kind,
                "InitialInstanceCount": count,
                "InitialVariantWeight": weight,
            }
            for model, (kind, count, weight) in variants.items()
        ],
    )


def asked(jobs: Any, endpoint: str, **more: Any) -> tuple[str, str]:
    """Who answered by its own word, and by the endpoint's."""
    answer = jobs.cloud.client("sagemaker-runtime").invoke_endpoint(EndpointName=endpoint, Body=b"1", **more)
    return str(json.load(answer["Body"])["variant"]), str(answer["InvokedProductionVariant"])
