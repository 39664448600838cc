"""What the data decides where the recipe is silent: the task, and the hyperparameters that follow from the rows."""

import difflib
import json
from collections.abc import Iterator
from contextlib import contextmanager

from dropmill import algorithms
from dropmill.algorithms import InvalidHyperparameters
from dropmill.algorithms.hyperparameters import AUTO
from dropmill.columns import shortened, told_name, what_there_is
from dropmill.contracts import Layout, Task
from dropmill.errors import InvalidDrop, InvalidRecipe
from dropmill.gates import misplaced
from dropmill.labels import class_name, number_of
from dropmill.recipe import Recipe
from dropmill.words import Cell

CLASSES_MAX = 100
"""Labels of at most this many distinct whole numbers are classes; others are quantities."""

CLUSTERS_WITHOUT_LABELS = 10
NEIGHBORS = 10
FACTORS = 64

DECIDED_BY_ROWS = {"linear-learner": ("mini_batch_size",), "knn": ("sample_size",)}
"""What Seal Dataset fills in, once the rows have been counted."""


@contextmanager
def naming_recipe(name: str) -> Iterator[None]:
    """Whatever is wrong with the recipe is said with its name."""
    try:
        yield
    except InvalidRecipe as error:
        raise InvalidRecipe(f"recipe {name!r}: ", error.words) from None


def decide_task(recipe: Recipe, layout: Layout, file: str, *, scanned: bool = True) -> Task:
    """What is learned: as `predictor_type` says, else by the label's values.

    With `positive`, or two distinct values: binary. Texts, or three to 100 distinct whole numbers: multiclass. Else:
    regression. `scanned` says whether the label's values were looked at: of too large a drop the recipe must say.

    Raises:
        InvalidDrop: there is no label where the algorithm needs one, or it has a single value.
        InvalidRecipe: the label does not suit what the recipe asks for.
    """
    predictors = {Task(task): predictor for task, predictor in algorithms.get(recipe.algorithm).predictors.items()}
    if Task.CLUSTERING in predictors:
        return Task.CLUSTERING
    if not layout.labelled:
        raise InvalidDrop(f"{file}: {recipe.algorithm} needs a label, and there is ", *_no_label(layout))
    values = layout.label_values
    if values is not None and len(values) < 2:
        has = Cell(f"the label {_said(layout, values[0])}", "the same label") if values else "no label"
        raise InvalidDrop(f"{file}: every row has ", has, "; at least two different labels are needed")
    asked = recipe.hyperparameters.get("predictor_type")
    asked = None if asked == AUTO else asked
    if values is None and not scanned and asked is None and recipe.data.positive is None:
        raise InvalidRecipe(
            f"{file} is too large to look through all labels first, so the recipe must say what is learned: list them"
            " under data.classes, name one with data.positive, or set hyperparameters.predictor_type to regressor"
        )
    possible = [task for task, predictor in predictors.items() if asked in (None, predictor)] or list(predictors)
    task = _by_labels(recipe, layout)
    if task not in possible:
        # Asked for, it is held against the labels; else the nearest that the algorithm can learn is.
        task = possible[-1] if asked is not None else Task.BINARY
    _check_classes(recipe, task, layout, file, scanned=scanned)
    return task


def _by_labels(recipe: Recipe, layout: Layout) -> Task:
    values = layout.label_values
    if recipe.data.positive is not None or (values is not None and len(values) == 2):
        return Task.BINARY
    if layout.classes is not None:
        return Task.MULTICLASS
    if values is not None and len(values) <= CLASSES_MAX and all(value.is_integer() for value in values):
        return Task.MULTICLASS
    return Task.REGRESSION


def _said(layout: Layout, value: float) -> str:
    """A label as the user knows it."""
    return f"{value:g}" if layout.classes is None else repr(shortened(layout.classes[int(value)]))


def _no_label(layout: Layout) -> list[str | Cell]:
    if not layout.columns:
        return ["none in these rows; drop rows with labels"]
    advice = " say which one it is with data.label in the recipe; "
    return ["no column named 'label';", *_nearest(layout), advice, *what_there_is(layout.columns)]


def _nearest(layout: Layout) -> list[str | Cell]:
    near = [name for name in layout.columns if name.strip().lower() in ("label", "labels")]
    near = near or difflib.get_close_matches("label", layout.columns, n=1, cutoff=0.7)
    return [" did you mean ", told_name(layout.columns, near[0]), "?"] if near else []


