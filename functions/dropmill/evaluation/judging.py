"""Judges predictions as they arrive: keeps labels, answers and the few rows worth showing, never all test rows.

Sparse rows stay sparse: but for the few that are shown as pictures, none is filled up with zeros.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from dropmill.algorithms import Predictions
from dropmill.classes import class_names, label_names
from dropmill.contracts import Layout, Plan, SealedDataset, Task
from dropmill.data.recordio import SparseMatrix
from dropmill.errors import PredictionFailed
from dropmill.evaluation import metrics
from dropmill.evaluation.metrics import Counts, Floats, Integers
from dropmill.evaluation.pictures import SPARSE_IMAGE_FEATURES_MAX, image_side, shrink

SCORES_MAX = 50_000_000
"""Scores kept for roc_auc, as float32; beyond that the metric is left out."""

IMAGE_CLUSTERS_MAX = 60
MEMBERS_SHOWN = 12
_MEMBERS_KEPT = 3 * MEMBERS_SHOWN
MISREAD_SHOWN = 56

Pixels = npt.NDArray[np.float32]
Features = Pixels | SparseMatrix
Picker = Callable[[Integers], Pixels]
"""Gives the pictures of some rows of a batch, by their numbers (n,) in it: (n, side * side)."""

ValueT = TypeVar("ValueT")


@dataclass(frozen=True)
class Gallery:
    """Rows worth looking at, in the order to show them: `pixels` is (n, side * side), `captions` has n texts."""

    title: str
    pixels: Pixels
    captions: list[str]


@dataclass(frozen=True)
class Cluster:
    """One cluster of the judged rows; `label` and `share` of its commonest label where rows are labelled."""

    number: int
    rows: int
    mean_distance: float | None
    label: str | None = None
    share: float | None = None
    mean: Pixels | None = None
    """(side * side,): the mean of all its rows."""
    members: Gallery | None = None


@dataclass(frozen=True)
class Judged:
    """What the held-out rows say about a model.

    `names` are the classes in the order of `confusion` ([actual][predicted]), or the labels in the order of the
    columns of `table` (clusters by labels; one column and no name where rows are unlabelled). `positive` and `scores`
    (n,) are a binary classifier's, `actual` and `predicted` (n,) a regressor's. `brightest` is the value shown white.
    """

    task: Task
    rows: int
    metrics: dict[str, float]
    names: list[str] = field(default_factory=list)
    confusion: Counts | None = None
    positive: npt.NDArray[np.bool_] | None = None
    scores: Floats | None = None
    actual: Floats | None = None
    predicted: Floats | None = None
    table: Counts | None = None
    clusters: list[Cluster] = field(default_factory=list)
    misread: list[Gallery] = field(default_factory=list)
    brightest: float = 1.0
    notes: list[str] = field(default_factory=list)


class Judge(Protocol):
    """Takes the held-out rows in batches, then answers once."""

    def add(self, features: Features, labels: Floats | None, predictions: Predictions) -> None:
        """One batch: features (n, d), labels (n,) as the test part holds them, and the model's answer to it.

        Raises:
            PredictionFailed: the answer does not fit the rows or the task.
        """

    def judged(self) -> Judged: ...


def judge_for(plan: Plan, dataset: SealedDataset) -> Judge:
    """The judge of a plan's task."""
    seed = plan.recipe.data.split.seed
    if plan.task is Task.REGRESSION:
        return _RegressionJudge()
    if plan.task is Task.CLUSTERING:
        return _ClusterJudge(_Images(dataset.feature_dim), int(dataset.hyperparameters["k"]), plan.layout, seed)
    return _ClassifierJudge(plan.task, _Images(dataset.feature_dim), class_names(plan), seed)


def judge_of_champion(plan: Plan) -> Judge:
    """A judge of the same rows whose metrics alone are wanted. The champion may have another number of clusters."""
    seed = plan.recipe.data.split.seed
    if plan.task is Task.REGRESSION:
        return _RegressionJudge()
    if plan.task is Task.CLUSTERING:
        return _ClusterJudge(_Images(None), None, plan.layout, seed)
    return _ClassifierJudge(plan.task, _Images(None), class_names(plan), seed)


