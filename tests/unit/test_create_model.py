"""Which champion can be put to a run's rows, and what is created for it."""

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from dropmill.champions import Pointer
from dropmill.contracts import (
    BatchPlan,
    Champion,
    DroppedFile,
    FileFormat,
    Layout,
    ModelInput,
    ObjectVersion,
    Plan,
    Task,
)
from dropmill.errors import ChampionMoved
from dropmill.recipe import Recipe
from dropmill.steps import create_model as module
from dropmill.steps.create_model import create_model, incomparable
from dropmill.storage import MissingDocument

NOW = datetime(2026, 1, 1, tzinfo=UTC)
RUN, EARLIER = "digits-0123456789ab", "digits-fedcba987654"


def plan(run: str = RUN, columns: str = "a b label", **more: Any) -> Plan:
    source = ObjectVersion(bucket="drops", key="drops/digits/points.csv", size=10)
    names = columns.split()
    layout = {
        "format": FileFormat.CSV,
        "columns": names,
        "label_column": len(names) - 1,
        "feature_columns": list(range(len(names) - 1)),
        "label_values": [0.0, 1.0],
        "classes": ["no", "yes"],
        **more.pop("layout", {}),
    }
    return Plan(
        run_id=run,
        recipe_name="digits",
        recipe=Recipe.model_validate({"algorithm": "linear-learner", **more.pop("recipe", {})}),
        drop=source,
        files=[DroppedFile(source=source, name="points.csv")],
        layout=Layout.model_validate(layout),
        task=more.pop("task", Task.BINARY),
        hyperparameters={},
        created_at=NOW,
    )


def champion(**changes: Any) -> Champion:
    known: dict[str, Any] = {
        "recipe": "digits",
        "version": 3,
        "package": "arn:aws:sagemaker:us-east-1:123456789012:model-package/digits/2",
        "run_id": EARLIER,
        "algorithm": "knn",
        "task": Task.BINARY,
        "feature_dim": 2,
        "classes": ["no", "yes"],
        "artifact": "s3://b/old.tar.gz",
        "moved_at": NOW,
    }
    return Champion.model_validate({**known, **changes})


