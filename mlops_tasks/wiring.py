"""The environment to adapters, built once and only when asked for."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlops_tasks.errors import SpecError
from mlops_tasks.ports import Ports, RunContext

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mlops_tasks.ports import ArtifactStore, ExperimentTracker, ModelRegistry, ModelServers, Progress, SourceReader, Spark

HOME = ".mlops"


@dataclass
class Adapters:
    """Every adapter of this process; each is imported and made at its first use."""

    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    _guard_registry: Callable[[ModelRegistry], Any] | None = field(default=None, init=False, repr=False)

    def guard(self, store: Callable[[ArtifactStore], Any], registry: Callable[[ModelRegistry], Any]) -> None:
        """Put a guard before the store and, once it is used, before the registry."""
        self.__dict__["store"] = store(self.store)
        self._guard_registry = registry

    @cached_property
    def store(self) -> ArtifactStore:
        """The store of MLOPS_STORE. Raises: SpecError."""
        from mlops_tasks.adapters.local_store import LocalStore  # noqa: PLC0415 - at first use

        where = self.environ.get("MLOPS_STORE") or f"{HOME}/store"
        if where.startswith("s3://"):
            from mlops_tasks.adapters.s3_store import open_s3_store  # noqa: PLC0415 - boto3 takes 0.2 s to import

            return open_s3_store(where, self.environ)
        if "://" in where and not where.startswith("file://"):
            msg = f"MLOPS_STORE: must be a folder or s3://bucket/prefix, got {where!r}; unset it for ./{HOME}/store"
            raise SpecError(msg)
        return LocalStore(Path(where.removeprefix("file://")).expanduser())

    @cached_property
    def tracking_uri(self) -> str:
        """MLFLOW_TRACKING_URI, or SQLite beside the store."""
        given = self.environ.get("MLFLOW_TRACKING_URI")
        return given or f"sqlite:///{Path(HOME).resolve() / 'mlflow.db'}"

    @cached_property
    def registry(self) -> ModelRegistry:
        """The model registry of the tracking URI."""
        from mlops_tasks.adapters.mlflow_registry import MlflowRegistry  # noqa: PLC0415 - at first use

        registry: ModelRegistry = MlflowRegistry(self.tracking_uri)
        return self._guard_registry(registry) if self._guard_registry else registry

    @cached_property
    def tracker(self) -> ExperimentTracker:
        """The experiment tracker of the tracking URI."""
        from mlops_tasks.adapters.mlflow_tracker import MlflowTracker  # noqa: PLC0415 - at first use

        return MlflowTracker(self.tracking_uri)

    @cached_property
    def sources(self) -> SourceReader:
        """The readers of files, S3, databases and request logs."""
        from mlops_tasks.adapters.sources import Sources  # noqa: PLC0415 - at first use

        return Sources(lambda: self.store)

    @cached_property
    def spark(self) -> Spark:
        """Spark at MLOPS_SPARK: `sc://host:port` of a server, or a master for one of our own."""
        from mlops_tasks.adapters.spark import ConnectSpark  # noqa: PLC0415 - at first use

        return ConnectSpark(spark_master(self.environ), spark_memory(self.environ))

    @cached_property
    def servers(self) -> ModelServers:
        """The model servers of MLOPS_SERVERS; without it none is known here. Raises: SpecError."""
        from mlops_tasks.adapters.model_servers import open_servers  # noqa: PLC0415 - at first use

        return open_servers(self.environ)

    @cached_property
    def progress(self) -> Progress:
        """Bars on a terminal, lines in a log."""
        from mlops_tasks.adapters.progress import progress_for  # noqa: PLC0415 - at first use

        return progress_for()

    def ports(self, run: RunContext) -> Ports:
        """Return all ports for a run. MLflow, Spark and the sources are connected to when first used."""
        return Ports(
            store=self.store,
            registry=_Late(self, "registry"),  # type: ignore[arg-type]  # stands for the port, attribute by attribute
            tracker=_Late(self, "tracker"),  # type: ignore[arg-type]  # likewise
            sources=_Late(self, "sources"),  # type: ignore[arg-type]  # likewise
            spark=_Late(self, "spark"),  # type: ignore[arg-type]  # likewise
            progress=self.progress,
            run=run,
            servers=self.servers,
        )


class _Late:
    """Stands for an adapter that may never be used, so that a run of nothing but cache hits imports none."""

    def __init__(self, adapters: Adapters, name: str) -> None:
        self._adapters, self._name = adapters, name

    def __getattr__(self, attribute: str) -> object:
        return getattr(getattr(self._adapters, self._name), attribute)


def open_store() -> ArtifactStore:
    """Open the store that the environment names."""
    return Adapters().store


def spark_master(environ: Mapping[str, str]) -> str:
    """Return MLOPS_SPARK, by default all local cores."""
    return environ.get("MLOPS_SPARK") or "local[*]"


def spark_memory(environ: Mapping[str, str]) -> str:
    """Return MLOPS_SPARK_MEMORY, the heap of a Spark server started here, by default 2g."""
    return environ.get("MLOPS_SPARK_MEMORY") or "2g"


def code_version() -> str:
    """Return the git commit of the working tree (`+` when it has changes), else the package's version."""
    here = Path(__file__).resolve().parent
    given = os.environ.get("MLOPS_CODE_VERSION")
    if given:
        return given
    try:
        described = subprocess.run(  # noqa: S603 - our own command line
            ["git", "-C", str(here), "describe", "--always", "--dirty=+", "--abbrev=12"],  # noqa: S607 - git of the PATH
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return version("mlops-tasks")
    return described.stdout.strip()
