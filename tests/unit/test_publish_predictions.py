"""A batch from its files to its manifest, against S3 and the ledger as they are here, with a model of one line."""

import csv
import gzip
import io
import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dropmill import aws, ledger, storage
from dropmill.contracts import (
    BatchPlan,
    Champion,
    DroppedFile,
    FileFormat,
    Layout,
    ObjectVersion,
    Piece,
    Plan,
    PredictionsManifest,
    RunKind,
    RunReference,
    SealedBatch,
    SetAside,
    Shard,
    ShardInput,
    Shards,
    Task,
)
from dropmill.data import recordio, scoring, shards
from dropmill.data.formats import DropFile
from dropmill.data.rows import OpenFile
from dropmill.errors import ConversionIncomplete, InvalidDrop, PredictionFailed, RunClosed
from dropmill.ledger import Run
from dropmill.naming import (
    batch_plan_key,
    plan_key,
    predictions_prefix,
    rows_manifest_key,
    rows_prefix,
    sealed_batch_key,
    shards_key,
    transform_prefix,
)
from dropmill.recipe import Recipe
from dropmill.steps.convert_rows import convert_rows
from dropmill.steps.publish_predictions import publish_predictions
from dropmill.steps.seal_batch import seal_batch

RECIPE = "points"
TRAINED = "points-0123456789ab"
BATCH = "points-score-20260102t0300"

Model = Callable[[Any], list[dict[str, Any]]]


class Batch:
    """A batch of files, which the test carries through the steps."""

    def __init__(self) -> None:
        self.recipe: dict[str, Any] = {"algorithm": "linear-learner"}
        self.layout: dict[str, Any] = {
            "columns": ["a", "b", "label"],
            "label_column": 2,
            "feature_columns": [0, 1],
            "label_values": [0.0, 1.0],
        }
        self.task = Task.BINARY
        self.names: list[str] = []
        self.set_aside: list[SetAside] = []
        self.looked: list[scoring.LookedLike] = []

    def plan(self) -> Plan:
        source = ObjectVersion(bucket="drops", key="drops/points/train.csv", size=100)
        return Plan(
            run_id=TRAINED,
            recipe_name=RECIPE,
            recipe=Recipe.model_validate(self.recipe),
            recipe_version="recipe-7",
            drop=source,
            files=[DroppedFile(source=source, name="train.csv")],
            layout=Layout.model_validate({"format": FileFormat.CSV, **self.layout}),
            task=self.task,
            hyperparameters={},
            created_at=datetime.now(UTC),
        )

    def drop(self, name: str, body: bytes) -> None:
        """Put a file under scoring/, and look at it as Claim Files does."""
        key = f"scoring/{RECIPE}/{name}"
        version = aws.s3().put_object(Bucket="drops", Key=key, Body=body)["VersionId"]
        source = ObjectVersion(bucket="drops", key=key, version_id=version, size=len(body))
        file = OpenFile(name, len(body), partial(storage.opened, source, name=name))
        plan = self.plan()
        try:
            self.looked.append(scoring.look_like(DropFile(file, source), plan.layout, plan.recipe.data))
        except InvalidDrop as error:
            self.set_aside.append(SetAside.of(source, name, [error.words]))

    def seal(self) -> SealedBatch:
        """Plan, convert and seal."""
        plan = self.plan()
        files, readings = scoring.gathered(self.looked)
        champion = Champion(
            recipe=RECIPE,
            version=3,
            package="arn:aws:sagemaker:us-east-1:123456789012:model-package/dropmill-points/4",
            run_id=TRAINED,
            algorithm=plan.recipe.algorithm,
            task=self.task,
            feature_dim=plan.layout.feature_dim,
            artifact="s3://artifacts/models/points/model.tar.gz",
            moved_at=datetime.now(UTC),
        )
        batch = BatchPlan(
            run_id=BATCH,
            recipe_name=RECIPE,
            recipe=plan.recipe,
            recipe_version=plan.recipe_version,
            champion=champion,
            files=files,
            readings=readings,
            set_aside=self.set_aside,
            created_at=datetime.now(UTC),
        )
        planned = shards.plan_in_order([one.file for one in files])
        storage.write_document(plan_key(TRAINED), plan)
        storage.write_document(batch_plan_key(BATCH), batch)
        storage.write_document(shards_key(BATCH), Shards(planned))
        ledger.open_run(
            Run(
                run_id=BATCH,
                kind=RunKind.SCORING,
                recipe=RECIPE,
                drop=None,
                execution_arn="arn:aws:states:us-east-1:123456789012:execution:score:1",
                started_at=1,
            )
        )
        for shard in planned:
            convert_rows(ShardInput(run_id=BATCH, shard=shard.number))
        seal_batch(RunReference(run_id=BATCH))
        return storage.read_document(SealedBatch, sealed_batch_key(BATCH))

    def transform(self, model: Model) -> None:
        """Answer what the transform's manifest lists."""
        head, *names = json.loads(read(rows_manifest_key(BATCH)))
        assert head == {"prefix": f"s3://artifacts/{rows_prefix(BATCH)}"}
        for name in names:
            features, labels = recordio.read_any(read(rows_prefix(BATCH) + name))
            assert labels is None
            answers = "".join(json.dumps(answer) + "\n" for answer in model(features))
            storage.write_object(f"{transform_prefix(BATCH)}{name}.out", answers.encode())

    def score(self, model: Model) -> PredictionsManifest:
        if self.seal().files:
            self.transform(model)
        return self.publish()

    def publish(self) -> PredictionsManifest:
        published = publish_predictions(RunReference(run_id=BATCH))
        assert published.manifest == f"s3://artifacts/{predictions_prefix(RECIPE, BATCH)}manifest.json"
        return PredictionsManifest.model_validate_json(read(published.manifest.removeprefix("s3://artifacts/")))


