"""Requests and answers in every documented form, without a server."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sagemaker.amazon.common import read_records

from dropmill import algorithms
from dropmill.data import recordio, recordio_sparse
from dropmill.data.recordio_sparse import SparseMatrix
from localaws.algorithms import serving
from localaws.algorithms.serving import Refused, asks_verbose, choose_accept, parse_request, render_answer

KMEANS, LINEAR, KNN = algorithms.get("kmeans"), algorithms.get("linear-learner"), algorithms.get("knn")
MACHINES = algorithms.get("factorization-machines")
ROWS = np.array([[1.5, 0, -3, 0], [0, 2, 0, 0.25]], np.float32)
DENSE = [{"features": row} for row in ROWS.tolist()]
LONG = [{"data": {"features": {"values": row}}, "configuration": {}} for row in ROWS.tolist()]
WRAPPED = [{"data": {"features": row}} for row in ROWS.tolist()]
SPARSE = [
    {"data": {"features": {"keys": [0, 2], "shape": [4], "values": [1.5, -3]}}},
    {"data": {"features": {"keys": [3, 1], "shape": [4], "values": [0.25, 2]}}},
]
MIXED = [DENSE[0], SPARSE[1]]


def parse(body: bytes, content_type: str) -> NDArray[np.float32]:
    rows = parse_request(body, content_type, LINEAR, feature_dim=4)
    assert isinstance(rows, np.ndarray)
    return rows


@pytest.mark.parametrize("instances", [DENSE, LONG, WRAPPED, SPARSE, MIXED])
def test_json_forms(instances: list[dict[str, Any]]) -> None:
    document = json.dumps({"instances": instances}).encode()
    np.testing.assert_array_equal(parse(document, "application/json"), ROWS)
    lines = "\n".join(map(json.dumps, instances)).encode()
    np.testing.assert_array_equal(parse(lines, "application/jsonlines"), ROWS)
    np.testing.assert_array_equal(parse(lines + b"\n", "application/jsonlines"), ROWS)


@pytest.mark.parametrize(
    ("text", "content_type"),
    [
        ("1.5,0,-3,0\n0,2,0,0.25\n", "text/csv"),
        ("1.5,0,-3,0\r\n0,2,0,0.25", "text/csv; charset=utf-8"),
        ("\ufeff1.5, 0, -3, 0\n\n0,2,0,.25", "text/csv;label_size=0"),
        ("7,1.5,0,-3,0\n8,0,2,0,0.25\n", "text/csv; label_size=1"),
    ],
)
def test_csv(text: str, content_type: str) -> None:
    np.testing.assert_array_equal(parse(text.encode(), content_type), ROWS)


def test_recordio() -> None:
    np.testing.assert_array_equal(parse(recordio.encode(ROWS), "application/x-recordio-protobuf"), ROWS)


def test_sparse_recordio_is_filled_up_with_zeros() -> None:
    for body in (recordio_sparse.encode(ROWS), recordio.encode(ROWS[:1]) + recordio_sparse.encode(ROWS[1:])):
        np.testing.assert_array_equal(parse(body, "application/x-recordio-protobuf"), ROWS)


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", json.dumps({"instances": MIXED}).encode()),
        ("application/jsonlines", "\n".join(map(json.dumps, SPARSE)).encode()),
        ("application/x-recordio-protobuf", recordio_sparse.encode(ROWS)),
    ],
)
def test_sparse_rows_stay_sparse_for_an_algorithm_that_takes_them(content_type: str, body: bytes) -> None:
    rows = parse_request(body, content_type, MACHINES, feature_dim=4)
    assert isinstance(rows, SparseMatrix)
    np.testing.assert_array_equal(rows.to_dense(), ROWS)
    assert isinstance(parse_request(recordio.encode(ROWS), "application/x-recordio-protobuf", MACHINES, 4), np.ndarray)


def test_a_few_bytes_can_not_ask_for_gigabytes() -> None:
    empty = json.dumps({"features": {"keys": [], "shape": [10**9], "values": []}})
    with pytest.raises(Refused, match="4000000000 bytes with their zeros; 1073741824 is the most here") as refused:
        parse_request(empty.encode(), "application/jsonlines", LINEAR, feature_dim=10**9)
    assert refused.value.status == 400
    wide = recordio_sparse.encode(SparseMatrix.of(ROWS[:, :0])) + recordio_sparse.encode(np.zeros((1, 0)))
    with pytest.raises(Refused, match="0 features, the model has 4"):
        parse(wide, "application/x-recordio-protobuf")


@pytest.mark.parametrize(
    ("body", "content_type", "status", "said"),
    [
        (b"1,2,3,4", "", 415, "content type ''"),
        (b"1,2,3,4", "text/libsvm", 415, "use text/csv, application/json"),
        (b"", "text/csv", 400, "no rows"),
        (b"1,2,3", "text/csv", 400, "3 features, the model has 4"),
        (b"1,2,3,4\n1,2", "text/csv", 400, "row 2 has 2 columns where the rows before it have 4"),
        (b"1,2,secret,4", "text/csv", 400, "row 1, column 3 is not a number"),
        (b"1,2,nan,4", "text/csv", 400, "not a finite number"),
        (b"1,2,1e39,4", "text/csv", 400, "not a finite number"),
        (b"1,2,3,\xff", "text/csv", 400, "not UTF-8"),
        (b"1,2,3,4", "text/csv;label_size=2", 400, "label_size=2"),
        (b"{", "application/json", 400, "not JSON"),
        (b"[" * 100_000, "application/json", 400, "not JSON"),
        (b"[]", "application/json", 400, "of the form"),
        (b'{"instances": []}', "application/json", 400, "no rows"),
        (b'{"instances": [1]}', "application/json", 400, "must be an object"),
        (b'{"instances": [{"data": {}}]}', "application/json", 400, 'must hold "features"'),
        (b'{"instances": [{"features": ["1", 2, 3, 4]}]}', "application/json", 400, "must be numbers"),
        (b'{"instances": [{"features": [null, 2, 3, 4]}]}', "application/json", 400, "must be numbers"),
        (b'{"instances": [{"features": [[1], [2], [3], [4]]}]}', "application/json", 400, "lists of numbers"),
        (b'{"instances": [{"features": [1, 2]}, {"features": [1]}]}', "application/json", 400, "different numbers"),
        (b'{"instances": [{"features": [1e999, 2, 3, 4]}]}', "application/json", 400, "not a finite number"),
        (b'{"features": {"keys": [4], "shape": [4], "values": [1]}}', "application/jsonlines", 400, "from 0 to 3"),
        (b'{"features": {"keys": [0], "shape": [5], "values": [1]}}', "application/jsonlines", 400, r"must be \[4\]"),
        (b'{"features": {"keys": [0, 0], "shape": [4], "values": [1, 2]}}', "application/jsonlines", 400, "once"),
        (b'{"features": {"keys": [0], "shape": [4], "values": [1, 2]}}', "application/jsonlines", 400, "one value"),
        (b'{"features": {"shape": [4], "values": [1]}}', "application/jsonlines", 400, "keys"),
        (b"abc", "application/x-recordio-protobuf", 400, "byte 0"),
    ],
)
def test_a_bad_request_is_told_what_is_wrong(body: bytes, content_type: str, status: int, said: str) -> None:
    with pytest.raises(Refused, match=said) as refused:
        parse(body, content_type)
    assert refused.value.status == status
    assert "secret" not in str(refused.value)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda values: (
        st.lists(values, max_size=4)
        | st.dictionaries(
            st.sampled_from(["instances", "features", "data", "values", "keys", "shape"]), values, max_size=3
        )
    ),
)


@given(
    st.binary(max_size=60) | JSON_VALUES.map(json.dumps).map(str.encode),
    st.sampled_from(LINEAR.request_content_types),
)
def test_any_bytes_give_rows_or_a_refusal(body: bytes, content_type: str) -> None:
    try:
        assert parse(body, content_type).shape[1] == 4
    except Refused as refused:
        assert refused.status == 400


BINARY = {"score": np.array([0.25, 0.75], np.float32), "predicted_label": np.array([0, 1], np.float32)}
CLASSES = {"score": np.array([[0.25, 0.75, 0]], np.float32), "predicted_label": np.array([1], np.float32)}
CLUSTERS = {"distance_to_cluster": np.array([3, 0.5], np.float32), "closest_cluster": np.array([1, 7], np.float32)}


def test_answers_in_json() -> None:
    assert json.loads(render_answer(BINARY, "application/json")) == {
        "predictions": [{"score": 0.25, "predicted_label": 0.0}, {"score": 0.75, "predicted_label": 1.0}]
    }
    assert b'"predicted_label": 1.0}' in render_answer(CLASSES, "application/json")
    lines = render_answer(CLASSES, "application/jsonlines").splitlines()
    assert [json.loads(line) for line in lines] == [{"score": [0.25, 0.75, 0.0], "predicted_label": 1.0}]


def test_answers_in_csv() -> None:
    assert render_answer(CLUSTERS, "text/csv") == b"1.0,3.0\n7.0,0.5\n"


@pytest.mark.parametrize("answer", [BINARY, CLASSES, CLUSTERS])
def test_answers_in_recordio_are_read_by_the_sdk(answer: dict[str, NDArray[np.float32]], tmp_path: Any) -> None:
    file = tmp_path / "answer"
    file.write_bytes(render_answer(answer, "application/x-recordio-protobuf"))
    with file.open("rb") as stream:
        records = read_records(stream)
    assert len(records) == len(next(iter(answer.values())))
    for number, record in enumerate(records):
        assert set(record.label) == set(answer)
        assert not record.features
        for name, values in answer.items():
            assert list(record.label[name].float32_tensor.values) == np.atleast_1d(values[number]).tolist()


def test_accept() -> None:
    for accept in (
        "",
        "*/*",
        "application/json",
        "application/json; verbose=true",
        "text/html, application/json;q=0.9",
    ):
        assert choose_accept(accept, LINEAR) == "application/json"
    assert choose_accept("text/csv", KMEANS) == "text/csv"
    assert choose_accept("application/x-recordio-protobuf", LINEAR) == "application/x-recordio-protobuf"
    for accept, algorithm in (("text/csv", LINEAR), ("text/html", KMEANS)):
        with pytest.raises(Refused, match="is not supported by") as refused:
            choose_accept(accept, algorithm)
        assert refused.value.status == 406


def test_only_k_nn_tells_more_when_asked_to() -> None:
    for accept in ("application/json; verbose=true", "application/jsonlines;verbose=True", "*/*; verbose=true"):
        assert asks_verbose(accept, KNN)
    for accept in ("", "application/json", "application/json; verbose=false", "text/html; verbose=true"):
        assert not asks_verbose(accept, KNN)
    answer = {
        "predicted_label": np.array([2], np.float32),
        "distances": np.array([[0.5, 1]], np.float32),
        "labels": np.array([[2, 3]], np.float32),
    }
    with serving.Server(("127.0.0.1", 0), KNN, 4, lambda rows: answer) as server:
        body = recordio.encode(ROWS[:1])
        for accept, expected in (
            ("application/json", {"predicted_label": 2.0}),
            (
                "application/json; verbose=true",
                {"predicted_label": 2.0, "distances": [0.5, 1.0], "labels": [2.0, 3.0]},
            ),
        ):
            kind, document = server.answer(body, "application/x-recordio-protobuf", accept)
            assert kind == "application/json"
            assert json.loads(document) == {"predictions": [expected]}
