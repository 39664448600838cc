"""The model registry of the embedded SageMaker: requests checked and answers judged by botocore's model."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localaws.sagemaker import shapes
from localaws.sagemaker.app import SageMaker
from localaws.sagemaker.errors import ApiError, ConflictException, ValidationException

ARN = "arn:aws:sagemaker:us-east-1:123456789012"
ROLE = "arn:aws:iam::123456789012:role/jobs"
IMAGE = "382416733822.dkr.ecr.us-east-1.amazonaws.com/kmeans:1"
DATA = "s3://artifacts/models/digits/run/job/output/model.tar.gz"
SPECIFICATION = {
    "Containers": [{"Image": IMAGE, "ModelDataUrl": DATA, "Environment": {"A": "package", "B": "package"}}],
    "SupportedContentTypes": ["text/csv"],
    "SupportedResponseMIMETypes": ["application/jsonlines"],
}
UNVERSIONED = {
    **SPECIFICATION,
    "SupportedTransformInstanceTypes": ["ml.m5.large"],
    "SupportedRealtimeInferenceInstanceTypes": ["ml.m5.large"],
}


class Registry:
    """Operations by name, as a client calls them."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.sagemaker = SageMaker(endpoint_url="http://127.0.0.1:9", emit=self.emit)

    def emit(self, event: dict[str, Any]) -> None:
        self.events.append(json.loads(json.dumps(event)))

    def call(self, operation: str, region: str = "us-east-1", **request: Any) -> dict[str, Any]:
        answer = self.sagemaker.operations[operation](region, shapes.check(operation, request))
        shape = shapes.operation(operation).output_shape
        problems: list[str] = []
        assert (shapes._walk(shape, answer, "", problems) if shape else {}) == answer
        # SageMaker's model requires a name even of a version, which has none.
        assert [problem for problem in problems if "'modelPackageName'" not in problem] == []
        return answer

    def refused(self, operation: str, kind: type[ApiError] = ValidationException, **request: Any) -> str:
        with pytest.raises(kind) as caught:
            self.call(operation, **request)
        return str(caught.value)

    def version(self, group: str = "digits", **more: Any) -> str:
        request = {"ModelPackageGroupName": group, "InferenceSpecification": SPECIFICATION, **more}
        return str(self.call("CreateModelPackage", **request)["ModelPackageArn"])

    def listed(self, **request: Any) -> list[str]:
        found = self.call("ListModelPackages", **request)["ModelPackageSummaryList"]
        return [one["ModelPackageArn"].rpartition("model-package/")[2] for one in found]


@pytest.fixture
def registry() -> Registry:
    registry = Registry()
    registry.call("CreateModelPackageGroup", ModelPackageGroupName="digits")
    return registry


class TestGroups:
    def test_a_group_is_made_described_and_deleted(self, registry: Registry) -> None:
        made = registry.call(
            "CreateModelPackageGroup",
            ModelPackageGroupName="Abalone",
            ModelPackageGroupDescription="Ages of shells",
            Tags=[{"Key": "dropmill:stack", "Value": "here"}],
        )
        assert made == {"ModelPackageGroupArn": f"{ARN}:model-package-group/abalone"}
        for name in ("Abalone", "abalone", made["ModelPackageGroupArn"]):
            shown = registry.call("DescribeModelPackageGroup", ModelPackageGroupName=name)
            assert shown["ModelPackageGroupName"] == "Abalone"
            assert shown["ModelPackageGroupStatus"] == "Completed"
        tags = registry.call("ListTags", ResourceArn=made["ModelPackageGroupArn"])["Tags"]
        assert tags == [{"Key": "dropmill:stack", "Value": "here"}]
        assert registry.refused("CreateModelPackageGroup", ModelPackageGroupName="abalone") == (
            f"Model Package Group already exists: {ARN}:model-package-group/abalone"
        )
        registry.call("DeleteModelPackageGroup", ModelPackageGroupName="abalone")
        gone = f"ModelPackageGroup {ARN}:model-package-group/abalone does not exist."
        for operation in ("DescribeModelPackageGroup", "DeleteModelPackageGroup"):
            assert registry.refused(operation, ModelPackageGroupName="abalone") == gone

    def test_groups_are_listed_oldest_first_and_by_name(self, registry: Registry) -> None:
        for name in ("shells", "cars"):
            registry.call("CreateModelPackageGroup", ModelPackageGroupName=name)
        registry.call("CreateModelPackageGroup", region="eu-west-1", ModelPackageGroupName="elsewhere")

        def names(**request: Any) -> list[str]:
            found = registry.call("ListModelPackageGroups", **request)["ModelPackageGroupSummaryList"]
            return [one["ModelPackageGroupName"] for one in found]

        assert sorted(names()) == ["cars", "digits", "shells"]
        assert names(SortBy="Name", SortOrder="Descending") == ["shells", "digits", "cars"]
        assert names(NameContains="ar") == ["cars"]
        page = registry.call("ListModelPackageGroups", SortBy="Name", MaxResults=2)
        assert names(SortBy="Name", NextToken=page["NextToken"]) == ["shells"]

    def test_a_group_goes_only_when_it_is_empty(self, registry: Registry) -> None:
        first, second = registry.version(), registry.version()
        said = registry.refused("DeleteModelPackageGroup", ConflictException, ModelPackageGroupName="digits")
        assert "still has model packages" in said
        for made in (first, second):
            registry.call("DeleteModelPackage", ModelPackageName=made)
        registry.call("DeleteModelPackageGroup", ModelPackageGroupName="digits")


