"""Predictions joined to rows: any text comes back as it was, and a million rows take no more memory than a thousand."""

import csv
import io
import json
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dropmill import predictions
from dropmill.contracts import Task
from dropmill.errors import PredictionFailed
from dropmill.naming import predictions_key
from dropmill.predictions import Answers, Format

BINARY = Answers(
    Task.BINARY,
    {"predicted_label": pa.float64(), "score": pa.float64()},
    pa.array(["no", "yes"]),
    ["no", "yes"],
)
REGRESSION = Answers(Task.REGRESSION, {"score": pa.float64()})


class Sink(io.RawIOBase):
    """Counts what is written."""

    written = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.written += len(memoryview(data))
        return len(memoryview(data))


def written(kind: Format, batches: Sequence[Any]) -> bytes:
    stream = io.BytesIO()
    writer = predictions.writer(stream, kind, batches[0].schema)
    for batch in batches:
        writer.write(batch)
    writer.close()
    return stream.getvalue()


def batch_of(columns: dict[str, Any]) -> Any:
    return pa.RecordBatch.from_pydict(columns)


TEXTS = st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(
    ["", " ", '"', '""', ",", "\n", "\r", "\r\n", "=1+1", "007", "a,b", 'say "hi"', "\t", "\0"]
)


@settings(deadline=None)
@given(st.lists(st.lists(st.tuples(TEXTS, st.floats(allow_nan=False)), min_size=1, max_size=4), min_size=1, max_size=4))
def test_what_is_written_as_csv_comes_back(batches: list[list[tuple[str, float]]]) -> None:
    """Also where some rows need quotation marks and others don't."""
    body = written(
        "csv",
        [batch_of({"i,d": [text for text, _ in rows], "score": [score for _, score in rows]}) for rows in batches],
    )
    head, *rows = csv.reader(io.StringIO(body.decode(), newline=""))
    assert head == ["i,d", "score"]
    assert [(text, float(score)) for text, score in rows] == [row for rows in batches for row in rows]


def test_plain_cells_have_no_quotation_marks() -> None:
    body = written("csv", [batch_of({"id": ["a", ""], "score": [0.5, 1.0]}), batch_of({"id": ['"'], "score": [2.0]})])
    assert body == b'id,score\na,0.5\n,1\n"""",2\n'


def test_parquet_comes_back_in_row_groups_of_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictions, "ROW_GROUP_BYTES", 1000)
    batches = [batch_of({"row": list(range(at, at + 50))}) for at in range(0, 500, 50)]
    table = pq.ParquetFile(pa.BufferReader(written("parquet", batches)))
    assert table.metadata.num_row_groups > 2
    assert table.read().column("row").to_pylist() == list(range(500))


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=6),
    st.lists(st.integers(1, 5), min_size=1, max_size=6),
)
def test_batches_of_any_sizes_are_joined_row_by_row(answers: list[int], kept: list[int]) -> None:
    rows = min(sum(answers), sum(kept))

    def cut(sizes: list[int], column: str) -> Iterator[Any]:
        at = 0
        for size in sizes:
            size = min(size, rows - at)
            if size:
                yield batch_of({column: [str(number) for number in range(at, at + size)]})
            at += size

    found = predictions.joined(
        cut(answers, "p"), cut(kept, "0"), rows=rows, first=40, columns=["row", "k", "p"], name="a.csv"
    )
    table = pa.Table.from_batches(found).to_pydict()
    texts = [str(number) for number in range(rows)]
    assert table == {"row": list(range(40, 40 + rows)), "k": texts, "p": texts}


@pytest.mark.parametrize(
    "line", [b'{"score": NaN}', b'{"score": 1e999}', b'{"score": true}', b"[1]", b"1", b"{", b'{"score": null}']
)
def test_what_is_no_answer_is_refused(line: bytes) -> None:
    with pytest.raises(PredictionFailed, match=r"^a\.csv: "):
        list(predictions.answered(io.BytesIO(b'{"score": 1}\n' + line + b"\n"), REGRESSION, "a.csv"))


def test_answers_come_in_any_order_of_fields_with_blank_lines_between() -> None:
    text = b'{"score": 0.5, "predicted_label": 1}\n\n{"other": [{}], "predicted_label": 0.0, "score": 1e-9}'
    table = pa.Table.from_batches(predictions.answered(io.BytesIO(text), BINARY, "a.csv"))
    assert table.to_pydict() == {"prediction": ["yes", "no"], "score": [0.5, 1e-9]}


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_million_rows_in_little_memory(kind: Format) -> None:
    rows, some = 1_000_000, 10_000
    answers = "".join(json.dumps({"score": at / some, "predicted_label": at % 2}) + "\n" for at in range(some)).encode()
    kept = batch_of({"0": [f"id-{at:05}" for at in range(some)], "1": [f"customer {at % 7}" for at in range(some)]})
    sink = Sink()
    with tempfile.TemporaryFile() as stream:
        for _ in range(rows // some):
            stream.write(answers)
        stream.seek(0)
        before = most = pa.total_allocated_bytes()
        writer = None
        seen = 0
        for batch in predictions.joined(
            predictions.answered(cast("BinaryIO", stream), BINARY, "a.csv"),
            (kept for _ in range(rows // some)),
            rows=rows,
            first=0,
            columns=predictions.columns_of(BINARY, ["id", "customer"], has_id=True),
            name="a.csv",
        ):
            assert batch.column(0)[0].as_py() == f"id-{seen % some:05}"
            writer = writer or predictions.writer(cast("BinaryIO", sink), kind, batch.schema)
            writer.write(batch)
            seen += batch.num_rows
            most = max(most, pa.total_allocated_bytes())
        assert writer is not None
        writer.close()
    assert seen == rows
    assert sink.written > 0
    assert most - before < 48 << 20


def test_names_that_are_too_long_for_a_key_are_cut() -> None:
    names = [f"{'ü' * 480}/{'x' * 30}-{number}-00000.parquet" for number in range(2)]
    keys = [predictions_key("r" * 40, "b" * 70, name) for name in names]
    assert len(set(keys)) == 2
    for key in keys:
        assert len(key.encode()) <= 1024
        assert key.endswith("-00000.parquet")
    assert predictions_key("r", "b", "a/b.csv-00000.csv") == "predictions/r/b/a/b.csv-00000.csv"
