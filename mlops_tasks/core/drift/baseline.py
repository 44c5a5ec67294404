"""Known windows to what one window is compared with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlops_tasks.core.sketches import ColumnSketch, Layout, Reference, Sketches

    Bools = NDArray[np.bool_]
    Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Baseline:
    """What one window is compared with, all on the layouts of one model version."""

    layouts: dict[str, Layout]
    label: str
    optional: frozenset[str]
    """Columns whose missing values mean nothing: labels come late, and scores may not be there."""
    history: Sketches
    """The windows that tell what is ordinary, R of them."""
    accepted: Bools
    """[R]: which of them are in `merged`; the others alarmed, each alone."""
    merged: Sketches
    """The sum of the accepted windows."""
    others: tuple[Sketches, ...] = ()
    """What a window may resemble instead: the same season a year before, and what somebody acknowledged."""

    @property
    def references(self) -> tuple[Sketches, ...]:
        """All that a window may resemble."""
        return (self.merged, *self.others)

    def without_history(self) -> Baseline:
        """Keep only names and rows of the history, which takes megabytes, once it was calibrated on."""
        return replace(self, history=replace(self.history, columns={}))


def training_baseline(reference: Reference) -> Baseline:
    """Compare with the training windows alone."""
    accepted = np.ones(len(reference.history.windows), dtype=bool)
    return Baseline(reference.layouts, reference.label, reference.optional, reference.history, accepted, reference.merged)


def make_baseline(
    reference: Reference, known: Sketches, *, accepted: Bools, lone: Bools, season: Bools, acknowledged: Bools
) -> Baseline:
    """Compare with the accepted ones of N known windows, the training windows among them.

    Args:
        reference: layouts and names.
        known: N windows.
        accepted: [N], those whose sum is the reference.
        lone: [N], those that alarmed alone: ordinary, but no reference.
        season: [N], those of the same season a year before.
        acknowledged: [N], those that alarmed and that somebody acknowledged.

    """
    ranked = accepted | lone
    extra = ((season & accepted, "season"), (acknowledged, "acknowledged"))
    return Baseline(
        layouts=reference.layouts,
        label=reference.label,
        optional=reference.optional,
        history=known.take(ranked),
        accepted=accepted[ranked],
        merged=known.take(accepted).merged("reference"),
        others=tuple(known.take(part).merged(name) for part, name in extra if part.any()),
    )


def leave_out(merged: ColumnSketch, every: ColumnSketch, accepted: Bools) -> ColumnSketch:
    """Take each of R windows out of the sum of all accepted ones; one that is not in it leaves the sum as it is."""
    within = accepted.astype(np.int64)
    return replace(
        every,
        counts=merged.counts - every.counts * within[:, None],
        sums=merged.sums - every.sums * within[:, None],
        nulls=merged.nulls - every.nulls * within,
        infinite=merged.infinite - every.infinite * within,
        squares=merged.squares - every.squares * within,
    )
