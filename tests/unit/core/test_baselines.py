from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge

from mlops_tasks.core.baselines import (
    balanced_weights,
    boosting_design,
    constant_score,
    fit_boosting,
    fit_linear,
    order_categories,
)
from mlops_tasks.core.losses import Rows
from mlops_tasks.core.network import Standardiser
from mlops_tasks.core.transform import Transform, learn_transform

ROWS = 400


@pytest.fixture
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    colours = rng.choice(["red", "green", "blue"], ROWS)
    return pd.DataFrame({"a": rng.normal(size=ROWS), "b": np.where(rng.random(ROWS) < 0.1, np.nan, 1.0), "c": colours})


@pytest.fixture
def transform(frame: pd.DataFrame) -> Transform:
    return learn_transform(frame, ["a", "b"], ["c"], bins=4)


def rows_of(transform: Transform, frame: pd.DataFrame, y: np.ndarray) -> Rows:
    x, flags = Standardiser(transform.numeric)(torch.from_numpy(transform.numbers(frame)))
    return Rows(x, flags, torch.from_numpy(transform.codes(frame)), torch.from_numpy(y).float(), torch.ones(len(y)))


def test_constants() -> None:
    y = np.array([0.0, 1.0, 1.0, 2.0])
    assert constant_score(y, "multiclass", 4) == [0.25, 0.5, 0.25, 0.0]
    assert constant_score(np.array([0.0, 1.0, 1.0, 1.0]), "binary", 2) == 0.75
    assert constant_score(y, "regression", 0) == 1.0


def test_balanced_weights_give_every_class_the_same_total() -> None:
    assert balanced_weights(np.array([0.0, 0.0, 0.0, 1.0])).tolist() == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2])


@pytest.mark.parametrize("classes", [2, 3])
def test_linear_module_gives_logistic_regressions_probabilities(
    frame: pd.DataFrame, transform: Transform, classes: int
) -> None:
    y = (np.arange(ROWS) % classes).astype(np.float64)
    y = np.where(frame["a"] > 0.5, 0.0, y)
    rows = rows_of(transform, frame, y)
    out = fit_linear(transform, rows, "binary" if classes == 2 else "multiclass", 1 if classes == 2 else 3)(
        rows.x, rows.flags, rows.codes
    )[:, 0]
    one_hot = np.eye(4)[rows.codes[:, 0].numpy()]
    design = np.hstack([rows.x.numpy(), rows.flags.numpy(), one_hot])
    expected = LogisticRegression(max_iter=500).fit(design, y).predict_proba(design)
    got = torch.softmax(out, 1) if classes == 3 else torch.cat([1 - torch.sigmoid(out), torch.sigmoid(out)], 1)
    assert np.abs(got.detach().numpy() - expected).max() < 1e-3


def test_linear_module_gives_ridges_values(frame: pd.DataFrame, transform: Transform) -> None:
    y = frame["a"].to_numpy() * 2 + (frame["c"] == "red").to_numpy()
    rows = rows_of(transform, frame, y)
    out = fit_linear(transform, rows, "regression", 1)(rows.x, rows.flags, rows.codes)[:, 0, 0]
    design = np.hstack([rows.x.numpy(), rows.flags.numpy(), np.eye(4)[rows.codes[:, 0].numpy()]])
    assert np.abs(out.detach().numpy() - Ridge().fit(design, y).predict(design)).max() < 1e-3


def test_categories_are_ordered_by_the_target(frame: pd.DataFrame, transform: Transform) -> None:
    y = np.array([{"red": 0.5, "green": 1.0, "blue": 0.0}[text] for text in frame["c"]])
    assert order_categories(transform, frame, y).categorical[0].vocabulary == ("blue", "red", "green")


def test_boosting_reads_what_is_not_finite_as_missing(transform: Transform) -> None:
    frame = pd.DataFrame({"a": [np.inf, -np.inf, np.nan], "b": [1.0, 1.0, 1.0], "c": ["red", "new", None]})
    design = boosting_design(transform, frame)
    assert np.isnan(design[:, 0]).all()
    assert design[:, 2].tolist() == [3, 0, 0]


def test_boosting_stops_early_and_decides_alike_in_float32(frame: pd.DataFrame, transform: Transform) -> None:
    y = np.where(frame["a"] > 0, 1.0, 0.0)
    boosted = fit_boosting(transform, frame, y, "binary", seed=0, trees=None, weight=None, validation=(frame, y, None))
    assert 1 <= boosted.model.n_iter_ < 500
    thresholds = np.concatenate([tree.nodes["num_threshold"] for trees in boosted.model._predictors for tree in trees])
    assert (thresholds == thresholds.astype(np.float32)).all()
    assert ((boosted.score(frame) > 0.5) == (y > 0)).all()
