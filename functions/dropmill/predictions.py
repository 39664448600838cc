"""Predictions joined to the rows that they are of: a model's answers, in the user's words, beside what was kept.

A table of predictions has these columns, each row standing where it stood in the user's file:

- the id, as text, or without one `row`, the number of the row within its file, from 0 (headers and blank lines don't
  count); then the kept columns, as text;
- `prediction`: the class by its name (a whole number or a number where all labels are such, else text), the value that
  a regressor answers, or the number of the cluster;
- `score` of a binary classifier (of the second class), `score_<class>` of each class, or the `distance` to the
  cluster's centre, where the algorithm gives them.

Everything goes by some thousand rows at a time, however many there are.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow import csv as arrow_csv
from pyarrow import json as arrow_json

from dropmill import algorithms
from dropmill.classes import predicted_classes
from dropmill.contracts import Layout, Plan, Task
from dropmill.data import lines
from dropmill.data.rows import Progress
from dropmill.errors import InvalidDrop, PredictionFailed
from dropmill.recipe import SCORE_OF_CLASS

Format = Literal["csv", "parquet"]
EXTENSIONS: dict[Format, str] = {"csv": ".csv", "parquet": ".parquet"}
CONTENT_TYPES: dict[Format, str] = {"csv": "text/csv; charset=utf-8", "parquet": "application/vnd.apache.parquet"}

ROW = "row"
PREDICTION = "prediction"
SCORE = "score"
DISTANCE = "distance"

ANSWER_BYTES = 2 << 20
"""About as much of the answers is read at a time."""
ROW_GROUP_BYTES = 16 << 20
_EXACT_INTEGERS = 2.0**53

_FLOAT = pa.float64()
_SCORES = pa.list_(_FLOAT)

Float64Array = NDArray[np.float64]


# What a model's answers mean


@dataclass(frozen=True)
class Answers:
    """What a model answers for each row, and what becomes of it.

    `fields` are read of each answer; `names` are the classes, as an array of what stands for each in predictions.
    """

    task: Task
    fields: dict[str, Any]
    names: Any = None
    texts: Sequence[str] = ()

    @property
    def schema(self) -> Any:
        """The columns that are made of the answers, with their types."""
        columns = [(PREDICTION, pa.int64() if self.task is Task.CLUSTERING else _FLOAT)]
        if self.names is not None:
            columns = [(PREDICTION, self.names.type)]
        if self.task is Task.CLUSTERING:
            columns.append((DISTANCE, _FLOAT))
        elif self.task is Task.BINARY and "score" in self.fields:
            columns.append((SCORE, _FLOAT))
        elif self.task is Task.MULTICLASS and "score" in self.fields:
            columns += [(SCORE_OF_CLASS + text, _FLOAT) for text in self.texts]
        return pa.schema(columns)


def answers_of(plan: Plan) -> Answers:
    """What a run's model answers."""
    keys = algorithms.get(plan.recipe.algorithm).answer_keys
    if plan.task is Task.CLUSTERING:
        return Answers(plan.task, {"closest_cluster": _FLOAT, "distance_to_cluster": _FLOAT})
    if plan.task is Task.REGRESSION:
        # k-NN's mean of the neighbours comes as predicted_label.
        return Answers(plan.task, {"score" if "score" in keys else "predicted_label": _FLOAT})
    fields = {"predicted_label": _FLOAT}
    if "score" in keys:
        fields["score"] = _FLOAT if plan.task is Task.BINARY else _SCORES
    texts = predicted_classes(plan)
    return Answers(plan.task, fields, _typed(texts, plan.layout, positive=plan.recipe.data.positive is not None), texts)


def _typed(texts: Sequence[str], layout: Layout, *, positive: bool) -> Any:
    """The classes as numbers where the user's labels are numbers, else as they are called."""
    values = layout.label_values
    if positive or layout.classes is not None or values is None:
        return pa.array(texts, pa.string())
    if all(value.is_integer() and abs(value) < _EXACT_INTEGERS for value in values):
        return pa.array([int(value) for value in values], pa.int64())
    return pa.array(values, _FLOAT)


