"""Trainings of the past, made here and now as a backfill would make them: registered, judged as of then, never promoted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mlops_tasks.artifacts import Window
from mlops_tasks.errors import DataRejected, ModelRejected, SpecError
from mlops_tasks.pipeline import BY_NAME, INGEST, TRAIN
from mlops_tasks.runner.invocation import Handle, Invocation, Outcome
from mlops_tasks.runner.planning.runs import Run
from mlops_tasks.runner.runner import Runner

HANDED_ON_AS = dict(
    zip((*INGEST, *TRAIN), ("raw", "raw", "features", "features", "dataset", "candidate", "verdict", "deployment"), strict=True)
)
"""Under which parameter name the next stages take a stage's result."""


def make_models(
    runner: Runner, runs: Sequence[Run], *, overrides: dict[str, Any], tell: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Make each training in order; what is there already is found. Return what became of each.

    One that its data or its gate refuses is told and passed over, as it would have been then.

    Raises:
        PipelineError: the store, the registry or a source does not answer.

    """
    if not runs:
        return []
    with suppress(ModelRejected, DataRejected, SpecError):  # whichever training needs those windows tells it
        _bring_in(runner, runs, overrides)
    done = []
    for run in runs:
        try:
            facts = _make(runner, run, overrides)
        except (ModelRejected, DataRejected, SpecError) as error:
            facts = {"refused": f"{type(error).__name__}: {error}"}
        told = facts.get("refused") or f"version {facts['version']}"
        tell(f"{run.due:%Y-%m-%d}: {told}")
        done.append({"due": run.due, **facts})
    return done


def _bring_in(runner: Runner, runs: Sequence[Run], overrides: dict[str, Any]) -> None:
    """Bring all windows in at once: one Spark job takes no longer than its start, which each training would pay."""
    whole = Window(start=min(run.range.start for run in runs), end=max(run.range.end for run in runs))
    _Chain(runner, whole, "walkforward__ingest", "walk-forward", overrides).run(INGEST)


def _make(runner: Runner, run: Run, overrides: dict[str, Any]) -> dict[str, Any]:
    chain = _Chain(
        runner, run.range, f"walkforward__{run.due:%Y-%m-%dT%H}", f"walk-forward, as of {run.due:%Y-%m-%d}", overrides
    )
    last = chain.run((*INGEST, *TRAIN))
    return {"version": last.facts["version"], "cached": not chain.computed}


@dataclass
class _Chain:
    """One run of stages on a range, each given what those before it made."""

    runner: Runner
    range: Window
    run_id: str
    reason: str
    overrides: dict[str, Any]
    computed: int = 0

    def run(self, stages: Sequence[str]) -> Outcome:
        """Run stages; return the last one's outcome."""
        handles: dict[str, Handle] = {}
        for name in stages:
            outcome = self.runner.invoke(
                Invocation(
                    stage=name,
                    pipeline=self.runner.pipeline.name,
                    run_id=self.run_id,
                    intent="backfill",
                    start=self.range.start,
                    end=self.range.end,
                    inputs={key: handles[key] for key in BY_NAME[name].consumes if key in handles},
                    overrides=self.overrides,
                    reason=self.reason,
                    who="cli",
                    now=datetime.now(UTC),
                )
            )
            handles[HANDED_ON_AS[name]] = outcome.handle
            self.computed += outcome.computed
        return outcome
