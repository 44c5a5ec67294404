"""Training rows to what turns raw rows into model inputs: medians, ranges, bins and vocabularies.

Everything is learned from the rows given, which must be training rows, and ends up inside the exported model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mlops_tasks.core.scoring import NULL_TOKEN, category_texts, numeric_array

if TYPE_CHECKING:
    import numpy.typing as npt

MIN_CATEGORY_ROWS = 5
"""Rarer categories share index 0 with the unknown ones."""


@dataclass(frozen=True)
class NumericColumn:
    """What was learned of one numeric column; values beyond [low, high] are clamped."""

    name: str
    median: float
    low: float
    high: float
    mean: float
    std: float
    has_nulls: bool
    edges: npt.NDArray[np.float64]
    """Bin edges of its piecewise-linear encoding, ascending, raw units; fewer than two: the column never varies."""

    @property
    def varies(self) -> bool:
        """Whether the column had two different values."""
        return len(self.edges) >= 2  # noqa: PLR2004 - a bin has two edges


@dataclass(frozen=True)
class CategoricalColumn:
    """What was learned of one categorical column: `vocabulary[i]` has index i + 1; 0 is unknown or rare."""

    name: str
    vocabulary: tuple[str, ...]

    @property
    def cardinality(self) -> int:
        """Number of indices, the unknown one included."""
        return len(self.vocabulary) + 1


@dataclass(frozen=True)
class Transform:
    """How raw rows become model inputs."""

    numeric: tuple[NumericColumn, ...]
    categorical: tuple[CategoricalColumn, ...]
    null_token: str

    @property
    def ignored(self) -> list[str]:
        """Columns that say nothing: without any value, or with one value and no nulls."""
        silent = [c.name for c in self.numeric if not c.varies and not c.has_nulls]
        return silent + [c.name for c in self.categorical if c.cardinality <= 1]

    def numbers(self, frame: pd.DataFrame) -> npt.NDArray[np.float32]:
        """Return the numeric inputs, raw: float32 [N, Fn], null as NaN."""
        return numeric_array(frame, [c.name for c in self.numeric])

    def codes(self, frame: pd.DataFrame) -> npt.NDArray[np.int64]:
        """Return the vocabulary indices of the categorical inputs: int64 [N, Fc]."""
        out = np.zeros((len(frame), len(self.categorical)), dtype=np.int64)
        for at, column in enumerate(self.categorical):
            index = {text: i + 1 for i, text in enumerate(column.vocabulary)}
            codes, uniques = pd.factorize(category_texts(frame[column.name].tolist(), self.null_token))
            out[:, at] = np.array([index.get(text, 0) for text in uniques], dtype=np.int64)[codes] if len(codes) else 0
        return out


def learn_transform(frame: pd.DataFrame, numeric: list[str], categorical: list[str], *, bins: int) -> Transform:
    """Learn the transform from training rows.

    Args:
        frame: the rows; numeric columns as floats, categorical ones as objects.
        numeric: names of the numeric inputs, in model order.
        categorical: names of the categorical inputs, in model order.
        bins: most bins of a numeric column.

    """
    token = _unused_token(frame, categorical)
    return Transform(
        numeric=tuple(
            _learn_numeric(name, values, bins) for name, values in zip(numeric, numeric_array(frame, numeric).T, strict=True)
        ),
        categorical=tuple(_learn_categorical(name, frame[name], token) for name in categorical),
        null_token=token,
    )


def _unused_token(frame: pd.DataFrame, categorical: list[str]) -> str:
    """Return a null token that no category of the data has."""
    token, attempt = NULL_TOKEN, 0
    while any((frame[name] == token).any() for name in categorical):
        attempt += 1
        token = f"__null_{attempt}__"
    return token


def _learn_numeric(name: str, raw: npt.NDArray[np.float32], bins: int) -> NumericColumn:
    values = raw[np.isfinite(raw)].astype(np.float64)
    has_nulls = 0 < len(values) < len(raw)
    if len(values) == 0:
        return NumericColumn(name, 0.0, 0.0, 0.0, 0.0, 1.0, has_nulls, np.empty(0))
    low, high, mean, std = (float(f(values)) for f in (np.min, np.max, np.mean, np.std))
    edges = np.unique(np.quantile(values, np.linspace(0, 1, bins + 1)).astype(np.float32)).astype(np.float64)
    return NumericColumn(name, float(np.median(values)), low, high, mean, std if std > 0 else 1.0, has_nulls, edges)


def _learn_categorical(name: str, values: pd.Series, token: str) -> CategoricalColumn:
    counts = pd.Series(category_texts(values.tolist(), token)).value_counts()
    frequent = [str(text) for text in counts.index[counts >= MIN_CATEGORY_ROWS]]
    return CategoricalColumn(name, tuple(sorted(frequent)))
