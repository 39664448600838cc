"""k-NN as SageMaker's built-in algorithm documents it."""

from collections.abc import Iterator, Mapping
from typing import Any

from dropmill.algorithms.algorithm import HOST, SHARED_METRICS, Algorithm, Metric
from dropmill.algorithms.hyperparameters import AUTO, DECIDED_LATER, Choice, Hyperparameter, Integer
from dropmill.algorithms.predictions import CSV, JSON, JSON_LINES, RECORDIO

PQ_PARTS = (1, 2, 3, 4, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 96)
"""What `faiss_index_pq_m` may be."""

_REDUCED = ("dimension_reduction_type", ("sign", "fjlt"))
_IVF = ("index_type", ("faiss.IVFFlat", "faiss.IVFPQ"))
_PQ = ("index_type", ("faiss.IVFPQ",))


class _PqParts:
    """One of `PQ_PARTS`."""

    expected = "one of " + ", ".join(map(str, PQ_PARTS))

    def parse(self, text: str) -> int:
        value = Integer().parse(text)
        if value not in PQ_PARTS:
            raise ValueError(text)
        return value


def _reduction_has_a_target(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    target, width = values["dimension_reduction_target"], values["feature_dim"]
    if values["dimension_reduction_type"] is None:
        return
    if target is None:
        yield (
            "dimension_reduction_target",
            "dimension_reduction_target must be given when dimension_reduction_type is",
        )
    elif width is not DECIDED_LATER and target >= width:
        yield (
            "dimension_reduction_target",
            f"dimension_reduction_target is {target}, but must be less than feature_dim, which is {width}",
        )


def _quantizer_suits(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if values["index_type"] != "faiss.IVFPQ":
        return
    if values["index_metric"] != "L2":
        yield (
            "index_metric",
            f"index_metric '{values['index_metric']}' can't be used with index_type 'faiss.IVFPQ': it takes L2",
        )
    if values["faiss_index_pq_m"] is None:
        yield "faiss_index_pq_m", "faiss_index_pq_m must be given when index_type is 'faiss.IVFPQ'"


KNN = Algorithm(
    name="knn",
    repository="knn",
    tag="1",
    hyperparameters=(
        Hyperparameter("feature_dim", Integer(), required=True),
        Hyperparameter("k", Integer(), required=True),
        Hyperparameter("predictor_type", Choice(("classifier", "regressor")), required=True),
        Hyperparameter("sample_size", Integer(), required=True),
        Hyperparameter("dimension_reduction_type", Choice(("sign", "fjlt"))),
        Hyperparameter("dimension_reduction_target", Integer(), applies_when=_REDUCED),
        Hyperparameter("index_type", Choice(("faiss.Flat", "faiss.IVFFlat", "faiss.IVFPQ")), "faiss.Flat"),
        Hyperparameter("index_metric", Choice(("L2", "INNER_PRODUCT", "COSINE")), "L2"),
        Hyperparameter("faiss_index_ivf_nlists", Integer(), AUTO, words=(AUTO,), applies_when=_IVF),
        Hyperparameter("faiss_index_pq_m", _PqParts(), applies_when=_PQ),
        Hyperparameter("mini_batch_size", Integer(), 5000),
        Hyperparameter("epochs", Integer(), 1, hidden=True),
    ),
    rules=(_reduction_has_a_target, _quantizer_suits),
    metrics=(
        Metric("test:accuracy", HOST + r"test accuracy <score>=(\S+)", "Maximize"),
        Metric("test:mse", HOST + r"test mse <loss>=(\S+)", "Minimize"),
        *SHARED_METRICS,
    ),
    predictors={"binary": "classifier", "multiclass": "classifier", "regression": "regressor"},
    label_required=True,
    validation_channel="test",
    train_content_types=(RECORDIO, CSV),
    request_content_types=(CSV, JSON, JSON_LINES, RECORDIO),
    response_content_types=(JSON, JSON_LINES, RECORDIO),
    answer_keys=("predicted_label",),
    verbose_keys=("distances", "labels"),
)
