"""The records that retraining reads and writes: small, and the only truth of their kind."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from mlops_tasks.artifacts import Frozen, Intent, UtcTime, Window

Kind = Literal["drift", "performance", "age", "data"]


class Seen(BaseModel):
    """What was seen of one window under one model version: the part of a monitor's record that decides."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    window: Window
    model_version: int
    status: str
    reason: str = ""
    rows: int = 0
    intent: Intent = "scheduled"

    @property
    def alarm(self) -> bool:
        """Whether the window alarmed."""
        return self.status == "alarm"


class Cause(Frozen):
    """One thing that asks for a training."""

    kind: Kind
    since: UtcTime = Field(description="event time from which it was so")
    why: str


class RetrainRequest(Frozen):
    """A training that was asked for; its existence, under its number, is the only record of that decision."""

    number: int = Field(ge=1)
    run_id: str
    start: UtcTime = Field(description="first window to train on")
    end: UtcTime
    causes: tuple[Cause, ...]
    reason: str
    model_version: int = Field(description="the champion that is to be replaced")
    as_of: UtcTime = Field(description="event time at which it was asked for: the end of the newest monitored window")
    at: UtcTime = Field(description="real time at which it was asked for")


class RetrainOutcome(Frozen):
    """What became of a training that was asked for."""

    number: int
    state: Literal["promoted", "challenger", "registered", "rejected", "failed"]
    version: int | None = None
    reason: str
    at: UtcTime

    @property
    def in_vain(self) -> bool:
        """Whether it gave no model that passed its gate."""
        return self.state in {"rejected", "failed"}


class Resumption(Frozen):
    """Somebody let trainings be started again after too many candidates in a row were refused."""

    after: int = Field(description="the number of the latest request then")
    who: str
    reason: str
    at: UtcTime
