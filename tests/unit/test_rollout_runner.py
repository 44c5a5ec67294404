"""A challenger on trial from the request log to the ledger."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlops_tasks.adapters.sources import Sources
from mlops_tasks.core.request_log import segment_key
from mlops_tasks.core.rollout.answers import empty_log
from mlops_tasks.errors import ModelRejected, NothingToDo
from mlops_tasks.ports import NoServers, ServerAnswer
from mlops_tasks.runner import rollout
from mlops_tasks.serve_specs import ChallengerSpec
from mlops_tasks.specs import DeploySpec, PipelineSpec, Source
from mlops_tasks.stages import deploy
from tests.fakes import NOW, FakeRegistry, make_ports
from tests.judged_models import make_verdict
from tests.served_pipeline import PIPELINE
from tests.unit.core.test_rollout import rows

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mlops_tasks.artifacts import Window
    from mlops_tasks.ports import ArtifactStore, Ports

LATER = NOW + timedelta(hours=2)


@dataclass
class Servers(NoServers):
    """Knows one server, which may refuse."""

    refuses: str = ""
    asked: list[int] = field(default_factory=list)

    def load(self, name: str, version: int, *, role: str = "champion") -> list[ServerAnswer]:
        assert (name, role) == ("shop", "champion")
        self.asked.append(version)
        return [ServerAnswer("http://a", None if self.refuses else version, self.refuses)]


@dataclass
class Wired:
    """What a rollout needs of the adapters."""

    store: ArtifactStore
    registry: FakeRegistry
    servers: Servers
    sources: Sources
    ports: Ports

    @property
    def aliases(self) -> list[int | None]:
        return [self.registry.alias("shop", alias) for alias in ("champion", "challenger")]


def tried(monkeypatch: pytest.MonkeyPatch, pipeline: PipelineSpec = PIPELINE, **spec: Any) -> None:
    """Let the pipeline try its challengers so."""
    challenger = ChallengerSpec.model_validate({"mode": "canary", "min_requests": 300, **spec})
    serve = pipeline.serve.model_copy(update={"challenger": challenger})
    monkeypatch.setattr(rollout, "load_pipeline", lambda _: pipeline.model_copy(update={"serve": serve}))


@pytest.fixture
def wired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Wired:
    tried(monkeypatch)
    ports = make_ports(tmp_path, registry=FakeRegistry())
    ports = replace(ports, run=replace(ports.run, trial=True))
    for days in (30, 60):
        deploy.run(DeploySpec(), make_verdict(ports.store, days=days, bias=days / 100), ports=ports)
    assert isinstance(ports.registry, FakeRegistry)
    wired = Wired(ports.store, ports.registry, Servers(), Sources(lambda: ports.store), ports)
    assert wired.aliases == [1, 2]
    return wired


def log(wired: Any, records: list[dict[str, Any]], *, at: timedelta = timedelta(minutes=5)) -> None:
    table = pa.Table.from_pylist([row | {"prediction_time": NOW + at} for row in records], schema=empty_log().schema)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    key = segment_key("shop", (NOW + at).date(), f"segment-{len(records)}-{at.total_seconds():.0f}")
    assert wired.store.create(key, sink.getvalue().to_pybytes())


def test_a_trained_model_is_tried_first_and_promoted_when_enough_was_seen(wired: Any) -> None:
    assert rollout.judge("shop", now=LATER, adapters=wired)["action"] == "wait"
    log(wired, rows(1, 1000) + rows(2, 400))
    judged = rollout.judge("shop", now=LATER, adapters=wired)
    assert (judged["action"], judged["champion"], judged["challenger"]) == ("promote", 1, 2)
    assert judged["figures"]["challenger"]["requests"] == 400
    assert judged["figures"]["challenger"]["metric"] is None  # no labels: JSON has no NaN
    settled = rollout.settle(judged, who="ada", adapters=wired)
    assert settled["servers"] == {"http://a": "serves it"}
    assert [wired.registry.alias("shop", alias) for alias in ("champion", "challenger")] == [2, None]
    moves = [(e["alias"], e["from"], e["to"], e["who"]) for e in wired.registry.ledger[-2:]]
    assert moves == [("champion", "1", "2", "ada"), ("challenger", "2", "", "ada")]
    assert "rollout: 400 requests with 0 failures" in wired.registry.ledger[-2]["reason"]
    with pytest.raises(NothingToDo, match="no challenger is on trial"):
        rollout.judge("shop", now=LATER, adapters=wired)


def test_what_was_answered_before_the_trial_does_not_count(wired: Any) -> None:
    log(wired, rows(1, 1000) + rows(2, 400), at=timedelta(minutes=-5))
    judged = rollout.judge("shop", now=LATER, adapters=wired)
    assert judged["figures"]["challenger"]["requests"] == 0


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


def test_a_withdrawal_waits_when_another_run_moved_an_alias_meanwhile(wired: Any) -> None:
    log(wired, rows(1, 1000) + rows(2, 400, latency_ms=9.0))
    judged = rollout.judge("shop", now=LATER, adapters=wired)
    assert judged["action"] == "withdraw"
    wired.registry.promote("shop", "champion", 2, expected=1, reason="by hand", who="grace")
    before = list(wired.registry.ledger)
    assert rollout.settle(judged, who="ada", adapters=wired)["action"] == "wait"
    assert wired.registry.ledger == before, "what serves now was not withdrawn"
    wired.registry.retire("shop", "challenger", expected=2, reason="by hand", who="grace")
    assert rollout.settle(judged, who="ada", adapters=wired)["action"] == "wait"


def test_a_newer_training_that_takes_the_alias_after_the_promotion_keeps_it(
    wired: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    log(wired, rows(1, 1000) + rows(2, 400))
    judged = rollout.judge("shop", now=LATER, adapters=wired)
    load = wired.servers.load

    def train_meanwhile(name: str, version: int, *, role: str = "champion") -> list[ServerAnswer]:
        deploy.run(DeploySpec(), make_verdict(wired.store, days=90, bias=0.9), ports=wired.ports)
        answers: list[ServerAnswer] = load(name, version, role=role)
        return answers

    monkeypatch.setattr(wired.servers, "load", train_meanwhile)
    settled = rollout.settle(judged, who="ada", adapters=wired)
    assert (settled["action"], settled["servers"]) == ("promote", {"http://a": "serves it"})
    assert wired.aliases == [2, 3]


def test_a_server_that_refuses_gets_the_former_champion_back_and_the_trial_goes_on(wired: Any) -> None:
    log(wired, rows(1, 1000) + rows(2, 400))
    judged = rollout.judge("shop", now=LATER, adapters=wired)
    wired.servers.refuses = "no memory"
    refused = "version 2 is not served, so version 1 is champion again and it stays on trial: http://a: no memory; mend"
    with pytest.raises(ModelRejected, match=refused):
        rollout.settle(judged, who="ada", adapters=wired)
    assert wired.aliases == [1, 2]
    assert wired.servers.asked == [2, 1]
    assert wired.registry.ledger[-1]["reason"] == "rollback: version 2 is not served: http://a: no memory"
    wired.servers.refuses = ""
    again = rollout.judge("shop", now=LATER, adapters=wired)
    assert rollout.settle(again, who="ada", adapters=wired)["action"] == "promote"
    assert wired.aliases == [2, None]


@pytest.mark.parametrize("refuses", ["", "no memory"])
def test_a_promotion_that_was_cut_off_is_finished(wired: Any, refuses: str) -> None:
    wired.registry.promote("shop", "champion", 2, expected=1, reason="rollout: good", who="ada")  # then it died
    wired.servers.refuses = refuses
    judged = rollout.judge("shop", now=LATER, adapters=wired)
    assert (judged["action"], judged["champion"], judged["challenger"]) == ("finish", 1, 2)
    if refuses:
        with pytest.raises(ModelRejected, match="version 1 is champion again"):
            rollout.settle(judged, who="ada", adapters=wired)
        assert wired.aliases == [1, 2]
        return
    settled = rollout.settle(judged, who="ada", adapters=wired)
    assert (settled["action"], settled["servers"], wired.aliases) == ("finish", {"http://a": "serves it"}, [2, None])
    assert wired.registry.ledger[-1]["reason"].startswith("promoted; ")


def test_one_that_was_withdrawn_is_not_tried_again_unless_forced(wired: Any) -> None:
    log(wired, rows(1, 1000) + rows(2, 400, latency_ms=9.0))
    rollout.settle(rollout.judge("shop", now=LATER, adapters=wired), who="ada", adapters=wired)
    assert wired.aliases == [1, None]
    verdict = make_verdict(wired.store, days=60, bias=0.6)
    again = deploy.run(DeploySpec(), verdict, ports=wired.ports)
    assert (again.version, again.alias, wired.aliases) == (2, "none", [1, None])
    forced = replace(wired.ports, run=replace(wired.ports.run, forced=True))
    assert deploy.run(DeploySpec(), verdict, ports=forced).alias == "challenger"
    assert wired.aliases == [1, 2]


def test_one_whose_training_ends_with_the_champions_is_tried(wired: Any) -> None:
    same = deploy.run(DeploySpec(), make_verdict(wired.store, days=30, bias=0.7), ports=wired.ports)
    assert same.alias == "none", "the challenger on trial knows more"
    wired.registry.retire("shop", "challenger", expected=2, reason="by hand", who="ada")
    same = deploy.run(DeploySpec(), make_verdict(wired.store, days=30, bias=0.8), ports=wired.ports)
    assert (same.alias, wired.aliases) == ("challenger", [1, same.version])
    assert rollout.judge("shop", now=LATER, adapters=wired)["action"] == "wait"


def test_one_of_another_task_is_withdrawn_since_answers_cannot_be_compared(wired: Any) -> None:
    other = wired.registry.deployment("shop", 2)
    schema = other.feature_schema.model_copy(update={"task": "regression"})
    wired.registry.record(other.model_copy(update={"feature_schema": schema}))
    judged = rollout.judge("shop", now=LATER, adapters=wired)
    assert (judged["action"], judged["reason"][:48]) == ("withdraw", "its task is regression and the champion's binary")


def test_one_trained_on_less_is_not_tried(wired: Any) -> None:
    wired.registry.retire("shop", "challenger", expected=2, reason="by hand", who="ada")
    older = deploy.run(DeploySpec(), make_verdict(wired.store, days=20, bias=0.7), ports=wired.ports)
    assert (older.alias, wired.aliases) == ("none", [1, None])


def test_where_nothing_is_promoted_by_itself_a_good_one_waits_for_a_person(wired: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tried(monkeypatch, PIPELINE.model_copy(update={"deploy": DeploySpec(promote="never")}))
    log(wired, rows(1, 1000) + rows(2, 400))
    judged = rollout.judge("shop", now=LATER, adapters=wired)
    assert judged["action"] == "wait"
    assert judged["reason"].startswith("deploy.promote is never: `mlops rollback shop --to 2` promotes it; 400 requests")


OUTCOMES = {"path": "", "event_time": "at", "columns": {"at": "timestamp", "prediction_id": "string", "sold": "string"}}


def with_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, labels: list[tuple[str, str, str]], **spec: Any) -> None:
    """Let labels come from a file with rows of time, prediction id and label."""
    path = tmp_path / "outcomes.csv"
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([("at", "prediction_id", "sold"), *labels])
    sources = {**PIPELINE.collect.sources, "outcomes": Source.model_validate(OUTCOMES | {"path": str(path)})}
    pipeline = PIPELINE.model_copy(update={"collect": PIPELINE.collect.model_copy(update={"sources": sources})})
    tried(monkeypatch, pipeline, labels="outcomes", **spec)


def test_labels_are_read_for_the_time_of_the_trial_alone(tmp_path: Path, wired: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    records = rows(1, 1000) + rows(2, 400)
    log(wired, records)
    known = [(NOW.isoformat(), row["prediction_id"], "yes" if row["prediction_score"] > 0.5 else "no") for row in records]
    with_labels(tmp_path, monkeypatch, [*known, ("2020-01-01T00:00Z", "1-1", "yes")], min_labelled=300)
    asked: list[Window | None] = []
    read = wired.sources.read

    def watched(source: Source, window: Window | None) -> Iterator[pa.RecordBatch]:
        asked.append(window)
        assert set(source.columns) == {"at", "prediction_id", "sold"}
        yield from read(source, window)

    monkeypatch.setattr(wired.sources, "read", watched)
    judged = rollout.judge("shop", now=LATER, adapters=wired)
    assert (judged["action"], judged["figures"]["challenger"]["labelled"]) == ("promote", 400)
    assert [window and (window.start, window.end) for window in asked] == [(NOW - timedelta(days=1), LATER + timedelta(days=1))]


def test_one_trained_on_older_data_is_withdrawn(wired: Any) -> None:
    wired.registry.promote("shop", "champion", 2, expected=1, reason="", who="")
    wired.registry.promote("shop", "challenger", 1, expected=2, reason="", who="")
    judged = rollout.judge("shop", now=LATER, adapters=wired)
    assert (judged["action"], judged["reason"]) == ("withdraw", "version 2, the champion, is trained on newer data")


def test_a_pipeline_that_tries_none_says_so(monkeypatch: pytest.MonkeyPatch, wired: Any) -> None:
    monkeypatch.setattr(rollout, "load_pipeline", lambda _: PIPELINE)
    with pytest.raises(NothingToDo, match=r"serve.challenger.mode is off, so no challenger is tried"):
        rollout.judge("shop", now=LATER, adapters=wired)
