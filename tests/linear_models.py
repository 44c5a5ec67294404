"""Small linear models under the model interface, written straight as ONNX: quick to make and to load."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from mlops_tasks.core.scoring import ModelSignature


def write_linear_model(
    folder: Path,
    signature: ModelSignature,
    weights: Mapping[str, float | list[float]],
    *,
    bias: float | list[float] = 0.0,
    effects: Mapping[str, Mapping[str, float]] | None = None,
    names: tuple[str, str] = ("model.onnx", "signature.json"),
) -> None:
    """Write sigmoid, softmax or identity of `bias + weights * numeric + effect of each category`; a null counts as 0."""
    outputs = max(len(signature.classes), 1) if signature.task == "multiclass" else 1
    table = np.zeros((len(signature.numeric), outputs), dtype=np.float32)
    for at, name in enumerate(signature.numeric):
        table[at] = weights.get(name, 0.0)
    constants = {
        "weights": table,
        "bias": np.resize(np.asarray(bias, dtype=np.float32), outputs),
        "zero": np.zeros(1, np.float32),
    }
    constants |= {"axis": np.array([1])} | {f"at{at}": np.array([at]) for at in range(len(signature.categorical))}
    shape = ["B", outputs] if signature.task == "multiclass" else ["B"]
    graph = helper.make_graph(
        [*_sum_nodes(), *_effect_nodes(signature, effects or {}), *_score_nodes(signature)],
        "linear",
        _inputs(signature),
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), folder / names[0])
    (folder / names[1]).write_text(signature.model_dump_json(), encoding="utf-8")


def _inputs(signature: ModelSignature) -> list[Any]:
    kinds = (("numeric", TensorProto.FLOAT, signature.numeric), ("categorical", TensorProto.STRING, signature.categorical))
    return [helper.make_tensor_value_info(name, kind, ["B", len(columns)]) for name, kind, columns in kinds if columns]


def _sum_nodes() -> list[Any]:
    return [
        helper.make_node("IsNaN", ["numeric"], ["null"]),
        helper.make_node("Where", ["null", "zero", "numeric"], ["clean"]),
        helper.make_node("MatMul", ["clean", "weights"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["sum0"]),
    ]


def _effect_nodes(signature: ModelSignature, effects: Mapping[str, Mapping[str, float]]) -> Iterator[Any]:
    for at, name in enumerate(signature.categorical):
        values = dict(effects.get(name, {"": 0.0}))
        yield helper.make_node("Gather", ["categorical", f"at{at}"], [f"text{at}"], axis=1)
        yield helper.make_node(
            "LabelEncoder",
            [f"text{at}"],
            [f"effect{at}"],
            domain="ai.onnx.ml",
            keys_strings=list(values),
            values_floats=list(values.values()),
            default_float=0.0,
        )
        yield helper.make_node("Add", [f"sum{at}", f"effect{at}"], [f"sum{at + 1}"])


def _score_nodes(signature: ModelSignature) -> Iterator[Any]:
    last = f"sum{len(signature.categorical)}"
    if signature.task == "multiclass":
        yield helper.make_node("Softmax", [last], ["score"], axis=1)
        return
    if signature.task == "binary":
        yield helper.make_node("Sigmoid", [last], ["column"])
        last = "column"
    yield helper.make_node("Squeeze", [last, "axis"], ["score"])
