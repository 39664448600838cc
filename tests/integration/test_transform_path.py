"""Evaluation by batch transform, beside a champion, in rounds, and endpoints that are kept: whole workflows.

Each test asks SageMaker itself, not the ledger, what is there.
"""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from localaws.server import CallError

TRANSFORM_EVENT = "SageMaker Transform Job State Change"
RECIPES = {
    "binary": "algorithm: linear-learner\ndata: {positive: 2}\nhyperparameters: {epochs: 3, num_models: 2}\n",
    "classes": "algorithm: linear-learner\nhyperparameters: {epochs: 3, num_models: 2}\n",
    "regression": "algorithm: linear-learner\n"
    "hyperparameters: {predictor_type: regressor, epochs: 3, num_models: 2, mini_batch_size: 50}\n",
    "clusters": "algorithm: kmeans\n",
    "neighbours": "algorithm: knn\nhyperparameters: {k: 5}\n",
    "machines": "algorithm: factorization-machines\ndata: {positive: 2}\n"
    "hyperparameters: {num_factors: 4, epochs: 5, mini_batch_size: 50}\n",
}
TRANSFORMED = "evaluation: {with: transform}\n"


def rows(count: int, seed: int) -> bytes:
    """A labelled CSV of groups of points that overlap, so that no metric is perfect."""
    random = np.random.default_rng(seed)
    labels = random.permutation(np.arange(count) % 3)
    features = random.normal(size=(count, 4)) + 1.5 * labels[:, None]
    lines = [
        ",".join([*(f"{value:.4f}" for value in row), str(label)]) for row, label in zip(features, labels, strict=True)
    ]
    return "\n".join(["a,b,c,d,label", *lines, ""]).encode()


@pytest.fixture(autouse=True)
def leaves_nothing(stand: Any) -> Iterator[None]:
    yield
    stand.assert_nothing_left()


def ended_well(stand: Any, key: str) -> str:
    run: str = stand.run_of(key)
    assert stand.wait_for_end(run)["detail"]["status"] == "SUCCEEDED", stand.record(run)["cause"]
    return run


def succeeded(stand: Any, recipe: str, body: bytes | None = None) -> str:
    return ended_well(stand, stand.drop(recipe, body))


def document(stand: Any, run: str, name: str) -> dict[str, Any]:
    body = stand.client("s3").get_object(Bucket=stand.artifact_bucket, Key=f"runs/{run}/{name}.json")["Body"].read()
    return dict(json.loads(body))


def report(stand: Any, run: str) -> str:
    answer = stand.client("s3").get_object(Bucket=stand.artifact_bucket, Key=f"runs/{run}/report.html")
    text: str = answer["Body"].read().decode()
    return text


def leases(stand: Any, run: str) -> dict[str, dict[str, Any]]:
    return {lease["step"]: lease for lease in stand.record(run)["leases"]}


@pytest.mark.parametrize("kind", RECIPES)
def test_a_transform_finds_the_metrics_of_an_endpoint(stand: Any, kind: str) -> None:
    body = rows(600, seed=len(kind))
    stand.recipe(f"{kind}-asked", RECIPES[kind])
    stand.recipe(f"{kind}-transformed", RECIPES[kind] + TRANSFORMED)
    with stand.cloud.hooks.before("sagemaker.CreateTransformJob", lambda call: None) as hook:
        keys = [stand.drop(f"{kind}-{served}", body) for served in ("asked", "transformed")]
        asked, transformed = (ended_well(stand, key) for key in keys)
    one, two = (document(stand, run, "metrics") for run in (asked, transformed))
    assert one == two
    assert one["rows"] > 30

    (call,) = hook.calls
    assert call.request["TransformInput"]["ContentType"] == "application/x-recordio-protobuf"
    assert call.request["TransformInput"]["SplitType"] == "RecordIO"
    assert call.request["TransformOutput"]["Accept"] == "application/jsonlines"
    assert call.request["TransformOutput"]["AssembleWith"] == "Line"
    held = leases(stand, transformed)
    assert {step: lease["state"] for step, lease in held.items()} == {
        "training": "closed",
        "transform": "closed",
        "model": "closed",
    }
    assert held["transform"]["billable_seconds"] >= 1
    assert call.request["TransformJobName"] in report(stand, transformed)


