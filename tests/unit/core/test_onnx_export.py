from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pandas as pd
import pytest
import torch

from mlops_tasks.core.baselines import fit_boosting
from mlops_tasks.core.network import Linear, Perceptron, ScoringNetwork, Standardiser, TabM
from mlops_tasks.core.onnx_export import ALIGNMENT, check_parity, export_boosting, export_network
from mlops_tasks.core.scoring import ModelSignature, Scorer
from mlops_tasks.core.transform import Transform, learn_transform
from mlops_tasks.errors import ModelRejected

if TYPE_CHECKING:
    from pathlib import Path

    from mlops_tasks.artifacts import Task

ROWS = 60


def training_frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    b = np.where(rng.random(ROWS) < 0.3, np.nan, rng.normal(size=ROWS))
    return pd.DataFrame(
        {"a": rng.normal(size=ROWS), "b": b, "empty": np.nan, "c": rng.choice(["x", "ü"], ROWS), "d": [None] * ROWS}
    )


def odd_frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "a": [1.0, np.nan, np.inf, -np.inf, 1e30, -5.0, 0.0],
            "b": [np.nan, 0.0, np.inf, 1.0, -np.inf, 1e-30, 2.0],
            "empty": [1.0, np.nan, np.inf, 0.0, 2.0, 3.0, 4.0],
            "c": ["x", "ü", None, "never seen", "", "None", "nan"],
            "d": [None, "x", None, "new", None, None, None],
        }
    )


def learn(numeric: list[str], categorical: list[str]) -> Transform:
    return learn_transform(training_frame(), numeric, categorical, bins=4)


def save_signature(folder: Path, transform: Transform, task: Task) -> None:
    numeric, categorical = [c.name for c in transform.numeric], [c.name for c in transform.categorical]
    signature = ModelSignature(task=task, numeric=numeric, categorical=categorical, null_token=transform.null_token, target="y")
    (folder / "signature.json").write_text(signature.model_dump_json())


def assert_parity(folder: Path, network: ScoringNetwork, transform: Transform, task: Task) -> None:
    save_signature(folder, transform, task)
    export_network(network, transform, folder / "model.onnx")
    frame = odd_frame()
    with torch.no_grad():
        expected = network(torch.from_numpy(transform.numbers(frame)), torch.from_numpy(transform.codes(frame))).numpy()
    scorer = Scorer.load(folder)
    assert check_parity("model", expected, scorer.score(frame), tolerance=1e-5) <= 1e-5
    assert np.isfinite(expected).all()
    assert scorer.score(frame.iloc[:1]).shape == expected[:1].shape


