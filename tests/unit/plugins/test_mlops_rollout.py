from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk.exceptions import AirflowSkipException

import mlops_rollout
from mlops_rollout import AskPromotion, JudgeRollout, SettleRollout, summarise
from mlops_tasks.errors import ModelRejected, NothingToDo
from mlops_tasks.runner import rollout
from tests.served_pipeline import PIPELINE

if TYPE_CHECKING:
    from collections.abc import Mapping

JUDGED = {"model": "shop", "action": "promote", "reason": "1000 rows with 0 failures", "champion": 1, "challenger": 2}


def context(**pulled: Any) -> Any:
    return {"ti": SimpleNamespace(xcom_pull=lambda *, task_ids: pulled.get(task_ids))}


@pytest.fixture(autouse=True)
def user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlops_rollout, "facts_of", lambda _: SimpleNamespace(user="ada"))


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Mapping[str, Any], str]]:
    calls: list[tuple[Mapping[str, Any], str]] = []

    def settle(judged: dict[str, Any], *, who: str) -> dict[str, Any]:
        calls.append((judged, who))
        return judged

    monkeypatch.setattr(rollout, "settle", settle)
    return calls


def judging(monkeypatch: pytest.MonkeyPatch, result: dict[str, Any] | Exception) -> JudgeRollout:
    def judge(name: str, **_: object) -> dict[str, Any]:
        assert name == "shop"
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(rollout, "judge", judge)
    return JudgeRollout(task_id="judge", pipeline=PIPELINE)


def test_a_decision_is_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    assert judging(monkeypatch, JUDGED).execute(context()) == JUDGED


@pytest.mark.parametrize(
    "result", [{**JUDGED, "action": "wait", "reason": "too few"}, NothingToDo("shop: no challenger is on trial")]
)
def test_waiting_and_nothing_to_judge_skip_the_rest(monkeypatch: pytest.MonkeyPatch, result: Any) -> None:
    with pytest.raises(AirflowSkipException, match=r"too few|no challenger is on trial"):
        judging(monkeypatch, result).execute(context())


def test_what_a_retry_cannot_mend_fails_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.sdk.exceptions import AirflowFailException  # noqa: PLC0415 - this alone needs it

    with pytest.raises(AirflowFailException, match="ModelRejected: golden row 1 differs"):
        judging(monkeypatch, ModelRejected("golden row 1 differs")).execute(context())


@pytest.mark.parametrize(("asks", "action"), [("auto", "promote"), ("ask", "withdraw")])
def test_nobody_is_asked_unless_the_pipeline_wants_it_and_a_promotion_is_due(asks: str, action: str) -> None:
    with pytest.raises(AirflowSkipException, match="nobody is asked"):
        AskPromotion(task_id="approve", subject="?", asks=asks).execute(context(judge={**JUDGED, "action": action}))


def test_it_is_settled_as_judged_or_as_a_person_wants(settled: list[tuple[Mapping[str, Any], str]]) -> None:
    task = SettleRollout(task_id="settle", pipeline=PIPELINE)
    task.execute(context(judge=JUDGED))
    task.execute(context(judge=JUDGED, approve={"chosen_options": ["Approve"], "responded_by_user": {"name": "grace"}}))
    task.execute(context(judge=JUDGED, approve={"chosen_options": ["Reject"], "responded_by_user": {"name": "grace"}}))
    assert [(judged["action"], who) for judged, who in settled] == [
        ("promote", "ada"),
        ("promote", "grace"),
        ("withdraw", "grace"),
    ]
    assert settled[2][0]["reason"] == "a person said no; the rule said: 1000 rows with 0 failures"


def test_the_question_shows_both_sides() -> None:
    figures = {
        "champion": {"version": 1, "rows": 9000, "p95_ms": 1.23456},
        "challenger": {"version": 2, "rows": 1000, "p95_ms": None},
    }
    text = summarise({**JUDGED, "figures": figures})
    assert "The rule says **promote**: 1000 rows with 0 failures." in text
    assert "| p95_ms | 1.235 |  |" in text
