"""Convert Rows: one shard of the files to be scored becomes rows as the model takes them, in their order.

Beside the rows of a piece stand the columns that are carried to the predictions, as a stream of Arrow record batches.
What is wrong with a file goes into the report: Seal Batch sets the file aside.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any, BinaryIO

import pyarrow as pa

from dropmill import storage
from dropmill.contracts import (
    BatchPlan,
    ConvertedRows,
    DroppedFile,
    FoundProblem,
    Piece,
    RowsReport,
    ScoredPiece,
    Shard,
    ShardInput,
    Shards,
    Unit,
)
from dropmill.data import lines, recordio, scoring
from dropmill.data.checks import TooManyProblems
from dropmill.data.rows import OpenFile, Progress
from dropmill.errors import InvalidDrop
from dropmill.naming import batch_plan_key, kept_rows_key, rows_name, rows_prefix, shard_report_key, shards_key
from dropmill.step import step
from dropmill.steps.convert_shard import open_file
from dropmill.words import Words

OpenPart = Callable[[str], AbstractContextManager[BinaryIO]]
"""Opens what becomes the object of a key where the block ends well, and nothing on any error."""


class _HasProblems(Exception):
    """Some rows of a piece can't be converted, so what was written of it is taken back."""


def convert_rows(request: ShardInput) -> ConvertedRows:
    """Convert a shard of a batch, some rows at a time, and write its report.

    The same keys are written whenever it is run for the same shard. A file that is damaged or gone is no error: the
    report says so.
    """
    plan = storage.read_document(BatchPlan, batch_plan_key(request.run_id))
    shard = storage.read_document(Shards, shards_key(request.run_id)).root[request.shard]
    spans = {
        plan.files[piece.file].file: [(piece.start, piece.end)]
        for piece in shard.pieces
        if plan.files[piece.file].file.unit is Unit.LINES
    }

    def opened(file: DroppedFile) -> OpenFile:
        return open_file(file, spans.get(file, ()), None)

    report = convert(plan, shard, opened, storage.open_part)
    storage.write_document(shard_report_key(request.run_id, request.shard), report)
    return ConvertedRows(shard=request.shard, rows=sum(piece.rows for piece in report.pieces))


def convert(
    plan: BatchPlan, shard: Shard, opened: Callable[[DroppedFile], OpenFile], open_part: OpenPart
) -> RowsReport:
    """Convert the pieces of a shard into objects. `opened` opens the files, `open_part` the objects by their keys."""
    return RowsReport(
        shard=shard.number,
        pieces=[_piece(plan, shard.number, piece, opened, open_part) for piece in shard.pieces],
    )


def _piece(
    plan: BatchPlan,
    shard: int,
    piece: Piece,
    opened: Callable[[DroppedFile], OpenFile],
    open_part: OpenPart,
) -> ScoredPiece:
    file = plan.files[piece.file].file
    progress = Progress(begin=piece.start, stop=piece.start)
    found: list[FoundProblem] = []
    size, kept = 0, False
    refused: Words | None = None
    try:
        size, kept = _converted(plan, shard, piece, opened, open_part, found, progress)
    except TooManyProblems:
        if file.unit is Unit.LINES:
            progress, refused = _counted(opened(file), piece, progress.rows)
    except _HasProblems:
        pass
    except InvalidDrop as error:
        refused = error.words
    return ScoredPiece(
        file=piece.file,
        start=piece.start,
        end=piece.end,
        begin=progress.begin,
        stop=progress.stop,
        rows=progress.rows,
        lines=progress.lines,
        size=size,
        kept=kept,
        problems=[one.problem for one in found],
        refused=refused,
        refused_rule=None if refused is None else str(refused),
    )


def _converted(
    plan: BatchPlan,
    shard: int,
    piece: Piece,
    opened: Callable[[DroppedFile], OpenFile],
    open_part: OpenPart,
    found: list[FoundProblem],
    progress: Progress,
) -> tuple[int, bool]:
    """Write the rows of a piece, unless some have problems. The bytes of what the model takes; whether some is kept."""
    scored = plan.files[piece.file]
    options = plan.recipe.data
    read = scoring.read_in_order(scored.file, piece, opened, plan.readings[scored.reading], options, found, progress)
    size = 0
    with ExitStack() as stack:
        stream: BinaryIO | None = None
        kept: Any = None
        for rows in read:
            if found:
                continue  # nothing of this piece will be kept
            if stream is None:
                key = rows_prefix(plan.run_id) + rows_name(piece.file, shard)
                stream = stack.enter_context(open_part(key))
                if rows.kept is not None:
                    sink = stack.enter_context(open_part(kept_rows_key(plan.run_id, piece.file, shard)))
                    packed = pa.ipc.IpcWriteOptions(compression="zstd")
                    kept = stack.enter_context(pa.ipc.new_stream(sink, rows.kept.schema, options=packed))
            size += recordio.write(stream, rows.features)
            if kept is not None:
                kept.write_batch(rows.kept)
        if found:
            raise _HasProblems
    return size, kept is not None


def _counted(file: OpenFile, piece: Piece, rows: int) -> tuple[Progress, Words | None]:
    """The bounds and lines of a piece whose rows were not all read: with them, the row of a problem is told."""
    progress = Progress(begin=piece.start, stop=piece.start, rows=rows)
    try:
        lines.count(file, piece, progress)
    except InvalidDrop as error:
        return progress, error.words
    return progress, None


handler = step(convert_rows)
