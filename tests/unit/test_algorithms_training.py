"""The two algorithms in this process: what they learn, and that their hyperparameters do what they say."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from sklearn.linear_model import LinearRegression, LogisticRegression
from threadpoolctl import threadpool_limits

from dropmill import algorithms
from localaws.algorithms import kmeans, linear_learner, linear_model
from localaws.algorithms.channels import Rows
from localaws.algorithms.kmeans_model import KMeansModel, closest
from localaws.algorithms.linear_model import LinearModel
from localaws.algorithms.toolkit import Reporter, UserError, log

FloatArray = NDArray[np.float32]
Parts = dict[str, Rows | None]

REPORTER = Reporter("algo-1", "test")


def parts(features: NDArray[Any], labels: NDArray[Any], seed: int = 0) -> Parts:
    """Seventy, fifteen and fifteen percent of the rows, shuffled."""
    order = np.random.default_rng(seed).permutation(len(features))
    cuts = np.split(order, [int(0.7 * len(order)), int(0.85 * len(order))])
    names = ("train", "validation", "test")
    return {
        name: Rows(features[rows].astype(np.float32), labels[rows].astype(np.float32))
        for name, rows in zip(names, cuts, strict=True)
    }


def copied(given: Parts) -> Parts:
    return {name: Rows(rows.features.copy(), rows.labels) if rows else None for name, rows in given.items()}


def train(given: Parts, folder: Path, **hyperparameters: str) -> LinearModel:
    values = algorithms.get("linear-learner").validate(hyperparameters)
    linear_learner.train(values, copied(given), REPORTER, folder)
    return linear_model.load(folder)


def accuracy(model: LinearModel, rows: Rows | None) -> float:
    assert rows is not None
    return float((model.predict(rows.features)["predicted_label"] == rows.labels).mean())


def rmse(model: LinearModel, rows: Rows | None) -> float:
    assert rows is not None
    return float(np.sqrt(((model.predict(rows.features)["score"] - rows.labels) ** 2).mean()))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As in the programs; and several threads that wait for each other make a busy machine slow."""
    with threadpool_limits(1):
        yield


DIGITS = parts(*load_digits(return_X_y=True))
CANCER = parts(*load_breast_cancer(return_X_y=True))
DIABETES = parts(*load_diabetes(return_X_y=True))


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "rmsprop"])
@pytest.mark.parametrize("loss", ["softmax_loss", "hinge_loss"])
def test_multiclass(optimizer: str, loss: str, tmp_path: Path) -> None:
    given = {"optimizer": optimizer, "loss": loss, "mini_batch_size": "125", "num_classes": "10"}
    model = train(DIGITS, tmp_path, predictor_type="multiclass_classifier", **given)
    assert accuracy(model, DIGITS["test"]) >= 0.94
    if loss == "softmax_loss":
        np.testing.assert_allclose(model.predict(DIGITS["test"].features)["score"].sum(axis=1), 1, rtol=1e-5)  # type: ignore[union-attr]  # the part is there


def test_multiclass_with_all_defaults(tmp_path: Path) -> None:
    model = train(DIGITS, tmp_path, predictor_type="multiclass_classifier", num_classes="10")
    assert accuracy(model, DIGITS["test"]) >= 0.94


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "rmsprop"])
@pytest.mark.parametrize("loss", ["logistic", "hinge_loss"])
def test_binary_is_close_to_scikit_learn(optimizer: str, loss: str, tmp_path: Path) -> None:
    model = train(
        CANCER, tmp_path, predictor_type="binary_classifier", optimizer=optimizer, loss=loss, mini_batch_size="40"
    )
    train_rows, test = CANCER["train"], CANCER["test"]
    assert train_rows is not None
    assert test is not None
    scale = train_rows.features.std(axis=0)
    oracle = LogisticRegression(max_iter=1000).fit(train_rows.features / scale, train_rows.labels)
    assert accuracy(model, test) >= oracle.score(test.features / scale, test.labels) - 0.04


@pytest.mark.parametrize(
    "loss",
    [
        "squared_loss",
        "absolute_loss",
        "eps_insensitive_squared_loss",
        "eps_insensitive_absolute_loss",
        "quantile_loss",
        "huber_loss",
    ],
)
def test_regression_is_close_to_least_squares(loss: str, tmp_path: Path) -> None:
    model = train(DIABETES, tmp_path, predictor_type="regressor", loss=loss, mini_batch_size="30")
    train_rows, test = DIABETES["train"], DIABETES["test"]
    assert train_rows is not None
    assert test is not None
    oracle = LinearRegression().fit(train_rows.features, train_rows.labels)
    best = float(np.sqrt(((oracle.predict(test.features) - test.labels) ** 2).mean()))
    assert rmse(model, test) <= 1.05 * best


