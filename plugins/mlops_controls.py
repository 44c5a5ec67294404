"""What Airflow does beside the stages: start a training because of drift, roll a model back."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import DagRunTriggerException

from mlops_links import TrainingRunLink, run_page
from mlops_operator import FACTS, TaskFailed, TaskSkipped, facts_of, say_why
from mlops_requests import Request, refuse_unknown, resolve, run_key
from mlops_tasks.core.windows import floor
from mlops_tasks.errors import PipelineError

if TYPE_CHECKING:
    from airflow.sdk import Context

    from mlops_tasks.specs import PipelineSpec


class StartTraining(BaseOperator):
    """Starts `.train` if the monitor asks for it, once a cool-down."""

    ui_color = "#fdf1e0"
    operator_extra_links = (TrainingRunLink(),)

    def __init__(self, *, pipeline: PipelineSpec, **kwargs: Any) -> None:
        """Start trainings of `pipeline`, or of the one whose model it watches."""
        super().__init__(**kwargs)
        self.spec = pipeline
        self.links: dict[str, str] = {}
        self.why = ""
        self.on_failure_callback = self.on_skipped_callback = [say_why]

    def execute(self, context: Context) -> None:
        """Start the run by Airflow's own way: the same id twice is skipped. Raises: AirflowSkipException: no need."""
        facts = facts_of(context)
        request = resolve(facts, cadence=self.spec.cadence)
        decision = context["ti"].xcom_pull(task_ids="monitor", key=FACTS) or {}
        if not decision.get("retrain"):
            self.why = f"no training: {decision.get('reason') or 'the monitor asks for none'}"
            raise TaskSkipped(self.why)
        if request.intent == "backfill":
            self.why = "no training: a backfill of the past starts none"
            raise TaskSkipped(self.why)
        reason = str(decision.get("reason") or "drift")
        dag_id, run_id = f"{self.spec.monitor.model or self.spec.name}.train", training_run_id(self.spec, request.end)
        self.links = {"Training run": run_page(dag_id, run_id)}
        self.log.info("%s: starts %s (%s)", reason, dag_id, run_id)
        raise DagRunTriggerException(
            trigger_dag_id=dag_id,
            dag_run_id=run_id,
            conf=training_conf(self.spec, request, reason),
            note=f"Drift in {request.start:%Y-%m-%d %H:%M}: {reason}",
            skip_when_already_exists=True,
            reset_dag_run=False,
            wait_for_completion=False,
            allowed_states=[],
            failed_states=[],
            poke_interval=0,
            deferrable=False,
        )


def training_run_id(spec: PipelineSpec, end: datetime) -> str:
    """Name the training of a cool-down: windows of one cool-down get the same name."""
    cooldown = spec.monitor.cooldown
    if not cooldown:
        return f"drift__{end:%Y-%m-%dT%H}"
    started = spec.schedule.start + cooldown * ((end - spec.schedule.start) // cooldown)
    return f"drift__{started:%Y-%m-%dT%H}"


def training_conf(spec: PipelineSpec, request: Request, reason: str) -> dict[str, Any]:
    """Name the range explicitly: the latest `monitor.train_range` up to the drifted window's end."""
    start = max(floor(request.end - spec.monitor.train_range, spec.cadence), spec.schedule.start)
    return {"start": start.isoformat(), "end": request.end.isoformat(), "reason": reason, "intent": "drift"}


class RollBack(BaseOperator):
    """Puts an earlier version of a pipeline's model back into service."""

    ui_color = "#fbe8e8"

    def __init__(self, *, pipeline: PipelineSpec, **kwargs: Any) -> None:
        """Roll back the model of `pipeline`."""
        super().__init__(**kwargs)
        self.pipeline = pipeline.name
        self.on_failure_callback = self.on_retry_callback = [say_why]

    def execute(self, context: Context) -> dict[str, Any]:
        """Roll back; return `{from, to}`, the versions. Raises: AirflowFailException: there is no such version."""
        from mlops_tasks.runner import roll_back  # noqa: PLC0415 - heavy: only this task's process pays for it

        facts = facts_of(context)
        try:
            refuse_unknown(facts)
            return dict(
                roll_back(
                    self.pipeline,
                    version=facts.params["version"],
                    reason=facts.params["reason"],
                    who=facts.user or "airflow",
                    run_id=run_key(facts),
                    now=context["ti"].start_date,
                )
            )
        except PipelineError as error:
            if error.retryable:
                raise
            msg = f"{type(error).__name__}: {error}"
            raise TaskFailed(msg) from error
