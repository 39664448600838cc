"""What the examples share: the digits, the endpoint that is always deleted, the figures and the pictures."""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import os
import pickle
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import sagemaker
from botocore.exceptions import ClientError
from matplotlib.figure import Figure
from sagemaker.utils import name_from_base

PICTURES = 30


@dataclass(frozen=True)
class Part:
    """`images` [n, pixels] float32 within [0, 1), `labels` [n] of 0 to 9."""

    images: np.ndarray
    labels: np.ndarray

    def first(self, rows: int) -> Part:
        return Part(self.images[:rows], self.labels[:rows])


@dataclass(frozen=True)
class Digits:
    train: Part
    validation: Part
    test: Part


def options(description: str | None) -> argparse.ArgumentParser:
    """The options that all examples have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data",
        type=Path,
        default=os.environ.get("DROPMILL_MNIST"),
        metavar="FILE",
        help="mnist.pkl.gz, of three parts. Default: what DROPMILL_MNIST names.",
    )
    parser.add_argument("--rows", type=int, metavar="N", help="Train on N rows, judge on N / 5. Default: on all.")
    parser.add_argument("--pictures", type=Path, default=Path("pictures"), metavar="DIR", help="Default: %(default)s.")
    parser.add_argument("--json", action="store_true", help="Print the figures as one line of JSON.")
    return parser


def load(given: argparse.Namespace) -> Digits:
    """The digits of `mnist.pkl.gz`: a pickle of (images, labels) for train, validation and test."""
    if given.data is None:
        sys.exit("no data: name mnist.pkl.gz with --data or DROPMILL_MNIST")
    with gzip.open(given.data) as file:
        parts = [
            Part(np.asarray(images), np.asarray(labels)) for images, labels in _Arrays(file, encoding="latin1").load()
        ]
    train, validation, test = parts
    if given.rows is None:
        return Digits(train, validation, test)
    return Digits(train.first(given.rows), validation.first(given.rows // 5), test.first(given.rows // 5))


class _Arrays(pickle.Unpickler):
    """Reads arrays and nothing else: a pickle could run any code."""

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("numpy") and name == "_reconstruct":
            return np.empty(0).__reduce__()[0]
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        raise pickle.UnpicklingError(f"{module}.{name} has no place in a file of arrays")


def role(session: sagemaker.Session) -> str:
    """The role that the jobs get: SAGEMAKER_ROLE, or, in a notebook, the notebook's own."""
    return os.environ.get("SAGEMAKER_ROLE") or sagemaker.get_execution_role(session)


@contextlib.contextmanager
def deployed(trained: Any, **how: Any) -> Iterator[Any]:
    """A predictor for a trained estimator or tuner; endpoint, configuration and model are deleted with the block."""
    name = name_from_base(f"example-{type(trained).__name__.lower()}")
    try:
        yield trained.deploy(
            initial_instance_count=1, instance_type="ml.m5.large", endpoint_name=name, model_name=name, **how
        )
    finally:
        client = boto3.client("sagemaker")
        for delete in (
            lambda: client.delete_endpoint(EndpointName=name),
            lambda: client.delete_endpoint_config(EndpointConfigName=name),
            lambda: client.delete_model(ModelName=name),
        ):
            with contextlib.suppress(ClientError):  # it was never made
                delete()


def batches(images: np.ndarray, rows: int = 500) -> Iterator[np.ndarray]:
    """An endpoint takes no more than 6 MB at once."""
    for start in range(0, len(images), rows):
        yield images[start : start + rows]


def final_metric(job: str, name: str) -> float:
    """A metric as the training job last reported it."""
    found = boto3.client("sagemaker").describe_training_job(TrainingJobName=job)["FinalMetricDataList"]
    return float(next(metric["Value"] for metric in found if metric["MetricName"] == name))


def confusion(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Counts [classes, classes]: a row for each true class, a column for each predicted one."""
    matrix = np.zeros((classes, classes), int)
    np.add.at(matrix, (truth.astype(int), predicted.astype(int)), 1)
    return matrix


def zeros_found(matrix: np.ndarray) -> dict[str, float]:
    """The figures of a confusion matrix of "is it a zero?"."""
    found, false, missed = int(matrix[1, 1]), int(matrix[0, 1]), int(matrix[1, 0])
    return {
        "zeros": found + missed,
        "found": found,
        "false": false,
        "f1": round(2 * found / max(1, 2 * found + false + missed), 4),
    }


def draw_confusion(matrix: np.ndarray, names: list[str], file: Path) -> None:
    """A picture of a confusion matrix, each row's shares in color, the counts in figures."""
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    figure = Figure(figsize=(1 + 0.6 * len(names), 1 + 0.6 * len(names)))
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(matrix.shape):
        color = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, str(matrix[row, column]), ha="center", va="center", color=color, fontsize=8)
    axes.set(xlabel="predicted", ylabel="true", xticks=range(len(names)), yticks=range(len(names)))
    axes.set_xticklabels(names)
    axes.set_yticklabels(names)
    _save(figure, file)


def draw_clusters(images: np.ndarray, clusters: np.ndarray, file: Path) -> None:
    """A picture with a row of images for each cluster."""
    numbers = np.unique(clusters)
    side = round(images.shape[1] ** 0.5)
    strip = np.zeros((len(numbers) * side, PICTURES * side))
    for row, number in enumerate(numbers):
        for column, image in enumerate(images[clusters == number][:PICTURES]):
            strip[row * side : (row + 1) * side, column * side : (column + 1) * side] = image.reshape(side, side)
    figure = Figure(figsize=(PICTURES / 3, len(numbers) / 3))
    axes = figure.subplots()
    axes.imshow(strip, cmap="gray")
    axes.set(xticks=[], yticks=(np.arange(len(numbers)) + 0.5) * side, ylabel="cluster")
    axes.set_yticklabels([f"{number:.0f}" for number in numbers])
    _save(figure, file)


def _save(figure: Figure, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(file, dpi=100)
    print(f"picture: {file}", file=sys.stderr)


def show(example: str, figures: dict[str, Any], *, as_json: bool) -> None:
    """Print the figures, for people or as a line of JSON."""
    if as_json:
        print(json.dumps({"example": example, **figures}))
        return
    for name, value in figures.items():
        print(f"{example} {name}: {value}")
