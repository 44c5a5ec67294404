"""What the monitors recorded to a training that is asked for once, whoever looks, however often, whoever dies meanwhile.

`<model>/retraining/requests/<number>.json` is written by one atomic step, so of two that decide at once one asks. A request
without an outcome is repeated until its run is there: the run's name is the request's, so it is started once.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Literal, TypeVar

from pydantic import BaseModel

from mlops_tasks.core.retraining import Decision, Resumption, RetrainOutcome, RetrainRequest, Seen, State, decide
from mlops_tasks.core.windows import floor
from mlops_tasks.errors import SpecError
from mlops_tasks.loading import load_pipeline, pipeline_names
from mlops_tasks.runner.invocation import read_result
from mlops_tasks.wiring import Adapters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from mlops_tasks.artifacts import Deployment
    from mlops_tasks.ports import ArtifactStore
    from mlops_tasks.specs import PipelineSpec

    RunState = Callable[[str], str | None]
    """A training's run id to `success`, `failed`, anything else while it has not ended, or None where it does not exist."""

Record = TypeVar("Record", bound=BaseModel)
MOST_WINDOW = timedelta(days=31)
"""No window of any cadence is longer."""
RACES = 8
"""How often another that asks at the same time is let win before something must be wrong."""


@dataclass(frozen=True)
class Reconciled:
    """What was decided, and the request whose training is to be started now, if any."""

    action: Literal["start", "wait", "none"]
    reason: str
    request: RetrainRequest | None = None


@dataclass(frozen=True)
class Trainings:
    """The trainings that were asked for of a model, and what became of those that have ended."""

    requests: list[RetrainRequest]
    outcomes: dict[int, RetrainOutcome]
    """Number of the request -> what became of it."""


def reconcile(name: str, *, now: datetime, run_state: RunState, adapters: Adapters | None = None) -> Reconciled:
    """Look at all that is recorded of a model and ask for a training if it is time for one.

    Args:
        name: the model's, that is its pipeline's, name.
        now: real time.
        run_state: tells what became of the run of a training.
        adapters: of this process.

    Raises:
        SpecError: the pipeline can't be read.
        StoreUnavailable, RegistryUnavailable: as they do.

    """
    adapters, pipeline = adapters or Adapters(), load_pipeline(name)
    for _ in range(RACES):
        # Before the champion is looked up: a training that is known to have ended has moved it already.
        trainings = settle_outcomes(adapters.store, name, now=now, run_state=run_state)
        state = read_state(pipeline, adapters, trainings, now=now)
        if state is None:
            return Reconciled("none", f"{name}: no window was monitored under a champion yet, so there is nothing to decide on")
        decision = review(pipeline, state)
        _note(adapters.store, name, state, decision)
        running = state.outstanding
        if running is not None and run_state(running.run_id) is None:
            return Reconciled("start", running.reason, running)
        if decision.action != "train":
            return Reconciled("wait" if decision.action == "wait" else "none", decision.reason)
        request = _ask(pipeline, state, decision)
        if adapters.store.create(_key(name, "requests", request.number), request.model_dump_json().encode()):
            return Reconciled("start", request.reason, request)
    msg = f"{name}: others asked for trainings {RACES} times meanwhile; look at {name}/retraining/requests in the store"
    raise SpecError(msg)


def review(pipeline: PipelineSpec, state: State) -> Decision:
    """Decide by a pipeline's rules."""
    rule = pipeline.monitor.alarms
    return decide(pipeline.retrain, state, at_least=rule.at_least, of=rule.of)


def read_trainings(store: ArtifactStore, name: str) -> Trainings:
    """Read what is recorded of a model's trainings."""
    requests = list(_records(store, f"{name}/retraining/requests/", RetrainRequest))
    return Trainings(
        requests, {found.number: found for found in _records(store, f"{name}/retraining/outcomes/", RetrainOutcome)}
    )


