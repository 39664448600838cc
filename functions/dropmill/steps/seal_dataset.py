"""Seal Dataset: prove that every shard and every row arrived once, and say what the rows decide."""

from collections import Counter

from dropmill.contracts import (
    Part,
    PartFile,
    Plan,
    Problem,
    RunReference,
    SealedDataset,
    SealedPart,
    SealedSummary,
    ShardReport,
    Shards,
    Task,
    listed,
)
from dropmill.decisions import naming_recipe, sealed_hyperparameters
from dropmill.errors import InvalidDrop
from dropmill.naming import dataset_key, plan_key, shard_report_key, shards_key
from dropmill.step import step
from dropmill.storage import read_document, write_document


def seal_dataset(request: RunReference) -> SealedSummary:
    """Raises InvalidDrop with up to ten of the problems that the shards found, or where too few rows are left."""
    plan = read_document(Plan, plan_key(request.run_id))
    shards = read_document(Shards, shards_key(request.run_id)).root
    reports = [read_document(ShardReport, shard_report_key(request.run_id, shard.number)) for shard in shards]
    problems: list[Problem] = [problem for report in reports for problem in report.problems]
    if problems:
        raise InvalidDrop(f"{plan.drop.file_name} can't be used:\n{listed(problems)}")
    parts = {part: _part(reports, part) for part in Part}
    _check(plan, parts, _few(reports))
    rows = sum(part.rows for part in parts.values())
    if rows != sum(report.rows for report in reports):
        raise InvalidDrop(f"{plan.drop.file_name}: rows were lost in conversion; drop it again")
    with naming_recipe(plan.recipe_name):
        hyperparameters = sealed_hyperparameters(plan.recipe, plan.hyperparameters, parts[Part.TRAIN].rows)
    dataset = SealedDataset(
        feature_dim=plan.layout.feature_dim, rows=rows, parts=parts, hyperparameters=hyperparameters
    )
    write_document(dataset_key(request.run_id), dataset)
    classes = len(plan.layout.label_values or []) if plan.task in (Task.BINARY, Task.MULTICLASS) else 0
    return SealedSummary(rows=rows, feature_dim=dataset.feature_dim, classes=classes)


def _part(reports: list[ShardReport], part: Part) -> SealedPart:
    files: list[PartFile] = [file for report in reports for file in report.files.get(part, [])]
    counts: Counter[str] = Counter()
    for report in reports:
        counts.update(report.label_counts.get(part, {}))
    return SealedPart(
        rows=sum(file.rows for file in files),
        size=sum(file.size for file in files),
        files=files,
        label_counts=dict(counts),
    )


def _few(reports: list[ShardReport]) -> int | None:
    """How many different rows there are, if they are few."""
    few: set[int] = set()
    for report in reports:
        if report.few_hashes is None:
            return None
        few.update(report.few_hashes)
    return len(few)


def _check(plan: Plan, parts: dict[Part, SealedPart], few: int | None) -> None:
    name = plan.drop.file_name
    rows = sum(part.rows for part in parts.values())
    for part in (Part.TRAIN, Part.TEST):
        if parts[part].rows:
            continue
        if few is not None and few < rows:
            different = f"all {rows} rows are equal" if few == 1 else f"the {rows} rows hold only {few} different ones"
            raise InvalidDrop(
                f"{name}: no rows for the {part} part: {different}, and equal rows always share a part;"
                " drop more different rows"
            )
        raise InvalidDrop(f"{name}: no rows for the {part} part; drop more rows, or change data.split")
    if plan.task in (Task.BINARY, Task.MULTICLASS) and len(parts[Part.TRAIN].label_counts) < 2:
        raise InvalidDrop(f"{name}: all training rows have the same label; at least two different labels are needed")


handler = step(seal_dataset)
