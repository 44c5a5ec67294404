"""A cron expression to the times that it names, as Airflow's timetables read it: five fields or a preset, in UTC."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from mlops_tasks.artifacts import Window
from mlops_tasks.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Iterator

PRESETS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@quarterly": "0 0 1 */3 *",
    "@yearly": "0 0 1 1 *",
}
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
FIELDS = ("minute", "hour", "day of month", "month", "day of week")
RANGES = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
LONGEST_GAP = timedelta(days=8 * 366)
"""29 February comes every four years, and once in eight around a century."""


@dataclass(frozen=True)
class Cron:
    """Which minutes an expression names."""

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    either_day: bool
    """Both kinds of days are restricted: then a day that is one of either is named."""

    def names_day(self, day: datetime) -> bool:
        """Tell whether the expression names a time of this day."""
        by_date, by_weekday = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        return day.month in self.months and ((by_date or by_weekday) if self.either_day else (by_date and by_weekday))

    def times(self, start: datetime) -> Iterator[datetime]:
        """Yield the times from `start` on; none where there is none for years."""
        start = start.astimezone(UTC)
        day, idle = start.replace(hour=0, minute=0, second=0, microsecond=0), timedelta(0)
        while idle < LONGEST_GAP:
            if self.names_day(day):
                idle = timedelta(0)
                found = (
                    day.replace(hour=hour, minute=minute) for hour in sorted(self.hours) for minute in sorted(self.minutes)
                )
                yield from (time for time in found if time >= start)
            day, idle = day + timedelta(days=1), idle + timedelta(days=1)


def parse_cron(expression: str) -> Cron:
    """Read an expression. Raises: SpecError naming the field."""
    fields = PRESETS.get(expression.strip().lower(), expression).split()
    if len(fields) != len(FIELDS):
        presets = ", ".join(PRESETS)
        msg = f"cron {expression!r}: must have five fields ({', '.join(FIELDS)}) or be one of {presets}"
        raise SpecError(msg)
    minutes, hours, days, months, weekdays = (_parse_field(text, at, expression) for at, text in enumerate(fields))
    either = not fields[2].startswith("*") and not fields[4].startswith("*")
    return Cron(minutes, hours, days, months, frozenset(day % 7 for day in weekdays), either)


def data_intervals(expression: str, start: datetime, end: datetime) -> list[Window]:
    """Return the data intervals that start within `[start, end]`: those that a backfill of these dates makes runs of."""
    out: list[Window] = []
    times = parse_cron(expression).times(start)
    before = next(times, None)
    for time in times:
        if before is None or before > end:
            break
        out.append(Window(start=before, end=time))
        before = time
    return out


def _parse_field(text: str, at: int, expression: str) -> frozenset[int]:
    try:
        found = frozenset(value for part in text.lower().split(",") for value in _parse_part(part, at))
    except ValueError as error:
        low, high = RANGES[at]
        msg = f"cron {expression!r}: its {FIELDS[at]} must be *, a number from {low} to {high}, a range or a step, got {text!r}"
        raise SpecError(msg) from error
    return found


def _parse_part(part: str, at: int) -> range:
    """Read `*`, `5`, `1-5` or either with `/2`. Raises: ValueError."""
    low, high = RANGES[at]
    body, slash, step_text = part.partition("/")
    step = int(step_text) if slash else 1
    if body == "*":
        # Sunday has two numbers; a step over all days counts it once.
        first, last = low, 6 if at == FIELDS.index("day of week") else high
    else:
        first_text, dash, last_text = body.partition("-")
        first = _number(first_text, at)
        last = _number(last_text, at) if dash else (high if slash else first)
    if step < 1 or not low <= first <= last <= high:
        raise ValueError(part)
    return range(first, last + 1, step)


def _number(text: str, at: int) -> int:
    names = {FIELDS.index("month"): MONTHS, FIELDS.index("day of week"): DAYS}.get(at, ())
    if text in names:
        return names.index(text) + (1 if names is MONTHS else 0)
    return int(text)
