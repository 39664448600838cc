"""Trains Linear Learner: many models that differ in what was left to `auto`, of which the best is kept.

All models are trained at once: their weights stand side by side in one matrix, so that a mini-batch costs two matrix
products however many they are. What is judged and kept is a running average of the weights, in which later steps count
more (polynomial-decay averaging, Shamir and Zhang 2013): it is far less noisy than the last step's weights.
"""

import itertools
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dropmill.algorithms.hyperparameters import AUTO
from dropmill.algorithms.linear_learner import LOSSES
from localaws.algorithms import losses, scoring
from localaws.algorithms.channels import Rows
from localaws.algorithms.linear_model import LinearModel, save, to_scores
from localaws.algorithms.losses import Loss
from localaws.algorithms.toolkit import Reporter, UserError, log

FloatArray = NDArray[np.float32]

LOG_NAME = "Linear Learner"

_SEED = 20
_MODELS = 32
_OUTPUTS = 96  # of all models together, when the number of models is auto: multiclass gets fewer models
_PARAMETERS_MAX = 100_000_000
_BLOCK_NUMBERS = 2_000_000
_AVERAGING = 3  # the weight of step t in the average grows with t to this power
_FINAL_RATE = 0.1  # what is left of the learning rate at the last step, when the schedule is auto
_CALIBRATION_ROWS = 10_000_000
_TRAIN_SAMPLE = 20_000  # training rows that judge the models when there is no validation channel

# The models of `auto`: learning rate, wd, l1. The first are tried when there is room for few. For sgd the rates are
# multiplied by what a step can be without diverging.
_RATES = {"adam": (0.3, 0.1, 0.03, 0.01), "rmsprop": (0.03, 0.01, 0.003, 0.001), "sgd": (20.0, 5.0, 1.0, 0.2)}
_WD = (0.0, 0.0001, 0.001, 0.01)
_L1 = (0.0, 0.0001)
_FIRST = ((1, 1, 0), (0, 2, 1), (2, 1, 0), (1, 2, 0), (0, 1, 0), (3, 0, 0), (1, 3, 0), (2, 2, 1), (0, 2, 0))


@dataclass(frozen=True)
class Configuration:
    """What one of the models is trained with."""

    learning_rate: float
    wd: float
    l1: float
    positive_weight: float


