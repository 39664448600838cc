"""Metrics in SageMaker's own model quality format.

The schema beside this file is written after the three examples in "Model quality metrics and Amazon CloudWatch
monitoring" of SageMaker's developer guide; the numbers of those examples are the oracle of the formulas.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # it comes without types

from dropmill.contracts import Metrics, Task
from dropmill.evaluation import metrics as measured
from dropmill.model_quality import model_quality

SCHEMA = json.loads(Path(__file__).with_name("model_quality.schema.json").read_text())
CURVE = [(0.0, 0.0), (0.0, 0.25), (0.5, 0.75), (1.0, 1.0)]
NAMES = st.integers(2, 6).flatmap(lambda size: st.lists(st.text(max_size=8), min_size=size, max_size=size, unique=True))


def classifier(task: Task, confusion: list[list[int]], classes: list[str], **values: float) -> Metrics:
    return Metrics(task=task, metrics=values, rows=sum(map(sum, confusion)), classes=classes, confusion=confusion)


def valid(document: dict[str, Any]) -> dict[str, Any]:
    """The one group of a document that survives JSON and fits the schema."""
    written = json.loads(json.dumps(document, allow_nan=False))
    assert written == document
    Draft202012Validator(SCHEMA).validate(written)
    (group,) = written.values()
    return dict(group)


def values(group: dict[str, Any]) -> dict[str, float]:
    return {name: one["value"] for name, one in group.items() if "value" in one}


def counted(rows: list[tuple[int, int]], classes: int) -> tuple[Any, Any, list[list[int]]]:
    actual, predicted = (np.array(column, dtype=np.int64) for column in zip(*rows, strict=True))
    return actual, predicted, measured.confusion_matrix(actual, predicted, classes).tolist()


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(SCHEMA)


class TestBinary:
    def test_the_guides_example(self) -> None:
        found = valid(model_quality(classifier(Task.BINARY, [[1, 2], [0, 1]], ["0", "1"], roc_auc=1.0)))
        assert found["confusion_matrix"] == {"0": {"0": 1, "1": 2}, "1": {"0": 0, "1": 1}}
        assert found["recall"] == {"value": 1.0, "standard_deviation": "NaN"}
        assert values(found) == pytest.approx(
            {
                "recall": 1.0,
                "precision": 0.3333333333333333,
                "accuracy": 0.5,
                "recall_best_constant_classifier": 1.0,
                "precision_best_constant_classifier": 0.25,
                "accuracy_best_constant_classifier": 0.25,
                "true_positive_rate": 1.0,
                "true_negative_rate": 0.33333333333333337,
                "false_positive_rate": 0.6666666666666666,
                "false_negative_rate": 0.0,
                "auc": 1.0,
                "f0_5": 0.3846153846153846,
                "f1": 0.5,
                "f2": 0.7142857142857143,
                "f0_5_best_constant_classifier": 0.29411764705882354,
                "f1_best_constant_classifier": 0.4,
                "f2_best_constant_classifier": 0.625,
            },
            rel=1e-14,
        )

    @given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1), NAMES)
    def test_the_values_are_those_that_were_judged(self, rows: list[tuple[int, int]], names: list[str]) -> None:
        actual, predicted, confusion = counted(rows, 2)
        judged = measured.binary_metrics(actual, predicted, predicted.astype(np.float64))
        found = valid(model_quality(classifier(Task.BINARY, confusion, names[:2], **judged)))
        renamed = {"auc" if name == "roc_auc" else name: value for name, value in judged.items()}
        assert {name: value for name, value in values(found).items() if name in renamed} == renamed
        assert ("recall" in found) == bool(actual.any())
        assert ("true_negative_rate" in found) == bool((actual == 0).any())

    def test_curves(self) -> None:
        found = valid(model_quality(classifier(Task.BINARY, [[1, 1], [1, 3]], ["no", "yes"]), CURVE))
        assert found["receiver_operating_characteristic_curve"] == {
            "false_positive_rates": [0.0, 0.0, 0.5, 1.0],
            "true_positive_rates": [0.0, 0.25, 0.75, 1.0],
        }
        assert found["precision_recall_curve"] == {
            "precisions": [1.0, 1.0, 0.75, 4 / 6],
            "recalls": [0.0, 0.25, 0.75, 1.0],
        }

    @pytest.mark.parametrize(
        "curve", [[], [(0.0, 0.0)], [(0.0, 0.0), (1.0, 0.9)], [(0.0, 0.0), (0.5, 0.5), (0.4, 0.6), (1.0, 1.0)]]
    )
    def test_what_is_no_curve_is_refused(self, curve: list[tuple[float, float]]) -> None:
        with pytest.raises(ValueError, match="a ROC curve rises"):
            model_quality(classifier(Task.BINARY, [[1, 1], [1, 3]], ["no", "yes"]), curve)
        with pytest.raises(ValueError, match="both classes"):
            model_quality(classifier(Task.BINARY, [[1, 1], [0, 0]], ["no", "yes"]), CURVE)


class TestMulticlass:
    def test_the_guides_example(self) -> None:
        found = valid(model_quality(classifier(Task.MULTICLASS, [[1180, 510], [268, 138]], ["0", "1"])))
        assert found["confusion_matrix"] == {"0": {"0": 1180, "1": 510}, "1": {"0": 268, "1": 138}}
        own = {name: value for name, value in values(found).items() if not name.endswith("_best_constant_classifier")}
        assert own == pytest.approx(
            {
                "accuracy": 0.6288167938931297,
                "weighted_recall": 0.6288167938931297,
                "weighted_precision": 0.6983172269629505,
                "weighted_f0_5": 0.6803947317178771,
                "weighted_f1": 0.6571162346664904,
                "weighted_f2": 0.6384024354394601,
            },
            rel=1e-14,
        )

    def test_the_constant_answer_is_the_commonest_class(self) -> None:
        found = values(valid(model_quality(classifier(Task.MULTICLASS, [[1, 1, 0], [0, 3, 3], [1, 1, 0]], [*"abc"]))))
        assert found["accuracy_best_constant_classifier"] == pytest.approx(0.6)
        assert found["weighted_precision_best_constant_classifier"] == pytest.approx(0.36)
        assert found["weighted_f1_best_constant_classifier"] == pytest.approx(0.6 * 0.75)

    @given(
        NAMES.flatmap(
            lambda names: st.tuples(
                st.just(names), st.lists(st.tuples(*[st.integers(0, len(names) - 1)] * 2), min_size=1)
            )
        )
    )
    def test_the_values_are_those_of_the_rows(self, drawn: tuple[list[str], list[tuple[int, int]]]) -> None:
        names, rows = drawn
        actual, predicted, confusion = counted(rows, len(names))
        judged = measured.multiclass_metrics(actual, predicted, len(names))
        found = valid(model_quality(classifier(Task.MULTICLASS, confusion, names, **judged)))
        assert found["accuracy"]["value"] == judged["accuracy"]
        assert found["weighted_recall"]["value"] == pytest.approx(judged["accuracy"])
        precision, _, f1 = measured.precision_recall_f1(np.array(confusion))
        weights = np.array(confusion).sum(axis=1) / len(rows)
        assert found["weighted_precision"]["value"] == pytest.approx(float(precision @ weights))
        assert found["weighted_f1"]["value"] == pytest.approx(float(f1 @ weights))
        most = max(np.bincount(actual)) / len(rows)
        assert found["accuracy_best_constant_classifier"]["value"] == pytest.approx(float(most))


class TestOthers:
    def test_regression(self) -> None:
        judged = {"rmse": 0.609248066149471, "mae": 0.3711832061068702, "r2": -1.3766111872212665}
        found = valid(model_quality(Metrics(task=Task.REGRESSION, metrics=judged, rows=2096)))
        assert values(found) == pytest.approx({**judged, "mse": 0.3711832061068702})
        assert "r2" not in valid(model_quality(Metrics(task=Task.REGRESSION, metrics={"rmse": 1.0}, rows=1)))

    def test_clusters_have_a_format_of_our_own(self) -> None:
        judged = {"msd": 12.5, "purity": 0.9, "nmi": 0.8}
        assert values(valid(model_quality(Metrics(task=Task.CLUSTERING, metrics=judged, rows=9)))) == judged
        unlabelled = Metrics(task=Task.CLUSTERING, metrics={"msd": 12.5}, rows=9)
        assert values(valid(model_quality(unlabelled))) == {"msd": 12.5}

    @pytest.mark.parametrize("task", [Task.MULTICLASS, Task.REGRESSION, Task.CLUSTERING])
    def test_no_other_task_has_a_curve(self, task: Task) -> None:
        with pytest.raises(ValueError, match="only a binary classifier"):
            model_quality(Metrics(task=task, metrics={"msd": 1.0}, rows=9), CURVE)

    @pytest.mark.parametrize(
        ("classes", "confusion", "words"),
        [
            (["a", "b"], None, "no confusion matrix"),
            (["a"], [[1, 0], [0, 1]], "a row and a column for each"),
            (["a", "b"], [[1, 0], [0]], "a row and a column for each"),
            (["a", "a"], [[1, 0], [0, 1]], "differently named"),
            (["a", "b", "c"], [[1, 0, 0]] * 3, "a binary classifier has 2 classes, not 3"),
        ],
    )
    def test_what_is_no_confusion_matrix_is_refused(
        self, classes: list[str], confusion: list[list[int]] | None, words: str
    ) -> None:
        with pytest.raises(ValueError, match=words):
            model_quality(Metrics(task=Task.BINARY, metrics={}, rows=2, classes=classes, confusion=confusion))


@pytest.mark.parametrize(
    ("judged", "name"),
    [
        (classifier(Task.BINARY, [[1, 2], [0, 1]], ["no", "yes"], roc_auc=1.0), "binary_classification_metrics"),
        (classifier(Task.MULTICLASS, [[5, 1], [2, 3]], ["a", "b"]), "multiclass_classification_metrics"),
        (Metrics(task=Task.REGRESSION, metrics={"rmse": 1.5, "mae": 1.0, "r2": 0.5}, rows=9), "regression_metrics"),
    ],
)
def test_sagemakers_own_reader_takes_it(judged: Metrics, name: str) -> None:
    parsers = pytest.importorskip(
        "sagemaker.model_card.evaluation_metric_parsers", reason="the sagemaker SDK is missing"
    )
    document = model_quality(judged, [(0.0, 0.0), (1.0, 1.0)] if judged.task is Task.BINARY else None)
    (group,) = parsers.ModelMonitorModelQualityParser().run(document)["metric_groups"]
    assert group["name"] == name
    read = {one["name"]: one["value"] for one in group["metric_data"] if one["type"] == "number"}
    assert read == values(document[name])
