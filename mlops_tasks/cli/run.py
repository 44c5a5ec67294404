"""`mlops run`: the whole loop over a range, stage by stage, through the table that Airflow uses too."""

from __future__ import annotations

import shlex
import sys
import time
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime
from threading import Thread
from typing import TYPE_CHECKING, Any

from mlops_tasks.cli.arguments import read_overrides, read_time
from mlops_tasks.errors import ModelRejected, PipelineError
from mlops_tasks.loading import apply_overrides, load_pipeline
from mlops_tasks.pipeline import BY_NAME, INGEST, TRAIN
from mlops_tasks.runner import Handle, Invocation, Outcome, Runner
from mlops_tasks.runner.past import HANDED_ON_AS

if TYPE_CHECKING:
    import argparse


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Run collect to deploy. Raises: PipelineError; what was finished before it is kept and reused."""
    started = datetime.now(UTC)
    overrides = read_overrides(args.overrides)
    overrides |= {"deploy.promote": args.promote} if args.promote else {}
    overrides |= {"train.trials": args.trials} if args.trials is not None else {}
    first = Invocation(
        stage="collect",
        pipeline=args.name,
        run_id=f"manual__{started:%Y-%m-%dT%H-%M-%S}",
        intent="manual",
        start=read_time(args.start, "--start"),
        end=read_time(args.end, "--end"),
        overrides=overrides,
        reason=args.reason,
        who="cli",
        now=started,
    )
    return run_loop(Runner(apply_overrides(load_pipeline(args.name), overrides)), first, recompute=args.recompute)


def run_loop(runner: Runner, first: Invocation, *, recompute: str | None = None) -> dict[str, Any]:
    """Run collect to deploy as `first` says, and `recompute` and all after it anew; return a summary. Raises: PipelineError."""
    stages = [*INGEST, *TRAIN]
    again = stages[stages.index(recompute) :] if recompute in stages else []
    loop = _Loop(runner, first, frozenset(again))
    for name in stages:
        try:
            loop.step(name)
        except PipelineError as error:
            if not isinstance(error, ModelRejected):
                runner.adapters.progress.note(
                    f"{name} failed; finished stages are kept: mend it and run\n  {shlex.join(['mlops', *sys.argv[1:]])}"
                )
            raise
    return loop.summary()


class _Loop:
    """One run in progress: hands each stage's result on to those that consume it."""

    def __init__(self, runner: Runner, first: Invocation, again: frozenset[str]) -> None:
        self._runner, self._first, self._again = runner, first, again
        self._handles: dict[str, Handle] = {}
        self._stages: dict[str, dict[str, Any]] = {}
        self._outcomes: dict[str, Outcome] = {}

    def step(self, name: str) -> None:
        """Run one stage."""
        stage = BY_NAME[name]
        if name == WAITING and any(made["computed"] for made in self._stages.values()):
            Thread(target=_load_ahead, args=(self._runner.adapters.tracking_uri,)).start()
        invocation = self._first.model_copy(
            update={
                "stage": name,
                "inputs": {key: self._handles[key] for key in stage.consumes if key in self._handles},
                "recompute": name in self._again,
            }
        )
        started = time.perf_counter()
        outcome = self._runner.invoke(invocation)
        seconds = round(time.perf_counter() - started, 2)
        self._handles[HANDED_ON_AS[name]] = outcome.handle
        self._outcomes[name] = outcome
        self._stages[name] = {"computed": outcome.computed, "cached": outcome.cached, "note": outcome.note, "seconds": seconds}
        self._runner.adapters.progress.note(f"{name:<13} {outcome.note} ({seconds:.1f} s)")

    def summary(self) -> dict[str, Any]:
        """Return what people and programs want of the run."""
        facts = {name: outcome.facts for name, outcome in self._outcomes.items()}
        moved = self._moved()
        verdict, deployment = facts["evaluate"], facts["deploy"]
        return {
            "pipeline": self._runner.pipeline.name,
            "run_id": self._first.run_id,
            "start": self._first.start,
            "end": self._first.end,
            "windows": facts["validate"]["windows"],
            "rows": facts["preprocess"]["rows"],
            "rejected": facts["preprocess"]["rejected"],
            "dataset": facts["snapshot"]["dataset"],
            "passed": verdict["passed"],
            "metrics": verdict["metrics"],
            "model": deployment["model"],
            "version": deployment["version"],
            "alias": deployment["alias"],
            "report": f"{self._runner.adapters.store.root}/{self._outcomes['evaluate'].links.get('Report', '')}",
            "mlflow_run": self._outcomes["train"].links.get("MLflow run"),
            "stages": self._stages,
        } | ({"moved": moved} if moved else {})

    def _moved(self) -> dict[str, int]:
        """Sum up what went between a remote store and the stages; empty for a local one."""
        if self._runner.adapters.store.root.startswith("file:"):
            return {}
        total: Counter[str] = Counter()
        for outcome in self._outcomes.values():
            total.update(outcome.moved)
        return dict(total)


def _load_ahead(tracking_uri: str) -> None:
    """Load what training and judging need while this process waits for Spark, and make MLflow's database.

    What fails here fails again where it is needed, and is told there.
    """
    with suppress(Exception):
        from mlops_tasks.adapters.mlflow_client import connect  # noqa: PLC0415 - loads MLflow

        connect(tracking_uri)
        for name in TRAIN:
            BY_NAME[name].function()
        import mlops_tasks.core.report.charts  # noqa: F401, PLC0415 - loads Matplotlib


WAITING = "preprocess"
"""The stage whose work another process does."""
