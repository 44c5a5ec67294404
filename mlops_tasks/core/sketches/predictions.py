"""A model's scores to a column that is sketched like any other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from mlops_tasks.core.sketches.layouts import as_floats, as_text

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

    import numpy.typing as npt

    from mlops_tasks.core.scoring import Scorer

PREDICTION = "prediction"


def prediction_name(taken: Container[str]) -> str:
    """Return the column's name, `prediction` unless a feature is called so."""
    name = PREDICTION
    while name in taken:
        name = f"model_{name}"
    return name


def prediction_column(scores: npt.NDArray[np.floating], classes: Sequence[str]) -> pa.Array:
    """Return what is sketched of scores: themselves, [N]; of several classes, [N, C], the name of the likeliest."""
    if scores.ndim == 1:
        return pa.array(scores.astype(np.float64))
    return pa.array(np.array(classes, dtype=object)[scores.argmax(axis=1)], pa.string())


def add_prediction(table: pa.Table, name: str, scorer: Scorer, where: str) -> pa.Table:
    """Let the model score rows and add what it gives as a column. Raises: DataRejected: an input is not numeric."""
    signature = scorer.signature
    numeric = categorical = None
    with np.errstate(over="ignore"):  # beyond float32: infinite, which the model reads as null
        if signature.numeric:
            values = [as_floats(table[column], f"{where}: column {column!r}") for column in signature.numeric]
            numeric = np.stack(values, axis=1).astype(np.float32)
    if signature.categorical:
        texts = [as_text(table[column]).fill_null(signature.null_token).to_numpy() for column in signature.categorical]
        categorical = np.stack(texts, axis=1).astype(object)
    scores = scorer.score_arrays(numeric, categorical)
    return table.append_column(name, prediction_column(scores, signature.classes))