def read(key: str) -> bytes:
    return storage.read_object("artifacts", key)


def there(prefix: str) -> list[str]:
    return sorted(storage.list_objects(prefix))


def tables(manifest: PredictionsManifest, name: str) -> list[list[str]]:
    """The rows of a file's predictions, each of whose objects begins with the names of the columns."""
    (file,) = (one for one in manifest.files if one.name == name)
    rows = []
    for one in file.predictions:
        head, *body = csv.reader(io.StringIO(read(one.key).decode(), newline=""))
        assert head == manifest.columns
        assert len(body) == one.rows
        rows += body
    assert len(rows) == file.rows
    return rows


def sums(features: Any) -> list[dict[str, Any]]:
    """Linear Learner's answers: the score is the first feature, and the class whether it exceeds the second."""
    return [{"score": float(row[0]), "predicted_label": float(row[0] > row[1])} for row in features]


@pytest.fixture
def batch(ledger_table: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Batch]:  # the ledger is there
    monkeypatch.setenv("ARTIFACT_BUCKET", "artifacts")
    monkeypatch.setenv("DROP_BUCKET", "drops")
    s3 = aws.s3()
    for bucket in ("drops", "artifacts"):
        s3.create_bucket(Bucket=bucket)
    s3.put_bucket_versioning(Bucket="drops", VersioningConfiguration={"Status": "Enabled"})
    yield Batch()


