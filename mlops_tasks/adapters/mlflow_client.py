"""A tracking URI to an MLflow client whose database exists and whose failures are the project's own errors.

Importing MLflow takes 1 to 2 s and a first SQLite database another second, so both wait until
something is written; what is only read goes through `mlflow_reading`, which imports neither.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from mlops_tasks.errors import RegistryUnavailable, SpecError

if TYPE_CHECKING:
    from collections.abc import Iterator

TIMEOUT_S = 10
DISK_FULL = ("database or disk is full", "No space left on device", "Disk quota exceeded")
_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": str(TIMEOUT_S),
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}
"""MLflow's own settings wait 120 s seven times, where a task's retries can be seen; and stdout is for results."""


def database_path(uri: str) -> Path | None:
    """Return the file of a `sqlite:///` URI, None for `http(s)://`.

    Raises:
        SpecError: it is neither.

    """
    if uri.startswith("sqlite:///"):
        return Path(uri.removeprefix("sqlite:///")).absolute()
    if urlsplit(uri).scheme in {"http", "https"}:
        return None
    msg = f"MLFLOW_TRACKING_URI must be sqlite:///FILE or http(s)://HOST, got {uri!r}"
    raise SpecError(msg)


def artifact_root(database: Path) -> Path:
    """Return the folder that holds the artifacts of a local database."""
    return database.parent / f"{database.stem}-artifacts"


def prepare_database(database: Path) -> bool:
    """Create MLflow's database unless it is there; return whether it was created.

    It is built under another name and renamed, so a reader never sees half a schema, and a killed
    creation leaves nothing that the next one trips over. Processes that start at once take turns.
    """
    if database.exists():
        return False
    from filelock import FileLock  # noqa: PLC0415 - only at the first start

    database.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{database}.lock"):
        if database.exists():
            return False
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore  # noqa: PLC0415 - takes a second

        unfinished = database.with_name(f".{database.name}.new")
        unfinished.unlink(missing_ok=True)
        with _unsynced():
            store = SqlAlchemyStore(f"sqlite:///{unfinished}", str(artifact_root(database)))
        store.engine.dispose()
        with unfinished.open("rb") as stream:
            os.fsync(stream.fileno())
        unfinished.rename(database)
    return True


@contextmanager
def _unsynced() -> Iterator[None]:
    """Let SQLite not wait for the disk in each of MLflow's seventy migrations: a killed creation is thrown away anyway."""
    from sqlalchemy import Engine, event  # noqa: PLC0415 - loaded with the store

    def relax(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA synchronous=OFF")
        connection.execute("PRAGMA journal_mode=MEMORY")

    event.listen(Engine, "connect", relax)
    try:
        yield
    finally:
        event.remove(Engine, "connect", relax)


@contextmanager
def reaching(uri: str, doing: str) -> Iterator[None]:
    """Turn what goes wrong between here and MLflow into `RegistryUnavailable`; other errors pass.

    Raises:
        RegistryUnavailable: the server or database did not answer, or refused.

    """
    try:
        yield
    except Exception as error:
        if not is_failure(error):
            raise
        raise unavailable(uri, doing, error) from error


FAILURES = (("mlflow.exceptions", "MlflowException"), ("requests", "RequestException"), ("sqlalchemy.exc", "SQLAlchemyError"))
"""What MLflow raises where it does not get through; none can be raised by a module that is not loaded."""


class Refused(Exception):
    """MLflow would not write what it was given."""


def is_failure(error: Exception) -> bool:
    """Tell whether MLflow, or what lies between it and here, failed or refused."""
    kinds = [getattr(sys.modules[module], name) for module, name in FAILURES if module in sys.modules]
    return isinstance(error, (OSError, Refused, *kinds))


def unavailable(uri: str, doing: str, error: Exception) -> RegistryUnavailable:
    """Say that MLflow did not answer, without the password that a URI may hold."""
    parts = urlsplit(uri)
    shown = parts._replace(netloc=parts.netloc.rsplit("@", 1)[-1]).geturl() if parts.netloc else uri
    cause = (str(error).splitlines() or [type(error).__name__])[0][:300]
    hint = "check that it runs and that MLFLOW_TRACKING_URI is right, then run again"
    if any(text in str(error) for text in DISK_FULL):
        cause, hint = "its disk is full", "free some space and run again"
    return RegistryUnavailable(f"MLflow at {shown}: {doing} failed: {cause}; {hint}")


def connect(uri: str) -> Any:
    """Return an `MlflowClient` for tracking and registry at `uri`, the database made ready.

    Raises:
        RegistryUnavailable: the database can't be created or read.

    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    database = database_path(uri)
    from mlflow.tracking import MlflowClient  # noqa: PLC0415 - takes a second

    with reaching(uri, "opening"):
        if database is not None:
            prepare_database(database)
        return MlflowClient(tracking_uri=uri, registry_uri=uri)


def experiment_id(client: Any, uri: str, name: str) -> str:
    """Return an experiment's id, creating it if new; local artifacts go beside the database, never to `./mlruns`."""
    from mlflow.exceptions import MlflowException  # noqa: PLC0415 - loaded with the client

    found = client.get_experiment_by_name(name)
    if found is None:
        database = database_path(uri)
        location = None if database is None else str(artifact_root(database) / name)
        try:
            return str(client.create_experiment(name, artifact_location=location))
        except MlflowException as error:
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)
