"""One task of one run: its inputs resolved, its stage's work done, the outcome recorded."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from pydantic import ValidationError

from mlops_tasks.artifacts import Artifact, Candidate, Deployment, Intent, Window
from mlops_tasks.core.windows import windows_between
from mlops_tasks.errors import NothingToDo, PipelineError, SpecError, StoreUnavailable
from mlops_tasks.pipeline import BY_NAME, Stage
from mlops_tasks.ports import RunContext
from mlops_tasks.resources import Resources
from mlops_tasks.runner.description import describe
from mlops_tasks.runner.history import SETTINGS, record_failure, record_success
from mlops_tasks.runner.invocation import Handle, Invocation, Outcome, path_segment, result_key
from mlops_tasks.runner.work import Made, Work, adapter, element, judged_key
from mlops_tasks.specs import PipelineSpec
from mlops_tasks.wiring import Adapters, code_version

RESOLVED = ("windows", "champion", "deployment")
"""What stages consume that comes from the range and the registry, not from an upstream task."""


class Runner:
    """Runs stages of one pipeline, with adapters that are shared between them."""

    def __init__(self, pipeline: PipelineSpec, adapters: Adapters | None = None) -> None:
        """Take the pipeline's spec, overrides applied."""
        self.pipeline = pipeline
        self.adapters = adapters or Adapters()
        self._work = Work(pipeline, self.adapters)

    @cached_property
    def _code_version(self) -> str:
        return code_version()

    def invoke(self, invocation: Invocation) -> Outcome:
        """Run one stage; record its result under `<pipeline>/runs/<run id>/<stage>.json`.

        Raises:
            PipelineError: as the stage does; no result is recorded then, only why.

        """
        stage = stage_named(invocation.stage)
        began = time.perf_counter()
        try:
            outcome, made = self._perform(stage, invocation)
        except PipelineError as error:
            seconds, now = time.perf_counter() - began, datetime.now(UTC)
            record_failure(
                self.adapters.store, path_segment(invocation.run_id), invocation, error, seconds=seconds, ended_at=now
            )
            raise
        record_success(
            self.adapters.store,
            path_segment(invocation.run_id),
            invocation,
            outcome,
            reasons=made.reasons,
            rows=made.rows,
            settings=self._settings(stage),
            seconds=time.perf_counter() - began,
            ended_at=datetime.now(UTC),
        )
        return outcome

    def _perform(self, stage: Stage, invocation: Invocation) -> tuple[Outcome, Made]:
        ports = self.adapters.ports(self._context(invocation))
        windows = windows_between(invocation.start, invocation.end, self.pipeline.cadence)
        before = asdict(ports.store.moved)
        inputs = self._inputs(stage, invocation, windows)
        made: Made = getattr(self._work, stage.name)(stage, inputs, ports, recompute=invocation.recompute)
        handle = self._record(invocation, made.results)
        links, facts = describe(made.results, ports)
        made = made if made.rows else replace(made, rows=rows_of(made.results) or rows_of(inputs.values()))
        outcome = Outcome(
            handle=handle,
            cached=len(made.results) - made.computed,
            computed=made.computed,
            note=made.note,
            links=links,
            facts=facts,
            moved={name: count - before[name] for name, count in asdict(ports.store.moved).items()},
        )
        return outcome, made

    def _settings(self, stage: Stage) -> dict[str, Any]:
        """Return what of the stage's spec decides how long it takes."""
        spec = stage.spec_of(self.pipeline).model_dump(mode="json")
        return {name: spec[name] for name in SETTINGS.get(stage.name, ())}

    def results(self, stage: Stage, handle: Handle) -> list[Any]:
        """Read what a handle names. Raises: StoreUnavailable when it is gone or was changed."""
        try:
            data = self.adapters.store.read(handle.uri)
        except KeyError as error:
            msg = f"store: {handle.uri}, the result of {stage.name}, is gone; run {stage.name} again"
            raise StoreUnavailable(msg) from error
        if hashlib.sha256(data).hexdigest() != handle.digest:
            msg = f"store: {handle.uri}, the result of {stage.name}, was changed since it was handed on; run {stage.name} again"
            raise StoreUnavailable(msg)
        try:
            return [adapter(stage).validate_python(item) for item in json.loads(data)["results"]]
        except ValidationError as error:
            msg = f"store: {handle.uri} is no result of {stage.name}; give the handle that {stage.name} returned"
            raise SpecError(msg) from error

    def champion(self, model: str = "") -> Deployment | None:
        """Return what serves now, of this pipeline or another, or None. Raises: RegistryUnavailable."""
        name = model or self.pipeline.name
        version = self.adapters.registry.alias(name, "champion")
        return None if version is None else self.adapters.registry.deployment(name, version)

    def _context(self, invocation: Invocation) -> RunContext:
        return RunContext(
            pipeline=self.pipeline.name,
            run_id=invocation.run_id,
            intent=invocation.intent,
            now=invocation.now,
            code_version=self._code_version,
            reason=invocation.reason,
            who=invocation.who,
            description=self.pipeline.description,
            owner=self.pipeline.owner,
            trial=self.pipeline.serve.challenger.mode != "off",
            forced=invocation.recompute,
            resources=self.pipeline.resources.get(invocation.stage, Resources()),  # type: ignore[call-overload]  # checked before
        )

    def _inputs(self, stage: Stage, invocation: Invocation, windows: list[Window]) -> dict[str, Any]:
        """Resolve what a stage consumes: windows, the champion, and upstream results by their handles."""
        handed_on = [name for name in stage.consumes if name not in RESOLVED]
        unknown = sorted(invocation.inputs.keys() - set(handed_on))
        if unknown:
            msg = f"{stage.name}: has no input {unknown[0]!r}; it takes {', '.join(handed_on) or 'none'}"
            raise SpecError(msg)
        inputs: dict[str, Any] = {}
        for name, kind in stage.consumes.items():
            if name == "windows":
                inputs[name] = self._work.with_lookback(windows) if stage.name == "collect" else windows
            elif name == "champion":
                inputs[name] = self.champion_before(inputs["candidate"], invocation.intent)
            elif name == "deployment":
                inputs[name] = self._serving()
            else:
                inputs[name] = self._upstream(stage, name, kind, invocation)
        return inputs

    def _upstream(self, stage: Stage, name: str, kind: Any, invocation: Invocation) -> Any:
        if name not in invocation.inputs:
            msg = f"{stage.name}: input {name!r} is missing; give the handle that its producer returned"
            raise SpecError(msg)
        producer = next(s for s in BY_NAME.values() if element(s.produces) is element(kind))
        results = self.results(producer, invocation.inputs[name])
        return results if producer.per_window else results[0]

    def _serving(self) -> Deployment:
        watched = self.pipeline.monitor.model
        champion = self.champion(watched)
        if champion is None:
            msg = f"{watched or self.pipeline.name}: no model serves yet, so there is nothing to monitor; train one first"
            raise NothingToDo(msg)
        return champion

    def champion_before(self, candidate: Candidate, intent: Intent) -> Deployment | None:
        """Return the champion to judge a candidate against: for one that serves already, what it was judged against.

        A backfilled model is judged against the one that would have served then, whatever serves now: today's champion may
        have learned from the very rows that the old one is tested on.
        """
        if intent == "backfill":
            return self._champion_then(candidate)
        champion = self.champion()
        if champion is None or champion.fingerprint != candidate.fingerprint:
            return champion
        try:
            before = json.loads(self.adapters.store.read(judged_key(self.pipeline.name, candidate)))["champion_version"]
        except KeyError:
            return None
        return None if before is None else self.adapters.registry.deployment(self.pipeline.name, before)

    def _champion_then(self, candidate: Candidate) -> Deployment | None:
        """Return the model whose training ends last of those that end before the candidate's; of equal ones the newest."""
        name, registry = self.pipeline.name, self.adapters.registry
        deployed = []
        for known in registry.versions(name):
            try:
                deployed.append(registry.deployment(name, known.version))
            except KeyError:
                continue  # killed between its registration and its record
        before = [d for d in deployed if d.training.end < candidate.training.end]
        return max(before, key=lambda d: (d.training.end, d.version), default=None)

    def _record(self, invocation: Invocation, results: Sequence[Artifact]) -> Handle:
        key = result_key(invocation.pipeline, invocation.run_id, invocation.stage)
        data = json.dumps({"results": [item.model_dump(mode="json") for item in results]}).encode()
        self.adapters.store.write(key, data)
        return Handle(uri=key, digest=hashlib.sha256(data).hexdigest())


