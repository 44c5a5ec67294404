"""Counts on frozen, unequal bins to shares on equal ones, for drawing only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mlops_tasks.core.drift import shares
from mlops_tasks.core.sketches import QUANTA_PER_SD

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlops_tasks.core.sketches import ColumnSketch, NumericBins

    Floats = NDArray[np.float64]

BARS = 32
_EDGE = 0.005


def rebin(layout: NumericBins, current: ColumnSketch, merged: ColumnSketch) -> tuple[Floats, Floats, Floats] | None:
    """Spread both sketches over equal bars: edges [33], shares of the training data, then of the window, [32]; None if empty.

    The bars span what all but 1% of both hold; what lies outside is in the outermost bars.
    """
    means = [layout.centre + layout.sd * s.sums[0] / np.maximum(s.counts[0], 1) / QUANTA_PER_SD for s in (merged, current)]
    mass = [shares(s)[0] for s in (merged, current)]
    total = np.concatenate(mass)
    if not total.sum():
        return None
    low, high = _range(np.concatenate(means), total)
    margin = (high - low) * 0.02 or max(abs(low), 1.0) * 0.5
    edges = np.linspace(low - margin, high + margin, BARS + 1)
    then, now = (_spread(layout, s, m, w, edges) for s, m, w in zip((merged, current), means, mass, strict=True))
    return edges, then, now


def _range(points: Floats, mass: Floats) -> tuple[float, float]:
    order = np.argsort(points)
    running = np.cumsum(mass[order]) / mass.sum()
    low, high = np.searchsorted(running, [_EDGE, 1 - _EDGE]).clip(0, points.size - 1)
    return float(points[order][low]), float(points[order][high])


def _spread(layout: NumericBins, sketch: ColumnSketch, means: Floats, mass: Floats, edges: Floats) -> Floats:
    """Spread each cell's mass evenly over its extent; a cell far narrower than a bar is a point."""
    inner = np.array(layout.edges)
    starts = np.concatenate([[sketch.minimum[0]], inner]) if inner.size else np.array([sketch.minimum[0]])
    ends = np.concatenate([inner, [sketch.maximum[0]]]) if inner.size else np.array([sketch.maximum[0]])
    out = np.zeros(BARS)
    for cell in np.flatnonzero(mass).tolist():
        start, end = max(starts[cell], edges[0]), min(ends[cell], edges[-1])
        if end - start <= (edges[1] - edges[0]) * 1e-6 or start > means[cell] or end < means[cell]:
            at = int(np.clip(np.searchsorted(edges, means[cell], side="right") - 1, 0, BARS - 1))
            out[at] += mass[cell]
            continue
        overlap = np.clip(np.minimum(edges[1:], end) - np.maximum(edges[:-1], start), 0, None)
        out += mass[cell] * overlap / (end - start)
    return out
