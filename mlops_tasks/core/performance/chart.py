"""Errors of a model's windows to what is ordinary for it, and to an alarm."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlops_tasks.core.metrics import Floats
    from mlops_tasks.core.window_errors import WindowError
    from mlops_tasks.specs import MonitorSpec

SLACK = 1e-9
"""Keeps rounding from taking a window off a rank that it has exactly."""


@dataclass(frozen=True)
class Chart:
    """What is ordinary: the errors of windows that the model was not trained on."""

    centre: float
    """Mean error of all rows; NaN without windows."""
    between: float
    """Variance of the windows' true errors."""
    within: float
    """Variance of a row's loss within a window."""
    windows: int
    limit: float
    """A larger standardised error alarms; infinite while there are too few windows."""

    @property
    def warm(self) -> bool:
        """Whether there are windows enough for an alarm."""
        return math.isfinite(self.limit)

    def spread(self, rows: int) -> float:
        """Return the standard deviation of the error of a window with so many rows."""
        return math.sqrt(max(self.between + self.within / rows, np.finfo(float).tiny))

    def standardise(self, error: WindowError) -> float:
        """Return how many standard deviations above the centre a window's error lies."""
        return (error.mean - self.centre) / self.spread(error.rows)

    def highest(self, rows: int, effect_size: float) -> float:
        """Return the error that a window with so many rows must exceed to alarm."""
        return max(self.centre + self.limit * self.spread(rows), self.centre * (1 + effect_size))


def needed_windows(spec: MonitorSpec) -> int:
    """Return how many windows a limit needs: with fewer no rank is as rare as the false-alarm rate."""
    return max(spec.min_history, math.ceil(1 / spec.false_alarm_rate - SLACK) - 1)


def calibrate_chart(reference: Sequence[WindowError], spec: MonitorSpec) -> Chart:
    """Learn what is ordinary from windows that the model was not trained on.

    Windows differ by more than chance: the flights of a day share its weather. So a window's error varies by a variance
    between windows plus a row's variance over the number of its rows, and small windows may vary more (a random-effects
    chart: Spiegelhalter, Handling over-dispersion of performance indicators, Quality and Safety in Health Care 14, 2005; the
    variance between by moments: DerSimonian and Laird, Meta-analysis in clinical trials, 1986). A window alarms when its
    standardised error ranks among the top `false_alarm_rate` of the reference windows, each standardised by its own rows:
    its rank is a conformal p-value (Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World, 2005, chapter 2).
    The rate is that over all calibrations, for windows that are exchangeable with those of the reference; under one
    calibration with W windows the rate varies as a Beta(k, W + 1 - k) does, k the rank that alarms.
    """
    if not reference:
        return Chart(math.nan, 0.0, 0.0, 0, math.inf)
    rows = np.array([item.rows for item in reference], dtype=np.float64)
    means = np.array([item.mean for item in reference])
    within = float((rows * [item.variance for item in reference]).sum() / rows.sum())
    centre = float((rows * means).sum() / rows.sum())
    chart = Chart(centre, _between(means, rows, within), within, len(reference), math.inf)
    scores = np.sort([chart.standardise(item) for item in reference])[::-1]
    allowed = math.floor(spec.false_alarm_rate * (len(reference) + 1) + SLACK) - 1
    if len(reference) < needed_windows(spec) or allowed < 0:
        return chart
    return Chart(chart.centre, chart.between, chart.within, chart.windows, float(scores[allowed]))


def is_worse(chart: Chart, error: WindowError, spec: MonitorSpec) -> bool:
    """Tell whether a window's error is extraordinary and so much higher that it matters."""
    effect = error.mean >= chart.centre * (1 + spec.performance.effect_size) and error.mean > chart.centre
    return chart.warm and effect and chart.standardise(error) > chart.limit


def _between(means: Floats, rows: Floats, within: float) -> float:
    """Estimate the variance of the windows' true errors: what they differ by beyond what their rows explain."""
    if len(means) < 2 or within <= 0:  # noqa: PLR2004 - one window has no variance
        return float(means.var(ddof=1)) if len(means) > 1 else 0.0
    weights = rows / within
    mean = (weights * means).sum() / weights.sum()
    excess = (weights * (means - mean) ** 2).sum() - (len(means) - 1)
    return max(0.0, float(excess / (weights.sum() - (weights**2).sum() / weights.sum())))
