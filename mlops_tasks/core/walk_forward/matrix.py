"""The matrix of models and later periods: which model would have served when, and what its age costs.

A model counts in a period only if all it was made of was known before the period began. Averages are over periods, each of
the same weight; differences are within a period, between models on the very same rows, so that a hard month does not look
like an old model.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import cached_property
from statistics import fmean, stdev
from typing import Literal

from pydantic import Field

from mlops_tasks.artifacts import Frozen, Task, UtcTime, Window
from mlops_tasks.core.metrics import METRICS
from mlops_tasks.core.windows import floor as floor_time
from mlops_tasks.core.windows import following

By = Literal["window", "week", "month"]
FEWEST_FOR_ERROR = 2


class Known(Frozen):
    """One model, and from when on it could have served."""

    version: int
    as_of: UtcTime = Field(description="when all that it was made of was known")
    training: Window
    fingerprint: str
    seconds: float | None = Field(default=None, description="what making it took; None: not recorded")


class Cell(Frozen):
    """One model on the rows of one period."""

    version: int
    period: Window
    rows: int
    metrics: dict[str, float]


class Matrix(Frozen):
    """Every model on every later period."""

    pipeline: str
    task: Task
    metric: str = Field(description="the one that is averaged and drawn")
    by: By
    models: tuple[Known, ...] = Field(description="oldest first")
    periods: tuple[Window, ...] = Field(description="in time order")
    cells: tuple[Cell, ...]
    absent: dict[str, str] = Field(default_factory=dict, description="model or cell -> why it is not there")

    @property
    def greater_is_better(self) -> bool:
        """Which way the metric is better."""
        return METRICS[self.metric].greater_is_better

    def value(self, version: int, period: Window) -> float | None:
        """Return a model's metric in a period, or None."""
        value = self._values.get((version, period), math.nan)
        return value if math.isfinite(value) else None

    @cached_property
    def _values(self) -> dict[tuple[int, Window], float]:
        return {(cell.version, cell.period): cell.metrics.get(self.metric, math.nan) for cell in self.cells}

    def newest(self, period: Window) -> Known | None:
        """Return the newest model that could have served in a period and has a value there."""
        able = [m for m in self.models if m.as_of <= period.start and self.value(m.version, period) is not None]
        return max(able, key=lambda m: (m.as_of, m.version), default=None)


class Path(Frozen):
    """Which model serves in each period under one way of training, and how good it is there."""

    name: str
    versions: tuple[int, ...]
    values: tuple[float, ...]
    mean: float


class Age(Frozen):
    """Models of one age, compared with the newest model of each period on the same rows."""

    periods: int = Field(description="how many periods ago the model could first have served")
    compared: int
    cost: float = Field(description="by how much the metric is worse than the newest model's, in the mean")
    error: float | None = Field(description="standard error of the cost; None: too few")


class Summary(Frozen):
    """What the matrix says."""

    periods: tuple[Window, ...] = Field(description="those in which both paths have a value")
    frozen: Path
    retrained: Path
    gain: float = Field(description="by how much retraining is better than never, in the metric")
    ages: tuple[Age, ...]


def cut_periods(windows: Iterable[Window], by: By) -> dict[Window, list[Window]]:
    """Group windows, in time order, into whole weeks, months or windows; a period is named by its full extent."""
    found: dict[Window, list[Window]] = {}
    for window in sorted(windows, key=lambda w: w.start):
        if by == "window":
            period = window
        else:
            start = floor_time(window.start, by)
            period = Window(start=start, end=following(start, by))
        found.setdefault(period, []).append(window)
    return found


def summarise(matrix: Matrix) -> Summary | None:
    """Compare never retraining with always having the newest model; None where there is nothing to compare."""
    serving = {period: model for period in matrix.periods if (model := matrix.newest(period)) is not None}
    if not serving:
        return None
    first = min(serving.values(), key=lambda m: (m.as_of, -m.version))
    both = [p for p in serving if matrix.value(first.version, p) is not None]
    if not both:
        return None
    frozen = path_of(matrix, "never", both, [first.version] * len(both))
    retrained = path_of(matrix, "always the newest", both, [serving[p].version for p in both])
    sign = 1.0 if matrix.greater_is_better else -1.0
    return Summary(
        periods=tuple(both),
        frozen=frozen,
        retrained=retrained,
        gain=sign * (retrained.mean - frozen.mean),
        ages=tuple(measure_ages(matrix)),
    )


def path_of(matrix: Matrix, name: str, periods: Sequence[Window], versions: Sequence[int]) -> Path:
    """Follow one choice of models through the periods."""
    values = [matrix.value(version, period) for version, period in zip(versions, periods, strict=True)]
    known = [value for value in values if value is not None]
    assert len(known) == len(values), "the caller chose models that have a value"
    return Path(name=name, versions=tuple(versions), values=tuple(known), mean=fmean(known))


def cost_of(matrix: Matrix, version: int, period: Window) -> float | None:
    """Return by how much a model is worse than the newest one in a period; None where either has no value."""
    newest, value = matrix.newest(period), matrix.value(version, period)
    if newest is None or value is None:
        return None
    fresh = matrix.value(newest.version, period)
    assert fresh is not None, "the newest model has a value"
    return fresh - value if matrix.greater_is_better else value - fresh


def measure_ages(matrix: Matrix) -> Iterable[Age]:
    """Yield the mean cost of models by how many periods ago they could first have served."""
    costs: dict[int, list[float]] = {}
    for model in matrix.models:
        for period in matrix.periods:
            cost = cost_of(matrix, model.version, period) if model.as_of <= period.start else None
            if cost is not None:
                costs.setdefault(age_in(matrix, model, period), []).append(cost)
    for age, found in sorted(costs.items()):
        error = stdev(found) / math.sqrt(len(found)) if len(found) >= FEWEST_FOR_ERROR else None
        yield Age(periods=age, compared=len(found), cost=fmean(found), error=error)


def age_in(matrix: Matrix, model: Known, period: Window) -> int:
    """Count the periods since a model could first have served."""
    return sum(1 for other in matrix.periods if model.as_of <= other.start < period.start)
