"""Linear Learner as SageMaker's built-in algorithm documents it."""

from collections.abc import Iterator, Mapping
from typing import Any

from dropmill.algorithms.algorithm import HOST, SHARED_METRICS, Algorithm, Goal, Metric
from dropmill.algorithms.hyperparameters import AUTO, DECIDED_LATER, Choice, Flag, Hyperparameter, Integer, Real
from dropmill.algorithms.predictions import CSV, JSON, JSON_LINES, RECORDIO

LOSSES = {
    "binary_classifier": ("logistic", "hinge_loss"),
    "multiclass_classifier": ("softmax_loss", "hinge_loss"),
    "regressor": (
        "squared_loss",
        "absolute_loss",
        "eps_insensitive_squared_loss",
        "eps_insensitive_absolute_loss",
        "quantile_loss",
        "huber_loss",
    ),
}
"""What `loss` may be for each `predictor_type`; the first is what `auto` means."""

CRITERIA = (
    "accuracy",
    "f_beta",
    "f1",
    "precision_at_target_recall",
    "recall_at_target_precision",
    "cross_entropy_loss",
    "loss_function",
)

_BINARY = ("predictor_type", ("binary_classifier",))
_MULTICLASS = ("predictor_type", ("multiclass_classifier",))
_REGRESSOR = ("predictor_type", ("regressor",))
_ADAM = ("optimizer", (AUTO, "adam"))
_SCHEDULER = ("use_lr_scheduler", (True,))


