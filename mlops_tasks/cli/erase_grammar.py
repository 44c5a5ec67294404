"""The grammar of what takes logged answers away: `mlops erase` and `mlops retain`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlops_tasks.cli.grammar import add_command, add_name

if TYPE_CHECKING:
    from mlops_tasks.cli.grammar import Commands


def add_erase(commands: Commands) -> None:
    """Add `mlops erase`."""
    command = add_command(
        commands,
        "erase",
        "Take somebody's answers out of a pipeline's request log, for good. What was made of them before (collected windows, "
        "datasets, models, sums over windows) is listed, with what it holds and what to do, and not changed: collect those "
        "windows anew, train again, and delete what is listed.",
        "mlops erase nyc_flights --entity customer-7 --reason 'request of 2026-03-01'",
        "mlops erase nyc_flights --key carrier=UA --key flight=1545 --key origin=EWR --dry-run",
        "mlops erase nyc_flights --id order-66 --id order-67",
    )
    add_name(command)
    texts = {
        "--entity": ("TEXT", "as clients send it in X-Entity-Key, or its hash as the log has it (repeat it for more)"),
        "--key": ("COLUMN=VALUE", "instead: a column of the pipeline's entity key; all of them are needed"),
        "--id": ("ID", "a prediction id; a request's id stands for all its rows (repeat it for more)"),
    }
    for option, (value, what) in texts.items():
        command.add_argument(option, action="append", default=[], metavar=value, help=what)
    command.add_argument("--reason", default="", help="why; it is kept with the erasure")
    command.add_argument("--dry-run", action="store_true", help="count and list only")


def add_retain(commands: Commands) -> None:
    """Add `mlops retain`."""
    command = add_command(
        commands,
        "retain",
        "Remove the days of a request log that are older than serve.log.retain; the DAG `.maintain` does it every day.",
        "mlops retain nyc_flights",
    )
    add_name(command)