def test_sparse_rows_are_transformed_sparse(stand: Any) -> None:
    """Thousands of columns with few values: the test part is sparse, and labelled."""
    random = np.random.default_rng(9)
    lines = []
    for number in range(500):
        label = number % 2
        columns = np.unique(np.concatenate((random.integers(1, 40, 3) + 40 * label, random.integers(100, 60_000, 4))))
        lines.append(f"{label} " + " ".join(f"{column}:{random.normal() + 2:.3f}" for column in columns))
    body = "\n".join([*lines, ""]).encode()
    recipe = "algorithm: factorization-machines\nhyperparameters: {num_factors: 4, epochs: 5, mini_batch_size: 50}\n"
    stand.recipe("sparse-asked", recipe)
    stand.recipe("sparse-transformed", recipe + TRANSFORMED)
    keys = [stand.drop(name, body, "points.libsvm") for name in ("sparse-asked", "sparse-transformed")]
    asked, transformed = (ended_well(stand, key) for key in keys)
    plan = document(stand, transformed, "plan")
    assert plan["layout"]["sparse_columns"] is not None
    assert document(stand, asked, "metrics") == document(stand, transformed, "metrics")


def champion_of(stand: Any, recipe: str) -> dict[str, Any]:
    item = stand.client("dynamodb").get_item(
        TableName=stand.stack.outputs["LedgerTable"],
        Key={"pk": {"S": f"CHAMPION#{recipe}"}, "sk": {"S": "META"}},
        ConsistentRead=True,
    )["Item"]
    return {**json.loads(item["champion"]["S"]), "version": int(item["version"]["N"])}


@pytest.mark.parametrize("served", ["", TRANSFORMED], ids=["endpoint", "transform"])
def test_a_champion_is_asked_about_the_same_rows(stand: Any, served: str) -> None:
    recipe = "rivals-transformed" if served else "rivals-asked"
    stand.recipe(recipe, RECIPES["classes"] + served)
    body = rows(600, seed=11)
    first = succeeded(stand, recipe, body)
    champion = champion_of(stand, recipe)
    assert champion["run_id"] == first
    second = succeeded(stand, recipe, body)

    metrics = document(stand, second, "metrics")
    assert metrics["champion"] == {
        "package": champion["package"],
        "run_id": first,
        "metrics": document(stand, first, "metrics")["metrics"],
    }
    assert metrics["champion"]["metrics"] == metrics["metrics"], "the same rows, the same model"
    assert champion_of(stand, recipe)["run_id"] == first, "an equal model is no better one"
    held = leases(stand, second)
    expected = {"training", "model", "champion-model"} | (
        {"transform", "champion-transform"} if served else {"endpoint-config", "endpoint"}
    )
    assert held.keys() == expected
    assert {lease["state"] for lease in held.values()} == {"closed"}
    page = report(stand, second)
    assert "Against the champion" in page
    assert champion["package"] in page
    assert first in page


def test_a_champion_of_other_columns_is_not_compared(stand: Any) -> None:
    recipe = "other-columns"
    stand.recipe(recipe, RECIPES["classes"])
    first = succeeded(stand, recipe, rows(300, seed=12))
    narrow = b"\n".join(line.partition(b",")[2] for line in rows(300, seed=12).splitlines())
    second = succeeded(stand, recipe, narrow)
    assert champion_of(stand, recipe)["run_id"] == first
    metrics = document(stand, second, "metrics")
    assert metrics["champion"] is None
    assert metrics["incomparable"] == "the champion takes 4 features, this model 3"
    assert "champion-model" not in leases(stand, second)
    assert metrics["incomparable"] in report(stand, second)


def moves_champion(stand: Any, recipe: str) -> None:
    """What a run that was faster does: the same package once more, under the next version."""
    champion = champion_of(stand, recipe)
    champion["version"] += 1
    stand.client("dynamodb").update_item(
        TableName=stand.stack.outputs["LedgerTable"],
        Key={"pk": {"S": f"CHAMPION#{recipe}"}, "sk": {"S": "META"}},
        UpdateExpression="SET version = :version, champion = :champion",
        ExpressionAttributeValues={
            ":version": {"N": str(champion["version"])},
            ":champion": {"S": json.dumps(champion)},
        },
    )


