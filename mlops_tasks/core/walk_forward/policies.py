"""Ways of retraining, played through the matrix: how many trainings, how good, and which is enough.

A way of retraining is the times at which it trains. What a training at a time would have given is the newest model of the
matrix that could serve then, so the matrix's models set how fine the times can be told apart.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from datetime import datetime, timedelta
from statistics import fmean, median, stdev

from pydantic import Field

from mlops_tasks.artifacts import Frozen, UtcTime, Window
from mlops_tasks.core.walk_forward.matrix import FEWEST_FOR_ERROR, Known, Matrix, Path, path_of

EVERY = (1, 2, 3, 4, 6, 8, 12, 13, 26)
"""Schedules that are tried: a training at every so many of the matrix's models."""
DAYS = {1: "daily", 7: "weekly", 14: "every 2 weeks"}
MONTH_DAYS = 30.44
NEAR = 0.12


class Training(Frozen):
    """One training of a policy: when, what it gave, and why it was started."""

    at: UtcTime
    version: int | None = Field(description="None: the matrix has no model that is newer than the one that served")
    why: str = ""


class Played(Frozen):
    """One policy, played through history."""

    name: str
    trainings: tuple[Training, ...]
    path: Path
    seconds: float | None = Field(description="what its trainings took; None: nothing is recorded")
    behind: float = Field(description="by how much the metric is worse than with every training, in the mean over periods")
    error: float | None = Field(description="standard error of that")
    worst: float = Field(description="the metric in its worst period")


class Recommendation(Frozen):
    """The schedule with the fewest trainings that is good enough."""

    policy: str
    why: str


def served_periods(matrix: Matrix) -> list[Window]:
    """Return the periods in which some model serves and the oldest one has a value: all policies are compared there."""
    serving = {p: m for p in matrix.periods if (m := matrix.newest(p)) is not None}
    if not serving:
        return []
    first = oldest(matrix)
    return [period for period in serving if matrix.value(first.version, period) is not None]


def oldest(matrix: Matrix) -> Known:
    """Return the model that every policy starts with."""
    return min(matrix.models, key=lambda m: (m.as_of, -m.version))


def made_at(matrix: Matrix, time: datetime, after: Known) -> Known | None:
    """Return the model that a training at a time would have given, or None where it is none that is newer than `after`."""
    able = [m for m in matrix.models if after.as_of < m.as_of <= time]
    return max(able, key=lambda m: (m.as_of, m.version), default=None)


def play(matrix: Matrix, name: str, trainings: Sequence[Training]) -> Played:
    """Follow a policy's trainings through the periods: a model serves from the first whole period after it was made."""
    periods = served_periods(matrix)
    times = [training.at for training in trainings if training.version is not None]
    versions = [training.version for training in trainings if training.version is not None]
    chosen = []
    for period in periods:
        at = bisect_right(times, period.start)
        version = versions[at - 1] if at else oldest(matrix).version
        # A model without a value in a period, e.g. of one class only there, is replaced by what served before.
        chosen.append(version if matrix.value(version, period) is not None else oldest(matrix).version)
    path = path_of(matrix, name, periods, chosen)
    newest = [matrix.newest(period) for period in periods]
    best = path_of(matrix, "", periods, [model.version for model in newest if model is not None])
    sign = 1.0 if matrix.greater_is_better else -1.0
    gaps = [sign * (b - v) for b, v in zip(best.values, path.values, strict=True)]
    return Played(
        name=name,
        trainings=tuple(trainings),
        path=path,
        seconds=_seconds(matrix, trainings),
        behind=fmean(gaps),
        error=stdev(gaps) / math.sqrt(len(gaps)) if len(gaps) >= FEWEST_FOR_ERROR else None,
        worst=min(path.values) if matrix.greater_is_better else max(path.values),
    )


def _seconds(matrix: Matrix, trainings: Sequence[Training]) -> float | None:
    """Sum what trainings took; one that is not recorded counts as their mean."""
    by_version = {m.version: m.seconds for m in matrix.models}
    known = [seconds for seconds in by_version.values() if seconds is not None]
    if not known:
        return None
    mean = fmean(known)
    return sum(by_version.get(t.version or 0) or mean for t in trainings)


def play_schedules(matrix: Matrix) -> list[Played]:
    """Play never, and a training at every n-th time at which a model was made."""
    times = sorted({m.as_of for m in matrix.models})
    last = max((p.start for p in served_periods(matrix)), default=times[0])
    played = [play(matrix, "never", [])]
    names = {"never"}
    for step in EVERY:
        chosen = [time for time in times[::step][1:] if time <= last]
        name = name_interval(times, step)
        if chosen and name not in names:
            names.add(name)
            played.append(play(matrix, name, train_at(matrix, chosen, f"scheduled, {name}")))
    return played


def train_at(matrix: Matrix, times: Sequence[datetime], why: str) -> list[Training]:
    """Return the trainings at given times and what each gave."""
    serving, trainings = oldest(matrix), []
    for time in times:
        made = made_at(matrix, time, serving)
        trainings.append(Training(at=time, version=made.version if made else None, why=why))
        serving = made or serving
    return trainings


def name_interval(times: Sequence[datetime], step: int) -> str:
    """Name the usual time between every n-th model."""
    gaps = [later - earlier for earlier, later in zip(times, times[step:], strict=False)]
    if not gaps:
        return f"every {step} models"
    days = median(gap / timedelta(days=1) for gap in gaps)
    if round(days) in DAYS:
        return DAYS[round(days)]
    months = days / MONTH_DAYS
    if months >= 1 - NEAR and abs(months - round(months)) <= NEAR:
        return "monthly" if round(months) == 1 else f"every {round(months)} months"
    return f"every {round(days)} days"


def recommend(schedules: Sequence[Played], worth: float | None) -> Recommendation:
    """Recommend the fewest trainings whose metric is as good as with all of them.

    Args:
        schedules: never, and schedules.
        worth: a difference of the metric that is not worth a training; None: what lies within one standard error.

    """
    for played in sorted(schedules, key=lambda p: (len(p.trainings), p.behind)):
        limit = worth if worth is not None else (played.error or 0.0)
        if played.behind <= limit:
            told = "the difference that matters" if worth is not None else "its standard error"
            count = f"{len(played.trainings)} trainings" if len(played.trainings) != 1 else "1 training"
            why = f"{count}, {played.behind:.4f} behind training at every time; {limit:.4f} is {told}"
            return Recommendation(policy=played.name, why=why)
    best = min(schedules, key=lambda p: p.behind)
    return Recommendation(policy=best.name, why=f"every other schedule is further behind; it is {best.behind:.4f} behind")
