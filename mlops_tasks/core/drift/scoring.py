"""A window's distances to an alarm, ranked against the pipeline's own history."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from mlops_tasks.core.drift.distances import column_distances, missing_shares, psi
from mlops_tasks.core.sketches import ColumnSketch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlops_tasks.artifacts import ColumnKind
    from mlops_tasks.core.sketches import Reference, Sketches
    from mlops_tasks.specs import MonitorSpec

    Floats = NDArray[np.float64]

Status = Literal["ok", "alarm", "warming_up"]
LEAST_SCALE = 0.005
"""A tenth of the default effect size: a column that never moved is not infinitely surprising."""
_MAD_TO_SD = 1.4826
_TAIL, _TAIL_SD = 0.95, 1.645


@dataclass(frozen=True)
class Calibration:
    """What is ordinary: distances of each training window from all others, K columns, W windows."""

    columns: tuple[str, ...]
    decides: NDArray[np.bool_]
    """[2, K]: whether distance and missing values of a column may alarm."""
    median: Floats
    """[2, K]: of the distances (row 0) and of the changes of the missing share (row 1)."""
    scale: Floats
    """[2, K]: robust standard deviations."""
    typical_rows: float
    maxima: Floats
    """[W]: largest standardised figure of each training window."""
    threshold: float
    """A larger maximum alarms; infinite while there is too little history."""


@dataclass(frozen=True)
class ColumnScore:
    """One column of one window against the training data."""

    column: str
    kind: ColumnKind
    distance: float
    """Wasserstein / sd (numeric) or total variation (categorical) of the known values."""
    missing: float
    """Share of null or infinite values, less that of the training data."""
    standardised: float
    psi: float
    decides: bool
    alarmed: bool


@dataclass(frozen=True)
class WindowScore:
    """One window against the training data; columns in order of alarm, then of surprise."""

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


def calibrate(reference: Reference, spec: MonitorSpec) -> Calibration:
    """Learn what is ordinary from the training windows, each compared with the sum of all others.

    The largest standardised distance over columns keeps the false-alarm rate of the whole window
    (maxT: Westfall and Young, Resampling-Based Multiple Testing, 1993, chapter 2).
    """
    history, names = reference.history, tuple(reference.layouts)
    values = np.stack([_leave_one_out(reference, name) for name in names], axis=-1)
    centre = np.median(values, axis=0)
    scale = _scale(values, centre)
    decides = np.array([[name not in spec.ignore for name in names]] * 2)
    decides[1] &= np.array([name != reference.label for name in names])  # labels come late: their nulls mean nothing
    typical_rows = float(np.median(history.rows))
    standardised = _standardise(values, history.rows, centre, scale, typical_rows)
    maxima = np.where(decides, standardised, -np.inf).max(axis=(1, 2), initial=0.0)
    return Calibration(names, decides, centre, scale, typical_rows, maxima, _threshold(maxima, spec))


def score_window(reference: Reference, calibration: Calibration, sketch: Sketches, spec: MonitorSpec) -> WindowScore:
    """Compare one window's sketch with the training data; a window without rows is in order.

    Small windows vary more: what is ordinary is widened by the square root of how much smaller than
    a typical training window it is.
    """
    rows = int(sketch.rows[0])
    values = np.array([_distances(reference, name, sketch) for name in calibration.columns]).T
    change = np.abs(values)
    standardised = (
        _standardise(change[None], sketch.rows, calibration.median, calibration.scale, calibration.typical_rows)[0]
        if rows
        else np.zeros_like(change)
    )
    over = calibration.decides & (standardised > calibration.threshold) & (change >= spec.effect_size) & (change > 0)
    columns = [
        ColumnScore(
            column=name,
            kind=reference.layouts[name].kind,
            distance=float(change[0, k]),
            missing=float(values[1, k]),
            standardised=float(standardised[:, k].max()),
            psi=_psi(reference, name, sketch),
            decides=bool(calibration.decides[0, k]),
            alarmed=bool(over[:, k].any()),
        )
        for k, name in enumerate(calibration.columns)
    ]
    columns.sort(key=lambda c: (not c.alarmed, not c.decides, -c.standardised, c.column))
    maximum = float(np.where(calibration.decides, standardised, -np.inf).max(initial=0.0))
    warm = math.isfinite(calibration.threshold)
    return WindowScore(
        status="alarm" if over.any() else "ok" if warm else "warming_up",
        rows=rows,
        columns=tuple(columns),
        maximum=maximum,
        threshold=calibration.threshold,
        p_value=float((1 + (calibration.maxima >= maximum).sum()) / (1 + calibration.maxima.size)),
    )


def _scale(values: Floats, centre: Floats) -> Floats:
    """Estimate the spread of [W, 2, K] distances robustly, by their middle or by their upper tail, whichever is wider.

    The middle alone would let a heavy-tailed column (rain: mostly none) set the threshold for all.
    """
    middle = _MAD_TO_SD * np.median(np.abs(values - centre), axis=0)
    tail = (np.quantile(values, _TAIL, axis=0) - centre) / _TAIL_SD
    widest: Floats = np.maximum(middle, tail)
    return widest


def _leave_one_out(reference: Reference, name: str) -> Floats:
    """Return distance and change of the missing share of each training window from all others, [W, 2]."""
    every, merged = reference.history.columns[name], reference.merged.columns[name]
    others = ColumnSketch(
        counts=merged.counts - every.counts,
        sums=merged.sums - every.sums,
        nulls=merged.nulls - every.nulls,
        infinite=merged.infinite - every.infinite,
        squares=merged.squares - every.squares,
        minimum=every.minimum,
        maximum=every.maximum,
    )
    distance = column_distances(reference.layouts[name], every, others)
    return np.stack([distance, np.abs(missing_shares(every) - missing_shares(others))], axis=-1)


def _distances(reference: Reference, name: str, sketch: Sketches) -> tuple[float, float]:
    current, merged = sketch.columns.get(name), reference.merged.columns[name]
    if current is None or not sketch.rows[0]:
        return 0.0, 0.0
    distance = column_distances(reference.layouts[name], current, merged)
    return float(distance[0]), float((missing_shares(current) - missing_shares(merged))[0])


def _psi(reference: Reference, name: str, sketch: Sketches) -> float:
    current = sketch.columns.get(name)
    if current is None or not sketch.rows[0]:
        return 0.0
    return float(psi(reference.layouts[name], current, reference.merged.columns[name])[0])


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
