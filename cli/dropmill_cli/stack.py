"""Find a deployed stack, embedded or on AWS, by its CloudFormation outputs."""

import ipaddress
import os
import re
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from dropmill_cli.errors import CommandError

LOCAL_STACK: Final = "dropmill-local"
LOCAL_ENDPOINT: Final = "http://127.0.0.1:4566"
LOCAL_REGION: Final = "us-east-1"

_SETTINGS: Final = {
    "DropBucket": "DROP_BUCKET",
    "ArtifactBucket": "ARTIFACT_BUCKET",
    "LedgerTable": "LEDGER_TABLE",
    "TrainStateMachineArn": "STATE_MACHINE_ARN",
    "NotificationTopicArn": "NOTIFICATION_TOPIC_ARN",
    "ScoreStateMachineArn": "SCORING_STATE_MACHINE_ARN",
    "JobRoleArn": "JOB_ROLE_ARN",
}
_OPTIONAL_SETTINGS: Final = {
    "KmsKeyArn": "KMS_KEY_ARN",
    "SubnetIds": "SUBNET_IDS",
    "SecurityGroupIds": "SECURITY_GROUP_IDS",
    "NetworkIsolation": "NETWORK_ISOLATION",
}
"""Outputs that a stack may lack: what is brought up by hand runs as the stack's own endpoints do."""
_START_SCORING: Final = "StartScoringFunctionName"


@dataclass(frozen=True)
class Place:
    """Where to look for the stack; None: what the environment says."""

    stack: str = LOCAL_STACK
    endpoint_url: str | None = None
    region: str | None = None

    @property
    def url(self) -> str | None:
        """The endpoint of an embedded cloud; None: AWS itself. The embedded cloud's stack is looked for at home."""
        named = self.endpoint_url or os.environ.get("AWS_ENDPOINT_URL")
        return named or (LOCAL_ENDPOINT if self.stack == LOCAL_STACK else None)

    def checked_url(self) -> str | None:
        """`url`. Raises CommandError for what is no address of a server."""
        if self.url is not None and not _is_endpoint(self.url):
            source = "--endpoint-url" if self.endpoint_url else "AWS_ENDPOINT_URL"
            near = f"http://{self.url}"
            meant = near if "/" not in self.url and _is_endpoint(near) and ":" in self.url else LOCAL_ENDPOINT
            raise CommandError(f"{source} is {self.url!r}, which is no address of a cloud; write it like {meant}")
        return self.url


@dataclass(frozen=True)
class Stack:
    name: str
    endpoint_url: str | None
    drop_bucket: str
    artifact_bucket: str
    state_machine_arn: str
    scoring_machine_arn: str = ""
    start_scoring: str = ""
    """The name of the function that starts batches."""

    @property
    def embedded(self) -> bool:
        return self.endpoint_url is not None


def connect(place: Place) -> Stack:
    """Find the stack and point this process at it: `dropmill.settings` and every boto3 client read the environment.

    Raises:
        CommandError: there is no cloud or no such stack there, or its outputs are not Dropmill's.
    """
    point_at(place.checked_url(), place.region)
    outputs = _outputs(place)
    missing = sorted({*_SETTINGS, _START_SCORING} - outputs.keys())
    if missing:
        raise CommandError(f"stack {place.stack!r} is not a Dropmill stack: it has no output {', '.join(missing)}")
    return use(place.stack, outputs, place.url)


def point_at(url: str | None, region: str | None) -> None:
    """Make every AWS client of this process talk to `url` (None: AWS)."""
    if url is not None:
        os.environ["AWS_ENDPOINT_URL"] = url
        if _on_this_machine(url):
            # Any credentials do there; real ones are neither looked for nor needed.
            os.environ.pop("AWS_PROFILE", None)
            os.environ.pop("AWS_SESSION_TOKEN", None)
            os.environ.update(dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "local"))
            region = region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or LOCAL_REGION
    # Lambda reads AWS_REGION, boto3 AWS_DEFAULT_REGION.
    region = region or os.environ.get("AWS_REGION")
    if region:
        os.environ["AWS_REGION"] = os.environ["AWS_DEFAULT_REGION"] = region


def use(name: str, outputs: dict[str, str], url: str | None) -> Stack:
    """Set the stack's outputs as this process's settings."""
    from dropmill.settings import settings

    os.environ["STACK_NAME"] = name
    os.environ.update({variable: outputs[output] for output, variable in _SETTINGS.items()})
    os.environ.update({variable: outputs.get(output, "") for output, variable in _OPTIONAL_SETTINGS.items()})
    settings.cache_clear()
    return Stack(
        name=name,
        endpoint_url=url,
        drop_bucket=outputs["DropBucket"],
        artifact_bucket=outputs["ArtifactBucket"],
        state_machine_arn=outputs["TrainStateMachineArn"],
        scoring_machine_arn=outputs["ScoreStateMachineArn"],
        start_scoring=outputs[_START_SCORING],
    )


def _outputs(place: Place) -> dict[str, str]:
    import boto3
    from botocore import exceptions
    from botocore.config import Config
    from botocore.exceptions import ClientError, HTTPClientError, NoRegionError
    from botocore.parsers import ResponseParserError

    quick: Any = {"mode": "standard", "total_max_attempts": 2}
    try:
        client = boto3.client("cloudformation", config=Config(retries=quick, connect_timeout=3, read_timeout=20))
        stacks = client.describe_stacks(StackName=place.stack)["Stacks"]
    except (exceptions.ConnectionError, HTTPClientError) as error:
        where = place.url or f"AWS ({type(error).__name__})"
        raise CommandError(f"no cloud at {where}; start one with `dropmill up` or name a stack with --stack") from None
    except ResponseParserError:
        raise CommandError(
            f"what answers at {place.url} is not an AWS cloud; start one with `dropmill up` on a free --port"
        ) from None
    except ValueError as error:  # botocore checks an endpoint's host more strictly than we do
        raise CommandError(f"{place.url or 'AWS'} can't be asked: {error}") from None
    except NoRegionError:
        raise CommandError("no region is set; give one with --region, AWS_REGION or AWS_DEFAULT_REGION") from None
    except ClientError as error:
        code, message = error.response["Error"]["Code"], error.response["Error"]["Message"]
        if code == "ValidationError" and "does not exist" in message:
            where = f"at {place.url}" if place.url else f"in {os.environ.get('AWS_DEFAULT_REGION', 'your region')}"
            raise CommandError(
                f"there is no stack {place.stack!r} {where}; name one with --stack (and its --region),"
                " or start an embedded cloud with `dropmill up`"
            ) from None
        raise
    return {output["OutputKey"]: output["OutputValue"] for stack in stacks for output in stack.get("Outputs", [])}


def _is_endpoint(url: str) -> bool:
    try:
        parts = urlsplit(url)
        # Reading the port is what checks it.
        named = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        return named and re.search(r"\s", url) is None
    except ValueError:
        return False


def _on_this_machine(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
