"""What people tune of retraining: what asks for it, and what keeps it from running away."""

from __future__ import annotations

from datetime import timedelta

from pydantic import Field

from mlops_tasks.artifacts import Frozen
from mlops_tasks.durations import Duration


class RetrainSpec(Frozen):
    """When the champion is trained again by itself, and what holds that back.

    Looked at after each monitored window and every `check`. A backfill never asks for a training.
    """

    drift: bool = Field(default=True, description="whether a row of drifted windows, as `monitor.alarms` says, asks for one")
    performance: bool = Field(default=True, description="whether as many windows in a row with a worse error ask for one")
    max_age: Duration | None = Field(
        default=None, description="event time since the champion's training data ended, after which one is asked for"
    )
    new_rows: int | None = Field(
        default=None, ge=1, description="rows monitored since the champion's training data ended, after which one is asked for"
    )
    range: Duration = Field(default=timedelta(days=180), description="length of the range that is trained on")
    cooldown: Duration = Field(default=timedelta(days=7), description="least event time between two trainings")
    budget: int = Field(default=3, ge=1, description="most trainings that are started in seven days of real time")
    max_rejected: int = Field(
        default=3,
        ge=1,
        description="candidates in a row that were refused or failed, after which none is started until a model is promoted "
        "or somebody says `mlops retrain NAME --resume`",
    )
    check: Duration = Field(default=timedelta(hours=1), description="how often the DAG `.retrain` looks")
