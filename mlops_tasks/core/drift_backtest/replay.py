"""History through the monitor's own functions, as it was and changed from some window on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mlops_tasks.core.drift import settle
from mlops_tasks.core.drift_backtest.rates import Rate
from mlops_tasks.core.retraining import alarmed_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from mlops_tasks.artifacts import FileRef
    from mlops_tasks.core.drift import WindowRecord, WindowScore
    from mlops_tasks.core.sketches import Reference, Sketches
    from mlops_tasks.specs import AlarmRule, MonitorSpec


@dataclass(frozen=True)
class Replayed:
    """One window as the monitor would have judged it, without what it was compared with, which takes megabytes."""

    record: WindowRecord
    score: WindowScore


@dataclass(frozen=True)
class Replay:
    """History as it was, judged window by window."""

    spec: MonitorSpec
    judged: tuple[Replayed, ...]

    @property
    def warm(self) -> list[WindowRecord]:
        """What was recorded of the windows in which there was enough history."""
        return [item.record for item in self.judged if item.record.status != "warming_up"]

    @property
    def windows(self) -> Rate:
        """How many windows alarmed."""
        return Rate(sum(record.alarm for record in self.warm), len(self.warm))

    @property
    def decisions(self) -> Rate:
        """How many windows completed a row of alarms, which asks for a training."""
        return Rate(count_rows(self.warm, self.spec.alarms), len(self.warm))


@dataclass(frozen=True)
class Detection:
    """What became of one shift that began with some window."""

    start: str
    alarm_after: int | None
    """Windows until one alarmed, the first counts as 1; None: none of those looked at."""
    row_after: int | None
    """Windows until a row of alarms was complete."""
    named: str
    """The column that the first alarm named first."""


@dataclass
class _Ahead:
    """Changed windows as they come, until they complete a row: a false alarm before them earns nothing."""

    rule: AlarmRule
    seen: list[WindowRecord] = field(default_factory=list)

    def completes(self, record: WindowRecord) -> bool:
        self.seen.append(record)
        return record.alarm and bool(alarmed_rows(self.seen[-self.rule.of :], at_least=self.rule.at_least, of=self.rule.of))


def replay_clean(
    spec: MonitorSpec, reference: Reference, records: Iterable[WindowRecord], sketches: Mapping[FileRef, Sketches]
) -> Replay:
    """Judge windows, in order of time, by those before them."""
    judged = settle(spec, reference, records, (), identity="", sketch_of=_reader(sketches))
    return Replay(spec, tuple(Replayed(item.record, item.score) for item in judged))


def replay_shift(
    clean: Replay, reference: Reference, sketches: Mapping[FileRef, Sketches], shifted: Sequence[WindowRecord]
) -> Detection:
    """Judge windows that are changed, after the clean ones before them, until a row of alarms is complete.

    Args:
        clean: the history as it was.
        reference: what the model was trained on.
        sketches: of the clean windows and of the changed ones.
        shifted: the changed windows, as new records, in order of time.

    """
    start = shifted[0].window.start
    before = [item.record for item in clean.judged if item.record.window.start < start]
    ahead, alarm_after, row_after, named = _Ahead(clean.spec.alarms), None, None, ""
    judged = settle(clean.spec, reference, [*before, *shifted], (), identity="", sketch_of=_reader(sketches))
    for number, item in enumerate(judged, start=1):
        complete = ahead.completes(item.record)
        if item.record.alarm and alarm_after is None:
            alarm_after, named = number, item.score.alarmed[0].column
        if complete:
            row_after = number
            break
    return Detection(shifted[0].window.label, alarm_after, row_after, named)


def count_rows(records: Sequence[WindowRecord], rule: AlarmRule) -> int:
    """Count the windows that complete a row of alarms."""
    return len(alarmed_rows(records, at_least=rule.at_least, of=rule.of))


def _reader(sketches: Mapping[FileRef, Sketches]) -> Callable[[WindowRecord], Sketches]:
    def read(record: WindowRecord) -> Sketches:
        if record.sketch is None:
            msg = f"window {record.window.label} has no sketch"
            raise ValueError(msg)
        return sketches[record.sketch]

    return read
