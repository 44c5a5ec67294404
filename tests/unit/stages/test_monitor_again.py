"""Windows that are looked at again: only what changed is judged and drawn anew, and nothing else is different."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from mlops_tasks.core.drift import Records, WindowRecord, settling
from mlops_tasks.core.drift_report import render_drift
from mlops_tasks.pipeline import BY_NAME
from mlops_tasks.runner.work import Work
from mlops_tasks.specs import MonitorSpec
from mlops_tasks.stages import monitor
from tests.drifting import label, make_day
from tests.fakes import make_run
from tests.performing import Performing
from tests.served_pipeline import PIPELINE
from tests.unit.core.test_performance_report import with_reference
from tests.unit.stages.test_monitor import SPEC, Shop

if TYPE_CHECKING:
    from pathlib import Path

    from mlops_tasks.artifacts import DriftReport, ValidFeatures

DAYS = range(50, 56)
SHIFTED = {52, 54}


class Counted:
    """Runs of a shop's monitor, and the days that each judged and drew."""

    def __init__(self, shop: Shop, patch: pytest.MonkeyPatch) -> None:
        self.shop = shop
        self.features: dict[int, ValidFeatures] = {day: shop.publish(day, shift=day in SHIFTED) for day in DAYS}
        self.judged: list[str] = []
        self.drawn: list[str] = []
        judge = settling._Known.judge

        def judging(known: Any, record: WindowRecord, sketch: Any) -> Any:
            self.judged.append(record.window.label)
            return judge(known, record, sketch)

        def drawing(comparison: Any) -> str:
            self.drawn.append(comparison.item.window.label)
            return render_drift(comparison)

        patch.setattr(settling._Known, "judge", judging)
        patch.setattr(monitor, "render_drift", drawing)

    def look(self, *days: int, **run: Any) -> list[DriftReport]:
        self.judged.clear()
        self.drawn.clear()
        ports = replace(self.shop.ports, run=replace(make_run(intent="scheduled"), **run))
        return monitor.run(SPEC, [self.features[day] for day in days or DAYS], self.shop.deployment, ports=ports)


@pytest.fixture
def counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Counted:
    return Counted(Shop(tmp_path), monkeypatch)


def labels(*days: int) -> list[str]:
    return [label(day) for day in days]


def test_what_did_not_change_is_neither_judged_nor_drawn_nor_are_its_sketches_read(
    counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = counted.look()
    assert counted.judged == counted.drawn == labels(*DAYS)
    monkeypatch.setattr(Records, "sketch", None)
    assert counted.look() == first
    assert counted.look(53) == first[3:4]
    assert (counted.judged, counted.drawn) == ([], [])


def test_a_window_that_comes_late_or_changes_is_judged_with_those_after_it_alone(counted: Counted) -> None:
    counted.look(50, 51, 53, 54, 55)
    counted.look()
    assert counted.judged == counted.drawn == labels(52, 53, 54, 55)

    before = counted.look()
    counted.features[54] = counted.shop.publish(54, make_day(54, seed=1))
    again = counted.look()
    assert counted.judged == counted.drawn == labels(54, 55)
    assert again[:4] == before[:4]
    assert again[4] != before[4]


def test_windows_outside_the_range_are_judged_and_drawn_when_they_are_asked_about(counted: Counted) -> None:
    counted.look(50, 52, 53)
    counted.look(51)
    assert (counted.judged, counted.drawn) == (labels(51, 52, 53), labels(51))
    counted.look(52)
    assert counted.judged == counted.drawn == labels(52), "its report is of before 51 came"


def test_what_changed_back_is_read(counted: Counted) -> None:
    first = counted.look()
    there = counted.features[55]
    counted.features[55] = counted.shop.publish(55, make_day(55, seed=1))
    counted.look()
    counted.features[55] = there
    assert counted.look() == first
    assert (counted.judged, counted.drawn) == (labels(55), [])


def test_a_damaged_report_other_code_and_a_person_who_insists_have_it_drawn_again(counted: Counted) -> None:
    first = counted.look()
    counted.shop.ports.store.delete(first[1].file("report.html").key)
    assert counted.look() == first
    assert counted.judged == counted.drawn == labels(51)
    counted.look(fingerprint="of other code")
    assert counted.drawn == labels(*DAYS)
    assert counted.look(fingerprint="of other code", forced=True) == first
    assert counted.drawn == labels(*DAYS)


def test_a_report_is_drawn_again_when_labels_are_due(tmp_path: Path) -> None:
    spec, made = MonitorSpec(label_delay=timedelta(days=2)), []
    for ranges in ((range(2), range(6)), (range(6),)):
        shop = Performing(tmp_path / str(len(ranges)))
        deployment = with_reference(shop, shop.deployment)
        made += [monitor.run(spec, [shop.publish(day) for day in days], deployment, ports=shop.ports) for days in ranges]
    early, late, at_once = made
    assert late == at_once
    assert early[0] != late[0]


def test_a_scheduled_look_at_what_a_backfill_saw_makes_its_record_a_scheduled_one(counted: Counted) -> None:
    ports = replace(counted.shop.ports, run=make_run(intent="backfill"))
    monitor.run(SPEC, [counted.features[52]], counted.shop.deployment, ports=ports)
    seen = counted.shop.record(52)
    assert (seen.status, seen.intent) == ("alarm", "backfill")
    counted.look(52)
    assert counted.judged == []
    assert counted.shop.record(52) == seen.model_copy(update={"intent": "scheduled"})


def test_a_run_says_what_it_made_and_what_was_there(counted: Counted) -> None:
    adapters: Any = None  # the monitor asks its ports alone
    work, stage = Work(PIPELINE, adapters), BY_NAME["monitor"]

    def made(*days: int, recompute: bool = False) -> str:
        ports = replace(counted.shop.ports, run=replace(make_run(intent="scheduled"), forced=recompute))
        inputs = {"features": [counted.features[day] for day in days], "deployment": counted.shop.deployment}
        return work.monitor(stage, inputs, ports, recompute=recompute).note

    assert made(50, 51, 52) == "3 made: not seen so before (3)"
    assert made(51, 52, 53) == "1 made: not seen so before; 2 cached"
    assert made(50, 53) == "2 cached: same inputs, spec and code"
    assert made(50, 53, recompute=True) == "2 made: asked for (2)"
