"""Claims: which batch scores which version of which file, so that each is scored exactly once.

    pk                       sk                what
    CLAIM#<key>#<version>    META              a claim: claimed -> scored | set-aside, or given back, which deletes it
    RUN#<batch>              CLAIM#<digest>    the same, as the batch's own list of what it holds

A batch claims with one transaction for some files at a time, which asks that its run is open: so a batch that has ended
holds nothing that it has not been seen to hold. What it has made counts once `commit` has gone through, which a run
that was closed before can't; from then on its claims are kept, and without it they are given back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from boto3.dynamodb.conditions import Attr, Key
from botocore.exceptions import ClientError

from dropmill import aws, ledger, storage
from dropmill.contracts import ObjectVersion, PredictionsManifest
from dropmill.errors import RunClosed
from dropmill.naming import predictions_manifest_key, staged_manifest_key
from dropmill.settings import setting

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.service_resource import Table

CLAIMED_AT_ONCE: Final = 49
"""Two rows for each file and the run's: a transaction takes a hundred."""
_READ_AT_ONCE: Final = 100
_META: Final = "META"
_NOTE: Final = "CLAIM#"


class ClaimState(StrEnum):
    CLAIMED = "claimed"
    SCORED = "scored"
    SET_ASIDE = "set-aside"


@dataclass(frozen=True)
class Claim:
    """`reason` says why a file was set aside."""

    batch: str
    state: ClaimState
    reason: str | None = None


def _table() -> Table:
    return aws.dynamodb_table(setting("ledger_table"))


def _key(source: ObjectVersion) -> dict[str, str]:
    return {"pk": f"CLAIM#{source.key}#{source.version_id}", "sk": _META}


def _note_key(batch: str, source: ObjectVersion) -> dict[str, str]:
    # A key may be longer than a sort key.
    digest = hashlib.sha256(_key(source)["pk"].encode()).hexdigest()
    return {"pk": f"RUN#{batch}", "sk": f"{_NOTE}{digest}"}


def find_claim(source: ObjectVersion) -> Claim | None:
    item = _table().get_item(Key=_key(source), ConsistentRead=True).get("Item")
    return None if item is None else _claim(item)


def _claim(item: dict[str, Any]) -> Claim:
    return Claim(batch=item["run_id"], state=ClaimState(item["state"]), reason=item.get("reason"))


def _several(sources: Sequence[ObjectVersion], most: int) -> Iterator[Sequence[ObjectVersion]]:
    return (sources[start : start + most] for start in range(0, len(sources), most))


def unclaimed(sources: Sequence[ObjectVersion]) -> list[ObjectVersion]:
    """Those that no batch has claimed, in their order."""
    table = _table()
    taken: set[str] = set()
    for some in _several(sources, _READ_AT_ONCE):
        asked: Any = {table.name: {"Keys": [_key(one) for one in some], "ProjectionExpression": "pk"}}
        while asked:
            answer = table.meta.client.batch_get_item(RequestItems=asked)
            taken.update(str(item["pk"]) for item in answer["Responses"].get(table.name, ()))
            asked = answer.get("UnprocessedKeys")
    return [one for one in sources if _key(one)["pk"] not in taken]


def claim(batch: str, sources: Sequence[ObjectVersion], now: int) -> None:
    """Claim those of the files that no other batch holds; `held_by` tells which these are.

    Raises:
        RunClosed: the batch has ended.
    """
    for some in _several(sources, CLAIMED_AT_ONCE):
        left = list(some)
        while left:
            left = _claim_some(batch, left, now)


def _claim_some(batch: str, sources: Sequence[ObjectVersion], now: int) -> list[ObjectVersion]:
    """Claim all of these in one transaction, or return those to try again: what others hold left out."""
    table = _table()
    items: list[Any] = [
        {
            "ConditionCheck": {
                "TableName": table.name,
                "Key": {"pk": f"RUN#{batch}", "sk": _META},
                "ConditionExpression": "closed = :no",
                "ExpressionAttributeValues": {":no": False},
            }
        }
    ]
    for source in sources:
        row = {"run_id": batch, "source": source.model_dump_json(), "claimed_at": now}
        items += [
            {
                "Put": {
                    "TableName": table.name,
                    "Item": {**_key(source), **row, "state": ClaimState.CLAIMED.value},
                    "ConditionExpression": "attribute_not_exists(pk)",
                }
            },
            {"Put": {"TableName": table.name, "Item": {**_note_key(batch, source), **row}}},
        ]
    try:
        table.meta.client.transact_write_items(TransactItems=items)
    except ClientError as error:
        if aws.error_code(error) != "TransactionCanceledException":
            raise
        reasons: list[dict[str, Any]] = error.response.get("CancellationReasons", [])  # type: ignore[assignment]  # set by DynamoDB only
        refused = [reason.get("Code") == "ConditionalCheckFailed" for reason in reasons]
        if refused and refused[0]:
            raise RunClosed(f"batch {batch} has ended; nothing more is claimed for it") from None
        if not any(refused):
            raise
        return [source for source, taken in zip(sources, refused[1::2], strict=True) if not taken]
    return []