class TestVersions:
    def test_a_version_keeps_what_it_was_told(self, registry: Registry) -> None:
        told: dict[str, Any] = {
            "ModelPackageDescription": "Digits, by k-means",
            "InferenceSpecification": SPECIFICATION,
            "ModelApprovalStatus": "Rejected",
            "MetadataProperties": {"CommitId": "a648a21", "GeneratedBy": "run-1"},
            "ModelMetrics": {
                "ModelQuality": {"Statistics": {"ContentType": "application/json", "S3Uri": "s3://a/statistics.json"}}
            },
            "CustomerMetadataProperties": {"dropmill:run": "digits-0123456789ab", "f1": "0.93"},
            "Domain": "MACHINE_LEARNING",
            "Task": "CLUSTERING",
            "SamplePayloadUrl": "s3://a/payload.csv",
        }
        made = registry.version(**told)
        assert made == f"{ARN}:model-package/digits/1"
        for name in (made, "digits/1"):
            shown = registry.call("DescribeModelPackage", ModelPackageName=name)
            assert {key: shown[key] for key in told} == told
        assert (shown["ModelPackageGroupName"], shown["ModelPackageVersion"]) == ("digits", 1)
        assert (shown["ModelPackageStatus"], shown["CertifyForMarketplace"]) == ("Completed", False)
        assert shown["ModelPackageStatusDetails"] == {"ValidationStatuses": [], "ImageScanStatuses": []}
        assert "ModelPackageName" not in shown

    def test_a_version_waits_for_approval_unless_told_otherwise(self, registry: Registry) -> None:
        shown = registry.call("DescribeModelPackage", ModelPackageName=registry.version())
        assert shown["ModelApprovalStatus"] == "PendingManualApproval"

    def test_versions_count_up_and_are_never_given_again(self, registry: Registry) -> None:
        group = registry.call("DescribeModelPackageGroup", ModelPackageGroupName="digits")["ModelPackageGroupArn"]
        assert [registry.version().rpartition("/")[2], registry.version(group).rpartition("/")[2]] == ["1", "2"]
        registry.call("DeleteModelPackage", ModelPackageName="digits/2")
        assert registry.version().endswith("/3")
        gone = f"ModelPackage {ARN}:model-package/digits/2 does not exist."
        for operation in ("DescribeModelPackage", "DeleteModelPackage"):
            assert registry.refused(operation, ModelPackageName="digits/2") == gone
        assert registry.refused("UpdateModelPackage", ModelPackageArn=f"{ARN}:model-package/digits/2") == gone

    def test_versions_registered_at_once_are_all_different(self, registry: Registry) -> None:
        with ThreadPoolExecutor(8) as pool:
            made = list(pool.map(lambda _: registry.version(), range(40)))
        assert {int(one.rpartition("/")[2]) for one in made} == set(range(1, 41))
        told = [event["detail"]["ModelPackageVersion"] for event in registry.events]
        assert told == list(range(1, 41))

    def test_the_same_client_token_makes_one_version(self, registry: Registry) -> None:
        first = registry.version(ClientToken="token-1")
        assert registry.version(ClientToken="token-1") == first
        assert registry.version(ClientToken="token-2") != first
        assert len(registry.events) == 2
        registry.call("DeleteModelPackage", ModelPackageName=first)
        assert registry.version(ClientToken="token-1").endswith("/3")

    def test_versions_are_listed_by_group_status_and_time(self, registry: Registry) -> None:
        registry.call("CreateModelPackageGroup", ModelPackageGroupName="shells")
        for _ in range(11):
            registry.version()
        registry.version("shells", ModelApprovalStatus="Approved")
        registry.call("CreateModelPackage", ModelPackageName="alone", InferenceSpecification=UNVERSIONED)
        registry.call(
            "UpdateModelPackage", ModelPackageArn=f"{ARN}:model-package/digits/4", ModelApprovalStatus="Approved"
        )

        newest = [f"digits/{number}" for number in range(11, 0, -1)]
        asked: dict[str, Any] = {"ModelPackageGroupName": "digits", "SortOrder": "Descending", "SortBy": "CreationTime"}
        assert registry.listed(**asked, MaxResults=100) == newest
        assert (
            registry.listed(ModelPackageGroupName=f"{ARN}:model-package-group/Digits", MaxResults=3) == newest[:-4:-1]
        )
        page = registry.call("ListModelPackages", **asked, MaxResults=4)
        assert registry.listed(**asked, MaxResults=4, NextToken=page["NextToken"]) == newest[4:8]
        assert registry.listed(**asked, ModelApprovalStatus="Approved") == ["digits/4"]
        assert registry.listed(ModelApprovalStatus="Approved", ModelPackageType="Versioned", SortBy="Name") == [
            "digits/4",
            "shells/1",
        ]
        assert registry.listed() == ["alone"]
        assert registry.listed(ModelPackageType="Both", NameContains="ALO") == ["alone"]
        assert registry.listed(ModelPackageGroupName="never") == []
        later = time.time() + 60
        assert registry.listed(ModelPackageGroupName="digits", CreationTimeAfter=later) == []
        assert len(registry.listed(ModelPackageGroupName="digits", CreationTimeBefore=later, MaxResults=100)) == 11

    def test_a_version_has_the_tags_of_its_group(self, registry: Registry) -> None:
        made = registry.version()
        group = f"{ARN}:model-package-group/digits"
        registry.call("AddTags", ResourceArn=group, Tags=[{"Key": "a", "Value": "1"}])
        assert registry.call("ListTags", ResourceArn=made)["Tags"] == [{"Key": "a", "Value": "1"}]
        said = registry.refused("AddTags", ResourceArn=made, Tags=[{"Key": "b", "Value": "2"}])
        assert "those of digits" in said
        registry.refused("DeleteTags", ResourceArn=made, TagKeys=["a"])
        assert registry.call("ListTags", ResourceArn=group)["Tags"] == [{"Key": "a", "Value": "1"}]

    @pytest.mark.parametrize(
        ("changed", "words"),
        [
            ({"ModelPackageName": "digits-1"}, "Both ModelPackageName and ModelPackageGroupName"),
            ({"ModelPackageGroupName": None}, "Missing ARN"),
            ({"ModelPackageGroupName": "never"}, f"ModelPackageGroup {ARN}:model-package-group/never does not exist."),
            (
                {"ModelPackageGroupName": "arn:aws:sagemaker:eu-west-1:123456789012:model-package-group/digits"},
                "ModelPackageGroup arn:aws:sagemaker:eu-west-1:123456789012:model-package-group/digits does not exist.",
            ),
            ({"Tags": [{"Key": "a", "Value": "1"}]}, "uses the tags of its model package group"),
            ({"ModelApprovalStatus": "approved"}, "'modelApprovalStatus' failed to satisfy constraint"),
            ({"CustomerMetadataProperties": {f"k{n}": "v" for n in range(51)}}, "length less than or equal to 50"),
            ({"CustomerMetadataProperties": {"k": "v" * 257}}, "length less than or equal to 256"),
            ({"CustomerMetadataProperties": {"k" * 129: "v"}}, "length less than or equal to 128"),
            ({"CustomerMetadataProperties": {"k": "{'a': 1}"}}, "regular expression pattern"),
            ({"ModelMetrics": {"ModelQuality": {"Statistics": {"S3Uri": "s3://a/b"}}}}, "contentType' failed"),
            ({"InferenceSpecification": {"Containers": []}}, "length greater than or equal to 1"),
            ({"SourceAlgorithmSpecification": {"SourceAlgorithms": [{"AlgorithmName": "a"}]}}, "not supported"),
            ({"CertifyForMarketplace": True}, "not supported"),
        ],
    )
    def test_what_breaks_a_rule_is_refused(self, registry: Registry, changed: dict[str, Any], words: str) -> None:
        request: dict[str, Any] = {
            "ModelPackageGroupName": "digits",
            "InferenceSpecification": SPECIFICATION,
            **changed,
        }
        assert words in registry.refused("CreateModelPackage", **request)
        assert registry.events == []
        assert registry.version().endswith("/1")

    def test_a_package_without_a_group_has_a_name(self, registry: Registry) -> None:
        request: dict[str, Any] = {"ModelPackageName": "Alone", "Tags": [{"Key": "a", "Value": "1"}]}
        made = registry.call("CreateModelPackage", **request, InferenceSpecification=UNVERSIONED)["ModelPackageArn"]
        assert made == f"{ARN}:model-package/alone"
        shown = registry.call("DescribeModelPackage", ModelPackageName="Alone")
        assert shown["ModelPackageName"] == "Alone"
        assert not {"ModelPackageVersion", "ModelApprovalStatus"} & shown.keys()
        assert registry.events[-1]["detail"]["Tags"] == {"a": "1"}
        again = registry.refused("CreateModelPackage", **request, InferenceSpecification=UNVERSIONED)
        assert again == f"ModelPackage already exists: {made}"
        said = registry.refused("CreateModelPackage", ModelPackageName="b", InferenceSpecification=SPECIFICATION)
        assert "SupportedTransformInstanceTypes is required" in said
        registry.refused("UpdateModelPackage", ModelPackageArn=made, ModelApprovalStatus="Approved")


