"""A model and rows to how much worse it gets when one column's values are shuffled among the rows."""

# ruff: noqa: N803, N806 - an array's name ends with its shape, whose axes are capitals

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mlops_tasks.artifacts import Frozen
from mlops_tasks.core.metrics import METRICS, Predictions, measure

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pandas as pd

    from mlops_tasks.core.metrics import Floats

MOST_REPEATS = 3
SCORED_ROWS = 250_000
"""Rows scored in all, about: a network takes some 15 microseconds a row."""


class Importance(Frozen):
    """By how much a metric worsens without a column: mean and standard deviation over shuffles."""

    column: str
    worsening: float
    spread: float


def count_repeats(rows: int, columns: int) -> int:
    """Return how often each column is shuffled: at least once, and no more rows than are quick to score."""
    return max(1, min(MOST_REPEATS, SCORED_ROWS // max(1, rows * columns)))


def permutation_importance(
    score: Callable[[pd.DataFrame], Floats],
    frame: pd.DataFrame,
    columns: Sequence[str],
    predictions: Predictions,
    metric: str,
    *,
    most_rows: int,
    seed: int = 0,
) -> tuple[Importance, ...]:
    """Shuffle one column at a time and measure again; most important first.

    Args:
        score: rows -> scores, N or [N, C].
        frame: the inputs, N rows.
        columns: the inputs to shuffle.
        predictions: the unshuffled predictions of the same rows.
        metric: what is measured.
        most_rows: a seeded sample of so many rows is used.
        seed: of the sample and the shuffles.

    Source: Breiman 2001, Random Forests, section 10; here on held-out rows.

    """
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.permutation(len(frame))[:most_rows])
    rows, truth_N = frame.iloc[chosen].reset_index(drop=True), predictions.truth_N[chosen]
    sign = 1.0 if METRICS[metric].greater_is_better else -1.0

    def value(score_N: Floats) -> float:
        return measure(Predictions(predictions.task, truth_N, score_N, predictions.threshold), [metric])[metric]

    base = value(predictions.score_N[chosen])
    orders = [rng.permutation(len(rows)) for _ in range(count_repeats(len(rows), len(columns)))]
    found = []
    for column in columns:
        drops = [sign * (base - value(score(rows.assign(**{column: rows[column].to_numpy()[order]})))) for order in orders]
        if np.isfinite(drops).all():
            found.append(Importance(column=column, worsening=float(np.mean(drops)), spread=float(np.std(drops))))
    return tuple(sorted(found, key=lambda item: -item.worsening))
