"""From what monitors recorded to a training that is started once, whoever looks and whoever dies."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import pytest

from mlops_tasks.artifacts import Window
from mlops_tasks.cli import retrain as command
from mlops_tasks.core.drift import WindowRecord
from mlops_tasks.core.retraining import RetrainOutcome, RetrainRequest
from mlops_tasks.errors import SpecError, StoreUnavailable
from mlops_tasks.runner import retraining
from mlops_tasks.runner.retraining import Trainings, read_state, read_trainings, reconcile, resume, review, settle_outcomes
from mlops_tasks.specs import DeploySpec
from mlops_tasks.stages import deploy
from tests.fakes import NOW, FakeRegistry, make_ports
from tests.judged_models import make_verdict
from tests.served_pipeline import PIPELINE

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path

    from mlops_tasks.ports import ArtifactStore, Ports

DAY = timedelta(days=1)


@dataclass
class Wired:
    """A deployed model, monitored windows, and Airflow's runs as a table."""

    ports: Ports
    runs: dict[str, str]

    @property
    def store(self) -> ArtifactStore:
        return self.ports.store

    @property
    def registry(self) -> Any:
        return self.ports.registry

    def window(self, day: int) -> Window:
        """Return a window after the end of what version 1 was trained on."""
        end = self.registry.deployment("shop", 1).training.end
        return Window(start=end + day * DAY, end=end + (day + 1) * DAY)

    def monitored(self, day: int, *, alarm: bool = True, version: int = 1, intent: Any = "scheduled") -> None:
        record = WindowRecord(
            window=self.window(day),
            model_version=version,
            features="f",
            status="alarm" if alarm else "ok",
            columns=("price",),
            reason=f"price moved on day {day}",
            rows=100,
            intent=intent,
        )
        self.store.write(f"shop/monitor/{version}/{record.window.label}.json", record.model_dump_json().encode())

    def look(self, now: datetime = NOW) -> retraining.Reconciled:
        return reconcile("shop", now=now, run_state=self.runs.get, adapters=self)  # type: ignore[arg-type]  # what it needs of them

    def ends(self, request: RetrainRequest, state: str = "success", **results: Any) -> None:
        for stage, result in results.items():
            key = f"shop/runs/train-{request.run_id}/{stage}.json"
            self.store.write(key, json.dumps({"results": [result]}).encode())
        self.runs[request.run_id] = state

    def outcome(self, number: int) -> RetrainOutcome:
        return RetrainOutcome.model_validate_json(self.store.read(f"shop/retraining/outcomes/{number:06d}.json"))

    def requests(self) -> list[str]:
        return [key.rsplit("/", 1)[-1] for key in self.store.list("shop/retraining/requests/")]


def spec_of(_: str) -> Any:
    return PIPELINE.model_copy(update={"retrain": PIPELINE.retrain.model_copy(update={"cooldown": 3 * DAY, "max_rejected": 2})})


@pytest.fixture
def wired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Wired:
    monkeypatch.setattr(retraining, "load_pipeline", spec_of)
    monkeypatch.setattr(retraining, "pipeline_names", lambda: ["shop"])
    ports = make_ports(tmp_path, registry=FakeRegistry())
    deploy.run(DeploySpec(), make_verdict(ports.store, days=30, bias=0.3), ports=ports)
    assert ports.registry.alias("shop", "champion") == 1
    return Wired(ports, {})


def started(found: retraining.Reconciled) -> RetrainRequest:
    assert found.action == "start", found
    assert found.request is not None
    return found.request


def test_without_a_model_or_a_monitored_window_nothing_is_decided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retraining, "load_pipeline", spec_of)
    monkeypatch.setattr(retraining, "pipeline_names", lambda: ["shop"])
    empty = Wired(make_ports(tmp_path, registry=FakeRegistry()), {})
    assert empty.look().reason == "shop: no window was monitored under a champion yet, so there is nothing to decide on"


def test_two_alarms_ask_for_one_training_on_the_latest_range(wired: Wired) -> None:
    wired.monitored(0)
    assert wired.look().action == "none"
    wired.monitored(1)
    request = started(wired.look())
    assert (request.number, request.model_version, request.end) == (1, 1, wired.window(1).end)
    assert request.end - request.start <= PIPELINE.retrain.range
    assert request.start >= PIPELINE.schedule.start
    assert request.run_id == f"drift__{wired.window(1).end:%Y-%m-%dT%H}__1"
    assert request.reason == "2 windows alarmed, the latest: price moved on day 1"
    told = json.loads(wired.store.read(f"shop/retraining/decisions/{wired.window(1).end:%Y-%m-%dT%H}.json"))
    assert (told["action"], told["reason"]) == ("train", request.reason)


