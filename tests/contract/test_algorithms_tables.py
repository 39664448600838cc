"""The tables of the built-in algorithms against a transcription of SageMaker's documentation, made on its own."""

import os
import re
from typing import Any

import pytest

from dropmill import algorithms
from dropmill.algorithms import (
    ALGORITHMS,
    REGISTRY_ACCOUNTS,
    InvalidHyperparameters,
    UnknownAlgorithm,
    UnsupportedRegion,
)

KMEANS = {"k": "10", "feature_dim": "784"}
BINARY = {"predictor_type": "binary_classifier"}
MULTICLASS = {"predictor_type": "multiclass_classifier", "num_classes": "10"}
REGRESSOR = {"predictor_type": "regressor"}

# name: what is accepted, what is one step outside. Accepted are the bounds, `auto` where it is documented.
WHOLE = (["1", "2147483648"], ["0", "-1", "1.0", "007", "+5", " 5", "", "auto"])
WHOLE_OR_AUTO = (["1", "auto"], ["0", "-1", "1.5", "Auto", ""])
FLAG = (["true", "false", "True", "False"], ["1", "yes", "auto", ""])
FLAG_OR_AUTO = (["true", "False", "auto"], ["1", "yes", ""])
POSITIVE = (["1e-300", "0.5", "1e10"], ["0", "0.0", "-1e-300", "nan", "inf", "1e400", "auto", ""])
POSITIVE_OR_AUTO = (["1e-300", "5", "auto"], ["0", "-1", "nan", "inf"])
NOT_NEGATIVE = (["0", "0.5"], ["-1e-300", "nan", "inf", "auto"])
NOT_NEGATIVE_OR_AUTO = (["0", "1e-07", "auto"], ["-1e-300", "nan", "inf"])
FRACTION_OR_AUTO = (["0", "0.999999", "auto"], ["1", "-1e-300", "nan"])
INSIDE = (["1e-300", "0.999999"], ["0", "1", "nan", "auto"])
INSIDE_OR_AUTO = (["1e-300", "0.999999", "auto"], ["0", "1", "nan"])

