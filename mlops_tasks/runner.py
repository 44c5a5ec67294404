"""One task of one run to its stage's result: inputs resolved, cached results reused, the outcome recorded.

Everything that starts stages goes through `Runner.invoke`: the command line, Airflow's operator, a container.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from typing import Any

from pydantic import Field, TypeAdapter, ValidationError

from mlops_tasks.artifacts import (
    Artifact,
    Candidate,
    Dataset,
    Deployment,
    DriftReport,
    Features,
    Frozen,
    Intent,
    RawData,
    UtcTime,
    ValidFeatures,
    ValidRaw,
    Verdict,
    Window,
)
from mlops_tasks.caching import Cache, Ingredients, ingredients, tell
from mlops_tasks.core.windows import lookback_windows, windows_between
from mlops_tasks.errors import NothingToDo, SpecError, StoreUnavailable
from mlops_tasks.loading import apply_overrides, load_pipeline
from mlops_tasks.pipeline import BY_NAME, Stage
from mlops_tasks.ports import ArtifactStore, Ports, RunContext
from mlops_tasks.specs import PipelineSpec
from mlops_tasks.wiring import Adapters, code_version

NO_CHAMPION = "none"
RESOLVED = ("windows", "champion", "deployment")
"""What stages consume that comes from the range and the registry, not from an upstream task."""


class Handle(Frozen):
    """Where a stage's result is recorded (a key of the store), and the digest of that record."""

    uri: str
    digest: str


class Invocation(Frozen):
    """What one task of one run does; JSON, so that it can be handed to a container."""

    stage: str
    pipeline: str
    run_id: str
    intent: Intent
    start: UtcTime
    end: UtcTime
    inputs: dict[str, Handle] = Field(default_factory=dict, description="consumed parameter -> the producing task's handle")
    overrides: dict[str, Any] = Field(default_factory=dict, description="dotted spec key -> value")
    reason: str = ""
    who: str = ""
    now: UtcTime
    recompute: bool = Field(default=False, description="make the result anew although it exists")


class Outcome(Frozen):
    """What became of an invocation."""

    handle: Handle
    cached: int
    computed: int
    note: str
    links: dict[str, str] = Field(default_factory=dict, description="what it shows -> store key or URL")
    facts: dict[str, Any] = Field(default_factory=dict, description="figures for people and for decisions")


@dataclass
class _Made:
    """Results of a stage in order, with why each was made or not."""

    results: list[Any]
    computed: int
    reasons: list[str] = field(default_factory=list)

    @property
    def note(self) -> str:
        cached = len(self.results) - self.computed
        if not self.computed:
            return f"{cached} cached: same inputs, spec and code" if cached != 1 else "cached: same inputs, spec and code"
        return f"{self.computed} made: {tell(self.reasons)}" + (f"; {cached} cached" if cached else "")


