"""The machine's CUDA driver and devices to a record of what is there, what works and what a fit used of it."""

from __future__ import annotations

import os
import re
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mlops_tasks.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Iterator

DRIVER_FILE = Path("/proc/driver/nvidia/version")
GIB = 1 << 30
_SIDE = 64
"""Rows and columns of the matrices that a device multiplies to prove that it works."""


@dataclass(frozen=True)
class Gpu:
    """One CUDA device."""

    name: str
    memory_bytes: int

    def __str__(self) -> str:
        """Return its name and memory."""
        return f"{self.name} with {self.memory_bytes / GIB:.0f} GiB"


@dataclass(frozen=True)
class Probe:
    """What CUDA is there: driver and toolkit ("": none), the devices that this process may use, and why there are no more."""

    driver: str
    toolkit: str
    visible: str | None
    """CUDA_VISIBLE_DEVICES."""
    devices: tuple[Gpu, ...]
    problem: str = ""

    def __str__(self) -> str:
        """Say it in one line, as it stands in messages."""
        parts = [
            f"driver {self.driver or 'not found'}",
            f"torch {torch.__version__} built {f'for CUDA {self.toolkit}' if self.toolkit else 'without CUDA'}",
            "CUDA_VISIBLE_DEVICES " + ("unset" if self.visible is None else f"'{self.visible}'"),
        ]
        parts += [str(device) for device in self.devices]
        return "; ".join(parts + ([self.problem] if self.problem else []))


def probe_gpus() -> Probe:
    """Look for CUDA devices; the absence of any is a result, not an error."""
    fix_workspace()
    toolkit, problem = torch.version.cuda or "", ""
    devices: tuple[Gpu, ...] = ()
    if toolkit:
        try:
            torch.cuda.init()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
            devices = tuple(Gpu(each.name, each.total_memory) for each in found)
        except (RuntimeError, AssertionError) as error:  # torch has both for a driver that is absent, too old or broken
            problem = _first_sentence(error)
    return Probe(_driver_version(), toolkit, os.environ.get("CUDA_VISIBLE_DEVICES"), devices, problem)


def check_kernel(device: torch.device) -> str:
    """Multiply two small matrices on a device; return what went wrong, "" when the result is right."""
    try:
        ones = torch.ones(_SIDE, _SIDE, device=device)
        wrong = int((ones @ ones != _SIDE).sum())
    except (RuntimeError, AssertionError) as error:  # no kernel for it, no memory, fallen off the bus; torch without CUDA
        return _first_sentence(error)
    return f"{wrong} of {_SIDE * _SIDE} products were wrong" if wrong else ""


@contextmanager
def explain_full_memory() -> Iterator[None]:
    """Say in words that a GPU's memory is full. Raises: SpecError."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        msg = f"train: {_first_sentence(error)}; lower train.batch_size, train.width or train.members, or free the GPU"
        raise SpecError(msg) from error


def fix_workspace() -> None:
    """Give cuBLAS the workspace with which its results repeat; only counts before CUDA is first used."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def start_measuring(device: torch.device) -> None:
    """Begin a new peak of memory on a CUDA device."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def measure_memory(device: torch.device, rank: int = 0) -> dict[str, float]:
    """Return a CUDA device's memory peaks since `start_measuring`: bytes in use, bytes held, share of the device."""
    if device.type != "cuda":
        return {}
    used, total = torch.cuda.max_memory_allocated(device), torch.cuda.get_device_properties(device).total_memory
    return {
        f"gpu_{rank}.memory_peak_bytes": float(used),
        f"gpu_{rank}.memory_held_peak_bytes": float(torch.cuda.max_memory_reserved(device)),
        f"gpu_{rank}.memory_peak_share": used / total,
    }


def _driver_version() -> str:
    """Return the kernel driver's version, which containers see too; "" when there is none."""
    try:
        text = DRIVER_FILE.read_text(encoding="utf-8")
    except OSError:
        return ""
    found = re.search(r"Kernel Module\D*?([\d.]+)", text.replace("x86_64", ""))
    return found[1] if found else "of unknown version"


def _first_sentence(error: BaseException) -> str:
    """Return what an error says before it goes on about how to debug it."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return line.split(". ")[0].rstrip(".")
