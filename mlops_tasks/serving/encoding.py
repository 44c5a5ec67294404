"""Scores to the Open Inference Protocol's output tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from mlops_tasks.serving.binary import tensor_bytes
from mlops_tasks.serving.decoding import BadRequest

if TYPE_CHECKING:
    import numpy.typing as npt

    from mlops_tasks.core.scoring import ModelSignature
    from mlops_tasks.serving.predictions import Prediction
    from mlops_tasks.serving.slot import LoadedModel


def output_names(signature: ModelSignature) -> list[str]:
    """Return the names of a model's outputs: `score`, and `label` where there are classes."""
    return ["score", "label"] if _gives_labels(signature) else ["score"]


def _gives_labels(signature: ModelSignature) -> bool:
    return bool(signature.classes) and (signature.task == "multiclass" or signature.threshold is not None)


def wanted_outputs(body: dict[str, Any], signature: ModelSignature) -> dict[str, bool]:
    """Return which outputs a request asks for, and whether as bytes; none asked for is all. Raises: BadRequest."""
    asked, names = body.get("outputs"), output_names(signature)
    binary = _flag(body, "binary_data_output", default=False)
    if asked is None or asked == []:
        return dict.fromkeys(names, binary)
    if not isinstance(asked, list) or not all(isinstance(item, dict) and isinstance(item.get("name"), str) for item in asked):
        msg = 'outputs must be a list of objects with a name, such as [{"name": "score"}]'
        raise BadRequest(msg)
    unknown = sorted({item["name"] for item in asked} - set(names))
    if unknown:
        msg = f"outputs: the model does not give {unknown}; it gives {names}"
        raise BadRequest(msg)
    return {item["name"]: _flag(item, "binary_data", default=binary) for item in asked}


def _flag(owner: dict[str, Any], name: str, *, default: bool) -> bool:
    """Return a boolean among an object's parameters. Raises: BadRequest."""
    parameters = owner.get("parameters")
    if parameters is None:
        return default
    if not isinstance(parameters, dict):
        msg = "parameters must be an object, or be left out"
        raise BadRequest(msg)
    if parameters.get("classification"):
        msg = "the classification extension is not spoken here: ask for the output label instead"
        raise BadRequest(msg)
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        msg = f"parameters.{name} must be true or false"
        raise BadRequest(msg)
    return value


def encode_answer(prediction: Prediction, wanted: dict[str, bool]) -> tuple[bytes, int | None]:
    """Return an answer's body, and its JSON's length if tensors follow it as bytes."""
    outputs, blobs = [], []
    for tensor in outputs_of(prediction.scores, prediction.model.signature):
        if wanted.get(tensor["name"]):
            blobs.append(tensor_bytes(tensor.pop("data")))
            tensor["parameters"] = {"binary_data_size": len(blobs[-1])}
        if tensor["name"] in wanted:
            outputs.append(tensor)
    model = prediction.model
    head = {"model_name": model.name, "model_version": str(model.version), "id": prediction.query.id, "outputs": outputs}
    text = orjson.dumps(head, option=orjson.OPT_SERIALIZE_NUMPY)
    return (b"".join((text, *blobs)), len(text)) if blobs else (text, None)


def outputs_of(scores: npt.NDArray[np.float32], signature: ModelSignature) -> list[dict[str, Any]]:
    """Return the output tensors: probabilities or values, and the class each row would be given."""
    outputs: list[dict[str, Any]] = [
        {"name": "score", "shape": list(scores.shape), "datatype": "FP32", "data": np.ascontiguousarray(scores).reshape(-1)}
    ]
    if _gives_labels(signature):
        chosen = scores.argmax(axis=1) if signature.task == "multiclass" else scores >= (signature.threshold or 0.0)
        labels = [signature.classes[at] for at in chosen.tolist()]
        outputs.append({"name": "label", "shape": [len(labels)], "datatype": "BYTES", "data": labels})
    return outputs


def tensor_metadata(model: LoadedModel, versions: list[int]) -> dict[str, Any]:
    """Describe a model as the protocol's metadata: one input per column; `versions` are those that are loaded."""
    signature = model.signature
    inputs = [{"name": name, "datatype": "FP32", "shape": [-1]} for name in signature.numeric]
    inputs += [{"name": name, "datatype": "BYTES", "shape": [-1]} for name in signature.categorical]
    shape = [-1, len(signature.classes)] if signature.task == "multiclass" else [-1]
    outputs = [{"name": "score", "datatype": "FP32", "shape": shape}]
    if _gives_labels(signature):
        outputs.append({"name": "label", "datatype": "BYTES", "shape": [-1]})
    return {
        "name": model.name,
        "versions": [str(version) for version in versions],
        "platform": "onnxruntime_onnx",
        "inputs": inputs,
        "outputs": outputs,
    }
