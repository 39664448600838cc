"""Whole runs from every format, from folders and with named classes: the same digits make the same model."""

import json
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from dropmill.contracts import Part
from tests.reading import EVERY_FORMAT, PARTS, Files, Read, delimited, split_pickle

RECIPE = "algorithm: linear-learner\nhyperparameters: {epochs: 3}\n"
BY_INDEX = 'algorithm: linear-learner\ndata: {label: "64"}\nhyperparameters: {epochs: 3}\n'
KINDS = [*EVERY_FORMAT, "pickle", "folder"]

Arrays = tuple[NDArray[np.float64], NDArray[np.int64]]


@pytest.fixture(scope="module")
def digits() -> Arrays:
    features, labels = load_digits(return_X_y=True)
    return features, labels.astype(np.int64)


def written(kind: str, digits: Arrays) -> Files:
    """The digits as a drop; what says its parts itself says those that the others' rows come to."""
    if kind in EVERY_FORMAT:
        return EVERY_FORMAT[kind](*digits)
    divided = Read(EVERY_FORMAT["npz"](*digits)).divided()
    pairs: list[tuple[Any, Any]] = [(divided[part].features, divided[part].labels) for part in PARTS]
    if kind == "pickle":
        return {"rows.pkl.gz": split_pickle(pairs)}
    return {f"{part}/rows.csv": delimited(*pair) for part, pair in zip(PARTS, pairs, strict=True)}


def dropped(stand: Any, recipe: str, kind: str, files: Files) -> str:
    """The key that starts the run: the file, or the mark of a folder's end."""
    prefix = f"drops/{recipe}/"
    folder = f"{kind}/" if len(files) > 1 or "/" in next(iter(files)) else ""
    for name, data in files.items():
        stand.client("s3").put_object(Bucket=stand.drop_bucket, Key=prefix + (folder or f"{kind}-") + name, Body=data)
    if not folder:
        return f"{prefix}{kind}-{next(iter(files))}"
    key = f"{prefix}{folder}_SUCCESS"
    stand.client("s3").put_object(Bucket=stand.drop_bucket, Key=key, Body=b"")
    return key


def metrics_of(stand: Any, key: str) -> dict[str, Any]:
    run = stand.run_of(key)
    ended = stand.wait_for_end(run)["detail"]
    assert ended["status"] == "SUCCEEDED", (key, stand.record(run)["cause"])
    body = stand.client("s3").get_object(Bucket=stand.artifact_bucket, Key=f"runs/{run}/metrics.json")["Body"].read()
    return dict(json.loads(body))


def test_every_format_makes_the_same_model(stand: Any, digits: Arrays) -> None:
    stand.recipe("digits", RECIPE)
    stand.recipe("by-index", BY_INDEX)
    keys = {
        kind: dropped(stand, "by-index" if kind == "npy" else "digits", kind, written(kind, digits)) for kind in KINDS
    }
    found = {kind: metrics_of(stand, key) for kind, key in keys.items()}
    expected = found["csv"]
    assert expected["metrics"]["accuracy"] > 0.9
    assert expected["classes"] == [str(digit) for digit in range(10)]
    for kind, metrics in found.items():
        for figure in ("metrics", "rows", "confusion", "classes"):
            assert metrics[figure] == expected[figure], (kind, figure)
    stand.assert_nothing_left()


NAMES = ["ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen", "ibis", "jay"]


def test_named_classes_come_back_by_their_names(stand: Any, digits: Arrays) -> None:
    features, labels = digits
    lines = [",".join([NAMES[label], *map(str, row.astype(int))]) for row, label in zip(features, labels, strict=True)]
    data = "\n".join([",".join(["label", *(f"x{column}" for column in range(64))]), *lines, ""]).encode()
    stand.recipe("digits", RECIPE)
    metrics = metrics_of(stand, dropped(stand, "digits", "named", {"rows.csv": data}))
    assert metrics["classes"] == NAMES
    assert metrics["metrics"]["accuracy"] > 0.9


def test_several_instances_share_the_training_rows(stand: Any, digits: Arrays) -> None:
    stand.recipe("pair", "algorithm: linear-learner\ntraining: {instance_count: 2}\nhyperparameters: {epochs: 3}\n")
    key = dropped(stand, "pair", "pair", EVERY_FORMAT["parquet"](*digits))
    assert metrics_of(stand, key)["metrics"]["accuracy"] > 0.85
    run = stand.run_of(key)
    found = stand.client("s3").list_objects_v2(Bucket=stand.artifact_bucket, Prefix=f"work/{run}/{Part.TRAIN}/")
    assert found["KeyCount"] == 2
