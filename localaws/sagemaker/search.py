"""Where a tuning job looks next: ranges with their scaling, and the strategies Random, Grid and Bayesian.

Every range maps the unit interval to its values by its scale, so that a strategy only knows the unit cube. Values of
hyperparameters are strings, as SageMaker passes them.
"""

import itertools
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from localaws.sagemaker.errors import ValidationException

Values = dict[str, str]
Floats = NDArray[np.float64]

AUTO_LOGARITHMIC = 100.0
"""The Auto scale is logarithmic where a range above 0 spans this factor. SageMaker does not tell its own rule."""
RANGES_LIMIT = 30
GRID_LIMIT = 10_000
_DRAWS = 50
_CANDIDATES = 1_024
_NEIGHBOURS = 256
_NEARNESS = 0.08


class Range(Protocol):
    """The values of one hyperparameter."""

    @property
    def name(self) -> str: ...

    def at(self, place: float) -> str:
        """The value at a place of the unit interval."""

    def coordinates(self, value: str) -> list[float]:
        """Where a value lies in the cube that the surrogate sees."""


@dataclass(frozen=True)
class Continuous:
    """Numbers from `low` to `high`; `scale` is Linear, Logarithmic or ReverseLogarithmic."""

    name: str
    low: float
    high: float
    scale: str

    def at(self, place: float) -> str:
        if self.scale == "Linear":
            value = self.low + place * (self.high - self.low)
        elif self.scale == "Logarithmic":
            value = self.low * (self.high / self.low) ** place
        else:
            value = 1 - (1 - self.low) * ((1 - self.high) / (1 - self.low)) ** place
        return repr(float(min(max(value, self.low), self.high)))

    def coordinates(self, value: str) -> list[float]:
        if self.low == self.high:
            return [0.0]
        number = float(value)
        if self.scale == "Linear":
            return [(number - self.low) / (self.high - self.low)]
        if self.scale == "Logarithmic":
            return [math.log(number / self.low) / math.log(self.high / self.low)]
        return [math.log((1 - number) / (1 - self.low)) / math.log((1 - self.high) / (1 - self.low))]


@dataclass(frozen=True)
class Integer:
    """Whole numbers from `low` to `high`; `scale` is Linear or Logarithmic."""

    name: str
    low: int
    high: int
    scale: str

    def at(self, place: float) -> str:
        if self.scale == "Linear":
            value = self.low + int(place * (self.high - self.low + 1))
        else:
            value = int(self.low * ((self.high + 1) / self.low) ** place)
        return str(min(max(value, self.low), self.high))

    def coordinates(self, value: str) -> list[float]:
        if self.low == self.high:
            return [0.0]
        if self.scale == "Linear":
            return [(int(value) - self.low) / (self.high - self.low)]
        return [math.log(int(value) / self.low) / math.log(self.high / self.low)]


@dataclass(frozen=True)
class Categorical:
    """A few values without an order."""

    name: str
    values: tuple[str, ...]

    def at(self, place: float) -> str:
        return self.values[min(int(place * len(self.values)), len(self.values) - 1)]

    def coordinates(self, value: str) -> list[float]:
        return [float(one == value) for one in self.values]


def read_ranges(asked: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Range]:
    """Return the ranges of a ParameterRanges document. Raises ValidationException."""
    if asked.get("AutoParameters"):
        raise ValidationException("AutoParameters is not supported by the embedded SageMaker.")
    ranges: list[Range] = [
        *(_integer(one) for one in asked.get("IntegerParameterRanges", [])),
        *(_continuous(one) for one in asked.get("ContinuousParameterRanges", [])),
        *(_categorical(one) for one in asked.get("CategoricalParameterRanges", [])),
    ]
    names = [one.name for one in ranges]
    if not ranges:
        raise ValidationException("A hyperparameter tuning job needs at least one hyperparameter range.")
    if len(ranges) > RANGES_LIMIT:
        raise ValidationException(f"A hyperparameter tuning job may search {RANGES_LIMIT} hyperparameters at most.")
    for name in names:
        if names.count(name) > 1:
            raise ValidationException(f"The hyperparameter {name!r} has more than one range.")
    return ranges


