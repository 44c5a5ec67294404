"""Golden rows, kept with every model, to the proof that a loaded model still gives their scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mlops_tasks.artifacts import Frozen
from mlops_tasks.core.scoring import Scorer, category_texts
from mlops_tasks.errors import ModelRejected

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt

    from mlops_tasks.core.scoring import ModelSignature

FILE = "golden.json"


class Golden(Frozen):
    """Real rows of the training range and the scores that torch gave them."""

    rows: list[dict[str, Any]]
    scores: list[float] | list[list[float]]


def read_golden(folder: Path) -> Golden:
    """Read a model folder's golden rows. Raises: ModelRejected when there are none."""
    path = folder / FILE
    if not path.is_file():
        msg = f"model {folder.name}: {FILE} is missing, so nothing proves that the model loads right; train it again"
        raise ModelRejected(msg)
    golden = Golden.model_validate_json(path.read_text(encoding="utf-8"))
    if not golden.rows or len(golden.rows) != len(golden.scores):
        msg = f"model {folder.name}: {FILE} has {len(golden.rows)} rows and {len(golden.scores)} scores; train it again"
        raise ModelRejected(msg)
    return golden


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
