"""The machine to a device, pinned threads and a record of both."""

from __future__ import annotations

import ctypes
import os
import platform
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Literal

import torch
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it ships no types

from mlops_tasks.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Iterator

LIBRARIES = ("torch", "numpy", "scikit-learn", "onnx", "onnxruntime", "onnxscript", "tabm", "optuna", "pandas")
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # names of glibc's malloc.h
_KEPT_BYTES = 1 << 28


def choose_device(wanted: Literal["auto", "cpu", "cuda"]) -> torch.device:
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
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
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


def describe_hardware(device: torch.device, threads: int) -> dict[str, str | int]:
    """Return what a result's bits depend on: machine, device and threads."""
    facts: dict[str, str | int] = {
        "device": device.type,
        "threads": threads,
        "machine": platform.machine(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }
    if device.type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
        facts["cuda"] = torch.version.cuda or ""
    return facts


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that a result depends on, with Python's."""
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "absent"
    return versions
