"""A judged candidate to a person's yes or no, when the run asks for one."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import ApprovalOperator

from mlops_operator import FACTS, TaskSkipped, say_why
from mlops_requests import is_backfill

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow.sdk import Context


ANSWER_WITHIN = timedelta(days=7)


class AskApproval(ApprovalOperator):
    """Waits for a person if the run's `promote` is `ask` and it may promote; skips itself otherwise."""

    def __init__(self, **kwargs: Any) -> None:
        """Ask what `subject` says; no answer counts as no."""
        super().__init__(defaults=self.REJECT, response_timeout=ANSWER_WITHIN, retries=0, **kwargs)
        self.why = ""
        self.on_skipped_callback = [say_why]

    def execute(self, context: Context) -> Any:
        """Park the run until someone answers. Raises: AirflowSkipException: nothing is asked."""
        promote = context["params"]["promote"]
        if promote != "ask":
            self.why = f"promote is {promote!r}: nobody is asked"
            raise TaskSkipped(self.why)
        if is_backfill(context["dag_run"].run_type, context["params"]):
            self.why = "a backfill registers a model and never promotes it: nobody is asked"
            raise TaskSkipped(self.why)
        facts = context["ti"].xcom_pull(task_ids="evaluate", key=FACTS) or {}
        if facts.get("passed") is False:
            self.why = "the candidate did not pass its gate: there is nothing to approve"
            raise TaskSkipped(self.why)
        self.body = summarise(facts)
        return super().execute(context)


def summarise(facts: Mapping[str, Any]) -> str:
    """Say in Markdown how the candidate was judged, and against what."""
    champion = facts.get("champion_version")
    against = "It would be the first model." if champion is None else f"It was compared with version {champion}, which serves."
    rows = [f"| {name} | {value:.4f} |" for name, value in (facts.get("metrics") or {}).items()]
    table = ["", "| metric | on held-out rows |", "|---|---|", *rows] if rows else []
    return "\n".join([f"The candidate passed its gate. {against} The report is linked at the task `evaluate`.", *table])
