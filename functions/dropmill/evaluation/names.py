"""The metric names that recipes, gates and reports share. No numpy: Lambdas that only decide import this module."""

from enum import StrEnum


class Direction(StrEnum):
    MAXIMIZE = "maximize"
    MINIMIZE = "minimize"


def metric_text(value: float) -> str:
    """A metric's value as every page and table prints it: four decimals below ten, else at least four digits."""
    if abs(value) < 10:
        return f"{value:.4f}"
    return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}" if abs(value) < 1e6 else f"{value:.3g}"


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
