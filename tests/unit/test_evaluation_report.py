"""The page: it needs nothing else, shows what it should, and lets nothing in that came with a drop."""

import re
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from dropmill.contracts import (
    ChampionMetrics,
    CreatedModel,
    DroppedFile,
    FileFormat,
    Layout,
    ObjectVersion,
    Part,
    Plan,
    SealedDataset,
    SealedPart,
    Task,
    TrainedModel,
    TransformedRows,
)
from dropmill.evaluation.judging import Cluster, Gallery, Judged
from dropmill.evaluation.report import notes, render
from dropmill.recipe import Recipe

HOSTILE = "<script>alert('x')</script>\"&.csv"
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """The text, the addresses and the elements of a page; `unclosed` is empty for a page that is well nested."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text = ""
        self.addresses: list[str] = []
        self.elements: list[str] = []
        self.unclosed: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append(tag)
        self.addresses += [value for name, value in attrs if name.split(":")[-1] in {"src", "href", "action", "data"}]
        if tag not in VOID:
            self.unclosed.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.unclosed.pop()

    def handle_endtag(self, tag):
        assert self.unclosed, f"</{tag}> closes nothing"
        assert self.unclosed.pop() == tag

    def handle_data(self, data):
        self.text += data


def plan(
    task: Task, values: list[float] | None = None, *, name: str = "points.csv", positive: str | None = None
) -> Plan:
    return Plan(
        run_id="digits-0123456789ab",
        recipe_name="digits",
        recipe=Recipe.model_validate({"algorithm": "linear-learner", "data": {"positive": positive}}),
        drop=ObjectVersion(bucket="the-drops", key=f"drops/digits/{name}", version_id="v1", size=1234),
        files=[
            DroppedFile(
                source=ObjectVersion(bucket="the-drops", key=f"drops/digits/{name}", version_id="v1", size=1234),
                name="points.csv",
            )
        ],
        layout=Layout(
            format=FileFormat.CSV,
            columns=["0", "1"],
            feature_columns=[0, 1],
            label_values=values,
        ),
        task=task,
        hyperparameters={},
        created_at=datetime(2026, 1, 2, 3, 4, tzinfo=UTC),
    )


def dataset(label_counts: dict[str, int] | None = None, **hyperparameters: str) -> SealedDataset:
    counts = label_counts or {}
    return SealedDataset(
        feature_dim=2,
        rows=60,
        parts={
            Part.TRAIN: SealedPart(rows=40, size=400, files=[], label_counts=counts),
            Part.TEST: SealedPart(rows=20, size=200, files=[], label_counts=counts),
        },
        hyperparameters=hyperparameters,
    )


def classified(confusion: list[list[int]], names: list[str], **more) -> Judged:
    counts = np.array(confusion)
    return Judged(
        task=Task.BINARY if len(names) == 2 else Task.MULTICLASS,
        rows=int(counts.sum()),
        metrics={"accuracy": 0.9, "precision": 0.75, "recall": 0.961, "f1": 0.8},
        names=names,
        confusion=counts,
        **more,
    )


def clustered(*, labelled: bool) -> Judged:
    pixels = np.ones((2, 49), dtype=np.float32)
    return Judged(
        task=Task.CLUSTERING,
        rows=30,
        metrics={"msd": 39.25, "purity": 0.585, "nmi": 0.49} if labelled else {"msd": 39.25},
        names=["5", "6"] if labelled else [],
        table=np.array([[15, 5], [0, 10]]) if labelled else np.array([[20], [10]]),
        clusters=[
            Cluster(
                0,
                20,
                6.7,
                "5" if labelled else None,
                0.75 if labelled else None,
                pixels[0],
                Gallery("Cluster 0", pixels, ["5", "6"] if labelled else ["", ""]),
            ),
            Cluster(1, 10, 5.5, "6" if labelled else None, 1.0 if labelled else None),
        ],
    )


def test_the_headline_of_a_binary_classifier_says_what_is_found_in_words():
    page = Page(render(plan(Task.BINARY), dataset(), classified([[80, 2], [1, 17]], ["not 0", "0"])))
    assert "Finds 96.1% of the rows labelled '0', and is right for 75.0% of those it calls '0'" in page.text
    assert "It misses 1 of 18 such rows and calls 2 others '0' by mistake." in page.text
    assert "Always answering 'not 0' would be right for 82.0%." in page.text


def test_a_classifier_that_never_finds_anything_is_told_so():
    page = Page(render(plan(Task.BINARY), dataset(), classified([[80, 0], [20, 0]], ["not 0", "0"])))
    assert "Never answers '0'" in page.text
    assert "never answers '0'; precision is then counted as 0" in page.text
    assert "Of the rows that are '0', the share that were found." in page.text


def test_a_positive_class_without_held_out_rows_is_not_judged():
    judged = replace(classified([[7, 1], [0, 0]], ["no", "yes"]), metrics={"accuracy": 0.875})
    html = render(plan(Task.BINARY), dataset(), judged)
    text = Page(html).text
    assert "Can't be judged on 'yes': no held-out row has it" in text
    assert "It calls 1 of 8 held-out rows 'yes' by mistake." in text
    assert "Finds" not in text
    assert '<div class="tile"><b>0.8750</b>Accuracy</div>' in html
    assert re.search(r"yes\s*0\s*–\s*–\s*–", text)
    (note,) = [note for note in notes(plan(Task.BINARY), dataset(), judged, None) if "class" in note]
    assert note.startswith("No held-out row is of class 'yes', so the model can't be judged on it.")


@pytest.mark.parametrize(("seconds", "said"), [(1, "1 billable second."), (61, "61 billable seconds.")])
def test_billable_seconds_are_counted_in_words(seconds, said):
    training = TrainedModel(training_job="j", artifact="s3://a/m", billable_seconds=seconds)
    judged = classified([[9, 1], [1, 9]], ["a", "b"])
    assert said in Page(render(plan(Task.BINARY), dataset(), judged, training=training)).text


def test_a_multiclass_page_names_the_weakest_class_and_the_commonest_mistake():
    judged = classified([[90, 0, 0], [0, 50, 40], [3, 0, 87]], ["cat", "dog", "owl"])
    page = Page(render(plan(Task.MULTICLASS), dataset(), judged))
    assert "Gets 90.0% of 270 held-out rows right" in page.text
    assert "weakest of 3 classes is 'dog'" in page.text
    assert re.search(r"Share of the class\s*dogowl4044\.4%", page.text)


def test_the_confusion_matrix_is_a_picture_and_a_table():
    html = render(plan(Task.BINARY), dataset(), classified([[8100, 2], [1, 17]], ["no", "yes"]))
    assert '<svg role="img" aria-label="Confusion matrix of 2 classes' in html
    assert '<th scope=row>no</th><td class="hit">8,100</td><td class="">2</td>' in html


@pytest.mark.parametrize("labelled", [True, False])
def test_a_cluster_page_shows_sizes_and_members(labelled):
    page = Page(render(plan(Task.CLUSTERING), dataset(), clustered(labelled=labelled)))
    assert page.elements.count("img") == 3
    assert ("58.5% carry their cluster's commonest label" in page.text) is labelled
    assert ("no labels to compare" in page.text) is not labelled


def test_a_regressor_below_the_mean_is_told_so():
    values = np.arange(5.0)
    judged = Judged(Task.REGRESSION, 5, {"rmse": 9, "mae": 8.5, "r2": -1.0}, actual=values, predicted=values[::-1])
    assert "no better than always answering the mean" in Page(render(plan(Task.REGRESSION), dataset(), judged)).text


def test_numbers_have_one_format_on_the_page():
    training = TrainedModel(training_job="j", artifact="s3://a/m", metrics={"rate": 249512.3, "loss": 0.000834})
    values = np.arange(5.0)
    judged = Judged(Task.REGRESSION, 5, {"mae": 0.034161, "r2": 0.9}, actual=values, predicted=values)
    text = Page(render(plan(Task.REGRESSION), dataset(), judged, training=training)).text
    assert "0.0342 off on average" in text
    assert "249,512" in text
    assert "0.000834" in text


def test_a_sample_is_said_to_be_one():
    judged = classified([[80, 2], [1, 17]], ["no", "yes"])
    assert "random sample of 100 of 5,000 test rows" in render(plan(Task.BINARY), dataset(), judged, sampled_from=5000)
    assert "random sample" not in render(plan(Task.BINARY), dataset(), judged)


def test_few_rows_and_missing_classes_are_noted():
    page = Page(
        render(plan(Task.MULTICLASS), dataset(), classified([[5, 0, 0], [0, 4, 0], [0, 0, 0]], ["a", "b", "c"]))
    )
    assert "Only 9 rows were held out" in page.text
    assert "No held-out row is of class 'c'" in page.text


def test_the_training_job_and_the_dataset_are_on_the_page():
    training = TrainedModel(
        training_job="digits-1-train-1",
        artifact="s3://a/model.tar.gz",
        metrics={"train:msd": 39.25},
        billable_seconds=61,
    )
    a_plan = plan(Task.BINARY, [3.0, 8.0], positive="8")
    page = Page(
        render(
            a_plan,
            dataset({"0.0": 33, "1.0": 7}, epochs="15"),
            classified([[9, 1], [1, 9]], ["a", "b"]),
            training=training,
        )
    )
    for text in ("digits-1-train-1", "61 billable seconds", "train:msd", "39.25", "epochs", "s3://the-drops/drops"):
        assert text in page.text
    assert re.search(r"not 8\s*33\s*33", page.text)


@pytest.mark.parametrize(
    "judged",
    [
        classified([[80, 2], [1, 17]], [HOSTILE, "yes"]),
        classified(
            [[8, 1, 1], [1, 17, 0], [0, 0, 9]],
            ["a", HOSTILE, "c"],
            misread=[Gallery(HOSTILE, np.ones((1, 49), np.float32), [HOSTILE])],
            notes=[HOSTILE],
        ),
        classified(
            [[2, 0], [0, 2]],
            ["a", HOSTILE],
            positive=np.array([False, True, False, True]),
            scores=np.array([0.1, 0.9, 0.2, 0.8]),
        ),
        clustered(labelled=True),
        Judged(Task.REGRESSION, 3, {"rmse": 1.0, "mae": 1.0}, actual=np.arange(3.0), predicted=np.ones(3)),
    ],
)
def test_a_page_is_well_nested_asks_for_nothing_and_runs_nothing(judged):
    training = TrainedModel(training_job=HOSTILE, artifact=HOSTILE, metrics={HOSTILE: 1.0})
    html = render(plan(judged.task, name=HOSTILE), dataset(evil=HOSTILE), judged, training=training)
    page = Page(html)
    assert page.unclosed == []
    assert "script" not in page.elements
    assert "alert('x')" in page.text
    assert all(address.startswith(("data:image/png;base64,", "#")) for address in page.addresses)
    assert not re.search(r"url\((?!#)|@import", html)
    assert "default-src 'none'" in html


def dropped(key: str, size: int, **more: Any) -> DroppedFile:
    source = ObjectVersion(bucket="the-drops", key=f"drops/digits/{key}", version_id="v1", size=size)
    return DroppedFile(source=source, name=key, **more)


@pytest.mark.parametrize(
    ("layout", "said"),
    [
        ({"format": FileFormat.CSV}, "1.2 KB CSV, 60 rows, 2 features."),
        ({"format": FileFormat.CSV, "delimiter": "\t"}, "1.2 KB TSV,"),
        ({"format": FileFormat.CSV, "delimiter": ";", "gzipped": True}, "1.2 KB gzipped CSV with semicolons,"),
        (
            {"format": FileFormat.LIBSVM, "sparse_columns": 2, "own_labels": True},
            "LIBSVM, 60 rows, 2 features, kept sparse.",
        ),
        ({"format": FileFormat.PARQUET, "fill": [0.5, 1.0]}, "A missing value counts as the mean of its column."),
        *(({"format": kind}, "60 rows") for kind in FileFormat),
    ],
)
def test_a_dropped_file_is_described_by_its_format(layout, said):
    a_plan = plan(Task.REGRESSION)
    a_plan = a_plan.model_copy(
        update={
            "layout": Layout.model_validate(a_plan.layout.model_dump() | layout),
            "recipe": Recipe.model_validate({"algorithm": "linear-learner", "data": {"missing": "mean"}}),
        }
    )
    text = Page(render(a_plan, dataset(), regressed())).text
    assert "s3://the-drops/drops/digits/points.csv, version v1: 1.2 KB" in text
    assert said in text


def test_a_folder_is_described_by_all_of_its_files():
    a_plan = plan(Task.REGRESSION).model_copy(
        update={
            "drop": ObjectVersion(bucket="the-drops", key="drops/digits/may/_SUCCESS", size=0),
            "files": [
                dropped("may/train/a.csv", 3_000_000, part=Part.TRAIN),
                dropped("may/test/b.csv", 500_000, part=Part.TEST),
            ],
        }
    )
    text = Page(render(a_plan, dataset().model_copy(update={"shards": 12}), regressed())).text
    assert "The folder s3://the-drops/drops/digits/may/: 2 files of 3.5 MB in all, CSV, 60 rows" in text
    assert "They were converted in 12 shards." in text
    assert "The drop was divided already." in text


def test_a_file_of_labels_counts_to_the_drop():
    labels = ObjectVersion(bucket="the-drops", key="drops/digits/mnist/labels", size=8)
    a_plan = plan(Task.REGRESSION).model_copy(
        update={
            "drop": ObjectVersion(bucket="the-drops", key="drops/digits/mnist/_SUCCESS", size=0),
            "files": [dropped("mnist/images", 992, labels=labels)],
        }
    )
    assert "drops/digits/mnist/: 2 files of 1.0 KB in all" in Page(render(a_plan, dataset(), regressed())).text


def test_what_is_odd_about_the_data_has_a_section_of_its_own():
    warnings = [f"Column {HOSTILE!r} holds 3 in every row.", "4 missing values were filled."]
    page = Page(render(plan(Task.REGRESSION), dataset().model_copy(update={"warnings": warnings}), regressed()))
    assert "What is odd about the data" in page.text
    assert all(warning in page.text for warning in warnings)
    assert (page.elements.count("li"), page.unclosed, "script" in page.elements) == (2, [], False)
    assert "odd about" not in Page(render(plan(Task.REGRESSION), dataset(), regressed())).text


def test_rows_are_counted_by_the_names_of_their_classes():
    a_plan = plan(Task.MULTICLASS, [0.0, 1.0, 2.0])
    layout = a_plan.layout.model_copy(update={"classes": ["no", "maybe", "yes"]})
    a_plan = a_plan.model_copy(update={"layout": layout})
    counts = {"0.0": 31, "1.0": 5, "2.0": 4}
    judged = classified(np.eye(3, dtype=int).tolist(), ["no", "maybe", "yes"])
    assert re.search(r"maybe\s*5\s*5", Page(render(a_plan, dataset(counts), judged)).text)
    clusters = a_plan.model_copy(update={"task": Task.CLUSTERING})
    assert re.search(r"maybe\s*5\s*5", Page(render(clusters, dataset(counts), clustered(labelled=True))).text)


def regressed() -> Judged:
    values = np.arange(5.0)
    return Judged(Task.REGRESSION, 5, {"mae": 0.0, "r2": 1.0}, actual=values, predicted=values)


def test_many_classes_do_not_make_a_page_of_megabytes():
    names = [str(index) for index in range(1000)]
    judged = classified((np.eye(1000, dtype=int) * 9 + 1).tolist(), names)
    html = render(plan(Task.MULTICLASS), dataset(), judged)
    assert len(html) < 1_000_000
    assert "The 200 weakest classes" in html


def test_the_champion_stands_beside_the_model():
    judged = classified([[80, 2], [1, 17]], ["not 0", "0"])
    package = "arn:aws:sagemaker:us-east-1:123456789012:model-package/digits/3"
    model = CreatedModel(
        model="m", champion=package, champion_version=1, champion_run="digits-2", champion_model="<script>"
    )
    other = {**judged.metrics, "accuracy": judged.metrics["accuracy"] - 0.125, "recall": 1.0}
    del other["precision"]
    champion = ChampionMetrics(package=package, run_id="digits-2", metrics=other)
    page = Page(render(plan(Task.BINARY), dataset(), judged, model=model, champion=champion))
    assert page.unclosed == []
    assert f"The champion is model package {package}, of run digits-2." in page.text
    assert "Both were judged on the same 100 rows." in page.text
    assert "this model, by 0.125" in page.text
    assert "the champion, by" in page.text
    assert "equal" in page.text
    assert "only one of them could be measured" in page.text


def test_lower_errors_are_better_against_the_champion():
    judged = Judged(task=Task.REGRESSION, rows=200, metrics={"rmse": 2.0, "mae": 1.0, "r2": 0.5})
    model = CreatedModel(model="m", champion="arn", champion_version=1, champion_run="digits-2")
    champion = ChampionMetrics(package="arn", run_id="digits-2", metrics={"rmse": 2.5, "mae": 0.5, "r2": 0.5})
    text = Page(render(plan(Task.REGRESSION), dataset(), judged, model=model, champion=champion)).text
    assert "this model, by 0.5" in text
    assert "the champion, by 0.5" in text


def test_without_a_champion_there_is_nothing_to_compare():
    html = render(
        plan(Task.BINARY), dataset(), classified([[80, 2], [1, 17]], ["no", "yes"]), model=CreatedModel(model="m")
    )
    assert "Against the champion" not in html
    assert "Batch transform" not in html


def test_the_transform_jobs_are_told():
    job = TransformedRows(transform_job="digits-xform-1", output="s3://b/work/<i>/transform", billable_seconds=1234)
    page = Page(
        render(
            plan(Task.BINARY),
            dataset(),
            classified([[80, 2], [1, 17]], ["no", "yes"]),
            model=CreatedModel(model="m", transform=job),
        )
    )
    assert page.unclosed == []
    assert "digits-xform-1" in page.text
    assert "1,234" in page.text
    assert "s3://b/work/<i>/transform" in page.text
    assert "1 × ml.m5.large" in page.text
