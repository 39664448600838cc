"""Which program stands behind an image, and which metrics its log lines carry."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Action = Literal["train", "serve"]
Command = Callable[[str, Action], list[str]]
Metrics = Callable[[str], Sequence[tuple[str, str]]]
Goals = Callable[[str], Mapping[str, str]]


@dataclass(frozen=True)
class Programs:
    """How an image's repository becomes something to run.

    `command` returns the argv of a repository's program, and raises LookupError for one it doesn't know; `metrics`
    returns (name, regular expression) of what a known repository's program prints; `goals` returns which of them a
    search may be for, with Minimize or Maximize; empty: any, either way.
    """

    command: Command
    metrics: Metrics
    goals: Goals = lambda _repository: {}


def repository(image: str) -> str:
    """Return the repository that an image address names: `.../kmeans:1` is `kmeans`."""
    return image.rsplit("/", 1)[-1].split("@", 1)[0].split(":", 1)[0]


def built_in() -> Programs:
    """Return the programs of the built-in algorithms."""
    from dropmill import algorithms as described
    from localaws import algorithms

    def metrics(name: str) -> list[tuple[str, str]]:
        return [(metric.name, metric.regex) for metric in described.get(name).metrics]

    def goals(name: str) -> dict[str, str]:
        return {metric.name: metric.goal for metric in described.get(name).metrics if metric.goal}

    return Programs(algorithms.command, metrics, goals)
