"""The recipe: how drops become a model. `parse_recipe` reads the YAML, `Recipe` holds the rules."""

import difflib
import math
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, NamedTuple, Self, TypeGuard, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from dropmill import algorithms
from dropmill.algorithms.hyperparameters import AUTO
from dropmill.errors import InvalidRecipe, several
from dropmill.gates import Gate, check_metric, parse_gate
from dropmill.labels import class_name

RECIPE_NAME = re.compile(r"[a-z0-9](-?[a-z0-9])*")
RECIPE_NAME_MAX = 40
RECIPE_BYTES_MAX = 64 * 1024

_SHOWN = 40
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class _Seconds(int):
    """The seconds of a duration, told from other numbers so that a bound can be said as a duration."""


def _seconds(text: Any) -> int:
    if isinstance(text, int):
        return text
    match = re.fullmatch(r"(\d{1,9})([smhd])", text) if isinstance(text, str) else None
    if match is None and text != "0":
        raise ValueError("a duration is 0 or a whole number with a unit: 90s, 30m, 2h, 1d")
    return _Seconds(int(match[1]) * _UNITS[match[2]] if match else 0)


def duration_text(seconds: int) -> str:
    """The duration as it is written in a recipe, in the largest unit of which it holds two or more: `60s`, `28d`."""
    unit = next((unit for unit in "dhm" if seconds % _UNITS[unit] == 0 and seconds >= 2 * _UNITS[unit]), "s")
    return f"{seconds // _UNITS[unit]}{unit}"


def is_duration(schema: Mapping[str, Any]) -> bool:
    """Whether pydantic's schema of a field is that of a `Duration`."""
    return schema.get("function", {}).get("function") is _seconds


def reads_duration(field: FieldInfo) -> bool:
    """Whether a field is a `Duration`."""
    return any(isinstance(rule, BeforeValidator) and rule.func is _seconds for rule in field.metadata)


def _finite_number(text: str) -> str:
    try:
        value = float(text)
    except ValueError:
        raise ValueError("must be a number") from None
    if value != value or value in (float("inf"), float("-inf")):
        raise ValueError("must be a finite number")
    return text


