"""`mlops plan`, `explain` and `backtest` from the command line: what is refused, and what is said where nothing is yet."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mlops_tasks.cli import main

ROOT = Path(__file__).resolve().parents[3]
RANGE = ("nyc_flights", "--start", "2013-01-01", "--end", "2013-03-01")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ROOT / "dags/pipelines/nyc_flights", tmp_path / "pipelines/nyc_flights")
    monkeypatch.setenv("MLOPS_PIPELINES", str(tmp_path / "pipelines"))
    monkeypatch.setenv("MLOPS_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("MLOPS_CODE_VERSION", "test")


def call(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, dict[str, Any]]:
    code = main([*argv, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_a_plan_is_one_object_and_makes_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, found = call(capsys, "plan", *RANGE)
    assert (code, found["runs"], found["windows"]["in_already"]) == (0, 59, 0)
    assert not (tmp_path / "store").exists(), "looking makes nothing"


def test_a_plan_of_trainings_is_shown_to_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *RANGE, "--for", "train", "--every", "month"]) == 0
    shown = capsys.readouterr().out
    assert "nyc_flights.train 2013-01-01 to 2013-03-01" in shown
    assert "POST /api/v2/dags/nyc_flights.train/dagRuns" in shown
    assert "mlops backtest walkforward nyc_flights" in shown


REFUSED: list[tuple[tuple[str, ...], int, str]] = [
    (("plan", "nyc_flights", "--start", "2013-03-01", "--end", "2013-01-01"), 2, "end: must be after start 2013-03-01"),
    (("plan", *RANGE, "--for", "train", "--set", "schedule.train=never"), 2, "cron 'never': must have five fields"),
    (("explain", "run-1"), 2, "run 'run-1': there is none of this id in the store (nyc_flights); nothing was run yet"),
    (("explain", "nyc_flights/1"), 2, "model nyc_flights: there is no version 1; none is registered yet"),
    (("backtest", "walkforward", "nyc_flights"), 99, "no registered model can be compared; make some with --make"),
    (("backtest", "walkforward", "nyc_flights", "--make"), 2, "--make: needs --start and --end"),
    (("backtest", "policy", "nyc_flights", "--metric", "rmse"), 2, "--metric: must be one of roc_auc"),
]


@pytest.mark.parametrize(("argv", "exit_code", "said"), REFUSED, ids=[r[2][:30] for r in REFUSED])
def test_what_can_not_be_done_is_said(
    capsys: pytest.CaptureFixture[str], argv: tuple[str, ...], exit_code: int, said: str
) -> None:
    code, described = call(capsys, *argv)
    assert (code, said in described["message"]) == (exit_code, True), described


@pytest.mark.parametrize("argv", [["plan"], ["explain"], ["backtest", "walkforward"], ["backtest", "policy"]], ids=" ".join)
def test_help_has_examples(capsys: pytest.CaptureFixture[str], argv: list[str]) -> None:
    with pytest.raises(SystemExit):
        main([*argv, "--help"])
    assert "examples:\n  mlops" in capsys.readouterr().out
