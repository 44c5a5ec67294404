"""A real Airflow for benchmarks: the demo's launcher in a folder of its own, `.ingest` read and unpaused."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.measuring import PIPELINE, ROOT, START_TIMEOUT_S, BenchmarkError
from demo import following
from demo.airflow_process import Airflow
from demo.rest import TERMINAL, AirflowApi

DAG_ID = f"{PIPELINE}.ingest"
POLL_S = 1.0
"""The API server that answers polls also serves the tasks: ask seldom."""
NAMES = ("MLOPS_", "MLFLOW_", "SPARK_", "TMPDIR")


@contextmanager
def running_airflow(folder: Path, env: Mapping[str, str]) -> Iterator[AirflowApi]:
    """Keep an Airflow whose tasks have `env`'s settings. Raises: BenchmarkError when the DAG is not read in time."""
    given = {name: value for name, value in env.items() if name.startswith(NAMES)}
    home = folder / "airflow"
    with Airflow(home, dags=ROOT / "dags", plugins=ROOT / "plugins", env=given, cwd=ROOT) as airflow, airflow.api() as api:
        deadline = time.monotonic() + START_TIMEOUT_S
        while DAG_ID not in api.dag_ids():
            if time.monotonic() > deadline:
                msg = f"Airflow has not read {DAG_ID}: {api.import_errors()}"
                raise BenchmarkError(msg)
            time.sleep(POLL_S)
        api.unpause(DAG_ID)
        yield api


def wait_for_run(api: AirflowApi, run_id: str) -> dict[str, Any]:
    """Wait until a run of `.ingest` succeeded; return it. Raises: BenchmarkError."""
    while True:
        run = api.run(DAG_ID, run_id)
        if run is not None and run["state"] in TERMINAL:
            break
        time.sleep(POLL_S)
    if run["state"] != "success":
        raise BenchmarkError(following.explain(api, DAG_ID, run_id))
    return run
