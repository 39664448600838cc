"""Convert Shard against a stand-in for S3: what is written, what is left after errors, and what the report says."""

import io
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from dropmill import aws, storage
from dropmill.contracts import (
    DroppedFile,
    FileFormat,
    ObjectVersion,
    Part,
    Piece,
    Plan,
    Shard,
    ShardInput,
    ShardReport,
    Shards,
    Task,
    Unit,
)
from dropmill.data import blocks, formats, recordio
from dropmill.data.rows import OpenFile
from dropmill.data.shards import plan_shards
from dropmill.naming import plan_key, shard_report_key, shards_key
from dropmill.recipe import Recipe
from dropmill.steps.convert_shard import convert_shard

RUN = "knn-0123456789ab"


class Run:
    """A run of one dropped CSV, and the bucket that it is converted into."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.open: set[str] = set()
        self.data = b""
        self.fails_at: int | None = None

    def plan(self, dropped: bytes, *, shards: int | None = None, recipe: str = "knn", **options: Any) -> Plan:
        self.data = dropped
        self.objects.clear()
        source = ObjectVersion(bucket="drops", key="drops/r/x.csv", version_id="v1", size=len(dropped))
        made = Recipe.model_validate({"algorithm": recipe, **options})
        drop = formats.DropFile(OpenFile("x.csv", len(dropped), lambda: io.BytesIO(dropped)), source)
        looked = formats.look([drop], made.data)
        plan = Plan(
            run_id=RUN,
            recipe_name=recipe,
            recipe=made,
            drop=source,
            files=looked.files,
            layout=looked.layout,
            task=Task.CLUSTERING if recipe == "kmeans" else Task.MULTICLASS,
            hyperparameters={},
            created_at=datetime.now(UTC),
        )
        self._put(plan_key(RUN), plan.model_dump_json())
        planned = plan_shards(looked.files) if shards is None else divided(looked.files[0], shards)
        self._put(shards_key(RUN), Shards(planned).model_dump_json())
        return plan

    def convert(self, shard: int = 0) -> ShardReport:
        answer = convert_shard(ShardInput(run_id=RUN, shard=shard))
        report = ShardReport.model_validate_json(self.objects[shard_report_key(RUN, shard)])
        assert (answer.shard, answer.rows, answer.problems) == (shard, report.rows, len(report.problems))
        assert self.open == set()
        return report

    def written(self) -> list[str]:
        """What a job would find."""
        return sorted(key for key in self.objects if key.endswith(".pbr"))

    def rows(self, part: str = "") -> np.ndarray[Any, Any]:
        """All rows that were written, with their labels, sorted."""
        read = [recordio.read(self.objects[key]) for key in self.written() if f"/{part}" in key]
        return ordered(np.concatenate([np.column_stack([x, np.zeros(len(x)) if y is None else y]) for x, y in read]))

    def _put(self, key: str, text: str) -> None:
        self.objects[key] = text.encode()

    # What the step asks of S3

    def get_object(self, **request: Any) -> dict[str, Any]:
        if request["Bucket"] == "artifacts":
            body = self.objects[request["Key"]]
            return {"Body": io.BytesIO(body), "ContentLength": len(body)}
        start, last = map(int, request["Range"].removeprefix("bytes=").split("-"))
        return {"Body": io.BytesIO(self.data[start : last + 1]), "ContentRange": f"bytes */{len(self.data)}"}

    def put_object(self, **request: Any) -> None:
        self.objects[request["Key"]] = bytes(request["Body"])

    def create_multipart_upload(self, **request: Any) -> dict[str, Any]:
        self.open.add(request["Key"])
        self.parts: dict[tuple[str, int], bytes] = getattr(self, "parts", {})
        return {"UploadId": request["Key"]}

    def upload_part(self, **request: Any) -> dict[str, Any]:
        number = request["PartNumber"]
        if number == self.fails_at:
            raise ConnectionError("the network is gone")
        self.parts[request["Key"], number] = bytes(request["Body"])
        return {"ETag": str(number)}

    def complete_multipart_upload(self, **request: Any) -> None:
        key = request["Key"]
        numbers = [part["PartNumber"] for part in request["MultipartUpload"]["Parts"]]
        self.objects[key] = b"".join(self.parts.pop((key, number)) for number in numbers)
        self.open.remove(key)

    def abort_multipart_upload(self, **request: Any) -> None:
        self.open.remove(request["Key"])


def ordered(table: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    table = table.astype(np.float32)
    return table[np.lexsort(table.T)]


def divided(file: DroppedFile, count: int) -> list[Shard]:
    """Shards of three pieces each, dealt out in turn."""
    assert file.unit is Unit.LINES
    bounds = np.linspace(file.start, file.end, 3 * count + 1).astype(int).tolist()
    pieces = [Piece(file=0, start=start, end=end) for start, end in pairwise(bounds)]
    return [Shard(number=n, pieces=pieces[n::count]) for n in range(count)]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    found = Run()
    monkeypatch.setattr(aws, "s3", lambda: found)
    monkeypatch.setattr(storage, "setting", {"artifact_bucket": "artifacts"}.__getitem__)
    return found


def table(rows: int, columns: int = 5) -> np.ndarray[Any, Any]:
    random = np.random.default_rng(rows)
    made = random.normal(size=(rows, columns + 1)).round(3)
    made[:, 2] = 4
    made[:, -1] = np.arange(rows) % 3
    return made


def csv(made: np.ndarray[Any, Any]) -> bytes:
    names = [f"c{index}" for index in range(made.shape[1] - 1)]
    return "\n".join([",".join([*names, "label"]), *(",".join(map(str, row)) for row in made.tolist()), ""]).encode()


def test_every_row_of_every_shard_is_written_once(run: Run) -> None:
    made = table(600)
    run.plan(csv(made), shards=4)
    reports = [run.convert(number) for number in range(4)]
    assert np.array_equal(run.rows(), ordered(made))
    assert sum(report.rows for report in reports) == 600
    for report in reports:
        assert set(report.files) == {Part.TRAIN, Part.VALIDATION, Part.TEST}
        for files in report.files.values():
            for file in files:
                assert len(run.objects[file.key]) == file.size
                assert len(recordio.read(run.objects[file.key])[0]) == file.rows
        assert [(piece.start, piece.end) for piece in report.pieces] == [
            (piece.start, piece.end)
            for piece in Shards.model_validate_json(run.objects[shards_key(RUN)]).root[report.shard].pieces
        ]
        assert sum(piece.lines for piece in report.pieces) == report.rows
    labels = sum((report.label_counts[part].get("1.0", 0) for report in reports for part in report.label_counts), 0)
    assert labels == 200


def test_a_retry_writes_the_same(run: Run) -> None:
    run.plan(csv(table(300)), shards=2)
    run.convert(1)
    first = dict(run.objects)
    run.convert(1)
    assert run.objects == first


@pytest.mark.parametrize("instances", [1, 3, 7])
def test_instances_get_training_files_of_as_many_rows(run: Run, instances: int) -> None:
    made = table(400)
    run.plan(csv(made), shards=2, training={"instance_count": instances, "max_runtime": "60s"})
    reports = [run.convert(number) for number in range(2)]
    files = [file for report in reports for file in report.files[Part.TRAIN]]
    assert len(files) >= instances
    assert len({file.key for file in files}) == len(files)
    for report in reports:
        counts = [file.rows for file in report.files[Part.TRAIN]]
        assert len(counts) == -(-instances // 2)
        assert max(counts) - min(counts) <= 1
        assert len(report.files[Part.TEST]) == 1
    assert np.array_equal(run.rows(), ordered(made))


def test_rows_are_dealt_on_where_the_block_before_ended(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """However few rows a block holds, every file gets some."""
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 1)
    monkeypatch.setattr("dropmill.data.delimited.ROWS_BYTES", 1)
    made = table(60)
    run.plan(csv(made), training={"instance_count": 8, "max_runtime": "60s"})
    report = run.convert()
    counts = [file.rows for file in report.files[Part.TRAIN]]
    assert len(counts) == 8
    assert max(counts) - min(counts) <= 1
    assert np.array_equal(run.rows(), ordered(made))


def test_fewer_training_rows_than_files(run: Run) -> None:
    run.plan(csv(table(12)), training={"instance_count": 50, "max_runtime": "60s"})
    report = run.convert()
    assert {file.rows for file in report.files[Part.TRAIN]} == {1}
    assert len(run.rows("train")) == len(report.files[Part.TRAIN]) <= 12


def test_problems_are_reported_and_nothing_is_written(run: Run) -> None:
    data = csv(table(200)).replace(b"\n", b"\n1,2,x,4,5,0\n", 3)
    run.plan(data, data={"label": "label", "classes": ["0", "1", "2"]})
    report = run.convert()
    assert run.written() == []
    assert report.files == {}
    assert [problem.problem.row for problem in report.problems] == [1, 3, 5]
    assert report.rows == 203


def test_a_shard_with_too_many_problems_still_counts_its_lines(run: Run) -> None:
    data = csv(table(400)) + b"1,2,x,4,5,0\n" * 30 + csv(table(70)).split(b"\n", 1)[1]
    run.plan(data, data={"label": "label", "classes": ["0", "1", "2"]})
    report = run.convert()
    assert len(report.problems) == 10
    assert sum(piece.lines for piece in report.pieces) == 500
    assert run.written() == []


def test_large_outputs_are_sent_in_parts(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage.open_part.__wrapped__, "__kwdefaults__", {"part_bytes": 4096})  # type: ignore[attr-defined]  # contextmanager's
    made = table(900)
    run.plan(csv(made))
    run.convert()
    assert np.array_equal(run.rows(), ordered(made))


def test_what_an_error_leaves_is_aborted(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage.open_part.__wrapped__, "__kwdefaults__", {"part_bytes": 4096})  # type: ignore[attr-defined]  # contextmanager's
    run.plan(csv(table(900)))
    run.fails_at = 3
    with pytest.raises(ConnectionError):
        run.convert()
    assert (run.written(), run.open) == ([], set())
    run.fails_at = None
    assert run.convert().rows == 900


def test_what_the_features_are_like_is_summed_up(run: Run) -> None:
    made = table(300)
    run.plan(csv(made))
    report = run.convert()
    assert report.constant_columns == {2: 4.0}
    features = made[:, :-1].astype(np.float32)
    assert report.value_range == (float(features.min()), float(features.max()))
    assert report.few_hashes is None


def test_few_different_rows_are_counted(run: Run) -> None:
    run.plan(csv(np.repeat(table(3), 20, axis=0)))
    report = run.convert()
    assert len(report.few_hashes or ()) == 3


def test_missing_values_are_counted_where_they_are_filled_in(run: Run) -> None:
    data = csv(table(90)).replace(b",4.0,", b",,", 5)
    run.plan(data, data={"missing": "0"})
    assert run.convert().filled == 5


def test_labels_of_clusters_are_counted_unless_they_are_quantities(run: Run) -> None:
    run.plan(csv(table(90)), recipe="kmeans")
    assert sum(run.convert().label_counts[Part.TRAIN].values()) > 50
    made = table(1500)
    made[:, -1] = np.arange(1500) / 7
    run.plan(csv(made), recipe="kmeans")
    assert run.convert().label_counts == {}


def test_the_layout_is_that_of_the_file(run: Run) -> None:
    assert run.plan(csv(table(9))).layout.format is FileFormat.CSV
