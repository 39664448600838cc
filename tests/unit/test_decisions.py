import re
from typing import Any

import pytest

from dropmill.contracts import FileFormat, Layout, Task
from dropmill.decisions import (
    check_class_names,
    check_metrics,
    check_objective,
    decide_task,
    naming_recipe,
    planned_hyperparameters,
    sealed_hyperparameters,
)
from dropmill.errors import DropmillError, InvalidDrop, InvalidRecipe
from dropmill.recipe import Recipe


def layout(values: list[float] | None = None, labelled: bool = True, classes: list[str] | None = None) -> Layout:
    return Layout(
        format=FileFormat.CSV,
        columns=["a", "b", "label"],
        label_column=2 if labelled else None,
        feature_columns=[0, 1],
        classes=classes,
        label_values=values if classes is None else [float(index) for index in range(len(classes))],
    )


def recipe(algorithm: str = "linear-learner", **keys: Any) -> Recipe:
    return Recipe.model_validate({"algorithm": algorithm, **keys})


@pytest.mark.parametrize(
    ("values", "task"),
    [
        ([0, 1], Task.BINARY),
        ([-1, 3.5], Task.BINARY),
        ([0, 1, 2], Task.MULTICLASS),
        (list(range(100)), Task.MULTICLASS),
        (list(range(101)), Task.REGRESSION),
        ([0, 0.5, 1], Task.REGRESSION),
        (None, Task.REGRESSION),
    ],
)
def test_the_task_follows_from_the_labels(values: list[float] | None, task: Task) -> None:
    assert decide_task(recipe(), layout(values), "x.csv") is task


def test_a_positive_label_makes_it_binary() -> None:
    assert decide_task(recipe(data={"positive": "2"}), layout([0, 1, 2]), "x.csv") is Task.BINARY


def test_the_recipe_may_say_the_task() -> None:
    asked = recipe(hyperparameters={"predictor_type": "regressor"})
    assert decide_task(asked, layout([0, 1]), "x.csv") is Task.REGRESSION


@pytest.mark.parametrize(
    ("classes", "keys", "task"),
    [
        (["no", "yes"], {}, Task.BINARY),
        (["no", "yes", "maybe"], {}, Task.MULTICLASS),
        ([f"city {number}" for number in range(200)], {}, Task.MULTICLASS),
        (["no", "yes", "maybe"], {"data": {"positive": "yes "}}, Task.BINARY),
        (["1", "2", "many"], {"data": {"positive": "2.0"}}, Task.BINARY),
    ],
)
def test_texts_are_classes(classes: list[str], keys: dict[str, Any], task: Task) -> None:
    assert decide_task(recipe(**keys), layout(classes=classes), "x.csv") is task


@pytest.mark.parametrize(
    ("classes", "keys", "error", "said"),
    [
        (["spam"], {}, InvalidDrop, "every row has the label 'spam'; at least two"),
        (
            ["a", "b", "c"],
            {"data": {"positive": "d"}},
            InvalidDrop,
            r"no row has the label 'd' that data.positive names; the labels are \(a, b, c\)",
        ),
        (
            ["a", "b", "c"],
            {"hyperparameters": {"predictor_type": "binary_classifier"}},
            InvalidDrop,
            r"there are 3 \(a, b, c\); name the positive one",
        ),
        (
            ["a", "b"],
            {"hyperparameters": {"predictor_type": "multiclass_classifier"}},
            InvalidDrop,
            r"there are 2 \(a, b\)",
        ),
        (["a", "b"], {"hyperparameters": {"predictor_type": "regressor"}}, InvalidRecipe, "labels of x.csv are texts"),
        (
            ["a", "b"],
            {"hyperparameters": {"predictor_type": "regressor"}, "data": {"classes": ["a", "b"]}},
            InvalidRecipe,
            "data.classes lists classes, and a regressor learns numbers",
        ),
    ],
)
def test_texts_that_do_not_suit(
    classes: list[str], keys: dict[str, Any], error: type[DropmillError], said: str
) -> None:
    with pytest.raises(error) as caught:
        decide_task(recipe(**keys), layout(classes=classes), "x.csv")
    assert re.search(said, caught.value.words.in_full())
    assert not {"spam", "(a", "c)"} & set(str(caught.value).replace(",", " ").replace("'", " ").split())


