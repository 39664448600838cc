"""A k-NN model: a FAISS index with the rows' labels, how rows are projected into it, and what it answers."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from localaws.algorithms import artifact
from localaws.algorithms.artifact import ARTIFACT
from localaws.algorithms.toolkit import UserError

FloatArray = NDArray[np.float32]

LABELS = f"{ARTIFACT}.labels"
META = f"{ARTIFACT}.json"
NPROBE = 5

_BLOCK_NUMBERS = 4_000_000
_K_MAX = 1_000_000
_PROJECTION_NUMBERS_MAX = 1_000_000_000
_VERSION = "1.0"


@dataclass(frozen=True)
class Reduction:
    """A random projection from `input_dim` to `target_dim` columns that roughly keeps distances.

    `sign`: every entry is +-1 (Achlioptas 2003). `fjlt`: random signs, then `target_dim` random rows of a
    Walsh-Hadamard matrix (the subsampled form of Ailon and Chazelle's transform). A seed gives the same matrix
    everywhere.
    """

    type: str
    seed: int
    target_dim: int
    input_dim: int

    def matrix(self) -> FloatArray:
        """[input_dim, target_dim]."""
        random = np.random.RandomState(self.seed)  # whose streams never change, so that old models stay right
        scale = np.float32(1 / math.sqrt(self.target_dim))
        if self.type == "sign":
            signs = random.randint(0, 2, (self.input_dim, self.target_dim), dtype=np.int8)
            return np.asarray((2 * signs - 1).astype(np.float32) * scale)
        padded = 1 << (self.input_dim - 1).bit_length()
        flips = (2 * random.randint(0, 2, self.input_dim) - 1).astype(np.float32)
        frequencies = random.choice(padded, self.target_dim, replace=self.target_dim > padded)
        # Entry (i, j) of the Hadamard matrix is -1 to the number of ones that i and j have in common.
        common = np.bitwise_count(np.arange(self.input_dim)[:, None] & frequencies[None, :])
        return np.asarray((1 - 2 * (common % 2).astype(np.float32)) * flips[:, None] * scale)


@dataclass(frozen=True)
class Projector:
    """Turns rows into those of the index: reduced, filled up with zeros to its width, of length one for cosines."""

    feature_dim: int
    index_dim: int
    reduction: Reduction | None
    normalize: bool
    matrix: FloatArray | None

    @classmethod
    def of(cls, feature_dim: int, index_dim: int, reduction: Reduction | None, *, normalize: bool) -> "Projector":
        return cls(feature_dim, index_dim, reduction, normalize, None if reduction is None else reduction.matrix())

    def project(self, features: FloatArray) -> FloatArray:
        rows = features if self.matrix is None else features @ self.matrix
        if rows.shape[1] < self.index_dim:
            rows = np.pad(rows, ((0, 0), (0, self.index_dim - rows.shape[1])))
        if self.normalize:
            lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))
            rows = rows / np.where(lengths > 0, lengths, 1)[:, None]
        return np.ascontiguousarray(rows, np.float32)


@dataclass(frozen=True)
class KnnModel:
    """`labels` [n] are those of the rows in the index."""

    index: Any
    labels: FloatArray
    k: int
    predictor_type: str
    projector: Projector
    nprobe: int = NPROBE

    @property
    def feature_dim(self) -> int:
        return self.projector.feature_dim

    def predict(self, features: FloatArray) -> dict[str, FloatArray]:
        """The label of each row, and the distances, ascending, and labels [n, k] of its neighbours.

        Distances are squared Euclidean ones, 1 - cosine, or the negative inner product.
        """
        neighbours = min(self.k, len(self.labels))
        distances = np.empty((len(features), neighbours), np.float32)
        labels = np.empty((len(features), neighbours), np.float32)
        step = max(1, _BLOCK_NUMBERS // max(neighbours, self.projector.index_dim))
        for start in range(0, len(features), step):
            rows = slice(start, start + step)
            distances[rows], found = self._search(self.projector.project(features[rows]), neighbours)
            labels[rows] = self.labels[found]
        if self.index.metric_type == faiss.METRIC_INNER_PRODUCT:
            distances = np.subtract(np.float32(self.projector.normalize), distances)
        predicted = labels.mean(axis=1) if self.predictor_type == "regressor" else vote(labels)
        return {"predicted_label": predicted, "distances": distances, "labels": labels}

    def _search(self, rows: FloatArray, neighbours: int) -> tuple[FloatArray, NDArray[np.int64]]:
        if not isinstance(self.index, faiss.IndexIVF):
            distances, found = self.index.search(rows, neighbours)
            return distances, found
        lists = self.index.nlist
        distances, found = self._probe(rows, neighbours, min(self.nprobe, lists))
        # Where the lists that were looked into hold too few rows, all of them are.
        few = np.flatnonzero(found[:, -1] < 0)
        if len(few):
            distances[few], found[few] = self._probe(rows[few], neighbours, lists)
        return distances, found

    def _probe(self, rows: FloatArray, neighbours: int, lists: int) -> tuple[FloatArray, NDArray[np.int64]]:
        probe = faiss.SearchParametersIVF(nprobe=lists)  # type: ignore[call-arg]  # FAISS adds it when it is imported
        distances, found = self.index.search(rows, neighbours, params=probe)
        return distances, found


def vote(labels: FloatArray) -> FloatArray:
    """The most frequent label of each row of neighbours [n, k], given nearest first; of equals, the nearest one's."""
    rows, neighbours = labels.shape
    order = np.argsort(labels, axis=1, kind="stable")
    ordered = np.take_along_axis(labels, order, axis=1)
    group = np.zeros((rows, neighbours), np.int64)
    np.cumsum(ordered[:, 1:] != ordered[:, :-1], axis=1, out=group[:, 1:])
    group += neighbours * np.arange(rows)[:, None]
    sizes = np.bincount(group.ravel(), minlength=rows * neighbours)[group]
    votes = np.empty_like(sizes)
    np.put_along_axis(votes, order, sizes, axis=1)
    winner: FloatArray = labels[np.arange(rows), votes.argmax(axis=1)]
    return winner


def save(model: KnnModel, folder: Path) -> None:
    """Three files: the index as FAISS writes it, the labels as raw float32, and JSON that may be edited later."""
    projector = model.projector
    reduction = projector.reduction
    meta: dict[str, Any] = {
        "k": model.k,
        "predictor_type": model.predictor_type,
        "feature_dim": projector.feature_dim,
        "normalize": projector.normalize,
        "nprobe": model.nprobe,
        "version": _VERSION,
    }
    if reduction is not None:
        meta["dimension_reduction"] = {
            "type": reduction.type,
            "seed": reduction.seed,
            "target_dim": reduction.target_dim,
            "input_dim": reduction.input_dim,
        }
    artifact.write(folder, model.labels.astype("<f4").tobytes(), LABELS)
    artifact.write(folder, json.dumps(meta).encode(), META)
    with artifact.placed(folder, ARTIFACT) as partial:
        faiss.write_index(model.index, str(partial))


def load(folder: Path) -> KnnModel:
    """Raises UserError for a missing or foreign artifact."""
    try:
        if (folder / META).stat().st_size > artifact.JSON_BYTES_MAX:
            raise ValueError(f"{META} is too large")
        meta = json.loads((folder / META).read_bytes())
        index = faiss.read_index(str(folder / ARTIFACT))
        labels = np.fromfile(folder / LABELS, "<f4")
        reduction = _reduction(meta.get("dimension_reduction"))
        feature_dim = int(reduction.input_dim if reduction else meta.get("feature_dim", index.d))
        projector = Projector.of(feature_dim, index.d, reduction, normalize=bool(meta["normalize"]))
        model = KnnModel(
            index, labels, int(meta["k"]), str(meta["predictor_type"]), projector, int(meta.get("nprobe", NPROBE))
        )
        _check(model)
    except (*artifact.UNREADABLE, RuntimeError, AttributeError) as error:  # FAISS raises RuntimeError
        raise UserError(f"the model artifact {ARTIFACT} can't be read: {error}") from error
    return model


def _reduction(meta: Mapping[str, Any] | None) -> Reduction | None:
    if meta is None:
        return None
    reduction = Reduction(str(meta["type"]), int(meta["seed"]), int(meta["target_dim"]), int(meta["input_dim"]))
    if reduction.type not in ("sign", "fjlt") or min(reduction.target_dim, reduction.input_dim) < 1:
        raise ValueError("its dimension_reduction is unknown")
    if reduction.target_dim * reduction.input_dim > _PROJECTION_NUMBERS_MAX:
        raise ValueError("its dimension_reduction is too large")
    return reduction


def _check(model: KnnModel) -> None:
    projector = model.projector
    projected = projector.reduction.target_dim if projector.reduction else projector.feature_dim
    if model.index.ntotal != len(model.labels) or not len(model.labels) or not 1 <= projected <= model.index.d:
        raise ValueError("its index, labels and metadata do not fit together")
    if not 1 <= model.k <= _K_MAX or model.nprobe < 1:
        raise ValueError("k and nprobe must be at least 1")
    if model.predictor_type not in ("classifier", "regressor"):
        raise ValueError("its predictor_type is unknown")