@pytest.fixture
def documents(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What lies in the bucket, by key."""
    found: dict[str, Any] = {f"runs/{RUN}/plan.json": plan(), f"runs/{EARLIER}/plan.json": plan(EARLIER)}

    def read(_: object, key: str) -> Any:
        if key not in found:
            raise MissingDocument(key)
        return found[key]

    monkeypatch.setattr(module, "read_document", read)
    return found


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"algorithm": "linear-learner"}, None),
        ({"task": Task.MULTICLASS}, "the champion is a multiclass model, this one a binary model"),
        ({"feature_dim": 3}, "the champion takes 3 features, this model 2"),
        ({"classes": ["yes", "no"]}, "the champion knows other classes than this model"),
        ({"run_id": "digits-that-is-gone"}, None),
    ],
)
def test_a_champion_is_compared_only_with_a_model_like_itself(
    documents: dict[str, Any], changes: dict[str, Any], reason: str | None
) -> None:
    assert incomparable(plan(), champion(**changes)) == reason


@pytest.mark.parametrize(
    ("theirs", "reason"),
    [
        (plan(EARLIER, "b a label"), "other columns"),
        (plan(EARLIER, "0 1 2"), None),
        (plan(EARLIER, recipe={"data": {"scale": "255"}}), "another scale"),
        (plan(EARLIER, "a b y"), None),
    ],
)
def test_a_champion_is_compared_only_on_the_features_that_it_learned_from(
    documents: dict[str, Any], theirs: Plan, reason: str | None
) -> None:
    documents[f"runs/{EARLIER}/plan.json"] = theirs
    said = incomparable(plan(), champion())
    assert said is None if reason is None else reason in str(said)


def test_sparse_rows_are_for_a_champion_that_takes_such(documents: dict[str, Any]) -> None:
    sparse = plan(layout={"columns": [], "feature_columns": [], "label_column": None, "sparse_columns": 2})
    documents[f"runs/{EARLIER}/plan.json"] = sparse
    assert "sparse" in str(incomparable(sparse, champion()))
    assert incomparable(sparse, champion(algorithm="factorization-machines")) is None


def test_clusters_have_no_classes(documents: dict[str, Any]) -> None:
    clusters = plan(task=Task.CLUSTERING, recipe={"algorithm": "kmeans"})
    assert incomparable(clusters, champion(task=Task.CLUSTERING, classes=[], algorithm="kmeans")) is None


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch, documents: dict[str, Any]) -> dict[str, str]:
    """The artifact of each model that was created, by the step of its lease."""
    created: dict[str, str] = {}

    def launch(run: str, recipe: str, step: str, *, create: Any, **_: Any) -> str:
        if step not in created:
            create(step)
        return step

    api = SimpleNamespace(
        create_model=lambda **asked: created.update({asked["ModelName"]: asked["PrimaryContainer"]["ModelDataUrl"]}),
        describe_model=lambda ModelName: {"PrimaryContainer": {"ModelDataUrl": created[ModelName]}},  # noqa: N803  the API's name
    )
    monkeypatch.setattr(module, "launch", launch)
    monkeypatch.setattr(module.aws, "sagemaker", lambda: api)
    monkeypatch.setattr(
        module,
        "model_request",
        lambda run, algorithm, artifact, name: {"ModelName": name, "PrimaryContainer": {"ModelDataUrl": artifact}},
    )
    return created


def points_at(monkeypatch: pytest.MonkeyPatch, found: Champion | None, version: int = 3) -> None:
    monkeypatch.setattr(module, "find_pointer", lambda recipe: Pointer(version, found))


ASKED = ModelInput(run_id=RUN, artifact="s3://b/new.tar.gz")


def test_the_champions_model_stands_beside_the_runs_own(
    monkeypatch: pytest.MonkeyPatch, models: dict[str, str]
) -> None:
    points_at(monkeypatch, champion())
    created = create_model(ASKED)
    assert models == {"model": "s3://b/new.tar.gz", "champion-model": "s3://b/old.tar.gz"}
    assert (created.champion_model, created.champion_algorithm) == ("champion-model", "knn")
    assert (created.champion, created.champion_version, created.champion_run) == (champion().package, 3, EARLIER)


def test_a_champion_that_was_taken_away_is_none(monkeypatch: pytest.MonkeyPatch, models: dict[str, str]) -> None:
    points_at(monkeypatch, None, version=4)
    created = create_model(ASKED)
    assert (created.champion, created.champion_model, created.champion_version) == (None, None, 0)
    assert models.keys() == {"model"}


def test_a_champion_that_can_not_be_compared_has_no_model(
    monkeypatch: pytest.MonkeyPatch, models: dict[str, str]
) -> None:
    points_at(monkeypatch, champion(feature_dim=9))
    created = create_model(ASKED)
    assert (created.champion, created.champion_version, created.champion_model) == (champion().package, 3, None)
    assert created.incomparable == "the champion takes 9 features, this model 2"
    assert models.keys() == {"model"}


def test_a_model_of_the_champion_before_is_not_taken_for_the_champions(
    monkeypatch: pytest.MonkeyPatch, models: dict[str, str]
) -> None:
    """The Lambda died after the create call, and is run again when the champion has moved."""
    points_at(monkeypatch, champion())
    create_model(ASKED)
    points_at(monkeypatch, champion(version=4, artifact="s3://b/newer.tar.gz"))
    with pytest.raises(ChampionMoved, match="changed while its model"):
        create_model(ASKED)


def test_a_batch_is_scored_by_its_champion(documents: dict[str, Any], models: dict[str, str]) -> None:
    documents["work/digits-score-1/batch.json"] = BatchPlan(
        run_id="digits-score-1",
        recipe_name="digits",
        recipe=Recipe(algorithm="knn"),
        champion=champion(),
        files=[],
        readings=[],
        created_at=NOW,
    )
    created = create_model(ModelInput(run_id="digits-score-1"))
    assert models == {"model": "s3://b/old.tar.gz"}
    assert (created.model, created.champion_model) == ("model", None)
