"""A spec and a number of trials to the spec that validates best, by Optuna's TPE.

Each trial's sampler is seeded by the trial's number and sees the trials before it, so a search that was
killed and goes on from its finished trials proposes what an uninterrupted one would.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mlops_tasks.specs import TrainSpec

SPACE: dict[str, BaseDistribution] = {
    "learning_rate": FloatDistribution(2e-4, 1e-2, log=True),
    "weight_decay": FloatDistribution(1e-4, 1e-1, log=True),
    "dropout": FloatDistribution(0.0, 0.4, step=0.05),
    "width": IntDistribution(64, 256, step=32),
    "depth": IntDistribution(1, 4),
}
START_UP_TRIALS = 5


@dataclass(frozen=True)
class Trial:
    """One finished trial: what was tried, and its validation log loss or root mean squared error."""

    number: int
    params: dict[str, float | int]
    value: float


def search(
    spec: TrainSpec, judge: Callable[[TrainSpec, int], float], *, finished: Sequence[Trial], on_trial: Callable[[Trial], None]
) -> TrainSpec:
    """Return the spec with the best values of the search space.

    Args:
        spec: where the search starts: its own values are the first trial.
        judge: spec, trial number -> loss on the validation split.
        finished: trials of an earlier, killed try, in order.
        on_trial: told of every new trial.

    """
    trials = list(finished)
    for number in range(len(trials), spec.trials):
        params = _propose(spec, trials, number)
        trial = Trial(number, params, judge(spec.model_copy(update=params), number))
        trials.append(trial)
        on_trial(trial)
    best = min(trials, key=lambda trial: trial.value)
    return spec.model_copy(update=best.params)


def _propose(spec: TrainSpec, trials: Sequence[Trial], number: int) -> dict[str, float | int]:
    if number == 0:
        return {name: getattr(spec, name) for name in SPACE}
    sampler = optuna.samplers.TPESampler(seed=spec.seed + number, n_startup_trials=START_UP_TRIALS)
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(sampler=sampler, direction="minimize")
        for trial in trials:
            if all(SPACE[name]._contains(value) for name, value in trial.params.items()):  # noqa: SLF001 - no public form
                study.add_trial(
                    create_trial(state=TrialState.COMPLETE, params=trial.params, distributions=SPACE, value=trial.value)
                )
        return dict(study.ask(SPACE).params)
    finally:
        optuna.logging.set_verbosity(verbosity)