def roll_back(
    pipeline: str,
    *,
    version: int | None,
    reason: str,
    who: str,
    run_id: str,
    now: datetime,
    adapters: Adapters | None = None,
) -> dict[str, Any]:
    """Put an earlier version back into service; return `{from, to, servers}`: the versions, and what each server says.

    Raises:
        ModelRejected: there is none, or it does not pass its golden rows.

    """
    from mlops_tasks.core.promotion import roll_back as move_back  # noqa: PLC0415 - loads ONNX Runtime

    adapters = adapters or Adapters()
    before = adapters.registry.alias(pipeline, "champion")
    deployment = move_back(
        adapters.registry, pipeline, version, reason=f"{reason} (run {run_id}, {now:%Y-%m-%dT%H:%MZ})", who=who
    )
    answers = adapters.servers.load(pipeline, deployment.version)
    servers = {answer.server: answer.problem or f"serves version {answer.serving}" for answer in answers}
    return {"from": before, "to": deployment.version, "servers": servers}


def stage_named(name: str) -> Stage:
    """Return a stage of the table. Raises: SpecError."""
    if name not in BY_NAME:
        msg = f"stage: must be one of {', '.join(BY_NAME)}, got {name!r}"
        raise SpecError(msg)
    return BY_NAME[name]


def rows_of(values: Iterable[Any]) -> int:
    """Return how many rows artifacts hold, or those that they prove something of."""
    held = (getattr(value, "raw", None) or getattr(value, "features", None) or value for value in values)
    return sum(int(getattr(value, "rows", 0) or 0) for value in held)
