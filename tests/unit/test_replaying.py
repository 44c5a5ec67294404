"""The pipeline's own rules, replayed: the real monitor and the real decision, on what was known at each time."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from mlops_tasks.artifacts import Window
from mlops_tasks.core.retraining import Seen
from mlops_tasks.core.walk_forward import Known, Matrix
from mlops_tasks.runner import replaying
from mlops_tasks.runner.replaying import Replay, replay
from mlops_tasks.specs import PipelineSpec
from mlops_tasks.wiring import Adapters
from tests.drifting import label, window
from tests.fakes import FakeProgress, FakeRegistry
from tests.served_pipeline import PIPELINE
from tests.unit.stages.test_monitor import HISTORY, Shop

DAY = timedelta(days=1)
SHIFTED = 52


def matrix(*as_of: int) -> Matrix:
    """Make models that could serve from the given days on."""
    training = Window(start=window(0).start, end=window(HISTORY - 1).end)
    models = [
        Known(version=n, as_of=window(day).start, training=training, fingerprint=f"f{n}") for n, day in enumerate(as_of, 1)
    ]
    about: dict[str, Any] = {
        "pipeline": "shop",
        "task": "binary",
        "metric": "roc_auc",
        "by": "month",
        "periods": (),
        "cells": (),
    }
    return Matrix(models=tuple(models), **about)


def rules(**changes: Any) -> PipelineSpec:
    retrain = PIPELINE.retrain.model_copy(update={"cooldown": 7 * DAY, **changes})
    return PIPELINE.model_copy(update={"retrain": retrain})


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def replayed(shop: Shop, pipeline: PipelineSpec, models: Matrix) -> Replay:
    registry = FakeRegistry()
    for known in models.models:
        registry.record(shop.deployed(shop.deployment.files, known.version))
    adapters = Adapters({})
    vars(adapters).update(store=shop.ports.store, registry=registry, progress=FakeProgress())
    features = [shop.publish(day, shift=day >= SHIFTED) for day in range(HISTORY, 64)]
    return replay(pipeline, adapters, models, features)


def test_a_row_of_alarms_asks_for_a_training_and_the_next_one_waits_for_the_cool_down(shop: Shop) -> None:
    found = replayed(shop, rules(), matrix(HISTORY, SHIFTED))
    first = found.trainings[0]
    assert first.at == window(SHIFTED + 1).end, "two windows in a row"
    assert first.version == 2, "the newest that could serve then"
    assert label(SHIFTED + 1) in first.why
    gaps = [later.at - earlier.at for earlier, later in zip(found.trainings, found.trainings[1:], strict=False)]
    assert all(gap >= 7 * DAY for gap in gaps)
    assert found.alarms["drift"] >= 10
    assert any("the cool-down is 7d" in why for why in found.waited)


def test_rules_that_are_switched_off_ask_for_nothing(shop: Shop) -> None:
    assert replayed(shop, rules(drift=False), matrix(HISTORY, SHIFTED)).trainings == []


def test_a_training_that_the_models_can_not_tell_gives_none_and_is_counted(shop: Shop) -> None:
    found = replayed(shop, rules(), matrix(HISTORY))
    assert [t.version for t in found.trainings] == [None] * len(found.trainings)
    assert found.trainings


def test_the_pipelines_own_records_are_left_alone(shop: Shop) -> None:
    replayed(shop, rules(), matrix(HISTORY, SHIFTED))
    store = shop.ports.store
    assert list(store.list("shop/monitor/")) == list(store.list("shop/retraining/")) == []
    assert list(store.list("shop/backtests/policy/monitor/1/"))


def test_age_asks_without_any_alarm(shop: Shop) -> None:
    found = replayed(shop, rules(drift=False, max_age=15 * DAY), matrix(HISTORY, 50))
    assert found.trainings[0].at == window(HISTORY - 1).end + 15 * DAY
    assert "15 days ago" in found.trainings[0].why


def seen(day: int, status: str) -> Seen:
    return Seen(window=window(day), model_version=1, status=status, reason=f"day {day}", rows=10)


def test_an_error_counts_only_once_its_labels_are_known(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    late = rules().model_copy(update={"snapshot": PIPELINE.snapshot.model_copy(update={"label_delay": 3 * DAY})})
    errors = [seen(day, "alarm" if day in {45, 46} else "ok") for day in range(HISTORY, 60)]
    monkeypatch.setattr(replaying._Watcher, "_watch", lambda _, known, __: ([], errors if known.version == 1 else []))
    adapters = Adapters({})
    vars(adapters).update(progress=FakeProgress())
    found = replay(late, adapters, matrix(HISTORY, 48), [shop.publish(day) for day in range(HISTORY, 60)])
    assert [t.at for t in found.trainings] == [window(46).end + 3 * DAY]
    assert found.trainings[0].version == 2
    assert found.alarms == {"drift": 0, "performance": 2}
