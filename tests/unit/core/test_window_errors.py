from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from sklearn.metrics import log_loss, mean_squared_error

from mlops_tasks.core.metrics import Predictions
from mlops_tasks.core.window_errors import measure_error, measure_errors

if TYPE_CHECKING:
    from mlops_tasks.artifacts import Task

ROWS = 300
RNG = np.random.default_rng(3)
ALL = {"error", "excess", "ranking"}
SCORES = {
    "binary": RNG.random(ROWS).astype(np.float32).astype(np.float64),
    "multiclass": RNG.dirichlet([2, 1, 1], ROWS),
    "regression": RNG.normal(50, 9, ROWS),
}
TRUTHS = {
    "binary": RNG.integers(0, 2, ROWS).astype(np.float64),
    "multiclass": RNG.integers(0, 3, ROWS).astype(np.float64),
    "regression": RNG.normal(50, 9, ROWS),
}


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_the_error_is_scikit_learns_of_the_windows_rows(task: Task) -> None:
    windows = np.repeat(["2024-01-02", "2024-01-01", "2024-01-01T05"], ROWS // 3)
    truth, score = TRUTHS[task], SCORES[task]

    errors = measure_errors(Predictions(task, truth, score), windows)

    assert [(e.window, e.rows) for e in errors] == [(w, ROWS // 3) for w in ("2024-01-01", "2024-01-01T05", "2024-01-02")]
    for error in errors:
        of = windows == error.window
        expected = (
            mean_squared_error(truth[of], score[of])
            if task == "regression"
            else log_loss(truth[of], score[of], labels=np.unique(truth))
        )
        assert error.mean == pytest.approx(expected, rel=1e-6)
        assert error.measures["error"].variance > 0
        assert set(error.measures) == {"binary": ALL, "multiclass": ALL - {"ranking"}, "regression": {"error"}}[task]


def test_calibrated_scores_promise_what_comes_true() -> None:
    score = np.random.default_rng(0).beta(2, 5, 50_000)
    came = (np.random.default_rng(1).random(50_000) < score).astype(np.float64)
    calibrated = measure_error("2024-01-01", Predictions("binary", came, score))
    sure = measure_error("2024-01-01", Predictions("binary", came, score**3 / (score**3 + (1 - score) ** 3)))

    assert calibrated is not None
    assert sure is not None
    assert calibrated.measures["excess"].mean == pytest.approx(0, abs=0.005)
    assert sure.measures["excess"].mean > 0.2


def test_the_ranking_is_one_minus_the_roc_auc_and_as_sure_as_its_variance_says() -> None:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(400):
        came = (rng.random(300) < 0.2).astype(np.float64)
        found.append(measure_error("2024-01-01", Predictions("binary", came, rng.normal(0.3 + 0.1 * came, 0.1))))
    means = [error.measures["ranking"].mean for error in found if error]
    told = np.mean([error.measures["ranking"].variance / error.rows for error in found if error])

    assert np.mean(means) == pytest.approx(1 - 0.76, abs=0.01)  # of two normals one standard deviation apart
    assert np.std(means) == pytest.approx(np.sqrt(told), rel=0.2)


def test_a_handful_of_one_class_says_nothing_of_the_ranking() -> None:
    error = measure_error("2024-01-01", Predictions("binary", (np.arange(100) < 4).astype(np.float64), np.linspace(0, 1, 100)))

    assert error is not None
    assert set(error.measures) == {"error", "excess"}


def test_a_certain_score_that_is_wrong_has_a_finite_error() -> None:
    error = measure_error("2024-01-01", Predictions("binary", np.array([1.0, 0.0]), np.array([0.0, 0.0])))

    assert error is not None
    assert error.mean == pytest.approx(8, abs=0.1)


def test_no_rows_have_no_error() -> None:
    assert measure_error("2024-01-01", Predictions("binary", np.empty(0), np.empty(0))) is None
