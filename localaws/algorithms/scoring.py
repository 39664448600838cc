"""Judges the scores of Linear Learner: the final metrics, and the threshold of a binary classifier."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
Metrics = dict[str, tuple[float, str]]
"""Name in the log to (value, `loss` or `score`), in the order of the log."""


@dataclass(frozen=True)
class Calibration:
    """`value` is the criterion's at `threshold`; where the criterion has a target, 1 is added if it is met.

    It is nan for a criterion that has no threshold: the loss.
    """

    threshold: float
    value: float


def calibrate(scores: FloatArray, labels: FloatArray, values: Mapping[str, Any], natural: float) -> Calibration:
    """The threshold that serves the selection criterion best on these rows, and the criterion's value there.

    For accuracy, thresholds that these few rows can't tell apart (within half a standard error) count as equal, and
    the one nearest to the natural threshold is taken: an exact maximum would follow the noise.
    """
    criterion = values["binary_classifier_model_selection_criteria"]
    order = np.argsort(-scores, kind="stable")
    sorted_scores = scores[order].astype(np.float64)
    positives = float(labels.sum(dtype=np.float64))
    # Cut k predicts the k highest scores positive; equal scores can't be cut apart.
    true = np.concatenate([[0], np.cumsum(labels[order], dtype=np.float64)])
    chosen = np.arange(len(scores) + 1, dtype=np.float64)
    possible = np.concatenate([[True], sorted_scores[1:] != sorted_scores[:-1], [True]])
    precision = np.divide(true, chosen, out=np.zeros_like(true), where=chosen > 0)
    recall = true / positives if positives else np.zeros_like(true)

    if criterion == "accuracy":
        worth = (len(scores) - positives - chosen + 2 * true) / len(scores)
    elif criterion in ("f_beta", "f1"):
        worth = _f_beta(precision, recall, 1.0 if criterion == "f1" else values["f_beta"])
    elif criterion == "precision_at_target_recall":
        worth = np.where(recall >= values["target_recall"], 1 + precision, recall)
    elif criterion == "recall_at_target_precision":
        worth = np.where(precision >= values["target_precision"], 1 + recall, precision)
    else:
        return Calibration(natural, math.nan)

    worth[~possible] = -1
    best = int(worth.argmax())
    thresholds = _between(sorted_scores)
    if criterion == "accuracy":
        noise = math.sqrt(max(worth[best] * (1 - worth[best]), 0) / len(scores))
        equal = np.flatnonzero(worth >= worth[best] - noise / 2)
        best = int(equal[np.abs(thresholds[equal] - natural).argmin()])
    # Rounded to float32, half-way between close neighbours may be the lower one, which must stay below.
    threshold = np.float32(thresholds[best])
    if 0 < best < len(scores) and threshold <= sorted_scores[best]:
        threshold = np.float32(sorted_scores[best - 1])
    return Calibration(float(threshold), float(worth[best]))


def _between(descending: NDArray[np.float64]) -> NDArray[np.float64]:
    """A threshold for each cut: half-way between the neighbours; beyond the ends, just outside."""
    top, bottom = descending[:1] + 1e-6 + 1e-6 * np.abs(descending[:1]), descending[-1:]
    return np.concatenate([top, (descending[1:] + descending[:-1]) / 2, bottom])


def _f_beta(precision: Any, recall: Any, beta: float) -> Any:
    below = beta * beta * precision + recall
    return (1 + beta * beta) * precision * recall / np.where(below > 0, below, 1)


def binary(scores: FloatArray, labels: FloatArray, threshold: float, values: Mapping[str, Any]) -> Metrics:
    predicted = scores >= threshold
    positive = labels > 0
    true = float((predicted & positive).sum())
    precision = true / max(float(predicted.sum()), 1)
    recall = true / max(float(positive.sum()), 1)
    return {
        "binary_classification_accuracy": (float((predicted == positive).mean()), "score"),
        f"binary_f_{values['f_beta']:.3f}": (float(_f_beta(precision, recall, values["f_beta"])), "score"),
        "precision": (precision, "score"),
        "recall": (recall, "score"),
        "roc_auc_score": (roc_auc(scores, positive), "score"),
    }


def roc_auc(scores: FloatArray, positive: NDArray[np.bool_]) -> float:
    """The share of (positive, negative) pairs in the right order, ties half; nan where one kind is missing."""
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if not positives or not negatives:
        return math.nan
    _distinct, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2
    total = float(ranks[inverse][positive].sum())
    return (total - positives * (positives + 1) / 2) / (positives * negatives)


def multiclass(scores: FloatArray, labels: FloatArray, values: Mapping[str, Any]) -> Metrics:
    classes = scores.shape[1]
    actual = labels.astype(np.intp)
    predicted = scores.argmax(axis=1)
    # The rank of the true class, 0 for the best; equal scores rank behind.
    own = scores[np.arange(len(actual)), actual]
    rank = (scores > own[:, None]).sum(axis=1)
    hits = np.bincount(actual[predicted == actual], minlength=classes).astype(np.float64)
    rows = np.bincount(actual, minlength=classes)
    recall = hits / np.maximum(rows, 1)
    precision = hits / np.maximum(np.bincount(predicted, minlength=classes), 1)
    seen = rows > 0
    top = min(values["accuracy_top_k"], classes)
    metrics: Metrics = {
        "multiclass_accuracy": (float((predicted == actual).mean()), "score"),
        f"multiclass_top_k_accuracy_{values['accuracy_top_k']}": (float((rank < top).mean()), "score"),
        "dcg": (float((1 / np.log2(2 + rank)).mean()), "score"),
        "macro_recall": (float(recall.mean()), "score"),
        "macro_precision": (float(precision.mean()), "score"),
        f"macro_f_{values['f_beta']:.3f}": (float(_f_beta(precision, recall, values["f_beta"]).mean()), "score"),
        "multiclass_balanced_accuracy": (float(recall[seen].mean()), "score"),
    }
    return metrics


def regression(scores: FloatArray, labels: FloatArray) -> Metrics:
    residual = scores.astype(np.float64) - labels
    mse = float((residual**2).mean())
    return {
        "mse": (mse, "loss"),
        "absolute_loss": (float(np.abs(residual).mean()), "loss"),
        "rmse": (math.sqrt(mse), "loss"),
    }
