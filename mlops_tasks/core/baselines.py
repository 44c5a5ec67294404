"""What a model must beat: a constant, a linear model, gradient boosting; fitted with scikit-learn."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp  # type: ignore[import-untyped]  # it ships no types
import torch
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, Ridge

from mlops_tasks.core.network import Linear

if TYPE_CHECKING:
    import numpy.typing as npt
    import pandas as pd

    from mlops_tasks.artifacts import Task
    from mlops_tasks.core.losses import Rows
    from mlops_tasks.core.transform import Transform

    Floats = npt.NDArray[np.float64]

MOST_TREES = 500
PATIENCE_TREES = 10
LINEAR_ITERATIONS = 500
SMOOTHING_ROWS = 10


def constant_score(y: npt.NDArray[np.float64], task: Task, classes: int) -> float | list[float]:
    """Return the best constant: the positive share, every class's share, or the mean."""
    if task == "multiclass":
        return [float(share) for share in np.bincount(y.astype(np.int64), minlength=classes) / len(y)]
    return float(y.mean())


def balanced_weights(y: npt.NDArray[np.float64]) -> Floats:
    """Return a weight per row that gives every class the same total; the mean weight is 1."""
    labels = y.astype(np.int64)
    counts = np.bincount(labels)
    weights: Floats = len(y) / ((counts > 0).sum() * counts[labels])
    return weights


def fit_linear(transform: Transform, rows: Rows, task: Task, outputs: int) -> Linear:
    """Fit logistic or ridge regression on standardised numbers, missing flags and one-hot categories.

    Args:
        transform: gives the number of categories of each column.
        rows: encoded training rows on the CPU.
        task: ridge for a regression, logistic otherwise.
        outputs: numbers per row: 1, or the number of classes.

    """
    dense = np.concatenate([rows.x.numpy(), rows.flags.numpy()], axis=1).astype(np.float64)
    cards = [c.cardinality for c in transform.categorical]
    design = sp.csr_matrix(sp.hstack([sp.csr_matrix(dense), *_one_hot(rows.codes.numpy(), cards)]))
    y, weight = rows.y.numpy().astype(np.float64), rows.weight.numpy().astype(np.float64)
    if task == "regression":
        model: Any = Ridge(alpha=1.0, solver="lsqr").fit(design, y, sample_weight=weight)
    else:
        model = LogisticRegression(max_iter=LINEAR_ITERATIONS).fit(design, y, sample_weight=weight)
    coefficients = np.atleast_2d(model.coef_)
    intercepts = np.atleast_1d(model.intercept_)
    return _as_module(transform, outputs, _expanded(coefficients, outputs), _expanded(intercepts, outputs))


def _expanded(values: Floats, outputs: int) -> Floats:
    """Give two-class logistic weights, which scikit-learn keeps for one class only, their zero counterpart."""
    return np.concatenate([np.zeros_like(values), values]) if len(values) == 1 and outputs > 1 else values


def _one_hot(codes: npt.NDArray[np.int64], cards: list[int]) -> list[Any]:
    rows = np.arange(len(codes))
    return [sp.csr_matrix((np.ones(len(codes)), (rows, codes[:, i])), shape=(len(codes), card)) for i, card in enumerate(cards)]


def _as_module(transform: Transform, outputs: int, coefficients: Floats, intercepts: Floats) -> Linear:
    module = Linear(transform, outputs)
    with torch.no_grad():
        start = module.weight.shape[1]
        module.weight.copy_(torch.from_numpy(coefficients[:, :start]))
        module.bias.copy_(torch.from_numpy(intercepts))
        for column, embedding in zip(transform.categorical, module.categorical, strict=True):
            end = start + column.cardinality
            embedding.weight.copy_(torch.from_numpy(coefficients[:, start:end].T.copy()))  # type: ignore[operator]  # modules are untyped
            start = end
    return module


