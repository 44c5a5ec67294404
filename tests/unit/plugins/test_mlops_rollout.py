from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk.exceptions import AirflowSkipException

import mlops_duties
from mlops_rollout import AskPromotion, JudgeRollout, SettleRollout, summarise
from mlops_tasks.errors import ModelRejected, NothingToDo
from mlops_tasks.runner import rollout
from tests.fakes import NOW
from tests.served_pipeline import PIPELINE

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

JUDGED = {"model": "shop", "action": "promote", "reason": "1000 rows with 0 failures", "champion": 1, "challenger": 2}


class Instance(SimpleNamespace):
    """A task instance: what was pushed by task, and other runs of its DAG that wait for an answer."""

    dag_id, run_id, start_date = "shop.rollout", "now", NOW

    def xcom_pull(self, *, task_ids: str, run_id: str = "now") -> Any:
        return self.pulled.get(task_ids) if run_id == "now" else self.others[run_id]

    def get_ti_count(self, *, dag_id: str, task_ids: list[str], states: list[str]) -> int:
        assert (dag_id, task_ids, states) == ("shop.rollout", ["approve"], ["awaiting_input"])
        return len(self.others)

    def get_task_states(self, *, dag_id: str, task_ids: list[str]) -> dict[str, dict[str, str]]:
        assert (dag_id, task_ids) == ("shop.rollout", ["approve"])
        return {"now": {"approve": "running"}, "long ago": {"approve": "skipped"}} | {
            run: {"approve": "awaiting_input"} for run in self.others
        }


def context(others: Mapping[str, Any] | None = None, **pulled: Any) -> Any:
    return {"ti": Instance(pulled=pulled, others=others or {})}


@pytest.fixture(autouse=True)
def asked_by_ada(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    facts = SimpleNamespace(user="ada", conf={}, declared=(), dag_id="shop.rollout", run_id="now")
    monkeypatch.setattr(mlops_duties, "facts_of", lambda _: facts)
    monkeypatch.setattr("mlops_tasks.runner.duties.load_pipeline", lambda _: PIPELINE)
    monkeypatch.setenv("MLOPS_STORE", str(tmp_path))


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Mapping[str, Any], str]]:
    calls: list[tuple[Mapping[str, Any], str]] = []

    def settle(judged: dict[str, Any], *, who: str, adapters: object) -> dict[str, Any]:
        assert adapters
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


def test_a_check_does_not_ask_again_while_a_person_is_asked_about_the_same_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(HITLOperator, "execute", lambda self, _: asked.append(self.body))
    task = AskPromotion(task_id="approve", subject="?", asks="ask")
    with pytest.raises(AirflowSkipException, match="run monday asks for an answer about version 2 already"):
        task.execute(context({"monday": JUDGED}, judge=JUDGED))
    assert asked == []
    task.execute(context({"monday": {**JUDGED, "challenger": 9}}, judge=JUDGED))
    assert len(asked) == 1


def answered(*options: str, by: str | None) -> dict[str, Any]:
    return {"chosen_options": list(options), "responded_by_user": {"name": by} if by else None}


def test_it_is_settled_as_judged_or_as_a_person_wants(settled: list[tuple[Mapping[str, Any], str]]) -> None:
    SettleRollout(task_id="settle", pipeline=PIPELINE, asks="auto").execute(context(judge=JUDGED))
    task = SettleRollout(task_id="settle", pipeline=PIPELINE, asks="ask")
    for answer in (answered("Approve", by="grace"), answered("Reject", by="grace"), answered("Reject", by=None)):
        task.execute(context(judge=JUDGED, approve=answer))
    task.execute(context(judge={**JUDGED, "action": "withdraw", "reason": "too slow"}))
    assert [(judged["action"], judged["reason"], who) for judged, who in settled] == [
        ("promote", "1000 rows with 0 failures", "ada"),
        ("promote", "1000 rows with 0 failures", "grace"),
        ("withdraw", "a person said no; the rule said: 1000 rows with 0 failures", "grace"),
        ("withdraw", "nobody answered within 7 days; the rule said: 1000 rows with 0 failures", "ada"),
        ("withdraw", "too slow", "ada"),
    ]


def test_nothing_is_promoted_before_the_answer(settled: list[tuple[Mapping[str, Any], str]]) -> None:
    with pytest.raises(AirflowSkipException, match="a person is asked in another run: nothing is promoted before the answer"):
        SettleRollout(task_id="settle", pipeline=PIPELINE, asks="ask").execute(context(judge=JUDGED))
    assert settled == []


def test_the_question_shows_both_sides() -> None:
    figures = {
        "champion": {"version": 1, "requests": 9000, "p95_ms": 1.23456},
        "challenger": {"version": 2, "requests": 1000, "p95_ms": None},
    }
    text = summarise({**JUDGED, "figures": figures})
    assert "The rule says **promote**: 1000 rows with 0 failures." in text
    assert "| p95_ms | 1.235 |  |" in text
