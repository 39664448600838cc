"""A Factorization Machines model: the artifact and what it answers."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dropmill.data.recordio_sparse import SparseMatrix
from localaws.algorithms import artifact, ndarray
from localaws.algorithms.artifact import ARTIFACT
from localaws.algorithms.channels import Features
from localaws.algorithms.linear_model import sigmoid
from localaws.algorithms.toolkit import UserError

FloatArray = NDArray[np.float32]

_BLOCK_NUMBERS = 4_000_000


@dataclass(frozen=True)
class FactorizationModel:
    """`parameters` [d, k + 1]: for each column its k factors, then its linear weight.

    A row's output is `bias + x w + sum over pairs i < j of <v_i, v_j> x_i x_j`, of which the last is computed as half
    of `sum over factors of (x v)^2 - x^2 v^2` (Rendle 2010, lemma 3.1).
    """

    predictor_type: str
    parameters: FloatArray
    bias: float

    @property
    def feature_dim(self) -> int:
        return int(self.parameters.shape[0])

    def outputs(self, features: Features) -> FloatArray:
        """The outputs [n], before the sigmoid."""
        squares = np.einsum("ij,ij->i", self.parameters[:, :-1], self.parameters[:, :-1])
        outputs = np.empty(len(features), np.float32)
        for rows, block in _blocks(features, self.parameters.shape[1]):
            if isinstance(block, SparseMatrix):
                products = _product(block, self.parameters)
                squared = _product(_squared(block), squares[:, None])[:, 0]
            else:
                # In float64, so that a row's output is the same whatever rows stand beside it.
                rows64 = block.astype(np.float64)
                products = (rows64 @ self.parameters).astype(np.float32)
                squared = ((rows64 * rows64) @ squares).astype(np.float32)
            outputs[rows] = combined(products, squared, self.bias)
        return outputs

    def predict(self, features: Features) -> dict[str, FloatArray]:
        outputs = self.outputs(features)
        if self.predictor_type == "regressor":
            return {"score": outputs}
        scores = sigmoid(outputs)
        return {"score": scores, "predicted_label": (scores >= 0.5).astype(np.float32)}


def combined(products: FloatArray, squared: FloatArray, bias: float) -> FloatArray:
    """Outputs [n] from `x @ parameters` [n, k + 1] and `x^2 @ (sum of the squared factors)` [n]."""
    factors = products[:, :-1]
    outputs: FloatArray = np.einsum("ij,ij->i", factors, factors)
    outputs -= squared
    outputs *= np.float32(0.5)
    outputs += products[:, -1]
    outputs += np.float32(bias)
    return outputs


def _blocks(features: Features, columns: int) -> Iterator[tuple[slice, Features]]:
    """Rows of which the numbers that they make at a time are bounded, as far as whole rows go."""
    start = 0
    while start < len(features):
        if isinstance(features, SparseMatrix):
            offsets = features.offsets
            values = _BLOCK_NUMBERS // columns
            stop = max(int(np.searchsorted(offsets, offsets[start] + values, side="right")) - 1, start + 1)
            stop = min(stop, start + values, len(features))
            rows = slice(start, stop)
            yield rows, features.take(np.arange(start, stop))
        else:
            rows = slice(start, start + max(1, _BLOCK_NUMBERS // max(columns, features.shape[1])))
            yield rows, features[rows]
        start = rows.stop


def _product(rows: SparseMatrix, matrix: FloatArray) -> FloatArray:
    """`rows @ matrix` [n, c]. Not scipy's, because importing it would slow the start of every endpoint down."""
    product = np.zeros((len(rows), matrix.shape[1]), np.float32)
    filled = np.flatnonzero(np.diff(rows.offsets))
    if len(filled):
        terms = rows.values[:, None] * matrix[rows.columns]
        product[filled] = np.add.reduceat(terms, rows.offsets[:-1][filled], axis=0)
    return product


def _squared(rows: SparseMatrix) -> SparseMatrix:
    return SparseMatrix(rows.values * rows.values, rows.columns, rows.offsets, rows.width)


def save(model: FactorizationModel, folder: Path) -> None:
    """A zip of an MXNet module: arrays `v` [d, k], `w1_weight` [d, 1] and `w0_weight` [1, 1], and the graph of them."""
    arrays = [model.parameters[:, :-1], model.parameters[:, -1:], np.full((1, 1), model.bias, np.float32)]
    meta = {"predictor_type": model.predictor_type, "feature_dim": model.feature_dim, "version": "1.0"}
    members: dict[str, bytes | str] = {
        "params": ndarray.dumps(arrays, ["arg:v", "arg:w1_weight", "arg:w0_weight"]),
        "symbol.json": json.dumps(_symbol(model)),
        "meta.json": json.dumps(meta),
    }
    artifact.write_zip(folder, members)


def _symbol(model: FactorizationModel) -> dict[str, Any]:
    """The outputs as MXNet's graph, whose inputs are `data` and the arrays of `params`."""
    nodes: list[dict[str, Any]] = []

    def add(op: str, name: str, *inputs: int, **attributes: str) -> int:
        node: dict[str, Any] = {"op": op, "name": name, "inputs": [[number, 0, 0] for number in inputs]}
        nodes.append(node | ({"attrs": attributes} if attributes else {}))
        return len(nodes) - 1

    data, bias, weights, factors = (add("null", name) for name in ("data", "w0_weight", "w1_weight", "v"))
    linear = add("broadcast_add", "linear", add("dot", "x_w", data, weights), bias)
    first = add("square", "x_v_squared", add("dot", "x_v", data, factors))
    second = add("dot", "x2_v2", add("square", "x2", data), add("square", "v2", factors))
    pairs = add("sum", "pairs", add("elemwise_sub", "difference", first, second), axis="1", keepdims="True")
    outputs = add("elemwise_add", "output", linear, add("_mul_scalar", "half", pairs, scalar="0.5"))
    if model.predictor_type == "binary_classifier":
        outputs = add("sigmoid", "out", outputs)
    inputs = [number for number, node in enumerate(nodes) if node["op"] == "null"]
    return {"nodes": nodes, "arg_nodes": inputs, "heads": [[outputs, 0, 0]]}


def load(folder: Path) -> FactorizationModel:
    """Raises UserError for a missing or foreign artifact."""
    try:
        members = artifact.read_zip(
            folder, {"meta.json": artifact.JSON_BYTES_MAX, "params": artifact.PARAMETERS_BYTES_MAX}
        )
        arrays = ndarray.named(members["params"])
        factors, weights, bias = arrays["arg:v"], arrays["arg:w1_weight"], arrays["arg:w0_weight"]
        predictor = str(json.loads(members["meta.json"])["predictor_type"])
        if factors.ndim != 2 or not factors.size or weights.shape != (len(factors), 1) or bias.shape != (1, 1):
            raise ValueError("its parameters do not fit together")
        if predictor not in ("binary_classifier", "regressor"):
            raise ValueError("its predictor_type is unknown")
    except artifact.UNREADABLE as error:
        raise UserError(f"the model artifact {ARTIFACT} can't be read: {error}") from error
    return FactorizationModel(predictor, np.concatenate([factors, weights], axis=1), float(bias[0, 0]))
