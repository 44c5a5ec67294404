from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from subprocess import run as run_process
from typing import TYPE_CHECKING

import pytest

from mlops_tasks.artifacts import Deployment, Features, FileRef, Intent, ValidFeatures, Window
from mlops_tasks.core.drift import WindowRecord
from mlops_tasks.core.publishing import publish_files
from mlops_tasks.core.sketches import build_reference
from mlops_tasks.errors import DataRejected, ModelRejected, SpecError
from mlops_tasks.loading import apply_overrides, load_pipeline
from mlops_tasks.specs import MonitorSpec
from mlops_tasks.stages import monitor
from tests.drifting import SCHEMA, label, label_of, make_day, make_days, window
from tests.fakes import make_ports, make_run

if TYPE_CHECKING:
    import pandas as pd

    from mlops_tasks.ports import Ports

HISTORY = 40
SPEC = MonitorSpec()


class Shop:
    """A deployed model and published windows in a store."""

    def __init__(self, folder: Path, intent: Intent = "scheduled") -> None:
        self.folder = folder
        self.ports: Ports = make_ports(folder, run=make_run(intent=intent))
        frame = make_days(HISTORY)
        path = folder / "reference.json"
        path.write_text(json.dumps(build_reference(frame, SCHEMA, label_of(frame))))
        _, files = publish_files(self.ports.store, "shop/candidate/x", {"reference.json": path})
        self.deployment = self.deployed(files)

    def deployed(self, files: tuple[FileRef, ...], version: int = 3) -> Deployment:
        return Deployment(
            digest="d" * 64,
            files=files,
            model="shop",
            version=version,
            alias="champion",
            fingerprint="f" * 64,
            dataset_version="d" * 12,
            training=Window(start=window(0).start, end=window(HISTORY - 1).end),
            feature_schema=SCHEMA,
            mlflow_run_id="r",
        )

    def publish(self, day: int, frame: pd.DataFrame | None = None, *, shift: bool = False) -> ValidFeatures:
        frame = make_day(day) if frame is None else frame
        frame = frame.assign(price=frame["price"] * 1.6) if shift else frame
        path = self.folder / "features.parquet"
        frame.to_parquet(path)
        digest, files = publish_files(self.ports.store, f"shop/features/{label(day)}", {"features.parquet": path})
        features = Features(digest=digest, files=files, window=window(day), feature_schema=SCHEMA, rows=len(frame), rejected={})
        return ValidFeatures(digest=digest, files=(), features=features)

    def record(self, day: int, version: int = 3) -> WindowRecord:
        return WindowRecord.model_validate_json(self.ports.store.read(f"shop/monitor/{version}/{label(day)}.json"))


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def test_an_ordinary_window_is_reported(shop: Shop) -> None:
    (report,) = monitor.run(SPEC, [shop.publish(50)], shop.deployment, ports=shop.ports)

    assert (report.status, report.model_version) == ("ok", 3)
    assert report.reason.startswith("window 2024-02-20 is like the history (largest: ")
    assert {c.column for c in report.columns} == {"price", "rain", "shop", "bought"}
    assert [ref.key.rsplit("/", 1)[-1] for ref in report.files] == ["drift.json", "report.html", "sketch.json"]
    assert all(shop.ports.store.verify(ref) for ref in report.files)
    assert (shop.record(50).status, shop.record(50).rows, shop.record(50).intent) == ("ok", 200, "scheduled")


def test_shifted_windows_alarm_and_say_why(shop: Shop) -> None:
    features = [shop.publish(day, shift=day >= 51) for day in (50, 51, 52)]

    reports = monitor.run(SPEC, features, shop.deployment, ports=shop.ports)

    assert [r.status for r in reports] == ["ok", "alarm", "alarm"]
    assert [r.columns[0].column for r in reports[1:]] == ["price"] * 2
    assert reports[2].reason.startswith("window 2024-02-22: price moved by ")
    assert shop.record(52).reason == reports[2].reason
    assert shop.record(52).columns == ("price",)


def test_one_call_equals_a_call_per_window_and_a_second_try(shop: Shop, tmp_path: Path) -> None:
    days = range(50, 54)
    (tmp_path / "other").mkdir()
    other = Shop(tmp_path / "other")
    together = monitor.run(SPEC, [shop.publish(d, shift=True) for d in reversed(days)], shop.deployment, ports=shop.ports)
    apart = [
        report
        for day in days
        for report in monitor.run(SPEC, [other.publish(day, shift=True)], other.deployment, ports=other.ports)
    ]
    again = monitor.run(SPEC, [shop.publish(d, shift=True) for d in days], shop.deployment, ports=shop.ports)

    assert together == apart == again
    assert [shop.record(day) for day in days] == [other.record(day) for day in days]


