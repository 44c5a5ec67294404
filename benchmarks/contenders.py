"""Model servers to compare: how each is started with one model, asked in its own protocol, and understood."""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import orjson
import yaml

from benchmarks.load import JSON
from benchmarks.measuring import MLOPS, PIPELINE
from benchmarks.peer_environments import PEERS
from demo.ports import any_free

INFER, INVOCATIONS, PREDICT = f"/v2/models/{PIPELINE}/infer", "/invocations", "/predict"
HEADER_LENGTH = "inference-header-content-length"
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
QUIET = {"BENTOML_DO_NOT_TRACK": "true", "UVICORN_ACCESS_LOG": "false", "UVICORN_LOG_LEVEL": "warning"}
"""No lines for requests, as ours writes none either; the last two are for the uvicorn that MLflow starts."""


@dataclass(frozen=True)
class Rows:
    """Rows as the model takes them."""

    numeric: npt.NDArray[np.float32]
    """[N, Fn]."""
    categorical: npt.NDArray[np.object_]
    """[N, Fc]."""
    numeric_names: list[str]
    categorical_names: list[str]

    def __len__(self) -> int:
        """Return N."""
        return len(self.numeric)


@dataclass(frozen=True)
class Protocol:
    """One way to ask and to understand the answer."""

    name: str
    path: str
    encode: Callable[[Rows], tuple[dict[str, str], bytes]]
    """Rows -> the request's headers and body."""
    scores: Callable[[httpx.Response], Any]


@dataclass(frozen=True)
class Server:
    """A process that serves the model."""

    name: str
    command: list[str]
    port: int
    env: Mapping[str, str]
    """What its environment has more than the others'."""


def _numbers(rows: Rows) -> list[list[float]]:
    return rows.numeric.astype(np.float64).tolist()  # type: ignore[no-any-return]  # two dimensions


def _two_tensors(rows: Rows) -> tuple[dict[str, str], bytes]:
    numeric = {
        "name": "numeric",
        "datatype": "FP32",
        "shape": rows.numeric.shape,
        "data": rows.numeric.astype(np.float64).ravel().tolist(),
    }
    texts = rows.categorical.ravel().tolist()
    categorical = {"name": "categorical", "datatype": "BYTES", "shape": rows.categorical.shape, "data": texts}
    return JSON, orjson.dumps({"id": "benchmark", "inputs": [numeric, categorical]})


def _tensor_a_column(rows: Rows) -> tuple[dict[str, str], bytes]:
    numbers = rows.numeric.astype(np.float64).T.tolist()
    columns = [(name, "FP32", cells) for name, cells in zip(rows.numeric_names, numbers, strict=True)]
    columns += [(name, "BYTES", rows.categorical[:, at].tolist()) for at, name in enumerate(rows.categorical_names)]
    inputs = [{"name": name, "datatype": kind, "shape": [len(rows)], "data": cells} for name, kind, cells in columns]
    return JSON, orjson.dumps({"id": "benchmark", "inputs": inputs})


def _binary(rows: Rows) -> tuple[dict[str, str], bytes]:
    texts = b"".join(struct.pack("<I", len(text)) + text for text in map(str.encode, rows.categorical.ravel()))
    numbers, shapes = rows.numeric.tobytes(), (rows.numeric.shape, rows.categorical.shape)
    blobs = (("numeric", "FP32", shapes[0], numbers), ("categorical", "BYTES", shapes[1], texts))
    inputs = [
        {"name": name, "datatype": kind, "shape": shape, "parameters": {"binary_data_size": len(blob)}}
        for name, kind, shape, blob in blobs
    ]
    asked = [{"name": "score", "parameters": {"binary_data": True}}]
    head = orjson.dumps({"id": "benchmark", "inputs": inputs, "outputs": asked})
    headers = {"content-type": "application/octet-stream", HEADER_LENGTH: str(len(head))}
    return headers, head + b"".join(blob for *_, blob in blobs)


def _two_lists(rows: Rows) -> dict[str, Any]:
    return {"numeric": _numbers(rows), "categorical": rows.categorical.tolist()}


def _v2_scores(answer: httpx.Response) -> Any:
    """Return the output `score`, which lies in the JSON or, being the only one, behind it."""
    length = int(answer.headers.get(HEADER_LENGTH, len(answer.content)))
    output = next(output for output in orjson.loads(answer.content[:length])["outputs"] if output["name"] == "score")
    return output.get("data") or np.frombuffer(answer.content[length:], "<f4")


def _mlflow_scores(answer: httpx.Response) -> Any:
    """Ours gives a list where MLflow's server gives the outputs by name."""
    given = answer.json()["predictions"]
    return given["score"] if isinstance(given, dict) else given


V2 = Protocol("V2 JSON", INFER, _two_tensors, _v2_scores)
V2_COLUMNS = Protocol("V2 JSON, a tensor a column", INFER, _tensor_a_column, _v2_scores)
V2_BINARY = Protocol("V2 binary", INFER, _binary, _v2_scores)
MLFLOW = Protocol(INVOCATIONS, INVOCATIONS, lambda rows: (JSON, orjson.dumps({"inputs": _two_lists(rows)})), _mlflow_scores)
LITSERVE = Protocol("JSON", PREDICT, lambda rows: (JSON, orjson.dumps(_two_lists(rows))), lambda answer: answer.json()["score"])
BENTOML = Protocol("JSON", PREDICT, lambda rows: (JSON, orjson.dumps(_two_lists(rows))), lambda answer: answer.json())
ECHO = Protocol("V2 JSON", "/echo", _two_tensors, lambda _: None)


def our_server(name: str, version: int | None, *flags: str) -> Server:
    """Return our server of one version; None: of the champion."""
    port, which = any_free(), () if version is None else ("--version", str(version))
    return Server(name, [*MLOPS, "serve", PIPELINE, *which, "--port", str(port), *flags], port, {})


def echo_server() -> Server:
    """Return the least that a server on our stack does."""
    port = any_free()
    return Server("echo", [sys.executable, "-m", "benchmarks.inside.echo_server", str(port)], port, {})


def peer_server(peer: str, programs: Path, model: Path) -> Server:
    """Return a peer's server of a model's folder; `programs` are those of its environment."""
    port, script = any_free(), PEERS / peer / "serve.py"
    if peer == "bentoml":
        served = ["serve", "serve:Flights", "--working-dir", str(script.parent), "--host", "127.0.0.1", "--port", str(port)]
        return Server(peer, [str(programs / "bentoml"), *served], port, {"MODEL_FOLDER": str(model)})
    if peer == "mlflow":
        flags = ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
        found = os.pathsep.join((str(programs), os.environ["PATH"]))  # it starts what it finds on the path
        return Server(peer, [str(programs / "mlflow"), "models", "serve", "-m", str(model), *flags], port, {"PATH": found})
    return Server(peer, [str(programs / "python"), str(script), str(model), str(port)], port, {})


def limit_threads(model: Path) -> None:
    """Have MLflow load a logged model with one thread, as the other servers do; ours reads no such file."""
    path = model / "MLmodel"
    described = yaml.safe_load(path.read_text(encoding="utf-8"))
    described["flavors"]["onnx"]["onnx_session_options"] = {"intra_op_num_threads": 1, "inter_op_num_threads": 1}
    path.write_text(yaml.safe_dump(described), encoding="utf-8")
