"""The largest and longest that Dropmill itself makes stays within what AWS takes. See docs/limits.md."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from dropmill import algorithms, aws, claims, decisions, errors, naming, notifications, packages, requests
from dropmill.contracts import (
    PROBLEMS_MAX,
    BatchRecord,
    Champion,
    ClaimedFiles,
    CreatedModel,
    Decision,
    DroppedFile,
    Evaluation,
    FileFormat,
    InspectedDrop,
    JudgedModel,
    Layout,
    LeaseRecord,
    Metrics,
    ObjectVersion,
    Part,
    PartFile,
    Plan,
    Problem,
    RegisteredModel,
    RunInput,
    RunKind,
    RunRecord,
    RunStatus,
    SealedDataset,
    SealedPart,
    SealedSummary,
    ServedModel,
    Task,
    TornDown,
    TrainedModel,
    TransformedRows,
    listed,
)
from dropmill.data.checks import MAX_COLUMNS
from dropmill.data.shards import SHARDS_MAX
from dropmill.errors import InvalidDrop
from dropmill.recipe import RECIPE_NAME_MAX, parse_recipe
from dropmill.settings import settings
from dropmill.steps import evaluate_model, inspect_drop
from localaws.sagemaker import shapes

KB, MB = 1024, 1024 * 1024
AT = datetime(2026, 1, 2, tzinfo=UTC)
STACK = "s" * 50
RECIPE = "r" * RECIPE_NAME_MAX
KEY = f"drops/{RECIPE}/"
KEY += "\u0001" * (1024 - len(KEY))  # of 1024 bytes, six times as long in JSON
DROP = ObjectVersion(bucket="b" * 63, key=KEY, version_id="v" * 32, size=2**60)
RUN = naming.run_id(RECIPE, DROP.bucket, DROP.key, DROP.version_id, "text", rerun=999_999)
PACKAGE = f"arn:aws-us-gov:sagemaker:ap-southeast-1:123456789012:model-package/{'g' * 63}/999999"
ADDRESS = f"s3://{'b' * 63}/models/{RECIPE}/{RUN}/{'j' * 63}/output/model.tar.gz"
METRICS = dict.fromkeys(
    ("accuracy", "precision", "recall", "f1", "roc_auc", "rmse", "mae", "r2", "msd", "purity", "nmi"),
    -1.2345678901234e-300,
)


@pytest.fixture(autouse=True)
def deployed(monkeypatch: pytest.MonkeyPatch) -> Any:
    for name, value in {
        "STACK_NAME": STACK,
        "ARTIFACT_BUCKET": "b" * 63,
        "AWS_REGION": "us-east-1",
        "CODE_VERSION": "c" * 100,
        "JOB_ROLE_ARN": "arn:aws:iam::123456789012:role/" + "r" * 64,
    }.items():
        monkeypatch.setenv(name, value)
    settings.cache_clear()
    yield
    settings.cache_clear()


def plan(algorithm: str = "linear-learner", more: str = "", classes: int = 0) -> Plan:
    names = [f"{number:0200}" for number in range(classes)] or None
    return Plan(
        run_id=RUN,
        recipe_name=RECIPE,
        recipe=parse_recipe(f"algorithm: {algorithm}\n{more}", RECIPE),
        recipe_version="v" * 32,
        drop=DROP,
        files=[DroppedFile(source=DROP, name="x.csv")],
        layout=Layout(
            format=FileFormat.CSV,
            columns=["a", "label"],
            label_column=1,
            feature_columns=[0],
            classes=names,
            label_values=[float(number) for number in range(classes)] or None,
        ),
        task=Task.MULTICLASS if classes else Task.REGRESSION,
        hyperparameters={},
        created_at=AT,
    )


def dataset(hyperparameters: dict[str, str]) -> SealedDataset:
    part = SealedPart(rows=10**12, size=1, files=[PartFile(key=KEY, rows=1, size=1)])
    return SealedDataset(
        feature_dim=10**9, rows=10**12, parts=dict.fromkeys(Part, part), hyperparameters=hyperparameters
    )


def trained() -> TrainedModel:
    return TrainedModel(
        training_job="j" * 63,
        artifact=ADDRESS,
        tuning_job="j" * 32,
        hyperparameters={f"{number:050}": "x" * 256 for number in range(30)},
        metrics={f"{number:0255}": -1.2345678901234e-300 for number in range(40)},
        billable_seconds=10**9,
    )


# Step Functions


def test_the_largest_state_is_within_256_kb() -> None:
    served = TransformedRows(transform_job="j" * 63, output=ADDRESS, billable_seconds=10**9)
    model = CreatedModel(
        model="m" * 63,
        champion_model="m" * 63,
        champion=PACKAGE,
        champion_version=10**9,
        champion_run=RUN,
        champion_algorithm="factorization-machines",
        incomparable="x" * 200,
        endpoint=ServedModel(endpoint="e" * 63),
        transform=served,
        champion_transform=served,
    )
    state = {
        **RunInput(run_id=RUN, recipe=RECIPE, recipe_version="v" * 1024, drop=DROP).model_dump(mode="json"),
        "inspection": InspectedDrop(
            shards=list(range(SHARDS_MAX)),
            tuned=True,
            training_timeout=10**9,
            task=Task.MULTICLASS,
            feature_dim=10**9,
            concurrency=40,
        ).model_dump(mode="json"),
        "dataset": SealedSummary(rows=10**15, feature_dim=10**9, classes=10**6).model_dump(mode="json"),
        "training": trained().model_dump(mode="json"),
        "model": model.model_dump(mode="json"),
        "evaluation": Evaluation(metrics=METRICS, report=ADDRESS, rows=10**15).model_dump(mode="json"),
        "torn_down": TornDown(open_leases=10**6).model_dump(mode="json"),
        "judgement": JudgedModel(verdict=Decision.REJECTED, reasons=["x" * 500] * 50).model_dump(mode="json"),
        "registered": RegisteredModel(package=PACKAGE, verdict=Decision.REJECTED, champion=True).model_dump(
            mode="json"
        ),
    }
    assert len(json.dumps(state)) < 256 * KB / 2
    claimed = ClaimedFiles(claimed=10**6, shards=list(range(SHARDS_MAX)), concurrency=40)
    assert len(claimed.model_dump_json()) < 256 * KB / 2


def test_a_thousand_shards_leave_room_in_the_history(root: Path = Path(__file__).parents[2]) -> None:
    """Seven events tell of a shard that goes well, and three more of each retry."""
    of_a_shard, of_a_retry, most = 7, 3, 25_000
    definition = json.loads((root / "statemachine" / "train.asl.json").read_text())
    (state,) = definition["States"]["Convert Shards"]["ItemProcessor"]["States"].values()
    throttled, *others = state["Retry"]
    assert throttled["ErrorEquals"] == ["Lambda.TooManyRequestsException"]
    # Every shard once more than it should take, and four times because Lambda throttled it.
    tried = sum(rule["MaxAttempts"] for rule in others[1:]) + 4
    assert SHARDS_MAX * (of_a_shard + of_a_retry * tried) + 500 <= most


@pytest.mark.parametrize("letter", ["x", "\u00e9", "\U0001f600", "\u0001", '"'])
def test_the_largest_refusal_is_within_a_cause(letter: str) -> None:
    name = letter * (1024 // len(letter.encode()))
    problems = [Problem(file=name, row=10**12, column=letter * 40, rule="x" * 300).words for _ in range(PROBLEMS_MAX)]
    raised = InvalidDrop(f"{name} can't be used:\n", listed(problems))
    document = {
        "errorMessage": str(raised),
        "errorType": "InvalidDrop",
        "requestId": "0" * 36,
        "stackTrace": ["x" * 200] * 15,
    }
    assert len(json.dumps(document)) <= 32_768
    assert len(json.dumps(str(InvalidDrop(letter * 10**6)))) <= errors.MESSAGE_MAX + 100


def test_an_ordinary_refusal_is_told_whole() -> None:
    text = "é" * 2000 + "x" * 10_000
    assert str(InvalidDrop(text)) == text
    assert str(InvalidDrop("x" * 24_001)) == "x" * 24_000 + errors.CUT


# The ledger


def test_the_largest_champion_is_within_an_item() -> None:
    for letter in ("x", "\u0001", '"', "\U0001f600"):
        layout = plan(classes=3).layout.model_copy(update={"classes": [letter * 900 for _ in range(500)]})
        with pytest.raises(InvalidDrop, match="give them shorter names"):
            decisions.check_class_names(layout, "x.csv")
    most = decisions.CLASS_NAMES_BYTES_MAX
    names = ["\u0001" * (most // 60 // 6 - 1) for _ in range(60)]
    decisions.check_class_names(layout.model_copy(update={"classes": names}), "x.csv")
    champion = Champion(
        recipe=RECIPE,
        version=10**9,
        package=PACKAGE,
        run_id=RUN,
        algorithm="factorization-machines",
        task=Task.MULTICLASS,
        feature_dim=10**9,
        classes=names,
        artifact=ADDRESS,
        moved_at=AT,
    )
    assert len(champion.model_dump_json().encode()) < 400 * KB / 2


def test_the_longest_claim_is_a_key_and_a_transaction_holds_as_many_as_it_is_given() -> None:
    key = claims._key(DROP)
    assert len(key["pk"].encode()) <= 2048
    assert len(claims._note_key(RUN, DROP)["sk"].encode()) <= 1024
    row = len(DROP.model_dump_json().encode()) + len(RUN) + 200
    assert claims.CLAIMED_AT_ONCE * (2 * row + len(key["pk"].encode()) + 1024) < 4 * MB
    assert 2 * claims.CLAIMED_AT_ONCE + 1 <= 100


# SageMaker


def test_the_longest_requests_are_taken() -> None:
    ranges = "".join(f"    {name}: {{continuous: [{'0' * 200}.1, 1]}}\n" for name in ("wd", "l1", "learning_rate"))
    tuned = plan(more=f"tuning:\n  objective: validation:objective_loss\n  max_jobs: 750\n  ranges:\n{ranges}")
    assert tuned.recipe.tuning is not None
    name = "n" * naming.SAGEMAKER_NAME_MAX
    rows = dataset({f"{number}" * 30: "x" * 2500 for number in range(8)})
    for operation, request in (
        ("CreateTrainingJob", requests.training_request(tuned, rows, name)),
        ("CreateHyperParameterTuningJob", requests.tuning_request(tuned, tuned.recipe.tuning, rows, name)),
        ("CreateModel", requests.model_request(RUN, "kmeans", ADDRESS, name)),
        ("CreateEndpointConfig", requests.endpoint_config_request(tuned, name, name, champion=name)),
        ("CreateEndpoint", requests.endpoint_request(tuned, name, name)),
    ):
        shapes.check(operation, request)


@pytest.mark.parametrize("algorithm", algorithms.ALGORITHMS)
def test_the_largest_model_package_is_taken(algorithm: str) -> None:
    group = f"arn:aws:sagemaker:us-east-1:123456789012:model-package-group/{naming.package_group(STACK, RECIPE)}"
    sealed = dataset({f"{number:0100}": "\u0001" * 2500 for number in range(60)})
    judged = Metrics(task=Task.REGRESSION, metrics=METRICS, rows=10**15)
    request = packages.package_request(plan(algorithm), sealed, trained(), judged, group)
    shapes.check("CreateModelPackage", request)
    more = {"verdict", "judged_against"}  # are added when it is judged
    assert len(request["CustomerMetadataProperties"].keys() | more) <= 50


def test_a_stack_whose_name_is_too_long_is_told_before_anything_costs_money(monkeypatch: pytest.MonkeyPatch) -> None:
    inspect_drop._check_stack(RECIPE)
    monkeypatch.setenv("STACK_NAME", "s" * 51)
    settings.cache_clear()
    with pytest.raises(errors.InvalidRecipe, match=r"is too long .* it may have 50 letters; deploy it under a shorter"):
        inspect_drop._check_stack(RECIPE)


def test_the_widest_rows_fit_a_request_to_an_endpoint() -> None:
    row = 4 * MAX_COLUMNS + 100
    answer = evaluate_model._ANSWER_BYTES + evaluate_model._NUMBER_BYTES * 1000
    assert max(row, answer) <= evaluate_model.REQUEST_BYTES_MAX <= 6 * MB


# Notifications


def records() -> list[RunRecord]:
    leases = [
        LeaseRecord(
            step="champion-transform",
            kind="transform-job",
            name="n" * 63,
            state="closing",
            attempt=99,
            billable_seconds=10**9,
            log="https://" + "x" * 2000,
        )
    ] * 8
    batch = BatchRecord(
        manifest=ADDRESS,
        model_package=PACKAGE,
        training_run=RUN,
        files=10**12,
        rows=10**18,
        set_aside=10**12,
        reasons=["\U0001f600" * 20_000] * PROBLEMS_MAX,
        rules=["\U0001f600" * 20_000] * PROBLEMS_MAX,
    )
    return [
        RunRecord(
            run_id=RUN,
            kind=kind,
            recipe=RECIPE,
            drop=DROP,
            status=status,
            started_at=AT,
            ended_at=AT,
            seconds=1e9,
            algorithm="factorization-machines",
            error=error,
            cause="\U0001f600" * 32_768,
            metrics=METRICS,
            report=ADDRESS,
            verdict=verdict,
            reasons=["x" * 500] * 50,
            package=PACKAGE,
            champion_run=RUN,
            champion_metrics=METRICS,
            batch=batch if kind is RunKind.SCORING else None,
            leases=leases,
        )
        for kind in RunKind
        for status in RunStatus
        if status is not RunStatus.RUNNING
        for error in (None, "InvalidDrop")
        for verdict in (None, *Decision)
    ]


def test_the_largest_notification_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[dict[str, Any]] = []

    class Topic:
        def publish(self, **request: Any) -> None:
            sent.append(request)

    monkeypatch.setenv("NOTIFICATION_TOPIC_ARN", "arn:aws:sns:us-east-1:123456789012:topic")
    monkeypatch.setattr(aws, "sns", Topic)
    settings.cache_clear()
    for record in records():
        notifications.announce(record)
    assert len(sent) == len(records())
    for request in sent:
        assert re.fullmatch(r"[ -~]{1,99}", request["Subject"])
        attributes = sum(len(name) + len(json.dumps(value)) for name, value in request["MessageAttributes"].items())
        assert len(request["Message"].encode()) + attributes <= 256 * KB
    assert any(request["Message"].endswith("... The rest is in the run's record.") for request in sent)
