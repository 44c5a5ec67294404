from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_tasks.artifacts import Window
from mlops_tasks.core.splits import split_by_time
from mlops_tasks.errors import SpecError
from mlops_tasks.specs import SnapshotSpec

START = datetime(2030, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def whole(days: int) -> Window:
    return Window(start=START, end=START + days * DAY)


hours = st.integers(0, 24 * 40).map(lambda h: timedelta(hours=h))


@settings(deadline=None)
@given(
    days=st.integers(1, 400),
    test=hours,
    embargo=hours,
    delay=hours,
    validation=st.floats(0.01, 0.89),
)
def test_splits_are_disjoint_ordered_and_known_at_the_time(
    days: int, test: timedelta, embargo: timedelta, delay: timedelta, validation: float
) -> None:
    spec = SnapshotSpec(test=test, embargo=embargo, label_delay=delay, validation=validation)
    given_range = whole(days)
    if test <= timedelta(0) or given_range.end - delay - test - max(embargo, delay) <= given_range.start:
        with pytest.raises(SpecError, match="leaves nothing to train on"):
            split_by_time(spec, given_range)
        return
    found = split_by_time(spec, given_range)
    assert list(found) == ["train", "validation", "test"]
    train, held, last = found.values()
    assert given_range.start == train.start
    assert train.end == held.start
    assert held.end < last.start or max(embargo, delay) == timedelta(0)
    assert last.start - held.end == max(embargo, delay)
    # What is learned from had its label when the test began, what is judged on had it at the end.
    assert held.end + delay <= last.start
    assert last.end + delay == given_range.end
    assert last.end - last.start == test
    share = (held.end - held.start) / (held.end - train.start)
    assert share == pytest.approx(validation, abs=1 / (held.end - train.start).total_seconds())


def test_a_range_too_short_says_what_takes_it_up() -> None:
    spec = SnapshotSpec(test=5 * DAY, embargo=DAY, label_delay=2 * DAY)
    with pytest.raises(SpecError) as caught:
        split_by_time(spec, whole(9))
    assert str(caught.value) == (
        "snapshot: the range [2030-01-01T00:00, 2030-01-10T00:00) leaves nothing to train on after test 5d, embargo 1d "
        "and label_delay 2d; take a longer range"
    )
    assert split_by_time(spec, whole(10))["validation"].end == START + DAY


def test_a_range_of_seconds_can_still_be_split() -> None:
    short = Window(start=START, end=START + timedelta(seconds=3))
    with pytest.raises(SpecError, match="leaves nothing to train on"):
        split_by_time(SnapshotSpec(test=timedelta(seconds=2)), short)