def _named(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be empty")
    return text


DurationText = Annotated[str, Field(pattern=r"^(0|[0-9]{1,9}[smhd])$")] | Literal[0]
Duration = Annotated[
    int,
    BeforeValidator(_seconds, json_schema_input_type=DurationText),
    Field(description="0 or <integer>{s,m,h,d}"),
]
Bound = Annotated[str, Field(max_length=256)]
"""As long as SageMaker takes a value of a range to be."""
HyperparameterValue = Annotated[str, Field(max_length=2500)]
"""As long as SageMaker takes it to be."""
Label = Annotated[str, AfterValidator(_named), Field(max_length=200)]
TRANSFORM_SECONDS_MIN = 600
TRANSFORM_SECONDS_MAX = 86_400
"""SageMaker knows no time limit for a transform job; the workflow waits a little longer than this."""

InstanceType = Annotated[str, Field(pattern=r"^ml\.[a-z0-9-]+\.[a-z0-9]+$", max_length=40)]


class Section(BaseModel):
    """Keys of a recipe; their descriptions, in Markdown, become docs/recipes.md and the schema for editors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Split(Section):
    """Shares of a drop that is not split already; what is left is the training part."""

    validation: float = Field(default=0.1, ge=0, lt=1, description="The share that judges the model while it trains")
    test: float = Field(default=0.1, gt=0, lt=1, description="The share that no job gets, by which the model is judged")
    seed: int = Field(default=7, ge=0, lt=2**32, description="Another one divides the same rows otherwise")

    @model_validator(mode="after")
    def leaves_training_rows(self) -> Self:
        if self.validation + self.test >= 1:
            raise ValueError("validation and test together must leave rows to train on")
        return self


class DataOptions(Section):
    """How the rows of a drop are read."""

    label: str | None = Field(
        default=None,
        description="Column name or 0-based index, else a column named `label`; for `.npz` the member with the labels",
    )
    positive: Label | None = Field(default=None, description="1 where the label equals this number or text, else 0")
    classes: list[Label] | None = Field(
        default=None,
        min_length=2,
        max_length=1000,
        description="The labels in order, else read from the label column; another one in a row is an error. Must be"
        " given where the labels are texts and the drop is [too large](#labels) to be looked through first",
    )
    header: Literal["auto", "true", "false"] = Field(
        default="auto",
        description="Whether the first row names the columns, or that it is [found out](#reading-csv) from the first"
        " two rows",
    )
    delimiter: Literal["auto", ",", "\t", ";", "|"] = Field(
        default="auto", description="What separates columns of text"
    )
    missing: Literal["refuse", "0", "mean"] = Field(
        default="refuse",
        description="What becomes of a missing value: an error, 0, or the mean of its column (above 1 GB, of a sample"
        " of it)",
    )
    drop_columns: list[str] = Field(
        default_factory=list, max_length=10_000, description="Columns that are no features, by name or 0-based index"
    )
    id: Label | None = Field(
        default=None,
        description="The column that tells rows apart, by name or 0-based index: carried from files to be"
        " [scored](scoring.md) to their predictions, never a feature; training data need not have it",
    )
    keep: list[Label] = Field(
        default_factory=list, max_length=100, description="More columns that are carried along in the same way"
    )
    scale: Literal["none", "255"] = Field(default="none", description="`255`: every feature is divided by 255")
    split: Split = Field(default=Split(), description="Shares of a drop that is not split already")

    @model_validator(mode="after")
    def names_each_class_once(self) -> Self:
        if self.classes is None:
            return self
        names = set[str]()
        for label in self.classes:
            if class_name(label) in names:
                raise ValueError(f"{_cut(label)!r} is given twice under classes; keep one of them")
            names.add(class_name(label))
        if self.positive is not None and class_name(self.positive) not in names:
            raise ValueError(f"positive is {_cut(self.positive)!r}, which is none of the classes")
        return self

    @model_validator(mode="after")
    def carries_each_column_once(self) -> Self:
        seen = set[str]()
        for name in self.carried:
            if name in seen:
                raise ValueError(f"{_cut(name)!r} is given twice under id and keep; give it once")
            if name in _OF_PREDICTIONS or name.startswith(SCORE_OF_CLASS):
                raise ValueError(f"a column {_cut(name)!r} can't be carried along: predictions have one of that name")
            seen.add(name)
        return self

    @property
    def carried(self) -> list[str]:
        """The columns that predictions are joined to, the id first."""
        return [*([] if self.id is None else [self.id]), *self.keep]


SCORE_OF_CLASS = "score_"
"""Before the name of a class: the column of its scores in predictions."""
_OF_PREDICTIONS = {"row", "prediction", "score", "distance"}


class TrainingOptions(Section):
    instance_type: InstanceType = Field(
        default="ml.m5.xlarge", description="Of the training jobs; where none is named, [the stack's](#instance-types)"
    )
    instance_count: int = Field(default=1, ge=1, le=100, description="[Several](#several-instances) share the rows")
    volume_gb: int = Field(
        default=10, ge=1, le=16_384, description="What an instance is to train on must fit, or nothing is started"
    )
    input_mode: Literal["File"] = Field(default="File", description="How the job gets its rows; only this for now")
    max_runtime: Duration = Field(default=3600, ge=60, le=28 * 86400, description="A job is stopped then")


class Range(Section):
    """Where tuning looks for one hyperparameter: exactly one of the three kinds."""

    continuous: tuple[Bound, Bound] | None = Field(default=None, description="Smallest and largest value")
    integer: tuple[Bound, Bound] | None = Field(default=None, description="Smallest and largest whole number")
    categorical: list[Bound] | None = Field(default=None, min_length=1, max_length=30, description="The values to try")
    scale: Literal["Auto", "Linear", "Logarithmic", "ReverseLogarithmic"] = Field(
        default="Auto", description="How numbers are picked from the range"
    )

    @model_validator(mode="after")
    def is_one_kind(self) -> Self:
        kinds = [kind for kind in (self.continuous, self.integer, self.categorical) if kind is not None]
        if len(kinds) != 1:
            raise ValueError("give one of continuous: [from, to], integer: [from, to] or categorical: [values]")
        if self.categorical is not None:
            if self.scale != "Auto":
                raise ValueError("categorical values have no scale")
            if len(set(self.categorical)) != len(self.categorical):
                raise ValueError("a categorical value is given twice")
            return self
        low, high = (float(_finite_number(bound)) for bound in kinds[0])
        if low >= high:
            raise ValueError("the smallest value must be below the largest")
        if self.scale == "Logarithmic" and low <= 0:
            raise ValueError("a Logarithmic scale needs values above 0")
        if self.scale == "ReverseLogarithmic" and (self.continuous is None or low < 0 or high >= 1):
            raise ValueError("a ReverseLogarithmic scale needs a continuous range within [0, 1)")
        return self

    @property
    def bounds(self) -> list[str]:
        """The values that must be valid for the whole range to be."""
        return list(self.continuous or self.integer or self.categorical or ())

    @property
    def largest(self) -> str:
        return max(self.bounds, key=float)


class TuningOptions(Section):
    """A search for hyperparameters: many training jobs, of which the best by `objective` becomes the model."""

    objective: str = Field(description="One of the algorithm's metrics, such as `validation:binary_f_beta`")
    strategy: Literal["Bayesian", "Random", "Grid"] = Field(
        default="Bayesian",
        description="How the next values are picked; `Grid` tries all, and takes categorical ones only",
    )
    max_jobs: int = Field(default=6, ge=1, le=750, description="How many jobs are tried")
    max_parallel_jobs: int = Field(
        default=2, ge=1, le=100, description="How many of them at once; not above `max_jobs`"
    )
    max_runtime: Duration = Field(default=3 * 3600, ge=120, le=30 * 86400, description="Of the whole search")
    early_stopping: bool = Field(default=False, description="Jobs that promise nothing are stopped")
    ranges: dict[str, Range] = Field(
        min_length=1, max_length=30, description="By hyperparameter, where to look for it: one of the first three kinds"
    )

    @model_validator(mode="after")
    def is_a_search(self) -> Self:
        if self.max_parallel_jobs > self.max_jobs:
            raise ValueError("max_parallel_jobs can't be more than max_jobs")
        if self.strategy == "Grid" and any(entry.categorical is None for entry in self.ranges.values()):
            raise ValueError("a Grid search takes categorical ranges only")
        combinations = math.prod(len(entry.bounds) for entry in self.ranges.values())
        if self.strategy == "Grid" and combinations > self.max_jobs:
            raise ValueError(f"a Grid search tries all {combinations} combinations; raise max_jobs, or take out values")
        return self


class EvaluationOptions(Section):
    # `with` is no name that Python takes.
    model_config = ConfigDict(serialize_by_alias=True)

    serve: Literal["endpoint", "transform"] = Field(
        default="endpoint",
        alias="with",
        description="What the test rows are put to: an endpoint, or a batch transform; the metrics are the same",
    )
    instance_type: InstanceType = Field(
        default="ml.m5.large",
        description="Of the endpoint or the transform; where none is named, [the stack's](#instance-types)",
    )
    instance_count: int = Field(default=1, ge=1, le=10, description="Of the endpoint or the transform")
    max_runtime: Duration = Field(
        default=TRANSFORM_SECONDS_MAX,
        ge=TRANSFORM_SECONDS_MIN,
        le=TRANSFORM_SECONDS_MAX,
        description="Of a transform, the wait for instances included; it is taken down then",
    )
    max_rows: int = Field(
        default=100_000,
        ge=1,
        le=1_000_000,
        description="Above it a seeded sample of the test rows is judged, and the report says so",
    )
    keep_endpoint: Duration = Field(
        default=0,
        ge=0,
        le=7 * 86400,
        description="How long the endpoint [stays](#keeping-the-endpoint) once the model has been evaluated",
    )

    @model_validator(mode="after")
    def keeps_what_there_is(self) -> Self:
        if self.keep_endpoint and self.serve != "endpoint":
            raise ValueError("keep_endpoint needs with: endpoint; a transform leaves none to keep")
        if self.max_runtime != TRANSFORM_SECONDS_MAX and self.serve != "transform":
            raise ValueError("max_runtime needs with: transform; an endpoint is gone after two hours at the latest")
        return self


class ScoringOptions(Section):
    """How what arrives under scoring/ is predicted, by the champion that was trained with this recipe."""

    format: Literal["csv", "parquet"] = Field(
        default="csv", description="What [predictions](scoring.md) are written as"
    )
    instance_type: InstanceType = Field(
        default="ml.m5.large",
        description="Of the batch transform; where none is named, [the stack's](#instance-types)",
    )
    instance_count: int = Field(default=1, ge=1, le=10, description="Of the batch transform")
    max_runtime: Duration = Field(
        default=TRANSFORM_SECONDS_MAX,
        ge=TRANSFORM_SECONDS_MIN,
        le=TRANSFORM_SECONDS_MAX,
        description="Of the batch transform, the wait for instances included; it is taken down then",
    )


_GATE_PATTERN = r"^\s*(>=|<=|>|<)\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?\s*$"
GateText = Annotated[str, WithJsonSchema({"type": "string", "pattern": _GATE_PATTERN})]


class Gates(Section):
    """What a model must reach on the test rows before it may be used: a comparison for each metric that counts."""

    accuracy: GateText | None = None
    precision: GateText | None = None
    recall: GateText | None = None
    f1: GateText | None = None
    roc_auc: GateText | None = None
    rmse: GateText | None = None
    mae: GateText | None = None
    r2: GateText | None = None
    msd: GateText | None = None
    purity: GateText | None = None
    nmi: GateText | None = None

    @field_validator("*")
    @classmethod
    def is_a_gate(cls, text: str | None, field: ValidationInfo) -> str | None:
        if text is not None:
            parse_gate(str(field.field_name), text)
        return text

    @property
    def listed(self) -> list[Gate]:
        return [parse_gate(name, text) for name, text in self if text is not None]


class ChampionRule(Section):
    """By what a challenger must beat the recipe's model in use."""

    metric: str | None = Field(
        default=None,
        description="By which a new model has to [beat the champion](models.md#challenger-and-champion); else, by the"
        " task, `f1`, `accuracy` (multiclass), `rmse` or `msd`",
    )
    margin: float = Field(default=0, ge=0, allow_inf_nan=False, description="By how much it has to be better, at least")

    @field_validator("metric")
    @classmethod
    def is_a_metric(cls, metric: str | None) -> str | None:
        if metric is not None:
            check_metric(metric)
        return metric


class Limits(Section):
    instance_hours: float = Field(
        default=8,
        gt=0,
        le=10_000,
        description="Refused before anything starts: runtime times jobs times instances of the training may not exceed"
        " it; the [stack's own limit](#limits) counts what serves the model too",
    )


class InstanceHours(NamedTuple):
    """How long instances may be used at most: one for an hour is 1."""

    hours: float
    how: str
    """How that was computed."""
    keys: str
    """The recipe's keys that it follows from."""


def training_hours(recipe: "Recipe") -> InstanceHours:
    """What a recipe's training job, or all jobs of its search, may take."""
    training, tuning = recipe.training, recipe.tuning
    count, each = training.instance_count, training.max_runtime
    if tuning is None:
        how = f"1 job of {duration_text(each)} on {counted_instances(count)}"
        return InstanceHours(each * count / 3600, how, "training.max_runtime")
    keys = "training.max_runtime or tuning.max_jobs"
    all_jobs, parallel = tuning.max_jobs * each * count / 3600, tuning.max_parallel_jobs
    whole_search = parallel * tuning.max_runtime * count / 3600
    if whole_search < all_jobs:
        how = f"{parallel} at once for {duration_text(tuning.max_runtime)} on {counted_instances(count)} each"
        return InstanceHours(whole_search, how, "tuning.max_runtime, tuning.max_parallel_jobs")
    how = f"{tuning.max_jobs} jobs of {duration_text(each)} on {counted_instances(count)} each"
    return InstanceHours(all_jobs, how, keys)


def counted_instances(count: int) -> str:
    """`1 instance`, `2 instances`."""
    return "1 instance" if count == 1 else f"{count} instances"


class Recipe(Section):
    """A recipe, validated. Unknown keys are errors, so a key whose feature is not built is never silently ignored."""

    algorithm: str = Field(description="One of the built-in algorithms")
    data: DataOptions = DataOptions()
    hyperparameters: dict[str, HyperparameterValue] = Field(
        default_factory=dict, max_length=100, description="As SageMaker documents them for the algorithm"
    )
    training: TrainingOptions = TrainingOptions()
    tuning: TuningOptions | None = Field(
        default=None, description="A [search for hyperparameters](#tuning) instead of training once"
    )
    evaluation: EvaluationOptions = EvaluationOptions()
    gates: Gates = Field(
        default=Gates(),
        description="[What a model must reach](models.md#gates) on the test rows: a comparison for each metric that"
        ' counts, such as `f1: ">= 0.90"`',
    )
    champion: ChampionRule = ChampionRule()
    approval: Literal["automatic", "manual"] = Field(
        default="automatic",
        description="`manual`: a model that passes waits until [a person approves it](models.md#approvals)",
    )
    scoring: ScoringOptions = ScoringOptions()
    limits: Limits = Limits()

    def with_instance_types(self, *, training: str, evaluation: str, scoring: str) -> Self:
        """The recipe with these instance types where it names none itself."""
        chosen = {"training": training, "evaluation": evaluation, "scoring": scoring}
        sections = {name: getattr(self, name) for name in chosen}
        update = {
            name: section.model_copy(update={"instance_type": chosen[name]})
            for name, section in sections.items()
            if "instance_type" not in section.model_fields_set
        }
        return self.model_copy(update=update)

    @model_validator(mode="after")
    def names_a_built_in_algorithm(self) -> Self:
        if self.algorithm not in algorithms.ALGORITHMS:
            raise ValueError(
                f"algorithm: {self.algorithm[:40]!r} is not a built-in algorithm;"
                f" use one of {', '.join(algorithms.ALGORITHMS)}"
            )
        return self

    @model_validator(mode="after")
    def stays_within_its_limits(self) -> Self:
        training = training_hours(self)
        if training.hours > self.limits.instance_hours:
            raise ValueError(
                f"training: up to {training.hours:g} instance-hours ({training.how}), more than limits.instance_hours"
                f" allows ({self.limits.instance_hours:g}); lower {training.keys}, or raise the limit"
            )
        return self

    @model_validator(mode="after")
    def tunes_what_can_be_tuned(self) -> Self:
        if self.tuning is None:
            return self
        algorithm = algorithms.get(self.algorithm)
        goals = [metric.name for metric in algorithm.metrics if metric.goal is not None]
        channel = algorithm.validation_channel
        objectives = [name for name in goals if name.startswith(f"{channel}:")]
        if self.tuning.objective not in objectives:
            raise ValueError(
                f"tuning.objective: {self.tuning.objective!r} does not judge {self.algorithm} by its validation rows;"
                f" use one of {', '.join(objectives)}"
            )
        if self.data.split.validation == 0:
            raise ValueError("data.split.validation: tuning needs validation rows to judge by")
        table = {row.name: row for row in algorithm.hyperparameters}
        for name, entry in self.tuning.ranges.items():
            if name not in table or table[name].hidden or name in _THE_DATAS_OWN:
                raise ValueError(f"tuning.ranges.{name}: {self.algorithm} has no such hyperparameter to tune")
            if name in self.hyperparameters:
                raise ValueError(
                    f"tuning.ranges.{name}: it is fixed under hyperparameters as well; keep one of the two"
                )
            whole = isinstance(table[name].kind, algorithms.Integer)
            if entry.categorical is None and (not _is_number(table[name]) or (whole and entry.continuous is not None)):
                kinds = "integer or categorical" if whole else "categorical"
                raise ValueError(f"tuning.ranges.{name}: it takes {table[name].expected}; give it as {kinds}")
            for bound in entry.bounds:
                try:
                    table[name].parse(bound)
                except algorithms.InvalidHyperparameters:
                    raise ValueError(
                        f"tuning.ranges.{name}: {bound[:40]!r} is outside what it takes, {table[name].expected}"
                    ) from None
        return self


_THE_DATAS_OWN = {"feature_dim", "num_classes", "predictor_type"}


def _is_number(row: algorithms.Hyperparameter) -> bool:
    return isinstance(row.kind, algorithms.Integer | algorithms.Real)


def built_in_recipe(name: str) -> Recipe | None:
    """The recipe of an algorithm's own name, used where the bucket holds none of that name."""
    return Recipe(algorithm=name) if name in algorithms.ALGORITHMS else None


def parse_recipe(text: str, name: str) -> Recipe:
    """Read a recipe.

    YAML is read as text first, so that `no` is a class name and not a truth value; the model gives the types.

    Raises:
        InvalidRecipe: naming each line that is wrong.
    """
    root = _compose(text, name)
    lines = dict(_lines(root, name))
    document = yaml.load(text, Loader=yaml.BaseLoader)  # noqa: S506  BaseLoader builds text only
    wrong = list(_wrong_hyperparameters(document, lines))
    try:
        recipe = Recipe.model_validate(document)
    except ValidationError as error:
        wrong += [_sentence(detail, lines) for detail in error.errors()]
    if not wrong:
        return recipe
    sentences = [f"line {line}: {said}" for line, said in sorted(wrong, key=lambda problem: problem[0])]
    if len(sentences) == 1:
        raise InvalidRecipe(f"recipe {name!r}, {sentences[0]}")
    raise InvalidRecipe(f"recipe {name!r} can't be used:\n{several(sentences)}")


_SAID_BY_DATA = {"feature_dim", "num_classes", "predictor_type"}
"""Hyperparameters that may be left to the data with the word `auto`, whatever the algorithm takes."""


def _wrong_hyperparameters(
    document: Mapping[str, Any], lines: Mapping[tuple[str | int, ...], int]
) -> Iterator[tuple[int, str]]:
    """Each hyperparameter that the recipe's algorithm does not know or take, with its line."""
    algorithm, given = document.get("algorithm"), document.get("hyperparameters")
    if not isinstance(algorithm, str) or algorithm not in algorithms.ALGORITHMS or not isinstance(given, dict):
        return
    table = {row.name: row for row in algorithms.get(algorithm).hyperparameters}
    for name, text in given.items():
        line = lines["hyperparameters", name]
        if name.startswith("_"):
            yield line, f"hyperparameters.{_cut(name)} is reserved for SageMaker itself; leave it out"
        elif name not in table:
            near = difflib.get_close_matches(name[:_SHOWN], table, n=1)
            known = [row.name for row in table.values() if not row.hidden]
            shown = ", ".join(known[:20]) + (", ..." if len(known) > 20 else "")
            advice = f"; did you mean {near[0]!r}?" if near else f"; it takes {shown}"
            yield line, f"unknown hyperparameter {_cut(name)!r} of {algorithm}{advice}"
        elif isinstance(text, str) and not (text == AUTO and name in _SAID_BY_DATA):
            try:
                table[name].parse(text)
            except algorithms.InvalidHyperparameters:
                expected = table[name].expected
                yield line, f"hyperparameters.{name}: {_cut(text)!r} is not a valid value; it takes {expected}"


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def _compose(text: str, name: str) -> yaml.MappingNode:
    try:
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text, Loader=yaml.BaseLoader)):
            raise InvalidRecipe(f"recipe {name!r} uses a YAML alias (*name); write the value out instead")
        root = yaml.compose(text, Loader=yaml.BaseLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "it can't be read"
        raise InvalidRecipe(f"recipe {name!r}{where}: not valid YAML: {problem}") from None
    except RecursionError:
        raise InvalidRecipe(f"recipe {name!r}: nested too deeply") from None
    if root is None:
        raise InvalidRecipe(f"recipe {name!r} is empty; it needs at least the line `algorithm: ...`")
    if not isinstance(root, yaml.MappingNode):
        raise InvalidRecipe(f"recipe {name!r} must be a mapping of keys to values, such as `algorithm: kmeans`")
    return root


def _lines(node: yaml.Node, name: str, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], int]]:
    yield path, node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise InvalidRecipe(f"recipe {name!r}, line {key.start_mark.line + 1}: a key must be plain text")
            if key.value in seen:
                raise InvalidRecipe(
                    f"recipe {name!r}, line {key.start_mark.line + 1}: {key.value!r} is given twice; keep one of them"
                )
            seen.add(key.value)
            inner = dict(_lines(value, name, (*path, key.value)))
            yield from inner.items()
            yield (*path, key.value), key.start_mark.line + 1
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _lines(value, name, (*path, index))


