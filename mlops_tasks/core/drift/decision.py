"""Alarms of neighbouring windows to the decision to train again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mlops_tasks.artifacts import Frozen, Intent, UtcTime, Window
from mlops_tasks.durations import format_duration

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from mlops_tasks.specs import MonitorSpec

NEVER_RETRAIN: dict[Intent, str] = {
    "backfill": "a backfill never starts a training",
    "reproduce": "a reproduction never starts a training",
}


class WindowRecord(Frozen):
    """What was seen in one window under one model version: a fact, whatever was decided."""

    window: Window
    model_version: int
    features: str
    status: Literal["ok", "alarm", "warming_up"]
    columns: tuple[str, ...]
    reason: str

    @property
    def alarm(self) -> bool:
        """Whether the window alarmed."""
        return self.status == "alarm"


class RetrainRecord(Frozen):
    """A training that drift asked for; its existence is the only record of that decision."""

    window: Window
    model_version: int
    run_id: str
    at: UtcTime
    reason: str


@dataclass(frozen=True)
class Decision:
    """Whether to train again, and why, as the end of a sentence."""

    retrain: bool
    why: str


def decide(
    spec: MonitorSpec,
    current: WindowRecord,
    neighbours: Iterable[WindowRecord],
    retrains: Iterable[RetrainRecord],
    intent: Intent,
) -> Decision:
    """Decide on training again, from facts alone.

    A window may arrive late: whichever completes a row of alarmed windows, asks for the training.
    In whatever order the windows come, trainings lie a cool-down of event time apart, and a complete
    row has one within the cool-down and its own length, or later in the row. Deciding again gives the
    same decision.

    Args:
        spec: `consecutive` and `cooldown`.
        current: the window to decide on.
        neighbours: records of other windows under the same model version; only those adjoining count.
        retrains: earlier decisions to train, whatever the model version.
        intent: why this run takes place.

    """
    if not current.alarm:
        return Decision(retrain=False, why="no training is needed")
    if intent in NEVER_RETRAIN:
        return Decision(retrain=False, why=NEVER_RETRAIN[intent])
    return _decide_row(spec, current, alarmed_row(current, neighbours), retrains)


def _decide_row(
    spec: MonitorSpec, current: WindowRecord, row: tuple[WindowRecord, ...], retrains: Iterable[RetrainRecord]
) -> Decision:
    length = row.index(current) + 1
    too_short = Decision(retrain=False, why=f"alarm {length} of the {spec.consecutive} in a row that start a training")
    if len(row) < spec.consecutive:
        return too_short
    started = Decision(retrain=True, why=_started(spec))
    past = sorted(retrains, key=lambda r: r.window.start)
    if any(r.window == current.window and r.model_version == current.model_version for r in past):
        return started
    near = [r.window for r in past if _is_near(r.window, current.window, spec)]
    if length < spec.consecutive:  # later windows came first: this row may have had its training
        near += [r.window for r in past if any(r.window == record.window for record in row)]
        return too_short if near else started
    if not near:
        return started
    nearest = max((w for w in near if w.start <= current.window.start), default=near[0], key=lambda w: w.start)
    why = f"no training: window {nearest.label} started one, and the cool-down is {format_duration(spec.cooldown)}"
    return Decision(retrain=False, why=why)


def _is_near(other: Window, window: Window, spec: MonitorSpec) -> bool:
    return other == window or abs(other.start - window.start) < spec.cooldown


def alarmed_row(current: WindowRecord, neighbours: Iterable[WindowRecord]) -> tuple[WindowRecord, ...]:
    """Return the alarmed windows that adjoin each other and include `current`, oldest first; a gap ends the row."""
    records = [r for r in neighbours if r.alarm and r.window != current.window]
    by_start: dict[datetime, WindowRecord] = {r.window.start: r for r in records}
    by_end: dict[datetime, WindowRecord] = {r.window.end: r for r in records}
    row = [current]
    while (before := by_end.get(row[0].window.start)) is not None:
        row.insert(0, before)
    while (after := by_start.get(row[-1].window.end)) is not None:
        row.append(after)
    return tuple(row)


def _started(spec: MonitorSpec) -> str:
    return (
        "a training is started"
        if spec.consecutive == 1
        else f"{spec.consecutive} windows in a row alarmed: a training is started"
    )
