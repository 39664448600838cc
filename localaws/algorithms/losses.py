"""The losses of Linear Learner, each with its derivative, for many models at once.

Arrays are float32: `outputs` [n, m, c] holds the linear outputs of m models with c outputs each (c is 1 but for
multiclass), `labels` [n]. A loss gives its value for each row and model [n, m] and its derivative by `outputs`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
Evaluate = Callable[[FloatArray, FloatArray], tuple[FloatArray, FloatArray]]


@dataclass(frozen=True)
class Loss:
    """`token` names it in the log; `natural_threshold` is the binary score that a well-calibrated model cuts at.

    `unit_power`: how the value scales with the unit of a regression label.
    """

    name: str
    token: str
    evaluate: Evaluate
    natural_threshold: float = 0.5
    unit_power: int = 0


def build(name: str, values: Mapping[str, Any], unit: float = 1.0) -> Loss:
    """The loss of this name with its parameters. `unit` is what a regression label was divided by.

    The parameters `loss_insensitivity` and `huber_delta` are in the label's own unit.
    """
    multiclass = values["predictor_type"] == "multiclass_classifier"
    margin = values["margin"]
    insensitivity = values["loss_insensitivity"] / unit
    if name == "logistic":
        return Loss(name, "binary_classification_cross_entropy_objective", _logistic)
    if name == "softmax_loss":
        return Loss(name, "multiclass_cross_entropy_objective", _softmax)
    if name == "hinge_loss":
        return Loss(name, "hinge_loss_objective", _multiclass_hinge(margin) if multiclass else _hinge(margin), 0.0)
    if name == "squared_loss":
        return Loss(name, "mse_objective", _squared, unit_power=2)
    if name == "absolute_loss":
        return Loss(name, "absolute_loss_objective", _quantile(0.5, scale=2.0), unit_power=1)
    if name == "quantile_loss":
        return Loss(name, "quantile_loss_objective", _quantile(values["quantile"]), unit_power=1)
    if name == "eps_insensitive_squared_loss":
        return Loss(name, "eps_insensitive_squared_loss_objective", _insensitive_squared(insensitivity), unit_power=2)
    if name == "eps_insensitive_absolute_loss":
        return Loss(name, "eps_insensitive_absolute_loss_objective", _insensitive_absolute(insensitivity), unit_power=1)
    if name == "huber_loss":
        return Loss(name, "huber_loss_objective", _huber(values["huber_delta"] / unit), unit_power=2)
    raise ValueError(name)


def _logistic(outputs: FloatArray, labels: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Cross-entropy of a sigmoid: log(1 + exp(-s z)) with s = +-1."""
    # Without the axis of length one, over which numpy would loop.
    margins, targets = outputs[:, :, 0], labels[:, None]
    small = np.exp(-np.abs(margins))
    below = np.minimum(margins, 0)
    value = np.log1p(small)
    value += margins
    value -= below
    value -= margins * targets
    small += 1
    derivative = np.exp(below, out=below)
    derivative /= small
    derivative -= targets
    return value, derivative[:, :, None]


def _hinge(margin: float) -> Evaluate:
    """max(0, margin - s z) with s = +-1."""

    def evaluate(outputs: FloatArray, labels: FloatArray) -> tuple[FloatArray, FloatArray]:
        sign = (2 * labels - 1)[:, None, None]
        slack = np.float32(margin) - sign * outputs
        inside = slack > 0
        return np.where(inside, slack, 0)[:, :, 0], np.where(inside, -sign, np.float32(0))

    return evaluate


def _softmax(outputs: FloatArray, labels: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Cross-entropy of a softmax."""
    shifted = outputs - outputs.max(axis=2, keepdims=True)
    powers = np.exp(shifted)
    sums = powers.sum(axis=2, keepdims=True)
    rows, classes = np.arange(len(labels)), labels.astype(np.intp)
    value = np.log(sums[:, :, 0]) - shifted[rows, :, classes]
    derivative = np.divide(powers, sums, out=powers)
    derivative[rows, :, classes] -= 1
    return value, derivative


def _multiclass_hinge(margin: float) -> Evaluate:
    """Crammer and Singer's: max(0, margin + max over the other classes of z - z of the true class)."""

    def evaluate(outputs: FloatArray, labels: FloatArray) -> tuple[FloatArray, FloatArray]:
        rows, classes = np.arange(len(labels)), labels.astype(np.intp)
        true = outputs[rows, :, classes]
        others = outputs.copy()
        others[rows, :, classes] = -np.inf
        rival = others.argmax(axis=2)
        slack = np.float32(margin) + np.take_along_axis(others, rival[:, :, None], axis=2)[:, :, 0] - true
        inside = (slack > 0).astype(np.float32)
        derivative = np.zeros_like(outputs)
        np.put_along_axis(derivative, rival[:, :, None], inside[:, :, None], axis=2)
        derivative[rows, :, classes] -= inside
        return slack * inside, derivative

    return evaluate


def _squared(outputs: FloatArray, labels: FloatArray) -> tuple[FloatArray, FloatArray]:
    residual = outputs - labels[:, None, None]
    return (residual * residual)[:, :, 0], 2 * residual


def _quantile(quantile: float, scale: float = 1.0) -> Evaluate:
    """The pinball loss: q (y - z) above, (1 - q) (z - y) below."""
    above, below = np.float32(scale * quantile), np.float32(scale * (1 - quantile))

    def evaluate(outputs: FloatArray, labels: FloatArray) -> tuple[FloatArray, FloatArray]:
        residual = outputs - labels[:, None, None]
        value = np.where(residual < 0, -above * residual, below * residual)
        return value[:, :, 0], np.where(residual < 0, -above, np.where(residual > 0, below, np.float32(0)))

    return evaluate


def _insensitive_squared(insensitivity: float) -> Evaluate:
    def evaluate(outputs: FloatArray, labels: FloatArray) -> tuple[FloatArray, FloatArray]:
        residual = outputs - labels[:, None, None]
        beyond = np.maximum(np.abs(residual) - np.float32(insensitivity), 0)
        return (beyond * beyond)[:, :, 0], 2 * beyond * np.sign(residual)

    return evaluate


def _insensitive_absolute(insensitivity: float) -> Evaluate:
    def evaluate(outputs: FloatArray, labels: FloatArray) -> tuple[FloatArray, FloatArray]:
        residual = outputs - labels[:, None, None]
        beyond = np.maximum(np.abs(residual) - np.float32(insensitivity), 0)
        return beyond[:, :, 0], np.sign(residual) * (beyond > 0)

    return evaluate


def _huber(delta: float) -> Evaluate:
    """Half the square up to delta, then linear."""

    def evaluate(outputs: FloatArray, labels: FloatArray) -> tuple[FloatArray, FloatArray]:
        residual = outputs - labels[:, None, None]
        clipped = np.clip(residual, -np.float32(delta), np.float32(delta))
        return (clipped * (residual - clipped / 2))[:, :, 0], clipped

    return evaluate
