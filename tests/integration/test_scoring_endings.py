"""Every way in which a batch can end: nothing is left, no file is lost, and none is scored twice.

Each test asks SageMaker itself, not the ledger, that nothing billable remains.
"""

import csv
import io
import json
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import pytest

from dropmill.naming import batch_id, predictions_key
from dropmill.runs import PUBLISHING_SECONDS
from localaws.server import CallError

TRANSFORM_EVENT = "SageMaker Transform Job State Change"
RECIPE = """
algorithm: linear-learner
data: {id: name}
hyperparameters: {predictor_type: multiclass_classifier, epochs: 2, num_models: 1}
"""
FILES = count(1)
SECONDS = count(1)


def train(stand: Any, rows: int) -> str:
    lines = [f"{n},{6 * (n % 3) + n % 7 / 10},{(n % 3) - 1},{n % 3}" for n in range(rows)]
    run: str = stand.run_of(stand.drop("shapes", "\n".join(["name,a,b,label", *lines, ""]).encode()))
    assert stand.wait_for_end(run)["detail"]["status"] == "SUCCEEDED"
    return run


@pytest.fixture(scope="module")
def champion(stand: Any) -> str:
    """The run whose model is in use."""
    stand.recipe("shapes", RECIPE)
    return train(stand, 300)


@pytest.fixture(autouse=True)
def leaves_nothing(stand: Any, champion: str) -> Iterator[None]:
    yield
    stand.assert_nothing_left()


def put(stand: Any, rows: int = 9) -> str:
    """Put a file with rows of its own; returns its name."""
    name = f"file-{next(FILES):03}"
    lines = [f"{name}-{n},{6 * (n % 3)},{n % 3 - 1}" for n in range(rows)]
    stand.to_score("shapes", f"{name}.csv", "\n".join(["name,a,b", *lines, ""]).encode())
    return name


def start(stand: Any) -> str:
    """A batch with a name of its own: tests take less than the second that tells those by hand apart."""
    return str(stand.score("shapes", datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=next(SECONDS))))


def ended(stand: Any, batch: str) -> str:
    return str(stand.wait_for_end(batch)["detail"]["status"])


def manifests(stand: Any) -> dict[str, Any]:
    """What every batch that counts has scored."""
    keys = [key for key in stand.artifacts("predictions/shapes/") if key.endswith("/manifest.json")]
    return {key.split("/")[2]: json.loads(stand.artifact(key)) for key in keys}


def scored_by(stand: Any, name: str) -> list[str]:
    """The batches whose manifests have the file."""
    return [
        batch
        for batch, told in manifests(stand).items()
        if any(file["name"] == f"{name}.csv" for file in told["files"])
    ]


def ids_of(stand: Any, batch: str) -> list[str]:
    """The ids of every row that lies beside a batch's manifest."""
    found = []
    for key in stand.artifacts(f"predictions/shapes/{batch}/"):
        if key.endswith(".csv"):
            found += [row["name"] for row in csv.DictReader(io.StringIO(stand.artifact(key).decode()))]
    return found


def ids(name: str, rows: int = 9) -> list[str]:
    return [f"{name}-{n}" for n in range(rows)]


def is_transform(event: dict[str, Any], batch: str, *statuses: str) -> bool:
    return bool(
        event["detail-type"] == TRANSFORM_EVENT
        and event["detail"]["Tags"]["dropmill:run"] == batch
        and event["detail"]["TransformJobStatus"] in statuses
    )


def is_ending(event: dict[str, Any], batch: str, status: str) -> bool:
    detail = event["detail"]
    return bool(event["source"] == "aws.states" and detail["name"] == batch and detail["status"] == status)


def wait_until_announced(stand: Any, batch: str) -> None:
    """Wait until the end of a batch has been dealt with, its message being the last of that."""
    key = {"pk": {"S": f"RUN#{batch}"}, "sk": {"S": "META"}}
    give_up = time.monotonic() + 30
    while time.monotonic() < give_up:
        row = stand.client("dynamodb").get_item(TableName=stand.stack.outputs["LedgerTable"], Key=key)["Item"]
        if "announced" in row:
            return
        time.sleep(0.05)  # no event tells of it
    raise AssertionError(f"the end of {batch} was not announced")


