"""The two programs of an algorithm: train and serve."""

import importlib
import json
import os
import signal
import time
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Any, Protocol

from dropmill.algorithms import Algorithm, InvalidHyperparameters, get
from localaws.algorithms.channels import AnyRows, check_rows, read_channel
from localaws.algorithms.hosts import exchange
from localaws.algorithms.serving import Answer, Server
from localaws.algorithms.toolkit import (
    ALGORITHM_ERROR,
    CUSTOMER_ERROR,
    Container,
    Reporter,
    UserError,
    log,
    start_logging,
)

# Modules are imported when they are run: K-Means' training needs scikit-learn, which takes a second to import.
_TRAINERS = {
    "kmeans": "localaws.algorithms.kmeans",
    "linear-learner": "localaws.algorithms.linear_learner",
    "factorization-machines": "localaws.algorithms.factorization_machines",
    "knn": "localaws.algorithms.knn",
}
_MODELS = {
    "kmeans": "localaws.algorithms.kmeans_model",
    "linear-learner": "localaws.algorithms.linear_model",
    "factorization-machines": "localaws.algorithms.factorization_model",
    "knn": "localaws.algorithms.knn_model",
}


class Model(Protocol):
    """A model that was read back from its artifact."""

    @property
    def feature_dim(self) -> int: ...

    def predict(self, features: Any) -> Answer:
        """The fields of the answer, each with one value or one row of values for each row of `features`.

        `features` is an array [n, feature_dim]; for an algorithm that takes sparse rows, also a SparseMatrix.
        """


def train(name: str) -> int:
    """Train by the files in the container's folder; the exit code.

    SIGTERM ends the process at once: it has nothing to clean up, and an artifact is moved into place whole.
    """
    start_logging()
    container = Container.here()
    print("Docker entrypoint called with argument(s): train", flush=True)
    return _guarded(container, lambda: _train(container, get(name)))


def serve(name: str) -> int:
    """Answer requests until SIGTERM; the exit code."""
    start_logging()
    container = Container.here()
    signal.signal(signal.SIGTERM, _exit)

    def run() -> None:
        model: Model = importlib.import_module(_MODELS[name]).load(container.model)
        port = int(os.environ.get("SAGEMAKER_BIND_TO_PORT", "8080"))
        with Server(("127.0.0.1", port), get(name), model.feature_dim, model.predict) as server:
            log.info("Serving %s on port %d", name, server.server_port)
            server.serve_forever(poll_interval=0.1)

    return _guarded(container, run)


def _exit(_signal: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)


def _train(container: Container, algorithm: Algorithm) -> None:
    given = container.hyperparameters()
    print(
        "Merging with provided configuration from /opt/ml/input/config/hyperparameters.json: "
        f"{json.dumps(given, sort_keys=True)}",
        flush=True,
    )
    try:
        values = algorithm.validate(given)
    except InvalidHyperparameters as error:
        raise UserError(str(error)) from error
    print(f"Final configuration: {json.dumps(values, sort_keys=True)}", flush=True)

    if not exchange(container):
        return  # the first instance trains
    trainer = importlib.import_module(_TRAINERS[algorithm.name])
    reporter = Reporter(container.host(), trainer.LOG_NAME)
    started = time.perf_counter()
    rows = {name: read_channel(container, name, algorithm) for name in _channels(algorithm)}
    if rows["train"] is None:
        raise UserError("no file found in path /opt/ml/input/data/train")
    width = values["feature_dim"] if isinstance(values["feature_dim"], int) else rows["train"].features.shape[1]
    for name, part in rows.items():
        if part is not None:
            check_rows(part, name, feature_dim=width, labelled=algorithm.label_required)
    log.info("Read %s in %.2f seconds", _counts(rows), time.perf_counter() - started)

    container.model.mkdir(parents=True, exist_ok=True)
    trainer.train(values, rows, reporter, container.model)


def _channels(algorithm: Algorithm) -> dict[str, None]:
    return dict.fromkeys(("train", algorithm.validation_channel, "test"))


def _counts(rows: dict[str, AnyRows | None]) -> str:
    return ", ".join(f"{len(part.features)} {name} rows" for name, part in rows.items() if part is not None)


def _guarded(container: Container, run: Callable[[], Any]) -> int:
    try:
        run()
    except UserError as error:
        log.error("Customer Error: %s", error)
        container.fail(f"ClientError: {error}")
        return CUSTOMER_ERROR
    except Exception as error:  # noqa: BLE001 -- the last resort of a process: whatever it is must be told
        log.error("Algorithm Error: %s", type(error).__name__)
        traceback.print_exc()
        container.fail(f"AlgorithmError: {type(error).__name__}: {error}")
        return ALGORITHM_ERROR
    return 0
