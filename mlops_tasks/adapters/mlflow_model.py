"""A candidate's files to the folder that MLflow loads as an ONNX model; no pickle in it."""

from __future__ import annotations

import os
import platform
import shutil
from typing import TYPE_CHECKING, Any

from mlops_tasks.core.scoring import ModelSignature

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def write_model_folder(folder: Path, files: Mapping[str, Path], run_id: str) -> None:
    """Fill `folder` with the files, an `MLmodel` with the flavors onnx and python_function, and requirements.

    Args:
        folder: an empty folder.
        files: name -> local file; `model.onnx` and `signature.json` must be among them.
        run_id: the MLflow run that the model belongs to.

    """
    for name, path in files.items():
        _place(path, folder / name)
    signature = ModelSignature.model_validate_json((folder / "signature.json").read_text(encoding="utf-8"))
    _mlmodel(signature, run_id).save(str(folder / "MLmodel"))
    (folder / "requirements.txt").write_text("mlflow\nnumpy\nonnx\nonnxruntime\n", encoding="utf-8")


def _place(source: Path, target: Path) -> None:
    """Link the file, or copy it where its disk is another one."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _mlmodel(signature: ModelSignature, run_id: str) -> Any:
    import numpy as np  # noqa: PLC0415 - with mlflow, only when something is registered
    import onnx  # noqa: PLC0415 - likewise
    from mlflow.models import Model  # noqa: PLC0415 - likewise
    from mlflow.models import ModelSignature as TensorSignature  # noqa: PLC0415 - likewise
    from mlflow.types import Schema, TensorSpec  # noqa: PLC0415 - likewise

    inputs = []
    if signature.numeric:
        inputs.append(TensorSpec(np.dtype("float32"), (-1, len(signature.numeric)), "numeric"))
    if signature.categorical:
        inputs.append(TensorSpec(np.dtype("O"), (-1, len(signature.categorical)), "categorical"))
    shape = (-1, len(signature.classes)) if signature.task == "multiclass" else (-1,)
    outputs = Schema([TensorSpec(np.dtype("float32"), shape, "score")])
    model = Model(artifact_path="model", run_id=run_id, signature=TensorSignature(Schema(inputs), outputs))
    model.add_flavor("onnx", onnx_version=onnx.__version__, data="model.onnx", providers=["CPUExecutionProvider"], code=None)
    model.add_flavor(
        "python_function", loader_module="mlflow.onnx", data="model.onnx", python_version=platform.python_version(), env={}
    )
    return model
