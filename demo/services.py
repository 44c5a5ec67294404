"""Everything that the demo keeps running: Airflow, Spark, MLflow's UI, the model server."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from demo import DemoError, ports
from demo.airflow_process import USUAL_PORT, Airflow
from demo.processes import Processes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ROOT = Path(__file__).resolve().parent.parent
USUAL_PORTS = {"spark": 15002, "mlflow": 5000, "server": 8090}
START_TIMEOUT_S = 120
SPARK_HEAP = "3g"


@dataclass(frozen=True)
class Services:
    """The demo's background processes; all of their state lies in `state`."""

    state: Path
    airflow: Airflow = field(init=False)

    def __post_init__(self) -> None:
        """Make the Airflow; nothing is started yet."""
        airflow = Airflow(self.state / "airflow", dags=ROOT / "dags", plugins=ROOT / "plugins", cwd=ROOT, usual_port=USUAL_PORT)
        object.__setattr__(self, "airflow", airflow)

    @property
    def pipelines(self) -> Path:
        """The folder of pipelines."""
        return ROOT / "dags" / "pipelines"

    @property
    def store(self) -> Path:
        """The artifact store."""
        return self.state / "store"

    @cached_property
    def processes(self) -> Processes:
        """The processes beside Airflow."""
        return Processes(self.state / "demo")

    def url(self, name: str) -> str:
        """Return the address of a service beside Airflow."""
        return f"http://{ports.LOOPBACK}:{self._port(name)}"

    def start(self, show: Callable[[str], None]) -> None:
        """Start Spark, MLflow's UI and Airflow at once and wait until all are ready. Raises: DemoError."""
        self._start_spark()
        self._start_mlflow()
        self.airflow.env = self.environment()
        self.airflow.start(show)
        show("spark")
        self._wait("spark", lambda: _accepts(self._port("spark")))
        show("mlflow")
        self._wait("mlflow", lambda: _answers(f"{self.url('mlflow')}/health"))

    def start_server(self, pipeline: str) -> None:
        """Start the model server; it serves the champion and follows its alias. Raises: DemoError."""
        port = self._port("server")
        command = [sys.executable, "-m", "mlops_tasks", "serve", pipeline, "--host", ports.LOOPBACK, "--port", str(port)]
        self._start("server", command)
        self._wait("server", lambda: _answers(f"{self.url('server')}/v2/health/ready"))

    def _start_spark(self) -> None:
        """One warm server for all tasks, instead of a JVM start in each."""
        command = [sys.executable, "-m", "mlops_tasks", "spark", "--port", str(self._port("spark")), "--memory", SPARK_HEAP]
        self._start("spark", command)

    def _start_mlflow(self) -> None:
        """MLflow's UI reads the database that the tasks write."""
        from mlops_tasks.adapters.mlflow_client import artifact_root, prepare_database  # noqa: PLC0415 - takes a second

        database = self.state / "mlflow.db"
        prepare_database(database)
        command = [sys.executable, "-m", "mlflow", "server", "--host", ports.LOOPBACK, "--port", str(self._port("mlflow"))]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{database}"]
        command += ["--default-artifact-root", str(artifact_root(database))]
        self._start("mlflow", command)

    def stop(self) -> dict[str, int]:
        """End all of it; return name -> processes ended."""
        with ThreadPoolExecutor() as pool:
            airflow, others = pool.map(lambda processes: processes.stop(), (self.airflow.processes, self.processes))
        ended: dict[str, int] = airflow | others
        return ended

    def environment(self) -> dict[str, str]:
        """Return what the stages' environment holds beyond the caller's."""
        return {
            "MLOPS_STORE": str(self.store),
            "MLOPS_PIPELINES": str(self.pipelines),
            "MLOPS_SPARK": f"sc://localhost:{self._port('spark')}",  # by this name Spark lets a token travel without TLS
            "SPARK_CONNECT_AUTHENTICATE_TOKEN": self._spark_token,
            "MLFLOW_TRACKING_URI": f"sqlite:///{self.state / 'mlflow.db'}",
            "MLFLOW_UI_URL": self.url("mlflow"),
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # eight processes for features that nothing here uses
            "GX_ANALYTICS_ENABLED": "false",
            "NO_PROXY": f"{ports.LOOPBACK},localhost",
        }

    @cached_property
    def _spark_token(self) -> str:
        """The secret that Spark's clients show: a loopback port is open to every user of the machine."""
        file = self.processes.folder / "spark-token"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
                stream.write(secrets.token_urlsafe(24))
        return file.read_text()

    def _port(self, name: str) -> int:
        running = self.processes.find(name) is not None
        return ports.choose(self.processes.folder / "ports.json", name, USUAL_PORTS[name], running=running)

    def _start(self, name: str, command: list[str]) -> None:
        inherited: Mapping[str, str] = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        self.processes.start(name, command, env={**inherited, **self.environment()}, cwd=ROOT)

    def _wait(self, name: str, is_ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not is_ready():
            ended = self.processes.find(name) is None
            if ended or time.monotonic() > deadline:
                what = "ended" if ended else f"is not ready after {START_TIMEOUT_S} s"
                msg = f"{name} {what}; its log {self.processes.log(name)} ends with:\n{self.processes.tail(name)}"
                raise DemoError(msg)
            time.sleep(0.2)


def _accepts(port: int) -> bool:
    with contextlib.closing(socket.socket()) as probe:
        return probe.connect_ex((ports.LOOPBACK, port)) == 0


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5, trust_env=False).is_success
    except httpx.TransportError:
        return False