class Runner:
    """Runs stages of one pipeline, with adapters that are shared between them."""

    def __init__(self, pipeline: PipelineSpec, adapters: Adapters | None = None) -> None:
        """Take the pipeline's spec, overrides applied."""
        self.pipeline = pipeline
        self.adapters = adapters or Adapters()

    @cached_property
    def _cache(self) -> Cache:
        return Cache(self.adapters.store, self.pipeline.name)

    @cached_property
    def _code_version(self) -> str:
        return code_version()

    def invoke(self, invocation: Invocation) -> Outcome:
        """Run one stage; record its result under `<pipeline>/runs/<run id>/<stage>.json`.

        Raises:
            PipelineError: as the stage does; nothing is recorded then.

        """
        stage = stage_named(invocation.stage)
        ports = self.adapters.ports(self._context(invocation))
        windows = windows_between(invocation.start, invocation.end, self.pipeline.cadence)
        inputs = self._inputs(stage, invocation, windows, ports)
        work = _WORK[stage.name]
        made = work(self, stage, inputs, ports, invocation.recompute)
        handle = self._record(invocation, made.results)
        links, facts = describe(made.results, ports)
        return Outcome(
            handle=handle,
            cached=len(made.results) - made.computed,
            computed=made.computed,
            note=made.note,
            links=links,
            facts=facts,
        )

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
            return [_adapter(stage).validate_python(item) for item in json.loads(data)["results"]]
        except ValidationError as error:
            msg = f"store: {handle.uri} is no result of {stage.name}; give the handle that {stage.name} returned"
            raise SpecError(msg) from error

    def champion(self) -> Deployment | None:
        """Return what serves now, or None. Raises: RegistryUnavailable."""
        name = self.pipeline.name
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
        )

    def _inputs(self, stage: Stage, invocation: Invocation, windows: list[Window], ports: Ports) -> dict[str, Any]:
        """Resolve what a stage consumes: windows, the champion, and upstream results by their handles."""
        handed_on = [name for name in stage.consumes if name not in RESOLVED]
        unknown = sorted(invocation.inputs.keys() - set(handed_on))
        if unknown:
            msg = f"{stage.name}: has no input {unknown[0]!r}; it takes {', '.join(handed_on) or 'none'}"
            raise SpecError(msg)
        inputs: dict[str, Any] = {}
        for name, kind in stage.consumes.items():
            if name == "windows":
                inputs[name] = self._with_lookback(windows) if stage.name == "collect" else windows
            elif name == "champion":
                inputs[name] = self._champion_before(inputs["candidate"], ports.store)
            elif name == "deployment":
                inputs[name] = self._serving()
            else:
                inputs[name] = self._upstream(stage, name, kind, invocation)
        return inputs

    def _with_lookback(self, windows: list[Window]) -> list[Window]:
        extra = lookback_windows(windows, self.pipeline.preprocess.lookback, self.pipeline.cadence)
        return sorted([*extra, *windows], key=lambda w: w.start)

    def _upstream(self, stage: Stage, name: str, kind: Any, invocation: Invocation) -> Any:
        if name not in invocation.inputs:
            msg = f"{stage.name}: input {name!r} is missing; give the handle that its producer returned"
            raise SpecError(msg)
        producer = next(s for s in BY_NAME.values() if _element(s.produces) is _element(kind))
        results = self.results(producer, invocation.inputs[name])
        return results if producer.per_window else results[0]

    def _serving(self) -> Deployment:
        champion = self.champion()
        if champion is None:
            msg = f"{self.pipeline.name}: no model serves yet, so there is nothing to monitor; train one first"
            raise NothingToDo(msg)
        return champion

    def _champion_before(self, candidate: Candidate, store: ArtifactStore) -> Deployment | None:
        """Return the champion to judge a candidate against: for one that serves already, what it was judged against."""
        champion = self.champion()
        if champion is None or champion.fingerprint != candidate.fingerprint:
            return champion
        try:
            before = json.loads(store.read(_judged_key(self.pipeline.name, candidate)))["champion_version"]
        except KeyError:
            return None
        return None if before is None else self.adapters.registry.deployment(self.pipeline.name, before)

    def _record(self, invocation: Invocation, results: Sequence[Artifact]) -> Handle:
        key = f"{invocation.pipeline}/runs/{_path_segment(invocation.run_id)}/{invocation.stage}.json"
        data = json.dumps({"results": [item.model_dump(mode="json") for item in results]}).encode()
        self.adapters.store.write(key, data)
        return Handle(uri=key, digest=hashlib.sha256(data).hexdigest())

    # What each stage's result depends on, and how it is called.

    def _collect(self, stage: Stage, inputs: Mapping[str, Any], ports: Ports, recompute: bool) -> _Made:
        sources = self.pipeline.collect.sources
        whole = {
            name: ports.sources.fingerprint(source, None)
            for name, source in sources.items()
            if source.path or not source.event_time
        }

        def depends(window: Window) -> dict[str, str]:
            found = {n: whole.get(n) or ports.sources.fingerprint(s, window) for n, s in sources.items()}
            return {"window": str(window), **found}

        return self._per_window(
            stage, inputs["windows"], lambda w: w, depends, ports, recompute=recompute, arguments=lambda todo: {"windows": todo}
        )

    def _validate_raw(self, stage: Stage, inputs: Mapping[str, Any], ports: Ports, recompute: bool) -> _Made:
        def depends(item: RawData) -> dict[str, str]:
            return {"raw": item.digest}

        return self._per_window(
            stage, inputs["raw"], lambda r: r.window, depends, ports, recompute=recompute, arguments=lambda todo: {"raw": todo}
        )

    def _preprocess(self, stage: Stage, inputs: Mapping[str, Any], ports: Ports, recompute: bool) -> _Made:
        raw: dict[datetime, ValidRaw] = {item.window.start: item for item in inputs["raw"]}
        windows: list[Window] = inputs["windows"]
        missing = [w for w in self._with_lookback(windows) if w.start not in raw]
        if missing:
            msg = f"preprocess: raw data of window {missing[0]} is missing; collect it first"
            raise SpecError(msg)

        def depends(window: Window) -> dict[str, str]:
            needed = self._with_lookback([window])
            return {"window": str(window), **{f"raw {w.label}": raw[w.start].raw.digest for w in needed}}

        def arguments(todo: list[Window]) -> dict[str, Any]:
            return {"raw": [raw[w.start] for w in self._with_lookback(todo)], "windows": todo}

        return self._per_window(stage, windows, lambda w: w, depends, ports, recompute=recompute, arguments=arguments)

    def _validate(self, stage: Stage, inputs: Mapping[str, Any], ports: Ports, recompute: bool) -> _Made:
        def depends(item: Features) -> dict[str, str]:
            return {"features": item.digest}

        return self._per_window(
            stage,
            inputs["features"],
            lambda f: f.window,
            depends,
            ports,
            recompute=recompute,
            arguments=lambda todo: {"features": todo},
        )

    def _snapshot(self, stage: Stage, inputs: Mapping[str, Any], ports: Ports, recompute: bool) -> _Made:
        features: list[ValidFeatures] = inputs["features"]
        depends = {f.window.label: digest_pair(f) for f in features}
        return self._single(
            stage, f"{features[0].window.label}_{features[-1].window.label}", depends, inputs, ports, recompute=recompute
        )

    def _train(self, stage: Stage, inputs: Mapping[str, Any], ports: Ports, recompute: bool) -> _Made:
        dataset: Dataset = inputs["dataset"]
        return self._single(stage, f"{dataset.as_of:%Y-%m-%d}", {"dataset": dataset.digest}, inputs, ports, recompute=recompute)

    def _evaluate(self, stage: Stage, inputs: Mapping[str, Any], ports: Ports, recompute: bool) -> _Made:
        candidate: Candidate = inputs["candidate"]
        champion: Deployment | None = inputs["champion"]
        depends = {
            "candidate": candidate.fingerprint,
            "dataset": inputs["dataset"].digest,
            "champion": champion.fingerprint if champion else NO_CHAMPION,
        }
        made = self._single(stage, candidate.fingerprint[:16], depends, inputs, ports, recompute=recompute)
        judged = json.dumps({"champion_version": champion.version if champion else None}).encode()
        ports.store.write(_judged_key(self.pipeline.name, candidate), judged)
        return made

    def _deploy(self, stage: Stage, inputs: Mapping[str, Any], ports: Ports, recompute: bool) -> _Made:
        verdict: Verdict = inputs["verdict"]
        depends = {"candidate": verdict.candidate.fingerprint, "verdict": verdict.digest, "intent": _promotes(ports.run.intent)}
        slot = verdict.candidate.fingerprint[:16]
        deployment, _ = self._cache.find(slot, self._ingredients(stage, depends), _adapter(stage))
        moved = deployment is not None and deployment.alias != self._alias_of(deployment.version)
        made = self._single(stage, slot, depends, inputs, ports, recompute=recompute or moved)
        return replace(made, reasons=["aliases were moved since"]) if moved and not recompute else made

    def _alias_of(self, version: int) -> str:
        """Return the alias that a version holds now, or `none`."""
        held = (a for a in ("champion", "challenger") if self.adapters.registry.alias(self.pipeline.name, a) == version)
        return next(held, "none")

    def _monitor(self, stage: Stage, inputs: Mapping[str, Any], ports: Ports, recompute: bool) -> _Made:  # noqa: ARG002 - likewise
        """Decide anew each time: the decision depends on the windows before and on what serves."""
        reports = stage.function()(stage.spec_of(self.pipeline), **inputs, ports=ports)
        return _Made(results=reports, computed=len(reports), reasons=["decided anew"] * len(reports))

    def _ingredients(self, stage: Stage, depends: Mapping[str, str]) -> Ingredients:
        return ingredients(stage, stage.spec_of(self.pipeline), depends)

    def _per_window(
        self,
        stage: Stage,
        items: Sequence[Any],
        window_of: Callable[[Any], Window],
        depends: Callable[[Any], dict[str, str]],
        ports: Ports,
        *,
        recompute: bool,
        arguments: Callable[[list[Any]], dict[str, Any]],
    ) -> _Made:
        """Reuse what is there; make all the rest in one call."""
        keys = [self._ingredients(stage, depends(item)) for item in items]
        found: dict[int, Any] = {}
        reasons: list[str] = []
        for i, item in enumerate(items):
            result, why = (
                (None, "asked for") if recompute else self._cache.find(window_of(item).label, keys[i], _adapter(stage))
            )
            if result is None:
                reasons.append(why)
            else:
                found[i] = result
        todo = [i for i in range(len(items)) if i not in found]
        if todo:
            made = stage.function()(stage.spec_of(self.pipeline), **arguments([items[i] for i in todo]), ports=ports)
            by_start = {result.window.start: result for result in made}
            for i in todo:
                window = window_of(items[i])
                found[i] = by_start[window.start]
                self._cache.keep(window.label, keys[i], found[i])
        return _Made(results=[found[i] for i in range(len(items))], computed=len(todo), reasons=reasons)

    def _single(
        self,
        stage: Stage,
        slot: str,
        depends: Mapping[str, str],
        inputs: Mapping[str, Any],
        ports: Ports,
        *,
        recompute: bool,
    ) -> _Made:
        key = self._ingredients(stage, depends)
        result, why = (None, "asked for") if recompute else self._cache.find(slot, key, _adapter(stage))
        if result is not None:
            return _Made(results=[result], computed=0)
        context = replace(ports.run, fingerprint=key.fingerprint)
        result = stage.function()(stage.spec_of(self.pipeline), **inputs, ports=replace(ports, run=context))
        self._cache.keep(slot, key, result)
        return _Made(results=[result], computed=1, reasons=[why])


