"""What moves an alias to an MLflow registry's tables or REST interface, without importing MLflow.

Importing MLflow takes 1 to 2 s, which a rollback would wait for. The REST calls are MLflow's public interface; the
tables are those of the pinned release, in one transaction each. Whatever else is asked, or is not there as expected, goes
to MLflow's own client, made then.
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mlops_tasks.adapters.mlflow_client import Refused, connect, unavailable
from mlops_tasks.adapters.mlflow_reading import API, open_http

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import httpx

BUSY_S = 20.0
"""How long SQLite waits for another writer, as MLflow lets it."""
TRIES = 3
BUSY_STATUS = {429, 500, 502, 503, 504}
CHANGED_PARAM = "Changing param values is not allowed"
"""How MLflow begins to say that a param has another value already."""
_PARAM = "INSERT INTO params (key, value, run_uuid) VALUES (?, ?, ?)"
_TAG = (
    "INSERT INTO tags (key, value, run_uuid) VALUES (?, ?, ?) ON CONFLICT (key, run_uuid) DO UPDATE SET value = excluded.value"
)
_ALIAS = (
    "INSERT INTO registered_model_aliases (alias, version, name, workspace) SELECT ?, version, name, workspace "
    "FROM model_versions WHERE name = ? AND version = ? AND current_stage != 'Deleted_Internal' "
    "ON CONFLICT (workspace, name, alias) DO UPDATE SET version = excluded.version"
)
_VERSION_TAG = (
    "INSERT INTO model_version_tags (key, value, name, version, workspace) SELECT ?, ?, name, version, workspace "
    "FROM model_versions WHERE name = ? AND version = ? AND current_stage != 'Deleted_Internal' "
    "ON CONFLICT (workspace, key, name, version) DO UPDATE SET value = excluded.value"
)


class _Whole:
    """MLflow's own client, for what is not written directly."""

    def __init__(self, uri: str) -> None:
        self._uri = uri

    @cached_property
    def _mlflow(self) -> Any:
        return connect(self._uri)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._mlflow, name)


class SqliteClient(_Whole):
    """An `MlflowClient` that writes some things straight to MLflow's SQLite database."""

    def __init__(self, uri: str, database: Path) -> None:
        super().__init__(uri)
        self._database = database

    def log_param(self, run_id: str, key: str, value: str) -> None:
        """Write a run's param unless it has another value. Raises: Refused, RegistryUnavailable."""

        def write(rows: sqlite3.Connection) -> None:
            found = rows.execute("SELECT value FROM params WHERE key = ? AND run_uuid = ?", (key, run_id)).fetchone()
            if found is None:
                _require_active(rows, run_id)
                rows.execute(_PARAM, (key, value, run_id))
            elif found[0] != value:
                msg = f"{CHANGED_PARAM}: {key} of run {run_id}"
                raise Refused(msg)

        self._write(write, "log_param", run_id, key, value)

    def set_tag(self, run_id: str, key: str, value: str) -> None:
        """Write a run's tag. Raises: Refused, RegistryUnavailable."""

        def write(rows: sqlite3.Connection) -> None:
            _require_active(rows, run_id)
            rows.execute(_TAG, (key, value, run_id))

        self._write(write, "set_tag", run_id, key, value)

    def set_registered_model_alias(self, name: str, alias: str, version: str) -> None:
        """Let an alias name a version. Raises: Refused, RegistryUnavailable."""
        self._write(
            lambda rows: _require_one(rows.execute(_ALIAS, (alias, name, int(version))), name, version),
            "set_registered_model_alias",
            name,
            alias,
            version,
        )

    def delete_registered_model_alias(self, name: str, alias: str) -> None:
        """Take an alias away. Raises: RegistryUnavailable."""
        self._write(
            lambda rows: rows.execute("DELETE FROM registered_model_aliases WHERE name = ? AND alias = ?", (name, alias)),
            "delete_registered_model_alias",
            name,
            alias,
        )

    def set_model_version_tag(self, name: str, version: str, key: str, value: str) -> None:
        """Write a version's tag. Raises: Refused, RegistryUnavailable."""
        self._write(
            lambda rows: _require_one(rows.execute(_VERSION_TAG, (key, value, name, int(version))), name, version),
            "set_model_version_tag",
            name,
            version,
            key,
            value,
        )

    def _write(self, change: Callable[[sqlite3.Connection], object], method: str, *args: str) -> None:
        """Change the database in one transaction; a database of another release is left to MLflow."""
        try:
            address = f"{self._database.as_uri()}?mode=rw"
            with closing(sqlite3.connect(address, uri=True, timeout=BUSY_S, isolation_level=None)) as rows:
                rows.execute("PRAGMA foreign_keys = ON")
                rows.execute("BEGIN IMMEDIATE")
                change(rows)
                rows.execute("COMMIT")
        except sqlite3.OperationalError as error:
            if not any(text in str(error) for text in ("no such table", "no such column", "has no column", "ON CONFLICT")):
                raise unavailable(self._uri, "writing", error) from error
            getattr(self._mlflow, method)(*args)
        except sqlite3.Error as error:
            raise unavailable(self._uri, "writing", error) from error


