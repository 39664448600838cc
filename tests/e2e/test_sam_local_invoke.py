"""Every function in the Lambda runtime's container, and the walk-through of docs/local-invoke.md as it stands.

It needs a Docker engine and an image of the Lambda runtime. DROPMILL_LAMBDA_IMAGE names a program that provides both
with no registry: it starts an engine where none answers and tags `public.ecr.aws/lambda/python:3.13-x86_64`.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.sam import build, engine, invoke

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ADDRESS, PORT = "172.17.0.1", "4567"


@pytest.fixture(scope="module", autouse=True)
def docker() -> Iterator[None]:
    """An engine and an image for all tests here."""
    try:
        build.check_runtime()
        with engine.engine():
            engine.image()
            yield
    except build.Missing as error:
        pytest.skip(str(error))


def test_every_function_does_what_it_is_there_for() -> None:
    proof = invoke.prove(lambda line: print(line, file=sys.stderr))  # noqa: T201  seen where it fails
    assert proof.unproved == [], proof.table()
    assert proof.whole, proof.table()


@pytest.fixture
def blocks(root: Path) -> list[str]:
    """The commands of the walk-through, with an address and a port of this machine."""
    with socket.socket() as probe:
        host = engine.host()
        probe.bind((host.listen, 0))
        port = str(probe.getsockname()[1])
    text = (root / "docs/local-invoke.md").read_text()
    assert text.count(PORT) >= 5
    text = text.replace(f"host.docker.internal:{ADDRESS}", f"host.docker.internal:{host.seen_as}")
    return BLOCK.findall(text.replace(ADDRESS, host.listen).replace(PORT, port))


def test_the_walk_through_does_what_it_says(blocks: list[str], root: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    (serving,) = [block for block in blocks if "dropmill up" in block]
    assert blocks.index(serving) == 1
    script = "\n".join(["set -euo pipefail", *(block for block in blocks if block is not serving)])
    cloud = subprocess.Popen(
        ["bash", "-c", f"exec {serving}"], cwd=root, env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        assert cloud.stdout is not None
        assert any(line.startswith("ready ") for line in cloud.stdout)
        done = subprocess.run(
            ["bash", "-c", script], cwd=root, env=environment, capture_output=True, text=True, timeout=1500, check=False
        )
    finally:
        cloud.send_signal(signal.SIGTERM)
        cloud.wait(120)
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert not [answer for answer in answers if answer.get("errorType", "StillClosing") != "StillClosing"]
    shown = (root / "docs/local-invoke.md").read_text()
    (inspected,) = re.findall(r'^    (\{"shards".*\})$', shown, re.MULTILINE)
    assert json.loads(inspected) == answers[0]
    (registered,) = [answer for answer in answers if "package" in answer]
    assert registered["verdict"] == "approved"
    run = json.loads((root / "events/inspect_drop.json").read_text())["run_id"]
    listed = done.stdout.rpartition("}")[2]
    assert run in listed
    assert "champion" in listed.lower()
