"""k-NN in this process, against distances computed outright."""

import json
import logging
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from sklearn.datasets import load_diabetes, load_digits

from dropmill import algorithms
from localaws.algorithms import knn, knn_model
from localaws.algorithms.channels import Rows
from localaws.algorithms.knn_model import KnnModel, Reduction, vote
from localaws.algorithms.toolkit import Reporter, UserError, log

FloatArray = NDArray[np.float32]

REPORTER = Reporter("algo-1", "test")
CLASSIFIER = {"predictor_type": "classifier", "k": "5", "sample_size": "100000"}

_features, _target = load_digits(return_X_y=True)
_order = np.random.default_rng(0).permutation(len(_features))
FEATURES: FloatArray = _features[_order].astype(np.float32)
LABELS: FloatArray = _target[_order].astype(np.float32)
TRAIN, TEST = Rows(FEATURES[:1400], LABELS[:1400]), Rows(FEATURES[1400:], LABELS[1400:])


def train(folder: Path, rows: Rows = TRAIN, test: Rows | None = None, **hyperparameters: str) -> KnnModel:
    given_values = {"feature_dim": str(rows.features.shape[1]), **CLASSIFIER, **hyperparameters}
    values = algorithms.get("knn").validate(given_values)
    knn.train(values, {"train": rows, "test": test}, REPORTER, folder)
    return knn_model.load(folder)


def accuracy(model: KnnModel) -> float:
    return float((model.predict(TEST.features)["predicted_label"] == TEST.labels).mean())


def nearest(distances: NDArray[Any], k: int = 5) -> NDArray[Any]:
    return np.sort(distances, axis=1)[:, :k]


def test_neighbours_are_the_nearest_and_their_distances_squared(tmp_path: Path) -> None:
    answer = train(tmp_path).predict(TEST.features)
    exact = ((TEST.features[:, None, :].astype(np.float64) - TRAIN.features[None]) ** 2).sum(axis=2)
    np.testing.assert_allclose(answer["distances"], nearest(exact), rtol=1e-4)
    chosen = np.argsort(exact, axis=1, kind="stable")[:, :5]
    assert (answer["labels"] == LABELS[:1400][chosen]).mean() > 0.99  # but for rows equally far away
    assert accuracy(train(tmp_path)) >= 0.97


@pytest.mark.parametrize("metric", ["COSINE", "INNER_PRODUCT"])
def test_other_metrics_give_distances_that_rise(metric: str, tmp_path: Path) -> None:
    answer = train(tmp_path, index_metric=metric).predict(TEST.features)
    products = TEST.features.astype(np.float64) @ TRAIN.features.T
    if metric == "COSINE":
        lengths = np.linalg.norm(TEST.features, axis=1)[:, None] * np.linalg.norm(TRAIN.features, axis=1)[None]
        expected = nearest(1 - products / lengths)
    else:
        expected = nearest(-products)
    np.testing.assert_allclose(answer["distances"], expected, rtol=1e-4, atol=1e-5)
    assert (np.diff(answer["distances"], axis=1) >= 0).all()
    assert answer["labels"].shape == (len(TEST.features), 5)


def test_a_row_of_zeros_has_no_direction_and_still_an_answer(tmp_path: Path) -> None:
    answer = train(tmp_path, index_metric="COSINE").predict(np.zeros((1, 64), np.float32))
    assert answer["distances"].tolist() == [[1.0] * 5]


