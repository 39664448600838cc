"""Comparing two ways of doing the same, on a machine that others use too."""

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Comparison:
    """Seconds of ours and of the peer's, and how many times as fast ours is: each a median over the rounds.

    The ratio is that of each round, taken before the median, so that a slow minute weighs on both sides alike. Without
    a target it is only reported.
    """

    name: str
    peer: str
    ours_seconds: float
    peer_seconds: float
    ratio: float
    target: float | None
    rounds: int

    @property
    def met(self) -> bool:
        return self.target is None or self.ratio >= self.target

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "peer": self.peer,
            "ours_seconds": round(self.ours_seconds, 6),
            "peer_seconds": round(self.peer_seconds, 6),
            "ratio": round(self.ratio, 3),
            "target": self.target,
            "met": self.met,
            "rounds": self.rounds,
        }


@dataclass(frozen=True)
class Figure:
    """A figure of quality that the speed must not be bought with, and its bound."""

    name: str
    value: float
    at_least: float | None = None
    at_most: float | None = None

    @property
    def met(self) -> bool:
        low, high = self.at_least, self.at_most
        return (low is None or self.value >= low) and (high is None or self.value <= high)

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "value": round(self.value, 4),
            "at_least": self.at_least,
            "at_most": self.at_most,
            "met": self.met,
        }


class Stopwatch:
    """Times what runs within `running`, so that setting up and clearing away don't count."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - start


Work = Callable[[Stopwatch], None]


def compare(name: str, peer: str, *, ours: Work, theirs: Work, target: float | None, rounds: int) -> Comparison:
    """Time both in turn, `rounds` times, after one round that doesn't count."""
    pairs = [(_seconds(ours), _seconds(theirs)) for _ in range(rounds + 1)][1:]
    return Comparison(
        name=name,
        peer=peer,
        ours_seconds=statistics.median(ours for ours, _ in pairs),
        peer_seconds=statistics.median(theirs for _, theirs in pairs),
        ratio=statistics.median(theirs / ours for ours, theirs in pairs),
        target=target,
        rounds=rounds,
    )


def _seconds(work: Work) -> float:
    gc.collect()
    watch = Stopwatch()
    work(watch)
    return watch.seconds
