"""What is known of a built-in algorithm without running it."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from dropmill.algorithms import hyperparameters as table
from dropmill.algorithms.predictions import JSON, Predictions, parse_predictions
from dropmill.algorithms.registry import registry

Goal = Literal["Minimize", "Maximize"]
TaskName = Literal["binary", "multiclass", "regression", "clustering"]

HOST = r"#quality_metric: host=\S+, "


@dataclass(frozen=True)
class Metric:
    """A metric that SageMaker reads from the log: the first group of `regex` is its value. No goal: not for tuning."""

    name: str
    regex: str
    goal: Goal | None = None


SHARED_METRICS = (
    Metric("train:progress", r"#progress_metric: host=\S+, completed (\S+) %"),
    Metric("train:throughput", r"#throughput_metric: host=\S+, train throughput=(\S+) records/second"),
)


@dataclass(frozen=True)
class Algorithm:
    """A built-in algorithm: what it accepts and what it answers.

    `predictors` maps each task that it can learn to the `predictor_type` that asks for it; None: there is no such
    hyperparameter. `validation_channel` is the channel for rows that judge a training job's models; `answer_keys` are
    the fields of each prediction, `verbose_keys` those that `Accept: ...; verbose=true` adds. An algorithm that takes
    sparse rows works with them as they are; for the others they are filled up with zeros.
    """

    name: str
    repository: str
    tag: str
    hyperparameters: tuple[table.Hyperparameter, ...]
    rules: tuple[table.Rule, ...]
    metrics: tuple[Metric, ...]
    predictors: Mapping[TaskName, str | None]
    label_required: bool
    validation_channel: Literal["validation", "test"]
    train_content_types: tuple[str, ...]
    request_content_types: tuple[str, ...]
    response_content_types: tuple[str, ...]
    answer_keys: tuple[str, ...]
    verbose_keys: tuple[str, ...] = ()
    takes_sparse: bool = False

    def validate(self, hyperparameters: Mapping[str, str], *, decided_later: Collection[str] = ()) -> dict[str, Any]:
        """The parsed values of all hyperparameters, defaults included. Raises InvalidHyperparameters.

        `decided_later` names those that may still be missing, because the data decides them.
        """
        return table.parse(self.hyperparameters, self.rules, hyperparameters, decided_later=decided_later)

    def image_uri(self, region: str) -> str:
        """The image's address: `<account>.dkr.ecr.<region>.<suffix>/<repository>:<tag>`. Raises UnsupportedRegion."""
        return f"{registry(region)}/{self.repository}:{self.tag}"

    def parse_predictions(self, body: bytes, content_type: str = JSON) -> Predictions:
        """The rows of an answer in JSON or JSON Lines. Raises InvalidPredictions."""
        return parse_predictions(body, content_type, keys=self.answer_keys)