_WORK: dict[str, Callable[[Runner, Stage, Mapping[str, Any], Ports, bool], _Made]] = {
    "collect": Runner._collect,  # noqa: SLF001 - the table of this module's own class
    "validate_raw": Runner._validate_raw,  # noqa: SLF001 - likewise
    "preprocess": Runner._preprocess,  # noqa: SLF001 - likewise
    "validate": Runner._validate,  # noqa: SLF001 - likewise
    "snapshot": Runner._snapshot,  # noqa: SLF001 - likewise
    "train": Runner._train,  # noqa: SLF001 - likewise
    "evaluate": Runner._evaluate,  # noqa: SLF001 - likewise
    "deploy": Runner._deploy,  # noqa: SLF001 - likewise
    "monitor": Runner._monitor,  # noqa: SLF001 - likewise
}


def invoke(invocation: Invocation, *, adapters: Adapters | None = None) -> Outcome:
    """Run one task of one run with the pipeline as its folder is now and its overrides."""
    pipeline = apply_overrides(load_pipeline(invocation.pipeline), invocation.overrides)
    return Runner(pipeline, adapters).invoke(invocation)


def roll_back(pipeline: str, *, version: int | None, reason: str, who: str, run_id: str, now: datetime) -> dict[str, Any]:
    """Put an earlier version back into service; return `{from, to}`, the versions.

    Raises:
        ModelRejected: there is none, or it does not pass its golden rows.

    """
    from mlops_tasks.core.promotion import roll_back as move_back  # noqa: PLC0415 - loads ONNX Runtime

    adapters = Adapters()
    before = adapters.registry.alias(pipeline, "champion")
    deployment = move_back(
        adapters.registry, pipeline, version, reason=f"{reason} (run {run_id}, {now:%Y-%m-%dT%H:%MZ})", who=who
    )
    return {"from": before, "to": deployment.version}


