"""Registered models on the command line: how they are shown, and what can't be decided."""

import io
from datetime import UTC, datetime
from pathlib import Path

import pytest
from botocore.exceptions import ClientError
from rich.console import Console

from dropmill import aws, champions, ledger
from dropmill.contracts import Champion, Decision, Metrics, ObjectVersion, RunStatus, Task
from dropmill.ledger import Run
from dropmill_cli import models, show
from dropmill_cli.errors import CommandError
from dropmill_cli.models import ModelLine
from dropmill_cli.runs import RunDocument
from dropmill_cli.stack import Stack

RUN = "digits-0123456789ab"
MADE = datetime(2026, 1, 2, tzinfo=UTC)
STACK = Stack("dropmill-test", "http://127.0.0.1:1", "drops", "artifacts", "arn")


def line(**more: object) -> ModelLine:
    known = {
        "recipe": "digits",
        "version": 2,
        "champion": True,
        "status": "Approved",
        "run_id": RUN,
        "algorithm": "linear-learner",
        "metrics": {"accuracy": "0.93", "f1": "0.9", "recall": "0.8"},
        "verdict": "approved",
        "reason": "f1 0.9 beats the champion's 0.8 by 0.1",
        "created_at": MADE,
        "package": "arn:package",
    }
    return ModelLine.model_validate({**known, **more})


def printed(*pieces: object, width: int = 160) -> str:
    file = io.StringIO()
    out = Console(file=file, width=width, markup=False, highlight=False, emoji=False)
    for piece in pieces:
        out.print(piece)
    return file.getvalue()


def test_the_champion_is_marked_and_the_reason_said() -> None:
    page = printed(show.models_table([line(), line(version=1, champion=False, status="Rejected", reason=None)]))
    _, first, second = page.splitlines()
    assert "champion " in first
    assert "f1 0.9, accuracy 0.93" in first
    assert "f1 0.9 beats the champion's 0.8 by 0.1" in first
    assert "Rejected" in second
    assert "champion" not in second


def test_run_ids_stay_whole_in_a_narrow_terminal() -> None:
    assert RUN in printed(show.models_table([line()]), width=80)


def test_what_somebody_wrote_into_the_registry_can_not_steer_a_terminal() -> None:
    page = printed(show.models_table([line(reason="a\x1b[2Jb", run_id="x\u202ey")]))
    assert "\x1b" not in page
    assert "\u202e" not in page


def test_a_run_s_page_says_the_verdict_and_the_champion_s_metrics() -> None:
    document = RunDocument(
        run_id=RUN,
        status=RunStatus.SUCCEEDED,
        recipe="digits",
        drop="s3://drops/x",
        started_at=MADE,
        verdict=Decision.WAITING,
        reasons=["a person decides"],
        package="arn:package",
    )
    metrics = Metrics.model_validate(
        {
            "task": Task.BINARY,
            "metrics": {"f1": 0.9, "recall": 0.8},
            "rows": 4,
            "champion": {"package": "arn:other", "run_id": RUN, "metrics": {"f1": 0.85}},
        }
    )
    page = printed(*show.results(document, metrics))
    assert "Verdict: waiting\n  a person decides\n" in page
    assert f"dropmill approve {RUN}" in page
    assert "Champion" in page
    assert "0.8500" in page


@pytest.mark.parametrize("recipe", ["Digits", "../x", "a" * 41, ""])
def test_what_is_no_recipe_s_name(recipe: str) -> None:
    with pytest.raises(CommandError, match="is not a recipe's name"):
        models.list_models(STACK, recipe, 10)


@pytest.mark.usefixtures("ledger_table")
def test_a_run_without_a_model_has_nothing_to_decide() -> None:
    drop = ObjectVersion(bucket="drops", key="drops/digits/x.csv", size=9)
    ledger.open_run(Run(run_id=RUN, recipe="digits", drop=drop, execution_arn="arn", started_at=1))
    with pytest.raises(CommandError, match=f"run {RUN} has no model in the registry"):
        models.decide(STACK, RUN, "Approved", "why")
    with pytest.raises(CommandError, match="there is no run"):
        models.decide(STACK, "digits-ba9876543210", "Approved", "why")
    with pytest.raises(CommandError, match="is not a run id"):
        models.decide(STACK, str(Path("..") / "x"), "Approved", "why")


@pytest.mark.usefixtures("ledger_table")
def test_a_champion_whose_package_was_deleted_can_be_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    package = "arn:aws:sagemaker:us-east-1:123456789012:model-package/dropmill-test-digits/1"
    champion = Champion(
        recipe="digits",
        version=1,
        package=package,
        run_id=RUN,
        algorithm="kmeans",
        task=Task.CLUSTERING,
        feature_dim=2,
        artifact="s3://a/b",
        moved_at=MADE,
    )

    class Registry:
        def describe_model_package(self, **_: str) -> None:
            raise ClientError({"Error": {"Code": "ValidationException", "Message": "does not exist"}}, "Describe")

    monkeypatch.setattr(aws, "sagemaker", Registry)
    with pytest.raises(CommandError, match="there is no model package"):
        models.decide(STACK, package, "Rejected", "it is gone")
    assert champions.crown(champion, champions.find_pointer("digits"), None)
    with pytest.raises(CommandError, match="there is no model package"):
        models.decide(STACK, package, "Approved", "it is gone")
    decided = models.decide(STACK, package, "Rejected", "it is gone")
    assert (decided.recipe, decided.run_id, decided.champion) == ("digits", RUN, None)
    assert champions.find_pointer("digits").champion is None
