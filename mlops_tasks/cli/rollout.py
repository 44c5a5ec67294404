"""`mlops rollout`: the challenger on trial, judged by what it answered."""

from __future__ import annotations

import getpass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Judge, and with `--settle` do what the rule says. Raises: NothingToDo when no challenger is tried."""
    from mlops_tasks.runner.rollout import judge, settle  # noqa: PLC0415 - only this command needs it

    judged = judge(args.name, now=datetime.now(UTC))
    return settle(judged, who=getpass.getuser()) if args.settle else judged
