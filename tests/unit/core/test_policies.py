"""Policies played through a matrix known by heart: trainings, quality, and the schedule that is enough."""

from __future__ import annotations

from datetime import timedelta

import pytest

from mlops_tasks.core.walk_forward import Matrix
from mlops_tasks.core.walk_forward.page import render_policies
from mlops_tasks.core.walk_forward.policies import (
    Played,
    Training,
    name_interval,
    oldest,
    play,
    play_schedules,
    recommend,
    train_at,
)
from tests.unit.core.test_walk_forward import AGEING, MONTHS, START, matrix

DAY = timedelta(days=1)
YEARLONG: dict[int, list[float | None]] = {
    version: [None] * (version - 1) + [0.80 - 0.01 * age for age in range(7 - version)] for version in range(1, 7)
}
"""A model a month; each month of age costs 0.01."""


def by_name(policies: list[Played]) -> dict[str, Played]:
    return {played.name: played for played in policies}


def test_schedules_differ_by_their_trainings_and_by_what_age_costs() -> None:
    found = by_name(play_schedules(matrix(YEARLONG)))
    assert {name: len(played.trainings) for name, played in found.items()} == {
        "never": 0,
        "monthly": 5,
        "every 2 months": 2,
        "every 3 months": 1,
        "every 4 months": 1,
    }
    assert {name: played.behind for name, played in found.items()} == pytest.approx(
        {"never": 0.025, "monthly": 0.0, "every 2 months": 0.005, "every 3 months": 0.01, "every 4 months": 7 / 600}
    )
    assert found["monthly"].path.versions == (1, 2, 3, 4, 5, 6)
    assert found["every 2 months"].path.versions == (1, 1, 3, 3, 5, 5)
    assert found["never"].worst == 0.75


def test_what_trainings_took_is_summed_and_what_is_not_recorded_counts_as_the_mean() -> None:
    made = matrix(YEARLONG)
    models = tuple(m.model_copy(update={"seconds": None if m.version == 3 else 10.0 * m.version}) for m in made.models)
    found = by_name(play_schedules(made.model_copy(update={"models": models})))
    assert found["never"].seconds == 0
    assert found["every 2 months"].seconds == pytest.approx((10 + 20 + 40 + 50 + 60) / 5 + 50)
    unknown = made.model_copy(update={"models": tuple(m.model_copy(update={"seconds": None}) for m in models)})
    assert by_name(play_schedules(unknown))["monthly"].seconds is None


def test_a_training_gives_what_was_known_then_and_serves_from_the_next_period() -> None:
    made = matrix(YEARLONG)
    asked = [MONTHS[2].start + 10 * DAY, MONTHS[2].start + 20 * DAY]
    trainings = train_at(made, asked, "drift")
    assert [t.version for t in trainings] == [3, None], "there is no newer one ten days later"
    assert play(made, "own", trainings).path.versions == (1, 1, 1, 3, 3, 3)


def test_the_fewest_trainings_that_are_good_enough_are_recommended() -> None:
    schedules = play_schedules(matrix(YEARLONG))
    assert recommend(schedules, 0.03).policy == "never"
    assert recommend(schedules, 0.006).policy == "every 2 months"
    assert recommend(schedules, 0.0).policy == "monthly"
    assert recommend(schedules, 0.006).why == (
        "2 trainings, 0.0050 behind training at every time; 0.0060 is the difference that matters"
    )


def test_without_a_stated_difference_one_standard_error_is_tolerated() -> None:
    flat: dict[int, list[float | None]] = {v: [None] * (v - 1) + [0.8] * (7 - v) for v in range(1, 7)}
    assert recommend(play_schedules(matrix(flat)), None).policy == "never", "nothing is gained by training"
    assert recommend(play_schedules(matrix(YEARLONG)), None).policy == "monthly"


def test_losses_are_behind_when_they_are_greater() -> None:
    losses = {v: [None if x is None else 1 - x for x in row] for v, row in YEARLONG.items()}
    found = by_name(play_schedules(matrix(losses, metric="log_loss")))
    assert found["never"].behind == pytest.approx(0.025)
    assert found["never"].worst == pytest.approx(0.25)


def test_a_model_without_a_value_in_a_period_is_replaced_there() -> None:
    gappy = {**AGEING, 2: [None, None, 0.79, 0.78, 0.77, 0.76]}
    found = play(matrix(gappy), "own", [Training(at=START, version=2)])
    assert found.path.versions == (1, 1, 2, 2, 2, 2)


@pytest.mark.parametrize(
    ("days", "step", "name"),
    [
        (7, 1, "weekly"),
        (7, 2, "every 2 weeks"),
        (1, 1, "daily"),
        (7, 13, "every 3 months"),
        (10, 1, "every 10 days"),
        (7, 4, "monthly"),
    ],
)
def test_intervals_have_the_names_that_people_use(days: int, step: int, name: str) -> None:
    times = [START + n * days * DAY for n in range(30)]
    assert name_interval(times, step) == name


def test_the_page_shows_each_policy_and_why_the_own_rules_trained() -> None:
    made = matrix(YEARLONG)
    schedules = play_schedules(made)
    own = play(made, "own rules", train_at(made, [MONTHS[3].start], "<3 windows> alarmed"))
    facts: dict[str, object] = {"alarms": {"drift": 4, "performance": 2}, "waited": {"the cool-down": 3}, "within": "0.006"}
    page = render_policies(made, [*schedules, own], own, recommend(schedules, 0.006), facts)
    assert "Recommended schedule: every 2 months" in page
    assert "&lt;3 windows&gt; alarmed" in page
    assert "4 windows alarmed for drift and 2 for the model's errors" in page
    assert "3 times a training was held back: the cool-down" in page
    assert not any(word in page for word in ("http://", "https://", "<script", "@import"))


def test_every_policy_starts_with_the_oldest_model() -> None:
    made: Matrix = matrix(YEARLONG)
    assert oldest(made).version == 1
    assert all(played.path.versions[0] == 1 for played in play_schedules(made))
