"""Explanations: every reason with its figures, from whatever is recorded; a wrong id names the nearest."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from mlops_tasks.cli.explain import show
from mlops_tasks.errors import DataRejected, ModelRejected, SpecError
from mlops_tasks.pipeline import Stage
from mlops_tasks.runner.explaining import explain
from tests.unit.test_runner import ROOT, World


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(tmp_path)
    monkeypatch.setattr(Stage, "function", lambda self: made.function(self))  # noqa: PLW0108 - a bound method would not get the stage
    monkeypatch.setenv("MLOPS_CODE_VERSION", "test")
    monkeypatch.setenv("MLOPS_PIPELINES", str(ROOT / "dags" / "pipelines"))
    return made


def put(world: World, key: str, record: dict[str, Any]) -> None:
    world.adapters.store.write(f"nyc_flights/{key}", json.dumps(record).encode())


def shown(found: dict[str, Any]) -> str:
    text = io.StringIO()
    show(Console(width=400, file=text), found)
    return text.getvalue()


def states(found: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {item["stage"]: (item["state"], item["why"]) for item in found["stages"]}


def test_each_stage_says_why_it_ran_or_was_cached(world: World) -> None:
    world.run()
    world.run(train__seed=1)
    found = explain("run-1", None, world.adapters)
    assert states(found)["preprocess"] == ("cached", "same inputs, spec and code")
    assert states(found)["train"] == ("ran", "spec changed (seed)")
    assert states(explain("run-0", None, world.adapters))["collect"] == ("ran", "not made before (3)")
    assert "train         ran (1 made, 0 cached, 2 rows" in shown(found)


def test_a_verdict_and_the_ledger_are_told_with_their_figures(world: World) -> None:
    world.run()
    world.run(train__seed=1)
    found = explain("nyc_flights/2", None, world.adapters)
    assert found["stages"] == [], "nobody recorded which run registered it"
    assert found["model"]["aliases_now"] == ["champion"]
    assert [(e["from"], e["to"]) for e in found["model"]["ledger"]] == [("1", "2")]
    run = explain("run-1", "nyc_flights", world.adapters)
    assert run["verdict"]["champion_version"] == 1
    assert "x holds: x" in shown(run)


def test_a_refused_model_and_a_failed_stage_say_why(world: World) -> None:
    world.fails["deploy"] = ModelRejected("evaluate: the model did not pass its gate: roc_auc 0.61 is below 0.70")
    with pytest.raises(ModelRejected):
        world.run()
    found = explain("run-0", None, world.adapters)
    assert states(found)["deploy"][0] == "failed"
    assert "roc_auc 0.61 is below 0.70" in shown(found)
    assert found["model"] is None
    world.fails = {"collect": DataRejected("flights.csv, row 7: no number")}
    with pytest.raises(DataRejected):
        world.run(5)
    assert states(explain("run-1", None, world.adapters)) == {
        "collect": ("failed", "DataRejected: flights.csv, row 7: no number")
    }


def test_a_training_that_was_asked_for_tells_its_causes_and_its_outcome(world: World) -> None:
    cause = {"kind": "drift", "since": "2013-02-02T00:00:00Z", "why": "distance moved by 0.31 sd"}
    asked = {"number": 1, "run_id": "drift__1", "as_of": "2013-02-04T00:00:00Z", "causes": [cause], "reason": "2 alarms"}
    put(world, "retraining/requests/000001.json", {**asked, "model_version": 1})
    put(world, "retraining/decisions/2013-02-04T00.json", {"action": "train", "model_version": 1, "reason": "2 alarms"})
    put(world, "retraining/outcomes/000001.json", {"number": 1, "state": "promoted", "reason": "version 2 became champion"})
    world.invoke("collect", run_id="train-drift__1", intent="drift")
    found = explain("drift__1", None, world.adapters)
    assert found["run"] == "train-drift__1", "Airflow's own id is enough"
    text = shown(found)
    for said in ("training 1 was asked for as of 2013-02-04T00:00", "drift since 2013-02-02: distance moved by 0.31 sd"):
        assert said in text
    assert "training 1: promoted: version 2 became champion" in text


def test_what_came_of_a_model_is_told(world: World) -> None:
    world.run()
    for day, status in ((4, "ok"), (5, "alarm")):
        window = {"start": f"2013-02-0{day}T00:00:00Z", "end": f"2013-02-0{day + 1}T00:00:00Z"}
        put(world, f"monitor/1/2013-02-0{day}.json", {"window": window, "status": status, "reason": f"day {day}"})
    put(world, "monitor/1/2013-02-06.json", {})
    world.adapters.store.write("nyc_flights/performance/1/2013-02-04.json", b"of another version")
    put(world, "retraining/requests/000001.json", {"number": 1, "run_id": "drift__1", "model_version": 1, "reason": "alarms"})
    found = explain("run-0", None, world.adapters)
    assert found["downstream"]["monitored"]["statuses"] == {"None": 1, "ok": 1, "alarm": 1}
    assert found["downstream"]["performance"] is None
    text = shown(found)
    assert "alarm 2013-02-05T00: day 5" in text
    assert "training 1 was asked for to replace it: alarms" in text


UNKNOWN = [
    ("run-99", None, "there is none of this id in the store (nyc_flights); the nearest are run-"),
    ("nope", None, "the latest are run-0"),
    ("nyc_flights/9", None, "model nyc_flights: there is no version 9; the nearest are 1"),
    ("flights/1", None, "there is no pipeline 'flights'"),
    ("run-0", "flights", "there is no pipeline 'flights'"),
]


@pytest.mark.parametrize(("run", "pipeline", "said"), UNKNOWN)
def test_what_is_unknown_names_the_nearest(world: World, run: str, pipeline: str | None, said: str) -> None:
    world.run()
    with pytest.raises(SpecError) as caught:
        explain(run, pipeline, world.adapters)
    assert said in str(caught.value)


def test_nothing_run_yet_is_said(world: World) -> None:
    with pytest.raises(SpecError, match="nothing was run yet"):
        explain("run-0", None, world.adapters)


def test_runs_of_two_dags_under_one_id_are_told_apart(world: World) -> None:
    for kind in ("train", "ingest"):
        world.invoke("collect", run_id=f"{kind}-scheduled__1")
    with pytest.raises(SpecError, match="several are called so: ingest-scheduled__1 of nyc_flights, train-scheduled__1"):
        explain("scheduled__1", None, world.adapters)
    assert explain("train-scheduled__1", None, world.adapters)["run"] == "train-scheduled__1"


def test_a_run_of_before_reasons_were_recorded_is_told_as_far_as_it_is_known(world: World) -> None:
    world.run()
    for key in list(world.adapters.store.list("nyc_flights/outcomes/")):
        world.adapters.store.delete(key)
    found = explain("run-0", None, world.adapters)
    assert states(found)["train"] == ("done", "recorded before reasons were")
    assert found["model"]["version"] == 1
    assert "version 1, now champion" in shown(found)
