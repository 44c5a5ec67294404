"""Predictions to the points of plots: aggregated, so that no row's values are in them."""

# ruff: noqa: N806 - an array's name ends with its shape, whose axes are capitals

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mlops_tasks.artifacts import Frozen

if TYPE_CHECKING:
    from mlops_tasks.core.metrics import Floats, Predictions

MOST_POINTS = 160
CALIBRATION_BINS = 10
HISTOGRAM_BINS = 40
GRID_BINS = 40


class Curve(Frozen):
    """Points of a line."""

    x: tuple[float, ...]
    y: tuple[float, ...]


class CalibrationBin(Frozen):
    """Rows with similar scores: mean score, observed share and its Wilson interval."""

    rows: int
    predicted: float
    observed: float
    low: float
    high: float


class Histogram(Frozen):
    """Counts per bin, for each series."""

    edges: tuple[float, ...]
    counts: dict[str, tuple[int, ...]]


class Grid(Frozen):
    """Counts of rows by two values: `counts[i][j]` for y bin i and x bin j."""

    x_edges: tuple[float, ...]
    y_edges: tuple[float, ...]
    counts: tuple[tuple[int, ...], ...]


def roc_curve(p: Predictions) -> Curve:
    """Return false positive rate against true positive rate."""
    true_G, false_G = _cumulated(p)
    return _thinned(np.append(0.0, false_G / false_G[-1]), np.append(0.0, true_G / true_G[-1]))


def precision_recall_curve(p: Predictions) -> Curve:
    """Return recall against precision."""
    true_G, false_G = _cumulated(p)
    return _thinned(true_G / true_G[-1], true_G / (true_G + false_G))


def _cumulated(p: Predictions) -> tuple[Floats, Floats]:
    order = np.argsort(-p.score_N, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(p.score_N[order])), len(order) - 1)
    true_G = p.truth_N[order].cumsum()[ends]
    return true_G, ends + 1 - true_G


def _thinned(x: Floats, y: Floats) -> Curve:
    """Keep the points nearest to an even grid of x, and both ends."""
    at = np.unique(np.append(np.searchsorted(x, np.linspace(x[0], x[-1], MOST_POINTS)).clip(0, len(x) - 1), [0, len(x) - 1]))
    return Curve(x=tuple(np.round(x[at], 5).tolist()), y=tuple(np.round(y[at], 5).tolist()))


def calibration(p: Predictions) -> tuple[CalibrationBin, ...]:
    """Return bins of equal rows: of the positive's probability, or of the decided class's for several classes."""
    if p.task == "multiclass":
        score_N, hit_N = p.score_N.max(axis=1), (p.decision_N == p.truth_N).astype(np.float64)
    else:
        score_N, hit_N = p.score_N, p.truth_N
    edges = np.unique(np.quantile(score_N, np.linspace(0, 1, CALIBRATION_BINS + 1)))
    bin_N = np.searchsorted(edges[1:-1], score_N, side="right")
    found = []
    for at in np.unique(bin_N):
        mask = bin_N == at
        rows, observed = int(mask.sum()), float(hit_N[mask].mean())
        low, high = _wilson(observed, rows)
        found.append(CalibrationBin(rows=rows, predicted=float(score_N[mask].mean()), observed=observed, low=low, high=high))
    return tuple(found)


def _wilson(share: float, rows: int, z: float = 1.96) -> tuple[float, float]:
    """Return the 95% interval of a share (Wilson 1927)."""
    centre = share + z * z / (2 * rows)
    half = z * np.sqrt(share * (1 - share) / rows + z * z / (4 * rows * rows))
    scale = 1 + z * z / rows
    # At shares of 0 and 1 rounding would put the share a little outside.
    return min(float((centre - half) / scale), share), max(float((centre + half) / scale), share)


def score_histogram(p: Predictions, classes: list[str]) -> Histogram:
    """Count scores of [0, 1] by true class (binary), or confidence by right and wrong (several classes)."""
    edges = np.linspace(0, 1, HISTOGRAM_BINS + 1)
    if p.task == "multiclass":
        right = p.decision_N == p.truth_N
        groups = {"right": p.score_N.max(axis=1)[right], "wrong": p.score_N.max(axis=1)[~right]}
    else:
        groups = {name: p.score_N[p.truth_N == at] for at, name in enumerate(classes)}
    counts = {name: tuple(np.histogram(values, edges)[0].tolist()) for name, values in groups.items()}
    return Histogram(edges=tuple(edges.tolist()), counts=counts)


def residual_histogram(p: Predictions) -> Histogram:
    """Count predicted minus actual, the outer 1% in the outer bins."""
    error = p.score_N - p.truth_N
    edges = _edges(error, HISTOGRAM_BINS)
    counts = np.histogram(error.clip(edges[0], edges[-1]), edges)[0]
    return Histogram(edges=tuple(edges.tolist()), counts={"rows": tuple(counts.tolist())})


def predicted_actual(p: Predictions) -> Grid:
    """Count rows by predicted (x) and actual (y) value, the outer 1% in the outer bins."""
    edges = _edges(np.concatenate([p.score_N, p.truth_N]), GRID_BINS)
    inside = [values.clip(edges[0], edges[-1]) for values in (p.truth_N, p.score_N)]
    counts = np.histogram2d(inside[0], inside[1], bins=(edges, edges))[0].astype(np.int64)
    both = tuple(edges.tolist())
    return Grid(x_edges=both, y_edges=both, counts=tuple(tuple(row) for row in counts.tolist()))


def _edges(values: Floats, bins: int) -> Floats:
    low, high = np.quantile(values, [0.005, 0.995])
    return np.linspace(low, high if high > low else low + 1.0, bins + 1)


def confusion(p: Predictions, classes: int) -> tuple[tuple[int, ...], ...]:
    """Count rows by true class (row) and decided class (column)."""
    counts = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(counts, (p.truth_N.astype(np.int64), p.decision_N.astype(np.int64)), 1)
    return tuple(tuple(row) for row in counts.tolist())
