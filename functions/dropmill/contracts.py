"""Every model that crosses a state boundary or is kept in S3.

State documents carry ids, locations and small numbers; the documents in S3 (`Plan`, `Shard`, `ShardReport`,
`SealedDataset`, `Metrics`) carry the rest. No numpy here: the Lambdas that only decide import this module.
"""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel, StringConstraints

from dropmill.naming import folder_of_drop
from dropmill.recipe import RECIPE_NAME, RECIPE_NAME_MAX, Recipe
from dropmill.words import Cell, Words, joined, quoted

RunId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9](-?[a-z0-9])*$", max_length=80)]
RecipeName = Annotated[str, StringConstraints(pattern=f"^{RECIPE_NAME.pattern}$", max_length=RECIPE_NAME_MAX)]
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
        """As messages say it: the file's name, or that of the folder which this object closes."""
        return (folder_of_drop(self.key) or self.key).rstrip("/").rsplit("/", 1)[-1]

    @property
    def uri(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


class RunInput(Contract):
    """The input of an execution. Its run id is the execution's name."""

    run_id: RunId
    recipe: str
    recipe_version: str | None = Field(default=None, description="Version of the recipe object; None: the built-in one")
    drop: ObjectVersion


class RunKind(StrEnum):
    """What a row of the ledger's runs stands for."""

    TRAINING = "training"
    SCORING = "scoring"
    """A batch: one execution of the scoring workflow."""
    ENDPOINT = "endpoint"
    """An endpoint that was brought up by hand, for a while."""


class BatchInput(Contract):
    """The input of an execution of the scoring workflow. Its run id, the batch's, is the execution's name."""

    run_id: RunId
    recipe: RecipeName


class ClaimInput(BatchInput):
    """The input of Claim Files: an execution's input, and the execution."""

    execution_arn: str


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
    """How a file is laid out. CSV is delimited text of any delimiter, TSV among it."""

    CSV = "csv"
    JSON_LINES = "json-lines"
    PARQUET = "parquet"
    NPY = "npy"
    NPZ = "npz"
    PICKLE = "pickle"
    IDX = "idx"
    LIBSVM = "libsvm"
    RECORDIO = "recordio"


class Unit(StrEnum):
    """What a file is divided by. A piece of lines is a range of bytes, and holds the lines that begin in it."""

    LINES = "lines"
    ROWS = "rows"
    ROW_GROUPS = "row-groups"
    WHOLE = "whole"


class DroppedFile(Contract):
    """One file of a drop, pinned to its version, and how far it can be divided.

    `start` and `end` are byte offsets where `unit` is lines (behind a header, and the file's size), rows or row groups
    where it is these, and 0 and 1 for what can only be read whole.
    """

    source: ObjectVersion
    name: str = Field(description="As messages say it: the path below the drop's folder")
    part: Part | None = Field(default=None, description="Where its folder says that its rows belong")
    labels: ObjectVersion | None = Field(default=None, description="IDX: the file of the labels")
    unit: Unit = Unit.WHOLE
    start: int = Field(default=0, ge=0)
    end: int = Field(default=1, ge=0)
    first_line: int = Field(default=1, ge=1, description="The number of the line at `start`, where the unit is lines")
    rows: int | None = Field(default=None, ge=0, description="Where the file itself says how many it holds")


class Layout(Contract):
    """What Inspect Drop saw in a drop: enough to read every row of every file of it the same way in every shard.

    `columns` names all columns in order (`"0"`, `"1"`, ... where they have no names). For arrays `columns` holds the
    columns of the feature array, and a label array of its own is said by `label_array`. Sparse rows may have millions
    of columns, so these are counted only: `columns` and `feature_columns` are empty then.
    """

    format: FileFormat
    gzipped: bool = False
    header: bool = False
    delimiter: str = ","
    columns: list[str]
    label_column: int | None = Field(default=None, description="0-based index into `columns`")
    feature_columns: list[int] = Field(description="0-based indexes into `columns`, in file order")
    sparse_columns: int | None = Field(
        default=None, ge=1, description="Rows are read, kept and written sparse, and have so many columns"
    )
    feature_array: str | None = Field(default=None, description=".npz: the member that holds the features")
    label_array: str | None = Field(default=None, description=".npz: the member that holds the labels")
    own_labels: bool = Field(default=False, description="Every row has a label that is no column: pickle, LIBSVM, ...")
    first_index: int = Field(default=1, ge=0, le=1, description="LIBSVM: the number of the first column, 0 or 1")
    pre_split: bool = Field(default=False, description="The drop itself is divided into train, validation and test")
    kept_columns: list[int] = Field(
        default_factory=list, description="0-based indexes into `columns` of what is carried to the predictions"
    )
    quoted_line_ends: bool = Field(default=False, description="CSV: some cell holds a line end, within quotation marks")
    classes: list[str] | None = Field(
        default=None,
        description="The names of the labels `0.0`, `1.0`, ...: the label is text, or the recipe names them",
    )
    label_values: list[float] | None = Field(
        default=None, description="The distinct label values, ascending; None: unlabelled, or more than can be classes"
    )
    fill: list[float] | None = Field(
        default=None, description="What stands for a missing value in each feature column; None: it is refused"
    )

    @property
    def feature_dim(self) -> int:
        return self.sparse_columns or len(self.feature_columns)

    @property
    def labelled(self) -> bool:
        return self.label_column is not None or self.label_array is not None or self.own_labels


class Problem(Contract):
    """One thing wrong with a dataset, precise enough to find and mend it.

    `row` counts as the user's own tool does: the line number in a text file (a header is line 1), the 0-based index
    in an array. `value` is cut to 40 characters. `rule` tells no value of a row, and as text a problem doesn't either.
    """

    file: str
    row: int | None = None
    column: str | None = None
    name: Cell | None = Field(
        default=None,
        description="What the data calls it, where that may be data itself: `column` is its number then",
    )
    value: Cell | None = None
    rule: str

    @property
    def words(self) -> Words:
        where = self.file
        if self.row is not None:
            where += f", row {self.row}"
        if self.column is not None:
            where += f", column {self.column!r}"
        named: str | Cell = ""
        if self.name is not None:
            name = repr(self.name.in_full())
            named = Cell(f", column {name}", ", one column") if self.column is None else Cell(f" ({name})", "")
        value = Words("") if self.value is None else Words(quoted(self.value.in_full(), "the value"), " ")
        return Words(where, named, ": ", value, self.rule)

    def __str__(self) -> str:
        return str(self.words)

    @property
    def kind(self) -> tuple[str, str | None, str]:
        """What problems have in common that differ by their rows alone."""
        return self.file, self.column, self.rule


PROBLEMS_MAX = 10
"""As many problems of a dataset are looked for and told."""


def chosen(problems: Sequence[Problem]) -> list[Problem]:
    """Up to `PROBLEMS_MAX` of them in their order, of as many kinds as there are: ten of one would hide the rest."""
    seen: Counter[tuple[str, str | None, str]] = Counter()
    ranked = []
    for index, problem in enumerate(problems):
        ranked.append((seen[problem.kind], index))
        seen[problem.kind] += 1
    return [problems[index] for index in sorted(index for _, index in sorted(ranked)[:PROBLEMS_MAX])]


def listed(problems: Sequence[Words]) -> Words:
    """One or more problems as a message, which says so where the search ended before the data did."""
    if len(problems) == 1:
        return problems[0]
    lines = [Words("- ", problem) for problem in problems[:PROBLEMS_MAX]]
    if len(problems) >= PROBLEMS_MAX:
        lines.append(Words(f"- checking stopped after {PROBLEMS_MAX} problems; there may be more"))
    return joined("\n", lines)


class Plan(Contract):
    """`runs/<run>/plan.json`: what will be done to which version of what."""

    run_id: RunId
    recipe_name: str
    recipe: Recipe
    recipe_version: str | None = None
    drop: ObjectVersion
    files: list[DroppedFile] = Field(min_length=1)
    layout: Layout
    task: Task
    hyperparameters: dict[str, str] = Field(description="As SageMaker takes them; Seal Dataset adds what data decides")
    created_at: datetime


class Piece(Contract):
    """A range of one file, in that file's unit."""

    file: int = Field(ge=0, description="0-based index into the plan's files")
    start: int = Field(ge=0)
    end: int = Field(ge=0)


class Shard(Contract):
    """One row of `work/<run>/shards.json`: pieces from all over the drop, so that no shard is all of one kind."""

    number: int = Field(ge=0)
    pieces: list[Piece] = Field(min_length=1)


class Shards(RootModel[list[Shard]]):
    """`work/<run>/shards.json`."""


class PartFile(Contract):
    key: ObjectKey
    rows: int = Field(ge=1)
    size: int = Field(ge=1)


CONSTANT_COLUMNS_MAX = 1000
FEW_ROWS = 100
"""So many different rows, or fewer, are counted: they need not reach every part of a dataset."""


class PieceReport(Contract):
    """What was read of a piece.

    `begin` and `stop` are where its first row and the row behind its last begin: for lines the first ends of a line at
    or behind the piece's bounds, else the bounds themselves. So a file was read once where each piece begins where the
    one before it stops.
    """

    file: int = Field(ge=0)
    start: int = Field(ge=0)
    end: int = Field(ge=0)
    begin: int = Field(ge=0)
    stop: int = Field(ge=0)
    rows: int = Field(ge=0, description="Rows read, those with problems among them")
    lines: int = Field(default=0, ge=0, description="Ends of lines between `begin` and `stop`")


class FoundProblem(Contract):
    """A problem as a shard knows it: a row in a piece of lines is counted from 1 at the piece's first line."""

    piece: int = Field(ge=0, description="0-based index into the report's pieces")
    problem: Problem


class ShardReport(Contract):
    """`work/<run>/reports/<shard>.json`: what one shard held and where its rows went."""

    shard: int = Field(ge=0)
    rows: int = Field(ge=0)
    pieces: list[PieceReport] = Field(default_factory=list)
    files: dict[Part, list[PartFile]]
    label_counts: dict[Part, dict[str, int]] = Field(
        default_factory=dict, description="Rows by target label (`repr` of its float); empty for regression"
    )
    problems: list[FoundProblem] = Field(default_factory=list, max_length=PROBLEMS_MAX)
    filled: int = Field(default=0, ge=0, description="Missing values that were filled in")
    value_range: tuple[float, float] | None = Field(default=None, description="The least and largest feature value")
    constant_columns: dict[int, float] | None = Field(
        default=None,
        max_length=CONSTANT_COLUMNS_MAX,
        description="Features that hold one value in all rows of the shard, and that; None: too many to tell",
    )
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
    shards: int | None = Field(default=None, ge=1, description="How many the drop was converted in")
    warnings: list[str] = Field(default_factory=list, description="What is odd about the data, but no error")


class InspectedDrop(Contract):
    """The result of Inspect Drop. `shards` are the items of Convert Shards: numbers only."""

    shards: list[int]
    tuned: bool
    training_timeout: int = Field(description="Seconds after which nobody waits for the training any more")
    task: Task
    feature_dim: int
    concurrency: int = Field(ge=1, le=40, description="How many shards are converted at once")


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
    champion_model: str | None = None
    round: int = Field(default=1, ge=1, description="How often the run has been evaluated against a champion, from 1")


class TransformInput(LaunchInput):
    """The input of Launch Transform, also as Launch Champion Transform and in the scoring workflow."""

    model: str
    rows: Literal["test", "batch"] = Field(default="test", description="A run's test part, or a batch's sealed rows")
    champion: bool = Field(default=False, description="The champion's answers to the rows, not the run's own model's")
    algorithm: str | None = Field(default=None, description="The champion's; a run's own model has the recipe's")
    round: int = Field(default=1, ge=1)


class TrainedModel(Contract):
    """What answers the token of Launch Training or Launch Tuning: of a search, the best job."""

    training_job: str
    artifact: str
    tuning_job: str | None = None
    hyperparameters: dict[str, str] = Field(default_factory=dict, description="What tuning found best")
    metrics: dict[str, float] = Field(default_factory=dict)
    billable_seconds: int = 0


class TransformedRows(Contract):
    """What answers the token of Launch Transform."""

    transform_job: str
    output: str = Field(description="The S3 address under which the answers lie")
    billable_seconds: int = Field(default=0, description="Of each instance")


class ServedModel(Contract):
    """What answers the token of Deploy Endpoint."""

    endpoint: str


class CreatedModel(Contract):
    """The result of Create Model, to which the workflow adds how the model is served: of an older round, nothing."""

    model: str
    serve: Literal["endpoint", "transform"] = "transform"
    keep_endpoint: int = Field(default=0, ge=0, description="Seconds for which the evaluated endpoint stays")
    champion_model: str | None = Field(default=None, description="None: no champion, or none that can be compared")
    champion: str | None = Field(default=None, description="The ARN of the recipe's model package in use")
    champion_version: int = Field(default=0, ge=0, description="The version of its pointer; 0: there is no champion")
    champion_run: RunId | None = None
    champion_algorithm: str | None = None
    incomparable: str | None = Field(default=None, description="Why the champion can't be compared, in words")
    endpoint: ServedModel | None = None
    transform: TransformedRows | None = None
    champion_transform: TransformedRows | None = None


class Champion(Contract):
    """A recipe's model in use, as its pointer in the ledger says."""

    recipe: str
    version: int = Field(ge=1, description="Rises with each move of the pointer")
    package: str = Field(description="The ARN of the model package")
    run_id: RunId = Field(description="The run that trained it")
    algorithm: str
    task: Task
    feature_dim: int = Field(ge=1)
    classes: list[str] = Field(default_factory=list, description="The names of its classes in order; none: no classes")
    artifact: str
    moved_at: datetime


class EvaluateInput(Contract):
    run_id: RunId
    model: CreatedModel
    training: TrainedModel | None = Field(default=None, description="For the report's facts about the training job")


class ModelInput(Contract):
    run_id: RunId
    artifact: str | None = Field(default=None, description="None: a batch, which is scored by its champion")
    round: int = Field(default=1, ge=1, description="How often the run has been evaluated against a champion, from 1")


class TearDownInput(Contract):
    run_id: RunId
    keep_endpoint: int = Field(default=0, ge=0, description="Seconds for which the endpoint stays")


class Evaluation(Contract):
    """The result of Evaluate Model: headline metrics and where the rest is."""

    metrics: dict[str, float]
    report: str
    rows: int


class TornDown(Contract):
    open_leases: int


class Decision(StrEnum):
    """What becomes of a judged model."""

    APPROVED = "approved"
    REJECTED = "rejected"
    WAITING = "waiting"
    """A person decides."""


class JudgeInput(Contract):
    run_id: RunId
    round: int = Field(ge=1, description="How often the run has been evaluated against a champion, from 1")
    champion_version: int = Field(ge=0, description="Of the champion's pointer as this round read it; 0: no champion")


class JudgedModel(Contract):
    """The result of Judge Model."""

    verdict: Decision
    reasons: list[str] = Field(description="In words; what was decisive comes first")


class Judgement(JudgedModel):
    """`runs/<run>/verdict.json`."""

    run_id: RunId
    round: int = Field(ge=1)
    champion_version: int = Field(ge=0)
    champion: str | None = Field(default=None, description="The model package that the model was compared with")
    champion_run: RunId | None = None
    metric: str = Field(description="By which a challenger is compared with the champion")
    margin: float = Field(ge=0)
    judged_at: datetime


class RegisterInput(Contract):
    run_id: RunId
    round: int = Field(ge=1)
    training: TrainedModel = Field(description="Whose artifact is registered")


class RegisteredModel(Contract):
    """The result of Register Model."""

    package: str = Field(description="The ARN of the model package")
    verdict: Decision
    champion: bool = Field(description="Whether the model is the champion now")


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
    champion: "ChampionMetrics | None" = Field(default=None, description="The champion on the same rows")
    incomparable: str | None = Field(
        default=None, description="Why the champion was not put to the same rows, in words"
    )
    champion_version: int | None = Field(
        default=None, ge=0, description="Of the champion's pointer as it was read for this evaluation; 0: no champion"
    )


class ChampionMetrics(Contract):
    package: str
    run_id: RunId
    metrics: dict[str, float]


# Scoring


class ClaimedFiles(Contract):
    """The result of Claim Files. `shards` are the items of Convert Rows: numbers only."""

    claimed: int = Field(description="Files that this batch deals with, those that it sets aside among them")
    shards: list[int]
    concurrency: int = Field(ge=1, le=40, description="How many shards are converted at once")


class StartedBatch(Contract):
    batch: RunId
    recipe: str
    started: bool = Field(description="False: it had been started before")


class StartedBatches(Contract):
    """The result of Start Scoring."""

    batches: list[StartedBatch]


class SetAside(Contract):
    """A file that a batch does not score, and up to ten reasons why."""

    source: ObjectVersion
    name: str = Field(description="As messages say it: the path below scoring/<recipe>/")
    reasons: list[Words] = Field(min_length=1, max_length=PROBLEMS_MAX)
    rules: list[str] = Field(default_factory=list, description="The reasons without values of rows, for messages")

    @classmethod
    def of(cls, source: ObjectVersion, name: str, reasons: Sequence[Words]) -> "SetAside":
        return cls(source=source, name=name, reasons=list(reasons), rules=[str(reason) for reason in reasons])


class ReadingOrder(Contract):
    """How the rows of a file to be scored are read, and which of its features, in file order, are the model's.

    Feature `i` of the model is feature `order[i]` of the layout; None: they come in the model's own order.
    """

    layout: Layout
    order: list[int] | None = None


class ScoringFile(Contract):
    file: DroppedFile
    reading: int = Field(ge=0, description="0-based index into the batch's `readings`: many files are read alike")


class BatchPlan(Contract):
    """`work/<batch>/batch.json`: which files a batch scores, and with which model. Its run id is the batch's.

    `recipe` is that of the champion's run, so that rows are read as those were that the model learned from.
    """

    run_id: RunId
    recipe_name: str
    recipe: Recipe
    recipe_version: str | None = None
    champion: Champion
    files: list[ScoringFile]
    readings: list[ReadingOrder]
    set_aside: list[SetAside] = Field(default_factory=list)
    created_at: datetime


class ScoredPiece(PieceReport):
    """What was read of a piece of a file to be scored. Nothing is kept of a piece with problems."""

    size: int = Field(default=0, ge=0, description="Bytes of its rows as the model takes them; 0: there are none")
    kept: bool = Field(default=False, description="Whether columns were kept beside its rows")
    problems: list[Problem] = Field(
        default_factory=list, max_length=PROBLEMS_MAX, description="A row of a piece of lines counts from the piece's"
    )
    refused: Words | None = Field(default=None, description="Why the file as a whole can't be read")
    refused_rule: str | None = Field(default=None, description="The same without values of rows")


class RowsReport(Contract):
    """`work/<batch>/reports/<shard>.json`: what a shard of a batch held, piece by piece in its order."""

    shard: int = Field(ge=0)
    pieces: list[ScoredPiece]


class ConvertedRows(Contract):
    """The result of Convert Rows."""

    shard: int
    rows: int


class SealedRows(Contract):
    """Some rows of a file, in order: those that one shard read of it."""

    shard: int = Field(ge=0)
    rows: int = Field(ge=1)
    first: int = Field(ge=0, description="How many rows of the file come before")
    kept: bool = False


class SealedFile(Contract):
    file: int = Field(ge=0, description="0-based index into the batch's files")
    rows: int = Field(ge=1)
    parts: list[SealedRows] = Field(min_length=1)


class SealedBatch(Contract):
    """`work/<batch>/sealed.json`: the rows that are put to the model, proved whole, and what is set aside."""

    rows: int = Field(ge=0)
    files: list[SealedFile]
    set_aside: list[SetAside]


class SealedBatchSummary(Contract):
    """The result of Seal Batch. Without rows there is nothing to transform."""

    rows: int
    files: int
    set_aside: int


class PredictionsFile(Contract):
    key: ObjectKey
    rows: int = Field(ge=1)


class ScoredFile(Contract):
    """A file that was scored, and where its predictions are, in the order of its rows."""

    source: ObjectVersion
    name: str
    rows: int = Field(ge=1)
    predictions: list[PredictionsFile] = Field(min_length=1)


class PredictionsManifest(Contract):
    """`predictions/<recipe>/<batch>/manifest.json`: what was scored, by which model. Written last."""

    batch: RunId
    recipe: str
    recipe_version: str | None
    model_package: str
    training_run: RunId
    algorithm: str
    task: Task
    format: Literal["csv", "parquet"]
    columns: list[str]
    rows: int = Field(ge=0)
    files: list[ScoredFile]
    set_aside: list[SetAside]
    created_at: datetime


class PublishedPredictions(Contract):
    """The result of Publish Predictions."""

    manifest: str = Field(description="The S3 address of the manifest")
    rows: int
    files: int
    set_aside: int


class RunStatus(StrEnum):
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    TIMED_OUT = "TIMED_OUT"
    ABORTED = "ABORTED"


class Refusal(Contract):
    """`runs/<run>/refusal.json`: an error's message in full, where it holds values of rows."""

    error: str
    words: Words


class RunRecord(Contract):
    """`runs/<run>/run.json`: how a run ended, for people and programs alike."""

    run_id: RunId
    kind: RunKind = RunKind.TRAINING
    recipe: str
    drop: ObjectVersion | None = Field(default=None, description="What a training run was started by")
    status: RunStatus
    started_at: datetime
    ended_at: datetime
    seconds: float
    algorithm: str | None = None
    error: str | None = None
    cause: str | None = Field(default=None, description="In words, without values of rows")
    refusal: Words | None = Field(default=None, description="The same in full, where values of rows are the cause")
    metrics: dict[str, float] = Field(default_factory=dict)
    report: str | None = None
    verdict: Decision | None = Field(default=None, description="What became of the model, where it was registered")
    reasons: list[str] = Field(default_factory=list, description="Of the verdict, in words")
    package: str | None = Field(default=None, description="The ARN of the model package")
    champion_run: RunId | None = Field(default=None, description="The run of the champion that it was compared with")
    champion_metrics: dict[str, float] = Field(default_factory=dict, description="The champion's on the same rows")
    batch: "BatchRecord | None" = Field(default=None, description="What a batch that published its predictions did")
    leases: list["LeaseRecord"] = Field(default_factory=list)


class BatchRecord(Contract):
    """What a batch did, in short; its manifest says the rest."""

    manifest: str = Field(description="The S3 address of the manifest")
    model_package: str
    training_run: RunId
    files: int
    rows: int
    set_aside: int
    reasons: list[Words] = Field(default_factory=list, max_length=PROBLEMS_MAX, description="Why files were set aside")
    rules: list[str] = Field(
        default_factory=list, max_length=PROBLEMS_MAX, description="The reasons without values of rows"
    )

    @property
    def words(self) -> str:
        """For listings."""
        scored = f"{self.rows:,} rows of {_counted(self.files, 'file')} scored"
        return scored + (f", {_counted(self.set_aside, 'file')} set aside" if self.set_aside else "")


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


class LeaseRecord(Contract):
    step: str
    kind: Literal["training-job", "tuning-job", "transform-job", "model", "endpoint-config", "endpoint"]
    name: str
    state: Literal["intended", "created", "closing", "closed"]
    attempt: int
    billable_seconds: int | None = None
    log: str | None = None
    kept_until: datetime | None = Field(default=None, description="Kept on purpose until then")


RunRecord.model_rebuild()