@dataclass(frozen=True)
class Boosted:
    """Fitted gradient boosting with the transform whose vocabularies it was fitted on."""

    transform: Transform
    model: Any
    task: Task

    def score(self, frame: pd.DataFrame) -> npt.NDArray[np.float64]:
        """Score rows as the exported model does: binary and regression [N], multiclass [N, C]."""
        design = boosting_design(self.transform, frame)
        if self.task == "regression":
            values: Floats = self.model.predict(design)
            return values
        scores: Floats = self.model.predict_proba(design)
        return scores[:, 1] if self.task == "binary" else scores


def order_categories(transform: Transform, frame: pd.DataFrame, y: npt.NDArray[np.float64]) -> Transform:
    """Sort vocabularies by the smoothed mean of the target, so that trees split them well as ordered numbers.

    Optimal for one split of a binary target (Fisher 1958); smoothed with 10 rows of the overall mean.
    """
    codes = transform.codes(frame)
    columns = []
    for at, column in enumerate(transform.categorical):
        rows = np.bincount(codes[:, at], minlength=column.cardinality)
        totals = np.bincount(codes[:, at], weights=y, minlength=column.cardinality)
        means = (totals + SMOOTHING_ROWS * y.mean()) / (rows + SMOOTHING_ROWS)
        order = np.argsort(means[1:], kind="stable")
        columns.append(replace(column, vocabulary=tuple(column.vocabulary[i] for i in order)))
    return replace(transform, categorical=tuple(columns))


def boosting_design(transform: Transform, frame: pd.DataFrame) -> Floats:
    """Return numbers (not finite: NaN) and vocabulary indices side by side: float64 [N, Fn + Fc]; empty columns are 0."""
    numbers = transform.numbers(frame).astype(np.float64)
    numbers[~np.isfinite(numbers)] = np.nan
    # Without any training value there is nothing to split on, and scikit-learn can't bin it.
    numbers[:, [len(column.edges) == 0 for column in transform.numeric]] = 0.0
    return np.concatenate([numbers, transform.codes(frame).astype(np.float64)], axis=1)


def fit_boosting(
    transform: Transform,
    frame: pd.DataFrame,
    y: Floats,
    task: Task,
    *,
    seed: int,
    trees: int | None,
    weight: Floats | None,
    validation: tuple[pd.DataFrame, Floats, Floats | None] | None,
) -> Boosted:
    """Fit HistGradientBoosting.

    Args:
        transform: learned on `frame`.
        frame: training rows.
        y: class indices or values [N].
        task: what is predicted.
        seed: of the column and row samples.
        trees: how many boosting rounds; None: as many as lower the loss of `validation`.
        weight: of the rows [N]; None: all the same.
        validation: rows, targets and weights that early stopping judges by.

    """
    ordered = order_categories(transform, frame, _ordering_target(y, task))
    kind = HistGradientBoostingRegressor if task == "regression" else HistGradientBoostingClassifier
    model = kind(
        max_iter=trees or MOST_TREES,
        early_stopping=trees is None,
        n_iter_no_change=PATIENCE_TREES,
        categorical_features=None,
        random_state=seed,
    )
    extra: dict[str, Any] = {}
    if trees is None and validation is not None:
        rows, targets, weights = validation
        extra = {"X_val": boosting_design(ordered, rows), "y_val": targets, "sample_weight_val": weights}
    model.fit(boosting_design(ordered, frame), y, sample_weight=weight, **extra)
    _round_thresholds(model)
    return Boosted(ordered, model, task)


def _ordering_target(y: Floats, task: Task) -> Floats:
    """Return what categories are ordered by: the target, or for several classes the share of the commonest."""
    if task != "multiclass":
        return y
    return np.asarray(y == np.bincount(y.astype(np.int64)).argmax(), dtype=np.float64)


def _round_thresholds(model: Any) -> None:
    """Round split thresholds down to float32: `x <= threshold` then decides alike in float64 and in the exported float32."""
    for trees in model._predictors:  # noqa: SLF001 - scikit-learn shows its trees nowhere else
        for tree in trees:
            thresholds = tree.nodes["num_threshold"]
            rounded = thresholds.astype(np.float32)
            above = rounded.astype(np.float64) > thresholds
            rounded[above] = np.nextafter(rounded[above], np.float32(-np.inf))
            tree.nodes["num_threshold"] = rounded
