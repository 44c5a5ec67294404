"""Loads of models that were measured to what the next one will take: memory beside what serves, and time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mlops_tasks.core.scoring import MODEL, weights_file

if TYPE_CHECKING:
    from pathlib import Path

GROWTH_INSIDE = 2.5
"""Bytes of memory a byte of weights inside the model's file, until a load was measured: they are there twice while it loads."""
GROWTH_BESIDE = 1.0
"""The same of weights beside it: they are mapped, and a request reads all of them."""
MEASURED_FROM = 16 << 20
"""Bytes of a model below which what a session takes of itself would count for the weights."""


@dataclass(frozen=True)
class Size:
    """Bytes of a model's graph and weights."""

    inside: int
    beside: int
    """Of weights that are mapped."""

    @classmethod
    def of(cls, folder: Path) -> Size:
        """Measure a version's folder."""
        model = folder / MODEL
        weights = weights_file(model)
        return cls(model.stat().st_size if model.exists() else 0, weights.stat().st_size if weights.exists() else 0)

    @property
    def total(self) -> int:
        """Of both."""
        return self.inside + self.beside

    @property
    def kind(self) -> tuple[bool, bool]:
        """Models whose loads are alike: with weights beside the graph or inside, large or small."""
        return self.beside > 0, self.total >= MEASURED_FROM


@dataclass
class Costs:
    """What loads took, by kind of model."""

    _growth: dict[tuple[bool, bool], float] = field(default_factory=dict)
    _seconds: dict[tuple[bool, bool], tuple[float, int]] = field(default_factory=dict)

    def memory(self, size: Size) -> int:
        """Return the bytes that a model takes at most while it loads and afterwards."""
        return int(size.total * self._growth.get(size.kind, GROWTH_BESIDE if size.beside else GROWTH_INSIDE))

    def seconds(self, size: Size) -> float | None:
        """Return how long a load takes, None if none of its kind was measured; of large models by their bytes."""
        if size.kind not in self._seconds:
            return None
        seconds, measured = self._seconds[size.kind]
        return seconds * size.total / measured if size.total >= MEASURED_FROM else seconds

    def learn_memory(self, size: Size, peak: int) -> None:
        """Take over what a load took; of a small model it says nothing."""
        if size.total >= MEASURED_FROM:
            # Never less than the weights themselves, of which some may have gone into memory that was free already.
            self._growth[size.kind] = max(peak / size.total, 1.0)

    def learn_seconds(self, size: Size, seconds: float) -> None:
        """Take over how long a load took."""
        self._seconds[size.kind] = seconds, size.total
