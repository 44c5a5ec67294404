"""Alarms of neighbouring windows to the decision to train again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlops_tasks.artifacts import Frozen, Intent, UtcTime, Window

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
    alarm: bool
    columns: tuple[str, ...]


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
    row: tuple[WindowRecord, ...] = ()
    """The alarmed windows in a row that this window belongs to."""


def decide(
    spec: MonitorSpec,
    current: WindowRecord,
    neighbours: Iterable[WindowRecord],
    retrains: Iterable[RetrainRecord],
    intent: Intent,
) -> Decision:
    """Decide on training again, from facts alone.

    A window may arrive late: whichever completes a row of alarmed windows, asks for the training.
    Deciding again gives the same decision, and trainings lie a cool-down of event time apart in
    whatever order the windows come.

    Args:
        spec: `consecutive` and `cooldown`.
        current: the window to decide on.
        neighbours: records of other windows under the same model version; only those adjoining count.
        retrains: earlier decisions to train, whatever the model version.
        intent: why this run takes place.

    """
    if not current.alarm:
        return Decision(retrain=False, why="no training is needed")
    row = alarmed_row(current, neighbours)
    if intent in NEVER_RETRAIN:
        return Decision(retrain=False, why=NEVER_RETRAIN[intent], row=row)
    if len(row) < spec.consecutive:
        why = f"alarm {len(row)} of the {spec.consecutive} in a row that start a training"
        return Decision(retrain=False, why=why, row=row)
    past = sorted(retrains, key=lambda r: r.window.start)
    if any(r.window == current.window and r.model_version == current.model_version for r in past):
        return Decision(retrain=True, why=_started(spec), row=row)
    near = [r for r in past if abs(r.window.start - current.window.start) < spec.cooldown or r.window == current.window]
    if row[-1] != current:  # later windows came first: this row may have had its training
        near += [r for r in past if any(r.window == record.window for record in row)]
    if near:
        why = f"no training: window {near[-1].window.label} started one, and the cool-down is {spec.cooldown.days} days"
        return Decision(retrain=False, why=why, row=row)
    return Decision(retrain=True, why=_started(spec), row=row)


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
