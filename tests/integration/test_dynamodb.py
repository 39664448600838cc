"""Writes of several callers at once in the embedded cloud: each condition holds, and nothing is lost."""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from botocore.exceptions import ClientError

from localaws.cloud import Cloud

CALLERS = 8
ROUNDS = 12


@pytest.fixture(scope="module")
def dynamodb() -> Iterator[Any]:
    with Cloud() as cloud:
        client = cloud.client("dynamodb")
        client.create_table(
            TableName="rows",
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[{"AttributeName": "pk", "AttributeType": "S"}],
            KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}],
        )
        yield client


def put(key: str, caller: int, **condition: Any) -> dict[str, Any]:
    return {"TableName": "rows", "Item": {"pk": {"S": key}, "caller": {"N": str(caller)}}, **condition}


def new(key: str, caller: int) -> dict[str, Any]:
    return put(key, caller, ConditionExpression="attribute_not_exists(pk)")


def test_of_many_conditional_writes_one_goes_through_and_refused_transactions_lose_nobody_else_s(
    dynamodb: Any,
) -> None:
    dynamodb.put_item(**put("taken", 0))

    def work(caller: int) -> int:
        won = 0
        for number in range(ROUNDS):
            dynamodb.put_item(**put(f"own-{caller}-{number}", caller))
            try:
                # The second is refused, so the first is not written either.
                dynamodb.transact_write_items(
                    TransactItems=[{"Put": new(f"never-{caller}-{number}", caller)}, {"Put": new("taken", caller)}]
                )
            except ClientError as error:
                assert [one["Code"] for one in error.response["CancellationReasons"]] == [
                    "None",
                    "ConditionalCheckFailed",
                ]
            try:
                dynamodb.put_item(**new(f"contested-{number}", caller))
                won += 1
            except dynamodb.exceptions.ConditionalCheckFailedException:
                pass
        return won

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # callers get in each other's way as often as can be
    try:
        with ThreadPoolExecutor(CALLERS) as pool:
            won = list(pool.map(work, range(CALLERS)))
    finally:
        sys.setswitchinterval(interval)
    assert sum(won) == ROUNDS
    keys = {item["pk"]["S"] for item in dynamodb.scan(TableName="rows", ConsistentRead=True)["Items"]}
    own = {f"own-{caller}-{number}" for caller in range(CALLERS) for number in range(ROUNDS)}
    assert keys == own | {f"contested-{number}" for number in range(ROUNDS)} | {"taken"}