def read_state(pipeline: PipelineSpec, adapters: Adapters, trainings: Trainings, *, now: datetime) -> State | None:
    """Gather what a decision depends on beside the trainings; None while no model serves or nothing was monitored."""
    store, name = adapters.store, pipeline.name
    version = adapters.registry.alias(name, "champion")
    if version is None:
        return None
    champion: Deployment = adapters.registry.deployment(name, version)
    watching = list(watchers(name))
    as_of = max((end for watcher in watching if (end := _newest(store, watcher)) is not None), default=None)
    if as_of is None:
        return None
    resumed = list(_records(store, f"{name}/retraining/resumptions/", Resumption))
    since = champion.training.end if pipeline.retrain.new_rows else _first_that_matters(pipeline, champion, trainings.requests)
    return State(
        as_of=as_of,
        now=now,
        version=version,
        training_end=champion.training.end,
        drift=_unacknowledged(store, watching, _seen(store, watching, f"monitor/{version}", since)),
        performance=_seen(store, watching, f"performance/{version}", since),
        requests=trainings.requests,
        outcomes=trainings.outcomes,
        label_delay=pipeline.snapshot.label_delay,
        resumed_after=max((found.after for found in resumed), default=0),
    )


def _first_that_matters(pipeline: PipelineSpec, champion: Deployment, requests: list[RetrainRequest]) -> datetime:
    """Return from when on windows can still be part of a row of alarms that no training has answered."""
    start = champion.training.end
    if requests:
        slack = MOST_WINDOW * pipeline.monitor.alarms.of + pipeline.snapshot.label_delay
        start = max(start, max(request.as_of for request in requests) - slack)
    return start


def watchers(name: str) -> Iterator[str]:
    """Yield the pipelines that watch a model: its own, and those whose `monitor.model` names it."""
    yield name
    for other in pipeline_names():
        try:
            watches = other != name and load_pipeline(other).monitor.model == name
        except SpecError:
            continue  # another pipeline's mistake must not hold this one up; `mlops check` names it
        if watches:
            yield other


def resume(name: str, *, who: str, reason: str, now: datetime, adapters: Adapters | None = None) -> Resumption:
    """Let trainings be started again after too many candidates in a row were refused. Raises: SpecError: unknown pipeline."""
    store = (adapters or Adapters()).store
    load_pipeline(name)
    latest = max((r.number for r in _records(store, f"{name}/retraining/requests/", RetrainRequest)), default=0)
    resumption = Resumption(after=latest, who=who, reason=reason, at=now)
    store.write(_key(name, "resumptions", latest), resumption.model_dump_json().encode())
    return resumption


def _ask(pipeline: PipelineSpec, state: State, decision: Decision) -> RetrainRequest:
    """Write down what is asked for: the latest `retrain.range` up to the newest monitored window's end."""
    number = max((r.number for r in state.requests), default=0) + 1
    end = floor(state.as_of, pipeline.cadence)
    start = max(floor(end - pipeline.retrain.range, pipeline.cadence), pipeline.schedule.start)
    return RetrainRequest(
        number=number,
        run_id=f"drift__{state.as_of:%Y-%m-%dT%H}__{number}",
        start=start,
        end=end,
        causes=decision.causes,
        reason=decision.reason,
        model_version=state.version,
        as_of=state.as_of,
        at=state.now,
    )


def settle_outcomes(store: ArtifactStore, name: str, *, now: datetime, run_state: RunState) -> Trainings:
    """Write down what became of trainings that have ended since; return all that is known then."""
    known = read_trainings(store, name)
    outcomes = dict(known.outcomes)
    for request in known.requests:
        if request.number not in outcomes:
            outcome = outcome_of(store, name, request, now=now, run_state=run_state)
            if outcome is not None:
                outcomes[request.number] = _keep_outcome(store, name, outcome)
    return Trainings(known.requests, outcomes)


