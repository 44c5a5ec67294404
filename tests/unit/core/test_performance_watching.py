"""Windows and a deployed model to records of how it does, whenever labels come and in whatever order."""

from __future__ import annotations

import json
import random
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import pandas as pd
import pytest

from mlops_tasks.adapters.local_store import LocalStore
from mlops_tasks.artifacts import ValidFeatures
from mlops_tasks.core.metrics import Predictions, measure
from mlops_tasks.core.performance import PerformanceRecord, Watched, watch
from mlops_tasks.core.publishing import publish_files
from mlops_tasks.core.request_log import SCORE, VERSION
from mlops_tasks.errors import DataRejected
from mlops_tasks.specs import MonitorSpec, PerformanceSpec
from tests.drifting import label
from tests.performing import Performing, make_day, scores_of

if TYPE_CHECKING:
    from mlops_tasks.core.metrics import Floats, Ints

LATE = MonitorSpec(label_delay=timedelta(days=2))
AT_ONCE = MonitorSpec()


@pytest.fixture
def shop(tmp_path: Path) -> Performing:
    return Performing(tmp_path)


def look(shop: Performing, *features: ValidFeatures, spec: MonitorSpec = AT_ONCE, **how: Any) -> list[PerformanceRecord]:
    """Watch windows; return their records in the order given."""
    watched = watch(spec, features, how.get("deployment", shop.deployment), ports=shop.ports)
    assert isinstance(watched, Watched)
    return [watched.records[item.window.label] for item in features]


def test_a_window_is_measured_on_its_labelled_rows_under_scikit_learns_names(shop: Performing) -> None:
    (record,) = look(shop, shop.publish(1, known=0.9))
    frame = make_day(1).iloc[:180]
    expected = measure(Predictions("binary", frame["bought"].to_numpy(dtype="float64"), scores_of(frame)))

    assert (record.status, record.rows, record.labelled, record.coverage) == ("ok", 200, 180, 0.9)
    assert record.metrics == pytest.approx(expected, abs=1e-6)
    assert record.model_version == 3
    assert PerformanceRecord.model_validate_json(shop.kept()[f"{label(1)}.json"]) == record


def test_labels_that_come_two_days_late_are_awaited_then_measured(shop: Performing) -> None:
    seen = []
    for today in range(5):
        arrived = [shop.publish(day, known=1.0 if day <= today - 2 else 0.1) for day in range(max(0, today - 3), today + 1)]
        seen.append({r.window.label: r for r in look(shop, *arrived, spec=LATE)})

    assert [seen[today][label(0)].status for today in range(4)] == ["awaiting_labels", "awaiting_labels", "ok", "ok"]
    early, due = seen[1][label(0)], seen[2][label(0)]
    assert early.reason == "window 2024-01-01 awaits its labels: they are due 2d after its end, 20 of 200 are there"
    assert (early.metrics, early.error, early.highest) == ({}, None, {}), "the first labels are not like the rest"
    assert early.estimated["log_loss"] == pytest.approx(due.metrics["log_loss"], rel=0.15)
    assert due.estimated == early.estimated
    assert {name: r.status for name, r in seen[4].items()} == {
        label(1): "ok", label(2): "ok", label(3): "awaiting_labels", label(4): "awaiting_labels"
    }  # fmt: skip


def test_labels_that_stay_away_are_awaited_on(shop: Performing) -> None:
    (record,) = look(shop, shop.publish(0, known=0.5))

    assert record.status == "awaiting_labels"
    assert record.reason.startswith("window 2024-01-01 awaits labels: the labels of 100 of 200 rows are known")
    lenient = MonitorSpec(performance=PerformanceSpec(min_coverage=0.5))
    assert look(shop, shop.publish(0, known=0.5), spec=lenient)[0].status == "ok"


def test_a_window_that_the_model_was_trained_on_is_told(shop: Performing) -> None:
    before, after = look(shop, shop.publish(-42), shop.publish(-41))

    assert before.reason.endswith("; the model was trained on rows of this time")
    assert "trained" not in after.reason


