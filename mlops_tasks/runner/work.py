"""What each stage's result depends on, whether it is there already, and how it is made if not."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from typing import Any

from pydantic import TypeAdapter

from mlops_tasks.artifacts import Candidate, Dataset, Deployment, ValidRaw, Verdict, Window
from mlops_tasks.caching import Cache, Ingredients, ingredients, tell
from mlops_tasks.core.windows import lookback_windows
from mlops_tasks.errors import ChampionMoved, ModelRejected, SpecError
from mlops_tasks.pipeline import BY_NAME, Stage
from mlops_tasks.ports import Ports
from mlops_tasks.runner.depends import (
    on_candidate,
    on_dataset,
    on_features,
    on_looked_back,
    on_raw,
    on_sources,
    on_verdict,
    on_windows,
)
from mlops_tasks.runner.invocation import read_result, result_key
from mlops_tasks.specs import PipelineSpec
from mlops_tasks.wiring import Adapters

WAITING_THREADS = 8
JUDGED_AGAIN = 5
"""How often a champion may move before a candidate gives up."""


@dataclass
class Made:
    """Results of a stage in order, with why each was made or not."""

    results: list[Any]
    computed: int
    reasons: list[str] = field(default_factory=list)
    """Why each of those that were made was not taken from the cache."""
    rows: int = 0
    """Rows that the stage gave, or worked on."""

    @property
    def note(self) -> str:
        """Say how many were made and why, and how many were there."""
        cached = len(self.results) - self.computed
        if not self.computed:
            return f"{cached} cached: same inputs, spec and code" if cached != 1 else "cached: same inputs, spec and code"
        return f"{self.computed} made: {tell(self.reasons)}" + (f"; {cached} cached" if cached else "")


class Work:
    """The work of one pipeline's stages: a method for each, under the stage's name, with the same arguments."""

    def __init__(self, pipeline: PipelineSpec, adapters: Adapters) -> None:
        """Take the pipeline's spec, overrides applied."""
        self.pipeline = pipeline
        self.adapters = adapters

    @cached_property
    def _cache(self) -> Cache:
        return Cache(self.adapters.store, self.pipeline.name)

    def with_lookback(self, windows: list[Window]) -> list[Window]:
        """Return the windows and those that their features look back to, in time order."""
        extra = lookback_windows(windows, self.pipeline.preprocess.lookback, self.pipeline.cadence)
        return sorted([*extra, *windows], key=lambda w: w.start)

    def collect(self, stage: Stage, inputs: Mapping[str, Any], ports: Ports, *, recompute: bool) -> Made:
        """Depends on the window and on the sources' present content."""
        depends = on_sources(self.pipeline.collect, ports.sources)
        return self._per_window(
            stage, inputs["windows"], depends, ports, recompute=recompute, arguments=lambda todo: {"windows": todo}
        )

    def validate_raw(self, stage: Stage, inputs: Mapping[str, Any], ports: Ports, *, recompute: bool) -> Made:
        """Depends on the raw rows."""
        return self._per_window(stage, inputs["raw"], on_raw, ports, recompute=recompute, arguments=lambda todo: {"raw": todo})

    def preprocess(self, stage: Stage, inputs: Mapping[str, Any], ports: Ports, *, recompute: bool) -> Made:
        """Depends on the raw rows of the window and of those that it looks back to."""
        raw: dict[datetime, ValidRaw] = {item.window.start: item for item in inputs["raw"]}
        windows: list[Window] = inputs["windows"]
        missing = [w for w in self.with_lookback(windows) if w.start not in raw]
        if missing:
            msg = f"preprocess: raw data of window {missing[0]} is missing; collect it first"
            raise SpecError(msg)

        def depends(window: Window) -> dict[str, str]:
            return on_looked_back(window, self.with_lookback([window]), raw)

        def arguments(todo: list[Window]) -> dict[str, Any]:
            return {"raw": [raw[w.start] for w in self.with_lookback(todo)], "windows": todo}

        return self._per_window(stage, windows, depends, ports, recompute=recompute, arguments=arguments)

    def validate(self, stage: Stage, inputs: Mapping[str, Any], ports: Ports, *, recompute: bool) -> Made:
        """Depends on the features."""
        return self._per_window(
            stage, inputs["features"], on_features, ports, recompute=recompute, arguments=lambda todo: {"features": todo}
        )

    def snapshot(self, stage: Stage, inputs: Mapping[str, Any], ports: Ports, *, recompute: bool) -> Made:
        """Depends on every window's features and the proof that came with them."""
        return self._single(stage, *on_windows(inputs["features"]), inputs, ports, recompute=recompute)

    def train(self, stage: Stage, inputs: Mapping[str, Any], ports: Ports, *, recompute: bool) -> Made:
        """Depends on the dataset version."""
        return self._single(stage, *on_dataset(inputs["dataset"]), inputs, ports, recompute=recompute)

    def evaluate(self, stage: Stage, inputs: Mapping[str, Any], ports: Ports, *, recompute: bool) -> Made:
        """Depends on the model, the dataset and the champion that it is compared with."""
        candidate: Candidate = inputs["candidate"]
        champion: Deployment | None = inputs["champion"]
        slot, depends = on_candidate(candidate, inputs["dataset"], champion)
        made = self._single(stage, slot, depends, inputs, ports, recompute=recompute)
        if ports.run.intent != "backfill":  # what it is judged against as of then says nothing of how it came to serve
            judged = json.dumps({"champion_version": champion.version if champion else None}).encode()
            ports.store.write(judged_key(self.pipeline.name, candidate), judged)
        return made

    def deploy(self, stage: Stage, inputs: Mapping[str, Any], ports: Ports, *, recompute: bool) -> Made:
        """Depends on the verdict, on whether the intent may promote, and on where the aliases are now.

        A candidate that would replace a champion which it was not judged against is judged again first.
        """
        verdict: Verdict = inputs["verdict"]
        again = ""
        for _ in range(JUDGED_AGAIN):
            try:
                made = self._deploy(stage, verdict, ports, recompute=recompute)
            except ChampionMoved:
                verdict = self._judge_again(verdict.candidate, ports)
                again = f"judged again, since version {verdict.champion_version} became champion meanwhile"
            else:
                return replace(made, reasons=[again]) if again else made
        msg = f"model {self.pipeline.name}: other runs moved the champion {JUDGED_AGAIN} times meanwhile; run evaluate again"
        raise ChampionMoved(msg)

    def _deploy(self, stage: Stage, verdict: Verdict, ports: Ports, *, recompute: bool) -> Made:
        slot, depends = on_verdict(verdict, ports.run.intent)
        deployment, _ = self._cache.find(slot, self._ingredients(stage, depends), adapter(stage))
        moved = deployment is not None and deployment.alias != self._alias_of(deployment.version)
        made = self._single(stage, slot, depends, {"verdict": verdict}, ports, recompute=recompute or moved)
        return replace(made, reasons=["aliases were moved since"]) if moved and not recompute else made

    def _judge_again(self, candidate: Candidate, ports: Ports) -> Verdict:
        """Judge a candidate against the champion of now, on the dataset of its own run. Raises: ModelRejected."""
        name = self.pipeline.name
        recorded = read_result(ports.store, name, ports.run.run_id, "snapshot")
        if recorded is None:
            key = result_key(name, ports.run.run_id, "snapshot")
            msg = f"model {name}: the champion moved since the model was judged, and {key} is gone; run evaluate again"
            raise ModelRejected(msg)
        version = ports.registry.alias(name, "champion")
        champion = None if version is None else ports.registry.deployment(name, version)
        inputs = {"candidate": candidate, "dataset": Dataset.model_validate(recorded), "champion": champion}
        verdict: Verdict = self.evaluate(BY_NAME["evaluate"], inputs, ports, recompute=False).results[0]
        return verdict

    def _alias_of(self, version: int) -> str:
        """Return the alias that a version holds now, or `none`."""
        held = (a for a in ("champion", "challenger") if self.adapters.registry.alias(self.pipeline.name, a) == version)
        return next(held, "none")

    def monitor(self, stage: Stage, inputs: Mapping[str, Any], ports: Ports, *, recompute: bool) -> Made:
        """Depends on the features, on what serves, and on the windows before as they stand: the stage itself finds out."""
        from mlops_tasks.core.drift_report import kept_reports  # noqa: PLC0415 - loads numpy, as the stage does

        name, labels = self.pipeline.name, [_window_of(item).label for item in inputs["features"]]
        key = self._ingredients(stage, {"deployment": inputs["deployment"].digest})
        before = kept_reports(ports.store, name, labels)
        context = replace(ports.run, fingerprint=key.fingerprint)
        reports = stage.function()(stage.spec_of(self.pipeline), **inputs, ports=replace(ports, run=context))
        made = len(reports) if recompute else len(kept_reports(ports.store, name, labels) - before)
        return Made(results=reports, computed=made, reasons=["asked for" if recompute else "not seen so before"] * made)

    def _ingredients(self, stage: Stage, depends: Mapping[str, str]) -> Ingredients:
        return ingredients(stage, stage.spec_of(self.pipeline), depends)

    def _per_window(
        self,
        stage: Stage,
        items: Sequence[Any],
        depends: Callable[[Any], dict[str, str]],
        ports: Ports,
        *,
        recompute: bool,
        arguments: Callable[[list[Any]], dict[str, Any]],
    ) -> Made:
        """Reuse what is there; make all the rest in one call."""
        keys = [self._ingredients(stage, depends(item)) for item in items]
        kind = adapter(stage)

        def find(i: int) -> tuple[Any | None, str]:
            return (None, "asked for") if recompute else self._cache.find(_window_of(items[i]).label, keys[i], kind)

        # Looking and storing mostly wait for the disk or the network.
        with ThreadPoolExecutor(WAITING_THREADS) as pool:
            there = list(pool.map(find, range(len(items))))
        found = {i: result for i, (result, _) in enumerate(there) if result is not None}
        reasons = [why for result, why in there if result is None]
        todo = [i for i in range(len(items)) if i not in found]
        if todo:
            made = stage.function()(stage.spec_of(self.pipeline), **arguments([items[i] for i in todo]), ports=ports)
            by_start = {result.window.start: result for result in made}
            found |= {i: by_start[_window_of(items[i]).start] for i in todo}
            with ThreadPoolExecutor(WAITING_THREADS) as pool:
                list(pool.map(lambda i: self._cache.keep(_window_of(items[i]).label, keys[i], found[i]), todo))
        return Made(results=[found[i] for i in range(len(items))], computed=len(todo), reasons=reasons)

    def _single(
        self,
        stage: Stage,
        slot: str,
        depends: Mapping[str, str],
        inputs: Mapping[str, Any],
        ports: Ports,
        *,
        recompute: bool,
    ) -> Made:
        key = self._ingredients(stage, depends)
        result, why = (None, "asked for") if recompute else self._cache.find(slot, key, adapter(stage))
        if result is not None:
            return Made(results=[result], computed=0)
        context = replace(ports.run, fingerprint=key.fingerprint)
        result = stage.function()(stage.spec_of(self.pipeline), **inputs, ports=replace(ports, run=context))
        self._cache.keep(slot, key, result)
        return Made(results=[result], computed=1, reasons=[why])


def _window_of(item: Any) -> Window:
    """Return the window that an input of a stage is of."""
    window: Window = item if isinstance(item, Window) else item.window
    return window


def element(kind: Any) -> Any:
    """Return the type of the items of `list[T]` or `Sequence[T]`, or the type itself."""
    return kind.__args__[0] if hasattr(kind, "__origin__") else kind


def adapter(stage: Stage) -> TypeAdapter[Any]:
    """Return what reads one result of a stage from JSON."""
    return TypeAdapter(element(stage.produces))


def judged_key(pipeline: str, candidate: Candidate) -> str:
    """Return the key of the record of what a candidate was judged against."""
    return f"{pipeline}/judged/{candidate.fingerprint[:32]}.json"
