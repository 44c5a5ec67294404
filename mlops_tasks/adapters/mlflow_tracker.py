"""What a run measures to an MLflow run, one per fingerprint."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mlops_tasks.adapters.mlflow_client import connect, database_path, experiment_id, reaching
from mlops_tasks.errors import RegistryUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

FINGERPRINT_TAG = "mlops.fingerprint"
FLUSH_POINTS = 500
FLUSH_S = 2.0
BATCH = 100
"""Params or tags that one request of MLflow's takes."""


class MlflowRun:
    """Implements `TrackedRun`: points are sent in batches, and a point that the run already has is left out.

    MLflow only appends, so a retry that passes the steps of a killed try again would double the curve.
    """

    def __init__(self, client: Any, uri: str, run_id: str, *, continued: bool) -> None:
        self._client, self._uri, self._run_id = client, uri, run_id
        self._continued = continued
        self._pending: list[Any] = []
        self._known: dict[str, set[int]] = {}
        self._flushed = time.monotonic()

    @property
    def run_id(self) -> str:
        """MLflow's id of the run."""
        return self._run_id

    def params(self, values: Mapping[str, object]) -> None:
        """Record parameters; one that a retry sees otherwise keeps its first value and becomes a tag `retry.<name>`."""
        from mlflow.entities import Param  # noqa: PLC0415 - loaded with the client

        texts = {key: str(value) for key, value in values.items()}
        with reaching(self._uri, "recording parameters"):
            known = self._client.get_run(self._run_id).data.params if self._continued else {}
            new = [Param(key, text) for key, text in texts.items() if key not in known]
            for start in range(0, len(new), BATCH):
                self._client.log_batch(self._run_id, params=new[start : start + BATCH])
        self.tags({f"retry.{key}": text for key, text in texts.items() if key in known and known[key] != text})

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Record metrics, as a point of a curve when `step` is given."""
        from mlflow.entities import Metric  # noqa: PLC0415 - loaded with the client

        now_ms = time.time_ns() // 1_000_000
        for key, value in values.items():
            known = self._steps(key)
            if (step or 0) not in known:
                known.add(step or 0)
                self._pending.append(Metric(key, float(value), now_ms, step or 0))
        if len(self._pending) >= FLUSH_POINTS or time.monotonic() - self._flushed > FLUSH_S:
            self.flush()

    def _steps(self, key: str) -> set[int]:
        """Return the steps at which the run has a point; asked of MLflow once a metric, and only in a continued run."""
        if key not in self._known:
            history = []
            if self._continued:
                with reaching(self._uri, "reading metrics"):
                    history = self._client.get_metric_history(self._run_id, key)
            self._known[key] = {int(point.step) for point in history}
        return self._known[key]

    def flush(self) -> None:
        """Send the points that wait."""
        points, self._pending = self._pending, []
        self._flushed = time.monotonic()
        with reaching(self._uri, "recording metrics"):
            for start in range(0, len(points), FLUSH_POINTS):
                self._client.log_batch(self._run_id, metrics=points[start : start + FLUSH_POINTS])

    def tags(self, values: Mapping[str, str]) -> None:
        """Record tags."""
        from mlflow.entities import RunTag  # noqa: PLC0415 - loaded with the client

        tags = [RunTag(key, value) for key, value in values.items()]
        with reaching(self._uri, "recording tags"):
            for start in range(0, len(tags), BATCH):
                self._client.log_batch(self._run_id, tags=tags[start : start + BATCH])

    def artifact(self, path: Path, folder: str = "") -> None:
        """Attach a file."""
        with reaching(self._uri, f"attaching {path.name}"):
            self._client.log_artifact(self._run_id, str(path), folder or None)


class MlflowTracker:
    """Implements `ExperimentTracker` on a `sqlite:///` or `http(s)://` tracking URI."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        database_path(uri)

    @cached_property
    def _client(self) -> Any:
        return connect(self._uri)

    @contextmanager
    def run(self, experiment: str, fingerprint: str, name: str) -> Iterator[MlflowRun]:
        """Open the run of a fingerprint, creating it if new; on leaving mark it finished or failed."""
        client = self._client
        with reaching(self._uri, f"opening the run {name}"):
            experiment_key = experiment_id(client, self._uri, experiment)
            found = client.search_runs(
                [experiment_key],
                f"tags.`{FINGERPRINT_TAG}` = '{fingerprint}'",
                max_results=1,
                order_by=["attributes.start_time ASC"],
            )
            if found:
                run_id = found[0].info.run_id
                client.update_run(run_id, status="RUNNING")
            else:
                tags = {FINGERPRINT_TAG: fingerprint, "mlflow.user": os.environ.get("USER", "mlops")}
                run_id = client.create_run(experiment_key, tags=tags, run_name=name).info.run_id
        with self._opened(MlflowRun(client, self._uri, run_id, continued=bool(found))) as run:
            yield run

    @contextmanager
    def resume(self, run_id: str) -> Iterator[MlflowRun]:
        """Open an existing run to add to it."""
        with reaching(self._uri, f"opening the run {run_id}"):
            self._client.get_run(run_id)
        with self._opened(MlflowRun(self._client, self._uri, run_id, continued=True)) as run:
            yield run

    @contextmanager
    def _opened(self, run: MlflowRun) -> Iterator[MlflowRun]:
        try:
            yield run
            run.flush()
        except BaseException:
            # What went wrong before is what is told, also where MLflow's disk is full too.
            with suppress(RegistryUnavailable), reaching(self._uri, "marking the run failed"):
                self._client.set_terminated(run.run_id, "FAILED")
            raise
        with reaching(self._uri, "marking the run finished"):
            self._client.set_terminated(run.run_id, "FINISHED")

    def url(self, run_id: str) -> str:
        """Return the address of a run's page, or its URI where there is no server."""
        if database_path(self._uri) is not None:
            return f"{self._uri}#runs/{run_id}"
        experiment = self._client.get_run(run_id).info.experiment_id
        return f"{self._uri.rstrip('/')}/#/experiments/{experiment}/runs/{run_id}"
