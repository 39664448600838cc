"""What a model must reach before it may be used: `gates:` and `champion:` of a recipe. No numpy.

A gate is a metric's name and a comparison: `f1: ">= 0.90"`.

    comparison = operator number
    operator   = ">=" | ">" | "<=" | "<"
    number     = a decimal number, also as 1e-3

Spaces around either part are free. The metrics of each task are those that Evaluate Model writes for it; a metric that
the test rows did not define is not there, and a gate on it is not met.
"""

import difflib
import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from dropmill.errors import several
from dropmill.evaluation.names import DIRECTIONS, Direction, metric_text

METRICS: Mapping[str, tuple[str, ...]] = {
    "binary": ("accuracy", "precision", "recall", "f1", "roc_auc"),
    "multiclass": ("accuracy", "precision", "recall", "f1", "roc_auc"),
    "regression": ("rmse", "mae", "r2"),
    "clustering": ("msd", "purity", "nmi"),
}
"""The metrics by which each task (a `contracts.Task`, or its value) is judged."""

CHAMPION_METRICS: Mapping[str, str] = {
    "binary": "f1",
    "multiclass": "accuracy",
    "regression": "rmse",
    "clustering": "msd",
}
"""By which models of each task are compared where the recipe names no metric."""

Comparison = Literal[">=", ">", "<=", "<"]

_COMPARE: Mapping[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    ">": operator.gt,
    "<=": operator.le,
    "<": operator.lt,
}
_GATE = re.compile(r"\s*(>=|<=|>|<)\s*([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?)\s*", re.ASCII)
_TEXT_MAX = 60
_SHOWN = 40
_BETWEEN = {
    **dict.fromkeys(("accuracy", "precision", "recall", "f1", "roc_auc", "purity", "nmi"), (0.0, 1.0)),
    **dict.fromkeys(("rmse", "mae", "msd"), (0.0, math.inf)),
    "r2": (-math.inf, 1.0),
}


class Gate(BaseModel):
    """A bound that a metric on the test rows has to keep."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    metric: str
    comparison: Comparison
    threshold: float = Field(allow_inf_nan=False)

    def met_by(self, value: float) -> bool:
        """Whether the bound is kept; never by NaN."""
        return _COMPARE[self.comparison](value, self.threshold)

    def __str__(self) -> str:
        return f"{self.metric} {self.comparison} {self.threshold!r}"


class Verdict(BaseModel):
    """What came of one comparison, also in words for the notification and the registry."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    metric: str
    passed: bool
    value: float | None = Field(default=None, description="None: the test rows did not define the metric")
    words: str


def parse_gate(metric: str, text: str) -> Gate:
    """Read one gate.

    Raises:
        ValueError: an unknown metric, no comparison, or a bound that the metric's values never reach. The message is
            for the author of the recipe.
    """
    check_metric(metric)
    found = _GATE.fullmatch(text) if isinstance(text, str) and len(text) <= _TEXT_MAX else None
    threshold = float(found[2]) if found else math.inf
    if found is None or not math.isfinite(threshold):
        shown = repr(text if len(str(text)) <= _SHOWN else f"{str(text)[:_SHOWN]}...")
        wanted = f'a comparison and a number in quotes, such as "{_example(metric)}"'
        raise ValueError(f"the gate on {metric} must be {wanted}, not {shown}")
    least, most = _BETWEEN[metric]
    if not least <= threshold <= most:
        bounds = (
            "lies between 0 and 1" if (least, most) == (0, 1) else "is never below 0" if not least else "is at most 1"
        )
        percent = (
            f"; for {found[2]} percent write {found[1]} {threshold / 100:g}" if most == 1 < threshold <= 100 else ""
        )
        raise ValueError(f"{metric} {bounds}, so it can't be compared with {found[2]}{percent}")
    return Gate.model_validate({"metric": metric, "comparison": found[1], "threshold": threshold})


def parse_gates(gates: Mapping[str, str]) -> list[Gate]:
    """Read all gates of a recipe, in its order.

    Raises:
        ValueError: as `parse_gate`, naming every gate that is wrong.
    """
    read, problems = [], []
    for metric, text in gates.items():
        try:
            read.append(parse_gate(metric, text))
        except ValueError as problem:
            problems.append(str(problem))
    if problems:
        raise ValueError(problems[0] if len(problems) == 1 else several(problems))
    return read


