"""Metrics of a model on held-out rows: pure functions on numpy arrays.

Formulas are those of scikit-learn's `sklearn.metrics`, which the tests use as the oracle. A metric that the rows do not
define (the area under a curve with one class, say) is left out of a result; nothing here ever answers NaN or infinity.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.integer[Any]]
Counts = npt.NDArray[np.int64]


def confusion_matrix(actual: Integers, predicted: Integers, classes: int) -> Counts:
    """Rows by [actual][predicted], both of shape (n,) with values in 0..classes-1; the result is (classes, classes).

    Raises:
        ValueError: the shapes differ, or a value is not a class.
    """
    return contingency(actual, predicted, classes, classes)


def contingency(first: Integers, second: Integers, rows: int, columns: int) -> Counts:
    """How often each pair of values occurs: (rows, columns), for two (n,) arrays of 0-based indexes.

    Raises:
        ValueError: the shapes differ, or a value is outside its range.
    """
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(f"expected two vectors of one length, not {first.shape} and {second.shape}")
    for values, most in ((first, rows), (second, columns)):
        if values.size and (values.min() < 0 or values.max() >= most):
            raise ValueError(f"values must be in 0..{most - 1}, not {values.min()}..{values.max()}")
    pairs = first.astype(np.int64) * columns + second.astype(np.int64)
    return np.bincount(pairs, minlength=rows * columns).reshape(rows, columns).astype(np.int64)


def precision_recall_f1(confusion: Counts) -> tuple[Floats, Floats, Floats]:
    """Precision, recall and F1 of each class, each of shape (classes,).

    precision = tp / (tp + fp), recall = tp / (tp + fn), f1 = 2 tp / (2 tp + fp + fn); 0 where nothing is divided by.
    """
    right = np.diagonal(confusion).astype(np.float64)
    predicted = confusion.sum(axis=0).astype(np.float64)
    actual = confusion.sum(axis=1).astype(np.float64)
    return _ratio(right, predicted), _ratio(right, actual), _ratio(2 * right, predicted + actual)


def binary_metrics(actual: Integers, predicted: Integers, scores: Floats | None = None) -> dict[str, float]:
    """accuracy, precision, recall, f1 and, where `scores` are given and both classes occur, roc_auc.

    `actual` and `predicted` are (n,) of 0 and 1, 1 being the positive class; `scores` (n,) rise with the chance of 1.
    Without predicted positives precision is 0, by convention. Without positives there is nothing to find: precision,
    recall and f1 are left out.
    """
    confusion = confusion_matrix(actual, predicted, 2)
    precision, recall, f1 = precision_recall_f1(confusion)
    found = {"accuracy": accuracy(confusion)}
    if confusion[1].any():
        found |= {"precision": float(precision[1]), "recall": float(recall[1]), "f1": float(f1[1])}
    area = None if scores is None else roc_auc(actual == 1, scores)
    return found if area is None else found | {"roc_auc": area}


def multiclass_metrics(
    actual: Integers, predicted: Integers, classes: int, scores: Floats | None = None
) -> dict[str, float]:
    """accuracy and the unweighted means over classes (macro) of precision, recall, f1 and one-versus-rest roc_auc.

    `actual` and `predicted` are (n,) class indexes; `scores` is (n, classes). Means run over the classes that have
    rows, of which a class that is never predicted has a precision of 0; roc_auc is left out where all rows are of one
    class.
    """
    confusion = confusion_matrix(actual, predicted, classes)
    present = confusion.sum(axis=1) > 0
    precision, recall, f1 = (values[present] for values in precision_recall_f1(confusion))
    found = {
        "accuracy": accuracy(confusion),
        "precision": _mean(precision),
        "recall": _mean(recall),
        "f1": _mean(f1),
    }
    if scores is not None:
        areas = [roc_auc(actual == index, scores[:, index]) for index in range(classes)]
        known = [area for area in areas if area is not None]
        if known:
            found["roc_auc"] = sum(known) / len(known)
    return found


def accuracy(confusion: Counts) -> float:
    """The share of rows on the diagonal; 0 without rows."""
    total = int(confusion.sum())
    return float(np.trace(confusion)) / total if total else 0.0


def roc_auc(positive: npt.NDArray[np.bool_], scores: Floats) -> float | None:
    """The area under the ROC curve: the chance that a positive row scores above a negative one, ties counting half.

    By ranks (Mann-Whitney U), tied scores getting their mean rank. `positive` and `scores` are (n,).
    None with fewer than two classes.
    """
    positives = int(positive.sum())
    negatives = positive.size - positives
    if not positives or not negatives:
        return None
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    mean_ranks = ends - (counts - 1) / 2
    ranks = float(mean_ranks[inverse.reshape(-1)[positive]].sum())
    return (ranks - positives * (positives + 1) / 2) / (positives * negatives)


def roc_curve(positive: npt.NDArray[np.bool_], scores: Floats) -> tuple[Floats, Floats, Floats]:
    """False and true positive counts for each threshold, from none called positive to all: three (m,) arrays.

    The third holds the thresholds (a row is positive at or above it), the first of which is infinity.
    """
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True)) if ranked.size else np.zeros(0, dtype=np.int64)
    true = np.cumsum(positive[order])[ends]
    false = ends + 1 - true
    return (
        np.concatenate(([0.0], false.astype(np.float64))),
        np.concatenate(([0.0], true.astype(np.float64))),
        np.concatenate(([np.inf], ranked[ends].astype(np.float64))),
    )


def regression_metrics(actual: Floats, predicted: Floats) -> dict[str, float]:
    """rmse, mae (in the label's unit) and r2 = 1 - SS_res / SS_tot, for two (n,) arrays, n >= 1.

    r2 is left out where the labels do not vary. Errors beyond float64 leave the metric out as well.
    """
    truth, guess = actual.astype(np.float64), predicted.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        errors = guess - truth
        residual = float(np.sum(errors**2))
        spread = float(np.sum((truth - truth.mean()) ** 2))
        found = {"rmse": float(np.sqrt(residual / truth.size)), "mae": float(np.abs(errors).mean())}
        if truth.size > 1 and spread > 0:
            found["r2"] = 1 - residual / spread
    return _finite(found)


def clustering_metrics(
    clusters: Integers, distances: Floats, labels: Integers | None = None, classes: int = 0
) -> dict[str, float]:
    """msd and, where rows are labelled, purity and nmi.

    `clusters` (n,) are 0-based, `distances` (n,) Euclidean (not squared) to the closest centre, `labels` (n,) class
    indexes in 0..classes-1.
    """
    with np.errstate(over="ignore"):
        found = {"msd": float(np.mean(distances.astype(np.float64) ** 2))}
    if labels is not None:
        table = contingency(clusters, labels, int(clusters.max(initial=0)) + 1, classes)
        found |= {"purity": purity(table), "nmi": normalized_mutual_information(table)}
    return _finite(found)


def purity(table: Counts) -> float:
    """The share of rows that carry the commonest label of their cluster; `table` is (clusters, labels)."""
    total = int(table.sum())
    return float(table.max(axis=1, initial=0).sum()) / total if total else 0.0


def normalized_mutual_information(table: Counts) -> float:
    """Mutual information of cluster and label over the mean of their entropies; `table` is (clusters, labels).

    One cluster and one label agree wholly (1); where just one of the two varies nothing is shared (0).
    """
    total = float(table.sum())
    if not total:
        return 0.0
    shares = table / total
    of_cluster, of_label = shares.sum(axis=1), shares.sum(axis=0)
    entropies = _entropy(of_cluster), _entropy(of_label)
    if not any(entropies):
        return 1.0
    if not all(entropies):
        return 0.0
    filled = shares > 0
    expected = np.outer(of_cluster, of_label)
    shared = float(np.sum(shares[filled] * np.log(shares[filled] / expected[filled])))
    return min(max(shared / (sum(entropies) / 2), 0.0), 1.0)


def _entropy(shares: Floats) -> float:
    filled = shares[shares > 0]
    return 0.0 if filled.size < 2 else float(-np.sum(filled * np.log(filled)))


def _ratio(part: Floats, whole: Floats) -> Floats:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def _mean(values: Floats) -> float:
    return float(values.mean()) if values.size else 0.0


def _finite(found: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in found.items() if np.isfinite(value)}
