"""A registered version to a loaded, proven model; the place where the models that serve are kept."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mlops_tasks.core.golden import load_proven, rows_to_arrays
from mlops_tasks.core.promotion import LOOSE_TOLERANCE
from mlops_tasks.core.scoring import MODEL, weights_file
from mlops_tasks.serving.decoding import BadRequest, Layout

if TYPE_CHECKING:
    from mlops_tasks.core.golden import Golden
    from mlops_tasks.core.scoring import ModelSignature, Scorer

Role = Literal["champion", "challenger"]
"""Which alias of the registry a model serves under."""
WARM_UP_ROWS = 256
"""For a small model. Of a large one, whose weights lie beside it, golden rows are enough: they bring all weights into memory,
beside which a batch's numbers are nothing, and 256 rows would take it a second, while requests may wait."""


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """One version, ready to score, and what people want to know of it."""

    name: str
    version: int
    scorer: Scorer
    golden: Golden
    tags: dict[str, str]
    promotion: dict[str, str]
    """The ledger's entry that gave it its alias; empty if somebody moved the alias by hand."""
    folder: Path = field(default_factory=Path)
    """Where its files lie."""
    row_s: float = math.inf
    """How long it takes for a row among many, measured when it was loaded; infinite where that is not known."""

    @cached_property
    def layout(self) -> Layout:
        """How requests give the model's columns."""
        return Layout.of(self.scorer.signature)

    @cached_property
    def is_large(self) -> bool:
        """Whether its weights lie beside its graph: a single row takes it tens of milliseconds, or a read from the disk."""
        return weights_file(self.folder / MODEL).exists()

    @property
    def signature(self) -> ModelSignature:
        """The model's inputs and outputs."""
        return self.scorer.signature


@dataclass
class Slot:
    """The models that serve, by role; each is replaced by one assignment, so a request sees one version from start to end."""

    name: str
    model: LoadedModel | None = None
    """The champion."""
    challenger: LoadedModel | None = None
    """What is tried on live traffic; None when nothing is."""
    problem: str = field(default="")
    """Why the slot is empty or not up to date; empty when all is well."""
    swapping: bool = False
    """Whether it is empty only as long as the gate holds requests back."""
    draining: bool = False
    """Whether the server was told to end: it still answers, but nobody should send more."""

    @property
    def not_ready(self) -> str:
        """Why no requests should be sent here; empty when they should."""
        if self.draining:
            return f"the server of model {self.name} ends: ask another"
        if self.model is None and not self.swapping:
            return self.problem or f"model {self.name} is being loaded: try again in a moment"
        return ""

    def require(self, version: str | None = None) -> LoadedModel:
        """Return the champion, or the model that serves with a version. Raises: BadRequest."""
        model = self.model
        if model is None:
            raise BadRequest(self.problem or f"model {self.name} is being loaded: try again in a moment", 503)
        if version is None or version == str(model.version):
            return model
        if self.challenger is not None and version == str(self.challenger.version):
            return self.challenger
        msg = f"model {self.name} version {version!r} is not loaded: version {model.version} serves"
        raise BadRequest(msg, 404)


def load_folder(
    folder: Path, name: str, version: int, *, tags: dict[str, str], promotion: dict[str, str], threads: int = 1
) -> LoadedModel:
    """Load and prove one version from a folder, which must stay as it is as long as the model is in use: weights are mapped.

    Raises:
        ModelRejected: it does not load or repeat its golden rows.

    """
    scorer, golden = load_proven(folder, LOOSE_TOLERANCE, what=f"model {name} version {version}", threads=threads)
    model = LoadedModel(name, version, scorer, golden, tags, promotion, folder)
    return model if model.is_large else replace(model, row_s=_warm_up(scorer, golden))


def _warm_up(scorer: Scorer, golden: Golden) -> float:
    """Score one row and a batch, so that no request is the first of its kind to grow the session's memory.

    Returns how long a row of a batch takes: seconds.
    """
    rows = golden.rows[:1]
    one, many = (rows_to_arrays(batch, scorer.signature) for batch in (rows, rows * WARM_UP_ROWS))
    scorer.score_arrays(*one)
    scorer.score_arrays(*many)
    started = time.perf_counter()
    scorer.score_arrays(*many)
    return (time.perf_counter() - started) / WARM_UP_ROWS
