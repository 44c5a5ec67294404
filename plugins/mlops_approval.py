"""A judged candidate to a person's yes or no, when the run asks for one."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import ApprovalOperator

from mlops_operator import FACTS, TaskSkipped, say_why

if TYPE_CHECKING:
    from airflow.sdk import Context


ANSWER_WITHIN = timedelta(days=7)


class AskApproval(ApprovalOperator):
    """Waits for a person if the run's `promote` is `ask`; skips itself otherwise."""

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
        facts = context["ti"].xcom_pull(task_ids="evaluate", key=FACTS) or {}
        if facts.get("passed") is False:
            self.why = "the candidate did not pass its gate: there is nothing to approve"
            raise TaskSkipped(self.why)
        self.body = "\n".join(f"- {name}: {value}" for name, value in facts.items())
        return super().execute(context)
