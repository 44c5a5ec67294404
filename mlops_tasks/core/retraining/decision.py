"""A state to a decision, by rules without side effects."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

from mlops_tasks.core.retraining.records import Cause
from mlops_tasks.durations import format_duration

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from mlops_tasks.artifacts import Window
    from mlops_tasks.core.retraining.records import Kind, RetrainOutcome, RetrainRequest, Seen
    from mlops_tasks.retrain_specs import RetrainSpec

WEEK = timedelta(days=7)
NEVER_COUNTS = {"backfill", "reproduce"}
"""Intents of monitoring runs whose alarms start nothing."""


class Alarming(Protocol):
    """One window that may have alarmed."""

    @property
    def window(self) -> Window:
        """When."""

    @property
    def alarm(self) -> bool:
        """Whether it alarmed."""


_Alarming = TypeVar("_Alarming", bound=Alarming)


@dataclass(frozen=True)
class State:
    """All that a decision depends on."""

    as_of: datetime
    """Event time: the end of the newest monitored window."""
    now: datetime
    """Real time."""
    version: int
    """The champion's."""
    training_end: datetime
    """The end of what the champion was trained on; windows before it say nothing about it."""
    drift: Sequence[Seen] = ()
    performance: Sequence[Seen] = ()
    requests: Sequence[RetrainRequest] = ()
    """All ever, by number."""
    outcomes: Mapping[int, RetrainOutcome] = field(default_factory=dict)
    label_delay: timedelta = timedelta(0)
    """How long after an event its label is known: a training knows none that are younger."""
    resumed_after: int = 0
    """The number of the latest request when somebody last let trainings go on."""

    @property
    def outstanding(self) -> RetrainRequest | None:
        """The request whose training has not ended."""
        return next((request for request in self.requests if request.number not in self.outcomes), None)


@dataclass(frozen=True)
class Decision:
    """What is to be done, and why: `train`, `wait` though something asks for a training, or nothing."""

    action: Literal["train", "wait", "none"]
    reason: str
    causes: tuple[Cause, ...] = ()


def decide(spec: RetrainSpec, state: State, *, at_least: int, of: int) -> Decision:
    """Decide whether a training is started now.

    Each row of alarms is answered by one training at most; age and amount of data ask until a new champion is there. Holding
    back, in this order: a training that has not ended, too many candidates in a row that were refused, the cool-down, the
    budget.

    Args:
        spec: the rules.
        state: what is known.
        at_least: alarmed windows that make a row.
        of: among so many adjoining windows.

    """
    causes = find_causes(spec, state, at_least=at_least, of=of)
    running = f"training {last.number} ({last.run_id}) has not ended" if (last := state.outstanding) else ""
    if not causes:
        return Decision("wait", running) if running else Decision("none", "no training is needed")
    said = "; ".join(cause.why for cause in causes)
    held = running or _broken(spec, state) or _cooling(spec, state) or _over_budget(spec, state)
    return Decision("wait", f"{said}; {held}", causes) if held else Decision("train", said, causes)


def find_causes(spec: RetrainSpec, state: State, *, at_least: int, of: int) -> tuple[Cause, ...]:
    """Return what asks for a training, rows of alarms first."""
    causes: list[Cause | None] = []
    alarms: list[tuple[Kind, bool, Sequence[Seen], timedelta]] = [
        ("drift", spec.drift, state.drift, timedelta(0)),
        ("performance", spec.performance, state.performance, state.label_delay),
    ]
    for kind, wanted, seen, delay in alarms:
        if wanted:
            rows = alarmed_rows(_counting(seen, state), at_least=at_least, of=of)
            causes.append(_alarmed(kind, state, rows, delay))
    causes += [_aged(spec, state), _grown(spec, state)]
    return tuple(cause for cause in causes if cause is not None)


