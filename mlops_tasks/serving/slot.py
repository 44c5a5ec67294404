"""A registered version to a loaded, proven model; the place where the one that serves is kept."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from mlops_tasks.core.golden import load_proven
from mlops_tasks.core.promotion import CHAMPION, LOOSE_TOLERANCE
from mlops_tasks.serving.decoding import Layout

if TYPE_CHECKING:
    from mlops_tasks.core.golden import Golden
    from mlops_tasks.core.scoring import ModelSignature, Scorer
    from mlops_tasks.ports import ModelRegistry


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """One version, ready to score, and what people want to know of it."""

    name: str
    version: int
    scorer: Scorer
    golden: Golden
    tags: dict[str, str]
    promotion: dict[str, str]
    """The ledger's entry that made it champion; empty if somebody moved the alias by hand."""

    @cached_property
    def layout(self) -> Layout:
        """How requests give the model's columns."""
        return Layout.of(self.scorer.signature)

    @property
    def signature(self) -> ModelSignature:
        """The model's inputs and outputs."""
        return self.scorer.signature


@dataclass
class Slot:
    """The model that serves; replaced by one assignment, so a request sees one version from start to end."""

    name: str
    model: LoadedModel | None = None
    problem: str = field(default="")
    """Why the slot is empty or not up to date; empty when all is well."""


def load_version(registry: ModelRegistry, name: str, version: int, *, threads: int = 1) -> LoadedModel:
    """Fetch, load and prove one version.

    Its files stay on disk as long as the model is in use, since large weights are mapped, not read.

    Raises:
        ModelRejected: it does not load or repeat its golden rows.
        RegistryUnavailable: its files can't be fetched.

    """
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-{version}-"))
    try:
        fetched = registry.fetch(name, version, folder)
        scorer, golden = load_proven(fetched, LOOSE_TOLERANCE, what=f"model {name} version {version}", threads=threads)
        tags = next((dict(row.tags) for row in registry.versions(name) if row.version == version), {})
        entries = [e for e in registry.history(name) if e["alias"] == CHAMPION and e["to"] == str(version)]
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    model = LoadedModel(name, version, scorer, golden, tags, entries[-1] if entries else {})
    weakref.finalize(model, shutil.rmtree, folder, ignore_errors=True)
    return model
