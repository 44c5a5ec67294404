"""Production data: where it lies in the store, and what its columns are called."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlops_tasks.artifacts import Window
    from mlops_tasks.ports import ArtifactStore

REQUESTS = "requests://"
"""What a source's path begins with that reads the log of a pipeline's server."""
PREFIX = "prediction_"
"""What the log's own columns begin with, and a logged feature's name must not."""
ID, TIME, ENTITY, VERSION, ROLE, SHADOW, FALLBACK, LATENCY_MS, SCORE = (
    f"{PREFIX}{name}" for name in ("id", "time", "entity", "version", "role", "shadow", "fallback", "latency_ms", "score")
)

ERASED = "~"
"""Stands between a segment's name and what names the rows that an erasure left of it."""


def requests_prefix(name: str) -> str:
    """Return what the keys of a pipeline's log begin with."""
    return f"{name}/requests/"


def day_prefix(name: str, day: date) -> str:
    """Return what the keys of one UTC day begin with."""
    return f"{requests_prefix(name)}{day.isoformat()}/"


def segment_key(name: str, day: date, segment: str) -> str:
    """Return the key of a segment's rows of one UTC day."""
    return f"{day_prefix(name, day)}{segment}.parquet"


def erased_key(key: str, content: str) -> str:
    """Return the key of what an erasure left of a file; `content` names what that is."""
    stem = key.removesuffix(".parquet").split(ERASED)[0]
    return f"{stem}{ERASED}{content}.parquet"


def day_keys(store: ArtifactStore, name: str, day: date) -> list[str]:
    """Return the keys of a day's files; one of which an erasure has put what is left, and that it will remove, is none."""
    keys = list(store.list(day_prefix(name, day)))
    erased = {key.split(ERASED)[0] for key in keys if ERASED in key}
    return [key for key in keys if ERASED in key or key.removesuffix(".parquet") not in erased]


def erasures_prefix(name: str) -> str:
    """Return what the keys of a log's erasures begin with."""
    return f"{name}/erasures/"


def day_of(key: str) -> date:
    """Return the UTC day that a key's rows were answered on."""
    return date.fromisoformat(key.rsplit("/", 2)[1])


def logged_days(store: ArtifactStore, name: str) -> list[date]:
    """Return the UTC days that a pipeline's log has or had answers of, earliest first, whatever number of files they hold."""
    found = (folder for folder in store.folders(requests_prefix(name)) if re.fullmatch(r"\d{4}-\d\d-\d\d", folder))
    return [date.fromisoformat(folder) for folder in found]


def days_of(window: Window) -> Iterator[date]:
    """Yield the UTC days that a window touches."""
    day, last = window.start.astimezone(UTC).date(), (window.end.astimezone(UTC) - timedelta(microseconds=1)).date()
    while day <= last:
        yield day
        day += timedelta(days=1)


def utc_day(at_ns: int) -> date:
    """Return the UTC day of a time in nanoseconds since 1970."""
    return datetime.fromtimestamp(at_ns // 1_000_000_000, UTC).date()


def remove_old(store: ArtifactStore, name: str, before: datetime) -> tuple[int, list[date]]:
    """Remove the days of a log that ended before a time, earliest first; a day that goes on at that time stays whole.

    Returns:
        How many files are gone, and of which days.

    """
    files, days = 0, []
    for day in logged_days(store, name):
        if day >= before.astimezone(UTC).date():
            break
        keys = list(store.list(day_prefix(name, day)))
        for key in keys:
            store.delete(key)
        files += len(keys)
        days += [day] if keys else []
    return files, days
