"""A CSV or Parquet file to recordIO files on one core, against the table reader's own parse of that file.

Every measurement is a process of its own, held to one core and one thread, that counts its seconds behind its imports
and reports the most memory it ever held, imports included. Ours does what Convert Shard does with every shard of the
file, with files in place of S3's objects.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import BinaryIO, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from benchmarks.timing import Comparison, Figure
from dropmill.contracts import DroppedFile, ObjectVersion, Plan, Task
from dropmill.data import formats
from dropmill.data.rows import OpenFile
from dropmill.data.shards import plan_shards
from dropmill.recipe import Recipe
from dropmill.steps.convert_shard import convert
from localaws import template

TARGET = 0.8
PEAK_MB_MAX = 256
CLASSES = [str(number) for number in range(10)]
_CHUNK_VALUES = 3_000_000
_ROW_GROUP_BYTES = 16 << 20
_LARGE = 500 * 10**6
_LARGE_ROUNDS = 5
_READER_BLOCK = 4 << 20  # the best of 1, 2, 4 and 8 MB

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ARROW_NUM_THREADS", "ARROW_IO_THREADS"), "1")
TEMPLATE = Path(__file__).parents[1] / "template.yaml"


@dataclass(frozen=True)
class Table:
    """A file to be converted. It is held to the target if it is CSV."""

    size: int
    columns: int
    values: str
    parquet: bool = False

    @property
    def name(self) -> str:
        return (
            f"{'Parquet' if self.parquet else 'CSV'} to recordIO, {self.size // 10**6} MB, {self.columns} {self.values}"
        )


WHOLE, FRACTIONS = "whole numbers", "fractions"
TABLES = (
    Table(50 * 10**6, 784, WHOLE),
    Table(200 * 10**6, 784, WHOLE),
    Table(1000 * 10**6, 784, WHOLE),
    Table(200 * 10**6, 100, FRACTIONS),
    Table(200 * 10**6, 100, FRACTIONS, parquet=True),
)


@dataclass(frozen=True)
class Spent:
    seconds: float
    peak_mb: float
    rows: int


def comparisons(rounds: int, folder: Path) -> Iterator[Comparison | Figure]:
    """Yield, for each table, the speed against the reader's, and the most memory. `folder` takes 3 GB for a while."""
    for table in TABLES:
        source = folder / ("rows.parquet" if table.parquet else "rows.csv")
        planned, parts = folder / "plan.json", folder / "parts"
        rows = (write_parquet if table.parquet else write_csv)(source, table)
        planned.write_text(_plan(source).model_dump_json())
        rounds_here = _LARGE_ROUNDS if table.size >= _LARGE else rounds
        spent: dict[str, list[Spent]] = {"ours": [], "reader": [], "look": []}
        for number in range(rounds_here + 1):
            print(f"{table.name}: round {number} of {rounds_here}", end="\r", file=sys.stderr, flush=True)
            for side, found in spent.items():
                if side == "look" and table.size < _LARGE:
                    continue
                found.append(measured(side, source, planned, parts))
                shutil.rmtree(parts, ignore_errors=True)
        print(" " * 80, end="\r", file=sys.stderr, flush=True)
        if any(one.rows != rows for side in ("ours", "reader") for one in spent[side]):
            raise RuntimeError("not all rows were read")
        source.unlink()
        ours, reader, looks = ([one.seconds for one in found[1:]] for found in spent.values())
        yield Comparison(
            name=table.name,
            peer="pyarrow's parse, one thread",
            ours_seconds=statistics.median(ours),
            peer_seconds=statistics.median(reader),
            ratio=statistics.median(theirs / own for own, theirs in zip(ours, reader, strict=True)),
            target=None if table.parquet else TARGET,
            rounds=rounds_here,
        )
        if looks:
            yield Comparison(
                name="  inspection of the same, all labels read",
                peer="pyarrow's parse, one thread",
                ours_seconds=statistics.median(looks),
                peer_seconds=statistics.median(reader),
                ratio=statistics.median(theirs / own for own, theirs in zip(looks, reader, strict=True)),
                target=None,
                rounds=rounds_here,
            )
        yield Figure(
            "  most memory of the conversion, MB", max(one.peak_mb for one in spent["ours"]), at_most=PEAK_MB_MAX
        )