KMEANS_TABLE = {
    "k": WHOLE,
    "feature_dim": WHOLE,
    "epochs": WHOLE,
    "mini_batch_size": WHOLE,
    "local_lloyd_max_iter": WHOLE,
    "extra_center_factor": WHOLE_OR_AUTO,
    "local_lloyd_num_trials": WHOLE_OR_AUTO,
    "half_life_time_size": (["0", "1"], ["-1", "0.5", "auto"]),
    "init_method": (["random", "kmeans++"], ["k-means++", "Random", "auto", ""]),
    "local_lloyd_init_method": (["random", "kmeans++"], ["k-means++", "auto", ""]),
    "local_lloyd_tol": (["0", "1", "0.0001"], ["-1e-300", "1.000001", "nan"]),
    "eval_metrics": (
        ['["msd"]', '["ssd"]', '["msd","ssd"]', '["ssd", "msd"]'],
        ["msd", "[]", '["rmse"]', '["msd","msd"]', '{"msd": 1}', '"msd"', "[1]", "[" * 5000, ""],
    ),
    "force_dense": FLAG,
}
LINEAR_TABLE = {
    "feature_dim": WHOLE_OR_AUTO,
    "mini_batch_size": WHOLE,
    "epochs": WHOLE,
    "use_bias": FLAG,
    "num_models": WHOLE_OR_AUTO,
    "num_calibration_samples": WHOLE_OR_AUTO,
    "init_method": (["uniform", "normal"], ["random", ""]),
    "init_scale": POSITIVE,
    "init_sigma": POSITIVE,
    "init_bias": (["-1e10", "0", "1e10"], ["nan", "inf", "auto", ""]),
    "optimizer": (["auto", "sgd", "adam", "rmsprop"], ["adagrad", "Adam", ""]),
    "wd": NOT_NEGATIVE_OR_AUTO,
    "l1": NOT_NEGATIVE_OR_AUTO,
    "momentum": FRACTION_OR_AUTO,
    "learning_rate": POSITIVE_OR_AUTO,
    "beta_1": FRACTION_OR_AUTO,
    "beta_2": FRACTION_OR_AUTO,
    "bias_lr_mult": POSITIVE_OR_AUTO,
    "bias_wd_mult": NOT_NEGATIVE_OR_AUTO,
    "use_lr_scheduler": FLAG,
    "lr_scheduler_step": WHOLE_OR_AUTO,
    "lr_scheduler_factor": INSIDE_OR_AUTO,
    "lr_scheduler_minimum_lr": POSITIVE_OR_AUTO,
    "normalize_data": FLAG_OR_AUTO,
    "normalize_label": FLAG_OR_AUTO,
    "unbias_data": FLAG_OR_AUTO,
    "unbias_label": FLAG_OR_AUTO,
    "num_point_for_scaler": WHOLE,
    "early_stopping_patience": WHOLE,
    "early_stopping_tolerance": POSITIVE,
    "margin": NOT_NEGATIVE,
    "quantile": INSIDE,
    "loss_insensitivity": POSITIVE,
    "huber_delta": NOT_NEGATIVE,
    "f_beta": POSITIVE,
    "accuracy_top_k": (["1", "1000000"], ["0", "1000001", "auto"]),
    "balance_multiclass_weights": FLAG,
    "positive_example_weight_mult": (["1e-05", "100000", "balanced", "auto"], ["0", "-1", "nan", "Balanced"]),
    "binary_classifier_model_selection_criteria": (
        ["accuracy", "f_beta", "precision_at_target_recall", "recall_at_target_precision", "loss_function"],
        ["auto", "recall", ""],
    ),
    "target_recall": INSIDE,
    "target_precision": INSIDE,
}
LOSSES = {
    "binary_classifier": {"logistic", "hinge_loss"},
    "multiclass_classifier": {"softmax_loss", "hinge_loss"},
    "regressor": {
        "squared_loss",
        "absolute_loss",
        "eps_insensitive_squared_loss",
        "eps_insensitive_absolute_loss",
        "quantile_loss",
        "huber_loss",
    },
}
KMEANS_DEFAULTS = {
    "init_method": "random",
    "mini_batch_size": 5000,
    "epochs": 1,
    "extra_center_factor": "auto",
    "local_lloyd_max_iter": 300,
    "local_lloyd_tol": 0.0001,
    "local_lloyd_init_method": "kmeans++",
    "local_lloyd_num_trials": "auto",
    "half_life_time_size": 0,
    "eval_metrics": ("msd",),
    "force_dense": True,
}
LINEAR_DEFAULTS = {
    "mini_batch_size": 1000,
    "epochs": 15,
    "use_bias": True,
    "init_method": "uniform",
    "init_scale": 0.07,
    "init_sigma": 0.01,
    "init_bias": 0.0,
    "use_lr_scheduler": True,
    "normalize_data": True,
    "num_point_for_scaler": 10_000,
    "early_stopping_patience": 3,
    "early_stopping_tolerance": 0.001,
    "margin": 1.0,
    "quantile": 0.5,
    "loss_insensitivity": 0.01,
    "huber_delta": 1.0,
    "f_beta": 1.0,
    "accuracy_top_k": 3,
    "balance_multiclass_weights": False,
    "positive_example_weight_mult": 1.0,
    "binary_classifier_model_selection_criteria": "accuracy",
    "target_recall": 0.8,
    "target_precision": 0.8,
}


def cases(accepted: bool) -> list[Any]:
    rows = [("kmeans", KMEANS, KMEANS_TABLE), ("linear-learner", BINARY, LINEAR_TABLE)]
    return [
        pytest.param(algorithm, required, name, text, id=f"{algorithm}-{name}-{text[:12]}")
        for algorithm, required, table in rows
        for name, texts in table.items()
        for text in texts[0 if accepted else 1]
    ]


@pytest.mark.parametrize(("algorithm", "required", "name", "text"), cases(accepted=True))
def test_a_documented_value_is_accepted(algorithm: str, required: dict[str, str], name: str, text: str) -> None:
    assert name in algorithms.get(algorithm).validate({**required, name: text})


@pytest.mark.parametrize(("algorithm", "required", "name", "text"), cases(accepted=False))
def test_a_value_outside_is_refused_by_name(algorithm: str, required: dict[str, str], name: str, text: str) -> None:
    with pytest.raises(InvalidHyperparameters, match="is not valid under any of the given schemas") as refused:
        algorithms.get(algorithm).validate({**required, name: text})
    assert refused.value.names == (name,)
    assert name in str(refused.value)
    assert len(str(refused.value)) < 1024


def test_the_tables_hold_every_documented_name_and_no_other() -> None:
    kmeans = {row.name for row in algorithms.get("kmeans").hyperparameters}
    linear = {row.name for row in algorithms.get("linear-learner").hyperparameters}
    assert kmeans == set(KMEANS_TABLE)
    assert linear == {*LINEAR_TABLE, "predictor_type", "num_classes", "loss"}


