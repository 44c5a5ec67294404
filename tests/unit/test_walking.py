"""Measuring registered models on later windows: each cell equals scikit-learn's figure, and is measured once."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from mlops_tasks.artifacts import Deployment, Features, ValidFeatures, Window
from mlops_tasks.caching import Cache, ingredients
from mlops_tasks.core.collection import write_rows
from mlops_tasks.core.metrics import Predictions, measure
from mlops_tasks.core.publishing import publish_files
from mlops_tasks.core.scoring import Scorer
from mlops_tasks.errors import NothingToDo, SpecError
from mlops_tasks.pipeline import BY_NAME
from mlops_tasks.runner import walking
from mlops_tasks.runner.history import StageRecord
from mlops_tasks.runner.walking import Walk, measure_matrix
from mlops_tasks.wiring import Adapters
from tests.fakes import FakeProgress, FakeRegistry
from tests.judged_models import SCHEMA, make_verdict
from tests.served_pipeline import PIPELINE

DAY = timedelta(days=1)
START = datetime(2029, 1, 1, tzinfo=UTC)
DAYS = 75


def frame(day: int) -> pd.DataFrame:
    rng = np.random.default_rng(day)
    price, age = rng.normal(size=40), rng.normal(size=40)
    at = pd.Timestamp(START + day * DAY) + pd.to_timedelta(np.arange(40), unit="m")
    shop = rng.choice(["north", "south"], 40)
    return pd.DataFrame(
        {"at": at, "shop": shop, "price": price, "age": age, "sold": np.where(price + rng.normal(size=40) > 0, "yes", "no")}
    )


class Shop:
    """A pipeline with validated days and three models: as of 20, 32 and 60 days."""

    def __init__(self, folder: Path) -> None:
        self.adapters = Adapters({"MLOPS_STORE": str(folder / "store")})
        self.registry = FakeRegistry()
        vars(self.adapters).update(registry=self.registry, progress=FakeProgress())
        self.pipeline = PIPELINE.model_copy(update={"snapshot": PIPELINE.snapshot.model_copy(update={"label_delay": 2 * DAY})})
        for day in range(DAYS):
            self.add_day(day)
        for days in (20, 32, 60):
            self.add_model(days)

    def add_day(self, day: int, rows: pd.DataFrame | None = None) -> None:
        store, window = self.adapters.store, Window(start=START + day * DAY, end=START + (day + 1) * DAY)
        table = pa.Table.from_pandas(frame(day) if rows is None else rows, preserve_index=False)
        with store.staging() as folder:
            write_rows(table, folder / "features.parquet")
            name = {"features.parquet": folder / "features.parquet"}
            digest, files = publish_files(store, f"shop/features/{window.label}", name, rows={"features.parquet": len(table)})
        features = Features(digest=digest, files=files, window=window, feature_schema=SCHEMA, rows=len(table), rejected={})
        stage = BY_NAME["validate"]
        key = ingredients(stage, stage.spec_of(self.pipeline), {"features": digest})
        Cache(store, "shop").keep(window.label, key, ValidFeatures(digest=digest, files=(), features=features))

    def forget_day(self, day: int) -> None:
        for key in list(self.adapters.store.list(f"shop/cache/validate/{START + day * DAY:%Y-%m-%d}/")):
            self.adapters.store.delete(key)

    def add_model(self, days: int) -> None:
        verdict = make_verdict(self.adapters.store, days=days, bias=days / 50)
        files = {ref.key.rsplit("/", 1)[-1]: self.adapters.store.open_local(ref) for ref in verdict.candidate.files}
        version = self.registry.register("shop", verdict.candidate, verdict, files, {"mlops.run_id": f"run {days}"})
        dataset = verdict.candidate.dataset_version
        manifest = json.dumps({"as_of": (START + days * DAY).isoformat()}).encode()
        self.adapters.store.write(f"shop/datasets/{dataset}0000/manifest.json", manifest)
        deployment = Deployment(
            digest="d",
            files=verdict.candidate.files,
            model="shop",
            version=version,
            alias="none",
            fingerprint=verdict.candidate.fingerprint,
            dataset_version=dataset,
            training=Window(start=START, end=START + (days - 10) * DAY),
            feature_schema=SCHEMA,
            mlflow_run_id="r",
        )
        self.registry.record(deployment)

    def measure(self, **walk: Any) -> Any:
        return measure_matrix(self.pipeline, self.adapters, replace(Walk(by="week", metric="log_loss"), **walk))


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def test_each_cell_is_what_scikit_learn_says_of_the_exported_model(shop: Shop, tmp_path: Path) -> None:
    made = shop.measure()
    cell = next(c for c in made.cells if c.version == 1)
    days = [d for d in range(DAYS) if cell.period.start <= START + d * DAY < cell.period.end]
    rows = pd.concat([frame(day) for day in days], ignore_index=True)
    scores = Scorer.load(shop.registry.fetch("shop", 1, tmp_path / "model")).score(rows)
    assert cell.rows == len(rows) == 7 * 40
    truth = rows["sold"] == "yes"
    assert cell.metrics["log_loss"] == pytest.approx(log_loss(truth, scores), abs=1e-6)
    assert cell.metrics["roc_auc"] == pytest.approx(roc_auc_score(truth, scores), abs=1e-6)


def test_a_model_is_scored_on_whole_periods_after_it_was_known_and_on_labels_that_are_known(shop: Shop) -> None:
    made = shop.measure()
    firsts = {v: min(c.period.start for c in made.cells if c.version == v) for v in (1, 2, 3)}
    assert {v: (first - START).days for v, first in firsts.items()} == {1: 21, 2: 35, 3: 63}, "weeks begin on Mondays"
    last = max(made.periods, key=lambda p: p.start)
    cell = next(c for c in made.cells if c.period == last)
    assert cell.rows == 40 * (DAYS - 2 - (last.start - START).days), "the last two days' labels are not known yet"


def test_a_second_call_scores_nothing_and_a_changed_day_only_its_week(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    first = shop.measure()
    scored: list[int] = []

    def counted(predictions: Predictions) -> dict[str, float]:
        scored.append(1)
        return measure(predictions)

    monkeypatch.setattr(walking, "measure", counted)
    assert shop.measure().cells == first.cells
    assert scored == []
    day = 40
    shop.forget_day(day)
    shop.add_day(day, frame(day + 1000))
    again = shop.measure()
    assert len(scored) == 2, "two models could serve in that week"
    changed = {(c.version, c.period.label) for c in again.cells} - {
        (c.version, c.period.label) for c in again.cells if c in first.cells
    }
    assert changed == {(1, "2029-02-05"), (2, "2029-02-05")}


def test_a_damaged_or_older_cell_is_measured_again(shop: Shop) -> None:
    first = shop.measure()
    for at, key in enumerate(list(shop.adapters.store.list("shop/walkforward/"))):
        shop.adapters.store.write(key, b"{" if at % 2 else b'{"format": 0, "rows": 1, "metrics": {}}')
    assert shop.measure().cells == first.cells


def test_what_is_left_out_is_told(shop: Shop) -> None:
    for day in (45, 50):
        shop.forget_day(day)
    shop.add_day(45, frame(45).assign(sold=pd.Series([None] * 40, dtype="string")))
    del shop.registry.records["shop", 2]
    made = shop.measure(by="window")
    assert made.absent["version 2"] == "its deployment was not recorded"
    assert made.absent["1 windows"] == "they are not validated in the store: bring them in first"
    assert any("has 0 rows, needs at least 2" in why for why in made.absent.values()), "no label of that day is known"
    assert {cell.version for cell in made.cells} == {1, 3}


def test_what_a_model_took_is_that_of_its_run_where_it_is_recorded(shop: Shop) -> None:
    took = {"stage": "train", "pipeline": "shop", "run_id": "run 20", "intent": "backfill", "seconds": 7.5, "computed": 1}
    times = dict.fromkeys(("start", "asked_at"), START) | dict.fromkeys(("end", "ended_at"), START + DAY)
    record = StageRecord.model_validate({**took, **times})
    shop.adapters.store.write("shop/outcomes/run_20/train.json", record.model_dump_json().encode())
    assert [m.seconds for m in shop.measure().models] == [7.5, None, None]


def test_a_range_bounds_models_and_windows(shop: Shop) -> None:
    made = shop.measure(start=START + 30 * DAY, end=START + 56 * DAY)
    assert [m.version for m in made.models] == [2]
    assert max(p.end for p in made.periods) == START + 56 * DAY


def test_nothing_to_compare_and_an_unknown_metric_are_refused(shop: Shop) -> None:
    with pytest.raises(NothingToDo, match="no registered model can be compared"):
        shop.measure(start=START + 70 * DAY)
    with pytest.raises(SpecError, match=r"--metric: must be one of roc_auc, .* for binary, got 'rmse'"):
        shop.measure(metric="rmse")
    with pytest.raises(NothingToDo, match="no month begins after the first model could serve"):
        shop.measure(start=START + 60 * DAY, by="month")