def easy(count: int, seed: int) -> bytes:
    """Rows like those of `rows`, but of groups so far apart that any model is better on them."""
    random = np.random.default_rng(seed)
    labels = random.permutation(np.arange(count) % 3)
    features = random.normal(size=(count, 4)) + 9 * labels[:, None]
    lines = [
        ",".join([*(f"{value:.4f}" for value in row), str(label)]) for row, label in zip(features, labels, strict=True)
    ]
    return "\n".join(["a,b,c,d,label", *lines, ""]).encode()


@pytest.mark.parametrize("served", ["", TRANSFORMED], ids=["endpoint", "transform"])
def test_a_champion_that_moves_is_compared_with_anew(stand: Any, served: str) -> None:
    recipe = "moving-transformed" if served else "moving-asked"
    stand.recipe(recipe, RECIPES["classes"] + served)
    first = succeeded(stand, recipe, rows(600, seed=13))
    moved: list[str] = []

    def move_once(call: Any) -> None:
        if not moved:
            moved.append(call.request["ModelPackageGroupName"])
            moves_champion(stand, recipe)

    with stand.cloud.hooks.before("sagemaker.CreateModelPackage", move_once):
        second = succeeded(stand, recipe, easy(600, seed=14))
    assert len(moved) == 1
    champion = champion_of(stand, recipe)
    assert (champion["run_id"], champion["version"]) == (second, 3)
    held = leases(stand, second)
    attempts = {step: lease["attempt"] for step, lease in held.items()}
    again = {"model": 2, "champion-model": 2}
    if served:
        # The run's own answers are paid for once.
        assert attempts == {"training": 1, "transform": 1, "champion-transform": 2, **again}
    else:
        assert attempts == {"training": 1, "endpoint-config": 2, "endpoint": 2, **again}
    assert {lease["state"] for lease in held.values()} == {"closed"}
    assert document(stand, second, "metrics")["champion"]["run_id"] == first
    assert len(stand.notifications(second)) == 1
    assert stand.open_rows(second) == []


def test_a_champion_that_keeps_moving_ends_the_run(stand: Any) -> None:
    recipe = "restless"
    stand.recipe(recipe, RECIPES["classes"] + TRANSFORMED)
    succeeded(stand, recipe, rows(300, seed=15))
    with stand.cloud.hooks.before("sagemaker.DescribeModelPackage", lambda call: moves_champion(stand, recipe)):
        run = stand.run_of(stand.drop(recipe, easy(300, seed=16)))
        assert stand.wait_for_end(run)["detail"]["status"] == "FAILED"
    record = stand.record(run)
    assert record["error"] == "ChampionMoved"
    assert "drop the file again" in record["cause"]
    assert leases(stand, run)["champion-model"]["attempt"] == 5
    assert stand.open_rows(run) == []


def test_a_late_invocation_of_an_earlier_round_makes_nothing(stand: Any) -> None:
    """Lambda may run what it was asked a minute ago, when the workflow is a round further."""
    recipe = "late"
    stand.recipe(recipe, RECIPES["classes"])
    succeeded(stand, recipe, rows(300, seed=17))
    moved: list[bool] = []
    late: list[Any] = []

    def move_once(call: Any) -> None:
        if not moved:
            moved.append(True)
            moves_champion(stand, recipe)

    def invoke_late(call: Any) -> None:
        if moved and not late:
            run = stand.cloud.client("sagemaker").list_tags(
                ResourceArn=f"arn:aws:sagemaker:us-east-1:123456789012:endpoint/{call.request['EndpointName']}"
            )["Tags"]
            late.append(
                stand.client("lambda")
                .invoke(
                    FunctionName=stand.function("deploy_endpoint"),
                    Payload=json.dumps(
                        {
                            "run_id": next(tag["Value"] for tag in run if tag["Key"] == "dropmill:run"),
                            "task_token": "of-the-first-round",
                            "model": "model",
                            "round": 1,
                        }
                    ),
                )["Payload"]
                .read()
            )

    hooks = stand.cloud.hooks
    with (
        hooks.before("sagemaker.CreateModelPackage", move_once),
        hooks.after("sagemaker.CreateEndpoint", invoke_late),
    ):
        run = succeeded(stand, recipe, easy(300, seed=18))
    assert json.loads(late[0])["errorType"] == "StillClosing"
    assert leases(stand, run)["endpoint"]["attempt"] == 2
    assert stand.open_rows(run) == []


