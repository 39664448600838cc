"""What Seal Dataset proves of the shards' reports, says of their problems, and warns of."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import BaseModel

from dropmill import storage
from dropmill.contracts import (
    DroppedFile,
    FileFormat,
    FoundProblem,
    Layout,
    ObjectVersion,
    Part,
    PartFile,
    Piece,
    PieceReport,
    Plan,
    Problem,
    RunReference,
    SealedDataset,
    Shard,
    ShardReport,
    Shards,
    Task,
    Unit,
)
from dropmill.errors import ConversionIncomplete, InvalidDrop, InvalidRecipe
from dropmill.naming import dataset_key, part_file_key, plan_key, shard_report_key, shards_key
from dropmill.recipe import Recipe
from dropmill.steps.seal_dataset import seal_dataset
from dropmill.words import IN_FULL, Cell

RUN = "linear-learner-0123456789ab"


def lines(name: str = "a.csv", start: int = 8, end: int = 100, **known: Any) -> DroppedFile:
    """A file of lines with a header of one line."""
    source = ObjectVersion(bucket="drops", key=f"drops/linear-learner/d/{name}", size=end)
    return DroppedFile(source=source, name=name, unit=Unit.LINES, start=start, end=end, first_line=2, **known)


def piece(start: int, end: int, file: int = 0, **seen: Any) -> PieceReport:
    """A piece that was read within its own bounds: ten rows of a line each."""
    return PieceReport(file=file, start=start, end=end, **{"begin": start, "stop": end, "rows": 10, "lines": 10} | seen)


class Run:
    """A run's documents, of which each test spoils some, and what lies in the bucket."""

    def __init__(self) -> None:
        self.documents: dict[str, str] = {}
        self.objects: dict[str, int] = {}
        self.files: list[DroppedFile] = [lines()]
        self.recipe: dict[str, Any] = {}
        self.layout: dict[str, Any] = {"label_values": [0.0, 1.0]}
        self.task = Task.BINARY
        self.hyperparameters: dict[str, str] = {}
        self.reports: list[ShardReport] = []
        self.shards: list[Shard] = []

    def shard(self, *pieces: PieceReport, train: int | None = None, test: int = 2, **said: Any) -> ShardReport:
        """Add a shard of these pieces whose report is in order but for what is `said`."""
        number = len(self.shards)
        read = [Piece(file=one.file, start=one.start, end=one.end) for one in pieces]
        self.shards.append(Shard(number=number, pieces=read or [Piece(file=0, start=0, end=0)]))
        rows = sum(one.rows for one in pieces)
        files = {Part.TRAIN: rows - test if train is None else train, Part.TEST: test}
        report = {
            "shard": number,
            "rows": rows,
            "pieces": list(pieces),
            "files": {
                part: [PartFile(key=part_file_key(RUN, part, number), rows=count, size=64 * count)]
                for part, count in files.items()
                if count
            },
            "label_counts": {Part.TRAIN: {"0.0": 3, "1.0": 4}, Part.TEST: {"1.0": 2}},
            "value_range": (0.0, 16.0),
            "constant_columns": {},
        }
        self.reports.append(ShardReport.model_validate({**report, **said}))
        return self.reports[-1]

    def seal(self) -> SealedDataset:
        plan = Plan(
            run_id=RUN,
            recipe_name="linear-learner",
            recipe=Recipe.model_validate({"algorithm": "linear-learner", **self.recipe}),
            drop=ObjectVersion(bucket="drops", key="drops/linear-learner/d/_SUCCESS", size=0),
            files=self.files,
            layout=Layout.model_validate(
                {
                    "format": FileFormat.CSV,
                    "columns": ["a", "b", "c", "label"],
                    "label_column": 3,
                    "feature_columns": [0, 1, 2],
                    **self.layout,
                }
            ),
            task=self.task,
            hyperparameters=self.hyperparameters,
            created_at=datetime.now(UTC),
        )
        self._put(plan_key(RUN), plan)
        self._put(shards_key(RUN), Shards(self.shards))
        for report in self.reports:
            self._put(shard_report_key(RUN, report.shard), report)
            for file in (file for files in report.files.values() for file in files):
                self.objects.setdefault(file.key, file.size)
        summary = seal_dataset(RunReference(run_id=RUN))
        dataset = SealedDataset.model_validate_json(self.documents[dataset_key(RUN)])
        assert (summary.rows, summary.feature_dim) == (dataset.rows, dataset.feature_dim)
        return dataset

    def refused(self) -> str:
        with pytest.raises((InvalidDrop, InvalidRecipe)) as caught:
            self.seal()
        assert dataset_key(RUN) not in self.documents
        return caught.value.words.in_full()

    def unproved(self) -> str:
        with pytest.raises(ConversionIncomplete) as caught:
            self.seal()
        assert dataset_key(RUN) not in self.documents
        return caught.value.words.in_full()

    def _put(self, key: str, document: BaseModel) -> None:
        self.documents.setdefault(key, document.model_dump_json(context=IN_FULL))

    def read(self, _bucket: str, key: str, **_: Any) -> bytes:
        if key not in self.documents:
            raise storage.MissingDocument(key)
        return self.documents[key].encode()

    def written(self, key: str, document: BaseModel) -> None:
        self.documents[key] = document.model_dump_json(context=IN_FULL)

    def listed(self, prefix: str) -> dict[str, int]:
        return {key: size for key, size in self.objects.items() if key.startswith(prefix)}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    found = Run()
    monkeypatch.setattr(storage, "setting", {"artifact_bucket": "artifacts"}.__getitem__)
    monkeypatch.setattr(storage, "read_object", found.read)
    monkeypatch.setattr(storage, "write_document", found.written)
    monkeypatch.setattr(storage, "list_objects", found.listed)
    return found


