"""Trains k-NN: a sample of the rows, an index of them by FAISS, and the scores of the test channel.

- `sample_size` rows are drawn without replacement; where there are fewer, all are taken.
- With `faiss.IVFPQ`, rows are filled up with zeros to a multiple of `faiss_index_pq_m`; reduced rows are reduced to the
  next multiple instead.
- `faiss_index_ivf_nlists`, left to `auto`, is the square root of the rows in the index.
- A vote that is tied goes to the label, among the tied ones, that the nearest neighbour has.
"""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from dropmill.algorithms.hyperparameters import AUTO
from localaws.algorithms.channels import Rows
from localaws.algorithms.knn_model import NPROBE, KnnModel, Projector, Reduction, save
from localaws.algorithms.toolkit import Reporter, UserError, log

FloatArray = NDArray[np.float32]
Metrics = dict[str, tuple[float, str]]

LOG_NAME = "AWS/KNN"

_SEED = 20
_PQ_BITS = 8
_PQ_ROWS_MIN = 2**_PQ_BITS


def train(values: Mapping[str, Any], rows: Mapping[str, Rows | None], reporter: Reporter, model: Path) -> None:
    """Write the artifact into the folder `model`. Raises UserError."""
    given, test = rows["train"], rows["test"]
    assert given is not None and given.labels is not None  # noqa: S101 -- the program refuses a job without
    started, clock = time.time(), time.perf_counter()
    fitted = fit(given.features, given.labels, values, reporter)
    reporter.progress(1, 1)
    seconds = time.perf_counter() - clock
    reporter.throughput(len(given.features), seconds)
    reporter.metrics(started, time.time(), {"update.time": 1000 * seconds}, epoch=0)
    save(fitted, model)
    if test is None or test.labels is None:
        log.info("Test data is not provided.")
        return
    predicted = fitted.predict(test.features)["predicted_label"]
    reporter.scores("test", metrics(predicted, test.labels, values["predictor_type"]))


def fit(features: FloatArray, labels: FloatArray, values: Mapping[str, Any], reporter: Reporter) -> KnnModel:
    """An index of a sample of the rows. Raises UserError."""
    random = np.random.RandomState(_SEED)
    sample = _sample(len(features), values["sample_size"], random)
    size = len(features) if sample is None else len(sample)
    chosen = labels if sample is None else labels[sample]
    log.info(
        "...Got reservoir sample from %s: data=(%d, %d), labels=(%d,), NaNs=0",
        reporter.host,
        size,
        features.shape[1],
        size,
    )
    if values["k"] > size:
        raise UserError(f"k is {values['k']}, but the sample of channel train has only {size} rows")
    projector = _projector(features.shape[1], values, random)
    index = _index(projector.index_dim, size, values)

    def rows(start: int, stop: int) -> FloatArray:
        return projector.project(features[start:stop] if sample is None else features[sample[start:stop]])

    if not index.is_trained:
        index.train(rows(0, size))
    step = values["mini_batch_size"]
    for start in range(0, size, step):
        index.add(rows(start, start + step))
    return KnnModel(index, chosen, values["k"], values["predictor_type"], projector, _nprobe(values))


def _nprobe(values: Mapping[str, Any]) -> int:
    """In how many lists of an inverted index neighbours are looked for."""
    text = str(values.get("_faiss_index_nprobe", NPROBE))
    if not (text.isascii() and text.isdigit() and 0 < len(text) < 10 and int(text)):
        raise UserError("_faiss_index_nprobe must be a whole number of at least 1")
    return int(text)


def _sample(rows: int, size: int, random: np.random.RandomState) -> NDArray[np.int64] | None:
    """The numbers of the sampled rows in order; None: all of them."""
    return None if size >= rows else np.sort(random.permutation(rows)[:size])


def _projector(width: int, values: Mapping[str, Any], random: np.random.RandomState) -> Projector:
    parts = values["faiss_index_pq_m"] if values["index_type"] == "faiss.IVFPQ" else 1
    kind = values["dimension_reduction_type"]
    reduction = None
    if kind is None:
        index_dim = _multiple(width, parts)
    else:
        index_dim = _multiple(values["dimension_reduction_target"], parts)
        reduction = Reduction(kind, int(random.randint(2**31 - 1)), index_dim, width)
    return Projector.of(width, index_dim, reduction, normalize=values["index_metric"] == "COSINE")


def _multiple(number: int, of: int) -> int:
    return -(-number // of) * of


def _index(width: int, rows: int, values: Mapping[str, Any]) -> Any:
    metric = faiss.METRIC_L2 if values["index_metric"] == "L2" else faiss.METRIC_INNER_PRODUCT
    flat = faiss.IndexFlat(width, metric)
    if values["index_type"] == "faiss.Flat":
        return flat
    lists = values["faiss_index_ivf_nlists"]
    if lists == AUTO:
        lists = max(1, round(math.sqrt(rows)))
        log.info("'faiss_index_ivf_nlists' was set to 'auto', evaluated to %d.", lists)
    if lists > rows:
        raise UserError(f"faiss_index_ivf_nlists is {lists}, but the sample of channel train has only {rows} rows")
    if values["index_type"] == "faiss.IVFFlat":
        return _owning(faiss.IndexIVFFlat(flat, width, lists, metric), flat)
    if rows < _PQ_ROWS_MIN:
        raise UserError(
            f"index_type faiss.IVFPQ learns from at least {_PQ_ROWS_MIN} rows, but the sample of channel train has only"
            f" {rows}: use faiss.IVFFlat"
        )
    quantized = faiss.IndexIVFPQ(flat, width, lists, values["faiss_index_pq_m"], _PQ_BITS)
    quantized.pq.cp.min_points_per_centroid = 1
    return _owning(quantized, flat)


def _owning(index: Any, quantizer: Any) -> Any:
    """The index with its lists' quantizer made its own, which Python would free with this module's last name for it."""
    quantizer.this.disown()
    index.own_fields = True
    index.cp.min_points_per_centroid = 1  # FAISS would warn on standard error where the rows are few
    return index


def metrics(predicted: FloatArray, labels: FloatArray, predictor: str) -> Metrics:
    """Name in the log to (value, goal)."""
    if predictor == "regressor":
        return {"mse": (float(((predicted.astype(np.float64) - labels) ** 2).mean()), "loss")}
    scores = []
    for label in np.unique(labels):
        true = float(((predicted == label) & (labels == label)).sum())
        scores.append(2 * true / float((predicted == label).sum() + (labels == label).sum()))
    return {
        "accuracy": (float((predicted == labels).mean()), "score"),
        "macro_f_1.000": (float(np.mean(scores)), "score"),
    }
