"""boto3 clients, built once for each process. `AWS_ENDPOINT_URL` alone decides where they talk to."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, cast

import boto3
from botocore.config import Config

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.service_resource import Table
    from mypy_boto3_events import EventBridgeClient
    from mypy_boto3_lambda import LambdaClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sagemaker import SageMakerClient
    from mypy_boto3_sagemaker_runtime import SageMakerRuntimeClient
    from mypy_boto3_sns import SNSClient
    from mypy_boto3_stepfunctions import SFNClient

_RETRIES: Any = {"mode": "standard", "total_max_attempts": 5}


@cache
def _client(service: str, read_timeout: int = 30) -> Any:
    return boto3.client(
        cast(Any, service),
        config=Config(retries=_RETRIES, connect_timeout=5, read_timeout=read_timeout, max_pool_connections=32),
    )


def s3() -> S3Client:
    return cast("S3Client", _client("s3", 60))


def sagemaker() -> SageMakerClient:
    return cast("SageMakerClient", _client("sagemaker"))


def sagemaker_runtime() -> SageMakerRuntimeClient:
    """An endpoint may take 60 s to answer; SageMaker advises a socket time-out of 70."""
    return cast("SageMakerRuntimeClient", _client("sagemaker-runtime", 70))


def step_functions() -> SFNClient:
    return cast("SFNClient", _client("stepfunctions"))


def events() -> EventBridgeClient:
    return cast("EventBridgeClient", _client("events"))


def functions() -> LambdaClient:
    """Lambda, whose functions take up to a minute."""
    return cast("LambdaClient", _client("lambda", 70))


def sns() -> SNSClient:
    return cast("SNSClient", _client("sns"))


@cache
def dynamodb_table(name: str) -> Table:
    resource = boto3.resource("dynamodb", config=Config(retries=_RETRIES, connect_timeout=5, read_timeout=10))
    return resource.Table(name)


_TAKES_NO_CALLS = {
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
    "RequestThrottled",
    "SlowDown",
    "ThrottledException",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
    "TransactionConflictException",
    "TransactionInProgressException",
}
_TAKES_NO_TRANSACTIONS = {"TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded"}


def service_unavailable(error: Any) -> bool:
    """Whether a botocore ClientError says that the service takes no call for now: throttling, conflict or outage."""
    if error_code(error) == "TransactionCanceledException":
        return any(reason.get("Code") in _TAKES_NO_TRANSACTIONS for reason in error.response["CancellationReasons"])
    status: int = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return error_code(error) in _TAKES_NO_CALLS or status >= 500


def error_code(error: Any) -> str:
    """The code of a botocore ClientError."""
    return str(error.response["Error"]["Code"])


def error_message(error: Any) -> str:
    return str(error.response["Error"]["Message"])
