"""Decisions on policies, and what calls need, without a cloud."""

import gzip
import json
from typing import Any

import pytest

from localaws import actions, iam
from localaws.actions import Need, UnknownAction, Where
from localaws.iam import PolicyError, decide, read_policy

WHERE = Where("aws", "us-east-1", "123456789012", lambda _arn: {"dropmill:stack": "mine"})
ROLE = "arn:aws:iam::123456789012:role/jobs"


def allowed(statement: dict[str, Any], action: str, resource: str = "arn:aws:s3:::b/k", **context: str) -> bool:
    policy = {"Statement": [{"Effect": "Allow", "Resource": "*", **statement}]}
    keys = {key.replace("__", ":"): value for key, value in context.items()}
    return decide(read_policy(policy), Need(action, resource, keys)).allowed


@pytest.mark.parametrize(
    ("statement", "action", "resource", "expected"),
    [
        ({"Action": "s3:GetObject"}, "s3:GetObject", "arn:aws:s3:::b/k", True),
        ({"Action": "S3:getobject"}, "s3:GetObject", "arn:aws:s3:::b/k", True),
        ({"Action": "s3:Get*"}, "s3:GetObjectVersion", "arn:aws:s3:::b/k", True),
        ({"Action": "s3:GetObject"}, "s3:GetObjectVersion", "arn:aws:s3:::b/k", False),
        ({"NotAction": "s3:*"}, "s3:GetObject", "arn:aws:s3:::b/k", False),
        ({"NotAction": "s3:*"}, "sns:Publish", "arn:aws:sns:r:1:t", True),
        ({"Action": "s3:*", "Resource": "arn:aws:s3:::b/runs/*"}, "s3:GetObject", "arn:aws:s3:::b/runs/a/b", True),
        ({"Action": "s3:*", "Resource": "arn:aws:s3:::b/runs/*"}, "s3:GetObject", "arn:aws:s3:::b/work/a", False),
        # A wildcard stays within its part of an ARN.
        ({"Action": "*", "Resource": "arn:aws:sns:*:t"}, "sns:Publish", "arn:aws:sns:us-east-1:1:t", False),
        ({"Action": "*", "Resource": "arn:aws:s3:::B/k"}, "s3:GetObject", "arn:aws:s3:::b/k", False),
    ],
)
def test_actions_and_resources(statement: dict[str, Any], action: str, resource: str, expected: bool) -> None:
    assert allowed(statement, action, resource) is expected


@pytest.mark.parametrize(
    ("condition", "context", "expected"),
    [
        ({"StringEquals": {"s3:prefix": "a"}}, {"s3__prefix": "a"}, True),
        ({"StringEquals": {"S3:Prefix": ["b", "a"]}}, {"s3__prefix": "a"}, True),
        ({"StringEquals": {"s3:prefix": "a"}}, {}, False),
        ({"StringEqualsIfExists": {"s3:prefix": "a"}}, {}, True),
        ({"StringNotEquals": {"s3:prefix": "a"}}, {}, True),
        ({"StringNotEquals": {"s3:prefix": "a"}}, {"s3__prefix": "a"}, False),
        ({"StringLike": {"s3:prefix": "work/*"}}, {"s3__prefix": "work/x"}, True),
        ({"StringLike": {"s3:prefix": "work/*"}}, {"s3__prefix": "runs/x"}, False),
        ({"Bool": {"aws:SecureTransport": False}}, {"aws__SecureTransport": "true"}, False),
        ({"Null": {"s3:prefix": True}}, {}, True),
        ({"Null": {"s3:prefix": "false"}}, {}, False),
        ({"NumericLessThan": {"s3:max-keys": "10"}}, {"s3__max-keys": "9"}, True),
        ({"ForAllValues:StringEquals": {"s3:prefix": "a"}}, {}, True),
        ({"ForAnyValue:StringEquals": {"s3:prefix": "a"}}, {}, False),
        ({"StringEquals": {"s3:prefix": "a"}, "Bool": {"x": "true"}}, {"s3__prefix": "a"}, False),
    ],
)
def test_conditions(condition: dict[str, Any], context: dict[str, str], expected: bool) -> None:
    assert allowed({"Action": "*", "Condition": condition}, "s3:ListBucket", **context) is expected


def test_a_set_has_to_hold_for_every_value_or_for_any() -> None:
    need = Need("sagemaker:AddTags", "arn:aws:sagemaker:r:1:model/a", {"aws:TagKeys": ("a", "c")})
    for operator, expected in (("ForAllValues:StringEquals", False), ("ForAnyValue:StringEquals", True)):
        body = {"Effect": "Allow", "Action": "*", "Resource": "*", "Condition": {operator: {"aws:TagKeys": ["a", "b"]}}}
        assert decide(read_policy({"Statement": body}), need).allowed is expected


