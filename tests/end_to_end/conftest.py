"""One real Airflow for all end-to-end tests: on real flights, some with their distances in kilometres, and on orders."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from demo.airflow_process import Airflow
from demo.rest import AirflowApi
from tests.end_to_end.flights import CHANGES, NAME, ROOT, wait, write_flights
from tests.end_to_end.monthly_orders import write_orders


@pytest.fixture(scope="package")
def flights_airflow(tmp_path_factory: pytest.TempPathFactory, spark_url: str) -> Iterator[Airflow]:
    """A healthy Airflow with the project's DAGs, a store and an MLflow database of its own."""
    folder = tmp_path_factory.mktemp("flights")
    shutil.copytree(ROOT / "dags" / "pipelines" / NAME, folder / "pipelines" / NAME)
    write_flights(folder / "flights.csv")
    file = folder / "pipelines" / NAME / "pipeline.yaml"
    text = file.read_text()
    for old, new in CHANGES.items():
        assert old in text, old
        text = text.replace(old, new.replace("{flights}", str(folder / "flights.csv")))
    file.write_text(text)
    write_orders(folder, datetime.now(UTC))
    env = {
        "MLOPS_STORE": str(folder / "store"),
        "MLOPS_PIPELINES": str(folder / "pipelines"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
        "MLOPS_SPARK": spark_url,
        "SPARK_CONNECT_AUTHENTICATE_TOKEN": os.environ["SPARK_CONNECT_AUTHENTICATE_TOKEN"],
        "OMP_NUM_THREADS": "1",
        # A task that was killed is missed while another test goes on; one that lives reports each second.
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "30",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "5",
    }
    with Airflow(folder / "airflow", dags=ROOT / "dags", plugins=ROOT / "plugins", env=env, cwd=folder) as airflow:
        yield airflow


@pytest.fixture(scope="package")
def flights_api(flights_airflow: Airflow) -> Iterator[AirflowApi]:
    """A client that is logged in as admin, once the DAGs are read."""
    with flights_airflow.api() as client:
        wait(lambda: f"{NAME}.train" in client.dag_ids(), 120)
        yield client