def line(noise: float = 1.0) -> Parts:
    """y = 40 + 3a - 0.002b, with columns of very different scales, of which one is constant."""
    random = np.random.default_rng(1)
    features = np.stack([random.normal(5, 1, 3000), random.normal(1e4, 1e3, 3000), np.full(3000, 7.0)], axis=1)
    return parts(features, 40 + 3 * features[:, 0] - 0.002 * features[:, 1] + random.normal(0, noise, 3000))


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "rmsprop"])
def test_weights_come_in_the_units_of_the_data(optimizer: str, tmp_path: Path) -> None:
    model = train(line(0.01), tmp_path, predictor_type="regressor", optimizer=optimizer, mini_batch_size="100")
    assert model.weights[0, 0] == pytest.approx(3, rel=0.02)
    assert model.weights[1, 0] == pytest.approx(-0.002, rel=0.02)
    assert rmse(model, line(0.01)["test"]) < 0.1


def test_quantile(tmp_path: Path) -> None:
    given = {"loss": "quantile_loss", "quantile": "0.9", "mini_batch_size": "50"}
    model = train(line(), tmp_path, predictor_type="regressor", **given)
    test = line()["test"]
    assert test is not None
    assert 0.85 <= float((test.labels < model.predict(test.features)["score"]).mean()) <= 0.95


def test_no_intercept_means_none(tmp_path: Path) -> None:
    model = train(line(), tmp_path, predictor_type="regressor", use_bias="false", mini_batch_size="100")
    assert model.bias.tolist() == [0]


def test_rows_sorted_by_label_train_as_well(tmp_path: Path) -> None:
    rows = DIGITS["train"]
    assert rows is not None
    assert rows.labels is not None
    order = np.argsort(rows.labels, kind="stable")
    given = {**DIGITS, "train": Rows(rows.features[order], rows.labels[order])}
    model = train(given, tmp_path, predictor_type="multiclass_classifier", num_classes="10", mini_batch_size="125")
    assert accuracy(model, DIGITS["test"]) >= 0.94


def test_the_same_data_gives_the_same_model(tmp_path: Path) -> None:
    models = [train(CANCER, tmp_path, predictor_type="binary_classifier", mini_batch_size="100") for _ in range(2)]
    np.testing.assert_array_equal(models[0].weights, models[1].weights)
    assert models[0].threshold == models[1].threshold


def test_targets_move_the_threshold(tmp_path: Path) -> None:
    given = {"predictor_type": "binary_classifier", "mini_batch_size": "40"}
    criteria = {"precision_at_target_recall": "target_recall", "recall_at_target_precision": "target_precision"}
    validation = CANCER["validation"]
    assert validation is not None
    for criterion, target in criteria.items():
        model = train(
            CANCER, tmp_path, binary_classifier_model_selection_criteria=criterion, **given, **{target: "0.9"}
        )
        predicted = model.predict(validation.features)["predicted_label"]
        true = float((predicted * validation.labels).sum())
        reached = true / float(validation.labels.sum() if target == "target_recall" else predicted.sum())
        assert reached >= 0.9 - 1e-6


def test_heavy_positives_are_found_more_often(tmp_path: Path) -> None:
    given = {
        "predictor_type": "binary_classifier",
        "mini_batch_size": "40",
        "binary_classifier_model_selection_criteria": "loss_function",
    }
    test = CANCER["test"]
    assert test is not None
    found = [
        float(
            train(CANCER, tmp_path, positive_example_weight_mult=weight, **given).predict(test.features)["score"].mean()
        )
        for weight in ("0.01", "1", "100")
    ]
    assert found == sorted(found)
    assert found[2] - found[0] > 0.05


def test_penalties_shrink_weights(tmp_path: Path) -> None:
    given = {"predictor_type": "regressor", "mini_batch_size": "30", "learning_rate": "0.1"}
    for penalty in ("wd", "l1"):
        sizes = [
            float(np.abs(train(DIABETES, tmp_path, **given, **{penalty: amount}).weights).sum())
            for amount in ("0", "0.1", "10")
        ]
        assert sizes == sorted(sizes, reverse=True)


