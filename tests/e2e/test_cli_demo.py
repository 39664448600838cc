"""The `dropmill` command as a user meets it: processes, signals, exit codes, and what stands on which stream."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dropmill_cli.samples import write_digits

DROPMILL = [sys.executable, "-m", "dropmill_cli.main"]
SECONDS = 120


def environment(**more: str) -> dict[str, str]:
    """Nothing of the caller's AWS, and no terminal."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "DROPMILL_"))}
    return {**kept, **more}


def dropmill(*arguments: str, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*DROPMILL, *arguments],
        cwd=cwd,
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def wait_for_line(process: subprocess.Popen[str], word: str) -> str:
    """The first line of its output with the word; fails where the process ends or takes too long."""
    assert process.stdout is not None
    timer = threading.Timer(SECONDS, process.kill)
    timer.start()
    try:
        for line in process.stdout:
            if word in line:
                return line.strip()
    finally:
        timer.cancel()
    raise AssertionError(f"the process ended ({process.wait()}) without a line with {word!r}")


@dataclass(frozen=True)
class Up:
    """A `dropmill up`, and commands that speak to it."""

    url: str
    folder: Path

    def run(self, *arguments: str, code: int = 0) -> str:
        """Standard output of a command that ended with that exit code."""
        result = dropmill(*arguments, cwd=self.folder, AWS_ENDPOINT_URL=self.url)
        assert result.returncode == code, result.stdout + result.stderr
        assert "Traceback" not in result.stderr
        return result.stdout if code != 2 else result.stderr

    def json(self, *arguments: str, code: int = 0) -> Any:
        return json.loads(self.run(*arguments, "--json", code=code))


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    folder = tmp_path_factory.mktemp("up")
    write_digits(folder)
    with subprocess.Popen(
        [*DROPMILL, "up", "--port", "0"],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            line = wait_for_line(process, "ready")
            assert line.startswith("ready http://127.0.0.1:")
            yield Up(line.removeprefix("ready "), folder)
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            process.kill()


@pytest.fixture(scope="module")
def clustered(up: Up) -> dict[str, Any]:
    """A run that ended well."""
    document: dict[str, Any] = up.json("drop", "digits.csv", "--recipe", "kmeans", "--wait")
    return document


def test_the_demo_prints_one_document_and_leaves_nothing(tmp_path: Path) -> None:
    result = dropmill("demo", "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["status"] == "SUCCEEDED"
    assert document["algorithm"] == "linear-learner"
    assert document["open_leases"] == 0
    assert document["metrics"]["accuracy"] > 0.9
    assert {"precision", "recall", "f1"} <= document["metrics"].keys()
    assert 0 < document["seconds"] < SECONDS
    report = Path(document["report"])
    assert report == (tmp_path / "reports" / document["run_id"] / "report.html").resolve()
    assert "<html" in report.read_text()
    for state in ("Inspect Drop", "Convert Shards", "Launch Training", "Deploy Endpoint", "Tear Down"):
        assert f"{state}:" in result.stderr


def test_the_demo_shows_people_how_it_goes_and_went(tmp_path: Path) -> None:
    result = dropmill("demo", "--recipe", "kmeans", "--output", "pages", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    for said in ("Launch Training ...", "purity", "nmi", "msd", "Cluster", "Open leases: 0", "pages/kmeans-"):
        assert said in result.stdout


def test_a_demo_of_bad_data_ends_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "points.csv").write_text("a,b,label\n1,2,0\n3,many,1\n")
    result = dropmill("demo", "--dataset", "points.csv", cwd=tmp_path)
    assert result.returncode == 1
    assert "InvalidDrop" in result.stdout
    assert "points.csv, row 3, column 'b'" in result.stdout
    assert "Open leases: 0" in result.stdout


@pytest.mark.parametrize(
    ("line", "number", "code"),
    [("Launch Training ...", signal.SIGINT, 130), ("starting", signal.SIGTERM, 143)],
)
def test_a_demo_that_is_stopped_ends_what_it_started(
    tmp_path: Path, line: str, number: signal.Signals, code: int
) -> None:
    with subprocess.Popen(
        [*DROPMILL, "demo"],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            wait_for_line(process, line)
            # As a terminal does: to the whole group, workers and jobs included.
            os.killpg(process.pid, number)
            _, error = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == code
    assert "Traceback" not in error
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


def test_a_demo_of_nothing_starts_nothing(tmp_path: Path) -> None:
    result = dropmill("demo", "--dataset", "none.csv", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stdout == ""
    assert "there is no file or folder none.csv" in result.stderr


def test_a_port_that_is_taken(up: Up) -> None:
    assert "can't listen on 127.0.0.1" in up.run("up", "--port", up.url.rpartition(":")[2], code=2)


def test_drop_and_wait(up: Up, clustered: dict[str, Any]) -> None:
    assert clustered["status"] == "SUCCEEDED"
    assert clustered["recipe"] == clustered["algorithm"] == "kmeans"
    assert clustered["metrics"].keys() == {"msd", "purity", "nmi"}
    assert clustered["open_leases"] == 0
    assert {lease["state"] for lease in clustered["leases"]} == {"closed"}
    assert Path(clustered["report"]).is_file()


def test_runs_and_show_say_the_same(up: Up, clustered: dict[str, Any]) -> None:
    (line,) = [line for line in up.json("runs") if line["run_id"] == clustered["run_id"]]
    shown = up.json("show", clustered["run_id"])
    for name in ("run_id", "status", "recipe", "drop", "metrics", "open_leases"):
        assert line[name] == shown[name] == clustered[name]
    assert shown["report"].endswith(f"/runs/{clustered['run_id']}/report.html")
    page = up.run("show", clustered["run_id"])
    for said in ("Evaluate Model", "purity", "training-job", "Open leases: 0", clustered["drop"]):
        assert said in page
    assert clustered["run_id"] in up.run("runs")


def test_logs_are_those_of_the_job_and_the_endpoint(up: Up, clustered: dict[str, Any]) -> None:
    lines = up.json("logs", clustered["run_id"])
    names = {lease["kind"]: lease["name"] for lease in clustered["leases"]}
    assert {line["resource"] for line in lines} == {names["training-job"], names["endpoint"]}
    page = up.run("logs", clustered["run_id"], "--tail", "1")
    last = next(line for line in reversed(lines) if line["resource"] == names["training-job"])
    assert last["text"].strip() in page
    assert len(page.splitlines()) == 4


def test_a_job_that_fails_shows_its_log_and_no_console(up: Up, clustered: dict[str, Any]) -> None:
    (up.folder / "many.yaml").write_text(
        "algorithm: kmeans\nhyperparameters: {k: 10, extra_center_factor: 9, mini_batch_size: 20}\n"
    )
    failed = up.json("drop", "digits.csv", "--recipe", "many.yaml", "--wait", code=1)
    assert failed["error"] == "JobFailed"
    assert f"see its log: dropmill logs {failed['run_id']}" in failed["cause"]
    assert "amazon.com" not in json.dumps(failed)
    lines = up.json("logs", failed["run_id"], "--tail", "15")
    page = up.run("show", failed["run_id"])
    assert "The latest log lines of many-" in page
    assert lines
    assert all(line["text"].strip() in page for line in lines)
    assert "amazon.com" not in page


def test_rerun_has_a_run_of_its_own(up: Up, clustered: dict[str, Any]) -> None:
    again = up.json("rerun", clustered["run_id"], "--wait")
    assert again["run_id"] == f"{clustered['run_id']}-2"
    assert again["status"] == "SUCCEEDED"
    assert again["metrics"] == pytest.approx(clustered["metrics"])
    assert (again["drop"], again["version_id"]) == (clustered["drop"], clustered["version_id"])
    assert up.json("rerun", again["run_id"]) == {"run_id": f"{clustered['run_id']}-3", "rerun_of": again["run_id"]}


def test_drop_names_the_run_that_starts(up: Up) -> None:
    started = up.json("drop", "digits.csv", "--recipe", "linear-learner")
    assert up.json("rerun", started["run_id"], "--wait")["status"] == "SUCCEEDED"
    assert up.json("show", started["run_id"])["version_id"] == started["version_id"]


def test_a_recipe_file_is_uploaded_first(up: Up) -> None:
    (up.folder / "zeros.yaml").write_text("algorithm: linear-learner\ndata: {positive: 0}\n")
    document = up.json("drop", "digits.csv", "--recipe", "zeros.yaml", "--wait")
    assert document["run_id"].startswith("zeros-")
    assert document["metrics"]["f1"] > 0.9
    by_name = up.json("drop", "digits.csv", "--recipe", "zeros")
    assert by_name["recipe"] == "zeros"


def test_a_broken_recipe_is_refused_on_the_record(up: Up) -> None:
    (up.folder / "broken.yaml").write_text("algorithm: kmeans\nclusters: 3\n")
    document = up.json("drop", "digits.csv", "--recipe", "broken.yaml", "--wait", code=1)
    assert document["status"] == "FAILED"
    assert document["error"] == "InvalidRecipe"
    assert "line 2: unknown key 'clusters'" in document["cause"]
    assert document["leases"] == []
    assert document["cause"] in up.run("show", document["run_id"])


def test_what_is_not_there(up: Up) -> None:
    assert "there is no run kmeans-0 in stack dropmill-local" in up.run("show", "kmeans-0", code=2)
    assert "there is no stack 'elsewhere' at http" in up.run("runs", "--stack", "elsewhere", code=2)
    assert "there is no stack 'dropmill-local' at http" in up.run("runs", "--region", "eu-west-1", code=2)
    assert "can't name a recipe" in up.run("drop", "digits.csv", "--recipe", "K Means", code=2)
