"""Requests judged by botocore's model."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localaws.sagemaker import shapes
from localaws.sagemaker.errors import ApiError, SerializationException, UnknownOperation, ValidationException

JOB = {
    "TrainingJobName": "a-job",
    "AlgorithmSpecification": {"TrainingImage": "x/kmeans:1", "TrainingInputMode": "File"},
    "RoleArn": "arn:aws:iam::123456789012:role/jobs",
    "OutputDataConfig": {"S3OutputPath": "s3://bucket/models"},
    "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 10},
    "StoppingCondition": {"MaxRuntimeInSeconds": 60},
}


def said(operation: str, request: Any) -> str:
    with pytest.raises(ValidationException) as caught:
        shapes.check(operation, request)
    return str(caught.value)


def test_a_right_request_comes_back_without_what_the_model_does_not_know() -> None:
    assert shapes.check("CreateTrainingJob", {**JOB, "Unknown": 1, "Tags": None}) == JOB


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"TrainingJobName": "a_b"},
            "1 validation error detected: Value 'a_b' at 'trainingJobName' failed to satisfy constraint: Member must "
            "satisfy regular expression pattern: [a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}",
        ),
        (
            {"TrainingJobName": "a\n"},
            "1 validation error detected: Value 'a\n' at 'trainingJobName' failed to satisfy constraint: Member must "
            "satisfy regular expression pattern: [a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}",
        ),
        (
            {"TrainingJobName": ""},
            "1 validation error detected: Value '' at 'trainingJobName' failed to satisfy constraint: Member must have "
            "length greater than or equal to 1",
        ),
        (
            {"TrainingJobName": "a" * 64},
            f"1 validation error detected: Value '{'a' * 64}' at 'trainingJobName' failed to satisfy constraint: "
            "Member must have length less than or equal to 63",
        ),
        (
            {"RoleArn": None},
            "1 validation error detected: Value at 'roleArn' failed to satisfy constraint: Member must not be null",
        ),
        (
            {"AlgorithmSpecification": {"TrainingInputMode": "Files"}},
            "1 validation error detected: Value 'Files' at 'algorithmSpecification.trainingInputMode' failed to "
            "satisfy constraint: Member must satisfy enum value set: [Pipe, File, FastFile]",
        ),
        (
            {"StoppingCondition": {"MaxRuntimeInSeconds": 0}},
            "1 validation error detected: Value '0' at 'stoppingCondition.maxRuntimeInSeconds' failed to satisfy "
            "constraint: Member must have value greater than or equal to 1",
        ),
        (
            {"InputDataConfig": [{"ChannelName": "a/b", "DataSource": {}}]},
            "1 validation error detected: Value 'a/b' at 'inputDataConfig.1.member.channelName' failed to satisfy "
            r"constraint: Member must satisfy regular expression pattern: [A-Za-z0-9\.\-_]+",
        ),
        (
            {"Tags": [{"Key": "a!", "Value": ""}]},
            "1 validation error detected: Value 'a!' at 'tags.1.member.key' failed to satisfy constraint: Member must "
            r"satisfy regular expression pattern: ([\p{L}\p{Z}\p{N}_.:/=+\-@]*)",
        ),
        (
            {"HyperParameters": {"k": "x" * 2501}},
            f"1 validation error detected: Value '{'x' * 256}' at 'hyperParameters.k.member' failed to satisfy "
            "constraint: Member must have length less than or equal to 2500",
        ),
    ],
)
def test_a_broken_rule_is_told_in_the_services_words(changed: dict[str, Any], message: str) -> None:
    assert said("CreateTrainingJob", {**JOB, **changed}) == message


def test_several_broken_rules_are_told_at_once() -> None:
    assert said("CreateTrainingJob", {}).startswith("3 validation errors detected: Value at 'trainingJobName'")


def test_a_tag_may_have_letters_of_any_alphabet() -> None:
    tags = [{"Key": "dropmill:größe", "Value": "größer als @ 1/2 = x"}]
    assert shapes.check("CreateTrainingJob", {**JOB, "Tags": tags})["Tags"] == tags


@pytest.mark.parametrize(
    "changed",
    [
        {"TrainingJobName": 3},
        {"TrainingJobName": ["a"]},
        {"Tags": {}},
        {"HyperParameters": []},
        {"HyperParameters": {"k": 10}},
        {"EnableManagedSpotTraining": "true"},
        {"StoppingCondition": {"MaxRuntimeInSeconds": "60"}},
        {"StoppingCondition": {"MaxRuntimeInSeconds": True}},
        {"StoppingCondition": {"MaxRuntimeInSeconds": 1.5}},
        {"StoppingCondition": {"MaxRuntimeInSeconds": float("nan")}},
        {"StoppingCondition": {"MaxRuntimeInSeconds": float("inf")}},
    ],
)
def test_a_wrong_type_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(SerializationException):
        shapes.check("CreateTrainingJob", {**JOB, **changed})


@pytest.mark.parametrize(
    ("given_as", "seconds"),
    [(1.5, 1.5), (10, 10.0), ("1970-01-01T00:01:00Z", 60.0), ("1970-01-01T01:00:00+01:00", 0.0)],
)
def test_times_are_seconds(given_as: object, seconds: float) -> None:
    assert shapes.check("ListModels", {"CreationTimeAfter": given_as}) == {"CreationTimeAfter": seconds}


def test_an_operation_that_sagemaker_does_not_have_is_unknown() -> None:
    with pytest.raises(UnknownOperation):
        shapes.check("DescribeNothing", {})


def test_events_spell_times_their_own_way() -> None:
    shape = shapes.operation("DescribeTrainingJob").output_shape
    assert shape
    document = {
        "CreationTime": 1.2345,
        "HyperParameters": {"k": "1"},
        "SecondaryStatusTransitions": [{"Status": "Starting", "StartTime": 2.0}],
    }
    assert shapes.with_times(shape, document | {"Unknown": 1}, shapes.milliseconds) == {
        "CreationTime": 1234,
        "HyperParameters": {"k": "1"},
        "SecondaryStatusTransitions": [{"Status": "Starting", "StartTime": 2000}],
    }
    assert shapes.with_times(shape, {"CreationTime": 1614186014.9}, shapes.iso_seconds) == {
        "CreationTime": "2021-02-24T17:00:14Z"
    }


def test_every_pattern_of_metadata_and_tags_is_understood() -> None:
    request = {"ModelPackageGroupName": "g", "CustomerMetadataProperties": {"dropmill:run": "s3://a/b_c=1.5 +@-"}}
    assert shapes.check("CreateModelPackage", request) == request
    assert "regular expression pattern" in said(
        "CreateModelPackage", {**request, "CustomerMetadataProperties": {"k": "[1, 2]"}}
    )


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*JOB, "Tags", "HyperParameters", "InputDataConfig", "VpcConfig"]), anything))
def test_no_request_at_all_is_a_bug(changed: dict[str, Any]) -> None:
    try:
        known = shapes.check("CreateTrainingJob", {**JOB, **changed})
    except ApiError as error:
        assert str(error)
    else:
        assert known["TrainingJobName"] == changed.get("TrainingJobName", JOB["TrainingJobName"])