def test_more_than_two_texts_need_a_positive_one_where_there_is_no_multiclass() -> None:
    with pytest.raises(InvalidDrop, match=r"a binary classifier needs two labels, and there are 3; name") as caught:
        decide_task(recipe("factorization-machines"), layout(classes=["a", "b", "c"]), "x.csv")
    assert "there are 3 (a, b, c); name" in caught.value.words.in_full()


def test_a_text_can_not_be_the_positive_one_of_numbers() -> None:
    with pytest.raises(InvalidRecipe, match=r"data.positive is 'yes', but the labels of x.csv are numbers$"):
        decide_task(recipe(data={"positive": "yes"}), layout([0, 1]), "x.csv")


@pytest.mark.parametrize(
    ("keys", "task"),
    [
        ({"hyperparameters": {"predictor_type": "regressor"}}, Task.REGRESSION),
        ({"data": {"positive": "3"}}, Task.BINARY),
        ({"data": {"positive": "3"}, "hyperparameters": {"predictor_type": "binary_classifier"}}, Task.BINARY),
    ],
)
def test_of_labels_that_nobody_looked_at_the_recipe_says_the_task(keys: dict[str, Any], task: Task) -> None:
    assert decide_task(recipe(**keys), layout(None), "x.csv", scanned=False) is task


@pytest.mark.parametrize(
    ("algorithm", "keys", "said"),
    [
        ("linear-learner", {}, "x.csv is too large to look through all labels first, so the recipe must say what is"),
        ("linear-learner", {"hyperparameters": {"predictor_type": "auto"}}, "or set hyperparameters.predictor_type"),
        ("knn", {}, "list them under data.classes"),
        ("factorization-machines", {}, "name one with data.positive"),
        (
            "linear-learner",
            {"hyperparameters": {"predictor_type": "multiclass_classifier"}},
            "list them under data.classes, or name the positive one",
        ),
        (
            "linear-learner",
            {"hyperparameters": {"predictor_type": "binary_classifier"}},
            "name the positive one with data.positive",
        ),
        ("knn", {"data": {"positive": "yes"}}, "list all labels that are texts under data.classes"),
    ],
)
def test_labels_that_nobody_looked_at_and_a_recipe_that_is_silent(
    algorithm: str, keys: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidRecipe, match=said):
        decide_task(recipe(algorithm, **keys), layout(None), "x.csv", scanned=False)


def test_rows_without_columns_and_labels_need_others() -> None:
    sparse = Layout(format=FileFormat.RECORDIO, columns=[], feature_columns=[], sparse_columns=9)
    with pytest.raises(InvalidDrop, match="there is none in these rows; drop rows with labels"):
        decide_task(recipe(), sparse, "x.pbr")


def test_kmeans_clusters_with_or_without_labels() -> None:
    assert decide_task(recipe("kmeans"), layout([1.0]), "x.csv") is Task.CLUSTERING
    assert decide_task(recipe("kmeans"), layout(labelled=False), "x.csv") is Task.CLUSTERING


@pytest.mark.parametrize(
    ("keys", "values", "labelled", "error", "said"),
    [
        ({}, None, False, InvalidDrop, "needs a label"),
        ({}, None, False, InvalidDrop, "data.label in the recipe; the columns are a, b, label"),
        ({}, [3.0], True, InvalidDrop, "every row has the label 3"),
        ({"data": {"positive": "7"}}, [0, 1], True, InvalidDrop, "no row has the label 7"),
        ({"hyperparameters": {"predictor_type": "binary_classifier"}}, [0, 1, 2], True, InvalidDrop, "data.positive"),
        ({"hyperparameters": {"predictor_type": "multiclass_classifier"}}, [0, 1], True, InvalidDrop, "three labels"),
        ({"hyperparameters": {"predictor_type": "multiclass_classifier"}}, None, True, InvalidDrop, "too many"),
        (
            {"hyperparameters": {"predictor_type": "regressor"}, "data": {"positive": "1"}},
            [0, 1],
            True,
            InvalidRecipe,
            "data.positive makes a binary label",
        ),
    ],
)
def test_labels_that_do_not_suit(
    keys: dict[str, Any], values: list[float] | None, labelled: bool, error: type[DropmillError], said: str
) -> None:
    with pytest.raises(error) as caught:
        decide_task(recipe(**keys), layout(values, labelled), "x.csv")
    assert re.search(said, caught.value.words.in_full())


