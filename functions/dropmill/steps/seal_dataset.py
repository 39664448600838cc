"""Seal Dataset: prove that every shard and every row arrived once, and say what the rows decide."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from dropmill import storage
from dropmill.contracts import (
    FEW_ROWS,
    DroppedFile,
    Part,
    PartFile,
    PieceReport,
    Plan,
    Problem,
    RunReference,
    SealedDataset,
    SealedPart,
    SealedSummary,
    Shard,
    ShardReport,
    Shards,
    Task,
    Unit,
    chosen,
    listed,
)
from dropmill.decisions import naming_recipe, sealed_hyperparameters
from dropmill.errors import ConversionIncomplete, InvalidDrop, InvalidRecipe
from dropmill.naming import dataset_key, part_prefix, plan_key, shards_key
from dropmill.proof import prove_read_once, read_reports
from dropmill.recipe import TrainingOptions
from dropmill.step import step

_NAMED_COLUMNS = 5
_SQUARE_ROOT_OF_FLOAT32 = 1.8e19


def seal_dataset(request: RunReference) -> SealedSummary:
    """Seal the dataset, having proved it whole.

    Raises:
        InvalidDrop: up to ten of the problems that the shards found, or too few rows are left.
        InvalidRecipe: there are too few rows for what the recipe asks.
        ConversionIncomplete: something was lost, taken twice, or is there that no shard wrote.
    """
    plan = storage.read_document(Plan, plan_key(request.run_id))
    shards = storage.read_document(Shards, shards_key(request.run_id)).root
    found = _Found()
    for shard, report in read_reports(ShardReport, request.run_id, shards, again="rerun the run"):
        found.add(shard, report)
    if found.problems:
        said = [problem.words for problem in _said(plan.files, found)]
        raise InvalidDrop(f"{plan.drop.file_name} can't be used:\n", listed(said))
    for index, file in enumerate(plan.files):
        prove_read_once(file, found.pieces[index])
    _prove_written(request.run_id, found.files)
    parts = {part: _part(found, part) for part in Part}
    _check(plan, parts, found)
    with naming_recipe(plan.recipe_name):
        _check_volume(plan.recipe.training, parts)
        hyperparameters = sealed_hyperparameters(plan.recipe, plan.hyperparameters, parts[Part.TRAIN].rows)
    dataset = SealedDataset(
        feature_dim=plan.layout.feature_dim,
        rows=found.rows,
        shards=len(shards),
        parts=parts,
        hyperparameters=hyperparameters,
        warnings=list(_warnings(plan, found)),
    )
    storage.write_document(dataset_key(request.run_id), dataset)
    classes = len(plan.layout.label_values or []) if plan.task in (Task.BINARY, Task.MULTICLASS) else 0
    return SealedSummary(rows=found.rows, feature_dim=dataset.feature_dim, classes=classes)


def _check_volume(training: TrainingOptions, parts: Mapping[Part, SealedPart]) -> None:
    """Refuse what would fill an instance's volume only after it has been paid for: it copies its share first."""
    share = -(-parts[Part.TRAIN].size // training.instance_count) + parts[Part.VALIDATION].size
    if share > training.volume_gb << 30:
        needed = f"{share / (1 << 30):.1f} GB"
        raise InvalidRecipe(
            f"training.volume_gb is {training.volume_gb}, but an instance has to hold {needed} of rows:"
            " raise it, or let more instances share them (training.instance_count)"
        )


@dataclass
class _Found:
    """What all reports say together."""

    rows: int = 0
    filled: int = 0
    pieces: dict[int, list[PieceReport]] = field(default_factory=lambda: defaultdict(list))
    """By file."""
    problems: list[tuple[PieceReport, Problem]] = field(default_factory=list)
    files: dict[Part, list[PartFile]] = field(default_factory=lambda: defaultdict(list))
    label_counts: dict[Part, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    few: set[int] | None = field(default_factory=set)
    """The hashes of the different rows, if they are few."""
    constants: dict[int, float] | None = None
    """The features that hold one value in all rows so far, and that; None before the first report."""
    largest: float = 0

    def add(self, shard: Shard, report: ShardReport) -> None:
        number = shard.number
        asked = [(piece.file, piece.start, piece.end) for piece in shard.pieces]
        if sorted(asked) != sorted((piece.file, piece.start, piece.end) for piece in report.pieces):
            raise ConversionIncomplete(f"shard {number} did not read the pieces that it was given")
        self.problems += [(report.pieces[one.piece], one.problem) for one in report.problems]
        written = sum(file.rows for files in report.files.values() for file in files)
        read = sum(piece.rows for piece in report.pieces)
        if not report.problems and not written == read == report.rows:
            raise ConversionIncomplete(f"shard {number} read {read} rows and wrote {written}")
        self.rows += report.rows
        self.filled += report.filled
        for piece in report.pieces:
            self.pieces[piece.file].append(piece)
        for part, files in report.files.items():
            self.files[part] += files
        for part, counts in report.label_counts.items():
            self.label_counts[part].update(counts)
        if report.rows:
            self._add_values(report)

    def _add_values(self, report: ShardReport) -> None:
        if self.few is not None:
            self.few |= set(report.few_hashes or ())
            if report.few_hashes is None or len(self.few) > FEW_ROWS:
                self.few = None
        constants = report.constant_columns or {}
        if self.constants is None:
            self.constants = dict(constants)
        else:
            self.constants = {
                column: value for column, value in self.constants.items() if constants.get(column) == value
            }
        self.largest = max(self.largest, *map(abs, report.value_range or (0.0,)))


def _said(files: Sequence[DroppedFile], found: _Found) -> list[Problem]:
    """The problems in the order of the files and rows, with line numbers that count from each file's first line."""
    numbered = []
    for piece, problem in found.problems:
        file = files[piece.file]
        if problem.row is not None and file.unit is Unit.LINES:
            before = sum(other.lines for other in found.pieces[piece.file] if other.start < piece.start)
            problem = problem.model_copy(update={"row": problem.row + file.first_line - 1 + before})
        numbered.append((piece.file, problem.row or 0, problem))
    return chosen([problem for _, _, problem in sorted(numbered, key=lambda one: one[:2])])


def _prove_written(run: str, files: Mapping[Part, Sequence[PartFile]]) -> None:
    """What jobs will find under each part's prefix is what the shards wrote, and nothing else."""
    for part in Part:
        there = storage.list_objects(part_prefix(run, part))
        said = {file.key: file.size for file in files.get(part, ())}
        if there != said:
            key = min(there.items() ^ said.items())[0]
            what = "is missing" if key not in there else "is there, and no shard wrote it so"
            raise ConversionIncomplete(f"{storage.artifact_uri(key)} {what}; rerun the run")


def _part(found: _Found, part: Part) -> SealedPart:
    files = found.files.get(part, [])
    return SealedPart(
        rows=sum(file.rows for file in files),
        size=sum(file.size for file in files),
        files=files,
        label_counts=dict(found.label_counts.get(part, {})),
    )


def _check(plan: Plan, parts: Mapping[Part, SealedPart], found: _Found) -> None:
    name = plan.drop.file_name
    rows = found.rows
    needed = [Part.TRAIN, Part.TEST, *([Part.VALIDATION] if plan.recipe.tuning else [])]
    for part in needed:
        if parts[part].rows:
            continue
        if found.few is not None and len(found.few) < rows:
            few = len(found.few)
            different = f"all {rows} rows are equal" if few == 1 else f"the {rows} rows hold only {few} different ones"
            raise InvalidDrop(
                f"{name}: no rows for the {part} part: {different}, and equal rows always share a part;"
                " drop more different rows"
            )
        raise InvalidDrop(f"{name}: no rows for the {part} part; drop more rows, or change data.split")
    if plan.task in (Task.BINARY, Task.MULTICLASS) and len(parts[Part.TRAIN].label_counts) < 2:
        raise InvalidDrop(f"{name}: all training rows have the same label; at least two different labels are needed")
    instances = plan.recipe.training.instance_count
    training = parts[Part.TRAIN]
    if len(training.files) < instances:
        raise InvalidDrop(
            f"{name}: {training.rows} training rows can't be shared out among {instances} instances; drop more rows, or"
            " lower training.instance_count"
        )


def _warnings(plan: Plan, found: _Found) -> Iterator[str]:
    """What is odd about the data, but no error."""
    if found.constants:
        columns = [_column(plan, index) for index in sorted(found.constants)]
        named, more = columns[:_NAMED_COLUMNS], len(columns) - _NAMED_COLUMNS
        shown = f"{', '.join(named)} and {more} more" if more > 0 else ", ".join(named)
        hold = "column holds" if len(columns) == 1 else "columns hold"
        yield f"{len(columns)} {hold} the same value in every row, which teaches nothing: {shown}"
    if found.filled:
        what = "0" if plan.recipe.data.missing == "0" else "the mean of their column"
        values = "missing value was" if found.filled == 1 else "missing values were"
        yield f"{found.filled:,} {values} filled in with {what}"
    if found.largest > _SQUARE_ROOT_OF_FLOAT32:
        yield (
            f"there are values as large as {found.largest:.3g}, whose squares are beyond float32: training may end in"
            " NaN; rescale the columns"
        )


def _column(plan: Plan, index: int) -> str:
    """The name of a feature."""
    layout = plan.layout
    name = layout.columns[layout.feature_columns[index]] if layout.feature_columns else str(index)
    return repr(name if len(name) <= 40 else name[:40] + "...")


handler = step(seal_dataset)
