"""What Airflow does beside the stages: start a training that the records ask for, roll a model back, acknowledge."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.sdk.exceptions import DagRunTriggerException

from mlops_duties import DutyTask, TellingTask
from mlops_links import TrainingRunLink, run_page
from mlops_operator import TaskSkipped, facts_of
from mlops_requests import MOST_REASON, parse_time

if TYPE_CHECKING:
    from airflow.sdk import Context

    from mlops_tasks.core.retraining import RetrainRequest
    from mlops_tasks.runner.retraining import Reconciled
    from mlops_tasks.specs import PipelineSpec


class StartTraining(TellingTask):
    """Starts `.train` if what is recorded of the model asks for it and nothing holds it back; each training once.

    What has to be done is read from the records alone, so this task may run after each window, on a schedule of its own, twice
    at once or not at all for a while: a training that was asked for and not started is started by whoever looks next.
    """

    ui_color = "#fdf1e0"
    operator_extra_links = (TrainingRunLink(),)

    def __init__(self, *, pipeline: PipelineSpec, **kwargs: Any) -> None:
        """Start trainings of `pipeline`, or of the one whose model it watches."""
        super().__init__(**kwargs)
        self.model = pipeline.monitor.model or pipeline.name
        self.links: dict[str, str] = {}

    def execute(self, context: Context) -> None:
        """Start the run by Airflow's own way: the same id twice is skipped.

        Raises:
            AirflowSkipException: no training is needed, or something holds it back.

        """
        facts = facts_of(context)
        if facts.run_type == "backfill":
            self._skip("a backfill of the past starts none")
        found = self._reconcile(context)
        if found.request is None:
            self._skip(found.reason)
        self._start(found.request)

    def _reconcile(self, context: Context) -> Reconciled:
        from mlops_tasks.runner.retraining import reconcile  # noqa: PLC0415 - heavy: only this task's process pays for it

        ti, dag_id = context["ti"], f"{self.model}.train"

        def run_state(run_id: str) -> str | None:
            """Ask Airflow, which raises for a run that it doesn't know."""
            return str(ti.get_dagrun_state(dag_id, run_id)) if ti.get_dr_count(dag_id, run_ids=[run_id]) else None

        return self.told(lambda: reconcile(self.model, now=datetime.now(UTC), run_state=run_state))

    def _start(self, request: RetrainRequest) -> NoReturn:
        dag_id = f"{self.model}.train"
        self.links = {"Training run": run_page(dag_id, request.run_id)}
        self.log.info("%s: starts %s (%s)", request.reason, dag_id, request.run_id)
        raise DagRunTriggerException(
            trigger_dag_id=dag_id,
            dag_run_id=request.run_id,
            conf=training_conf(request),
            note=f"Training {request.number}, as of {request.as_of:%Y-%m-%d %H:%M}: {request.reason}",
            skip_when_already_exists=True,
            reset_dag_run=False,
            wait_for_completion=False,
            allowed_states=[],
            failed_states=[],
            poke_interval=0,
            deferrable=False,
        )

    def _skip(self, why: str) -> NoReturn:
        self.why = f"no training: {why}"
        raise TaskSkipped(self.why)


def training_conf(request: RetrainRequest) -> dict[str, Any]:
    """Name the range explicitly, and why."""
    reason = request.reason if len(request.reason) <= MOST_REASON else f"{request.reason[: MOST_REASON - 1]}…"
    return {"start": request.start.isoformat(), "end": request.end.isoformat(), "reason": reason, "intent": "drift"}


class RollBack(DutyTask):
    """Puts an earlier version of a pipeline's model back into service."""

    ui_color = "#fbe8e8"

    def execute(self, context: Context) -> dict[str, Any]:
        """Roll back; return `{from, to}`, the versions. Raises: AirflowFailException: there is no such version."""
        params = context["params"]
        return self.ask("roll_back", context, reason=params["reason"], version=params["version"])


class Acknowledge(DutyTask):
    """Calls alarmed windows of a pipeline in order."""

    ui_color = "#e8f4ea"
    nothing_fails = True

    def execute(self, context: Context) -> dict[str, Any]:
        """Acknowledge; return the windows and what follows. Raises: AirflowFailException: no window there alarmed."""
        facts = facts_of(context)
        start = self.told(lambda: parse_time(facts, "window"))
        through = self.told(lambda: parse_time(facts, "through")) if facts.params["through"] else start
        return self.ask(
            "acknowledge",
            context,
            reason=facts.params["reason"],
            start=start.isoformat(),
            through=through.isoformat(),
        )
