from __future__ import annotations

from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_tasks.artifacts import FileRef, Window
from mlops_tasks.core.drift import Judged, WindowRecord, settle
from mlops_tasks.core.sketches import Reference, Sketches, build_reference, sketch_window
from mlops_tasks.specs import AlarmRule, MonitorSpec
from tests.drifting import SCHEMA, label, label_of, make_day, make_days, window

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

HISTORY = 40
SPEC = MonitorSpec()
FILE = FileRef(key="k", bytes=1, sha256="s")


@cache
def reference() -> Reference:
    frame = make_days(HISTORY)
    return Reference.from_json(build_reference(frame, SCHEMA, label_of(frame)))


@cache
def sketch(features: str) -> Sketches:
    """Sketch what `day` or `day*factor` names: a day of the shop, its prices times a factor."""
    day, _, factor = features.partition("*")
    frame = make_day(int(day))
    return sketch_window(pa.Table.from_pandas(frame.assign(price=frame["price"] * float(factor or 1))), reference(), "w")


def record(day: int, features: str = "", at: Window | None = None) -> WindowRecord:
    return WindowRecord(
        window=at or window(day),
        model_version=1,
        features=features or str(day),
        status="warming_up",
        columns=(),
        reason="",
        sketch=FILE,
    )


def judge(
    known: dict[str, WindowRecord], acknowledged: Collection[str] = (), spec: MonitorSpec = SPEC, wanted: Collection[str] = ()
) -> list[Judged]:
    """Settle what is known, in place; return what was judged."""
    judged = list(
        settle(
            spec,
            reference(),
            known.values(),
            acknowledged,
            identity="reference",
            sketch_of=lambda r: sketch(r.features),
            wanted=wanted,
        )
    )
    known |= {item.record.window.label: item.record for item in judged}
    return judged


def known_of(records: Iterable[WindowRecord]) -> dict[str, WindowRecord]:
    return {r.window.label: r for r in records}


def in_order(records: Iterable[WindowRecord], acknowledged: Collection[str] = (), spec: MonitorSpec = SPEC) -> list[str]:
    known = known_of(records)
    judge(known, acknowledged, spec)
    return [r.status for _, r in sorted(known.items())]


FEATURES = st.lists(st.sampled_from(["", "*1.0001", "*1.6"]), min_size=1, max_size=7)


@given(kinds=FEATURES, data=st.data())
@settings(max_examples=25, deadline=None)
def test_windows_in_any_order_and_twice_and_acknowledged_at_any_time_leave_the_same_records(
    kinds: list[str], data: st.DataObject
) -> None:
    records = [record(50 + k, f"{50 + k}{kind}") for k, kind in enumerate(kinds)]
    acknowledged = data.draw(st.sets(st.sampled_from([r.window.label for r in records])))
    arriving: list[WindowRecord | str] = data.draw(st.permutations([*records, *records, *acknowledged]))
    expected = known_of(records)
    judge(expected, acknowledged)

    known: dict[str, WindowRecord] = {}
    said: set[str] = set()
    for item in arriving:
        if isinstance(item, str):
            said.add(item)
        else:
            known.setdefault(item.window.label, item)
        judge(known, said)

    assert known == expected


def test_what_follows_already_is_not_judged_again() -> None:
    known = known_of(record(day) for day in (50, 51, 52))

    assert len(judge(known)) == 3
    assert judge(known) == []
    assert [item.record.window for item in judge(known, wanted={label(51)})] == [window(51)]
    assert len(judge(known, spec=MonitorSpec(effect_size=0.2))) == 3  # other rules, other alarms


def test_a_window_is_compared_with_those_that_ended_before_it() -> None:
    judged = judge(known_of(record(day) for day in (50, 51, 53)))

    assert [item.baseline.merged.rows[0] for item in judged] == [200 * (HISTORY + k) for k in range(3)]
    assert [item.baseline.history.windows[HISTORY:] for item in judged] == [(), ("w",), ("w", "w")]


def test_a_window_that_was_trained_on_counts_once() -> None:
    judged = judge(known_of([record(3), record(50)]))

    assert [len(item.baseline.history.windows) for item in judged] == [HISTORY, HISTORY]


