"""What a handler lets out of a function: answers, errors by name, and no word of an error that may quote a row."""

import json
import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from botocore.exceptions import ClientError, ReadTimeoutError
from pydantic import BaseModel

from dropmill import storage
from dropmill.contracts import LaunchInput, RunReference
from dropmill.errors import InvalidDrop
from dropmill.step import step
from dropmill.steps.close_run import NotEndedYet
from dropmill.words import Cell

CONTEXT: Any = SimpleNamespace(
    aws_request_id="1",
    function_name="dropmill-Step",
    memory_limit_in_mb=128,
    invoked_function_arn="arn:aws:lambda:us-east-1:123456789012:function:dropmill-Step",
)
RUN = "digits-0123456789ab"


class Numbers(BaseModel):
    rows: int


def raised_by(function: Callable[[], Any], event: dict[str, Any] | None = None) -> BaseException:
    """What a handler raises that calls this."""

    def work(request: RunReference) -> None:
        function()

    with pytest.raises(Exception) as caught:
        step(work)({"run_id": RUN} if event is None else event, CONTEXT)
    return caught.value


def client_error(operation: str, code: str, message: str) -> ClientError:
    return ClientError(
        {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": 400}},  # type: ignore[typeddict-item]  # all that is read of it
        operation,
    )


def throw(error: BaseException) -> Callable[[], Any]:
    def work() -> None:
        raise error

    return work


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda: float("quokka"), "ValueError"),
        (lambda: dict[str, int]()["quokka"], "KeyError"),
        (lambda: np.array(["quokka"]).astype(float), "ValueError"),
        (lambda: pc.cast(pa.array(["quokka"]), pa.int32()), "ArrowInvalid"),
        (lambda: json.loads('{"quokka": }'), "JSONDecodeError"),
        (lambda: Numbers.model_validate({"rows": "quokka"}), "ValidationError"),
        (lambda: Numbers.model_validate_json('{"rows": "quokka"}'), "ValidationError"),
        (lambda: b"quokka\xff".decode(), "UnicodeDecodeError"),
        (throw(client_error("SendTaskSuccess", "InvalidToken", "Invalid token: 'quokka'")), "ClientError"),
        (throw(client_error("InvokeEndpoint", "ModelError", "received 'quokka' from model")), "ClientError"),
        (throw(client_error("PutItem", "ValidationException", "the item {token: quokka}")), "ClientError"),
    ],
)
def test_what_nobody_foresaw_is_named_without_what_it_quotes(function: Callable[[], Any], name: str) -> None:
    error = raised_by(function)
    assert type(error).__name__ == name
    assert "quokka" not in f"{error} {error!r} {error.args}"
    assert str(error)
    assert error.__suppress_context__
    assert error.__cause__ is None
    frames = []
    trace = error.__traceback__
    while trace is not None:
        frames.append(trace.tb_frame.f_code.co_name)
        trace = trace.tb_next
    assert "work" in frames  # the traceback leads to where it was


def test_what_can_quote_no_row_is_told() -> None:
    refused = client_error("DescribeEndpoint", "ValidationException", "Could not find endpoint dm-1")
    assert "Could not find endpoint dm-1" in str(raised_by(throw(refused)))
    denied = client_error("PutItem", "AccessDeniedException", "not authorized to perform dynamodb:PutItem")
    assert "not authorized to perform" in str(raised_by(throw(denied)))
    assert str(raised_by(throw(NotEndedYet("not yet")))) == "not yet"
    error = raised_by(lambda: Numbers.model_validate({"rows": "quokka"}))
    assert str(error) == "1 problems with Numbers: rows (int_parsing)"


def test_an_event_that_is_none_is_not_quoted(caplog: pytest.LogCaptureFixture) -> None:
    def launch(request: LaunchInput) -> None:
        pass

    with pytest.raises(Exception, match="shard") as caught:
        step(launch)({"run_id": RUN, "task_token": "quokka", "shard": "quokka"}, CONTEXT)
    assert type(caught.value).__name__ == "ValidationError"
    assert "quokka" not in str(caught.value)


def test_a_refusal_is_kept_in_full_for_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: dict[str, bytes] = {}
    monkeypatch.setattr(storage, "write_object", lambda key, body, *_: kept.__setitem__(key, body))
    error = raised_by(throw(InvalidDrop("x.csv: ", Cell("quokka"), " is no number")))
    assert str(error) == "x.csv: a value is no number"
    ((key, body),) = kept.items()
    assert key == f"runs/{RUN}/refusal.json"
    assert json.loads(body) == {"error": "InvalidDrop", "words": "x.csv: quokka is no number"}
    kept.clear()
    raised_by(throw(InvalidDrop("x.csv: empty")))
    assert kept == {}


def test_a_refusal_that_can_not_be_kept_is_a_refusal_still(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise ReadTimeoutError(endpoint_url="http://s3")

    monkeypatch.setattr(storage, "write_object", broken)
    error = raised_by(throw(InvalidDrop("x.csv: ", Cell("quokka"))))
    assert type(error) is InvalidDrop


def test_at_the_finest_level_requests_stay_unlogged() -> None:
    """botocore's debug lines show bodies and headers of requests."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.DEBUG)
    try:
        for name in (
            "botocore.endpoint",
            "botocore.auth",
            "botocore.parsers",
            "boto3.resources.action",
            "urllib3.connectionpool",
        ):
            assert not logging.getLogger(name).isEnabledFor(logging.INFO), name
    finally:
        root.setLevel(level)
