import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dropmill import algorithms
from dropmill.algorithms import InvalidPredictions, Predictions

KMEANS, LINEAR = algorithms.get("kmeans"), algorithms.get("linear-learner")


def body(*elements: object) -> bytes:
    return json.dumps({"predictions": elements}).encode()


def test_clusters() -> None:
    answer = body(
        {"closest_cluster": 8.0, "distance_to_cluster": 7.25}, {"closest_cluster": 1, "distance_to_cluster": 0}
    )
    assert KMEANS.parse_predictions(answer) == Predictions(
        rows=2, closest_cluster=[8, 1], distance_to_cluster=[7.25, 0.0]
    )


def test_classes_and_values() -> None:
    binary = LINEAR.parse_predictions(body({"score": 0.5, "predicted_label": 1.0}), "application/json; charset=utf-8")
    assert binary == Predictions(rows=1, predicted_label=[1.0], score=[0.5])
    several = LINEAR.parse_predictions(body({"score": [0.25, 0.75, 0], "predicted_label": 1.0}))
    assert several.score == [[0.25, 0.75, 0.0]]
    assert LINEAR.parse_predictions(body({"score": -3.5})) == Predictions(rows=1, score=[-3.5])


def test_json_lines_and_nothing() -> None:
    lines = b'{"score": 1.0}\n\n{"score": 2.0}\n'
    assert LINEAR.parse_predictions(lines, "application/jsonlines").score == [1.0, 2.0]
    assert LINEAR.parse_predictions(body()) == Predictions(rows=0)


@pytest.mark.parametrize(
    "garbled",
    [
        b"",
        b"\xff\xfe",
        b"[1, 2]",
        b'{"predictions": {"score": 1}}',
        b'{"predictions": [1]}',
        b"[" * 100_000,
        body({"other": 1}),
        body({"score": 1}, {"predicted_label": 1}),
        body({"score": "1"}),
        body({"score": None}),
        body({"score": True}),
        body({"score": [[1]]}),
        body({"score": [1, 2]}, {"score": [1]}),
        body({"score": [1, 2]}, {"score": 1}),
        b'{"predictions": [{"score": NaN}]}',
        b'{"predictions": [{"score": 1e999}]}',
        b'{"predictions": [{"score": ' + b"9" * 400 + b"}]}",
    ],
)
def test_a_garbled_answer_is_refused(garbled: bytes) -> None:
    with pytest.raises(InvalidPredictions):
        LINEAR.parse_predictions(garbled)


@pytest.mark.parametrize("cluster", [-1, 0.5, "0"])
def test_a_cluster_is_a_whole_number(cluster: object) -> None:
    with pytest.raises(InvalidPredictions, match="closest_cluster"):
        KMEANS.parse_predictions(body({"closest_cluster": cluster, "distance_to_cluster": 1}))


def test_other_content_types_are_refused() -> None:
    with pytest.raises(InvalidPredictions, match="text/csv"):
        KMEANS.parse_predictions(b"1.0,2.0\n", "text/csv")


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_give_predictions_or_the_error(garbage: bytes) -> None:
    for content_type in ("application/json", "application/jsonlines"):
        try:
            assert KMEANS.parse_predictions(garbage, content_type).rows >= 0
        except InvalidPredictions:
            continue