def test_a_batch_leaves_predictions_a_record_and_one_message(stand: Any, champion: str) -> None:
    name = put(stand)
    batch = start(stand)
    assert ended(stand, batch) == "SUCCEEDED"
    told = manifests(stand)[batch]
    assert (told["training_run"], told["rows"], told["task"]) == (champion, 9, "multiclass")
    assert ids_of(stand, batch) == ids(name)
    record = stand.record(batch)
    assert (record["kind"], record["drop"], record["status"]) == ("scoring", None, "SUCCEEDED")
    assert record["batch"]["manifest"].endswith(f"/predictions/shapes/{batch}/manifest.json")
    assert {lease["step"]: lease["state"] for lease in record["leases"]} == {"model": "closed", "transform": "closed"}
    assert stand.open_rows(batch) == []
    (message,) = stand.notifications(batch)
    assert "9 rows of 1 file scored" in message["Subject"]
    assert record["batch"]["manifest"] in message["Message"]
    assert "Nothing billable is left running." in message["Message"]


def test_nothing_new_costs_nothing_and_says_so(stand: Any) -> None:
    with stand.cloud.hooks.before("sagemaker.CreateModel", lambda call: None) as hook:
        batch = start(stand)
        assert ended(stand, batch) == "SUCCEEDED"
    assert hook.calls == []
    assert stand.artifacts(f"predictions/shapes/{batch}/") == []
    (message,) = stand.notifications(batch)
    assert "found nothing new" in message["Subject"]
    assert stand.open_rows(batch) == []


def test_a_newer_version_of_a_file_is_scored_and_the_older_not_again(stand: Any) -> None:
    name = put(stand)
    assert ended(stand, start(stand)) == "SUCCEEDED"
    stand.to_score("shapes", f"{name}.csv", b"name,a,b\nnew,0,0\n")
    batch = start(stand)
    assert ended(stand, batch) == "SUCCEEDED"
    assert ids_of(stand, batch) == ["new"]


def test_files_that_can_not_be_read_cost_no_job(stand: Any) -> None:
    stand.to_score("shapes", "broken.csv", b"name,a\nx,1\n")
    stand.to_score("shapes", "ragged.csv", b"name,a,b\nx,1,2\ny,1\n")
    with stand.cloud.hooks.before("sagemaker.CreateModel", lambda call: None) as hook:
        batch = start(stand)
        assert ended(stand, batch) == "SUCCEEDED"
    assert hook.calls == []
    told = manifests(stand)[batch]
    assert {one["name"] for one in told["set_aside"]} == {"broken.csv", "ragged.csv"}
    assert (told["rows"], told["files"]) == (0, [])
    assert "2 files set aside" in stand.notifications(batch)[0]["Subject"]


def test_without_a_champion_files_wait_and_the_reason_is_told(stand: Any) -> None:
    stand.to_score("nobody", "a.csv", b"name,a,b\nx,1,2\n")
    batch = stand.score("nobody")
    assert ended(stand, batch) == "FAILED"
    record = stand.record(batch)
    assert record["error"] == "NoChampion"
    assert "recipe nobody has no model in use" in record["cause"]
    (message,) = stand.notifications(batch)
    assert record["cause"] in message["Message"]
    table = stand.stack.outputs["LedgerTable"]
    claims = stand.client("dynamodb").scan(TableName=table, ConsistentRead=True)["Items"]
    assert not [item for item in claims if item["pk"]["S"].startswith("CLAIM#scoring/nobody/")]


def test_a_transform_that_fails_gives_its_files_to_the_next_batch(stand: Any) -> None:
    name = put(stand)
    with stand.cloud.sagemaker.gates.hold("transform") as gate:
        batch = start(stand)
        assert gate.reached(60)
        for key in stand.artifacts(f"work/{batch}/rows/"):
            stand.client("s3").put_object(Bucket=stand.artifact_bucket, Key=key, Body=b"not recordIO at all")
    assert ended(stand, batch) == "FAILED"
    record = stand.record(batch)
    assert record["error"] == "JobFailed"
    (message,) = stand.notifications(batch)
    assert record["cause"] in message["Message"]
    assert "the next batch scores the same files" in message["Message"]
    following = start(stand)
    assert ended(stand, following) == "SUCCEEDED"
    assert scored_by(stand, name) == [following]