class TestFilesOfABatch:
    def test_rows_are_joined_to_ids_and_kept_columns_in_their_order(self, batch: Batch) -> None:
        batch.recipe["data"] = {"id": "row_id", "keep": ["customer", "note"], "classes": ["no", "yes"]}
        batch.layout["classes"] = ["no", "yes"]
        batch.drop(
            "day/1.csv",
            b'note,b,row_id,a,customer,extra\n"say ""hi"", or\tso",1,007,2,=SUM(A1),x\n,5,A 8,0.25, b ,y\n',
        )
        manifest = batch.score(sums)
        assert manifest.columns == ["row_id", "customer", "note", "prediction", "score"]
        assert tables(manifest, "day/1.csv") == [
            ["007", "=SUM(A1)", 'say "hi", or\tso', "yes", "2"],
            ["A 8", " b ", "", "no", "0.25"],
        ]

    def test_without_an_id_rows_are_numbered_within_their_file(self, batch: Batch) -> None:
        batch.drop("1.csv", b"a,b\n3,1\n\n0,1\n")
        batch.drop("2.csv", b"b,label,a\n1,9,5\n")
        manifest = batch.score(sums)
        assert tables(manifest, "1.csv") == [["0", "1", "3"], ["1", "0", "0"]]
        assert tables(manifest, "2.csv") == [["0", "1", "5"]]
        assert [file.rows for file in manifest.files] == [2, 1]

    def test_the_manifest_says_what_was_scored_by_what(self, batch: Batch) -> None:
        batch.drop("1.csv", b"a,b\n3,1\n")
        manifest = batch.score(sums)
        (file,) = manifest.files
        assert file.source == batch.looked[0].file.source
        assert file.source.version_id
        assert (manifest.batch, manifest.recipe, manifest.recipe_version) == (BATCH, RECIPE, "recipe-7")
        assert manifest.model_package.endswith("model-package/dropmill-points/4")
        assert (manifest.training_run, manifest.algorithm, manifest.task) == (TRAINED, "linear-learner", Task.BINARY)
        assert [one.key for one in file.predictions] == [f"{predictions_prefix(RECIPE, BATCH)}1.csv-00000.csv"]
        assert manifest.rows == 1

    def test_bad_files_are_set_aside_and_stop_no_other(self, batch: Batch) -> None:
        batch.drop("bad.csv", b"a,b\n" + b"1,2\n" * 5 + b"x,2\n1,\n" + b"3,4\n")
        batch.drop("good.csv", b"a,b\n3,1\n")
        batch.drop("lacks.csv", b"a,c\n3,1\n")
        batch.drop("junk.gz", gzip.compress(b"a,b\n" + b"1,2\n" * 100_000)[:-100])
        batch.drop("empty.csv", b"")
        manifest = batch.score(sums)
        assert [file.name for file in manifest.files] == ["good.csv"]
        reasons = {one.name: [reason.in_full() for reason in one.reasons] for one in manifest.set_aside}
        assert list(reasons) == ["lacks.csv", "empty.csv", "bad.csv", "junk.gz"]
        assert reasons["lacks.csv"] == ["lacks.csv: lacks the column 'b', from which the model learned"]
        assert [reason.partition(":")[0] for reason in reasons["bad.csv"]] == [
            "bad.csv, row 7, column 'a'",
            "bad.csv, row 8, column 'b'",
        ]
        assert "cut off" in reasons["junk.gz"][0]
        assert "empty" in reasons["empty.csv"][0]

    def test_where_no_file_is_left_there_is_a_manifest_that_says_so(self, batch: Batch) -> None:
        batch.drop("bad.csv", b"a,b\nx,2\n")
        batch.drop("lacks.csv", b"a,c\n3,1\n")
        manifest = batch.score(sums)
        assert (manifest.rows, manifest.files, len(manifest.set_aside)) == (0, [], 2)
        assert there(rows_prefix(BATCH)) == []
        assert there(rows_manifest_key(BATCH)) == []

    def test_at_most_ten_reasons_are_told_and_lines_are_counted_across_shards(
        self, batch: Batch, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(shards, "SHARD_BYTES", 1 << 10)
        rows = [b"1,2"] * 1000
        for bad in (3, *range(700, 720)):
            rows[bad] = b"x,2"
        batch.drop("bad.csv", b"a,b\n" + b"\n".join(rows) + b"\n")
        sealed = batch.seal()
        (aside,) = sealed.set_aside
        said = [int(re.findall(r"row (\d+)", reason.in_full())[0]) for reason in aside.reasons]
        assert len(said) == 10
        assert said[:3] == [5, 702, 703]

    def test_a_file_that_is_gone_is_set_aside(self, batch: Batch) -> None:
        batch.drop("gone.csv", b"a,b\n3,1\n")
        batch.drop("good.csv", b"a,b\n3,1\n")
        source = batch.looked[0].file.source
        aws.s3().delete_object(Bucket="drops", Key=source.key, VersionId=source.version_id or "")
        manifest = batch.score(sums)
        assert [file.name for file in manifest.files] == ["good.csv"]
        assert "is gone" in manifest.set_aside[0].reasons[0].in_full()

    def test_several_shards_and_many_small_files(self, batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shards, "SHARD_BYTES", 4 << 10)
        monkeypatch.setattr(storage.open_part.__wrapped__, "__kwdefaults__", {"part_bytes": 1 << 20})  # type: ignore[attr-defined]  # contextmanager's
        batch.recipe["data"] = {"id": "name"}
        for number in range(12):
            rows = [f"{number}-{row},{row},{number}\n" for row in range(40 * number + 1)]
            batch.drop(f"{number:02}.csv", ("name,a,b\n" + "".join(rows)).encode())
        manifest = batch.score(sums)
        assert any(len(file.predictions) > 1 for file in manifest.files)
        assert len(there(shards_key(BATCH).replace("shards.json", "reports/"))) < 12
        for number in range(12):
            found = tables(manifest, f"{number:02}.csv")
            assert [row[0] for row in found] == [f"{number}-{row}" for row in range(40 * number + 1)]
            assert [float(row[2]) for row in found] == list(range(40 * number + 1))

    def test_numbers_go_on_from_one_shard_to_the_next(self, batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shards, "SHARD_BYTES", 4 << 10)
        batch.drop("1.csv", b"a,b\n" + b"".join(b"%d,1\n" % row for row in range(3000)))
        manifest = batch.score(sums)
        assert len(manifest.files[0].predictions) > 2
        assert [row[0] for row in tables(manifest, "1.csv")] == [str(row) for row in range(3000)]


class TestPredictions:
    def test_classes_that_are_numbers_stay_numbers(self, batch: Batch) -> None:
        batch.layout["label_values"] = [2.0, 5.0]
        batch.recipe["scoring"] = {"format": "parquet"}
        batch.drop("1.csv", b"a,b\n3,1\n0,1\n")
        manifest = batch.score(sums)
        table = pq.read_table(pa.BufferReader(read(manifest.files[0].predictions[0].key)))
        assert table.schema.types == [pa.int64(), pa.int64(), pa.float64()]
        assert table.to_pydict() == {"row": [0, 1], "prediction": [5, 2], "score": [3.0, 0.0]}

    def test_a_positive_label_and_all_others(self, batch: Batch) -> None:
        batch.recipe["data"] = {"positive": "7"}
        batch.layout["label_values"] = [1.0, 7.0, 9.0]
        batch.drop("1.csv", b"a,b\n3,1\n0,1\n")
        manifest = batch.score(sums)
        assert [row[1] for row in tables(manifest, "1.csv")] == ["7", "not 7"]

    def test_several_classes_have_a_score_each(self, batch: Batch) -> None:
        batch.task = Task.MULTICLASS
        batch.layout |= {"label_values": [0.0, 1.0, 2.0], "classes": ["cat", "dog", 'o"x']}
        batch.recipe["data"] = {"keep": ["b"]}
        batch.layout |= {"columns": ["a", "b", "c", "label"], "label_column": 3, "feature_columns": [0, 2]}
        batch.drop("1.csv", b"a,c,b\n3,1,x\n0,1,y\n")
        manifest = batch.score(
            lambda rows: [{"score": [0.1, 0.2, float(row[0])], "predicted_label": 2} for row in rows]
        )
        assert manifest.columns == ["row", "b", "prediction", "score_cat", "score_dog", 'score_o"x']
        assert tables(manifest, "1.csv") == [
            ["0", "x", 'o"x', "0.1", "0.2", "3"],
            ["1", "y", 'o"x', "0.1", "0.2", "0"],
        ]

    @pytest.mark.parametrize(
        ("algorithm", "task", "answer", "columns", "row"),
        [
            ("linear-learner", Task.REGRESSION, {"score": 0.5}, ["prediction"], ["0.5"]),
            ("knn", Task.REGRESSION, {"predicted_label": 1e-7}, ["prediction"], ["1e-7"]),
            ("knn", Task.BINARY, {"predicted_label": 1.0}, ["prediction"], ["1"]),
            (
                "kmeans",
                Task.CLUSTERING,
                {"closest_cluster": 4.0, "distance_to_cluster": 2.5},
                ["prediction", "distance"],
                ["4", "2.5"],
            ),
            (
                "factorization-machines",
                Task.BINARY,
                {"score": 0.25, "predicted_label": 0.0},
                ["prediction", "score"],
                ["0", "0.25"],
            ),
        ],
    )
    def test_what_other_algorithms_answer(
        self, batch: Batch, algorithm: str, task: Task, answer: dict[str, float], columns: list[str], row: list[str]
    ) -> None:
        batch.recipe = {"algorithm": algorithm}
        batch.task = task
        batch.drop("1.csv", b"a,b\n3,1\n")
        manifest = batch.score(lambda rows: [answer] * len(rows))
        assert manifest.columns == ["row", *columns]
        (found,) = tables(manifest, "1.csv")
        assert [float(cell) for cell in found] == [0.0, *map(float, row)]

    @pytest.mark.parametrize(
        ("answers", "said"),
        [
            ([{"score": 1, "predicted_label": 1}], "1 answers to 2 rows"),
            ([{"score": 1, "predicted_label": 1}] * 3, "more answers than the 2 rows"),
            ([{"score": 1, "predicted_label": 2}] * 2, "one of the classes 0 to 1"),
            ([{"score": 1, "predicted_label": 0.5}] * 2, "one of the classes 0 to 1"),
            ([{"score": 1}] * 2, "have no predicted_label"),
            ([{"score": 1, "predicted_label": 1}, {"predicted_label": 1}], "have no score"),
            ([{"score": [1], "predicted_label": 1}] * 2, "not JSON Lines"),
            ([{"score": "a", "predicted_label": 1}] * 2, "not JSON Lines"),
            ([], "0 answers to 2 rows"),
        ],
    )
    def test_answers_that_are_not_the_rows(self, batch: Batch, answers: list[dict[str, Any]], said: str) -> None:
        batch.drop("1.csv", b"a,b\n3,1\n0,1\n")
        batch.seal()
        batch.transform(lambda _: answers)
        with pytest.raises(PredictionFailed, match=said):
            batch.publish()
        assert there(predictions_prefix(RECIPE, BATCH)) == []

    def test_answers_that_are_missing(self, batch: Batch) -> None:
        batch.drop("1.csv", b"a,b\n3,1\n0,1\n")
        batch.seal()
        with pytest.raises(PredictionFailed, match="left no answers"):
            batch.publish()


class TestEndings:
    def test_published_again_it_is_the_same(self, batch: Batch) -> None:
        batch.drop("1.csv", b"a,b\n3,1\n0,1\n")
        first = batch.score(sums)
        again = batch.publish()
        assert again.model_copy(update={"created_at": first.created_at}) == first
        assert len(there(predictions_prefix(RECIPE, BATCH))) == 2

    def test_a_batch_that_has_ended_publishes_nothing(self, batch: Batch) -> None:
        batch.drop("1.csv", b"a,b\n3,1\n0,1\n")
        batch.seal()
        batch.transform(sums)
        ledger.close_run(BATCH)
        with pytest.raises(RunClosed):
            batch.publish()
        assert not any(key.endswith("manifest.json") for key in there(predictions_prefix(RECIPE, BATCH)))


class TestSealing:
    def spoil(self, batch: Batch, change: Callable[[dict[str, Any]], object]) -> None:
        batch.drop("1.csv", b"a,b\n" + b"3,1\n" * 500)
        batch.seal()
        key = "reports/00001.json"
        (found,) = (one for one in there(f"work/{BATCH}/") if one.endswith(key))
        report = json.loads(read(found))
        change(report)
        storage.write_object(found, json.dumps(report).encode())

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda report: report["pieces"][0].update(begin=report["pieces"][0]["begin"] + 4), "by no shard"),
            (lambda report: report["pieces"][0].update(begin=report["pieces"][0]["begin"] - 4), "were read twice"),
            (lambda report: report["pieces"][0].update(stop=report["pieces"][0]["stop"] - 4), "by no shard"),
            (lambda report: report["pieces"][0].update(size=8), "is not what shard 1 wrote"),
            (lambda report: report["pieces"][0].update(rows=0), "is not what shard 1 wrote"),
            (lambda report: report["pieces"].clear(), "did not read the pieces"),
            (lambda report: report.update(shard=2), "is that of shard 2"),
        ],
    )
    def test_what_was_lost_or_taken_twice(
        self, batch: Batch, monkeypatch: pytest.MonkeyPatch, change: Callable[[dict[str, Any]], object], said: str
    ) -> None:
        monkeypatch.setattr(shards, "SHARD_BYTES", 1 << 9)
        self.spoil(batch, change)
        with pytest.raises(ConversionIncomplete, match=said):
            seal_batch(RunReference(run_id=BATCH))

    def test_a_shard_that_left_no_report(self, batch: Batch) -> None:
        batch.drop("1.csv", b"a,b\n3,1\n")
        batch.seal()
        storage.write_document(shards_key(BATCH), Shards([Shard(number=7, pieces=[Piece(file=0, start=4, end=8)])]))
        with pytest.raises(ConversionIncomplete, match="left no report"):
            seal_batch(RunReference(run_id=BATCH))
