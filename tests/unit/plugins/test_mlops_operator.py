from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, DagRunTriggerException

import mlops_operator
from mlops_controls import Acknowledge, RollBack, StartTraining
from mlops_dags import train_params
from mlops_operator import StageOperator, say_why
from mlops_tasks.core.retraining import RetrainRequest
from mlops_tasks.errors import (
    DataRejected,
    ModelRejected,
    NothingToDo,
    PipelineError,
    RegistryUnavailable,
    SpecError,
    StoreUnavailable,
)
from mlops_tasks.loading import load_pipeline
from mlops_tasks.runner import Handle, Invocation, Outcome
from mlops_tasks.runner.retraining import Reconciled
from mlops_tasks.specs import PipelineSpec

SPEC = load_pipeline("nyc_flights", Path(__file__).parents[3] / "dags" / "pipelines")
NOW = datetime(2013, 7, 2, tzinfo=UTC)
HANDLE = Handle(uri="nyc_flights/runs/r/train.json", digest="d" * 64)


class FakeTask:
    """A task instance that keeps its XComs."""

    def __init__(self, xcoms: dict[tuple[str, str], Any] | None = None) -> None:
        self.start_date = NOW
        self.pushed: dict[str, Any] = {}
        self.xcoms = xcoms or {}

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = value

    def xcom_pull(self, task_ids: str, key: str) -> Any:
        return self.xcoms.get((task_ids, key))


def context(conf: dict[str, Any] | None = None, run_type: str = "manual", **xcoms: Any) -> Any:
    params = train_params(SPEC)
    given = {"start": "2013-01-01", "end": "2013-07-01", **(conf or {})}
    run = SimpleNamespace(
        dag_id="nyc_flights.train",
        run_id="r",
        run_type=run_type,
        conf=given,
        data_interval_start=None,
        data_interval_end=None,
        triggering_user_name="ada",
    )
    values = {name: param.value for name, param in params.items()} | given
    task = FakeTask({(task_id, "facts"): facts for task_id, facts in xcoms.items()})
    return {"dag_run": run, "params": values, "dag": SimpleNamespace(params=params), "ti": task}


def stage(name: str = "train") -> StageOperator:
    return StageOperator(stage=name, pipeline=SPEC, task_id=name)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Invocation]:
    seen: list[Invocation] = []

    def fake(invocation: Invocation) -> Outcome:
        seen.append(invocation)
        return Outcome(handle=HANDLE, cached=1, computed=2, note="n", links={"Report": "k/report.html"}, facts={"a": 1})

    monkeypatch.setitem(mlops_operator.RUNTIMES, "process", fake)
    return seen


def failing(monkeypatch: pytest.MonkeyPatch, error: PipelineError) -> None:
    def fake(_: Invocation) -> Outcome:
        raise error

    monkeypatch.setitem(mlops_operator.RUNTIMES, "process", fake)


def test_the_runner_gets_the_whole_request(calls: list[Invocation]) -> None:
    operator = stage()
    operator.inputs = {"dataset": HANDLE.model_dump()}  # type: ignore[dict-item] # as Airflow renders the upstream XCom
    operator.execute(context({"trials": 3, "reason": "why"}))
    (invocation,) = calls
    assert invocation == Invocation(
        stage="train",
        pipeline="nyc_flights",
        run_id="train-r",
        intent="manual",
        start=datetime(2013, 1, 1, tzinfo=UTC),
        end=datetime(2013, 7, 1, tzinfo=UTC),
        inputs={"dataset": HANDLE},
        overrides={"train.trials": 3, "deploy.promote": "auto"},
        reason="why",
        who="ada",
        now=NOW,
    )


@pytest.mark.usefixtures("calls")
def test_only_the_handle_and_a_few_facts_go_to_xcom() -> None:
    operator, given = stage(), context()
    assert operator.execute(given) == {"uri": HANDLE.uri, "digest": HANDLE.digest}
    assert given["ti"].pushed == {"facts": {"a": 1}}
    assert operator.links == {"Report": "k/report.html"}


@pytest.mark.parametrize("kind", [SpecError, DataRejected])
def test_what_a_retry_cant_help_is_not_retried(monkeypatch: pytest.MonkeyPatch, kind: type[PipelineError]) -> None:
    failing(monkeypatch, kind("where: what"))
    with pytest.raises(AirflowFailException) as caught:
        stage().execute(context())
    assert str(caught.value) == f"{kind.__name__}: where: what"


@pytest.mark.parametrize("kind", [StoreUnavailable, RegistryUnavailable])
def test_what_a_retry_may_help_is_left_to_airflows_retries(monkeypatch: pytest.MonkeyPatch, kind: type[PipelineError]) -> None:
    failing(monkeypatch, kind("where: what"))
    with pytest.raises(kind):
        stage().execute(context())


