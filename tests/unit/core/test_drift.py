from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy.stats import wasserstein_distance  # type: ignore[import-untyped]  # scipy has no types

from mlops_tasks.core.drift import (
    WindowScore,
    calibrate,
    column_distances,
    psi,
    score_window,
    training_baseline,
)
from mlops_tasks.core.sketches import ColumnSketch, Layout, Reference, build_reference, lay_out, sketch_window, sketch_windows
from mlops_tasks.specs import MonitorSpec
from tests.drifting import SCHEMA, label_of, make_day, make_days

if TYPE_CHECKING:
    from collections.abc import Sequence

SPEC = MonitorSpec()
HISTORY = 60


@pytest.fixture(scope="module")
def reference() -> Reference:
    frame = make_days(HISTORY)
    return Reference.from_json(build_reference(frame, SCHEMA, label_of(frame)))


def score(reference: Reference, frame: pd.DataFrame, spec: MonitorSpec = SPEC) -> WindowScore:
    sketch = sketch_window(pa.Table.from_pandas(frame), reference, "2024-06-01")
    baseline = training_baseline(reference)
    return score_window(baseline, calibrate(baseline, spec), sketch, spec)


def pair(then: Sequence[object], now: Sequence[object], *, numeric: bool) -> tuple[Layout, ColumnSketch, ColumnSketch]:
    layout = lay_out(pa.chunked_array([pa.array(list(then))]), "x", numeric=numeric)
    made = [
        sketch_windows(pa.table({"x": list(v)}), {"x": layout}, ("w",), np.zeros(len(v), dtype=np.int64), "x")
        for v in (now, then)
    ]
    return layout, made[0].columns["x"], made[1].columns["x"]


@pytest.mark.parametrize("shift", [0.0, 0.1, 1.0])
def test_numeric_distance_is_wasserstein_in_standard_deviations(shift: float) -> None:
    rng = np.random.default_rng(0)
    then, now = rng.gamma(2, 10, 5000), rng.gamma(2, 10, 5000) + shift * 10
    layout, current, against = pair(then.tolist(), now.tolist(), numeric=True)

    expected = wasserstein_distance(then, now) / then.std()

    assert column_distances(layout, current, against)[0] == pytest.approx(expected, rel=0.05, abs=0.01)


def test_categorical_distance_is_total_variation_of_the_known_values() -> None:
    layout, current, against = pair(["a"] * 6 + ["b"] * 4, ["a"] * 3 + ["b"] * 4 + ["new"] * 3 + [None] * 9, numeric=False)

    assert column_distances(layout, current, against)[0] == pytest.approx(0.3)


def test_psi_is_zero_for_the_same_and_large_for_another() -> None:
    values = np.random.default_rng(0).normal(0, 1, 1000).tolist()
    same, other = pair(values, values, numeric=True), pair(values, [5.0] * 1000, numeric=True)

    assert psi(*same)[0] == pytest.approx(0)
    assert psi(*other)[0] > 1


def test_windows_like_the_history_alarm_about_as_often_as_asked(reference: Reference) -> None:
    alarms = [score(reference, make_day(day)).status == "alarm" for day in range(HISTORY, HISTORY + 200)]

    assert 0 < sum(alarms) / 200 < 2 * SPEC.false_alarm_rate


@pytest.mark.parametrize(
    ("change", "column"),
    [
        ({"price": lambda f: f["price"] * 1.6}, "price"),
        ({"price": np.nan}, "price"),
        ({"price": lambda f: f["price"].where(np.arange(len(f)) % 3 > 0)}, "price"),
        ({"price": lambda f: f["price"].where(np.arange(len(f)) % 3 > 0, np.inf)}, "price"),
        ({"shop": "unheard-of"}, "shop"),
        ({"shop": lambda f: f["shop"].where(f["shop"] != "north", "North")}, "shop"),
        ({"shop": None}, "shop"),
        ({"bought": lambda f: f["rain"] < 100}, "bought"),
    ],
)
def test_a_shift_alarms_and_its_column_comes_first(reference: Reference, change: dict[str, object], column: str) -> None:
    made = score(reference, make_day(200).assign(**change))  # type: ignore[arg-type]  # the stubs know no mixed keywords

    assert made.status == "alarm"
    assert made.alarmed[0].column == column
    assert made.p_value <= SPEC.false_alarm_rate


def test_an_ignored_column_is_shown_and_never_alarms(reference: Reference) -> None:
    made = score(reference, make_day(200).assign(price=1e6), MonitorSpec(ignore=("price",)))
    price = next(c for c in made.columns if c.column == "price")

    assert made.status == "ok"
    assert (price.alarmed, price.decides) == (False, False)
    assert price.standardised > made.threshold


def test_a_small_move_is_no_alarm_however_surprising(reference: Reference) -> None:
    assert score(reference, make_day(200).assign(price=1e6), MonitorSpec(effect_size=1e9)).status == "ok"


def test_labels_that_are_not_known_yet_are_no_alarm(reference: Reference) -> None:
    for frame in (make_day(200).assign(bought=None), make_day(200).drop(columns="bought")):
        made = score(reference, frame)
        assert made.status == "ok"
        assert next(c for c in made.columns if c.column == "bought").distance == 0


def test_an_empty_window_is_in_order(reference: Reference) -> None:
    made = score(reference, make_day(200).iloc[:0])

    assert (made.status, made.rows, made.maximum) == ("ok", 0, 0)


def test_one_row_is_no_alarm(reference: Reference) -> None:
    frame = make_day(200)

    assert {score(reference, frame.iloc[k : k + 1]).status for k in range(50)} == {"ok"}


def test_one_absurd_value_is_no_alarm(reference: Reference) -> None:
    frame = make_day(200)
    frame.loc[7, "price"] = 1e30

    assert score(reference, frame).status == "ok"


@pytest.mark.parametrize(("spec", "days"), [(MonitorSpec(), 29), (MonitorSpec(false_alarm_rate=0.01), HISTORY)])
def test_too_little_history_is_warming_up(spec: MonitorSpec, days: int) -> None:
    frame = make_days(days)
    reference = Reference.from_json(build_reference(frame, SCHEMA, label_of(frame)))
    made = score(reference, make_day(200).assign(price=1e6), spec)

    assert (made.status, made.alarmed, made.threshold) == ("warming_up", (), math.inf)


def test_a_heavy_tailed_column_does_not_hide_the_others(reference: Reference) -> None:
    calibration = calibrate(training_baseline(reference), SPEC)

    assert 2 < calibration.threshold < 3.5  # 4.6 if the rain's own tail did not count


def test_identical_windows_have_a_finite_score() -> None:
    day = make_day(0)
    frame = pd.concat([day.assign(at=day["at"] + pd.Timedelta(days=k)) for k in range(40)])
    reference = Reference.from_json(build_reference(frame, SCHEMA, label_of(frame)))

    assert score(reference, make_day(0)).status == "ok"
    assert math.isfinite(score(reference, make_day(1)).maximum)
