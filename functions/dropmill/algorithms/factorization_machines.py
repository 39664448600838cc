"""Factorization Machines as SageMaker's built-in algorithm documents it."""

from collections.abc import Iterator

from dropmill.algorithms.algorithm import HOST, SHARED_METRICS, Algorithm, Metric
from dropmill.algorithms.hyperparameters import Choice, Flag, Hyperparameter, Integer, Real
from dropmill.algorithms.predictions import JSON, JSON_LINES, RECORDIO

INIT_METHODS = ("normal", "uniform", "constant")

_NOT_NEGATIVE = Real(minimum=0)


def _group(name: str, *, rate: float, decay: float, sigma: float) -> Iterator[Hyperparameter]:
    """The rate, penalty and start of one group of parameters: `bias`, `linear` or `factors`."""
    method = f"{name}_init_method"
    yield Hyperparameter(f"{name}_lr", _NOT_NEGATIVE, rate)
    yield Hyperparameter(f"{name}_wd", _NOT_NEGATIVE, decay)
    yield Hyperparameter(method, Choice(INIT_METHODS), "normal")
    yield Hyperparameter(f"{name}_init_sigma", _NOT_NEGATIVE, sigma, applies_when=(method, ("normal",)))
    yield Hyperparameter(f"{name}_init_scale", _NOT_NEGATIVE, applies_when=(method, ("uniform",)))
    yield Hyperparameter(f"{name}_init_value", Real(), applies_when=(method, ("constant",)))


FACTORIZATION_MACHINES = Algorithm(
    name="factorization-machines",
    repository="factorization-machines",
    tag="1",
    hyperparameters=(
        Hyperparameter("feature_dim", Integer(), required=True),
        Hyperparameter("num_factors", Integer(), required=True),
        Hyperparameter("predictor_type", Choice(("binary_classifier", "regressor")), required=True),
        Hyperparameter("epochs", Integer(), 1),
        Hyperparameter("mini_batch_size", Integer(), 1000),
        *_group("bias", rate=0.1, decay=0.01, sigma=0.01),
        *_group("linear", rate=0.001, decay=0.001, sigma=0.01),
        *_group("factors", rate=0.0001, decay=0.00001, sigma=0.001),
        Hyperparameter("clip_gradient", Real()),
        Hyperparameter("eps", Real()),
        Hyperparameter("rescale_grad", Real()),
        Hyperparameter("use_bias", Flag(), True, hidden=True),
        Hyperparameter("use_linear", Flag(), True, hidden=True),
        Hyperparameter("batch_metrics_publish_interval", Integer(), 500, hidden=True),
    ),
    rules=(),
    metrics=(
        Metric("test:rmse", HOST + r"test rmse <loss>=(\S+)", "Minimize"),
        Metric(
            "test:binary_classification_accuracy",
            HOST + r"test binary_classification_accuracy <score>=(\S+)",
            "Maximize",
        ),
        Metric(
            "test:binary_classification_cross_entropy",
            HOST + r"test binary_classification_cross_entropy <loss>=(\S+)",
            "Minimize",
        ),
        Metric("test:binary_f_beta", HOST + r"test binary_f_\S+ <score>=(\S+)", "Maximize"),
        *SHARED_METRICS,
    ),
    predictors={"binary": "binary_classifier", "regression": "regressor"},
    label_required=True,
    validation_channel="test",
    train_content_types=(RECORDIO,),
    request_content_types=(JSON, JSON_LINES, RECORDIO),
    response_content_types=(JSON, JSON_LINES, RECORDIO),
    answer_keys=("score", "predicted_label"),
    takes_sparse=True,
)
