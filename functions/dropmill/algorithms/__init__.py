"""What SageMaker's built-in algorithms accept and answer: the one source for recipes, Lambdas and local programs.

No numpy here: Lambdas that only decide import this package.
"""

from dropmill.algorithms.algorithm import Algorithm, Metric
from dropmill.algorithms.factorization_machines import FACTORIZATION_MACHINES
from dropmill.algorithms.hyperparameters import Hyperparameter, Integer, InvalidHyperparameters, Real
from dropmill.algorithms.kmeans import KMEANS
from dropmill.algorithms.knn import KNN
from dropmill.algorithms.linear_learner import LINEAR_LEARNER
from dropmill.algorithms.predictions import InvalidPredictions, Predictions
from dropmill.algorithms.registry import REGISTRY_ACCOUNTS, UnsupportedRegion

__all__ = [
    "ALGORITHMS",
    "REGISTRY_ACCOUNTS",
    "Algorithm",
    "Hyperparameter",
    "Integer",
    "InvalidHyperparameters",
    "InvalidPredictions",
    "Metric",
    "Predictions",
    "Real",
    "UnknownAlgorithm",
    "UnsupportedRegion",
    "get",
    "image_uri",
]

ALGORITHMS = {algorithm.name: algorithm for algorithm in (KMEANS, LINEAR_LEARNER, FACTORIZATION_MACHINES, KNN)}


class UnknownAlgorithm(LookupError):
    """There is no built-in algorithm of this name."""


def get(name: str) -> Algorithm:
    """The algorithm of this name. Raises UnknownAlgorithm."""
    if name not in ALGORITHMS:
        raise UnknownAlgorithm(f"there is no algorithm {name[:80]!r}; there are {', '.join(ALGORITHMS)}")
    return ALGORITHMS[name]


def image_uri(name: str, region: str) -> str:
    """The address of an algorithm's image in a region. Raises UnknownAlgorithm, UnsupportedRegion."""
    return get(name).image_uri(region)
