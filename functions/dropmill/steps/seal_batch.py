"""Seal Batch: prove that every row of every file to be scored was read once and in order, and set aside what is not."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dropmill import storage
from dropmill.contracts import (
    PROBLEMS_MAX,
    BatchPlan,
    DroppedFile,
    Problem,
    RowsReport,
    RunReference,
    ScoredPiece,
    SealedBatch,
    SealedBatchSummary,
    SealedFile,
    SealedRows,
    SetAside,
    Shard,
    Shards,
    Unit,
    chosen,
)
from dropmill.errors import ConversionIncomplete
from dropmill.naming import (
    batch_plan_key,
    rows_manifest_key,
    rows_name,
    rows_prefix,
    sealed_batch_key,
    shards_key,
)
from dropmill.proof import prove_read_once, read_reports
from dropmill.step import step
from dropmill.words import Words, paired


def seal_batch(request: RunReference) -> SealedBatchSummary:
    """Seal a batch, having proved it whole, and list the rows of its good files for the transform job.

    A file with problems is set aside with up to ten of them, and stops no other. Raises ConversionIncomplete where rows
    were lost or taken twice, which is no fault of the files.
    """
    plan = storage.read_document(BatchPlan, batch_plan_key(request.run_id))
    shards = storage.read_document(Shards, shards_key(request.run_id)).root if plan.files else []
    found = _pieces(request.run_id, shards)
    written = storage.list_objects(rows_prefix(request.run_id))
    files: list[SealedFile] = []
    set_aside = list(plan.set_aside)
    for index, one in enumerate(plan.files):
        pieces = found[index]
        reasons = _reasons(one.file, pieces)
        if not reasons:
            prove_read_once(one.file, (read.piece for read in pieces))
            sealed = _sealed(index, pieces)
            if sealed is not None:
                _prove_written(request.run_id, index, pieces, written)
                files.append(sealed)
                continue
            reasons = [Words(f"{one.file.name} holds no rows")]
        set_aside.append(SetAside.of(one.file.source, one.file.name, reasons))
    batch = SealedBatch(rows=sum(file.rows for file in files), files=files, set_aside=set_aside)
    if files:
        names = [rows_name(file.file, part.shard) for file in files for part in file.parts]
        listed = [{"prefix": storage.artifact_uri(rows_prefix(request.run_id))}, *names]
        storage.write_object(rows_manifest_key(request.run_id), json.dumps(listed).encode())
    storage.write_document(sealed_batch_key(request.run_id), batch)
    return SealedBatchSummary(rows=batch.rows, files=len(files), set_aside=len(set_aside))


@dataclass(frozen=True)
class _Read:
    """What a shard read of a file."""

    shard: int
    piece: ScoredPiece


def _pieces(batch: str, shards: Sequence[Shard]) -> Mapping[int, list[_Read]]:
    """What was read of each file, in its order."""
    found: dict[int, list[_Read]] = defaultdict(list)
    for shard, report in read_reports(RowsReport, batch, shards, again="score the files again"):
        asked = [(piece.file, piece.start, piece.end) for piece in shard.pieces]
        if asked != [(piece.file, piece.start, piece.end) for piece in report.pieces]:
            raise ConversionIncomplete(f"shard {shard.number} did not read the pieces that it was given")
        for piece in report.pieces:
            found[piece.file].append(_Read(shard.number, piece))
    for reads in found.values():
        reads.sort(key=lambda read: (read.piece.start, read.piece.end))
    return found


def _reasons(file: DroppedFile, reads: Sequence[_Read]) -> list[Words]:
    """What is wrong with a file, with line numbers that count from its first line."""
    refused: list[Words] = []
    problems: list[Problem] = []
    before = file.first_line - 1
    for read in reads:
        if read.piece.refused is not None and read.piece.refused not in refused:
            refused.append(paired(read.piece.refused, read.piece.refused_rule))
        for problem in read.piece.problems:
            row = problem.row
            if row is not None and file.unit is Unit.LINES:
                row += before
            problems.append(problem.model_copy(update={"row": row}))
        before += read.piece.lines
    return [*refused, *(problem.words for problem in chosen(problems))][:PROBLEMS_MAX]


def _prove_written(batch: str, index: int, reads: Sequence[_Read], written: Mapping[str, int]) -> None:
    """What the transform job will read of a file is what the shards wrote."""
    for read in reads:
        key = rows_prefix(batch) + rows_name(index, read.shard)
        if written.get(key, 0) != read.piece.size or bool(read.piece.size) != bool(read.piece.rows):
            raise ConversionIncomplete(f"{storage.artifact_uri(key)} is not what shard {read.shard} wrote")


def _sealed(index: int, reads: Sequence[_Read]) -> SealedFile | None:
    parts: list[SealedRows] = []
    rows = 0
    for read in reads:
        piece = read.piece
        if piece.rows:
            parts.append(SealedRows(shard=read.shard, rows=piece.rows, first=rows, kept=piece.kept))
        rows += piece.rows
    return SealedFile(file=index, rows=rows, parts=parts) if parts else None


handler = step(seal_batch)