def _sentence(detail: ErrorDetails, lines: Mapping[tuple[str | int, ...], int]) -> tuple[int, str]:
    path = tuple(detail["loc"])
    # A rule across fields belongs to the whole recipe; its message begins with the key that it is about.
    where = path or tuple(_plainly(detail).partition(":")[0].split("."))
    while where not in lines:
        where = where[:-1]
    key = ".".join(str(part) for part in path)
    if detail["type"] == "extra_forbidden":
        known = _known_keys(path[:-1])
        near = difflib.get_close_matches(str(path[-1]), known, n=1)
        advice = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}"
        said = f"unknown key {key!r}; {advice}"
    elif detail["type"] == "missing":
        said = f"{key!r} is missing"
    else:
        message = _plainly(detail)
        said = f"{key}: {message[0].lower()}{message[1:]}" if key else message
    return lines[where], said


_BOUNDS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
_PLAIN = {
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a whole number, and not such a large one",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "string_type": "must be a single value, neither a list nor a mapping",
    "list_type": "must be a list, such as [a, b]",
    "tuple_type": "must be a list, such as [a, b]",
    "dict_type": "must be a mapping of keys to values",
    "model_type": "must be a mapping of keys to values",
    "model_attributes_type": "must be a mapping of keys to values",
}


def _plainly(detail: ErrorDetails) -> str:
    """What is wrong, in the words of somebody who writes recipes."""
    kind, context = detail["type"], detail.get("ctx", {})
    bound = next(((word, context[name]) for name, word in _BOUNDS.items() if name in context), None)
    if bound is not None:
        word, value = bound
        return f"must be {word} {duration_text(value) if isinstance(detail['input'], _Seconds) else value}"
    if kind == "literal_error":
        expected = str(context["expected"])
        return f"must be {expected}" if " or " in expected else f"can only be {expected.strip(chr(39))} for now"
    if kind == "string_pattern_mismatch" and detail["loc"][-1:] == ("instance_type",):
        return "must be an instance type, such as ml.m5.xlarge"
    if "max_length" in context:
        return f"is too long: at most {context['max_length']}"
    if "min_length" in context:
        return f"is too short: at least {context['min_length']}"
    return _PLAIN.get(kind, detail["msg"].removeprefix("Value error, "))


def _known_keys(path: tuple[str | int, ...]) -> list[str]:
    model: type[BaseModel] = Recipe
    for part in path:
        annotation = model.model_fields[str(part)].annotation if part in model.model_fields else None
        sections = [kind for kind in (annotation, *get_args(annotation)) if _is_section(kind)]
        if not sections:
            return []
        model = sections[-1]
    return [field.alias or name for name, field in model.model_fields.items()]


def _is_section(kind: Any) -> TypeGuard[type[BaseModel]]:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
