"""Every example in the help texts of `dropmill` is run, its names filled in with what is there.

A command without an example fails here, and so does an example without the files that it speaks of.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

from dropmill_cli.embedded import template_path
from dropmill_cli.main import main
from tests.integration.conftest import points
from tests.reading import split_pickle

DROPMILL = [sys.executable, "-m", "dropmill_cli.main"]
SECONDS = 120
A_RUN = "kmeans-0123456789ab"
A_PACKAGE = "arn:aws:sagemaker:eu-west-1:123456789012:model-package/dropmill-kmeans/3"
LISTS_BUCKETS = """#!{python}
import boto3
names = [bucket["Name"] for bucket in boto3.client("s3").list_buckets()["Buckets"]]
print("buckets:", *names)
"""


def examples(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """Each command that does something, with each example in its help; "" for one that has none."""
    lines = re.findall(r"^\s*dropmill (\S.*?)(?: {2,}.*)?$", command.help or "", re.MULTILINE)
    for line in lines or [""]:
        yield " ".join(path), line
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from examples(inner, (*path, name))


def distinct() -> list[Any]:
    """The examples of all commands, those that are filled in alike once."""
    lines = {line.replace(A_RUN, "RUN").replace("RECIPE", "kmeans"): line for _, line in examples(main) if line}
    return list(lines.values())


@dataclass(frozen=True)
class Home:
    """A folder with the files that the examples speak of, and a cloud with a model in it."""

    stand: Any
    folder: Path
    run: str
    package: str

    def environment(self, **more: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "DROPMILL_"))}
        path = os.pathsep.join([str(self.folder), str(Path(sys.executable).parent), kept.get("PATH", "")])
        return {**kept, "PATH": path, **more}

    def dropmill(self, arguments: list[str]) -> str:
        """Standard output of a command that was carried out."""
        done = subprocess.run(
            [*DROPMILL, *arguments],
            cwd=self.folder,
            env=self.environment(AWS_ENDPOINT_URL=self.stand.cloud.endpoint_url),
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout

    def until_ready(self, arguments: list[str]) -> str:
        """The line with which a cloud says that it serves; it is ended then, by SIGTERM."""
        with subprocess.Popen(
            [*DROPMILL, *arguments],
            cwd=self.folder,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process:
            assert process.stdout is not None
            timer = threading.Timer(SECONDS, process.kill)
            timer.start()
            try:
                ready = next((line for line in process.stdout if line.startswith("ready ")), "")
                process.send_signal(signal.SIGTERM)
                assert process.wait(30) == 0
            finally:
                timer.cancel()
                process.kill()
        return ready

    def filled_in(self, line: str) -> list[str]:
        """The example's words, with names of this cloud in place of those that stand for any."""
        names = {
            A_RUN: self.run,
            "RUN": self.run,
            A_PACKAGE: self.package,
            "RECIPE": "kmeans",
            "dropmill": self.stand.stack.name,
        }
        words = [names.get(word, word) for word in shlex.split(line)]
        # Another region has another cloud, but where one is brought up.
        return words if words[0] == "up" else ["us-east-1" if word == "eu-west-1" else word for word in words]


@pytest.fixture(scope="module")
def home(stand: Any, tmp_path_factory: pytest.TempPathFactory) -> Home:
    folder = tmp_path_factory.mktemp("home")
    (folder / "points.csv").write_bytes(points(240, seed=1))
    (folder / "july").mkdir()
    for day in (1, 2):
        (folder / "july" / f"{day}.csv").write_bytes(points(240, seed=day))
    (folder / "zeros.yaml").write_text("algorithm: linear-learner\ndata: {positive: 0}\n")
    rule = '{call: "dynamodb:UpdateItem", effect: throttle, times: 3}'
    (folder / "faults.yaml").write_text(f"seed: 7\nrules:\n  - {rule}\n")
    random = np.random.default_rng(7)
    labels = random.integers(10, size=420)
    pixels = (random.random((420, 784)) * (1 + labels[:, None]) / 10).astype(np.float32)
    parts = [(pixels[part], labels[part]) for part in (slice(300), slice(300, 360), slice(360, 420))]
    (folder / "mnist.pkl.gz").write_bytes(split_pickle(parts))
    for name in ("tutorial.py", "aws"):
        (folder / name).write_text(LISTS_BUCKETS.format(python=sys.executable))
        (folder / name).chmod(0o755)
    run = stand.run_of(stand.drop("kmeans"))
    assert stand.wait_for_end(run)["detail"]["status"] == "SUCCEEDED"
    return Home(stand, folder, run, stand.record(run)["package"])


@pytest.mark.parametrize("command", sorted({command for command, _ in examples(main)}))
def test_every_command_has_an_example(command: str) -> None:
    lines = [line for name, line in examples(main) if name == command]
    assert all(line.startswith(command) for line in lines)
    assert all(lines)


@pytest.mark.parametrize("line", distinct())
def test_the_example_runs(home: Home, line: str) -> None:
    words = home.filled_in(line)
    if words[0] == "up":
        assert home.until_ready([*words, "--port", "0"]).startswith("ready http://127.0.0.1:")
        return
    if words[0] in ("score", "endpoint"):
        home.dropmill(["approve", home.run])  # a champion, whatever the examples before have decided
    if words[0] == "score":
        home.stand.to_score("kmeans", "points.csv", points(20, seed=3))
    if words[:2] == ["endpoint", "down"]:
        home.dropmill(["endpoint", "up", "kmeans", "--for", "1h"])
    if words[0] == "remove" and "--dry-run" not in words:
        other = home.stand.cloud.deploy(template_path(), stack_name="another").name  # the others need theirs
        words = [other if word == home.stand.stack.name else word for word in words]
    printed = home.dropmill(words)
    if words[0] == "exec":
        assert "buckets:" in printed
    else:
        assert printed.strip()
    if "--json" in words:
        json.loads(printed)
    if words[:2] == ["endpoint", "up"]:
        home.dropmill(["endpoint", "down", "kmeans"])
