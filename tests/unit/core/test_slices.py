"""Groups of rows: each value once, small ones hidden, undefined ones said so."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from mlops_tasks.artifacts import Window
from mlops_tasks.core.bootstrap import Resampling
from mlops_tasks.core.metrics import Predictions
from mlops_tasks.core.slices import MISSING, measure_periods, measure_slice
from mlops_tasks.specs import Slice

NONE = Resampling(0, 0.95)


def predictions(rows: int, seed: int = 0) -> Predictions:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, rows).astype(np.float64)
    return Predictions("binary", truth, np.clip(truth * 0.2 + rng.random(rows) * 0.8, 0, 1))


def test_every_value_with_rows_is_measured_and_judged_by_its_rows() -> None:
    column = pd.Series(["Rome"] * 300 + ["Oslo"] * 250 + ["Bern"] * 50 + [None] * 40 + ["Nuuk"] * 5)
    item = Slice(column="city", metric="accuracy", floor=0.2, min_rows=200)
    table = measure_slice(item, column, predictions(645), NONE, greater=True)
    assert [(v.value, v.rows, v.judged) for v in table.groups] == [
        ("Rome", 300, True),
        ("Oslo", 250, True),
        ("Bern", 50, False),
        (MISSING, 40, False),
    ]
    assert (table.unlisted_values, table.unlisted_rows) == (1, 5)
    assert table.groups[2].note == "fewer than 200 rows, not judged"


def test_a_slice_equals_the_metric_of_its_rows() -> None:
    p = predictions(400)
    column = pd.Series(["a", "b"] * 200)
    table = measure_slice(Slice(column="k", metric="accuracy", min_rows=10), column, p, NONE, greater=True)
    for at, value in enumerate(sorted(table.groups, key=lambda v: v.value)):
        mask = np.arange(400) % 2 == at
        assert value.estimate.value == pytest.approx((p.decision_N[mask] == p.truth_N[mask]).mean())


@pytest.mark.parametrize(("greater", "ok"), [(True, False), (False, True)])
def test_a_floor_is_a_ceiling_where_less_is_better(greater: bool, ok: bool) -> None:
    metric = "accuracy" if greater else "log_loss"
    item = Slice(column="k", metric=metric, floor=0.999, min_rows=10)
    table = measure_slice(item, pd.Series(["a"] * 100), predictions(100), NONE, greater=greater)
    assert table.groups[0].ok is ok


def test_one_class_in_a_judged_slice_fails_closed() -> None:
    p = Predictions("binary", np.array([0.0] * 100 + [1.0] * 100), np.linspace(0, 1, 200))
    item = Slice(column="k", metric="roc_auc", floor=0.5, min_rows=50)
    table = measure_slice(item, pd.Series(["a"] * 100 + ["b"] * 100), p, NONE, greater=True)
    assert [(v.ok, v.estimate.value) for v in table.groups] == [(False, None), (False, None)]
    assert table.groups[0].note == "not defined on these rows, so the floor can't be shown to hold"


def test_many_small_values_are_counted_not_listed() -> None:
    column = pd.Series([f"id{at:03d}" for at in range(100) for _ in range(12)])
    table = measure_slice(Slice(column="id", metric="accuracy"), column, predictions(1200), NONE, greater=True)
    assert len(table.groups) == 20
    assert (table.unlisted_values, table.unlisted_rows) == (80, 960)


def test_numbers_are_grouped_by_value_or_by_quartile() -> None:
    p = predictions(1000)
    item = Slice(column="x", metric="accuracy", min_rows=10)
    few = measure_slice(item, pd.Series([1.0, 2.0] * 500), p, NONE, greater=True)
    assert sorted(v.value for v in few.groups) == ["1", "2"]
    numbers = pd.Series(np.arange(1000.0)).where(lambda x: x >= 100)
    many = measure_slice(item, numbers, p, NONE, greater=True)
    assert len(many.groups) == 5
    assert sum(v.rows for v in many.groups) == 1000
    assert MISSING in {v.value for v in many.groups}


@pytest.mark.parametrize(("days", "unit", "count"), [(2, "hour", 48), (30, "day", 30), (140, "week", 21)])
def test_periods_cover_every_row_once(days: int, unit: str, count: int) -> None:
    start = datetime(2013, 6, 1, tzinfo=UTC)
    window = Window(start=start, end=start + timedelta(days=days))
    times = pd.Series(pd.date_range(start, periods=days * 24, freq="h"))
    found, periods = measure_periods(times, window, {"candidate": predictions(days * 24)}, "accuracy")
    assert (found, len(periods)) == (unit, count)
    assert sum(p.rows for p in periods) == days * 24
    assert [p.start for p in periods] == sorted(p.start for p in periods)


def test_a_period_where_the_metric_is_undefined_is_a_gap() -> None:
    window = Window(start=datetime(2013, 6, 1, tzinfo=UTC), end=datetime(2013, 6, 11, tzinfo=UTC))
    times = pd.Series(pd.to_datetime(["2013-06-01", "2013-06-01", "2013-06-02", "2013-06-02"], utc=True))
    p = Predictions("binary", np.array([0.0, 1.0, 1.0, 1.0]), np.array([0.1, 0.9, 0.5, 0.5]))
    _, periods = measure_periods(times, window, {"candidate": p}, "roc_auc")
    assert [period.by_model["candidate"] for period in periods] == [1.0, None]
