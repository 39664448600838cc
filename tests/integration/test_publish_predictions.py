"""Predictions of several tasks, from files of several formats, through the algorithms that really answer."""

import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

ROWS = 240
COMMON = "data: {id: key, keep: [label, note]%s}\nscoring: {format: parquet}\n"
RECIPES = {
    "classes": "algorithm: linear-learner\nhyperparameters: {epochs: 3, num_models: 1}\n" + COMMON % "",
    "clusters": "algorithm: kmeans\n" + COMMON % ", drop_columns: [size]",
    "machines": "algorithm: factorization-machines\n"
    "hyperparameters: {num_factors: 4, epochs: 5, mini_batch_size: 50}\n" + COMMON % ", positive: blue",
}
SCORES = {
    "classes": ["score_blue", "score_green", "score_red"],
    "clusters": ["distance"],
    "machines": ["score"],
}


def table(seed: int) -> dict[str, Any]:
    """Rows of three groups of points, one of each colour."""
    random = np.random.default_rng(seed)
    group = random.permutation(np.arange(ROWS) % 3)
    return {
        "key": [f"{seed}/{row}" for row in range(ROWS)],
        "a": random.normal(size=ROWS) + 6 * (group == 1),
        "b": random.normal(size=ROWS) + 6 * (group == 2),
        "size": (group + 1.0),
        "label": [["red", "green", "blue"][number] for number in group],
        "note": [f'"{row}", he said' for row in range(ROWS)],
    }


def as_parquet(columns: dict[str, Any]) -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.table(columns), stream, row_group_size=50)
    return stream.getvalue()


def as_json_lines(columns: dict[str, Any]) -> bytes:
    lists = {name: list(column) for name, column in columns.items()}
    rows = zip(*lists.values(), strict=True)
    return "".join(json.dumps(dict(zip(lists, row, strict=True))) + "\n" for row in rows).encode()


@pytest.fixture(autouse=True)
def leaves_nothing(stand: Any) -> Iterator[None]:
    yield
    stand.assert_nothing_left()


def scored(stand: Any, kind: str) -> dict[str, Any]:
    """Train, score two files, and return the manifest."""
    stand.recipe(kind, RECIPES[kind])
    run = stand.run_of(stand.drop(kind, as_parquet(table(1)), "train.parquet"))
    assert stand.wait_for_end(run)["detail"]["status"] == "SUCCEEDED", stand.record(run)["cause"]
    reordered = {name: table(2)[name] for name in ("note", "b", "key", "size", "label", "a")}
    stand.to_score(kind, "2.parquet", as_parquet(reordered | {"more": ["text"] * ROWS}))
    stand.to_score(kind, "3.jsonl", as_json_lines(table(3)))
    batch = stand.score(kind)
    assert stand.wait_for_end(batch)["detail"]["status"] == "SUCCEEDED", stand.record(batch)["cause"]
    manifest: dict[str, Any] = json.loads(stand.artifact(f"predictions/{kind}/{batch}/manifest.json"))
    return manifest


def test_predictions_are_those_of_the_rows(stand: Any) -> None:
    with ThreadPoolExecutor(3) as pool:
        manifests = dict(zip(RECIPES, pool.map(lambda kind: scored(stand, kind), RECIPES), strict=True))
    for kind, manifest in manifests.items():
        assert manifest["columns"] == ["key", "label", "note", "prediction", *SCORES[kind]]
        assert manifest["set_aside"] == []
        assert [file["name"] for file in manifest["files"]] == ["2.parquet", "3.jsonl"]
        for seed, file in zip((2, 3), manifest["files"], strict=True):
            (part,) = file["predictions"]
            found = pq.read_table(pa.BufferReader(stand.artifact(part["key"]))).to_pydict()
            columns = table(seed)
            assert {name: found[name] for name in ("key", "label", "note")} == {
                name: columns[name] for name in ("key", "label", "note")
            }
            check(kind, found, columns)


def check(kind: str, found: dict[str, Any], columns: dict[str, Any]) -> None:
    """The predictions are those of the rows, which the groups make easy to tell apart."""
    said, labels = found["prediction"], columns["label"]
    if kind == "machines":
        # Too few rows for it to learn much of them.
        assert said == ["blue" if score > 0.5 else "not blue" for score in found["score"]]
        return
    if kind == "clusters":
        pairs = {(cluster, label) for cluster, label in zip(said, labels, strict=True)}
        assert len({cluster for cluster, _ in pairs}) == 3
        assert min(found["distance"]) > 0
        return
    agreed = np.mean([one == other for one, other in zip(said, labels, strict=True)])
    assert agreed > 0.9
    scores = np.column_stack([found[name] for name in SCORES[kind]])
    assert [SCORES[kind][place].removeprefix("score_") for place in scores.argmax(axis=1)] == said
