"""Predictions beside the truth to each window's error: the mean and variance of its rows' losses."""

# ruff: noqa: N803, N806 - an array's name ends with its shape, whose axes are capitals

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from pydantic import Field

from mlops_tasks.artifacts import Frozen
from mlops_tasks.core.metrics import EPSILON

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlops_tasks.core.metrics import Floats, Predictions


class WindowError(Frozen):
    """How wrong a model was on the labelled rows of one window."""

    window: str = Field(description="the window's label")
    rows: int
    mean: float = Field(description="mean over rows of the log loss, or of the squared error for regression")
    variance: float = Field(description="of a row's loss within the window")


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


def measure_error(window: str, predictions: Predictions) -> WindowError | None:
    """Return the error of one window's rows; None without rows."""
    loss_N = row_losses(predictions)
    if not len(loss_N):
        return None
    return WindowError(window=window, rows=len(loss_N), mean=float(loss_N.mean()), variance=float(loss_N.var()))


def measure_errors(predictions: Predictions, window_N: Sequence[str] | npt.NDArray[np.object_]) -> tuple[WindowError, ...]:
    """Return the error of each window, in order of time.

    Args:
        predictions: N rows.
        window_N: the label of each row's window, which sorts by time.

    """
    labels, of_N = np.unique(np.asarray(window_N, dtype=str), return_inverse=True)
    found = (measure_error(str(label), predictions.rows(of_N == at)) for at, label in enumerate(labels))
    return tuple(error for error in found if error is not None)
