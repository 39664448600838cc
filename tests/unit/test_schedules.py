"""Schedule expressions against due times worked out by hand from EventBridge's documentation."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localaws.schedules import ScheduleError, parse

START = datetime(2024, 2, 28, 12, 0, tzinfo=UTC)


def due(expression: str, after: datetime = START, zone: str = "UTC") -> datetime | None:
    return parse(expression, start=START, zone=zone, once=True).after(after)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("cron(0 18 ? * MON-FRI *)", "2024-02-28T18:00"),
        ("cron(0 12 * * ? *)", "2024-02-29T12:00"),
        ("cron(0/15 * * * ? *)", "2024-02-28T12:15"),
        ("cron(5,35 14 * * ? *)", "2024-02-28T14:05"),
        ("cron(0/10 8-17/3 ? * 2-6 *)", "2024-02-28T14:00"),
        ("cron(0 10 L * ? *)", "2024-02-29T10:00"),
        ("cron(0 10 LW 3 ? *)", "2024-03-29T10:00"),
        ("cron(0 8 3W * ? *)", "2024-03-04T08:00"),
        ("cron(0 8 1W 6 ? *)", "2024-06-03T08:00"),
        ("cron(0 8 30W 6 ? *)", "2024-06-28T08:00"),
        ("cron(0 10 ? * 6#3 *)", "2024-03-15T10:00"),
        ("cron(0 10 ? * SUN *)", "2024-03-03T10:00"),
        ("cron(0 10 ? * 1 *)", "2024-03-03T10:00"),
        ("cron(0 10 ? * 5L 2023-2024)", "2024-02-29T10:00"),
        ("cron(0 10 ? * L *)", "2024-03-02T10:00"),
        ("cron(0 0 1 JAN,jul ? 2025)", "2025-01-01T00:00"),
        ("cron(0 0 29 2 ? 2025/1)", "2028-02-29T00:00"),
        ("rate(1 minute)", "2024-02-28T12:01"),
        ("rate(7 days)", "2024-03-06T12:00"),
        ("at(2024-03-01T00:00:00)", "2024-03-01T00:00"),
    ],
)
def test_next_due_time(expression: str, expected: str) -> None:
    assert due(expression) == datetime.fromisoformat(f"{expected}Z")


@pytest.mark.parametrize("expression", ["cron(0 0 30 2 ? *)", "cron(0 0 1 1 ? 2023)", "at(2024-02-28T12:00:00)"])
def test_never_due_again(expression: str) -> None:
    assert due(expression) is None


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("rate(1 dayz)", "minute"),
        ("rate(1 minutes)", "singular"),
        ("rate(5 minute)", "plural"),
        ("rate(0 minutes)", "positive"),
        ("rate(-1 minutes)", "positive"),
        ("every(5 minutes)", "must be rate"),
        ("cron(0 12 * * ?)", "six fields"),
        ("cron(0 12 * * * *)", "must be ?"),
        ("cron(0 12 ? * ? *)", "must be ?"),
        ("cron(60 12 * * ? *)", "minutes"),
        ("cron(0 24 * * ? *)", "hours"),
        ("cron(0 12 32 * ? *)", "day-of-month"),
        ("cron(0 12 * 13 ? *)", "month"),
        ("cron(0 12 ? * 8 *)", "day-of-week"),
        ("cron(0 12 ? * MON#6 *)", "#1 to #5"),
        ("cron(0 12 * * ? 1969)", "year"),
        ("cron(0/0 12 * * ? *)", "step"),
        ("cron(30-10 12 * * ? *)", "backwards"),
        ("at(tomorrow)", "yyyy"),
    ],
)
def test_refuses_and_says_why(expression: str, reason: str) -> None:
    with pytest.raises(ScheduleError, match=reason.replace("?", r"\?")):
        due(expression)


def test_at_belongs_to_scheduler_alone() -> None:
    with pytest.raises(ScheduleError, match="only EventBridge Scheduler"):
        parse("at(2024-03-01T00:00:00)", start=START)


def test_unknown_time_zone() -> None:
    with pytest.raises(ScheduleError, match="Mars/Olympus"):
        due("cron(0 12 * * ? *)", zone="Mars/Olympus")


def test_time_zone() -> None:
    assert due("cron(0 9 * * ? *)", zone="America/New_York") == datetime(2024, 2, 28, 14, 0, tzinfo=UTC)
    assert due("at(2024-07-01T09:00:00)", zone="Europe/Berlin") == datetime(2024, 7, 1, 7, 0, tzinfo=UTC)


def test_a_time_that_daylight_saving_skips_is_skipped() -> None:
    # Berlin's clocks go from 2:00 to 3:00 on 31 March 2024.
    before = datetime(2024, 3, 30, 12, 0, tzinfo=UTC)
    assert due("cron(30 2 * * ? *)", before, "Europe/Berlin") == datetime(2024, 4, 1, 0, 30, tzinfo=UTC)


def test_a_time_that_daylight_saving_doubles_counts_once() -> None:
    # Berlin's clocks go from 3:00 back to 2:00 on 27 October 2024.
    first = due("cron(30 2 * * ? *)", datetime(2024, 10, 26, 12, 0, tzinfo=UTC), "Europe/Berlin")
    assert first == datetime(2024, 10, 27, 0, 30, tzinfo=UTC)
    assert due("cron(30 2 * * ? *)", first, "Europe/Berlin") == datetime(2024, 10, 28, 1, 30, tzinfo=UTC)


@given(
    number=st.integers(2, 500),
    unit=st.sampled_from([("minutes", 60), ("hours", 3600), ("days", 86400)]),
    passed=st.integers(0, 10**9),
)
def test_a_rate_keeps_its_grid(number: int, unit: tuple[str, int], passed: int) -> None:
    moment = START + timedelta(seconds=passed)
    every = timedelta(seconds=number * unit[1])
    found = due(f"rate({number} {unit[0]})", moment)
    assert found is not None
    assert moment < found <= moment + every
    assert (found - START) % every == timedelta(0)


@given(
    minute=st.integers(0, 59),
    hour=st.integers(0, 23),
    weekday=st.integers(1, 7),
    passed=st.integers(0, 10**8),
)
def test_a_weekly_cron_matches_the_calendar(minute: int, hour: int, weekday: int, passed: int) -> None:
    moment = START + timedelta(seconds=passed)
    found = due(f"cron({minute} {hour} ? * {weekday} *)", moment)
    assert found is not None
    assert timedelta(0) < found - moment <= timedelta(days=7)
    assert (found.minute, found.hour, found.isoweekday() % 7 + 1) == (minute, hour, weekday)
