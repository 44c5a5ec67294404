"""A challenger on trial from the request log to the ledger."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlops_tasks.core.request_log import segment_key
from mlops_tasks.core.rollout import empty_log
from mlops_tasks.errors import ModelRejected, NothingToDo
from mlops_tasks.ports import NoServers, ServerAnswer
from mlops_tasks.runner import rollout
from mlops_tasks.serve_specs import ChallengerSpec
from mlops_tasks.specs import DeploySpec
from mlops_tasks.stages import deploy
from tests.fakes import NOW, FakeRegistry, make_ports
from tests.judged_models import make_verdict
from tests.served_pipeline import PIPELINE
from tests.unit.core.test_rollout import rows

if TYPE_CHECKING:
    from pathlib import Path

    from mlops_tasks.ports import ArtifactStore

LATER = NOW + timedelta(hours=2)


class Servers(NoServers):
    def load(self, name: str, version: int, *, role: str = "champion") -> list[ServerAnswer]:
        assert (name, role) == ("shop", "champion")
        return [ServerAnswer("http://a", version)]


@dataclass
class Wired:
    """What a rollout needs of the adapters."""

    store: ArtifactStore
    registry: FakeRegistry
    servers: Servers


@pytest.fixture
def wired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    serve = PIPELINE.serve.model_copy(update={"challenger": ChallengerSpec(mode="canary", min_requests=300)})
    monkeypatch.setattr(rollout, "load_pipeline", lambda _: PIPELINE.model_copy(update={"serve": serve}))
    ports = make_ports(tmp_path, registry=FakeRegistry())
    ports = replace(ports, run=replace(ports.run, trial=True))
    for days in (30, 60):
        deploy.run(DeploySpec(), make_verdict(ports.store, days=days, bias=days / 100), ports=ports)
    assert isinstance(ports.registry, FakeRegistry)
    assert [ports.registry.alias("shop", alias) for alias in ("champion", "challenger")] == [1, 2]
    return Wired(ports.store, ports.registry, Servers())


def log(wired: Wired, records: list[dict[str, Any]], *, at: timedelta = timedelta(minutes=5)) -> None:
    schema = empty_log().schema.append(pa.field("prediction_time", pa.timestamp("us", "UTC")))
    table = pa.Table.from_pylist([row | {"prediction_time": NOW + at} for row in records], schema=schema)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    key = segment_key("shop", (NOW + at).date(), f"segment-{len(records)}-{at.total_seconds():.0f}")
    assert wired.store.create(key, sink.getvalue().to_pybytes())


def test_a_trained_model_is_tried_first_and_promoted_when_enough_was_seen(wired: Any) -> None:
    assert rollout.judge("shop", now=LATER, adapters=wired)["action"] == "wait"
    log(wired, rows(1, 1000) + rows(2, 400))
    judged = rollout.judge("shop", now=LATER, adapters=wired)
    assert (judged["action"], judged["champion"], judged["challenger"]) == ("promote", 1, 2)
    assert judged["figures"]["challenger"]["rows"] == 400
    assert judged["figures"]["challenger"]["metric"] is None  # no labels: JSON has no NaN
    settled = rollout.settle(judged, who="ada", adapters=wired)
    assert settled["servers"] == {"http://a": "serves it"}
    assert [wired.registry.alias("shop", alias) for alias in ("champion", "challenger")] == [2, None]
    moves = [(e["alias"], e["from"], e["to"], e["who"]) for e in wired.registry.ledger[-2:]]
    assert moves == [("champion", "1", "2", "ada"), ("challenger", "2", "", "ada")]
    assert "rollout: 400 rows with 0 failures" in wired.registry.ledger[-2]["reason"]
    with pytest.raises(NothingToDo, match="no challenger is on trial"):
        rollout.judge("shop", now=LATER, adapters=wired)


def test_what_was_answered_before_the_trial_does_not_count(wired: Any) -> None:
    log(wired, rows(1, 1000) + rows(2, 400), at=timedelta(minutes=-5))
    judged = rollout.judge("shop", now=LATER, adapters=wired)
    assert judged["figures"]["challenger"]["rows"] == 0


def test_a_broken_limit_withdraws(wired: Any) -> None:
    log(wired, rows(1, 1000) + rows(2, 400, latency_ms=9.0))
    judged = rollout.judge("shop", now=LATER, adapters=wired)
    rollout.settle(judged, who="ada", adapters=wired)
    assert [wired.registry.alias("shop", alias) for alias in ("champion", "challenger")] == [1, None]
    assert "its 95th percentile takes 9 ms" in wired.registry.ledger[-1]["reason"]


def test_nothing_is_done_when_another_run_moved_an_alias_meanwhile(wired: Any) -> None:
    log(wired, rows(1, 1000) + rows(2, 400))
    judged = rollout.judge("shop", now=LATER, adapters=wired)
    wired.registry.promote("shop", "champion", 2, expected=1, reason="by hand", who="grace")
    before = list(wired.registry.ledger)
    settled = rollout.settle(judged, who="ada", adapters=wired)
    assert (settled["action"], settled["reason"]) == ("wait", "another run moved an alias meanwhile: judged again next time")
    assert wired.registry.ledger == before


def test_two_that_settle_at_once_promote_once(wired: Any) -> None:
    log(wired, rows(1, 1000) + rows(2, 400))
    judged = rollout.judge("shop", now=LATER, adapters=wired)

    def settle(_: int) -> str:
        try:
            return str(rollout.settle(judged, who="ada", adapters=wired)["action"])
        except ModelRejected:
            return "too late"

    with ThreadPoolExecutor(2) as pool:
        actions = sorted(pool.map(settle, range(2)))
    assert actions.count("promote") >= 1
    promoted = [entry for entry in wired.registry.ledger if entry["alias"] == "champion" and entry["to"] == "2"]
    assert len(promoted) == 1


def test_one_trained_on_older_data_is_withdrawn(wired: Any) -> None:
    wired.registry.promote("shop", "champion", 2, expected=1, reason="", who="")
    wired.registry.promote("shop", "challenger", 1, expected=2, reason="", who="")
    judged = rollout.judge("shop", now=LATER, adapters=wired)
    assert (judged["action"], judged["reason"]) == ("withdraw", "version 2, the champion, is trained on newer data")


def test_a_pipeline_that_tries_none_says_so(monkeypatch: pytest.MonkeyPatch, wired: Any) -> None:
    monkeypatch.setattr(rollout, "load_pipeline", lambda _: PIPELINE)
    with pytest.raises(NothingToDo, match=r"serve.challenger.mode is off, so no challenger is tried"):
        rollout.judge("shop", now=LATER, adapters=wired)
