"""Results of commands to tables for people."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping


def show(module: str, result: Mapping[str, Any]) -> None:
    """Print what a command's module returned: by its own `show` if it has one, else by a view of this module."""
    console = Console(soft_wrap=True)
    own = getattr(importlib.import_module(f"mlops_tasks.cli.{module}"), "show", None)
    (own or _VIEWS.get(module, _show_plain))(console, result)


def _show_plain(console: Console, result: Mapping[str, Any]) -> None:
    for key, value in result.items():
        console.print(f"{key}: {value}", markup=False, highlight=False)


def pairs(title: str, facts: Iterable[tuple[str, object]]) -> Table:
    """Return a table of names and values."""
    table = Table(title=title, show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for key, value in facts:
        table.add_row(key, str(value))
    return table


def rows(title: str, items: list[dict[str, Any]]) -> Table:
    """Return a table with a column for each key of the first item."""
    table = Table(title=title, title_justify="left")
    for key in items[0] if items else ("nothing yet",):
        table.add_column(key, overflow="fold")
    for row in items:
        table.add_row(*(", ".join(map(str, v)) if isinstance(v, list | tuple) else str(v) for v in row.values()))
    return table


def _show_run(console: Console, result: Mapping[str, Any]) -> None:
    metrics = ", ".join(f"{name} {value:.4f}" for name, value in result["metrics"].items())
    console.print(
        pairs(
            f"{result['pipeline']} {result['start']:%Y-%m-%d} to {result['end']:%Y-%m-%d}",
            [
                ("windows", result["windows"]),
                ("rows", f"{result['rows']:,} ({result['rejected']:,} rejected, kept with their reasons)"),
                ("dataset", result["dataset"]),
                ("metrics", metrics),
                ("version", f"{result['model']} {result['version']} ({result['alias']})"),
                ("report", result["report"]),
                ("MLflow run", result["mlflow_run"]),
                *([("store", _moved(result["moved"]))] if "moved" in result else []),
                ("serve it", f"mlops serve {result['pipeline']}"),
            ],
        )
    )


def _moved(moved: Mapping[str, int]) -> str:
    """Say what went between a remote store and the stages, e.g. `moved 12.3 MB up, 0 B down, 45 MB reused`."""
    up, down, reused = (amount(moved[f"{kind}_bytes"]) for kind in ("uploaded", "downloaded", "reused"))
    return f"moved {up} up, {down} down, {reused} reused"


def amount(size: int) -> str:
    """Return bytes to three digits, e.g. `12.3 MB`."""
    value, units = float(size), iter(("B", "kB", "MB", "GB"))
    unit = next(units)
    while value >= 999.5 and (larger := next(units, "")):  # noqa: PLR2004 - what would be shown as 1000
        value, unit = value / 1000, larger
    return f"{value:.3g} {unit}" if value < 999.5 else f"{value:.0f} {unit}"  # noqa: PLR2004 - likewise


def _show_check(console: Console, result: Mapping[str, Any]) -> None:
    checked = [{"pipeline": name, **facts} for name, facts in result["pipelines"].items()]
    console.print(rows("All in order", checked))


def _show_models(console: Console, result: Mapping[str, Any]) -> None:
    console.print(rows(f"{result['model']}: versions", result["versions"]))
    console.print(rows("Promotions, oldest first", result["promotions"]))


def _show_status(console: Console, result: Mapping[str, Any]) -> None:
    windows = [{"stage": stage, **facts} for stage, facts in result["windows"].items()]
    console.print(rows(f"{result['pipeline']}: windows", windows))
    champion = result["champion"]
    told = (
        f"version {champion['version']}, trained on {champion['trained_from']:%Y-%m-%d} to {champion['trained_to']:%Y-%m-%d}"
        if champion
        else "none yet"
    )
    places = [("champion", told), ("store", result["store"]), ("tracking", result["tracking"])]
    console.print(pairs("Model", places))
    drift = [{key: row.get(key, "") for key in ("window", "status", "reason")} for row in result["drift"]]
    console.print(rows("Drift, latest windows", drift))
    console.print(rows("Performance, latest windows", [_performance_row(row) for row in result["performance"]]))
    console.print(rows("Latest runs", result["runs"]))


def _performance_row(record: Mapping[str, Any]) -> dict[str, str]:
    """Show the metrics that people ask for first, as measured or, with a tilde, as estimated without labels."""
    shown = [
        f"{name} {record['metrics'][name]:.4f}" if name in record["metrics"] else f"{name} ~{record['estimated'][name]:.4f}"
        for name in ("roc_auc", "log_loss", "rmse")
        if name in record["metrics"] or name in record["estimated"]
    ]
    return {
        "window": record["window"],
        "status": record["status"],
        "labels": f"{record['coverage']:.0%} of {record['rows']:,}",
        "metrics": ", ".join(shown),
        "reason": "" if record["status"] == "ok" else record["reason"],
    }


_VIEWS: dict[str, Callable[[Console, Mapping[str, Any]], None]] = {
    "run": _show_run,
    "check": _show_check,
    "models": _show_models,
    "status": _show_status,
}
