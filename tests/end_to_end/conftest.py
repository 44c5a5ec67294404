"""A real Airflow for the tests, started by the demo's own launcher: temporary home, free port, fresh store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.airflow_process import Airflow
from demo.rest import AirflowApi

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def airflow_state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder under which the test's Airflow, store and MLflow database lie."""
    return tmp_path_factory.mktemp("end_to_end")


@pytest.fixture(scope="session")
def airflow(airflow_state: Path) -> Iterator[Airflow]:
    """A healthy Airflow with the project's DAGs; `env` of every task points into `airflow_state`."""
    env = {
        "MLOPS_STORE": str(airflow_state / "store"),
        "MLOPS_PIPELINES": str(ROOT / "dags" / "pipelines"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{airflow_state / 'mlflow.db'}",
    }
    home = airflow_state / "airflow"
    with Airflow(home, dags=ROOT / "dags", plugins=ROOT / "plugins", env=env, cwd=ROOT) as running:
        yield running


@pytest.fixture(scope="session")
def airflow_api(airflow: Airflow) -> Iterator[AirflowApi]:
    """A client that is logged in as admin."""
    with airflow.api() as api:
        yield api
