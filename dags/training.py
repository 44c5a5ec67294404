"""`<pipeline>.train`: a range of windows becomes a judged model in service."""

from __future__ import annotations

from airflow.sdk import DAG, CronDataIntervalTimetable, TaskGroup

from mlops_approval import AskApproval
from mlops_dags import Stages, about, pipelines, train_params

SUMMARY = "Brings missing windows in, fixes a dataset version, trains, judges and deploys a model."

for spec in pipelines("train"):
    with DAG(
        **about(spec, "train", SUMMARY),
        schedule=CronDataIntervalTimetable(spec.schedule.train, timezone="UTC") if spec.schedule.train else None,
        max_active_runs=4,  # a run that waits for a person must not hold the others up; the pool bounds the work
        params=train_params(spec),
    ):
        stage = Stages(spec, length=spec.schedule.train_range)
        with TaskGroup("ingest", tooltip="Windows that are in already are left as they are."):
            collect = stage("collect")
            validate_raw = stage("validate_raw", raw=collect)
            preprocess = stage("preprocess", raw=validate_raw)
            validate = stage("validate", features=preprocess)
        snapshot = stage("snapshot", features=validate)
        train = stage("train", dataset=snapshot)
        evaluate = stage("evaluate", candidate=train, dataset=snapshot)
        approve = AskApproval(task_id="approve", subject=f"Put the new model of {spec.name} into service?")
        deploy = stage("deploy", verdict=evaluate, more={"trigger_rule": "none_failed_min_one_success"})
        evaluate >> approve >> deploy