class TestApproval:
    def test_a_change_of_the_approval_is_announced_as_documented(self, registry: Registry) -> None:
        made = registry.version()
        registry.call(
            "UpdateModelPackage",
            ModelPackageArn=made,
            ModelApprovalStatus="Approved",
            ApprovalDescription="Better than the champion by 0.01",
        )
        first, second = registry.events
        assert first["detail"]["ModelApprovalStatus"] == "PendingManualApproval"
        assert {key: second[key] for key in second if key != "detail"} == {
            "source": "aws.sagemaker",
            "detail-type": "SageMaker Model Package State Change",
            "region": "us-east-1",
            "account": "123456789012",
            "resources": [made],
        }
        detail = second["detail"]
        for member in ("CreationTime", "LastModifiedTime"):
            assert time.strptime(detail.pop(member), "%Y-%m-%dT%H:%M:%SZ")
        assert detail == {
            "ModelPackageGroupName": "digits",
            "ModelPackageVersion": 1,
            "ModelPackageArn": made,
            "InferenceSpecification": SPECIFICATION,
            "ModelPackageStatus": "Completed",
            "ModelPackageStatusDetails": {"ValidationStatuses": [], "ImageScanStatuses": []},
            "CertifyForMarketplace": False,
            "ModelApprovalStatus": "Approved",
            "ApprovalDescription": "Better than the champion by 0.01",
            "CreatedBy": {},
            "LastModifiedBy": {},
        }

    def test_what_changes_nothing_of_note_is_not_announced(self, registry: Registry) -> None:
        made = registry.version(CustomerMetadataProperties={"a": "1", "b": "2"})
        before = registry.call("DescribeModelPackage", ModelPackageName=made)
        registry.call(
            "UpdateModelPackage",
            ModelPackageArn=made,
            ModelApprovalStatus="PendingManualApproval",
            CustomerMetadataProperties={"b": "3", "c": "4"},
            CustomerMetadataPropertiesToRemove=["a", "never"],
        )
        after = registry.call("DescribeModelPackage", ModelPackageName=made)
        assert len(registry.events) == 1
        assert after["CustomerMetadataProperties"] == {"b": "3", "c": "4"}
        assert after["LastModifiedTime"] >= before["LastModifiedTime"]
        registry.call("UpdateModelPackage", ModelPackageArn=made, CustomerMetadataPropertiesToRemove=["b", "c"])
        assert "CustomerMetadataProperties" not in registry.call("DescribeModelPackage", ModelPackageName=made)

    def test_a_refused_update_changes_nothing(self, registry: Registry) -> None:
        made = registry.version(CustomerMetadataProperties={f"k{number}": "v" for number in range(50)})
        before = registry.call("DescribeModelPackage", ModelPackageName=made)
        said = registry.refused(
            "UpdateModelPackage",
            ModelPackageArn=made,
            ModelApprovalStatus="Approved",
            CustomerMetadataProperties={"one-more": "v"},
        )
        assert "at most 50" in said
        assert registry.call("DescribeModelPackage", ModelPackageName=made) == before
        assert len(registry.events) == 1

    @given(st.lists(st.sampled_from(["Approved", "Rejected", "PendingManualApproval"]), max_size=12))
    @settings(max_examples=40, deadline=None)
    def test_every_change_is_told_once_and_in_order(self, wishes: list[str]) -> None:
        registry = Registry()
        registry.call("CreateModelPackageGroup", ModelPackageGroupName="digits")
        made = registry.version()
        for wish in wishes:
            registry.call("UpdateModelPackage", ModelPackageArn=made, ModelApprovalStatus=wish)
        told = [event["detail"]["ModelApprovalStatus"] for event in registry.events]
        everything = ["PendingManualApproval", *wishes]
        changes = [wish for before, wish in zip([None, *everything], everything, strict=False) if wish != before]
        assert told == changes
        shown = registry.call("DescribeModelPackage", ModelPackageName=made)
        assert shown["ModelApprovalStatus"] == everything[-1]


