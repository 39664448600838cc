"""The parts of moto that the dispatcher takes over are still where they were, and are given back."""

import inspect
from typing import Any

import pytest

from localaws.clock import Clock
from localaws.events import Dispatcher
from localaws.seams import Seam


def dispatcher() -> Dispatcher:
    def no_client(service: str) -> Any:
        raise AssertionError(f"nothing is delivered here, to {service}")

    return Dispatcher(client=no_client, clock=Clock(), region="us-east-1", account_id="123456789012")


SEAMS = dispatcher()._seams.seams


@pytest.mark.parametrize("seam", SEAMS, ids=lambda seam: seam.path)
def test_the_part_is_there_and_takes_the_same_parameters(seam: Seam) -> None:
    assert seam.check() is not None


def test_stopping_gives_everything_back() -> None:
    before = [seam.check() for seam in SEAMS]
    running = dispatcher()
    running.start()
    during = [getattr(seam.owner(), seam.path.rsplit(".", 1)[-1]) for seam in SEAMS]
    running.stop()
    assert all(ours is not original for ours, original in zip(during, before, strict=True))
    assert [seam.check() for seam in SEAMS] == before


def test_what_is_read_from_moto_is_there() -> None:
    from moto.events.models import EventPattern, Rule
    from moto.s3 import models
    from moto.s3.notifications import _detail_type
    from moto.scheduler.models import EventBridgeSchedulerBackend, Schedule

    make: Any = Rule  # abstract by its annotations alone
    rule = make("r", "123456789012", "us-east-1", None, None, "rate(1 minute)", None, "default", None)
    assert (rule.scheduled_expression, rule.event_pattern.get_pattern(), rule.targets) == ("rate(1 minute)", {}, [])
    event: Any = {"source": "a"}
    assert EventPattern.load('{"source": ["a"]}').matches_event(event)
    assert _detail_type("s3:ObjectCreated:Put") == "Object Created"
    # Both modules call through the module, so that replacing the attribute is enough.
    assert "notifications.send_event(" in inspect.getsource(models.S3Backend.put_object)
    assert "multipart=multipart" in inspect.getsource(models.S3Backend.complete_multipart_upload)
    group = EventBridgeSchedulerBackend("us-east-1", "123456789012").schedule_groups["default"]
    assert group.schedules == {}
    assert {"schedule_expression", "schedule_expression_timezone", "start_date", "end_date", "target", "state"} <= set(
        inspect.signature(Schedule.__init__).parameters
    )
