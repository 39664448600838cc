"""The algorithms against the bare matrix products that they can't do without, and against scikit-learn, on MNIST."""

import contextlib
import gzip
import io
import os
import pickle
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from benchmarks.timing import Comparison, Figure, Stopwatch, compare
from dropmill import algorithms
from localaws.algorithms import factorization_machines, kmeans, knn, linear_learner, losses
from localaws.algorithms.kmeans_model import closest
from localaws.algorithms.toolkit import Reporter

FloatArray = NDArray[np.float32]

NEIGHBOURS, QUERIES = 10, 2000
KMEANS_SEEDS = 8
QUERY_ROWS, INDEX_ROWS = 1024, 4096
"""The blocks of a product of all queries with all rows: it must not become larger than a cache can hold."""


def comparisons(rounds: int) -> Iterator[Comparison | Figure]:
    """Yield each comparison once it is measured; none where DROPMILL_MNIST names no data.

    Everything runs on one thread, ours and theirs: a ratio of thread counts would say nothing of the code.
    """
    path = os.environ.get("DROPMILL_MNIST")
    if not path:
        return
    packed = Path(path).read_bytes()
    (features, labels), _, (queries, query_labels) = pickle.loads(gzip.decompress(packed), encoding="latin1")  # noqa: S301  the tutorials' own
    rows = np.ascontiguousarray(features, np.float32)
    asked = np.ascontiguousarray(queries, np.float32)
    zeros = (labels == 0).astype(np.float32)
    faiss.omp_set_num_threads(1)
    for measure in (
        lambda: [_knn(rows, labels.astype(np.float32), asked[:QUERIES], rounds)],
        lambda: [_linear_learner(rows, zeros, rounds)],
        lambda: [_factorization_machines(rows, zeros, rounds)],
        lambda: [*_kmeans(rows, asked, query_labels)],
    ):
        # The algorithms' own lines on standard output would stand in the table.
        with threadpool_limits(1), contextlib.redirect_stdout(io.StringIO()):
            measured = measure()
        yield from measured


def _values(algorithm: str, **hyperparameters: str) -> dict[str, Any]:
    given = {"feature_dim": "784", **hyperparameters}
    return algorithms.get(algorithm).validate(given)


def _reporter() -> Reporter:
    return Reporter("algo-1", "benchmark")


def _knn(rows: FloatArray, labels: FloatArray, queries: FloatArray, rounds: int) -> Comparison:
    values = _values("knn", k=str(NEIGHBOURS), sample_size=str(len(rows)), predictor_type="classifier")
    model = knn.fit(rows, labels, values, _reporter())

    def ours(watch: Stopwatch) -> None:
        with watch.running():
            model.predict(queries)

    def products(watch: Stopwatch) -> None:
        out = np.empty((QUERY_ROWS, INDEX_ROWS), np.float32)
        with watch.running():
            for start in range(0, len(queries), QUERY_ROWS):
                block = queries[start : start + QUERY_ROWS]
                for other in range(0, len(rows), INDEX_ROWS):
                    against = rows[other : other + INDEX_ROWS]
                    np.matmul(block, against.T, out=out[: len(block), : len(against)])

    name = f"k-NN, {len(queries)} rows among {len(rows) // 1000}k"
    return compare(name, "its matrix product", ours=ours, theirs=products, target=1 / 1.25, rounds=rounds)


def _linear_learner(rows: FloatArray, labels: FloatArray, rounds: int) -> Comparison:
    values = _values("linear-learner", predictor_type="binary_classifier")
    judge = linear_learner.Judge(rows, labels)
    trainer = linear_learner.Trainer(values, losses.build("logistic", values), judge, judge, _reporter(), 1.0)
    batches = -(-len(rows) // values["mini_batch_size"])
    optimizer = linear_learner._Optimizer(values, trainer._current, trainer.configurations, trainer.outputs)
    schedule = linear_learner._schedule(values, 1_000_000)
    parameters = np.zeros((784, trainer.models), np.float32)
    gradient = np.empty_like(parameters)
    order = np.random.default_rng(0)  # the same rows in the same kind of order

    def ours(watch: Stopwatch) -> None:
        with watch.running():
            trainer._epoch(optimizer, batches, schedule)

    def products(watch: Stopwatch) -> None:
        with watch.running():
            for batch in order.permutation(batches):
                features = rows[batch::batches]
                np.matmul(features.T, features @ parameters, out=gradient)

    name = f"Linear Learner, epoch of {trainer.models} models"
    return compare(name, "its matrix products", ours=ours, theirs=products, target=1 / 1.25, rounds=rounds)


def _factorization_machines(rows: FloatArray, labels: FloatArray, rounds: int) -> Comparison:
    values = _values("factorization-machines", num_factors="10", predictor_type="binary_classifier")
    trainer = factorization_machines.Trainer(values, rows, labels, _reporter())
    batches = -(-len(rows) // values["mini_batch_size"])
    squares = rows * rows
    parameters = np.zeros((784, 11), np.float32)
    order = np.random.default_rng(0)

    def ours(watch: Stopwatch) -> None:
        with watch.running():
            trainer.epoch(1)

    def products(watch: Stopwatch) -> None:
        with watch.running():
            for batch in order.permutation(batches):
                features, squared = rows[batch::batches], squares[batch::batches]
                outputs = features @ parameters
                features.T @ outputs
                (squared @ parameters[:, 0]) @ squared

    return compare(
        "Factorization Machines, epoch of 10 factors",
        "its matrix products",
        ours=ours,
        theirs=products,
        target=1 / 1.4,
        rounds=rounds,
    )


def _kmeans(rows: FloatArray, queries: FloatArray, query_labels: NDArray[Any]) -> Iterator[Comparison | Figure]:
    """Each round has a seed of its own, and its own order of the rows."""
    values = _values("kmeans", k="10")
    found: list[tuple[float, float]] = []
    orders = {"ours": 0, "theirs": 0}

    def next_rows(side: str) -> tuple[int, FloatArray]:
        seed = orders[side]
        orders[side] += 1
        return seed, rows[np.random.default_rng(seed).permutation(len(rows))]

    def ours(watch: Stopwatch) -> None:
        seed, shuffled = next_rows("ours")
        with watch.running():
            centers = kmeans.fit(shuffled, values, _reporter(), seed=seed)
        assigned = closest(queries, centers)[0]
        counts = [np.bincount(query_labels[assigned == number].astype(int)).max() for number in set(assigned.tolist())]
        found.append((float(closest(shuffled, centers)[1].mean()), float(sum(counts)) / len(queries)))

    def theirs(watch: Stopwatch) -> None:
        seed, shuffled = next_rows("theirs")
        with watch.running():
            KMeans(10, n_init=1, random_state=seed).fit(shuffled)

    name = f"K-Means, fit of {len(rows) // 1000}k rows"
    yield compare(name, "scikit-learn, n_init=1", ours=ours, theirs=theirs, target=1 / 1.5, rounds=KMEANS_SEEDS)
    distances, purities = zip(*found[1:], strict=True)  # the first round is not counted
    yield Figure(f"K-Means, train msd, median of {KMEANS_SEEDS} seeds", statistics.median(distances), at_most=39.1)
    yield Figure(f"K-Means, test purity, least of {KMEANS_SEEDS} seeds", min(purities), at_least=0.57)