def test_a_label_that_is_nearly_there_is_proposed() -> None:
    def said(columns: list[str]) -> str:
        found = Layout(format=FileFormat.CSV, columns=columns, feature_columns=[0])
        with pytest.raises(InvalidDrop) as caught:
            decide_task(recipe(), found, "x.csv")
        return caught.value.words.in_full()

    assert "did you mean 'Label'? say which" in said(["a", "b", "Label"])
    assert "did you mean" not in said(["a", "b"])
    assert said([str(index) for index in range(12)]).endswith("so give an index from 0 to 11")
    assert said([*"abcdefghijkl"]).endswith("a, b, c, d, e, f, g, h, i, j, ...")


def test_a_wrong_recipe_is_named() -> None:
    with pytest.raises(InvalidRecipe, match=r"^recipe 'digits': it$"), naming_recipe("digits"):
        raise InvalidRecipe("it")


def test_rules_across_hyperparameters_are_told_in_plain_words() -> None:
    asked = recipe(hyperparameters={"loss": "squared_loss"})
    with pytest.raises(
        InvalidRecipe, match=r"^hyperparameters: loss 'squared_loss' can't be used.*softmax_loss, hinge_loss$"
    ):
        planned_hyperparameters(asked, layout([0, 1, 2]), Task.MULTICLASS)


def test_what_the_data_says_is_filled_in() -> None:
    planned = planned_hyperparameters(recipe(), layout([0, 1, 2]), Task.MULTICLASS)
    assert planned == {"predictor_type": "multiclass_classifier", "num_classes": "3", "feature_dim": "2"}
    assert planned_hyperparameters(recipe("kmeans"), layout([0, 1, 2]), Task.CLUSTERING)["k"] == "3"
    assert planned_hyperparameters(recipe("kmeans"), layout(labelled=False), Task.CLUSTERING)["k"] == "10"
    given = recipe("kmeans", hyperparameters={"k": "4"})
    assert planned_hyperparameters(given, layout([0, 1]), Task.CLUSTERING)["k"] == "4"


@pytest.mark.parametrize(
    ("hyperparameters", "said"),
    [
        ({"epoch": "3"}, "epoch"),
        ({"epochs": "0"}, "epochs"),
        ({"feature_dim": "5"}, "the dataset makes it 2"),
        ({"_tuning_objective_metric": "x"}, "reserved"),
    ],
)
def test_hyperparameters_are_checked_before_anything_starts(hyperparameters: dict[str, str], said: str) -> None:
    with pytest.raises(InvalidRecipe, match=said):
        planned_hyperparameters(recipe(hyperparameters=hyperparameters), layout([0, 1, 2]), Task.MULTICLASS)


def search(algorithm: str, objective: str, name: str, entry: dict[str, Any], **keys: Any) -> Recipe:
    return recipe(algorithm, tuning={"objective": objective, "ranges": {name: entry}}, **keys)


@pytest.mark.parametrize(
    ("algorithm", "objective", "task"),
    [
        ("linear-learner", "validation:binary_f_beta", Task.BINARY),
        ("linear-learner", "validation:objective_loss", Task.MULTICLASS),
        ("linear-learner", "validation:macro_f_beta", Task.MULTICLASS),
        ("linear-learner", "validation:mse", Task.REGRESSION),
        ("factorization-machines", "test:rmse", Task.REGRESSION),
        ("knn", "test:accuracy", Task.MULTICLASS),
        ("kmeans", "test:msd", Task.CLUSTERING),
    ],
)
def test_an_objective_that_judges_the_task(algorithm: str, objective: str, task: Task) -> None:
    name = {"knn": "k", "kmeans": "k", "factorization-machines": "epochs"}.get(algorithm, "epochs")
    check_objective(search(algorithm, objective, name, {"integer": ["2", "4"]}), task)


@pytest.mark.parametrize(
    ("algorithm", "objective", "task"),
    [
        ("linear-learner", "validation:mse", Task.BINARY),
        ("linear-learner", "validation:binary_f_beta", Task.MULTICLASS),
        ("linear-learner", "validation:macro_recall", Task.REGRESSION),
        ("factorization-machines", "test:rmse", Task.BINARY),
        ("knn", "test:mse", Task.MULTICLASS),
        ("kmeans", "test:ssd", Task.CLUSTERING),
    ],
)
def test_an_objective_that_no_job_would_print(algorithm: str, objective: str, task: Task) -> None:
    name = {"knn": "k", "kmeans": "k"}.get(algorithm, "epochs")
    with pytest.raises(InvalidRecipe, match=r"tuning\.objective is"):
        check_objective(search(algorithm, objective, name, {"integer": ["2", "4"]}), task)


