"""A champion served for a while: there until its deadline or until it is taken down, and gone after."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

RECIPE = "algorithm: kmeans\nhyperparameters: {k: 3}\n"
DROPMILL = [sys.executable, "-m", "dropmill_cli.main"]
SLOW_START = 30


def cli(stand: Any, *arguments: str, code: int = 0) -> Any:
    """What a command prints as JSON; the message of one that can't be carried out."""
    done = subprocess.run(
        [*DROPMILL, *arguments, "--endpoint-url", stand.cloud.endpoint_url, "--json"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout) if code == 0 else done.stderr


@pytest.fixture(scope="module")
def champion(stand: Any) -> str:
    """The run whose model is in use."""
    stand.recipe("clusters", RECIPE)
    run: str = stand.run_of(stand.drop("clusters"))
    assert stand.wait_for_end(run)["detail"]["status"] == "SUCCEEDED"
    return run


@pytest.fixture(autouse=True)
def leaves_nothing(stand: Any, champion: str) -> Iterator[None]:
    yield
    stand.assert_nothing_left()


def endpoints(stand: Any) -> list[str]:
    found = stand.client("sagemaker").list_endpoints(StatusEquals="InService")["Endpoints"]
    return [one["EndpointName"] for one in found]


def test_an_endpoint_is_up_until_it_is_taken_down(stand: Any, champion: str) -> None:
    up = cli(stand, "endpoint", "up", "clusters", "--for", "2h")
    assert endpoints(stand) == [up["endpoint"]]
    assert up["trained_by"] == champion
    answer = stand.client("sagemaker-runtime").invoke_endpoint(
        EndpointName=up["endpoint"], ContentType="text/csv", Accept="application/json", Body=b"0,0,0,0\n"
    )
    assert len(json.loads(answer["Body"].read())["predictions"]) == 1
    stand.sweep()
    assert endpoints(stand) == [up["endpoint"]], "its time is not over"
    assert "is up until" in cli(stand, "endpoint", "up", "clusters", "--for", "2h", code=2)
    (line,) = [line for line in cli(stand, "runs") if line["kind"] == "endpoint"]
    assert (line["run_id"], line["status"], line["open_leases"]) == (up["run_id"], "RUNNING", 3)

    shown = cli(stand, "show", up["run_id"])
    assert {lease["step"] for lease in shown["leases"]} == {"model", "endpoint-config", "endpoint"}
    down = cli(stand, "endpoint", "down", "clusters")
    assert (down["endpoints"], down["leaving"]) == ([up["endpoint"]], [])
    stand.assert_nothing_left()
    stand.sweep()
    assert stand.open_rows(up["run_id"]) == []
    record = stand.record(up["run_id"])
    assert (record["kind"], record["status"]) == ("endpoint", "SUCCEEDED")
    (message,) = stand.notifications(up["run_id"])
    assert "was taken down" in message["Subject"]
    assert "no endpoint of clusters is up" in cli(stand, "endpoint", "down", "clusters", code=2)


def test_the_sweeper_takes_an_endpoint_down_at_its_deadline(stand: Any) -> None:
    up = cli(stand, "endpoint", "up", "clusters", "--for", "20m")
    stand.sweep()
    assert endpoints(stand) == [up["endpoint"]]
    stand.cloud.clock.advance(900)
    stand.settle()
    # Two sweepers at once end what one does.
    sweeper = stand.function("sweep_leases")
    event = {"time": stand.cloud.clock.now().isoformat()}
    with ThreadPoolExecutor(2) as pool:
        for answer in pool.map(
            lambda _: stand.client("lambda").invoke(FunctionName=sweeper, Payload=json.dumps(event)), range(2)
        ):
            assert "FunctionError" not in answer
    stand.settle()
    stand.sweep()
    assert stand.open_rows(up["run_id"]) == []
    (message,) = stand.notifications(up["run_id"])
    assert "was taken down" in message["Subject"]


def test_an_interrupted_command_leaves_nothing(stand: Any) -> None:
    with stand.cloud.sagemaker.gates.hold("endpoint") as gate:
        process = subprocess.Popen(
            [*DROPMILL, "endpoint", "up", "clusters", "--for", "1h", "--endpoint-url", stand.cloud.endpoint_url],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        )
        assert gate.reached(SLOW_START)
        process.terminate()
        process.communicate(timeout=30)
        assert process.returncode != 0
    give_up = time.monotonic() + 30
    while stand.client("sagemaker").list_endpoints()["Endpoints"] and time.monotonic() < give_up:
        stand.sweep()
    stand.sweep()


def test_without_a_champion_there_is_nothing_to_serve_or_score(stand: Any) -> None:
    assert "has no champion to serve" in cli(stand, "endpoint", "up", "nobody", "--for", "1h", code=2)
    assert "has no champion to score with" in cli(stand, "score", "nobody", code=2)
    assert "is no duration" in cli(stand, "endpoint", "up", "clusters", "--for", "soon", code=2)
    assert "at most" in cli(stand, "endpoint", "up", "clusters", "--for", "8d", code=2)


def test_a_batch_is_scored_by_hand(stand: Any, champion: str) -> None:
    stand.to_score("clusters", "a.csv", b"a,b,c,d\n0,0,0,0\n6,6,6,6\n")
    done = cli(stand, "score", "clusters", "--wait")
    assert (done["kind"], done["status"], done["open_leases"]) == ("scoring", "SUCCEEDED", 0)
    assert (done["batch"]["rows"], done["batch"]["training_run"]) == (2, champion)
    assert cli(stand, "show", done["run_id"])["batch"] == done["batch"]
    assert any(line["resource"].endswith("-xform-1") for line in cli(stand, "logs", done["run_id"]))
    assert "use: dropmill score clusters" in cli(stand, "rerun", done["run_id"], code=2)
    (line,) = [line for line in cli(stand, "runs") if line["run_id"] == done["run_id"]]
    assert line["note"] == "2 rows of 1 file scored"
    again = cli(stand, "score", "clusters", "--wait")
    assert (again["status"], again["batch"]) == ("SUCCEEDED", None)
