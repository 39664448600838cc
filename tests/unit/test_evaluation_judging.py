"""What the judge makes of answers, in whatever batches they arrive."""

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dropmill.algorithms import Predictions
from dropmill.contracts import (
    DroppedFile,
    FileFormat,
    Layout,
    ObjectVersion,
    Part,
    Plan,
    SealedDataset,
    SealedPart,
    Task,
)
from dropmill.data.recordio import SparseMatrix
from dropmill.errors import PredictionFailed
from dropmill.evaluation.judging import MEMBERS_SHOWN, Judged, class_names, judge_for
from dropmill.recipe import Recipe


def plan(
    task: Task,
    values: list[float] | None,
    *,
    positive: str | None = None,
    features: int = 49,
    classes: list[str] | None = None,
) -> Plan:
    return Plan(
        run_id="digits-0123456789ab",
        recipe_name="digits",
        recipe=Recipe.model_validate({"algorithm": "linear-learner", "data": {"positive": positive}}),
        drop=ObjectVersion(bucket="drops", key="drops/digits/points.csv", size=10),
        files=[
            DroppedFile(source=ObjectVersion(bucket="drops", key="drops/digits/points.csv", size=10), name="points.csv")
        ],
        layout=Layout(
            format=FileFormat.CSV,
            columns=[str(index) for index in range(features)],
            feature_columns=list(range(features)),
            label_values=values,
            classes=classes,
        ),
        task=task,
        hyperparameters={},
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


def dataset(features: int = 49, clusters: int = 3) -> SealedDataset:
    return SealedDataset(
        feature_dim=features,
        rows=10,
        parts={Part.TEST: SealedPart(rows=10, size=10, files=[])},
        hyperparameters={"k": str(clusters)},
    )


def judge(
    a_plan: Plan, features: np.ndarray | SparseMatrix, labels, predictions: Predictions, cuts: list[int] | None = None
) -> Judged:
    """The judgement on rows that arrive in batches ending at `cuts`."""
    judging = judge_for(a_plan, dataset(features.shape[1]))
    ends = sorted({*(cuts or []), len(features)} - {0})
    for start, end in zip([0, *ends], ends, strict=False):
        part = replace(predictions, rows=end - start)
        for name in ("predicted_label", "score", "closest_cluster", "distance_to_cluster"):
            values = getattr(predictions, name)
            part = replace(part, **{name: None if values is None else values[start:end]})
        rows = features.take(np.arange(start, end)) if isinstance(features, SparseMatrix) else features[start:end]
        judging.add(rows, None if labels is None else labels[start:end], part)
    return judging.judged()


def pictures(rows: int, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).random((rows, 49), dtype=np.float32)


@settings(max_examples=25)
@given(st.lists(st.integers(1, 39), max_size=5))
def test_a_classifiers_judgement_does_not_depend_on_the_batches(cuts):
    random = np.random.default_rng(4)
    scores = random.random((40, 3))
    answers = Predictions(40, predicted_label=scores.argmax(axis=1).astype(float).tolist(), score=scores.tolist())
    labels = random.integers(0, 3, 40).astype(np.float32)
    whole = judge(plan(Task.MULTICLASS, [1.0, 2.0, 7.5]), pictures(40), labels, answers)
    cut = judge(plan(Task.MULTICLASS, [1.0, 2.0, 7.5]), pictures(40), labels, answers, cuts)
    assert cut.metrics == whole.metrics
    assert cut.names == ["1", "2", "7.5"]
    assert cut.misread[0].captions == whole.misread[0].captions
    assert cut.misread[0].pixels.tolist() == whole.misread[0].pixels.tolist()


def test_misread_rows_come_surest_first():
    scores = [[0.6, 0.4, 0.0], [0.9, 0.1, 0.0], [0.0, 1.0, 0.0]]
    answers = Predictions(3, predicted_label=[0.0, 0.0, 1.0], score=scores)
    found = judge(plan(Task.MULTICLASS, [0.0, 1.0, 2.0]), pictures(3), np.array([1, 1, 1], np.float32), answers)
    (gallery,) = found.misread
    assert gallery.captions == ["1 → 0", "1 → 0"]
    assert gallery.pixels.tolist() == pictures(3)[[1, 0]].tolist()


def test_a_binary_classifiers_mistakes_are_told_apart():
    answers = Predictions(4, predicted_label=[1.0, 0.0, 0.0, 1.0], score=[0.7, 0.2, 0.1, 0.9])
    labels = np.array([0, 1, 1, 1], np.float32)
    found = judge(plan(Task.BINARY, [0.0, 1.0, 2.0], positive="2"), pictures(4), labels, answers)
    assert found.names == ["not 2", "2"]
    assert [(gallery.title, gallery.captions) for gallery in found.misread] == [
        ("'2', but missed", ["0.10", "0.20"]),
        ("Called '2' by mistake", ["0.70"]),
    ]
    assert found.confusion is not None
    assert found.confusion.tolist() == [[0, 1], [2, 1]]


def test_a_negative_value_anywhere_means_that_rows_are_no_images():
    features = pictures(4)
    features[3, 0] = -0.5
    answers = Predictions(4, predicted_label=[0.0] * 4, score=[0.1] * 4)
    found = judge(plan(Task.BINARY, [0.0, 1.0]), features, np.ones(4, np.float32), answers, cuts=[2])
    assert found.misread == []


def test_clusters_tell_size_distance_label_mean_and_members():
    features = pictures(30)
    clusters = [0] * 20 + [2] * 10
    labels = np.array([5.0] * 15 + [6.0] * 15, np.float32)
    distances = [float(index) for index in range(30)]
    answers = Predictions(30, closest_cluster=clusters, distance_to_cluster=distances)
    found = judge(plan(Task.CLUSTERING, [5.0, 6.0]), features, labels, answers, cuts=[7, 21])
    first, empty, last = found.clusters
    assert (first.rows, first.label, first.share, first.mean_distance) == (20, "5", 0.75, 9.5)
    assert (last.rows, last.label, last.share) == (10, "6", 1.0)
    assert (empty.rows, empty.label, empty.mean_distance, empty.members) == (0, None, None, None)
    assert first.mean == pytest.approx(features[:20].mean(axis=0), abs=1e-6)
    assert first.members is not None
    assert len(first.members.captions) == MEMBERS_SHOWN
    shown = [int(np.flatnonzero((features == pixels).all(axis=1))[0]) for pixels in first.members.pixels]
    assert shown == sorted(shown)
    assert (shown[0], shown[-1]) == (0, 19)
    assert found.metrics["purity"] == pytest.approx(25 / 30)


def test_unlabelled_clusters_are_judged_by_distance_alone():
    answers = Predictions(2, closest_cluster=[0, 1], distance_to_cluster=[1.0, 3.0])
    found = judge(plan(Task.CLUSTERING, None, features=2), np.ones((2, 2), np.float32), None, answers)
    assert found.metrics == {"msd": 5.0}
    assert (found.names, [cluster.label for cluster in found.clusters]) == ([], [None, None, None])


def test_labels_that_are_no_classes_are_not_compared_with_clusters():
    answers = Predictions(2, closest_cluster=[0, 1], distance_to_cluster=[1.0, 3.0])
    labels = np.array([0.25, 17.5], np.float32)
    found = judge(plan(Task.CLUSTERING, None, features=2), np.ones((2, 2), np.float32), labels, answers)
    assert set(found.metrics) == {"msd"}


def test_a_regressor_is_judged_on_its_scores():
    found = judge(
        plan(Task.REGRESSION, None, features=2),
        np.ones((2, 2), np.float32),
        np.array([1.0, 2.0], np.float32),
        Predictions(2, score=[1.5, 2.5]),
    )
    assert found.metrics == pytest.approx({"rmse": 0.5, "mae": 0.5, "r2": 0.0})


def test_a_regressor_that_answers_labels_alone_is_judged_on_them():
    actual = np.arange(4.0)
    found = [
        judge(plan(Task.REGRESSION, None), np.zeros((4, 49), np.float32), actual, answer).metrics
        for answer in (Predictions(4, predicted_label=[0, 1, 2, 5]), Predictions(4, score=[0, 1, 2, 5]))
    ]
    assert found[0] == found[1]
    assert found[0]["mae"] == 0.5


def test_without_scores_there_is_no_area_under_the_curve():
    actual = np.array([0.0, 1, 1, 0])
    answer = Predictions(4, predicted_label=[0, 1, 0, 0])
    found = judge(plan(Task.BINARY, [0.0, 1.0]), np.zeros((4, 49), np.float32), actual, answer)
    assert "roc_auc" not in found.metrics
    assert found.metrics["accuracy"] == 0.75


@pytest.mark.parametrize(
    ("task", "answers"),
    [
        (Task.BINARY, Predictions(2, score=[0.1, 0.2])),
        (Task.BINARY, Predictions(2, predicted_label=[0.0, 2.0])),
        (Task.BINARY, Predictions(2, predicted_label=[0.0, 0.5])),
        (Task.BINARY, Predictions(2, predicted_label=[0.0, 1.0], score=[[0.1, 0.9], [0.1, 0.9]])),
        (Task.MULTICLASS, Predictions(2, predicted_label=[0.0, 1.0], score=[0.5, 0.5])),
        (Task.REGRESSION, Predictions(2)),
        (Task.REGRESSION, Predictions(2, score=[[0.0], [1.0]])),
        (Task.CLUSTERING, Predictions(2, closest_cluster=[0, 1])),
        (Task.CLUSTERING, Predictions(2, closest_cluster=[0, 3], distance_to_cluster=[1.0, 1.0])),
    ],
)
def test_answers_that_do_not_fit_the_task_are_refused(task, answers):
    with pytest.raises(PredictionFailed):
        judge(plan(task, [0.0, 1.0]), pictures(2), np.array([0.0, 1.0], np.float32), answers)


def test_class_names_that_would_read_alike_are_written_out():
    assert class_names(plan(Task.MULTICLASS, [1234567.0, 1234568.0, 3.0])) == ["1234567", "1234568", "3"]


def same(one: Judged, other: Judged) -> None:
    """Both are the same judgement, pictures and all."""
    for name in ("task", "rows", "metrics", "names", "brightest", "notes"):
        assert getattr(one, name) == getattr(other, name)
    for ours, theirs in zip(one.misread, other.misread, strict=True):
        assert (ours.title, ours.captions) == (theirs.title, theirs.captions)
        np.testing.assert_array_equal(ours.pixels, theirs.pixels)
    for mine, its in zip(one.clusters, other.clusters, strict=True):
        assert (mine.number, mine.rows, mine.label, mine.share) == (its.number, its.rows, its.label, its.share)
        assert (mine.mean is None) == (its.mean is None)
        if mine.mean is not None and its.mean is not None:
            np.testing.assert_allclose(mine.mean, its.mean, atol=1e-6)
        if mine.members is not None and its.members is not None:
            assert mine.members.captions == its.members.captions
            np.testing.assert_array_equal(mine.members.pixels, its.members.pixels)


@pytest.mark.parametrize("features", [49, 50, 4096, 4225])
@pytest.mark.parametrize("task", [Task.BINARY, Task.MULTICLASS, Task.REGRESSION, Task.CLUSTERING])
def test_sparse_rows_are_judged_as_dense_ones(task, features):
    random = np.random.default_rng(5)
    rows = random.random((40, features), dtype=np.float32) * (random.random((40, features)) < 0.3)
    labels = random.integers(0, 3, 40).astype(np.float32)
    answers = Predictions(
        40,
        predicted_label=random.integers(0, 2, 40).astype(float).tolist(),
        score=random.random(40).tolist() if task is not Task.MULTICLASS else random.random((40, 3)).tolist(),
        closest_cluster=random.integers(0, 3, 40).tolist(),
        distance_to_cluster=random.random(40).tolist(),
    )
    if task is Task.BINARY:
        labels = labels.clip(max=1)
    values = [0.0, 1.0] if task is Task.BINARY else [0.0, 1.0, 2.0]
    a_plan = plan(task, values, features=features)
    dense = judge(a_plan, rows, labels, answers, [11, 30])
    sparse = judge(a_plan, SparseMatrix.of(rows), labels, answers, [11, 30])
    drawn = bool(sparse.misread) or any(cluster.members is not None for cluster in sparse.clusters)
    assert drawn == (features in (49, 4096) and task is not Task.REGRESSION)
    if features == 4225:  # 65 x 65, which dense rows are drawn from
        assert sparse.metrics == dense.metrics
    else:
        same(sparse, dense)


def test_a_negative_value_in_a_sparse_row_means_that_rows_are_no_images():
    rows = SparseMatrix(np.array([1, -1], np.float32), np.array([0, 0]), np.array([0, 1, 2]), 49)
    answers = Predictions(2, predicted_label=[0.0, 0.0], score=[0.1, 0.1])
    assert judge(plan(Task.BINARY, [0.0, 1.0]), rows, np.ones(2, np.float32), answers, [1]).misread == []


@pytest.mark.parametrize(
    ("task", "values", "positive", "classes", "names"),
    [
        (Task.MULTICLASS, [0.0, 1.0, 2.0], None, ["no", "maybe", "yes"], ["no", "maybe", "yes"]),
        (Task.BINARY, [0.0, 1.0], None, ["no", "yes"], ["no", "yes"]),
        (Task.BINARY, [0.0, 2.0], None, ["no", "maybe", "yes"], ["no", "yes"]),
        (Task.BINARY, [0.0, 1.0, 2.0], " maybe ", ["no", "maybe", "yes"], ["not maybe", "maybe"]),
        (Task.BINARY, [0.0, 1.0, 2.0], "7", ["5", "6", "7.0"], ["not 7.0", "7.0"]),
        (Task.BINARY, [5.0, 1e6, 7.0], "1e6", None, ["not 1000000", "1000000"]),
        (Task.MULTICLASS, [0.5, 1.0, 100.0], None, None, ["0.5", "1", "100"]),
    ],
)
def test_classes_have_the_names_that_the_drop_gives_them(task, values, positive, classes, names):
    assert class_names(plan(task, values, positive=positive, classes=classes)) == names


def test_clusters_are_told_by_the_names_of_their_labels():
    answers = Predictions(3, closest_cluster=[0, 0, 2], distance_to_cluster=[1.0, 1.0, 1.0])
    a_plan = plan(Task.CLUSTERING, [0.0, 1.0], features=2, classes=["ham", "spam"])
    found = judge(a_plan, np.ones((3, 2), np.float32), np.array([1, 1, 0], np.float32), answers)
    assert [cluster.label for cluster in found.clusters] == ["spam", None, "ham"]
    assert found.names == ["ham", "spam"]