def test_nothing_to_do_is_a_skip(monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, NothingToDo("no data yet"))
    with pytest.raises(AirflowSkipException, match="NothingToDo: no data yet"):
        stage().execute(context())


def test_losing_to_the_champion_is_a_skip(monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, ModelRejected("auc 0.6"))
    with pytest.raises(AirflowSkipException, match=r"ModelRejected: auc 0\.6"):
        stage("deploy").execute(context(evaluate={"passed": False, "champion_version": 4}))


@pytest.mark.parametrize("facts", [None, {"passed": False, "champion_version": None}])
def test_a_rejected_first_model_is_a_failure(monkeypatch: pytest.MonkeyPatch, facts: dict[str, Any] | None) -> None:
    failing(monkeypatch, ModelRejected("auc 0.6"))
    with pytest.raises(AirflowFailException, match=r"ModelRejected: auc 0\.6"):
        stage("deploy").execute(context(evaluate=facts))


@pytest.mark.usefixtures("calls")
def test_a_bad_request_fails_before_the_stage_runs(calls: list[Invocation]) -> None:
    with pytest.raises(AirflowFailException, match="unknown key 'promot'; did you mean 'promote'"):
        stage().execute(context({"promot": "auto"}))
    assert calls == []


def test_an_unknown_runtime_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLOPS_RUNTIME", "dokcer")
    with pytest.raises(AirflowFailException) as caught:
        stage().execute(context())
    assert str(caught.value) == (
        "SpecError: MLOPS_RUNTIME must be process or docker, got 'dokcer'; unset it to run in the task's process"
    )


def test_elements_of_a_mapped_task_have_runs_of_their_own_in_the_store(calls: list[Invocation]) -> None:
    for index in (-1, 0, 1):
        given = context()
        given["ti"].map_index = index
        stage().execute(given)
    assert [invocation.run_id for invocation in calls] == ["train-r", "train-r.0", "train-r.1"]


def test_the_reason_is_said_once_more_at_the_end(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    failing(monkeypatch, NothingToDo("no data yet"))
    operator = stage()
    with pytest.raises(AirflowSkipException):
        operator.execute(context())
    with caplog.at_level(logging.INFO, "airflow.task"):
        say_why({"task": operator})
    assert caplog.messages == ["NothingToDo: no data yet"]


REQUEST = RetrainRequest(
    number=4,
    run_id="drift__2013-07-01T00__4",
    start=datetime(2013, 1, 2, tzinfo=UTC),
    end=datetime(2013, 7, 1, tzinfo=UTC),
    causes=(),
    reason="distance drifted",
    model_version=3,
    as_of=datetime(2013, 7, 1, tzinfo=UTC),
    at=NOW,
)


class Trainings(FakeTask):
    """Knows one run of `.train`."""

    def get_dr_count(self, dag_id: str, *, run_ids: list[str]) -> int:
        assert dag_id == "nyc_flights.train"
        return run_ids.count("known")

    def get_dagrun_state(self, dag_id: str, run_id: str) -> str:
        assert (dag_id, run_id) == ("nyc_flights.train", "known"), "Airflow raises for a run that it doesn't know"
        return "running"


def starting(monkeypatch: pytest.MonkeyPatch, found: Reconciled, spec: PipelineSpec = SPEC, **given: Any) -> None:
    def fake(name: str, *, now: datetime, run_state: Any) -> Reconciled:
        assert name == "nyc_flights"
        assert now.tzinfo is UTC
        assert [run_state(run_id) for run_id in ("known", "unknown")] == ["running", None]
        return found

    monkeypatch.setattr("mlops_tasks.runner.retraining.reconcile", fake)
    task = StartTraining(pipeline=spec, task_id="start_training")
    looking = context(**given)
    looking["ti"] = Trainings()
    task.execute(looking)


def test_a_request_starts_its_training_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DagRunTriggerException) as caught:
        starting(monkeypatch, Reconciled("start", "distance drifted", REQUEST))
    asked = caught.value
    assert (asked.trigger_dag_id, asked.dag_run_id) == ("nyc_flights.train", "drift__2013-07-01T00__4")
    assert asked.skip_when_already_exists
    assert asked.conf == {
        "start": "2013-01-02T00:00:00+00:00",
        "end": "2013-07-01T00:00:00+00:00",
        "reason": "distance drifted",
        "intent": "drift",
    }
    assert asked.note == "Training 4, as of 2013-07-01 00:00: distance drifted"


def test_a_long_reason_fits_the_param(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DagRunTriggerException) as caught:
        starting(monkeypatch, Reconciled("start", "x", REQUEST.model_copy(update={"reason": "drift " * 200})))
    assert caught.value.conf is not None
    assert train_params(SPEC)["reason"].resolve(caught.value.conf["reason"]).endswith("d…")


