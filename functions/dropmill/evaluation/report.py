"""The report of a run: one HTML page that needs nothing else, for the screen, the dark and the printer."""

import base64
import math
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np

from dropmill.classes import class_names
from dropmill.contracts import (
    ChampionMetrics,
    CreatedModel,
    FileFormat,
    Layout,
    Part,
    Plan,
    SealedDataset,
    Task,
    TrainedModel,
    TransformedRows,
)
from dropmill.evaluation import pictures
from dropmill.evaluation.judging import IMAGE_CLUSTERS_MAX, MEMBERS_SHOWN, Cluster, Gallery, Judged
from dropmill.evaluation.metrics import Counts, precision_recall_f1
from dropmill.evaluation.names import DIRECTIONS, Direction, metric_text

TABLE_CLASSES_MAX = 40
_CLASSES_LISTED_MAX = 200
_CLUSTERS_LISTED_MAX = 100
_PAIRS_LISTED = 10
_FEW_ROWS = 100

_MEANINGS = {
    "accuracy": "The share of rows that got the right class.",
    "precision": "Of the rows that were given a class, the share that belong to it.",
    "recall": "Of the rows that belong to a class, the share that were found.",
    "f1": "The harmonic mean of precision and recall: high only if both are.",
    "roc_auc": "The chance that a row of a class is scored above a row that is not of it. 0.5 is guessing.",
    "rmse": "The root of the mean squared error, in the label's own unit. Large errors weigh most.",
    "mae": "The mean error without its sign, in the label's own unit.",
    "r2": "The share of the label's variance that is explained. Always answering the mean gives 0.",
    "msd": "The mean squared distance of a row to the closest cluster centre.",
    "purity": "The share of rows that carry the commonest label of their cluster.",
    "nmi": "What cluster and label tell about each other: 0 nothing, 1 everything (normalised mutual information).",
}
_HEADLINE_METRICS = {
    Task.BINARY: ("f1", "precision", "recall", "roc_auc"),
    Task.MULTICLASS: ("accuracy", "f1", "roc_auc"),
    Task.REGRESSION: ("r2", "rmse", "mae"),
    Task.CLUSTERING: ("purity", "nmi", "msd"),
}

_NOTHING = '<td class="n b">–</td>'
"""The cell of a share that has nothing to be a share of."""

_FORMATS = {
    FileFormat.CSV: "CSV",
    FileFormat.JSON_LINES: "JSON Lines",
    FileFormat.PARQUET: "Parquet",
    FileFormat.NPY: ".npy",
    FileFormat.NPZ: ".npz",
    FileFormat.PICKLE: "pickle",
    FileFormat.IDX: "IDX",
    FileFormat.LIBSVM: "LIBSVM",
    FileFormat.RECORDIO: "recordIO-protobuf",
}
_DELIMITERS = {"\t": "TSV", ";": "CSV with semicolons", "|": "CSV with vertical bars"}

_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c2126; --soft: #5b6670; --line: #c9d0d6; --wash: #f4f6f8;
  --accent: #0072b2; --warn: #fff4e0; --warn-line: #d98e04; }
