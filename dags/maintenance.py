"""What is done beside the loop, for each pipeline and for all.

`<pipeline>.rollback`: an earlier model version goes back into service; `<pipeline>.acknowledge`: a person calls alarmed
windows in order; `<pipeline>.maintain`: days of the request log go
that are older than they may be; `mlops.reaper`: lost containers go.
"""

from __future__ import annotations

from airflow.sdk import DAG

from mlops_controls import Acknowledge, RollBack
from mlops_dags import about, about_reaper, acknowledge_params, pipelines, reaps, rollback_params
from mlops_reaper import RemoveLostContainers
from mlops_retention import RemoveOldAnswers

SUMMARY = "Puts an earlier model version back into service, after loading and checking it."
ACKNOWLEDGE = "Calls alarmed windows in order: later windows that are like them alarm no more."
RETENTION = "Removes logged answers that are older than serve.log.retain; collected windows have copies of their own."

for spec in pipelines("rollback"):
    with DAG(**about(spec, "rollback", SUMMARY), schedule=None, max_active_runs=1, params=rollback_params()):
        RollBack(task_id="roll_back", pipeline=spec)

for spec in pipelines("acknowledge"):
    with DAG(**about(spec, "acknowledge", ACKNOWLEDGE), schedule=None, max_active_runs=1, params=acknowledge_params()):
        Acknowledge(task_id="acknowledge", pipeline=spec)

for spec in pipelines("maintain"):
    if spec.serve.log.retain is not None:
        with DAG(**about(spec, "maintain", RETENTION), schedule="30 0 * * *", max_active_runs=1):
            RemoveOldAnswers(task_id="remove_old_answers", pipeline=spec)

if reaps():
    with DAG(**about_reaper(), schedule="*/10 * * * *", max_active_runs=1):
        RemoveLostContainers(task_id="remove_lost_containers")