def answered(stream: BinaryIO, answers: Answers, name: str) -> Iterator[Any]:
    """Yield the columns of predictions for some answers at a time, from a stream of JSON Lines.

    Raises PredictionFailed for an answer that is not of the documented shape, is no finite number, or is none of the
    classes. `name` says in messages whose answers these are.
    """
    found = lines.whole_slices(stream, Progress(0, 0), name, slice_bytes=ANSWER_BYTES)
    while True:
        try:
            part = next(found, None)
        except InvalidDrop as error:
            raise PredictionFailed(f"the answers can't be read: {error}") from None
        if part is None:
            return
        if part.data.strip():
            yield _predictions(_parsed(part.data, answers, name), answers, name)


def _parsed(data: bytes, answers: Answers, name: str) -> Any:
    """The fields of the answers as a record batch."""
    try:
        table = arrow_json.read_json(
            pa.BufferReader(data),
            read_options=arrow_json.ReadOptions(use_threads=False, block_size=len(data) + 1),
            parse_options=arrow_json.ParseOptions(
                explicit_schema=pa.schema(list(answers.fields.items())),
                newlines_in_values=False,
                unexpected_field_behavior="ignore",
            ),
        )
    except pa.ArrowException as error:
        raise PredictionFailed(f"{name}: the answers are not JSON Lines of {_said(answers)}") from error
    return table.combine_chunks().to_batches()[0]


def _said(answers: Answers) -> str:
    return " and ".join(answers.fields)


def _predictions(batch: Any, answers: Answers, name: str) -> Any:
    columns: list[Any] = []
    if answers.task is Task.CLUSTERING:
        columns = [_whole(batch, "closest_cluster", None, name), _numbers(batch, "distance_to_cluster", name)]
    elif answers.task is Task.REGRESSION:
        columns = [_numbers(batch, next(iter(answers.fields)), name)]
    else:
        indexes = _whole(batch, "predicted_label", len(answers.texts), name)
        columns = [answers.names.take(pa.array(indexes))]
        if answers.task is Task.BINARY and "score" in answers.fields:
            columns.append(_numbers(batch, "score", name))
        elif "score" in answers.fields:
            columns += list(_scores(batch, len(answers.texts), name).T)
    return pa.RecordBatch.from_arrays([pa.array(column) for column in columns], schema=answers.schema)


def _numbers(batch: Any, field: str, name: str) -> Float64Array:
    return _finite(batch.column(field), field, name)


def _finite(column: Any, field: str, name: str) -> Float64Array:
    if column.null_count:
        raise PredictionFailed(f"{name}: some answers have no {field}")
    numbers = np.asarray(np.from_dlpack(column), dtype=np.float64)
    if not np.isfinite(numbers).all():
        raise PredictionFailed(f"{name}: some answers have a {field} that is not a finite number")
    return numbers


def _whole(batch: Any, field: str, below: int | None, name: str) -> NDArray[np.int64]:
    numbers = _numbers(batch, field, name)
    if (numbers != np.floor(numbers)).any() or (numbers < 0).any() or (numbers >= (below or _EXACT_INTEGERS)).any():
        expected = "a number from 0" if below is None else f"one of the classes 0 to {below - 1}"
        raise PredictionFailed(f"{name}: some answers have a {field} that is not {expected}")
    return numbers.astype(np.int64)


def _scores(batch: Any, classes: int, name: str) -> Float64Array:
    """[n, classes]"""
    column = batch.column("score")
    if column.null_count or not pc.all(pc.equal(pc.list_value_length(column), classes)).as_py():
        raise PredictionFailed(f"{name}: some answers don't have a score for each of {classes} classes")
    return _finite(column.flatten(), "score", name).reshape(-1, classes)


# Joining