def check_metric(metric: str) -> None:
    """Raise ValueError for a name that is no metric, with the one that was probably meant."""
    if metric in DIRECTIONS:
        return
    meant = difflib.get_close_matches(metric.lower(), DIRECTIONS, 1)
    hint = f"did you mean {meant[0]}?" if meant else f"the metrics are {', '.join(DIRECTIONS)}"
    raise ValueError(f"there is no metric {metric[:_SHOWN]!r}; {hint}")


def misplaced(metrics: Iterable[str], task: str) -> list[str]:
    """Say of each metric that the task is not judged by, so that a recipe can be refused before anything is trained."""
    known = METRICS[task]
    return [
        f"{metric} is no metric of a {task} model; it has {', '.join(known)}"
        for metric in metrics
        if metric not in known
    ]


def check(gates: Iterable[Gate], metrics: Mapping[str, float]) -> list[Verdict]:
    """Hold metrics on the test rows against the gates: one verdict for each gate, in their order."""
    return [_held_against(gate, metrics.get(gate.metric)) for gate in gates]


def beats(metric: str, challenger: float, champion: float, margin: float = 0.0) -> bool:
    """Whether the challenger is better than the champion, and by at least `margin`; equal is not better.

    Numbers are compared as they are written, so that 0.102 is better than 0.1 by 0.002.

    Raises:
        ValueError: an unknown metric, a negative margin, or a value that is not finite.
    """
    gain = _gain(metric, challenger, champion)
    if not (margin >= 0 and math.isfinite(margin)):
        raise ValueError(f"a margin is a number of 0 or more, not {margin!r}")
    return gain > 0 and gain >= _exact(margin)


def judge_challenger(
    metric: str, challenger: Mapping[str, float], champion: Mapping[str, float], margin: float = 0.0
) -> Verdict:
    """Compare two models by their metrics on the same rows. Without a value of its own the challenger loses, else wins.

    Raises:
        ValueError: as `beats`.
    """
    check_metric(metric)
    mine, other = challenger.get(metric), champion.get(metric)
    if mine is None:
        words = f"{metric} was not measured: these test rows don't define it, so the champion stays"
        return Verdict(metric=metric, passed=False, words=words)
    if other is None:
        words = f"{metric} {metric_text(mine)}; the champion's was not measured on these test rows"
        return Verdict(metric=metric, passed=True, value=mine, words=words)
    passed = beats(metric, mine, other, margin)
    gain = float(_gain(metric, mine, other))
    one, two = metric_text(mine), metric_text(other)
    if one == two and mine != other:
        one, two = repr(mine), repr(other)
    by = _apart(abs(gain), margin)
    asked = f"; {margin!r} better is asked for" if margin else ""
    if passed:
        words = f"{metric} {one} beats the champion's {two} by {by}{asked}"
    elif gain == 0:
        words = f"{metric} {one} equals the champion's{asked}"
    else:
        words = f"{metric} {one} is {by} {'better' if gain > 0 else 'worse'} than the champion's {two}{asked}"
    return Verdict(metric=metric, passed=passed, value=mine, words=words)


def _held_against(gate: Gate, value: float | None) -> Verdict:
    bound = f"{gate.comparison} {gate.threshold!r}"
    if value is None:
        words = f"{gate.metric} was not measured: these test rows don't define it, so {bound} is not met"
        return Verdict(metric=gate.metric, passed=False, words=words)
    passed = gate.met_by(value)
    shown = metric_text(value)
    if gate.met_by(float(shown.replace(",", ""))) != passed:
        shown = repr(value)  # 0.89996 must not read as the 0.9000 that it isn't
    words = f"{gate.metric} {shown} {'meets' if passed else 'misses'} {bound}"
    return Verdict(metric=gate.metric, passed=passed, value=value, words=words)


def _gain(metric: str, challenger: float, champion: float) -> Fraction:
    """How much better the challenger is; negative if it is worse."""
    check_metric(metric)
    if not (math.isfinite(challenger) and math.isfinite(champion)):
        raise ValueError(f"{metric} must be a finite number, not {challenger!r} and {champion!r}")
    difference = _exact(challenger) - _exact(champion)
    return difference if DIRECTIONS[metric] is Direction.MAXIMIZE else -difference


def _exact(value: float) -> Fraction:
    return Fraction(repr(float(value)))


def _apart(gain: float, margin: float) -> str:
    """A difference, with as many digits as tell it from nothing and from the margin."""
    shown = f"{gain:.4f}"
    told = float(shown)
    return shown if told > 0 and (told >= margin) == (gain >= margin) else repr(gain)


def _example(metric: str) -> str:
    return "<= 0.5" if DIRECTIONS[metric] is Direction.MINIMIZE else ">= 0.90"
