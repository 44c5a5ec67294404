"""Predictions of several models on the same rows to estimates with confidence intervals, and to paired differences."""

# ruff: noqa: N803, N806 - an array's name ends with its shape, whose axes are capitals

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from mlops_tasks.artifacts import Frozen
from mlops_tasks.core.metrics import measure, prepare

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from mlops_tasks.core.metrics import Floats, Ints, Predictions

CELLS = 1 << 19
"""Weights held at once (4 MiB): they stay in the processor's cache."""

MIN_DEFINED = 0.5
"""Least share of the resamples in which a metric must be defined for an interval to be given."""


class Estimate(Frozen):
    """A value and its confidence interval; None where undefined or not asked for."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Resampling:
    """How the intervals are made: percentile bootstrap (Efron and Tibshirani 1993, chapter 13)."""

    resamples: int
    confidence: float
    seed: int = 0


@dataclass(frozen=True)
class Comparison:
    """Estimates per model and metric, and the first model's value minus each other model's."""

    estimates: dict[str, dict[str, Estimate]]
    differences: dict[str, dict[str, Estimate]]


def compare(
    models: Mapping[str, Predictions],
    resampling: Resampling,
    names: Collection[str] | None = None,
    group_N: Ints | None = None,
) -> Comparison:
    """Measure models on the same rows and the same resamples, so that differences are paired.

    Args:
        models: name -> predictions of the same N rows; differences are the first's minus each other's.
        resampling: number of resamples, level and seed.
        names: metrics; None: all of the task.
        group_N: rows with the same number are drawn together (one day's rows share its weather); None: each by itself.

    """
    first = next(iter(models))
    if group_N is not None and group_N.max(initial=0) < 1:
        resampling = replace(resampling, resamples=0)  # one group drawn again and again says nothing
    points = {model: measure(predictions, names) for model, predictions in models.items()}
    draws = _draws(models, resampling, names, group_N)
    estimates = {
        model: {name: _estimate(value, draws[model][name], resampling) for name, value in values.items()}
        for model, values in points.items()
    }
    differences = {
        model: {
            name: _estimate(points[first][name] - value, draws[first][name] - draws[model][name], resampling)
            for name, value in values.items()
        }
        for model, values in points.items()
        if model != first
    }
    return Comparison(estimates, differences)


def _draws(
    models: Mapping[str, Predictions], resampling: Resampling, names: Collection[str] | None, group_N: Ints | None
) -> dict[str, dict[str, Floats]]:
    """Return each metric's value in each resample."""
    measures = {model: prepare(predictions, names) for model, predictions in models.items()}
    rows = len(next(iter(models.values())).truth_N)
    chunks: dict[str, list[dict[str, Floats]]] = {model: [] for model in models}
    for w_BN in _weights(rows, resampling, group_N):
        for model, run in measures.items():
            chunks[model].append(run(w_BN))
    if not resampling.resamples:
        return {model: {name: np.empty(0) for name in measure(models[model], names)} for model in models}
    return {
        model: {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} for model, parts in chunks.items()
    }


def _weights(rows: int, resampling: Resampling, group_N: Ints | None) -> Iterator[Floats]:
    """Yield how often each row is drawn, as [B, N] blocks that fit the cache."""
    rng = np.random.default_rng(resampling.seed)
    units = rows if group_N is None else int(group_N.max()) + 1
    block = max(1, CELLS // rows)
    for start in range(0, resampling.resamples, block):
        size = min(block, resampling.resamples - start)
        drawn = np.stack([np.bincount(rng.integers(0, units, units), minlength=units) for _ in range(size)]).astype(np.float64)
        yield drawn if group_N is None else drawn[:, group_N]


def _estimate(value: float, draws: Floats, resampling: Resampling) -> Estimate:
    if not np.isfinite(value):
        return Estimate(value=None)
    defined = draws[np.isfinite(draws)]
    if len(defined) == 0 or len(defined) < MIN_DEFINED * len(draws):
        return Estimate(value=float(value))
    tail = (1 - resampling.confidence) / 2
    low, high = np.quantile(defined, [tail, 1 - tail])
    return Estimate(value=float(value), low=float(low), high=float(high))
