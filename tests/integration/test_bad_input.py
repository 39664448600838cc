"""What can't be used is refused before anything costs money, on the record, with the drop untouched."""

import gzip
import io
import pickle
from typing import Any

import numpy as np
import pytest

HEADER = b"a,b,label\n"
ROWS = b"1,2,0\n3,4,1\n5,6,0\n7,8,1\n"


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("this must never run",)


def pickled(value: object) -> bytes:
    return gzip.compress(pickle.dumps(value, protocol=2))


def archive(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


CASES = {
    "empty file": ("points.csv", b"", ["points.csv", "empty"]),
    "header only": ("points.csv", HEADER, ["points.csv"]),
    "ragged row": ("points.csv", HEADER + ROWS + b"9,10\n", ["points.csv", "row 6"]),
    "text cell": ("points.csv", HEADER + ROWS + b"9,ten,1\n", ["points.csv", "row 6", "'b'", "ten"]),
    "not a number": ("points.csv", HEADER + ROWS + b"9,nan,1\n", ["points.csv", "row 6", "'b'"]),
    "infinity": ("points.csv", HEADER + ROWS + b"9,inf,1\n", ["points.csv", "row 6", "'b'"]),
    "missing label column": ("points.csv", b"a,b,c\n1,2,3\n4,5,6\n", ["points.csv", "label"]),
    "few different rows": ("points.csv", HEADER + b"1,2,0\n3,4,1\n" * 50, ["the 100 rows hold only 2 different ones"]),
    "single class": ("points.csv", HEADER + b"1,2,1\n3,4,1\n", ["points.csv", "label"]),
    "truncated gzip": ("mnist.pkl.gz", gzip.compress(b"x" * 100_000)[:-50], ["mnist.pkl.gz"]),
    "truncated pickle": ("mnist.pkl.gz", gzip.compress(pickle.dumps([1, 2, 3], protocol=2)[:-5]), ["mnist.pkl.gz"]),
    "hostile pickle": ("mnist.pkl.gz", pickled(Hostile()), ["mnist.pkl.gz"]),
    "another pickle": ("mnist.pkl.gz", pickled({"a": 1}), ["mnist.pkl.gz"]),
    "array of objects": ("points.npz", archive(x=np.array([{}, {}])), ["points.npz"]),
    "NaN in an array": (
        "points.npz",
        archive(x=np.array([[1.0, 2], [3, np.nan], [5, 6]]), y=np.array([0, 1, 0])),
        ["points.npz", "row 1"],
    ),
    "not a dataset": ("points.bin", bytes(range(256)) * 4, ["points.bin"]),
}


def refused(stand: Any, key: str, version: str) -> dict[str, Any]:
    """The run record of a refused drop, after everything that a refusal promises has been looked at."""
    run = stand.run_of(key)
    assert stand.wait_for_end(run)["detail"]["status"] == "FAILED"
    record: dict[str, Any] = stand.record(run)
    assert stand.jobs(run) == []
    stand.assert_nothing_left()
    assert stand.open_rows(run) == []
    head = stand.client("s3").head_object(Bucket=stand.drop_bucket, Key=key)
    assert head["VersionId"] == version
    (message,) = stand.notifications(run)
    assert record["cause"] in message["Message"]
    assert "was refused" in message["Subject"]
    return record


def version_of(stand: Any, key: str) -> str:
    return str(stand.client("s3").head_object(Bucket=stand.drop_bucket, Key=key)["VersionId"])


@pytest.mark.parametrize("case", CASES)
def test_a_drop_that_cannot_be_used(stand: Any, case: str) -> None:
    file, body, said = CASES[case]
    key = stand.drop(body=body, file=f"{CASES_KEYS[case]}-{file}")
    record = refused(stand, key, version_of(stand, key))
    assert record["error"] == "InvalidDrop"
    for words in said:
        assert words in (record["refusal"] or record["cause"])


CASES_KEYS = {case: case.replace(" ", "-") for case in CASES}


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ("algorithm: xgboost", "line 1: algorithm: 'xgboost' is not a built-in algorithm"),
        ("algorithm: kmeans\nhyperparameter: {k: 3}", "line 2: unknown key 'hyperparameter'"),
        (
            "algorithm: kmeans\nhyperparameters: {kk: 3}",
            "line 2: unknown hyperparameter 'kk' of kmeans; did you mean 'k'?",
        ),
        (
            "algorithm: kmeans\nhyperparameters: {k: 3, feature_dim: 7}",
            "': hyperparameters.feature_dim is 7, but the dataset",
        ),
        ("", "empty"),
    ],
)
def test_a_recipe_that_cannot_be_used(stand: Any, recipe: str, said: str) -> None:
    name = f"bad-{stand.drops}"
    stand.recipe(name, recipe)
    key = stand.drop(name)
    record = refused(stand, key, version_of(stand, key))
    assert record["error"] == "InvalidRecipe"
    assert said in record["cause"]


def test_a_recipe_that_is_missing(stand: Any) -> None:
    key = stand.drop("nobody-wrote-it")
    record = refused(stand, key, version_of(stand, key))
    assert record["error"] == "InvalidRecipe"
    assert "recipes/nobody-wrote-it.yaml" in record["cause"]


def test_ten_bad_rows_are_named_at_once(stand: Any) -> None:
    body = HEADER + ROWS + b"x,1,0\n" * 25
    key = stand.drop(body=body, file="many.csv")
    record = refused(stand, key, version_of(stand, key))
    assert record["cause"].count("many.csv, row") == 10
    assert "checking stopped after 10 problems" in record["cause"]


def test_rows_that_are_all_equal(stand: Any) -> None:
    key = stand.drop("kmeans", body=b"a,b\n" + b"1,2\n" * 50, file="equal.csv")
    record = refused(stand, key, version_of(stand, key))
    assert "all 50 rows are equal, and equal rows always share a part" in record["cause"]