def held_by(batch: str) -> list[ObjectVersion]:
    """The files that a batch holds, by their keys."""
    return sorted((source for _, source in _notes(batch)), key=lambda source: source.key)


def _notes(batch: str) -> Iterator[tuple[dict[str, Any], ObjectVersion]]:
    start: dict[str, Any] = {}
    condition = Key("pk").eq(f"RUN#{batch}") & Key("sk").begins_with(_NOTE)
    while True:
        answer = _table().query(KeyConditionExpression=condition, ConsistentRead=True, **start)
        for item in answer["Items"]:
            yield item, ObjectVersion.model_validate_json(str(item["source"]))
        if "LastEvaluatedKey" not in answer:
            return
        start = {"ExclusiveStartKey": answer["LastEvaluatedKey"]}


def commit(manifest: PredictionsManifest) -> str:
    """Let a batch's predictions count, and write its manifest, the last of its objects; returns where it is.

    The manifest is laid down beside the batch's work first, so that whoever ends the run can put it where it belongs
    if this is cut off in between. May be called again.

    Raises:
        RunClosed: the batch has ended, and its claims are given back.
    """
    storage.write_document(staged_manifest_key(manifest.batch), manifest)
    if not ledger.commit_run(manifest.batch):
        run = ledger.find_run(manifest.batch)
        if run is None or not run.committed:
            raise RunClosed(f"batch {manifest.batch} has ended; its files are scored by the next one")
    key = predictions_manifest_key(manifest.recipe, manifest.batch)
    storage.write_document(key, manifest)
    return storage.artifact_uri(key)


def manifest_of(batch: str, recipe: str) -> PredictionsManifest:
    """The manifest of a batch that was committed, which is written now if it was not."""
    key = predictions_manifest_key(recipe, batch)
    try:
        return storage.read_document(PredictionsManifest, key)
    except storage.MissingDocument:
        manifest = storage.read_document(PredictionsManifest, staged_manifest_key(batch))
        storage.write_document(key, manifest)
        return manifest


def settle(manifest: PredictionsManifest) -> None:
    """Keep with each claim of a committed batch what became of the file."""
    reasons = {_key(one.source)["pk"]: "; ".join(one.rules or map(str, one.reasons)) for one in manifest.set_aside}
    scored = {_key(one.source)["pk"] for one in manifest.files}
    for note, source in _notes(manifest.batch):
        pk = _key(source)["pk"]
        if pk in scored:
            _settle_one(manifest.batch, source, ClaimState.SCORED, None)
        elif pk in reasons:
            _settle_one(manifest.batch, source, ClaimState.SET_ASIDE, reasons[pk])
        else:
            _give_back_one(manifest.batch, source)
        _forget(note)


def _settle_one(batch: str, source: ObjectVersion, state: ClaimState, reason: str | None) -> None:
    _table().update_item(
        Key=_key(source),
        UpdateExpression="SET #state = :state, #run_id = :batch, #reason = :reason",
        ExpressionAttributeNames={"#state": "state", "#run_id": "run_id", "#reason": "reason"},
        ExpressionAttributeValues={":state": state.value, ":batch": batch, ":reason": reason},
    )


def give_back(batch: str) -> int:
    """Let the next batch take what this one held; returns how many files. Only for a batch that can't commit."""
    given = 0
    for note, source in _notes(batch):
        _give_back_one(batch, source)
        _forget(note)
        given += 1
    return given


def _give_back_one(batch: str, source: ObjectVersion) -> None:
    try:
        _table().delete_item(Key=_key(source), ConditionExpression=Attr("run_id").eq(batch))
    except ClientError as error:
        # Given back before, and claimed by another batch since.
        if aws.error_code(error) != "ConditionalCheckFailedException":
            raise


def _forget(note: dict[str, Any]) -> None:
    _table().delete_item(Key={"pk": note["pk"], "sk": note["sk"]})