class TestWhatIsWhole:
    def test_is_sealed(self, run: Run) -> None:
        run.shard(piece(8, 30, stop=33), piece(50, 70, begin=52))
        run.shard(piece(30, 50, begin=33, stop=52), piece(70, 100))
        sealed = run.seal()
        assert sealed.rows == 40
        assert {part: held.rows for part, held in sealed.parts.items()} == {"train": 36, "validation": 0, "test": 4}
        assert [file.key for file in sealed.parts[Part.TRAIN].files] == [part_file_key(RUN, "train", n) for n in (0, 1)]
        assert sealed.parts[Part.TRAIN].label_counts == {"0.0": 6, "1.0": 8}
        assert sealed.warnings == []
        assert sealed.hyperparameters["mini_batch_size"] == "3"

    def test_several_files_of_any_unit(self, run: Run) -> None:
        whole = lines("b.npz").model_copy(update={"unit": Unit.WHOLE, "start": 0, "end": 1, "rows": 10})
        rows = lines("c.npy").model_copy(update={"unit": Unit.ROWS, "start": 0, "end": 20, "rows": 20})
        run.files = [lines(), whole, rows]
        run.shard(piece(8, 100), piece(0, 10, file=2))
        run.shard(piece(0, 1, file=1), piece(10, 20, file=2))
        assert run.seal().rows == 40

    def test_pieces_in_which_no_line_begins(self, run: Run) -> None:
        """A line that is longer than a piece belongs to the piece that it begins in."""
        run.shard(
            piece(8, 20, stop=70),
            piece(20, 40, begin=70, stop=70, rows=0, lines=0),
            piece(40, 60, begin=70, stop=70, rows=0, lines=0),
            piece(60, 100, begin=70),
        )
        assert run.seal().rows == 20

    def test_a_file_without_rows(self, run: Run) -> None:
        run.files = [lines(), lines("empty.csv", 8, 8)]
        run.shard(piece(8, 100))
        assert run.seal().rows == 10


