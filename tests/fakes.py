"""Small fakes of the ports: the store is the real local one in a temporary folder, the rest lives in memory."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NoReturn

from mlops_tasks.adapters.local_store import LocalStore
from mlops_tasks.adapters.sources import Sources
from mlops_tasks.errors import ModelRejected
from mlops_tasks.ports import ModelVersion, Ports, RunContext

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from pyspark.sql import DataFrame, SparkSession

    from mlops_tasks.artifacts import Candidate, Deployment, Intent, Verdict
    from mlops_tasks.ports import ArtifactStore, ExperimentTracker, ModelRegistry, SourceReader, Spark

NOW = datetime(2030, 1, 1, tzinfo=UTC)


class FakeBar:
    def __init__(self) -> None:
        self.done = 0.0

    def advance(self, amount: float = 1, **_fields: object) -> None:
        self.done += amount


@dataclass
class FakeProgress:
    notes: list[str] = field(default_factory=list)
    bars: dict[str, FakeBar] = field(default_factory=dict)

    @contextmanager
    def bar(self, description: str, total: float | None) -> Iterator[FakeBar]:  # noqa: ARG002 - the port's signature
        yield self.bars.setdefault(description, FakeBar())

    def note(self, message: str) -> None:
        self.notes.append(message)


@dataclass
class FakeRun:
    run_id: str
    status: str = "running"
    recorded_params: dict[str, object] = field(default_factory=dict)
    recorded_metrics: list[tuple[str, float, int | None]] = field(default_factory=list)
    recorded_tags: dict[str, str] = field(default_factory=dict)
    artifacts: dict[str, bytes] = field(default_factory=dict)

    def params(self, values: Mapping[str, object]) -> None:
        self.recorded_params.update(values)

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        self.recorded_metrics.extend((name, value, step) for name, value in values.items())

    def tags(self, values: Mapping[str, str]) -> None:
        self.recorded_tags.update(values)

    def artifact(self, path: Path, folder: str = "") -> None:
        self.artifacts[f"{folder}/{path.name}".lstrip("/")] = path.read_bytes()


@dataclass
class FakeTracker:
    """Runs by fingerprint; a second `run` of a fingerprint goes on in the first."""

    runs: dict[str, FakeRun] = field(default_factory=dict)

    @contextmanager
    def run(self, experiment: str, fingerprint: str, name: str) -> Iterator[FakeRun]:  # noqa: ARG002 - the port's signature
        run = self.runs.setdefault(fingerprint, FakeRun(f"run-{len(self.runs) + 1}"))
        with self._finishing(run):
            yield run

    @contextmanager
    def resume(self, run_id: str) -> Iterator[FakeRun]:
        with self._finishing(next(run for run in self.runs.values() if run.run_id == run_id)) as run:
            yield run

    @contextmanager
    def _finishing(self, run: FakeRun) -> Iterator[FakeRun]:
        run.status = "failed"
        yield run
        run.status = "finished"

    def url(self, run_id: str) -> str:
        return f"fake://runs/{run_id}"


@dataclass
class FakeRegistry:
    """Versions, aliases and the ledger in memory."""

    registered: list[ModelVersion] = field(default_factory=list)
    named: dict[tuple[str, str], int] = field(default_factory=dict)
    ledger: list[dict[str, str]] = field(default_factory=list)
    records: dict[tuple[str, int], Deployment] = field(default_factory=dict)
    files: dict[tuple[str, int], dict[str, bytes]] = field(default_factory=dict)

    def register(
        self, name: str, candidate: Candidate, verdict: Verdict, files: Mapping[str, Path], deployment: Mapping[str, str]
    ) -> int:
        del verdict
        for known in self.versions(name):
            if known.fingerprint == candidate.fingerprint:
                return known.version
        version = len(self.versions(name)) + 1
        self.registered.append(ModelVersion(name, version, candidate.fingerprint, (), NOW, dict(deployment)))
        self.files[name, version] = {file: path.read_bytes() for file, path in files.items()}
        return version

    def versions(self, name: str) -> list[ModelVersion]:
        named = [(version, alias) for (model, alias), version in sorted(self.named.items()) if model == name]
        return [
            replace(known, aliases=tuple(alias for version, alias in named if version == known.version))
            for known in reversed(self.registered)
            if known.name == name
        ]

    def alias(self, name: str, alias: str) -> int | None:
        return self.named.get((name, alias))

    def promote(self, name: str, alias: str, version: int, *, expected: int | None, reason: str, who: str) -> None:
        if all(known.version != version for known in self.registered if known.name == name):
            msg = f"there is no version {version} of {name}"
            raise ModelRejected(msg)
        if self.alias(name, alias) != expected:
            msg = f"alias {alias!r} of {name} moved meanwhile"
            raise ModelRejected(msg)
        entry = {"at": NOW.isoformat(), "alias": alias, "from": str(expected or ""), "to": str(version)}
        self.ledger.append({**entry, "reason": reason, "who": who})
        self.named[name, alias] = version

    def retire(self, name: str, alias: str, *, expected: int, reason: str, who: str) -> None:
        if self.alias(name, alias) != expected:
            msg = f"alias {alias!r} of {name} moved meanwhile"
            raise ModelRejected(msg)
        entry = {"at": NOW.isoformat(), "alias": alias, "from": str(expected), "to": ""}
        self.ledger.append({**entry, "reason": reason, "who": who})
        del self.named[name, alias]

    def history(self, name: str) -> list[dict[str, str]]:
        del name
        return list(self.ledger)

    def deployment(self, name: str, version: int) -> Deployment:
        return self.records[name, version]

    def record(self, deployment: Deployment) -> None:
        self.records[deployment.model, deployment.version] = deployment

    def fetch(self, name: str, version: int, target: Path) -> Path:
        target.mkdir(parents=True, exist_ok=True)
        for file, data in self.files[name, version].items():
            (target / file).write_bytes(data)
        return target


class NoSpark:
    """Fails a test that starts Spark although its stage needs none."""

    def session(self) -> SparkSession:
        self._refuse()

    def read(self, uris: Sequence[str]) -> DataFrame:
        self._refuse(uris)

    def _refuse(self, what: object = "") -> NoReturn:
        msg = f"this stage needs no Spark {what}"
        raise AssertionError(msg)


def make_run(
    *, now: datetime = NOW, intent: Intent = "manual", pipeline: str = "shop", fingerprint: str = "0" * 64
) -> RunContext:
    return RunContext(
        pipeline=pipeline, run_id="run-1", intent=intent, now=now, code_version="0", who="tester", fingerprint=fingerprint
    )


def make_ports(
    folder: Path,
    *,
    run: RunContext | None = None,
    store: ArtifactStore | None = None,
    registry: ModelRegistry | None = None,
    tracker: ExperimentTracker | None = None,
    sources: SourceReader | None = None,
    spark: Spark | None = None,
) -> Ports:
    """Wire fakes around a local store in `folder`; each can be replaced."""
    place = store or LocalStore(folder / "store")
    return Ports(
        store=place,
        registry=registry or FakeRegistry(),
        tracker=tracker or FakeTracker(),
        sources=sources or Sources(lambda: place),
        spark=spark or NoSpark(),
        progress=FakeProgress(),
        run=run or make_run(),
    )
