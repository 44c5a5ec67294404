"""Scores alone to the metrics that are to be expected of them, as long as they are calibrated."""

# ruff: noqa: N803, N806 - an array's name ends with its shape, whose axes are capitals

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mlops_tasks.core.metrics import EPSILON, Predictions, prepare

if TYPE_CHECKING:
    from mlops_tasks.artifacts import Task
    from mlops_tasks.core.metrics import Floats

BINARY = ("roc_auc", "average_precision", "log_loss", "brier_score", "accuracy", "f1", "precision", "recall")
NO_REGRESSION = "without labels nothing can be said of a regression: a predicted value does not tell how uncertain it is"


def estimate_metrics(task: Task, score_N: Floats, threshold: float) -> dict[str, float]:
    """Return the expected values of metrics, from scores alone; empty for regression and without rows.

    Confidence-based performance estimation (CBPE: Kivimäki, Białek, Kuberski and Nurminen, Performance Estimation in Binary
    Classification Using Calibrated Confidence, 2025, arXiv 2505.05295; as NannyML does it): with calibrated scores each row
    comes true with its own probability, so the expected confusion matrix at every threshold, and each metric made of it,
    follow from the scores. It sees how hard the rows are; it does not see that the label came to mean something else.

    Args:
        task: of the model.
        score_N: probabilities of the positive class, [N], or of each class, [N, C].
        threshold: least probability that counts as positive.

    """
    if task == "regression" or not len(score_N):
        return {}
    if task == "multiclass":
        entropy_N = -(score_N * np.log(np.clip(score_N, EPSILON, 1 - EPSILON))).sum(axis=1)
        return {"log_loss": float(entropy_N.mean()), "accuracy": float(score_N.max(axis=1).mean())}
    # Each row stands there twice: as a positive with its probability, as a negative with the rest.
    both = np.concatenate([score_N, score_N])
    truth = np.repeat([1.0, 0.0], len(score_N))
    weights = np.concatenate([score_N, 1 - score_N])
    found = prepare(Predictions("binary", truth, both, threshold), BINARY)(weights[None, :])
    return {name: float(value[0]) for name, value in found.items() if np.isfinite(value[0])}


def distrust(task: Task, ece: float | None, limit: float) -> str:
    """Say why no estimate is given, or nothing where it can be."""
    if task == "regression":
        return NO_REGRESSION
    if ece is None:
        return "the model's files don't say how well it is calibrated; train and deploy again"
    if ece > limit:
        return (
            f"the model is not calibrated well enough: its expected calibration error on held-out rows is {ece:.3f}, "
            f"monitor.performance.max_ece is {limit:g}"
        )
    return ""
