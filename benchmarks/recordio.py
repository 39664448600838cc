"""The codec against the SageMaker SDK it replaces, and against the bare cost of moving the same bytes."""

import io
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from benchmarks.timing import Comparison, Stopwatch, compare
from dropmill.data import recordio

os.environ["SAGEMAKER_SUPPRESS_V2_WARNING"] = "1"
logging.disable(logging.INFO)  # the SDK logs to standard output, where the table goes

from sagemaker.serializer_utils import (  # noqa: E402  # it heeds both when it is imported
    read_records,
    write_numpy_to_dense_tensor,
    write_spmatrix_to_sparse_tensor,
)

ROWS, COLUMNS = 10_000, 784
SPARSE_COLUMNS, DENSITY = (784, 10_000), 0.01
CHEAP = 5
"""Rounds of a few milliseconds are noisy; there are this many times more of them."""
ROWS_IN_MEMORY = 40_000
"""Enough that the allocator takes fresh pages from the system every time, for both sides."""


def comparisons(rounds: int, folder: Path) -> Iterator[Comparison]:
    """Yield each comparison once it is measured. `folder` is on the file system to be written to."""
    rng = np.random.default_rng(0)
    features = rng.random((ROWS_IN_MEMORY, COLUMNS), dtype=np.float32)
    labels = rng.integers(0, 10, ROWS_IN_MEMORY).astype(np.float32)
    few_features, few_labels = features[:ROWS], labels[:ROWS]
    encoded = recordio.encode(few_features, few_labels)
    size = f"{ROWS // 1000}k x {COLUMNS} float32"

    def write_ours(watch: Stopwatch) -> None:
        with watch.running():
            recordio.write(io.BytesIO(), few_features, few_labels)

    def write_sdk(watch: Stopwatch) -> None:
        stream = io.BytesIO()
        with watch.running():
            write_numpy_to_dense_tensor(stream, few_features, few_labels)  # type: ignore[no-untyped-call]  # the SDK has no types
        assert stream.getvalue() == encoded

    yield compare(
        f"write dense, {size}", "SageMaker SDK v2", ours=write_ours, theirs=write_sdk, target=35, rounds=rounds
    )

    def read_ours(watch: Stopwatch) -> None:
        with watch.running():
            read_features, _ = recordio.read(encoded)
        assert read_features.shape == (ROWS, COLUMNS)

    def read_sdk(watch: Stopwatch) -> None:
        with watch.running():
            records = read_records(io.BytesIO(encoded))  # type: ignore[no-untyped-call]  # the SDK has no types
            read_features = np.array(
                [record.features["values"].float32_tensor.values for record in records], dtype=np.float32
            )
            np.array([record.label["values"].float32_tensor.values[0] for record in records], dtype=np.float32)
        assert read_features.shape == (ROWS, COLUMNS)

    yield compare(f"read dense, {size}", "SageMaker SDK v2", ours=read_ours, theirs=read_sdk, target=100, rounds=rounds)

    for columns in SPARSE_COLUMNS:
        yield from _sparse(columns, few_labels, rounds, held_to_targets=columns == COLUMNS)

    # Both open the same file anew, write it and close it.
    path = folder / "rows.pbr"

    def encode_to_file(watch: Stopwatch) -> None:
        with watch.running(), path.open("wb", buffering=0) as stream:
            recordio.write(stream, few_features, few_labels)

    def write_raw(watch: Stopwatch) -> None:
        with watch.running(), path.open("wb", buffering=0) as stream:
            stream.write(encoded)

    name = f"encode to a file, {size}"
    yield compare(
        name, "raw write of the same bytes", ours=encode_to_file, theirs=write_raw, target=0.95, rounds=CHEAP * rounds
    )
    path.unlink()

    source = np.frombuffer(recordio.encode(features, labels), dtype=np.uint8)

    def encode_to_memory(watch: Stopwatch) -> None:
        with watch.running():
            recordio.encode(features, labels)

    def copy(watch: Stopwatch) -> None:
        with watch.running():
            source.copy()

    name = f"encode into memory, {ROWS_IN_MEMORY // 1000}k x {COLUMNS} float32"
    yield compare(name, "memcpy to fresh pages", ours=encode_to_memory, theirs=copy, target=0.75, rounds=CHEAP * rounds)


def _sparse(columns: int, labels: NDArray[np.float32], rounds: int, *, held_to_targets: bool) -> Iterator[Comparison]:
    matrix = sparse.random(ROWS, columns, DENSITY, format="csr", dtype=np.float32, random_state=0)
    encoded = recordio.encode(matrix, labels)
    size = f"{ROWS // 1000}k x {columns} at {DENSITY:.0%}"

    def write_ours(watch: Stopwatch) -> None:
        with watch.running():
            recordio.write(io.BytesIO(), matrix, labels)

    def write_sdk(watch: Stopwatch) -> None:
        stream = io.BytesIO()
        with watch.running():
            write_spmatrix_to_sparse_tensor(stream, matrix, labels)  # type: ignore[no-untyped-call]  # the SDK has no types
        assert stream.getvalue() == encoded

    target = 30 if held_to_targets else None
    name = f"write sparse, {size}"
    yield compare(name, "SageMaker SDK v2", ours=write_ours, theirs=write_sdk, target=target, rounds=rounds)

    def read_ours(watch: Stopwatch) -> None:
        with watch.running():
            read, _ = recordio.read_sparse(encoded)
        assert np.array_equal(read.values, matrix.data)

    def read_sdk(watch: Stopwatch) -> None:
        with watch.running():
            records = read_records(io.BytesIO(encoded))  # type: ignore[no-untyped-call]  # the SDK has no types
            tensors = [record.features["values"].float32_tensor for record in records]
            read = sparse.csr_matrix(
                (
                    np.concatenate([np.array(tensor.values, dtype=np.float32) for tensor in tensors]),
                    np.concatenate([np.array(tensor.keys, dtype=np.int64) for tensor in tensors]),
                    np.cumsum([0, *(len(tensor.values) for tensor in tensors)]),
                ),
                shape=(len(tensors), tensors[0].shape[0]),
            )
            np.array([record.label["values"].float32_tensor.values[0] for record in records], dtype=np.float32)
        assert np.array_equal(read.data, matrix.data)

    target = 8 if held_to_targets else None
    name = f"read sparse, {size}"
    yield compare(name, "SageMaker SDK v2", ours=read_ours, theirs=read_sdk, target=target, rounds=rounds)
