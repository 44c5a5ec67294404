"""An MLflow registry's tables or REST answers to plain records, without importing MLflow.

Importing MLflow takes 1 to 2 s and its SQLite store another one: too long to learn which version an
alias names, which every run and the server's polls ask. The REST calls are MLflow's public API; the
tables are those of the pinned release, and the contract tests read through here what MLflow wrote.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from mlops_tasks.adapters.mlflow_client import TIMEOUT_S, database_path, unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx

API = "/api/2.0/mlflow"


@dataclass(frozen=True)
class VersionRow:
    """A model version as MLflow has it."""

    version: int
    created_ms: int
    source: str
    run_id: str | None
    tags: dict[str, str]


@dataclass(frozen=True)
class ModelRow:
    """A registered model: its tags and what its aliases name."""

    tags: dict[str, str]
    aliases: dict[str, int]


class RegistryReader(Protocol):
    """Reads one MLflow registry."""

    def model(self, name: str) -> ModelRow | None:
        """Return a registered model, or None."""

    def versions(self, name: str) -> list[VersionRow]:
        """Return a model's versions, newest first."""

    def run(self, run_id: str) -> tuple[dict[str, str], dict[str, str]]:
        """Return a run's params and tags."""


def reader(uri: str) -> RegistryReader:
    """Return the reader for a tracking URI. Raises: SpecError for a URI of another kind."""
    database = database_path(uri)
    return HttpReader(uri) if database is None else SqliteReader(uri, database)


class SqliteReader:
    """Reads MLflow's SQLite database; one that does not exist yet is empty."""

    def __init__(self, uri: str, database: Path) -> None:
        self._uri, self._database = uri, database

    @contextmanager
    def _rows(self) -> Iterator[sqlite3.Connection]:
        try:
            # Not `ro`: after a kill the first to open it must be able to roll the writer's journal back.
            with closing(sqlite3.connect(f"{self._database.as_uri()}?mode=rw", uri=True, timeout=TIMEOUT_S)) as connection:
                yield connection
        except sqlite3.Error as error:
            raise unavailable(self._uri, "reading", error) from error

    def model(self, name: str) -> ModelRow | None:
        """Return a registered model, or None."""
        if not self._database.exists():
            return None
        with self._rows() as rows:
            if rows.execute("SELECT 1 FROM registered_models WHERE name = ?", (name,)).fetchone() is None:
                return None
            tags = dict(rows.execute("SELECT key, value FROM registered_model_tags WHERE name = ?", (name,)))
            aliases = dict(rows.execute("SELECT alias, version FROM registered_model_aliases WHERE name = ?", (name,)))
        return ModelRow(tags=tags, aliases={alias: int(version) for alias, version in aliases.items()})

    def versions(self, name: str) -> list[VersionRow]:
        """Return a model's versions, newest first."""
        if not self._database.exists():
            return []
        with self._rows() as rows:
            tags: dict[int, dict[str, str]] = {}
            for version, key, value in rows.execute(
                "SELECT version, key, value FROM model_version_tags WHERE name = ?", (name,)
            ):
                tags.setdefault(int(version), {})[key] = value
            found = rows.execute(
                "SELECT version, creation_time, COALESCE(storage_location, source), run_id FROM model_versions "
                "WHERE name = ? AND current_stage != 'Deleted_Internal' ORDER BY version DESC",
                (name,),
            ).fetchall()
        return [VersionRow(int(v), int(at or 0), source, run, tags.get(int(v), {})) for v, at, source, run in found]

    def run(self, run_id: str) -> tuple[dict[str, str], dict[str, str]]:
        """Return a run's params and tags."""
        with self._rows() as rows:
            params = dict(rows.execute("SELECT key, value FROM params WHERE run_uuid = ?", (run_id,)))
            return params, dict(rows.execute("SELECT key, value FROM tags WHERE run_uuid = ?", (run_id,)))


def _plain_tags(items: list[dict[str, str]] | None) -> dict[str, str]:
    return {item["key"]: item.get("value", "") for item in items or []}


def open_http(uri: str) -> httpx.Client:
    """Return a client of an MLflow server, with MLflow's own environment variables for the credentials."""
    import httpx  # noqa: PLC0415 - only where there is a server

    user, token = os.environ.get("MLFLOW_TRACKING_USERNAME"), os.environ.get("MLFLOW_TRACKING_TOKEN")
    return httpx.Client(
        base_url=uri,
        timeout=TIMEOUT_S,
        auth=(user, os.environ.get("MLFLOW_TRACKING_PASSWORD", "")) if user else None,
        headers={"Authorization": f"Bearer {token}"} if token else {},
    )


class HttpReader:
    """Reads an MLflow server by its REST API, with MLflow's own environment variables for the credentials."""

    def __init__(self, uri: str) -> None:
        self._uri = uri.rstrip("/")
        self._client: Any = None

    def _get(self, path: str, **params: str) -> dict[str, Any] | None:
        """Return the answer, None where the server says that it does not exist."""
        import httpx  # noqa: PLC0415 - only where there is a server

        if self._client is None:
            self._client = open_http(self._uri)
        try:
            answer = self._client.get(f"{API}/{path}", params=params)
            if answer.status_code == httpx.codes.NOT_FOUND and b"RESOURCE_DOES_NOT_EXIST" in answer.content:
                return None
            answer.raise_for_status()
            body: dict[str, Any] = answer.json()
        except (httpx.HTTPError, ValueError) as error:
            raise unavailable(self._uri, "reading", error) from error
        return body

    def model(self, name: str) -> ModelRow | None:
        """Return a registered model, or None."""
        body = self._get("registered-models/get", name=name)
        if body is None:
            return None
        row = body["registered_model"]
        return ModelRow(_plain_tags(row.get("tags")), {a["alias"]: int(a["version"]) for a in row.get("aliases", [])})

    def versions(self, name: str) -> list[VersionRow]:
        """Return a model's versions, newest first."""
        found: list[VersionRow] = []
        page = ""
        while True:
            body = self._get("model-versions/search", filter=f"name='{name}'", max_results="1000", page_token=page) or {}
            for row in body.get("model_versions", []):
                at, source = int(row.get("creation_timestamp", 0)), row.get("source", "")
                found.append(VersionRow(int(row["version"]), at, source, row.get("run_id"), _plain_tags(row.get("tags"))))
            page = body.get("next_page_token", "")
            if not page:
                return sorted(found, key=lambda row: -row.version)

    def run(self, run_id: str) -> tuple[dict[str, str], dict[str, str]]:
        """Return a run's params and tags."""
        body = self._get("runs/get", run_id=run_id)
        data = {} if body is None else body["run"].get("data", {})
        return _plain_tags(data.get("params")), _plain_tags(data.get("tags"))
