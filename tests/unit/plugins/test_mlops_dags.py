from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from mlops_dags import labels_since, watched_range
from mlops_requests import RunFacts, resolve
from mlops_tasks.core.windows import windows_between
from mlops_tasks.loading import apply_overrides, load_pipeline
from mlops_tasks.specs import PipelineSpec

FLIGHTS = load_pipeline("nyc_flights", Path(__file__).parents[3] / "dags" / "pipelines")


def delayed(cadence: str, delay: str) -> PipelineSpec:
    return apply_overrides(FLIGHTS, {"cadence": cadence, "snapshot.label_delay": delay})


def windows_of(spec: PipelineSpec, lower: str, upper: str, **given: str) -> list[str]:
    """Return the windows that a run of `.monitor` looks at."""
    facts = RunFacts(
        dag_id="nyc_flights.monitor",
        run_id="r",
        run_type="scheduled",
        conf=given,
        params={"start": None, "end": None, **given},
        declared=("start", "end"),
        interval=(datetime.fromisoformat(lower).replace(tzinfo=UTC), datetime.fromisoformat(upper).replace(tzinfo=UTC)),
    )
    request = resolve(facts, cadence=spec.cadence, length=watched_range(spec), first=spec.schedule.start)
    return [window.label for window in windows_between(request.start, request.end, spec.cadence)]


def test_a_window_is_looked_at_with_those_whose_labels_came_meanwhile() -> None:
    found = windows_of(delayed("day", "3d"), "2013-07-10", "2013-07-11")

    assert found == ["2013-07-06", "2013-07-07", "2013-07-08", "2013-07-09", "2013-07-10"], "07-07 is due, 07-06 was before"


@pytest.mark.parametrize(
    ("cadence", "delay", "start", "end"),
    [
        ("hour", "90m", "2013-03-04", "2013-03-05"),
        ("day", "36h", "2013-03-04", "2013-03-24"),
        ("day", "1h", "2013-03-04", "2013-03-24"),
        ("week", "10d", "2013-03-04", "2013-07-22"),
        ("month", "45d", "2013-01-01", "2013-12-01"),
    ],
)
def test_every_window_is_looked_at_when_its_labels_are_due(cadence: str, delay: str, start: str, end: str) -> None:
    spec = delayed(cadence, delay)
    first, last = (datetime.fromisoformat(text).replace(tzinfo=UTC) for text in (start, end))
    windows = windows_between(first, last, spec.cadence)
    seen = set()
    for run in windows:
        looked = windows_of(spec, f"{run.start:%Y-%m-%dT%H:%M}", f"{run.end:%Y-%m-%dT%H:%M}")
        assert looked[-1] == run.label
        seen |= {w.label for w in windows if w.label in looked and w.end + spec.snapshot.label_delay <= run.end}

    assert seen == {w.label for w in windows if w.end + spec.snapshot.label_delay <= last}


def test_dates_that_are_given_are_what_is_looked_at() -> None:
    spec = delayed("day", "3d")

    assert windows_of(spec, "2013-07-10", "2013-07-11", start="2013-05-01", end="2013-05-02") == ["2013-05-01"]


def test_labels_that_come_at_once_need_no_second_look() -> None:
    spec = delayed("day", "0s")

    assert windows_of(spec, "2013-07-10", "2013-07-11") == ["2013-07-10"]
    assert labels_since(spec) == ""
    assert labels_since(delayed("day", "3d")) == " and the windows of the 3d before, whose labels came meanwhile"


def test_nothing_before_the_first_window_is_looked_at() -> None:
    assert windows_of(delayed("day", "3d"), "2013-01-02", "2013-01-03") == ["2013-01-01", "2013-01-02"]
