"""Trains Factorization Machines by Adam on mini-batches.

- A step's gradient is that of the batch's summed loss (cross-entropy, or half the squared error) times `rescale_grad`
  (left out: one divided by the batch's rows), plus the group's `wd` times the parameter, clipped to +-`clip_gradient`
  if that is given and positive. `eps` (1e-8) stands below Adam's division.
- `uniform` without a scale starts within +-0.07, `constant` without a value at 0: MXNet's own defaults.
- Rows of few values are trained on as they are: a step then moves only the columns that its batch has values in, which
  makes huge widths possible, and leaves the others' penalty and momentum for later (MXNet's lazy update). Rows that are
  not so sparse are filled up first, and give the model that the same rows give as dense ones.
"""

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dropmill.data.recordio_sparse import SparseMatrix
from localaws.algorithms.channels import AnyRows, Features, SparseRows, dense
from localaws.algorithms.factorization_model import FactorizationModel, combined, save
from localaws.algorithms.linear_model import sigmoid
from localaws.algorithms.toolkit import Reporter, UserError, log

FloatArray = NDArray[np.float32]
Metrics = dict[str, tuple[float, str]]

LOG_NAME = "factorization-machines"

_SEED = 20
_UNIFORM_SCALE = 0.07
_BETA_1, _BETA_2, _EPS = 0.9, 0.999, 1e-8
_PARAMETERS_MAX = 250_000_000
_SPARSE_BELOW = 0.05  # the share of values below which rows are cheaper to train on as sparse ones
_DENSE_BYTES_MAX = 2 * 1024**3


def train(values: Mapping[str, Any], rows: Mapping[str, AnyRows | None], reporter: Reporter, model: Path) -> None:
    """Write the artifact into the folder `model`. Raises UserError."""
    given = rows["train"]
    assert given is not None  # noqa: S101 -- the program refuses a job without a train channel
    for channel, part in rows.items():
        if part is not None and part.labels is not None:
            _check_labels(part.labels, channel, values)
    if isinstance(given, SparseRows):
        log.info("[Sparse network] Building a sparse network.")
    assert given.labels is not None  # noqa: S101 -- the program refuses a channel without labels
    trainer = Trainer(values, trained_on(given.features), given.labels, reporter)
    with np.errstate(over="ignore", invalid="ignore"):  # what diverges is told after the epoch
        trainer.run()
    fitted = trainer.model()
    save(fitted, model)

    test = rows["test"]
    if test is None or test.labels is None:
        log.info("Test data is not provided.")
    else:
        reporter.scores("test", metrics(fitted.outputs(test.features), test.labels, values["predictor_type"]))


def _check_labels(labels: FloatArray, channel: str, values: Mapping[str, Any]) -> None:
    if values["predictor_type"] == "binary_classifier" and not np.isin(labels, (0, 1)).all():
        raise UserError(f"channel {channel} has a label that is neither 0 nor 1, as a binary_classifier needs")


def trained_on(features: Features) -> Features:
    """The rows in the form that training on them is cheaper in."""
    if not isinstance(features, SparseMatrix):
        return features
    numbers = len(features) * features.width
    if len(features.values) < _SPARSE_BELOW * numbers or 4 * numbers > _DENSE_BYTES_MAX:
        return features
    return dense(features)


def metrics(outputs: FloatArray, labels: FloatArray, predictor: str) -> Metrics:
    """Name in the log to (value, goal), from the outputs before the sigmoid."""
    exact = outputs.astype(np.float64)
    if predictor == "regressor":
        residual = exact - labels
        mse = float((residual**2).mean())
        return {
            "rmse": (math.sqrt(mse), "loss"),
            "mse": (mse, "loss"),
            "absolute_loss": (float(np.abs(residual).mean()), "loss"),
        }
    predicted, positive = exact >= 0, labels > 0
    true = float((predicted & positive).sum())
    found = float(predicted.sum() + positive.sum())
    return {
        "binary_classification_accuracy": (float((predicted == positive).mean()), "score"),
        "binary_classification_cross_entropy": (float((np.logaddexp(0, exact) - labels * exact).mean()), "loss"),
        "binary_f_1.000": (2 * true / found if found else 0.0, "score"),
    }


