"""A judged candidate to a person's yes or no, when the run asks for one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import ApprovalOperator

from mlops_operator import FACTS, TaskSkipped

if TYPE_CHECKING:
    from airflow.sdk import Context


class AskApproval(ApprovalOperator):
    """Waits for a person if the run's `promote` is `ask`; skips itself otherwise."""

    def execute(self, context: Context) -> Any:
        """Park the run until someone answers. Raises: AirflowSkipException: nothing is asked."""
        promote = context["params"]["promote"]
        if promote != "ask":
            msg = f"promote is {promote!r}: nobody is asked"
            raise TaskSkipped(msg)
        facts = context["ti"].xcom_pull(task_ids="evaluate", key=FACTS) or {}
        if facts.get("passed") is False:
            msg = "the candidate did not pass its gate: there is nothing to approve"
            raise TaskSkipped(msg)
        self.body = "\n".join(f"- {name}: {value}" for name, value in facts.items())
        return super().execute(context)
