"""Ranges of event time to windows of a pipeline's cadence, aligned in UTC; a week starts on Monday."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from mlops_tasks.artifacts import Window
from mlops_tasks.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mlops_tasks.specs import Cadence

_STEPS = {"hour": timedelta(hours=1), "day": timedelta(days=1), "week": timedelta(weeks=1)}
_ALIGNED = {
    "hour": "on a full hour",
    "day": "at midnight UTC",
    "week": "on a Monday at midnight UTC",
    "month": "on the first of a month at midnight UTC",
}
DECEMBER = 12


def floor(time: datetime, cadence: Cadence) -> datetime:
    """Return the start of the window that a time lies in."""
    time = (time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)).replace(
        minute=0, second=0, microsecond=0
    )
    if cadence == "hour":
        return time
    time = time.replace(hour=0)
    if cadence == "week":
        return time - timedelta(days=time.weekday())
    return time.replace(day=1) if cadence == "month" else time


def following(start: datetime, cadence: Cadence) -> datetime:
    """Return the end of the window that starts at an aligned time."""
    if cadence != "month":
        return start + _STEPS[cadence]
    year, month = (start.year + 1, 1) if start.month == DECEMBER else (start.year, start.month + 1)
    return start.replace(year=year, month=month)


def window_of(time: datetime, cadence: Cadence) -> Window:
    """Return the window that a time lies in."""
    start = floor(time, cadence)
    return Window(start=start, end=following(start, cadence))


def windows_between(start: datetime, end: datetime, cadence: Cadence) -> list[Window]:
    """Cut `[start, end)` into windows.

    Raises:
        SpecError: the range is empty or its ends are not aligned to the cadence.

    """
    _require_order(start, end)
    for name, time in (("start", start), ("end", end)):
        if floor(time, cadence) != _utc(time):
            below = floor(time, cadence)
            msg = (
                f"{name}: {_shown(time)} is not aligned to the cadence {cadence!r}, whose windows start {_ALIGNED[cadence]}; "
                f"use {_shown(below)} or {_shown(following(below, cadence))}"
            )
            raise SpecError(msg)
    return covering(start, end, cadence)


def covering(start: datetime, end: datetime, cadence: Cadence) -> list[Window]:
    """Return the windows that overlap `[start, end)`. Raises: SpecError on an empty range."""
    _require_order(start, end)
    out = [window_of(start, cadence)]
    while out[-1].end < _utc(end):
        out.append(Window(start=out[-1].end, end=following(out[-1].end, cadence)))
    return out


def contiguous(windows: Iterable[Window]) -> list[list[Window]]:
    """Group windows into runs without gaps, in time order; a window given twice counts once."""
    runs: list[list[Window]] = []
    for window in sorted(set(windows), key=lambda w: w.start):
        if runs and runs[-1][-1].end == window.start:
            runs[-1].append(window)
        else:
            runs.append([window])
    return runs


def span(windows: Sequence[Window]) -> Window:
    """Return the interval from the first start to the last end."""
    return Window(start=min(w.start for w in windows), end=max(w.end for w in windows))


def lookback_windows(windows: Sequence[Window], lookback: timedelta, cadence: Cadence) -> list[Window]:
    """Return the windows, not among the given ones, whose rows the features of `windows` look back into, in time order."""
    given = set(windows)
    before = {w for window in windows for w in _before(window, lookback, cadence)}
    return sorted(before - given, key=lambda w: w.start)


def _before(window: Window, lookback: timedelta, cadence: Cadence) -> list[Window]:
    return covering(window.start - lookback, window.start, cadence) if lookback else []


def _require_order(start: datetime, end: datetime) -> None:
    if _utc(end) <= _utc(start):
        msg = f"end: must be after start {_shown(start)}, got {_shown(end)}; the end itself is not part of the range"
        raise SpecError(msg)


def _utc(time: datetime) -> datetime:
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def _shown(time: datetime) -> str:
    text = _utc(time).replace(tzinfo=None).isoformat()
    return text.removesuffix("T00:00:00").removesuffix(":00")
