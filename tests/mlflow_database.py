"""An MLflow database to copy: its schema takes a second to make, so the tests make it once; and a server on one."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from mlops_tasks.adapters.mlflow_client import prepare_database

if TYPE_CHECKING:
    from collections.abc import Iterator


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


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Run an MLflow server on loopback that keeps all in `folder`; give its address once it answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", fresh_uri(folder), "--artifacts-destination", str(folder / "artifacts")]
    with (folder / "log").open("wb") as log:
        # Without its job runner, whose seven processes these tests don't need.
        env = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{address}/health", timeout=1)
                break
            except OSError:
                assert process.poll() is None, (folder / "log").read_text()
                time.sleep(0.1)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(20)
