"""`<pipeline>.monitor`: new windows are compared with the training data, the champion is measured; `.retrain`: what follows."""

from __future__ import annotations

from airflow.sdk import DAG, TaskGroup

from mlops_controls import StartTraining
from mlops_dags import Stages, about, every_window, labels_since, pipelines, reason_param, watched_range, window_params

SUMMARY = (
    "Compares a window with what the champion was trained on, measures the champion in windows whose labels are due, and "
    "starts a new training when that is called for."
)
RETRAIN = "Starts a new training when drift, a worse error, age or new data call for it and nothing holds it back."

for spec in pipelines("monitor"):
    with DAG(
        **about(spec, "monitor", SUMMARY, catchup=spec.schedule.catchup),
        schedule=every_window(spec) if spec.schedule.monitor else None,
        max_active_runs=1,
        params={**window_params(spec, f"the run's data interval{labels_since(spec)}."), "reason": reason_param()},
    ):
        stage = Stages(spec, length=watched_range(spec))
        with TaskGroup("ingest", tooltip="Windows that are in already are left as they are."):
            collect = stage("collect")
            validate_raw = stage("validate_raw", raw=collect)
            preprocess = stage("preprocess", raw=validate_raw)
            validate = stage("validate", features=preprocess)
        monitor = stage("monitor", features=validate)
        monitor >> StartTraining(task_id="start_training", pipeline=spec)

for spec in pipelines("retrain"):
    if not spec.monitor.model:  # who watches another's model leaves that one's trainings to its own DAG
        check = spec.retrain.check if spec.schedule.monitor else None
        with DAG(**about(spec, "retrain", RETRAIN), schedule=check, max_active_runs=1):
            StartTraining(task_id="start_training", pipeline=spec)