@dataclass(frozen=True)
class _Batch:
    """Some rows as a matrix with its squares, dense or scipy's, and their places among all rows.

    `columns` are the columns that a sparse matrix is of; None: all.
    """

    matrix: Any
    squares: Any
    labels: FloatArray
    rows: slice
    columns: NDArray[np.int64] | None


class Trainer:
    """`parameters` [d, k + 1]: k factors and the linear weight of each column."""

    def __init__(self, values: Mapping[str, Any], features: Features, labels: FloatArray, reporter: Reporter) -> None:
        self._values = values
        self._reporter = reporter
        self._labels = labels
        self._random = np.random.default_rng(_SEED)
        width, factors = features.shape[1], values["num_factors"]
        if width * (factors + 1) > _PARAMETERS_MAX:
            raise UserError(
                f"{width} features of {factors} factors are more than {_PARAMETERS_MAX} parameters, which is the most "
                "here: lower num_factors"
            )
        self.parameters = np.concatenate(
            [self._initial("factors", (width, factors)), self._initial("linear", (width, 1))], axis=1
        )
        self.bias = float(self._initial("bias", (1,))[0]) if values["use_bias"] else 0.0
        if not values["use_linear"]:
            self.parameters[:, -1] = 0
        linear_lr = values["linear_lr"] if values["use_linear"] else 0.0
        self._rates = np.array([values["factors_lr"]] * factors + [linear_lr], np.float32)
        self._decay = np.array([values["factors_wd"]] * factors + [values["linear_wd"]], np.float32)
        self._bias_rate = values["bias_lr"] if values["use_bias"] else 0.0
        clip = values["clip_gradient"]
        self._clip = clip if clip is not None and clip > 0 else None
        self._eps = _EPS if values["eps"] is None else values["eps"]
        self._first = np.zeros_like(self.parameters)
        self._second = np.zeros_like(self.parameters)
        self._bias_first = self._bias_second = 0.0
        self._steps = 0
        self._batches = list(self._divided(features))

    def model(self) -> FactorizationModel:
        return FactorizationModel(self._values["predictor_type"], self.parameters, self.bias)

    def run(self) -> None:
        epochs = self._values["epochs"]
        started = time.perf_counter()
        for epoch in range(epochs):
            clock = time.time()
            figures = metrics(self.epoch(epoch), self._labels, self._values["predictor_type"])
            if not (np.isfinite(self.parameters).all() and math.isfinite(self.bias)):
                raise UserError("the model's parameters are not finite: lower the learning rates, or scale the data")
            for name, (value, goal) in figures.items():
                self._reporter.quality("train", name, value, goal=goal, epoch=epoch)
            self._reporter.metrics(
                clock, time.time(), {name: value for name, (value, _) in figures.items()}, epoch=epoch
            )
            self._reporter.progress(epoch + 1, epochs)
            self._reporter.throughput((epoch + 1) * len(self._labels), time.perf_counter() - started)
        for name, (value, goal) in figures.items():
            self._reporter.quality("train", name, value, goal=goal)

    def epoch(self, number: int) -> FloatArray:
        """Pass over all rows once; their outputs [n], each as it was before its batch's step."""
        outputs = np.empty(len(self._labels), np.float32)
        publish = self._values["batch_metrics_publish_interval"]
        for count, chosen in enumerate(self._random.permutation(len(self._batches))):
            batch = self._batches[chosen]
            outputs[batch.rows] = found = self._step(batch)
            if count % publish == 0:
                for name, (value, goal) in metrics(found, batch.labels, self._values["predictor_type"]).items():
                    log.info(
                        "#quality_metric: host=%s, epoch=%d, batch=%d train %s <%s>=%r",
                        self._reporter.host,
                        number,
                        count,
                        name,
                        goal,
                        value,
                    )
        return outputs

    def _initial(self, group: str, shape: tuple[int, ...]) -> FloatArray:
        method = self._values[f"{group}_init_method"]
        if method == "normal":
            return self._random.normal(0, self._values[f"{group}_init_sigma"], shape).astype(np.float32)
        if method == "uniform":
            scale = self._values[f"{group}_init_scale"]
            scale = _UNIFORM_SCALE if scale is None else scale
            return self._random.uniform(-scale, scale, shape).astype(np.float32)
        return np.full(shape, self._values[f"{group}_init_value"] or 0.0, np.float32)

    def _divided(self, features: Features) -> Iterator[_Batch]:
        """Every n-th row makes a batch: a sample of the whole, in whatever order the rows came."""
        count = -(-len(features) // self._values["mini_batch_size"])
        if isinstance(features, SparseMatrix):
            yield from self._divided_sparse(features, count)
            return
        # The squares are needed in every epoch; where there is no room for them, each batch makes its own.
        squares = features * features if features.nbytes <= _DENSE_BYTES_MAX else None
        for start in range(count):
            rows = slice(start, None, count)
            matrix = features[rows]
            yield _Batch(matrix, None if squares is None else squares[rows], self._labels[rows], rows, None)

    def _divided_sparse(self, features: SparseMatrix, count: int) -> Iterator[_Batch]:
        from scipy import sparse  # takes a quarter of a second to import, which dense rows do not need

        for start in range(count):
            rows = slice(start, None, count)
            part = features.take(np.arange(start, len(features), count))
            columns, places = np.unique(part.columns, return_inverse=True)
            shape = (len(part), len(columns))
            matrix = sparse.csr_matrix((part.values, places, part.offsets), shape)
            squares = sparse.csr_matrix((part.values * part.values, matrix.indices, matrix.indptr), shape)
            yield _Batch(matrix, squares, self._labels[rows], rows, columns)

    def _step(self, batch: _Batch) -> FloatArray:
        """One step of Adam; the outputs [n] before it."""
        columns = slice(None) if batch.columns is None else batch.columns
        parameters, first, second = self.parameters[columns], self._first[columns], self._second[columns]
        matrix = batch.matrix
        squares = matrix * matrix if batch.squares is None else batch.squares

        factors = parameters[:, :-1]
        products = matrix @ parameters
        outputs = combined(products, squares @ np.einsum("ij,ij->i", factors, factors), self.bias)
        rescale = self._values["rescale_grad"]
        slope = self._answers(outputs) - batch.labels
        slope *= np.float32(1 / len(slope) if rescale is None else rescale)

        products[:, -1] = 1
        products *= slope[:, None]
        gradient = matrix.T @ products
        gradient[:, :-1] -= (slope @ squares)[:, None] * factors
        gradient += self._decay * parameters
        if self._clip is not None:
            np.clip(gradient, -self._clip, self._clip, out=gradient)

        self._steps += 1
        correction = math.sqrt(1 - _BETA_2**self._steps) / (1 - _BETA_1**self._steps)
        first *= np.float32(_BETA_1)
        first += np.float32(1 - _BETA_1) * gradient
        second *= np.float32(_BETA_2)
        gradient *= gradient
        gradient *= np.float32(1 - _BETA_2)
        second += gradient
        move = np.sqrt(second, out=gradient)
        move += np.float32(self._eps)
        np.divide(first, move, out=move)
        move *= self._rates * np.float32(correction)
        parameters -= move
        if batch.columns is not None:  # then they are copies
            self.parameters[columns], self._first[columns], self._second[columns] = parameters, first, second
        self._step_bias(float(slope.sum(dtype=np.float64)), correction)
        return outputs

    def _step_bias(self, gradient: float, correction: float) -> None:
        gradient += self._values["bias_wd"] * self.bias
        if self._clip is not None:
            gradient = min(max(gradient, -self._clip), self._clip)
        self._bias_first = _BETA_1 * self._bias_first + (1 - _BETA_1) * gradient
        self._bias_second = _BETA_2 * self._bias_second + (1 - _BETA_2) * gradient * gradient
        divisor = math.sqrt(self._bias_second) + self._eps
        self.bias -= self._bias_rate * correction * self._bias_first / divisor if divisor else 0.0

    def _answers(self, outputs: FloatArray) -> FloatArray:
        return sigmoid(outputs) if self._values["predictor_type"] == "binary_classifier" else outputs.copy()
