"""What a target is sent, and which events a pattern matches."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from moto.events.models import EventPattern

from localaws.events import DeliveryError, fill, transform

EVENT: dict[str, Any] = {
    "version": "0",
    "id": "17793124-05d4-b198-2fde-7ededc63b103",
    "detail-type": "SageMaker Training Job State Change",
    "source": "aws.sagemaker",
    "account": "123456789012",
    "time": "2024-02-28T12:00:00Z",
    "region": "us-east-1",
    "resources": ["arn:aws:sagemaker:us-east-1:123456789012:training-job/x", "second"],
    "detail": {
        "TrainingJobName": 'a "quoted"\nname',
        "TrainingJobStatus": "Completed",
        "Seconds": 12,
        "Tags": {"dropmill:stack": "s", "dropmill:run": "kmeans-0123456789ab"},
    },
}
RULE = ("arn:aws:events:us-east-1:123456789012:rule/r", "r")


def sent(target: dict[str, Any]) -> Any:
    return json.loads(transform({"Arn": "arn", **target}, EVENT, *RULE))


def test_the_event_itself() -> None:
    assert sent({}) == EVENT


def test_input_and_input_path() -> None:
    assert sent({"Input": '{"a": 1}'}) == {"a": 1}
    assert sent({"InputPath": "$.detail.Tags"}) == EVENT["detail"]["Tags"]
    assert sent({"InputPath": "$.resources[1]"}) == "second"
    assert sent({"InputPath": "$.detail-type"}) == EVENT["detail-type"]
    assert sent({"InputPath": "$.detail.Tags['dropmill:run']"}) == "kmeans-0123456789ab"


def transformed(template: str, **paths: str) -> str:
    target = {"Arn": "arn", "InputTransformer": {"InputTemplate": template, "InputPathsMap": paths}}
    return transform(target, EVENT, *RULE)


def test_a_value_outside_quotes_becomes_json() -> None:
    text = transformed(
        '{"name": <name>, "seconds": <seconds>, "tags": <tags>, "fixed": "<unknown>"}',
        name="$.detail.TrainingJobName",
        seconds="$.detail.Seconds",
        tags="$.detail.Tags",
    )
    assert json.loads(text) == {
        "name": EVENT["detail"]["TrainingJobName"],
        "seconds": 12,
        "tags": EVENT["detail"]["Tags"],
        "fixed": "<unknown>",
    }


def test_a_value_inside_quotes_becomes_text() -> None:
    text = transformed(
        '"job <name> \\"took\\" <seconds> s: <tags>"',
        name="$.detail.TrainingJobName",
        seconds="$.detail.Seconds",
        tags="$.detail.Tags",
    )
    name, tags = EVENT["detail"]["TrainingJobName"], json.dumps(EVENT["detail"]["Tags"], separators=(",", ":"))
    assert json.loads(text) == f'job {name} "took" 12 s: {tags}'


def test_names_that_eventbridge_knows() -> None:
    text = transformed(
        '{"arn": <aws.events.rule-arn>, "rule": "<aws.events.rule-name>", "at": <aws.events.event.ingestion-time>,'
        ' "event": <aws.events.event.json>}'
    )
    assert json.loads(text) == {"arn": RULE[0], "rule": "r", "at": EVENT["time"], "event": EVENT}


def test_a_value_that_the_event_lacks_is_empty() -> None:
    assert json.loads(transformed('{"a": <gone>, "b": "x<gone>"}', gone="$.detail.Gone.Deeper")) == {"a": "", "b": "x"}


def test_a_template_that_gives_no_json_is_a_dead_letter() -> None:
    with pytest.raises(DeliveryError) as caught:
        transformed('{"a": <seconds>')
    assert caught.value.code == "INVALID_JSON"


@pytest.mark.parametrize("path", ["detail", "$.detail.[", "$..x", "$.detail[*]"])
def test_a_path_that_cant_be_read(path: str) -> None:
    with pytest.raises(DeliveryError) as caught:
        sent({"InputPath": path})
    assert caught.value.code == "INVALID_PARAMETER"


@given(st.text(), st.one_of(st.text(), st.integers(), st.booleans(), st.dictionaries(st.text(), st.text())))
def test_no_value_breaks_out_of_its_place(prefix: str, value: Any) -> None:
    name = json.dumps(prefix.replace("<", ""))[1:-1]
    assert json.loads(fill('{"k": <v>, "end": 1}', {"v": value})) == {"k": value, "end": 1}
    filled = json.loads(fill(f'{{"k": "{name}<v>", "end": 1}}', {"v": value}))
    assert filled["end"] == 1
    assert filled["k"].startswith(prefix.replace("<", ""))


def matches(pattern: dict[str, Any], event: Any = EVENT) -> bool:
    found: bool = EventPattern.load(json.dumps(pattern)).matches_event(event)
    return found


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ({"source": ["aws.sagemaker"], "detail": {"TrainingJobStatus": ["Completed", "Failed"]}}, True),
        ({"source": ["aws.sagemaker"], "detail": {"TrainingJobStatus": ["Failed"]}}, False),
        ({"detail": {"Tags": {"dropmill:stack": ["s"]}}}, True),
        ({"detail": {"Tags": {"dropmill:stack": ["other"]}}}, False),
        ({"detail": {"Tags": {"dropmill:run": [{"exists": True}]}}}, True),
        ({"detail": {"Tags": {"dropmill:none": [{"exists": True}]}}}, False),
        ({"detail": {"Tags": {"dropmill:none": [{"exists": False}]}}}, True),
        ({"detail": {"Tags": {"dropmill:run": [{"prefix": "kmeans-"}]}}}, True),
        ({"detail": {"Tags": {"dropmill:run": [{"anything-but": {"prefix": "kmeans-"}}]}}}, False),
        ({"detail": {"TrainingJobStatus": [{"anything-but": ["InProgress", "Stopping"]}]}}, True),
        ({"detail": {"Seconds": [{"numeric": [">", 10, "<=", 12]}]}}, True),
        ({"detail": {"Seconds": ["12"]}}, False),
        ({"resources": [{"suffix": "/x"}]}, True),
        ({"$or": [{"source": ["aws.s3"]}, {"detail": {"Seconds": [12]}}]}, True),
    ],
)
def test_the_patterns_that_rules_rest_on(pattern: dict[str, Any], expected: bool) -> None:
    assert matches(pattern) is expected
