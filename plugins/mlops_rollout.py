"""A challenger on trial to its promotion or withdrawal, in Airflow."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import BaseOperator

from mlops_approval import ANSWER_WITHIN
from mlops_operator import TaskFailed, TaskSkipped, facts_of, say_why
from mlops_tasks.errors import NothingToDo, PipelineError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from airflow.sdk import Context

    from mlops_tasks.specs import PipelineSpec


APPROVE, REJECT = "Approve", "Reject"


class _RolloutTask(BaseOperator):
    """What both tasks share: the pipeline, and how failures are told."""

    def __init__(self, *, pipeline: PipelineSpec, **kwargs: Any) -> None:
        """Look after the challenger of `pipeline`."""
        super().__init__(**kwargs)
        self.pipeline = pipeline.name
        self.why = ""
        self.on_failure_callback = self.on_retry_callback = self.on_skipped_callback = [say_why]

    def _told(self, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Do the work; what can't be mended by a retry fails the task at once."""
        try:
            return work()
        except NothingToDo as error:
            self.why = str(error)
            raise TaskSkipped(self.why) from error
        except PipelineError as error:
            if error.retryable:
                raise
            msg = f"{type(error).__name__}: {error}"
            raise TaskFailed(msg) from error


class JudgeRollout(_RolloutTask):
    """Says what the pipeline's rule wants done with the challenger."""

    ui_color = "#e8f0fb"

    def execute(self, context: Context) -> dict[str, Any]:
        """Judge. Raises: AirflowSkipException: no challenger is tried, or it is too early to say."""
        from mlops_tasks.runner.rollout import judge  # noqa: PLC0415 - heavy: only this task's process pays for it

        del context
        judged = self._told(lambda: judge(self.pipeline, now=datetime.now(UTC)))
        self.log.info("%s: %s", judged["action"], judged["reason"])
        if judged["action"] == "wait":
            self.why = f"wait: {judged['reason']}"
            raise TaskSkipped(self.why)
        return judged


class AskPromotion(HITLOperator):
    """Waits for a person before a promotion, if the pipeline's `deploy.promote` is `ask`; skips itself otherwise."""

    def __init__(self, *, asks: str, **kwargs: Any) -> None:
        """Ask what `subject` says; no answer counts as no."""
        super().__init__(
            body="", options=[APPROVE, REJECT], defaults=REJECT, response_timeout=ANSWER_WITHIN, retries=0, **kwargs
        )
        self.asks, self.why = asks, ""
        self.on_skipped_callback = [say_why]

    def execute(self, context: Context) -> Any:
        """Park the run until someone answers. Raises: AirflowSkipException: nothing is asked."""
        judged = context["ti"].xcom_pull(task_ids="judge") or {}
        if self.asks != "ask" or judged.get("action") != "promote":
            self.why = f"deploy.promote is {self.asks!r} and the rule says {judged.get('action')!r}: nobody is asked"
            raise TaskSkipped(self.why)
        self.body = summarise(judged)
        return super().execute(context)


class SettleRollout(_RolloutTask):
    """Promotes or withdraws the challenger as it was judged, if nothing moved meanwhile; whom a person refused is withdrawn."""

    ui_color = "#e8fbea"

    def execute(self, context: Context) -> dict[str, Any]:
        """Settle. Raises: AirflowFailException: the challenger can't be promoted."""
        from mlops_tasks.runner.rollout import settle  # noqa: PLC0415 - heavy: only this task's process pays for it

        judged = context["ti"].xcom_pull(task_ids="judge")
        answer = context["ti"].xcom_pull(task_ids="approve") or {}
        who = (answer.get("responded_by_user") or {}).get("name") or facts_of(context).user or "airflow"
        if REJECT in answer.get("chosen_options", []):
            judged = {**judged, "action": "withdraw", "reason": f"a person said no; the rule said: {judged['reason']}"}
        return self._told(lambda: settle(judged, who=who))


def summarise(judged: Mapping[str, Any]) -> str:
    """Say in Markdown what both did."""
    figures = judged.get("figures") or {}
    sides = [figures.get(side) or {} for side in ("champion", "challenger")]
    names = [name for name in ("version", "rows", "failures", "p95_ms", "mean_score", "labelled", "metric") if sides[0]]
    rows = [f"| {name} | {_shown(sides[0].get(name))} | {_shown(sides[1].get(name))} |" for name in names]
    head = f"The rule says **{judged.get('action')}**: {judged.get('reason')}."
    return "\n".join([head, "", "| | champion | challenger |", "|---|---|---|", *rows])


def _shown(value: object) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
