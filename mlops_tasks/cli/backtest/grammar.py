"""The grammar of `mlops backtest WHAT`; each sub-command runs its module of this package."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlops_tasks.cli.grammar import add_command, add_name, add_overrides

if TYPE_CHECKING:
    import argparse

    from mlops_tasks.cli.grammar import Commands

SUMMARY = "Replay a pipeline's history, window by window, to see what a rule would have done."


def add_backtest(commands: Commands) -> None:
    """Add `mlops backtest` and what it can replay."""
    group = commands.add_parser("backtest", help=SUMMARY, description=SUMMARY)
    kinds = group.add_subparsers(dest="kind", required=True, metavar="WHAT")
    _add_drift(kinds)
    _add_walkforward(kinds)
    _add_policy(kinds)


def _add_drift(kinds: Commands) -> None:
    command = add_command(
        kinds,
        "drift",
        "Measure the monitor on history: how often it alarms falsely, how soon it sees a shift.",
        "mlops backtest drift nyc_flights",
        "mlops backtest drift nyc_flights --start 2013-07-01 --end 2013-12-31 --set monitor.false_alarm_rate=0.01",
        "mlops backtest drift nyc_flights --shift distance:scaled:1.609 --shift carrier:renamed:0.5",
    )
    command.set_defaults(module="backtest.drift")
    add_name(command)
    command.add_argument("--start", metavar="DATE", help="first window that is judged (default: the first after the training)")
    command.add_argument("--end", metavar="DATE", help="last window's end, not included itself (default: all there is)")
    command.add_argument(
        "--shift",
        action="append",
        default=[],
        metavar="COLUMN:KIND:SIZE",
        dest="shifts",
        help="a change that is put in: `scaled` times SIZE, `moved` by SIZE standard deviations, `missing` a share of SIZE, "
        "`renamed` a share of the most frequent category (default: several of every column that decides)",
    )
    command.add_argument("--starts", type=int, default=3, metavar="N", help="windows with which a shift begins (default 3)")
    command.add_argument("--horizon", type=int, default=4, metavar="N", help="windows in which it may be seen (default 4)")
    command.add_argument(
        "--tolerate",
        type=float,
        default=0.01,
        metavar="SHARE",
        help="share of clean windows that may complete a row of alarms, for the proposed rate (default 0.01)",
    )
    command.add_argument("--output", metavar="FILE", help="where the HTML goes (default: NAME/backtests/ in the store)")
    add_overrides(command)


def _add_walkforward(kinds: Commands) -> None:
    command = add_command(
        kinds,
        "walkforward",
        "Score each registered model on all later time: frozen against retrained, and what a model's age costs.",
        "mlops backtest walkforward nyc_flights",
        "mlops backtest walkforward nyc_flights --start 2013-03-01 --end 2014-01-01 --make --every month --set train.model=hgb",
    )
    command.set_defaults(module="backtest.walkforward")
    add_name(command)
    _add_walk(command)
    add_overrides(command)


def _add_policy(kinds: Commands) -> None:
    command = add_command(
        kinds,
        "policy",
        "Play schedules and the pipeline's own rules through history: trainings against quality, and which schedule is enough.",
        "mlops backtest policy nyc_flights --by week",
        "mlops backtest policy nyc_flights --set retrain.cooldown=30d --set retrain.max_age=60d --worth 0.003",
    )
    command.set_defaults(module="backtest.policy")
    add_name(command)
    _add_walk(command)
    command.add_argument(
        "--worth",
        type=float,
        metavar="X",
        help="a difference of the metric that is not worth a training (default: the gate's tolerance against the champion, "
        "else one standard error)",
    )
    add_overrides(command)


def _add_walk(command: argparse.ArgumentParser) -> None:
    command.add_argument("--start", metavar="DATE", help="models and windows from here on (default: the first model)")
    command.add_argument("--end", metavar="DATE", help="models and windows before it (default: all there is)")
    command.add_argument(
        "--by", choices=("window", "week", "month"), default="month", help="what is scored at a time (default month)"
    )
    command.add_argument("--metric", metavar="NAME", help="what is averaged (default: the first gate's metric)")
    command.add_argument("--output", metavar="FILE", help="where the HTML goes (default: NAME/backtests/ in the store)")
    command.add_argument(
        "--make",
        action="store_true",
        help="first make the models that are due from --start to --end here, as backfills: never promoted",
    )
    command.add_argument(
        "--every", choices=("day", "week", "month"), help="with --make: when they are due (default: the cron in schedule.train)"
    )
