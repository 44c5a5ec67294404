from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from mlops_tasks.cli.backtest.drift import describe, show
from mlops_tasks.core.drift_backtest import Detection, Shift
from mlops_tasks.core.drift_report import render_backtest
from mlops_tasks.loading import load_pipeline
from mlops_tasks.runner.backtesting import Backtest
from tests.unit.core.test_drift_backtest import clean

PIPELINE = load_pipeline("nyc_flights", Path("dags/pipelines"))
FOUND = (
    Detection("2024-03-01", alarm_after=1, row_after=2, named="price"),
    Detection("2024-03-05", alarm_after=2, row_after=None, named="rain"),
    Detection("2024-03-09", alarm_after=None, row_after=None, named=""),
)


def made(proposed: float | None) -> Backtest:
    replay = clean()
    return Backtest(
        pipeline=PIPELINE,
        version=7,
        replay=replay,
        rates={0.05: replay, 0.1: replay},
        detections={Shift("price", "scaled", 1.609): FOUND},
        proposed=proposed,
        tolerated=0.01,
    )


@pytest.mark.parametrize(
    ("proposed", "advice"),
    [
        (0.05, "monitor.false_alarm_rate: 0.05 keeps rows of alarms below 1% of the windows."),
        (0.02, "monitor.false_alarm_rate: 0.02 would keep rows of alarms below 1% of the windows; it is 0.05."),
        (0.1, "monitor.false_alarm_rate: 0.1 still keeps rows of alarms below 1% of the windows; it is 0.05."),
        (None, "No rate that was tried keeps rows of alarms below 1% of the windows: ask for more windows in monitor.alarms."),
    ],
)
def test_the_figures_are_said_in_json_in_a_table_and_on_a_page(proposed: float | None, advice: str) -> None:
    backtest = made(proposed)
    found = describe(backtest)
    page, console = render_backtest(found, backtest.replay.judged), Console(file=io.StringIO(), width=300)
    show(console, found | {"report": "r"})
    table = console.file.getvalue()  # type: ignore[attr-defined]  # a StringIO

    assert json.loads(json.dumps(found))["advice"] == advice
    (shift,) = found["shifts"]
    assert (shift["tries"], shift["alarmed"], shift["seen"], shift["named_first"]) == (3, 2, 1, 1)
    assert (shift["alarm_after"], shift["row_after"]) == (1.5, 2.0)
    for text in (page, table):
        assert advice in text
        assert "1 of 3" in text
    assert page.count("<circle") == len(backtest.replay.judged)
    assert "http" not in page
