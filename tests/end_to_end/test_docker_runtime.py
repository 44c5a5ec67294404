"""The Docker runtime under a real Airflow: `.ingest` over REST, scheduler and tasks killed in mid-stage; marking; reaping."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from demo.airflow_process import Airflow
from demo.rest import AirflowApi
from docker import APIClient
from mlops_container import LABEL
from tests.end_to_end.flights import ROOT, wait
from tests.integration import containers
from tests.integration.containers import LIBRARIES, ours
from tests.integration.tiny_pipeline import NAME, write_pipeline
from tests.requirements import give_up

pytestmark = [
    pytest.mark.airflow, pytest.mark.docker, pytest.mark.spark, pytest.mark.slow, pytest.mark.timeout(900),
]  # fmt: skip
DAG_ID = f"{NAME}.ingest"
STAGES = {"collect", "validate_raw", "preprocess", "validate"}


@pytest.fixture(scope="module")
def client() -> APIClient:
    found = containers.engine()
    if found is None:
        give_up("no Docker engine answers at DOCKER_HOST")
    return found


@pytest.fixture(scope="module")
def docker_airflow(tmp_path_factory: pytest.TempPathFactory, client: APIClient, spark_url: str) -> Iterator[Airflow]:
    """An Airflow whose stages run in containers, beside a Spark server of this machine."""
    folder = tmp_path_factory.mktemp("docker")
    write_pipeline(folder)
    package = tmp_path_factory.mktemp("image")
    code = containers.copy_package(package)
    image = containers.stage_image(client, package, code)
    env = {
        "PYTHONPATH": str(package),
        "MLOPS_RUNTIME": "docker",
        "MLOPS_IMAGE_SPARK": image,
        "MLOPS_DEPLOYMENT": containers.DEPLOYMENT,
        "MLOPS_DOCKER_MOUNTS": f"{LIBRARIES},{folder / 'data'}:{folder / 'data'}:ro",
        "MLOPS_DOCKER_NETWORK": "host",
        "MLOPS_STORE": str(folder / "store"),
        "MLOPS_PIPELINES": str(folder / "pipelines"),
        "MLOPS_CODE_VERSION": "test",
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow' / 'mlflow.db'}",
        "MLOPS_SPARK": spark_url,
        "SPARK_CONNECT_AUTHENTICATE_TOKEN": os.environ["SPARK_CONNECT_AUTHENTICATE_TOKEN"],
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "20",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "5",
    }
    airflow = Airflow(folder / "airflow", dags=ROOT / "dags", plugins=ROOT / "plugins", env=env, cwd=folder)
    with airflow:
        yield airflow
    left = ours(client)
    for found in left:
        client.remove_container(found["Id"], force=True, v=True)
    client.remove_image(image, force=True)
    assert not left


@pytest.fixture(scope="module")
def api(docker_airflow: Airflow) -> Iterator[AirflowApi]:
    with docker_airflow.api() as client:
        wait(lambda: {DAG_ID, "mlops.reaper"} <= client.dag_ids(), 120)
        client.unpause(DAG_ID)
        yield client


def start(api: AirflowApi, run_id: str) -> None:
    assert api.trigger(DAG_ID, run_id, {"start": "2024-01-02T00:00:00Z", "end": "2024-01-04T00:00:00Z"})


def states(api: AirflowApi, dag_id: str, run_id: str) -> dict[str, str]:
    return {task["task_id"]: task["state"] for task in api.tasks(dag_id, run_id)}


def last_lines(api: AirflowApi, dag_id: str, run_id: str) -> str:
    """Return what the failed tasks said last."""
    return "\n".join(line for task in api.tasks(dag_id, run_id) if task["state"] == "failed" for line in api.log(task)[-30:])


def ended(api: AirflowApi, dag_id: str, run_id: str) -> bool:
    found = api.run(dag_id, run_id)
    return found is not None and found["state"] in {"success", "failed"}


def running(client: APIClient, run_id: str) -> list[dict[str, Any]]:
    """Return the containers of a run; unpausing starts another one beside ours."""
    return [c for c in ours(client) if c["Config"]["Labels"][f"{LABEL}run"] == run_id and c["State"]["Running"]]


def test_a_run_survives_that_scheduler_and_tasks_are_killed(
    api: AirflowApi, docker_airflow: Airflow, client: APIClient
) -> None:
    start(api, "killed")
    (before,) = wait_for(lambda: running(client, "killed"))
    lost = docker_airflow.processes.alive()["scheduler"]
    for process in lost:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(lost, timeout=30)
    docker_airflow.revive()
    wait(lambda: ended(api, DAG_ID, "killed"), 400)
    assert states(api, DAG_ID, "killed") == dict.fromkeys(STAGES, "success"), last_lines(api, DAG_ID, "killed")
    store = Path(docker_airflow.settings()["MLOPS_STORE"])
    tries = {stage: sorted(f.name for f in (store / NAME / "tries" / "ingest-killed" / stage).iterdir()) for stage in STAGES}
    assert tries["collect"] == ["0001"], "the retry took up what the first try had started"
    assert before["Config"]["Labels"][f"{LABEL}try"] == "1"
    assert running(client, "killed") == []


def test_a_task_that_is_marked_failed_leaves_no_container(api: AirflowApi, client: APIClient) -> None:
    start(api, "stopped")
    wait_for(lambda: running(client, "stopped"))
    api.send("PATCH", f"/dags/{DAG_ID}/dagRuns/stopped/taskInstances/collect", {"new_state": "failed"})
    wait(lambda: running(client, "stopped") == [], 20)


def test_the_reaper_removes_what_no_task_owns_and_nothing_else(api: AirflowApi, client: APIClient) -> None:
    labels = {
        "deployment": containers.DEPLOYMENT,
        "dag": DAG_ID,
        "run": "deleted",
        "task": "collect",
        "try": "1",
        "map_index": "-1",
    }
    lost, other = (
        client.create_container(
            image=containers.base_image(client),
            command=["sleep", "600"],
            labels={LABEL + name: value for name, value in (labels | more).items()},
        )["Id"]
        for more in ({}, {"deployment": f"{containers.DEPLOYMENT}-other"})
    )
    try:
        client.start(lost)
        assert api.trigger("mlops.reaper", "by-hand", {})
        wait(lambda: ended(api, "mlops.reaper", "by-hand"), 120)
        runs = [found["dag_run_id"] for found in api.runs("mlops.reaper")]  # one may have been due just now
        removed = [api.xcom("mlops.reaper", run_id, "remove_lost_containers", "return_value") or {} for run_id in runs]
        assert {lost[:12]: "Airflow knows no such task"} in removed
        assert lost not in [found["Id"] for found in ours(client)]
        assert client.inspect_container(other)
    finally:
        client.remove_container(other, force=True)


def wait_for(found: Any, timeout_s: float = 120) -> Any:
    return containers.wait(found, timeout_s)
