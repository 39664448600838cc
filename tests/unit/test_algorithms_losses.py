"""Linear Learner's losses against finite differences and formulas, its scores against scikit-learn."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics

from dropmill import algorithms
from localaws.algorithms import losses, scoring

FloatArray = NDArray[np.float32]

LOSSES = [
    ("binary_classifier", "logistic"),
    ("binary_classifier", "hinge_loss"),
    ("multiclass_classifier", "softmax_loss"),
    ("multiclass_classifier", "hinge_loss"),
    ("regressor", "squared_loss"),
    ("regressor", "absolute_loss"),
    ("regressor", "quantile_loss"),
    ("regressor", "eps_insensitive_squared_loss"),
    ("regressor", "eps_insensitive_absolute_loss"),
    ("regressor", "huber_loss"),
]


def values(predictor: str, **given: str) -> dict[str, Any]:
    return algorithms.get("linear-learner").validate({"predictor_type": predictor, "num_classes": "4", **given})


def sample(predictor: str, rows: int = 50) -> tuple[FloatArray, FloatArray]:
    random = np.random.default_rng(5)
    outputs = random.normal(0, 2, (rows, 3, 4 if predictor == "multiclass_classifier" else 1))
    labels = {
        "binary_classifier": random.integers(0, 2, rows),
        "multiclass_classifier": random.integers(0, 4, rows),
        "regressor": random.normal(0, 2, rows),
    }[predictor]
    return outputs.astype(np.float32), labels.astype(np.float32)


@pytest.mark.parametrize(("predictor", "name"), LOSSES)
def test_the_derivative_is_that_of_the_value(predictor: str, name: str) -> None:
    given = {"quantile": "0.3", "loss_insensitivity": "0.5", "huber_delta": "0.7", "margin": "1.5"}
    loss = losses.build(name, values(predictor, **given))
    outputs, labels = sample(predictor)
    _value, derivative = loss.evaluate(outputs.copy(), labels)
    step = np.float32(1e-3)
    for output in range(outputs.shape[2]):
        shift = np.zeros_like(outputs)
        shift[:, :, output] = step
        above, below = (loss.evaluate(outputs + sign * shift, labels)[0] for sign in (1, -1))
        slope = (above - below) / (2 * step)
        # At a kink the slope is between two derivatives; those few are left out.
        smooth = np.abs(slope - derivative[:, :, output]) < 0.02
        assert smooth.mean() > 0.97


def test_values_at_known_points() -> None:
    labels = np.array([1, 0], np.float32)
    outputs = np.array([[[2.0]], [[2.0]]], np.float32)
    logistic = losses.build("logistic", values("binary_classifier")).evaluate(outputs, labels)[0]
    np.testing.assert_allclose(logistic[:, 0], [math.log1p(math.exp(-2)), math.log1p(math.exp(2))], rtol=1e-6)
    hinge = losses.build("hinge_loss", values("binary_classifier", margin="3")).evaluate(outputs, labels)[0]
    np.testing.assert_allclose(hinge[:, 0], [1, 5])
    huber = losses.build("huber_loss", values("regressor", huber_delta="0.5")).evaluate(outputs, labels)[0]
    np.testing.assert_allclose(huber[:, 0], [0.5 * (1 - 0.25), 0.5 * (2 - 0.25)])
    pinball = losses.build("quantile_loss", values("regressor", quantile="0.9")).evaluate(outputs, labels)[0]
    np.testing.assert_allclose(pinball[:, 0], [0.1, 0.2], rtol=1e-6)


def test_loss_parameters_are_in_the_labels_unit() -> None:
    outputs, labels = sample("regressor")
    for name in ("huber_loss", "eps_insensitive_squared_loss", "eps_insensitive_absolute_loss", "squared_loss"):
        plain = losses.build(name, values("regressor"))
        scaled = losses.build(name, values("regressor"), unit=4.0)
        value = scaled.evaluate(outputs / 4, labels / 4)[0] * 4.0**scaled.unit_power
        np.testing.assert_allclose(value, plain.evaluate(outputs, labels)[0], rtol=1e-4, atol=1e-5)


def test_huge_outputs_stay_finite() -> None:
    outputs = np.array([[[1e4]], [[-1e4]]], np.float32)
    for name in ("logistic", "hinge_loss"):
        value, derivative = losses.build(name, values("binary_classifier")).evaluate(outputs, np.zeros(2, np.float32))
        assert np.isfinite(value).all()
        assert np.isfinite(derivative).all()


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 12), st.booleans()), min_size=2, max_size=40),
    st.sampled_from(["accuracy", "f_beta", "f1", "precision_at_target_recall", "recall_at_target_precision"]),
)
def test_the_threshold_is_as_good_as_the_best_of_all(rows: list[tuple[int, bool]], criterion: str) -> None:
    scores = np.array([score / 12 for score, _ in rows], np.float32)
    labels = np.array([label for _, label in rows], np.float32)
    given = values("binary_classifier", binary_classifier_model_selection_criteria=criterion, f_beta="2")

    def worth(threshold: float) -> float:
        chosen = scores >= threshold
        true = float((chosen & (labels > 0)).sum())
        precision = true / max(chosen.sum(), 1)
        recall = true / max(float(labels.sum()), 1)
        if criterion == "accuracy":
            return float((chosen == (labels > 0)).mean())
        if criterion in ("f_beta", "f1"):
            square = 1.0 if criterion == "f1" else 4.0
            return (1 + square) * precision * recall / max(square * precision + recall, 1e-30)
        first, second = (recall, precision) if criterion == "precision_at_target_recall" else (precision, recall)
        return 1 + second if first >= 0.8 else first

    best = max(worth(threshold) for threshold in [*scores, 2.0])
    found = scoring.calibrate(scores, labels, given, natural=0.5)
    assert found.value == pytest.approx(worth(found.threshold))
    noise = math.sqrt(best * (1 - best) / len(rows)) / 2 if criterion == "accuracy" else 0
    assert worth(found.threshold) >= best - noise - 1e-9


def test_neighbouring_scores_are_cut_apart() -> None:
    low = np.float32(0.3)
    scores = np.array([low, np.nextafter(low, np.float32(1))] * 50, np.float32)
    labels = np.array([0, 1] * 50, np.float32)
    threshold = scoring.calibrate(scores, labels, values("binary_classifier"), natural=0.5).threshold
    assert ((scores >= np.float32(threshold)) == (labels > 0)).all()


def test_the_loss_as_criterion_keeps_the_natural_threshold() -> None:
    given = values("binary_classifier", binary_classifier_model_selection_criteria="loss_function")
    found = scoring.calibrate(np.array([0.9, 0.8], np.float32), np.array([1, 0], np.float32), given, natural=0.5)
    assert found.threshold == 0.5


def test_binary_metrics_are_scikit_learns() -> None:
    random = np.random.default_rng(3)
    labels = random.integers(0, 2, 300).astype(np.float32)
    scores = np.round(random.uniform(0, 1, 300) * 0.6 + 0.4 * labels, 1).astype(np.float32)
    found = scoring.binary(scores, labels, 0.5, values("binary_classifier", f_beta="2"))
    predicted = scores >= 0.5
    expected = {
        "binary_classification_accuracy": metrics.accuracy_score(labels, predicted),
        "binary_f_2.000": metrics.fbeta_score(labels, predicted, beta=2),
        "precision": metrics.precision_score(labels, predicted),
        "recall": metrics.recall_score(labels, predicted),
        "roc_auc_score": metrics.roc_auc_score(labels, scores),
    }
    assert {name: value for name, (value, _goal) in found.items()} == pytest.approx(expected)


def test_multiclass_metrics_are_scikit_learns() -> None:
    random = np.random.default_rng(4)
    labels = random.integers(0, 5, 400).astype(np.float32)
    scores = random.uniform(0, 1, (400, 5)).astype(np.float32)
    scores[np.arange(400), labels.astype(int)] += 0.3
    found = scoring.multiclass(scores, labels, values("multiclass_classifier", accuracy_top_k="2"))
    predicted = scores.argmax(axis=1)
    expected = {
        "multiclass_accuracy": metrics.accuracy_score(labels, predicted),
        "multiclass_top_k_accuracy_2": metrics.top_k_accuracy_score(labels, scores, k=2),
        "macro_recall": metrics.recall_score(labels, predicted, average="macro"),
        "macro_precision": metrics.precision_score(labels, predicted, average="macro"),
        "macro_f_1.000": metrics.f1_score(labels, predicted, average="macro"),
        "multiclass_balanced_accuracy": metrics.balanced_accuracy_score(labels, predicted),
    }
    assert {name: found[name][0] for name in expected} == pytest.approx(expected)
    # One relevant class: its gain is discounted by the logarithm of its rank.
    ranks = (-scores).argsort(axis=1).argsort(axis=1)[np.arange(400), labels.astype(int)]
    assert found["dcg"][0] == pytest.approx((1 / np.log2(ranks + 2)).mean())


def test_regression_metrics_are_scikit_learns() -> None:
    random = np.random.default_rng(5)
    labels, scores = (random.normal(100, 3, 200).astype(np.float32) for _ in range(2))
    found = scoring.regression(scores, labels)
    mse = metrics.mean_squared_error(labels, scores)
    assert found["mse"][0] == pytest.approx(mse, rel=1e-5)
    assert found["rmse"][0] == pytest.approx(math.sqrt(mse), rel=1e-5)
    assert found["absolute_loss"][0] == pytest.approx(metrics.mean_absolute_error(labels, scores), rel=1e-5)


def test_an_area_without_two_kinds_is_nan() -> None:
    assert math.isnan(scoring.roc_auc(np.ones(3, np.float32), np.ones(3, bool)))
