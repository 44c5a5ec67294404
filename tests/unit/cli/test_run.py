"""`mlops run`: what it does beside the stages themselves."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mlops_tasks.cli import run
from mlops_tasks.pipeline import INGEST
from mlops_tasks.runner import Handle, Invocation, Outcome, Runner

JANUARY = {"start": datetime(2013, 1, 1, tzinfo=UTC), "end": datetime(2013, 1, 2, tzinfo=UTC)}
FIRST = Invocation(stage="collect", pipeline="p", run_id="r", intent="manual", now=JANUARY["end"], **cast("Any", JANUARY))


class _Silent:
    def note(self, text: str) -> None:
        del text


class _Runner:
    """Says of each stage how many results it made."""

    def __init__(self, computed: int) -> None:
        self._computed = computed
        self.adapters = SimpleNamespace(progress=_Silent(), tracking_uri="sqlite:///mlflow.db")

    def invoke(self, invocation: Invocation) -> Outcome:
        return Outcome(handle=Handle(uri=invocation.stage, digest=""), cached=0, computed=self._computed, note="")


def libraries_loaded_ahead(monkeypatch: pytest.MonkeyPatch, computed: int) -> list[str]:
    loaded: list[str] = []
    monkeypatch.setattr(run, "_load_ahead", loaded.append)
    loop = run._Loop(cast("Runner", _Runner(computed)), FIRST, frozenset())
    for name in INGEST:
        loop.step(name)
    return loaded


def test_new_data_loads_what_training_needs_once_while_spark_works(monkeypatch: pytest.MonkeyPatch) -> None:
    assert libraries_loaded_ahead(monkeypatch, computed=1) == ["sqlite:///mlflow.db"]


def test_a_run_that_finds_everything_done_loads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert libraries_loaded_ahead(monkeypatch, computed=0) == []


def test_what_fails_ahead_is_left_to_the_stage_that_needs_it() -> None:
    run._load_ahead("nowhere://")
