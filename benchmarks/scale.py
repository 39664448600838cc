"""How a conversion grows with its data: shards, seconds, memory, requests, history and cost.

`python -m benchmarks.scale` prints the tables of docs/scale.md, `--write` puts them there. The planner is the product's
own, and so are all sizes that it works by; rates are parameters, measured or assumed as `Rates` says.
"""

import argparse
import heapq
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from math import ceil
from pathlib import Path

from benchmarks.documents import put_tables, table
from benchmarks.prices import PRICES, Prices
from dropmill import storage
from dropmill.contracts import (
    DroppedFile,
    FileFormat,
    InspectedDrop,
    InspectInput,
    Layout,
    ObjectVersion,
    Part,
    Piece,
    Plan,
    Shard,
    Shards,
    Task,
    Unit,
)
from dropmill.data import formats
from dropmill.data.shards import plan_shards
from dropmill.recipe import Recipe

DOC = Path(__file__).parents[1] / "docs" / "scale.md"
CONCURRENCY = 40
COLUMNS = 784
TRIALS = 200
RETRIED = 0.01
"""The share of shards whose Lambda fails, in the simulation."""
LIST_PAGE = 1000
OBJECT_BYTES_MAX = 10**12
"""A larger CSV is dropped as a folder of files of this size; S3's own limit is five times that."""
_PARQUET_FILE = 10**9
_ROW_GROUP = 50 * 10**6

MB, GB, TB = 10**6, 10**9, 10**12


@dataclass(frozen=True)
class Rates:
    """Bytes are those of the input, unless it says otherwise."""

    csv: float = 75 * MB
    """Bytes a second on one core, files to files: `make bench`, 784 whole numbers, 1 GB."""
    parquet: float = 150 * MB
    """The same of Parquet: 100 columns of float32."""
    growth_csv: float = 1.12
    """Bytes of recordIO for each byte: 4 for each number, against its digits and a comma."""
    growth_parquet: float = 1.0
    network: float = 75 * MB
    """Bytes a second that a Lambda reads and writes together: assumed, 600 Mbit/s; 400 to 700 have been published."""
    core: float = 1.0
    """A core of a Lambda (1,769 MB) against the measured one: assumed."""
    start_seconds: float = 3.0
    """A new Lambda's start with numpy and pyarrow: assumed; 40 are started, then they are used again."""
    fixed_seconds: float = 0.5
    """Of each conversion besides: plan, shards, first ranges, report, completing three uploads at 30 ms a request."""
    other_seconds: float = 15.0
    """Inspect Drop (1 GiB of labels at most) and Seal Dataset, with their starts."""
    jitter: float = 0.15
    """The standard deviation of the logarithm of a conversion's seconds, in the simulation: assumed."""


@dataclass(frozen=True)
class Memory:
    """What the template gives, MB."""

    convert: int = 1769
    inspect: int = 3008
    seal: int = 1769


SPARE_BYTES, PARTS_OF_A_SIZE = storage._SPARE_BYTES, storage._PARTS_OF_A_SIZE  # no one else needs them

MAP_EVENTS = 4
"""MapStateEntered, MapStateStarted, MapStateSucceeded, MapStateExited."""
ITERATION_EVENTS = 7
"""MapIterationStarted, TaskStateEntered, LambdaFunctionScheduled, -Started, -Succeeded, TaskStateExited,
MapIterationSucceeded."""
RETRY_EVENTS = 3
"""LambdaFunctionFailed, and another LambdaFunctionScheduled and -Started."""
OTHER_EVENTS = 2 + 7 * 5 + 3 * 2 + 2 * 6
"""The execution's start and end; seven states that call a Lambda (five events each), two Choices and a Pass (two each),
and two that wait for a task token (six each: TaskStateEntered, TaskScheduled, -Started, -Submitted, -Succeeded,
TaskStateExited)."""
OTHER_TRANSITIONS = 2 + 13
"""The start and the end, and every state of the workflow that is not within the Map."""
HISTORY_MAX = 25_000
STATE_BYTES_MAX = 256 * 1024