def test_a_drop_alarms_and_says_by_how_much(shop: Performing) -> None:
    records = look(shop, *(shop.publish(day, worse=day >= 2) for day in range(5)))

    assert [r.status for r in records] == ["ok", "ok", "alarm", "alarm", "alarm"]
    alarm = records[-1]
    assert alarm.error is not None
    assert all(alarm.error.measures[kind].mean > limit for kind, limit in alarm.highest.items())
    assert f"log loss {alarm.error.mean:.4g} is " in alarm.reason
    assert "ROC AUC 0." in alarm.reason
    assert alarm.estimated["log_loss"] < alarm.highest["error"], "scores don't know that the label means something else"


def test_what_is_unchanged_is_neither_measured_nor_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = CountingStore(tmp_path / "store")
    shop = Performing(tmp_path, store=store)
    features = [shop.publish(day) for day in range(5)]
    first = look(shop, *features)
    store.written = 0
    monkeypatch.setattr("mlops_tasks.core.scoring.Scorer.load", refuse)

    assert look(shop, *features) == first
    assert store.written == 0


class CountingStore(LocalStore):
    written = 0

    def write(self, key: str, data: bytes) -> None:
        self.written += 1
        super().write(key, data)


def refuse(*_args: object, **_how: object) -> NoReturn:
    msg = "nothing is to be measured"
    raise AssertionError(msg)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("held_out", [True, False])
def test_the_order_of_windows_and_labels_does_not_matter(tmp_path: Path, seed: int, held_out: bool) -> None:
    spec = LATE.model_copy(update={"min_history": 5, "false_alarm_rate": 0.15})
    days, kept = range(14), []
    for name, order in (("in-order", list(days)), ("shuffled", random.Random(seed).sample(list(days), len(days)))):
        shop = Performing(tmp_path / name)
        shop.deployment = shop.deploy(held_out=held_out)
        windows = [shop.publish(day, rows=100, worse=day in {9, 10}) for day in days]
        for day in order:  # as the DAG does: each window with those whose labels came meanwhile
            look(shop, *windows[max(0, day - 3) : day + 1], spec=spec)
        kept.append(shop.kept())

    assert kept[0] == kept[1]
    states = [json.loads(data)["status"] for data in kept[0].values()]
    assert states[9:] == ["alarm", "alarm", "ok", "awaiting_labels", "awaiting_labels"]
    assert states[:6] == (["ok"] if held_out else ["warming_up"]) * 6


def test_a_model_without_held_out_windows_warms_up(shop: Performing) -> None:
    old = shop.deploy(held_out=False)
    records = look(shop, *(shop.publish(day) for day in range(32)), deployment=old)

    assert [r.status for r in records] == ["warming_up"] * 30 + ["ok"] * 2
    (first, *_) = look(shop, shop.publish(0), deployment=old)
    assert first.reason.endswith("; warming up, 30 windows of the 30 that an alarm needs")


def answered_by(version: int | Ints, score: float | Floats) -> pd.DataFrame:
    """Return the first day's rows as the request log has them."""
    frame = make_day(0)
    frame[VERSION], frame[SCORE] = version, score
    return frame


def test_held_out_windows_of_another_format_count_as_none(shop: Performing) -> None:
    path = shop.folder / "evaluation.json"
    path.write_text(json.dumps({"contenders": [], "windows": [{"start": "2024-01-01", "rows": 7}]}))
    _, files = publish_files(shop.ports.store, "shop/verdicts/x", {"evaluation.json": path})
    others = tuple(ref for ref in shop.deployment.files if not ref.key.endswith("/evaluation.json"))
    odd = shop.deployment.model_copy(update={"files": (*others, *files)})

    assert look(shop, shop.publish(0), deployment=odd)[0].status == "warming_up"


def test_only_what_this_version_really_answered_counts(shop: Performing) -> None:
    frame = make_day(0)
    answered = 1 - scores_of(frame)  # another answer than the model would give now
    mixed = answered_by(np.where(np.arange(len(frame)) < 150, 3, 4), answered)
    (record,) = look(shop, shop.publish(0, mixed))
    mine = frame.iloc[:150]
    expected = measure(Predictions("binary", mine["bought"].to_numpy(dtype="float64"), answered[:150]), ["log_loss"])

    assert (record.rows, record.answered) == (150, True)
    assert record.metrics["log_loss"] == pytest.approx(expected["log_loss"])