def _integer(one: Mapping[str, Any]) -> Integer:
    low, high = (_number(one, end, int) for end in ("MinValue", "MaxValue"))
    if one.get("ScalingType") == "ReverseLogarithmic":
        raise ValidationException(f"ReverseLogarithmic scaling of {one['Name']!r} is for continuous ranges only.")
    return Integer(one["Name"], low, high, _scale(one, low, high))


def _continuous(one: Mapping[str, Any]) -> Continuous:
    low, high = (_number(one, end, float) for end in ("MinValue", "MaxValue"))
    return Continuous(one["Name"], low, high, _scale(one, low, high))


def _number(one: Mapping[str, Any], end: str, kind: Any) -> Any:
    try:
        value = kind(one[end])
    except (ValueError, OverflowError):
        value = math.nan
    if not math.isfinite(value):
        words = "an integer" if kind is int else "a number"
        raise ValidationException(f"The {end} {one[end]!r} of the hyperparameter {one['Name']!r} is not {words}.")
    return value


def _scale(one: Mapping[str, Any], low: float, high: float) -> str:
    name, scale = one["Name"], str(one.get("ScalingType", "Auto"))
    if low > high:
        raise ValidationException(f"The MinValue of the hyperparameter {name!r} is larger than its MaxValue.")
    if scale == "Auto":
        return "Logarithmic" if low > 0 and high / low >= AUTO_LOGARITHMIC else "Linear"
    if scale == "Logarithmic" and low <= 0:
        raise ValidationException(f"Logarithmic scaling of {name!r} needs a range above 0.")
    if scale == "ReverseLogarithmic" and not 0 <= low <= high < 1:
        raise ValidationException(f"ReverseLogarithmic scaling of {name!r} needs a range within 0 <= x < 1.")
    return scale


def _categorical(one: Mapping[str, Any]) -> Categorical:
    values = tuple(one["Values"])
    if len(set(values)) != len(values):
        raise ValidationException(f"The values of the hyperparameter {one['Name']!r} repeat themselves.")
    return Categorical(one["Name"], values)


@dataclass(frozen=True)
class Judged:
    """A training job's values and what came of them: less `loss` is better, None while it isn't known."""

    values: Values
    loss: float | None
    failed: bool = False


class Strategy(Protocol):
    """Says which values to try next. `at_most` is how many jobs make sense; None: no end."""

    at_most: int | None

    def suggest(self, so_far: Sequence[Judged]) -> Values:
        """Return the next values, given every job that was started so far, in order."""


class Random:
    """Values drawn independently, by seed and number: the same whatever order the jobs end in."""

    at_most: int | None = None

    def __init__(self, ranges: Sequence[Range], seed: int) -> None:
        self._ranges = ranges
        self._seed = seed

    def suggest(self, so_far: Sequence[Judged]) -> Values:
        random = np.random.default_rng([self._seed, len(so_far)])
        tried = [one.values for one in so_far]
        values: Values = {}
        for _ in range(_DRAWS):  # a small space is soon tried out; then repeating is right
            places = random.random(len(self._ranges))
            values = {one.name: one.at(place) for one, place in zip(self._ranges, places, strict=True)}
            if values not in tried:
                break
        return values


class Grid:
    """Every combination of categorical values, in order. Raises ValidationException."""

    def __init__(self, ranges: Sequence[Range]) -> None:
        categories = [one for one in ranges if isinstance(one, Categorical)]
        if len(categories) != len(ranges):
            raise ValidationException("The Grid strategy searches categorical hyperparameters only.")
        self.at_most: int | None = math.prod(len(one.values) for one in categories)
        if self.at_most > GRID_LIMIT:
            raise ValidationException(f"The grid has {self.at_most} combinations; at most {GRID_LIMIT} are searched.")
        self._combinations = [
            dict(zip((one.name for one in categories), values, strict=True))
            for values in itertools.product(*(one.values for one in categories))
        ]

    def suggest(self, so_far: Sequence[Judged]) -> Values:
        return dict(self._combinations[len(so_far)])


