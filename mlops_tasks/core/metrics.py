"""Truth, scores and row weights to metrics under scikit-learn's names, for many weightings at once.

Every metric is computed for a matrix of weights `w_BN` (B weightings of N rows), so that a bootstrap of
B resamples sorts the scores once. Values equal scikit-learn's with `sample_weight`; the tests compare them.
A value that is undefined (one class only, constant truth) is NaN.
"""

# ruff: noqa: N802, N803, N806, N815 - an array's name ends with its shape, whose axes are capitals

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mlops_tasks.artifacts import Task

if TYPE_CHECKING:
    from collections.abc import Collection

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Values = dict[str, Floats]
Measure = Callable[[Floats], Values]

ECE_BINS = 15
"""Equal-width bins of the expected calibration error (Guo et al. 2017, On Calibration of Modern Neural Networks, section 2)."""

EPSILON = float(np.finfo(np.float32).eps)
"""Probabilities are float32, so they are clipped as scikit-learn clips float32 in log_loss."""


@dataclass(frozen=True)
class Metric:
    """One metric: which tasks it is for, and which way is better."""

    name: str
    tasks: tuple[Task, ...]
    title: str
    greater_is_better: bool = True


@dataclass(frozen=True)
class Predictions:
    """One model's scores of N rows beside the truth.

    `truth_N`: class index (binary: 0 or 1; multiclass: 0 to C - 1) or the value (regression).
    `score_N`: probability of the positive class, or [N, C] probabilities, or the predicted value.
    """

    task: Task
    truth_N: Floats
    score_N: Floats
    threshold: float = 0.5

    def rows(self, mask_N: npt.NDArray[np.bool_]) -> Predictions:
        """Return the predictions of the rows in the mask."""
        return Predictions(self.task, self.truth_N[mask_N], self.score_N[mask_N], self.threshold)

    @property
    def decision_N(self) -> Floats:
        """The predicted class index of each row (the value itself for regression)."""
        if self.task == "binary":
            return (self.score_N >= self.threshold).astype(np.float64)
        return self.score_N.argmax(axis=1).astype(np.float64) if self.task == "multiclass" else self.score_N


@dataclass(frozen=True)
class Family:
    """Metrics of a task that share their preparation."""

    names: tuple[str, ...]
    prepare: Callable[[Predictions], Measure]


_BOTH: tuple[Task, ...] = ("binary", "multiclass")
METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("roc_auc", ("binary",), "ROC AUC"),
        Metric("average_precision", ("binary",), "Average precision"),
        Metric("log_loss", _BOTH, "Log loss", greater_is_better=False),
        Metric("brier_score", ("binary",), "Brier score", greater_is_better=False),
        Metric("ece", _BOTH, "Expected calibration error", greater_is_better=False),
        Metric("f1", ("binary",), "F1"),
        Metric("precision", ("binary",), "Precision"),
        Metric("recall", ("binary",), "Recall"),
        Metric("accuracy", _BOTH, "Accuracy"),
        Metric("balanced_accuracy", _BOTH, "Balanced accuracy"),
        Metric("f1_macro", ("multiclass",), "F1, mean over classes"),
        Metric("roc_auc_ovr", ("multiclass",), "ROC AUC, one class against the rest"),
        Metric("rmse", ("regression",), "Root mean squared error", greater_is_better=False),
        Metric("mae", ("regression",), "Mean absolute error", greater_is_better=False),
        Metric("median_ae", ("regression",), "Median absolute error", greater_is_better=False),
        Metric("r2", ("regression",), "R²"),
        Metric("explained_variance", ("regression",), "Explained variance"),
    )
}
HEADLINE: dict[Task, str] = {"binary": "roc_auc", "multiclass": "log_loss", "regression": "rmse"}
"""The metric that stands for a task where no gate names one."""


def metric_names(task: Task) -> list[str]:
    """Return the names of a task's metrics, in the order of the report."""
    return [name for name, metric in METRICS.items() if task in metric.tasks]


def measure(predictions: Predictions, names: Collection[str] | None = None) -> dict[str, float]:
    """Compute metrics of equally weighted rows; NaN where undefined."""
    w_BN = np.ones((1, len(predictions.truth_N)))
    return {name: float(values[0]) for name, values in prepare(predictions, names)(w_BN).items()}


