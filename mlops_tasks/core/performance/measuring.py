"""A window's rows and a model to what they say of it: coverage of labels, metrics, error, and an estimate without labels."""

# ruff: noqa: N806 - an array's name ends with its shape, whose axes are capitals

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mlops_tasks.core.metrics import Predictions, measure
from mlops_tasks.core.performance.estimating import estimate_metrics
from mlops_tasks.core.performance.records import Measured
from mlops_tasks.core.request_log import SCORE, VERSION
from mlops_tasks.core.window_errors import measure_error
from mlops_tasks.errors import DataRejected

if TYPE_CHECKING:
    from mlops_tasks.core.metrics import Floats
    from mlops_tasks.core.scoring import ModelSignature, Scorer

HALF = 0.5


def wanted_columns(signature: ModelSignature, present: set[str]) -> list[str]:
    """Return which of a window's columns are read: the model's inputs, the label, and what the request log knows."""
    wanted = [*signature.numeric, *signature.categorical, signature.target, VERSION, SCORE]
    return [name for name in dict.fromkeys(wanted) if name in present]


def measure_window(table: pa.Table, scorer: Scorer, version: int, window: str, *, mature: bool, trusted: bool) -> Measured:
    """Measure one window's rows.

    Where rows carry the version that answered them, only this version's count; where they carry its score, that
    is what is measured, since it is what was really answered, and elsewhere the model scores them now.

    Args:
        table: inputs, label (absent or null where unknown), and the request log's version and score if there are such.
        scorer: the model.
        version: its version.
        window: the window's label.
        mature: whether labels were due; if not, nothing is measured by those that are there already.
        trusted: whether the scores are calibrated, so that metrics can be estimated from them.

    Raises:
        DataRejected: an input column is missing, and no score was logged.

    """
    signature = scorer.signature
    rows = table.filter(pc.equal(table[VERSION], version)) if VERSION in table.column_names else table
    logged = _logged(rows, signature)
    score_N = logged if logged is not None else _score(rows, scorer, window)
    truth_N = encode_known(rows, signature)
    known_N = np.isfinite(truth_N) & np.isfinite(score_N).all(axis=tuple(range(1, score_N.ndim)))
    threshold = HALF if signature.threshold is None else signature.threshold
    found = Predictions(signature.task, truth_N, score_N, threshold).rows(known_N)
    judged = mature and bool(known_N.any())
    values = measure(found) if judged else {}
    return Measured(
        rows=rows.num_rows,
        labelled=int(known_N.sum()),
        answered=logged is not None,
        mature=mature,
        metrics={name: value for name, value in values.items() if np.isfinite(value)},
        estimated=estimate_metrics(signature.task, score_N, threshold) if trusted else {},
        error=measure_error(window, found) if judged else None,
    )


def encode_known(rows: pa.Table, signature: ModelSignature) -> Floats:
    """Return labels as class indices or values; NaN where a label is unknown or of a class that the model lacks; N."""
    from mlops_tasks.core.scoring import category_texts  # noqa: PLC0415 - loads ONNX Runtime, which what is cached doesn't need

    if signature.target not in rows.column_names:
        return np.full(rows.num_rows, np.nan)
    label = rows[signature.target]
    if signature.task == "regression":
        values = label.cast(pa.float64()).to_numpy()
        return np.where(np.isfinite(values), values, np.nan)
    index = {name: float(at) for at, name in enumerate(signature.classes)}
    texts = category_texts(label.to_pylist(), signature.null_token)
    return np.array([index.get(text, np.nan) for text in texts], dtype=np.float64)


def _logged(rows: pa.Table, signature: ModelSignature) -> Floats | None:
    """Return what was answered, N; None where that is not known of every row."""
    if signature.task == "multiclass" or SCORE not in rows.column_names or rows[SCORE].null_count:
        return None
    return np.asarray(rows[SCORE].cast(pa.float64()).to_numpy(), dtype=np.float64)


def _score(rows: pa.Table, scorer: Scorer, window: str) -> Floats:
    """Let the model score rows, [N] or [N, C]."""
    from mlops_tasks.core.scoring import categorical_array, numeric_array  # noqa: PLC0415 - see encode_known

    signature = scorer.signature
    missing = [name for name in [*signature.numeric, *signature.categorical] if name not in rows.column_names]
    if missing:
        msg = f"window {window}: columns {', '.join(missing)} are missing, which the model reads; check the features"
        raise DataRejected(msg)
    frame = rows.to_pandas()
    numeric = numeric_array(frame, signature.numeric) if signature.numeric else None
    categorical = categorical_array(frame, signature.categorical, signature.null_token) if signature.categorical else None
    return scorer.score_arrays(numeric, categorical).astype(np.float64)
