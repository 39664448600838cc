"""Factorization Machines in this process: what they learn, and that their hyperparameters do what they say."""

import json
import logging
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from dropmill import algorithms
from dropmill.data.recordio_sparse import SparseMatrix
from localaws.algorithms import factorization_machines, factorization_model
from localaws.algorithms.channels import AnyRows, Rows, SparseRows
from localaws.algorithms.factorization_machines import Trainer
from localaws.algorithms.factorization_model import FactorizationModel
from localaws.algorithms.toolkit import Reporter, UserError, log

FloatArray = NDArray[np.float32]

REPORTER = Reporter("algo-1", "test")
BINARY = {"predictor_type": "binary_classifier"}
REGRESSOR = {"predictor_type": "regressor"}
QUICK = {"num_factors": "4", "factors_lr": "0.02", "linear_lr": "0.02", "mini_batch_size": "100"}


def values(width: int, **hyperparameters: str) -> dict[str, Any]:
    given = {"feature_dim": str(width), **QUICK, **hyperparameters}
    return algorithms.get("factorization-machines").validate(given)


def train(rows: AnyRows, folder: Path, test: AnyRows | None = None, **hyperparameters: str) -> FactorizationModel:
    given = values(rows.features.shape[1], **hyperparameters)
    factorization_machines.train(given, {"train": rows, "test": test}, REPORTER, folder)
    return factorization_model.load(folder)


def interactions(rows: int = 4000, seed: int = 0) -> tuple[FloatArray, FloatArray]:
    """Labels that follow from products of columns alone, which no linear model can learn."""
    random = np.random.default_rng(seed)
    features = random.choice([-1.0, 0.0, 1.0], (rows, 8)).astype(np.float32)
    return features, features[:, 0] * features[:, 1] - 2 * features[:, 2] * features[:, 3]


def digits() -> tuple[Rows, Rows]:
    features, target = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(features))
    scaled, labels = (features[order] / 16).astype(np.float32), (target[order] == 0).astype(np.float32)
    return Rows(scaled[:1400], labels[:1400]), Rows(scaled[1400:], labels[1400:])


def test_products_of_columns_are_learned(tmp_path: Path) -> None:
    features, labels = interactions()
    settings = {"epochs": "30", "factors_init_sigma": "0.1", "factors_wd": "0", "linear_wd": "0"}
    model = train(Rows(features, labels), tmp_path, **REGRESSOR, **settings)
    unseen, expected = interactions(seed=1)
    assert np.sqrt(((model.predict(unseen)["score"] - expected) ** 2).mean()) < 0.1 * expected.std()


def test_digits_are_told_apart(tmp_path: Path) -> None:
    train_rows, test = digits()
    model = train(train_rows, tmp_path, test, **BINARY, epochs="15")
    answer = model.predict(test.features)
    assert (answer["predicted_label"] == test.labels).mean() >= 0.99
    np.testing.assert_array_equal(answer["predicted_label"], answer["score"] >= 0.5)


def test_outputs_are_those_of_the_definition() -> None:
    random = np.random.default_rng(0)
    parameters = random.normal(size=(6, 4)).astype(np.float32)
    row = random.normal(size=6).astype(np.float32)
    expected = 0.25 + row @ parameters[:, 3]
    for i in range(6):
        for j in range(i + 1, 6):
            expected += parameters[i, :3] @ parameters[j, :3] * row[i] * row[j]
    model = FactorizationModel("regressor", parameters, 0.25)
    assert model.predict(row[None])["score"][0] == pytest.approx(expected, rel=1e-4)


def test_a_step_follows_the_gradient() -> None:
    """Against differences of the loss: after one step Adam's first moment is a tenth of the gradient."""
    random = np.random.default_rng(1)
    features = random.normal(size=(20, 5)).astype(np.float32)
    labels = (random.random(20) < 0.5).astype(np.float32)
    given = values(5, **BINARY, factors_init_sigma="0.5", linear_init_sigma="0.5", factors_wd="0", linear_wd="0")
    trainer = Trainer(given, features, labels, REPORTER)
    start = trainer.parameters.astype(np.float64)

    def loss(parameters: NDArray[np.float64]) -> float:
        model = FactorizationModel("binary_classifier", parameters, trainer.bias)  # type: ignore[arg-type]  # finer than float32
        outputs = features.astype(np.float64) @ parameters[:, -1] + trainer.bias
        factors = parameters[:, :-1]
        outputs += 0.5 * (((features @ factors) ** 2).sum(axis=1) - (features**2 @ (factors**2).sum(axis=1)))
        assert model.feature_dim == 5
        return float((np.logaddexp(0, outputs) - labels * outputs).mean())

    slopes = np.zeros_like(start)
    for place in np.ndindex(*start.shape):
        there = start.copy()
        there[place] += 1e-5
        slopes[place] = (loss(there) - loss(start)) / 1e-5
    trainer.epoch(0)
    np.testing.assert_allclose(trainer._first * 10, slopes, atol=2e-4)


