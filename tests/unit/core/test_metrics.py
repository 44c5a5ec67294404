"""Every metric equals scikit-learn's, with ties and weights; undefined ones are NaN."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from mlops_tasks.core.metrics import HEADLINE, METRICS, Predictions, measure, metric_names, prepare

if TYPE_CHECKING:
    from mlops_tasks.artifacts import Task
    from mlops_tasks.core.metrics import Floats

SEEDS = st.integers(0, 2**32 - 1)
ROWS = st.integers(12, 80)


def weigh(rng: np.random.Generator, rows: int) -> Floats:
    """Whole weights, some of them 0, as a bootstrap draws them."""
    return rng.integers(0, 4, rows).astype(np.float64)


def binary(rng: np.random.Generator, rows: int) -> Predictions:
    score = rng.integers(0, 9, rows) / 8  # many ties, and both ends
    return Predictions("binary", rng.integers(0, 2, rows).astype(np.float64), score, threshold=0.375)


def expected_binary(p: Predictions, w: Floats) -> dict[str, float]:
    y, score, decided = p.truth_N, p.score_N, p.decision_N
    single = score.astype(np.float32)
    return {
        "roc_auc": sk.roc_auc_score(y, score, sample_weight=w),
        "average_precision": sk.average_precision_score(y, score, sample_weight=w),
        "log_loss": sk.log_loss(y, np.column_stack([1 - single, single]), sample_weight=w),
        "brier_score": sk.brier_score_loss(y, score, sample_weight=w),
        "f1": sk.f1_score(y, decided, sample_weight=w, zero_division=0),
        "precision": sk.precision_score(y, decided, sample_weight=w, zero_division=0),
        "recall": sk.recall_score(y, decided, sample_weight=w),
        "accuracy": sk.accuracy_score(y, decided, sample_weight=w),
        "balanced_accuracy": sk.balanced_accuracy_score(y, decided, sample_weight=w),
    }


def both_present(truth: Floats, weights: Floats, classes: int) -> bool:
    return all(weights[truth == c].sum() > 0 for c in range(classes))


@settings(max_examples=60, deadline=None)
@given(SEEDS, ROWS)
def test_binary_metrics_equal_scikit_learns(seed: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    p, w = binary(rng, rows), weigh(rng, rows)
    if not both_present(p.truth_N, w, 2):
        return
    found = prepare(p)(np.stack([w, w]))
    for name, value in expected_binary(p, w).items():
        assert found[name] == pytest.approx([value, value], abs=1e-6), name


@settings(max_examples=40, deadline=None)
@given(SEEDS, ROWS)
def test_multiclass_metrics_equal_scikit_learns(seed: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    score = rng.integers(1, 5, (rows, 3)).astype(np.float64)
    score /= score.sum(axis=1, keepdims=True)
    p, w = Predictions("multiclass", rng.integers(0, 3, rows).astype(np.float64), score), weigh(rng, rows)
    if not both_present(p.truth_N, w, 3):
        return
    y, decided = p.truth_N, p.decision_N
    expected = {
        "log_loss": sk.log_loss(y, score, sample_weight=w, labels=[0, 1, 2]),
        "accuracy": sk.accuracy_score(y, decided, sample_weight=w),
        "balanced_accuracy": sk.balanced_accuracy_score(y, decided, sample_weight=w),
        "f1_macro": sk.f1_score(y, decided, average="macro", sample_weight=w, zero_division=0),
        "roc_auc_ovr": sk.roc_auc_score(y, score, multi_class="ovr", sample_weight=w),
    }
    found = prepare(p)(w[None])
    for name, value in expected.items():
        assert found[name][0] == pytest.approx(value, abs=1e-6), name


@settings(max_examples=60, deadline=None)
@given(SEEDS, ROWS, st.sampled_from([0.0, 1e6]))
def test_regression_metrics_equal_scikit_learns(seed: int, rows: int, offset: float) -> None:
    rng = np.random.default_rng(seed)
    truth: Floats = (rng.integers(0, 9, rows) + offset).astype(np.float64)
    p, w = Predictions("regression", truth, truth + rng.integers(-3, 4, rows).astype(np.float64)), weigh(rng, rows)
    if len(set(truth[w > 0])) < 2:
        return
    expected = {
        "rmse": sk.root_mean_squared_error(truth, p.score_N, sample_weight=w),
        "mae": sk.mean_absolute_error(truth, p.score_N, sample_weight=w),
        "r2": sk.r2_score(truth, p.score_N, sample_weight=w),
        "explained_variance": sk.explained_variance_score(truth, p.score_N, sample_weight=w),
        "median_ae": np.median(np.repeat(np.abs(truth - p.score_N), w.astype(int))),
    }
    found = prepare(p)(w[None])
    for name, value in expected.items():
        assert found[name][0] == pytest.approx(value, abs=1e-6), name


@settings(max_examples=30, deadline=None)
@given(SEEDS, ROWS, st.sampled_from(["binary", "multiclass", "regression"]))
def test_a_whole_weight_counts_a_row_so_often(seed: int, rows: int, task: Task) -> None:
    rng = np.random.default_rng(seed)
    score: Any = rng.random(rows) if task != "multiclass" else rng.dirichlet(np.ones(3), rows)
    truth = rng.integers(0, 3 if task == "multiclass" else 2, rows).astype(np.float64)
    w = weigh(rng, rows)
    w[0] = 1.0
    often = np.repeat(np.arange(rows), w.astype(int))
    weighted = prepare(Predictions(task, truth, score))(w[None])
    repeated = measure(Predictions(task, truth[often], score[often]))
    for name, value in repeated.items():
        assert weighted[name][0] == pytest.approx(value, abs=1e-9, nan_ok=True), name


def test_ece_is_the_mean_gap_of_fifteen_bins() -> None:
    truth = np.array([0.0, 1.0, 1.0, 1.0])
    score = np.array([0.11, 0.11, 0.9, 0.95])
    # Bin 1 holds two rows with mean 0.11 and share 0.5; bins 13 and 14 one row each, right.
    expected = (2 * abs(0.5 - 0.11) + abs(1 - 0.9) + abs(1 - 0.95)) / 4
    assert measure(Predictions("binary", truth, score))["ece"] == pytest.approx(expected)


def test_a_calibrated_constant_has_no_calibration_error() -> None:
    truth = np.array([0.0, 1.0, 0.0, 0.0])
    assert measure(Predictions("binary", truth, np.full(4, 0.25)))["ece"] == pytest.approx(0.0)


def test_one_class_leaves_ranking_metrics_undefined_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = measure(Predictions("binary", np.zeros(5), np.linspace(0, 1, 5)))
    assert np.isnan(found["roc_auc"])
    assert np.isnan(found["average_precision"])
    assert np.isnan(found["balanced_accuracy"])
    assert found["accuracy"] == pytest.approx(0.6 - 0.2)


def test_constant_truth_leaves_r2_undefined() -> None:
    assert np.isnan(measure(Predictions("regression", np.full(5, 7.0), np.arange(5.0)))["r2"])


def test_only_the_named_metrics_are_computed() -> None:
    p = binary(np.random.default_rng(0), 30)
    assert list(measure(p, ["roc_auc", "f1"])) == ["roc_auc", "f1"]
    assert list(measure(p)) == metric_names("binary")


def test_each_task_has_its_metrics_and_a_headline() -> None:
    for task, headline in HEADLINE.items():
        assert task in METRICS[headline].tasks
        assert len(metric_names(task)) >= 5