class _Images:
    """Decides from the rows seen whether they are pictures, and how bright the brightest is."""

    def __init__(self, feature_dim: int | None) -> None:
        """None: no pictures are wanted."""
        self.side = None if feature_dim is None else image_side(feature_dim, 0)
        self.brightest = 0.0

    def look(self, features: Features) -> Picker | None:
        """The pictures of a batch, or None once any row has shown that these are no pictures."""
        sparse = isinstance(features, SparseMatrix)
        values = features.values if isinstance(features, SparseMatrix) else features
        if self.side is None or values.min(initial=0) < 0 or (sparse and self.side**2 > SPARSE_IMAGE_FEATURES_MAX):
            self.side = None
            return None
        self.brightest = max(self.brightest, float(values.max(initial=0)))
        side = self.side
        if isinstance(features, SparseMatrix):
            return lambda rows: features.take(rows).to_dense()
        return lambda rows: shrink(features[rows], side)


class _Kept:
    """The rows of highest priority among all that were offered."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._priorities: Floats = np.zeros(0)
        self._rows: list[tuple[Pixels, tuple[Any, ...]]] = []

    def offer(self, priorities: Floats, rows: Integers, pictures: Picker, facts: Sequence[Integers | Floats]) -> None:
        """`priorities` (n,) of the `rows` (n,) of a batch; `facts` are (n,) arrays carried along."""
        merged = np.concatenate((self._priorities, priorities))
        order = np.argsort(-merged, kind="stable")[: self._most]
        kept = len(self._rows)
        new = order[order >= kept] - kept
        pixels = dict(zip(new.tolist(), pictures(rows[new]), strict=True)) if new.size else {}
        self._rows = [
            self._rows[at] if at < kept else (pixels[at - kept], tuple(fact[at - kept] for fact in facts))
            for at in order.tolist()
        ]
        self._priorities = merged[order]

    def rows(self) -> list[tuple[Pixels, tuple[Any, ...]]]:
        """Pictures and facts, highest priority first."""
        return self._rows


class _ClassifierJudge:
    def __init__(self, task: Task, images: _Images, names: list[str], seed: int) -> None:
        self._task, self._names = task, names
        self._actual: list[Integers] = []
        self._predicted: list[Integers] = []
        self._scores: list[Floats] | None = []
        self._images = images
        self._random = np.random.default_rng(seed)
        self._misread = [_Kept(MISREAD_SHOWN // 2) for _ in names] if task is Task.BINARY else [_Kept(MISREAD_SHOWN)]
        self._notes: list[str] = []

    def add(self, features: Features, labels: Floats | None, predictions: Predictions) -> None:
        classes = len(self._names)
        actual = _indexes(_present(labels, "the test rows have no labels"), classes)
        answer = np.asarray(_present(predictions.predicted_label, "its answers have no predicted_label"))
        if answer.size and (answer.min() < 0 or answer.max() >= classes or (answer != np.floor(answer)).any()):
            raise PredictionFailed(f"The model answered classes other than 0 to {classes - 1}.")
        predicted = answer.astype(np.int64)
        self._actual.append(actual)
        self._predicted.append(predicted)
        scores = self._batch_scores(predictions)
        pictures = self._images.look(features)
        wrong = np.flatnonzero(actual != predicted)
        if pictures is None or not wrong.size:
            return
        margins = self._margins(scores, actual, predicted)[wrong]
        facts = [actual[wrong], predicted[wrong]] + ([] if scores is None else [scores[wrong]])
        if self._task is Task.MULTICLASS:
            self._misread[0].offer(margins, wrong, pictures, facts)
            return
        for called, kept in enumerate(self._misread):
            of = predicted[wrong] == called
            kept.offer(margins[of], wrong[of], pictures, [fact[of] for fact in facts])

    def _batch_scores(self, predictions: Predictions) -> Floats | None:
        """(n,) or (n, classes); None where the model gives none. Kept for roc_auc while there is room."""
        if predictions.score is None:
            self._scores = None
            return None
        scores = np.asarray(predictions.score, dtype=np.float32)
        classes = len(self._names)
        if scores.shape[1:] != ((classes,) if self._task is Task.MULTICLASS else ()):
            raise PredictionFailed(f"The model did not answer one score for each of {classes} classes.")
        if self._scores is not None:
            self._scores.append(scores)
            if sum(batch.size for batch in self._scores) > SCORES_MAX:
                self._scores = None
                self._notes.append("The area under the ROC curve is left out: there are too many rows and classes.")
        return scores

    def _margins(self, scores: Floats | None, actual: Integers, predicted: Integers) -> Floats:
        """How sure the model was of each answer, against the right one; without scores, a random order."""
        if scores is None:
            return self._random.random(actual.size)
        if scores.ndim == 1:
            return np.where(predicted == 1, scores, -scores)
        rows = np.arange(actual.size)
        margins: Floats = scores[rows, predicted] - scores[rows, actual]
        return margins

    def judged(self) -> Judged:
        actual, predicted = np.concatenate(self._actual), np.concatenate(self._predicted)
        scores = np.concatenate(self._scores) if self._scores else None
        binary = self._task is Task.BINARY
        found = (
            metrics.binary_metrics(actual, predicted, scores)
            if binary
            else metrics.multiclass_metrics(actual, predicted, len(self._names), scores)
        )
        return Judged(
            task=self._task,
            rows=actual.size,
            metrics=found,
            names=self._names,
            confusion=metrics.confusion_matrix(actual, predicted, len(self._names)),
            positive=actual == 1 if binary else None,
            scores=scores if binary else None,
            misread=self._galleries() if self._images.side else [],
            brightest=self._images.brightest,
            notes=self._notes,
        )

    def _galleries(self) -> list[Gallery]:
        if self._task is Task.MULTICLASS:
            rows = self._misread[0].rows()
            captions = [f"{self._names[facts[0]]} → {self._names[facts[1]]}" for _, facts in rows]
            return [_gallery("", rows, captions)] if rows else []
        negative, positive = (kept.rows() for kept in self._misread)
        galleries = []
        for title, rows in (
            (f"'{self._names[1]}', but missed", negative),
            (f"Called '{self._names[1]}' by mistake", positive),
        ):
            if rows:
                captions = [f"{facts[2]:.2f}" if len(facts) > 2 else "" for _, facts in rows]
                galleries.append(_gallery(title, rows, captions))
        return galleries


def _gallery(title: str, rows: list[tuple[Pixels, tuple[Any, ...]]], captions: list[str]) -> Gallery:
    return Gallery(title, np.stack([pixels for pixels, _ in rows]), captions)


class _RegressionJudge:
    def __init__(self) -> None:
        self._actual: list[Floats] = []
        self._predicted: list[Floats] = []

    def add(self, features: Features, labels: Floats | None, predictions: Predictions) -> None:
        # k-NN's mean of the neighbours comes as predicted_label.
        answer = predictions.predicted_label if predictions.score is None else predictions.score
        predicted = np.asarray(_present(answer, "its answers have neither score nor predicted_label"), dtype=np.float64)
        if predicted.shape != (len(features),):
            raise PredictionFailed("The model did not answer one number for each row.")
        self._actual.append(_present(labels, "the test rows have no labels"))
        self._predicted.append(predicted)

    def judged(self) -> Judged:
        actual, predicted = np.concatenate(self._actual), np.concatenate(self._predicted)
        return Judged(
            task=Task.REGRESSION,
            rows=actual.size,
            metrics=metrics.regression_metrics(actual, predicted),
            actual=actual,
            predicted=predicted,
        )


class _ClusterJudge:
    def __init__(self, images: _Images, clusters: int | None, layout: Layout, seed: int) -> None:
        """`clusters`: how many were asked for; None: clusters are counted as they come, and have no pictures."""
        self._clusters_max = clusters
        self._values = np.asarray(layout.label_values or [], dtype=np.float32)
        self._names = label_names(layout)
        self._clusters: list[Integers] = []
        self._distances: list[Floats] = []
        self._labels: list[Integers] = []
        self._random = np.random.default_rng(seed)
        self._images = images
        if clusters is None or clusters > IMAGE_CLUSTERS_MAX:
            self._images.side = None
        self._sums: Floats | None = None
        self._members = [_Kept(_MEMBERS_KEPT) for _ in range(clusters or 0)] if self._images.side else []

    def add(self, features: Features, labels: Floats | None, predictions: Predictions) -> None:
        clusters = np.asarray(_present(predictions.closest_cluster, "its answers have no closest_cluster"))
        distances = np.asarray(_present(predictions.distance_to_cluster, "its answers have no distance_to_cluster"))
        if self._clusters_max is not None and clusters.size and clusters.max() >= self._clusters_max:
            raise PredictionFailed(f"The model answered clusters beyond the {self._clusters_max} that were asked for.")
        self._clusters.append(clusters)
        self._distances.append(distances)
        indexes = np.zeros(clusters.size, dtype=np.int64)
        if self._names and labels is not None:
            indexes = np.searchsorted(self._values, labels.astype(np.float32)).clip(max=self._values.size - 1)
            if (self._values[indexes] != labels.astype(np.float32)).any():
                raise ValueError("a test row has a label that the plan does not list")
            self._labels.append(indexes)
        pictures = self._images.look(features)
        if pictures is None:
            return
        sums = self._batch_sums(features, clusters, pictures, len(self._members))
        self._sums = sums if self._sums is None else self._sums + sums
        priorities = self._random.random(clusters.size)
        for cluster in np.unique(clusters):
            of = np.flatnonzero(clusters == cluster)
            self._members[cluster].offer(priorities[of], of, pictures, (distances[of], indexes[of]))

    def _batch_sums(self, features: Features, clusters: Integers, pictures: Picker, most: int) -> Floats:
        """(clusters, side * side): the sums of the pictures of each cluster's rows."""
        if isinstance(features, SparseMatrix):
            places = clusters[features.rows()] * features.width + features.columns
            sums: Floats = np.bincount(places, features.values, most * features.width).astype(np.float64)
            return sums.reshape(most, features.width)
        among = (clusters[None, :] == np.arange(most)[:, None]).astype(np.float32)
        dense: Floats = (among @ pictures(np.arange(clusters.size))).astype(np.float64)
        return dense

    def judged(self) -> Judged:
        clusters, distances = np.concatenate(self._clusters), np.concatenate(self._distances)
        labels = np.concatenate(self._labels) if self._labels else None
        most = self._clusters_max
        if most is None:
            seen, clusters = np.unique(clusters, return_inverse=True)
            most = len(seen)
        columns = len(self._names) if labels is not None else 1
        table = metrics.contingency(clusters, np.zeros_like(clusters) if labels is None else labels, most, columns)
        found = metrics.clustering_metrics(clusters, distances, labels, columns)
        spread = np.bincount(clusters, weights=distances, minlength=most)
        return Judged(
            task=Task.CLUSTERING,
            rows=clusters.size,
            metrics=found,
            names=self._names if labels is not None else [],
            table=table,
            clusters=[self._cluster(number, table[number], float(spread[number])) for number in range(len(table))],
            brightest=self._images.brightest,
        )

    def _cluster(self, number: int, counts: Counts, distance: float) -> Cluster:
        rows = int(counts.sum())
        if not rows:
            return Cluster(number, 0, None)
        commonest = int(counts.argmax())
        shown = self._images.side is not None and self._sums is not None
        return Cluster(
            number=number,
            rows=rows,
            mean_distance=distance / rows,
            label=self._names[commonest] if self._labels else None,
            share=float(counts[commonest]) / rows if self._labels else None,
            mean=(self._sums[number] / rows).astype(np.float32) if shown and self._sums is not None else None,
            members=self._member_gallery(number) if shown else None,
        )

    def _member_gallery(self, number: int) -> Gallery:
        """Random members, evenly picked from the closest to the centre to the farthest."""
        rows = sorted(self._members[number].rows(), key=lambda row: float(row[1][0]))
        picked = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), MEMBERS_SHOWN)).round().astype(int))
        captions = [self._names[rows[at][1][1]] if self._labels else "" for at in picked]
        return _gallery(f"Cluster {number}", [rows[at] for at in picked], captions)


def _present(value: ValueT | None, missing: str) -> ValueT:
    if value is None:
        raise PredictionFailed(f"The model can't be judged: {missing}.")
    return value


def _indexes(labels: Floats, classes: int) -> Integers:
    """Class indexes from the labels of a test part, which Convert Shards wrote."""
    indexes = labels.astype(np.int64)
    if (indexes != labels).any() or indexes.min(initial=0) < 0 or indexes.max(initial=0) >= classes:
        raise ValueError(f"a test row has a label that is not a class index below {classes}")
    return indexes
