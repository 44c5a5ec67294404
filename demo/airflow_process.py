"""A real Airflow on this machine: SQLite, loopback, a generated password, its four parts as background processes."""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Self

import httpx

from demo import DemoError, ports
from demo.processes import Processes
from demo.rest import AirflowApi

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

USER = "admin"
USUAL_PORT = 8080
PARTS = {
    "api-server": ("api-server", "--host", ports.LOOPBACK),
    # Logs are files that the API server reads; serving them too would listen on every interface.
    "scheduler": ("scheduler", "--skip-serve-logs"),
    "dag-processor": ("dag-processor",),
    "triggerer": ("triggerer", "--skip-serve-logs"),
}
MOST_REVIVALS = 3
HEALTHY = ("metadatabase", "scheduler", "dag_processor", "triggerer")
POOLS = {"gpu": (1, "Tasks that use the GPU: as many at a time as there are devices")}


@dataclass
class Airflow:
    """One Airflow whose state lies in `home`; as a context manager it is started and ended.

    `env` is given to every part and so to every task. Starting is idempotent: parts that run stay.
    """

    home: Path
    dags: Path
    plugins: Path
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path = field(default_factory=Path.cwd)
    usual_port: int | None = None
    """The port to try first; None: any free one."""
    start_timeout_s: float = 180
    processes: Processes = field(init=False)
    password_is_new: bool = field(init=False, default=False)
    _revived: dict[str, int] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Make paths absolute: parts and tasks have working folders of their own."""
        self.home, self.dags, self.plugins = self.home.resolve(), self.dags.resolve(), self.plugins.resolve()
        self.processes = Processes(self.home / "processes")

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The address of the UI and the API."""
        return f"http://{ports.LOOPBACK}:{self._port()}"

    @property
    def password_file(self) -> Path:
        """Where the password of `admin` lies, readable by this user alone."""
        return self.home / "passwords.json"

    @property
    def password(self) -> str:
        """The password of `admin`, generated at the first call."""
        if not self.password_file.exists():
            self.password_is_new = True
            self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
            _write_private(self.password_file, json.dumps({USER: secrets.token_urlsafe(12)}))
        password: str = json.loads(self.password_file.read_text())[USER]
        return password

    def api(self) -> AirflowApi:
        """Return a client that is logged in as `admin`; close it after use."""
        return AirflowApi(self.url, USER, self.password)

    def start(self, show: Callable[[str], None] = lambda _: None) -> None:
        """Start what does not run yet and wait until all of it is healthy. `show` is told what is waited for.

        Raises:
            DemoError: a part ended, or is not healthy in time; with the end of its log.

        """
        _ = self.password  # before the API server, which would print one of its own
        self._migrate(self.settings(), show)
        self._start_parts()
        self._wait(show)
        with self.api() as api:
            for name, (slots, description) in POOLS.items():
                api.ensure_pool(name, slots, description)

    def revive(self) -> None:
        """Start parts that ended again, as a service manager would, a few times. Raises: DemoError, with the log's end."""
        ended = [name for name in PARTS if self.processes.find(name) is None]
        for name in ended:
            self._revived[name] = self._revived.get(name, 0) + 1
            if self._revived[name] > MOST_REVIVALS:
                self._raise_ended(name)
        if ended:
            self._start_parts()

    def stop(self) -> dict[str, int]:
        """End every part and every task; return name -> processes ended."""
        return self.processes.stop()

    def settings(self) -> dict[str, str]:
        """Return the environment of every part: the caller's, less Airflow's own variables, and our settings."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("AIRFLOW") and k != "PYTHONDONTWRITEBYTECODE"}
        return {**inherited, **_settings(self), **self.env}

    def _port(self) -> int:
        usual = self.usual_port if self.usual_port is not None else ports.any_free()
        running = self.processes.find("api-server") is not None
        return ports.choose(self.home / "ports.json", "airflow", usual, running=running)

    def _start_parts(self) -> None:
        environment = self.settings()
        for name, arguments in PARTS.items():
            port = ("--port", str(self._port())) if name == "api-server" else ()
            command = [sys.executable, "-m", "airflow", *arguments, *port]
            self.processes.start(name, command, env=environment, cwd=self.cwd)

    def _raise_ended(self, name: str) -> NoReturn:
        msg = f"Airflow's {name} ended; its log {self.processes.log(name)} ends with:\n{self.processes.tail(name)}"
        raise DemoError(msg)

    def _migrate(self, environment: Mapping[str, str], show: Callable[[str], None]) -> None:
        """Bring the database to this version of Airflow, once."""
        done = self.home / "migrated"
        if done.exists() and done.read_text() == version("apache-airflow-core"):
            return
        show("database")
        command = [sys.executable, "-m", "airflow", "db", "migrate"]
        result = subprocess.run(command, env=dict(environment), cwd=self.cwd, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            msg = f"Airflow's database could not be made in {self.home}:\n{(result.stdout + result.stderr)[-2000:]}"
            raise DemoError(msg)
        database = self.home / "airflow.db"
        with closing(sqlite3.connect(database)) as connection:
            # Readers don't wait for the writer: four processes and their tasks share this file.
            connection.execute("PRAGMA journal_mode=WAL")
        for private in (database, self.home / "airflow.cfg"):
            private.chmod(0o600)
        done.write_text(version("apache-airflow-core"))

    def _wait(self, show: Callable[[str], None]) -> None:
        deadline = time.monotonic() + self.start_timeout_s
        while waiting := self._unhealthy():
            show(", ".join(waiting))
            for name in PARTS:
                if self.processes.find(name) is None:
                    self._raise_ended(name)
            if time.monotonic() > deadline:
                late = f"not healthy after {self.start_timeout_s:.0f} s: {', '.join(waiting)}"
                msg = f"Airflow is {late}; its logs are in {self.processes.folder}"
                raise DemoError(msg)
            time.sleep(0.25)

    def _unhealthy(self) -> list[str]:
        try:
            health = httpx.get(f"{self.url}/api/v2/monitor/health", timeout=5, trust_env=False).json()
        except (httpx.TransportError, ValueError):
            return ["api-server"]
        return [part for part in HEALTHY if (health.get(part) or {}).get("status") != "healthy"]


def _settings(airflow: Airflow) -> dict[str, str]:
    home, url = airflow.home, airflow.url
    return {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(airflow.dags),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(airflow.plugins),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__PARALLELISM": str(max(8, 2 * (os.cpu_count() or 1))),
        "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",  # a supervisor notices a finished task only this often
        "AIRFLOW__CORE__LAZY_LOAD_PLUGINS": "False",  # imported once before the fork, not by every task
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USER}:admin",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(airflow.password_file),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}",
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__API__HOST": ports.LOOPBACK,
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(home / "logs"),
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.1",
        "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "15",  # what a stop cut off goes on soon after the next start
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "60",
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "10",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "GX_ANALYTICS_ENABLED": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "NO_PROXY": "127.0.0.1,localhost",
        "PYTHONUNBUFFERED": "1",
    }


def _write_private(path: Path, text: str) -> None:
    """Write a file that only this user may read, from its first byte on."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
