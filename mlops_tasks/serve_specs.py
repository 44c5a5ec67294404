"""What people tune of the online server: how models are swapped, what a challenger gets, what is logged."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from mlops_tasks.artifacts import Frozen, Task
from mlops_tasks.durations import Duration

if TYPE_CHECKING:
    from collections.abc import Mapping

SwapMode = Literal["auto", "hot", "single-slot"]
ALL_PERCENT = 100
_CLASS_METRICS = ("log_loss", "ece", "accuracy", "balanced_accuracy")
TRIAL_METRICS: dict[Task, tuple[str, ...]] = {
    "binary": (*_CLASS_METRICS, "roc_auc", "average_precision", "brier_score", "f1", "precision", "recall"),
    "multiclass": (*_CLASS_METRICS, "f1_macro", "roc_auc_ovr"),
    "regression": ("rmse", "mae", "median_ae", "r2", "explained_variance"),
}
"""By which a challenger can be compared on labelled answers; each task's first is its default."""


class ChallengerSpec(Frozen):
    """What a challenger gets of the live traffic, and by which rule it is promoted or withdrawn.

    With `mode` other than `off`, a model that passes its gate becomes challenger first. The rule looks at what was
    logged since then: it withdraws the challenger as soon as a limit is broken, promotes it when `min_requests`,
    `min_age` and `min_labelled` are reached with no limit broken, and waits otherwise.

    A limit is broken when more lies beyond it than chance explains, at whichever look: a challenger that keeps all limits
    is withdrawn by chance in at most 5% of trials, however long they last. For that, what an entity asked counts as one
    observation, and nothing is compared before each side has 200 rows of 30 entities. In shadow only requests that both
    scored are compared.
    """

    mode: Literal["off", "shadow", "canary"] = Field(
        default="off",
        description="`shadow`: it scores requests too, its answers are logged and not given; "
        "`canary`: `percent` of the entities get its answers, the champion's if it fails; `off`: it gets none",
    )
    percent: float = Field(
        default=10,
        gt=0,
        lt=ALL_PERCENT,
        description="share of the entities that a canary answers; the same ones every time. "
        "Less than 100: the champion's answers are what it is compared with",
    )
    check: Duration = Field(default=timedelta(minutes=15), description="how often the rule is applied by the DAG `.rollout`")
    min_requests: int = Field(default=1000, ge=1, description="fewest requests that the challenger must have scored")
    min_age: Duration = Field(default=timedelta(hours=1), description="least time that it must have scored live traffic")
    max_error_rate: float = Field(default=0.01, ge=0, lt=1, description="greatest share of its requests in which it failed")
    max_latency_ratio: float = Field(
        default=2.0,
        gt=0,
        description="greatest ratio of its 95th percentile to the champion's, of requests that were scored alone",
    )
    max_score_psi: float = Field(
        default=0.25, gt=0, description="greatest population stability index of its scores against the champion's"
    )
    labels: str | None = Field(
        default=None,
        description="a source with the columns `prediction_id` and the label as it comes to be known; none: labels don't "
        "judge. With an `event_time` only the time of the trial is read, a day more on either side",
    )
    min_labelled: int = Field(
        default=0,
        ge=0,
        description="fewest labelled rows of each side that a promotion waits for, at least 100; 0: it waits for none. "
        "From 100 on they can withdraw",
    )
    metric: str | None = Field(
        default=None,
        description="metric by which both are compared on answers whose label is known; default: `log_loss`, "
        "for a regression `rmse`",
    )
    tolerance: float = Field(default=0.0, ge=0, description="by how much it may be worse than the champion there")

    @model_validator(mode="after")
    def _labels_come_from_somewhere(self) -> Self:
        if self.min_labelled and self.labels is None:
            msg = f"min_labelled is {self.min_labelled}, but labels names no source, so none would ever be known: name one"
            raise ValueError(msg)
        return self

    def metric_for(self, task: Task) -> str:
        """Return the metric by which models of a task are compared; who watches another pipeline's may name one of its own."""
        known = TRIAL_METRICS[task]
        return self.metric if self.metric in known else known[0]


def check_challenger(spec: ChallengerSpec, task: Task, label: str, sources: Mapping[str, Mapping[str, str]]) -> None:
    """Refuse a trial that can't be judged.

    Args:
        spec: the trial.
        task: of the pipeline.
        label: the label's column.
        sources: source -> column -> type.

    Raises:
        ValueError: naming what is wrong.

    """
    if spec.metric is not None and spec.metric not in TRIAL_METRICS[task]:
        known = ", ".join(TRIAL_METRICS[task])
        msg = f"serve.challenger.metric: {spec.metric!r} is no metric of {task} models; use one of {known}"
        raise ValueError(msg)
    if spec.labels is None:
        return
    if spec.labels not in sources:
        msg = f"serve.challenger.labels names source {spec.labels!r}, which collect.sources does not have"
        raise ValueError(msg)
    columns = sources[spec.labels]
    missing = [name for name in ("prediction_id", label) if name not in columns]
    if missing:
        msg = f"serve.challenger.labels names source {spec.labels!r}, which lacks the column {missing[0]!r}: add it there"
        raise ValueError(msg)
    if task == "regression" and columns[label] not in {"int", "float"}:
        msg = f"serve.challenger.labels: column {label!r} of {spec.labels!r} must be int or float, got {columns[label]}"
        raise ValueError(msg)


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
    retain: Duration | None = Field(
        default=None,
        ge=timedelta(days=1),
        description="how long answers stay in the store, by the UTC day that they were given on; the DAG `.maintain` and "
        "`mlops retain` remove older days; collected windows have copies of their own; none: for ever",
    )
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
