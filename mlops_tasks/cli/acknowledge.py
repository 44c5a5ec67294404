"""`mlops acknowledge`: alarmed windows whose data are in order after all."""

from __future__ import annotations

import getpass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mlops_tasks.cli.arguments import read_time
from mlops_tasks.errors import SpecError
from mlops_tasks.runner.acknowledging import acknowledge

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from rich.console import Console


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Acknowledge. Raises: NothingToDo when no window there alarmed, SpecError."""
    start = read_time(args.window, "--window")
    through = read_time(args.through, "--through") if args.through else start
    if through < start:
        msg = f"--through: must not be before --window {args.window}, got {args.through}"
        raise SpecError(msg)
    if not args.reason.strip():
        msg = "--reason: must say why the data are in order"
        raise SpecError(msg)
    return acknowledge(
        args.name, start=start, through=through, reason=args.reason, who=getpass.getuser(), now=datetime.now(UTC)
    )


def show(console: Console, done: Mapping[str, Any]) -> None:
    """Say what was acknowledged, and what follows."""
    for item in done["acknowledged"]:
        console.print(f"acknowledged: {item['window']} ({', '.join(item['columns'])})", markup=False, highlight=False)
    for item in done["changed"]:
        console.print(f"{item['window']}: {item['before']}, now {item['after']}", markup=False, highlight=False)
    if not done["changed"]:
        console.print("no other window is judged otherwise", markup=False, highlight=False)
