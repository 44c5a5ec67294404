from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_tasks.artifacts import Intent, Window
from mlops_tasks.core.retraining import Decision, RetrainOutcome, RetrainRequest, Seen, State, alarmed_rows, decide
from mlops_tasks.retrain_specs import RetrainSpec
from tests.drifting import START, window

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

DAY = timedelta(days=1)
NOW = datetime(2030, 1, 1, tzinfo=UTC)
SPEC = RetrainSpec(cooldown=5 * DAY, budget=100, max_rejected=100)


def seen(day: int, *, alarm: bool = True, version: int = 1, intent: Intent = "scheduled", rows: int = 10) -> Seen:
    status = "alarm" if alarm else "ok"
    return Seen(window=window(day), model_version=version, status=status, reason=f"day {day}", intent=intent, rows=rows)


def asked(number: int, day: int, *, at: datetime = NOW, version: int = 1) -> RetrainRequest:
    return RetrainRequest(
        number=number,
        run_id=f"r{number}",
        start=START,
        end=window(day).end,
        causes=(),
        reason="",
        model_version=version,
        as_of=window(day).end,
        at=at,
    )


def ended(number: int, state: str = "registered") -> RetrainOutcome:
    return RetrainOutcome(number=number, state=state, reason="AUC 0.6 is too low", at=NOW)


def state(drift: Sequence[Seen] = (), *, requests: Sequence[RetrainRequest] = (), ends: Iterable[RetrainOutcome] = ()) -> State:
    return State(
        as_of=max((item.window.end for item in drift), default=window(10).end),
        now=NOW,
        version=1,
        training_end=START,
        drift=drift,
        requests=requests,
        outcomes={outcome.number: outcome for outcome in ends},
    )


def judged(current: State, spec: RetrainSpec = SPEC) -> Decision:
    return decide(spec, current, at_least=2, of=2)


# ---- rows


def days_of(rows: list[tuple[Seen, ...]]) -> list[list[int]]:
    return [[(item.window.start - START).days for item in row] for row in rows]


@pytest.mark.parametrize(
    ("alarms", "at_least", "of", "rows"),
    [
        ([0, 1, 0, 1], 2, 2, []),
        ([0, 1, 1, 1], 2, 2, [[1, 2], [2, 3]]),
        ([1, 0, 1, 0, 0, 1], 2, 3, [[0, 2]]),
        ([1, 0, 1, 1], 2, 3, [[0, 2], [2, 3]]),
        ([0, 1, 0], 1, 1, [[1]]),
    ],
)
def test_rows_are_k_alarms_among_m_adjoining_windows(alarms: list[int], at_least: int, of: int, rows: list[list[int]]) -> None:
    found = alarmed_rows([seen(day, alarm=bool(alarm)) for day, alarm in enumerate(alarms)], at_least=at_least, of=of)
    assert days_of(found) == rows


def test_a_gap_between_windows_ends_a_row() -> None:
    assert alarmed_rows([seen(3), seen(5)], at_least=2, of=3) == []


def test_months_of_different_length_adjoin() -> None:
    starts = [datetime(2013, month, 1, tzinfo=UTC) for month in (1, 2, 3, 4)]
    months = [Seen(window=Window(start=start, end=end), model_version=1, status="alarm") for start, end in pairwise(starts)]
    assert [len(row) for row in alarmed_rows(months, at_least=3, of=3)] == [3]
    assert [len(row) for row in alarmed_rows(months, at_least=2, of=2)] == [2, 2]


# ---- causes


def test_a_row_of_alarms_asks_for_a_training_and_says_why() -> None:
    decision = judged(state([seen(1), seen(2)]))
    assert (decision.action, decision.reason) == ("train", "2 windows alarmed, the latest: day 2")
    assert [(cause.kind, cause.since) for cause in decision.causes] == [("drift", window(1).start)]


