"""How well the models predict flights of the months to come: walk-forward, by the project's own training.

For each month: train on all months before it (the pipeline's validation share and embargo), test on the month. Features
are made once by the real pipeline. CPU seconds are a fit's with its refit, on the given number of threads.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.measuring import PIPELINE, environment, measure, say, say_machine, say_table, workplace
from mlops_tasks.artifacts import Dataset, Split, ValidFeatures
from mlops_tasks.core import metrics
from mlops_tasks.core.frames import read_split
from mlops_tasks.core.hardware import Placement, choose_device, pinned
from mlops_tasks.core.problems import Session, make_problem
from mlops_tasks.core.targets import make_targets
from mlops_tasks.core.training import boosted_model, fit_boosted, fit_model
from mlops_tasks.loading import apply_overrides, load_pipeline
from mlops_tasks.pipeline import BY_NAME
from mlops_tasks.ports import Ports, RunContext
from mlops_tasks.runner import Handle, Runner
from mlops_tasks.stages import snapshot

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from mlops_tasks.ports import Bar

LIMIT = -0.005
YEAR = 2013
MONTHS, ALL_MONTHS = (7, 10, 12), tuple(range(2, 13))
MODELS = ("tabm", "mlp", "linear", "hgb")
JUDGED = "tabm"
"""The default model, which has the limit; the others are shown beside it."""
METRICS = ("roc_auc", "log_loss", "ece")


class Silent:
    """A tracked run and a progress that tell nobody."""

    run_id = "benchmark"

    def params(self, values: object) -> None:
        """Forget parameters."""

    def metrics(self, values: object, step: int | None = None) -> None:
        """Forget metrics."""

    def tags(self, values: object) -> None:
        """Forget tags."""

    def artifact(self, path: Path, folder: str = "") -> None:
        """Forget a file."""

    def bar(self, description: str, total: float | None) -> AbstractContextManager[Bar]:
        """Show nothing."""
        del description, total
        return nullcontext(self)

    def advance(self, amount: float = 1, **fields: object) -> None:
        """Show nothing."""

    def note(self, message: str) -> None:
        """Say nothing."""


@dataclass(frozen=True)
class Walk:
    """All features, and the ports that the training asks for."""

    runner: Runner
    features: list[ValidFeatures]
    ports: Ports

    def dataset(self, month: int) -> Dataset:
        """Fix what trains and what tests for a month, by the pipeline's own snapshot."""
        begin, end = datetime(YEAR, month, 1, tzinfo=UTC), _month_after(month)
        spec = self.runner.pipeline.snapshot.model_copy(update={"test": end - begin})
        return snapshot.run(spec, [item for item in self.features if item.features.window.start < end], ports=self.ports)

    def measure_month(self, month: int, models: list[str], threads: int, device: str) -> dict[str, dict[str, float]]:
        """Fit every model and score the month; return model -> metrics and `cpu_s`."""
        dataset, schema = self.dataset(month), self.runner.pipeline.features
        splits: tuple[Split, ...] = ("train", "validation", "test")
        frames = {split: read_split(self.ports.store, dataset, split) for split in splits}
        targets, chosen = make_targets(frames, schema), choose_device(device)  # type: ignore[arg-type]  # argparse checks it
        truth = targets.by_split["test"]
        problem = make_problem(frames, targets, schema=schema, spec=self.runner.pipeline.train, placement=Placement(chosen))
        session = Session(self.ports, Silent(), f"{PIPELINE}/benchmark")
        found = {}
        with pinned(threads, chosen):
            began = time.process_time()
            boosted = fit_boosted(problem)
            boosting_s = time.process_time() - began
            for name in models:
                own = replace(problem, spec=problem.spec.model_copy(update={"model": name, "threads": threads}))
                began = time.process_time()
                model = boosted_model(own, boosted) if name == "hgb" else fit_model(own, session, boosted)
                cpu_s = time.process_time() - began + (boosting_s if name == "hgb" else 0)
                session.forget()
                score = np.asarray(model.score(frames["test"]), dtype=np.float64)
                predictions = metrics.Predictions(task="binary", truth_N=truth, score_N=score)
                found[name] = {**metrics.measure(predictions, METRICS), "cpu_s": cpu_s}
        return found


