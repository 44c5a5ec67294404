"""The grammar of `mlops backtest WHAT`; each sub-command runs its module of this package."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlops_tasks.cli.grammar import add_command, add_name, add_overrides

if TYPE_CHECKING:
    from mlops_tasks.cli.grammar import Commands

SUMMARY = "Replay a pipeline's history, window by window, to see what a rule would have done."


def add_backtest(commands: Commands) -> None:
    """Add `mlops backtest` and what it can replay."""
    group = commands.add_parser("backtest", help=SUMMARY, description=SUMMARY)
    kinds = group.add_subparsers(dest="kind", required=True, metavar="WHAT")
    _add_drift(kinds)


def _add_drift(kinds: Commands) -> None:
    command = add_command(
        kinds,
        "drift",
        "Measure the monitor on history: how often it alarms falsely, how soon it sees a shift.",
        "mlops backtest drift nyc_flights",
        "mlops backtest drift nyc_flights --start 2013-07-01 --end 2014-01-01 --set monitor.false_alarm_rate=0.01",
    )
    command.set_defaults(module="backtest.drift")
    add_name(command)
    command.add_argument("--start", metavar="DATE", help="first window that is judged (default: the first after the history)")
    command.add_argument("--end", metavar="DATE", help="last window's end, not included itself (default: all there is)")
    add_overrides(command)
