"""The part of moto's DynamoDB that the embedded cloud replaces is still where it was."""

import inspect

import pytest

from localaws import dynamodb
from localaws.seams import Seam


@pytest.mark.parametrize("seam", dynamodb.SEAMS, ids=lambda seam: seam.path)
def test_the_part_is_there_and_takes_the_same_parameters(seam: Seam) -> None:
    assert seam.check() is not None


def test_every_operation_goes_through_it() -> None:
    from moto.core.responses import BaseResponse
    from moto.dynamodb.responses import DynamoHandler

    assert "call_action" in inspect.getsource(BaseResponse._dispatch)
    assert "call_action" in vars(DynamoHandler)