def test_who_dies_between_decision_and_start_leaves_it_to_the_next(wired: Wired) -> None:
    for day in (0, 1):
        wired.monitored(day)
    first = started(wired.look())
    wired.monitored(2)  # the run was never made, and a window came meanwhile
    assert started(wired.look()) == first
    wired.runs[first.run_id] = "queued"
    assert wired.look().action == "wait"
    assert wired.requests() == ["000001.json"]


def test_who_dies_before_the_request_is_written_leaves_nothing_half_done(wired: Wired, monkeypatch: pytest.MonkeyPatch) -> None:
    for day in (0, 1):
        wired.monitored(day)

    def killed(*_: Any) -> bool:
        msg = "the disk is gone"
        raise StoreUnavailable(msg)

    with monkeypatch.context() as patch:
        patch.setattr(type(wired.store), "create", killed)
        with pytest.raises(StoreUnavailable):
            wired.look()
    assert wired.requests() == []
    assert started(wired.look()).number == 1


def test_two_that_look_at_once_start_the_same_training(wired: Wired) -> None:
    for day in (0, 1):
        wired.monitored(day)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: wired.look(), range(16)))
    assert {started(item).run_id for item in found} == {started(found[0]).run_id}
    assert wired.requests() == ["000001.json"]


@pytest.mark.parametrize(
    ("results", "state", "became", "reason"),
    [
        ({"deploy": {"alias": "champion", "version": 2}}, "success", "promoted", "version 2 became champion"),
        ({"deploy": {"alias": "challenger", "version": 2}}, "success", "challenger", "version 2 became challenger"),
        ({"deploy": {"alias": "none", "version": 2}}, "success", "registered", "registered only"),
        (
            {"evaluate": {"passed": False, "judgements": [{"passed": True, "reason": "a"}, {"passed": False, "reason": "b"}]}},
            "success",
            "rejected",
            "b",
        ),
        ({"evaluate": {"passed": True, "judgements": []}}, "failed", "failed", "ended without a model"),
        ({}, "failed", "failed", "ended without a model"),
    ],
)
def test_what_became_of_a_training_is_kept(wired: Wired, results: dict[str, Any], state: str, became: str, reason: str) -> None:
    for day in (0, 1):
        wired.monitored(day)
    request = started(wired.look())
    wired.ends(request, state, **results)
    wired.look()
    assert wired.outcome(1).state == became
    assert reason in wired.outcome(1).reason


def test_a_look_decides_on_what_it_settled_and_reads_each_record_once(wired: Wired) -> None:
    for day in (0, 1):
        wired.monitored(day)
    wired.ends(started(wired.look()), "failed")
    for day in range(2, 6):
        wired.monitored(day)
    reads, lists = counted(wired, lambda: started(wired.look(NOW + timedelta(days=8))))
    assert wired.outcome(1).state == "failed"
    assert wired.requests() == ["000001.json", "000002.json"], "the first had ended, so it held nothing back"
    assert [key for key in reads if "/retraining/re" in key] == ["shop/retraining/requests/000001.json"]
    assert sorted(prefix for prefix in lists if "/retraining/" in prefix) == [
        f"shop/retraining/{kind}/" for kind in ("outcomes", "requests", "resumptions")
    ]


def test_an_outcome_that_another_wrote_first_is_the_one_that_counts(wired: Wired) -> None:
    for day in (0, 1):
        wired.monitored(day)
    request = started(wired.look())

    def run_state(run_id: str) -> str:
        wired.ends(request, deploy={"alias": "champion", "version": 2})
        wired.look()  # another one settles meanwhile
        wired.ends(request, deploy={"alias": "none", "version": 2})
        return wired.runs[run_id]

    settled = settle_outcomes(wired.store, "shop", now=NOW, run_state=run_state)
    assert settled == Trainings([request], {1: wired.outcome(1)})
    assert settled.outcomes[1].state == "promoted"


@pytest.mark.parametrize(("error", "state"), [(None, "failed"), (SpecError("x"), "failed"), (StoreUnavailable("x"), None)])
def test_the_command_says_what_is_due_and_settles_what_it_ran(
    wired: Wired, monkeypatch: pytest.MonkeyPatch, error: Exception | None, state: str | None
) -> None:
    adapters: Any = wired
    monkeypatch.setattr(command, "load_pipeline", spec_of)
    monkeypatch.setattr(command, "run_loop", Mock(side_effect=error))
    for day in (0, 1):
        wired.monitored(day)
    assert command._say("shop", NOW, adapters)["action"] == "train"
    with pytest.raises(type(error)) if error else nullcontext():
        command._train("shop", NOW, adapters)
    settled = read_trainings(wired.store, "shop")
    assert len(settled.requests) == 1
    assert (settled.outcomes[1].state if settled.outcomes else None) == state
    assert command._say("shop", NOW, adapters)["outstanding"] == (None if state else settled.requests[0].run_id)


def test_a_judged_model_that_waits_for_a_person_is_not_over(wired: Wired) -> None:
    for day in (0, 1):
        wired.monitored(day)
    wired.ends(started(wired.look()), "running", evaluate={"passed": True, "judgements": []})
    assert wired.look().action == "wait"
    assert not wired.store.exists("shop/retraining/outcomes/000001.json")


