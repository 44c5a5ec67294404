"""The grammar of `mlops plan` and `mlops explain`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlops_tasks.cli.grammar import add_command, add_name, add_overrides, add_range

if TYPE_CHECKING:
    from mlops_tasks.cli.grammar import Commands


def add_plan(commands: Commands) -> None:
    """Add `mlops plan`."""
    command = add_command(
        commands,
        "plan",
        "Say what a backfill will cost before it is run: runs, rows, bytes, minutes, what is cached, how to start it.",
        "mlops plan nyc_flights --start 2013-01-01 --end 2014-01-01",
        "mlops plan nyc_flights --start 2013-04-01 --end 2014-01-01 --for train --every month --set train.model=mlp",
    )
    add_name(command)
    add_range(command)
    command.add_argument("--for", choices=("ingest", "train"), default="ingest", help="the DAG to backfill (default ingest)")
    command.add_argument(
        "--every", choices=("day", "week", "month"), help="trainings: when they are due (default: the cron in schedule.train)"
    )
    command.add_argument(
        "--parallel", type=int, metavar="N", help="max_active_runs of the backfill (default 3; trainings 1, one after another)"
    )
    add_overrides(command)


def add_explain(commands: Commands) -> None:
    """Add `mlops explain`."""
    command = add_command(
        commands,
        "explain",
        "Say why a run's stages ran or were cached, why it trained, why its model was promoted or refused, what came of it.",
        "mlops explain train-manual__2013-07-01T00_00_00_00_00 --pipeline nyc_flights",
        "mlops explain nyc_flights/3",
    )
    command.add_argument("run", metavar="RUN", help="a run's id, as `mlops status` shows it, or a model: NAME/VERSION")
    command.add_argument("--pipeline", metavar="NAME", help="whose run it is (default: the one pipeline that has such a run)")