@pytest.mark.parametrize(
    "drift",
    [
        [seen(1)],
        [seen(1, version=2), seen(2, version=2)],
        [seen(1, intent="backfill"), seen(2, intent="backfill")],
        [seen(1, intent="backfill"), seen(2)],
        [seen(1, intent="reproduce"), seen(2, intent="reproduce")],
    ],
    ids=["one alarm", "of another version", "a backfill's", "one a backfill's", "a reproduction's"],
)
def test_alarms_that_start_nothing(drift: list[Seen]) -> None:
    assert judged(state(drift)) == Decision("none", "no training is needed")


def test_windows_that_the_champion_was_trained_on_start_nothing() -> None:
    current = replace(state([seen(1), seen(2)]), training_end=window(2).start)
    assert judged(current).action == "none"


def test_what_the_spec_turns_off_asks_for_nothing() -> None:
    spec = SPEC.model_copy(update={"drift": False})
    assert judged(state([seen(1), seen(2)]), spec).action == "none"


def test_a_worse_error_asks_too() -> None:
    current = replace(state([seen(1, alarm=False), seen(2, alarm=False)]), performance=[seen(1), seen(2)])
    assert [cause.kind for cause in judged(current).causes] == ["performance"]
    assert judged(current, SPEC.model_copy(update={"performance": False})).action == "none"


def test_a_worse_error_that_a_training_could_not_know_of_asks_again() -> None:
    errors = [seen(day) for day in (8, 9)]
    calm = [seen(day, alarm=False) for day in range(21)]
    current = replace(state(calm, requests=[asked(1, 10)], ends=[ended(1)]), performance=errors)
    assert judged(current).action == "none"
    assert judged(replace(current, label_delay=3 * DAY)).action == "train"


def test_age_asks_in_event_time() -> None:
    current = state([seen(29, alarm=False)])
    spec = SPEC.model_copy(update={"max_age": 30 * DAY})
    assert judged(current, spec).reason == ("the data that version 1 was trained on end 30 days ago, 30d is the limit")
    assert judged(current, SPEC.model_copy(update={"max_age": 31 * DAY})).action == "none"


def test_new_rows_ask() -> None:
    current = state([seen(day, alarm=False, rows=500) for day in (0, 1)])
    spec = SPEC.model_copy(update={"new_rows": 1000})
    assert judged(current, spec).reason == "1,000 rows came since the data that version 1 was trained on, 1,000 is the limit"
    assert judged(current, SPEC.model_copy(update={"new_rows": 1001})).action == "none"


# ---- what holds back


def test_a_row_is_answered_by_one_training_and_a_later_one_by_another() -> None:
    answered = state([seen(1), seen(2)], requests=[asked(1, 2)], ends=[ended(1)])
    assert judged(answered).action == "none"
    later = state([*(seen(day) for day in range(1, 8))], requests=[asked(1, 2)], ends=[ended(1)])
    assert judged(later).action == "train"


def test_a_training_that_has_not_ended_holds_back() -> None:
    decision = judged(state([seen(day) for day in range(1, 20)], requests=[asked(1, 2)]))
    assert (decision.action, decision.reason) == (
        "wait",
        "2 windows alarmed, the latest: day 19; training 1 (r1) has not ended",
    )


def test_the_cool_down_holds_back_and_does_not_forget() -> None:
    decision = judged(state([seen(day) for day in range(1, 5)], requests=[asked(1, 2)], ends=[ended(1)]))
    assert decision.action == "wait"
    assert decision.reason.endswith("training 1 was asked for at 2024-01-04T00:00, and the cool-down is 5d")
    calm = [seen(day, alarm=day < 5) for day in range(1, 9)]
    assert judged(state(calm, requests=[asked(1, 2)], ends=[ended(1)])).action == "train"


@pytest.mark.parametrize(("days_ago", "action"), [(6.9, "wait"), (7.1, "train")])
def test_the_budget_is_of_real_time(days_ago: float, action: str) -> None:
    requests = [asked(n, n, at=NOW - timedelta(days=days_ago)) for n in (1, 2)]
    current = state([seen(day) for day in range(1, 20)], requests=requests, ends=[ended(1), ended(2)])
    assert judged(current, SPEC.model_copy(update={"budget": 2})).action == action


