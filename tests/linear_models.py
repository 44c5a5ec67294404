"""Small linear models under the model interface, written straight as ONNX: quick to make and to load."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Mapping
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
        "bias": np.broadcast_to(np.asarray(bias, dtype=np.float32), (outputs,)).copy(),
        "zero": np.zeros(1, dtype=np.float32),
        "axis": np.array([1]),
    }
    nodes = [
        helper.make_node("IsNaN", ["numeric"], ["null"]),
        helper.make_node("Where", ["null", "zero", "numeric"], ["clean"]),
        helper.make_node("MatMul", ["clean", "weights"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["sum0"]),
    ]
    inputs = [helper.make_tensor_value_info("numeric", TensorProto.FLOAT, ["B", len(signature.numeric)])]
    if signature.categorical:
        inputs.append(helper.make_tensor_value_info("categorical", TensorProto.STRING, ["B", len(signature.categorical)]))
    for at, name in enumerate(signature.categorical):
        values = dict((effects or {}).get(name, {"": 0.0}))
        constants[f"at{at}"] = np.array([at])
        nodes += [
            helper.make_node("Gather", ["categorical", f"at{at}"], [f"text{at}"], axis=1),
            helper.make_node(
                "LabelEncoder",
                [f"text{at}"],
                [f"effect{at}"],
                domain="ai.onnx.ml",
                keys_strings=list(values),
                values_floats=list(values.values()),
                default_float=0.0,
            ),
            helper.make_node("Add", [f"sum{at}", f"effect{at}"], [f"sum{at + 1}"]),
        ]
    last = f"sum{len(signature.categorical)}"
    if signature.task == "multiclass":
        nodes.append(helper.make_node("Softmax", [last], ["score"], axis=1))
    elif signature.task == "binary":
        nodes += [helper.make_node("Sigmoid", [last], ["column"]), helper.make_node("Squeeze", ["column", "axis"], ["score"])]
    else:
        nodes.append(helper.make_node("Squeeze", [last, "axis"], ["score"]))
    shape = ["B", outputs] if signature.task == "multiclass" else ["B"]
    graph = helper.make_graph(
        nodes,
        "linear",
        inputs,
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)], ir_version=9
    )
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / names[0])
    (folder / names[1]).write_text(signature.model_dump_json(), encoding="utf-8")