def test_tabm_of_several_classes_scores_alike_and_names_no_place(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    transform = learn(["a", "b", "empty"], ["c", "d"])
    backbone = TabM(transform, 3, width=8, depth=2, dropout=0.1, members=2)
    network = ScoringNetwork(Standardiser(transform.numeric), backbone, "multiclass", shift=0.0, scale=1.0).eval()
    assert_parity(tmp_path, network, transform, "multiclass")
    assert capfd.readouterr().out == ""
    text = onnx.printer.to_text(onnx.load(tmp_path / "model.onnx"))
    assert ".py" not in text


def test_large_weights_lie_beside_the_graph_to_be_mapped(tmp_path: Path) -> None:
    transform = learn(["a", "b"], ["c"])
    backbone = TabM(transform, 1, width=2048, depth=3, dropout=0.0, members=4)
    for name, scale in backbone.named_parameters():
        if name.endswith((".r", ".s")):
            torch.nn.init.uniform_(scale, 0.5, 1.5)
    network = ScoringNetwork(Standardiser(transform.numeric), backbone, "binary", shift=0.0, scale=1.0).eval()
    assert_parity(tmp_path, network, transform, "binary")
    graph = onnx.load(tmp_path / "model.onnx", load_external_data=False).graph
    beside = [{entry.key: entry.value for entry in tensor.external_data} for tensor in graph.initializer]
    assert {entry["location"] for entry in beside if entry} == {"model.onnx.data"}
    assert all(int(entry["offset"]) % ALIGNMENT == 0 for entry in beside if entry)
    shared = 2 * 2048 * 2048 * 4
    assert shared < sum(int(entry["length"]) for entry in beside if entry) < 1.2 * shared  # once, not once a member
    assert (tmp_path / "model.onnx").stat().st_size < 500_000
    assert (tmp_path / "model.onnx.data").stat().st_mode & 0o444 == 0o444
    first = [(tmp_path / name).read_bytes() for name in ("model.onnx", "model.onnx.data")]
    (tmp_path / "model.onnx.data").unlink()
    export_network(network, transform, tmp_path / "model.onnx")
    assert [(tmp_path / name).read_bytes() for name in ("model.onnx", "model.onnx.data")] == first


def test_numbers_alone(tmp_path: Path) -> None:
    transform = learn(["a", "b"], [])
    backbone = Perceptron(transform, 1, width=8, depth=1, dropout=0.0)
    network = ScoringNetwork(Standardiser(transform.numeric), backbone, "regression", shift=50.0, scale=3.0).eval()
    assert_parity(tmp_path, network, transform, "regression")


def test_strings_alone(tmp_path: Path) -> None:
    transform = learn([], ["c", "d"])
    linear = Linear(transform, 1)
    network = ScoringNetwork(Standardiser(transform.numeric), linear, "binary", shift=0.0, scale=1.0).eval()
    assert_parity(tmp_path, network, transform, "binary")


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
@pytest.mark.parametrize(("numeric", "categorical"), [(["a", "b", "empty"], ["c", "d"]), (["a"], []), ([], ["c"])])
def test_boosting_scores_alike(tmp_path: Path, task: Task, numeric: list[str], categorical: list[str]) -> None:
    transform = learn(numeric, categorical)
    y = (np.arange(ROWS) % (3 if task == "multiclass" else 2)).astype(np.float64)
    boosted = fit_boosting(transform, training_frame(), y, task, seed=0, trees=5, weight=None, validation=None)
    export_boosting(boosted, tmp_path / "model.onnx")
    save_signature(tmp_path, transform, task)
    frame = pd.concat([odd_frame(), training_frame()], ignore_index=True)
    expected, scores = boosted.score(frame), Scorer.load(tmp_path).score(frame)
    assert scores.shape == expected.shape
    assert np.abs(scores - expected).max() < 1e-6


def test_thresholds_between_neighbouring_numbers_are_decided_alike(tmp_path: Path) -> None:
    values = np.float32(1) + np.arange(ROWS, dtype=np.float32) * np.finfo(np.float32).eps
    frame = pd.DataFrame({"a": values.astype(np.float64)})
    transform = learn_transform(frame, ["a"], [], bins=4)
    y = np.random.default_rng(1).integers(0, 2, ROWS).astype(np.float64)
    boosted = fit_boosting(transform, frame, y, "binary", seed=0, trees=20, weight=None, validation=None)
    export_boosting(boosted, tmp_path / "model.onnx")
    save_signature(tmp_path, transform, "binary")
    assert np.abs(Scorer.load(tmp_path).score(frame) - boosted.score(frame)).max() < 1e-6


def test_other_scores_are_rejected() -> None:
    with pytest.raises(ModelRejected) as caught:
        check_parity("model", np.array([0.5, 0.25]), np.array([0.5, 0.26]), tolerance=1e-5)
    assert str(caught.value) == (
        "train: model scores differ between the fitted model and its ONNX export by 0.01, at most 1e-05 is allowed; "
        "nothing was published; report it with the pipeline's training.json"
    )
    with pytest.raises(ModelRejected):
        check_parity("model", np.array([np.nan]), np.array([np.nan]), tolerance=1e-5)