def test_the_answers_of_a_failed_transform_are_told_plainly(stand: Any) -> None:
    recipe = "broken-transform"
    stand.recipe(recipe, RECIPES["clusters"] + TRANSFORMED)
    with stand.cloud.sagemaker.gates.hold("transform") as gate:
        run = stand.run_of(stand.drop(recipe))
        assert gate.reached(60)
        s3 = stand.client("s3")
        for item in s3.list_objects_v2(Bucket=stand.artifact_bucket, Prefix=f"work/{run}/test/")["Contents"]:
            s3.put_object(Bucket=stand.artifact_bucket, Key=item["Key"], Body=b"not recordIO at all")
    assert stand.wait_for_end(run)["detail"]["status"] == "FAILED"
    record = stand.record(run)
    assert record["error"] == "JobFailed"
    assert "transform job" in record["cause"]
    assert "TransformJobs" in record["cause"], "the link to the log"
    assert stand.open_rows(run) == []


def test_a_transform_stopped_by_hand_is_told_plainly(stand: Any) -> None:
    recipe = "stopped-transform"
    stand.recipe(recipe, RECIPES["clusters"] + TRANSFORMED)
    sagemaker = stand.client("sagemaker")
    with stand.cloud.sagemaker.gates.hold("transform") as gate:
        run = stand.run_of(stand.drop(recipe))
        assert gate.reached(60)
        (job,) = sagemaker.list_transform_jobs(StatusEquals="InProgress")["TransformJobSummaries"]
        sagemaker.stop_transform_job(TransformJobName=job["TransformJobName"])
        assert stand.wait_for_end(run)["detail"]["status"] == "FAILED"
    record = stand.record(run)
    assert record["error"] == "JobStopped"
    assert "somebody stopped it" in record["cause"]
    assert stand.open_rows(run) == []


def test_an_abort_stops_the_transform(stand: Any) -> None:
    recipe = "aborted-transform"
    stand.recipe(recipe, RECIPES["clusters"] + TRANSFORMED)
    with stand.cloud.sagemaker.gates.hold("transform") as gate:
        run = stand.run_of(stand.drop(recipe))
        assert gate.reached(60)
        stand.client("stepfunctions").stop_execution(executionArn=stand.execution_of(run))
        stand.wait_for(lambda event: is_transform(event, run, "Stopped"))
        stand.wait_for_end(run)
        stand.assert_nothing_left()
    sweep_at(stand, datetime.now(UTC))
    assert stand.record(run)["status"] == "ABORTED"
    assert {lease["state"] for lease in leases(stand, run).values()} == {"closed"}
    assert stand.open_rows(run) == []
    assert len(stand.notifications(run)) == 1


def test_a_launcher_that_dies_after_the_create_call_adopts_the_transform(stand: Any) -> None:
    recipe = "adopted-transform"
    stand.recipe(recipe, RECIPES["clusters"] + TRANSFORMED)
    died: list[int] = []

    def die_once(call: Any) -> None:
        if not died:
            died.append(stand.cloud.lambdas.kill(stand.function("launch_transform")))

    with stand.cloud.hooks.after("sagemaker.CreateTransformJob", die_once) as hook:
        run = succeeded(stand, recipe)
    assert died == [1]
    assert len(hook.calls) == 1, "the create call was made once, and adopted"
    assert stand.open_rows(run) == []


def test_a_lost_event_of_a_transform_costs_minutes(stand: Any) -> None:
    recipe = "lost-transform"
    stand.recipe(recipe, RECIPES["clusters"] + TRANSFORMED)
    with stand.cloud.events.drop(lambda event: bool(event["detail-type"] == TRANSFORM_EVENT)):
        run = stand.run_of(stand.drop(recipe))
        stand.wait_for(lambda event: is_transform(event, run, "Completed"))
        sweep_at(stand, datetime.now(UTC))
        assert stand.wait_for_end(run)["detail"]["status"] == "SUCCEEDED"
    assert stand.open_rows(run) == []


