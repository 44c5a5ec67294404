"""How well a model did in a window, as it is kept."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mlops_tasks.artifacts import Frozen, Intent, Window
from mlops_tasks.core.window_errors import Kind, WindowError

Status = Literal["ok", "alarm", "warming_up", "awaiting_labels"]


class Measured(Frozen):
    """What one window's rows say of a model: facts, whatever is ordinary."""

    rows: int = Field(description="rows that the model answered, or would have answered")
    labelled: int = Field(description="of them those whose label is known")
    answered: bool = Field(description="whether the scores are those that were given in production, from the request log")
    mature: bool = Field(description="whether the labels were due: only then is anything measured by them")
    metrics: dict[str, float] = Field(description="scikit-learn metric name -> value on the labelled rows")
    estimated: dict[str, float] = Field(description="the same from the scores alone, without labels")
    error: WindowError | None = None

    @property
    def coverage(self) -> float:
        """Share of the rows whose label is known; 0 without rows."""
        return self.labelled / self.rows if self.rows else 0.0


class PerformanceRecord(Frozen):
    """How one model version did in one window."""

    window: Window
    model_version: int
    features: str
    """Digest of the features that were looked at."""
    source: str
    """Digest of all that was measured from: while it is the same, nothing is measured again."""
    status: Status
    rows: int
    labelled: int
    coverage: float
    answered: bool
    mature: bool
    metrics: dict[str, float]
    estimated: dict[str, float]
    error: WindowError | None
    highest: dict[Kind, float]
    """Measure -> what it must exceed for the window to alarm; empty while there is no limit."""
    reason: str
    intent: Intent = "scheduled"
    """Why it was looked at; a backfill's alarms start nothing, and don't take the place of a scheduled run's."""

    @property
    def alarm(self) -> bool:
        """Whether the window alarmed."""
        return self.status == "alarm"

    @property
    def measured(self) -> Measured:
        """The facts alone."""
        return Measured.model_validate({name: getattr(self, name) for name in Measured.model_fields})