def columns_of(answers: Answers, carried: Sequence[str], *, has_id: bool) -> list[str]:
    """The names of a table's columns. `carried` are the id, if there is one, and the kept columns."""
    return [*([] if has_id else [ROW]), *carried, *answers.schema.names]


def joined(
    predictions: Iterable[Any],
    kept: Iterable[Any] | None,
    *,
    rows: int,
    first: int,
    columns: Sequence[str],
    name: str,
) -> Iterator[Any]:
    """Yield record batches of `columns`: the predictions of `rows` rows beside what was kept of them.

    `first` is the number of the first row. Raises PredictionFailed unless there is a prediction for every row.
    """
    beside = None if kept is None else _Kept(kept)
    numbered = columns[0] == ROW
    done = 0
    for batch in predictions:
        count = batch.num_rows
        if done + count > rows:
            raise PredictionFailed(f"{name}: there are more answers than the {rows} rows that were asked about")
        parts: list[Any] = []
        if numbered:
            parts.append(pa.array(np.arange(first + done, first + done + count)))
        if beside is not None:
            parts += beside.take(count)
        yield pa.RecordBatch.from_arrays([*parts, *batch.columns], names=list(columns))
        done += count
    if done != rows:
        raise PredictionFailed(f"{name}: there are {done} answers to {rows} rows")


class _Kept:
    """Kept columns, taken as many rows at a time as are asked for."""

    def __init__(self, batches: Iterable[Any]) -> None:
        self._batches = iter(batches)
        self._batch: Any = None

    def take(self, count: int) -> list[Any]:
        found = []
        while count:
            if self._batch is None or not self._batch.num_rows:
                self._batch = next(self._batches, None)
                if self._batch is None:
                    raise ValueError("fewer rows were kept than converted")
                continue
            some = self._batch.slice(0, count)
            self._batch = self._batch.slice(some.num_rows)
            count -= some.num_rows
            found.append(some)
        if len(found) == 1:
            return list(found[0].columns)
        return [pa.concat_arrays([some.column(index) for some in found]) for index in range(found[0].num_columns)]


# Writing


class Writer(Protocol):
    """Writes record batches of one schema; `close` writes what is left."""

    def write(self, batch: Any) -> None: ...

    def close(self) -> None: ...


def writer(stream: BinaryIO, kind: Format, schema: Any) -> Writer:
    """A writer of predictions to a stream, which the caller closes."""
    return _CsvWriter(stream, schema) if kind == "csv" else _ParquetWriter(stream, schema)


class _CsvWriter:
    """RFC 4180 in UTF-8, with the names of the columns first; lines end in LF, as most programs write them."""

    def __init__(self, stream: BinaryIO, schema: Any) -> None:
        self._stream = stream
        head = io.StringIO()
        csv.writer(head, lineterminator="\n").writerow(schema.names)
        stream.write(head.getvalue().encode())

    def write(self, batch: Any) -> None:
        # Quotation marks where a cell of the batch needs them; numbers never have any.
        for style in ("none", "needed"):
            text = io.BytesIO()
            try:
                arrow_csv.write_csv(batch, text, arrow_csv.WriteOptions(include_header=False, quoting_style=style))
            except pa.ArrowInvalid:
                if style == "needed":
                    raise
                continue
            self._stream.write(text.getbuffer())
            return

    def close(self) -> None:
        pass


class _ParquetWriter:
    """Row groups of about `ROW_GROUP_BYTES`."""

    def __init__(self, stream: BinaryIO, schema: Any) -> None:
        self._writer = pq.ParquetWriter(stream, schema)
        self._held: list[Any] = []
        self._bytes = 0

    def write(self, batch: Any) -> None:
        self._held.append(batch)
        self._bytes += batch.nbytes
        if self._bytes >= ROW_GROUP_BYTES:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._held:
            table = pa.Table.from_batches(self._held)
            self._writer.write_table(table, row_group_size=table.num_rows)
        self._held, self._bytes = [], 0
