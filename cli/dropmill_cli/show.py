"""What commands print for people: states, metrics, confusion matrix, clusters, leases."""

import re
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, TextIO, cast

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from dropmill.contracts import BatchRecord, Decision, LeaseRecord, Metrics, RunKind, RunStatus
from dropmill.evaluation.names import metric_text
from dropmill_cli.logs import LogLine
from dropmill_cli.models import ModelLine
from dropmill_cli.runs import RunDocument, RunLine
from dropmill_cli.watch import Progress, State, now

CONFUSION_CLASSES_MAX = 20
MISTAKES_SHOWN = 10
_HEADLINES = ("f1", "accuracy", "purity", "rmse", "msd")
_PLAIN_WIDTH = 160


def clean(text: str) -> str:
    """Text from data, made harmless: what would steer a terminal (escape sequences, directions) becomes U+FFFD."""
    return "".join(
        "\ufffd" if unicodedata.category(letter) in {"Cc", "Cf"} and letter not in "\n\t" else letter for letter in text
    )


def console(file: TextIO | None = None) -> Console:
    """A console that takes no markup; where output goes to no terminal, tables are not folded to its width."""
    target = file or sys.stdout
    if target.isatty():
        return Console(file=target, markup=False, highlight=False, emoji=False)
    plain = cast(TextIO, _Trimmed(target))
    return Console(file=plain, width=_PLAIN_WIDTH, markup=False, highlight=False, emoji=False)


class _Trimmed:
    """A stream without the spaces that tables put at the end of lines."""

    def __init__(self, target: TextIO) -> None:
        self._target = target

    def write(self, text: str) -> int:
        return self._target.write(re.sub(r" +$", "", text, flags=re.MULTILINE))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)


def seconds_text(seconds: float, *, whole: bool = False) -> str:
    """`4.2 s`, `3 min 05 s`, `2 h 10 min`; `whole` where the clock that measured them knows no fractions."""
    if seconds < 100:
        return f"{seconds:.0f} s" if whole else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 100:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"


def moment_text(moment: datetime) -> str:
    """A moment in this machine's time zone, which is said."""
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")


