"""The Docker operator driven without a scheduler, and images to drive it with."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from docker.errors import NotFound

import mlops_docker
from docker import APIClient
from mlops_container import LABEL
from mlops_docker import DockerStageOperator
from mlops_tasks.caching import package_digest
from mlops_tasks.loading import load_pipeline
from tests.integration.tiny_pipeline import NAME

ROOT = Path(__file__).parents[2]
BASES = ("mlops-base:bookworm", "python:3.11-slim-bookworm")
DEPLOYMENT = f"test-{os.getpid()}"
PUPPET = """
import json, os, signal, sys, time
assert sys.argv[1] == "perform"
folder = os.path.dirname(os.path.join(os.environ["MLOPS_STORE"], sys.argv[2]))
OUTCOME = {"handle": {"uri": "k", "digest": "d" * 64}, "cached": 0, "computed": 1, "note": "by a puppet"}

def answer(**given):
    with open(folder + "/answer.json.new", "w") as file:
        json.dump(given or {"outcome": OUTCOME}, file)
    os.rename(folder + "/answer.json.new", folder + "/answer.json")

exec(os.environ["PUPPET"])
"""
"""Stands for `mlops`: does what the variable PUPPET says."""


def engine() -> APIClient | None:
    """Return a client of the engine of DOCKER_HOST, or None."""
    try:
        return mlops_docker.connect(os.environ)
    except Exception:  # noqa: BLE001 - whatever the reason, there is none
        return None


def base_image(client: APIClient) -> str:
    """Return an image that holds Python."""
    return next((base for base in BASES if client.images(name=base)), BASES[-1])


def build(folder: Path, name: str, dockerfile: str, code: str | None = None) -> str:
    """Build an image that claims to hold this package's code; return its name."""
    (folder / "Dockerfile").write_text(dockerfile)
    tag, label = f"mlops-tasks-test/{name}:{os.getpid()}", f"{LABEL}code={code or package_digest()}"
    command = ["docker", "build", "--quiet", "--label", label, "--tag", tag, str(folder)]
    subprocess.run(command, check=True, capture_output=True, timeout=300, env={**os.environ, "DOCKER_BUILDKIT": "0"})
    return tag


def puppet_image(client: APIClient, folder: Path) -> str:
    """Build an image whose containers do what PUPPET says."""
    (folder / "puppet.py").write_text(PUPPET)
    return build(
        folder, "puppet", f'FROM {base_image(client)}\nCOPY puppet.py /puppet.py\nENTRYPOINT ["python3", "-u", "/puppet.py"]\n'
    )


SITE = "/opt/site"
LIBRARIES = f"{sysconfig.get_path('purelib')}:{SITE}:ro"
"""A mount for `stage_image`."""


def stage_image(client: APIClient, folder: Path, code: str | None = None) -> str:
    """Build an image with the package alone; its libraries are this environment's, by the mount LIBRARIES."""
    if not (folder / "mlops_tasks").exists():
        shutil.copytree(ROOT / "mlops_tasks", folder / "mlops_tasks")
    start = '["python3", "-m", "mlops_tasks"]'
    copy = f"COPY mlops_tasks /opt/mlops/mlops_tasks\nENV PYTHONPATH=/opt/mlops:{SITE} PYTHONUNBUFFERED=1\n"
    return build(folder, "stage", f"FROM {base_image(client)}\n{copy}ENTRYPOINT {start}\n", code)


def copy_package(folder: Path) -> str:
    """Copy the package, so that processes and images can share what no one edits; return the copy's digest."""
    shutil.copytree(ROOT / "mlops_tasks", folder / "mlops_tasks", ignore=shutil.ignore_patterns("__pycache__"))
    ask = [sys.executable, "-c", "from mlops_tasks.caching import package_digest; print(package_digest())"]
    environ = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(ask, check=True, capture_output=True, text=True, env=environ, cwd=folder).stdout.strip()


@dataclass
class StateStore:
    """What Airflow keeps of a task between its tries, in a file: a killed process leaves it."""

    file: Path

    def get(self, key: str, default: Any = None) -> Any:
        return self._all().get(key, default)

    def set(self, key: str, value: Any) -> None:
        self._write(self._all() | {key: value})

    def delete(self, key: str) -> None:
        self._write({name: value for name, value in self._all().items() if name != key})

    def _all(self) -> dict[str, Any]:
        return dict(json.loads(self.file.read_text())) if self.file.exists() else {}

    def _write(self, value: dict[str, Any]) -> None:
        self.file.with_suffix(".new").write_text(json.dumps(value))
        self.file.with_suffix(".new").rename(self.file)


@dataclass
class Task:
    """A task instance that keeps its XComs."""

    number: int
    task_id: str
    run_id: str = "manual__r"
    dag_id: str = f"{NAME}.ingest"
    map_index: int = -1
    stats_tags: dict[str, str] = field(default_factory=dict)
    pushed: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.try_number = self.number
        self.start_date = datetime.now(UTC)

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = value

    def xcom_pull(self, task_ids: str, key: str) -> Any:  # noqa: ARG002 - Airflow's signature
        return None


def context(state: Path, number: int = 1, cleared: int = 0, days: tuple[str, str] = ("2024-01-01", "2024-01-03")) -> Any:
    """Return what Airflow gives a task, as far as the operator asks."""
    conf = {"start": days[0], "end": days[1]}
    run = SimpleNamespace(
        dag_id=f"{NAME}.ingest",
        run_id="manual__r",
        run_type="manual",
        conf=conf,
        data_interval_start=None,
        data_interval_end=None,
        triggering_user_name="ada",
        clear_number=cleared,
    )
    return {
        "dag_run": run,
        "params": conf,
        "dag": SimpleNamespace(params=conf),
        "ti": Task(number, "collect"),
        "task_state_store": StateStore(state),
    }


def operator(stage: str = "collect") -> DockerStageOperator:
    """Return the operator of a stage of the small pipeline, of MLOPS_PIPELINES."""
    return DockerStageOperator(stage=stage, pipeline=load_pipeline(NAME), task_id=stage)


def ours(client: APIClient) -> list[dict[str, Any]]:
    """Return the containers that these tests started and that are still there."""
    found = []
    for listed in client.containers(all=True, filters={"label": [f"{LABEL}deployment={DEPLOYMENT}"]}):
        with suppress(NotFound):  # it went meanwhile
            found.append(dict(client.inspect_container(listed["Id"])))
    return found


def wait(done: Callable[[], Any], timeout_s: float = 20) -> Any:
    """Wait until something is so; return what it gave."""
    deadline = time.monotonic() + timeout_s
    while not (found := done()):
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.05)
    return found
