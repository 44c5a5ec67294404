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
        distance = _wasserstein(layout, current, against)
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
    now, then = _shares_of_groups(layout, current, against)
    index: Floats = ((now - then) * np.log(now / then)).sum(axis=1)
    return index


def jensen_shannon(layout: Layout, current: ColumnSketch, against: ColumnSketch) -> Floats:
    """Return the Jensen-Shannon distance, base 2, of the same groups as `psi`, [W]: 0 the same, 1 nothing in common."""
    now, then = _shares_of_groups(layout, current, against)
    middle = (now + then) / 2
    divergence = (now * np.log2(now / middle) + then * np.log2(then / middle)).sum(axis=1) / 2
    distance: Floats = np.sqrt(np.maximum(divergence, 0.0))
    return distance


def kolmogorov_smirnov(layout: NumericBins, current: ColumnSketch, against: ColumnSketch) -> tuple[Floats, Floats]:
    """Return the least and the greatest Kolmogorov-Smirnov statistic that a numeric column's counts allow, two [W].

    Counts tell the distribution functions at the bins' edges and bound them within; an atom's bin has no within.
    """
    now, then = np.cumsum(shares(current), axis=1), np.cumsum(shares(against), axis=1)
    least: Floats = np.abs(now - then).max(axis=1)
    edges = np.array(layout.edges)
    wide = np.concatenate([[True], np.nextafter(edges[:-1], np.inf) < edges[1:], [True]])[: layout.cells]
    within = np.maximum(now - (then - shares(against)), then - (now - shares(current)))
    greatest: Floats = np.where(wide, within, 0.0).max(axis=1)
    return least, np.maximum(greatest, least)


def _shares_of_groups(layout: Layout, current: ColumnSketch, against: ColumnSketch) -> tuple[Floats, Floats]:
    groups = np.arange(layout.cells)
    if isinstance(layout, NumericBins):
        middle = np.cumsum(shares(against)[0]) - shares(against)[0] / 2
        groups = np.minimum((middle * PSI_GROUPS).astype(np.int64), PSI_GROUPS - 1)
    return _grouped(current, groups), _grouped(against, groups)


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


def _wasserstein(layout: NumericBins, current: ColumnSketch, against: ColumnSketch) -> Floats:
    """Integrate the difference of two step distribution functions, [W].

    Cells lie beside each other, so the steps are in order but for the two within each cell.
    """
    edges = (np.array(layout.edges[:1] + layout.edges) - layout.centre) / layout.sd if layout.edges else np.zeros(1)
    mass, other_mass = shares(current), shares(against)
    at = np.where(mass > 0, _means(current), np.where(other_mass > 0, _means(against), edges))
    other_at = np.where(other_mass > 0, _means(against), at)
    after = np.cumsum(mass - other_mass, axis=1)
    between = after - np.where(at <= other_at, -other_mass, mass)
    left, right = np.minimum(at, other_at), np.maximum(at, other_at)
    inside = (np.abs(between) * (right - left)).sum(axis=1)
    area: Floats = inside + (np.abs(after[:, :-1]) * (left[:, 1:] - right[:, :-1])).sum(axis=1)
    return area