def test_an_abort_while_the_transform_runs_stops_it(stand: Any) -> None:
    name = put(stand)
    with stand.cloud.sagemaker.gates.hold("transform") as gate:
        batch = start(stand)
        assert gate.reached(60)
        stand.client("stepfunctions").stop_execution(executionArn=stand.execution_of(batch))
        stand.wait_for_end(batch)
    stand.wait_for(lambda event: is_transform(event, batch, "Stopped"))
    stand.settle()
    assert stand.record(batch)["status"] == "ABORTED"
    assert len(stand.notifications(batch)) == 1
    following = start(stand)
    assert ended(stand, following) == "SUCCEEDED"
    assert scored_by(stand, name) == [following]


def test_a_batch_that_runs_out_of_time(stand: Any) -> None:
    name = put(stand)
    machine = stand.stack.outputs["ScoreStateMachineArn"]
    states = stand.client("stepfunctions")
    definition = states.describe_state_machine(stateMachineArn=machine)["definition"]
    states.update_state_machine(
        stateMachineArn=machine, definition=json.dumps({**json.loads(definition), "TimeoutSeconds": 4})
    )
    try:
        with stand.cloud.sagemaker.gates.hold("transform"):
            batch = start(stand)
            assert ended(stand, batch) == "TIMED_OUT"
    finally:
        states.update_state_machine(stateMachineArn=machine, definition=definition)
    stand.settle()
    stand.sweep()
    assert stand.record(batch)["status"] == "TIMED_OUT"
    (message,) = stand.notifications(batch)
    assert "ran out of time" in message["Subject"]
    following = start(stand)
    assert ended(stand, following) == "SUCCEEDED"
    assert scored_by(stand, name) == [following]


def test_a_batch_that_is_started_three_times_runs_once(stand: Any) -> None:
    name = put(stand)
    moment = datetime(2026, 2, 1, 3, tzinfo=UTC)
    batches = {stand.score("shapes", moment) for _ in range(3)}
    (batch,) = batches
    assert ended(stand, batch) == "SUCCEEDED"
    assert stand.score("shapes", moment) == batch
    stand.settle()
    assert scored_by(stand, name) == [batch]
    assert ids_of(stand, batch) == ids(name)
    assert len(stand.notifications(batch)) == 1


def test_sagemaker_events_that_never_come_cost_minutes(stand: Any) -> None:
    put(stand)
    with stand.cloud.events.drop(lambda event: bool(event["source"] == "aws.sagemaker")):
        batch = start(stand)
        stand.wait_for(lambda event: is_transform(event, batch, "Completed"))
        stand.sweep()
        assert ended(stand, batch) == "SUCCEEDED"
    assert stand.record(batch)["status"] == "SUCCEEDED"
    assert len(stand.notifications(batch)) == 1


def test_an_ending_event_that_never_comes_is_noticed_by_the_sweeper(stand: Any) -> None:
    name = put(stand)
    with stand.cloud.events.drop(
        lambda event: event["source"] == "aws.states" and event["detail"]["status"] != "RUNNING"
    ):
        batch = start(stand)
        stand.wait_for_end(batch)
        assert stand.notifications(batch) == []
        assert "META" in stand.open_rows(batch)
        # The predictions count already: no batch takes the file, whoever settles its claim.
        assert ended(stand, start(stand)) == "SUCCEEDED"
        stand.sweep()
        stand.sweep()
    assert scored_by(stand, name) == [batch]
    assert len(stand.notifications(batch)) == 1
    assert stand.open_rows(batch) == []


@pytest.mark.parametrize(
    ("step", "operation"),
    [
        ("claim_files", "dynamodb.TransactWriteItems"),
        ("launch_transform", "sagemaker.CreateTransformJob"),
        ("publish_predictions", "dynamodb.UpdateItem"),
    ],
)
def test_a_lambda_that_dies_half_way_is_run_again(stand: Any, step: str, operation: str) -> None:
    died: list[int] = []

    def die_once(call: Any) -> None:
        if not died:
            died.append(stand.cloud.lambdas.kill(stand.function(step)))
            if not died[0]:
                died.clear()

    name = put(stand)
    with stand.cloud.hooks.after(operation, die_once):
        batch = start(stand)
        assert ended(stand, batch) == "SUCCEEDED"
    assert died == [1]
    assert scored_by(stand, name) == [batch]
    assert ids_of(stand, batch) == ids(name)
    assert len(stand.notifications(batch)) == 1
    assert stand.open_rows(batch) == []


