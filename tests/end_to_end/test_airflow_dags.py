"""The DAGs under a real Airflow: a training over REST to predictions, drift that starts one whoever dies, a backfill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from demo import ports
from demo.airflow_process import Airflow
from demo.rest import AirflowApi
from tests.end_to_end.flights import NAME, dates, log_of, run, wait
from tests.end_to_end.held_decisions import held_decision, request_file

pytestmark = [pytest.mark.airflow, pytest.mark.spark, pytest.mark.slow, pytest.mark.timeout(1800)]

TRAINED = ("2013-01-01", "2013-02-15")
SHIFTED = "2013-06-03"


@pytest.mark.parametrize(
    ("conf", "message"),
    [
        ({**dates(*TRAINED), "promot": "auto"}, "conf has the unknown key 'promot'; did you mean 'promote'?"),
        (dates("2013-02-01", "2013-01-01"), "end: must be after start 2013-02-01, got 2013-01-01"),
        ({}, "has neither start and end nor a data interval; give start and end"),
    ],
)
def test_a_bad_request_fails_once_and_says_why_last(flights_api: AirflowApi, conf: dict[str, Any], message: str) -> None:
    run_id = f"bad-{abs(hash(message))}"
    states = run(flights_api, "train", run_id, conf)
    assert (states[""], states["ingest.collect"], states["deploy"]) == ("failed", "failed", "upstream_failed")
    last = log_of(flights_api, "train", run_id, "ingest.collect")[-1]
    assert last.startswith(f"SpecError: {NAME}.train:")
    assert message in last


def test_a_training_over_rest_ends_in_predictions(flights_api: AirflowApi, flights_airflow: Airflow) -> None:
    states = run(flights_api, "train", "first", {**dates(*TRAINED), "reason": "the first model"})
    assert states.pop("approve") == "skipped"
    assert set(states.values()) == {"success"}, states
    (link,) = flights_api.get(f"/dags/{NAME}.train/dagRuns/first/taskInstances/evaluate/links")["extra_links"].items() - {
        ("MLflow run", None)
    }
    assert link[0] == "Report"
    assert httpx.get(flights_airflow.url + link[1], trust_env=False).status_code == 401
    port = ports.any_free()
    command = [sys.executable, "-m", "mlops_tasks", "serve", NAME, "--port", str(port)]
    server = subprocess.Popen(command, env=flights_airflow.settings(), cwd=flights_airflow.cwd)
    try:
        answer = predict(f"http://127.0.0.1:{port}", Path(flights_airflow.settings()["MLOPS_STORE"]))
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


def trainings(api: AirflowApi) -> list[dict[str, Any]]:
    """Return the trainings that a DAG started."""
    return [found for found in api.runs(f"{NAME}.train") if found["run_type"] == "operator_triggered"]


def starting_task(api: AirflowApi) -> dict[str, Any]:
    """Return the task that looks at what the monitor found in the shifted window."""
    (task,) = [task for task in api.tasks(f"{NAME}.monitor", "shift") if task["task_id"] == "start_training"]
    return task


def test_who_starts_a_training_is_killed_between_its_decision_and_the_start(
    flights_api: AirflowApi, flights_airflow: Airflow
) -> None:
    flights_api.pause(f"{NAME}.train")  # what is started waits: it is counted here, not run
    flights_api.unpause(f"{NAME}.monitor")
    with held_decision(flights_airflow) as decision:
        assert flights_api.trigger(f"{NAME}.monitor", "shift", dates(SHIFTED, "2013-06-04"))
        wait(decision.is_held, 300)
        decision.go_on_and_die(starting_task(flights_api)["pid"])
    assert request_file(flights_airflow).exists()
    assert trainings(flights_api) == []


def test_the_next_look_starts_the_training_that_was_asked_for(flights_api: AirflowApi, flights_airflow: Airflow) -> None:
    assert run(flights_api, "retrain", "look", {})[""] == "success"
    (started,) = trainings(flights_api)
    assert started["dag_run_id"] == json.loads(request_file(flights_airflow).read_text())["run_id"]
    assert started["conf"]["intent"] == "drift"
    assert started["conf"]["end"] == "2013-06-04T00:00:00+00:00"
    assert "distance" in started["conf"]["reason"]
    assert "distance" in started["note"]


def test_a_backfill_brings_ten_days_in(flights_api: AirflowApi) -> None:
    # Here, as Airflow takes most of a minute to miss and retry the task killed above: the test below waits for that.
    dag_id = f"{NAME}.ingest"
    wait(lambda: dag_id in flights_api.dag_ids(), 60)
    first, last = datetime(2013, 2, 15, tzinfo=UTC), datetime(2013, 2, 24, tzinfo=UTC)
    backfill = flights_api.backfill(dag_id, first, last, max_active_runs=3, conf={})
    wait(lambda: flights_api.backfill_done(backfill), 900)
    runs = flights_api.runs(dag_id, run_type="backfill")
    assert len(runs) == 10
    assert {found["state"] for found in runs} == {"success"}
    assert {found["data_interval_start"][:10] for found in runs} == {f"2013-02-{day}" for day in range(15, 25)}


def test_the_killed_tasks_retry_starts_no_second_training(flights_api: AirflowApi, flights_airflow: Airflow) -> None:
    wait(lambda: state_of(flights_api, "monitor", "shift") in {"success", "failed"}, 300)
    task = starting_task(flights_api)
    assert (task["state"], task["try_number"]) == ("skipped", 2)
    assert log_of(flights_api, "monitor", "shift", "start_training")[-1].startswith("no training: ")
    assert len(trainings(flights_api)) == 1
    assert [path.name for path in request_file(flights_airflow).parent.iterdir()] == [request_file(flights_airflow).name]


def state_of(api: AirflowApi, kind: str, run_id: str) -> str:
    found = api.run(f"{NAME}.{kind}", run_id)
    return found["state"] if found else "gone"