def _keep_outcome(store: ArtifactStore, name: str, outcome: RetrainOutcome) -> RetrainOutcome:
    """Write an outcome down, unless another that looks at the same time did; return what stands there."""
    key = _key(name, "outcomes", outcome.number)
    if store.create(key, outcome.model_dump_json().encode()):
        return outcome
    return RetrainOutcome.model_validate_json(store.read(key))


def outcome_of(
    store: ArtifactStore, name: str, request: RetrainRequest, *, now: datetime, run_state: RunState
) -> RetrainOutcome | None:
    """Tell what became of a training; None while it has not ended, or was never started."""
    ended = run_state(request.run_id)
    deployed, judged = (read_result(store, name, f"train-{request.run_id}", stage) for stage in ("deploy", "evaluate"))
    if deployed is not None:
        state = {"champion": "promoted", "challenger": "challenger"}.get(deployed["alias"], "registered")
        reason = f"version {deployed['version']} became {deployed['alias']}" if state != "registered" else "registered only"
        return RetrainOutcome(number=request.number, state=state, version=deployed["version"], reason=reason, at=now)
    if judged is not None and not judged["passed"]:
        failed = "; ".join(item["reason"] for item in judged["judgements"] if not item["passed"])
        return RetrainOutcome(number=request.number, state="rejected", reason=failed or "it did not pass its gate", at=now)
    if ended in {"success", "failed"}:
        reason = f"its run {request.run_id} ended without a model"
        return RetrainOutcome(number=request.number, state="failed", reason=reason, at=now)
    return None


def _note(store: ArtifactStore, name: str, state: State, decision: Decision) -> None:
    """Keep the latest decision of each point in event time, for people and `mlops explain`."""
    told = {
        "as_of": state.as_of.isoformat(),
        "at": state.now.isoformat(),
        "model_version": state.version,
        "action": decision.action,
        "reason": decision.reason,
        "causes": [cause.model_dump(mode="json") for cause in decision.causes],
    }
    store.write(f"{name}/retraining/decisions/{state.as_of:%Y-%m-%dT%H}.json", json.dumps(told).encode())


def _newest(store: ArtifactStore, watcher: str) -> datetime | None:
    """Return the end of the newest window that was monitored, under whichever version; a backfill's don't count."""
    newest: dict[str, str] = {}
    for key in store.list(f"{watcher}/monitor/"):
        version, _, rest = key.removeprefix(f"{watcher}/monitor/").partition("/")
        if version.isdecimal() and rest.endswith(".json"):
            newest[version] = key  # keys are sorted: the last of a version is its newest
    ends = []
    for key in newest.values():
        seen = Seen.model_validate_json(store.read(key))
        ends.append(seen.window.end)
    return max(ends, default=None)


def _seen(store: ArtifactStore, watching: list[str], folder: str, since: datetime) -> list[Seen]:
    """Read what was seen of windows from a time on: their labels are their starts and sort by time."""
    prefixes = [f"{watcher}/{folder}/" for watcher in watching]
    return [
        Seen.model_validate_json(store.read(key))
        for prefix in prefixes
        for key in store.list(prefix)
        if key.removeprefix(prefix).removesuffix(".json") >= f"{since:%Y-%m-%d}"
    ]


def _unacknowledged(store: ArtifactStore, watching: list[str], seen: list[Seen]) -> list[Seen]:
    """Take a person's word: windows that somebody called in order ask for nothing."""
    prefixes = [f"{watcher}/monitor/acknowledged/" for watcher in watching]
    labels = {key.removeprefix(prefix).removesuffix(".json") for prefix in prefixes for key in store.list(prefix)}
    return [item.model_copy(update={"status": "ok"}) if item.window.label in labels else item for item in seen]


def _records(store: ArtifactStore, prefix: str, kind: type[Record]) -> Iterator[Record]:
    for key in store.list(prefix):
        try:
            yield kind.model_validate_json(store.read(key))
        except KeyError:
            continue  # taken away since it was listed


def _key(name: str, kind: str, number: int) -> str:
    return f"{name}/retraining/{kind}/{number:06d}.json"