def test_a_clock_that_is_set_back_frees_no_budget() -> None:
    requests = [asked(n, n, at=NOW + timedelta(days=30)) for n in (1, 2)]
    current = state([seen(day) for day in range(1, 20)], requests=requests, ends=[ended(1), ended(2)])
    assert judged(current, SPEC.model_copy(update={"budget": 2})).action == "wait"


def test_after_so_many_refused_candidates_somebody_must_look() -> None:
    spec = SPEC.model_copy(update={"max_rejected": 2})
    requests = [asked(n, n) for n in (1, 2, 3)]
    ends = [ended(1, "promoted"), ended(2, "rejected"), ended(3, "failed")]
    current = state([seen(day) for day in range(1, 20)], requests=requests, ends=ends)
    decision = judged(current, spec)
    assert decision.action == "wait"
    assert decision.reason.endswith("`mlops retrain NAME --resume`; the last: AUC 0.6 is too low")
    assert judged(replace(current, resumed_after=3), spec).action == "train"
    assert judged(replace(current, outcomes={**current.outcomes, 3: ended(3, "challenger")}), spec).action == "train"
    promoted = replace(current, version=2, drift=[seen(day, version=2) for day in range(1, 20)])
    assert judged(promoted, spec).action == "train"


# ---- in whatever order


def replay(spec: RetrainSpec, alarms: list[bool], order: list[int], outcomes: list[str]) -> list[int]:
    """Let days come in an order, each looked at; return the days as of which trainings were asked for."""
    known: list[Seen] = []
    requests: list[RetrainRequest] = []
    ends: list[RetrainOutcome] = []
    for day in order:
        known = [item for item in known if item.window != window(day)] + [seen(day, alarm=alarms[day])]
        current = state(known, requests=requests, ends=ends)
        if judged(current, spec).action == "train":
            number = len(requests) + 1
            requests.append(asked(number, (current.as_of - START).days - 1))
            ends.append(ended(number, outcomes[number % len(outcomes)]))
    return [(request.as_of - START).days - 1 for request in requests]


ALARMS = st.lists(st.booleans(), min_size=1, max_size=30)
OUTCOMES = st.lists(st.sampled_from(["registered", "rejected", "failed"]), min_size=1, max_size=5)


@given(alarms=ALARMS, outcomes=OUTCOMES, cooldown=st.integers(0, 8), data=st.data())
@settings(max_examples=200, deadline=None)
def test_no_row_is_lost_and_no_storm_breaks_out_in_any_order(
    alarms: list[bool], outcomes: list[str], cooldown: int, data: st.DataObject
) -> None:
    spec = SPEC.model_copy(update={"cooldown": cooldown * DAY})
    days = list(range(len(alarms)))
    order = data.draw(st.permutations(days))
    made = replay(spec, alarms, order, outcomes)
    rows = [day for day in days if day and alarms[day] and alarms[day - 1]]

    gaps = [later - earlier for earlier, later in pairwise(made)]
    assert all(gap >= max(cooldown, 1) for gap in gaps)
    assert bool(made) == bool(rows)
    for row in rows:  # a training that had its days, unless the cool-down of the last one is not over yet
        assert any(day >= row for day in made) or days[-1] - made[-1] < cooldown


@given(alarms=ALARMS, outcomes=OUTCOMES, data=st.data())
@settings(max_examples=200, deadline=None)
def test_looking_again_changes_nothing(alarms: list[bool], outcomes: list[str], data: st.DataObject) -> None:
    days = list(range(len(alarms)))
    again = [*days, *data.draw(st.permutations(days))]
    assert replay(SPEC, alarms, again, outcomes) == replay(SPEC, alarms, days, outcomes)


@given(alarms=ALARMS, budget=st.integers(1, 3), max_rejected=st.integers(1, 3))
@settings(max_examples=100, deadline=None)
def test_budget_and_breaker_bound_trainings_whatever_comes(alarms: list[bool], budget: int, max_rejected: int) -> None:
    spec = RetrainSpec(cooldown=timedelta(0), budget=budget, max_rejected=max_rejected)
    made = replay(spec, alarms, list(range(len(alarms))), ["rejected"])
    assert len(made) <= min(budget, max_rejected)