def _month_after(month: int) -> datetime:
    return datetime(YEAR + month // 12, month % 12 + 1, 1, tzinfo=UTC)


def prepare(folder: Path, months: list[int], overrides: dict[str, Any]) -> Walk:
    """Bring all days up to the last month's end in. Raises: BenchmarkError."""
    env = environment(folder)
    span = [f"{YEAR}-01-01", f"{_month_after(max(months)):%Y-%m-%d}"]
    made = measure([sys.executable, "-m", "benchmarks.inside.ingestion", PIPELINE, *span], env=env, cwd=folder)
    os.environ.update({key: value for key, value in env.items() if key.startswith(("MLOPS_", "MLFLOW_"))})
    runner = Runner(apply_overrides(load_pipeline(PIPELINE), {"snapshot.label_delay": "0d", **overrides}))
    context = RunContext(pipeline=PIPELINE, run_id="walk", intent="manual", now=datetime.now(UTC), code_version="benchmark")
    ports = replace(runner.adapters.ports(context), progress=Silent())
    handle = Handle.model_validate_json(made.out.splitlines()[-1])
    return Walk(runner, runner.results(BY_NAME["validate"], handle), ports)


def say_walk(found: dict[int, dict[str, dict[str, float]]], models: list[str]) -> None:
    """Print a row a month and model, and the means."""
    rows = []
    for month, by_model in found.items():
        for name in models:
            m = by_model[name]
            difference = m["roc_auc"] - by_model["hgb"]["roc_auc"] if "hgb" in by_model else float("nan")
            cells = [
                f"{m['roc_auc']:.4f}",
                f"{difference:+.4f}",
                f"{m['log_loss']:.4f}",
                f"{m['ece']:.4f}",
                f"{m['cpu_s']:.0f}",
            ]
            rows.append([f"{YEAR}-{month:02d}", name, *cells])
    say_table(("test month", "model", "ROC AUC", "less hgb's", "log loss", "ECE", "CPU s"), rows)
    for name in models:
        means = {key: statistics.mean(by_model[name][key] for by_model in found.values()) for key in (*METRICS, "cpu_s")}
        worst = min(m[name]["roc_auc"] - m["hgb"]["roc_auc"] for m in found.values()) if "hgb" in models else float("nan")
        told = f"mean ROC AUC {means['roc_auc']:.4f}, log loss {means['log_loss']:.4f}, ECE {means['ece']:.4f}"
        told += f", {means['cpu_s']:.0f} CPU s"
        judged = "" if name != JUDGED else f" (limit {LIMIT}: {'met' if worst >= LIMIT else '**missed**'})"
        say(f"- {name}: {told}" + ("" if name == "hgb" else f"; least difference to hgb {worst:+.4f}{judged}"))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1, help="seeds, whose metrics are averaged (default 1)")
    parser.add_argument("--months", type=int, nargs="+", default=list(MONTHS), choices=ALL_MONTHS)
    parser.add_argument("--all", action="store_true", help="every month from February on")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--max-epochs", type=int, default=None)
    chosen = parser.parse_args()
    months = list(ALL_MONTHS) if chosen.all else sorted(set(chosen.months))
    say_machine(f"Test metrics by month, {chosen.threads} thread(s), {chosen.runs} seed(s)")
    overrides = {"train.max_epochs": chosen.max_epochs} if chosen.max_epochs else {}
    with workplace() as folder:
        walk = prepare(folder, months, overrides)
        found = {month: _mean_over_seeds(walk, month, chosen) for month in months}
    say_walk(found, chosen.models)


def _mean_over_seeds(walk: Walk, month: int, chosen: argparse.Namespace) -> dict[str, dict[str, float]]:
    rounds = []
    for seed in range(chosen.runs):
        pipeline = apply_overrides(walk.runner.pipeline, {"train.seed": seed})
        seeded = replace(walk, runner=Runner(pipeline, walk.runner.adapters))
        rounds.append(seeded.measure_month(month, chosen.models, chosen.threads, chosen.device))
    return {n: {key: statistics.mean(r[n][key] for r in rounds) for key in rounds[0][n]} for n in rounds[0]}


if __name__ == "__main__":
    main()
