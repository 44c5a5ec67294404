"""A window in which a challenger was tried: the monitor's report compares it with the champion of the time."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlops_tasks.core.publishing import publish_files
from mlops_tasks.core.request_log import segment_key
from mlops_tasks.core.rollout.answers import empty_log
from mlops_tasks.core.scoring import ModelSignature
from mlops_tasks.loading import apply_overrides
from mlops_tasks.specs import MonitorSpec
from mlops_tasks.stages import monitor
from tests.drifting import SCHEMA, window
from tests.fakes import FakeRegistry
from tests.served_pipeline import PIPELINE
from tests.unit.core.test_rollout import rows
from tests.unit.stages.test_monitor import Shop

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

DAY = 50
SIGNATURE = ModelSignature(
    task=SCHEMA.task, numeric=["price"], categorical=["shop"], classes=["0", "1"], threshold=0.5, target=SCHEMA.label
)


class Trying(Shop):
    """A shop whose version 2 is tried beside version 1."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        path = folder / "signature.json"
        path.write_text(SIGNATURE.model_dump_json(), encoding="utf-8")
        _, files = publish_files(self.ports.store, "shop/candidate/y", {"signature.json": path})
        assert isinstance(self.ports.registry, FakeRegistry)
        self.registry = self.ports.registry
        for version in (1, 2):
            self.registry.record(self.deployed(files, version))

    def move(self, alias: str, source: int | None, to: int | None, at: datetime, reason: str = "") -> None:
        named = {"from": str(source or ""), "to": str(to or ""), "alias": alias, "reason": reason, "who": "ada"}
        self.registry.ledger.append({"at": at.isoformat(), **named})

    def answer(self, records: list[dict[str, Any]], at: datetime) -> None:
        table = pa.Table.from_pylist([row | {"prediction_time": at} for row in records], schema=empty_log().schema)
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        assert self.ports.store.create(segment_key("shop", at.date(), f"s{at:%H%M}"), sink.getvalue().to_pybytes())

    def report(self, day: int, spec: MonitorSpec | None = None) -> tuple[dict[str, Any], str, str]:
        """Return `drift.json`, the page and the digest of a day's report."""
        (made,) = monitor.run(spec or MonitorSpec(), [self.publish(day)], self.deployment, ports=self.ports)
        found, page = (self.ports.store.open_local(made.file(name)).read_text() for name in ("drift.json", "report.html"))
        return json.loads(found), page, made.digest


@pytest.fixture
def shop(tmp_path: Path) -> Trying:
    shop, noon = Trying(tmp_path), window(DAY).start + timedelta(hours=12)
    shop.move("champion", None, 1, window(DAY - 9).start)
    shop.move("challenger", None, 2, noon)
    shop.answer(rows(1, 100), noon - timedelta(hours=1))  # before anything was tried
    shop.answer([row | {"prediction_id": f"x{row['prediction_id']}"} for row in rows(1, 600) + rows(2, 300)], noon)
    return shop


def test_a_report_compares_what_was_tried_in_its_window(shop: Trying) -> None:
    found, page, _ = shop.report(DAY)
    (trial,) = found["trials"]
    assert (trial["champion"]["version"], trial["champion"]["requests"]) == (1, 600)
    assert (trial["challenger"]["version"], trial["challenger"]["requests"]) == (2, 300)
    assert trial["challenger"]["metric"] is None
    assert trial["latency_ratio"] == {"value": 1.0, "at_least": 1.0}
    assert (trial["until"], trial["outcome"]) == (None, "")
    assert "Version 2 was tried beside version 1, the champion then, from 2024-02-20 12:00 UTC on." in page
    assert "<td>Requests</td><td></td><td>600</td><td>300</td>" in page


def test_what_became_of_it_stands_there_also_when_the_challenger_is_champion_since(shop: Trying) -> None:
    evening = window(DAY).start + timedelta(hours=20)
    shop.move("champion", 1, 2, evening, "rollout: 300 requests with 0 failures")
    shop.move("challenger", 2, None, evening, "promoted")
    found, page, _ = shop.report(DAY)
    assert [trial["outcome"] for trial in found["trials"]] == ["rollout: 300 requests with 0 failures"]
    assert "to 2024-02-20 20:00 UTC: rollout: 300 requests with 0 failures." in page


def test_the_same_answers_give_the_same_digest_and_others_another(shop: Trying) -> None:
    digest = shop.report(DAY)[2]
    assert shop.report(DAY)[2] == digest
    late = window(DAY).start + timedelta(hours=13)
    shop.answer([row | {"prediction_id": f"late{row['prediction_id']}"} for row in rows(2, 3)], late)
    assert shop.report(DAY)[2] != digest


def test_a_window_without_a_trial_has_none(shop: Trying) -> None:
    shop.move("challenger", 2, None, window(DAY).end, "rollout: too slow")
    for day in (DAY - 1, DAY + 1):
        found, page, _ = shop.report(day)
        assert found["trials"] == []
        assert "Champion and challenger" not in page


def test_models_of_different_tasks_are_not_compared(shop: Trying) -> None:
    other = shop.registry.deployment("shop", 1)
    schema = other.feature_schema.model_copy(update={"task": "regression"})
    shop.registry.record(other.model_copy(update={"feature_schema": schema}))
    assert shop.report(DAY)[0]["trials"] == []


def test_labels_come_from_the_source_that_the_trial_names(shop: Trying, tmp_path: Path) -> None:
    lines = [f"x{row['prediction_id']},{int(row['prediction_score'] >= 0.5)}" for row in rows(1, 600) + rows(2, 300)]
    (tmp_path / "outcomes.csv").write_text("\n".join([f"prediction_id,{SCHEMA.label}", *lines]), encoding="utf-8")
    outcomes = {"path": str(tmp_path / "outcomes.csv"), "columns": {"prediction_id": "string", SCHEMA.label: "int"}}
    challenger = {"mode": "canary", "labels": "outcomes", "metric": "accuracy"}
    spec = MonitorSpec.model_validate({"trial": {"challenger": challenger, "labels": outcomes}})
    (trial,) = shop.report(DAY, spec)[0]["trials"]
    assert [(trial[side]["labelled"], trial[side]["metric"]) for side in ("champion", "challenger")] == [(600, 1.0), (300, 1.0)]


def test_the_monitor_knows_how_challengers_are_tried() -> None:
    columns = {"prediction_id": "string", "sold": "int"}
    sources = {**PIPELINE.model_dump(mode="json")["collect"]["sources"], "outcomes": {"path": "o.csv", "columns": columns}}
    overrides = {"collect.sources": sources, "serve.challenger": {"mode": "shadow", "labels": "outcomes"}}
    trial = apply_overrides(PIPELINE, overrides).monitor.trial
    assert trial.challenger.mode == "shadow"
    assert trial.labels is not None
    assert trial.labels.path == "o.csv"
