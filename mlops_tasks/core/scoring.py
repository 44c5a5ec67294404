"""An exported model and rows to scores, by ONNX Runtime alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort
from pydantic import Field

from mlops_tasks.artifacts import Frozen, Task
from mlops_tasks.errors import DataRejected

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import numpy.typing as npt
    import pandas as pd

    from mlops_tasks.artifacts import Artifact, FileRef

NULL_TOKEN = "__null__"  # noqa: S105 - marks an absent category, not a secret
CHUNK_ROWS = 8192
"""Rows a call: an ensemble's activations take about 10 KB a row."""
MODEL, SIGNATURE = "model.onnx", "signature.json"
WEIGHTS = f"{MODEL}.data"
"""A large model's weights, beside its graph; a small model has them inside."""


def weights_file(model: Path) -> Path:
    """Return where a model's weights lie if they are not inside its file."""
    return model.with_name(f"{model.name}.data")


def scorer_files(artifact: Artifact) -> list[FileRef]:
    """Return what `Scorer.load` needs of an artifact's files, weights only if they lie beside the graph. Raises: KeyError."""
    weights = [ref for ref in artifact.files if ref.key.rsplit("/", 1)[-1] == WEIGHTS]
    return [artifact.file(MODEL), artifact.file(SIGNATURE), *weights]


class ModelSignature(Frozen):
    """What a model takes and gives; stored beside it as `signature.json`."""

    task: Task
    numeric: list[str] = Field(description="columns of the input `numeric`, float32 [B, Fn], in order; NaN is null")
    categorical: list[str] = Field(description="columns of the input `categorical`, string [B, Fc], in order")
    null_token: str = Field(default=NULL_TOKEN, description="text that stands for a null category; no real category has it")
    classes: list[str] = Field(default=[], description="class names in the order of the scores; binary: negative, positive")
    threshold: float | None = Field(default=None, description="binary: least probability that counts as positive")
    target: str = Field(description="the label's column")


def category_text(value: object, null_token: str = NULL_TOKEN) -> str:
    """Write one category as the text that the model knows it by; a null becomes the token.

    Whole floats are written as integers: a column of integers with nulls reads as floats.
    """
    if isinstance(value, str):
        return value
    if value is None or (isinstance(value, (float, np.floating)) and math.isnan(value)):
        return null_token
    if isinstance(value, (bool, np.bool_)):
        return "true" if value else "false"
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    text = str(value)
    return null_token if text in {"NaT", "<NA>"} else text


def category_texts(values: Iterable[object], null_token: str = NULL_TOKEN) -> npt.NDArray[np.object_]:
    """Write categories as texts; N objects of type str."""
    return np.array([v if type(v) is str else category_text(v, null_token) for v in values], dtype=object)


def numeric_array(frame: pd.DataFrame, names: list[str]) -> npt.NDArray[np.float32]:
    """Return columns as float32 [N, Fn], null as NaN.

    What is beyond the range of float32 becomes infinite, which the model reads as null.
    """
    out = np.empty((len(frame), len(names)), dtype=np.float32)
    with np.errstate(over="ignore"):
        for at, name in enumerate(names):
            out[:, at] = frame[name].to_numpy(dtype="float64", na_value=np.nan)
    return out


def categorical_array(frame: pd.DataFrame, names: list[str], null_token: str = NULL_TOKEN) -> npt.NDArray[np.object_]:
    """Return columns as texts [N, Fc], null as the token."""
    out = np.empty((len(frame), len(names)), dtype=object)
    for at, name in enumerate(names):
        out[:, at] = category_texts(frame[name].tolist(), null_token)
    return out


@dataclass(frozen=True)
class Scorer:
    """One loaded model; safe to use from several threads."""

    session: Any
    signature: ModelSignature

    @classmethod
    def load(cls, folder: Path, *, model: str = MODEL, signature: str = SIGNATURE, threads: int = 1) -> Scorer:
        """Load a model and its signature from a folder."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Idle threads that spin take the cores of other sessions.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if weights_file(folder / model).exists():
            # Prepacking copies weights that are mapped: 700 MB then load in 0.7 s instead of 0.01 and take as much memory that
            # the kernel can't reclaim. It would make 32 rows a quarter quicker and 8 rows twice as quick, one row not at all.
            options.add_session_config_entry("session.disable_prepacking", "1")
        session = ort.InferenceSession(str(folder / model), options, providers=["CPUExecutionProvider"])
        text = (folder / signature).read_text(encoding="utf-8")
        return cls(session=session, signature=ModelSignature.model_validate_json(text))

    def score(self, frame: pd.DataFrame) -> npt.NDArray[np.float32]:
        """Score rows: binary and regression [N], multiclass [N, C].

        Raises:
            DataRejected: the frame lacks an input column.

        """
        signature = self.signature
        missing = [name for name in [*signature.numeric, *signature.categorical] if name not in frame.columns]
        if missing:
            msg = f"scoring: columns {missing} are missing; give all inputs of the model, null where a value is unknown"
            raise DataRejected(msg)
        numeric = numeric_array(frame, signature.numeric) if signature.numeric else None
        categorical = categorical_array(frame, signature.categorical, signature.null_token) if signature.categorical else None
        return self.score_arrays(numeric, categorical)

    def score_arrays(
        self, numeric: npt.NDArray[np.float32] | None, categorical: npt.NDArray[np.object_] | None
    ) -> npt.NDArray[np.float32]:
        """Score float32 [N, Fn] and texts [N, Fc]; an input that the model lacks must be None."""
        feed = {name: value for name, value in (("numeric", numeric), ("categorical", categorical)) if value is not None}
        rows = len(next(iter(feed.values())))
        if 0 < rows <= CHUNK_ROWS:
            whole: npt.NDArray[np.float32] = self.session.run(["score"], feed)[0]
            return whole
        parts = [
            self.session.run(["score"], {name: value[start : start + CHUNK_ROWS] for name, value in feed.items()})[0]
            for start in range(0, max(rows, 1), CHUNK_ROWS)
        ]
        scores: npt.NDArray[np.float32] = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return scores
