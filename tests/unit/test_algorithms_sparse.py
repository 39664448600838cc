"""Sparse recordIO in channels and requests gives what the same rows give as dense recordIO."""

import importlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits
from threadpoolctl import threadpool_limits

from dropmill import algorithms
from dropmill.data import recordio
from dropmill.data.recordio import SparseMatrix
from localaws.algorithms import programs
from localaws.algorithms.serving import Server
from localaws.algorithms.toolkit import Container

RECORDIO = "application/x-recordio-protobuf"

FEATURES = load_digits().data.astype(np.float32)
FEATURES[10] = 0  # a sparse record without values
LABELS = load_digits().target.astype(np.float32)
TRAIN, OTHER, ASKED = slice(0, 600), slice(600, 800), slice(800, 900)

HYPERPARAMETERS = {
    "kmeans": {"k": "10", "feature_dim": "64"},
    "linear-learner": {"predictor_type": "multiclass_classifier", "num_classes": "10", "mini_batch_size": "100"},
    "factorization-machines": {"feature_dim": "64", "num_factors": "8", "predictor_type": "regressor", "epochs": "3"},
    "knn": {"feature_dim": "64", "k": "5", "predictor_type": "classifier", "sample_size": "600"},
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As in the programs; several threads add numbers up in an order of their own."""
    with threadpool_limits(1):
        yield


def trained(algorithm: str, base: Path, *, sparse: bool) -> programs.Model:
    """The model that a job learns from files of sparse or of dense records."""
    channels = {"train": TRAIN, algorithms.get(algorithm).validation_channel: OTHER, "test": OTHER}
    described = {"TrainingInputMode": "File", "ContentType": RECORDIO}
    config = base / "input" / "config"
    config.mkdir(parents=True)
    (config / "hyperparameters.json").write_text(json.dumps(HYPERPARAMETERS[algorithm]))
    (config / "inputdataconfig.json").write_text(json.dumps(dict.fromkeys(channels, described)))
    for channel, rows in channels.items():
        folder = base / "input" / "data" / channel
        folder.mkdir(parents=True)
        for number, some in enumerate(np.array_split(np.arange(rows.start, rows.stop), 3)):
            features = SparseMatrix.of(FEATURES[some]) if sparse else FEATURES[some]
            (folder / f"part-{number:05}.pbr").write_bytes(recordio.encode(features, LABELS[some]))
    container = Container(base)
    programs._train(container, algorithms.get(algorithm))
    model: programs.Model = importlib.import_module(programs._MODELS[algorithm]).load(container.model)
    return model


def answers(algorithm: str, model: programs.Model, body: bytes) -> list[dict[str, float | list[float]]]:
    with Server(("127.0.0.1", 0), algorithms.get(algorithm), model.feature_dim, model.predict) as server:
        answer = json.loads(server.answer(body, RECORDIO, "application/json")[1])
    predictions: list[dict[str, float | list[float]]] = answer["predictions"]
    return predictions


@pytest.mark.parametrize("algorithm", algorithms.ALGORITHMS)
def test_sparse_records_give_the_model_and_the_answers_of_dense_ones(algorithm: str, tmp_path: Path) -> None:
    dense = trained(algorithm, tmp_path / "dense", sparse=False)
    sparse = trained(algorithm, tmp_path / "sparse", sparse=True)
    files = sorted(file.relative_to(tmp_path / "dense") for file in (tmp_path / "dense" / "model").iterdir())
    assert files
    for file in files:
        assert (tmp_path / "dense" / file).read_bytes() == (tmp_path / "sparse" / file).read_bytes()
    expected = answers(algorithm, dense, recordio.encode(FEATURES[ASKED]))
    given = answers(algorithm, sparse, recordio.encode(SparseMatrix.of(FEATURES[ASKED])))
    assert len(expected) == len(given) == 100
    for ours, theirs in zip(given, expected, strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            np.testing.assert_allclose(ours[name], value, rtol=1e-4, atol=1e-5)


def test_factorization_machines_learn_from_few_values_what_they_learn_from_all(tmp_path: Path) -> None:
    """Rows of few values are trained on without their zeros, which must not change what is learned by much."""
    random = np.random.default_rng(4)
    rows, width = 2000, 400
    columns = np.sort(random.permuted(np.tile(np.arange(width), (rows, 1)), axis=1)[:, :6], axis=1)
    weights = random.normal(size=width)
    matrix = SparseMatrix(
        np.ones(rows * 6, np.float32), columns.reshape(-1).astype(np.int64), np.arange(0, rows * 6 + 1, 6), width
    )
    labels = weights[columns].sum(axis=1).astype(np.float32)
    given = {"feature_dim": str(width), "num_factors": "2", "predictor_type": "regressor", "epochs": "60"}
    settings = {"mini_batch_size": "100", "linear_lr": "0.05", "bias_lr": "0.05", "factors_lr": "0.0001"}
    errors = {}
    for name, features in (("sparse", matrix), ("dense", matrix.to_dense())):
        base = tmp_path / name
        (base / "input" / "config").mkdir(parents=True)
        (base / "input" / "data" / "train").mkdir(parents=True)
        (base / "input" / "config" / "hyperparameters.json").write_text(json.dumps(given | settings))
        (base / "input" / "data" / "train" / "rows").write_bytes(recordio.encode(features, labels))
        programs._train(Container(base), algorithms.get("factorization-machines"))
        model = importlib.import_module(programs._MODELS["factorization-machines"]).load(base / "model")
        errors[name] = float(np.sqrt(((model.predict(matrix)["score"] - labels) ** 2).mean()))
    assert errors["dense"] < 0.25 * labels.std()
    assert errors["sparse"] == pytest.approx(errors["dense"], rel=0.25)