def test_drift_of_another_pipelines_production_data_trains_that_one(monkeypatch: pytest.MonkeyPatch) -> None:
    watching = SPEC.model_copy(update={"name": "watch", "monitor": SPEC.monitor.model_copy(update={"model": "nyc_flights"})})
    with pytest.raises(DagRunTriggerException) as caught:
        starting(monkeypatch, Reconciled("start", "x", REQUEST), watching)
    assert caught.value.trigger_dag_id == "nyc_flights.train"


@pytest.mark.parametrize("action", ["none", "wait"])
def test_no_request_starts_nothing_and_says_why(monkeypatch: pytest.MonkeyPatch, action: Any) -> None:
    with pytest.raises(AirflowSkipException, match="no training: the cool-down is 7d"):
        starting(monkeypatch, Reconciled(action, "the cool-down is 7d"))


def test_a_backfill_does_not_even_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlops_tasks.runner.retraining.reconcile", None)
    with pytest.raises(AirflowSkipException, match="a backfill of the past starts none"):
        StartTraining(pipeline=SPEC, task_id="start_training").execute(context(run_type="backfill"))


def test_a_wrong_spec_fails_the_look_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(*_: Any, **__: Any) -> Reconciled:
        msg = "there is no such pipeline"
        raise SpecError(msg)

    monkeypatch.setattr("mlops_tasks.runner.retraining.reconcile", fake)
    with pytest.raises(AirflowFailException, match="SpecError: there is no such pipeline"):
        StartTraining(pipeline=SPEC, task_id="start_training").execute(context())


@pytest.fixture
def duties(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give duties a store of their own."""
    monkeypatch.setenv("MLOPS_STORE", str(tmp_path))
    monkeypatch.setenv("MLOPS_PIPELINES", str(Path(__file__).parents[3] / "dags" / "pipelines"))


@pytest.mark.usefixtures("duties")
def test_a_rollback_says_who_and_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: dict[str, Any] = {}

    def fake(name: str, **given: Any) -> dict[str, Any]:
        assert given.pop("adapters")
        assert given.pop("pipeline", SPEC) == SPEC
        seen.update(given, pipeline=name)
        return {"from": 2, "to": 1}

    monkeypatch.setattr("mlops_tasks.runner.duties.roll_back", fake)
    given = context()
    given["dag_run"].conf = {}
    given["params"] |= {"version": None, "reason": "worse"}
    assert RollBack(pipeline=SPEC, task_id="roll_back").execute(given) == {"from": 2, "to": 1}
    assert seen == {
        "pipeline": "nyc_flights",
        "version": None,
        "reason": "worse",
        "who": "ada",
        "run_id": "train-r",
        "now": NOW,
    }
    (record,) = tmp_path.rglob("roll_back.json")
    assert json.loads(record.read_text())["results"] == [{"from": 2, "to": 1}]


@pytest.mark.usefixtures("duties")
def test_a_rollback_to_nothing_is_not_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(*_: Any, **__: Any) -> dict[str, Any]:
        msg = "model nyc_flights: nothing serves yet"
        raise ModelRejected(msg)

    monkeypatch.setattr("mlops_tasks.runner.duties.roll_back", fake)
    given = context()
    given["params"] |= {"version": None, "reason": "worse"}
    with pytest.raises(AirflowFailException, match="ModelRejected: model nyc_flights: nothing serves yet"):
        RollBack(pipeline=SPEC, task_id="roll_back").execute(given)


@pytest.mark.usefixtures("duties")
def test_an_acknowledgement_says_which_windows_who_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def fake(name: str, **given: Any) -> dict[str, Any]:
        assert given.pop("adapters")
        assert given.pop("pipeline", SPEC) == SPEC
        seen.update(given, pipeline=name)
        return {"acknowledged": []}

    monkeypatch.setattr("mlops_tasks.runner.acknowledging.acknowledge", fake)
    given = context()
    given["dag_run"].conf = {}
    given["params"] |= {"window": "2013-07-04", "through": None, "reason": "a holiday"}
    assert Acknowledge(pipeline=SPEC, task_id="acknowledge").execute(given) == {"acknowledged": []}
    day = datetime(2013, 7, 4, tzinfo=UTC)
    assert seen == {
        "pipeline": "nyc_flights",
        "start": day,
        "through": day,
        "reason": "a holiday",
        "who": "ada",
        "now": NOW,
    }


@pytest.mark.usefixtures("duties")
def test_what_cannot_be_acknowledged_is_not_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(*_: Any, **__: Any) -> dict[str, Any]:
        msg = "no window waits to be acknowledged"
        raise NothingToDo(msg)

    monkeypatch.setattr("mlops_tasks.runner.acknowledging.acknowledge", fake)
    given = context()
    given["params"] |= {"window": "2013-07-04", "through": None, "reason": "a holiday"}
    with pytest.raises(AirflowFailException, match="NothingToDo: no window waits to be acknowledged"):
        Acknowledge(pipeline=SPEC, task_id="acknowledge").execute(given)
