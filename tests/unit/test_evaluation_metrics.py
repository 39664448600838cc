"""Metrics against scikit-learn's own."""

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn import metrics as oracle

from dropmill.evaluation import metrics
from dropmill.evaluation.names import DIRECTIONS, Direction, metric_text

SIZES = st.integers(1, 60)


@st.composite
def answers(draw, classes: int):
    rows = draw(SIZES)
    indexes = arrays.arrays(np.int64, rows, elements=st.integers(0, classes - 1))
    # Few distinct scores, so that ties are common.
    scores = arrays.arrays(np.float64, (rows, classes), elements=st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9]))
    return draw(indexes), draw(indexes), draw(scores)


@given(answers(2))
def test_binary_metrics_are_those_of_scikit_learn(drawn):
    actual, predicted, scores = drawn
    found = metrics.binary_metrics(actual, predicted, scores[:, 1])
    assert found["accuracy"] == pytest.approx(oracle.accuracy_score(actual, predicted))
    if not actual.any():
        assert set(found) == {"accuracy"}
        return
    for name, score in (
        ("precision", oracle.precision_score),
        ("recall", oracle.recall_score),
        ("f1", oracle.f1_score),
    ):
        assert found[name] == pytest.approx(score(actual, predicted, zero_division=0))
    if len(set(actual.tolist())) == 2:
        assert found["roc_auc"] == pytest.approx(oracle.roc_auc_score(actual, scores[:, 1]))
    else:
        assert "roc_auc" not in found


@given(answers(4))
def test_multiclass_metrics_are_those_of_scikit_learn(drawn):
    actual, predicted, scores = drawn
    found = metrics.multiclass_metrics(actual, predicted, 4, scores)
    assert found["accuracy"] == pytest.approx(oracle.accuracy_score(actual, predicted))
    precision, recall, f1, _ = oracle.precision_recall_fscore_support(
        actual, predicted, labels=sorted(set(actual.tolist())), average="macro", zero_division=0
    )
    assert (found["precision"], found["recall"], found["f1"]) == pytest.approx((precision, recall, f1))
    present = sorted(set(actual.tolist()))
    if len(present) > 1:
        areas = [oracle.roc_auc_score(actual == index, scores[:, index]) for index in present]
        assert found["roc_auc"] == pytest.approx(np.mean(areas))
    else:
        assert "roc_auc" not in found


@given(answers(3))
def test_confusion_matrix_is_that_of_scikit_learn(drawn):
    actual, predicted, _ = drawn
    expected = oracle.confusion_matrix(actual, predicted, labels=[0, 1, 2])
    assert metrics.confusion_matrix(actual, predicted, 3).tolist() == expected.tolist()


@given(answers(2))
def test_roc_curve_passes_through_the_points_of_scikit_learn(drawn):
    actual, _, scores = drawn
    if len(set(actual.tolist())) < 2:
        return
    false, true, _ = metrics.roc_curve(actual == 1, scores[:, 1])
    false_rate, true_rate, _ = oracle.roc_curve(actual, scores[:, 1], drop_intermediate=False)
    assert (false / false[-1]).tolist() == pytest.approx(false_rate.tolist())
    assert (true / true[-1]).tolist() == pytest.approx(true_rate.tolist())


@given(st.data(), SIZES)
def test_regression_metrics_are_those_of_scikit_learn(data, rows):
    numbers = arrays.arrays(np.float32, rows, elements=st.floats(-1e6, 1e6, width=32))
    actual, predicted = data.draw(numbers), data.draw(numbers)
    found = metrics.regression_metrics(actual, predicted)
    truth, guess = actual.astype(np.float64), predicted.astype(np.float64)
    assert found["rmse"] == pytest.approx(oracle.root_mean_squared_error(truth, guess))
    assert found["mae"] == pytest.approx(oracle.mean_absolute_error(truth, guess))
    if "r2" in found:
        assert found["r2"] == pytest.approx(oracle.r2_score(truth, guess), rel=1e-6, abs=1e-6)
    else:
        assert rows == 1 or np.ptp(truth) < 1e-9


@given(answers(5))
def test_clustering_metrics_are_those_of_scikit_learn(drawn):
    labels, clusters, scores = drawn
    found = metrics.clustering_metrics(clusters, scores[:, 0], labels, 5)
    assert found["msd"] == pytest.approx(np.mean(scores[:, 0] ** 2))
    assert found["nmi"] == pytest.approx(oracle.normalized_mutual_info_score(labels, clusters), abs=1e-9)
    commonest = sum(np.bincount(labels[clusters == cluster]).max() for cluster in np.unique(clusters))
    assert found["purity"] == pytest.approx(commonest / labels.size)


def test_rows_without_labels_have_neither_purity_nor_nmi():
    assert set(metrics.clustering_metrics(np.array([0, 1]), np.array([1.0, 3.0]))) == {"msd"}


def test_without_predicted_positives_precision_and_f1_are_zero():
    found = metrics.binary_metrics(np.array([0, 1]), np.array([0, 0]))
    assert (found["precision"], found["recall"], found["f1"]) == (0, 0, 0)


def test_without_positives_there_is_neither_precision_nor_recall_nor_f1():
    assert metrics.binary_metrics(np.array([0, 0]), np.array([0, 1]), np.array([0.1, 0.2])) == {"accuracy": 0.5}


def test_a_class_without_rows_does_not_count_in_the_means():
    found = metrics.multiclass_metrics(np.array([0, 0, 1, 1]), np.array([0, 0, 1, 2]), 3)
    assert found["recall"] == 0.75
    assert found["precision"] == 1


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.95, "0.9500"), (-1.5, "-1.5000"), (39.249, "39.25"), (671.839, "671.8"), (12345.6, "12,346"), (2e9, "2e+09")],
)
def test_values_are_printed_alike_everywhere(value, text):
    assert metric_text(value) == text


def test_a_constant_label_has_no_r2():
    assert set(metrics.regression_metrics(np.array([2.0, 2.0]), np.array([1.0, 2.0]))) == {"rmse", "mae"}


def test_errors_beyond_float64_leave_the_metric_out():
    found = metrics.regression_metrics(np.array([1e200, -1e200]), np.array([-1e200, 1e200]))
    assert all(math.isfinite(value) for value in found.values())
    assert "rmse" not in found


@pytest.mark.parametrize("wrong", [[0, 3], [0, -1]])
def test_a_value_that_is_no_class_is_refused(wrong):
    with pytest.raises(ValueError, match=r"0\.\.2"):
        metrics.confusion_matrix(np.array([0, 1]), np.array(wrong), 3)


def test_every_metric_has_a_direction():
    rows = np.array([0, 1, 2])
    named = {
        *metrics.binary_metrics(np.array([0, 1]), np.array([0, 1]), np.array([0.1, 0.2])),
        *metrics.multiclass_metrics(rows, rows, 3, np.eye(3)),
        *metrics.regression_metrics(rows, rows),
        *metrics.clustering_metrics(rows, rows, rows, 3),
    }
    assert named == set(DIRECTIONS)
    assert {name for name, direction in DIRECTIONS.items() if direction is Direction.MINIMIZE} == {"rmse", "mae", "msd"}


def test_metric_names_come_without_numpy():
    code = "import dropmill.evaluation.names, sys; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
