"""`<pipeline>.ingest`: one window's raw rows become validated features."""

from __future__ import annotations

from airflow.sdk import DAG

from mlops_dags import Stages, about, every_window, pipelines, reason_param, window_params

SUMMARY = "Brings one window in: collects its rows, validates them, makes features and validates those."

for spec in pipelines("ingest"):
    with DAG(
        **about(spec, "ingest", SUMMARY, catchup=spec.schedule.catchup),
        schedule=every_window(spec) if spec.schedule.ingest else None,
        max_active_runs=4,
        params={**window_params(spec, "the run's data interval."), "reason": reason_param()},
    ):
        stage = Stages(spec)
        collect = stage("collect")
        validate_raw = stage("validate_raw", raw=collect)
        preprocess = stage("preprocess", raw=validate_raw)
        validate = stage("validate", features=preprocess)
