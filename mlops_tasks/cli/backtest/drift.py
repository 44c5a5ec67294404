"""`mlops backtest drift`: how often the monitor alarms falsely, and how soon it sees a shift."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any

from rich.table import Table

from mlops_tasks.cli.arguments import read_overrides, read_time
from mlops_tasks.cli.backtest.walkforward import write_report
from mlops_tasks.cli.view import pairs
from mlops_tasks.core.drift_report import render_backtest
from mlops_tasks.loading import apply_overrides, load_pipeline
from mlops_tasks.runner.backtesting import Asked, Backtest, backtest_drift, rate_facts
from mlops_tasks.wiring import Adapters

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    from rich.console import Console

    from mlops_tasks.core.drift_backtest import Detection, Shift


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Replay the history, write the report, return the figures. Raises: NothingToDo: there is no model or no window."""
    pipeline = apply_overrides(load_pipeline(args.name), read_overrides(args.overrides))
    adapters = Adapters()
    asked = Asked(
        start=read_time(args.start, "--start") if args.start else None,
        end=read_time(args.end, "--end") if args.end else None,
        shifts=tuple(args.shifts),
        starts=args.starts,
        horizon=args.horizon,
        tolerated=args.tolerate,
    )
    made = backtest_drift(pipeline, adapters, asked)
    found = describe(made)
    report = write_report(adapters, args.name, "drift", render_backtest(found, made.replay.judged), args.output)
    return found | {"report": report}


def describe(made: Backtest) -> dict[str, Any]:
    """Return the figures as `--json` has them, less where the report is."""
    spec, judged = made.pipeline.monitor, made.replay.judged
    return {
        "pipeline": made.pipeline.name,
        "version": made.version,
        "start": judged[0].record.window.label,
        "end": f"{judged[-1].record.window.end:%Y-%m-%d}",
        "false_alarm_rate": spec.false_alarm_rate,
        "effect_size": spec.effect_size,
        "alarms": spec.alarms.model_dump(),
        "warming_up": len(judged) - len(made.replay.warm),
        "windows": rate_facts(made.replay.windows),
        "decisions": rate_facts(made.replay.decisions),
        "alarmed": [
            {"window": item.record.window.label, "columns": item.record.columns} for item in judged if item.record.alarm
        ],
        "rates": [
            {"rate": rate, "windows": rate_facts(replay.windows), "decisions": rate_facts(replay.decisions)}
            for rate, replay in made.rates.items()
        ],
        "tolerated": made.tolerated,
        "proposed": made.proposed,
        "advice": _advise(made),
        "shifts": [_describe_shift(shift, found) for shift, found in made.detections.items()],
    }


def _advise(made: Backtest) -> str:
    """Say which false-alarm rate the history speaks for."""
    rate, tolerated = made.pipeline.monitor.false_alarm_rate, f"{made.tolerated:.0%} of the windows"
    if made.proposed is None:
        return f"No rate that was tried keeps rows of alarms below {tolerated}: ask for more windows in monitor.alarms."
    if made.proposed == rate:
        return f"monitor.false_alarm_rate: {rate} keeps rows of alarms below {tolerated}."
    word = "still keeps" if made.proposed > rate else "would keep"
    return f"monitor.false_alarm_rate: {made.proposed} {word} rows of alarms below {tolerated}; it is {rate}."


def _describe_shift(shift: Shift, found: Sequence[Detection]) -> dict[str, Any]:
    alarmed = [d for d in found if d.alarm_after is not None]
    return {
        "column": shift.column,
        "kind": shift.kind,
        "size": shift.size,
        "tries": len(found),
        "alarmed": len(alarmed),
        "seen": sum(d.row_after is not None for d in found),
        "alarm_after": _median([d.alarm_after for d in found]),
        "row_after": _median([d.row_after for d in found]),
        "named_first": sum(d.named == shift.column for d in alarmed),
        "starts": [d.start for d in found],
    }


def _median(values: Sequence[int | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(median(known)) if known else None


def show(console: Console, found: Mapping[str, Any]) -> None:
    """Print the figures."""
    windows, decisions, rule = found["windows"], found["decisions"], found["alarms"]
    facts = [
        ("windows", f"{found['start']} to {found['end']}, {found['warming_up']} of them warming up"),
        ("alarmed", f"{_told(windows)}; asked for {found['false_alarm_rate']:.1%}"),
        (f"rows of {rule['at_least']} of {rule['of']}", _told(decisions)),
        ("advice", found["advice"]),
        ("report", found["report"]),
    ]
    console.print(pairs(f"{found['pipeline']}: the monitor of version {found['version']} on its history", facts))
    for item in found["alarmed"]:
        console.print(f"alarmed: {item['window']} ({', '.join(item['columns'])})", markup=False, highlight=False)
    rates = Table(title="Other false-alarm rates", title_justify="left")
    for name in ("rate", "windows alarmed", "rows of alarms"):
        rates.add_column(name, justify="right")
    for item in found["rates"]:
        rates.add_row(f"{item['rate']:g}", _told(item["windows"]), _told(item["decisions"]))
    console.print(rates)
    table = Table(title="Shifts: windows until they are seen", title_justify="left")
    for name in ("column", "change", "size", "seen", "to an alarm", "to a row", "named first"):
        table.add_column(name, justify="left" if name in {"column", "change"} else "right")
    for item in found["shifts"]:
        after = ["-" if item[key] is None else f"{item[key]:g}" for key in ("alarm_after", "row_after")]
        seen, named = f"{item['seen']} of {item['tries']}", f"{item['named_first']} of {item['alarmed']}"
        table.add_row(item["column"], item["kind"], f"{item['size']:.4g}", seen, *after, named)
    console.print(table)


def _told(rate: Mapping[str, Any]) -> str:
    return f"{rate['count']} of {rate['of']}, {rate['share']:.1%} ({rate['low']:.1%} to {rate['high']:.1%})"
