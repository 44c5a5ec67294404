from __future__ import annotations

import os

import pytest
import torch

from mlops_tasks.core.hardware import choose_device, count_threads, describe_hardware, library_versions, pinned
from mlops_tasks.errors import SpecError

CPU = torch.device("cpu")


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
    assert describe_hardware(CPU, 2)["device"] == "cpu"
    assert describe_hardware(CPU, 2)["threads"] == 2
    assert library_versions()["torch"] == torch.__version__.split("+")[0]
