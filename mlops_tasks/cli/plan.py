"""`mlops plan`: what a backfill will cost, before it is run."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mlops_tasks.cli.arguments import read_overrides, read_time
from mlops_tasks.cli.plan_view import show_plan as show
from mlops_tasks.loading import apply_overrides, load_pipeline
from mlops_tasks.runner.planning import Asked, Planner
from mlops_tasks.wiring import Adapters

if TYPE_CHECKING:
    import argparse

__all__ = ["run", "show"]


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Plan; nothing is run. Raises: SpecError, StoreUnavailable."""
    pipeline = apply_overrides(load_pipeline(args.name), read_overrides(args.overrides))
    asked = Asked(
        kind=getattr(args, "for"),
        start=read_time(args.start, "--start"),
        end=read_time(args.end, "--end"),
        every=args.every,
        parallel=args.parallel,
    )
    return Planner(pipeline, Adapters(), asked, now=datetime.now(UTC)).plan()