def test_a_window_without_rows_counts_for_nothing() -> None:
    empty = sketch_window(pa.Table.from_pandas(make_day(50).iloc[:0]), reference(), "w")
    judged = list(
        settle(
            SPEC,
            reference(),
            [record(50), record(51)],
            (),
            identity="",
            sketch_of=lambda r: empty if r.features == "50" else sketch(r.features),
        )
    )

    assert [item.record.status for item in judged] == ["ok", "ok"]
    assert len(judged[1].baseline.history.windows) == HISTORY


def test_a_lone_alarm_is_ordinary_but_no_reference() -> None:
    judged = judge(known_of([record(50, "50*1.6"), record(51), record(52)]))

    assert [item.record.status for item in judged] == ["alarm", "ok", "ok"]
    assert [len(item.baseline.history.windows) - HISTORY for item in judged] == [0, 0, 2]  # not before its row can't be
    assert [item.baseline.merged.rows[0] // 200 - HISTORY for item in judged] == [0, 0, 1]
    assert judged[2].calibration.maxima.max() > 10


def test_a_row_of_alarms_is_neither() -> None:
    judged = judge(known_of([record(50, "50*1.6"), record(51, "51*1.6"), record(52), record(54)]))

    assert [item.record.status for item in judged] == ["alarm", "alarm", "ok", "ok"]
    assert [len(item.baseline.history.windows) - HISTORY for item in judged] == [0, 0, 0, 1]


def test_alarms_of_the_rule_make_a_row_with_a_gap_between() -> None:
    spec = MonitorSpec(alarms=AlarmRule(at_least=2, of=3))
    days = [record(50, "50*1.6"), record(51), record(52, "52*1.6"), record(53), record(54), record(55)]
    judged = judge(known_of(days), spec=spec)

    assert [item.record.alarm for item in judged] == [True, False, True, False, False, False]
    assert [len(item.baseline.history.windows) - HISTORY for item in judged] == [0, 0, 1, 1, 2, 3]


def test_without_acknowledgement_a_shift_alarms_for_ever_and_with_it_at_once_no_more() -> None:
    days = [record(day, f"{day}*1.6") for day in range(50, 60)]

    assert in_order(days) == ["alarm"] * 10
    assert in_order(days, {label(50), label(51)}) == ["alarm", *["ok"] * 9]  # what 50 was, 51 is like


def test_another_shift_than_the_acknowledged_one_still_alarms() -> None:
    days = [record(50, "50*1.6"), record(51, "51*0.5")]

    assert in_order(days, {label(50)}) == ["alarm", "alarm"]


def a_year_later(day: int) -> WindowRecord:
    at = Window(start=window(day).start + timedelta(days=365), end=window(day).end + timedelta(days=365))
    return record(day, f"{day}*1.6", at)


def last_year(day: int, status: str = "ok") -> WindowRecord:
    return record(day, f"{day}*1.6").model_copy(update={"seen_by": 1, "status": status})


def test_the_same_season_a_year_before_is_ordinary() -> None:
    """Prices of a season are higher each year: with last year's season known and accepted, this year's is no alarm."""
    assert in_order([last_year(103), a_year_later(104)])[-1] == "ok"
    assert in_order([last_year(103), a_year_later(104)], spec=MonitorSpec(season=timedelta(0)))[-1] == "alarm"
    assert in_order([last_year(103), a_year_later(200)])[-1] == "alarm"  # another season
    assert in_order([a_year_later(104)]) == ["alarm"]


def test_a_season_that_alarmed_then_is_no_excuse() -> None:
    assert in_order([last_year(103, "alarm"), a_year_later(104)])[-1] == "alarm"
    assert in_order([last_year(103, "alarm"), a_year_later(104)], {label(103)})[-1] == "ok"


def test_history_that_is_accepted_ends_the_warming_up() -> None:
    spec = MonitorSpec(min_history=HISTORY + 2)

    assert in_order([record(day) for day in (50, 51, 52)], spec=spec) == ["warming_up", "warming_up", "ok"]


@pytest.mark.parametrize("days", [60])
def test_false_alarms_do_not_lower_the_threshold(days: int) -> None:
    judged = judge(known_of(record(day) for day in range(HISTORY, HISTORY + days)))
    alarms = sum(item.record.alarm for item in judged)

    assert 0 < alarms / days < 2 * SPEC.false_alarm_rate
    assert judged[-1].score.threshold > 0.8 * judged[0].score.threshold
    assert np.isfinite(pd.Series([item.score.maximum for item in judged])).all()
