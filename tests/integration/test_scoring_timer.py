"""The timer that starts scoring: when the parameters say, in their time zone, and not at all where it is off."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from localaws.cloud import Cloud

ROOT = Path(__file__).parents[2]
PARAMETERS = {"ScoringSchedule": "cron(30 2 * * ? *)", "ScoringTimeZone": "Asia/Tokyo"}


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    with Cloud() as running:
        yield running


def executions(cloud: Cloud, stack: Any) -> list[str]:
    found = cloud.client("stepfunctions").list_executions(stateMachineArn=stack.outputs["ScoreStateMachineArn"])
    return sorted(one["name"] for one in found["executions"])


def test_each_recipe_is_scored_when_the_time_has_come_where_the_user_is(cloud: Cloud) -> None:
    on = cloud.deploy(ROOT / "template.yaml", "on", PARAMETERS)
    off = cloud.deploy(ROOT / "template.yaml", "off", {**PARAMETERS, "ScoringEnabled": "off"})
    for stack in (on, off):
        for key in ("kmeans/a.csv", "kmeans/deeper/b.csv", "digits/a.csv", "No Recipe/a.csv", "loose.csv"):
            cloud.client("s3").put_object(Bucket=stack.outputs["DropBucket"], Key=f"scoring/{key}", Body=b"1,2\n")
    now = cloud.clock.now()
    due = now.replace(hour=17, minute=30, second=0, microsecond=0)  # half past two in Tokyo
    due += timedelta(days=due <= now)
    with cloud.events.drop(lambda event: event["source"] == "aws.events"):  # the sweepers would take part
        cloud.clock.advance((due - now).total_seconds() - 60)
        assert cloud.events.wait_idle(30)
        assert executions(cloud, on) == []
        cloud.clock.advance(61)
        assert cloud.events.wait_idle(30)
        assert cloud.lambdas.wait_idle(30)
    assert executions(cloud, on) == [f"{recipe}-score-{due:%Y%m%dt%H%M}" for recipe in ("digits", "kmeans")]
    assert executions(cloud, off) == []