def prepare(predictions: Predictions, names: Collection[str] | None = None) -> Measure:
    """Do the work that is the same for every weighting; the result maps `w_BN` to B values per metric."""
    wanted = set(metric_names(predictions.task) if names is None else names)
    families = [family for family in FAMILIES[predictions.task] if wanted.intersection(family.names)]
    parts = [family.prepare(predictions) for family in families]

    def run(w_BN: Floats) -> Values:
        with np.errstate(divide="ignore", invalid="ignore"):
            found = {name: values for part in parts for name, values in part(w_BN).items()}
        return {name: found[name] for name in METRICS if name in wanted and name in found}

    return run


def _ratio(top: Floats, bottom: Floats, *, empty: float = np.nan) -> Floats:
    """Divide; where the divisor is zero return `empty`."""
    return np.where(bottom > 0, top / np.where(bottom > 0, bottom, 1.0), empty)


def _ranking(score_N: Floats, truth_N: Floats) -> Callable[[Floats], tuple[Floats, Floats]]:
    """Sort once; return the map from weights to (area under ROC, average precision), ties as one step."""
    order_N = np.argsort(-score_N, kind="stable")
    sorted_N, positive_N = score_N[order_N], truth_N[order_N]
    ends_G = np.append(np.flatnonzero(np.diff(sorted_N)), len(sorted_N) - 1)

    def run(w_BN: Floats) -> tuple[Floats, Floats]:
        ranked_BN = w_BN[:, order_N]
        all_BG = ranked_BN.cumsum(axis=1)[:, ends_G]
        true_BG = np.multiply(ranked_BN, positive_N, out=ranked_BN).cumsum(axis=1)[:, ends_G]
        false_BG = all_BG - true_BG
        step_BG = np.diff(true_BG, axis=1, prepend=0.0)
        precision_BG = _ratio(true_BG, all_BG, empty=0.0)
        positives, negatives = true_BG[:, -1], false_BG[:, -1]
        below_BG = negatives[:, None] - false_BG
        tied_BG = np.diff(false_BG, axis=1, prepend=0.0)
        wins = (step_BG * (below_BG + 0.5 * tied_BG)).sum(axis=1)
        return _ratio(wins, positives * negatives), _ratio((step_BG * precision_BG).sum(axis=1), positives)

    return run


def _binary_ranking(p: Predictions) -> Measure:
    rank = _ranking(p.score_N, p.truth_N)

    def run(w_BN: Floats) -> Values:
        auc, precision = rank(w_BN)
        return {"roc_auc": auc, "average_precision": precision}

    return run


def _calibration_columns(confidence_N: Floats, hit_N: Floats) -> Floats:
    """Return [N, bins]: each row's (hit - confidence) in the column of its bin."""
    bin_N = np.clip((confidence_N * ECE_BINS).astype(np.int64), 0, ECE_BINS - 1)
    columns = np.zeros((len(bin_N), ECE_BINS))
    columns[np.arange(len(bin_N)), bin_N] = hit_N - confidence_N
    return columns


def _binary_sums(p: Predictions) -> Measure:
    y, score, decided = p.truth_N, p.score_N, p.decision_N
    clipped = np.clip(score, EPSILON, 1 - EPSILON)
    loss = -(y * np.log(clipped) + (1 - y) * np.log1p(-clipped))
    plain = np.column_stack([np.ones_like(y), y, decided, y * decided, loss, (score - y) ** 2])
    columns = np.hstack([plain, _calibration_columns(score, y)])

    def run(w_BN: Floats) -> Values:
        sums = w_BN @ columns
        total, positive, predicted, hits, log_loss, brier = sums[:, :6].T
        gaps = np.abs(sums[:, 6:]).sum(axis=1)
        negative = total - positive
        rejected = total - positive - predicted + hits
        return {
            "log_loss": _ratio(log_loss, total),
            "brier_score": _ratio(brier, total),
            "ece": _ratio(gaps, total),
            "f1": _ratio(2 * hits, positive + predicted, empty=0.0),
            "precision": _ratio(hits, predicted, empty=0.0),
            "recall": _ratio(hits, positive),
            "accuracy": _ratio(hits + rejected, total),
            "balanced_accuracy": (_ratio(hits, positive) + _ratio(rejected, negative)) / 2,
        }

    return run