def test_rows_that_lack_a_logged_score_are_scored_now(shop: Performing) -> None:
    frame = make_day(0)
    logged = answered_by(3, np.where(np.arange(len(frame)) == 5, np.nan, 0.5))
    (record,) = look(shop, shop.publish(0, logged))
    (plain,) = look(shop, shop.publish(0, frame))

    assert not record.answered
    assert record.metrics == plain.metrics


def test_inputs_are_not_needed_where_the_answer_was_logged(shop: Performing) -> None:
    frame = answered_by(3, 0.3).drop(columns="shop")

    assert look(shop, shop.publish(0, frame))[0].answered


def test_a_window_that_another_version_answered_is_in_order(shop: Performing) -> None:
    (record,) = look(shop, shop.publish(0, answered_by(2, 0.5)))

    assert (record.status, record.rows, record.coverage) == ("ok", 0, 0)
    assert record.reason == "window 2024-01-01 has no rows that the model answered: nothing to measure"


def test_a_label_of_an_unknown_class_counts_as_not_known(shop: Performing) -> None:
    frame = make_day(0).assign(bought=lambda f: f["bought"].astype(str).str.lower().where(f["id"] >= 10, "returned"))
    (record,) = look(shop, shop.publish(0, frame))

    assert (record.rows, record.labelled) == (200, 190)


def test_a_window_of_one_class_has_the_metrics_that_are_defined(shop: Performing) -> None:
    (record,) = look(shop, shop.publish(0, make_day(0).assign(bought=False)))

    assert "roc_auc" not in record.metrics
    assert "log_loss" in record.metrics


def test_a_regression_is_judged_by_its_squared_error_and_never_estimated(tmp_path: Path) -> None:
    shop = Performing(tmp_path, task="regression")
    watched = watch(AT_ONCE, [shop.publish(0), shop.publish(1, worse=True)], shop.deployment, ports=shop.ports)
    assert watched is not None
    good, bad = watched.records.values()

    assert (good.status, bad.status) == ("ok", "alarm")
    assert good.error is not None
    assert good.error.mean == pytest.approx(good.metrics["rmse"] ** 2)
    assert good.estimated == bad.estimated == {}
    assert watched.no_estimate.startswith("without labels nothing can be said of a regression")


def test_no_estimate_is_given_by_a_model_that_is_not_calibrated(shop: Performing) -> None:
    (record,) = look(shop, shop.publish(0), deployment=shop.deploy(ece=0.2))

    assert record.estimated == {}
    assert record.metrics


def test_a_backfill_leaves_a_scheduled_alarm_one_that_counts(tmp_path: Path) -> None:
    shop, back = Performing(tmp_path), Performing(tmp_path, intent="backfill")
    assert look(back, back.publish(0, worse=True))[0].intent == "backfill"
    assert look(shop, shop.publish(0, worse=True))[0].intent == "scheduled"
    assert look(back, back.publish(0, worse=True))[0].intent == "scheduled"


def test_a_missing_column_is_rejected_with_its_window(shop: Performing) -> None:
    with pytest.raises(DataRejected) as error:
        look(shop, shop.publish(0, make_day(0).drop(columns="shop")))

    assert str(error.value) == "window 2024-01-01: columns shop are missing, which the model reads; check the features"


def test_a_deployment_without_its_model_is_not_watched(shop: Performing) -> None:
    assert watch(AT_ONCE, [shop.publish(0)], shop.deploy(without=("model.onnx",)), ports=shop.ports) is None
    assert shop.kept() == {}


def test_a_record_that_can_not_be_read_is_made_anew(shop: Performing) -> None:
    (record,) = look(shop, shop.publish(0))
    shop.ports.store.write(f"shop/performance/3/{label(0)}.json", b"{}")

    assert look(shop, shop.publish(0)) == [record]