def alarmed_rows(seen: Iterable[_Alarming], *, at_least: int, of: int) -> list[tuple[_Alarming, ...]]:
    """Return each row, oldest first: `at_least` alarmed windows, the last one too, of `of` that adjoin each other."""
    ordered = sorted(seen, key=lambda item: item.window.start)
    rows = []
    for at, last in enumerate(ordered):
        if not last.alarm:
            continue
        alarmed = [last]
        for before, after in zip(ordered[at - 1 :: -1] if at else [], ordered[at:0:-1], strict=False):
            if before.window.end != after.window.start or last.window.end - before.window.start > of * _length(last):
                break
            if before.alarm:
                alarmed.append(before)
        if len(alarmed) >= at_least:
            rows.append(tuple(reversed(alarmed)))
    return rows


def _length(item: Alarming) -> timedelta:
    """Return a window's length; of months, which differ, a little more, so that `of` of them are as many as they say."""
    length = item.window.end - item.window.start
    return max(length, timedelta(days=31)) if length >= timedelta(days=28) else length


def _counting(seen: Iterable[Seen], state: State) -> list[Seen]:
    """Return the windows that say something about the champion and may start a training."""
    return [
        item
        for item in seen
        if item.model_version == state.version
        and item.window.start >= state.training_end
        and item.window.end <= state.as_of
        and item.intent not in NEVER_COUNTS
    ]


def _alarmed(kind: Kind, state: State, rows: Sequence[tuple[Seen, ...]], delay: timedelta) -> Cause | None:
    """Return the newest row of alarms as a cause, unless a training was asked for that knew what was `delay` old."""
    answered = max((r.as_of - delay for r in state.requests), default=None)
    open_rows = [row for row in rows if answered is None or row[-1].window.end > answered]
    if not open_rows:
        return None
    newest = open_rows[-1]
    windows = f"{len(newest)} windows alarmed, the latest: " if len(newest) > 1 else ""
    return Cause(kind=kind, since=newest[0].window.start, why=f"{windows}{newest[-1].reason}")


def _aged(spec: RetrainSpec, state: State) -> Cause | None:
    age = state.as_of - state.training_end
    if spec.max_age is None or age < spec.max_age:
        return None
    limit = f"{format_duration(spec.max_age)} is the limit"
    why = f"the data that version {state.version} was trained on end {age.days} days ago, {limit}"
    return Cause(kind="age", since=state.training_end + spec.max_age, why=why)


def _grown(spec: RetrainSpec, state: State) -> Cause | None:
    if spec.new_rows is None:
        return None
    counting = sorted(_counting(state.drift, state), key=lambda item: item.window.start)
    rows = sum(item.rows for item in counting)
    if rows < spec.new_rows:
        return None
    why = f"{rows:,} rows came since the data that version {state.version} was trained on, {spec.new_rows:,} is the limit"
    return Cause(kind="data", since=counting[0].window.start, why=why)


def _broken(spec: RetrainSpec, state: State) -> str:
    """Say that the circuit breaker is open: each of the latest trainings for this champion was in vain."""
    lately = [r for r in state.requests if r.model_version == state.version and r.number > state.resumed_after]
    in_vain = 0
    for request in reversed(lately):
        if not state.outcomes[request.number].in_vain:
            break
        in_vain += 1
    if in_vain < spec.max_rejected:
        return ""
    last = state.outcomes[lately[-1].number]
    return (
        f"the last {in_vain} candidates were refused or failed, so none is started until a model is promoted or somebody says "
        f"`mlops retrain NAME --resume`; the last: {last.reason}"
    )


def _cooling(spec: RetrainSpec, state: State) -> str:
    last = max(state.requests, key=lambda r: r.as_of, default=None)
    if last is None or abs(state.as_of - last.as_of) >= spec.cooldown:
        return ""
    asked = f"training {last.number} was asked for at {last.as_of:%Y-%m-%dT%H:%M}"
    return f"{asked}, and the cool-down is {format_duration(spec.cooldown)}"


def _over_budget(spec: RetrainSpec, state: State) -> str:
    started = [r for r in state.requests if r.at > state.now - WEEK]  # one of the future too: the clock was set back
    if len(started) < spec.budget:
        return ""
    return f"{len(started)} trainings were started in the last seven days, which is the budget"
