"""A K-Means model: the artifact and what it answers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from localaws.algorithms import artifact, ndarray
from localaws.algorithms.artifact import ARTIFACT
from localaws.algorithms.toolkit import UserError

FloatArray = NDArray[np.float32]

_BLOCK_NUMBERS = 4_000_000


@dataclass(frozen=True)
class KMeansModel:
    """`centers` is [k, feature_dim]."""

    centers: FloatArray

    @property
    def feature_dim(self) -> int:
        return int(self.centers.shape[1])

    def predict(self, features: FloatArray) -> dict[str, FloatArray]:
        clusters, squared = closest(features, self.centers, exactly=True)
        return {"distance_to_cluster": np.sqrt(squared), "closest_cluster": clusters.astype(np.float32)}


def closest(features: FloatArray, centers: FloatArray, *, exactly: bool = False) -> tuple[NDArray[np.intp], FloatArray]:
    """For each row the number of the closest center, and the squared Euclidean distance to it.

    `exactly`: of centers that are nearly as close the same one is taken, whatever rows stand beside the row.
    """
    work: type[np.floating[Any]] = np.float64 if exactly else np.float32
    across = centers.T.astype(work)
    halves = 0.5 * np.einsum("ij,ij->i", centers, centers)
    clusters = np.empty(len(features), np.intp)
    squared = np.empty(len(features), np.float32)
    step = max(1, _BLOCK_NUMBERS // max(centers.shape))
    for start in range(0, len(features), step):
        rows = slice(start, start + step)
        block = features[rows]
        clusters[rows] = (halves - block.astype(work, copy=False) @ across).argmin(axis=1)
        # From the differences, not from |x|^2 - 2xc + |c|^2, which loses all digits of a row close to its center.
        difference = block - centers[clusters[rows]]
        squared[rows] = np.einsum("ij,ij->i", difference, difference)
    return clusters, squared


def save(centers: FloatArray, folder: Path) -> None:
    """The artifact is one save file of one array [k, feature_dim]."""
    artifact.write(folder, ndarray.dumps([centers]))


def load(folder: Path) -> KMeansModel:
    """Raises UserError for a missing or foreign artifact."""
    try:
        arrays, _names = ndarray.loads((folder / ARTIFACT).read_bytes())
    except (OSError, ndarray.NDArrayError) as error:
        raise UserError(f"the model artifact {ARTIFACT} can't be read: {error}") from error
    if len(arrays) != 1 or arrays[0].ndim != 2 or not arrays[0].size:
        raise UserError(f"the model artifact {ARTIFACT} must hold one matrix of centers")
    return KMeansModel(arrays[0])
