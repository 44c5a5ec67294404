"""What stages need of the world outside: protocols, implemented by adapters and by the tests' fakes."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from mlops_tasks.resources import Resources

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    import pyarrow as pa
    from pyspark.sql import DataFrame, SparkSession

    from mlops_tasks.artifacts import Candidate, Deployment, FileRef, Intent, Verdict, Window
    from mlops_tasks.specs import Source


class SparkStaging(Protocol):
    """A folder that Spark may write to, wherever it runs, and that no reader of the store looks into."""

    @property
    def uri(self) -> str:
        """Where Spark writes, without a slash at its end."""

    def files(self, folder: str) -> list[str]:
        """Return the names, relative to `uri`, of the data files below a folder of it, sorted. Raises: StoreUnavailable."""

    def fetch(self, name: str) -> Path:
        """Return a local copy of a file, which the caller may change or move away. Raises: StoreUnavailable."""


@dataclass
class Moved:
    """Bytes and files that went between the store and this process."""

    downloaded_bytes: int = 0
    downloaded_files: int = 0
    uploaded_bytes: int = 0
    uploaded_files: int = 0
    reused_bytes: int = 0
    reused_files: int = 0
    """What was wanted and did not have to be moved, since a verified copy lay here already."""


class ArtifactStore(Protocol):
    """Immutable files under keys (`pipeline/kind/.../name`), each published by one atomic step."""

    @property
    def root(self) -> str:
        """The store's URI."""

    def read(self, key: str) -> bytes:
        """Return an object's bytes. Raises: KeyError when absent, StoreUnavailable."""

    def write(self, key: str, data: bytes) -> None:
        """Replace an object atomically (for small mutable records only). Raises: StoreUnavailable."""

    def create(self, key: str, data: bytes) -> bool:
        """Write an object unless the key exists, atomically; return whether it was written."""

    def publish(self, source: Path, key: str, *, rows: int | None = None) -> FileRef:
        """Move or upload a finished local file to a key, hashing it on the way; a same key is replaced by the same bytes."""

    def open_local(self, ref: FileRef) -> Path:
        """Return a local path of a published file, fetched if remote; never write to it. Raises: StoreUnavailable."""

    def verify(self, ref: FileRef) -> bool:
        """Tell whether the file exists with the recorded size and sha256."""

    def exists(self, key: str) -> bool:
        """Tell whether an object is there."""

    def list(self, prefix: str) -> Iterator[str]:
        """Yield the keys under a prefix, sorted."""

    def folders(self, prefix: str) -> Sequence[str]:
        """Return the next part of the keys under a prefix that ends with `/`, where more follows: sorted, each once.

        It costs what there are, not what is in them; what was emptied meanwhile may be among them.
        """

    def delete(self, key: str) -> None:
        """Remove an object; an absent one is no error."""

    def staging(self) -> AbstractContextManager[Path]:
        """Give an empty local folder, on the store's own disk if it is local; removed at the end."""

    def spark_uri(self, key: str) -> str:
        """Return the URI under which Spark reads or writes a key."""

    def spark_staging(self) -> AbstractContextManager[SparkStaging]:
        """Give an empty folder that Spark can write to; removed at the end, by a later process if this one is killed."""

    @property
    def moved(self) -> Moved:
        """What this store object has moved so far; all zero for a local folder."""


@dataclass(frozen=True)
class ModelVersion:
    """A registered model version and what is known of it."""

    name: str
    version: int
    fingerprint: str
    aliases: tuple[str, ...]
    created: datetime
    tags: Mapping[str, str]


class ModelRegistry(Protocol):
    """Registered model versions with aliases; registering the same fingerprint twice gives the same version."""

    def register(
        self, name: str, candidate: Candidate, verdict: Verdict, files: Mapping[str, Path], deployment: Mapping[str, str]
    ) -> int:
        """Register a model once per fingerprint; return its version. Raises: RegistryUnavailable."""

    def versions(self, name: str) -> list[ModelVersion]:
        """Return all versions, newest first."""

    def alias(self, name: str, alias: str) -> int | None:
        """Return the version that an alias names, or None."""

    def promote(self, name: str, alias: str, version: int, *, expected: int | None, reason: str, who: str) -> None:
        """Move an alias if it still names `expected`; write the ledger. Raises: RegistryUnavailable, ModelRejected (a race)."""

    def retire(self, name: str, alias: str, *, expected: int, reason: str, who: str) -> None:
        """Take an alias away, as `promote` moves it. Raises: RegistryUnavailable, ModelRejected (a race)."""

    def history(self, name: str) -> list[dict[str, str]]:
        """Return the promotions, oldest first: at, alias, from, to (empty: taken away), reason, who."""

    def deployment(self, name: str, version: int) -> Deployment:
        """Return the deployment record of a version. Raises: KeyError."""

    def record(self, deployment: Deployment) -> None:
        """Store a version's deployment record."""

    def fetch(self, name: str, version: int, target: Path) -> Path:
        """Download a version's files into `target`; return the folder that holds model.onnx."""


