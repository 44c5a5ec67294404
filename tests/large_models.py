"""A model of 738 MB as the export writes it: its weights lie beside its graph."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pandas as pd
import torch

from mlops_tasks.core.golden import rows_to_arrays
from mlops_tasks.core.network import Perceptron, ScoringNetwork, Standardiser
from mlops_tasks.core.onnx_export import export_network
from mlops_tasks.core.scoring import MODEL, WEIGHTS, Scorer
from mlops_tasks.core.transform import learn_transform
from tests.judged_models import ROWS, SIGNATURE

if TYPE_CHECKING:
    from pathlib import Path

WIDTH, DEPTH = 4096, 12
"""Of a perceptron: eleven squares of weights of 67 MB each."""
HEAD = "backbone.head.bias"


def write_large_model(folder: Path, exported: Path, *, bias: float) -> None:
    """Write a candidate's files around an exported graph, with another bias of its output."""
    folder.mkdir(exist_ok=True)
    model = onnx.load(exported / MODEL, load_external_data=False)
    head = next(tensor for tensor in model.graph.initializer if tensor.name == HEAD)
    head.CopyFrom(onnx.numpy_helper.from_array(np.array([bias], np.float32), HEAD))
    (folder / MODEL).write_bytes(model.SerializeToString(deterministic=True))
    shutil.copyfile(exported / WEIGHTS, folder / WEIGHTS)
    (folder / "signature.json").write_text(SIGNATURE.model_dump_json(), encoding="utf-8")
    scores = Scorer.load(folder).score_arrays(*rows_to_arrays(ROWS, SIGNATURE))
    (folder / "golden.json").write_text(json.dumps({"rows": ROWS, "scores": scores.tolist()}), encoding="utf-8")
    (folder / "reference.json").write_text("{}", encoding="utf-8")


def export_large(folder: Path, *, width: int = WIDTH, depth: int = DEPTH) -> None:
    """Export a network that was never trained, with the inputs of the small models."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"price": rng.normal(size=50), "age": rng.normal(size=50), "shop": rng.choice(["north", "south"], 50)})
    transform = learn_transform(frame, SIGNATURE.numeric, SIGNATURE.categorical, bins=4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone = Perceptron(transform, 1, width=width, depth=depth, dropout=0.0)
    network = ScoringNetwork(Standardiser(transform.numeric), backbone, "binary", shift=0.0, scale=1.0).eval()
    export_network(network, transform, folder / MODEL)
