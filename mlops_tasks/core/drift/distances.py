"""Two sketches of a column on the same layout to a distance between them; nothing here reads rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mlops_tasks.core.sketches import QUANTA_PER_SD, ColumnSketch, Layout, NumericBins

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

PSI_GROUPS = 10


def column_distances(layout: Layout, current: ColumnSketch, against: ColumnSketch) -> Floats:
    """Measure how far the known values of each window lie from `against`, [W].

    Numeric: Wasserstein-1 in standard deviations of the training data, with each cell's mass at its
    mean; categorical: total variation. 0 where one of the two has no known value; `against` holds W
    windows or one for all.
    """
    if not isinstance(layout, NumericBins):
        distance = np.abs(shares(current) - shares(against)).sum(axis=1) / 2
    else:
        distance = _wasserstein(_means(current), shares(current), _means(against), shares(against))
    comparable = (current.counts.sum(axis=1) > 0) & (against.counts.sum(axis=1) > 0)
    return np.where(comparable, distance, 0.0)


def shares(sketch: ColumnSketch) -> Floats:
    """Return each cell's share of a window's known values, [W, C]; zeros for a window without any."""
    share: Floats = sketch.counts / np.maximum(sketch.counts.sum(axis=1, keepdims=True), 1)
    return share


def missing_shares(sketch: ColumnSketch) -> Floats:
    """Return the share of rows that are null or infinite, [W]; 0 for a window without rows."""
    missing = sketch.nulls + sketch.infinite
    share: Floats = missing / np.maximum(missing + sketch.counts.sum(axis=1), 1)
    return share


def psi(layout: Layout, current: ColumnSketch, against: ColumnSketch) -> Floats:
    """Return the population stability index, nulls included, [W]: for people who know it, nothing is decided by it.

    Numeric cells are joined to about ten groups of equal training mass; half a row is added to each
    cell so that empty ones stay finite.
    """
    groups = np.arange(layout.cells)
    if isinstance(layout, NumericBins):
        middle = np.cumsum(shares(against)[0]) - shares(against)[0] / 2
        groups = np.minimum((middle * PSI_GROUPS).astype(np.int64), PSI_GROUPS - 1)
    now, then = (_grouped(sketch, groups) for sketch in (current, against))
    index: Floats = ((now - then) * np.log(now / then)).sum(axis=1)
    return index


def _grouped(sketch: ColumnSketch, groups: NDArray[np.int64]) -> Floats:
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    missing = (sketch.nulls + sketch.infinite)[:, None]
    counts = np.concatenate([np.add.reduceat(sketch.counts, starts, axis=1), missing], axis=1) + 0.5
    grouped: Floats = counts / counts.sum(axis=1, keepdims=True)
    return grouped


def _means(sketch: ColumnSketch) -> Floats:
    """Return each cell's mean in standard deviations from the layout's centre, [W, C]."""
    means: Floats = sketch.sums / np.maximum(sketch.counts, 1) / QUANTA_PER_SD
    return means


def _wasserstein(at: Floats, mass: Floats, other_at: Floats, other_mass: Floats) -> Floats:
    """Integrate the difference of two step distribution functions, row by row."""
    other_at, other_mass = np.broadcast_to(other_at, at.shape), np.broadcast_to(other_mass, mass.shape)
    points = np.concatenate([at, other_at], axis=1)
    order = np.argsort(points, axis=1)
    points = np.take_along_axis(points, order, axis=1)
    steps = np.take_along_axis(np.concatenate([mass, -other_mass], axis=1), order, axis=1)
    area: Floats = (np.abs(np.cumsum(steps, axis=1))[:, :-1] * np.diff(points, axis=1)).sum(axis=1)
    return area
