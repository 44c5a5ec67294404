"""The machine to a device, pinned threads and a record of both."""

from __future__ import annotations

import ctypes
import os
import platform
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Literal

import torch
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it ships no types

from mlops_tasks.core.gpus import check_kernel, fix_workspace, probe_gpus
from mlops_tasks.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlops_tasks.core.gpus import Probe
    from mlops_tasks.resources import Resources

    Wanted = Literal["auto", "cpu", "cuda"]

LIBRARIES = ("torch", "numpy", "scikit-learn", "onnx", "onnxruntime", "onnxscript", "tabm", "optuna", "pandas")
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # names of glibc's malloc.h
_KEPT_BYTES = 1 << 28


@dataclass(frozen=True)
class Placement:
    """Where a network is fitted: the kind of device, and how many processes share each step, with a device each."""

    device: torch.device
    processes: int = 1
    missing: str = ""
    """Which GPUs were asked for and not found, where the pipeline lets training go on without."""

    @property
    def here(self) -> torch.device:
        """What the process that started the training computes on: with several processes they have the devices."""
        return self.device if self.processes == 1 else torch.device("cpu")


def place(wanted: Wanted, resources: Resources) -> Placement:
    """Choose where to train by `train.device` and the GPUs that the pipeline asks for; try the device that is chosen.

    Raises:
        SpecError: what is asked for is not there or does not work.

    """
    if wanted == "cpu" or not resources.gpus:
        device = choose_device(wanted)
        if device.type == "cuda":
            _try_device(device, probe_gpus())
        return Placement(device)
    found = probe_gpus()
    if len(found.devices) >= resources.gpus:
        if resources.gpus == 1:  # several processes try their own, as a device may be open to one process alone
            _try_device(torch.device("cuda"), found)
        return Placement(torch.device("cuda"), resources.gpus)
    missing = f"asked for {resources.gpus}, found {len(found.devices)} ({found})"
    if resources.on_missing_gpu == "fail":
        msg = (
            f"resources.train.gpus: {missing}; run where there are as many, lower it, "
            "or set resources.train.on_missing_gpu to cpu"
        )
        raise SpecError(msg)
    if wanted == "cuda":
        choose_device(wanted)
        msg = f"train.device: cuda was asked for, and resources.train.gpus {missing}; lower gpus, or set train.device to auto"
        raise SpecError(msg)
    return Placement(torch.device("cpu"), missing=missing)


def _try_device(device: torch.device, found: Probe) -> None:
    problem = check_kernel(device)
    if problem:
        msg = f"train: the CUDA device does not work: {problem} ({found}); mend its driver, or set train.device to cpu"
        raise SpecError(msg)


def choose_device(wanted: Wanted) -> torch.device:
    """Return the device to train on.

    Raises:
        SpecError: CUDA is asked for and there is none.

    """
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        msg = "train.device: cuda was asked for, but torch sees no CUDA device; set it to auto or cpu, or run where a GPU is"
        raise SpecError(msg)
    return torch.device("cuda" if available and wanted != "cpu" else "cpu")


def count_threads(wanted: int) -> int:
    """Return the threads to use: `wanted`, or for 0 as many as this process may run on."""
    if wanted:
        return wanted
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def pinned(threads: int, device: torch.device) -> Iterator[None]:
    """Run with a fixed number of threads and deterministic kernels; put back what was set before."""
    before, strict, benchmark = (
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.cudnn.benchmark,
    )
    if device.type == "cuda":
        fix_workspace()
    _keep_freed_memory()
    torch.set_num_threads(threads)
    if device.type == "cuda":  # the CPU kernels used here repeat bit for bit, and the call imports a compiler for a second
        torch.use_deterministic_algorithms(mode=True)
    torch.backends.cudnn.benchmark = False
    try:
        with threadpool_limits(threads):
            yield
    finally:
        torch.set_num_threads(before)
        if device.type == "cuda":
            torch.use_deterministic_algorithms(mode=strict)
        torch.backends.cudnn.benchmark = benchmark


def _keep_freed_memory() -> None:
    """Let glibc keep freed blocks of a few megabytes: giving them back and faulting them in again costs a fifth of a step."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def describe_hardware(placement: Placement, threads: int) -> dict[str, str | int]:
    """Return what a result's bits depend on: machine, device, threads, and the processes that share each step."""
    device = placement.device
    facts: dict[str, str | int] = {
        "device": device.type,
        "processes": placement.processes,
        "threads": threads,
        "machine": platform.machine(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }
    if device.type == "cuda":
        names = [torch.cuda.get_device_name(index) for index in range(placement.processes)]
        facts["gpu"] = ", ".join(dict.fromkeys(names))
        facts["cuda"] = torch.version.cuda or ""
    if placement.processes > 1:
        facts["backend"] = backend_of(device)
    if placement.missing:
        facts["missing_gpus"] = placement.missing
    return facts


def backend_of(device: torch.device) -> Literal["nccl", "gloo"]:
    """Return the collective communication that processes with such devices use."""
    return "nccl" if device.type == "cuda" else "gloo"


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that a result depends on, with Python's."""
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "absent"
    return versions
