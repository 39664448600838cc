"""A CSV that is sorted by its label trains as well as the same rows shuffled."""

import gzip
import io
import os
import pickle
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray

from dropmill.contracts import Part, SealedDataset
from dropmill.data import recordio
from dropmill.data.checks import BLOCK_BYTES
from dropmill.naming import dataset_key

if TYPE_CHECKING:
    from tests.integration.conftest import Stand

ROWS = 20_000
# Small steps, so that two trainings on one dataset in two orders come out alike.
RECIPE = """
algorithm: linear-learner
data:
  label: label
  scale: 255
  split: {validation: 0.1, test: 0.2, seed: 7}
hyperparameters: {predictor_type: multiclass_classifier, normalize_data: "false", learning_rate: 0.002,
                  mini_batch_size: 200, epochs: 10}
"""
WINDOW = 1000


def digits() -> tuple[list[str], NDArray[np.int64]]:
    """Handwritten digits as lines of a CSV, and their labels."""
    with gzip.open(os.environ["DROPMILL_MNIST"]) as file:
        (images, labels), *_ = pickle.load(file, encoding="latin1")  # noqa: S301  # a file of this machine's own
    pixels = np.rint(images[:ROWS] * 256).clip(0, 255).astype(int)
    lines = [",".join(map(str, [label, *row])) for label, row in zip(labels.tolist(), pixels.tolist(), strict=False)]
    return lines, labels[:ROWS]


def csv(lines: Sequence[str], order: NDArray[np.intp]) -> bytes:
    header = ",".join(["label", *(f"pixel_{number}" for number in range(784))])
    return "\n".join([header, *(lines[row] for row in order), ""]).encode()


def largest_share(stand: "Stand", sealed: SealedDataset) -> float:
    """Of the commonest label in any `WINDOW` rows that a job reads one after another."""
    largest = 0
    for file in sealed.parts[Part.TRAIN].files:
        stream = io.BytesIO()
        stand.client("s3").download_fileobj(stand.artifact_bucket, file.key, stream)
        _, labels = recordio.read(stream.getvalue())
        assert labels is not None
        for first in range(0, len(labels) - WINDOW, WINDOW // 2):
            largest = max(largest, int(np.bincount(labels[first : first + WINDOW].astype(int)).max()))
    return largest / WINDOW


@pytest.mark.skipif("DROPMILL_MNIST" not in os.environ, reason="DROPMILL_MNIST does not say where mnist.pkl.gz is")
def test_sorted_rows_train_as_well_as_shuffled_ones(stand: "Stand") -> None:
    lines, labels = digits()
    stand.recipe("order", RECIPE)
    orders = {"sorted": np.argsort(labels, kind="stable"), "shuffled": np.random.default_rng(3).permutation(ROWS)}
    scores, datasets = {}, {}
    began = time.monotonic()
    for name, order in orders.items():
        run = stand.run_of(stand.drop("order", csv(lines, order), f"{name}.csv"))
        ended = stand.wait_for_end(run)["detail"]
        assert ended["status"] == "SUCCEEDED", ended.get("cause")
        scores[name] = stand.record(run)["metrics"]["f1"]
        body = stand.client("s3").get_object(Bucket=stand.artifact_bucket, Key=dataset_key(run))["Body"].read()
        datasets[name] = SealedDataset.model_validate_json(body)
    share = largest_share(stand, datasets["sorted"])
    spent = time.monotonic() - began
    print(f"F1 {scores}, at most {share:.0%} of one label in {WINDOW} rows, {spent:.0f} s")  # noqa: T201  seen with -rP
    # Ordered within one block it would be no test: what is trained on is several.
    assert datasets["sorted"].parts[Part.TRAIN].size > 2 * BLOCK_BYTES
    assert share < 0.3
    counts = [{part: sealed.label_counts for part, sealed in dataset.parts.items()} for dataset in datasets.values()]
    assert counts[0] == counts[1]
    assert scores["sorted"] > 0.85
    assert abs(scores["sorted"] - scores["shuffled"]) <= 0.005
