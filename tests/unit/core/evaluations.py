"""Whole evaluations of made-up models, for the tests of what is written from them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mlops_tasks.artifacts import Window
from mlops_tasks.core.evaluation import Evaluation, Models, TestSet, encode_truth, evaluate
from mlops_tasks.core.metrics import Predictions
from mlops_tasks.core.report import Details
from mlops_tasks.core.scoring import ModelSignature
from mlops_tasks.specs import EvaluateSpec

if TYPE_CHECKING:
    from mlops_tasks.artifacts import Task
    from mlops_tasks.core.metrics import Floats

TRAINING = Window(start=datetime(2013, 1, 1, tzinfo=UTC), end=datetime(2013, 5, 30, tzinfo=UTC))
TEST = Window(start=datetime(2013, 6, 1, tzinfo=UTC), end=datetime(2013, 6, 11, tzinfo=UTC))
ROWS = 600
SECRET = "Zyzzyva-7431"
CLASSES: dict[str, list[str]] = {"binary": ["false", "true"], "multiclass": ["high", "low", "mid"], "regression": []}


def make_frame(task: Task) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    labels: Any = rng.normal(50, 9, ROWS) if task == "regression" else rng.choice(CLASSES[task], ROWS)
    city = np.array(["<b>Rome</b>", "Oslo"], dtype=object)[rng.integers(0, 2, ROWS)]
    city[0] = SECRET
    times = pd.date_range(TEST.start, TEST.end, periods=ROWS + 1, inclusive="left")
    return pd.DataFrame({"at": times, "x": rng.normal(size=ROWS), "city": city, "label": labels})


def score_with(task: Task, truth: Floats, noise: float) -> Floats:
    rng = np.random.default_rng(1)
    if task == "regression":
        return truth + noise * rng.normal(size=len(truth))
    if task == "binary":
        return np.asarray(1 / (1 + np.exp(-(2 * truth - 1 + noise * rng.normal(size=len(truth))))))
    raw = np.exp(2 * np.eye(3)[truth.astype(int)] + noise * rng.normal(size=(len(truth), 3)))
    return np.asarray(raw / raw.sum(axis=1, keepdims=True))


def make_evaluation(task: Task, spec: dict[str, Any] | None = None, absent: dict[str, str] | None = None) -> Evaluation:
    frame = make_frame(task)
    signature = ModelSignature(task=task, numeric=["x"], categorical=["city"], classes=CLASSES[task], target="label")
    truth = encode_truth(frame, signature, TEST, "pipeline shop")
    scored = {
        name: Predictions(task, truth, score_with(task, truth, noise))
        for name, noise in (("candidate", 1.0), ("champion", 1.4), ("hgb", 1.2))
    }
    mean = np.full(len(truth), truth.mean()) if task != "multiclass" else np.full((len(truth), 3), 1 / 3)
    scored["constant"] = Predictions(task, truth, mean)
    for name in absent or {}:
        scored.pop(name)

    def rescore(rows: pd.DataFrame) -> Floats:
        return score_with(task, truth[: len(rows)], 1.0)

    test = TestSet(frame, truth, TEST, "at", "label", signature)
    chosen = EvaluateSpec.model_validate({"bootstrap": 20, **(spec or {})})
    return evaluate(chosen, test, Models(scored, rescore, absent or {}))


def make_details(**changes: Any) -> Details:
    facts: dict[str, Any] = {
        "pipeline": "shop",
        "description": "Predicts who comes <again>.",
        "owner": "shop-team",
        "fingerprint": "a1b2" * 16,
        "dataset_version": "d" * 64,
        "training": TRAINING,
        "training_rows": 131_574,
        "champion_version": 3,
        "champion_training": TRAINING,
        "run_id": "run-1",
        "intent": "manual",
        "code_version": "0.1",
        "evaluated_at": "2030-01-01 00:00 UTC",
        "tracker_url": "http://127.0.0.1:5000/#/run-1",
        "numeric": ("x",),
        "categorical": ("city",),
        "parameters": {"model": "tabm"},
        "environment": {"python": "3.11"},
    }
    return Details(**{**facts, **changes})
