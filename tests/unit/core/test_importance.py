"""Columns that the model uses matter, others don't, and the same seed gives the same answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from mlops_tasks.core.importance import count_repeats, permutation_importance
from mlops_tasks.core.metrics import Predictions

if TYPE_CHECKING:
    from mlops_tasks.core.importance import Importance
    from mlops_tasks.core.metrics import Floats


def score(frame: pd.DataFrame) -> Floats:
    strong = frame["strong"].to_numpy(dtype="float64")
    return np.asarray(1 / (1 + np.exp(-strong - 0.3 * (frame["city"] == "Rome"))))


def find(metric: str, *, seed: int = 0, most_rows: int = 500) -> tuple[Importance, ...]:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "strong": rng.normal(size=800),
            "unused": rng.normal(size=800),
            "city": rng.choice(["Rome", "Oslo"], 800).astype(object),
        }
    )
    truth = (rng.random(800) < score(frame)).astype(np.float64)
    before = frame.copy()
    found = permutation_importance(
        score, frame, list(frame.columns), Predictions("binary", truth, score(frame)), metric, most_rows=most_rows, seed=seed
    )
    pd.testing.assert_frame_equal(frame, before)
    return found


@pytest.mark.parametrize("metric", ["roc_auc", "log_loss"])
def test_importance_is_positive_where_shuffling_hurts_whichever_way_is_better(metric: str) -> None:
    by_name = {item.column: item.worsening for item in find(metric)}
    assert by_name["strong"] > 0.05
    assert by_name["unused"] == 0.0
    assert abs(by_name["city"]) < by_name["strong"]


def test_the_most_important_column_comes_first() -> None:
    found = find("roc_auc")
    assert found[0].column == "strong"
    assert [i.worsening for i in found] == sorted((i.worsening for i in found), reverse=True)


def test_the_seed_decides() -> None:
    assert find("roc_auc") == find("roc_auc")
    assert find("roc_auc") != find("roc_auc", seed=1)


def test_no_more_rows_than_asked_are_scored() -> None:
    seen = []

    def counting(frame: pd.DataFrame) -> Floats:
        seen.append(len(frame))
        return np.linspace(0, 1, len(frame))

    frame = pd.DataFrame({"x": np.arange(300.0)})
    p = Predictions("binary", np.tile([0.0, 1.0], 150), np.linspace(0, 1, 300))
    permutation_importance(counting, frame, ["x"], p, "roc_auc", most_rows=100)
    assert seen == [100, 100, 100]


def test_wide_models_are_shuffled_less_often_but_always_once() -> None:
    assert count_repeats(5000, 4) == 3
    assert count_repeats(5000, 22) == 2
    assert count_repeats(5000, 500) == 1
    assert count_repeats(0, 0) == 3