def is_transform(event: dict[str, Any], run: str, status: str) -> bool:
    if event["detail-type"] != TRANSFORM_EVENT:
        return False
    detail = event["detail"]
    return bool(detail["Tags"]["dropmill:run"] == run and detail["TransformJobStatus"] == status)


def sweep_at(stand: Any, moment: datetime, sweepers: int = 1) -> None:
    """Run some sweepers at once, which take it to be that moment."""
    payload = json.dumps({"time": moment.isoformat()})

    def sweep(_: int) -> dict[str, Any]:
        answer = stand.client("lambda").invoke(FunctionName=stand.function("sweep_leases"), Payload=payload)
        return dict(answer)

    with ThreadPoolExecutor(sweepers) as pool:
        for answer in pool.map(sweep, range(sweepers)):
            assert "FunctionError" not in answer, answer["Payload"].read()
    stand.settle()


def endpoints(stand: Any) -> list[str]:
    return [one["EndpointName"] for one in stand.client("sagemaker").list_endpoints()["Endpoints"]]


KEPT = RECIPES["classes"] + "evaluation: {keep_endpoint: 2h}\n"


def test_a_kept_endpoint_is_there_before_its_deadline_and_gone_after(stand: Any) -> None:
    recipe = "kept"
    stand.recipe(recipe, RECIPES["classes"])
    succeeded(stand, recipe, rows(300, seed=21))
    stand.recipe(recipe, KEPT)
    run = succeeded(stand, recipe, rows(300, seed=22))
    (name,) = endpoints(stand)
    (message,) = stand.notifications(run)
    assert f"Endpoint {name} is kept" in message["Message"]
    assert "Nothing billable is left running." not in message["Message"]
    held = leases(stand, run)
    assert {step for step, lease in held.items() if lease["state"] == "created"} == {
        "endpoint",
        "endpoint-config",
        "model",
        "champion-model",
    }
    deadline = datetime.fromisoformat(held["endpoint"]["kept_until"])
    assert 7000 < (deadline - datetime.now(UTC)).total_seconds() <= 7200
    assert "META" not in stand.open_rows(run), "nothing but the leases is left to look after"

    sweep_at(stand, deadline - timedelta(seconds=1), sweepers=2)
    assert endpoints(stand) == [name]
    for _ in range(4):
        answer = stand.client("sagemaker-runtime").invoke_endpoint(
            EndpointName=name, ContentType="text/csv", Accept="application/json", Body=b"1,1,1,1"
        )
        assert json.loads(answer["Body"].read())["predictions"]
        assert answer["InvokedProductionVariant"] == "AllTraffic", "the champion is asked by name only"

    sweep_at(stand, deadline, sweepers=2)
    stand.assert_nothing_left()
    sweep_at(stand, deadline)
    assert stand.open_rows(run) == []
    assert len(stand.notifications(run)) == 1, "its end was told before"


def test_a_run_that_fails_keeps_no_endpoint(stand: Any) -> None:
    stand.recipe("kept-not", KEPT)

    def refuse(call: Any) -> None:
        raise CallError("AccessDeniedException", "not for you")

    with stand.cloud.hooks.before("sagemaker.CreateModelPackage", refuse):
        run = stand.run_of(stand.drop("kept-not"))
        assert stand.wait_for_end(run)["detail"]["status"] == "FAILED"
    sweep_at(stand, datetime.now(UTC))
    stand.assert_nothing_left()
    assert stand.open_rows(run) == []


def test_a_kept_endpoint_of_an_earlier_round_makes_way(stand: Any) -> None:
    recipe = "kept-anew"
    stand.recipe(recipe, RECIPES["classes"])
    succeeded(stand, recipe, rows(300, seed=23))
    stand.recipe(recipe, KEPT)
    moved: list[bool] = []

    def move_once(call: Any) -> None:
        if not moved:
            moved.append(True)
            moves_champion(stand, recipe)

    with stand.cloud.hooks.before("sagemaker.CreateModelPackage", move_once):
        run = succeeded(stand, recipe, easy(300, seed=24))
    kept = leases(stand, run)["endpoint"]
    assert endpoints(stand) == [kept["name"]]
    assert kept["name"].endswith("-ep-2")
    sweep_at(stand, datetime.fromisoformat(kept["kept_until"]))
    sweep_at(stand, datetime.fromisoformat(kept["kept_until"]))
    assert stand.open_rows(run) == []
