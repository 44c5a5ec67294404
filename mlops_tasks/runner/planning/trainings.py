"""Trainings on windows that are in to which of their stages are cached: looked up one by one, as far as inputs are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mlops_tasks.artifacts import Candidate, Dataset, Deployment, Intent, ValidFeatures, Verdict
from mlops_tasks.caching import Cache, ingredients
from mlops_tasks.pipeline import BY_NAME, TRAIN
from mlops_tasks.runner.depends import on_candidate, on_dataset, on_verdict, on_windows
from mlops_tasks.runner.runner import Runner
from mlops_tasks.runner.work import adapter
from mlops_tasks.wiring import Adapters


@dataclass(frozen=True)
class TrainingFound:
    """Which stages of a training are cached, in their order; the rest has to be made."""

    cached: tuple[str, ...]
    reason: str
    """Why the first of the rest is made."""

    @property
    def make(self) -> tuple[str, ...]:
        """Stages that have to be made."""
        return TRAIN[len(self.cached) :]


class Trainings:
    """Looks trainings of a pipeline up."""

    def __init__(self, runner: Runner, adapters: Adapters, intent: Intent) -> None:
        """Look as a run of `intent` would."""
        self._runner, self._intent = runner, intent
        self._pipeline = runner.pipeline
        self._cache = Cache(adapters.store, runner.pipeline.name)

    def look(self, features: Sequence[ValidFeatures]) -> TrainingFound:
        """Look a training up whose windows are all in."""
        cached: list[str] = []
        found: dict[str, Any] = {}
        for name in TRAIN:
            slot, depends = self._depends(name, found, features)
            stage = BY_NAME[name]
            wanted = ingredients(stage, stage.spec_of(self._pipeline), depends)
            result, why = self._cache.find(slot, wanted, adapter(stage))
            if result is None:
                return TrainingFound(tuple(cached), why)
            found[name] = result
            cached.append(name)
        return TrainingFound(tuple(cached), "unchanged")

    def _depends(self, name: str, found: dict[str, Any], features: Sequence[ValidFeatures]) -> tuple[str, dict[str, str]]:
        if name == "snapshot":
            return on_windows(features)
        dataset: Dataset = found["snapshot"]
        if name == "train":
            return on_dataset(dataset)
        candidate: Candidate = found["train"]
        if name == "evaluate":
            champion: Deployment | None = self._runner.champion_before(candidate, self._intent)
            return on_candidate(candidate, dataset, champion)
        verdict: Verdict = found["evaluate"]
        return on_verdict(verdict, self._intent)
