"""The model behind KServe's SDK, as a custom predictor: `serve.py FOLDER PORT`."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer


class Flights(Model):  # type: ignore[misc]  # kserve is installed in its own environment alone
    """Scores the tensors of an Open Inference Protocol request."""

    def __init__(self, name: str, folder: Path) -> None:
        super().__init__(name)
        self._folder = folder
        self.load()

    def load(self) -> bool:
        """Open the model, with one thread."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = ort.InferenceSession(self._folder / "model.onnx", options, providers=["CPUExecutionProvider"])
        self.ready = True
        return self.ready

    async def predict(self, payload: InferRequest, headers: Any = None, response_headers: Any = None) -> InferResponse:
        """Score a request."""
        del headers, response_headers
        feed = {tensor.name: _texts(tensor.as_numpy()) for tensor in payload.inputs}
        (scores,) = self._session.run(["score"], feed)
        output = InferOutput("score", list(scores.shape), "FP32")
        output.set_data_from_numpy(scores, binary_data=False)
        return InferResponse(payload.id, self.name, [output])


def _texts(values: Any) -> Any:
    """Decode what came as bytes."""
    if values.dtype == np.object_ and isinstance(values.flat[0], bytes):
        return np.array([value.decode() for value in values.flat], dtype=object).reshape(values.shape)
    return values


if __name__ == "__main__":
    server = ModelServer(http_port=int(sys.argv[2]), workers=1, enable_grpc=False, enable_latency_logging=False)
    server.start([Flights("nyc_flights", Path(sys.argv[1]))])
