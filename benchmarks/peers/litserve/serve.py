"""The model behind LitServe: `serve.py FOLDER PORT`."""

import sys
from pathlib import Path
from typing import Any

import litserve
import numpy as np
import onnxruntime as ort


class Flights(litserve.LitAPI):  # type: ignore[misc]  # litserve is installed in its own environment alone
    """Scores rows of numbers and rows of texts."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def setup(self, device: str) -> None:
        """Open the model, with one thread."""
        del device
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = ort.InferenceSession(self._folder / "model.onnx", options, providers=["CPUExecutionProvider"])

    def decode_request(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the model's two arrays."""
        numeric = np.array(request["numeric"], dtype=np.float32)
        return {"numeric": numeric, "categorical": np.array(request["categorical"], dtype=object)}

    def predict(self, x: dict[str, Any]) -> Any:
        """Score."""
        return self._session.run(["score"], x)[0]

    def encode_response(self, output: Any) -> dict[str, Any]:
        """Return the scores as a list."""
        return {"score": output.tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(Flights(Path(sys.argv[1])), accelerator="cpu", workers_per_device=1, fast_queue=True)
    server.run(host="127.0.0.1", port=int(sys.argv[2]), num_api_servers=1, log_level="warning", generate_client_file=False)
