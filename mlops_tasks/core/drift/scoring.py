"""A window's distances to an alarm, ranked against the pipeline's own history."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from mlops_tasks.core.drift.baseline import leave_out
from mlops_tasks.core.drift.distances import column_distances, jensen_shannon, kolmogorov_smirnov, missing_shares, psi
from mlops_tasks.core.sketches import NumericBins

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlops_tasks.artifacts import ColumnKind
    from mlops_tasks.core.drift.baseline import Baseline
    from mlops_tasks.core.sketches import Sketches
    from mlops_tasks.specs import MonitorSpec

    Floats = NDArray[np.float64]

Status = Literal["ok", "alarm", "warming_up"]
LEAST_SCALE = 0.005
"""A tenth of the default effect size: a column that never moved is not infinitely surprising."""
_MAD_TO_SD = 1.4826
_TAIL, _TAIL_SD = 0.95, 1.645


@dataclass(frozen=True)
class Calibration:
    """What is ordinary: distances of each known window from all others, K columns, W windows."""

    columns: tuple[str, ...]
    decides: NDArray[np.bool_]
    """[2, K]: whether distance and missing values of a column may alarm."""
    median: Floats
    """[2, K]: of the distances (row 0) and of the changes of the missing share (row 1)."""
    scale: Floats
    """[2, K]: robust standard deviations."""
    typical_rows: float
    maxima: Floats
    """[W]: largest standardised figure of each known window."""
    threshold: float
    """A larger maximum alarms; infinite while there is too little history."""


@dataclass(frozen=True)
class ColumnScore:
    """One column of one window against what it is compared with."""

    column: str
    kind: ColumnKind
    distance: float
    """Wasserstein / sd (numeric) or total variation (categorical) of the known values."""
    missing: float
    """Share of null or infinite values, less that of the reference."""
    standardised: float
    psi: float
    js: float
    """Jensen-Shannon distance."""
    ks: tuple[float, float] | None
    """Bounds of the Kolmogorov-Smirnov statistic; None for categories."""
    decides: bool
    alarmed: bool


@dataclass(frozen=True)
class WindowScore:
    """One window against its baseline; columns in order of alarm, then of surprise."""

    status: Status
    rows: int
    columns: tuple[ColumnScore, ...]
    maximum: float
    threshold: float
    p_value: float
    """Share of windows like the history that have such a maximum."""

    @property
    def alarmed(self) -> tuple[ColumnScore, ...]:
        """Columns that alarmed, the most surprising first."""
        return tuple(column for column in self.columns if column.alarmed)


def calibrate(baseline: Baseline, spec: MonitorSpec) -> Calibration:
    """Learn what is ordinary from the known windows, each compared with the sum of all other accepted ones.

    The largest standardised distance over columns keeps the false-alarm rate of the whole window
    (maxT: Westfall and Young, Resampling-Based Multiple Testing, 1993, chapter 2).
    """
    history, names = baseline.history, tuple(baseline.layouts)
    values = np.stack([_leave_one_out(baseline, name) for name in names], axis=-1)
    centre, scale = _centre_and_scale(values)
    decides = np.array([[name not in spec.ignore for name in names]] * 2)
    decides[1] &= np.array([name not in baseline.optional for name in names])
    typical_rows = float(np.median(history.rows))
    standardised = _standardise(values, history.rows, centre, scale, typical_rows)
    shown = np.where(decides & ~np.isnan(standardised), standardised, -np.inf)
    maxima = shown.max(axis=(1, 2), initial=0.0)
    return Calibration(names, decides, centre, scale, typical_rows, maxima, _threshold(maxima, spec))


def score_window(baseline: Baseline, calibration: Calibration, sketch: Sketches, spec: MonitorSpec) -> WindowScore:
    """Compare one window's sketch with its baseline; a window without rows is in order.

    A column counts as far off as it is from the nearest of what it may resemble. Small windows vary
    more: what is ordinary is widened by the square root of how much smaller than a typical known window it is.
    """
    rows, warm = int(sketch.rows[0]), math.isfinite(calibration.threshold)
    values = np.array([_nearest(baseline, name, sketch) for name in calibration.columns]).T
    change = np.abs(values)
    standardised = (
        _standardise(change[None], sketch.rows, calibration.median, calibration.scale, calibration.typical_rows)[0]
        if rows
        else np.zeros_like(change)
    )
    over = calibration.decides & (standardised > calibration.threshold) & (change >= spec.effect_size) & (change > 0)
    columns = [
        _score_column(
            baseline,
            name,
            sketch,
            values[:, k],
            standardised[:, k],
            decides=bool(calibration.decides[0, k]),
            alarmed=bool(over[:, k].any()),
        )
        for k, name in enumerate(calibration.columns)
    ]
    columns.sort(key=lambda c: (not c.alarmed, not c.decides, -c.standardised, c.column))
    maximum = float(np.where(calibration.decides, standardised, -np.inf).max(initial=0.0))
    return WindowScore(
        status="alarm" if over.any() else "ok" if warm else "warming_up",
        rows=rows,
        columns=tuple(columns),
        maximum=maximum,
        threshold=calibration.threshold,
        p_value=float((1 + (calibration.maxima >= maximum).sum()) / (1 + calibration.maxima.size)),
    )


def _score_column(
    baseline: Baseline, name: str, sketch: Sketches, values: Floats, standardised: Floats, *, decides: bool, alarmed: bool
) -> ColumnScore:
    """Put one column's figures together; PSI, JS and KS are shown, nothing is decided by them."""
    layout, current, merged = baseline.layouts[name], sketch.columns[name], baseline.merged.columns[name]
    some = bool(sketch.rows[0])
    bounds = kolmogorov_smirnov(layout, current, merged) if isinstance(layout, NumericBins) else None
    return ColumnScore(
        column=name,
        kind=layout.kind,
        distance=float(abs(values[0])),
        missing=float(values[1]),
        standardised=float(standardised.max()),
        psi=float(psi(layout, current, merged)[0]) if some else 0.0,
        js=float(jensen_shannon(layout, current, merged)[0]) if some else 0.0,
        ks=None if bounds is None else (float(bounds[0][0]), float(bounds[1][0])) if some else (0.0, 0.0),
        decides=decides,
        alarmed=alarmed,
    )