def test_a_backfills_alarm_is_recorded_as_one(tmp_path: Path) -> None:
    shop = Shop(tmp_path, intent="backfill")

    (report,) = monitor.run(SPEC, [shop.publish(50, shift=True)], shop.deployment, ports=shop.ports)

    assert report.status == "alarm"
    assert shop.record(50).intent == "backfill"


def test_a_backfill_that_looks_again_leaves_a_scheduled_alarm_one(shop: Shop) -> None:
    features = [shop.publish(50, shift=True)]
    monitor.run(SPEC, features, shop.deployment, ports=shop.ports)

    monitor.run(SPEC, features, shop.deployment, ports=replace(shop.ports, run=make_run(intent="backfill")))

    assert shop.record(50).intent == "scheduled"


def test_missing_values_are_said(shop: Shop) -> None:
    frame = make_day(50).assign(shop=None)

    (report,) = monitor.run(SPEC, [shop.publish(50, frame)], shop.deployment, ports=shop.ports)

    assert report.reason.startswith("window 2024-02-20: shop has 100% more missing values (robust z ")


def test_a_new_model_version_has_records_of_its_own(shop: Shop) -> None:
    features = [shop.publish(50, shift=True)]
    monitor.run(SPEC, features, shop.deployment, ports=shop.ports)

    monitor.run(SPEC, features, shop.deployed(shop.deployment.files, version=4), ports=shop.ports)

    assert [shop.record(50, version).model_version for version in (3, 4)] == [3, 4]


def test_too_little_history_never_alarms(shop: Shop) -> None:
    features = [shop.publish(d, shift=True) for d in (50, 51)]

    reports = monitor.run(SPEC.model_copy(update={"min_history": 50}), features, shop.deployment, ports=shop.ports)

    assert [r.status for r in reports] == ["warming_up"] * 2
    assert reports[0].reason == "window 2024-02-20: warming up, 40 windows of history of the 50 that an alarm needs"


def test_an_empty_window_is_reported(shop: Shop) -> None:
    (report,) = monitor.run(SPEC, [shop.publish(50, make_day(50).iloc[:0])], shop.deployment, ports=shop.ports)

    assert report.status == "ok"
    assert report.reason == "window 2024-02-20 has no rows: nothing to compare"


@pytest.mark.parametrize("rows", [1, 2])
def test_a_window_of_one_row_is_reported(shop: Shop, rows: int) -> None:
    (report,) = monitor.run(SPEC, [shop.publish(50, make_day(50).iloc[:rows])], shop.deployment, ports=shop.ports)

    assert report.status == "ok"


def test_a_missing_column_is_rejected_with_its_window(shop: Shop) -> None:
    frame = make_day(50).drop(columns="rain")

    with pytest.raises(DataRejected) as error:
        monitor.run(SPEC, [shop.publish(50, frame)], shop.deployment, ports=shop.ports)

    assert str(error.value) == "window 2024-02-20: columns rain are missing, which the model reads; check the features"


def test_a_model_without_sketches_is_refused(shop: Shop) -> None:
    with pytest.raises(ModelRejected) as error:
        monitor.run(SPEC, [shop.publish(50)], shop.deployed(()), ports=shop.ports)

    assert str(error.value) == "model shop version 3: its files lack reference.json; train and deploy again"


def test_no_windows_give_no_reports(shop: Shop) -> None:
    assert monitor.run(SPEC, [], shop.deployed(()), ports=shop.ports) == []


def test_nothing_heavy_is_imported() -> None:
    heavy = "{'pandas', 'matplotlib', 'mlflow', 'torch'}"
    code = f"import sys; import mlops_tasks.stages.monitor; print(sorted({heavy} & set(sys.modules)))"

    assert run_process([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"


def test_ignore_must_name_a_column() -> None:
    spec = load_pipeline("nyc_flights", Path("dags/pipelines"))

    assert apply_overrides(spec, {"monitor.ignore": ["late"]}).monitor.ignore == ("late",)
    with pytest.raises(SpecError, match=r"monitor\.ignore names column 'tempp', which features\.columns does not have"):
        apply_overrides(spec, {"monitor.ignore": ["late", "tempp"]})
