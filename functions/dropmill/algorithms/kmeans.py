"""K-Means as SageMaker's built-in algorithm documents it."""

from dropmill.algorithms.algorithm import HOST, SHARED_METRICS, Algorithm, Metric
from dropmill.algorithms.hyperparameters import AUTO, Choice, ChoiceList, Flag, Hyperparameter, Integer, Real
from dropmill.algorithms.predictions import CSV, JSON, JSON_LINES, RECORDIO

KMEANS = Algorithm(
    name="kmeans",
    repository="kmeans",
    tag="1",
    hyperparameters=(
        Hyperparameter("k", Integer(), required=True),
        Hyperparameter("feature_dim", Integer(), required=True),
        Hyperparameter("epochs", Integer(), 1),
        Hyperparameter("eval_metrics", ChoiceList(("msd", "ssd")), ("msd",)),
        Hyperparameter("extra_center_factor", Integer(), AUTO, words=(AUTO,)),
        Hyperparameter("half_life_time_size", Integer(0), 0),
        Hyperparameter("init_method", Choice(("random", "kmeans++")), "random"),
        Hyperparameter("local_lloyd_init_method", Choice(("random", "kmeans++")), "kmeans++"),
        Hyperparameter("local_lloyd_max_iter", Integer(), 300),
        Hyperparameter("local_lloyd_num_trials", Integer(), AUTO, words=(AUTO,)),
        Hyperparameter("local_lloyd_tol", Real(minimum=0, maximum=1), 0.0001),
        Hyperparameter("mini_batch_size", Integer(), 5000),
        Hyperparameter("force_dense", Flag(), True, hidden=True),
    ),
    rules=(),
    metrics=(
        Metric("test:msd", HOST + r"test msd <loss>=(\S+)", "Minimize"),
        Metric("test:ssd", HOST + r"test ssd <loss>=(\S+)", "Minimize"),
        Metric("train:msd", HOST + r"train msd <loss>=(\S+)", "Minimize"),
        *SHARED_METRICS,
    ),
    predictors={"clustering": None},
    label_required=False,
    validation_channel="test",
    train_content_types=(RECORDIO, CSV),
    request_content_types=(CSV, JSON, JSON_LINES, RECORDIO),
    response_content_types=(JSON, JSON_LINES, RECORDIO, CSV),
    answer_keys=("closest_cluster", "distance_to_cluster"),
)
