"""The type of a hyperparameter table, and its check.

SageMaker passes every hyperparameter as a string. A table says for each name what the string may be; `parse` turns the
strings into values, or raises `InvalidHyperparameters` with the wording of the built-in algorithms.
"""

import difflib
import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

AUTO = "auto"

DECIDED_LATER = object()
"""What a rule sees in place of a value that the data is still to decide."""

_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,17}")
_REAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_SHOWN = 80


class InvalidHyperparameters(ValueError):
    """A hyperparameter is missing, unknown or out of its range. `names` are those to look at."""

    def __init__(self, message: str, names: Collection[str] = ()) -> None:
        super().__init__(message)
        self.names = tuple(names)


class Kind(Protocol):
    """What a hyperparameter's string may be."""

    @property
    def expected(self) -> str:
        """What is expected, in words that end a sentence."""

    def parse(self, text: str) -> Any:
        """The value of `text`. Raises ValueError."""


@dataclass(frozen=True)
class Integer:
    """A whole number without sign, padding or leading zeros, as in `^([1-9][0-9]*)$`."""

    minimum: int = 1
    maximum: int | None = None

    @property
    def expected(self) -> str:
        if self.maximum is not None:
            return f"a whole number from {self.minimum} to {self.maximum}"
        return f"a whole number of at least {self.minimum}"

    def parse(self, text: str) -> int:
        if not _INTEGER.fullmatch(text):
            raise ValueError(text)
        value = int(text)
        if value < self.minimum or (self.maximum is not None and value > self.maximum):
            raise ValueError(text)
        return value


@dataclass(frozen=True)
class Real:
    """A finite number between two bounds, each of which is itself allowed or not (`above`, `below`)."""

    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    below: float | None = None

    @property
    def expected(self) -> str:
        bounds = [
            f"{word} {bound:g}"
            for word, bound in (
                ("at least", self.minimum),
                ("greater than", self.above),
                ("at most", self.maximum),
                ("less than", self.below),
            )
            if bound is not None
        ]
        return " ".join(["a number", " and ".join(bounds)]).strip()

    def parse(self, text: str) -> float:
        if not _REAL.fullmatch(text):
            raise ValueError(text)
        value = float(text)
        within = (
            math.isfinite(value)
            and (self.minimum is None or value >= self.minimum)
            and (self.maximum is None or value <= self.maximum)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )
        if not within:
            raise ValueError(text)
        return value


@dataclass(frozen=True)
class Flag:
    """`true` or `false`; the SageMaker SDK writes `True` and `False`."""

    expected: str = "true or false"

    def parse(self, text: str) -> bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(text)
        return text.lower() == "true"


@dataclass(frozen=True)
class Choice:
    """One of several words."""

    options: tuple[str, ...]

    @property
    def expected(self) -> str:
        return "one of " + ", ".join(self.options)

    def parse(self, text: str) -> str:
        if text not in self.options:
            raise ValueError(text)
        return text


@dataclass(frozen=True)
class ChoiceList:
    """A JSON list of different words, at least one."""

    options: tuple[str, ...]

    @property
    def expected(self) -> str:
        return "a JSON list of " + " and ".join(f'"{option}"' for option in self.options)

    def parse(self, text: str) -> tuple[str, ...]:
        value = json.loads(text)
        if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
            raise ValueError(text)
        if len(set(value)) != len(value) or not set(value) <= set(self.options):
            raise ValueError(text)
        return tuple(value)


@dataclass(frozen=True)
class Hyperparameter:
    """One row of a table.

    `words` are texts that are allowed besides what `kind` takes, `auto` among them. `default` is a value, not a string;
    None means that the hyperparameter has none. `applies_when` is (name, values): with other values of that name this
    hyperparameter has no effect. `hidden` names are what the SageMaker SDK or service sends, not what a person sets.
    """

    name: str
    kind: Kind
    default: Any = None
    required: bool = False
    words: tuple[str, ...] = ()
    applies_when: tuple[str, tuple[Any, ...]] | None = None
    hidden: bool = False

    @property
    def expected(self) -> str:
        return " or ".join([self.kind.expected, *(f"'{word}'" for word in self.words)])

    def parse(self, text: str) -> Any:
        """The value of `text`. Raises InvalidHyperparameters."""
        if text in self.words:
            return text
        try:
            return self.kind.parse(text)
        except (ValueError, RecursionError):
            shown = text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
            message = f"{shown!r} is not valid under any of the given schemas: {self.name} takes {self.expected}"
            raise InvalidHyperparameters(_caused(message), [self.name]) from None


Rule = Callable[[Mapping[str, Any]], Iterable[tuple[str, str]]]
"""A rule across hyperparameters: takes the parsed values, gives (name, what is wrong) for each breach."""


def parse(
    table: Collection[Hyperparameter],
    rules: Iterable[Rule],
    given: Mapping[str, str],
    *,
    decided_later: Collection[str] = (),
) -> dict[str, Any]:
    """The values of all hyperparameters of a table: those given, else their defaults.

    Names that begin with `_` belong to the service and are passed through as strings. `decided_later` may be missing:
    their values come from data not seen yet.

    Raises InvalidHyperparameters, in SageMaker's order: missing, unknown, each value, rules across values.
    """
    rows = {row.name: row for row in table}
    missing = [row.name for row in table if row.required and row.name not in given and row.name not in decided_later]
    if missing:
        listed = ", ".join(f"'{name}'" for name in missing)
        message = f"No value(s) were specified for {listed} which are required hyperparameter(s)"
        raise InvalidHyperparameters(_caused(message), missing)

    unknown = [name for name in given if name not in rows and not name.startswith("_")]
    if unknown:
        raise InvalidHyperparameters(_caused(_unexpected(unknown, rows)), unknown)

    values: dict[str, Any] = {row.name: row.default for row in table}
    for name, text in given.items():
        values[name] = rows[name].parse(text) if name in rows else text

    known = {**values, **{name: DECIDED_LATER for name in decided_later if name not in given}}
    for rule in rules:
        for name, wrong in rule(known):
            raise InvalidHyperparameters(_caused(wrong), [name])
    return values


def _unexpected(unknown: Collection[str], rows: Collection[str]) -> str:
    listed = ", ".join(f"'{name[:_SHOWN]}'" for name in unknown)
    message = f"Additional properties are not allowed ({listed} {'was' if len(unknown) == 1 else 'were'} unexpected)"
    near = {close[0]: None for name in unknown if (close := difflib.get_close_matches(name[:_SHOWN], rows, n=1))}
    return message + (f"; did you mean {' or '.join(repr(name) for name in near)}?" if near else "")


def _caused(message: str) -> str:
    return f"{message} (caused by ValidationError)"
