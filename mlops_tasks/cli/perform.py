"""`mlops perform`: one assigned try of a stage, the entry of a container."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlops_tasks.runner.assignment import perform

if TYPE_CHECKING:
    import argparse


def run(args: argparse.Namespace) -> dict[str, Any] | None:
    """Perform it; return its outcome for programs. Nobody reads it in a container's log: it stands in the answer."""
    outcome = perform(args.key)
    return outcome.model_dump(mode="json") if args.json else None