def _loss_suits_predictor(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    predictor, loss = values["predictor_type"], values["loss"]
    if predictor in LOSSES and loss != AUTO and loss not in LOSSES[predictor]:
        allowed = ", ".join((AUTO, *LOSSES[predictor]))
        yield "loss", f"loss '{loss}' can't be used with predictor_type '{predictor}': it takes {allowed}"


def _num_classes_for_multiclass(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    classes = values["num_classes"]
    if values["predictor_type"] != "multiclass_classifier" or classes is DECIDED_LATER:
        return
    if classes is None or classes < 3:
        yield "num_classes", "num_classes must be given, and at least 3, when predictor_type is 'multiclass_classifier'"


def _centering_needs_bias(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name in ("unbias_data", "unbias_label"):
        if values[name] is True and not values["use_bias"]:
            yield name, f"{name} 'true' can't be used when use_bias is 'false': a centered model needs an intercept"


def _metrics() -> Iterator[Metric]:
    objective = r"\S+_objective <loss>=(\S+)"
    yield Metric("train:objective_loss", HOST + r"epoch=\S+, train " + objective, "Minimize")
    yield Metric("train:objective_loss:final", HOST + "train " + objective, "Minimize")
    yield Metric("validation:objective_loss", HOST + r"epoch=\S+, validation " + objective, "Minimize")
    yield Metric("validation:objective_loss:final", HOST + "validation " + objective, "Minimize")
    yield Metric("test:objective_loss", HOST + "test " + objective, "Minimize")

    every, judged = ("train", "validation", "test"), ("validation", "test")
    maximize: Goal = "Maximize"
    minimize: Goal = "Minimize"
    for name, token, goal, channels in (
        ("binary_classification_accuracy", "binary_classification_accuracy <score>", maximize, every),
        ("binary_f_beta", r"binary_f_\S+ <score>", maximize, every),
        ("precision", "precision <score>", maximize, every),
        ("recall", "recall <score>", maximize, every),
        ("roc_auc_score", "roc_auc_score <score>", maximize, judged),
        ("mse", "mse <loss>", minimize, every),
        ("absolute_loss", "absolute_loss <loss>", minimize, every),
        ("rmse", "rmse <loss>", minimize, ("validation",)),
        ("multiclass_accuracy", "multiclass_accuracy <score>", maximize, judged),
        ("multiclass_top_k_accuracy", r"multiclass_top_k_accuracy_\S+ <score>", maximize, judged),
        ("dcg", "dcg <score>", maximize, judged),
        ("macro_recall", "macro_recall <score>", maximize, judged),
        ("macro_precision", "macro_precision <score>", maximize, judged),
        ("macro_f_beta", r"macro_f_\S+ <score>", maximize, judged),
    ):
        for channel in channels:
            yield Metric(f"{channel}:{name}", rf"{HOST}{channel} {token}=(\S+)", goal)
    yield from SHARED_METRICS


_POSITIVE = Real(above=0)
_NOT_NEGATIVE = Real(minimum=0)
_FRACTION = Real(minimum=0, below=1)
_INSIDE = Real(above=0, below=1)

LINEAR_LEARNER = Algorithm(
    name="linear-learner",
    repository="linear-learner",
    tag="1",
    hyperparameters=(
        Hyperparameter("predictor_type", Choice(tuple(LOSSES)), required=True),
        Hyperparameter("num_classes", Integer(1, 1_000_000), applies_when=_MULTICLASS),
        Hyperparameter("feature_dim", Integer(), AUTO, words=(AUTO,)),
        Hyperparameter("mini_batch_size", Integer(), 1000),
        Hyperparameter("epochs", Integer(), 15),
        Hyperparameter("use_bias", Flag(), True),
        Hyperparameter("num_models", Integer(), AUTO, words=(AUTO,)),
        Hyperparameter("num_calibration_samples", Integer(), AUTO, words=(AUTO,)),
        Hyperparameter("init_method", Choice(("uniform", "normal")), "uniform"),
        Hyperparameter("init_scale", _POSITIVE, 0.07, applies_when=("init_method", ("uniform",))),
        Hyperparameter("init_sigma", _POSITIVE, 0.01, applies_when=("init_method", ("normal",))),
        Hyperparameter("init_bias", Real(), 0.0),
        Hyperparameter("optimizer", Choice((AUTO, "sgd", "adam", "rmsprop")), AUTO),
        Hyperparameter("loss", Choice((AUTO, *dict.fromkeys(sum(LOSSES.values(), ())))), AUTO),
        Hyperparameter("wd", _NOT_NEGATIVE, AUTO, words=(AUTO,)),
        Hyperparameter("l1", _NOT_NEGATIVE, AUTO, words=(AUTO,)),
        Hyperparameter("momentum", _FRACTION, AUTO, words=(AUTO,), applies_when=("optimizer", ("sgd",))),
        Hyperparameter("learning_rate", _POSITIVE, AUTO, words=(AUTO,)),
        Hyperparameter("beta_1", _FRACTION, AUTO, words=(AUTO,), applies_when=_ADAM),
        Hyperparameter("beta_2", _FRACTION, AUTO, words=(AUTO,), applies_when=_ADAM),
        Hyperparameter("bias_lr_mult", _POSITIVE, AUTO, words=(AUTO,)),
        Hyperparameter("bias_wd_mult", _NOT_NEGATIVE, AUTO, words=(AUTO,)),
        Hyperparameter("use_lr_scheduler", Flag(), True),
        Hyperparameter("lr_scheduler_step", Integer(), AUTO, words=(AUTO,), applies_when=_SCHEDULER),
        Hyperparameter("lr_scheduler_factor", _INSIDE, AUTO, words=(AUTO,), applies_when=_SCHEDULER),
        Hyperparameter("lr_scheduler_minimum_lr", _POSITIVE, AUTO, words=(AUTO,), applies_when=_SCHEDULER),
        Hyperparameter("normalize_data", Flag(), True, words=(AUTO,)),
        Hyperparameter("normalize_label", Flag(), AUTO, words=(AUTO,), applies_when=_REGRESSOR),
        Hyperparameter("unbias_data", Flag(), AUTO, words=(AUTO,)),
        Hyperparameter("unbias_label", Flag(), AUTO, words=(AUTO,), applies_when=_REGRESSOR),
        Hyperparameter("num_point_for_scaler", Integer(), 10_000),
        Hyperparameter("early_stopping_patience", Integer(), 3),
        Hyperparameter("early_stopping_tolerance", _POSITIVE, 0.001),
        Hyperparameter("margin", _NOT_NEGATIVE, 1.0, applies_when=("loss", ("hinge_loss",))),
        Hyperparameter("quantile", _INSIDE, 0.5, applies_when=("loss", ("quantile_loss",))),
        Hyperparameter(
            "loss_insensitivity",
            _POSITIVE,
            0.01,
            applies_when=("loss", ("eps_insensitive_squared_loss", "eps_insensitive_absolute_loss")),
        ),
        Hyperparameter("huber_delta", _NOT_NEGATIVE, 1.0, applies_when=("loss", ("huber_loss",))),
        Hyperparameter("f_beta", _POSITIVE, 1.0),
        Hyperparameter("accuracy_top_k", Integer(1, 1_000_000), 3, applies_when=_MULTICLASS),
        Hyperparameter("balance_multiclass_weights", Flag(), False, applies_when=_MULTICLASS),
        Hyperparameter("positive_example_weight_mult", _POSITIVE, 1.0, words=("balanced", AUTO), applies_when=_BINARY),
        Hyperparameter(
            "binary_classifier_model_selection_criteria", Choice(CRITERIA), "accuracy", applies_when=_BINARY
        ),
        Hyperparameter("target_recall", _INSIDE, 0.8, applies_when=_BINARY),
        Hyperparameter("target_precision", _INSIDE, 0.8, applies_when=_BINARY),
    ),
    rules=(_loss_suits_predictor, _num_classes_for_multiclass, _centering_needs_bias),
    metrics=tuple(_metrics()),
    predictors={"binary": "binary_classifier", "multiclass": "multiclass_classifier", "regression": "regressor"},
    label_required=True,
    validation_channel="validation",
    train_content_types=(RECORDIO, CSV),
    request_content_types=(CSV, JSON, JSON_LINES, RECORDIO),
    response_content_types=(JSON, JSON_LINES, RECORDIO),
    answer_keys=("predicted_label", "score"),
)