class TestWhatIsNot:
    def test_a_shard_without_a_report(self, run: Run) -> None:
        run.shard(piece(8, 50))
        run.shard(piece(50, 100))
        run.reports.pop()
        assert run.unproved() == "shard 1 left no report; rerun the run"

    def test_the_report_of_another_shard(self, run: Run) -> None:
        run.shard(piece(8, 50))
        run.shard(piece(50, 100))
        run.documents[shard_report_key(RUN, 1)] = run.reports[0].model_dump_json()
        assert run.unproved() == "the report of shard 1 is that of shard 0"

    def test_a_piece_that_was_not_read(self, run: Run) -> None:
        report = run.shard(piece(8, 50), piece(50, 100))
        run.reports[0] = report.model_copy(update={"pieces": report.pieces[:1]})
        assert run.unproved() == "shard 0 did not read the pieces that it was given"

    def test_pieces_that_leave_a_gap(self, run: Run) -> None:
        run.shard(piece(8, 50, stop=52), piece(50, 100, begin=60))
        assert run.unproved() == "a.csv: lines 52 to 60 were read by no shard"

    def test_pieces_that_overlap(self, run: Run) -> None:
        run.shard(piece(8, 50, stop=58), piece(50, 100, begin=52))
        assert run.unproved() == "a.csv: lines 52 to 58 were read twice"

    def test_the_same_piece_in_two_shards(self, run: Run) -> None:
        run.shard(piece(8, 50))
        run.shard(piece(8, 50))
        run.shard(piece(50, 100))
        assert run.unproved() == "a.csv: lines 8 to 50 were read twice"

    @pytest.mark.parametrize(("first", "last"), [(9, 100), (8, 99)])
    def test_an_end_that_is_missing(self, run: Run, first: int, last: int) -> None:
        run.shard(piece(8, 100, begin=first, stop=last))
        assert run.unproved().startswith("a.csv: ")

    def test_a_file_that_nobody_read(self, run: Run) -> None:
        run.files = [lines(), lines("b.csv")]
        run.shard(piece(8, 100))
        assert run.unproved() == "b.csv: reading stopped at 8 of 100 (lines)"

    def test_rows_that_the_file_says_it_has(self, run: Run) -> None:
        run.files = [lines(rows=11)]
        run.shard(piece(8, 100))
        assert run.unproved() == "a.csv: 10 rows were read of the 11 that it holds"

    @pytest.mark.parametrize("train", [7, 9])
    def test_rows_that_were_read_and_not_written(self, run: Run, train: int) -> None:
        run.shard(piece(8, 100), train=train)
        assert run.unproved() == f"shard 0 read 10 rows and wrote {train + 2}"

    def test_a_part_file_that_is_not_there(self, run: Run) -> None:
        report = run.shard(piece(8, 100))
        run.objects[report.files[Part.TEST][0].key] = 1
        key = part_file_key(RUN, "test", 0)
        assert run.unproved() == f"s3://artifacts/{key} is there, and no shard wrote it so; rerun the run"

    def test_a_file_among_the_training_files_that_no_shard_wrote(self, run: Run) -> None:
        """Jobs take whatever lies under the prefix."""
        run.shard(piece(8, 100))
        run.objects[part_file_key(RUN, "train", 7)] = 64
        assert "part-00007.pbr is there, and no shard wrote it" in run.unproved()

    def test_a_file_that_was_deleted(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        run.shard(piece(8, 100))
        monkeypatch.setattr(storage, "list_objects", lambda _prefix: {})
        assert "part-00000.pbr is missing; rerun" in run.unproved()


def problem(row: int | None, file: str = "a.csv", piece: int = 0, rule: str = "is no number") -> FoundProblem:
    found = Problem(file=file, row=row, column="b", value=Cell("x"), rule=rule)
    return FoundProblem(piece=piece, problem=found)


class TestProblems:
    def test_are_numbered_by_the_lines_of_all_earlier_pieces(self, run: Run) -> None:
        run.shard(piece(8, 30), piece(50, 70, lines=7), problems=[problem(3, piece=1)])
        run.shard(piece(30, 50, lines=5), piece(70, 100), problems=[problem(1), problem(2, piece=1)])
        said = run.refused().splitlines()
        assert said[0] == "d can't be used:"
        # The header is line 1 of the file, the first piece begins with line 2.
        assert [line.split(",")[1] for line in said[1:]] == [
            f" row {row}" for row in (1 + 10 + 1, 1 + 10 + 5 + 3, 1 + 10 + 5 + 7 + 2)
        ]

    def test_of_rows_that_are_numbered_already(self, run: Run) -> None:
        run.files = [lines("c.npy").model_copy(update={"unit": Unit.ROWS, "start": 0, "end": 20})]
        run.shard(piece(0, 10))
        run.shard(piece(10, 20), problems=[problem(13, "c.npy")])
        assert "c.npy, row 13, column 'b': 'x' is no number" in run.refused()

    def test_are_sorted_by_file_and_row_and_told_up_to_ten(self, run: Run) -> None:
        run.files = [lines("a.csv"), lines("b.csv")]
        run.shard(piece(8, 100, file=1), problems=[problem(row, "b.csv") for row in range(1, 9)])
        run.shard(piece(8, 100), problems=[problem(row) for row in (9, None, 4)])
        said = run.refused().splitlines()
        assert [line.split(":")[0] for line in said[1:5]] == [
            "- a.csv, column 'b'",
            "- a.csv, row 5, column 'b'",
            "- a.csv, row 10, column 'b'",
            "- b.csv, row 2, column 'b'",
        ]
        assert len(said) == 12
        assert said[-1] == "- checking stopped after 10 problems; there may be more"

    def test_ten_of_one_kind_hide_no_other(self, run: Run) -> None:
        run.shard(piece(8, 50), problems=[problem(row) for row in range(10)])
        run.shard(piece(50, 100), problems=[problem(30), problem(40, rule="is odd"), problem(50, rule="is even")])
        said = run.refused()
        assert said.count("is no number") == 8
        assert said.splitlines()[-3].endswith("'x' is odd")
        assert said.splitlines()[-2].endswith("'x' is even")

    def test_come_before_the_proof(self, run: Run) -> None:
        """A shard with problems writes nothing, and stops reading at some of them."""
        run.shard(piece(8, 50, rows=4), problems=[problem(1)], files={})
        run.shard(piece(50, 100, stop=50, rows=2), problems=[problem(1)], files={})
        assert "a.csv, row 2" in run.refused()


class TestTooFewRows:
    def test_without_a_test_part(self, run: Run) -> None:
        run.shard(piece(8, 100), test=0)
        assert run.refused() == "d: no rows for the test part; drop more rows, or change data.split"

    def test_that_are_all_equal(self, run: Run) -> None:
        run.shard(piece(8, 50), test=0, few_hashes=[7])
        run.shard(piece(50, 100), test=0, few_hashes=[7])
        assert "no rows for the test part: all 20 rows are equal, and equal rows" in run.refused()

    def test_that_are_few_different_ones(self, run: Run) -> None:
        run.shard(piece(8, 50), test=0, few_hashes=[7, 8])
        run.shard(piece(50, 100), test=0, few_hashes=[8, 9])
        assert "the 20 rows hold only 3 different ones" in run.refused()

    def test_to_tune_by(self, run: Run) -> None:
        tuning = {"objective": "validation:binary_f_beta", "ranges": {"epochs": {"integer": ["1", "3"]}}}
        run.recipe = {"tuning": tuning}
        run.shard(piece(8, 100))
        assert "no rows for the validation part" in run.refused()

    def test_of_more_than_one_class(self, run: Run) -> None:
        run.shard(piece(8, 100), label_counts={Part.TRAIN: {"1.0": 8}, Part.TEST: {"0.0": 2}})
        assert "all training rows have the same label" in run.refused()

    def test_for_all_instances(self, run: Run) -> None:
        run.recipe = {"training": {"instance_count": 3}}
        run.shard(piece(8, 50))
        run.shard(piece(50, 100))
        assert run.refused() == (
            "d: 16 training rows can't be shared out among 3 instances; drop more rows, or lower"
            " training.instance_count"
        )

    def test_for_a_hyperparameter(self, run: Run) -> None:
        run.hyperparameters = {"mini_batch_size": "9"}
        run.shard(piece(8, 100))
        assert run.refused() == (
            "recipe 'linear-learner': hyperparameters.mini_batch_size is 9, but there are 8 training rows; lower it"
        )


@pytest.mark.parametrize(("instances", "fits"), [(1, False), (2, True)])
def test_rows_that_do_not_fit_an_instances_volume(run: Run, instances: int, fits: bool) -> None:
    run.recipe = {"training": {"instance_count": instances, "volume_gb": 1}}
    for number, (start, end) in enumerate([(8, 50), (50, 100)]):
        part = PartFile(key=part_file_key(RUN, Part.TRAIN, number), rows=10, size=700 << 20)
        test = PartFile(key=part_file_key(RUN, Part.TEST, number), rows=1, size=700 << 20)
        run.shard(piece(start, end, rows=11), files={Part.TRAIN: [part], Part.TEST: [test]})
    if fits:
        assert run.seal().shards == 2
    else:
        assert run.refused() == (
            "recipe 'linear-learner': training.volume_gb is 1, but an instance has to hold 1.4 GB of rows: raise it, or"
            " let more instances share them (training.instance_count)"
        )


def warned(run: Run, reports: Sequence[dict[str, Any]]) -> list[str]:
    step = 92 // len(reports)
    for number, said in enumerate(reports):
        end = 100 if number == len(reports) - 1 else 8 + step * (number + 1)
        run.shard(piece(8 + step * number, end), **said)
    return run.seal().warnings


class TestWarnings:
    def test_of_a_column_that_is_constant_in_all_shards(self, run: Run) -> None:
        said = warned(run, [{"constant_columns": {0: 1.0, 2: 5.0}}, {"constant_columns": {0: 1.0, 1: 4.0, 2: 6.0}}])
        assert said == ["1 column holds the same value in every row, which teaches nothing: 'a'"]

    def test_of_no_column_where_a_shard_can_not_tell(self, run: Run) -> None:
        assert warned(run, [{"constant_columns": {0: 1.0}}, {"constant_columns": None}]) == []

    def test_of_more_columns_than_are_named(self, run: Run) -> None:
        run.layout |= {"columns": [], "feature_columns": [], "label_column": None, "sparse_columns": 9}
        said = warned(run, [{"constant_columns": dict.fromkeys(range(8), 0.0)}])
        assert said == [
            "8 columns hold the same value in every row, which teaches nothing: '0', '1', '2', '3', '4' and 3 more"
        ]

    @pytest.mark.parametrize(
        ("missing", "counts", "said"),
        [
            ("mean", (2, 1234), "1,236 missing values were filled in with the mean of their column"),
            ("0", (1, 0), "1 missing value was filled in with 0"),
        ],
    )
    def test_of_values_that_were_filled_in(self, run: Run, missing: str, counts: tuple[int, int], said: str) -> None:
        run.recipe = {"data": {"missing": missing}}
        assert warned(run, [{"filled": count} for count in counts]) == [said]

    def test_of_values_whose_squares_are_too_large(self, run: Run) -> None:
        (said,) = warned(run, [{"value_range": (-2e20, 3.0)}, {"value_range": (0.0, 1e19)}])
        assert said.startswith("there are values as large as 2e+20, whose squares are beyond float32")