def headline(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {metric_text(metrics[name])}" for name in _HEADLINES if name in metrics)


class Screen:
    """Shows an execution's progress: on a terminal one table kept up to date, else a line for each begin and end."""

    def __init__(self, to: Console, started: datetime) -> None:
        self._console = to
        self._started = started
        self._live: Any = None
        self._progress: Progress | None = None
        self._begun = 0
        self._ended: set[int] = set()

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Keep the table on the terminal while the block runs."""
        if not self._console.is_terminal:
            yield
            return
        from rich.live import Live

        with Live(console=self._console, get_renderable=self._render, refresh_per_second=8) as live:
            self._live = live
            yield

    def show(self, progress: Progress) -> None:
        self._progress = progress
        if self._live is None:
            self._print_news(progress)

    def _render(self) -> RenderableType:
        moment = (self._progress and self._progress.ended) or now()
        table = states_table(self._progress.states if self._progress else [], self._progress, moment)
        return Group(table, Text(f"{seconds_text(max(0.0, (moment - self._started).total_seconds()))} since the start"))

    def _print_news(self, progress: Progress) -> None:
        over = progress.status is not RunStatus.RUNNING
        for index, state in enumerate(progress.states):
            if index >= self._begun:
                self._begun = index + 1
                self._line(state.entered, f"{state.name} ...")
            if index not in self._ended and (state.exited is not None or over):
                self._ended.add(index)
                moment = state.exited or progress.ended or now()
                note = _note(state, progress)
                self._line(
                    moment, f"{state.name}: {seconds_text(state.seconds(moment))}" + (f" ({note})" if note else "")
                )

    def _line(self, moment: datetime, text: str) -> None:
        elapsed = max(0.0, (moment - self._started).total_seconds())
        self._console.print(Text(f"{elapsed:7.1f} s  {clean(text)}"), soft_wrap=True)


def _note(state: State, progress: Progress | None) -> str:
    if state.exited is None and progress is not None and progress.status is not RunStatus.RUNNING:
        return progress.status.value.lower().replace("_", " ")
    items = f"{state.done} of {state.items}" if state.items is not None and state.items != 1 else ""
    trouble = f"tried again after {state.trouble}" if state.trouble else ""
    return ", ".join(filter(None, (items, trouble)))


def states_table(states: Sequence[State], progress: Progress | None, moment: datetime) -> Table:
    table = _table("State", ">Time", "")
    for state in states:
        over = progress is not None and progress.status is not RunStatus.RUNNING
        style = "green" if state.exited else "red" if over else "yellow"
        table.add_row(
            Text(clean(state.name), style),
            Text(seconds_text(state.seconds(moment))),
            Text(clean(_note(state, progress))),
        )
    return table


def run_page(
    document: RunDocument,
    metrics: Metrics | None,
    progress: Progress | None = None,
    *,
    log: Sequence[LogLine] = (),
) -> Iterator[RenderableType]:
    """Everything about a run, piece by piece; `log` are the latest lines of what it failed by."""
    yield run_facts(document)
    if progress is not None and progress.states:
        yield Text()
        yield states_table(progress.states, progress, progress.ended or now())
    yield from results(document, metrics, log=log)
    if document.leases:
        yield Text()
        yield leases_table(document.leases)
        yield from (Text(f"Log of {lease.name}: {lease.log}") for lease in document.leases if lease.log)


def run_facts(document: RunDocument) -> Table:
    table = Table.grid(padding=(0, 2))
    facts = {
        "Run": document.run_id,
        "Status": document.status.value
        + ("" if document.seconds is None else f" after {seconds_text(document.seconds, whole=True)}"),
        "Recipe": document.recipe
        + (f" ({document.algorithm})" if document.algorithm not in {None, document.recipe} else ""),
    }
    if document.drop is not None:
        facts["Dropped"] = document.drop + (f" (version {document.version_id})" if document.version_id else "")
    facts["Started"] = moment_text(document.started_at)
    for name, value in facts.items():
        table.add_row(Text(name, "bold"), Text(clean(value)))
    return table


def results(document: RunDocument, metrics: Metrics | None, *, log: Sequence[LogLine] = ()) -> Iterator[RenderableType]:
    """How the run went: metrics and what they rest on, the whole reason of a failure, the report, the open leases."""
    if document.verdict is not None:
        yield Text()
        yield from verdict_lines(document, document.verdict)
    if document.batch is not None:
        yield Text()
        yield from batch_lines(document.batch)
    elif document.kind is RunKind.SCORING and document.status is RunStatus.SUCCEEDED:
        yield Text()
        yield Text(f"There was nothing new under scoring/{document.recipe}/.")
    shown = metrics.metrics if metrics else document.metrics
    if shown:
        yield Text()
        yield from metrics_table(shown, metrics)
    if metrics is not None and metrics.confusion:
        yield Text()
        yield from confusion_table(metrics)
    if metrics is not None and metrics.clusters:
        yield Text()
        yield clusters_table(metrics.clusters)
    if document.error or document.cause:
        yield Text()
        yield Text(f"{clean(document.error or document.status.value)}:", "bold red")
        told = document.cause if document.refusal is None else document.refusal.in_full()
        yield Text(clean(told or "no reason was given"))
    elif document.status not in {RunStatus.RUNNING, RunStatus.SUCCEEDED}:
        yield Text()
        yield Text(f"The run was {document.status.value.lower().replace('_', ' ')}.", "bold red")
    if log:
        yield Text()
        yield Text(f"The latest log lines of {clean(log[-1].resource)}:", "bold")
        yield from (Text(f"  {clean(line.text)}") for line in log)
    if metrics is not None and metrics.notes:
        yield Text()
        yield from (Text(f"Note: {clean(note)}", "yellow") for note in metrics.notes)
    yield Text()
    if document.report:
        yield Text(f"Report: {clean(document.report)}")
    yield Text(f"Open leases: {document.open_leases}", "" if document.open_leases == 0 else "yellow")


def verdict_lines(document: RunDocument, verdict: Decision) -> Iterator[RenderableType]:
    """What became of the model, and why."""
    styles = {Decision.APPROVED: "bold green", Decision.REJECTED: "bold red", Decision.WAITING: "bold yellow"}
    yield Text(f"Verdict: {verdict.value}", styles[verdict])
    yield from (Text(f"  {clean(reason)}") for reason in document.reasons)
    if verdict is Decision.WAITING:
        yield Text(f"Decide with: dropmill approve {document.run_id}, or dropmill reject {document.run_id}")
    if document.package:
        yield Text(f"Model package: {clean(document.package)}")


def batch_lines(batch: BatchRecord) -> Iterator[RenderableType]:
    """What a batch did, and what it left out."""
    yield Text(clean(batch.words), "bold green")
    yield Text(f"Predictions: {clean(batch.manifest)}")
    yield Text(f"By the model of {batch.training_run}: {clean(batch.model_package)}")
    yield from (Text(f"Set aside: {clean(reason.in_full())}", "yellow") for reason in batch.reasons)


def metrics_table(values: dict[str, float], metrics: Metrics | None) -> Iterator[RenderableType]:
    champion = metrics.champion.metrics if metrics and metrics.champion else None
    table = _table("Metric", ">Value", *([] if champion is None else [">Champion"]))
    for name, value in values.items():
        beside = [] if champion is None else [Text(metric_text(champion[name]) if name in champion else "")]
        table.add_row(Text(clean(name)), Text(metric_text(value)), *beside)
    yield table
    if metrics is not None:
        yield Text(
            f"on {metrics.rows:,} held-out rows" + (f" of {metrics.sampled_from:,}" if metrics.sampled_from else "")
        )


def confusion_table(metrics: Metrics) -> Iterator[RenderableType]:
    """The confusion matrix; of many classes only the commonest mistakes."""
    counts = metrics.confusion or []
    names = [clean(name) for name in metrics.classes] or [str(index) for index in range(len(counts))]
    if len(counts) <= CONFUSION_CLASSES_MAX:
        table = _table("actual \\ predicted", *(f">{name}" for name in names))
        for row, name in enumerate(names):
            cells = [
                Text(f"{count:,}", "bold green" if row == column else "" if count else "dim")
                for column, count in enumerate(counts[row])
            ]
            table.add_row(Text(name), *cells)
        yield table
        return
    mistakes = sorted(
        ((count, row, column) for row, line in enumerate(counts) for column, count in enumerate(line) if row != column),
        reverse=True,
    )[:MISTAKES_SHOWN]
    table = _table("Actual", "Predicted", ">Rows")
    for count, row, column in mistakes:
        if count:
            table.add_row(Text(names[row]), Text(names[column]), Text(f"{count:,}"))
    yield table
    yield Text(f"the commonest mistakes among {len(counts)} classes; the report has the whole matrix")


def clusters_table(clusters: list[dict[str, Any]]) -> Table:
    labelled = any(cluster.get("label") is not None for cluster in clusters)
    table = _table(">Cluster", ">Rows", ">Mean distance", *(["Commonest label", ">Share"] if labelled else []))
    for cluster in clusters:
        distance, share = cluster.get("mean_distance"), cluster.get("share")
        cells = [
            str(cluster.get("cluster", "")),
            f"{cluster.get('rows', 0):,}",
            "" if distance is None else metric_text(distance),
        ]
        if labelled:
            label = cluster.get("label")
            cells += ["" if label is None else str(label), "" if share is None else f"{share:.1%}"]
        table.add_row(*(Text(clean(cell)) for cell in cells))
    return table


def leases_table(leases: Sequence[LeaseRecord]) -> Table:
    table = _table("Lease", "Name", "State", ">Attempt", ">Billable")
    for lease in leases:
        style = "green" if lease.state == "closed" else "yellow"
        billable = "" if lease.billable_seconds is None else f"{lease.billable_seconds} s"
        table.add_row(lease.kind, Text(clean(lease.name)), Text(lease.state, style), str(lease.attempt), billable)
    return table


def runs_table(lines: Sequence[RunLine]) -> Table:
    # One zone for all: a column can't hold two without saying so in every line.
    zone = now().astimezone().tzinfo
    table = _table("Run", "Status", f"Started ({now().astimezone():%Z})", ">Time", "Outcome", ">Open leases")
    styles = {RunStatus.SUCCEEDED: "green", RunStatus.RUNNING: "yellow"}
    for line in lines:
        table.add_row(
            Text(line.run_id),
            Text(line.status.value, styles.get(line.status, "red")),
            line.started_at.astimezone(zone).strftime("%m-%d %H:%M:%S"),
            "" if line.seconds is None else seconds_text(line.seconds, whole=True),
            Text(clean(line.error or line.note or ": ".join(filter(None, (line.verdict, headline(line.metrics)))))),
            str(line.open_leases),
        )
    # What a narrow terminal folds; a run's id has to stay whole to be copied.
    for column in (table.columns[4], table.columns[5]):
        column.no_wrap = False
    return table


def models_table(lines: Sequence[ModelLine]) -> Table:
    zone = now().astimezone().tzinfo
    registered = f"Registered ({now().astimezone():%Z})"
    table = _table("Recipe", ">Version", "Status", "", "Run", registered, "Metrics", "Why")
    styles = {"Approved": "green", "Rejected": "red"}
    for line in lines:
        table.add_row(
            Text(line.recipe),
            str(line.version),
            Text(line.status, styles.get(line.status, "yellow")),
            Text("champion", "bold") if line.champion else "",
            Text(clean(line.run_id or "")),
            line.created_at.astimezone(zone).strftime("%m-%d %H:%M:%S"),
            Text(clean(", ".join(f"{name} {line.metrics[name]}" for name in _HEADLINES if name in line.metrics))),
            Text(clean(line.reason or "")),
        )
    # What a narrow terminal folds; a run's id has to stay whole to be copied.
    for column in table.columns[6:]:
        column.no_wrap = False
    return table


def _table(*columns: str) -> Table:
    """A plain table; a column whose title begins with `>` is right-aligned."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for title in columns:
        right = title.startswith(">")
        table.add_column(Text(title.removeprefix(">")), justify="right" if right else "left", no_wrap=True)
    return table