@dataclass(frozen=True)
class Scaling:
    """`features` become (x - mean) / deviation, a regression's `labels` (y - label_mean) / label_unit."""

    mean: FloatArray
    deviation: FloatArray
    label_mean: float
    label_unit: float

    def apply(self, features: FloatArray) -> None:
        """In place, by blocks that stay in the cache."""
        step = max(1, _BLOCK_NUMBERS // 8 // max(1, features.shape[1]))
        for start in range(0, len(features), step):
            block = features[start : start + step]
            block -= self.mean
            block /= self.deviation

    def undo(self, weights: FloatArray, bias: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Weights [d, c] and bias [c] for features and labels in their own units."""
        raw = weights.astype(np.float64) / self.deviation[:, None]
        offset = bias - self.mean.astype(np.float64) @ raw
        return (
            (raw * self.label_unit).astype(np.float32),
            (offset * self.label_unit + self.label_mean).astype(np.float32),
        )


@dataclass
class Judge:
    """Rows that judge models, scaled: [n, d] and, a regression's labels scaled too, [n]."""

    features: FloatArray
    labels: FloatArray


def train(values: Mapping[str, Any], rows: Mapping[str, Rows | None], reporter: Reporter, model: Path) -> None:
    """Write the artifact into the folder `model`. Raises UserError."""
    channels = {name: _checked(part, name, values) for name, part in rows.items() if part is not None}
    features, labels = channels["train"].features, channels["train"].labels
    if values["mini_batch_size"] > len(features):
        raise UserError(
            f"mini_batch_size is {values['mini_batch_size']}, but channel train has only {len(features)} rows: "
            "set mini_batch_size to at most that"
        )
    scaling = _scaling(features, labels, values)
    for channel in channels.values():
        scaling.apply(channel.features)
    scaled = {name: Judge(part.features, _scaled_labels(part.labels, scaling)) for name, part in channels.items()}

    loss = losses.build(_loss_name(values), values, scaling.label_unit)
    trainer = Trainer(values, loss, scaled["train"], scaled.get("validation"), reporter, scaling.label_unit)
    with np.errstate(over="ignore", invalid="ignore"):  # a model whose rate is too high diverges, and is not chosen
        trainer.run()
    best = _select(trainer, values)

    parameters = trainer.parameters(best.number)
    _report(values, channels, loss, parameters, best.threshold, scaling, reporter)
    configuration = trainer.configurations[best.number]
    log.info("Best model found for hyperparameters: %s", _described(configuration, trainer))
    weights, bias = scaling.undo(parameters[:-1], parameters[-1])
    if not (np.isfinite(weights).all() and np.isfinite(bias).all()):
        raise UserError("the model's weights are not finite: scale the features")
    save(LinearModel(values["predictor_type"], loss.name, weights, bias, best.threshold), model)


# Preparation


def _checked(rows: Rows, channel: str, values: Mapping[str, Any]) -> "Labelled":
    """Raises UserError for labels that the predictor can't have."""
    labels = rows.labels
    assert labels is not None  # noqa: S101 -- the program refuses a channel without labels
    if values["predictor_type"] == "binary_classifier" and not np.isin(labels, (0, 1)).all():
        raise UserError(f"channel {channel} has a label that is neither 0 nor 1, as a binary_classifier needs")
    if values["predictor_type"] == "multiclass_classifier":
        classes = values["num_classes"]
        if ((labels < 0) | (labels >= classes) | (labels != np.floor(labels))).any():
            raise UserError(f"channel {channel} has a label that is not a whole number from 0 to {classes - 1}")
    return Labelled(rows.features, labels)


@dataclass
class Labelled:
    """Rows whose labels were checked."""

    features: FloatArray
    labels: FloatArray


def _loss_name(values: Mapping[str, Any]) -> str:
    name: str = LOSSES[values["predictor_type"]][0] if values["loss"] == AUTO else values["loss"]
    return name


def _scaling(features: FloatArray, labels: FloatArray, values: Mapping[str, Any]) -> Scaling:
    """Means and deviations of a sample of `num_point_for_scaler` rows, spread over all of them."""
    step = max(1, len(features) // values["num_point_for_scaler"])
    sample = features[::step][: values["num_point_for_scaler"]]
    mean = sample.mean(axis=0, dtype=np.float64)
    deviation = sample.std(axis=0, dtype=np.float64)
    # A column is constant if it varies by less than float32 can tell.
    deviation[deviation <= 1e-7 * np.abs(mean)] = 1
    if not _decided(values["normalize_data"], auto=True):
        deviation[:] = 1
    if not _decided(values["unbias_data"], auto=values["use_bias"]):
        mean[:] = 0

    label_mean, label_unit = 0.0, 1.0
    if values["predictor_type"] == "regressor":
        spread = float(labels.std(dtype=np.float64))
        if _decided(values["normalize_label"], auto=True) and spread > 0:
            label_unit = spread
        if _decided(values["unbias_label"], auto=values["use_bias"]):
            label_mean = float(labels.mean(dtype=np.float64))
    return Scaling(mean.astype(np.float32), deviation.astype(np.float32), label_mean, label_unit)


def _decided(value: bool | str, *, auto: bool) -> bool:
    return auto if value == AUTO else bool(value)


def _scaled_labels(labels: FloatArray, scaling: Scaling) -> FloatArray:
    if scaling.label_mean == 0 and scaling.label_unit == 1:
        return labels
    return ((labels.astype(np.float64) - scaling.label_mean) / scaling.label_unit).astype(np.float32)


def _optimizer(values: Mapping[str, Any]) -> str:
    return "adam" if values["optimizer"] == AUTO else str(values["optimizer"])


def _configurations(values: Mapping[str, Any], labels: FloatArray, step: float, outputs: int) -> list[Configuration]:
    """The models to train: what is given is the same in all of them. `step` scales the rates of sgd."""
    optimizer = _optimizer(values)
    rates = [rate * (step if optimizer == "sgd" else 1) for rate in _RATES[optimizer]]
    every = itertools.product(range(len(rates)), range(len(_WD)), range(len(_L1)))
    weights = _positive_weights(values, labels)
    models = dict.fromkeys(
        Configuration(
            rates[rate] if values["learning_rate"] == AUTO else values["learning_rate"],
            _WD[wd] if values["wd"] == AUTO else values["wd"],
            _L1[l1] if values["l1"] == AUTO else values["l1"],
            weight,
        )
        for rate, wd, l1 in dict.fromkeys([*_FIRST, *every])
        for weight in weights
    )
    if values.get("_tuning_objective_metric"):
        return list(models)[:1]  # a tuning job tries one model at a time
    if values["num_models"] == AUTO:
        return list(models)[: max(1, min(_MODELS, _OUTPUTS // outputs))]
    # More models than there are configurations start from different weights.
    return list(itertools.islice(itertools.cycle(models), values["num_models"]))


def _positive_weights(values: Mapping[str, Any], labels: FloatArray) -> tuple[float, ...]:
    if values["predictor_type"] != "binary_classifier":
        return (1.0,)
    given = values["positive_example_weight_mult"]
    if isinstance(given, float):
        return (given,)
    positives = float(labels.sum(dtype=np.float64))
    balanced = (len(labels) - positives) / positives if 0 < positives < len(labels) else 1.0
    return (balanced,) if given == "balanced" else (1.0, math.sqrt(balanced), balanced)


# Training


class Trainer:
    """Trains m models of c outputs each. Parameters are [d + 1, m * c]; the last row is the bias."""

    def __init__(
        self,
        values: Mapping[str, Any],
        loss: Loss,
        rows: Judge,
        validation: Judge | None,
        reporter: Reporter,
        label_unit: float,
    ) -> None:
        self.values = values
        self.loss = loss
        self.rows = rows
        self.validated = validation is not None
        self.judge = validation or _sample(rows)
        self.reporter = reporter
        self.outputs = values["num_classes"] if values["predictor_type"] == "multiclass_classifier" else 1
        # Half the mean squared length of a row bounds the curvature of the losses, and so sgd's step, from above.
        energy = float(np.einsum("ij,ij->", self.judge.features, self.judge.features)) / len(self.judge.features)
        self.configurations = _configurations(values, rows.labels, 2 / max(energy, 1e-6), self.outputs)
        self.models = len(self.configurations)
        size = (rows.features.shape[1] + 1) * self.models * self.outputs
        if size > _PARAMETERS_MAX:
            raise UserError(f"{self.models} models of {size // self.models} parameters do not fit: lower num_models")
        self._unit = label_unit**loss.unit_power
        self._class_weights = self._class_weighting()
        positive = np.array([model.positive_weight for model in self.configurations], np.float32)
        self._positive_weights = None if (positive == 1).all() else positive
        self._random = np.random.default_rng(_SEED)
        self._current = self._initial()
        self._average = self._current.copy()
        self._best = self._current.copy()
        self.best_losses = np.full(self.models, np.inf)

    def parameters(self, model: int) -> FloatArray:
        """The best parameters [d + 1, c] of one model."""
        return self._best[:, model * self.outputs : (model + 1) * self.outputs]

    def run(self) -> None:
        """Train until the last epoch, or until no model has got better for some."""
        values = self.values
        since = 0
        started = time.perf_counter()
        optimizer = _Optimizer(values, self._current, self.configurations, self.outputs)
        batches = -(-len(self.rows.features) // values["mini_batch_size"])
        schedule = _schedule(values, batches * values["epochs"])
        for epoch in range(values["epochs"]):
            clock = time.time()
            trained = self._epoch(optimizer, batches, schedule)
            judged = self._losses(self._average, self.judge)
            better = judged < self.best_losses
            # Any model counts: slow learners may still overtake the leader. The first epoch has nothing to compare to.
            needed = values["early_stopping_tolerance"] * np.abs(self.best_losses)
            progressed = epoch == 0 or bool((self.best_losses - judged > needed).any())
            self.best_losses[better] = judged[better]
            self._best[:, np.repeat(better, self.outputs)] = self._average[:, np.repeat(better, self.outputs)]

            leader = int(np.argmin(np.where(np.isnan(judged), np.inf, judged)))
            self._report_epoch(epoch, float(trained[leader]), float(judged[leader]), leader, clock)
            if not np.isfinite(self.best_losses).any():
                raise UserError("no model has a finite loss after an epoch: lower learning_rate, or scale the data")
            if progressed:
                log.info("Epoch %d: Loss improved. Updating best model", epoch)
                since = 0
            else:
                since += 1
                log.info("Epoch %d: Loss has not improved for %d epochs.", epoch, since)
            self.reporter.progress(epoch + 1, values["epochs"])
            if since >= values["early_stopping_patience"]:
                log.info("Early stop condition met. Stopping training.")
                break
        records = (epoch + 1) * len(self.rows.features)
        self.reporter.throughput(records, time.perf_counter() - started)

    def _epoch(self, optimizer: "_Optimizer", batches: int, schedule: Iterator[float]) -> NDArray[np.float64]:
        """One pass over the rows; the mean loss of each model while it was trained."""
        total = np.zeros(self.models)
        gradient = np.empty_like(self._current)
        for batch in self._random.permutation(batches):
            # Every batches-th row: each batch is a sample of the whole, in whatever order the rows came.
            features, labels = self.rows.features[batch::batches], self.rows.labels[batch::batches]
            outputs = features @ self._current[:-1]
            outputs += self._current[-1]
            loss, derivative = self._weighted(outputs, labels)
            ones = np.ones(len(labels), np.float32)  # sums by matrix products, which are faster than numpy's
            total += ones @ loss
            derivative = derivative.reshape(outputs.shape)
            derivative *= np.float32(1 / len(labels))
            np.matmul(features.T, derivative, out=gradient[:-1])
            np.matmul(ones, derivative, out=gradient[-1])
            optimizer.step(self._current, gradient, next(schedule))
            self._average += np.float32((_AVERAGING + 1) / (optimizer.steps + _AVERAGING)) * (
                self._current - self._average
            )
        return total / len(self.rows.labels)

    def _weighted(self, outputs: FloatArray, labels: FloatArray) -> tuple[FloatArray, FloatArray]:
        loss, derivative = self.loss.evaluate(outputs.reshape(len(labels), self.models, self.outputs), labels)
        weights = self._weights(labels)
        if weights is not None:
            loss = loss * weights
            derivative = derivative * weights[:, :, None]
        return loss, derivative

    def _weights(self, labels: FloatArray) -> FloatArray | None:
        """The weight of each row for each model, [n, m] or [n, 1]; None: all 1."""
        if self._class_weights is not None:
            return self._class_weights[labels.astype(np.intp)][:, None]
        if self._positive_weights is None:
            return None
        return np.asarray(1 + labels[:, None] * (self._positive_weights - 1))

    def _class_weighting(self) -> FloatArray | None:
        if self.outputs == 1 or not self.values["balance_multiclass_weights"]:
            return None
        counts = np.bincount(self.rows.labels.astype(np.intp), minlength=self.outputs)
        return (len(self.rows.labels) / (self.outputs * np.maximum(counts, 1))).astype(np.float32)

    def _losses(self, parameters: FloatArray, rows: Judge) -> NDArray[np.float64]:
        """The mean loss of each model, weighted as in training."""
        total, weight = np.zeros(self.models), np.zeros(self.models)
        step = max(1, _BLOCK_NUMBERS // parameters.shape[1])
        for start in range(0, len(rows.features), step):
            labels = rows.labels[start : start + step]
            outputs = rows.features[start : start + step] @ parameters[:-1] + parameters[-1]
            total += self._weighted(outputs, labels)[0].sum(axis=0, dtype=np.float64)
            weights = self._weights(labels)
            weight += len(labels) if weights is None else weights.sum(axis=0, dtype=np.float64)
        return np.asarray(total / weight)

    def _report_epoch(self, epoch: int, trained: float, judged: float, model: int, clock: float) -> None:
        token = self.loss.token
        self.reporter.metrics(clock, time.time(), {f"train_{token}": trained * self._unit}, epoch=epoch, model=model)
        self.reporter.quality("train", token, trained * self._unit, goal="loss", epoch=epoch)
        if self.validated:
            self.reporter.quality("validation", token, judged * self._unit, goal="loss", epoch=epoch)
        log.info(
            "#early_stopping_criteria_metric: host=%s, epoch=%d, criteria=%s, value=%r",
            self.reporter.host,
            epoch,
            token,
            judged * self._unit,
        )

    def _initial(self) -> FloatArray:
        values = self.values
        size = (self.rows.features.shape[1] + 1, self.models * self.outputs)
        if values["init_method"] == "uniform":
            initial = self._random.uniform(-values["init_scale"], values["init_scale"], size)
        else:
            initial = self._random.normal(0, values["init_sigma"], size)
        initial[-1] = values["init_bias"] if values["use_bias"] else 0
        return initial.astype(np.float32)


class _Optimizer:
    """Adam, RMSProp or gradient descent with momentum, in place, with a rate and penalties for each model."""

    def __init__(
        self, values: Mapping[str, Any], parameters: FloatArray, models: list[Configuration], outputs: int
    ) -> None:
        self._kind = _optimizer(values)
        self._rates = np.repeat(np.array([model.learning_rate for model in models], np.float32), outputs)
        self._wd = np.repeat(np.array([model.wd for model in models], np.float32), outputs)
        self._l1 = np.repeat(np.array([model.l1 for model in models], np.float32), outputs)
        self._bias_rate = np.float32(_or(values["bias_lr_mult"], 1.0) if values["use_bias"] else 0)
        self._bias_wd = np.float32(_or(values["bias_wd_mult"], 0.0))
        self._momentum = np.float32(_or(values["momentum"], 0.9))
        self._beta_1 = np.float32(_or(values["beta_1"], 0.9))
        self._beta_2 = np.float32(_or(values["beta_2"], 0.999) if self._kind == "adam" else 0.9)
        self._first = np.zeros_like(parameters)
        self._second = np.zeros_like(parameters)
        self._work = np.empty_like(parameters)
        self.steps = 0

    def step(self, parameters: FloatArray, gradient: FloatArray, decay: float) -> None:
        """Move `parameters` against `gradient`, both [d + 1, outputs]; overwrites `gradient`."""
        self.steps += 1
        first, second, work = self._first, self._second, self._work
        if self._wd.any():
            np.multiply(parameters, self._wd, out=work)
            work[-1] *= self._bias_wd
            gradient += work
        if self._l1.any():
            np.copysign(self._l1, parameters, out=work)
            work[parameters == 0] = 0
            work[-1] = 0
            gradient += work

        rates = self._rates * np.float32(decay)
        if self._kind == "sgd":
            first *= self._momentum
            first += gradient
            np.multiply(first, rates, out=work)
        else:
            second *= self._beta_2
            np.multiply(gradient, gradient, out=work)
            work *= 1 - self._beta_2
            second += work
            np.sqrt(second, out=work)
            if self._kind == "adam":
                work *= np.float32(1 / math.sqrt(1 - float(self._beta_2) ** self.steps))
                first *= self._beta_1
                gradient *= 1 - self._beta_1
                first += gradient
                moved = first
                rates = rates * np.float32(1 / (1 - float(self._beta_1) ** self.steps))
            else:
                moved = gradient
            work += np.float32(1e-8)
            np.divide(moved, work, out=work)
            work *= rates
        work[-1] *= self._bias_rate
        parameters -= work


def _or(value: float | str, auto: float) -> float:
    return auto if isinstance(value, str) else value


def _schedule(values: Mapping[str, Any], steps: int) -> Iterator[float]:
    """What the learning rates are multiplied by at each step. Never ends."""
    if not values["use_lr_scheduler"]:
        yield from itertools.repeat(1.0)
    every, factor = values["lr_scheduler_step"], values["lr_scheduler_factor"]
    if every == AUTO:
        decays = 50.0 if factor == AUTO else math.log(_FINAL_RATE) / math.log(factor)
        every = max(1, round(steps / max(decays, 1)))
    if factor == AUTO:
        factor = _FINAL_RATE ** min(1.0, every / steps)
    lowest = _or(values["lr_scheduler_minimum_lr"], 1e-5)
    for step in itertools.count():
        yield max(factor ** (step // every), lowest)


def _sample(rows: Judge) -> Judge:
    step = max(1, -(-len(rows.features) // _TRAIN_SAMPLE))
    return Judge(rows.features[::step], rows.labels[::step])


# Choice and report


@dataclass(frozen=True)
class Best:
    number: int
    threshold: float


def _select(trainer: Trainer, values: Mapping[str, Any]) -> Best:
    """The model that serves the selection criterion best, on rows that judge.

    Models within a standard error of the best can't be told apart by it; of these the one of the least loss is taken.
    """
    natural = trainer.loss.natural_threshold
    ranked = np.argsort(trainer.best_losses)
    if values["predictor_type"] != "binary_classifier":
        return Best(int(ranked[0]), natural)

    most = _or(values["num_calibration_samples"], _CALIBRATION_ROWS)
    step = max(1, math.ceil(len(trainer.judge.features) / most))
    features, labels = trainer.judge.features[::step], trainer.judge.labels[::step]
    calibrations = {}
    for model in (int(number) for number in ranked if math.isfinite(trainer.best_losses[number])):
        parameters = trainer.parameters(model)
        scores = to_scores(features @ parameters[:-1] + parameters[-1], trainer.loss.name)[:, 0]
        calibrations[model] = scoring.calibrate(scores, labels, values, natural)
    best = max(calibration.value for calibration in calibrations.values())
    if math.isnan(best):
        return Best(int(ranked[0]), natural)
    counted = len(labels) if values["binary_classifier_model_selection_criteria"] == "accuracy" else labels.sum()
    share = best % 1 or best  # where a target is met, the value is 1 more than the share
    noise = math.sqrt(max(share * (1 - share), 0) / max(float(counted), 1))
    for model, calibration in calibrations.items():  # in order of their losses
        if calibration.value >= best - noise:
            return Best(model, calibration.threshold)
    raise AssertionError("the best model is among the models")


def _report(
    values: Mapping[str, Any],
    channels: Mapping[str, Labelled],
    loss: Loss,
    parameters: FloatArray,
    threshold: float,
    scaling: Scaling,
    reporter: Reporter,
) -> None:
    """The final metrics of each channel."""
    for name, rows in channels.items():
        outputs = rows.features @ parameters[:-1] + parameters[-1]
        objective = loss.evaluate(outputs[:, None, :], _scaled_labels(rows.labels, scaling))[0]
        unit = scaling.label_unit**loss.unit_power
        metrics: scoring.Metrics = {loss.token: (float(objective.mean(dtype=np.float64)) * unit, "loss")}
        scores = to_scores(outputs, loss.name)
        if values["predictor_type"] == "binary_classifier":
            metrics |= scoring.binary(scores[:, 0], rows.labels, threshold, values)
        elif values["predictor_type"] == "multiclass_classifier":
            metrics |= scoring.multiclass(scores, rows.labels, values)
        else:
            metrics |= scoring.regression(scores[:, 0] * scaling.label_unit + scaling.label_mean, rows.labels)
        reporter.scores(name, metrics)
    if "test" not in channels:
        log.info("Test data is not provided.")


def _described(configuration: Configuration, trainer: Trainer) -> str:
    parts = {
        "learning_rate": configuration.learning_rate,
        "wd": configuration.wd,
        "l1": configuration.l1,
        "positive_example_weight_mult": configuration.positive_weight,
        "optimizer": f'"{_optimizer(trainer.values)}"',
        "loss": f'"{trainer.loss.name}"',
    }
    return "{" + ", ".join(f'"{name}": {value}' for name, value in parts.items()) + "}"
