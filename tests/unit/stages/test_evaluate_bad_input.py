"""What bad input of the evaluate stage gets: exact messages, and nothing published."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from mlops_tasks.artifacts import SplitRef
from mlops_tasks.errors import DataRejected, ModelRejected, SpecError
from tests.unit.stages.evaluate_case import TEST, make_case, make_rows

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from mlops_tasks.artifacts import Task

PLACE = "pipeline shop: test split [2013-06-01T00:00, 2013-06-11T00:00)"


def rejected(folder: Path, rows: pd.DataFrame, task: Task = "binary", spec: dict[str, Any] | None = None) -> str:
    case = make_case(folder, task, rows)
    with pytest.raises(DataRejected) as caught:
        case.judge(spec)
    assert not list(case.ports.store.list("shop/verdicts/"))
    return str(caught.value)


def test_a_class_absent_from_the_test_split(tmp_path: Path) -> None:
    assert rejected(tmp_path, make_rows("binary").assign(label=False)) == (
        f"{PLACE}: label 'label' has no row of class 'true' among 400 rows, so the metrics are undefined; "
        "widen the range or snapshot.test"
    )


def test_one_row(tmp_path: Path) -> None:
    assert rejected(tmp_path, make_rows("binary").head(1)) == (
        f"{PLACE}: has 1 row, needs at least 2; widen the range or snapshot.test"
    )


def test_no_row_in_the_window(tmp_path: Path) -> None:
    rows = make_rows("binary")
    rows["at"] = TEST.end
    assert rejected(tmp_path, rows) == f"{PLACE}: has 0 rows, needs at least 2; widen the range or snapshot.test"


def test_no_files_in_the_test_split(tmp_path: Path) -> None:
    case = make_case(tmp_path)
    case.dataset = case.dataset.model_copy(update={"splits": {"test": SplitRef(window=TEST, files=())}})
    with pytest.raises(DataRejected) as caught:
        case.judge()
    assert str(caught.value) == (
        f"pipeline shop: dataset {case.dataset.version} has no test rows; widen the range or snapshot.test"
    )


def test_a_missing_column(tmp_path: Path) -> None:
    message = rejected(tmp_path, make_rows("binary").drop(columns="x"))
    assert message.startswith("shop/features/2013-06-01/")
    assert message.endswith("/features.parquet: column 'x' is missing; let the features produce it and run preprocess again")


def test_a_slice_of_a_column_that_is_not_there(tmp_path: Path) -> None:
    spec = {"slices": [{"column": "country", "metric": "roc_auc"}]}
    assert rejected(tmp_path, make_rows("binary"), spec=spec) == (
        f"{PLACE}: column 'country' is missing; run preprocess and snapshot again"
    )


def test_null_labels(tmp_path: Path) -> None:
    rows = make_rows("binary")
    rows["label"] = rows["label"].astype(object).where(rows.index != 7, None)
    assert rejected(tmp_path, rows) == (f"{PLACE}: label 'label' is null in 1 of 400 rows; reject such rows with a row rule")


def test_a_class_that_training_never_saw(tmp_path: Path) -> None:
    rows = make_rows("multiclass")
    rows.loc[3:5, "label"] = "huge"
    assert rejected(tmp_path, rows, "multiclass") == (
        f"{PLACE}: label 'label' has 3 rows of classes that the training data lacks; train on a longer range"
    )


def test_infinite_labels(tmp_path: Path) -> None:
    rows = make_rows("regression")
    rows.loc[3, "label"] = np.inf
    assert rejected(tmp_path, rows, "regression") == (
        f"{PLACE}: label 'label' is not a finite number in 1 of 400 rows; reject such rows with a row rule"
    )


def test_a_label_without_variation(tmp_path: Path) -> None:
    assert rejected(tmp_path, make_rows("regression").assign(label=1.5), "regression") == (
        f"{PLACE}: label 'label' has the same value in all 400 rows, so r2 is undefined; widen the range or snapshot.test"
    )


def test_a_metric_of_another_task_is_refused_before_any_work(tmp_path: Path) -> None:
    case = make_case(tmp_path)
    with pytest.raises(SpecError, match=r"^pipeline shop: evaluate\.gates\.0\.metric: 'rmse' is for regression tasks"):
        case.judge({"gates": [{"metric": "rmse", "max": 1}]})


def test_scores_that_are_not_numbers_reject_the_model(tmp_path: Path) -> None:
    case = make_case(tmp_path, weight=float("nan"))
    with pytest.raises(ModelRejected) as caught:
        case.judge()
    assert str(caught.value) == (
        f"candidate {'f' * 16}: 400 of 400 scores of the test split [2013-06-01T00:00, 2013-06-11T00:00) "
        "are not finite; lower train.learning_rate and train again"
    )