@dataclass(frozen=True)
class Drop:
    """A drop of `size` bytes, and what is planned for it."""

    name: str
    size: int
    parquet: bool
    rates: Rates = Rates()
    prices: Prices = PRICES
    memory: Memory = Memory()

    @cached_property
    def files(self) -> list[DroppedFile]:
        most = _PARQUET_FILE if self.parquet else OBJECT_BYTES_MAX
        count = ceil(self.size / most)
        return [self._file(number, min(most, self.size - number * most), single=count == 1) for number in range(count)]

    def _file(self, number: int, size: int, *, single: bool) -> DroppedFile:
        name = f"part-{number:05}.{'parquet' if self.parquet else 'csv'}"
        key = f"drops/digits/{name}" if single else f"drops/digits/2026-01/{name}"
        source = ObjectVersion(bucket="drops-123456789012", key=key, version_id="v" * 32, size=size)
        if self.parquet:
            groups = ceil(size / _ROW_GROUP)
            rows = size // 4 // COLUMNS
            return DroppedFile(source=source, name=name, unit=Unit.ROW_GROUPS, start=0, end=groups, rows=rows)
        return DroppedFile(source=source, name=name, unit=Unit.LINES, start=5000, end=size, first_line=2)

    @cached_property
    def shards(self) -> list[Shard]:
        return plan_shards(self.files)

    def piece_bytes(self, piece: Piece) -> int:
        file = self.files[piece.file]
        return file.source.size * (piece.end - piece.start) // (file.end - file.start)

    @cached_property
    def shard_bytes(self) -> list[int]:
        return [sum(map(self.piece_bytes, shard.pieces)) for shard in self.shards]

    # Time

    @property
    def rate(self) -> float:
        """Bytes a second that a Lambda converts: as its core allows, or its network, whichever is less."""
        cpu = self.rates.core * (self.rates.parquet if self.parquet else self.rates.csv)
        return min(cpu, self.rates.network / (1 + self.growth))

    @property
    def growth(self) -> float:
        return self.rates.growth_parquet if self.parquet else self.rates.growth_csv

    @cached_property
    def shard_seconds(self) -> list[float]:
        return [self.rates.fixed_seconds + size / self.rate for size in self.shard_bytes]

    @property
    def waves(self) -> int:
        return ceil(len(self.shards) / CONCURRENCY)

    @cached_property
    def seconds(self) -> float:
        """From the drop to the sealed dataset, every shard taking the time that it should."""
        starts = [self.rates.start_seconds] * CONCURRENCY
        return self.rates.other_seconds + _finished(self.shard_seconds, starts)

    @property
    def lambda_seconds(self) -> float:
        return sum(self.shard_seconds) + min(len(self.shards), CONCURRENCY) * self.rates.start_seconds

    # Requests

    @cached_property
    def gets(self) -> int:
        """Of Convert Shard, Inspect Drop and Seal Dataset together, HEAD among them."""
        ranges = sum(self._ranges(piece) for shard in self.shards for piece in shard.pieces)
        documents = 2 * len(self.shards) + len(self.shards) + 2
        return ranges + documents + self._inspected()

    def _ranges(self, piece: Piece) -> int:
        size = self.piece_bytes(piece)
        if self.parquet:  # 50 MB of a row group are fetched column by column, in order, behind the file's directory
            return 4 + ceil(size / storage.RANGE_BYTES)
        return ranges_of_piece(size)

    def _inspected(self) -> int:
        """The recipe, the drop's size, a look at each file, and the label column up to a size."""
        looks = 3 * len(self.files)
        scans = 0
        if not self.parquet and self.size <= formats.SCAN_BYTES_MAX:
            scans = 2 * ceil(self.size / storage.RANGE_BYTES)  # for line ends within quotation marks, and for labels
        return 2 + looks + scans

    @cached_property
    def puts(self) -> int:
        """Parts, completions and documents, and the listing of what was written and of a folder."""
        parts = sum(
            uploads_of_part(size * self.growth * share) for size in self.shard_bytes for share in (0.8, 0.1, 0.1)
        )
        lists = len(Part) * ceil(len(self.shards) / LIST_PAGE) + (
            ceil(len(self.files) / LIST_PAGE) if self.folder else 0
        )
        return parts + len(self.shards) + 3 + lists

    @property
    def folder(self) -> bool:
        return len(self.files) > 1

    # Step Functions

    @property
    def events(self) -> int:
        return OTHER_EVENTS + MAP_EVENTS + ITERATION_EVENTS * len(self.shards)

    @property
    def transitions(self) -> int:
        return OTHER_TRANSITIONS + len(self.shards)

    @property
    def state_bytes(self) -> int:
        """The state document that enters the Map."""
        drop = self.files[0].source
        given = InspectInput(
            run_id="digits-0123456789ab",
            recipe="digits",
            recipe_version="v" * 32,
            drop=drop,
            execution_arn="arn:aws:states:us-east-1:123456789012:execution:dropmill-train:digits-0123456789ab",
        )
        inspected = InspectedDrop(
            shards=[shard.number for shard in self.shards],
            tuned=False,
            training_timeout=10_000,
            task=Task.MULTICLASS,
            feature_dim=COLUMNS,
            concurrency=CONCURRENCY,
        )
        return len(given.model_dump_json()) + len(inspected.model_dump_json())

    # Documents

    @cached_property
    def plan_bytes(self) -> int:
        columns = ["label", *(f"x{column}" for column in range(COLUMNS))]
        plan = Plan(
            run_id="digits-0123456789ab",
            recipe_name="digits",
            recipe=Recipe.model_validate({"algorithm": "linear-learner"}),
            recipe_version="v" * 32,
            drop=self.files[0].source,
            files=self.files,
            layout=Layout(
                format=FileFormat.PARQUET if self.parquet else FileFormat.CSV,
                columns=columns,
                label_column=0,
                feature_columns=list(range(1, COLUMNS + 1)),
            ),
            task=Task.MULTICLASS,
            hyperparameters={},
            created_at=datetime(2026, 1, 1, tzinfo=UTC),
        )
        return len(plan.model_dump_json(indent=2))

    @cached_property
    def shards_bytes(self) -> int:
        return len(Shards(self.shards).model_dump_json())

    # Cost

    @property
    def lambda_dollars(self) -> float:
        gb_seconds = self.lambda_seconds * self.memory.convert / 1024
        gb_seconds += self.rates.other_seconds * max(self.memory.inspect, self.memory.seal) / 1024
        return gb_seconds * self.prices.lambda_gb_second + (len(self.shards) + 2) * self.prices.lambda_request

    @property
    def s3_dollars(self) -> float:
        return self.gets * self.prices.get + self.puts * self.prices.put

    @property
    def states_dollars(self) -> float:
        return self.transitions * self.prices.transition

    @property
    def dollars(self) -> float:
        return self.lambda_dollars + self.s3_dollars + self.states_dollars

    @property
    def stored_dollars(self) -> float:
        """The converted rows, for a month: 30 days."""
        return self.size * self.growth / GB * self.prices.stored_gb_month


