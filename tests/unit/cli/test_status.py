"""`mlops status` of a pipeline whose model is watched."""

from __future__ import annotations

import argparse
from datetime import timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING

from mlops_tasks.cli import status
from mlops_tasks.cli.view import show
from mlops_tasks.core.performance import watch
from mlops_tasks.specs import MonitorSpec
from tests.drifting import label
from tests.fakes import FakeRegistry
from tests.performing import Performing

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_windows_that_await_labels_stand_beside_the_latest_that_were_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shop = Performing(tmp_path, pipeline="nyc_flights")
    windows = [shop.publish(day) for day in range(20)]
    watch(MonitorSpec(label_delay=timedelta(days=7)), windows, shop.deployment, ports=shop.ports)
    registry = FakeRegistry(named={("nyc_flights", "champion"): 3}, records={("nyc_flights", 3): shop.deployment})
    adapters = SimpleNamespace(store=shop.ports.store, registry=registry, tracking_uri="")
    monkeypatch.setattr(status, "Adapters", lambda: adapters)
    monkeypatch.setenv("COLUMNS", "300")

    found = status.run(argparse.Namespace(name="nyc_flights"))

    states = {row["window"]: row["status"] for row in found["performance"]}
    assert list(states) == [label(day) for day in (8, 9, 10, 11, 12, 15, 16, 17, 18, 19)]
    assert [name for name, state in states.items() if state == "awaiting_labels"] == [label(day) for day in range(15, 20)]
    show("status", found)
    told = capsys.readouterr().out
    assert "awaiting_labels" in told
    assert f"log_loss {found['performance'][0]['metrics']['log_loss']:.4f}" in told
    assert f"log_loss ~{found['performance'][-1]['estimated']['log_loss']:.4f}" in told, "estimated, and marked as such"
