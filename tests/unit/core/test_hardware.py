from __future__ import annotations

import os
from typing import Literal

import pytest
import torch

from mlops_tasks.core import hardware
from mlops_tasks.core.gpus import Gpu, Probe
from mlops_tasks.core.hardware import (
    Placement,
    choose_device,
    count_threads,
    describe_hardware,
    library_versions,
    pinned,
    place,
)
from mlops_tasks.errors import SpecError
from mlops_tasks.resources import Resources

CPU = torch.device("cpu")
CUDA = torch.device("cuda")
CARD = Gpu("NVIDIA H200", 140 << 30)
FOUND = "driver 570.86.15; torch {} built for CUDA 13.0; CUDA_VISIBLE_DEVICES unset"


def test_auto_takes_cuda_when_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [choose_device(wanted).type for wanted in ("auto", "cpu", "cuda")] == ["cuda", "cpu", "cuda"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto").type == "cpu"


def test_missing_cuda_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SpecError) as caught:
        choose_device("cuda")
    assert str(caught.value) == (
        "train.device: cuda was asked for, but torch sees no CUDA device; set it to auto or cpu, or run where a GPU is"
    )


def test_threads_are_pinned_and_put_back() -> None:
    before = torch.get_num_threads()
    with pinned(before + 1, CPU):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_zero_threads_means_all_that_this_process_may_use() -> None:
    assert count_threads(3) == 3
    assert count_threads(0) == len(os.sched_getaffinity(0))


def test_record_names_what_bits_depend_on() -> None:
    assert describe_hardware(Placement(CPU), 2)["device"] == "cpu"
    assert describe_hardware(Placement(CPU), 2)["threads"] == 2
    assert library_versions()["torch"] == torch.__version__.split("+")[0]


class Machine:
    """CUDA as a test wants it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, gpus: int, *, problem: str = "", kernel: str = "") -> None:
        self.tried: list[torch.device] = []
        self.kernel = kernel
        found = Probe("570.86.15", "13.0", None, (CARD,) * gpus, problem)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(hardware, "probe_gpus", lambda: found)
        monkeypatch.setattr(hardware, "check_kernel", self.check)

    def check(self, device: torch.device) -> str:
        self.tried.append(device)
        return self.kernel


def test_without_gpus_asked_for_auto_takes_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        machine = Machine(patch, 2)
        assert place("auto", Resources()) == Placement(CUDA)
        assert place("cpu", Resources(gpus=1)) == Placement(CPU)
        assert machine.tried == [CUDA]
    Machine(monkeypatch, 0)
    assert place("auto", Resources()) == Placement(CPU)


def test_one_process_for_each_gpu_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, 4)
    assert place("auto", Resources(gpus=1)) == Placement(CUDA, 1)
    assert machine.tried == [CUDA]
    assert place("cuda", Resources(gpus=3)) == Placement(CUDA, 3)
    assert machine.tried == [CUDA]  # each process tries its own
    assert place("auto", Resources(gpus=3)).here == CPU


@pytest.mark.parametrize("wanted", ["auto", "cuda"])
def test_fewer_gpus_than_asked_for_fail(monkeypatch: pytest.MonkeyPatch, wanted: Literal["auto", "cuda"]) -> None:
    Machine(monkeypatch, 0, problem="Found no NVIDIA driver on your system")
    with pytest.raises(SpecError) as caught:
        place(wanted, Resources(gpus=1))
    assert str(caught.value) == (
        f"resources.train.gpus: asked for 1, found 0 ({FOUND.format(torch.__version__)}; "
        "Found no NVIDIA driver on your system); run where there are as many, lower it, "
        "or set resources.train.on_missing_gpu to cpu"
    )


def test_fewer_gpus_than_asked_for_go_on_without_where_that_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(monkeypatch, 1)
    chosen = place("auto", Resources(gpus=2, on_missing_gpu="cpu"))
    missing = f"asked for 2, found 1 ({FOUND.format(torch.__version__)}; NVIDIA H200 with 140 GiB)"
    assert chosen == Placement(CPU, missing=missing)
    assert describe_hardware(chosen, 1)["missing_gpus"] == missing
    with pytest.raises(SpecError, match=r"^train\.device: cuda was asked for, and resources\.train\.gpus asked for 2, found 1"):
        place("cuda", Resources(gpus=2, on_missing_gpu="cpu"))
    Machine(monkeypatch, 0)
    with pytest.raises(SpecError, match=r"^train\.device: cuda was asked for, but torch sees no CUDA device"):
        place("cuda", Resources(gpus=2, on_missing_gpu="cpu"))


@pytest.mark.parametrize("gpus", [0, 1])
def test_a_device_that_does_not_work_is_refused(monkeypatch: pytest.MonkeyPatch, gpus: int) -> None:
    Machine(monkeypatch, 1, kernel="CUDA error: no kernel image is available for execution on the device")
    with pytest.raises(SpecError) as caught:
        place("auto", Resources(gpus=gpus))
    assert str(caught.value) == (
        "train: the CUDA device does not work: CUDA error: no kernel image is available for execution on the device "
        f"({FOUND.format(torch.__version__)}; NVIDIA H200 with 140 GiB); mend its driver, or set train.device to cpu"
    )


def test_the_record_tells_how_many_processes_shared_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    assert describe_hardware(Placement(CPU), 1)["processes"] == 1
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: ["A100", "H200", "H200"][index])
    facts = describe_hardware(Placement(CUDA, 3), 1)
    assert (facts["processes"], facts["backend"], facts["gpu"]) == (3, "nccl", "A100, H200")