@pytest.mark.parametrize("predictor", [BINARY, REGRESSOR])
def test_sparse_rows_are_answered_as_dense_ones(predictor: dict[str, str], tmp_path: Path) -> None:
    train_rows, test = digits()
    model = train(train_rows, tmp_path, **predictor)
    rows = test.features.copy()
    rows[3] = 0
    sparse = model.predict(SparseMatrix.of(rows))
    for name, column in model.predict(rows).items():
        np.testing.assert_allclose(sparse[name], column, rtol=1e-4, atol=1e-6)


def test_rows_given_as_sparse_make_the_same_model(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train_rows, test = digits()
    dense = train(train_rows, tmp_path, **BINARY, epochs="3")
    log.propagate = True
    with caplog.at_level(logging.INFO):
        sparse = train(
            SparseRows(SparseMatrix.of(train_rows.features), train_rows.labels), tmp_path, **BINARY, epochs="3"
        )
    assert "[Sparse network] Building a sparse network." in caplog.text
    np.testing.assert_array_equal(dense.predict(test.features)["score"], sparse.predict(test.features)["score"])


def test_few_values_of_very_many_columns_are_learned(tmp_path: Path) -> None:
    """Users and things as columns: a label follows from the pair, and the width would make a dense row of megabytes."""
    random = np.random.default_rng(2)
    width, rows = 1_000_000, 6000
    users, things = random.integers(0, 20, rows), 500_000 + random.integers(0, 20, rows)
    taste = random.normal(size=(20, 2)) @ random.normal(size=(2, 20))
    labels = taste[users, things - 500_000].astype(np.float32)
    columns = np.stack([users, things], axis=1).ravel()
    matrix = SparseMatrix(np.ones(2 * rows, np.float32), columns, np.arange(0, 2 * rows + 1, 2), width)
    settings = {"epochs": "40", "factors_init_sigma": "0.1", "factors_wd": "0", "linear_wd": "0"}
    model = train(SparseRows(matrix, labels), tmp_path, **REGRESSOR, **settings)
    scores = model.predict(matrix)["score"]
    assert np.sqrt(((scores - labels) ** 2).mean()) < 0.15 * labels.std()


def test_lazy_steps_are_adams_where_every_batch_has_every_column(monkeypatch: pytest.MonkeyPatch) -> None:
    features = np.random.default_rng(3).random((300, 6), dtype=np.float32) + 0.1
    labels = (features[:, 0] > features[:, 1]).astype(np.float32)
    dense = Trainer(values(6, **BINARY), features, labels, REPORTER)
    sparse = Trainer(values(6, **BINARY), SparseMatrix.of(features), labels, REPORTER)
    for epoch in range(3):
        np.testing.assert_allclose(dense.epoch(epoch), sparse.epoch(epoch), atol=1e-4)
    np.testing.assert_allclose(dense.parameters, sparse.parameters, atol=1e-4)


def fitted(**hyperparameters: str) -> Trainer:
    train_rows, _ = digits()
    assert train_rows.labels is not None
    trainer = Trainer(values(64, **BINARY, **hyperparameters), train_rows.features, train_rows.labels, REPORTER)
    for epoch in range(trainer._values["epochs"]):
        trainer.epoch(epoch)
    return trainer


def start(**hyperparameters: str) -> Trainer:
    return Trainer(
        values(64, **BINARY, **hyperparameters), np.zeros((1, 64), np.float32), np.zeros(1, np.float32), REPORTER
    )


def test_every_group_starts_as_it_is_told() -> None:
    for group, part in (("factors", np.s_[:, :-1]), ("linear", np.s_[:, -1])):
        normal = start(**{f"{group}_init_sigma": "0.5"}).parameters[part]
        assert 0.4 < normal.std() < 0.6
        uniform = start(**{f"{group}_init_method": "uniform", f"{group}_init_scale": "0.5"}).parameters[part]
        assert 0.4 < np.abs(uniform).max() <= 0.5
        assert np.abs(start(**{f"{group}_init_method": "uniform"}).parameters[part]).max() <= 0.07
        constant = start(**{f"{group}_init_method": "constant", f"{group}_init_value": "-2"}).parameters[part]
        assert (constant == -2).all()
    assert start(bias_init_method="constant", bias_init_value="3").bias == 3
    assert abs(start(bias_init_method="uniform", bias_init_scale="0.001").bias) <= 0.001
    assert start(bias_init_sigma="0").bias == 0


def test_a_group_without_a_rate_stays_where_it_is() -> None:
    for group, still, moved in (("factors", np.s_[:, :-1], np.s_[:, -1]), ("linear", np.s_[:, -1], np.s_[:, :-1])):
        before, after = start(**{f"{group}_lr": "0"}), fitted(**{f"{group}_lr": "0"})
        np.testing.assert_array_equal(before.parameters[still], after.parameters[still])
        assert not np.allclose(before.parameters[moved], after.parameters[moved])
    assert fitted(bias_lr="0").bias == start().bias


def test_a_penalty_shrinks_its_group() -> None:
    plain = fitted(epochs="5")
    for group, part in (("factors", np.s_[:, :-1]), ("linear", np.s_[:, -1])):
        shrunk = fitted(epochs="5", **{f"{group}_wd": "1"})
        assert np.abs(shrunk.parameters[part]).sum() < 0.5 * np.abs(plain.parameters[part]).sum()
    assert abs(fitted(epochs="5", bias_wd="10").bias) < abs(plain.bias)


def test_gradients_are_clipped_rescaled_and_their_divisor_is_kept_from_zero() -> None:
    features = np.ones((10, 64), np.float32)

    def first_moment(**hyperparameters: str) -> FloatArray:
        given = values(64, **REGRESSOR, **hyperparameters)
        trainer = Trainer(given, features, np.full(10, 7, np.float32), REPORTER)
        trainer.epoch(0)
        return trainer._first

    plain = first_moment(linear_wd="0")
    np.testing.assert_allclose(first_moment(linear_wd="0", rescale_grad="1")[:, -1], 10 * plain[:, -1], rtol=1e-4)
    assert np.abs(first_moment(clip_gradient="0.5")).max() == pytest.approx(0.05)
    np.testing.assert_array_equal(first_moment(linear_wd="0", clip_gradient="-1"), plain)
    assert np.abs(fitted(eps="1000").parameters - start().parameters).max() < 1e-4


def test_hidden_switches_leave_a_part_out() -> None:
    assert fitted(use_bias="false").bias == 0
    assert (fitted(use_linear="false").parameters[:, -1] == 0).all()


def test_log_lines_of_batches_epochs_and_the_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train_rows, test = digits()
    log.propagate = True
    with caplog.at_level(logging.INFO):
        train(train_rows, tmp_path, test, **REGRESSOR, epochs="2", batch_metrics_publish_interval="10")
    lines = [record.getMessage() for record in caplog.records]
    for number in (0, 10):
        assert sum(f"epoch=1, batch={number} train rmse <loss>=" in line for line in lines) == 1
    assert sum("host=algo-1, epoch=1, train mse <loss>=" in line for line in lines) == 1
    ends = [line.rpartition("=")[2] for line in lines if "train absolute_loss" in line and "batch" not in line]
    assert len(ends) == 3
    assert ends[1] == ends[2]
    assert any(line.startswith("#test_score (algo-1) : ('rmse', ") for line in lines)


def test_what_can_not_be_trained_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Rows(np.ones((4, 3), np.float32), np.array([0, 1, 2, 1], np.float32))
    with pytest.raises(UserError, match="channel train has a label that is neither 0 nor 1"):
        train(rows, tmp_path, **BINARY)
    with pytest.raises(UserError, match="lower the learning rates"):
        train(rows, tmp_path, **REGRESSOR, factors_lr="1e30", epochs="3")
    with pytest.raises(UserError, match="lower num_factors"):
        train(rows, tmp_path, **(REGRESSOR | {"num_factors": "1000000000"}))
    assert not list(tmp_path.iterdir())


def test_the_artifact_is_mxnets_module_and_a_foreign_one_is_refused(tmp_path: Path) -> None:
    model = FactorizationModel("binary_classifier", np.arange(12, dtype=np.float32).reshape(4, 3), -1.5)
    factorization_model.save(model, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["model_algo-1"]
    with zipfile.ZipFile(tmp_path / "model_algo-1") as archive:
        assert set(archive.namelist()) == {"params", "symbol.json", "meta.json"}
        graph = json.loads(archive.read("symbol.json"))
    assert {graph["nodes"][number]["name"] for number in graph["arg_nodes"]} == {"data", "v", "w1_weight", "w0_weight"}
    read = factorization_model.load(tmp_path)
    assert (read.predictor_type, read.bias) == (model.predictor_type, model.bias)
    np.testing.assert_array_equal(read.parameters, model.parameters)
    for content in (b"", b"PK\x03\x04", bytes(100)):
        (tmp_path / "model_algo-1").write_bytes(content)
        with pytest.raises(UserError, match="can't be read"):
            factorization_model.load(tmp_path)
