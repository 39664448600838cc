"""Schedule expressions as EventBridge reads them: `rate(...)`, `cron(...)` and, for EventBridge Scheduler, `at(...)`.

The grammar is that of https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-scheduled-rule-pattern.html and
https://docs.aws.amazon.com/scheduler/latest/UserGuide/schedule-types.html. Every moment given or returned is aware.
"""

import calendar
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Protocol
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

LAST_YEAR = 2199
MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
WEEKDAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
UNITS = {"minute": timedelta(minutes=1), "hour": timedelta(hours=1), "day": timedelta(days=1)}


class ScheduleError(ValueError):
    """The expression is not one that EventBridge accepts; the message says where and why."""


class Schedule(Protocol):
    def after(self, moment: datetime) -> datetime | None:
        """The first due time later than `moment`, or None when there is none."""


@dataclass(frozen=True)
class Rate:
    """Due at `start` + k * `every`, for k = 1, 2, ..."""

    every: timedelta
    start: datetime

    def after(self, moment: datetime) -> datetime | None:
        passed = max((moment - self.start) // self.every, 0)
        return self.start + (passed + 1) * self.every


@dataclass(frozen=True)
class At:
    """Due once."""

    moment: datetime

    def after(self, moment: datetime) -> datetime | None:
        return self.moment if self.moment > moment else None


@dataclass(frozen=True)
class Cron:
    """Due whenever all six fields match in `zone`.

    A time that daylight saving skips is skipped, a doubled one counts once.
    """

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days_of_month: str
    months: tuple[int, ...]
    days_of_week: str
    years: tuple[int, ...]
    zone: tzinfo

    def after(self, moment: datetime) -> datetime | None:
        today = moment.astimezone(self.zone).date()
        for day in self._days(today):
            for hour in self.hours:
                for minute in self.minutes:
                    local = datetime(day.year, day.month, day.day, hour, minute, tzinfo=self.zone)
                    due = local.astimezone(UTC)
                    exists = due.astimezone(self.zone).replace(tzinfo=None) == local.replace(tzinfo=None)
                    if exists and due > moment:
                        return due
        return None

    def _days(self, first: date) -> Iterator[date]:
        for year in self.years:
            for month in self.months:
                if (year, month) < (first.year, first.month):
                    continue
                if self.days_of_week == "?":
                    days = _days_of_month(self.days_of_month, year, month)
                else:
                    days = _days_of_week(self.days_of_week, year, month)
                yield from (day for day in (date(year, month, number) for number in sorted(days)) if day >= first)


def parse(expression: str, *, start: datetime, zone: str = "UTC", once: bool = False) -> Schedule:
    """Read a schedule expression.

    `start` is where a rate begins to count; `zone` is an IANA name and matters to `cron` and `at`; `once` allows `at`,
    which only EventBridge Scheduler knows. Raises ScheduleError.
    """
    try:
        tz: tzinfo = ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise ScheduleError(f"{zone!r} is not a time zone: use an IANA name such as Europe/Berlin") from error
    match = re.fullmatch(r"(rate|cron|at)\((.*)\)", expression)
    if match is None:
        raise ScheduleError(f"{expression!r} is not a schedule: it must be rate(...) or cron(...)")
    kind, body = match.groups()
    try:
        if kind == "rate":
            return _rate(body, start)
        if kind == "cron":
            return _cron(body, tz)
        if once:
            return At(datetime.strptime(body, "%Y-%m-%dT%H:%M:%S").replace(tzinfo=tz).astimezone(UTC))
    except ScheduleError as error:
        raise ScheduleError(f"{expression!r} is not a schedule: {error}") from error
    except ValueError as error:
        raise ScheduleError(f"{expression!r} is not a schedule: at() needs yyyy-mm-ddThh:mm:ss") from error
    raise ScheduleError(f"{expression!r} is not a schedule that a rule accepts: only EventBridge Scheduler knows at()")


def _rate(body: str, start: datetime) -> Rate:
    match = re.fullmatch(r"(\d{1,6}) (minute|hour|day)(s?)", body)
    if match is None:
        raise ScheduleError("a rate is a positive number and one of minute(s), hour(s), day(s)")
    number = int(match[1])
    if number == 0:
        raise ScheduleError("a rate must be positive")
    if (number == 1) == bool(match[3]):
        raise ScheduleError("the unit of a rate is singular for 1 and plural for every other number")
    return Rate(number * UNITS[match[2]], start)


def _cron(body: str, zone: tzinfo) -> Cron:
    fields = body.split()
    if len(fields) != 6:
        raise ScheduleError(
            f"a cron has six fields (minutes hours day-of-month month day-of-week year), not {len(fields)}"
        )
    minutes, hours, days_of_month, months, days_of_week, years = (field.upper() for field in fields)
    if (days_of_month == "?") == (days_of_week == "?"):
        raise ScheduleError("exactly one of day-of-month and day-of-week must be ?")
    cron = Cron(
        minutes=_values("minutes", minutes, 0, 59),
        hours=_values("hours", hours, 0, 23),
        days_of_month=days_of_month,
        months=_values("month", months, 1, 12, MONTHS),
        days_of_week=days_of_week,
        years=_values("year", years, 1970, LAST_YEAR),
        zone=zone,
    )
    # January 2000 stands for any month: a day field's spelling is checked by expanding it once.
    if days_of_week == "?":
        _days_of_month(days_of_month, 2000, 1)
    else:
        _days_of_week(days_of_week, 2000, 1)
    return cron


def _values(name: str, text: str, low: int, high: int, names: tuple[str, ...] = ()) -> tuple[int, ...]:
    """Expand lists, ranges, steps and names such as `MON-FRI`, `*/5` or `1,2,8` into sorted numbers."""

    def number(word: str) -> int:
        value = names.index(word) + 1 if word in names else int(word) if re.fullmatch(r"\d{1,4}", word) else -1
        if not low <= value <= high:
            raise ScheduleError(f"{word!r} is no value of the field {name} ({low}-{high})")
        return value

    found: set[int] = set()
    for item in text.split(","):
        span, slash, step_text = item.partition("/")
        if slash and not re.fullmatch(r"[1-9]\d{0,3}", step_text):
            raise ScheduleError(f"{item!r} has no positive step in the field {name}")
        first_text, dash, last_text = span.partition("-")
        if span == "*":
            first, last = low, high
        elif dash:
            first, last = number(first_text), number(last_text)
        else:
            first = number(span)
            last = high if slash else first
        if last < first:
            raise ScheduleError(f"{item!r} runs backwards in the field {name}")
        found.update(range(first, last + 1, int(step_text) if slash else 1))
    return tuple(sorted(found))


def _days_of_month(text: str, year: int, month: int) -> set[int]:
    length = calendar.monthrange(year, month)[1]
    found: set[int] = set()
    for item in text.split(","):
        if item == "L":
            found.add(length)
        elif item == "LW":
            found.add(_nearest_workday(year, month, length))
        elif item.endswith("W"):
            (target,) = _values("day-of-month", item[:-1], 1, 31)
            if target <= length:
                found.add(_nearest_workday(year, month, target))
        else:
            found.update(day for day in _values("day-of-month", item, 1, 31) if day <= length)
    return found


def _nearest_workday(year: int, month: int, target: int) -> int:
    """The weekday nearest to the day, within its month."""
    length = calendar.monthrange(year, month)[1]
    weekday = date(year, month, target).weekday()
    if weekday == calendar.SATURDAY:
        return target - 1 if target > 1 else target + 2
    if weekday == calendar.SUNDAY:
        return target + 1 if target < length else target - 2
    return target


def _days_of_week(text: str, year: int, month: int) -> set[int]:
    length = calendar.monthrange(year, month)[1]
    # EventBridge counts Sunday as 1, date.isoweekday() as 7.
    weekday_of = {day: date(year, month, day).isoweekday() % 7 + 1 for day in range(1, length + 1)}

    def days(weekday: int) -> list[int]:
        return [day for day, found in weekday_of.items() if found == weekday]

    found: set[int] = set()
    for item in text.split(","):
        if "#" in item:
            name, _, nth = item.partition("#")
            (weekday,) = _values("day-of-week", name, 1, 7, WEEKDAYS)
            if not re.fullmatch(r"[1-5]", nth):
                raise ScheduleError(f"{item!r} must end in #1 to #5 in the field day-of-week")
            found.update(days(weekday)[int(nth) - 1 : int(nth)])
        elif item == "L":
            found.update(days(7))
        elif item.endswith("L"):
            (weekday,) = _values("day-of-week", item[:-1], 1, 7, WEEKDAYS)
            found.add(days(weekday)[-1])
        else:
            for weekday in _values("day-of-week", item, 1, 7, WEEKDAYS):
                found.update(days(weekday))
    return found