@media (prefers-color-scheme: dark) { :root { --paper: #14181c; --ink: #e4e8eb; --soft: #9aa5ae; --line: #46515a;
  --wash: #1d2328; --accent: #5ab4e6; --warn: #2e2612; --warn-line: #b97a08; } }
@media print { :root { color-scheme: light; --paper: #fff; --ink: #000; --soft: #444; --line: #aaa; --wash: #f6f6f6;
  --accent: #0072b2; --warn: #fff; } section, figure, tr { break-inside: avoid; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.75rem; line-height: 1.25; margin: .25rem 0 .5rem; text-wrap: balance; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.75rem 0 .75rem; padding-top: 1rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
p { max-width: 46rem; margin: .5rem 0; }
.eyebrow, .soft, figcaption, caption { color: var(--soft); font-size: .875rem; }
.eyebrow { margin: 0; }
.lead { font-size: 1.0625rem; }
.facts { display: flex; flex-wrap: wrap; gap: .25rem 2rem; margin: 1.25rem 0; }
.facts dt { color: var(--soft); font-size: .8125rem; }
.facts dd { margin: 0; overflow-wrap: anywhere; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(10rem, 1fr)); gap: .75rem; margin: 1.5rem 0; }
.tile { background: var(--wash); border-radius: .5rem; padding: .875rem 1rem; }
.tile b { display: block; font-size: 1.75rem; line-height: 1.2; font-variant-numeric: tabular-nums; }
.note { background: var(--warn); border-left: 3px solid var(--warn-line); padding: .5rem .875rem; margin: .75rem 0;
  max-width: none; }
.scroll { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; font-size: .9375rem; font-variant-numeric: tabular-nums; margin: .5rem 0 1rem; }
caption { text-align: left; padding-bottom: .375rem; }
th, td { text-align: left; padding: .3rem .875rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; }
thead th { color: var(--soft); font-size: .8125rem; vertical-align: bottom; }
.n { text-align: right; white-space: nowrap; }
.b { padding-right: 6.375rem; }
th, td { overflow-wrap: break-word; }
.matrix td, .matrix th { padding: .2rem .5rem; text-align: right; overflow-wrap: normal; }
.matrix .hit { font-weight: 600; }
.matrix .none { color: var(--soft); }
.bar { display: inline-block; width: 5rem; height: .5rem; margin-left: .5rem; background: var(--wash); }
@media (max-width: 40rem) { .bar { display: none; } .b { padding-right: .875rem; } th, td { padding-right: .625rem; } }
.bar i { display: block; height: 100%; background: var(--accent); print-color-adjust: exact; }
figure { margin: 1rem 0; }
.chart svg { max-width: 100%; height: auto; font-family: inherit; }
.chart svg * { stroke-linejoin: round; stroke-linecap: butt; }
.sheet { display: flex; flex-wrap: wrap; gap: .5rem; margin: .5rem 0 1.25rem; }
.sheet figure { margin: 0; text-align: center; }
.sheet img { display: block; width: 3.5rem; height: 3.5rem; image-rendering: pixelated; border-radius: 2px; }
.sheet .mean img { outline: 2px solid var(--accent); outline-offset: 1px; }
.sheet .mean { margin-right: .5rem; }
.sheet figcaption { font-size: .75rem; line-height: 1.4; min-height: 1em; max-width: 5.5rem; overflow-wrap: anywhere; }
.sheet .odd { color: var(--ink); font-weight: 600; }
.pair { display: flex; flex-wrap: wrap; gap: 0 3rem; }
.pair > div { min-width: 0; max-width: 100%; }
summary { cursor: pointer; color: var(--accent); }
code { font: .875em ui-monospace, "SF Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere; }
footer { margin-top: 3rem; color: var(--soft); font-size: .875rem; }
"""


def render(
    plan: Plan,
    dataset: SealedDataset,
    judged: Judged,
    *,
    training: TrainedModel | None = None,
    sampled_from: int | None = None,
    model: CreatedModel | None = None,
    champion: ChampionMetrics | None = None,
) -> str:
    """The page. `sampled_from` is the number of test rows where only a sample of them was judged.

    `model` says how the model was served, `champion` what the champion made of the same rows.

    Everything that came with a drop or a recipe is escaped; the page asks for nothing from anywhere.
    """
    headline, detail = _headline(judged)
    body = "".join(
        (
            f'<p class="eyebrow">Dropmill report · run <code>{escape(plan.run_id)}</code></p>',
            f"<h1>{escape(headline)}</h1>",
            f'<p class="lead">{escape(detail)}</p>' if detail else "",
            _facts(plan, judged),
            "".join(f'<p class="note">{escape(note)}</p>' for note in notes(plan, dataset, judged, sampled_from)),
            _tiles(judged),
            _section("Metrics", _metrics_table(judged)),
            _section("Against the champion", _against_champion(judged, model, champion)),
            _results(judged),
            _misread(judged),
            _section("Dataset", _dataset(plan, dataset)),
            _section("What is odd about the data", _listing(dataset.warnings)),
            _section("Training", _training(plan, dataset, training)),
            _section("Batch transform", _transforms(plan, model)),
            _footer(judged),
        )
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
        'img-src data:">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(plan.recipe_name)}: {escape(headline)}</title><style>{_STYLE}</style></head>"
        f"<body><main>{body}</main></body></html>\n"
    )


def _headline(judged: Judged) -> tuple[str, str]:
    """What the model does, in one sentence for everybody, and a second one for who reads on."""
    found = judged.metrics
    if judged.task is Task.BINARY and judged.confusion is not None:
        positive = _quoted(judged.names[1])
        if not judged.confusion[1].any():
            return (
                f"Can't be judged on {positive}: no held-out row has it",
                f"It calls {judged.confusion[0, 1]:,} of {judged.rows:,} held-out rows {positive} by mistake.",
            )
        if not judged.confusion[:, 1].any():
            return f"Never answers {positive}", f"{judged.confusion[1].sum():,} of the held-out rows are {positive}."
        return (
            f"Finds {_percent(found['recall'])} of the rows labelled {positive}, and is right for "
            f"{_percent(found['precision'])} of those it calls {positive}",
            f"It misses {judged.confusion[1, 0]:,} of {judged.confusion[1].sum():,} such rows and calls "
            f"{judged.confusion[0, 1]:,} others {positive} by mistake. {_baseline(judged)}",
        )
    if judged.task is Task.MULTICLASS and judged.confusion is not None:
        _, recall, _ = precision_recall_f1(judged.confusion)
        present = np.flatnonzero(judged.confusion.sum(axis=1))
        weakest = int(present[recall[present].argmin()])
        return (
            f"Gets {_percent(found['accuracy'])} of {judged.rows:,} held-out rows right",
            f"Its weakest of {len(judged.names)} classes is {_quoted(judged.names[weakest])}, of which it finds "
            f"{_percent(float(recall[weakest]))}. {_baseline(judged)}",
        )
    if judged.task is Task.REGRESSION:
        off = f"{metric_text(found['mae'])} off on average" if "mae" in found else "too far off to say by how much"
        if "r2" not in found:
            return f"Is {off}", "The label does not vary among the held-out rows, so nothing can be explained."
        if found["r2"] <= 0:
            return f"Does no better than always answering the mean: {off}", "Its r2 is not above zero."
        return f"Explains {_percent(found['r2'])} of the label's variance; {off}", ""
    filled = sum(cluster.rows > 0 for cluster in judged.clusters)
    into = f"Sorts {judged.rows:,} held-out rows into {filled} cluster{'s' if filled != 1 else ''}"
    empty = len(judged.clusters) - filled
    left = f"{empty} of {len(judged.clusters)} clusters got no held-out row. " if empty else ""
    if "purity" not in found:
        return into, f"{left}The rows have no labels to compare the clusters with."
    return (
        f"{into}; {_percent(found['purity'])} carry their cluster's commonest label",
        f"{left}Labels were used to judge only, not to train.",
    )


def _baseline(judged: Judged) -> str:
    if judged.confusion is None:
        return ""
    actual = judged.confusion.sum(axis=1)
    commonest = int(actual.argmax())
    share = float(actual[commonest]) / max(judged.rows, 1)
    return f"Always answering {_quoted(judged.names[commonest])} would be right for {_percent(share)}."


def _facts(plan: Plan, judged: Judged) -> str:
    facts = (
        ("Recipe", plan.recipe_name),
        ("Algorithm", plan.recipe.algorithm),
        ("Drop", plan.drop.file_name),
        ("Judged on", f"{judged.rows:,} rows it never saw"),
        ("Started", f"{plan.created_at:%Y-%m-%d %H:%M} {plan.created_at.tzname() or ''}".strip()),
    )
    items = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts)
    return f'<dl class="facts">{items}</dl>'


def notes(plan: Plan, dataset: SealedDataset, judged: Judged, sampled_from: int | None) -> list[str]:
    """What to know before believing the metrics, a sentence or two each."""
    found = list(judged.notes)
    if sampled_from is not None:
        most = plan.recipe.evaluation.max_rows
        reason = (
            f"the recipe's evaluation.max_rows is {most:,}"
            if judged.rows >= most
            else "the test part is too large to be read whole"
        )
        found.append(
            f"Judged on a random sample of {judged.rows:,} of {sampled_from:,} test rows (seed "
            f"{plan.recipe.data.split.seed}), because {reason}."
        )
    if judged.rows < _FEW_ROWS:
        found.append(f"Only {judged.rows:,} rows were held out, so the metrics are rough.")
    if judged.confusion is not None:
        found += _class_notes(judged, judged.confusion)
    train, validation = dataset.parts.get(Part.TRAIN), dataset.parts.get(Part.VALIDATION)
    if train is not None and validation is not None and train.rows and not validation.rows:
        found.append("There were no validation rows.")
    return found


def _class_notes(judged: Judged, confusion: Counts) -> list[str]:
    """Classes that have no held-out rows, and those that the model never answers though they have."""
    actual, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    found = []
    missing = np.flatnonzero(actual == 0).tolist()
    if missing:
        several = len(missing) > 1
        found.append(
            f"No held-out row is of class{'es' if several else ''} {_listed(judged.names, missing)}, so the model "
            f"can't be judged on {'them' if several else 'it'}. More rows, or a larger data.split.test, would help."
        )
    unanswered = np.flatnonzero((actual > 0) & (predicted == 0)).tolist()
    if unanswered and (judged.task is Task.MULTICLASS or 1 in unanswered):
        found.append(f"The model never answers {_listed(judged.names, unanswered)}; precision is then counted as 0.")
    return found


def _listed(names: Sequence[str], indexes: Sequence[int]) -> str:
    more = f" and {len(indexes) - 10} more" if len(indexes) > 10 else ""
    return ", ".join(_quoted(names[index]) for index in indexes[:10]) + more


def _quoted(name: str) -> str:
    """A class's name in a sentence, where a bare number would read as a count."""
    return f"'{name}'"


def _tiles(judged: Judged) -> str:
    names = [name for name in _HEADLINE_METRICS[judged.task] if name in judged.metrics] or list(judged.metrics)
    tiles = "".join(
        f'<div class="tile"><b>{metric_text(judged.metrics[name])}</b>{escape(_display(name))}</div>' for name in names
    )
    return f'<div class="tiles">{tiles}</div>'


def _metrics_table(judged: Judged) -> str:
    rows = [
        (
            f"<th scope=row>{escape(_display(name))}</th>"
            f'<td class="n">{metric_text(judged.metrics[name])}</td>'
            f"<td>{'higher' if DIRECTIONS[name] is Direction.MAXIMIZE else 'lower'}</td>"
            f"<td>{escape(_meaning(name, judged))}{_interval(name, judged)}</td>"
        )
        for name in DIRECTIONS
        if name in judged.metrics
    ]
    macro = (
        "<p class=soft>Precision, recall, F1 and ROC AUC are means over the classes that have held-out rows, "
        "each counting the same.</p>"
        if judged.task is Task.MULTICLASS
        else ""
    )
    return _table(("Metric", "Value|n", "Better", "Meaning"), rows) + macro


def _against_champion(judged: Judged, model: CreatedModel | None, champion: ChampionMetrics | None) -> str:
    """What the model and the champion made of the same rows, metric by metric."""
    if model is None or model.champion is None:
        return ""
    package = f"model package <code>{escape(model.champion)}</code>"
    run = f", of run <code>{escape(model.champion_run)}</code>" if model.champion_run else ""
    if champion is None:
        reason = model.incomparable or "it was not asked"
        return f"<p>The champion, {package}{run}, could not be put to these rows: {escape(reason)}.</p>"
    rows = []
    for name in DIRECTIONS:
        mine, other = judged.metrics.get(name), champion.metrics.get(name)
        if mine is None and other is None:
            continue
        cells = "".join(f'<td class="n">{"–" if value is None else metric_text(value)}</td>' for value in (mine, other))
        rows.append(f"<th scope=row>{escape(_display(name))}</th>{cells}<td>{_comparison(name, mine, other)}</td>")
    table = _table(("Metric", "This model|n", "Champion|n", "Which is better"), rows)
    return f"<p>The champion is {package}{run}. Both were judged on the same {judged.rows:,} rows.</p>{table}"


def _comparison(name: str, mine: float | None, other: float | None) -> str:
    if mine is None or other is None:
        return "only one of them could be measured"
    if mine == other:
        return "equal"
    better = (mine > other) == (DIRECTIONS[name] is Direction.MAXIMIZE)
    return f"{'this model' if better else 'the champion'}, by {_number(abs(mine - other))}"


def _meaning(name: str, judged: Judged) -> str:
    if judged.task is Task.BINARY:
        positive = _quoted(judged.names[1])
        of_positive = {
            "precision": f"Of the rows that were called {positive}, the share that are {positive}.",
            "recall": f"Of the rows that are {positive}, the share that were found.",
            "roc_auc": f"The chance that a row that is {positive} is scored above one that is not. 0.5 is guessing.",
        }
        return of_positive.get(name, _MEANINGS[name])
    return _MEANINGS[name]


def _interval(name: str, judged: Judged) -> str:
    """The Wilson score interval of an accuracy: how far chance alone could move it."""
    if name != "accuracy" or not judged.rows:
        return ""
    share, rows, z = judged.metrics[name], judged.rows, 1.96
    middle = (share + z * z / (2 * rows)) / (1 + z * z / rows)
    half = z / (1 + z * z / rows) * math.sqrt(share * (1 - share) / rows + z * z / (4 * rows * rows))
    low, high = max(middle - half, 0.0), min(middle + half, 1.0)
    return f" With this many rows, chance leaves it between {low:.4f} and {high:.4f} (95%)."


def _results(judged: Judged) -> str:
    if judged.confusion is not None:
        return _section("Where it goes wrong", _classes(judged, judged.confusion))
    if judged.actual is not None and judged.predicted is not None:
        return _section("Errors", _errors(judged))
    if judged.table is not None:
        return _section("Clusters", _clusters(judged, judged.table))
    return ""


def _classes(judged: Judged, confusion: Counts) -> str:
    names = judged.names
    right = int(np.trace(confusion))
    parts = [
        _chart(
            pictures.confusion_picture(confusion, names),
            f"Confusion matrix of {len(names)} classes: {right:,} of {judged.rows:,} rows are on the diagonal.",
            "Each row holds the rows of one actual class, each column the rows of one answer. Blue is right, orange "
            "wrong; a stronger colour is a larger share of the actual class.",
        )
    ]
    if len(names) <= TABLE_CLASSES_MAX:
        matrix = _matrix(confusion, names, names, "actual", "predicted", diagonal=True)
        parts.append(f"<details><summary>The confusion matrix as a table</summary>{matrix}</details>")
    else:
        parts.append('<p class="soft">The whole matrix is in metrics.json, beside this report.</p>')
    parts.append(_pairs(confusion, names))
    parts.append(_per_class(confusion, names))
    if judged.positive is not None and judged.scores is not None and 0 < int(judged.positive.sum()) < judged.rows:
        parts.append(
            _chart(
                pictures.curves_picture(judged.positive, judged.scores, confusion),
                "ROC curve, and precision against recall, for every threshold on the score.",
                "What other thresholds on the score would give. The orange dot is the model's own threshold; the "
                "dashed lines are what guessing gives.",
            )
        )
    return "".join(parts)


def _pairs(confusion: Counts, names: Sequence[str]) -> str:
    """The commonest mistakes of a classifier with more than two classes."""
    if len(names) < 3:
        return ""
    wrong = confusion * ~np.eye(len(names), dtype=bool)
    order = np.argsort(-wrong, axis=None, kind="stable")[:_PAIRS_LISTED]
    rows = []
    for at in order:
        actual, predicted = divmod(int(at), len(names))
        count = int(wrong[actual, predicted])
        if count:
            share = count / int(confusion[actual].sum())
            rows.append(
                f"<td>{escape(names[actual])}</td><td>{escape(names[predicted])}</td>"
                f'<td class="n">{count:,}</td><td class="n">{_percent(share)}</td>'
            )
    if not rows:
        return "<p>No row was misread.</p>"
    return "<h3>Commonest mistakes</h3>" + _table(("Actual", "Predicted", "Rows|n", "Share of the class|n"), rows)


def _per_class(confusion: Counts, names: Sequence[str]) -> str:
    precision, recall, f1 = precision_recall_f1(confusion)
    actual = confusion.sum(axis=1)
    listed = list(range(len(names)))
    title = "Class by class"
    if len(names) > _CLASSES_LISTED_MAX:
        present = np.flatnonzero(actual)
        listed = sorted(present[np.argsort(f1[present], kind="stable")][:_CLASSES_LISTED_MAX].tolist())
        title = f"The {len(listed)} weakest classes"
    rows = [
        (
            f"<th scope=row>{escape(names[index])}</th>"
            f'<td class="n">{actual[index]:,}</td>'
            + (f"{_bar(precision[index])}{_bar(recall[index])}{_bar(f1[index])}" if actual[index] else _NOTHING * 3)
        )
        for index in listed
    ]
    return f"<h3>{title}</h3>" + _table(("Class", "Rows|n", "Precision|b", "Recall|b", "F1|b"), rows)


def _errors(judged: Judged) -> str:
    if judged.actual is None or judged.predicted is None:
        return ""
    errors = judged.predicted.astype(np.float64) - judged.actual.astype(np.float64)
    quantiles = (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1)
    rows = [
        f"<th scope=row>{label}</th>"
        + "".join(f'<td class="n">{_number(float(value))}</td>' for value in np.quantile(values, quantiles))
        for label, values in (
            ("Actual", judged.actual),
            ("Predicted", judged.predicted),
            ("Predicted minus actual", errors),
        )
    ]
    headers = ("", "Least|n", "5%|n", "25%|n", "Median|n", "75%|n", "95%|n", "Most|n")
    chart = _chart(
        pictures.regression_picture(judged.actual, judged.predicted),
        "Predicted against actual values, and a histogram of the errors.",
        "On the dashed line the prediction is right. Errors beyond the ends of the histogram are counted in its outer "
        "bars.",
    )
    return chart + _table(headers, rows)


def _clusters(judged: Judged, table: Counts) -> str:
    labelled = bool(judged.names)
    listed = sorted(judged.clusters, key=lambda cluster: -cluster.rows)[:_CLUSTERS_LISTED_MAX]
    parts = [
        _chart(
            pictures.clusters_picture([cluster.number for cluster in judged.clusters], table, judged.names),
            f"Bars of the sizes of {min(len(judged.clusters), pictures.CLUSTERS_DRAWN_MAX)} clusters"
            + (", divided by label." if labelled else "."),
            "Held-out rows in each cluster"
            + (", by their labels: a bar of one colour is a cluster that found one label." if labelled else "."),
        )
    ]
    headers = ["Cluster", "Rows|n", "Share|n", "Mean distance|n"]
    if labelled:
        headers += ["Commonest label", "Its share|b"]
    rows = []
    for cluster in listed:
        cells = (
            f"<th scope=row>{cluster.number}</th>"
            f'<td class="n">{cluster.rows:,}</td><td class="n">{_percent(cluster.rows / judged.rows)}</td>'
            f'<td class="n">{"" if cluster.mean_distance is None else _number(cluster.mean_distance)}</td>'
        )
        if labelled:
            cells += f"<td>{escape(cluster.label or '')}</td>"
            cells += '<td class="n"></td>' if cluster.share is None else _bar(cluster.share)
        rows.append(cells)
    parts.append(_table(headers, rows))
    if len(listed) < len(judged.clusters):
        parts.append(f'<p class="soft">The {len(listed)} largest of {len(judged.clusters)} clusters.</p>')
    if labelled and len(judged.names) <= TABLE_CLASSES_MAX:
        names = [str(cluster.number) for cluster in listed]
        matrix = _matrix(table[[cluster.number for cluster in listed]], names, judged.names, "cluster", "label")
        parts.append(f"<details><summary>Rows by cluster and label</summary>{matrix}</details>")
    parts.append(_members(judged, listed))
    return "".join(parts)


def _members(judged: Judged, listed: Sequence[Cluster]) -> str:
    shown = [cluster for cluster in listed if cluster.members is not None]
    if not shown:
        return ""
    parts = [
        "<h3>What is in them</h3><p class=soft>The framed picture is the mean of all rows of the cluster; beside it "
        f"are up to {MEMBERS_SHOWN} of its rows, from the closest to its centre to the farthest.</p>"
    ]
    for cluster in shown:
        if cluster.members is None or cluster.mean is None:
            continue
        said = f"Cluster {cluster.number}: {cluster.rows:,} row{'s' if cluster.rows != 1 else ''}"
        if cluster.label is not None and cluster.share is not None:
            said += f", {_percent(cluster.share)} of them {cluster.label}"
        mean = _image(
            pictures.image(cluster.mean, judged.brightest), f"Mean of cluster {cluster.number}", "mean", "mean"
        )
        images = "".join(
            _image(
                pictures.image(pixels, judged.brightest),
                f"Row of cluster {cluster.number}" + (f", label {caption}" if caption else ""),
                caption,
                "odd" if caption and caption != cluster.label else "",
            )
            for pixels, caption in zip(cluster.members.pixels, cluster.members.captions, strict=True)
        )
        parts.append(f'<p class="soft">{escape(said)}</p><div class="sheet">{mean}{images}</div>')
    return "".join(parts)


def _misread(judged: Judged) -> str:
    if not judged.misread:
        return ""
    multiclass = judged.task is Task.MULTICLASS
    parts = [
        "<p class=soft>The surest mistakes first. "
        + ("A caption says what the row is, then what the model made of it." if multiclass else "Captions are scores.")
        + "</p>"
    ]
    parts += [_gallery(gallery, judged.brightest) for gallery in judged.misread]
    return _section("Misread rows", "".join(parts))


def _gallery(gallery: Gallery, brightest: float) -> str:
    images = "".join(
        _image(pictures.image(pixels, brightest), f"Misread row: {caption}", caption)
        for pixels, caption in zip(gallery.pixels, gallery.captions, strict=True)
    )
    title = f"<h3>{escape(gallery.title)}</h3>" if gallery.title else ""
    return f'{title}<div class="sheet">{images}</div>'


def _dataset(plan: Plan, dataset: SealedDataset) -> str:
    features = f"{dataset.feature_dim:,} feature{'s' if dataset.feature_dim != 1 else ''}"
    sparse = ", kept sparse" if plan.layout.sparse_columns is not None else ""
    about = f"<p>{_drop(plan)}, {dataset.rows:,} rows, {features}{sparse}.{_conversion(plan, dataset)}</p>"
    split = plan.recipe.data.split
    how = (
        "The drop was divided already."
        if plan.layout.pre_split or any(file.part is not None for file in plan.files)
        else f"Rows were divided by a hash of their values (seed {split.seed}; {split.validation:.0%} validation, "
        f"{split.test:.0%} test), so that equal rows are never in two parts."
    )
    parts = [part for part in Part if part in dataset.parts]
    uses = {
        Part.TRAIN: "what the model learned from",
        Part.VALIDATION: "what training checked itself against",
        Part.TEST: "held out: no job ever saw them",
    }
    rows = [
        (
            f"<th scope=row>{part.value}</th>"
            f'<td class="n">{dataset.parts[part].rows:,}</td><td class="n">{len(dataset.parts[part].files):,}</td>'
            f'<td class="n">{_bytes(dataset.parts[part].size)}</td><td>{uses[part]}</td>'
        )
        for part in parts
    ]
    table = _table(("Part", "Rows|n", "Files|n", "Size|n", "Use"), rows)
    return f'{about}{table}<p class="soft">{how}</p>{_labels(plan, dataset, parts)}'


def _drop(plan: Plan) -> str:
    """Where the drop is, how large, and what it is made of."""
    drop, layout = plan.drop, plan.layout
    sources = [source for file in plan.files for source in (file.source, file.labels) if source is not None]
    size = sum(source.size for source in sources)
    kind = f"{'gzipped ' if layout.gzipped else ''}{_format(layout)}"
    if [source.key for source in sources] == [drop.key]:
        version = f", version <code>{escape(drop.version_id)}</code>" if drop.version_id else ""
        return f"<code>{escape(drop.uri)}</code>{version}: {_bytes(size)} {kind}"
    folder = drop.uri.rsplit("/", 1)[0] + "/"
    files = f"{len(sources):,} file{'s' if len(sources) != 1 else ''}"
    return f"The folder <code>{escape(folder)}</code>: {files} of {_bytes(size)} in all, {kind}"


def _format(layout: Layout) -> str:
    if layout.format is FileFormat.CSV:
        return _DELIMITERS.get(layout.delimiter, "CSV")
    return _FORMATS[layout.format]


def _conversion(plan: Plan, dataset: SealedDataset) -> str:
    said = ""
    if dataset.shards is not None and dataset.shards > 1:
        said += f" They were converted in {dataset.shards:,} shards."
    if plan.layout.fill is not None:
        filling = "0" if plan.recipe.data.missing == "0" else "the mean of its column"
        said += f" A missing value counts as {filling}."
    return said


def _listing(texts: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(text)}</li>' for text in texts)}</ul>" if texts else ""


def _labels(plan: Plan, dataset: SealedDataset, parts: Sequence[Part]) -> str:
    counts = [dataset.parts[part].label_counts for part in parts]
    labels = sorted({label for count in counts for label in count}, key=float)
    if not labels:
        return ""
    listed = labels[:_CLASSES_LISTED_MAX]
    # Of a classifier the class indexes were counted, of clusters the labels themselves.
    names = class_names(plan) if plan.task in (Task.BINARY, Task.MULTICLASS) else plan.layout.classes or []
    rows = [
        f"<th scope=row>{escape(_label(label, names))}</th>"
        + "".join(f'<td class="n">{count.get(label, 0):,}</td>' for count in counts)
        for label in listed
    ]
    more = (
        f'<p class="soft">The first {len(listed)} of {len(labels):,} labels.</p>' if len(listed) < len(labels) else ""
    )
    table = _table(("Label", *(f"{part.value}|n" for part in parts)), rows)
    if len(labels) > 20:
        return f"<details><summary>Rows by label</summary>{table}{more}</details>"
    return f"<h3>Rows by label</h3>{table}"


def _training(plan: Plan, dataset: SealedDataset, training: TrainedModel | None) -> str:
    hyperparameters = [
        f"<th scope=row><code>{escape(name)}</code></th><td>{escape(value)}</td>"
        for name, value in sorted(dataset.hyperparameters.items())
    ]
    options = plan.recipe.training
    about = (
        f"Trained with {escape(plan.recipe.algorithm)} on {options.instance_count} × {escape(options.instance_type)}"
    )
    job = f"<p>{about}.</p>{_search(plan, training)}"
    logged = ""
    if training is not None:
        job = (
            f"<p>{about}, job <code>{escape(training.training_job)}</code>, "
            f"{training.billable_seconds:,} billable second{'s' if training.billable_seconds != 1 else ''}. "
            f"The model is <code>{escape(training.artifact)}</code>.</p>{_search(plan, training)}"
        )
        metrics = [
            f'<th scope=row><code>{escape(name)}</code></th><td class="n">{_number(value)}</td>'
            for name, value in sorted(training.metrics.items())
            if name != "ObjectiveMetric"  # SageMaker's second name for the objective
        ]
        logged = f"<div><h3>Metrics of the job</h3>{_table(('Name', 'Value|n'), metrics)}</div>" if metrics else ""
    table = _table(("Name", "Value"), hyperparameters)
    return f'{job}<div class="pair"><div><h3>Hyperparameters</h3>{table}</div>{logged}</div>'


def _transforms(plan: Plan, model: CreatedModel | None) -> str:
    """The jobs that answered the test rows, where no endpoint did."""
    if model is None:
        return ""
    jobs = [("This model", model.transform), ("Champion", model.champion_transform)]
    rows = [_transform(whose, job) for whose, job in jobs if job is not None]
    if not rows:
        return ""
    options = plan.recipe.evaluation
    table = _table(("Whose answers", "Job", "Billable seconds|n", "Where they are"), rows)
    return f"<p>The test rows were answered on {options.instance_count} × {escape(options.instance_type)}.</p>{table}"


def _transform(whose: str, job: TransformedRows) -> str:
    return (
        f"<th scope=row>{whose}</th><td><code>{escape(job.transform_job)}</code></td>"
        f'<td class="n">{job.billable_seconds:,}</td><td><code>{escape(job.output)}</code></td>'
    )


def _search(plan: Plan, training: TrainedModel | None) -> str:
    tuning = plan.recipe.tuning
    if tuning is None:
        return ""
    found = training.hyperparameters if training else {}
    rows = []
    for name, entry in tuning.ranges.items():
        tried = ", ".join(entry.categorical) if entry.categorical is not None else " to ".join(entry.bounds)
        best = escape(found.get(name, "–"))
        rows.append(f"<th scope=row><code>{escape(name)}</code></th><td>{escape(tried)}</td><td>{best}</td>")
    job = f", job <code>{escape(training.tuning_job)}</code>" if training and training.tuning_job else ""
    return (
        f"<p>The best of up to {tuning.max_jobs} training jobs by <code>{escape(tuning.objective)}</code>,"
        f" a {tuning.strategy} search{job}; the seconds are those of all its jobs.</p>"
        f"<h3>What was searched</h3>{_table(('Hyperparameter', 'Tried', 'Found best'), rows)}"
    )


def _footer(judged: Judged) -> str:
    rule = f" {pictures.IMAGE_RULE}" if judged.misread or any(cluster.members for cluster in judged.clusters) else ""
    many = (
        f" Pictures are shown for up to {IMAGE_CLUSTERS_MAX} clusters."
        if len(judged.clusters) > IMAGE_CLUSTERS_MAX
        else ""
    )
    return f"<footer><p>The numbers are in metrics.json beside this page.{rule}{many}</p></footer>"


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>" if body else ""


def _chart(svg: str, alternative: str, caption: str) -> str:
    labelled = svg.replace("<svg ", f'<svg role="img" aria-label="{escape(alternative)}" ', 1)
    return f'<figure class="chart">{labelled}<figcaption>{escape(caption)}</figcaption></figure>'


def _image(png: bytes, alternative: str, caption: str, kind: str = "") -> str:
    data = base64.b64encode(png).decode("ascii")
    return (
        f'<figure class="{kind}"><img alt="{escape(alternative)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _table(headers: Sequence[str], rows: Iterable[str]) -> str:
    """A table of cells that are HTML already. A header `text|n` heads a column of numbers, `text|b` one with bars."""
    classes = {"": "", "n": ' class="n"', "b": ' class="n b"'}
    heads = ""
    for header in headers:
        text, _, kind = header.partition("|")
        heads += f"<th scope=col{classes[kind]}>{escape(text)}</th>"
    lines = "".join(f"<tr>{row}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table></div>'


def _matrix(
    counts: Counts, rows: Sequence[str], columns: Sequence[str], down: str, across: str, *, diagonal: bool = False
) -> str:
    heads = "".join(f"<th scope=col>{escape(name)}</th>" for name in columns)
    lines = []
    for index, name in enumerate(rows):
        cells = "".join(
            f'<td class="{"hit" if diagonal and at == index else "none" if not count else ""}">{count:,}</td>'
            for at, count in enumerate(counts[index].tolist())
        )
        lines.append(f"<tr><th scope=row>{escape(name)}</th>{cells}</tr>")
    return (
        f'<div class="scroll"><table class="matrix"><caption>Rows: {down}. Columns: {across}.</caption>'
        f"<thead><tr><td></td>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _bar(share: float) -> str:
    return (
        f'<td class="n">{_percent(float(share))}'
        f'<span class="bar" aria-hidden="true"><i style="width:{100 * float(share):.1f}%"></i></span></td>'
    )


def _display(name: str) -> str:
    shown = {"f1": "F1", "roc_auc": "ROC AUC", "rmse": "RMSE", "mae": "MAE", "r2": "R²", "msd": "MSD", "nmi": "NMI"}
    return shown.get(name, name.capitalize())


def _label(text: str, names: Sequence[str]) -> str:
    """A label as people write it, from the target label that was counted: a class index, or a raw value."""
    value = float(text)
    return names[int(value)] if 0 <= value < len(names) else f"{value:g}"


def _number(value: float) -> str:
    """At most four digits, whole numbers in full below a million."""
    if 1000 <= abs(value) < 1e6:
        return f"{value:,.0f}"
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:.3e}"


def _percent(share: float) -> str:
    """A share with one decimal, which never rounds to none or all where it is neither."""
    if 0 < share < 0.0005:
        return "<0.1%"
    if 0.9995 <= share < 1:
        return ">99.9%"
    return f"{share:.1%}"


def _bytes(size: int) -> str:
    value, unit = float(size), "bytes"
    for larger in ("KB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:,.0f} {unit}" if unit == "bytes" or value >= 100 else f"{value:.1f} {unit}"
