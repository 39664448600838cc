"""Reads a training channel into one matrix."""

import re
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dropmill.algorithms import Algorithm
from dropmill.algorithms.predictions import CSV, RECORDIO
from dropmill.data import recordio, recordio_sparse
from dropmill.data.recordio_sparse import SparseMatrix
from localaws.algorithms.hosts import channel_folders
from localaws.algorithms.toolkit import Container, UserError

FloatArray = NDArray[np.float32]
Features = FloatArray | SparseMatrix

DENSE_BYTES_MAX = 16 * 1024**3
"""Sparse rows that would take more than this as an array are refused where an algorithm needs an array."""


@dataclass
class Rows:
    """`features` [n, d] and `labels` [n], both float32. No labels: None."""

    features: FloatArray
    labels: FloatArray | None


@dataclass
class SparseRows:
    """The same with sparse features: only for an algorithm that takes them."""

    features: SparseMatrix
    labels: FloatArray | None


AnyRows = Rows | SparseRows


def media_type(text: str) -> tuple[str, dict[str, str]]:
    """A content type and its parameters: `text/csv; label_size=0` is `("text/csv", {"label_size": "0"})`."""
    kind, *parameters = text.split(";")
    pairs = (parameter.partition("=") for parameter in parameters)
    return kind.strip().lower(), {name.strip().lower(): value.strip() for name, _, value in pairs}


def label_size(parameters: dict[str, str], default: int) -> int:
    """The `label_size` of a content type. Raises UserError."""
    text = parameters.get("label_size", str(default))
    if text not in ("0", "1"):
        raise UserError(f"label_size={text[:20]} is not supported: a row has one label or none, so use 0 or 1")
    return int(text)


def read_channel(container: Container, name: str, algorithm: Algorithm) -> AnyRows | None:
    """All rows of a channel; None if the job has no such channel. Raises UserError.

    Rows of which at least one is sparse come as SparseRows, if the algorithm takes them.
    """
    config = container.config("inputdataconfig").get(name, {})
    folders = channel_folders(container, name)
    if not folders:
        return None
    if config.get("TrainingInputMode", "File") not in ("File", "FastFile"):
        raise UserError(f"channel {name}: input mode {config['TrainingInputMode']} is not supported here: use File")
    if config.get("RecordWrapperType", "None") not in ("None", "", None):
        raise UserError(f"channel {name}: RecordWrapperType {config['RecordWrapperType']} is not supported here")

    kind, parameters = media_type(config.get("ContentType") or RECORDIO)
    if kind not in algorithm.train_content_types:
        accepted = ", ".join(algorithm.train_content_types)
        raise UserError(f"channel {name}: content type {kind!r} is not supported by {algorithm.name}: use {accepted}")

    files = [(file, file.relative_to(folder)) for folder in folders for file in _files(folder)]
    if not files:
        raise UserError(f"no file found in path /opt/ml/input/data/{name}")
    labels = label_size(parameters, default=1) if kind == CSV else 0
    parts: list[AnyRows] = []
    for file, relative in files:
        shown = f"channel {name}, file {relative}"
        rows = _read_csv_file(file, labels, shown) if kind == CSV else _read_recordio(file, shown, algorithm)
        if len(rows.features):
            parts.append(rows)
    if not parts:
        raise UserError(f"channel {name} holds no rows")
    return _joined(parts, name)


def check_rows(rows: AnyRows, channel: str, *, feature_dim: int | None, labelled: bool) -> None:
    """Raises UserError for another width than `feature_dim`, a value that is not finite, a missing label."""
    width = rows.features.shape[1]
    if feature_dim is not None and width != feature_dim:
        raise UserError(
            f"channel {channel} has {width} features where feature_dim is {feature_dim}: "
            f"cannot copy sequence with size {width} to array axis with dimension {feature_dim}"
        )
    if not finite(rows.features):
        raise UserError(f"channel {channel} has a feature that is not a finite number")
    if labelled and rows.labels is None:
        raise UserError(f"channel {channel} has no labels")
    if labelled and rows.labels is not None and not np.isfinite(rows.labels.sum(dtype=np.float64)):
        raise UserError(f"channel {channel} has a label that is not a finite number")


