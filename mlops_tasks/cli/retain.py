"""`mlops retain`: days of the request log that are older than they may be."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Remove them. Raises: NothingToDo when none is older."""
    from mlops_tasks.runner.erasing import retain  # noqa: PLC0415 - only this command needs it

    return retain(args.name, now=datetime.now(UTC))
