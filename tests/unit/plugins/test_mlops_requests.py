from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_requests import RunFacts, resolve, run_key
from mlops_tasks.core.windows import windows_between
from mlops_tasks.errors import SpecError
from mlops_tasks.specs import Cadence

PARAMS = {"start": None, "end": None, "promote": "auto", "trials": 1, "reason": "", "intent": None}
DAY = timedelta(days=1)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def run(run_type: str = "manual", interval: tuple[str, str] | None = None, **conf: Any) -> RunFacts:
    return RunFacts(
        dag_id="flights.train",
        run_id="r1",
        run_type=run_type,
        conf=conf,
        params={**PARAMS, **conf},
        declared=tuple(PARAMS),
        interval=None if interval is None else (at(interval[0]), at(interval[1])),
    )


WEEKLY = ("2013-07-01T06:00", "2013-07-08T06:00")


def test_dates_win_over_the_interval() -> None:
    request = resolve(run("scheduled", WEEKLY, start="2013-01-01", end="2013-02-01"), cadence="day", length=180 * DAY)
    assert (request.start, request.end) == (at("2013-01-01"), at("2013-02-01"))


def test_dates_with_a_zone_are_moved_to_utc() -> None:
    request = resolve(run(start="2013-01-01T05:00:00+05:00", end="2013-01-02T00:00:00Z"), cadence="day")
    assert (request.start, request.end) == (at("2013-01-01"), at("2013-01-02"))


def test_a_scheduled_run_of_ingest_gets_its_interval() -> None:
    request = resolve(run("scheduled", ("2013-01-01", "2013-01-02")), cadence="day", first=at("2013-01-01"))
    assert (request.start, request.end, request.intent) == (at("2013-01-01"), at("2013-01-02"), "scheduled")


def test_a_scheduled_training_gets_the_latest_range_before_its_intervals_end() -> None:
    request = resolve(run("scheduled", WEEKLY), cadence="day", length=30 * DAY, first=at("2013-01-01"))
    assert (request.start, request.end) == (at("2013-06-08"), at("2013-07-08"))


def test_a_default_range_never_starts_before_the_pipeline() -> None:
    request = resolve(run("scheduled", WEEKLY), cadence="day", length=365 * DAY, first=at("2013-01-01"))
    assert request.start == at("2013-01-01")


def test_a_zero_width_interval_stands_for_its_window() -> None:
    request = resolve(run(interval=("2013-07-03T10:00", "2013-07-03T10:00")), cadence="month")
    assert (request.start, request.end) == (at("2013-07-01"), at("2013-08-01"))


@pytest.mark.parametrize(
    ("conf", "message"),
    [
        (
            {"promot": "never"},
            "flights.train: conf has the unknown key 'promot'; did you mean 'promote'?",
        ),
        (
            {"xyz": 1},
            "flights.train: conf has the unknown key 'xyz'; it takes start, end, promote, trials, reason, intent",
        ),
        ({"start": "2013-01-01"}, "flights.train: end is missing; give both start and end, or neither"),
        ({"end": "2013-01-01"}, "flights.train: start is missing; give both start and end, or neither"),
        ({}, "flights.train: run r1 has neither start and end nor a data interval; give start and end"),
        (
            {"start": "2013-07-01", "end": "2013-01-01"},
            "flights.train: end: must be after start 2013-07-01, got 2013-01-01; the end itself is not part of the range",
        ),
        (
            {"start": "2013-01-01T05:00", "end": "2013-02-01"},
            (
                "flights.train: start: 2013-01-01T05:00 is not aligned to the cadence 'day', "
                "whose windows start at midnight UTC; use 2013-01-01 or 2013-01-02"
            ),
        ),
        (
            {"start": "today", "end": "2013-02-01"},
            "flights.train: start must be a date or a date with a time, e.g. 2013-01-31, got 'today'",
        ),
    ],
)
def test_what_bad_requests_get(conf: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        resolve(run(**conf), cadence="day")
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("facts", "intent"),
    [
        (run("scheduled", WEEKLY), "scheduled"),
        (run("manual", WEEKLY), "manual"),
        (run("operator_triggered", WEEKLY), "manual"),
        (run("operator_triggered", WEEKLY, intent="drift"), "drift"),
        (replace(run("backfill", WEEKLY), run_id="scheduled__2013-07-01"), "backfill"),
        (run("backfill", WEEKLY, intent="drift"), "backfill"),
        (run("manual", WEEKLY, intent="backfill"), "backfill"),
    ],
)
def test_the_intent_follows_from_the_type_never_the_id(facts: RunFacts, intent: str) -> None:
    assert resolve(facts, cadence="day").intent == intent


def test_params_become_overrides_of_the_spec() -> None:
    request = resolve(run(interval=WEEKLY, trials=3, promote="never", reason="why"), cadence="day")
    assert request.overrides == {"train.trials": 3, "deploy.promote": "never"}
    assert request.reason == "why"


def test_an_approved_candidate_is_promoted() -> None:
    assert resolve(run(interval=WEEKLY, promote="ask"), cadence="day").overrides["deploy.promote"] == "auto"


def test_a_backfill_never_promotes() -> None:
    assert resolve(run("backfill", WEEKLY, promote="auto"), cadence="day").overrides["deploy.promote"] == "never"
    asked = run("manual", WEEKLY, promote="auto", intent="backfill")
    assert resolve(asked, cadence="day").overrides["deploy.promote"] == "never", "made one by one"


def test_runs_of_different_dags_with_one_id_keep_apart() -> None:
    facts = run()
    assert run_key(facts) == "train-r1"
    assert run_key(facts) != run_key(replace(facts, dag_id="flights.ingest"))


times = st.datetimes(datetime(2000, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - bounds are naive


@given(
    start=times,
    width=st.timedeltas(timedelta(0), 100 * DAY),
    length=st.none() | st.timedeltas(DAY, 400 * DAY),
    cadence=st.sampled_from(["hour", "day", "week", "month"]),
)
def test_every_default_range_is_aligned(start: datetime, width: timedelta, length: timedelta | None, cadence: Cadence) -> None:
    facts = replace(run(), interval=(start, start + width))
    request = resolve(facts, cadence=cadence, length=length)
    assert windows_between(request.start, request.end, cadence)
    assert request == resolve(facts, cadence=cadence, length=length)
