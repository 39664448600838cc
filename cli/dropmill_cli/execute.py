"""Runs a program against an embedded cloud: one that is up, or one that lives as long as the program."""

import contextlib
import errno
import json
import os
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Final
from urllib.parse import urlsplit

from dropmill_cli.errors import CommandError
from dropmill_cli.stack import LOCAL_ENDPOINT, LOCAL_REGION

OWN: Final = "own"
ROLE: Final = "AmazonSageMaker-ExecutionRole"
ROLE_PATH: Final = "/service-role/"
HOOK: Final = Path(__file__).resolve().with_name("exec_hook")

# A profile of the user's could bring credentials and addresses of AWS back.
_NO_FILES: Final = {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
_SEEN_SECONDS: Final = 2
_AWS_NAMES: Final = ".amazonaws.com,.amazonaws.com.cn"


class ProgramNotFound(CommandError):
    """There is no such program. The exit code is a shell's."""

    exit_code = 127


class ProgramNotExecutable(CommandError):
    """The program is there and can't be executed. The exit code is a shell's."""

    exit_code = 126


def run(command: Sequence[str], base: Mapping[str, str], url: str, region: str) -> int:
    """Run `command` against the cloud at `url`; return its exit code, 128 + n if signal n ended it.

    `base` is the environment that the program's is made of. The signals that would end this process are passed on to
    the program, and it alone decides when to end.

    Raises:
        ProgramNotFound, ProgramNotExecutable: it can't be started.
    """
    env = environment(base, url, region, credentials(url, region))
    started: list[subprocess.Popen[bytes]] = []
    early: list[int] = []

    def pass_on(number: int, _frame: FrameType | None) -> None:
        # The terminal gives Ctrl-C to the whole foreground group: passed on, the program would get it twice.
        if number == signal.SIGINT and _in_foreground():
            return
        if started:
            started[0].send_signal(number)
        else:
            early.append(number)

    passed_on = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # it is under nohup, and the program inherits that
        passed_on.append(signal.SIGHUP)
    before = {number: signal.signal(number, pass_on) for number in passed_on}
    try:
        try:
            program = subprocess.Popen(list(command), env=env)
        except OSError as error:
            refused = ProgramNotFound if error.errno == errno.ENOENT else ProgramNotExecutable
            raise refused(f"{command[0]} can't be run: {error.strerror}") from None
        started.append(program)
        for number in early:
            program.send_signal(number)
        code = program.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 128 - code if code < 0 else code


def environment(base: Mapping[str, str], url: str, region: str, keys: Mapping[str, str]) -> dict[str, str]:
    """Return the program's environment: that of this process, with all that leads to AWS replaced."""
    env = {name: value for name, value in base.items() if not name.startswith("AWS_")}
    env |= keys
    env |= {
        "AWS_ENDPOINT_URL": url,
        "AWS_REGION": region,
        "AWS_DEFAULT_REGION": region,
        **_NO_FILES,
        "AWS_EC2_METADATA_DISABLED": "true",
        "PYTHONPATH": os.pathsep.join(filter(None, (str(HOOK), base.get("PYTHONPATH")))),
    }
    host = urlsplit(url).hostname or ""
    for name in ("NO_PROXY", "no_proxy"):
        env[name] = ",".join(filter(None, (base.get(name), host, _AWS_NAMES)))
    return env


def credentials(url: str, region: str) -> dict[str, str]:
    """Return credentials of SageMaker's execution role in the cloud at `url`, so that a program finds itself where
    the tutorials are: in a notebook, whose identity is the role that its jobs get."""
    import boto3
    from botocore.config import Config

    session = boto3.Session(
        aws_access_key_id="local",
        aws_secret_access_key="local",  # noqa: S106  # made up: any credentials do
        region_name=region,
    )
    client: Any = session.client  # its stubs have an overload for each service
    config = Config(proxies={}, retries={"total_max_attempts": 2})
    iam = client("iam", endpoint_url=url, config=config)
    trust = {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Principal": {"Service": "sagemaker.amazonaws.com"}, "Action": "sts:AssumeRole"}
        ],
    }
    with contextlib.suppress(iam.exceptions.EntityAlreadyExistsException):
        iam.create_role(RoleName=ROLE, Path=ROLE_PATH, AssumeRolePolicyDocument=json.dumps(trust))
    # What a program does here is its user's own affair.
    iam.attach_role_policy(RoleName=ROLE, PolicyArn="arn:aws:iam::aws:policy/AdministratorAccess")
    arn = iam.get_role(RoleName=ROLE)["Role"]["Arn"]
    keys = client("sts", endpoint_url=url, config=config).assume_role(RoleArn=arn, RoleSessionName="SageMaker")
    return {
        "AWS_ACCESS_KEY_ID": keys["Credentials"]["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": keys["Credentials"]["SecretAccessKey"],
        "AWS_SESSION_TOKEN": keys["Credentials"]["SessionToken"],
    }


def forget_aws() -> dict[str, str]:
    """Take the user's own AWS settings out of this process, and return the environment as it was with them: a profile
    that is meant for AWS has no say in what is asked of an embedded cloud."""
    before = dict(os.environ)
    for name in before:
        if name.startswith("AWS_"):
            del os.environ[name]
    os.environ.update(_NO_FILES)
    return before


@contextmanager
def cloud_for(wanted: str | None, region: str | None, base: Mapping[str, str]) -> "Iterator[tuple[str, str, bool]]":
    """Yield (address, region, whether it is the program's own) of the cloud to run against.

    `base` is the environment that the user gave; `wanted` is an address or `own`; None: the embedded cloud at
    AWS_ENDPOINT_URL or the default address, if one answers, else one of its own.

    Raises:
        CommandError: no embedded cloud answers at the address given, or one of its own can't start.
    """
    region = region or base.get("AWS_REGION") or base.get("AWS_DEFAULT_REGION") or LOCAL_REGION
    if wanted not in (None, OWN):
        if not answers(wanted):
            raise CommandError(
                f"no embedded cloud answers at {wanted}; start one with `dropmill up`, or leave out --cloud"
            )
        yield wanted, region, False
        return
    named = base.get("AWS_ENDPOINT_URL") or LOCAL_ENDPOINT
    if wanted is None and answers(named):
        yield named, region, False
        return
    from dropmill_cli.embedded import embedded_cloud

    with embedded_cloud(region=region) as (cloud, _):
        yield cloud.endpoint_url, region, True


def answers(url: str) -> bool:
    """Whether an embedded cloud, and nothing else, answers at an address. Raises CommandError if it isn't http://."""
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise CommandError(f"{url!r} is not the address of an embedded cloud: they look like {LOCAL_ENDPOINT}")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(url, method="HEAD"), timeout=_SEEN_SECONDS) as answer:  # noqa: S310
            server = answer.headers.get("Server", "")
    except urllib.error.HTTPError as error:
        server = error.headers.get("Server", "")
    except OSError:
        return False
    return str(server).startswith("localaws")


def _in_foreground() -> bool:
    for descriptor in range(3):
        with contextlib.suppress(OSError):
            return os.tcgetpgrp(descriptor) == os.getpgrp()
    return False
