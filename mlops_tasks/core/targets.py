"""Label columns to training targets: class indices or standardised numbers, checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mlops_tasks.core.scoring import category_text
from mlops_tasks.errors import DataRejected

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from mlops_tasks.artifacts import FeatureSchema, Split, Task

MIN_ROWS = 20
"""Fewer rows of a split can't be learned from or judged on."""
POSITIVE = ("true", "1")
BINARY_CLASSES = 2


@dataclass(frozen=True)
class Targets:
    """The labels of the splits: class indices or values, float64 [N] each."""

    task: Task
    classes: list[str]
    """Class names by index; binary: negative, positive; regression: none."""
    by_split: Mapping[Split, npt.NDArray[np.float64]]

    @property
    def outputs(self) -> int:
        """How many numbers the network gives for one row."""
        return len(self.classes) if self.task == "multiclass" else 1


def make_targets(splits: Mapping[Split, pd.DataFrame], schema: FeatureSchema) -> Targets:
    """Turn the label column of each split into targets.

    Args:
        splits: split name -> rows, with the label column.
        schema: names the label and the task.

    Raises:
        DataRejected: the label is absent, null, not finite, has the wrong number of classes, or a split lacks a class.

    """
    labels = {split: _checked_label(split, frame, schema.label) for split, frame in splits.items()}
    if schema.task == "regression":
        return Targets("regression", [], {split: _finite(split, values, schema.label) for split, values in labels.items()})
    texts = {split: np.array([category_text(v) for v in values.tolist()], dtype=object) for split, values in labels.items()}
    found = sorted({text for values in texts.values() for text in values})
    _check_presence(texts, found, schema.label)
    classes = _binary_classes(found, schema) if schema.task == "binary" else _multi_classes(found, schema.label)
    index = {text: float(i) for i, text in enumerate(classes)}
    by_split = {split: np.array([index[text] for text in values]) for split, values in texts.items()}
    return Targets(schema.task, classes, by_split)


def _checked_label(split: str, frame: pd.DataFrame, label: str) -> pd.Series:
    if label not in frame.columns:
        msg = f"train: the label column {label!r} is missing from the {split} split; let the features produce it"
        raise DataRejected(msg)
    if len(frame) < MIN_ROWS:
        msg = f"train: the {split} split needs at least {MIN_ROWS} rows, got {len(frame)}; use a longer range"
        raise DataRejected(msg)
    values = frame[label]
    nulls = int(values.isna().sum())
    if nulls:
        msg = f"train: the label {label!r} is null in {nulls} rows of the {split} split; drop them with a row rule"
        raise DataRejected(msg)
    return values


def _finite(split: str, values: pd.Series, label: str) -> npt.NDArray[np.float64]:
    try:
        numbers = values.to_numpy(dtype="float64")
    except (TypeError, ValueError) as error:
        msg = f"train: the label {label!r} of a regression must be a number, got {values.dtype} in the {split} split"
        raise DataRejected(msg) from error
    bad = int((~np.isfinite(numbers)).sum())
    if bad:
        msg = f"train: the label {label!r} is infinite in {bad} rows of the {split} split; drop them with a row rule"
        raise DataRejected(msg)
    return np.asarray(numbers, dtype=np.float64)


def _check_presence(texts: Mapping[Split, npt.NDArray[np.object_]], found: list[str], label: str) -> None:
    for split, values in texts.items():
        for text in found:
            if not (values == text).any():
                msg = f"train: class {text!r} of the label {label!r} is absent from the {split} split; use a longer range"
                raise DataRejected(msg)


def _binary_classes(found: list[str], schema: FeatureSchema) -> list[str]:
    if len(found) != BINARY_CLASSES:
        msg = (
            f"train: the label {schema.label!r} of a binary task must have two values, got {len(found)}: "
            f"{', '.join(found[:5])}; set features.task to multiclass or regression, or use a longer range"
        )
        raise DataRejected(msg)
    wanted = (schema.positive,) if schema.positive is not None else POSITIVE
    positive = [text for text in found if text in wanted]
    if len(positive) != 1:
        msg = (
            f"train: the label {schema.label!r} has the values {found[0]!r} and {found[1]!r}, "
            f"but the positive one should be {' or '.join(repr(text) for text in wanted)}; set features.positive"
        )
        raise DataRejected(msg)
    return [next(text for text in found if text != positive[0]), positive[0]]


def _multi_classes(found: list[str], label: str) -> list[str]:
    if len(found) < BINARY_CLASSES:
        msg = f"train: the label {label!r} has one value, {found[0]!r}: there is nothing to learn; use a longer range"
        raise DataRejected(msg)
    return found
