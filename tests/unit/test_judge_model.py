"""Verdicts: gates, the champion on the same rows, and who decides."""

from datetime import UTC, datetime
from typing import Any

import pytest

from dropmill.contracts import (
    ChampionMetrics,
    Decision,
    DroppedFile,
    FileFormat,
    JudgeInput,
    Judgement,
    Layout,
    Metrics,
    ObjectVersion,
    Plan,
    Task,
)
from dropmill.errors import ChampionMoved
from dropmill.evaluation.names import DIRECTIONS, Direction
from dropmill.gates import CHAMPION_METRICS, METRICS
from dropmill.recipe import Recipe
from dropmill.steps import judge_model
from dropmill.steps.judge_model import judge

RUN, OTHER = "x-0123456789ab", "x-ba9876543210"
DROP = ObjectVersion(bucket="drops", key="drops/x/x.csv", size=9)
ALGORITHM = {Task.CLUSTERING: "kmeans"}


def plan(task: Task = Task.BINARY, **recipe: Any) -> Plan:
    return Plan(
        run_id=RUN,
        recipe_name="x",
        recipe=Recipe.model_validate({"algorithm": ALGORITHM.get(task, "linear-learner"), **recipe}),
        drop=DROP,
        files=[DroppedFile(source=DROP, name="x.csv")],
        layout=Layout(format=FileFormat.CSV, columns=["a"], feature_columns=[0]),
        task=task,
        hyperparameters={},
        created_at=datetime(2026, 1, 2, tzinfo=UTC),
    )


def judged(
    challenger: dict[str, float],
    other: dict[str, float] | None = None,
    *,
    version: int | None = None,
    run: str = OTHER,
    task: Task = Task.BINARY,
    incomparable: str | None = None,
    **recipe: Any,
) -> Judgement:
    champion = None if other is None else ChampionMetrics(package="arn:champion", run_id=run, metrics=other)
    metrics = Metrics(task=task, metrics=challenger, rows=9, champion=champion, incomparable=incomparable)
    read = (0 if other is None else 7) if version is None else version
    return judge(JudgeInput(run_id=RUN, round=2, champion_version=read), plan(task, **recipe), metrics)


def test_the_first_model_has_nobody_to_beat() -> None:
    found = judged({"f1": 0.1})
    assert (found.verdict, found.reasons) == (Decision.APPROVED, ["there is no champion to beat"])
    assert (found.champion, found.champion_version, found.round) == (None, 0, 2)


@pytest.mark.parametrize("task", list(Task))
def test_each_task_has_a_metric_of_its_own_to_compare_by(task: Task) -> None:
    metric = CHAMPION_METRICS[task]
    assert metric in METRICS[task]
    better, worse = (0.4, 0.3) if DIRECTIONS[metric] is Direction.MAXIMIZE else (0.3, 0.4)
    assert judged({metric: better}, {metric: worse}, task=task).verdict is Decision.APPROVED
    assert judged({metric: worse}, {metric: better}, task=task).verdict is Decision.REJECTED
    assert judged({metric: better}, {metric: better}, task=task).verdict is Decision.REJECTED


def test_the_recipe_s_metric_and_margin_decide() -> None:
    rule = {"metric": "accuracy", "margin": "0.02"}
    close = judged({"f1": 0.9, "accuracy": 0.91}, {"f1": 0.1, "accuracy": 0.9}, champion=rule)
    assert close.verdict is Decision.REJECTED
    assert close.reasons == ["accuracy 0.9100 is 0.0100 better than the champion's 0.9000; 0.02 better is asked for"]
    assert (close.metric, close.margin, close.champion, close.champion_run) == ("accuracy", 0.02, "arn:champion", OTHER)
    assert judged({"accuracy": 0.92}, {"accuracy": 0.9}, champion=rule).verdict is Decision.APPROVED


def test_a_missed_gate_rejects_whoever_is_better_than_the_champion() -> None:
    found = judged({"f1": 0.8, "recall": 0.7}, {"f1": 0.5}, gates={"f1": ">= 0.9", "recall": ">= 0.6"})
    assert found.verdict is Decision.REJECTED
    assert found.reasons == [
        "f1 0.8000 misses >= 0.9",
        "f1 0.8000 beats the champion's 0.5000 by 0.3000",
        "recall 0.7000 meets >= 0.6",
    ]


def test_a_gate_on_what_was_not_measured_is_missed() -> None:
    found = judged({"f1": 0.8}, gates={"roc_auc": "> 0"})
    assert found.verdict is Decision.REJECTED
    assert "was not measured" in found.reasons[0]


def test_a_person_decides_where_the_recipe_says_so_but_not_about_what_fails() -> None:
    waiting = judged({"f1": 0.8}, {"f1": 0.5}, approval="manual", gates={"f1": "> 0.7"})
    assert waiting.verdict is Decision.WAITING
    assert waiting.reasons == [
        "a person decides, as the recipe says (approval: manual)",
        "f1 0.8000 beats the champion's 0.5000 by 0.3000",
        "f1 0.8000 meets > 0.7",
    ]
    assert judged({"f1": 0.8}, approval="manual").verdict is Decision.WAITING
    assert judged({"f1": 0.4}, {"f1": 0.5}, approval="manual").verdict is Decision.REJECTED
    assert judged({"f1": 0.8}, approval="manual", gates={"f1": "> 0.9"}).verdict is Decision.REJECTED


def test_a_champion_that_can_not_be_compared_waits_for_a_person_with_the_reason() -> None:
    found = judged({"f1": 0.8}, version=3, incomparable="it knows other classes")
    assert found.verdict is Decision.WAITING
    assert found.reasons == ["a person decides, because it can't be compared with the champion: it knows other classes"]
    assert judged({"f1": 0.8}, version=3, gates={"f1": "> 0.9"}).verdict is Decision.REJECTED


def test_who_is_the_champion_already_need_not_beat_itself() -> None:
    found = judged({"f1": 0.8}, {"f1": 0.8}, run=RUN, gates={"f1": "> 0.9"})
    assert found.verdict is Decision.APPROVED
    assert found.reasons[0] == "it is the champion already: a person approved it"


def test_what_an_older_round_measured_of_a_champion_does_not_count_without_one() -> None:
    assert judged({"f1": 0.4}, {"f1": 0.5}, version=0).verdict is Decision.APPROVED


def test_metrics_of_another_evaluation_are_not_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lambda may run a call late, when the workflow is a round further."""
    metrics = Metrics(task=Task.BINARY, metrics={"f1": 0.9}, rows=9, champion_version=6)
    documents = {Plan: plan(), Metrics: metrics}
    written: list[Judgement] = []
    monkeypatch.setattr(judge_model, "read_document", lambda model, key: documents[model])
    monkeypatch.setattr(judge_model, "write_document", lambda key, document: written.append(document))
    with pytest.raises(ChampionMoved):
        judge_model.judge_model(JudgeInput(run_id=RUN, round=2, champion_version=7))
    assert written == []
    judge_model.judge_model(JudgeInput(run_id=RUN, round=2, champion_version=6))
    assert len(written) == 1
