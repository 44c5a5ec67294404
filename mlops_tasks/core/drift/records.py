"""What was seen in a window, and what a person said of it, as they are kept."""

from __future__ import annotations

from typing import Literal

from mlops_tasks.artifacts import FileRef, Frozen, Intent, UtcTime, Window


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
    table: FileRef | None = None
    """The rows, for another version that wants to sketch them on its own layouts; None: seen before this was kept."""
    sketch: FileRef | None = None
    """The rows on this version's layouts; None: not part of what later windows are compared with."""
    basis: str = ""
    """Digest of all that the status follows from: spec, training data, this window, and those before it as they stand."""
    seen_by: int | None = None
    """The version that judged it, if this one only took it over, for the season."""

    @property
    def alarm(self) -> bool:
        """Whether the window alarmed."""
        return self.status == "alarm"


class Acknowledgement(Frozen):
    """A person said that a window's data are in order, whatever it alarmed for."""

    window: Window
    who: str
    at: UtcTime
    reason: str
