"""Plans to tables for people."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from rich.table import Table

from mlops_tasks.cli.view import amount, pairs

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rich.console import Console

MOST_TRAININGS = 60
MOST_COMMANDS = 3


def show_plan(console: Console, plan: Mapping[str, Any]) -> None:
    """Print a plan."""
    title = f"{plan['pipeline']}.{plan['for']} {plan['start']:%Y-%m-%d} to {plan['end']:%Y-%m-%d}"
    console.print(pairs(title, list(_facts(plan))))
    console.print(_stages(plan))
    if plan["trainings"]:
        console.print(_trainings(plan["trainings"]))
    for note in plan["notes"]:
        console.print(f"note: {note}", markup=False, highlight=False)
    _show_start(console, plan["start_with"])


def _facts(plan: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    minutes, windows, assumed = plan["minutes"], plan["windows"], plan["assumed"]
    yield "runs", f"{plan['runs']:,}"
    yield "windows", f"{windows['total']:,}, of which {windows['in_already']:,} are in already"
    about = "about " if plan["rows"]["estimated_windows"] else ""
    yield "rows", f"{about}{plan['rows']['total']:,} ({plan['rows']['basis']})"
    yield "bytes", f"{about}{amount(plan['bytes']['total'])} in the store"
    bounds = f"{_minutes(minutes['low'])} to {_minutes(minutes['high'])}"
    yield "minutes", f"about {_minutes(minutes['likely'])} ({bounds}; {minutes['basis']})"
    yield "assumed", f"{assumed['max_active_runs']} runs at a time, {assumed['cores']} cores"


def _minutes(value: float) -> str:
    return f"{value:,.0f}" if value >= 9.5 else f"{value:.1f}"  # noqa: PLR2004 - what would be shown as 10


def _stages(plan: Mapping[str, Any]) -> Table:
    table = Table(title="Windows", title_justify="left")
    for name in ("stage", "cached", "to make", "cached if its input comes out the same", "why"):
        table.add_column(name, overflow="fold")
    for stage, states in plan["windows"]["stages"].items():
        why = ", ".join(f"{reason} ({count})" for reason, count in plan["reasons"].get(stage, {}).items())
        table.add_row(stage, f"{states['cached']:,}", f"{states['make']:,}", f"{states['perhaps']:,}", why)
    return table


def _trainings(trainings: list[dict[str, Any]]) -> Table:
    table = Table(title="Trainings", title_justify="left")
    for name in ("due", "trains on", "rows", "windows to make", "cached", "minutes"):
        table.add_column(name)
    for item in trainings[:MOST_TRAININGS]:
        table.add_row(
            f"{item['due']:%Y-%m-%d}",
            f"{item['start']:%Y-%m-%d} to {item['end']:%Y-%m-%d}",
            f"{item['rows']:,}",
            f"{item['windows_to_make']:,}",
            ", ".join(item["cached"]) or "-",
            _minutes(item["minutes"]),
        )
    if len(trainings) > MOST_TRAININGS:
        table.caption = f"and {len(trainings) - MOST_TRAININGS} more; --json has them all"
    return table


def _show_start(console: Console, start: Mapping[str, Any]) -> None:
    console.print("Start it with", style="bold")
    for command in [*start["airflow"][:MOST_COMMANDS], *start["here"]]:
        console.print(f"  {command}", markup=False, highlight=False)
    for path, body in start["rest"][:MOST_COMMANDS]:
        console.print(f"  POST /api/v2{path} {json.dumps(body)}", markup=False, highlight=False)
    more = max(len(start["airflow"]), len(start["rest"])) - MOST_COMMANDS
    if more > 0:
        console.print(f"  and {more} more of each; --json has them all", style="dim")