class TestModels:
    def model(self, registry: Registry, package: str, **more: Any) -> dict[str, Any]:
        request: dict[str, Any] = {
            "ModelName": "m",
            "ExecutionRoleArn": ROLE,
            "PrimaryContainer": {"ModelPackageName": package, **more},
        }
        registry.call("CreateModel", **request)
        return registry.call("DescribeModel", ModelName="m")

    @pytest.mark.parametrize("name", ["digits/1", f"{ARN}:model-package/digits/1"])
    def test_an_approved_version_makes_a_model(self, registry: Registry, name: str) -> None:
        made = registry.version(ModelApprovalStatus="Approved")
        shown = self.model(registry, name, Environment={"B": "model"})
        assert shown["PrimaryContainer"] == {
            "ModelPackageName": made,
            "Image": IMAGE,
            "ModelDataUrl": DATA,
            "Mode": "SingleModel",
            "Environment": {"A": "package", "B": "model"},
        }

    @pytest.mark.parametrize("status", ["Rejected", "PendingManualApproval"])
    def test_another_version_makes_none(self, registry: Registry, status: str) -> None:
        registry.version(ModelApprovalStatus=status)
        with pytest.raises(ValidationException, match=f"digits/1 is {status}; only an Approved one makes a model"):
            self.model(registry, "digits/1")
        with pytest.raises(ValidationException, match="digits/2 does not exist"):
            self.model(registry, "digits/2")

    def test_a_package_and_an_image_contradict_each_other(self, registry: Registry) -> None:
        registry.version(ModelApprovalStatus="Approved")
        with pytest.raises(ValidationException, match="either Image or ModelPackageName"):
            self.model(registry, "digits/1", Image=IMAGE)

    def test_a_package_that_cannot_be_served_is_refused(self, registry: Registry) -> None:
        registry.version(ModelApprovalStatus="Approved", InferenceSpecification={"Containers": [{"Image": IMAGE}]})
        with pytest.raises(ValidationException, match="one container with Image and ModelDataUrl"):
            self.model(registry, "digits/1")
