"""Records of windows to records that follow from those before them, whatever the order in which the windows came.

The reference of a window W under a model version is the sum of

- all windows that the version was trained on, and
- each other known window that ended at or before W's start, has rows, and did not alarm or was acknowledged.

What is ordinary is how far each of these lies from the sum of the others. A window that alarmed alone, so that no row of
alarms holds it and none can any more, is ordinary too, though no reference: were it left out, each false alarm would lower
the threshold for the next. W may also resemble, column by column, the part of the reference that lies a year before it, or
the acknowledged windows by themselves, which would vanish in a sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np

from mlops_tasks.artifacts import digest_of
from mlops_tasks.core.drift.baseline import Baseline, make_baseline
from mlops_tasks.core.drift.scoring import Calibration, WindowScore, calibrate, score_window
from mlops_tasks.core.retraining import alarmed_rows
from mlops_tasks.core.sketches import join_sketches

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from mlops_tasks.artifacts import Window
    from mlops_tasks.core.drift.records import WindowRecord
    from mlops_tasks.core.sketches import Reference, Sketches
    from mlops_tasks.specs import MonitorSpec

    Bools = NDArray[np.bool_]

METHOD = 1
"""Raised when windows are judged otherwise: then what was judged before is judged again."""
DECIDES = ("false_alarm_rate", "effect_size", "alarms", "min_history", "ignore", "season")
YEAR = timedelta(days=365)


@dataclass(frozen=True)
class Judged:
    """One window, judged."""

    record: WindowRecord
    sketch: Sketches
    baseline: Baseline
    calibration: Calibration
    score: WindowScore


def settle(
    spec: MonitorSpec,
    reference: Reference,
    records: Iterable[WindowRecord],
    acknowledged: Collection[str],
    *,
    identity: str,
    sketch_of: Callable[[WindowRecord], Sketches],
    wanted: Collection[str] = (),
) -> Iterator[Judged]:
    """Judge each window whose record does not follow from what is known now, and the wanted ones, in order of time.

    Args:
        spec: the rules.
        reference: what the model was trained on.
        records: all known windows of this model version, judged or not, each once; one without `basis` is new.
        acknowledged: labels of windows that a person called in order.
        identity: of the reference.
        sketch_of: reads a window's sketch.
        wanted: labels of windows that are judged whatever their record says.

    """
    trained = set(reference.history.windows)
    ordered = sorted((r for r in records), key=lambda r: (r.window.start, r.window.end))
    chain = digest_of([METHOD, identity, {name: spec.model_dump(mode="json")[name] for name in DECIDES}])
    known = _Known(spec, reference, [r for r in ordered if r.window.label not in trained], acknowledged, sketch_of)
    for record in ordered:
        label, settled = record.window.label, record
        basis = digest_of([chain, record.features])
        if record.seen_by is None and (record.basis != basis or label in wanted):
            judged = known.judge(record, sketch_of(record))
            settled = record.model_copy(update={**_told(judged.score), "basis": basis})
            yield Judged(settled, judged.sketch, judged.baseline, judged.calibration, judged.score)
        if label not in trained:
            known.stand(settled)
            chain = digest_of([chain, label, settled.features, settled.status, label in acknowledged])


def _told(score: WindowScore) -> dict[str, object]:
    return {"status": score.status, "columns": tuple(column.column for column in score.alarmed), "rows": score.rows}


@dataclass(frozen=True)
class _Scored:
    sketch: Sketches
    baseline: Baseline
    calibration: Calibration
    score: WindowScore


class _Known:
    """The known windows, training ones first, and how those stand that were settled so far."""

    def __init__(
        self,
        spec: MonitorSpec,
        reference: Reference,
        ordered: Sequence[WindowRecord],
        acknowledged: Collection[str],
        sketch_of: Callable[[WindowRecord], Sketches],
    ) -> None:
        self._spec, self._reference, self._acknowledged, self._sketch_of = spec, reference, acknowledged, sketch_of
        self._ordered = ordered
        self._trained = len(reference.history.windows)
        starts = [start_of(label) for label in reference.history.windows] + [r.window.start for r in ordered]
        self._starts = np.array([start.timestamp() for start in starts])
        self._settled: list[WindowRecord] = []
        self._in_row: set[datetime] = set()
        self._stack: Sketches | None = None

    def stand(self, record: WindowRecord) -> None:
        """Take note of how a window stands; windows come in order."""
        self._settled.append(record)
        rule = self._spec.alarms
        rows = alarmed_rows(self._settled[-rule.of :], at_least=rule.at_least, of=rule.of) if record.alarm else []
        self._in_row |= {item.window.start for row in rows for item in row}

    def judge(self, record: WindowRecord, sketch: Sketches) -> _Scored:
        """Judge a window by those that ended before it."""
        before = [r for r in self._settled if r.window.end <= record.window.start]
        acknowledged = self._mask(before, lambda _, r: r.alarm and r.window.label in self._acknowledged)
        accepted = self._mask(before, lambda _, r: not r.alarm) | acknowledged
        accepted[: self._trained] = True
        recent = len(before) - (self._spec.alarms.of - 1)
        lone = self._mask(before, lambda at, r: r.alarm and at < recent and r.window.start not in self._in_row) & ~accepted
        stack = self._stacked()
        some = stack.rows > 0
        baseline = make_baseline(
            self._reference,
            stack,
            accepted=accepted & some,
            lone=lone & some,
            season=self._season(record.window),
            acknowledged=acknowledged & some,
        )
        calibration = calibrate(baseline, self._spec)
        score = score_window(baseline, calibration, sketch, self._spec)
        return _Scored(sketch, baseline.without_history(), calibration, score)

    def _mask(self, before: Sequence[WindowRecord], wanted: Callable[[int, WindowRecord], bool]) -> Bools:
        """Say of each known window whether it is wanted, by its place among those before; training windows are not asked."""
        mask = np.zeros(self._trained + len(self._ordered), dtype=bool)
        places = {record.window.start: self._trained + at for at, record in enumerate(self._ordered)}
        for at, record in enumerate(before):
            mask[places[record.window.start]] = wanted(at, record)
        return mask

    def _season(self, window: Window) -> Bools:
        """Return which known windows are of the same season a year before."""
        distance = np.abs(self._starts - (window.start - YEAR).timestamp())
        chosen: Bools = distance <= self._spec.season.total_seconds()
        return chosen if self._spec.season else np.zeros_like(chosen)

    def _stacked(self) -> Sketches:
        if self._stack is None:
            self._stack = join_sketches([self._reference.history, *map(self._sketch_of, self._ordered)])
        return self._stack


def start_of(label: str) -> datetime:
    """Read a window's label."""
    return datetime.fromisoformat(label).replace(tzinfo=UTC)
