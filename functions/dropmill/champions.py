"""The champion of each recipe: a pointer in the ledger, moved only by compare-and-swap.

    pk                 sk                what
    CHAMPION#<recipe>  META              the pointer: its version, which rises with each move, and the champion
    CHAMPION#<recipe>  PACKAGE#<arn>     the approval of a model package that was last acted on

SageMaker tells of an approval also when Register Model itself gave it, late, and more than once. So what counts is a
change against the approval that was last acted on, which is written in one transaction with the pointer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from botocore.exceptions import ClientError

from dropmill import aws
from dropmill.contracts import Champion
from dropmill.settings import setting

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.service_resource import Table

Approval = Literal["Approved", "Rejected", "PendingManualApproval"]


@dataclass(frozen=True)
class Pointer:
    """`version` is 0 where the recipe never had a champion; a champion that was taken away leaves its version."""

    version: int
    champion: Champion | None


def _table() -> Table:
    return aws.dynamodb_table(setting("ledger_table"))


def _pointer_key(recipe: str) -> dict[str, str]:
    return {"pk": f"CHAMPION#{recipe}", "sk": "META"}


def _package_key(recipe: str, package: str) -> dict[str, str]:
    return {"pk": f"CHAMPION#{recipe}", "sk": f"PACKAGE#{package}"}


def find_pointer(recipe: str) -> Pointer:
    item: dict[str, Any] | None = _table().get_item(Key=_pointer_key(recipe), ConsistentRead=True).get("Item")
    if item is None:
        return Pointer(0, None)
    champion = Champion.model_validate_json(item["champion"]) if "champion" in item else None
    return Pointer(int(item["version"]), champion)


def acted_on(recipe: str, package: str) -> Approval | None:
    """The approval of a package that was last acted on; None: none yet."""
    item = _table().get_item(Key=_package_key(recipe, package), ConsistentRead=True).get("Item")
    status: Any = item["status"] if item else None
    approval: Approval | None = status
    return approval


def crown(candidate: Champion, pointer: Pointer, known: Approval | None) -> bool:
    """Move the pointer to an approved package; the champion's version becomes the next.

    False where the pointer, or the approval that was acted on, is not what was read any more.
    """
    champion = candidate.model_copy(update={"version": pointer.version + 1})
    item = {
        **_pointer_key(champion.recipe),
        "run_id": champion.run_id,
        "version": champion.version,
        "package": champion.package,
        "champion": champion.model_dump_json(),
    }
    noted = _note(champion.recipe, champion.package, champion.run_id, "Approved", known)
    return _write(_put(item, _unmoved(pointer)), noted)


def dethrone(champion: Champion, pointer: Pointer, known: Approval | None) -> bool:
    """Take a rejected package's crown, which nobody gets; False where it is not what was read any more."""
    item = {**_pointer_key(champion.recipe), "run_id": champion.run_id, "version": pointer.version + 1}
    noted = _note(champion.recipe, champion.package, champion.run_id, "Rejected", known)
    return _write(_put(item, _unmoved(pointer)), noted)


def note(recipe: str, package: str, run_id: str, approval: Approval, known: Approval | None) -> bool:
    """Remember an approval that moves nothing; False where another one was acted on meanwhile."""
    return _write(_note(recipe, package, run_id, approval, known))


def _note(recipe: str, package: str, run_id: str, approval: Approval, known: Approval | None) -> dict[str, Any]:
    item = {**_package_key(recipe, package), "run_id": run_id, "status": approval}
    return _put(item, ("status", known))


def _unmoved(pointer: Pointer) -> tuple[str, int | None]:
    return "version", pointer.version or None


def _put(item: dict[str, Any], unchanged: tuple[str, str | int | None]) -> dict[str, Any]:
    """A put on condition that an attribute of the row is what was read; None: there was no row."""
    name, value = unchanged
    put: dict[str, Any] = {"TableName": _table().name, "Item": item}
    if value is None:
        put["ConditionExpression"] = "attribute_not_exists(pk)"
    else:
        put |= {
            "ConditionExpression": "#name = :value",
            "ExpressionAttributeNames": {"#name": name},
            "ExpressionAttributeValues": {":value": value},
        }
    return {"Put": put}


def _write(*puts: dict[str, Any]) -> bool:
    """All of these or none; False where a condition does not hold."""
    items: Any = list(puts)
    try:
        _table().meta.client.transact_write_items(TransactItems=items)
    except ClientError as error:
        if aws.error_code(error) != "TransactionCanceledException":
            raise
        reasons: list[dict[str, Any]] = error.response.get("CancellationReasons", [])  # type: ignore[assignment]  # set by DynamoDB only
        if any(reason.get("Code") == "ConditionalCheckFailed" for reason in reasons):
            return False
        raise
    return True
