"""A Linear Learner model: the artifact and what it answers."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from localaws.algorithms import artifact, ndarray
from localaws.algorithms.artifact import ARTIFACT
from localaws.algorithms.products import product
from localaws.algorithms.toolkit import UserError

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class LinearModel:
    """Scores are `features @ weights + bias` in the units of the user's own columns: `weights` [d, c], `bias` [c].

    `c` is the number of classes, or 1. `threshold` is what a binary score must reach for label 1.
    """

    predictor_type: str
    loss: str
    weights: FloatArray
    bias: FloatArray
    threshold: float = 0.5

    @property
    def feature_dim(self) -> int:
        return int(self.weights.shape[0])

    def predict(self, features: FloatArray) -> dict[str, FloatArray]:
        scores = to_scores(product(features, self.weights) + self.bias, self.loss)
        if self.predictor_type == "regressor":
            return {"score": scores[:, 0]}
        if self.predictor_type == "binary_classifier":
            return {"score": scores[:, 0], "predicted_label": (scores[:, 0] >= self.threshold).astype(np.float32)}
        return {"score": scores, "predicted_label": scores.argmax(axis=1).astype(np.float32)}


def to_scores(margins: FloatArray, loss: str) -> FloatArray:
    """What a model answers for linear outputs [n, c]: probabilities with logistic and softmax, else the outputs."""
    if loss == "logistic":
        return sigmoid(margins)
    if loss == "softmax_loss":
        powers: FloatArray = np.exp(margins - margins.max(axis=1, keepdims=True))
        powers /= powers.sum(axis=1, keepdims=True)
        return powers
    return margins


def sigmoid(margins: FloatArray) -> FloatArray:
    # Beyond +-60 the float32 result is 0 or 1 anyway, and exp would overflow.
    probability: FloatArray = np.float32(1) / (np.float32(1) + np.exp(-np.clip(margins, -60, 60)))
    return probability


def save(model: LinearModel, folder: Path) -> None:
    """A zip of the members that SageMaker's artifact has: an MXNet module `mx-mod` and the parameters beside it."""
    outputs = model.weights.shape[1]
    additional = {
        "predictor_type": model.predictor_type,
        "loss": model.loss,
        "feature_dim": model.feature_dim,
        "num_classes": outputs,
        "threshold": model.threshold,
    }
    manifest = {"prefix": "mx-mod", "epoch": 0, "data_names": ["data"], "label_names": ["out_label"]}
    parameters = ndarray.dumps([model.weights.T, model.bias], ["arg:fc0_weight", "arg:fc0_bias"])
    members: dict[str, bytes | str] = {
        "additional-params.json": json.dumps(additional),
        "manifest.json": json.dumps(manifest),
        "mx-mod-symbol.json": json.dumps(_symbol(outputs)),
        "mx-mod-0000.params": parameters,
    }
    artifact.write_zip(folder, members)


def _symbol(outputs: int) -> dict[str, Any]:
    """MXNet's graph of one fully connected layer named `out`, which an MXNet module loads the parameters into."""
    nodes: list[dict[str, Any]] = [
        {"op": "null", "name": name, "inputs": []} for name in ("data", "fc0_weight", "fc0_bias")
    ]
    layer = {
        "op": "FullyConnected",
        "name": "out",
        "attrs": {"num_hidden": str(outputs)},
        "inputs": [[0, 0, 0], [1, 0, 0], [2, 0, 0]],
    }
    return {"nodes": [*nodes, layer], "arg_nodes": [0, 1, 2], "heads": [[3, 0, 0]]}


def load(folder: Path) -> LinearModel:
    """Raises UserError for a missing or foreign artifact."""
    try:
        members = artifact.read_zip(
            folder,
            {
                "additional-params.json": artifact.JSON_BYTES_MAX,
                "mx-mod-0000.params": artifact.PARAMETERS_BYTES_MAX,
            },
        )
        additional = json.loads(members["additional-params.json"])
        arrays = ndarray.named(members["mx-mod-0000.params"])
        weights, bias = arrays["arg:fc0_weight"].T, arrays["arg:fc0_bias"]
        model = LinearModel(
            str(additional["predictor_type"]),
            str(additional["loss"]),
            np.ascontiguousarray(weights),
            bias,
            float(additional["threshold"]),
        )
        fits = weights.ndim == 2 and weights.size and bias.shape == (weights.shape[1],)
        if not fits or not math.isfinite(model.threshold):
            raise ValueError("its parameters do not fit together")
    except artifact.UNREADABLE as error:
        raise UserError(f"the model artifact {ARTIFACT} can't be read: {error}") from error
    return model
