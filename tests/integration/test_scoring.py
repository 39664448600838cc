"""Scoring on a schedule: train, put files to be scored, let the timer fire, and find predictions beside the ids."""

import csv
import gzip
import io
import json
import os
import pickle
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

MNIST = os.environ.get("DROPMILL_MNIST", "")
RECIPE = """
algorithm: linear-learner
data: {id: digit_id, keep: [source], scale: none}
hyperparameters: {predictor_type: multiclass_classifier, epochs: 2, num_models: 1, mini_batch_size: 500}
"""


@pytest.fixture(autouse=True)
def leaves_nothing(stand: Any) -> Iterator[None]:
    yield
    stand.assert_nothing_left()


def fire(stand: Any) -> str:
    """Let the time come at which the timer fires; returns that moment as batches are named by it."""
    now = stand.cloud.clock.now()
    due = now.replace(hour=3, minute=0, second=0, microsecond=0)
    due += timedelta(days=due <= now)
    # The sweeper's schedule would come due hours after what has just begun, by its clock.
    with stand.cloud.events.drop(lambda event: event["source"] == "aws.events"):
        stand.cloud.clock.advance((due - now).total_seconds() + 1)
        stand.settle()
    return f"{due:%Y%m%dt%H%M}"


def predictions(stand: Any, key: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(stand.artifact(key).decode())))


def manifest(stand: Any, recipe: str, batch: str) -> dict[str, Any]:
    return dict(json.loads(stand.artifact(f"predictions/{recipe}/{batch}/manifest.json")))


def as_csv(ids: list[str], features: Any, source: str) -> bytes:
    header = ["digit_id", *(f"pixel_{column}" for column in range(features.shape[1])), "source"]
    rows = [[name, *map(repr, map(float, row)), source] for name, row in zip(ids, features, strict=True)]
    return "\n".join(map(",".join, [header, *rows])).encode()


@pytest.mark.skipif(not MNIST, reason="DROPMILL_MNIST does not name MNIST's mnist.pkl.gz")
def test_what_arrives_is_scored_every_night_by_the_model_in_use(stand: Any) -> None:
    archive = Path(MNIST)
    with gzip.open(archive) as stream:
        _, _, (features, labels) = pickle.load(stream, encoding="latin1")  # noqa: S301  the sample itself
    stand.recipe("digits", RECIPE)
    run = stand.run_of(stand.drop("digits", archive.read_bytes(), "mnist.pkl.gz"))
    assert stand.wait_for_end(run)["detail"]["status"] == "SUCCEEDED"
    accuracy = stand.record(run)["metrics"]["accuracy"]
    assert accuracy > 0.8

    order = np.random.default_rng(5).permutation(len(labels))
    ids = [f"digit-{row}" for row in order]
    stand.to_score("digits", "july/first.csv", as_csv(ids, features[order], "post, office".replace(",", "")))
    first = f"digits-score-{fire(stand)}"
    assert stand.wait_for_end(first)["detail"]["status"] == "SUCCEEDED"
    told = manifest(stand, "digits", first)
    assert (told["batch"], told["training_run"], told["rows"], told["set_aside"]) == (first, run, 10_000, [])
    assert told["model_package"].startswith("arn:aws:sagemaker:")
    (file,) = told["files"]
    assert file["name"] == "july/first.csv"
    assert file["source"]["version_id"]
    rows = [row for part in file["predictions"] for row in predictions(stand, part["key"])]
    assert [row["digit_id"] for row in rows] == ids
    assert {row["source"] for row in rows} == {"post office"}
    predicted = np.array([float(row["prediction"]) for row in rows])
    assert float(np.mean(predicted == labels[order])) == accuracy
    (message,) = stand.notifications(first)
    assert "10,000 rows of 1 file scored" in message["Subject"]

    second = f"digits-score-{fire(stand)}"
    assert stand.wait_for_end(second)["detail"]["status"] == "SUCCEEDED"
    assert stand.artifacts(f"predictions/digits/{second}/") == []
    (message,) = stand.notifications(second)
    assert "found nothing new" in message["Subject"]

    stand.to_score("digits", "second.csv", as_csv(ids[:50], features[order[:50]], "b"))
    stand.to_score("digits", "third.csv", b"digit_id,pixel_0,source\nx,not a digit,c\n")
    third = f"digits-score-{fire(stand)}"
    assert stand.wait_for_end(third)["detail"]["status"] == "SUCCEEDED"
    told = manifest(stand, "digits", third)
    assert [one["name"] for one in told["files"]] == ["second.csv"]
    assert told["rows"] == 50
    (aside,) = told["set_aside"]
    assert aside["name"] == "third.csv"
    assert aside["reasons"]
    again = [row for part in told["files"][0]["predictions"] for row in predictions(stand, part["key"])]
    assert [row["prediction"] for row in again] == [row["prediction"] for row in rows[:50]]
    (message,) = stand.notifications(third)
    assert "50 rows of 1 file scored, 1 file set aside" in message["Subject"]
    assert "third.csv" in message["Message"]
    assert stand.open_rows(third) == []
