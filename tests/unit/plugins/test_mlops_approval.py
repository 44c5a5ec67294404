from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowSkipException

from mlops_approval import AskApproval, summarise


def context(promote: str, facts: dict[str, Any] | None = None, run_type: str = "manual", **params: str) -> Any:
    run = SimpleNamespace(run_type=run_type)
    return {"params": {"promote": promote, **params}, "ti": SimpleNamespace(xcom_pull=lambda **_: facts), "dag_run": run}


@pytest.mark.parametrize("promote", ["auto", "never"])
def test_nobody_is_asked_unless_the_run_wants_it(promote: str) -> None:
    with pytest.raises(AirflowSkipException, match=f"promote is '{promote}': nobody is asked"):
        AskApproval(task_id="approve", subject="?").execute(context(promote))


def test_nobody_is_asked_about_a_candidate_that_failed_its_gate() -> None:
    with pytest.raises(AirflowSkipException, match="there is nothing to approve"):
        AskApproval(task_id="approve", subject="?").execute(context("ask", {"passed": False}))


@pytest.mark.parametrize("given", [{"run_type": "backfill"}, {"intent": "backfill"}])
def test_nobody_is_asked_about_a_model_of_the_past(given: dict[str, str]) -> None:
    with pytest.raises(AirflowSkipException, match="a backfill registers a model and never promotes it"):
        AskApproval(task_id="approve", subject="?").execute(context("ask", {"passed": True}, **given))


def test_the_question_shows_the_figures() -> None:
    text = summarise({"passed": True, "champion_version": 3, "metrics": {"roc_auc": 0.71234}})
    assert "compared with version 3, which serves" in text
    assert "| roc_auc | 0.7123 |" in text
    assert "It would be the first model." in summarise({"champion_version": None})