@dataclass(frozen=True)
class ServerAnswer:
    """What one server said when asked to serve a version."""

    server: str
    """Its address."""
    serving: int | None
    """The version that the asked-for role has there now."""
    problem: str = ""
    """Why it is not the one that was asked for; empty when it is."""
    pause_s: float = 0.0
    """How long the swap made requests wait."""


class ModelServers(Protocol):
    """The running servers of models, as far as they are known here."""

    def load(self, name: str, version: int, *, role: str = "champion") -> list[ServerAnswer]:
        """Ask each server to follow the registry now; return what each serves, all within the port's own deadline."""


class NoServers:
    """Implements `ModelServers` where none is known: they follow the registry by themselves."""

    def load(self, name: str, version: int, *, role: str = "champion") -> list[ServerAnswer]:
        """Return nothing: nobody is asked."""
        del name, version, role
        return []


class TrackedRun(Protocol):
    """One run of the experiment tracker."""

    @property
    def run_id(self) -> str:
        """The tracker's id."""

    def params(self, values: Mapping[str, object]) -> None:
        """Record parameters."""

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Record metrics, as a point of a curve when `step` is given."""

    def tags(self, values: Mapping[str, str]) -> None:
        """Record tags."""

    def artifact(self, path: Path, folder: str = "") -> None:
        """Attach a file."""


class ExperimentTracker(Protocol):
    """Runs, keyed by fingerprint: a retry goes on in the run of the killed try."""

    def run(self, experiment: str, fingerprint: str, name: str) -> AbstractContextManager[TrackedRun]:
        """Open the run of a fingerprint, creating it if new; on leaving mark it finished or failed."""

    def resume(self, run_id: str) -> AbstractContextManager[TrackedRun]:
        """Open an existing run to add to it."""

    def url(self, run_id: str) -> str:
        """Return the address of a run's page, or its URI where there is no server."""


class SourceReader(Protocol):
    """Reads the rows of a source."""

    def fingerprint(self, source: Source, window: Window | None) -> str:
        """Identify the source's present content, for the cache; equal means unchanged."""

    def read(self, source: Source, window: Window | None) -> Iterator[pa.RecordBatch]:
        """Yield the rows with event time in the window (None: all), typed. Raises: DataRejected, StoreUnavailable."""

    def latest(self, source: Source) -> datetime | None:
        """Return the greatest event time that the source holds; None when it is empty."""

    def earliest(self, source: Source) -> datetime | None:
        """Return the least event time that the source holds; None when it is empty."""


class Spark(Protocol):
    """Where Spark runs."""

    def session(self) -> SparkSession:
        """Return a session, starting or joining a server at the first call."""

    def read(self, uris: Sequence[str]) -> DataFrame:
        """Read Parquet files."""


class Bar(Protocol):
    """One progress bar."""

    def advance(self, amount: float = 1, **fields: object) -> None:
        """Move on by `amount`; `fields` are shown beside the bar, e.g. loss=0.48."""


class Progress(Protocol):
    """Progress for people: bars on a terminal, plain lines in a log."""

    def bar(self, description: str, total: float | None) -> AbstractContextManager[Bar]:
        """Show one bar."""

    def note(self, message: str) -> None:
        """Say one line."""


@dataclass(frozen=True)
class RunContext:
    """What a stage may know of the run that it belongs to; the clock comes in here and nowhere else."""

    pipeline: str
    run_id: str
    intent: Intent
    now: datetime
    code_version: str
    reason: str = ""
    who: str = ""
    fingerprint: str = ""
    """Cache key of the stage's result: digest of spec, code and inputs."""
    description: str = ""
    """The pipeline's sentence about itself, for reports and model cards."""
    owner: str = ""
    """Who is asked about the pipeline, for reports and model cards."""
    resources: Resources = field(default_factory=Resources)
    """What the pipeline grants the stage: GPUs and limits. Part of no cache key."""
    trial: bool = False
    """Whether a model is tried on live traffic, as challenger, before it becomes champion. Part of no cache key."""
    forced: bool = False
    """Whether somebody asked for the stage to be done again, whatever is there. Part of no cache key."""


@dataclass(frozen=True)
class Ports:
    """All ports, wired once."""

    store: ArtifactStore
    registry: ModelRegistry
    tracker: ExperimentTracker
    sources: SourceReader
    spark: Spark
    progress: Progress
    run: RunContext
    servers: ModelServers = field(default_factory=NoServers)
