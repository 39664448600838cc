"""The metric names that recipes, gates and reports share. No numpy: Lambdas that only decide import this module."""

from enum import StrEnum


class Direction(StrEnum):
    MAXIMIZE = "maximize"
    MINIMIZE = "minimize"


DIRECTIONS = {
    "accuracy": Direction.MAXIMIZE,
    "precision": Direction.MAXIMIZE,
    "recall": Direction.MAXIMIZE,
    "f1": Direction.MAXIMIZE,
    "roc_auc": Direction.MAXIMIZE,
    "rmse": Direction.MINIMIZE,
    "mae": Direction.MINIMIZE,
    "r2": Direction.MAXIMIZE,
    "msd": Direction.MINIMIZE,
    "purity": Direction.MAXIMIZE,
    "nmi": Direction.MAXIMIZE,
}
