"""`<pipeline>.rollout`: a challenger on trial is judged by what it answered, and promoted or withdrawn."""

from __future__ import annotations

from airflow.sdk import DAG

from mlops_dags import about, pipelines
from mlops_rollout import AskPromotion, JudgeRollout, SettleRollout

SUMMARY = "Compares champion and challenger on live traffic; promotes the challenger, withdraws it, or waits."

RUNS_AT_ONCE = 16
"""Of them one checks; the others are questions about challengers of the last days."""

for spec in pipelines("rollout"):
    trial = spec.serve.challenger
    if trial.mode != "off":
        # Runs that wait for a person's answer must not keep the checks from withdrawing a bad challenger.
        with DAG(**about(spec, "rollout", SUMMARY), schedule=trial.check, max_active_runs=RUNS_AT_ONCE):
            judge = JudgeRollout(task_id="judge", pipeline=spec)
            approve = AskPromotion(
                task_id="approve", subject=f"Promote the challenger of {spec.name}?", asks=spec.deploy.promote
            )
            settle = SettleRollout(
                task_id="settle", pipeline=spec, asks=spec.deploy.promote, trigger_rule="none_failed_min_one_success"
            )
            judge >> approve >> settle
            judge >> settle
