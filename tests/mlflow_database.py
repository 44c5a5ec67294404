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


class MlflowServer:
    """An MLflow server on loopback that keeps all in a folder, at one address however often it is started."""

    def __init__(self, folder: Path) -> None:
        """Make an empty database in `folder`, and choose a port; nothing is started yet."""
        self._folder, self._store = folder, fresh_uri(folder)
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self._port = listener.getsockname()[1]
        self.address = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self._port), "--workers", "1"]
        command += ["--backend-store-uri", self._store, "--artifacts-destination", str(self._folder / "artifacts")]
        with (self._folder / "log").open("wb") as log:
            # Without its job runner, whose seven processes these tests don't need.
            env = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
            process = subprocess.Popen(command, cwd=self._folder, env=env, stdout=log, stderr=log, start_new_session=True)
        self._process = process
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{self.address}/health", timeout=1)
                break
            except OSError:
                assert process.poll() is None, (self._folder / "log").read_text()
                time.sleep(0.1)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to it and its workers."""
        assert self._process is not None
        os.killpg(self._process.pid, number)

    def stop(self) -> None:
        """Stop it, if it runs."""
        if self._process is not None:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGTERM)
            self._process.wait(20)
            self._process = None


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Run an MLflow server on loopback that keeps all in `folder`; give its address once it answers."""
    server = MlflowServer(folder)
    server.start()
    try:
        yield server.address
    finally:
        server.stop()