@pytest.mark.parametrize(
    ("hyperparameters", "least"),
    [
        ({"index_type": "faiss.IVFFlat"}, 0.96),
        ({"index_type": "faiss.IVFFlat", "index_metric": "COSINE"}, 0.96),
        ({"index_type": "faiss.IVFFlat", "faiss_index_ivf_nlists": "1"}, 0.97),
        ({"index_type": "faiss.IVFPQ", "faiss_index_pq_m": "16"}, 0.95),
        ({"index_type": "faiss.IVFPQ", "faiss_index_pq_m": "12"}, 0.95),
        ({"dimension_reduction_type": "sign", "dimension_reduction_target": "40"}, 0.95),
        ({"dimension_reduction_type": "fjlt", "dimension_reduction_target": "40"}, 0.95),
        (
            {
                "dimension_reduction_type": "sign",
                "dimension_reduction_target": "40",
                "index_type": "faiss.IVFPQ",
                "faiss_index_pq_m": "12",
            },
            0.93,
        ),
        ({"sample_size": "500"}, 0.9),
        ({"mini_batch_size": "7"}, 0.97),
    ],
)
def test_other_indexes_come_close(hyperparameters: dict[str, str], least: float, tmp_path: Path) -> None:
    model = train(tmp_path, **hyperparameters)
    assert accuracy(model) >= least
    assert model.index.ntotal == min(1400, int(hyperparameters.get("sample_size", "1400")))
    if hyperparameters.get("index_type") == "faiss.IVFPQ":
        assert isinstance(model.index, faiss.IndexIVFPQ)
        # Filled up to 72, the next multiple of 12; reduced to 48 instead.
        parts = int(hyperparameters["faiss_index_pq_m"])
        assert model.index.d == {16: 64, 12: 48 if "dimension_reduction_type" in hyperparameters else 72}[parts]
    elif "index_type" in hyperparameters:
        lists = hyperparameters.get("faiss_index_ivf_nlists", "37")  # the square root of 1400
        assert model.index.nlist == int(lists)


def test_an_inverted_index_answers_with_k_neighbours_whatever_its_lists_hold(tmp_path: Path) -> None:
    model = train(tmp_path, index_type="faiss.IVFFlat", k="300", faiss_index_ivf_nlists="100", _faiss_index_nprobe="1")
    answer = model.predict(TEST.features)
    assert answer["labels"].shape == (len(TEST.features), 300)
    assert np.isfinite(answer["distances"]).all()
    assert (np.diff(answer["distances"], axis=1) >= 0).all()


def test_a_sample_is_drawn_once_from_all_rows(tmp_path: Path) -> None:
    model = train(tmp_path, sample_size="300")
    stored = model.index.reconstruct_n(0, 300)
    distances = ((stored[:, None, :] - TRAIN.features[None]) ** 2).sum(axis=2)
    places = distances.argmin(axis=1)
    assert (distances.min(axis=1) == 0).all()
    np.testing.assert_array_equal(LABELS[places], model.labels)
    assert len(set(places.tolist())) == 300
    assert 400 < places.mean() < 1000
    np.testing.assert_array_equal(
        model.index.reconstruct_n(0, 300), train(tmp_path, sample_size="300").index.reconstruct_n(0, 300)
    )


@pytest.mark.parametrize("kind", ["sign", "fjlt"])
def test_projections_keep_distances_and_come_again_from_their_seed(kind: str) -> None:
    reduction = Reduction(kind, 7, 400, 1000)
    matrix = reduction.matrix()
    assert matrix.shape == (1000, 400)
    np.testing.assert_array_equal(matrix, Reduction(kind, 7, 400, 1000).matrix())
    assert not np.array_equal(matrix, Reduction(kind, 8, 400, 1000).matrix())
    np.testing.assert_allclose(np.abs(matrix), 1 / 20, rtol=1e-6)
    rows = np.random.default_rng(0).normal(size=(100, 1000)).astype(np.float32)
    ratio = ((rows @ matrix) ** 2).sum(axis=1) / (rows**2).sum(axis=1)
    assert 0.9 < ratio.mean() < 1.1
    assert ratio.std() < 0.2


def test_fjlt_is_a_hadamard_transform() -> None:
    matrix = Reduction("fjlt", 3, 8, 8).matrix()
    np.testing.assert_allclose(matrix.T @ matrix, np.eye(8), atol=1e-6)  # its columns are all different frequencies


def test_regression_is_the_mean_of_the_neighbours(tmp_path: Path) -> None:
    features, target = load_diabetes(return_X_y=True)
    rows = Rows(features[:300].astype(np.float32), target[:300].astype(np.float32))
    answer = train(tmp_path, rows, predictor_type="regressor").predict(features[300:].astype(np.float32))
    np.testing.assert_allclose(answer["predicted_label"], answer["labels"].mean(axis=1), rtol=1e-6)
    assert np.sqrt(((answer["predicted_label"] - target[300:]) ** 2).mean()) < 0.9 * target.std()


