"""Errors of a model's windows to what is ordinary for it, and to an alarm."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlops_tasks.core.window_errors import Kind, Moments, WindowError
    from mlops_tasks.specs import MonitorSpec

SLACK = 1e-9
"""Keeps rounding from taking a window off a rank that it has exactly."""
ENOUGH = 0.5
"""Least share of the reference windows that must have a measure for it to be watched."""


@dataclass(frozen=True)
class Ordinary:
    """What is ordinary of one measure."""

    centre: float
    """Its mean over all rows."""
    between: float
    """Variance of the windows' true values."""

    def spread(self, moments: Moments, rows: int) -> float:
        """Return the standard deviation of a window's value, by the window's own rows."""
        return math.sqrt(max(self.between + moments.variance / rows, np.finfo(float).tiny))


@dataclass(frozen=True)
class Chart:
    """What is ordinary: the errors of windows that the model was not trained on."""

    measures: Mapping[Kind, Ordinary]
    """Empty without windows."""
    windows: int
    limit: float
    """A larger standardised measure alarms; infinite while there are too few windows."""

    @property
    def warm(self) -> bool:
        """Whether there are windows enough for an alarm."""
        return math.isfinite(self.limit)

    @property
    def centre(self) -> float:
        """Mean error of all rows; NaN without windows."""
        return self.measures["error"].centre if self.measures else math.nan

    def standardise(self, error: WindowError) -> dict[Kind, float]:
        """Return how many standard deviations above the centre each measure of a window lies."""
        return {
            kind: (error.measures[kind].mean - ordinary.centre) / ordinary.spread(error.measures[kind], error.rows)
            for kind, ordinary in self.measures.items()
            if kind in error.measures
        }

    def highest(self, error: WindowError, spec: MonitorSpec, kind: Kind = "error") -> float:
        """Return what a measure of a window must exceed to alarm."""
        ordinary = self.measures[kind]
        surprising = ordinary.centre + self.limit * ordinary.spread(error.measures[kind], error.rows)
        return max(surprising, ordinary.centre + self.least_rise(kind, spec))

    def least_rise(self, kind: Kind, spec: MonitorSpec) -> float:
        """Return the least rise of a measure that matters."""
        whole = self.measures["ranking" if kind == "ranking" else "error"].centre
        return spec.performance.effect_size * whole


def needed_windows(spec: MonitorSpec) -> int:
    """Return how many windows a limit needs: with fewer no rank is as rare as the false-alarm rate."""
    return max(spec.min_history, math.ceil(1 / spec.false_alarm_rate - SLACK) - 1)


def calibrate_chart(reference: Sequence[WindowError], spec: MonitorSpec) -> Chart:
    """Learn what is ordinary from windows that the model was not trained on.

    The error alone misses a model that has become useless in calm weeks, when little comes true: so the loss is watched as
    it is and above what the scores themselves promise, and the ranking beside it. Windows differ by more than chance: the
    flights of a day share its weather. So a measure varies by a variance between windows plus a row's variance over the
    number of rows, and small windows may vary more (a random-effects chart: Spiegelhalter, Handling over-dispersion of
    performance indicators, Quality and Safety in Health Care 14, 2005).

    A window alarms when its largest standardised measure ranks among the top `false_alarm_rate` of the reference windows'
    own (maxT: Westfall and Young, Resampling-Based Multiple Testing, 1993, chapter 2): its rank is a conformal p-value
    (Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World, 2005, chapter 2). The rate is that over all
    calibrations, for windows that are exchangeable with those of the reference; under one calibration with W windows the
    rate varies as a Beta(k, W + 1 - k) does, k the rank that alarms.
    """
    chart = Chart(_measures(reference), len(reference), math.inf)
    allowed = math.floor(spec.false_alarm_rate * (len(reference) + 1) + SLACK) - 1
    if len(reference) < needed_windows(spec) or allowed < 0:
        return chart
    maxima = np.sort([max(chart.standardise(item).values()) for item in reference])[::-1]
    return Chart(chart.measures, chart.windows, float(maxima[allowed]))


def find_worse(chart: Chart, error: WindowError, spec: MonitorSpec) -> list[Kind]:
    """Return the measures of a window that are extraordinary and so much higher that it matters, the most surprising first."""
    found = chart.standardise(error) if chart.warm else {}
    rises = {kind: error.measures[kind].mean - chart.measures[kind].centre for kind in found}
    worse = [kind for kind, z in found.items() if z > chart.limit and rises[kind] >= chart.least_rise(kind, spec) - SLACK]
    return sorted((kind for kind in worse if rises[kind] > 0), key=lambda kind: -found[kind])


def _measures(reference: Sequence[WindowError]) -> dict[Kind, Ordinary]:
    if not reference:
        return {}
    kinds: tuple[Kind, ...] = ("error", "excess", "ranking")
    having = {kind: [item for item in reference if kind in item.measures] for kind in kinds}
    return {kind: _ordinary(items, kind) for kind, items in having.items() if len(items) > ENOUGH * len(reference)}


def _ordinary(reference: Sequence[WindowError], kind: Kind) -> Ordinary:
    """Estimate centre and variance between windows by moments, each window weighted by its rows.

    DerSimonian and Kacker, Random-effects model for meta-analysis of clinical trials: an update, Contemporary Clinical
    Trials 28, 2007, equation 6.
    """
    rows = np.array([item.rows for item in reference], dtype=np.float64)
    means = np.array([item.measures[kind].mean for item in reference])
    chance = np.array([item.measures[kind].variance for item in reference]) / rows
    total = rows.sum()
    centre = float((rows * means).sum() / total)
    by_chance = (rows * chance).sum() - (rows**2 * chance).sum() / total
    weight = total - (rows**2).sum() / total
    between = ((rows * (means - centre) ** 2).sum() - by_chance) / weight if weight > 0 else 0.0
    return Ordinary(centre, max(0.0, float(between)))
