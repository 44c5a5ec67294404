from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import binomtest  # type: ignore[import-untyped]  # scipy has no types

from mlops_tasks.core.drift_backtest import Rate, Shift, parse_shift, propose_rate, replay_clean, replay_shift, usual_shifts
from mlops_tasks.core.sketches import Categories, NumericBins, sketch_window
from mlops_tasks.errors import SpecError
from mlops_tasks.specs import AlarmRule, MonitorSpec
from tests.drifting import label, make_day
from tests.unit.core.test_settling import FILE, HISTORY, record, reference

if TYPE_CHECKING:
    from mlops_tasks.artifacts import FileRef
    from mlops_tasks.core.drift import WindowRecord
    from mlops_tasks.core.drift_backtest import Detection, Replay
    from mlops_tasks.core.sketches import Sketches

SPEC = MonitorSpec()
COLUMNS = {"price": "numeric", "rain": "numeric", "shop": "categorical"}
SKETCHES: dict[FileRef, Sketches] = {}
NUMBERS = NumericBins((0.0, 1.0), 0.5, 2.0)


def looked(day: int, shift: Shift | None = None) -> WindowRecord:
    rows = pa.Table.from_pandas(make_day(day))
    if shift:
        rows = shift.apply(rows, reference().layouts[shift.column])
    name = f"{day} {shift.name if shift else ''}"
    ref = FILE.model_copy(update={"key": name})
    SKETCHES[ref] = sketch_window(rows, reference(), label(day))
    return record(day, name).model_copy(update={"sketch": ref})


def clean(spec: MonitorSpec = SPEC, days: int = 30) -> Replay:
    return replay_clean(spec, reference(), [looked(day) for day in range(HISTORY, HISTORY + days)], SKETCHES)


def detect(shift: Shift, spec: MonitorSpec = SPEC) -> Detection:
    return replay_shift(clean(spec), reference(), SKETCHES, [looked(day, shift) for day in range(60, 64)])


@pytest.mark.parametrize(
    ("shift", "rows", "expected"),
    [
        (Shift("x", "scaled", 1.5), [2.0, None, 4.0], [3.0, None, 6.0]),
        (Shift("x", "moved", -1.0), [2, None, 4], [0.0, None, 2.0]),
        (Shift("x", "missing", 1.0), [2.0, None, 4.0], [None, None, None]),
        (Shift("x", "missing", 0.0), [2.0, None, 4.0], [2.0, None, 4.0]),
    ],
)
def test_numbers_are_changed(shift: Shift, rows: list[float | None], expected: list[float | None]) -> None:
    assert shift.apply(pa.table({"x": rows}), NUMBERS)["x"].to_pylist() == expected


def test_a_share_of_the_most_frequent_category_is_renamed() -> None:
    rows = pa.table({"x": ["a", "b", None] * 100})
    made = Shift("x", "renamed", 0.5).apply(rows, Categories(("a", "b")))["x"].to_pylist()

    assert made.count("a renamed") == 50
    assert (made.count("a"), made.count("b"), made.count(None)) == (50, 100, 100)


@pytest.mark.parametrize("share", [0.08, 0.1, 0.5])
def test_missing_values_are_the_share_that_was_asked_for(share: float) -> None:
    made = Shift("x", "missing", share).apply(pa.table({"x": np.arange(1000.0)}), NUMBERS)

    assert made["x"].null_count / 1000 == pytest.approx(share, abs=0.005)


def test_a_shift_is_read_as_it_is_named() -> None:
    for shift in usual_shifts(reference().layouts, COLUMNS):
        assert parse_shift(shift.name, COLUMNS).name == shift.name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("price", "must be COLUMN:KIND:SIZE"),
        ("prize:scaled:2", "there is no such feature; there are price, rain, shop"),
        ("shop:scaled:2", "a categorical column can be missing, renamed, got 'scaled'"),
        ("price:missing:2", "of missing and renamed at most 1, got '2'"),
        ("price:moved:nan", "the size must be a number"),
    ],
)
def test_a_shift_that_cannot_be_is_refused(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse_shift(text, COLUMNS)


@pytest.mark.parametrize(("count", "of"), [(0, 20), (1, 24), (7, 215), (215, 215)])
def test_the_interval_is_wilson_s(count: int, of: int) -> None:
    expected = binomtest(count, of).proportion_ci(method="wilson")

    assert Rate(count, of).interval == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_the_largest_rate_that_is_tolerated_is_proposed() -> None:
    seen = {0.01: Rate(0, 100), 0.02: Rate(1, 100), 0.05: Rate(4, 100)}

    assert propose_rate(seen, 0.01) == 0.02
    assert propose_rate({0.05: Rate(4, 100)}, 0.01) is None
    assert propose_rate({0.01: Rate(0, 0)}, 0.01) is None  # never warm: nothing is known


def test_clean_history_alarms_about_as_often_as_is_asked() -> None:
    made = clean(days=100)

    assert made.windows.of == 100
    assert made.windows.share < 0.1
    assert made.decisions.share <= made.windows.share


@pytest.mark.parametrize(
    ("shift", "row_after"),
    [
        (Shift("price", "scaled", 1.609), 2),
        (Shift("shop", "renamed", 0.5), 2),
        (Shift("shop", "missing", 0.5), 2),
        (Shift("price", "moved", 0.001), None),
    ],
)
def test_a_shift_is_seen_as_the_monitor_would_see_it(shift: Shift, row_after: int | None) -> None:
    found = detect(shift)

    assert found.row_after == row_after
    if row_after:
        assert (found.start, found.alarm_after, found.named) == (label(60), 1, shift.column)


def test_a_row_takes_as_many_windows_as_the_rule_says() -> None:
    found = detect(Shift("price", "scaled", 1.609), MonitorSpec(alarms=AlarmRule(at_least=3, of=4)))

    assert (found.alarm_after, found.row_after) == (1, 3)
