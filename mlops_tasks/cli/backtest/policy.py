"""`mlops backtest policy`: when to retrain, played through history before it is switched on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.table import Table

from mlops_tasks.cli.arguments import read_overrides
from mlops_tasks.cli.backtest.walkforward import make, read_walk, write_report
from mlops_tasks.cli.view import pairs
from mlops_tasks.core.walk_forward.matrix import measure_ages
from mlops_tasks.core.walk_forward.page import UNITS, label_of, render_policies
from mlops_tasks.core.walk_forward.policies import Played, oldest, play, play_schedules, recommend, served_periods
from mlops_tasks.errors import NothingToDo
from mlops_tasks.loading import apply_overrides, load_pipeline
from mlops_tasks.runner.replaying import Replay, replay
from mlops_tasks.runner.walking import measure_matrix, validated_features
from mlops_tasks.wiring import Adapters

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from rich.console import Console

    from mlops_tasks.core.walk_forward import Matrix
    from mlops_tasks.core.walk_forward.policies import Recommendation
    from mlops_tasks.specs import PipelineSpec

OWN = "the pipeline's own rules"


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Play schedules and the pipeline's own rules through history; recommend a schedule; write the report.

    Raises:
        NothingToDo: there are no models, or none serves in a period.

    """
    overrides = read_overrides(args.overrides)
    pipeline = apply_overrides(load_pipeline(args.name), overrides)
    adapters = Adapters()
    if args.make:
        make(pipeline, adapters, args, overrides)
    matrix = measure_matrix(pipeline, adapters, read_walk(args))
    if not served_periods(matrix):
        told = f"the oldest model has no value of {matrix.metric} in any {matrix.by}"
        msg = f"{pipeline.name}: {told}; try another --metric or --by"
        raise NothingToDo(msg)
    features, _ = validated_features(pipeline, adapters, oldest(matrix).as_of, read_walk(args).end)
    replayed = replay(pipeline, adapters, matrix, features)
    schedules, own = play_schedules(matrix), play(matrix, OWN, replayed.trainings)
    worth = args.worth if args.worth is not None else _tolerated(pipeline, matrix.metric)
    recommendation = recommend(schedules, worth)
    facts = {
        "alarms": replayed.alarms,
        "waited": replayed.waited,
        "within": "one standard error" if worth is None else f"{worth:g}",
    }
    page = render_policies(matrix, [*schedules, own], own, recommendation, facts)
    report = write_report(adapters, pipeline.name, "policy", page, args.output)
    return _describe(matrix, [*schedules, own], recommendation, replayed) | {"worth": worth, "report": report}


def _tolerated(pipeline: PipelineSpec, metric: str) -> float | None:
    """Return by how much the gate lets a model be worse than the champion: such a difference does not matter."""
    gates = [gate for gate in pipeline.evaluate.gates if gate.metric == metric and gate.against == "champion"]
    return next((gate.tolerance for gate in gates if gate.tolerance), None)


def _describe(matrix: Matrix, policies: list[Played], recommendation: Recommendation, replayed: Replay) -> dict[str, Any]:
    return {
        "pipeline": matrix.pipeline,
        "metric": matrix.metric,
        "by": matrix.by,
        "periods": [label_of(period, matrix.by) for period in served_periods(matrix)],
        "policies": [
            {
                "policy": played.name,
                "trainings": [training.model_dump(mode="json") for training in played.trainings],
                "seconds": played.seconds,
                "mean": played.path.mean,
                "behind": played.behind,
                "error": played.error,
                "worst": played.worst,
                "versions": played.path.versions,
                "values": played.path.values,
            }
            for played in policies
        ],
        "recommended": recommendation.model_dump(),
        "alarms": replayed.alarms,
        "held_back": replayed.waited,
        "staleness": [age.model_dump() for age in measure_ages(matrix)],
        "absent": matrix.absent,
    }


def show(console: Console, found: Mapping[str, Any]) -> None:
    """Print the figures."""
    recommended = found["recommended"]
    facts = [
        ("recommended schedule", f"{recommended['policy']}: {recommended['why']}"),
        ("alarms while their model served", f"{found['alarms']['drift']} drift, {found['alarms']['performance']} performance"),
        ("report", found["report"]),
    ]
    console.print(pairs(f"{found['pipeline']}: when to retrain, {len(found['periods'])} {UNITS[found['by']]}", facts))
    table = Table(title=f"Trainings against {found['metric']}", title_justify="left")
    for name in ("policy", "trainings", "seconds", "mean", "behind", "standard error", "worst"):
        table.add_column(name, justify="left" if name == "policy" else "right")
    for item in found["policies"]:
        table.add_row(
            item["policy"],
            str(len(item["trainings"])),
            "-" if item["seconds"] is None else f"{item['seconds']:,.0f}",
            f"{item['mean']:.4f}",
            f"{item['behind']:.4f}",
            "-" if item["error"] is None else f"{item['error']:.4f}",
            f"{item['worst']:.4f}",
        )
    console.print(table)
    for training in found["policies"][-1]["trainings"]:
        gave = f"version {training['version']}" if training["version"] else "no newer model"
        console.print(f"{training['at'][:10]} {gave}: {training['why']}", markup=False, highlight=False)
    for why, count in found["held_back"].items():
        console.print(f"held back {count} times: {why}", markup=False, highlight=False)
