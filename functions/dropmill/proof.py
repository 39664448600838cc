"""The proof that the shards of a conversion read every row of every file once."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from dropmill import storage
from dropmill.contracts import DroppedFile, PieceReport, RowsReport, Shard, ShardReport
from dropmill.errors import ConversionIncomplete
from dropmill.naming import shard_report_key

_READ_AT_ONCE = 16

ReportT = TypeVar("ReportT", ShardReport, RowsReport)


def read_reports(
    kind: type[ReportT], run_id: str, shards: Sequence[Shard], *, again: str
) -> Iterator[tuple[Shard, ReportT]]:
    """Yield each shard with its report, in order. `again` says what to do where one is missing.

    Raises ConversionIncomplete for a report that is missing or another shard's.
    """

    def read(shard: Shard) -> ReportT:
        try:
            report = storage.read_document(kind, shard_report_key(run_id, shard.number))
        except storage.MissingDocument:
            raise ConversionIncomplete(f"shard {shard.number} left no report; {again}") from None
        if report.shard != shard.number:
            raise ConversionIncomplete(f"the report of shard {shard.number} is that of shard {report.shard}")
        return report

    with ThreadPoolExecutor(_READ_AT_ONCE) as pool:
        yield from zip(shards, pool.map(read, shards), strict=True)


def prove_read_once(file: DroppedFile, pieces: Iterable[PieceReport]) -> None:
    """From the file's first row to its last, every piece begins where the one before it stopped.

    Raises ConversionIncomplete otherwise.
    """
    at, rows = file.start, 0
    for piece in sorted(pieces, key=lambda piece: (piece.start, piece.end)):
        if piece.begin != at:
            what = "twice" if piece.begin < at else "by no shard"
            first, last = sorted((piece.begin, at))
            raise ConversionIncomplete(f"{file.name}: {file.unit.value} {first} to {last} were read {what}")
        at = piece.stop
        rows += piece.rows
    if at != file.end:
        raise ConversionIncomplete(f"{file.name}: reading stopped at {at} of {file.end} ({file.unit.value})")
    if file.rows is not None and rows != file.rows:
        raise ConversionIncomplete(f"{file.name}: {rows} rows were read of the {file.rows} that it holds")
