"""What was seen in a window, as it is kept."""

from __future__ import annotations

from typing import Literal

from mlops_tasks.artifacts import Frozen, Intent, Window


class WindowRecord(Frozen):
    """What was seen in one window under one model version: a fact, whatever is decided because of it."""

    window: Window
    model_version: int
    features: str
    status: Literal["ok", "alarm", "warming_up"]
    columns: tuple[str, ...]
    reason: str
    rows: int = 0
    intent: Intent = "scheduled"
    """Why it was looked at; a backfill's alarms start nothing, and don't take the place of a scheduled run's."""

    @property
    def alarm(self) -> bool:
        """Whether the window alarmed."""
        return self.status == "alarm"
