"""Every model that crosses a state boundary or is kept in S3.

State documents carry ids, locations and small numbers; the documents in S3 (`Plan`, `Shard`, `ShardReport`,
`SealedDataset`, `Metrics`) carry the rest. No numpy here: the Lambdas that only decide import this module.
"""

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel, StringConstraints

from dropmill.errors import several
from dropmill.recipe import Recipe

RunId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9](-?[a-z0-9])*$", max_length=80)]
BucketName = Annotated[str, StringConstraints(min_length=3, max_length=63)]
ObjectKey = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
TaskToken = Annotated[str, StringConstraints(min_length=1, max_length=2048)]


class Contract(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Task(StrEnum):
    """What is learned, which decides the metrics and the pictures."""

    BINARY = "binary"
    MULTICLASS = "multiclass"
    REGRESSION = "regression"
    CLUSTERING = "clustering"


class Part(StrEnum):
    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


class ObjectVersion(Contract):
    """One version of one S3 object. `version_id` is None only where the bucket keeps no versions."""

    bucket: BucketName
    key: ObjectKey
    version_id: str | None = None
    size: int = Field(ge=0)

    @property
    def file_name(self) -> str:
        return self.key.rsplit("/", 1)[-1]

    @property
    def uri(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


class RunInput(Contract):
    """The input of an execution. Its run id is the execution's name."""

    run_id: RunId
    recipe: str
    recipe_version: str | None = Field(default=None, description="Version of the recipe object; None: the built-in one")
    drop: ObjectVersion


class RunReference(Contract):
    """The input of every state that finds what it needs in S3 and the ledger."""

    run_id: RunId


class InspectInput(RunInput):
    """The input of Inspect Drop: an execution's input, and the execution."""

    execution_arn: str


class ShardInput(Contract):
    run_id: RunId
    shard: int = Field(ge=0)


class LaunchInput(Contract):
    """The input of a state that waits for a task token."""

    run_id: RunId
    task_token: TaskToken
    retry_count: int = Field(default=0, ge=0, description="The state's retries so far: a later one's token wins")


class FileFormat(StrEnum):
    CSV = "csv"
    NPY = "npy"
    NPZ = "npz"
    PICKLE = "pickle"


class Layout(Contract):
    """What Inspect Drop saw in a drop: enough to read every row of it the same way in every shard.

    `columns` names all columns of the file in order (`"0"`, `"1"`, ... where it has no header). For arrays `columns`
    holds the columns of the feature array, and a label array of its own is said by `label_array`.
    """

    format: FileFormat
    gzipped: bool = False
    header: bool = False
    delimiter: str = ","
    columns: list[str]
    label_column: int | None = Field(default=None, description="0-based index into `columns`")
    feature_columns: list[int] = Field(min_length=1, description="0-based indexes into `columns`, in file order")
    feature_array: str | None = Field(default=None, description=".npz: the member that holds the features")
    label_array: str | None = Field(default=None, description=".npz: the member that holds the labels")
    pre_split: bool = Field(default=False, description="The file itself is divided into train, validation and test")
    label_values: list[float] | None = Field(
        default=None, description="The distinct label values, ascending; None: unlabelled, or more than can be classes"
    )

    @property
    def feature_dim(self) -> int:
        return len(self.feature_columns)

    @property
    def labelled(self) -> bool:
        return self.label_column is not None or self.label_array is not None or self.format is FileFormat.PICKLE


class Problem(Contract):
    """One thing wrong with a dataset, precise enough to find and mend it.

    `row` counts as the user's own tool does: the line number in a text file (a header is line 1), the 0-based index
    in an array. `value` is cut to 40 characters.
    """

    file: str
    row: int | None = None
    column: str | None = None
    value: str | None = Field(default=None, max_length=43)
    rule: str

    def __str__(self) -> str:
        where = self.file
        if self.row is not None:
            where += f", row {self.row}"
        if self.column is not None:
            where += f", column {self.column!r}"
        said = f"{self.value!r} " if self.value is not None else ""
        return f"{where}: {said}{self.rule}"


PROBLEMS_MAX = 10
"""As many problems of a dataset are looked for and told."""


def listed(problems: Sequence[Problem]) -> str:
    """One or more problems as a message, which says so where the search ended before the data did."""
    if len(problems) == 1:
        return str(problems[0])
    lines = several([str(problem) for problem in problems[:PROBLEMS_MAX]])
    stopped = f"- checking stopped after {PROBLEMS_MAX} problems; there may be more"
    return f"{lines}\n{stopped}" if len(problems) >= PROBLEMS_MAX else lines


class Plan(Contract):
    """`runs/<run>/plan.json`: what will be done to which version of what."""

    run_id: RunId
    recipe_name: str
    recipe: Recipe
    recipe_version: str | None = None
    drop: ObjectVersion
    layout: Layout
    task: Task
    hyperparameters: dict[str, str] = Field(description="As SageMaker takes them; Seal Dataset adds what data decides")
    created_at: datetime


class Shard(Contract):
    """One row of `work/<run>/shards.json`."""

    number: int = Field(ge=0)
    source: ObjectVersion


class Shards(RootModel[list[Shard]]):
    """`work/<run>/shards.json`."""


class PartFile(Contract):
    key: ObjectKey
    rows: int = Field(ge=1)
    size: int = Field(ge=1)


FEW_ROWS = 100
"""So many different rows, or fewer, are counted: they need not reach every part of a dataset."""


class ShardReport(Contract):
    """`work/<run>/reports/<shard>.json`: what one shard held and where its rows went."""

    shard: int = Field(ge=0)
    rows: int = Field(ge=0)
    files: dict[Part, list[PartFile]]
    label_counts: dict[Part, dict[str, int]] = Field(
        default_factory=dict, description="Rows by target label (`repr` of its float); empty for regression"
    )
    problems: list[Problem] = Field(default_factory=list, max_length=PROBLEMS_MAX)
    few_hashes: list[int] | None = Field(
        default=None, max_length=FEW_ROWS, description="The hashes of the different rows, unless they are many"
    )


class SealedPart(Contract):
    rows: int = Field(ge=0)
    size: int = Field(ge=0)
    files: list[PartFile]
    label_counts: dict[str, int] = Field(default_factory=dict)


class SealedDataset(Contract):
    """`runs/<run>/dataset.json`: the converted dataset, proved whole."""

    feature_dim: int = Field(ge=1)
    rows: int = Field(ge=1)
    parts: dict[Part, SealedPart]
    hyperparameters: dict[str, str]


class InspectedDrop(Contract):
    """The result of Inspect Drop. `shards` are the items of Convert Shards: numbers only."""

    shards: list[int]
    tuned: bool
    training_timeout: int = Field(description="Seconds after which nobody waits for the training any more")
    task: Task
    feature_dim: int


class ConvertedShard(Contract):
    shard: int
    rows: int
    problems: int


class SealedSummary(Contract):
    rows: int
    feature_dim: int
    classes: int


class DeployInput(LaunchInput):
    model: str


class TrainedModel(Contract):
    """What answers the token of Launch Training or Launch Tuning: of a search, the best job."""

    training_job: str
    artifact: str
    tuning_job: str | None = None
    hyperparameters: dict[str, str] = Field(default_factory=dict, description="What tuning found best")
    metrics: dict[str, float] = Field(default_factory=dict)
    billable_seconds: int = 0


class CreatedModel(Contract):
    model: str


class ServedModel(Contract):
    """What answers the token of Deploy Endpoint."""

    endpoint: str


class EvaluateInput(Contract):
    run_id: RunId
    endpoint: str
    training: TrainedModel | None = Field(default=None, description="For the report's facts about the training job")


class ModelInput(Contract):
    run_id: RunId
    artifact: str


class Evaluation(Contract):
    """The result of Evaluate Model: headline metrics and where the rest is."""

    metrics: dict[str, float]
    report: str
    rows: int


class TornDown(Contract):
    open_leases: int


class Metrics(Contract):
    """`runs/<run>/metrics.json`."""

    task: Task
    metrics: dict[str, float]
    rows: int
    sampled_from: int | None = Field(default=None, description="Test rows there were, when only a sample was judged")
    classes: list[str] = Field(default_factory=list, description="The names of the rows and columns of `confusion`")
    confusion: list[list[int]] | None = Field(default=None, description="[actual][predicted]")
    clusters: list[dict[str, Any]] | None = Field(
        default=None, description="Each cluster: cluster, rows, mean_distance, label and share of its commonest label"
    )
    notes: list[str] = Field(default_factory=list, description="What to know before believing the metrics")


class RunStatus(StrEnum):
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    TIMED_OUT = "TIMED_OUT"
    ABORTED = "ABORTED"


class RunRecord(Contract):
    """`runs/<run>/run.json`: how a run ended, for people and programs alike."""

    run_id: RunId
    recipe: str
    drop: ObjectVersion
    status: RunStatus
    started_at: datetime
    ended_at: datetime
    seconds: float
    algorithm: str | None = None
    error: str | None = None
    cause: str | None = None
    metrics: dict[str, float] = Field(default_factory=dict)
    report: str | None = None
    leases: list["LeaseRecord"] = Field(default_factory=list)


class LeaseRecord(Contract):
    step: str
    kind: Literal["training-job", "tuning-job", "model", "endpoint-config", "endpoint"]
    name: str
    state: Literal["intended", "created", "closing", "closed"]
    attempt: int
    billable_seconds: int | None = None
    log: str | None = None


RunRecord.model_rebuild()
