"""A registered version to a loaded, proven model; the place where the models that serve are kept."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mlops_tasks.core.golden import load_proven
from mlops_tasks.core.promotion import LOOSE_TOLERANCE
from mlops_tasks.serving.decoding import BadRequest, Layout

if TYPE_CHECKING:
    from mlops_tasks.core.golden import Golden
    from mlops_tasks.core.scoring import ModelSignature, Scorer
    from mlops_tasks.ports import ModelRegistry

Role = Literal["champion", "challenger"]
"""Which alias of the registry a model serves under."""


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
    """The models that serve, by role; each is replaced by one assignment, so a request sees one version from start to end."""

    name: str
    model: LoadedModel | None = None
    """The champion."""
    challenger: LoadedModel | None = None
    """What is tried on live traffic; None when nothing is."""
    problem: str = field(default="")
    """Why the slot is empty or not up to date; empty when all is well."""

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


def load_version(registry: ModelRegistry, name: str, version: int, *, role: Role = "champion", threads: int = 1) -> LoadedModel:
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
        entries = [e for e in registry.history(name) if e["alias"] == role and e["to"] == str(version)]
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    model = LoadedModel(name, version, scorer, golden, tags, entries[-1] if entries else {})
    weakref.finalize(model, shutil.rmtree, folder, ignore_errors=True)
    return model
