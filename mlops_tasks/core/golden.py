"""Golden rows, kept with every model, to the proof that a loaded model still gives their scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors
from pydantic import ValidationError

from mlops_tasks.artifacts import Frozen
from mlops_tasks.core.scoring import Scorer, category_texts
from mlops_tasks.errors import ModelRejected

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt

    from mlops_tasks.core.scoring import ModelSignature

FILE = "golden.json"
_CANNOT_LOAD = (
    OSError,
    ValidationError,
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoSuchFile,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)
"""What ONNX Runtime and the signature raise on files that are no model; they share no base below Exception."""


class Golden(Frozen):
    """Real rows of the training range and the scores that torch gave them."""

    rows: list[dict[str, Any]]
    scores: list[float] | list[list[float]]


def load_proven(folder: Path, tolerance: float, *, what: str, threads: int = 1) -> tuple[Scorer, Golden]:
    """Load a model folder and let it repeat its golden rows.

    Args:
        folder: holds `model.onnx`, `signature.json` and `golden.json`.
        tolerance: greatest difference of a score.
        what: names the model in messages.
        threads: of ONNX Runtime.

    Raises:
        ModelRejected: it does not load, has no golden rows, or scores them otherwise.

    """
    try:
        golden = Golden.model_validate_json((folder / FILE).read_text(encoding="utf-8"))
        scorer = Scorer.load(folder, threads=threads)
    except _CANNOT_LOAD as error:
        cause = (str(error).splitlines() or [type(error).__name__])[0]
        msg = f"{what} does not load: {cause}; train it again"
        raise ModelRejected(msg) from error
    check_golden(scorer, golden, tolerance, what=what)
    return scorer, golden


def rows_to_arrays(
    rows: Sequence[dict[str, Any]], signature: ModelSignature
) -> tuple[npt.NDArray[np.float32] | None, npt.NDArray[np.object_] | None]:
    """Return rows as float32 [N, Fn] (null: NaN) and texts [N, Fc] (null: the token); None for a kind without columns."""
    numeric = categorical = None
    if signature.numeric:
        cells = [[_number(row.get(name)) for name in signature.numeric] for row in rows]
        with np.errstate(over="ignore"):
            numeric = np.array(cells, dtype=np.float64).astype(np.float32)
    if signature.categorical:
        columns = [category_texts((row.get(name) for row in rows), signature.null_token) for name in signature.categorical]
        categorical = np.stack(columns, axis=1)
    return numeric, categorical


def _number(value: object) -> float:
    return float("nan") if value is None else float(value)  # type: ignore[arg-type] # JSON: a number or a boolean


def check_golden(scorer: Scorer, golden: Golden, tolerance: float, *, what: str) -> float:
    """Score the golden rows; return the greatest difference.

    Raises:
        ModelRejected: a score differs by more than `tolerance`.

    """
    if not golden.rows:
        msg = f"{what}: {FILE} holds no rows, so nothing proves that the model loads right; train it again"
        raise ModelRejected(msg)
    scores = np.asarray(scorer.score_arrays(*rows_to_arrays(golden.rows, scorer.signature)), dtype=np.float64)
    expected = np.asarray(golden.scores, dtype=np.float64)
    if scores.shape != expected.shape:
        msg = f"{what}: golden rows gave scores of shape {scores.shape}, expected {expected.shape}; train it again"
        raise ModelRejected(msg)
    difference = np.abs(scores - expected)
    # A score that is not a number must count as wrong: NaN compares false with everything.
    greatest = float(np.where(np.isnan(difference), np.inf, difference).max())
    if greatest > tolerance:
        row = int(np.nanargmax(difference.reshape(len(expected), -1).max(axis=1)))
        msg = f"{what}: golden row {row} differs by {greatest:.2g}, allowed is {tolerance:.2g}; export or train it again"
        raise ModelRejected(msg)
    return greatest
