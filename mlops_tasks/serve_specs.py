"""What people tune of the online server: how models are swapped, what a challenger gets, what is logged."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

from pydantic import Field

from mlops_tasks.artifacts import Frozen
from mlops_tasks.durations import Duration

SwapMode = Literal["auto", "hot", "single-slot"]


class ChallengerSpec(Frozen):
    """What a challenger gets of the live traffic, and by which rule it is promoted or withdrawn.

    With `mode` other than `off`, a model that passes its gate becomes challenger first. The rule looks at what was
    logged since then: it withdraws the challenger as soon as a limit is broken, promotes it when `min_requests`,
    `min_age` and `min_labelled` are reached with no limit broken, and waits otherwise.
    """

    mode: Literal["off", "shadow", "canary"] = Field(
        default="off",
        description="`shadow`: it scores requests too, its answers are logged and not given; "
        "`canary`: `percent` of the entities get its answers, the champion's if it fails; `off`: it gets none",
    )
    percent: float = Field(
        default=10, gt=0, le=100, description="share of the entities that the challenger scores; the same ones every time"
    )
    check: Duration = Field(default=timedelta(minutes=15), description="how often the rule is applied by the DAG `.rollout`")
    min_requests: int = Field(default=1000, ge=1, description="fewest requests that the challenger must have scored")
    min_age: Duration = Field(default=timedelta(hours=1), description="least time that it must have scored live traffic")
    max_error_rate: float = Field(default=0.01, ge=0, lt=1, description="greatest share of its requests in which it failed")
    max_latency_ratio: float = Field(default=2.0, gt=0, description="greatest ratio of its 95th percentile to the champion's")
    max_score_psi: float = Field(
        default=0.25, gt=0, description="greatest population stability index of its scores against the champion's"
    )
    labels: str | None = Field(
        default=None,
        description="a source with the columns `prediction_id` and the label as it comes to be known; none: labels don't judge",
    )
    min_labelled: int = Field(default=0, ge=0, description="fewest of its answers whose label is known")
    metric: str = Field(default="log_loss", description="metric by which both are compared on answers whose label is known")
    tolerance: float = Field(default=0.0, ge=0, description="by how much it may be worse than the champion there")


class RequestLogSpec(Frozen):
    """What is kept of requests and answers: production data."""

    enabled: bool = Field(default=True, description="whether answered requests are logged")
    sample: float = Field(
        default=1.0, ge=0, le=1, description="share of the entities whose requests are logged; a challenger's always are"
    )
    when_full: Literal["fail_open", "fail_closed"] = Field(
        default="fail_open",
        description="when the log can't be written: `fail_open` answers and counts the loss, `fail_closed` answers 503",
    )
    omit: tuple[str, ...] = Field(default=(), description="feature columns that are never logged")
    segment_mb: int = Field(default=16, ge=1, le=1024, description="size of a log file before the next is begun")
    segment_age: Duration = Field(default=timedelta(minutes=1), description="age of a log file before the next is begun")
    keep: int = Field(default=10_000, ge=1, description="megabytes of log that may wait on disk for upload; beyond it is full")


class ServeSpec(Frozen):
    """How the model is served."""

    swap: SwapMode = Field(
        default="auto",
        description="`hot`: the new model is loaded beside the old one; `single-slot`: requests wait while the old one is "
        "released and the new one loaded; `auto`: hot if both fit into the memory that is free",
    )
    challenger: ChallengerSpec = Field(default_factory=ChallengerSpec)
    log: RequestLogSpec = Field(default_factory=RequestLogSpec)
