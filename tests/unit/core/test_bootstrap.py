"""Intervals hold the truth about as often as they say, are paired, seeded, and quick."""

from __future__ import annotations

import time

import numpy as np
import pytest

from mlops_tasks.core.bootstrap import Estimate, Resampling, compare
from mlops_tasks.core.metrics import Predictions


def predictions(seed: int, rows: int, noise: float = 1.0) -> Predictions:
    rng = np.random.default_rng(seed)
    truth = (rng.random(rows) < 0.3).astype(np.float64)
    return Predictions("binary", truth, 1 / (1 + np.exp(-(truth - 0.5 + noise * rng.normal(size=rows)))))


def test_an_interval_surrounds_its_value_and_narrows_with_rows() -> None:
    widths = []
    for rows in (200, 5000):
        estimate = compare({"candidate": predictions(0, rows)}, Resampling(200, 0.95)).estimates["candidate"]["roc_auc"]
        assert estimate.value is not None
        assert estimate.low is not None
        assert estimate.high is not None
        assert estimate.low < estimate.value < estimate.high
        widths.append(estimate.high - estimate.low)
    assert widths[1] < widths[0] / 3


def test_the_interval_of_a_share_is_the_normal_one() -> None:
    p = predictions(1, 4000)
    estimate = compare({"candidate": p}, Resampling(2000, 0.95), ["accuracy"]).estimates["candidate"]["accuracy"]
    assert estimate.value is not None
    assert estimate.low is not None
    half = 1.96 * np.sqrt(estimate.value * (1 - estimate.value) / 4000)
    assert estimate.value - estimate.low == pytest.approx(half, rel=0.1)


def test_differences_are_paired() -> None:
    """The same model twice differs by exactly nothing, however wide its own interval is."""
    p = predictions(2, 300)
    difference = compare({"candidate": p, "hgb": p}, Resampling(100, 0.9)).differences["hgb"]["roc_auc"]
    assert (difference.value, difference.low, difference.high) == (0.0, 0.0, 0.0)


def test_a_difference_is_the_first_models_minus_the_others() -> None:
    good = predictions(3, 2000, noise=0.5)
    bad = Predictions("binary", good.truth_N, 1 - good.score_N)
    difference = compare({"candidate": good, "champion": bad}, Resampling(50, 0.95)).differences["champion"]["roc_auc"]
    assert difference.low is not None
    assert difference.low > 0


def test_the_same_seed_gives_the_same_interval() -> None:
    p = predictions(4, 500)
    one, two, other = (compare({"candidate": p}, Resampling(50, 0.95, seed)).estimates["candidate"] for seed in (0, 0, 1))
    assert one == two
    assert one != other


def test_no_resamples_give_no_interval() -> None:
    estimate = compare({"candidate": predictions(5, 100)}, Resampling(0, 0.95)).estimates["candidate"]["roc_auc"]
    assert estimate.value is not None
    assert estimate.low is None
    assert estimate.high is None


def test_resamples_without_the_only_positive_are_left_out_of_the_interval() -> None:
    truth = np.array([1.0] + [0.0] * 9)
    found = compare({"candidate": Predictions("binary", truth, np.linspace(0, 1, 10))}, Resampling(200, 0.95))
    assert found.estimates["candidate"]["roc_auc"].low is not None


def test_an_undefined_metric_has_neither_value_nor_interval() -> None:
    lone = Predictions("binary", np.zeros(10), np.linspace(0, 1, 10))
    assert compare({"candidate": lone}, Resampling(50, 0.95)).estimates["candidate"]["roc_auc"] == Estimate(value=None)


def test_rows_of_a_group_are_drawn_together() -> None:
    """Copies of a row carry no news: drawn by group, the interval is as wide as without them."""
    p = predictions(6, 200)
    copied = Predictions("binary", np.repeat(p.truth_N, 10), np.repeat(p.score_N, 10))
    groups = np.repeat(np.arange(200), 10)
    single = compare({"candidate": p}, Resampling(200, 0.95)).estimates["candidate"]["accuracy"]
    grouped = compare({"candidate": copied}, Resampling(200, 0.95), group_N=groups).estimates["candidate"]["accuracy"]
    naive = compare({"candidate": copied}, Resampling(200, 0.95)).estimates["candidate"]["accuracy"]
    assert (grouped.low, grouped.high) == (single.low, single.high)
    assert naive.low is not None
    assert grouped.low is not None
    assert naive.low > grouped.low


def test_one_group_gives_no_interval() -> None:
    found = compare({"candidate": predictions(7, 50)}, Resampling(50, 0.95), group_N=np.zeros(50, dtype=np.int64))
    assert found.estimates["candidate"]["roc_auc"].low is None


def test_three_models_of_thirty_thousand_rows_take_seconds_not_minutes() -> None:
    models = {name: predictions(0, 30_000, noise) for name, noise in (("candidate", 1.0), ("champion", 1.1), ("hgb", 1.2))}
    started = time.perf_counter()
    compare(models, Resampling(200, 0.95))
    assert time.perf_counter() - started < 12  # about 1 s on a free core; the margin is for a busy one
