"""What only a real GPU shows: the probe, a fit in bfloat16, its repetition bit for bit, its scores against the CPU's.

Run it alone where there is one: `pytest tests/integration/test_gpu.py`.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from mlops_tasks.adapters.local_store import LocalStore
from mlops_tasks.core.frames import read_split
from mlops_tasks.core.gpus import check_kernel, probe_gpus
from mlops_tasks.core.hardware import Placement, pinned, place
from mlops_tasks.core.losses import predict, score_loss
from mlops_tasks.core.network import build_backbone
from mlops_tasks.core.scoring import Scorer
from mlops_tasks.errors import SpecError
from mlops_tasks.resources import Resources
from mlops_tasks.stages import train
from tests.fakes import FakeTracker, make_ports, make_run
from tests.integration import test_distributed as shared
from tests.unit.stages import test_train as case

if TYPE_CHECKING:
    from pathlib import Path

    from mlops_tasks.ports import Ports

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device here"),
]
SPEC = case.QUICK.model_copy(update={"model": "tabm", "device": "cuda", "max_epochs": 12})
BF16_TOLERANCE = 0.03
"""bfloat16 has eight bits of mantissa; a network of three layers adds a few such roundings up."""


def make_tracked_ports(folder: Path, tracker: FakeTracker, fingerprint: str) -> Ports:
    return make_ports(folder, tracker=tracker, run=make_run(fingerprint=fingerprint * 64))


def test_probe_finds_working_devices() -> None:
    found = probe_gpus()
    assert len(found.devices) == torch.cuda.device_count()
    assert found.driver
    assert found.toolkit == torch.version.cuda
    assert found.problem == ""
    assert all(device.memory_bytes > 1 << 30 for device in found.devices)
    assert check_kernel(torch.device("cuda")) == ""
    assert place("auto", Resources(gpus=1)) == Placement(torch.device("cuda"), 1)


def test_more_devices_than_there_are() -> None:
    found = torch.cuda.device_count()
    with pytest.raises(SpecError, match=rf"^resources\.train\.gpus: asked for 64, found {found} \(driver [\d.]+; torch "):
        place("auto", Resources(gpus=64))


def test_a_fit_on_cuda_learns_repeats_and_agrees_with_the_cpu(tmp_path: Path) -> None:
    tracker = FakeTracker()
    ports = make_tracked_ports(tmp_path, tracker, "0")
    dataset = case.make_dataset(LocalStore(tmp_path / "store"))
    first = train.run(SPEC, dataset, ports=ports)
    assert first.files == train.run(SPEC, dataset, ports=make_tracked_ports(tmp_path, tracker, "1")).files
    slow = SPEC.model_copy(update={"device": "cpu"})
    on_cpu = train.run(slow, dataset, ports=make_tracked_ports(tmp_path, tracker, "2"))

    test = read_split(ports.store, dataset, "test")
    losses = {}
    for name, candidate in (("cuda", first), ("cpu", on_cpu)):
        scorer = Scorer.load(case.folder_of(candidate, ports))
        losses[name] = case.loss_of(scorer.score(test), test, scorer)
    assert losses["cuda"] == pytest.approx(losses["cpu"], abs=0.05)
    constant = case.read_json(first, ports, "training.json")["constant"]["score"]
    share = np.full(len(test), constant)
    assert losses["cuda"] < 0.9 * case.loss_of(share, test, scorer)

    run = tracker.runs["0" * 64]
    assert run.recorded_params["hardware.device"] == "cuda"
    assert run.recorded_params["hardware.gpu"] == torch.cuda.get_device_name(0)
    metrics = {name: value for name, value, _ in run.recorded_metrics}
    assert metrics["fit.gpu_0.memory_peak_bytes"] > 0
    assert 0 < metrics["refit.gpu_0.memory_peak_share"] < 1
    assert json.loads(run.artifacts["training.json"])["hardware"]["device"] == "cuda"


def test_the_same_weights_score_alike_on_cuda_and_on_the_cpu() -> None:
    weights = shared.fit_alone().weights
    scores = {}
    for name in ("cpu", "cuda"):
        device = torch.device(name)
        with pinned(1, device):
            network = build_backbone(shared.TRANSFORM, shared.SPEC, 1).to(device)
            placed = {key: value.to(device) for key, value in weights.items()}
            scores[name] = predict(network, placed, shared.HELD.to(device), "binary").cpu()
    assert torch.allclose(scores["cpu"], scores["cuda"], atol=BF16_TOLERANCE)
    assert score_loss(scores["cuda"], shared.HELD, "binary") == pytest.approx(
        score_loss(scores["cpu"], shared.HELD, "binary"), abs=BF16_TOLERANCE
    )


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_two_devices_fit_as_well_as_one_processor(tmp_path: Path) -> None:
    job = replace(shared.JOB, device="cuda")
    fitted = shared.fit_shared(tmp_path / "first", job)
    assert shared.same(fitted, shared.fit_shared(tmp_path / "second", job))
    assert shared.loss_of(fitted) == pytest.approx(shared.loss_of(shared.fit_alone()), abs=0.05)