def write_csv(target: Path, table: Table) -> int:
    """A label and numbers under names, in whole chunks that repeat, so that it is made fast; returns the rows."""
    random = np.random.default_rng(0)
    numbers = random.integers(0, 256, (_CHUNK_VALUES // table.columns, table.columns))
    labels = random.integers(0, len(CLASSES), len(numbers)).tolist()
    cells = [list(map(str, row)) for row in numbers.tolist()]
    if table.values == FRACTIONS:
        scaled = (numbers + random.random(numbers.shape)) / 256
        cells = [[f"{value:.8g}" for value in row] for row in scaled.tolist()]
    chunk = "".join(f"{label},{','.join(row)}\n" for label, row in zip(labels, cells, strict=True)).encode()
    chunks = max(1, round(table.size / len(chunk)))
    with target.open("wb") as stream:
        stream.write((",".join(["label", *(f"x{column}" for column in range(table.columns))]) + "\n").encode())
        for _ in range(chunks):
            stream.write(chunk)
    return chunks * len(numbers)


def write_parquet(target: Path, table: Table) -> int:
    """A label and float32 in row groups that repeat; returns the rows."""
    random = np.random.default_rng(0)
    rows = _ROW_GROUP_BYTES // (4 * table.columns)
    columns = {f"x{column}": random.random(rows, dtype=np.float32) for column in range(table.columns)}
    chunk = pa.table({"label": random.integers(0, len(CLASSES), rows), **columns})
    chunks = max(1, round(table.size / _ROW_GROUP_BYTES))
    with pq.ParquetWriter(target, chunk.schema, use_dictionary=False) as writer:
        for _ in range(chunks):
            writer.write_table(chunk)
    return chunks * rows


def _look(source: Path, recipe: Recipe) -> formats.Looked:
    version = ObjectVersion(bucket="drops", key=f"drops/benchmark/{source.name}", size=source.stat().st_size)
    return formats.look([formats.DropFile(_file(source), version)], recipe.data)


def _plan(source: Path) -> Plan:
    recipe = Recipe.model_validate({"algorithm": "linear-learner", "data": {"label": "label", "classes": CLASSES}})
    looked = _look(source, recipe)
    return Plan(
        run_id="benchmark-0123456789ab",
        recipe_name="benchmark",
        recipe=recipe,
        drop=looked.files[0].source,
        files=looked.files,
        layout=looked.layout,
        task=Task.MULTICLASS,
        hyperparameters={},
        created_at=datetime.now(UTC),
    )


def _file(source: Path) -> OpenFile:
    return OpenFile(source.name, source.stat().st_size, lambda: source.open("rb"))


def measured(side: str, source: Path, planned: Path, parts: Path) -> Spent:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.conversion", side, str(source), str(planned), str(parts)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, **ONE_THREAD, **_as_deployed()},
    )
    return Spent(**json.loads(done.stdout))


@cache
def _as_deployed() -> dict[str, str]:
    """What the template sets for Convert Shard."""
    function = template.load(TEMPLATE)["Resources"]["ConvertShardFunction"]["Properties"]
    variables: dict[str, str] = function["Environment"]["Variables"]
    return variables


# In the measured process


def _parsed(source: Path, _planned: Path, _parts: Path) -> int:
    if source.suffix == ".parquet":
        return sum(batch.num_rows for batch in pq.ParquetFile(source).iter_batches(use_threads=False))
    options = csv.ReadOptions(use_threads=False, block_size=_READER_BLOCK)
    return sum(batch.num_rows for batch in csv.open_csv(source, read_options=options))


def _converted(source: Path, planned: Path, parts: Path) -> int:
    plan = Plan.model_validate_json(planned.read_bytes())
    file = _file(source)

    def opened(_dropped: DroppedFile) -> OpenFile:
        return file

    def open_part(key: str) -> BinaryIO:
        path = parts / key
        path.parent.mkdir(parents=True, exist_ok=True)
        return cast("BinaryIO", path.open("wb", buffering=0))

    return sum(convert(plan, shard, 1, opened, open_part).rows for shard in plan_shards(plan.files))


def _inspected(source: Path, _planned: Path, _parts: Path) -> int:
    return len(_look(source, Recipe.model_validate({"algorithm": "linear-learner"})).files)


def peak_mb() -> float:
    """What this process held at most, in MB; not `ru_maxrss`, which remembers the process that started it."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6


SIDES: dict[str, Callable[[Path, Path, Path], int]] = {"ours": _converted, "reader": _parsed, "look": _inspected}


def main() -> None:
    work, paths = SIDES[sys.argv[1]], [Path(path) for path in sys.argv[2:]]
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    start = perf_counter()
    rows = work(*paths)
    seconds = perf_counter() - start
    print(json.dumps({"seconds": seconds, "peak_mb": peak_mb(), "rows": rows}))


if __name__ == "__main__":
    main()
