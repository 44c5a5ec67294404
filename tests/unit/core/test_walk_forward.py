"""Walk-forward: who would have served when, what retraining is worth, and what age costs, on matrices known by heart."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_tasks.artifacts import Window
from mlops_tasks.core.walk_forward import Cell, Known, Matrix, cut_periods, render_walk_forward, summarise
from mlops_tasks.core.walk_forward.matrix import cost_of
from mlops_tasks.core.windows import windows_between

START = datetime(2030, 1, 1, tzinfo=UTC)
MONTHS = windows_between(START, datetime(2030, 7, 1, tzinfo=UTC), "month")


def known(version: int, as_of: datetime) -> Known:
    training = Window(start=START - timedelta(days=90), end=as_of - timedelta(days=30))
    return Known(version=version, as_of=as_of, training=training, fingerprint=f"f{version}", seconds=60.0)


def matrix(values: dict[int, list[float | None]], *, metric: str = "roc_auc", starts: dict[int, int] | None = None) -> Matrix:
    """Make a matrix of models by their values in the months; model n could serve from month `starts[n]`, else n - 1, on."""
    models = [known(version, MONTHS[(starts or {}).get(version, version - 1)].start) for version in values]
    cells = [
        Cell(version=version, period=month, rows=10, metrics={metric: value})
        for version, row in values.items()
        for month, value in zip(MONTHS, row, strict=False)
        if value is not None
    ]
    about: dict[str, Any] = {"pipeline": "shop", "task": "binary", "metric": metric, "by": "month"}
    return Matrix(models=tuple(models), periods=tuple(MONTHS), cells=tuple(cells), **about)


AGEING: dict[int, list[float | None]] = {
    1: [0.80, 0.79, 0.78, 0.77, 0.76, 0.75],
    2: [None, 0.80, 0.79, 0.78, 0.77, 0.76],
    4: [None, None, None, 0.80, 0.79, 0.78],
}
"""Each month of age costs 0.01; there was no model of month 3."""


def test_frozen_and_retrained_are_compared_in_the_same_periods() -> None:
    found = summarise(matrix(AGEING))
    assert found is not None
    assert found.retrained.versions == (1, 2, 2, 4, 4, 4)
    assert found.frozen.versions == (1,) * 6
    assert found.retrained.mean == pytest.approx((0.80 + 0.80 + 0.79 + 0.80 + 0.79 + 0.78) / 6)
    assert found.gain == pytest.approx(found.retrained.mean - sum(AGEING[1]) / 6)  # type: ignore[arg-type]  # version 1 has every value


def test_the_cost_of_age_is_within_a_period_so_hard_months_do_not_count() -> None:
    hard = {
        version: [None if v is None else v - 0.1 * (at == 4) for at, v in enumerate(row)] for version, row in AGEING.items()
    }
    ages = [{age.periods: age.cost for age in summarise(matrix(values)).ages} for values in (AGEING, hard)]  # type: ignore[union-attr]  # there is a summary
    assert ages[0] == pytest.approx(ages[1])
    assert ages[0][0] == pytest.approx(0)
    assert ages[0][5] == pytest.approx(0.03), "version 1 in the last month against version 4"


def test_a_smaller_loss_is_better() -> None:
    losses = {v: [None if x is None else 1 - x for x in row] for v, row in AGEING.items()}
    found = summarise(matrix(losses, metric="log_loss"))
    assert found is not None
    assert found.gain == pytest.approx(summarise(matrix(AGEING)).gain)  # type: ignore[union-attr]  # there is a summary
    assert found.ages[5].cost == pytest.approx(0.03)


def test_no_model_serves_before_all_it_was_made_of_was_known() -> None:
    late = matrix({1: [0.7] * 6, 2: [0.9] * 6}, starts={2: 3})
    found = summarise(late)
    assert found is not None
    assert found.retrained.versions == (1, 1, 1, 2, 2, 2), "a cell of before is there, but does not count"


def test_of_models_of_one_time_the_newest_version_serves() -> None:
    found = summarise(matrix({1: [0.7] * 6, 2: [0.8] * 6}, starts={1: 0, 2: 0}))
    assert found is not None
    assert set(found.retrained.versions) == {2}


def test_nothing_to_compare_is_no_summary() -> None:
    assert summarise(matrix({1: [None] * 6})) is None
    assert summarise(matrix({})) is None


@given(
    st.lists(
        st.lists(st.floats(0, 1) | st.none(), min_size=6, max_size=6),
        min_size=1,
        max_size=6,
    )
)
def test_the_newest_model_costs_nothing_and_means_lie_within_the_values(rows: list[list[float | None]]) -> None:
    made = matrix({n + 1: row for n, row in enumerate(rows)})
    found = summarise(made)
    if found is None:
        return
    for period, version, value in zip(found.periods, found.retrained.versions, found.retrained.values, strict=True):
        assert cost_of(made, version, period) == 0
        assert made.value(version, period) == value
    low, high = min(found.retrained.values), max(found.retrained.values)
    assert low - 1e-9 <= found.retrained.mean <= high + 1e-9


def test_periods_are_whole_and_in_order() -> None:
    days = windows_between(datetime(2030, 1, 30, tzinfo=UTC), datetime(2030, 2, 3, tzinfo=UTC), "day")
    months = cut_periods(reversed(days), "month")
    assert [(f"{p.start:%m-%d}", f"{p.end:%m-%d}", len(w)) for p, w in months.items()] == [
        ("01-01", "02-01", 2),
        ("02-01", "03-01", 2),
    ]
    assert [p.label for p in cut_periods(days, "week")] == ["2030-01-28"]
    assert list(cut_periods(days, "window")) == days


def test_the_page_says_the_gain_and_loads_nothing() -> None:
    made = matrix(AGEING).model_copy(update={"absent": {"version 3": "<its deployment> was not recorded"}})
    summary = summarise(made)
    assert summary is not None
    page = render_walk_forward(made, summary)
    assert "Retraining would have been better by 0.0183 ROC AUC" in page
    assert "version 1, 2030-06: roc_auc 0.7500" in page, "each cell says its figure"
    assert "&lt;its deployment&gt;" in page
    assert not any(word in page for word in ("http://", "https://", "<script", "@import"))
    assert page == render_walk_forward(made, summary)