def ranges_of_piece(size: int) -> int:
    """How many ranges of an object are fetched for a piece of so many bytes of lines."""
    spare = SPARE_BYTES
    left = size + spare + 1  # the byte before tells whether a line begins with the piece
    count, length = 0, storage.RANGE_BYTES + spare
    while left > 0:
        left -= left if left <= length + spare else length
        count, length = count + 1, storage.RANGE_BYTES
    return count


def uploads_of_part(size: float) -> int:
    """How many requests write a file of so many bytes."""
    if size < storage.PART_BYTES:
        return 1
    parts, written = 0, 0
    while written < size:
        written += storage.PART_BYTES << parts // PARTS_OF_A_SIZE
        parts += 1
    return parts + 2


def _finished(seconds: Sequence[float], free: Sequence[float]) -> float:
    """When all of these are done, each being begun by the worker that is free first."""
    workers = list(free)
    heapq.heapify(workers)
    for one in seconds:
        heapq.heappush(workers, heapq.heappop(workers) + one)
    return max(workers)


@dataclass(frozen=True)
class Simulated:
    """Percentiles of `TRIALS` conversions: minutes from the drop to the sealed dataset, and events of the history."""

    minutes: tuple[float, float, float]
    events: tuple[float, float, float]
    longest: tuple[float, float, float]
    """Seconds of the slowest Lambda."""