def test_predictions_that_come_after_the_end_do_not_count_and_do_not_stay(stand: Any) -> None:
    """A Lambda that is writing predictions when its batch is aborted goes on for a while."""
    writing, go_on, written = threading.Event(), threading.Event(), threading.Event()
    name = put(stand)
    moment = datetime(2026, 3, 1, tzinfo=UTC)
    key = predictions_key("shapes", batch_id("shapes", moment, by_hand=True), f"{name}.csv-00000.csv")

    def hold(call: Any) -> None:
        writing.set()
        assert go_on.wait(60)

    put_key = f"s3.PUT /{stand.artifact_bucket}/{key}"
    with stand.cloud.hooks.before(put_key, hold), stand.cloud.hooks.after(put_key, lambda _call: written.set()):
        batch = stand.score("shapes", moment)
        assert writing.wait(60)
        stand.client("stepfunctions").stop_execution(executionArn=stand.execution_of(batch))
        stand.wait_for(lambda event: is_ending(event, batch, "ABORTED"))
        wait_until_announced(stand, batch)
        go_on.set()
        assert written.wait(60)
        stand.settle()
    following = start(stand)
    assert ended(stand, following) == "SUCCEEDED"
    assert scored_by(stand, name) == [following]
    assert ids_of(stand, following) == ids(name)
    for _ in range(-(-PUBLISHING_SECONDS // 300)):
        stand.sweep()
    assert stand.artifacts(f"predictions/shapes/{batch}/") == []
    assert stand.open_rows(batch) == []


def test_two_batches_at_once_share_no_file(stand: Any) -> None:
    names = [put(stand, rows=3) for _ in range(12)]
    both = threading.Barrier(2, timeout=30)

    def together(call: Any) -> None:
        # Each batch has listed the same files by now.
        if not both.broken and both.n_waiting < 2 and len(hook.calls) <= 2:
            both.wait()

    with stand.cloud.hooks.before("dynamodb.TransactWriteItems", together) as hook:
        batches = [start(stand), start(stand)]
        assert [ended(stand, batch) for batch in batches] == ["SUCCEEDED", "SUCCEEDED"]
    assert len(hook.calls) >= 2
    assert all(len(scored_by(stand, name)) == 1 for name in names)
    found = [one for batch in batches for one in ids_of(stand, batch)]
    assert sorted(found) == sorted(one for name in names for one in ids(name, 3))


def test_an_execution_started_by_hand_that_never_came_to_write_its_row(stand: Any) -> None:
    def refuse(call: Any) -> None:
        raise CallError("ValidationException")

    batch = "shapes-score-by-hand"
    with stand.cloud.hooks.before("dynamodb.PutItem", refuse):
        stand.client("stepfunctions").start_execution(
            stateMachineArn=stand.stack.outputs["ScoreStateMachineArn"],
            name=batch,
            input=json.dumps({"recipe": "shapes"}),
        )
        stand.wait_for(lambda event: is_ending(event, batch, "FAILED"))
    stand.settle()
    assert stand.record(batch)["status"] == "FAILED"
    assert len(stand.notifications(batch)) == 1


def test_each_manifest_names_the_model_that_was_in_use(stand: Any, champion: str) -> None:
    """A batch scores with the champion as it was when the files were claimed, and the next with the next."""
    challenger = train(stand, 330)
    assert stand.record(challenger)["verdict"] == "rejected", "it is no better"
    package = stand.record(challenger)["package"]
    name = put(stand)
    with stand.cloud.sagemaker.gates.hold("transform") as gate:
        batch = start(stand)
        assert gate.reached(60)
        stand.client("sagemaker").update_model_package(ModelPackageArn=package, ModelApprovalStatus="Approved")
        assert stand.cloud.events.wait_idle(30)
        assert stand.cloud.lambdas.wait_idle(30)
    assert ended(stand, batch) == "SUCCEEDED"
    later = put(stand)
    following = start(stand)
    assert ended(stand, following) == "SUCCEEDED"
    told = manifests(stand)
    assert (scored_by(stand, name), told[batch]["training_run"]) == ([batch], champion)
    assert (scored_by(stand, later), told[following]["training_run"]) == ([following], challenger)
    assert told[following]["model_package"] == package != told[batch]["model_package"]
