"""A pipeline's history to the trainings that its own controller would have asked for, by the very functions that decide.

Each model that would have served is watched by the real monitor's functions, whose records go to
`<pipeline>/backtests/policy/`, beside the pipeline's own; then the real rules decide after each window, on what was known
by then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

from mlops_tasks.artifacts import ValidFeatures, Window
from mlops_tasks.core.drift import Lookout, open_records
from mlops_tasks.core.drift_report import say_judged
from mlops_tasks.core.performance import watch
from mlops_tasks.core.retraining import Cause, RetrainOutcome, RetrainRequest, Seen, State
from mlops_tasks.core.walk_forward.matrix import Known, Matrix
from mlops_tasks.core.walk_forward.policies import Training, made_at, oldest
from mlops_tasks.core.windows import floor
from mlops_tasks.errors import PipelineError
from mlops_tasks.ports import RunContext
from mlops_tasks.runner.derived import REPLAYED
from mlops_tasks.runner.retraining import review
from mlops_tasks.specs import PipelineSpec
from mlops_tasks.wiring import Adapters

if TYPE_CHECKING:
    from mlops_tasks.artifacts import Deployment
    from mlops_tasks.ports import Ports

BLOCK = 28
"""Windows that are looked at together: most models serve for a few blocks, not to the end of history."""


@dataclass
class Replay:
    """One controller, replayed."""

    trainings: list[Training] = field(default_factory=list)
    alarms: dict[str, int] = field(default_factory=lambda: {"drift": 0, "performance": 0})
    """Windows that alarmed while their model served."""
    waited: dict[str, int] = field(default_factory=dict)
    """Why a training that something asked for was held back -> windows."""

    def waits(self, reason: str) -> None:
        """Count a training that was held back; the end of the reason says by what."""
        why = reason.rsplit("; ", 1)[-1]
        self.waited[why] = self.waited.get(why, 0) + 1


@dataclass
class _Seen:
    """What was seen with one model, in time order, and of how many windows."""

    drift: dict[Window, Seen] = field(default_factory=dict)
    performance: dict[Window, Seen] = field(default_factory=dict)
    windows: int = 0


def replay(pipeline: PipelineSpec, adapters: Adapters, matrix: Matrix, features: Sequence[ValidFeatures]) -> Replay:
    """Walk through the windows in time order and let the pipeline's rules decide after each.

    Raises:
        DataRejected, ModelRejected, StoreUnavailable, RegistryUnavailable: as the monitor does.

    """
    watcher = _Watcher(pipeline, adapters, features)
    serving, found = oldest(matrix), Replay()
    requests: list[RetrainRequest] = []
    alarmed: set[tuple[str, Window]] = set()
    outcomes: dict[int, RetrainOutcome] = {}
    windows = [item.window for item in features if item.window.start >= serving.as_of]
    with adapters.progress.bar("replay", len(windows)) as bar:
        for window in windows:
            now = window.end
            state = State(
                as_of=now,
                now=now,
                version=serving.version,
                training_end=serving.training.end,
                drift=watcher.drift(serving, now),
                performance=watcher.performance(serving, now),
                requests=tuple(requests),
                outcomes=dict(outcomes),
                label_delay=pipeline.snapshot.label_delay,
            )
            _count(found, state, alarmed)
            decision = review(pipeline, state)
            if decision.action == "wait":
                found.waits(decision.reason)
            if decision.action == "train":
                request = _request(pipeline, state, len(requests) + 1, decision.reason, decision.causes)
                made = made_at(matrix, now, serving)
                requests.append(request)
                outcomes[request.number] = _outcome(request, made)
                found.trainings.append(Training(at=now, version=made.version if made else None, why=decision.reason))
                serving = made or serving
            bar.advance(1, window=window.label)
    return found


def _count(found: Replay, state: State, known: set[tuple[str, Window]]) -> None:
    """Count windows that alarmed under the model that serves, each when it became known."""
    for kind, seen in (("drift", state.drift), ("performance", state.performance)):
        new = {(kind, item.window) for item in seen if item.alarm} - known
        found.alarms[kind] += len(new)
        known |= new


def _request(pipeline: PipelineSpec, state: State, number: int, reason: str, causes: Sequence[Cause]) -> RetrainRequest:
    end = floor(state.as_of, pipeline.cadence)
    return RetrainRequest(
        number=number,
        run_id=f"replay__{number}",
        start=end - pipeline.retrain.range,
        end=end,
        causes=tuple(causes),
        reason=reason,
        model_version=state.version,
        as_of=state.as_of,
        at=state.now,
    )


def _outcome(request: RetrainRequest, made: Known | None) -> RetrainOutcome:
    if made is None:
        reason = "the matrix has no newer model of that time"
        return RetrainOutcome(number=request.number, state="registered", reason=reason, at=request.at)
    reason = f"version {made.version} became champion"
    return RetrainOutcome(number=request.number, state="promoted", version=made.version, reason=reason, at=request.at)


class _Watcher:
    """What the monitor would have seen with each model, looked at a block of windows at a time, as far as it is asked for."""

    def __init__(self, pipeline: PipelineSpec, adapters: Adapters, features: Sequence[ValidFeatures]) -> None:
        self._pipeline, self._adapters, self._features = pipeline, adapters, features
        self._place = f"{pipeline.name}/{REPLAYED}"
        self._seen: dict[int, _Seen] = {}

    def drift(self, known: Known, now: datetime) -> list[Seen]:
        """Return what was seen of inputs by a time."""
        return [item for item in self._watched(known, now).drift.values() if item.window.end <= now]

    def performance(self, known: Known, now: datetime) -> list[Seen]:
        """Return what was seen of errors by a time: labels come late."""
        delay: timedelta = self._pipeline.snapshot.label_delay
        return [item for item in self._watched(known, now).performance.values() if item.window.end + delay <= now]

    def _watched(self, known: Known, now: datetime) -> _Seen:
        seen = self._seen.setdefault(known.version, _Seen())
        items = [item for item in self._features if item.window.start >= known.as_of]
        needed = sum(item.window.end <= now for item in items)
        while seen.windows < needed:
            block = items[seen.windows : seen.windows + BLOCK]
            # The newest windows of the block before awaited their labels then.
            before = [
                i for i in items[: seen.windows] if i.window.end + self._pipeline.snapshot.label_delay > block[0].window.start
            ]
            drift, performance = self._watch(known, [*before, *block])
            seen.drift |= {item.window: item for item in drift}
            seen.performance |= {item.window: item for item in performance}
            seen.windows += len(block)
        return seen

    def _watch(self, known: Known, items: Sequence[ValidFeatures]) -> tuple[list[Seen], list[Seen]]:
        """Look at windows with a model, as the stage `monitor` does, without its reports."""
        deployment = self._adapters.registry.deployment(self._pipeline.name, known.version)
        run = RunContext(
            pipeline=self._place,
            run_id="replay",
            intent="scheduled",
            now=datetime.now(UTC),
            code_version="",
            who="backtest",
        )
        ports = self._adapters.ports(run)
        watched = watch(self._pipeline.monitor, items, deployment, ports=ports)
        performance = sorted(watched.records.values(), key=lambda r: r.window.start) if watched else []
        return self._drift(items, deployment, ports), [_seen(record) for record in performance]

    def _drift(self, items: Sequence[ValidFeatures], deployment: Deployment, ports: Ports) -> list[Seen]:
        spec = self._pipeline.monitor
        try:
            records = open_records(deployment, spec, self._place, ports.store, say=partial(say_judged, spec=spec))
        except PipelineError as error:
            self._adapters.progress.note(f"version {deployment.version} is not watched for drift: {error}")
            return []
        known = records.read()
        with ports.store.staging() as folder:
            lookout = Lookout(deployment, records.reference, folder / "model", ports=ports)
            looked = {item.window.label: lookout.look(item, known.get(item.window.label)) for item in items}
        records.settle(looked)
        return [_seen(record) for _, record in sorted(records.read().items())]


def _seen(record: object) -> Seen:
    """Keep the part of a record that decides."""
    return Seen.model_validate(record, from_attributes=True)
