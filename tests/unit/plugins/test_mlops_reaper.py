from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException
from docker.errors import NotFound

import mlops_docker
from mlops_reaper import OWNING, Found, RemoveLostContainers, find_lost

NOW = datetime(2024, 1, 1, 12, tzinfo=UTC)


def container(
    name: str = "c", *, number: int = 1, ended: timedelta | None = None, map_index: int = -1, run: str = "r"
) -> Found:
    return Found(name, "shop.train", run, "train", number, map_index, ended is None, None if ended is None else NOW - ended)


def lost(*found: Found, state: str | None = "running", known: bool = True) -> dict[str, str]:
    def states(dag: str, run: str, task: str) -> Mapping[str, str | None]:
        assert (dag, task) == ("shop.train", "train")
        assert run
        return {"train": state, "train_3": state} if known else {}

    return {item.container: why for item, why in find_lost(found, states, NOW)}


@pytest.mark.parametrize("state", [*sorted(OWNING - {None}), None])  # type: ignore[type-var]  # all of the rest are text
def test_a_container_whose_task_goes_on_is_kept(state: str | None) -> None:
    assert lost(container(), container("e", ended=timedelta(minutes=5), run="other"), state=state) == {}


@pytest.mark.parametrize("state", ["success", "failed", "skipped", "upstream_failed", "removed"])
def test_a_container_whose_task_is_over_goes(state: str) -> None:
    assert lost(container(), state=state) == {"c": f"its task is {state}"}


def test_a_container_of_a_run_that_was_deleted_goes() -> None:
    assert lost(container(), known=False) == {"c": "Airflow knows no such task"}


def test_a_container_of_an_earlier_try_goes() -> None:
    assert lost(container("old"), container("new", number=3)) == {"old": "try 3 has a container of its own"}
    assert lost(container("a", map_index=3), container("b", number=3)) == {}


def test_an_answer_that_nobody_takes_goes_after_an_hour() -> None:
    assert lost(container(ended=timedelta(hours=2)), state="up_for_retry") == {
        "c": "it ended at 2024-01-01T10:00:00Z and nobody took its answer"
    }
    assert lost(container(ended=timedelta(minutes=50)), state="up_for_retry") == {}


@dataclass
class FakeEngine:
    """Containers by id, and what was removed."""

    there: dict[str, Any]
    asked: list[Any] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)

    def containers(self, **given: Any) -> list[dict[str, str]]:
        self.asked.append(given)
        return [{"Id": name} for name in [*self.there, "gone meanwhile"]]

    def inspect_container(self, name: str) -> Any:
        if name not in self.there:
            raise NotFound(name)
        return self.there[name]

    def remove_container(self, name: str, **_: Any) -> None:
        self.removed.append(name)


def inspected(name: str, run: str) -> dict[str, Any]:
    labels = {"deployment": "d", "dag": "shop.train", "run": run, "task": "train", "try": "1", "map_index": "-1"}
    state = {"Running": True, "Status": "running", "FinishedAt": "0001-01-01T00:00:00Z"}
    return {"Id": name, "Config": {"Labels": {f"io.mlops-tasks.{k}": v for k, v in labels.items()}}, "State": state}


def test_the_task_looks_at_this_installation_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FakeEngine({"lost": inspected("lost", "r1"), "owned": inspected("owned", "r2")})
    monkeypatch.setattr(mlops_docker, "connect", lambda _: engine)
    monkeypatch.setenv("MLOPS_DEPLOYMENT", "d")

    def states(dag_id: str, task_ids: list[str], run_ids: list[str]) -> dict[str, dict[str, str]]:
        assert (dag_id, task_ids) == ("shop.train", ["train"])
        return {run_ids[0]: {"train": {"r1": "failed", "r2": "running"}[run_ids[0]]}}

    given: Any = {"ti": SimpleNamespace(get_task_states=states)}
    assert RemoveLostContainers(task_id="reap").execute(given) == {"lost": "its task is failed"}
    assert engine.removed == ["lost"]
    assert engine.asked == [{"all": True, "filters": {"label": ["io.mlops-tasks.deployment=d"]}}]


def test_an_engine_that_is_away_fails_the_task(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with pytest.raises(AirflowException, match="Docker host"):
        RemoveLostContainers(task_id="reap").execute({})
