"""An MLflow database to copy: its schema takes a second to make, so the tests make it once."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from mlops_tasks.adapters.mlflow_client import prepare_database


@cache
def _template() -> bytes:
    with TemporaryDirectory() as folder:
        database = Path(folder) / "mlflow.db"
        prepare_database(database)
        return database.read_bytes()


def fresh_uri(folder: Path) -> str:
    """Return the tracking URI of an empty database in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "mlflow.db").write_bytes(_template())
    return f"sqlite:///{folder / 'mlflow.db'}"