def _centre_and_scale(values: Floats) -> tuple[Floats, Floats]:
    """Estimate middle and spread of [W, 2, K] distances robustly; NaN where a window has none.

    The spread is that of the middle or of the upper tail, whichever is wider: the middle alone would
    let a heavy-tailed column (rain: mostly none) set the threshold for all.
    """
    unknown = np.isnan(values)
    values = np.where(unknown.all(axis=0), 0.0, values)
    median, quantile = (np.nanmedian, np.nanquantile) if unknown.any() else (np.median, np.quantile)
    centre: Floats = median(values, axis=0)
    middle = _MAD_TO_SD * median(np.abs(values - centre), axis=0)
    tail = (quantile(values, _TAIL, axis=0) - centre) / _TAIL_SD
    return centre, np.maximum(middle, tail)


def _leave_one_out(baseline: Baseline, name: str) -> Floats:
    """Return distance and change of the missing share of each known window from all others, [W, 2]; NaN: no known value."""
    every, layout = baseline.history.columns[name], baseline.layouts[name]
    others = leave_out(baseline.merged.columns[name], every, baseline.accepted)
    distance = np.where(every.counts.sum(axis=1) > 0, column_distances(layout, every, others), np.nan)
    return np.stack([distance, np.abs(missing_shares(every) - missing_shares(others))], axis=-1)


def _nearest(baseline: Baseline, name: str, sketch: Sketches) -> tuple[float, float]:
    """Return distance and signed change of the missing share from the nearest reference, each by itself."""
    if not sketch.rows[0]:
        return 0.0, 0.0
    current, layout = sketch.columns[name], baseline.layouts[name]
    merged = [reference.columns[name] for reference in baseline.references]
    distances = [float(column_distances(layout, current, against)[0]) for against in merged if against.counts.any()]
    changes = [float((missing_shares(current) - missing_shares(against))[0]) for against in merged]
    return min(distances, default=0.0), min(changes, key=abs)


def _standardise(values: Floats, rows: NDArray[np.int64], centre: Floats, scale: Floats, typical_rows: float) -> Floats:
    """Measure [W, 2, K] figures in robust standard deviations above their median; smaller windows may vary more."""
    n = np.maximum(rows, 1)[:, None]
    widen = np.maximum(1.0, np.sqrt(typical_rows / n))
    least = np.stack([LEAST_SCALE * widen, np.maximum(LEAST_SCALE, 0.5 / np.sqrt(n))], axis=1)
    standardised: Floats = (values - centre * widen[..., None]) / np.maximum(scale * widen[..., None], least)
    return standardised


def _threshold(maxima: Floats, spec: MonitorSpec) -> float:
    """Return what a maximum must exceed to rank in the top `false_alarm_rate`.

    Its rank is a conformal p-value (Vovk, Gammerman and Shafer, Algorithmic Learning in a Random
    World, 2005, chapter 2).
    """
    allowed = math.floor(spec.false_alarm_rate * (maxima.size + 1) + 1e-9) - 1
    if maxima.size < spec.min_history or allowed < 0:
        return math.inf
    return float(np.sort(maxima)[::-1][allowed])
