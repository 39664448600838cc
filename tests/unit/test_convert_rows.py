"""Convert Rows with stand-ins for files and objects: bounded memory, and nothing kept of pieces with problems."""

import io
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pytest

from dropmill.contracts import (
    BatchPlan,
    Champion,
    DroppedFile,
    FileFormat,
    Layout,
    ObjectVersion,
    RowsReport,
    Shard,
    Task,
)
from dropmill.data import recordio, scoring, shards
from dropmill.data.formats import DropFile
from dropmill.data.rows import OpenFile
from dropmill.errors import InvalidDrop
from dropmill.naming import kept_rows_key, rows_name, rows_prefix
from dropmill.recipe import Recipe
from dropmill.steps.convert_rows import convert

BATCH = "points-score-20260102t0300"
ID = {"data": {"id": "id"}}


def batch_of(file: OpenFile, recipe: dict[str, Any]) -> BatchPlan:
    made = Recipe.model_validate({"algorithm": "linear-learner", **recipe})
    trained = Layout(
        format=FileFormat.CSV, columns=["a", "b", "label"], label_column=2, feature_columns=[0, 1], label_values=[0, 1]
    )
    source = ObjectVersion(bucket="drops", key=f"scoring/points/{file.name}", size=file.size)
    files, readings = scoring.gathered([scoring.look_like(DropFile(file, source), trained, made.data)])
    return BatchPlan(
        run_id=BATCH,
        recipe_name="points",
        recipe=made,
        champion=Champion(
            recipe="points",
            version=1,
            package="arn",
            run_id="points-0123456789ab",
            algorithm="linear-learner",
            task=Task.BINARY,
            feature_dim=2,
            artifact="s3://artifacts/model.tar.gz",
            moved_at=datetime.now(UTC),
        ),
        files=files,
        readings=readings,
        created_at=datetime.now(UTC),
    )


class Objects:
    """What is written, unless it ends in an error."""

    def __init__(self) -> None:
        self.bodies: dict[str, bytes] = {}

    @contextmanager
    def open(self, key: str) -> Iterator[BinaryIO]:
        stream = io.BytesIO()
        yield stream
        self.bodies[key] = stream.getvalue()


def converted(
    body: bytes, recipe: dict[str, Any], opened: Callable[[DroppedFile], OpenFile] | None = None
) -> tuple[list[RowsReport], dict[str, bytes]]:
    file = OpenFile("a.csv", len(body), lambda: io.BytesIO(body))
    plan = batch_of(file, recipe)
    objects = Objects()
    planned: list[Shard] = shards.plan_in_order([one.file for one in plan.files])
    reports = [convert(plan, shard, opened or (lambda _: file), objects.open) for shard in planned]
    return reports, objects.bodies


def test_rows_and_what_is_kept_of_them_are_beside_each_other() -> None:
    reports, bodies = converted(b"id,b,a\nx,2,1\ny,4,3\n", ID)
    (piece,) = reports[0].pieces
    rows, kept = bodies[rows_prefix(BATCH) + rows_name(0, 0)], bodies[kept_rows_key(BATCH, 0, 0)]
    features, labels = recordio.read(rows)
    assert (features.tolist(), labels) == ([[1, 2], [3, 4]], None)
    assert pa.ipc.open_stream(kept).read_all().to_pydict() == {"0": ["x", "y"]}
    assert (piece.rows, piece.size, piece.kept, piece.problems, piece.refused) == (2, len(rows), True, [], None)


def test_nothing_is_kept_where_nothing_is_asked_for() -> None:
    reports, bodies = converted(b"id,b,a\nx,2,1\n", {})
    assert list(bodies) == [rows_prefix(BATCH) + rows_name(0, 0)]
    assert not reports[0].pieces[0].kept


@pytest.mark.parametrize("bad", [1, 9, 30])
def test_nothing_is_written_of_a_piece_with_problems(bad: int) -> None:
    body = b"id,a,b\n" + b"".join(b"i,%d,2\n" % at for at in range(1000)) + b"i,x,2\n" * bad + b"i,1,2\n"
    reports, bodies = converted(body, ID)
    (piece,) = reports[0].pieces
    assert bodies == {}
    assert (piece.size, piece.kept, piece.refused) == (0, False, None)
    assert [problem.row for problem in piece.problems] == list(range(1001, 1001 + min(bad, 10)))
    assert (piece.begin, piece.stop, piece.lines) == (7, len(body), 1001 + bad)


def test_a_file_that_is_damaged_meanwhile_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD_BYTES", 1 << 10)
    body = b"id,a,b\n" + b"".join(b"i,%d,2\n" % at for at in range(1000))

    class Failing(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > 4000:
                raise InvalidDrop("a.csv is gone")
            return super().read(size)

    reports, bodies = converted(body, ID, lambda file: OpenFile(file.name, len(body), lambda: Failing(body)))
    refused = [report.pieces[0].refused for report in reports]
    assert refused[0] is None
    assert refused[-1] == "a.csv is gone"
    assert bodies
    assert rows_prefix(BATCH) + rows_name(0, len(reports) - 1) not in bodies


def test_a_million_rows_in_little_memory(tmp_path: Path) -> None:
    rows = 1_000_000
    path = tmp_path / "a.csv"
    with path.open("w") as stream:
        stream.write("id,b,a\n")
        stream.writelines(f"id-{at:07},0.5,{at}\n" for at in range(rows))
    file = OpenFile("a.csv", path.stat().st_size, lambda: path.open("rb"))
    plan = batch_of(file, ID)
    (shard,) = shards.plan_in_order([one.file for one in plan.files])
    before = most = pa.total_allocated_bytes()
    sinks = {}

    def opened(key: str) -> AbstractContextManager[BinaryIO]:
        sinks[key] = tempfile.TemporaryFile(dir=tmp_path)  # noqa: SIM115  # closed in the end

        @contextmanager
        def watched() -> Iterator[BinaryIO]:
            nonlocal most

            class Watching(io.RawIOBase):
                def writable(self) -> bool:
                    return True

                def write(self, data: Any) -> int:
                    nonlocal most
                    most = max(most, pa.total_allocated_bytes())
                    return sinks[key].write(data)

            yield cast("BinaryIO", Watching())

        return watched()

    report = convert(plan, shard, lambda _: file, opened)
    assert report.pieces[0].rows == rows
    assert most - before < 24 << 20
    found = sinks[rows_prefix(BATCH) + rows_name(0, 0)]
    found.seek(0)
    at = 0
    for features, _ in recordio.read_blocks(found):
        assert features[:, 0].tolist() == list(range(at, at + len(features)))
        at += len(features)
    assert at == rows
    kept = sinks[kept_rows_key(BATCH, 0, 0)]
    kept.seek(0)
    with pa.ipc.open_stream(kept) as reader:
        seen = 0
        for batch in reader:
            assert batch.column(0)[0].as_py() == f"id-{seen:07}"
            seen += batch.num_rows
    assert seen == rows
    for sink in sinks.values():
        sink.close()
