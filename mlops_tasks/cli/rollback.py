"""`mlops rollback`: an earlier version back into service."""

from __future__ import annotations

import getpass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mlops_tasks.loading import load_pipeline
from mlops_tasks.runner import roll_back

if TYPE_CHECKING:
    import argparse


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Roll back. Raises: ModelRejected when there is nothing to go back to."""
    load_pipeline(args.name)
    moved = roll_back(
        args.name, version=args.to, reason=args.reason, who=getpass.getuser(), run_id="cli", now=datetime.now(UTC)
    )
    return {"model": args.name, **moved, "reason": args.reason}