def test_a_deny_wins() -> None:
    both = [{"Effect": effect, "Action": "s3:*", "Resource": "*"} for effect in ("Allow", "Deny")]
    found = decide(read_policy({"Statement": both}), Need("s3:GetObject", "arn:aws:s3:::b/k"))
    assert not found.allowed
    assert [statement.allow for statement in found.by] == [False]


@pytest.mark.parametrize(
    "statement",
    [
        {"Action": "*", "Resource": "*", "Condition": {"DateLessThan": {"aws:CurrentTime": "2030-01-01"}}},
        {"Action": "*", "Resource": "arn:aws:s3:::b/${aws:username}/*"},
        {"Action": "*", "Resource": "*", "NotPrincipal": "*"},
        {"Resource": "*"},
        {"Action": "*", "Resource": "*", "Principal": {"Federated": "x"}},
    ],
)
def test_what_is_not_evaluated_is_an_error(statement: dict[str, Any]) -> None:
    with pytest.raises(PolicyError):
        read_policy({"Statement": {"Effect": "Allow", **statement}})


def needed(service: str, operation: str, **parameters: Any) -> list[tuple[str, str]]:
    return [(need.action, need.resource) for need in actions.needs(service, operation, parameters, WHERE)]


def test_what_calls_need() -> None:
    assert needed("s3", "HeadObject", Bucket="b", Key="k", versionId="1") == [
        ("s3:GetObjectVersion", "arn:aws:s3:::b/k")
    ]
    table = "arn:aws:dynamodb:us-east-1:123456789012:table/t"
    assert needed("dynamodb", "Query", TableName="t", IndexName="i") == [("dynamodb:Query", f"{table}/index/i")]
    parts = [{"Put": {"TableName": "t"}}, {"ConditionCheck": {"TableName": "t"}}]
    assert needed("dynamodb", "TransactWriteItems", TransactItems=parts) == [
        ("dynamodb:PutItem", table),
        ("dynamodb:ConditionCheckItem", table),
    ]
    job = "arn:aws:sagemaker:us-east-1:123456789012:training-job/a"
    tags = [{"Key": "dropmill:stack", "Value": "mine"}]
    assert needed("sagemaker", "CreateTrainingJob", TrainingJobName="A", RoleArn=ROLE, Tags=tags) == [
        ("sagemaker:CreateTrainingJob", job),
        ("sagemaker:AddTags", job),
        ("iam:PassRole", ROLE),
    ]
    assert needed("states", "SendTaskSuccess", taskToken="t") == [("states:SendTaskSuccess", "*")]


def test_an_operation_that_no_table_has_is_unknown() -> None:
    for service, operation in (("s3", "PutBucketPolicy"), ("dynamodb", ""), ("ec2", "RunInstances")):
        with pytest.raises(UnknownAction):
            actions.needs(service, operation, {"Bucket": "b"}, WHERE)


def test_a_rest_request_is_told_by_method_path_and_query() -> None:
    def told(method: str, path: str, query: str = "") -> str:
        environ = {"REQUEST_METHOD": method, "PATH_INFO": path, "QUERY_STRING": query, "SERVER_NAME": "x"}
        environ |= {"SERVER_PORT": "80", "wsgi.url_scheme": "http", "RAW_URI": f"{path}?{query}"}
        return actions.operation("s3", environ, b"")[0]

    assert told("GET", "/b/a/k") == "GetObject"
    assert told("PUT", "/b/k", "partNumber=1&uploadId=u") == "UploadPart"
    assert told("DELETE", "/b/k", "uploadId=u") == "AbortMultipartUpload"
    assert told("GET", "/b", "list-type=2&prefix=p") == "ListObjectsV2"
    assert told("GET", "/b", "versions&prefix=p") == "ListObjectVersions"


def test_a_policy_is_read_once() -> None:
    text = json.dumps({"Statement": {"Effect": "Allow", "Action": "*", "Resource": "*"}})
    assert iam.read_text(text) is iam.read_text(text)


def test_a_compressed_request_tells_what_it_asks() -> None:
    environ = {"HTTP_CONTENT_ENCODING": "gzip", "CONTENT_TYPE": "application/x-www-form-urlencoded"}
    form = b"Action=PutMetricData&Namespace=/aws/sagemaker/TrainingJobs"
    name, parameters = actions.operation("monitoring", environ, gzip.compress(form))
    assert (name, parameters["Namespace"]) == ("PutMetricData", "/aws/sagemaker/TrainingJobs")
    assert actions.operation("monitoring", environ, b"no gzip")[0] == ""
