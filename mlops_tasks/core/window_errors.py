"""Predictions beside the truth to how wrong a model was in each window: its loss, its chances, its ranking."""

# ruff: noqa: N803, N806 - an array's name ends with its shape, whose axes are capitals

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from mlops_tasks.artifacts import Frozen
from mlops_tasks.core.metrics import EPSILON, measure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlops_tasks.core.metrics import Floats, Predictions

Kind = Literal["error", "excess", "ranking"]
"""`error`: log loss, or squared error; `excess`: log loss above what the scores themselves promise; `ranking`: 1 - ROC AUC."""
FEWEST_OF_A_CLASS = 5
"""With fewer rows of one class a window's ranking says nothing."""


class Moments(Frozen):
    """A mean over rows and how sure it is."""

    mean: float
    variance: float = Field(description="of a single row: that of the mean is this over the number of rows")


class WindowError(Frozen):
    """How wrong a model was on the labelled rows of one window."""

    window: str = Field(description="the window's label")
    rows: int
    measures: dict[Kind, Moments]

    @property
    def mean(self) -> float:
        """Mean over rows of the log loss, or of the squared error for regression."""
        return self.measures["error"].mean


def row_losses(p: Predictions) -> Floats:
    """Return each row's loss: log loss of what came true, squared error for regression; N."""
    if p.task == "regression":
        squared: Floats = (p.truth_N - p.score_N) ** 2
        return squared
    if p.task == "binary":
        came_true_N = np.where(p.truth_N > 0, p.score_N, 1 - p.score_N)
    else:
        came_true_N = p.score_N[np.arange(len(p.truth_N)), p.truth_N.astype(np.int64)]
    loss: Floats = -np.log(np.clip(came_true_N, EPSILON, 1 - EPSILON))
    return loss


def promised_losses(p: Predictions) -> Floats:
    """Return the log loss that each row's own probabilities promise, their entropy; N."""
    score_NC = p.score_N if p.task == "multiclass" else np.stack([p.score_N, 1 - p.score_N], axis=1)
    clipped_NC = np.clip(score_NC, EPSILON, 1 - EPSILON)
    entropy: Floats = -(clipped_NC * np.log(clipped_NC)).sum(axis=1)
    return entropy


def measure_error(window: str, predictions: Predictions) -> WindowError | None:
    """Return the error of one window's rows; None without rows."""
    loss_N = row_losses(predictions)
    if not len(loss_N):
        return None
    measures: dict[Kind, Moments] = {"error": _moments(loss_N)}
    if predictions.task != "regression":
        measures["excess"] = _moments(loss_N - promised_losses(predictions))
    ranking = _ranking(predictions)
    if ranking is not None:
        measures["ranking"] = ranking
    return WindowError(window=window, rows=len(loss_N), measures=measures)


def measure_errors(predictions: Predictions, window_N: Sequence[str] | npt.NDArray[np.str_]) -> tuple[WindowError, ...]:
    """Return the error of each window, in order of time.

    Args:
        predictions: N rows.
        window_N: the label of each row's window, which sorts by time.

    """
    labels, of_N = np.unique(np.asarray(window_N, dtype=str), return_inverse=True)
    found = (measure_error(str(label), predictions.rows(of_N == at)) for at, label in enumerate(labels))
    return tuple(error for error in found if error is not None)


def _moments(values_N: Floats) -> Moments:
    return Moments(mean=float(values_N.mean()), variance=float(values_N.var()))


def _ranking(p: Predictions) -> Moments | None:
    """Return 1 - ROC AUC with its variance (Hanley and McNeil, Radiology 143, 1982); None where it says nothing."""
    if p.task != "binary":
        return None
    positive = int(p.truth_N.sum())
    negative = len(p.truth_N) - positive
    if min(positive, negative) < FEWEST_OF_A_CLASS:
        return None
    auc = measure(p, ["roc_auc"])["roc_auc"]
    pairs = (positive - 1) * (auc / (2 - auc) - auc**2) + (negative - 1) * (2 * auc**2 / (1 + auc) - auc**2)
    variance = (auc * (1 - auc) + pairs) / (positive * negative)
    return Moments(mean=1 - auc, variance=max(variance, 0.0) * len(p.truth_N))
