"""What earlier runs recorded of their stages to how long a stage will take, and how sure that is.

A stage's time is taken to be `fixed + by_window * windows + by_row * rows`. The shape is stated below, as measured once on
two cores with the flights of the example; where earlier runs of about the same size are recorded, the shape is scaled to
them, the more the more they are, so that a pipeline's own figures replace ours.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from mlops_tasks.pipeline import BY_NAME, INGEST
from mlops_tasks.runner.history import StageRecord, cores

NEAREST = 15
"""Most earlier runs that one estimate is made of: the latest of those whose size is nearest."""
LATEST = 50
ALIKE = 0.7
"""Sizes within a factor of two, as the difference of logarithms, count as alike."""
LOOK_S = 0.15
"""A stage that finds everything cached."""
TASK_S = 0.35
"""What Airflow costs a task above its stage's own time (benchmarks/README.md)."""
UNSURE = 2.0
"""Where nothing is recorded, the truth may lie this many times below or above."""
SPREAD = 0.25
"""Least relative uncertainty of an estimate: machines are shared."""
TICK_S = 1e-3
"""Records are rounded to it."""
SESSION_GAP_S = 120
FEWEST_RUNS = 5
"""A backfill with fewer runs tells no throughput: its start weighs too much."""


@dataclass(frozen=True)
class Shape:
    """Seconds of a stage by its size."""

    fixed: float
    by_window: float = 0.0
    by_row: float = 0.0

    def seconds(self, windows: int, rows: int) -> float:
        """Return the seconds for a size."""
        return self.fixed + self.by_window * windows + self.by_row * rows


SHAPES = {
    "collect": Shape(1.2, 0.02),
    "validate_raw": Shape(0.6, 0.12),
    "preprocess": Shape(3.0, 0.1),
    "validate": Shape(0.5, 0.08),
    "snapshot": Shape(0.2, 0.002),
    "train": Shape(4.0, by_row=1e-4),
    "evaluate": Shape(3.0, by_row=5e-5),
    "deploy": Shape(2.5),
}
TRAIN_SHAPES = {
    "tabm": Shape(8.0, by_row=4e-4),
    "mlp": Shape(6.0, by_row=1e-4),
    "linear": Shape(4.0, by_row=3e-5),
    "hgb": Shape(3.0, by_row=6e-5),
}


@dataclass(frozen=True)
class Estimate:
    """Seconds that something will take: likely, and within which bounds."""

    seconds: float
    low: float
    high: float
    basis: str

    def times(self, factor: float) -> Estimate:
        """Scale it."""
        return Estimate(self.seconds * factor, self.low * factor, self.high * factor, self.basis)


def add_up(parts: Iterable[Estimate]) -> Estimate:
    """Add estimates; their errors are taken to go the same way."""
    found = list(parts)
    basis = "; ".join(sorted({part.basis for part in found if part.basis}))
    return Estimate(sum(p.seconds for p in found), sum(p.low for p in found), sum(p.high for p in found), basis)


@dataclass(frozen=True)
class Throughput:
    """How quickly an earlier backfill of `.ingest` brought windows in, whatever each run took by itself."""

    seconds_per_run: float
    runs: int
    active: float
    """Runs that were at work at a time, in the mean."""
    day: str