def test_a_clustering_objective_follows_from_what_is_printed() -> None:
    both = {"hyperparameters": {"eval_metrics": '["msd", "ssd"]'}}
    check_objective(search("kmeans", "test:ssd", "k", {"integer": ["2", "4"]}, **both), Task.CLUSTERING)
    other = {"hyperparameters": {"eval_metrics": '["ssd"]'}}
    with pytest.raises(InvalidRecipe, match="eval_metrics"):
        check_objective(search("kmeans", "test:msd", "k", {"integer": ["2", "4"]}, **other), Task.CLUSTERING)


@pytest.mark.parametrize(("rows", "mini_batch"), [(50_000, "1000"), (1437, "143"), (7, "1")])
def test_the_mini_batch_follows_from_the_rows(rows: int, mini_batch: str) -> None:
    assert sealed_hyperparameters(recipe(), {}, rows)["mini_batch_size"] == mini_batch


def test_several_instances_share_the_rows() -> None:
    asked = recipe(training={"instance_count": 4})
    assert sealed_hyperparameters(asked, {}, 4000)["mini_batch_size"] == "100"
    assert sealed_hyperparameters(asked, {}, 400_000)["mini_batch_size"] == "1000"
    with pytest.raises(InvalidRecipe, match=r"is 300, but there are 250 training rows for each of 4 instances; lower"):
        sealed_hyperparameters(asked, {"mini_batch_size": "300"}, 1000)
    several = recipe("knn", training={"instance_count": 4})
    assert sealed_hyperparameters(several, {"k": "10"}, 4000)["sample_size"] == "4000"


def test_too_few_rows_are_told() -> None:
    with pytest.raises(InvalidRecipe, match="mini_batch_size is 100"):
        sealed_hyperparameters(recipe(), {"mini_batch_size": "100"}, 99)
    with pytest.raises(InvalidRecipe, match="k is 10"):
        sealed_hyperparameters(recipe("kmeans"), {"k": "10"}, 9)


@pytest.mark.parametrize(
    ("keys", "task", "said"),
    [
        ({"gates": {"rmse": "< 1"}}, Task.BINARY, "gates.rmse: rmse is no metric of a binary model"),
        ({"gates": {"f1": "> 0.5", "msd": "< 1"}}, Task.MULTICLASS, "gates.msd: msd is no metric"),
        ({"champion": {"metric": "accuracy"}}, Task.REGRESSION, "champion.metric: accuracy is no metric"),
    ],
)
def test_a_metric_that_the_task_does_not_have_is_refused(keys: dict[str, Any], task: Task, said: str) -> None:
    with pytest.raises(InvalidRecipe, match=f"^{said}"):
        check_metrics(recipe(**keys), layout([0, 1]), task)


def test_clusters_can_be_judged_by_labels_only_where_there_are_some() -> None:
    asked = recipe("kmeans", gates={"msd": "< 9", "purity": "> 0.5"})
    check_metrics(asked, layout([0, 1]), Task.CLUSTERING)
    with pytest.raises(InvalidRecipe, match=r"^gates\.purity: purity compares clusters with labels"):
        check_metrics(asked, layout(labelled=False), Task.CLUSTERING)


def test_knn_has_no_scores_to_be_judged_by() -> None:
    with pytest.raises(InvalidRecipe, match=r"^champion\.metric: roc_auc needs scores"):
        check_metrics(recipe("knn", champion={"metric": "roc_auc"}), layout([0, 1]), Task.BINARY)


def test_metrics_of_the_task_are_taken() -> None:
    asked = recipe(gates={"f1": "> 0.5", "roc_auc": "> 0.5"}, champion={"metric": "recall", "margin": "0.01"})
    check_metrics(asked, layout([0, 1]), Task.BINARY)


def test_the_names_of_all_classes_fit_where_a_champion_is_kept() -> None:
    check_class_names(layout(classes=["a" * 50_000, "\u00e9" * 25_000]), "x.csv")
    with pytest.raises(InvalidDrop, match=r"its 2 classes take 100,001 bytes, and may take 100,000"):
        check_class_names(layout(classes=["a" * 50_001, "\u00e9" * 25_000]), "x.csv")