def test_early_stopping_and_patience(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log.propagate = True
    with caplog.at_level(logging.INFO, logger="algorithm"):
        given = {"predictor_type": "regressor", "mini_batch_size": "30", "epochs": "40"}
        train(DIABETES, tmp_path, early_stopping_tolerance="0.5", early_stopping_patience="2", **given)
        stopped = caplog.text.count("#progress_metric")
        caplog.clear()
        train(DIABETES, tmp_path, early_stopping_tolerance="0.5", early_stopping_patience="41", **given)
    assert stopped < 10
    assert caplog.text.count("#progress_metric") == 40


@pytest.mark.parametrize(
    ("hyperparameters", "rows", "said"),
    [
        ({"predictor_type": "regressor"}, DIABETES, "mini_batch_size is 1000, but channel train has only 309 rows"),
        ({"predictor_type": "binary_classifier"}, DIGITS, "neither 0 nor 1"),
        ({"predictor_type": "multiclass_classifier", "num_classes": "9"}, DIGITS, "from 0 to 8"),
        ({"predictor_type": "regressor", "optimizer": "sgd", "learning_rate": "1e9"}, DIGITS, "lower learning_rate"),
        ({"predictor_type": "regressor", "num_models": "10000000"}, DIGITS, "lower num_models"),
    ],
)
def test_what_can_not_be_trained_is_told(
    hyperparameters: dict[str, str], rows: Parts, said: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=said):
        train(rows, tmp_path, **hyperparameters)
    assert not list(tmp_path.iterdir())


def test_a_foreign_artifact_is_refused(tmp_path: Path) -> None:
    for content in (b"", b"PK\x03\x04", b"\x00" * 100):
        (tmp_path / "model_algo-1").write_bytes(content)
        with pytest.raises(UserError, match="can't be read"):
            linear_model.load(tmp_path)


# K-Means


def fit(features: FloatArray, seed: int = 3, **hyperparameters: str) -> FloatArray:
    given = {"k": "10", "feature_dim": str(features.shape[1]), **hyperparameters}
    return kmeans.fit(features.copy(), algorithms.get("kmeans").validate(given), REPORTER, seed=seed)


def digits() -> FloatArray:
    features: FloatArray = load_digits().data.astype(np.float32)
    return features


def test_clusters_are_as_good_as_scikit_learns() -> None:
    features = digits()
    ours = [float(closest(features, fit(features, seed))[1].mean()) for seed in range(5)]
    best = KMeans(10, n_init=10, random_state=0).fit(features).inertia_ / len(features)
    assert np.median(ours) <= 1.01 * best
    assert max(ours) <= 1.03 * best


@pytest.mark.parametrize(
    "hyperparameters",
    [
        {"init_method": "kmeans++", "local_lloyd_init_method": "random"},
        {"extra_center_factor": "1"},
        {"extra_center_factor": "4", "local_lloyd_num_trials": "2", "mini_batch_size": "100", "epochs": "3"},
        {"half_life_time_size": "500", "mini_batch_size": "200"},
        {"mini_batch_size": "100000"},
    ],
)
def test_clusters_with_other_hyperparameters(hyperparameters: dict[str, str]) -> None:
    features = digits()
    best = KMeans(10, n_init=5, random_state=0).fit(features).inertia_ / len(features)
    centers = fit(features, **hyperparameters)
    assert centers.shape == (10, 64)
    assert centers.dtype == np.float32
    assert closest(features, centers)[1].mean() <= 1.12 * best


def test_clusters_are_the_same_each_time() -> None:
    np.testing.assert_array_equal(fit(digits()), fit(digits()))


def test_one_cluster_is_the_mean_and_as_many_as_rows_are_the_rows() -> None:
    features = digits()
    np.testing.assert_allclose(fit(features, k="1")[0], features.mean(axis=0), atol=1e-3)
    few = np.unique(features[:12], axis=0)
    assert closest(few, fit(few, k="12"))[1].max() == pytest.approx(0, abs=1e-6)


def test_equal_rows_do_not_fail() -> None:
    assert fit(np.ones((50, 3), np.float32), k="5").shape == (5, 3)


def test_too_many_centers_are_refused(tmp_path: Path) -> None:
    features = digits()[:20]
    with pytest.raises(UserError, match="extra_center_factor is 40, but the first mini-batch has only 20 rows"):
        fit(features, extra_center_factor="4")
    values = algorithms.get("kmeans").validate({"k": "21", "feature_dim": "64"})
    with pytest.raises(UserError, match="k is 21, but channel train has only 20 rows"):
        kmeans.train(values, {"train": Rows(features, None), "test": None}, REPORTER, tmp_path)


def test_distances_are_euclidean_and_exact_near_a_center() -> None:
    centers = np.array([[1000, 1000], [1003, 1004]], np.float32)
    rows = np.array([[1000, 1000.0625], [1000, 1000], [1006, 1008]], np.float32)
    answer = KMeansModel(centers).predict(rows)
    assert answer["closest_cluster"].tolist() == [0, 0, 1]
    assert answer["distance_to_cluster"].tolist() == [0.0625, 0, 5]
