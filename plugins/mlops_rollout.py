"""A challenger on trial to its promotion or withdrawal, in Airflow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import HITLOperator

from mlops_approval import ANSWER_WITHIN
from mlops_duties import DutyTask
from mlops_operator import TaskSkipped, say_why

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow.sdk import Context


APPROVE, REJECT = "Approve", "Reject"
WAITS = "awaiting_input"
"""The state of a task that waits for a person's answer."""


class JudgeRollout(DutyTask):
    """Says what the pipeline's rule wants done with the challenger."""

    ui_color = "#e8f0fb"

    def execute(self, context: Context) -> dict[str, Any]:
        """Judge. Raises: AirflowSkipException: no challenger is tried, or it is too early to say."""
        judged = self.ask("judge_rollout", context)
        self.log.info("%s: %s", judged["action"], judged["reason"])
        if judged["action"] == "wait":
            self.why = f"wait: {judged['reason']}"
            raise TaskSkipped(self.why)
        return judged


class AskPromotion(HITLOperator):
    """Waits for a person before a promotion, if the pipeline's `deploy.promote` is `ask`; skips itself otherwise.

    Checks go on meanwhile, so that a challenger that turns bad is withdrawn; they don't ask again.
    """

    def __init__(self, *, asks: str, **kwargs: Any) -> None:
        """Ask what `subject` says; no answer counts as no."""
        super().__init__(
            body="", options=[APPROVE, REJECT], defaults=REJECT, response_timeout=ANSWER_WITHIN, retries=0, **kwargs
        )
        self.asks, self.why = asks, ""
        self.on_skipped_callback = [say_why]

    def execute(self, context: Context) -> Any:
        """Park the run until someone answers. Raises: AirflowSkipException: nothing is asked, or it is asked already."""
        judged = context["ti"].xcom_pull(task_ids="judge") or {}
        if self.asks != "ask" or judged.get("action") != "promote":
            self.why = f"deploy.promote is {self.asks!r} and the rule says {judged.get('action')!r}: nobody is asked"
            raise TaskSkipped(self.why)
        asked = self._run_that_asks(context, judged)
        if asked:
            self.why = f"run {asked} asks for an answer about version {judged['challenger']} already"
            raise TaskSkipped(self.why)
        self.body = summarise(judged)
        return super().execute(context)

    def _run_that_asks(self, context: Context, judged: Mapping[str, Any]) -> str:
        """Return the run in which a person is asked about these versions already; empty if there is none."""
        ti: Any = context["ti"]
        if not ti.get_ti_count(dag_id=ti.dag_id, task_ids=[self.task_id], states=[WAITS]):
            return ""
        for run_id, states in ti.get_task_states(dag_id=ti.dag_id, task_ids=[self.task_id]).items():
            if run_id == ti.run_id or states.get(self.task_id) != WAITS:
                continue
            other = ti.xcom_pull(task_ids="judge", run_id=run_id) or {}
            if all(other.get(side) == judged[side] for side in ("champion", "challenger")):
                return str(run_id)
        return ""


class SettleRollout(DutyTask):
    """Promotes or withdraws the challenger as it was judged, if nothing moved meanwhile; whom a person refused is withdrawn."""

    ui_color = "#e8fbea"

    def __init__(self, *, asks: str, **kwargs: Any) -> None:
        """Promote only what a person approved, if `asks` is `ask`."""
        super().__init__(**kwargs)
        self.asks = asks

    def execute(self, context: Context) -> dict[str, Any]:
        """Settle.

        Raises:
            AirflowSkipException: a promotion waits for a person's answer.
            AirflowFailException: the challenger can't be promoted.

        """
        judged = context["ti"].xcom_pull(task_ids="judge")
        answer = context["ti"].xcom_pull(task_ids="approve") or {}
        person = (answer.get("responded_by_user") or {}).get("name")
        if self.asks == "ask" and judged["action"] == "promote":
            if not answer:
                self.why = "a person is asked in another run: nothing is promoted before the answer"
                raise TaskSkipped(self.why)
            if APPROVE not in answer.get("chosen_options", []):
                judged = {**judged, "action": "withdraw", "reason": f"{_refusal(person)}; the rule said: {judged['reason']}"}
        return self.ask("settle_rollout", context, who=person or "", judged=judged)


def _refusal(person: str | None) -> str:
    """Say why there is no approval: Airflow gives the default answer, and nobody's name, when the time is over."""
    return "a person said no" if person else f"nobody answered within {ANSWER_WITHIN.days} days"


def summarise(judged: Mapping[str, Any]) -> str:
    """Say in Markdown what both did."""
    figures = judged.get("figures") or {}
    sides = [figures.get(side) or {} for side in ("champion", "challenger")]
    names = [name for name in ("version", "requests", "failures", "p95_ms", "mean_score", "labelled", "metric") if sides[0]]
    rows = [f"| {name} | {_shown(sides[0].get(name))} | {_shown(sides[1].get(name))} |" for name in names]
    head = f"The rule says **{judged.get('action')}**: {judged.get('reason')}."
    return "\n".join([head, "", "| | champion | challenger |", "|---|---|---|", *rows])


def _shown(value: object) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
