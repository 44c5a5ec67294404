from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_tasks.artifacts import Window
from mlops_tasks.core.windows import (
    contiguous,
    covering,
    floor,
    following,
    lookback_windows,
    span,
    window_of,
    windows_between,
)
from mlops_tasks.errors import SpecError
from mlops_tasks.specs import Cadence

TIMES = st.datetimes(datetime(2000, 1, 1), datetime(2040, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - the zone is given beside
CADENCES: st.SearchStrategy[Cadence] = st.sampled_from(["hour", "day", "week", "month"])
LONGEST = {"hour": 100, "day": 400, "week": 900, "month": 3000}


@settings(deadline=None)
@given(TIMES, CADENCES)
def test_a_time_lies_in_its_window_and_windows_are_aligned(time: datetime, cadence: Cadence) -> None:
    window = window_of(time, cadence)
    assert window.start <= time < window.end
    assert floor(window.start, cadence) == window.start
    assert floor(window.end, cadence) == window.end
    assert floor(window.end - timedelta(microseconds=1), cadence) == window.start


@settings(deadline=None)
@given(TIMES, CADENCES, st.data())
def test_covering_tiles_the_range_without_gap_or_overlap(start: datetime, cadence: Cadence, data: st.DataObject) -> None:
    end = start + timedelta(hours=data.draw(st.integers(1, LONGEST[cadence])))
    windows = covering(start, end, cadence)
    assert windows[0].start <= start < windows[0].end
    assert windows[-1].start < end <= windows[-1].end
    assert all(a.end == b.start for a, b in itertools.pairwise(windows))
    assert windows_between(windows[0].start, windows[-1].end, cadence) == windows
    assert len({w.label for w in windows}) == len(windows)


@settings(deadline=None)
@given(TIMES, CADENCES, st.sets(st.integers(0, 40)))
def test_contiguous_keeps_every_window_once_in_runs(start: datetime, cadence: Cadence, picks: set[int]) -> None:
    pool = [window_of(start, cadence)]
    for _ in range(40):
        pool.append(Window(start=pool[-1].end, end=following(pool[-1].end, cadence)))
    chosen = [pool[i] for i in picks]
    runs = contiguous(chosen + chosen)
    assert sorted((w for run in runs for w in run), key=lambda w: w.start) == [pool[i] for i in sorted(picks)]
    for run in runs:
        assert all(a.end == b.start for a, b in itertools.pairwise(run))
        assert span(run) == Window(start=run[0].start, end=run[-1].end)
    assert all(a[-1].end < b[0].start for a, b in itertools.pairwise(runs))


@settings(deadline=None)
@given(TIMES, CADENCES, st.integers(0, 200))
def test_lookback_reaches_far_enough_and_no_further(time: datetime, cadence: Cadence, hours: int) -> None:
    window = window_of(time, cadence)
    before = lookback_windows([window], timedelta(hours=hours), cadence)
    reach = window.start - timedelta(hours=hours)
    if not hours:
        assert before == []
        return
    assert before[-1].end == window.start
    assert before[0].start <= reach < before[0].end


def day(text: str) -> datetime:
    return datetime.fromisoformat(text)


def test_lookback_leaves_out_the_given_windows() -> None:
    windows = windows_between(day("2013-01-02"), day("2013-01-04"), "day")
    assert [w.label for w in lookback_windows(windows, timedelta(hours=30), "day")] == ["2012-12-31", "2013-01-01"]


@pytest.mark.parametrize(
    ("start", "end", "cadence", "labels"),
    [
        ("2013-01-31T22:00", "2013-02-01T01:00", "hour", ["2013-01-31T22", "2013-01-31T23", "2013-02-01"]),
        ("2012-12-31", "2013-01-14", "week", ["2012-12-31", "2013-01-07"]),
        ("2012-11-01", "2013-02-01", "month", ["2012-11-01", "2012-12-01", "2013-01-01"]),
        ("2013-01-01T01:00+01:00", "2013-01-02", "day", ["2013-01-01"]),
    ],
)
def test_windows_between(start: str, end: str, cadence: Cadence, labels: list[str]) -> None:
    assert [w.label for w in windows_between(day(start), day(end), cadence)] == labels


@pytest.mark.parametrize(
    ("start", "end", "cadence", "message"),
    [
        (
            "2013-01-01T05:30",
            "2013-01-02",
            "day",
            (
                "start: 2013-01-01T05:30 is not aligned to the cadence 'day', whose windows start at midnight UTC; "
                "use 2013-01-01 or 2013-01-02"
            ),
        ),
        (
            "2013-01-01",
            "2013-01-09",
            "week",
            (
                "start: 2013-01-01 is not aligned to the cadence 'week', whose windows start on a Monday at midnight UTC; "
                "use 2012-12-31 or 2013-01-07"
            ),
        ),
        (
            "2013-01-01",
            "2013-02-11",
            "month",
            (
                "end: 2013-02-11 is not aligned to the cadence 'month', "
                "whose windows start on the first of a month at midnight UTC; "
                "use 2013-02-01 or 2013-03-01"
            ),
        ),
        (
            "2013-01-01T00:00:01",
            "2013-01-02",
            "hour",
            (
                "start: 2013-01-01T00:00:01 is not aligned to the cadence 'hour', whose windows start on a full hour; "
                "use 2013-01-01 or 2013-01-01T01:00"
            ),
        ),
        (
            "2013-01-02",
            "2013-01-01",
            "day",
            "end: must be after start 2013-01-02, got 2013-01-01; the end itself is not part of the range",
        ),
        (
            "2013-01-02",
            "2013-01-02",
            "day",
            "end: must be after start 2013-01-02, got 2013-01-02; the end itself is not part of the range",
        ),
    ],
)
def test_a_wrong_range_is_refused_with_the_nearest_right_ones(start: str, end: str, cadence: Cadence, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        windows_between(day(start), day(end), cadence)
    assert str(caught.value) == message