def _check_classes(recipe: Recipe, task: Task, layout: Layout, file: str, *, scanned: bool) -> None:
    positive, values = recipe.data.positive, layout.label_values
    if positive is not None and task is not Task.BINARY:
        raise InvalidRecipe("data.positive makes a binary label; take it out, or ask for a binary_classifier")
    if task is Task.REGRESSION:
        if layout.classes is not None:
            said = "data.classes lists classes" if recipe.data.classes else f"the labels of {file} are texts"
            raise InvalidRecipe(f"{said}, and a regressor learns numbers; ask for a classifier, or change the label")
        return
    if positive is not None:
        _check_positive(positive, layout, file, scanned=scanned)
        return
    if values is None and not scanned:
        raise InvalidRecipe(
            f"{file} is too large to look through all labels first: list them under data.classes, or name the positive"
            " one with data.positive"
        )
    if values is None:
        raise InvalidDrop(f"{file}: the label column holds too many different values to be classes")
    if task is Task.BINARY and len(values) != 2:
        raise InvalidDrop(
            f"{file}: a binary classifier needs two labels, and there are {len(values)}",
            _some_classes(layout),
            "; name the positive one with data.positive in the recipe",
        )
    if task is Task.MULTICLASS and len(values) < 3:
        raise InvalidDrop(
            f"{file}: a multiclass classifier needs three labels or more, and there are {len(values)}",
            _some_classes(layout),
        )


def _some_classes(layout: Layout) -> Cell:
    """The first of the classes, in brackets. They come from rows, and a column that is no label may hold anything."""
    if layout.classes is None:
        return Cell("", "")
    return Cell(f" ({', '.join(map(shortened, layout.classes[:5]))}{', ...' if len(layout.classes) > 5 else ''})", "")


def _check_positive(positive: str, layout: Layout, file: str, *, scanned: bool) -> None:
    if layout.classes is not None:
        if class_name(positive) not in map(class_name, layout.classes):
            raise InvalidDrop(
                f"{file}: no row has the label {shortened(positive)!r} that data.positive names",
                Cell(f"; the labels are{_some_classes(layout).in_full()}", ""),
            )
        return
    number = number_of(positive)
    if number is None:
        advice = "" if scanned else "; of a drop as large as this, list all labels that are texts under data.classes"
        raise InvalidRecipe(f"data.positive is {shortened(positive)!r}, but the labels of {file} are numbers{advice}")
    if layout.label_values is None and scanned:
        raise InvalidDrop(f"{file}: the label column holds too many different values to be classes")
    if layout.label_values is not None and number not in layout.label_values:
        raise InvalidDrop(f"{file}: no row has the label {positive} that data.positive names")


_OBJECTIVES_OF = {
    Task.BINARY: ("binary_", "precision", "recall", "roc_auc_score", "accuracy", "objective_loss"),
    Task.MULTICLASS: ("multiclass_", "macro_", "dcg", "accuracy", "objective_loss"),
    Task.REGRESSION: ("mse", "rmse", "absolute_loss", "objective_loss"),
}
"""How the names of the metrics begin, behind their channel, that the algorithms print for a task."""


def check_objective(recipe: Recipe, task: Task) -> None:
    """A search by a metric that no job prints ends without a model, after all of its jobs were paid for.

    Raises:
        InvalidRecipe: the objective does not judge this task.
    """
    if recipe.tuning is None:
        return
    objective = recipe.tuning.objective
    metric = objective.split(":", 1)[1]
    if task is Task.CLUSTERING:
        printed = recipe.hyperparameters.get("eval_metrics", '["msd"]')
        if f'"{metric}"' not in printed or "eval_metrics" in recipe.tuning.ranges:
            raise InvalidRecipe(
                f"tuning.objective is {objective}, which is not printed: fix eval_metrics under hyperparameters"
                f" so that it names {metric!r}"
            )
    elif not metric.startswith(_OBJECTIVES_OF[task]):
        raise InvalidRecipe(f"tuning.objective is {objective}, which does not judge a {task.value} model")


def check_metrics(recipe: Recipe, layout: Layout, task: Task) -> None:
    """A model that is judged by what its task or its rows don't have can never be approved.

    Raises:
        InvalidRecipe: a gate or the champion's metric does not suit the task.
    """
    asked = {f"gates.{gate.metric}": gate.metric for gate in recipe.gates.listed}
    if recipe.champion.metric is not None:
        asked["champion.metric"] = recipe.champion.metric
    for key, metric in asked.items():
        for problem in misplaced([metric], task):
            raise InvalidRecipe(f"{key}: {problem}")
        if metric in _BY_LABELS and not layout.labelled:
            raise InvalidRecipe(f"{key}: {metric} compares clusters with labels, and these rows have none")
        if metric == "roc_auc" and recipe.algorithm == "knn":
            raise InvalidRecipe(f"{key}: roc_auc needs scores, and knn answers with labels alone")


