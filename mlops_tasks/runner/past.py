"""Trainings of the past, made here and now as a backfill would make them: registered, judged as of then, never promoted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from mlops_tasks.errors import DataRejected, ModelRejected, SpecError
from mlops_tasks.pipeline import BY_NAME, INGEST, TRAIN
from mlops_tasks.runner.invocation import Handle, Invocation
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


def _make(runner: Runner, run: Run, overrides: dict[str, Any]) -> dict[str, Any]:
    handles: dict[str, Handle] = {}
    facts: dict[str, Any] = {}
    computed = 0
    for name in (*INGEST, *TRAIN):
        stage = BY_NAME[name]
        outcome = runner.invoke(
            Invocation(
                stage=name,
                pipeline=runner.pipeline.name,
                run_id=f"walkforward__{run.due:%Y-%m-%dT%H}",
                intent="backfill",
                start=run.range.start,
                end=run.range.end,
                inputs={key: handles[key] for key in stage.consumes if key in handles},
                overrides=overrides,
                reason=f"walk-forward, as of {run.due:%Y-%m-%d}",
                who="cli",
                now=datetime.now(UTC),
            )
        )
        handles[HANDED_ON_AS[name]] = outcome.handle
        facts, computed = outcome.facts, computed + outcome.computed
    return {"version": facts["version"], "cached": not computed}