def test_defaults() -> None:
    assert KMEANS_DEFAULTS.items() <= algorithms.get("kmeans").validate(KMEANS).items()
    values = algorithms.get("linear-learner").validate(BINARY)
    assert LINEAR_DEFAULTS.items() <= values.items()
    automatic = {name for name, (accepted, _) in LINEAR_TABLE.items() if "auto" in accepted}
    assert {name for name in automatic if values[name] == "auto"} == automatic - {
        "normalize_data",
        "positive_example_weight_mult",
    }


def test_every_loss_goes_with_its_predictors_only() -> None:
    linear = algorithms.get("linear-learner")
    for predictor, allowed in LOSSES.items():
        given = {"predictor_type": predictor, "num_classes": "3"}
        for loss in set.union(*LOSSES.values()):
            if loss in allowed:
                assert linear.validate({**given, "loss": loss})["loss"] == loss
            else:
                with pytest.raises(InvalidHyperparameters, match=f"loss '{loss}' can't be used with predictor_type"):
                    linear.validate({**given, "loss": loss})


@pytest.mark.parametrize("classes", [None, "1", "2", "0", "1000001", "auto"])
def test_multiclass_needs_three_classes(classes: str | None) -> None:
    given = {"predictor_type": "multiclass_classifier"} | ({} if classes is None else {"num_classes": classes})
    with pytest.raises(InvalidHyperparameters, match="num_classes"):
        algorithms.get("linear-learner").validate(given)


@pytest.mark.parametrize("classes", ["3", "1000000"])
def test_multiclass_takes_its_bounds(classes: str) -> None:
    given = {"predictor_type": "multiclass_classifier", "num_classes": classes}
    assert algorithms.get("linear-learner").validate(given)["num_classes"] == int(classes)


def test_other_predictors_ignore_num_classes() -> None:
    assert algorithms.get("linear-learner").validate({**BINARY, "num_classes": "1"})["num_classes"] == 1


@pytest.mark.parametrize("name", ["unbias_data", "unbias_label"])
def test_centering_needs_an_intercept(name: str) -> None:
    with pytest.raises(InvalidHyperparameters, match="use_bias"):
        algorithms.get("linear-learner").validate({**REGRESSOR, "use_bias": "false", name: "true"})


def test_the_order_of_complaints_is_sagemakers() -> None:
    kmeans = algorithms.get("kmeans")
    with pytest.raises(InvalidHyperparameters) as missing:
        kmeans.validate({"mini_batch_siz": "0"})
    assert str(missing.value) == (
        "No value(s) were specified for 'k', 'feature_dim' which are required hyperparameter(s) "
        "(caused by ValidationError)"
    )
    with pytest.raises(InvalidHyperparameters) as unknown:
        kmeans.validate({**KMEANS, "mini_batch_siz": "0", "k": "0"})
    assert str(unknown.value) == (
        "Additional properties are not allowed ('mini_batch_siz' was unexpected); did you mean 'mini_batch_size'? "
        "(caused by ValidationError)"
    )
    linear = algorithms.get("linear-learner")
    with pytest.raises(InvalidHyperparameters, match="given schemas"):
        linear.validate({"predictor_type": "multiclass_classifier", "epochs": "0"})


def test_what_the_sdk_and_the_service_add_is_accepted() -> None:
    hidden = {"_tuning_objective_metric": "validation:binary_f_beta", "_kvstore": "auto"}
    assert hidden.items() <= algorithms.get("linear-learner").validate({**BINARY, **hidden}).items()
    assert algorithms.get("kmeans").validate({**KMEANS, "force_dense": "True"})["force_dense"] is True


def test_what_the_data_decides_may_come_later() -> None:
    kmeans = algorithms.get("kmeans")
    assert kmeans.validate({}, decided_later={"k", "feature_dim"})["epochs"] == 1
    with pytest.raises(InvalidHyperparameters, match="'k' which are"):
        kmeans.validate({}, decided_later={"feature_dim"})
    linear = algorithms.get("linear-learner")
    assert linear.validate({"predictor_type": "multiclass_classifier"}, decided_later={"num_classes"})
    assert linear.validate({"loss": "logistic"}, decided_later={"predictor_type"})


def test_long_hostile_values_stay_out_of_messages() -> None:
    with pytest.raises(InvalidHyperparameters) as refused:
        algorithms.get("kmeans").validate({**KMEANS, "epochs": "9" * 2500})
    assert len(str(refused.value)) < 300
    with pytest.raises(InvalidHyperparameters) as unknown:
        algorithms.get("kmeans").validate({**KMEANS, "x" * 256: "1"})
    assert len(str(unknown.value)) < 300


