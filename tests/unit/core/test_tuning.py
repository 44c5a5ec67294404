from __future__ import annotations

import math

from mlops_tasks.core.tuning import SPACE, Trial, search
from mlops_tasks.specs import TrainSpec


def judge(spec: TrainSpec, _number: int) -> float:
    return abs(math.log(spec.learning_rate / 5e-4)) + abs(spec.width - 96) / 100


def run(spec: TrainSpec, finished: list[Trial]) -> tuple[TrainSpec, list[Trial]]:
    told: list[Trial] = []
    return search(spec, judge, finished=finished, on_trial=told.append), told


def test_first_trial_is_the_spec_and_the_best_wins() -> None:
    spec = TrainSpec(trials=12)
    best, trials = run(spec, [])
    assert [trial.number for trial in trials] == list(range(12))
    assert trials[0].params == {name: getattr(spec, name) for name in SPACE}
    assert judge(best, 0) == min(trial.value for trial in trials) < trials[0].value


def test_search_goes_on_as_if_it_had_not_stopped() -> None:
    spec = TrainSpec(trials=9)
    best, whole = run(spec, [])
    resumed, rest = run(spec, whole[:6])
    assert rest == whole[6:]
    assert resumed == best


def test_values_outside_the_space_are_tried_as_given() -> None:
    _, trials = run(TrainSpec(trials=3, width=8, learning_rate=0.5), [])
    assert trials[0].params["width"] == 8
    assert len(trials) == 3
