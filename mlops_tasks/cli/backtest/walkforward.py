"""`mlops backtest walkforward`: the models as they would have been, each on all later time."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from mlops_tasks.cli.arguments import read_overrides, read_time
from mlops_tasks.cli.view import pairs
from mlops_tasks.core.walk_forward import render_walk_forward, summarise
from mlops_tasks.core.walk_forward.page import UNITS, label_of
from mlops_tasks.errors import NothingToDo, SpecError
from mlops_tasks.loading import apply_overrides, load_pipeline
from mlops_tasks.runner.past import make_models
from mlops_tasks.runner.planning.runs import train_runs
from mlops_tasks.runner.runner import Runner
from mlops_tasks.runner.walking import Walk, measure_matrix
from mlops_tasks.wiring import Adapters

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from rich.console import Console

    from mlops_tasks.core.walk_forward import Matrix, Summary
    from mlops_tasks.specs import PipelineSpec


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Make missing models if asked to, score, and write the report.

    Raises:
        NothingToDo: there are no models or no later windows.
        SpecError: `--make` without a range.

    """
    overrides = read_overrides(args.overrides)
    pipeline = apply_overrides(load_pipeline(args.name), overrides)
    adapters = Adapters()
    made = make(pipeline, adapters, args, overrides) if args.make else []
    matrix = measure_matrix(pipeline, adapters, read_walk(args))
    summary = summarise(matrix)
    if summary is None:
        msg = f"{pipeline.name}: no {matrix.by} has scores of {matrix.metric}; try --by month or another --metric"
        raise NothingToDo(msg)
    report = write_report(adapters, pipeline.name, "walkforward", render_walk_forward(matrix, summary), args.output)
    return describe(matrix, summary) | {"made": made, "report": report}


def make(
    pipeline: PipelineSpec, adapters: Adapters, args: argparse.Namespace, overrides: dict[str, Any]
) -> list[dict[str, Any]]:
    """Make the models that are due in the range. Raises: SpecError: there is no range."""
    if not (args.start and args.end):
        msg = "--make: needs --start and --end, between which the trainings are due"
        raise SpecError(msg)
    runs = train_runs(pipeline, read_time(args.start, "--start"), read_time(args.end, "--end"), args.every)
    now = datetime.now(UTC)
    runs = [run for run in runs if run.due <= now]
    return make_models(Runner(pipeline, adapters), runs, overrides=overrides, tell=adapters.progress.note)


def read_walk(args: argparse.Namespace) -> Walk:
    """Read what is to be compared; the models that were made at the range's start are in it."""
    return Walk(
        start=read_time(args.start, "--start") if args.start else None,
        end=read_time(args.end, "--end") if args.end else None,
        by=args.by,
        metric=args.metric or "",
    )


def write_report(adapters: Adapters, name: str, kind: str, page: str, output: str | None) -> str:
    """Write the page where it is asked for, else into the store; return where it is."""
    if output:
        Path(output).write_text(page, encoding="utf-8")
        return str(Path(output).resolve())
    key = f"{name}/backtests/{kind}.html"
    adapters.store.write(key, page.encode())
    return f"{adapters.store.root}/{key}"


def describe(matrix: Matrix, summary: Summary) -> dict[str, Any]:
    """Return everything as plain values."""
    return {
        "pipeline": matrix.pipeline,
        "metric": matrix.metric,
        "by": matrix.by,
        "frozen": {"version": summary.frozen.versions[0], "mean": summary.frozen.mean, "values": summary.frozen.values},
        "retrained": {
            "versions": summary.retrained.versions,
            "mean": summary.retrained.mean,
            "values": summary.retrained.values,
        },
        "periods": [label_of(period, matrix.by) for period in summary.periods],
        "gain": summary.gain,
        "staleness": [age.model_dump() for age in summary.ages],
        "models": [model.model_dump(mode="json") for model in matrix.models],
        "matrix": [cell.model_dump(mode="json") for cell in matrix.cells],
        "absent": matrix.absent,
    }


def show(console: Console, found: Mapping[str, Any]) -> None:
    """Print the figures."""
    metric, unit = found["metric"], UNITS[found["by"]]
    frozen, retrained = found["frozen"], found["retrained"]
    facts = [
        (f"newest model of each {found['by']}", f"{metric} {retrained['mean']:.4f}"),
        (f"version {frozen['version']} throughout", f"{metric} {frozen['mean']:.4f}"),
        ("retraining is worth", f"{found['gain']:+.4f} in the mean of {len(found['periods'])} {unit}"),
        ("report", found["report"]),
    ]
    console.print(pairs(f"{found['pipeline']}: {len(found['models'])} models, walk-forward", facts))
    table = Table(title=f"{metric} by {found['by']}", title_justify="left")
    for name in ("period", "frozen", "retrained", "version"):
        table.add_column(name, justify="right")
    for row in zip(found["periods"], frozen["values"], retrained["values"], retrained["versions"], strict=True):
        table.add_row(row[0], f"{row[1]:.4f}", f"{row[2]:.4f}", str(row[3]))
    console.print(table)
    ages = Table(title=f"What a model's age costs in {metric}", title_justify="left")
    for name in (unit, "cost", "standard error", "comparisons"):
        ages.add_column(name, justify="right")
    for age in found["staleness"]:
        error = "" if age["error"] is None else f"{age['error']:.4f}"
        ages.add_row(str(age["periods"]), f"{age['cost']:+.4f}", error, str(age["compared"]))
    console.print(ages)
    for what, why in found["absent"].items():
        console.print(f"not there: {what}: {why}", markup=False, highlight=False)
