"""Models of the past, made here: as a backfill makes them, in order, and found the second time."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from mlops_tasks.artifacts import Window
from mlops_tasks.errors import ModelRejected, RegistryUnavailable
from mlops_tasks.pipeline import Stage
from mlops_tasks.runner import Runner
from mlops_tasks.runner.past import make_models
from mlops_tasks.runner.planning.runs import Run
from tests.unit.test_runner import START, World

DAY = timedelta(days=1)
RUNS = [Run(START + days * DAY, Window(start=START, end=START + days * DAY)) for days in (2, 4, 6)]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(tmp_path)
    monkeypatch.setattr(Stage, "function", lambda self: made.function(self))  # noqa: PLW0108 - a bound method would not get the stage
    monkeypatch.setenv("MLOPS_CODE_VERSION", "test")
    return made


def make(world: World) -> tuple[list[dict[str, Any]], list[str]]:
    told: list[str] = []
    return make_models(Runner(world.pipeline, world.adapters), RUNS, overrides={}, tell=told.append), told


def test_each_is_registered_judged_against_the_one_before_and_never_promoted(world: World) -> None:
    done, told = make(world)
    assert [item["version"] for item in done] == [1, 2, 3]
    assert told[0] == "2013-02-03: version 1"
    judged = [given["champion"] for stage, given in world.calls if stage == "evaluate"]
    assert [champion and champion.version for champion in judged] == [None, 1, 2]
    assert world.registry.alias("nyc_flights", "champion") is None
    assert {world.registry.deployment("nyc_flights", n).alias for n in (1, 2, 3)} == {"none"}


def test_a_second_call_finds_them(world: World) -> None:
    make(world)
    world.calls.clear()
    done, _ = make(world)
    assert world.calls == []
    assert [(item["version"], item["cached"]) for item in done] == [(1, True), (2, True), (3, True)]


def test_all_windows_are_brought_in_at_once(world: World) -> None:
    make(world)
    assert [name for name, _ in world.calls].count("preprocess") == 1


def test_one_that_is_refused_is_told_and_the_next_is_made(world: World) -> None:
    world.fails["deploy"] = ModelRejected("it did not pass its gate")
    done, told = make(world)
    assert [item["refused"] for item in done] == ["ModelRejected: it did not pass its gate"] * 3
    assert told[1] == "2013-02-05: ModelRejected: it did not pass its gate"


def test_what_a_retry_may_mend_ends_it(world: World) -> None:
    world.fails["deploy"] = RegistryUnavailable("MLflow does not answer")
    with pytest.raises(RegistryUnavailable):
        make(world)
