"""`<pipeline>.rollback`: an earlier model version goes back into service; `mlops.reaper`: lost containers go."""

from __future__ import annotations

from airflow.sdk import DAG

from mlops_controls import RollBack
from mlops_dags import about, about_reaper, pipelines, reaps, rollback_params
from mlops_reaper import RemoveLostContainers

SUMMARY = "Puts an earlier model version back into service, after loading and checking it."

for spec in pipelines("rollback"):
    with DAG(**about(spec, "rollback", SUMMARY), schedule=None, max_active_runs=1, params=rollback_params()):
        RollBack(task_id="roll_back", pipeline=spec)

if reaps():
    with DAG(**about_reaper(), schedule="*/10 * * * *", max_active_runs=1):
        RemoveLostContainers(task_id="remove_lost_containers")