def _read_csv_file(file: Path, labels: int, shown: str) -> Rows:
    # Opened here, because numpy would unpack a file by its name.
    with file.open(encoding="utf-8-sig") as lines:
        return read_csv(lines, labels, shown)


def finite(features: Features) -> bool:
    # One NaN or infinity makes the whole sum NaN or infinite; finite float32 values can't overflow float64.
    values = features.values if isinstance(features, SparseMatrix) else features
    return bool(np.isfinite(values.sum(dtype=np.float64)))


def dense(features: Features, bytes_max: int = DENSE_BYTES_MAX) -> FloatArray:
    """The features as an array. Raises UserError where it would be larger than `bytes_max`."""
    if not isinstance(features, SparseMatrix):
        return features
    size = 4 * len(features) * features.width
    if size > bytes_max:
        raise UserError(
            f"{len(features)} sparse rows of {features.width} features would take {size} bytes with their zeros;"
            f" {bytes_max} is the most here"
        )
    return features.to_dense()


def read_csv(lines: Iterable[str], labels: int, shown: str) -> Rows:
    """Rows of comma-separated numbers without a header, the first `labels` columns being labels. Raises UserError."""
    try:
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # that there are no rows is told by others
            table = np.loadtxt(lines, dtype=np.float32, delimiter=",", comments=None, ndmin=2)
    except ValueError as error:
        raise UserError(f"{shown}: {_csv_problem(str(error))}") from None
    if table.size and table.shape[1] <= labels:
        raise UserError(f"{shown}: has {table.shape[1]} columns, of which {labels} are labels")
    if not labels:
        return Rows(table, None)
    return Rows(np.ascontiguousarray(table[:, labels:]), table[:, 0].copy())


def _csv_problem(message: str) -> str:
    """numpy's complaint without the cell's text, which must not reach a log."""
    place = re.search(r"at row (\d+), column (\d+)", message)
    if place:
        return f"row {int(place[1]) + 1}, column {int(place[2])} is not a number"
    ragged = re.search(r"changed from (\d+) to (\d+) at row (\d+)", message)
    if ragged:
        return f"row {ragged[3]} has {ragged[2]} columns where the rows before it have {ragged[1]}"
    return "is not a table of numbers"


def _read_recordio(file: Path, shown: str, algorithm: Algorithm) -> AnyRows:
    try:
        with file.open("rb") as stream:
            features, labels = recordio_sparse.read_any(stream)
    except recordio.RecordIOError as error:
        raise UserError(
            f"{shown}: Unable to parse record. Please make sure input data is in correct recordio format: {error}"
        ) from None
    if isinstance(features, SparseMatrix) and algorithm.takes_sparse:
        return SparseRows(features, labels)
    return Rows(dense(features), labels)


def _files(folder: Path) -> Iterator[Path]:
    """The files below a folder in order of their names, hidden ones left out: manifests lie beside the data."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path


def _joined(parts: list[AnyRows], channel: str) -> AnyRows:
    if len({part.features.shape[1] for part in parts}) > 1:
        raise UserError(f"channel {channel} has files with different numbers of features")
    if len({part.labels is None for part in parts}) > 1:
        raise UserError(f"channel {channel} has files with labels and files without")
    if len(parts) == 1:
        return parts[0]
    if any(isinstance(part, SparseRows) for part in parts):
        labels = [part.labels for part in parts if part.labels is not None]
        features = SparseMatrix.joined([SparseMatrix.of(part.features) for part in parts])
        return SparseRows(features, np.concatenate(labels) if labels else None)
    return _joined_dense(parts)


def _joined_dense(parts: list[AnyRows]) -> Rows:
    rows = sum(len(part.features) for part in parts)
    features = np.empty((rows, parts[0].features.shape[1]), np.float32)
    labels = None if parts[0].labels is None else np.empty(rows, np.float32)
    start = 0
    # Each part is dropped as soon as it is copied; untouched pages of the whole cost nothing yet, so the peak is one
    # part above the whole.
    for part in _drained(parts):
        stop = start + len(part.features)
        features[start:stop] = dense(part.features)
        if labels is not None and part.labels is not None:
            labels[start:stop] = part.labels
        start = stop
    return Rows(features, labels)


def _drained(parts: list[AnyRows]) -> Iterator[AnyRows]:
    parts.reverse()
    while parts:
        yield parts.pop()
