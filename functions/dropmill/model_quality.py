"""A run's metrics as SageMaker's model quality statistics: what a model package names as `ModelQuality.Statistics`.

The format is that of "Model quality metrics and Amazon CloudWatch monitoring" in SageMaker's developer guide (Model
Monitor's statistics; model cards and the registry read the same). Each metric is a `value` and a `standard_deviation`,
`"NaN"` where there is none: Dropmill judges a model once, on all test rows, so there never is. A confusion matrix is a
mapping of the actual class to the predicted class to rows. A metric that the test rows don't define is left out.

`..._best_constant_classifier` is what a classifier reaches that always gives one answer: the positive class, or of
several classes the commonest. The guide doesn't say which class it means; its example of a binary classifier agrees.

For clusters the guide has no format; theirs is Dropmill's own, `clustering_metrics`, of the same make: `msd` (mean
squared distance to the nearest centre) and, where the rows have labels, `purity` and `nmi`.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from dropmill.contracts import Metrics, Task

CONTENT_TYPE = "application/json"
"""What a model package's `MetricsSource` says of such a document."""

Document = dict[str, Any]

_NO_DEVIATION = "NaN"
_BETAS = {"f0_5": 0.5, "f1": 1.0, "f2": 2.0}
_CONSTANT = "_best_constant_classifier"


def model_quality(metrics: Metrics, roc: Sequence[tuple[float, float]] | None = None) -> Document:
    """The statistics of a model on its test rows, ready for JSON.

    Args:
        metrics: what Evaluate Model measured. Classifiers need `classes` and `confusion`.
        roc: the ROC curve of a binary classifier, where one was measured: (false positive rate, true positive rate),
            both rising from 0 to 1. The precision-recall curve follows from it.

    Raises:
        ValueError: a classifier without its confusion matrix, a matrix that isn't of its classes, or no ROC curve.
    """
    return _DOCUMENTS[metrics.task](metrics, roc)


def _binary(metrics: Metrics, roc: Sequence[tuple[float, float]] | None) -> Document:
    confusion, named = _confusion(metrics)
    if len(confusion) != 2:
        raise ValueError(f"a binary classifier has 2 classes, not {len(confusion)}")
    (true_negatives, false_positives), (false_negatives, true_positives) = confusion
    positives, negatives = true_positives + false_negatives, true_negatives + false_positives
    rows = positives + negatives
    values: dict[str, float] = {}
    if rows:
        values["accuracy"] = (true_positives + true_negatives) / rows
        values[f"accuracy{_CONSTANT}"] = positives / rows
    if positives:
        found = _of_class(true_positives, false_positives, false_negatives)
        constant = _of_class(positives, negatives, 0)
        values |= found | {f"{name}{_CONSTANT}": value for name, value in constant.items()}
        values |= {"true_positive_rate": found["recall"], "false_negative_rate": false_negatives / positives}
    if negatives:
        values |= {
            "true_negative_rate": true_negatives / negatives,
            "false_positive_rate": false_positives / negatives,
        }
    if "roc_auc" in metrics.metrics:
        values["auc"] = metrics.metrics["roc_auc"]
    curves = _curves(roc, positives, negatives) if roc is not None else {}
    return {"binary_classification_metrics": {"confusion_matrix": named, **_measured(values), **curves}}


def _multiclass(metrics: Metrics, roc: Sequence[tuple[float, float]] | None) -> Document:
    if roc is not None:
        raise ValueError("only a binary classifier has one ROC curve")
    confusion, named = _confusion(metrics)
    rows = sum(map(sum, confusion))
    values: dict[str, float] = {}
    if rows:
        commonest = max(range(len(confusion)), key=lambda index: sum(confusion[index]))
        constant = [[sum(row) if index == commonest else 0 for index in range(len(row))] for row in confusion]
        values = _weighted(confusion) | {f"{name}{_CONSTANT}": value for name, value in _weighted(constant).items()}
    return {"multiclass_classification_metrics": {"confusion_matrix": named, **_measured(values)}}


