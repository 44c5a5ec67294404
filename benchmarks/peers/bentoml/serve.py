"""The model behind BentoML: `bentoml serve serve:Flights`, with the model's folder in MODEL_FOLDER."""

import os
from pathlib import Path
from typing import Annotated

import bentoml
import numpy as np
import onnxruntime as ort
from bentoml.validators import DType


@bentoml.service(workers=1, logging={"access": {"enabled": False}})
class Flights:
    """Scores rows of numbers and rows of texts."""

    def __init__(self) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        model = Path(os.environ["MODEL_FOLDER"]) / "model.onnx"
        self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    @bentoml.api  # type: ignore[untyped-decorator]  # bentoml is installed in its own environment alone
    def predict(self, numeric: Annotated[np.ndarray, DType("float32")], categorical: list[list[str]]) -> list[float]:
        """Score."""
        feed = {"numeric": numeric, "categorical": np.array(categorical, dtype=object)}
        scores: list[float] = self._session.run(["score"], feed)[0].tolist()
        return scores
