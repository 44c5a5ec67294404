"""A year of trainings, by schedule, drift, hand and backfill, end in whatever order: the champion is the right one."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

import pytest

from demo.airflow_process import Airflow
from demo.rest import AirflowApi
from tests.end_to_end.flights import wait
from tests.end_to_end.monthly_orders import NAME, months

pytestmark = [pytest.mark.airflow, pytest.mark.spark, pytest.mark.slow, pytest.mark.timeout(1800)]

TRAIN = f"{NAME}.train"
ENDED = {"success", "failed"}


def at(day: datetime) -> str:
    return day.isoformat()


def mlops(airflow: Airflow, *arguments: str) -> Any:
    command = [sys.executable, "-m", "mlops_tasks", *arguments, "--json"]
    done = subprocess.run(command, env=airflow.settings(), cwd=airflow.cwd, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_a_year_of_backfilled_trainings_among_others_promotes_none_of_theirs(
    flights_api: AirflowApi, flights_airflow: Airflow
) -> None:
    starts = months(datetime.now(UTC))
    wait(lambda: TRAIN in flights_api.dag_ids(), 120)
    # Unpausing starts the latest scheduled run; the others are of older data, whichever ends first.
    flights_api.unpause(TRAIN)
    older = {"drift": starts[-2], "manual": starts[-4]}
    for intent, end in older.items():
        conf = {"start": at(starts[starts.index(end) - 5]), "end": at(end), "reason": f"a {intent} run"}
        assert flights_api.trigger(TRAIN, intent, conf | ({"intent": "drift"} if intent == "drift" else {}))
    # A backfill by what its conf says alone: of the newest data, and of fewer months, so that no other run makes its model.
    made_up = {"start": at(starts[-5]), "end": at(starts[-1]), "reason": "by hand", "intent": "backfill"}
    assert flights_api.trigger(TRAIN, "made-up", made_up)
    backfill = flights_api.backfill(TRAIN, starts[-13], starts[-2], max_active_runs=3, conf={})
    wait(lambda: flights_api.backfill_done(backfill), 1500)
    wait(lambda: all(run["state"] in ENDED for run in flights_api.runs(TRAIN)), 600)

    runs = flights_api.runs(TRAIN)
    kinds = [run["run_type"] for run in runs]
    assert kinds.count("backfill") >= 11, "the latest interval may be the scheduled run's"
    assert kinds.count("scheduled") + kinds.count("backfill") == 12
    assert {run["dag_run_id"]: run["state"] for run in runs if run["state"] != "success"} == {}

    known = mlops(flights_airflow, "models", NAME)
    champion = next(version for version in known["versions"] if "champion" in version["aliases"])
    promotions = [entry for entry in known["promotions"] if entry["alias"] == "champion"]
    assert all("backfill" not in entry["reason"] for entry in known["promotions"])
    assert promotions[-1]["to"] == str(champion["version"])
    made = mlops(flights_airflow, "explain", "made-up", "--pipeline", NAME)
    version = made["model"]["version"]
    assert (made["intent"], made["model"]["made_by_run"]) == ("backfill", "train-made-up")
    assert [item["aliases"] for item in known["versions"] if item["version"] == version] == [[]], "registered"
    assert all(str(version) not in {entry["from"], entry["to"]} for entry in known["promotions"]), "and never promoted"
    status = mlops(flights_airflow, "status", NAME)
    trained_to = datetime.fromisoformat(status["champion"]["trained_to"])
    scheduled = next((run for run in runs if run["run_type"] == "scheduled"), None)
    newest = starts[-1] if scheduled else older["drift"]
    assert starts[starts.index(newest) - 2] <= trained_to < newest, "the newest data that anybody but a backfill trained on"
    assert flights_api.runs(f"{NAME}.monitor") + flights_api.runs(f"{NAME}.retrain") == [], "a backfill triggers nothing"
