"""`<pipeline>.rollback`: an earlier model version goes back into service."""

from __future__ import annotations

from airflow.sdk import DAG

from mlops_controls import RollBack
from mlops_dags import about, pipelines, rollback_params

SUMMARY = "Puts an earlier model version back into service, after loading and checking it."

for spec in pipelines("rollback"):
    with DAG(**about(spec, "rollback", SUMMARY), schedule=None, max_active_runs=1, params=rollback_params()):
        RollBack(task_id="roll_back", pipeline=spec)
