from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

from mlops_tasks.artifacts import FeatureColumn, FeatureSchema
from mlops_tasks.core.targets import make_targets
from mlops_tasks.errors import DataRejected

if TYPE_CHECKING:
    from mlops_tasks.artifacts import Split, Task

ROWS = 24


def schema_of(task: Task, positive: str | None = None) -> FeatureSchema:
    column = FeatureColumn(name="a", kind="numeric")
    return FeatureSchema(columns=(column,), label="y", task=task, event_time="at", entity_key=("id",), positive=positive)


def splits_of(train: list[Any], validation: list[Any]) -> dict[Split, pd.DataFrame]:
    return {"train": pd.DataFrame({"y": train}), "validation": pd.DataFrame({"y": validation})}


def rejection(splits: dict[Split, pd.DataFrame], task: Task, positive: str | None = None) -> str:
    with pytest.raises(DataRejected) as caught:
        make_targets(splits, schema_of(task, positive))
    return str(caught.value)


@pytest.mark.parametrize(
    ("values", "positive", "classes"),
    [
        ([False, True], None, ["false", "true"]),
        ([0, 1], None, ["0", "1"]),
        ([0.0, 1.0], None, ["0", "1"]),
        (["no", "yes"], "yes", ["no", "yes"]),
        (["no", "yes"], "no", ["yes", "no"]),
    ],
)
def test_positive_class_comes_last(values: list[Any], positive: str | None, classes: list[str]) -> None:
    targets = make_targets(splits_of(values * 12, values * 12), schema_of("binary", positive))
    assert targets.classes == classes
    assert targets.by_split["train"][:2].tolist() == ([1, 0] if positive == "no" else [0, 1])


def test_classes_are_sorted_and_numbers_pass() -> None:
    targets = make_targets(splits_of(["b", "c", "a"] * 8, ["a", "b", "c"] * 8), schema_of("multiclass"))
    assert (targets.classes, targets.outputs) == (["a", "b", "c"], 3)
    assert targets.by_split["train"][:3].tolist() == [1, 2, 0]
    numbers = make_targets(splits_of(list(range(ROWS)), [1.5] * ROWS), schema_of("regression"))
    assert (numbers.classes, numbers.outputs) == ([], 1)
    assert numbers.by_split["train"].dtype == np.float64


def test_missing_label() -> None:
    splits: dict[Split, pd.DataFrame] = {"train": pd.DataFrame({"x": [1] * ROWS}), "validation": pd.DataFrame({"y": [1]})}
    assert rejection(splits, "binary") == (
        "train: the label column 'y' is missing from the train split; let the features produce it"
    )


def test_one_row() -> None:
    assert rejection(splits_of([True, False] * 12, [True]), "binary") == (
        "train: the validation split needs at least 20 rows, got 1; use a longer range"
    )


def test_null_label() -> None:
    assert rejection(splits_of([True, None] * 12, [True, False] * 12), "binary") == (
        "train: the label 'y' is null in 12 rows of the train split; drop them with a row rule"
    )


def test_infinite_label() -> None:
    assert rejection(splits_of([1.0] * ROWS, [np.inf] * 2 + [1.0] * ROWS), "regression") == (
        "train: the label 'y' is infinite in 2 rows of the validation split; drop them with a row rule"
    )


def test_text_label_of_a_regression() -> None:
    assert rejection(splits_of(["a"] * ROWS, ["a"] * ROWS), "regression") == (
        "train: the label 'y' of a regression must be a number, got object in the train split"
    )


@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_class_absent_from_a_split(task: Task) -> None:
    assert rejection(splits_of([True, False] * 12, [False] * ROWS), task) == (
        "train: class 'true' of the label 'y' is absent from the validation split; use a longer range"
    )


def test_binary_label_with_three_values() -> None:
    assert rejection(splits_of([0, 1, 2] * 8, [0, 1, 2] * 8), "binary") == (
        "train: the label 'y' of a binary task must have two values, got 3: 0, 1, 2; "
        "set features.task to multiclass or regression, or use a longer range"
    )


def test_binary_label_without_a_known_positive() -> None:
    assert rejection(splits_of(["no", "yes"] * 12, ["no", "yes"] * 12), "binary") == (
        "train: the label 'y' has the values 'no' and 'yes', "
        "but the positive one should be 'true' or '1'; set features.positive"
    )
    assert rejection(splits_of(["no", "yes"] * 12, ["no", "yes"] * 12), "binary", "si") == (
        "train: the label 'y' has the values 'no' and 'yes', but the positive one should be 'si'; set features.positive"
    )


def test_one_class_alone() -> None:
    assert rejection(splits_of(["a"] * ROWS, ["a"] * ROWS), "multiclass") == (
        "train: the label 'y' has one value, 'a': there is nothing to learn; use a longer range"
    )