def stage_named(name: str) -> Stage:
    """Return a stage of the table. Raises: SpecError."""
    if name not in BY_NAME:
        msg = f"stage: must be one of {', '.join(BY_NAME)}, got {name!r}"
        raise SpecError(msg)
    return BY_NAME[name]


def describe(results: Sequence[Any], ports: Ports) -> tuple[dict[str, str], dict[str, Any]]:
    """Return links and figures of a stage's results, for people and for the tasks that decide."""
    last = results[-1]
    links = {SHOWS[name]: ref.key for ref in last.files if (name := ref.key.rsplit("/", 1)[-1]) in SHOWS}
    facts: dict[str, Any] = {}
    if isinstance(last, RawData):
        facts = {
            "windows": len(results),
            "rows": sum(r.rows for r in results),
            "duplicates": sum(r.duplicates for r in results),
        }
    elif isinstance(last, Features):
        rejected = sum(sum(r.rejected.values()) for r in results)
        facts = {"windows": len(results), "rows": sum(r.rows for r in results), "rejected": rejected}
    elif isinstance(last, ValidFeatures | ValidRaw):
        facts = {"windows": len(results)}
    elif isinstance(last, Dataset):
        facts = {"dataset": last.version, "rows": last.rows}
    elif isinstance(last, Candidate):
        facts = {"dataset": last.dataset_version, "fingerprint": last.fingerprint[:12]}
        links["MLflow run"] = ports.tracker.url(last.mlflow_run_id)
    elif isinstance(last, Verdict):
        failed = [j.reason for j in last.judgements if not j.passed]
        facts = {"passed": last.passed, "metrics": last.metrics, "failed": failed, "champion_version": last.champion_version}
        links["MLflow run"] = ports.tracker.url(last.candidate.mlflow_run_id)
    elif isinstance(last, Deployment):
        facts = {"model": last.model, "version": last.version, "alias": last.alias}
    elif isinstance(last, DriftReport):
        asked = [r for r in results if r.retrain]
        alarms = [r.window.label for r in results if r.status == "alarm"]
        facts = {"retrain": bool(asked), "reason": (asked or results)[-1].reason, "status": last.status, "alarms": alarms}
    return links, facts


SHOWS = {"report.html": "Report", "data_docs.html": "Data Docs"}


def digest_pair(item: ValidFeatures) -> str:
    """Identify features and the proof that came with them."""
    return f"{item.features.digest[:32]}{item.digest[:32]}"


def _element(kind: Any) -> Any:
    """Return the type of the items of `list[T]` or `Sequence[T]`, or the type itself."""
    return kind.__args__[0] if hasattr(kind, "__origin__") else kind


def _adapter(stage: Stage) -> TypeAdapter[Any]:
    return TypeAdapter(_element(stage.produces))


def _promotes(intent: Intent) -> str:
    return "never" if intent in {"backfill", "reproduce"} else "may"


def _judged_key(pipeline: str, candidate: Candidate) -> str:
    return f"{pipeline}/judged/{candidate.fingerprint[:32]}.json"


def _path_segment(run_id: str) -> str:
    """Make a run id fit a key: Airflow's ids hold colons and pluses; a leading dot would hide it or lead away."""
    return re.sub(r"[^\w.=-]|^\.", "_", run_id, flags=re.ASCII)
