"""Splits, targets and a spec to the problem that is to be learned, and what a training hands on and reports to."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mlops_tasks.core.baselines import balanced_weights
from mlops_tasks.core.checkpoints import Slot
from mlops_tasks.core.fit_state import Evaluation
from mlops_tasks.core.fitting import Watch
from mlops_tasks.core.transform import Transform, learn_transform
from mlops_tasks.errors import DataRejected

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    import numpy.typing as npt

    from mlops_tasks.artifacts import FeatureSchema, Split
    from mlops_tasks.core.hardware import Placement
    from mlops_tasks.core.targets import Targets
    from mlops_tasks.ports import Ports, TrackedRun
    from mlops_tasks.specs import TrainSpec

    Floats = npt.NDArray[np.float64]

LEARNED_FROM: tuple[Split, ...] = ("train", "validation")


@dataclass(frozen=True)
class Labelled:
    """Rows, their targets (class indices or values, N) and their weights (None: all the same)."""

    frame: pd.DataFrame
    y: Floats
    weight: Floats | None
    learned: dict[int, Transform] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Transforms that were learned from these rows, by their most bins."""


@dataclass(frozen=True)
class Problem:
    """What is to be learned from what, and where."""

    schema: FeatureSchema
    spec: TrainSpec
    targets: Targets
    train: Labelled
    validation: Labelled
    both: Labelled
    placement: Placement

    def transform(self, rows: Labelled) -> Transform:
        """Learn the transform from rows, once. Raises: DataRejected when no input says anything."""
        if self.spec.bins in rows.learned:
            return rows.learned[self.spec.bins]
        schema = self.schema
        transform = learn_transform(rows.frame, schema.numeric, schema.categorical, bins=self.spec.bins)
        if len(transform.ignored) == len(schema.columns):
            msg = f"train: none of the {len(schema.columns)} input columns varies in {len(rows.frame)} rows; check the features"
            raise DataRejected(msg)
        rows.learned[self.spec.bins] = transform
        return transform


@dataclass(frozen=True)
class Model:
    """A finished model."""

    score: Callable[[pd.DataFrame], npt.NDArray[np.floating[Any]]]
    export: Callable[[Path], None]
    transform: Transform
    threshold: float | None
    facts: dict[str, Any]
    """What training.json tells of it."""


@dataclass(frozen=True)
class Session:
    """Where a training reports to and keeps its checkpoints."""

    ports: Ports
    tracked: TrackedRun
    prefix: str

    @contextmanager
    def watch(self, name: str, description: str, total: float | None, every_s: float) -> Iterator[Watch]:
        """Show one fit's bar, record its curve and memory peaks as `<name>.*`, and keep its checkpoint."""

        def record(evaluation: Evaluation, rows_s: float) -> None:
            values = {
                f"{name}.train_loss": evaluation.train_loss,
                f"{name}.validation_loss": evaluation.validation_loss,
                f"{name}.rows_per_second": rows_s,
                f"{name}.passes": evaluation.passes,
            }
            known = {key: value for key, value in values.items() if value is not None and np.isfinite(value)}
            self.tracked.metrics(known, step=evaluation.step)

        slot = Slot(self.ports.store, f"{self.prefix}/{name}.npz", every_s)
        with self.ports.progress.bar(description, total) as bar:
            yield Watch(bar, slot, record, lambda peaks: self.tracked.metrics({f"{name}.{k}": v for k, v in peaks.items()}))

    def forget(self) -> None:
        """Remove the checkpoints."""
        for key in list(self.ports.store.list(f"{self.prefix}/")):
            self.ports.store.delete(key)


def make_problem(
    frames: Mapping[Split, pd.DataFrame], targets: Targets, *, schema: FeatureSchema, spec: TrainSpec, placement: Placement
) -> Problem:
    """Join splits and targets; weigh the classes when the spec says so."""
    weigh = spec.class_weight == "balanced" and targets.task != "regression"

    def labelled(frame: pd.DataFrame, y: Floats) -> Labelled:
        return Labelled(frame, y, balanced_weights(y) if weigh else None)

    train, validation = (labelled(frames[split], targets.by_split[split]) for split in LEARNED_FROM)
    both = labelled(pd.concat([train.frame, validation.frame], ignore_index=True), np.concatenate([train.y, validation.y]))
    return Problem(schema, spec, targets, train, validation, both, placement)
