"""One process of a fit, as torchrun starts it: `python -m mlops_tasks.core.parallel.worker FOLDER AGENT`.

All processes compute the same state; the first one tells of the fit and writes its checkpoints.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mlops_tasks.core.checkpoints import Slot
from mlops_tasks.core.fitting import Trainer, Watch
from mlops_tasks.core.gpus import check_kernel, explain_full_memory, fix_workspace, measure_memory
from mlops_tasks.core.hardware import backend_of, pinned
from mlops_tasks.core.network import build_backbone
from mlops_tasks.core.parallel.folder import CHECKPOINT, FAILURE, MEMORY, RENDEZVOUS, append_event, write_whole
from mlops_tasks.core.parallel.job import Job
from mlops_tasks.core.parallel.lifeline import end_with
from mlops_tasks.core.parallel.ranks import Ranks
from mlops_tasks.errors import PipelineError, SpecError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlops_tasks.core.fit_state import Evaluation

COLLECTIVE_TIMEOUT = timedelta(minutes=5)
"""How long a process waits for the others: far longer than writing a checkpoint takes."""


class _SilentBar:
    """The bar of a process that is not the first."""

    def advance(self, amount: float = 1, **fields: object) -> None:
        pass


class _FolderBar:
    """Progress as events."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def advance(self, amount: float = 1, **fields: object) -> None:
        append_event(self._folder, kind="advance", amount=amount, fields=fields)


class _FolderStore:
    """The job's folder as the place of its checkpoint."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, key: str) -> bytes:
        try:
            return (self._folder / key).read_bytes()
        except FileNotFoundError as error:
            raise KeyError(key) from error

    def write(self, key: str, data: bytes) -> None:
        write_whole(self._folder / key, data)
        append_event(self._folder, kind="checkpoint")


def _watch(folder: Path, every_s: float, rank: int) -> Watch:
    slot = Slot(_FolderStore(folder), CHECKPOINT, every_s)

    def on_evaluation(evaluation: Evaluation, rows_s: float) -> None:
        if rank == 0:
            append_event(folder, kind="evaluation", evaluation=asdict(evaluation), rows_s=rows_s)

    return Watch(_FolderBar(folder) if rank == 0 else _SilentBar(), slot, on_evaluation)


@explain_full_memory()
def fit(folder: Path, ranks: Ranks) -> None:
    """Take part in the fit that a folder describes.

    Raises:
        SpecError: this process's device does not work, or its memory is full.
        ModelRejected: the loss diverged.

    """
    job, train, validation = Job.read(folder)
    device = _own_device(job, ranks)
    with pinned(job.threads, device), _joined(folder, device, ranks):
        network = build_backbone(job.transform, job.spec, job.outputs).to(device)
        watch = _watch(folder, job.spec.checkpoint_every.total_seconds(), ranks.rank)
        trainer = Trainer(network, train.to(device), job.spec, job.task, watch, ranks=ranks)
        trainer.run(steps=job.steps, validation=None if validation is None else validation.to(device))
    write_whole(folder / f"{ranks.rank}.{MEMORY}", json.dumps(measure_memory(device, ranks.rank)).encode())


def _own_device(job: Job, ranks: Ranks) -> torch.device:
    if job.device == "cpu":
        return torch.device("cpu")
    fix_workspace()
    device = torch.device("cuda", ranks.rank)
    torch.cuda.set_device(device)
    problem = check_kernel(device)
    if problem:
        msg = f"train: CUDA device {ranks.rank} does not work: {problem}; mend its driver, or set train.device to cpu"
        raise SpecError(msg)
    return device


@contextmanager
def _joined(folder: Path, device: torch.device, ranks: Ranks) -> Iterator[None]:
    """Meet the other processes: through a file, and then over the loopback interface alone."""
    torch.distributed.init_process_group(
        backend_of(device),
        store=torch.distributed.FileStore(str(folder / RENDEZVOUS), ranks.size),  # type: ignore[attr-defined]  # it is there
        rank=ranks.rank,
        world_size=ranks.size,
        timeout=COLLECTIVE_TIMEOUT,
        device_id=device if device.type == "cuda" else None,
    )
    yield
    torch.distributed.destroy_process_group()  # not after a failure: others may never come to their end of it


def main() -> int:
    """Take part in a fit; return an exit code."""
    folder, agent = Path(sys.argv[1]), int(sys.argv[2])
    end_with(agent)
    rank = int(os.environ["RANK"])
    try:
        fit(folder, Ranks(rank, int(os.environ["WORLD_SIZE"])))
    except PipelineError as error:
        failure = {"error": type(error).__name__, "message": str(error)}
        write_whole(folder / f"{rank}.{FAILURE}", json.dumps(failure).encode())
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
