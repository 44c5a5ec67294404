"""Plans: what they say is cached is what a run finds cached, nothing is run for them, and earlier runs set the pace."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mlops_tasks.errors import SpecError
from mlops_tasks.loading import apply_overrides
from mlops_tasks.pipeline import INGEST, Stage
from mlops_tasks.runner.history import StageRecord
from mlops_tasks.runner.planning import Asked, Planner
from mlops_tasks.runner.planning.rates import SHAPES, Rates
from mlops_tasks.runner.planning.runs import train_runs
from tests.unit.test_runner import NOW, START, World

DAY = timedelta(days=1)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(tmp_path)
    monkeypatch.setattr(Stage, "function", lambda self: made.function(self))  # noqa: PLW0108 - a bound method would not get the stage
    monkeypatch.setenv("MLOPS_CODE_VERSION", "test")
    return made


def plan(world: World, days: int, *, kind: Any = "ingest", every: Any = None, **overrides: Any) -> dict[str, Any]:
    changed = {key.replace("__", "."): value for key, value in overrides.items()}
    asked = Asked(kind, START, START + days * DAY, every=every)
    before = len(world.calls)
    found = Planner(apply_overrides(world.pipeline, changed), world.adapters, asked, now=NOW).plan()
    assert len(world.calls) == before, "a plan runs no stage"
    return found


def counts(found: dict[str, Any], state: str) -> dict[str, int]:
    return {stage: states[state] for stage, states in found["windows"]["stages"].items()}


def test_a_first_plan_counts_every_window_and_estimates_from_the_source(world: World) -> None:
    found = plan(world, 28)
    assert found["runs"] == found["windows"]["total"] == 28
    assert counts(found, "make") == dict.fromkeys(INGEST, 28)
    assert found["rows"]["basis"] == "the first rows of source 'flights'"
    assert found["rows"]["total"] == pytest.approx(28 * 336_776 / 365, rel=0.1), "of what the year really holds"
    assert 0 < found["minutes"]["low"] < found["minutes"]["likely"] < found["minutes"]["high"]


def test_what_a_plan_calls_cached_a_run_finds_cached(world: World) -> None:
    world.run(3)
    found = plan(world, 5)
    assert (found["windows"]["in_already"], counts(found, "cached")) == (3, dict.fromkeys(INGEST, 3))
    assert found["reasons"]["collect"] == {"not made before": 2}
    assert found["rows"]["estimated_windows"] == 2
    again = world.run(5)
    assert {stage: again[stage][0] for stage in INGEST} == counts(found, "make")


def test_other_windows_of_the_store_tell_the_size_of_new_ones(world: World) -> None:
    world.run(3)
    asked = Asked("ingest", START + 10 * DAY, START + 12 * DAY)
    found = Planner(world.pipeline, world.adapters, asked, now=NOW).plan()
    assert found["rows"] == {
        "total": 2,
        "estimated_windows": 2,
        "basis": "the mean of the 4 windows that are nearest in the store",
    }


def test_a_change_of_the_spec_is_planned_for_as_far_as_it_reaches(world: World) -> None:
    world.run(3)
    found = plan(world, 3, preprocess__lookback="6h")
    assert counts(found, "make") == {"collect": 0, "validate_raw": 0, "preprocess": 3, "validate": 0}
    assert counts(found, "perhaps")["validate"] == 3, "the features may come out the same, as they do here"
    assert found["reasons"]["preprocess"] == {"spec changed (lookback)": 3}
    assert world.run(3, preprocess__lookback="6h")["validate"][:2] == (0, 3)


def test_a_new_delivery_is_told_and_what_follows_may_be_the_same(world: World) -> None:
    world.run(3)
    world.sources.content = "second delivery"
    found = plan(world, 3)
    assert counts(found, "make")["collect"] == 3
    assert counts(found, "perhaps") == {"collect": 0, "validate_raw": 3, "preprocess": 3, "validate": 3}
    assert found["rows"]["estimated_windows"] == 0, "what was collected before tells the size"


def test_trainings_bring_each_window_in_once_and_cached_stages_are_known(world: World) -> None:
    world.run(20)
    found = plan(world, 28, kind="train", every="week", schedule__start="2013-02-01")
    assert [(t["due"].day, t["windows_to_make"]) for t in found["trainings"]] == [(4, 0), (11, 0), (18, 0), (25, 4)]
    assert found["trainings"][0]["cached"] == []
    assert [t["rows"] for t in found["trainings"]] == [3, 10, 17, 24]


def test_a_training_that_is_there_is_found_to_its_last_stage(world: World) -> None:
    inputs: dict[str, Any] = {}
    for stage, gives in zip(
        (*INGEST, "snapshot", "train", "evaluate", "deploy"),
        ("raw", "raw", "features", "features", "dataset", "candidate", "verdict", ""),
        strict=True,
    ):
        takes = {name: inputs[name] for name in _takes(stage)}
        inputs[gives] = world.invoke(stage, 3, intent="backfill", inputs=takes).handle
    found = plan(world, 3, kind="train", every="day", schedule__start="2013-02-01")
    assert found["trainings"][-1]["cached"] == ["snapshot", "train", "evaluate", "deploy"]
    changed = plan(world, 3, kind="train", every="day", schedule__start="2013-02-01", train__seed=1)
    assert changed["trainings"][-1]["cached"] == ["snapshot"]
    assert changed["trainings"][-1]["reason"] == "spec changed (seed)"


def _takes(stage: str) -> list[str]:
    return {
        "collect": [],
        "validate_raw": ["raw"],
        "preprocess": ["raw"],
        "validate": ["features"],
        "snapshot": ["features"],
        "train": ["dataset"],
        "evaluate": ["candidate", "dataset"],
        "deploy": ["verdict"],
    }[stage]


def test_trainings_of_the_cron_are_those_that_airflow_makes(world: World) -> None:
    found = train_runs(world.pipeline, datetime(2013, 2, 4, 6, tzinfo=UTC), datetime(2013, 2, 25, 6, tzinfo=UTC), None)
    assert [f"{run.due:%m-%dT%H}" for run in found] == ["02-11T06", "02-18T06", "02-25T06"]
    assert found[-1].range.end == datetime(2013, 2, 25, tzinfo=UTC), "aligned to the cadence"
    assert found[-1].range.start == world.pipeline.schedule.start, "no history before that"


def test_the_commands_start_what_was_planned(world: World) -> None:
    start = plan(world, 3)["start_with"]
    assert start["airflow"] == (
        "airflow backfill create --dag-id nyc_flights.ingest --from-date 2013-02-01 --to-date 2013-02-03 --max-active-runs 3",
    )
    ((path, body),) = start["rest"]
    assert (path, body["to_date"], body["reprocess_behavior"]) == ("/backfills", "2013-02-03T00:00:00+00:00", "none")
    ((path, body),) = plan(world, 27, kind="train", every="month")["start_with"]["rest"]
    assert path == "/dags/nyc_flights.train/dagRuns"
    assert body["conf"]["intent"] == "backfill", "so that it never promotes"


def test_a_busy_machine_is_told_and_widens_the_bounds(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {}
    for load in (0.1, 50.0):
        monkeypatch.setattr("os.getloadavg", lambda load=load: (load, load, load))
        found[load] = plan(world, 5)
    world.run(2)
    assert plan(world, 5)["notes"] == [], "what is recorded was as slow as it is now"
    assert found[0.1]["notes"] == []
    assert found[50.0]["notes"][0].startswith("this machine is busier than it was: while it stays so, expect up to ")
    assert found[50.0]["minutes"]["high"] > 2 * found[0.1]["minutes"]["high"]
    assert found[50.0]["minutes"]["likely"] == found[0.1]["minutes"]["likely"]


def test_windows_that_have_not_ended_are_left_out_and_told(world: World) -> None:
    asked = Asked("ingest", NOW - 2 * DAY, NOW + 3 * DAY)
    found = Planner(world.pipeline, world.adapters, asked, now=NOW).plan()
    assert found["runs"] == 2
    assert "3 windows have not ended: their runs would find nothing to do" in found["notes"]


def test_a_pipeline_without_a_schedule_of_trainings_is_told_to_name_one(world: World) -> None:
    with pytest.raises(SpecError, match=r"schedule\.train is not set.*--every month"):
        plan(world, 3, kind="train", schedule__train=None)


def record(stage: str, seconds: float, computed: int, *, at: float = 0.0, **more: Any) -> StageRecord:
    times = {"asked_at": NOW, "ended_at": NOW + timedelta(seconds=at + seconds)}
    about = {"stage": stage, "pipeline": "p", "run_id": "r", "intent": "manual", "start": START, "end": START + DAY}
    return StageRecord.model_validate({**about, **times, "seconds": seconds, "computed": computed, **more})


def test_earlier_runs_of_about_the_size_set_the_pace_the_more_the_more_they_are() -> None:
    shape = SHAPES["preprocess"]
    slow = [record("preprocess", 3 * shape.seconds(n, 0), n) for n in range(25, 40)]
    quick = [record("preprocess", shape.seconds(1, 0), 1)] * 15
    rates = Rates([*slow, *quick])
    assert rates.stage("preprocess", windows=35, rows=0).seconds == pytest.approx(3 * shape.seconds(35, 0), rel=0.07)
    assert rates.stage("preprocess", windows=1, rows=0).seconds == pytest.approx(shape.seconds(1, 0))
    one = Rates(slow[:1]).stage("preprocess", windows=25, rows=0)
    assert one.seconds < 2 * shape.seconds(25, 0), "a single run may have been unlike the rest"
    assert one.low < shape.seconds(25, 0) < 3 * shape.seconds(25, 0) < one.high * 1.2
    unknown = Rates([]).stage("preprocess", windows=35, rows=0)
    assert unknown.high > 1.9 * unknown.seconds, "what nobody measured is told as unsure"


def test_one_models_training_time_says_nothing_of_anothers() -> None:
    rates = Rates([record("train", 100, 1, rows=1000, settings={"model": "mlp"})] * 15)
    ours = Rates([]).stage("train", windows=1, rows=1000, settings={"model": "mlp"}).seconds
    assert rates.stage("train", windows=1, rows=1000, settings={"model": "mlp"}).seconds == pytest.approx(100, rel=0.2) != ours
    assert rates.stage("train", windows=1, rows=1000, settings={"model": "hgb"}).basis.startswith("no earlier run")


def test_a_failed_stage_sets_no_pace() -> None:
    failed = record("collect", 500, 0, failure={"error": "DataRejected", "message": "x"})
    assert Rates([failed]).stage("collect", windows=1, rows=0).basis.startswith("no earlier run")


def test_a_backfills_throughput_is_its_wall_time_not_the_sum_of_its_runs() -> None:
    runs = [
        record(stage, 4, 1, at=2 * number + position, run_id=f"b{number}", intent="backfill")
        for number in range(10)
        for position, stage in enumerate(INGEST)
    ]
    found = Rates(sorted(runs, key=lambda r: r.ended_at)).throughput()
    assert found is not None
    assert found.runs == 10
    assert found.seconds_per_run == pytest.approx((18 + 3 + 4) / 10)
    assert found.active == pytest.approx(7 * 10 / 25)
    assert Rates(runs[:8]).throughput() is None, "two runs tell nothing"
