"""Test rows to groups that are measured by themselves: values of a column, and periods of event time."""

# ruff: noqa: N803, N806 - an array's name ends with its shape, whose axes are capitals

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from mlops_tasks.artifacts import Frozen
from mlops_tasks.core.bootstrap import Estimate, Resampling, compare
from mlops_tasks.core.metrics import measure
from mlops_tasks.core.scoring import category_texts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mlops_tasks.artifacts import Window
    from mlops_tasks.core.metrics import Ints, Predictions
    from mlops_tasks.specs import Slice

MISSING = "(missing)"
FEWEST_ROWS = 10
"""Groups with fewer rows are only counted: a figure about a handful of rows says who they are."""

MOST_SMALL = 20
"""Most groups below `min_rows` that are listed."""

FEW_NUMBERS = 12
"""A numeric column with at most so many distinct values is grouped by value, else by quartile."""

PERIODS = (("hour", pd.Timedelta(days=3)), ("day", pd.Timedelta(days=70)), ("week", pd.Timedelta.max))
"""Unit of the metric over time -> longest test range that it is used for."""


class SliceValue(Frozen):
    """One group of rows."""

    value: str
    rows: int
    estimate: Estimate
    judged: bool
    ok: bool
    note: str = ""


class SliceTable(Frozen):
    """All groups of one slice of the spec, largest first."""

    column: str
    metric: str
    floor: float | None
    min_rows: int
    groups: tuple[SliceValue, ...]
    unlisted_values: int
    unlisted_rows: int


class Period(Frozen):
    """One hour, day or week of the test range: each model's value of one metric, None where undefined."""

    start: str
    rows: int
    by_model: dict[str, float | None]


def measure_slice(
    item: Slice,
    column: pd.Series,
    predictions: Predictions,
    resampling: Resampling,
    *,
    greater: bool,
    group_N: Ints | None = None,
) -> SliceTable:
    """Measure every value of a column that has enough rows.

    Args:
        item: the slice of the spec.
        column: the column's values, N rows.
        predictions: the candidate's predictions of the same rows.
        resampling: how intervals are made.
        greater: whether the slice's metric is better when greater; if not, the floor is a ceiling.
        group_N: rows with the same number are drawn together.

    """
    listed: list[SliceValue] = []
    small = unlisted = unlisted_rows = 0
    for value, mask_N in _groups(column):
        rows = int(mask_N.sum())
        small += rows < item.min_rows
        if rows < FEWEST_ROWS or (rows < item.min_rows and small > MOST_SMALL):
            unlisted, unlisted_rows = unlisted + 1, unlisted_rows + rows
            continue
        groups = None if group_N is None else np.unique(group_N[mask_N], return_inverse=True)[1]
        found = compare({"candidate": predictions.rows(mask_N)}, resampling, [item.metric], groups)
        listed.append(_judge_value(item, value, rows, found.estimates["candidate"][item.metric], greater=greater))
    return SliceTable(
        column=item.column,
        metric=item.metric,
        floor=item.floor,
        min_rows=item.min_rows,
        groups=tuple(listed),
        unlisted_values=unlisted,
        unlisted_rows=unlisted_rows,
    )


def _judge_value(item: Slice, value: str, rows: int, estimate: Estimate, *, greater: bool) -> SliceValue:
    judged = item.floor is not None and rows >= item.min_rows
    ok, note = True, ""
    if rows < item.min_rows:
        note = f"fewer than {item.min_rows:,} rows, not judged"
    if estimate.value is None:
        note = "not defined on these rows" if not judged else "not defined on these rows, so the floor can't be shown to hold"
        ok = not judged
    elif judged and item.floor is not None:
        ok = estimate.value >= item.floor if greater else estimate.value <= item.floor
    return SliceValue(value=value, rows=rows, estimate=estimate, judged=judged, ok=ok, note=note)


def _groups(column: pd.Series) -> Iterator[tuple[str, npt.NDArray[np.bool_]]]:
    """Yield each group's name and mask, largest first."""
    names = _binned(column) if pd.api.types.is_numeric_dtype(column) else category_texts(column.tolist(), MISSING)
    codes, uniques = pd.factorize(names, sort=True)
    counts = np.bincount(codes, minlength=len(uniques))
    for at in np.argsort(-counts, kind="stable"):
        yield str(uniques[at]), codes == at


def _binned(column: pd.Series) -> npt.NDArray[np.object_]:
    """Name each number's group: its value where there are few values, else its quartile."""
    numbers = column.astype("float64")
    if numbers.nunique() <= FEW_NUMBERS:
        return category_texts(numbers.tolist(), MISSING)
    bins = pd.qcut(numbers, 4, duplicates="drop", precision=3)
    return np.array([MISSING if pd.isna(b) else f"{b.left:.4g} to {b.right:.4g}" for b in bins], dtype=object)


def measure_periods(
    times: pd.Series, window: Window, models: Mapping[str, Predictions], metric: str
) -> tuple[str, tuple[Period, ...]]:
    """Measure models by hour, day or week of event time; return the unit and its periods in order."""
    span = pd.Timestamp(window.end) - pd.Timestamp(window.start)
    unit = next(name for name, longest in PERIODS if span <= longest)
    starts = _starts(times, unit)
    periods = []
    for start in sorted(starts.unique()):
        mask_N = (starts == start).to_numpy()
        values = {name: _finite(measure(p.rows(mask_N), [metric])[metric]) for name, p in models.items()}
        periods.append(Period(start=pd.Timestamp(start).isoformat(), rows=int(mask_N.sum()), by_model=values))
    return unit, tuple(periods)


def _starts(times: pd.Series, unit: str) -> pd.Series:
    utc = pd.to_datetime(times, utc=True).dt.tz_localize(None)
    if unit == "week":
        return utc.dt.normalize() - pd.to_timedelta(utc.dt.weekday, unit="D")
    return utc.dt.floor("h" if unit == "hour" else "D")


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