def _regression(metrics: Metrics, roc: Sequence[tuple[float, float]] | None) -> Document:
    if roc is not None:
        raise ValueError("only a binary classifier has one ROC curve")
    values = _chosen(metrics, "mae", "rmse", "r2")
    if "rmse" in values:
        values["mse"] = values["rmse"] ** 2
    return {"regression_metrics": _measured(values)}


def _clustering(metrics: Metrics, roc: Sequence[tuple[float, float]] | None) -> Document:
    if roc is not None:
        raise ValueError("only a binary classifier has one ROC curve")
    return {"clustering_metrics": _measured(_chosen(metrics, "msd", "purity", "nmi"))}


_DOCUMENTS: Mapping[Task, Callable[[Metrics, Sequence[tuple[float, float]] | None], Document]] = {
    Task.BINARY: _binary,
    Task.MULTICLASS: _multiclass,
    Task.REGRESSION: _regression,
    Task.CLUSTERING: _clustering,
}


def _confusion(metrics: Metrics) -> tuple[list[list[int]], dict[str, dict[str, int]]]:
    """The confusion matrix as rows of numbers and by the names of the classes."""
    confusion, names = metrics.confusion, metrics.classes
    if confusion is None:
        raise ValueError(f"the metrics of a {metrics.task} model have no confusion matrix")
    if len(set(names)) != len(names) or {len(names)} != {len(confusion), *map(len, confusion)}:
        raise ValueError("the confusion matrix must have a row and a column for each of the differently named classes")
    named = {actual: dict(zip(names, counts, strict=True)) for actual, counts in zip(names, confusion, strict=True)}
    return confusion, named


def _of_class(true: int, false: int, missed: int) -> dict[str, float]:
    """precision, recall and F scores of one class that has rows: found rightly, found wrongly, and not found.

    F of beta is (1 + beta^2) true / ((1 + beta^2) true + beta^2 missed + false). A class that is never predicted has a
    precision of 0.
    """
    return {
        "precision": true / (true + false) if true + false else 0.0,
        "recall": true / (true + missed),
        **{
            name: (1 + beta**2) * true / ((1 + beta**2) * true + beta**2 * missed + false)
            for name, beta in _BETAS.items()
        },
    }


def _weighted(confusion: Sequence[Sequence[int]]) -> dict[str, float]:
    """accuracy, and the means over classes of precision, recall and F scores, weighted by the rows of each class."""
    rows = sum(map(sum, confusion))
    predicted = [sum(column) for column in zip(*confusion, strict=True)]
    sums: dict[str, float] = {}
    for index, counts in enumerate(confusion):
        actual, true = sum(counts), counts[index]
        if actual:
            for name, value in _of_class(true, predicted[index] - true, actual - true).items():
                sums[name] = sums.get(name, 0.0) + actual * value
    accuracy = sum(counts[index] for index, counts in enumerate(confusion)) / rows
    return {"accuracy": accuracy, **{f"weighted_{name}": value / rows for name, value in sums.items()}}


def _curves(roc: Sequence[tuple[float, float]], positives: int, negatives: int) -> Document:
    """The ROC curve, and precision against recall; precision is 1 where nothing is predicted yet."""
    rising = all(one[0] <= two[0] and one[1] <= two[1] for one, two in pairwise(roc))
    if not positives or not negatives or not rising or len(roc) < 2 or (*roc[0], *roc[-1]) != (0, 0, 1, 1):
        raise ValueError("a ROC curve rises from (0, 0) to (1, 1), on rows of both classes")
    found = [(rate * negatives, recall * positives) for rate, recall in roc]
    return {
        "receiver_operating_characteristic_curve": {
            "false_positive_rates": [rate for rate, _ in roc],
            "true_positive_rates": [recall for _, recall in roc],
        },
        "precision_recall_curve": {
            "precisions": [true / (true + false) if true + false else 1.0 for false, true in found],
            "recalls": [recall for _, recall in roc],
        },
    }


def _chosen(metrics: Metrics, *names: str) -> dict[str, float]:
    return {name: metrics.metrics[name] for name in names if name in metrics.metrics}


def _measured(values: Mapping[str, float]) -> Document:
    return {name: {"value": value, "standard_deviation": _NO_DEVIATION} for name, value in values.items()}