def _require_active(rows: sqlite3.Connection, run_id: str) -> None:
    found = rows.execute("SELECT lifecycle_stage FROM runs WHERE run_uuid = ?", (run_id,)).fetchone()
    if found is None or found[0] != "active":
        msg = f"run {run_id} is {'gone' if found is None else found[0]}; restore it in MLflow"
        raise Refused(msg)


def _require_one(written: sqlite3.Cursor, name: str, version: str) -> None:
    if written.rowcount != 1:
        msg = f"model {name} has no version {version}"
        raise Refused(msg)


class HttpClient(_Whole):
    """An `MlflowClient` that writes some things by MLflow's REST interface."""

    @cached_property
    def _http(self) -> httpx.Client:
        return open_http(self._uri)

    def log_param(self, run_id: str, key: str, value: str) -> None:
        """Write a run's param unless it has another value. Raises: Refused, RegistryUnavailable."""
        self._send("POST", "runs/log-parameter", run_id=run_id, key=key, value=value)

    def set_tag(self, run_id: str, key: str, value: str) -> None:
        """Write a run's tag. Raises: Refused, RegistryUnavailable."""
        self._send("POST", "runs/set-tag", run_id=run_id, key=key, value=value)

    def set_registered_model_alias(self, name: str, alias: str, version: str) -> None:
        """Let an alias name a version. Raises: Refused, RegistryUnavailable."""
        self._send("POST", "registered-models/alias", name=name, alias=alias, version=version)

    def delete_registered_model_alias(self, name: str, alias: str) -> None:
        """Take an alias away. Raises: Refused, RegistryUnavailable."""
        self._send("DELETE", "registered-models/alias", name=name, alias=alias)

    def set_model_version_tag(self, name: str, version: str, key: str, value: str) -> None:
        """Write a version's tag. Raises: Refused, RegistryUnavailable."""
        self._send("POST", "model-versions/set-tag", name=name, version=version, key=key, value=value)

    def _send(self, verb: str, path: str, **body: str) -> None:
        """Send a change, which may be sent twice with the same result; a server that is busy is asked again."""
        import httpx  # noqa: PLC0415 - only where there is a server

        for left in reversed(range(TRIES)):
            try:
                answer = self._http.request(verb, f"{API}/{path}", json=body)
            except httpx.HTTPError as error:
                if not left:
                    raise unavailable(self._uri, "writing", error) from error
            else:
                if answer.is_success:
                    return
                if answer.status_code not in BUSY_STATUS or not left:
                    raise Refused(_said(answer))
            time.sleep(TRIES - left)


def _said(answer: httpx.Response) -> str:
    """Return what a server says is wrong."""
    try:
        said = answer.json()
    except ValueError:
        said = {}
    return str(said.get("message") or f"it answered {answer.status_code}")


def open_client(uri: str, database: Path | None) -> SqliteClient | HttpClient:
    """Return the client of a tracking URI; nothing is opened before it is used."""
    return HttpClient(uri) if database is None else SqliteClient(uri, database)