class Rates:
    """Estimates by what was recorded of a pipeline's earlier runs."""

    def __init__(self, history: Sequence[StageRecord]) -> None:
        """Take all records, oldest first; failed stages tell nothing."""
        self._done = [record for record in history if record.failure is None]

    def stage(self, name: str, *, windows: int, rows: int, settings: dict[str, Any] | None = None) -> Estimate:
        """Estimate a stage that makes results of `windows` windows, or works on `rows` rows; 0 windows: all is cached."""
        if not windows:
            return _fixed(LOOK_S, "")
        shape = _shape(name, settings)
        size = shape.seconds(windows, rows)
        near = self._nearest(name, windows, rows, settings or {})
        if not near:
            return Estimate(size, size / UNSURE, size * UNSURE, "no earlier run: rates of the project's own measurements")
        factors = sorted(math.log(max(r.seconds, TICK_S) / shape.seconds(r.computed, r.rows)) for r in near)
        count = len(factors)
        # Few runs may be unlike the rest (the first one starts engines), so ours counts as one more of them.
        likely = statistics.median(factors) * count / (count + 1)
        room = max(math.log(1 + SPREAD), math.log(UNSURE) / math.sqrt(count))
        low, high = min(factors[count // 10], likely - room), max(factors[-1 - count // 10], likely + room)
        seconds, bottom, top = (size * math.exp(factor) for factor in (likely, low, high))
        return Estimate(seconds, bottom, top, "earlier runs of the same stage")

    def _nearest(self, name: str, windows: int, rows: int, settings: dict[str, Any]) -> list[StageRecord]:
        """Return the latest records of the size that is nearest, of the same settings where there are such."""
        found = [record for record in self._done if record.stage == name and record.computed]
        same = [record for record in found if record.settings == settings]
        if settings and not same:
            return []
        per_window = BY_NAME[name].per_window

        def distance(record: StageRecord) -> float:
            theirs, ours = (record.computed, windows) if per_window else (record.rows, rows)
            return abs(math.log((theirs + 1) / (ours + 1)))

        pool = same or found
        if not pool:
            return []
        least = min(map(distance, pool))
        return [record for record in pool if distance(record) <= max(least, ALIKE)][-NEAREST:]

    @property
    def busyness(self) -> float:
        """How busy the machine was during what is recorded, as `history.busyness` counts it; 1: unknown or idle."""
        return statistics.median(record.busy for record in self._done[-LATEST:]) if self._done else 1.0

    def throughput(self) -> Throughput | None:
        """Return how the latest backfill of `.ingest` that was long enough went."""
        for session in reversed(list(_sessions(self._done))):
            runs = {record.run_id for record in session if record.stage == INGEST[-1] and record.computed}
            if len(runs) >= FEWEST_RUNS:
                return _throughput([record for record in session if record.run_id in runs], len(runs))
        return None


def _throughput(records: Sequence[StageRecord], runs: int) -> Throughput:
    wall = max(r.ended_at.timestamp() for r in records) - min(r.began_at for r in records)
    busy = 0.0
    for _, own in groupby(sorted(records, key=lambda r: r.run_id), key=lambda r: r.run_id):
        stages = list(own)
        busy += max(r.ended_at.timestamp() for r in stages) - min(r.began_at for r in stages)
    return Throughput(wall / runs, runs, max(busy / wall, 1.0), f"{records[-1].ended_at:%Y-%m-%d}")


def _sessions(records: Sequence[StageRecord]) -> Iterable[list[StageRecord]]:
    """Group the records of backfilled windows into times of uninterrupted work, oldest first."""
    session: list[StageRecord] = []
    for record in records:
        if record.intent != "backfill" or record.stage not in INGEST:
            continue
        if session and record.began_at - session[-1].ended_at.timestamp() > SESSION_GAP_S:
            yield session
            session = []
        session.append(record)
    if session:
        yield session


def wall_of(runs: Sequence[Estimate], tasks: int, parallel: int) -> Estimate:
    """Estimate the wall time of runs that go side by side, not more at a time than there are cores, each task with its cost."""
    side_by_side = max(1, min(parallel, cores(), len(runs)))
    return add_up([*runs, _fixed(TASK_S * tasks * len(runs), "")]).times(1 / side_by_side)


def _fixed(seconds: float, basis: str) -> Estimate:
    return Estimate(seconds, seconds * (1 - SPREAD), seconds * (1 + SPREAD), basis)


def _shape(name: str, settings: dict[str, Any] | None) -> Shape:
    model = (settings or {}).get("model")
    if name != "train" or model not in TRAIN_SHAPES:
        return SHAPES[name]
    shape, trials = TRAIN_SHAPES[model], int((settings or {}).get("trials") or 1)
    return Shape(shape.fixed * trials, by_row=shape.by_row * trials)
