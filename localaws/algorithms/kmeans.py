"""Trains K-Means.

The web-scale algorithm that SageMaker documents for its K-Means, and a last step of our own:

1. `k` x `extra_center_factor` centers start from the first mini-batch;
2. each mini-batch moves the centers that are closest to its rows, each to the mean of the rows it has had so far;
3. the centers, weighted by those rows, are clustered into `k` by several Lloyd runs; each goes on for a few iterations
   over a sample of the rows, because the centers alone can't tell good from best, and the best is kept;
4. Lloyd's iterations over all rows end what the single pass began (scikit-learn).
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans, kmeans_plusplus

from dropmill.algorithms.hyperparameters import AUTO
from localaws.algorithms.channels import Rows
from localaws.algorithms.kmeans_model import closest, save
from localaws.algorithms.toolkit import Reporter, UserError, log

FloatArray = NDArray[np.float32]

LOG_NAME = "AWS/KMeansWebscale"

_SEED = 3
_AUTO_FACTOR = 10
_AUTO_TRIALS = 10
_SAMPLE_ROWS = 10_000
_SAMPLE_ITERATIONS = 10


def train(values: Mapping[str, Any], rows: Mapping[str, Rows | None], reporter: Reporter, model: Path) -> None:
    """Write the artifact into the folder `model`. Raises UserError."""
    given = rows["train"]
    assert given is not None  # noqa: S101 -- the program refuses a job without a train channel
    if values["k"] > len(given.features):
        raise UserError(f"k is {values['k']}, but channel train has only {len(given.features)} rows")
    centers = fit(given.features, values, reporter)
    save(centers, model)

    reporter.quality("train", "msd", _score("msd", given.features, centers), goal="loss")
    test = rows["test"]
    if test is None:
        log.info("Test data is not provided.")
    else:
        scores = {name: (_score(name, test.features, centers), "loss") for name in values["eval_metrics"]}
        reporter.scores("test", scores)


def fit(features: FloatArray, values: Mapping[str, Any], reporter: Reporter, *, seed: int = _SEED) -> FloatArray:
    """The centers [k, d] of `features` [n, d]. Raises UserError."""
    random = np.random.RandomState(seed)  # the generator that scikit-learn takes
    k = values["k"]
    batches = max(1, len(features) // values["mini_batch_size"])
    # Every batches-th row: a sample of the whole, whatever order the rows came in, and without copying any.
    first = features[::batches]
    if values["mini_batch_size"] > len(features):
        log.warning(
            "Batch size %d is bigger than the first batch data. Effective batch size used to initialize is %d",
            values["mini_batch_size"],
            len(features),
        )
    factor = _factor(values["extra_center_factor"], k, len(first))
    centers = _initial(first, k * factor, values["init_method"], random)
    weights = np.zeros(len(centers))

    for epoch in range(values["epochs"]):
        start, clock = time.time(), time.perf_counter()
        for batch in random.permutation(batches):
            _move(centers, weights, features[batch::batches], values["half_life_time_size"])
        log.info("processed a total of %d examples", len(features))
        reporter.progress(epoch + 1, values["epochs"])
        reporter.throughput(len(features), time.perf_counter() - clock)
        reporter.metrics(start, time.time(), {"update.time": 1000 * (time.perf_counter() - clock)}, epoch=epoch)

    sample = features[:: max(1, len(features) // _SAMPLE_ROWS)]
    centers = _shrink(centers, weights, sample, values, random)
    refined = KMeans(
        k, init=centers, n_init=1, max_iter=values["local_lloyd_max_iter"], tol=values["local_lloyd_tol"], copy_x=False
    ).fit(features)
    return np.ascontiguousarray(refined.cluster_centers_, np.float32)


def _factor(given: int | str, k: int, rows: int) -> int:
    if given == AUTO:
        factor = max(1, min(_AUTO_FACTOR, rows // k))
        log.info("'extra_center_factor' was set to 'auto', evaluated to %d.", factor)
        return factor
    if k * int(given) > rows:
        raise UserError(
            f"k x extra_center_factor is {k * int(given)}, but the first mini-batch has only {rows} rows: "
            "lower extra_center_factor or raise mini_batch_size"
        )
    return int(given)


def _initial(rows: FloatArray, count: int, method: str, random: np.random.RandomState) -> FloatArray:
    if method == "random":
        return rows[random.permutation(len(rows))[:count]].copy()
    centers: FloatArray = kmeans_plusplus(rows, count, random_state=random)[0]
    return centers


def _move(centers: FloatArray, weights: NDArray[np.float64], batch: FloatArray, half_life: int) -> None:
    """Move each center to the weighted mean of its rows so far and those of the batch; in place."""
    clusters, _squared = closest(batch, centers)
    counts = np.bincount(clusters, minlength=len(centers))
    chosen = np.zeros((len(centers), len(batch)), np.float32)
    chosen[clusters, np.arange(len(batch))] = 1
    sums = chosen @ batch
    if half_life:
        weights *= 0.5 ** (len(batch) / half_life)
    moved = counts > 0
    share = (weights[moved] / (weights[moved] + counts[moved])).astype(np.float32)
    means = sums[moved] / counts[moved, None].astype(np.float32)
    centers[moved] = share[:, None] * centers[moved] + (1 - share[:, None]) * means
    weights += counts


def _shrink(
    centers: FloatArray,
    weights: NDArray[np.float64],
    sample: FloatArray,
    values: Mapping[str, Any],
    random: np.random.RandomState,
) -> FloatArray:
    """`k` centers out of more: of several weighted Lloyd runs, the one that a sample of the rows is closest to."""
    k = values["k"]
    if len(centers) == k:
        log.info("no shrinking of centers is required")
        return centers
    log.info("shrinking %d centers into %d", len(centers), k)
    # A center that no row is closest to has no say, unless too few others are left.
    used = weights > 0
    if used.sum() < k:
        return centers[np.argsort(-weights)[:k]]
    points, shares = centers[used], weights[used] / weights[used].sum()
    trials = _AUTO_TRIALS if values["local_lloyd_num_trials"] == AUTO else values["local_lloyd_num_trials"]
    best: KMeans | None = None
    for attempt in range(trials):
        run = KMeans(
            k,
            init="k-means++" if values["local_lloyd_init_method"] == "kmeans++" else "random",
            n_init=1,
            max_iter=values["local_lloyd_max_iter"],
            tol=values["local_lloyd_tol"],
            random_state=random,
        ).fit(points, sample_weight=shares)
        run = KMeans(
            k,
            init=run.cluster_centers_.astype(np.float32),
            n_init=1,
            max_iter=min(_SAMPLE_ITERATIONS, values["local_lloyd_max_iter"]),
            tol=values["local_lloyd_tol"],
        ).fit(sample)
        log.info("local kmeans attempt #%d. Current mean square distance %f", attempt, run.inertia_ / len(sample))
        if best is None or run.inertia_ < best.inertia_:
            best = run
    assert best is not None  # noqa: S101 -- there is at least one trial
    return np.ascontiguousarray(best.cluster_centers_, np.float32)


def _score(name: str, features: FloatArray, centers: FloatArray) -> float:
    """msd: the mean of the squared distances to the closest center; ssd: their sum."""
    squared = closest(features, centers)[1]
    return float(squared.mean(dtype=np.float64) if name == "msd" else squared.sum(dtype=np.float64))