def _multiclass_sums(p: Predictions) -> Measure:
    classes, rows = p.score_N.shape[1], np.arange(len(p.truth_N))
    true_N, decided_N = p.truth_N.astype(np.int64), p.decision_N.astype(np.int64)
    loss = -np.log(np.clip(p.score_N[rows, true_N], EPSILON, 1 - EPSILON))
    hit = (true_N == decided_N).astype(np.float64)
    gaps = _calibration_columns(p.score_N[rows, decided_N], hit)
    one = np.eye(classes)
    columns = np.hstack([np.ones((len(rows), 1)), loss[:, None], one[true_N], one[decided_N], one[true_N] * hit[:, None], gaps])

    def run(w_BN: Floats) -> Values:
        sums = w_BN @ columns
        total, log_loss = sums[:, 0], sums[:, 1]
        actual, predicted, hits = (sums[:, 2 + classes * k : 2 + classes * (k + 1)] for k in range(3))
        f1 = _ratio(2 * hits, actual + predicted)
        return {
            "log_loss": _ratio(log_loss, total),
            "ece": _ratio(np.abs(sums[:, 2 + 3 * classes :]).sum(axis=1), total),
            "accuracy": _ratio(hits.sum(axis=1), total),
            "balanced_accuracy": _present_mean(_ratio(hits, actual)),
            "f1_macro": _present_mean(f1),
        }

    return run


def _present_mean(values_BC: Floats) -> Floats:
    """Average over the classes that occur, as scikit-learn does; NaN where none does."""
    present = ~np.isnan(values_BC)
    return _ratio(np.where(present, values_BC, 0.0).sum(axis=1), present.sum(axis=1).astype(np.float64))


def _multiclass_ranking(p: Predictions) -> Measure:
    ranks = [_ranking(p.score_N[:, c], (p.truth_N == c).astype(np.float64)) for c in range(p.score_N.shape[1])]
    return lambda w_BN: {"roc_auc_ovr": np.mean([rank(w_BN)[0] for rank in ranks], axis=0)}


def _regression_sums(p: Predictions) -> Measure:
    y = p.truth_N - p.truth_N.mean()  # centred: the weighted variance of large values loses no digits
    error = p.truth_N - p.score_N
    columns = np.column_stack([np.ones_like(y), y, y**2, error, error**2, np.abs(error)])

    def run(w_BN: Floats) -> Values:
        total, first, second, bias, squared, absolute = (w_BN @ columns).T
        spread = second - first**2 / total
        spread = np.where(spread > 1e-12 * second, spread, 0.0)
        return {
            "rmse": np.sqrt(_ratio(squared, total)),
            "mae": _ratio(absolute, total),
            "r2": 1 - _ratio(squared, spread),
            "explained_variance": 1 - _ratio(squared - bias**2 / total, spread),
        }

    return run


def _regression_median(p: Predictions) -> Measure:
    error_N = np.abs(p.truth_N - p.score_N)
    order_N = np.argsort(error_N, kind="stable")
    sorted_N = error_N[order_N]

    def run(w_BN: Floats) -> Values:
        sum_BN = w_BN[:, order_N].cumsum(axis=1)
        half = sum_BN[:, -1:] / 2
        lower, upper = (sum_BN < half).sum(axis=1), (sum_BN <= half).sum(axis=1)
        last = len(sorted_N) - 1
        return {"median_ae": (sorted_N[np.minimum(lower, last)] + sorted_N[np.minimum(upper, last)]) / 2}

    return run


_BINARY_SUMS = ("log_loss", "brier_score", "ece", "f1", "precision", "recall", "accuracy", "balanced_accuracy")
FAMILIES: dict[Task, tuple[Family, ...]] = {
    "binary": (Family(("roc_auc", "average_precision"), _binary_ranking), Family(_BINARY_SUMS, _binary_sums)),
    "multiclass": (
        Family(("log_loss", "ece", "accuracy", "balanced_accuracy", "f1_macro"), _multiclass_sums),
        Family(("roc_auc_ovr",), _multiclass_ranking),
    ),
    "regression": (
        Family(("rmse", "mae", "r2", "explained_variance"), _regression_sums),
        Family(("median_ae",), _regression_median),
    ),
}