@settings(max_examples=200, deadline=None)
@given(
    hnp.arrays(
        np.float32, st.tuples(st.integers(1, 5), st.integers(1, 12)), elements=st.sampled_from([-1.5, 0, 1, 2, 7])
    )
)
def test_votes_go_to_the_most_frequent_and_of_equals_to_the_nearest(labels: FloatArray) -> None:
    for row, winner in zip(labels.tolist(), vote(labels).tolist(), strict=True):
        most = max(row.count(label) for label in row)
        assert winner == next(label for label in row if row.count(label) == most)


def test_scores_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log.propagate = True
    with caplog.at_level(logging.INFO):
        train(tmp_path, test=TEST, sample_size="1000")
        train(tmp_path, test=TEST, predictor_type="regressor")
    assert "...Got reservoir sample from algo-1: data=(1000, 64), labels=(1000,), NaNs=0" in caplog.text
    assert "#quality_metric: host=algo-1, test accuracy <score>=0.9" in caplog.text
    assert "#test_score (algo-1) : ('macro_f_1.000', 0.9" in caplog.text
    assert "#quality_metric: host=algo-1, test mse <loss>=" in caplog.text


@pytest.mark.parametrize(
    ("hyperparameters", "said"),
    [
        ({"k": "1401"}, "k is 1401, but the sample of channel train has only 1400 rows"),
        ({"k": "11", "sample_size": "10"}, "only 10 rows"),
        ({"index_type": "faiss.IVFFlat", "faiss_index_ivf_nlists": "1401"}, "faiss_index_ivf_nlists is 1401"),
        ({"index_type": "faiss.IVFPQ", "faiss_index_pq_m": "2", "sample_size": "255"}, "at least 256 rows"),
        ({"_faiss_index_nprobe": "no"}, "_faiss_index_nprobe"),
    ],
)
def test_what_can_not_be_trained_is_told(hyperparameters: dict[str, str], said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        train(tmp_path, **hyperparameters)
    assert not list(tmp_path.iterdir())


def test_the_metadata_may_be_edited(tmp_path: Path) -> None:
    train(tmp_path, dimension_reduction_type="sign", dimension_reduction_target="30")
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "model_algo-1",
        "model_algo-1.json",
        "model_algo-1.labels",
    ]
    path = tmp_path / "model_algo-1.json"
    meta = json.loads(path.read_text())
    assert {name: meta[name] for name in ("k", "predictor_type", "normalize", "version")} == {
        "k": 5,
        "predictor_type": "classifier",
        "normalize": False,
        "version": "1.0",
    }
    assert meta["dimension_reduction"]["type"] == "sign"
    assert (meta["dimension_reduction"]["target_dim"], meta["dimension_reduction"]["input_dim"]) == (30, 64)
    np.testing.assert_array_equal(np.fromfile(tmp_path / "model_algo-1.labels", "<f4"), LABELS[:1400])
    path.write_text(json.dumps(meta | {"k": 2, "predictor_type": "regressor"}))
    answer = knn_model.load(tmp_path).predict(TEST.features)
    assert answer["labels"].shape == (397, 2)
    np.testing.assert_allclose(answer["predicted_label"], answer["labels"].mean(axis=1))


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("model_algo-1", b""),
        ("model_algo-1", b"\x00" * 100),
        ("model_algo-1.labels", b"\x00" * 8),
        ("model_algo-1.json", b"{"),
        ("model_algo-1.json", b"{}"),
        ("model_algo-1.json", b"[]"),
        ("model_algo-1.json", b'{"k": 0, "predictor_type": "classifier", "normalize": false}'),
        ("model_algo-1.json", b'{"k": 1, "predictor_type": "other", "normalize": false}'),
        ("model_algo-1.json", b'{"k": 1, "predictor_type": "classifier", "normalize": false, "feature_dim": 65}'),
        (
            "model_algo-1.json",
            b'{"k": 1, "predictor_type": "classifier", "normalize": false, "dimension_reduction":'
            b' {"type": "sign", "seed": 1, "target_dim": 64, "input_dim": 1000000000000}}',
        ),
    ],
)
def test_a_foreign_artifact_is_refused(file: str, content: bytes, tmp_path: Path) -> None:
    train(tmp_path)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(UserError, match="can't be read"):
        knn_model.load(tmp_path)