_BY_LABELS = {"purity", "nmi"}
CLASS_NAMES_BYTES_MAX = 100_000
"""Well within a row of the ledger, where a champion's classes are kept; DynamoDB takes 400 KB."""


def check_class_names(layout: Layout, file: str) -> None:
    """Names of classes go wherever the model goes.

    Raises:
        InvalidDrop: they are too long, all together.
    """
    # As JSON, which is how they are kept: there a control character takes six bytes.
    quoted = (json.dumps(name, ensure_ascii=False) for name in layout.classes or [])
    size = sum(len(name.encode("utf-8", "replace")) - len('""') for name in quoted)
    if size > CLASS_NAMES_BYTES_MAX:
        raise InvalidDrop(
            f"{file}: the names of its {len(layout.classes or []):,} classes take {size:,} bytes, and may take"
            f" {CLASS_NAMES_BYTES_MAX:,}; give them shorter names"
        )


def planned_hyperparameters(recipe: Recipe, layout: Layout, task: Task) -> dict[str, str]:
    """The recipe's hyperparameters with what is known before conversion, checked by the algorithm's own rules.

    Raises:
        InvalidRecipe: one is unknown, out of its range, or contradicts the data.
    """
    algorithm = algorithms.get(recipe.algorithm)
    given = recipe.hyperparameters
    hidden = sorted(name for name in given if name.startswith("_"))
    if hidden:
        raise InvalidRecipe(f"hyperparameters.{hidden[0]} is reserved for SageMaker itself; leave it out")
    classes = len(layout.label_values or [])
    known = {"feature_dim": str(layout.feature_dim)}
    predictor = algorithm.predictors[task.value]
    if predictor is not None:
        known["predictor_type"] = predictor
    if any(row.name == "num_classes" for row in algorithm.hyperparameters) and task is Task.MULTICLASS:
        known["num_classes"] = str(classes)
    for name, value in known.items():
        if given.get(name, value) not in (value, "auto"):
            raise InvalidRecipe(
                f"hyperparameters.{name} is {given[name]}, but the dataset makes it {value}; leave it out"
            )
    chosen = _chosen(recipe.algorithm, classes)
    tuned = recipe.tuning.ranges if recipe.tuning else {}
    merged = {**{name: value for name, value in chosen.items() if name not in tuned}, **given, **known}
    try:
        algorithm.validate(merged, decided_later=(*DECIDED_BY_ROWS.get(recipe.algorithm, ()), *tuned))
    except InvalidHyperparameters as error:
        raise InvalidRecipe(f"hyperparameters: {str(error).removesuffix(' (caused by ValidationError)')}") from None
    return merged


def _chosen(algorithm: str, classes: int) -> dict[str, str]:
    """Defaults of ours for what SageMaker requires and the recipe need not say."""
    if algorithm == "kmeans":
        return {"k": str(classes if 2 <= classes <= CLASSES_MAX else CLUSTERS_WITHOUT_LABELS)}
    if algorithm == "knn":
        return {"k": str(NEIGHBORS)}
    if algorithm == "factorization-machines":
        return {"num_factors": str(FACTORS)}
    return {}


def sealed_hyperparameters(recipe: Recipe, planned: dict[str, str], training_rows: int) -> dict[str, str]:
    """The hyperparameters once the rows have been counted.

    Where the recipe is silent, Linear Learner's mini-batch is a tenth of the rows of one instance, at most its own
    default of 1000: more rows than there are fail the job, and few updates an epoch learn little. k-NN's sample is all
    training rows.

    Raises:
        InvalidRecipe: there are too few rows for what the recipe asks.
    """
    instances = recipe.training.instance_count
    rows_of_one = training_rows // instances
    defaults = {"mini_batch_size": max(1, min(1000, rows_of_one // 10)), "sample_size": training_rows}
    tuned = recipe.tuning.ranges if recipe.tuning else {}
    decided = (name for name in DECIDED_BY_ROWS.get(recipe.algorithm, ()) if name not in tuned)
    sealed = {**{name: str(defaults[name]) for name in decided}, **planned}
    bounded = {"kmeans": ("k",), "linear-learner": ("mini_batch_size",), "knn": ("k", "sample_size")}
    for name in bounded.get(recipe.algorithm, ()):
        largest = tuned[name].largest if name in tuned else sealed.get(name)
        shared = name == "mini_batch_size" and instances > 1
        rows = rows_of_one if shared else training_rows
        if largest is not None and float(largest) > rows:
            where = f"tuning.ranges.{name} goes up to" if name in tuned else f"hyperparameters.{name} is"
            each = f" for each of {instances} instances" if shared else ""
            raise InvalidRecipe(f"{where} {largest}, but there are {rows} training rows{each}; lower it")
    return sealed