def test_refused_candidates_open_the_breaker_until_somebody_resumes(wired: Wired) -> None:
    refused = {"passed": False, "judgements": [{"passed": False, "reason": "AUC 0.5 is below the required 0.6"}]}
    day = 0
    for number in (1, 2):
        for _ in range(4):
            wired.monitored(day)
            day += 1
        request = started(wired.look(NOW + number * timedelta(days=8)))
        assert request.number == number
        wired.ends(request, evaluate=refused)
    for _ in range(4):
        wired.monitored(day)
        day += 1
    later = NOW + timedelta(days=40)
    held = wired.look(later)
    assert held.action == "wait"
    assert "the last 2 candidates were refused or failed" in held.reason
    assert held.reason.endswith("AUC 0.5 is below the required 0.6")

    done = resume("shop", who="ada", reason="the source was mended", now=later, adapters=wired)  # type: ignore[arg-type]  # see look
    assert done.after == 2
    assert started(wired.look(later)).number == 3


def test_a_new_champion_is_looked_at_by_its_own_windows(wired: Wired) -> None:
    for day in (0, 1):
        wired.monitored(day)
    wired.ends(started(wired.look()), deploy={"alias": "champion", "version": 2})
    deploy.run(DeploySpec(), make_verdict(wired.store, days=32, bias=0.32, against=wired.registry), ports=wired.ports)
    assert wired.registry.alias("shop", "champion") == 2
    for day in (2, 3, 4, 5):
        wired.monitored(day)  # late, under the model before
    assert wired.look().action == "none"
    for day in (6, 7):
        wired.monitored(day, version=2)
    assert started(wired.look()).model_version == 2


def test_windows_that_a_person_called_in_order_ask_for_nothing(wired: Wired) -> None:
    for day in (0, 1):
        wired.monitored(day)
    wired.store.write(f"shop/monitor/acknowledged/{wired.window(0).label}.json", b"{}")
    assert wired.look().action == "none"


def test_a_backfills_alarms_never_ask(wired: Wired) -> None:
    for day in range(5):
        wired.monitored(day, intent="backfill")
    assert wired.look().action == "none"


def test_a_pipeline_that_watches_the_production_data_of_a_model_trains_it(
    wired: Wired, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(name: str) -> Any:
        if name == "broken":
            msg = "broken: is broken"
            raise SpecError(msg)
        watching = PIPELINE.monitor.model_copy(update={"model": "shop"})
        return spec_of(name) if name == "shop" else PIPELINE.model_copy(update={"name": name, "monitor": watching})

    monkeypatch.setattr(retraining, "load_pipeline", load)
    monkeypatch.setattr(retraining, "pipeline_names", lambda: ["broken", "shop", "watch"])
    for day in (0, 1):
        record = json.loads(_record(wired, day))
        wired.store.write(f"watch/monitor/1/{wired.window(day).label}.json", json.dumps(record).encode())
    assert started(wired.look()).reason.endswith("price moved on day 1")


def _record(wired: Wired, day: int) -> bytes:
    wired.monitored(day)
    key = f"shop/monitor/1/{wired.window(day).label}.json"
    data = wired.store.read(key)
    wired.store.delete(key)
    return data


def test_only_windows_that_can_matter_are_read(wired: Wired) -> None:
    for day in range(80):
        wired.monitored(day, alarm=day < 2)
    wired.ends(started(wired.look()), deploy={"alias": "none", "version": 2})
    wired.look()
    known = read_trainings(wired.store, "shop")
    reads, _ = counted(wired, lambda: read_state(spec_of("shop"), wired, known, now=NOW))  # type: ignore[arg-type]  # see look
    assert sum("/monitor/" in key for key in reads) < 80
    pipeline = spec_of("shop")
    everything = pipeline.model_copy(update={"retrain": pipeline.retrain.model_copy(update={"new_rows": 8001})})
    state = read_state(everything, wired, known, now=NOW)  # type: ignore[arg-type]  # see look
    assert state is not None
    assert sum(item.rows for item in state.drift) == 8000
    assert review(everything, state).action == "none"
    assert review(everything, replace(state, drift=[*state.drift, state.drift[-1]])).reason.startswith("8,100 rows came")


def counted(wired: Wired, work: Callable[[], object]) -> tuple[list[str], list[str]]:
    """Return the keys that are read and the prefixes that are listed meanwhile."""
    reads, lists = list[str](), list[str]()
    kind = type(wired.store)
    read, list_keys = kind.read, kind.list

    def reading(self: Any, key: str) -> bytes:
        reads.append(key)
        return read(self, key)

    def listing(self: Any, prefix: str) -> Any:
        lists.append(prefix)
        return list_keys(self, prefix)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "read", reading)
        patch.setattr(kind, "list", listing)
        work()
    return reads, lists
