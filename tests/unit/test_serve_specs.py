"""A trial that can't be judged is refused when the pipeline is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import pytest

from mlops_tasks.artifacts import Task
from mlops_tasks.core.metrics import METRICS, metric_names
from mlops_tasks.errors import SpecError
from mlops_tasks.loading import apply_overrides
from mlops_tasks.serve_specs import TRIAL_METRICS, ChallengerSpec
from tests.served_pipeline import PIPELINE

if TYPE_CHECKING:
    from mlops_tasks.specs import PipelineSpec


def tried(task: Task = "binary", **challenger: Any) -> PipelineSpec:
    """Return the pipeline with a trial; its labels come from `outcomes`."""
    outcomes = {"path": "outcomes.csv", "columns": {"prediction_id": "string", "sold": "float", "note": "string"}}
    sources = {**PIPELINE.model_dump(mode="json")["collect"]["sources"], "outcomes": outcomes}
    changed = {"collect.sources": sources, "features.task": task, "serve.challenger": {"mode": "canary", **challenger}}
    return apply_overrides(PIPELINE, changed)


def test_the_known_metrics_are_those_that_can_be_computed() -> None:
    assert {task: set(metric_names(task)) for task in get_args(Task)} == {t: set(names) for t, names in TRIAL_METRICS.items()}
    assert [ChallengerSpec().metric_for(task) for task in get_args(Task)] == ["log_loss", "log_loss", "rmse"]
    assert not METRICS["rmse"].greater_is_better


@pytest.mark.parametrize(
    ("task", "challenger", "problem"),
    [
        (
            "regression",
            {"metric": "log_loss"},
            "serve.challenger.metric: 'log_loss' is no metric of regression models; use one of rmse, mae, median_ae, r2",
        ),
        (
            "multiclass",
            {"metric": "roc_auc"},
            "serve.challenger.metric: 'roc_auc' is no metric of multiclass models; use one of",
        ),
        ("binary", {"metric": "auc"}, "serve.challenger.metric: 'auc' is no metric of binary models; use one of log_loss"),
        (
            "binary",
            {"labels": "nowhere"},
            "serve.challenger.labels names source 'nowhere', which collect.sources does not have",
        ),
        (
            "binary",
            {"labels": "sales"},
            "serve.challenger.labels names source 'sales', which lacks the column 'prediction_id': add it there",
        ),
        ("binary", {"min_labelled": 500}, "serve.challenger: min_labelled is 500, but labels names no source, so none"),
        ("binary", {"percent": 100}, "serve.challenger.percent must be less than 100, got 100"),
    ],
)
def test_one_that_cannot_be_judged_is_refused_in_words(task: Task, challenger: dict[str, Any], problem: str) -> None:
    with pytest.raises(SpecError) as caught:
        tried(task, **challenger)
    assert f"shop overrides: {problem}" in str(caught.value)


def test_labels_of_a_regression_are_numbers() -> None:
    assert tried("regression", labels="outcomes").serve.challenger.labels == "outcomes"
    changed = {"features.label": "note", "serve.challenger.labels": "outcomes"}
    with pytest.raises(SpecError, match="column 'note' of 'outcomes' must be int or float, got string"):
        apply_overrides(tried("regression"), changed)
