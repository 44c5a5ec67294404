"""A fit to the files of a folder that its processes read, and back.

Rows are memory-mapped, so that processes share them; everything else is JSON: nothing is unpickled.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from mlops_tasks.core.losses import Rows
from mlops_tasks.core.parallel.folder import JOB
from mlops_tasks.core.transform import CategoricalColumn, NumericColumn, Transform
from mlops_tasks.specs import TrainSpec

if TYPE_CHECKING:
    from pathlib import Path

    from mlops_tasks.artifacts import Task


@dataclass(frozen=True)
class Job:
    """What a network is fitted to, but for the rows."""

    transform: Transform
    spec: TrainSpec
    task: Task
    outputs: int
    steps: int
    """Most steps."""
    device: Literal["cpu", "cuda"]
    processes: int
    threads: int
    """Of each process."""

    def write(self, folder: Path, train: Rows, validation: Rows | None) -> None:
        """Write the job and its rows."""
        facts = {field.name: getattr(self, field.name) for field in fields(self)}
        facts |= {"transform": _plain(self.transform), "spec": self.spec.model_dump(mode="json")}
        (folder / JOB).write_text(json.dumps(facts), encoding="utf-8")
        _write_rows(folder / "train", train)
        if validation is not None:
            _write_rows(folder / "validation", validation)

    @classmethod
    def read(cls, folder: Path) -> tuple[Job, Rows, Rows | None]:
        """Read what `write` wrote; the rows stay on disk until they are used."""
        facts = json.loads((folder / JOB).read_text(encoding="utf-8"))
        facts |= {"transform": _transform_of(facts["transform"]), "spec": TrainSpec.model_validate(facts["spec"])}
        held = folder / "validation"
        return cls(**facts), _read_rows(folder / "train"), _read_rows(held) if held.exists() else None


def _plain(transform: Transform) -> dict[str, Any]:
    plain = asdict(transform)
    for column in plain["numeric"]:
        column["edges"] = column["edges"].tolist()
    return plain


def _transform_of(plain: dict[str, Any]) -> Transform:
    numeric = (NumericColumn(**{**column, "edges": np.array(column["edges"])}) for column in plain["numeric"])
    categorical = (CategoricalColumn(column["name"], tuple(column["vocabulary"])) for column in plain["categorical"])
    return Transform(tuple(numeric), tuple(categorical), plain["null_token"])


def _write_rows(folder: Path, rows: Rows) -> None:
    folder.mkdir()
    for field in fields(rows):
        np.save(folder / f"{field.name}.npy", getattr(rows, field.name).cpu().numpy(), allow_pickle=False)


def _read_rows(folder: Path) -> Rows:
    # Mapped copy-on-write, since torch has no read-only tensors; nothing writes, so nothing is copied.
    return Rows(*(torch.from_numpy(_map(folder / f"{field.name}.npy")) for field in fields(Rows)))


def _map(path: Path) -> Any:
    found = np.load(path, mmap_mode="c", allow_pickle=False)
    return np.asarray(found)
