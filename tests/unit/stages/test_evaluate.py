"""The stage: what it publishes and records, and what it compares with."""

from __future__ import annotations

import dataclasses
import json
from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from tests.unit.stages.evaluate_case import TEST, WEIGHTS, make_case, make_rows

if TYPE_CHECKING:
    from pathlib import Path

    from mlops_tasks.artifacts import Task


@pytest.fixture(autouse=True)
def _undrawn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the plots out, which take a second and are tested with the report, except where a test draws."""
    if "draws" not in request.node.name:
        monkeypatch.setattr("mlops_tasks.core.report.html.draw_plots", lambda _evaluation: {"periods": ""})


def test_a_good_candidate_passes_and_draws_its_report(tmp_path: Path) -> None:
    case = make_case(tmp_path)
    gates = [
        {"metric": "roc_auc", "min": 0.6},
        {"metric": "log_loss", "against": "constant"},
        {"metric": "roc_auc", "against": "champion"},
    ]
    verdict = case.judge({"gates": gates, "slices": [{"column": "city", "metric": "roc_auc", "floor": 0.6, "min_rows": 50}]})
    assert verdict.passed
    assert [j.rule for j in verdict.judgements] == [
        "roc_auc at least 0.6",
        "log_loss against constant",
        "roc_auc against champion",
        "roc_auc at least 0.6 in each city",
    ]
    assert verdict.judgements[2].reason == "there is no champion yet"
    assert verdict.champion_version is None
    prefix = f"shop/verdicts/{'f' * 16}/{verdict.digest[:16]}"
    assert [ref.key for ref in verdict.files] == [f"{prefix}/{n}" for n in ("evaluation.json", "model_card.md", "report.html")]
    assert all(case.ports.store.verify(ref) for ref in verdict.files)
    facts = json.loads(case.read(verdict, "evaluation.json"))
    assert facts["rows"] == 400
    assert {c["name"] for c in facts["contenders"]} == {"candidate", "hgb", "constant"}
    assert "Predicts who comes again." in case.read(verdict, "model_card.md")
    report = case.read(verdict, "report.html")
    assert "1,000" in report
    assert report.count("<svg") == 7


def test_the_metrics_are_those_of_the_test_rows(tmp_path: Path) -> None:
    from sklearn.metrics import f1_score, roc_auc_score  # noqa: PLC0415 - slow to import, and one test needs it

    case = make_case(tmp_path)
    verdict = case.judge()
    rows = make_rows("binary")
    score = 1 / (1 + np.exp(-2.0 * rows["x"].fillna(0.0)))
    assert verdict.metrics["roc_auc"] == pytest.approx(roc_auc_score(rows["label"], score))
    assert verdict.metrics["f1"] == pytest.approx(f1_score(rows["label"], score >= 0.4))


def test_the_error_of_each_held_out_window_is_kept_for_monitoring(tmp_path: Path) -> None:
    case = make_case(tmp_path)
    verdict = case.judge()

    (error,) = json.loads(case.read(verdict, "evaluation.json"))["windows"]

    assert (error["window"], error["rows"]) == ("2013-06-01", 400), "the case has one file of features"
    assert error["measures"]["error"]["mean"] == pytest.approx(verdict.metrics["log_loss"])
    assert 1 - error["measures"]["ranking"]["mean"] == pytest.approx(verdict.metrics["roc_auc"])


def test_only_rows_of_the_test_window_count(tmp_path: Path) -> None:
    rows = make_rows("binary")
    early, late = rows.head(50).copy(), rows.head(50).copy()
    early["at"], late["at"] = TEST.start - timedelta(seconds=1), TEST.end
    case = make_case(tmp_path, rows=pd.concat([early, rows, late]))
    assert json.loads(case.read(case.judge(), "evaluation.json"))["rows"] == 400


@pytest.mark.parametrize("task", ["multiclass", "regression"])
def test_other_tasks_have_their_own_metrics(tmp_path: Path, task: Task) -> None:
    case = make_case(tmp_path, task)
    gate = {"multiclass": {"metric": "log_loss", "against": "hgb"}, "regression": {"metric": "r2", "min": 0.5}}[task]
    verdict = case.judge({"gates": [gate]}, case.deploy(np.multiply(0.5, WEIGHTS[task]).tolist(), numeric=["x"]))
    assert verdict.passed
    assert verdict.champion_version == 3
    assert {"multiclass": "roc_auc_ovr", "regression": "rmse"}[task] in verdict.metrics


def test_a_worse_candidate_fails_against_the_champion(tmp_path: Path) -> None:
    case = make_case(tmp_path, weight=-1.0)
    verdict = case.judge({"gates": [{"metric": "roc_auc", "against": "champion"}]}, case.deploy(2.0))
    assert not verdict.passed
    assert verdict.judgements[0].reason.startswith("roc_auc 0.170 is worse than champion's 0.830 by 0.660 [0.")
    assert verdict.judgements[0].reason.endswith("], and no tolerance is given")
    assert case.tracked.recorded_tags["mlops.verdict"] == "failed"


def test_a_champion_that_needs_another_column_fails_its_gate_only(tmp_path: Path) -> None:
    case = make_case(tmp_path)
    gates = [{"metric": "roc_auc", "min": 0.6}, {"metric": "roc_auc", "against": "champion"}]
    verdict = case.judge({"gates": gates}, case.deploy(2.0, numeric=["x", "gone"]))
    assert [j.passed for j in verdict.judgements] == [True, False]
    assert verdict.judgements[1].reason == (
        "roc_auc can't be compared with champion: it needs column 'gone', which this dataset does not have"
    )


def test_a_champion_with_classes_in_another_order_is_read_right(tmp_path: Path) -> None:
    case = make_case(tmp_path, "multiclass")
    champion = case.deploy([-2.0, 0.0, 2.0], classes=["low", "mid", "high"])
    verdict = case.judge({"gates": [{"metric": "accuracy", "against": "champion"}]}, champion)
    assert verdict.judgements[0].reason == f"accuracy {verdict.metrics['accuracy']:.3f} is the same as champion's"


def test_a_champion_of_another_meaning_is_not_compared(tmp_path: Path) -> None:
    case = make_case(tmp_path)
    champion = case.deploy(2.0, classes=["true", "false"])
    verdict = case.judge({"gates": [{"metric": "roc_auc", "against": "champion"}]}, champion)
    assert verdict.judgements[0].reason == "roc_auc can't be compared with champion: its positive class is another one"


def test_whole_days_can_be_resampled(tmp_path: Path) -> None:
    rows = make_rows("regression")
    rows["label"] += rows["at"].dt.day % 3 * 8.0  # each day has its own error
    case = make_case(tmp_path, "regression", rows)
    widths = []
    for resample in ("row", "day"):
        facts = json.loads(case.read(case.judge({"bootstrap": 200, "resample": resample}), "evaluation.json"))
        rmse = facts["contenders"][0]["metrics"]["rmse"]
        widths.append(rmse["high"] - rmse["low"])
    assert widths[1] > 2 * widths[0]


def test_metrics_and_report_reach_the_candidates_run(tmp_path: Path) -> None:
    case = make_case(tmp_path)
    verdict = case.judge()
    recorded = {name: value for name, value, step in case.tracked.recorded_metrics if step is None}
    assert recorded["test_roc_auc"] == verdict.metrics["roc_auc"]
    assert "hgb_test_roc_auc" in recorded
    assert set(case.tracked.artifacts) == {"evaluation/evaluation.json", "evaluation/report.html", "evaluation/model_card.md"}
    assert case.tracked.status == "finished"


def test_the_digest_does_not_know_the_time(tmp_path: Path) -> None:
    case = make_case(tmp_path)
    first = case.judge()
    later = dataclasses.replace(case.ports.run, now=case.ports.run.now + timedelta(days=9), run_id="run-2")
    case.ports = dataclasses.replace(case.ports, run=later)
    assert case.judge() == first
    assert "2030-01-01" in case.read(first, "report.html")
    assert all(case.ports.store.verify(ref) for ref in first.files)


def test_another_champion_makes_another_verdict(tmp_path: Path) -> None:
    case = make_case(tmp_path)
    assert case.judge().digest != case.judge(champion=case.deploy(1.0)).digest
