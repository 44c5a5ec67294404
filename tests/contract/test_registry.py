"""What every model registry must do: the fake in memory, MLflow on SQLite and MLflow behind its server."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mlops_tasks.adapters.local_store import LocalStore
from mlops_tasks.adapters.mlflow_registry import MlflowRegistry
from mlops_tasks.errors import ModelRejected
from mlops_tasks.specs import DeploySpec
from mlops_tasks.stages import deploy
from tests.fakes import FakeRegistry, make_ports
from tests.judged_models import make_verdict
from tests.mlflow_database import fresh_uri

if TYPE_CHECKING:
    from mlops_tasks.artifacts import Verdict
    from mlops_tasks.ports import ModelRegistry


KINDS = ["sqlite", pytest.param("server", marks=pytest.mark.slow)]
shared = pytest.mark.parametrize("registry", KINDS, indirect=True)
"""For what only processes at once can show: the fake serves one thread."""


@pytest.fixture(params=["fake", *KINDS])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> ModelRegistry:
    if request.param == "fake":
        return FakeRegistry()
    if request.param == "sqlite":
        return MlflowRegistry(fresh_uri(tmp_path / "mlflow"))
    return MlflowRegistry(request.getfixturevalue("mlflow_server"))


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    return f"model_{abs(hash(request.node.name))}"


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def register(registry: ModelRegistry, name: str, store: LocalStore, verdict: Verdict) -> int:
    files = {ref.key.rsplit("/", 1)[-1]: store.open_local(ref) for ref in verdict.candidate.files}
    return registry.register(name, verdict.candidate, verdict, files, {"mlops.intent": "manual"})


def test_registers_once_per_fingerprint(registry: ModelRegistry, name: str, store: LocalStore) -> None:
    first, second = make_verdict(store, days=30), make_verdict(store, days=60)
    assert [register(registry, name, store, verdict) for verdict in (first, second, first)] == [1, 2, 1]
    newest, oldest = registry.versions(name)
    assert (newest.version, oldest.version) == (2, 1)
    assert (oldest.fingerprint, oldest.aliases, oldest.tags["mlops.intent"]) == (first.candidate.fingerprint, (), "manual")


def test_fetch_gives_the_registered_files(registry: ModelRegistry, name: str, store: LocalStore, tmp_path: Path) -> None:
    verdict = make_verdict(store)
    folder = registry.fetch(name, register(registry, name, store, verdict), tmp_path / "fetched")
    for ref in verdict.candidate.files:
        assert (folder / ref.key.rsplit("/", 1)[-1]).read_bytes() == store.open_local(ref).read_bytes()


def test_an_unknown_model_has_nothing(registry: ModelRegistry, name: str) -> None:
    assert (registry.versions(name), registry.alias(name, "champion"), registry.history(name)) == ([], None, [])
    with pytest.raises(KeyError):
        registry.deployment(name, 1)


def test_promote_compares_and_swaps_and_writes_the_ledger(registry: ModelRegistry, name: str, store: LocalStore) -> None:
    for days in (30, 60):
        register(registry, name, store, make_verdict(store, days=days))
    registry.promote(name, "champion", 1, expected=None, reason="first", who="ann")
    with pytest.raises(ModelRejected):
        registry.promote(name, "champion", 2, expected=None, reason="late", who="bob")
    assert registry.alias(name, "champion") == 1
    registry.promote(name, "champion", 2, expected=1, reason="better: größer", who="bob")
    registry.promote(name, "challenger", 1, expected=None, reason="again", who="bob")
    assert [known.aliases for known in registry.versions(name)] == [("champion",), ("challenger",)]
    moves = [(e["alias"], e["from"], e["to"], e["reason"], e["who"]) for e in registry.history(name)]
    assert moves == [
        ("champion", "", "1", "first", "ann"),
        ("champion", "1", "2", "better: größer", "bob"),
        ("challenger", "", "1", "again", "bob"),
    ]
    assert all(e.keys() == {"at", "alias", "from", "to", "reason", "who"} for e in registry.history(name))


def test_retire_takes_an_alias_away_once_and_writes_the_ledger(registry: ModelRegistry, name: str, store: LocalStore) -> None:
    register(registry, name, store, make_verdict(store))
    registry.promote(name, "challenger", 1, expected=None, reason="try", who="ann")
    with pytest.raises(ModelRejected):
        registry.retire(name, "challenger", expected=2, reason="another", who="bob")
    registry.retire(name, "challenger", expected=1, reason="worse", who="bob")
    assert registry.alias(name, "challenger") is None
    assert [(e["from"], e["to"], e["reason"]) for e in registry.history(name)] == [("", "1", "try"), ("1", "", "worse")]
    registry.promote(name, "challenger", 1, expected=None, reason="once more", who="ann")
    assert registry.alias(name, "challenger") == 1


def test_promote_refuses_a_version_that_is_not_there(registry: ModelRegistry, name: str, store: LocalStore) -> None:
    register(registry, name, store, make_verdict(store))
    with pytest.raises(ModelRejected, match="there is no version 9"):
        registry.promote(name, "champion", 9, expected=None, reason="", who="")
    assert registry.history(name) == []


@shared
def test_of_many_promotions_at_once_one_wins(registry: ModelRegistry, name: str, store: LocalStore) -> None:
    for days in range(30, 34):
        register(registry, name, store, make_verdict(store, days=days))

    def promote(version: int) -> int:
        try:
            registry.promote(name, "champion", version, expected=None, reason="", who=str(version))
        except ModelRejected:
            return 0
        return version

    with ThreadPoolExecutor(4) as pool:
        won = [version for version in pool.map(promote, range(1, 5)) if version]
    assert len(won) == 1
    assert registry.alias(name, "champion") == won[0]
    assert [e["to"] for e in registry.history(name)] == [str(won[0])]


@shared
def test_of_many_registrations_at_once_one_stays(registry: ModelRegistry, name: str, store: LocalStore) -> None:
    verdict = make_verdict(store)
    with ThreadPoolExecutor(3) as pool:
        versions = set(pool.map(lambda _: register(registry, name, store, verdict), range(3)))
    assert len(versions) == 1
    assert [known.version for known in registry.versions(name)] == list(versions)


def test_a_whole_deployment_and_its_record(registry: ModelRegistry, tmp_path: Path) -> None:
    ports = make_ports(tmp_path, registry=registry)
    deployment = deploy.run(DeploySpec(), make_verdict(ports.store), ports=ports)
    assert registry.deployment("shop", deployment.version) == deployment
    assert registry.alias("shop", "champion") == deployment.version
    assert deploy.run(DeploySpec(), make_verdict(ports.store), ports=ports) == deployment