def simulate(drop: Drop) -> Simulated:
    """Shards at `CONCURRENCY` at a time, each slower or faster by chance; some fail half-way and are begun again.

    An attempt that fails does so at any moment, and waits for up to two seconds, as the workflow's retry does.
    """
    chance = random.Random(7)  # a simulation
    minutes, events, longest = [], [], []
    for _ in range(TRIALS):
        retries, taken, slowest = 0, [], 0.0
        for planned in drop.shard_seconds:
            total = one = planned * chance.lognormvariate(0, drop.rates.jitter)
            slowest = max(slowest, one)
            while chance.random() < RETRIED:
                retries += 1
                total += one * chance.random() + 2 * chance.random()
            taken.append(total)
        starts = [drop.rates.start_seconds * chance.lognormvariate(0, drop.rates.jitter) for _ in range(CONCURRENCY)]
        minutes.append((drop.rates.other_seconds + _finished(taken, starts)) / 60)
        longest.append(slowest)
        events.append(float(drop.events + RETRY_EVENTS * retries))
    return Simulated(_percentiles(minutes), _percentiles(events), _percentiles(longest))


def _percentiles(values: Sequence[float]) -> tuple[float, float, float]:
    """The least, the middle and the 99th percentile."""
    return min(values), statistics.median(values), statistics.quantiles(values, n=100)[-1]


DROPS = (
    Drop("100 MB CSV", 100 * MB, parquet=False),
    Drop("1 GB CSV", GB, parquet=False),
    Drop("10 GB CSV", 10 * GB, parquet=False),
    Drop("100 GB CSV", 100 * GB, parquet=False),
    Drop("1 TB CSV", TB, parquet=False),
    Drop("10 TB CSV", 10 * TB, parquet=False),
    Drop("1 TB Parquet", TB, parquet=True),
)


def tables() -> dict[str, str]:
    """The generated parts of the document, by their names."""
    simulated = next(drop for drop in DROPS if drop.name == "1 TB CSV")
    return {"work": _work(), "requests": _requests(), "cost": _cost(), "simulation": _simulation(simulated)}


def _work() -> str:
    rows = [
        [
            drop.name,
            f"{len(drop.files):,}",
            f"{len(drop.shards):,}",
            f"{max(drop.shard_bytes) / MB:,.0f}",
            f"{max(len(shard.pieces) for shard in drop.shards)}",
            f"{drop.waves}",
            f"{max(drop.shard_seconds):,.1f}",
            f"{drop.lambda_seconds:,.0f}",
            f"{drop.lambda_seconds * drop.memory.convert / 1024:,.0f}",
            f"{drop.seconds / 60:,.1f}",
        ]
        for drop in DROPS
    ]
    head = ["drop", "files", "shards", "MB a shard", "pieces a shard", "waves of 40", "s a shard"]
    return table([*head, "Lambda seconds", "GB-seconds", "minutes in all"], rows)


def _requests() -> str:
    rows = [
        [
            drop.name,
            f"{drop.gets:,}",
            f"{drop.puts:,}",
            f"{drop.transitions:,}",
            f"{drop.events:,}",
            f"{drop.state_bytes / 1024:,.1f}",
            f"{drop.plan_bytes / 1024:,.0f}",
            f"{drop.shards_bytes / 1024:,.0f}",
        ]
        for drop in DROPS
    ]
    head = ["drop", "GET, HEAD", "PUT, POST, LIST", "state transitions", "history events", "state, KB", "plan.json, KB"]
    return table([*head, "shards.json, KB"], rows)


def _cost() -> str:
    rows = [
        [
            drop.name,
            f"{drop.lambda_dollars:,.3f}",
            f"{drop.s3_dollars:,.3f}",
            f"{drop.states_dollars:,.3f}",
            f"{drop.dollars:,.3f}",
            f"{drop.stored_dollars:,.2f}",
        ]
        for drop in DROPS
    ]
    return table(["drop", "Lambda, $", "S3 requests, $", "Step Functions, $", "all, $", "rows kept 30 days, $"], rows)


def _simulation(drop: Drop) -> str:
    seen = simulate(drop)
    rows = [
        [f"{drop.name}: minutes", *(f"{value:.1f}" for value in seen.minutes)],
        [f"{drop.name}: seconds of the slowest Lambda", *(f"{value:.0f}" for value in seen.longest)],
        [f"{drop.name}: history events", *(f"{value:,.0f}" for value in seen.events)],
    ]
    return table([f"of {TRIALS} simulated conversions", "least", "median", "99th percentile"], rows)


def rendered(text: str) -> str:
    """The document with its tables made anew."""
    return put_tables(text, tables())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description="How a conversion grows.")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/scale.md")
    if parser.parse_args().write:
        DOC.write_text(rendered(DOC.read_text()))
        return
    for made in tables().values():
        print(made, end="\n\n")


if __name__ == "__main__":
    main()
