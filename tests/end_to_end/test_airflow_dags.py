"""The DAGs under a real Airflow: a training over REST to predictions, a backfill, drift that starts a training."""

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


def test_a_backfill_brings_ten_days_in(flights_api: AirflowApi) -> None:
    dag_id = f"{NAME}.ingest"
    wait(lambda: dag_id in flights_api.dag_ids(), 60)
    first, last = datetime(2013, 1, 1, tzinfo=UTC), datetime(2013, 1, 10, tzinfo=UTC)
    backfill = flights_api.backfill(dag_id, first, last, max_active_runs=3, conf={})
    wait(lambda: flights_api.backfill_done(backfill), 900)
    runs = flights_api.runs(dag_id, run_type="backfill")
    assert len(runs) == 10
    assert {found["state"] for found in runs} == {"success"}
    assert {found["data_interval_start"][:10] for found in runs} == {f"2013-01-{day:02d}" for day in range(1, 11)}


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


def test_a_shifted_window_months_later_starts_one_training(flights_api: AirflowApi) -> None:
    flights_api.pause(f"{NAME}.train")  # it waits, so that the next test can take it away before it does anything
    states = run(flights_api, "monitor", "shift", dates(SHIFTED, "2013-06-04"))
    assert states["start_training"] == "success", log_of(flights_api, "monitor", "shift", "start_training")
    (started,) = trainings(flights_api)
    assert started["conf"]["intent"] == "drift"
    assert started["conf"]["end"] == "2013-06-04T00:00:00+00:00"
    assert "distance" in started["conf"]["reason"]
    assert "distance" in started["note"]


def test_a_training_that_was_asked_for_and_got_lost_is_started_by_the_next_look_once(flights_api: AirflowApi) -> None:
    (started,) = trainings(flights_api)
    path = f"/dags/{NAME}.train/dagRuns/{started['dag_run_id']}"
    assert flights_api.request("DELETE", path).status_code == 204  # as if whoever asked had died before it was started
    for kind, run_id, conf in (("retrain", "look", {}), ("monitor", "next", dates("2013-06-04", "2013-06-05"))):
        flights_api.unpause(f"{NAME}.{kind}")
        assert flights_api.trigger(f"{NAME}.{kind}", run_id, conf)  # both look at once
    for kind, run_id in (("retrain", "look"), ("monitor", "next")):
        wait(lambda kind=kind, run_id=run_id: state_of(flights_api, kind, run_id) in {"success", "failed"}, 300)  # type: ignore[misc]  # mypy can't infer a default's type
    again = run(flights_api, "retrain", "look-again", {})
    assert again["start_training"] == "skipped"
    assert log_of(flights_api, "retrain", "look-again", "start_training")[-1].startswith("no training: ")
    assert [found["dag_run_id"] for found in trainings(flights_api)] == [started["dag_run_id"]]


def state_of(api: AirflowApi, kind: str, run_id: str) -> str:
    found = api.run(f"{NAME}.{kind}", run_id)
    return found["state"] if found else "gone"
