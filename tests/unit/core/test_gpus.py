from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import torch

from mlops_tasks.core import gpus
from mlops_tasks.core.gpus import (
    Gpu,
    Probe,
    check_kernel,
    explain_full_memory,
    measure_memory,
    probe_gpus,
    start_measuring,
)
from mlops_tasks.errors import SpecError

if TYPE_CHECKING:
    from pathlib import Path

DRIVER = """NVRM version: NVIDIA UNIX {}Kernel Module  {}  Thu Jan 25 03:07:08 UTC 2025
GCC version:  gcc version 12.2.0
"""
ABSENT = """Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU and installed a driver from
http://www.nvidia.com/Download/index.aspx"""
CPU = torch.device("cpu")


@dataclass
class Properties:
    name: str
    total_memory: int


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """A torch built for CUDA on a machine with two devices."""
    (tmp_path / "version").write_text(DRIVER.format("x86_64 ", "550.54.15"))
    monkeypatch.setattr(gpus, "DRIVER_FILE", tmp_path / "version")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: Properties(f"H{index}00", (index + 1) << 36))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    return monkeypatch


@pytest.mark.usefixtures("cuda")
def test_probe_names_driver_toolkit_and_devices() -> None:
    found = probe_gpus()
    assert found == Probe("550.54.15", "13.0", "0,1", (Gpu("H000", 1 << 36), Gpu("H100", 1 << 37)))
    assert str(found) == (
        f"driver 550.54.15; torch {torch.__version__} built for CUDA 13.0; CUDA_VISIBLE_DEVICES '0,1'; "
        "H000 with 64 GiB; H100 with 128 GiB"
    )


@pytest.mark.parametrize("kind", ["x86_64 ", "Open ", ""])
def test_driver_version_of_every_kind_of_module(cuda: pytest.MonkeyPatch, tmp_path: Path, kind: str) -> None:
    text = DRIVER.format(kind, "570.86.15") if kind != "Open " else DRIVER.format("Open ", "for x86_64  570.86.15")
    (tmp_path / "version").write_text(text)
    cuda.setattr(gpus, "DRIVER_FILE", tmp_path / "version")
    assert probe_gpus().driver == "570.86.15"


def test_probe_without_a_driver_says_what_torch_says(cuda: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail() -> None:
        raise RuntimeError(ABSENT)

    cuda.setattr(torch.cuda, "init", fail)
    cuda.setattr(gpus, "DRIVER_FILE", tmp_path / "absent")
    cuda.delenv("CUDA_VISIBLE_DEVICES")
    found = probe_gpus()
    assert found.devices == ()
    assert str(found) == (
        f"driver not found; torch {torch.__version__} built for CUDA 13.0; CUDA_VISIBLE_DEVICES unset; "
        "Found no NVIDIA driver on your system"
    )


def test_probe_of_a_torch_without_cuda(cuda: pytest.MonkeyPatch) -> None:
    cuda.setattr(torch.version, "cuda", None)
    assert "built without CUDA" in str(probe_gpus())
    assert probe_gpus().devices == ()


def test_kernel_check_tells_a_working_device_from_a_broken_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_kernel(CPU) == ""
    assert check_kernel(torch.device("cuda", 63)) != ""
    monkeypatch.setattr(torch, "ones", lambda *size, device: torch.full(size, 2.0, device=device))
    assert check_kernel(CPU) == "4096 of 4096 products were wrong"


def test_memory_peaks_of_a_device(cuda: pytest.MonkeyPatch) -> None:
    reset: list[torch.device] = []
    cuda.setattr(torch.cuda, "reset_peak_memory_stats", reset.append)
    cuda.setattr(torch.cuda, "max_memory_allocated", lambda _device: 1 << 35)
    cuda.setattr(torch.cuda, "max_memory_reserved", lambda _device: 1 << 36)
    cuda.setattr(torch.cuda, "get_device_properties", lambda _device: Properties("H100", 1 << 37))
    device = torch.device("cuda", 1)
    start_measuring(device)
    assert reset == [device]
    assert measure_memory(device, 1) == {
        "gpu_1.memory_peak_bytes": float(1 << 35),
        "gpu_1.memory_held_peak_bytes": float(1 << 36),
        "gpu_1.memory_peak_share": 0.25,
    }
    assert measure_memory(CPU) == {}


def test_a_full_gpu_is_told_with_the_knobs_that_help() -> None:
    with pytest.raises(SpecError) as caught, explain_full_memory():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")  # noqa: EM101, TRY003 - as torch says it
    assert str(caught.value) == (
        "train: CUDA out of memory; lower train.batch_size, train.width or train.members, or free the GPU"
    )