METRICS = {
    "kmeans": {"test:msd": "Minimize", "test:ssd": "Minimize", "train:msd": "Minimize"},
    "linear-learner": {
        "train:objective_loss": "Minimize",
        "train:objective_loss:final": "Minimize",
        "validation:objective_loss": "Minimize",
        "validation:objective_loss:final": "Minimize",
        "test:objective_loss": "Minimize",
        **{
            f"{channel}:{name}": goal
            for channel in ("train", "validation", "test")
            for name, goal in {
                "binary_classification_accuracy": "Maximize",
                "binary_f_beta": "Maximize",
                "precision": "Maximize",
                "recall": "Maximize",
                "mse": "Minimize",
                "absolute_loss": "Minimize",
            }.items()
        },
        **{
            f"{channel}:{name}": "Maximize"
            for channel in ("validation", "test")
            for name in (
                "roc_auc_score",
                "multiclass_accuracy",
                "multiclass_top_k_accuracy",
                "dcg",
                "macro_recall",
                "macro_precision",
                "macro_f_beta",
            )
        },
        "validation:rmse": "Minimize",
    },
}
PREFIX = "[11/24/2020 18:54:29 INFO 140513285547840] "
LOG = {
    "kmeans": {
        "#quality_metric: host=algo-1, train msd <loss>=0.06404909491539001": {"train:msd": "0.06404909491539001"},
        "#progress_metric: host=algo-1, completed 100.0 % of epochs": {"train:progress": "100.0"},
        "#throughput_metric: host=algo-1, train throughput=54276.9 records/second": {"train:throughput": "54276.9"},
    },
    "linear-learner": {
        "#quality_metric: host=algo-1, epoch=0, validation binary_classification_cross_entropy_objective <loss>=0.5": {
            "validation:objective_loss": "0.5"
        },
        "#quality_metric: host=algo-1, validation binary_classification_cross_entropy_objective <loss>=0.03": {
            "validation:objective_loss:final": "0.03"
        },
        "#quality_metric: host=algo-1, validation binary_f_1.000 <score>=0.99": {"validation:binary_f_beta": "0.99"},
        "#quality_metric: host=algo-1, test multiclass_top_k_accuracy_3 <score>=nan": {
            "test:multiclass_top_k_accuracy": "nan"
        },
        "#quality_metric: host=algo-1, test macro_f_1.000 <score>=0.9": {"test:macro_f_beta": "0.9"},
    },
}


@pytest.mark.parametrize("name", METRICS)
def test_metrics_and_their_goals(name: str) -> None:
    found = {metric.name: metric.goal for metric in algorithms.get(name).metrics}
    assert found == {**METRICS[name], "train:progress": None, "train:throughput": None}


@pytest.mark.parametrize(("name", "line"), [(name, line) for name, lines in LOG.items() for line in lines])
def test_expressions_find_their_own_lines_only(name: str, line: str) -> None:
    found = {
        metric.name: match[1]
        for metric in algorithms.get(name).metrics
        if (match := re.search(metric.regex, PREFIX + line))
    }
    assert found == LOG[name][line]


def test_content_types_channels_and_tasks() -> None:
    kmeans, linear = algorithms.get("kmeans"), algorithms.get("linear-learner")
    recordio, csv = "application/x-recordio-protobuf", "text/csv"
    for algorithm in (kmeans, linear):
        assert set(algorithm.train_content_types) == {recordio, csv}
        assert set(algorithm.request_content_types) == {recordio, csv, "application/json", "application/jsonlines"}
    assert set(kmeans.response_content_types) == {recordio, csv, "application/json", "application/jsonlines"}
    assert set(linear.response_content_types) == {recordio, "application/json", "application/jsonlines"}
    assert (kmeans.validation_channel, linear.validation_channel) == ("test", "validation")
    assert (kmeans.label_required, linear.label_required) == (False, True)
    assert kmeans.predictors == {"clustering": None}
    assert linear.predictors == {
        "binary": BINARY["predictor_type"],
        "multiclass": MULTICLASS["predictor_type"],
        "regression": REGRESSOR["predictor_type"],
    }


def test_images_are_where_the_sdk_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "SAGEMAKER_SUPPRESS_V2_WARNING", "1")
    from sagemaker import image_uris

    for name in ALGORITHMS:
        regions = image_uris.config_for_framework(name)["versions"]["1"]["registries"]
        assert set(regions) == set(REGISTRY_ACCOUNTS)
        for region in regions:
            assert algorithms.image_uri(name, region) == image_uris.retrieve(name, region)


def test_unknown_names_and_regions_are_told() -> None:
    with pytest.raises(UnknownAlgorithm, match="there is no algorithm 'pca'; there are kmeans, linear-learner"):
        algorithms.get("pca")
    with pytest.raises(UnsupportedRegion, match="'mars-east-1'"):
        algorithms.image_uri("kmeans", "mars-east-1")