class Bayesian:
    """A Gaussian process over the unit cube and its expected improvement, after a random start.

    Jobs that still run count as if they had brought the mean of what is known (a constant liar), so that several at
    once look in different places; failed jobs count as the worst.
    """

    at_most: int | None = None

    def __init__(self, ranges: Sequence[Range], seed: int, warm_up: int) -> None:
        self._ranges = ranges
        self._seed = seed
        self._warm_up = warm_up
        self._random = Random(ranges, seed)

    def suggest(self, so_far: Sequence[Judged]) -> Values:
        known = [one.loss for one in so_far if one.loss is not None]
        if len(so_far) < self._warm_up or len(known) < 2:
            return self._random.suggest(so_far)
        random = np.random.default_rng([self._seed, len(so_far)])
        best = min((one for one in so_far if one.loss is not None), key=lambda one: one.loss or 0.0)
        tried = {tuple(one.values.items()) for one in so_far}
        candidates = {
            tuple(values.items()): values
            for values in self._candidates(random, best.values)
            if tuple(values.items()) not in tried
        }
        if not candidates:
            return self._random.suggest(so_far)
        worst, mean = max(known), sum(known) / len(known)
        losses = [one.loss if one.loss is not None else worst if one.failed else mean for one in so_far]
        gains = expected_improvement(
            np.array([self._coordinates(one.values) for one in so_far]),
            np.array(losses),
            np.array([self._coordinates(values) for values in candidates.values()]),
            seed=self._seed,
        )
        return dict([*candidates.values()][int(np.argmax(gains))])

    def _coordinates(self, values: Values) -> list[float]:
        return [place for one in self._ranges for place in one.coordinates(values[one.name])]

    def _candidates(self, random: np.random.Generator, best: Values) -> list[Values]:
        """Values all over the space, and some near the best."""
        places = random.random((_CANDIDATES + _NEIGHBOURS, len(self._ranges)))
        for column, one in enumerate(self._ranges):
            if isinstance(one, Categorical):
                stay = random.random(_NEIGHBOURS) < 0.8
                here = (one.values.index(best[one.name]) + 0.5) / len(one.values)
                places[_CANDIDATES:, column][stay] = here
            else:
                here = one.coordinates(best[one.name])[0]
                places[_CANDIDATES:, column] = np.clip(here + random.normal(0, _NEARNESS, _NEIGHBOURS), 0, 1)
        return [{one.name: one.at(place) for one, place in zip(self._ranges, row, strict=True)} for row in places]


def expected_improvement(seen: Floats, losses: Floats, candidates: Floats, *, seed: int) -> Floats:
    """Return by how much each candidate is expected to fall below the least loss (Jones, Schonlau, Welch 1998).

    `seen` [n, d] with `losses` [n], `candidates` [m, d]; all coordinates within the unit interval.
    """
    # Here, because it takes a second to import, and only a search of this kind needs it.
    from scipy.stats import norm
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    # A length scale at its bound says that a hyperparameter doesn't matter: nothing to warn of.
    warnings.filterwarnings("ignore", category=ConvergenceWarning, module="sklearn")
    # One loss that exploded must not flatten all the others.
    least, middle = float(losses.min()), float(np.median(losses))
    if middle > least:
        losses = np.minimum(losses, middle + 3 * (middle - least))
    width = seen.shape[1]
    kernel = ConstantKernel(1.0, (0.05, 20.0)) * Matern(np.full(width, 0.5), (0.05, 10.0), nu=2.5)
    surrogate = GaussianProcessRegressor(
        kernel + WhiteKernel(1e-3, (1e-6, 0.1)), normalize_y=True, n_restarts_optimizer=1, random_state=seed % 2**32
    )
    surrogate.fit(seen, losses)
    mean, deviation = surrogate.predict(candidates, return_std=True)
    deviation = np.maximum(deviation, 1e-12)
    gain = least - mean
    scaled = gain / deviation
    improvement: Floats = gain * norm.cdf(scaled) + deviation * norm.pdf(scaled)
    return improvement


def is_worse_than_median(curve: Sequence[float], others: Sequence[Sequence[float]], at_least: int) -> bool:
    """Say whether a job is to be stopped early: its newest loss lies above the median of the others' running averages.

    `curve` and `others` hold a loss for each epoch; the others count that came as far, and there must be `at_least` of
    them.
    """
    epochs = len(curve)
    averages = [sum(other[:epochs]) / epochs for other in others if len(other) >= epochs]
    return len(averages) >= at_least and curve[-1] > float(np.median(averages))
