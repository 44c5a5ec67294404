"""`mlops perform`: one assigned try of a stage, the entry of a container."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlops_tasks.runner.assignment import perform

if TYPE_CHECKING:
    import argparse


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Perform it; return its outcome."""
    return perform(args.key).model_dump(mode="json")
