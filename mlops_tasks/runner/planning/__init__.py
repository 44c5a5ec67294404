"""What a backfill will cost before it is run: looked up in the store and estimated by what earlier runs recorded."""

from __future__ import annotations

from mlops_tasks.runner.planning.plan import Asked, Planner

__all__ = ["Asked", "Planner"]
