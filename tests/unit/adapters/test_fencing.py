"""What a try that was given up may still do: read, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from mlops_tasks.adapters.fencing import Fence, FencedRegistry, FencedStore, numbers
from mlops_tasks.adapters.local_store import LocalStore
from mlops_tasks.artifacts import Deployment
from mlops_tasks.errors import Superseded
from tests.fakes import FakeRegistry

TRIES = "shop/tries/r/deploy/"


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    store = LocalStore(tmp_path / "store")
    store.write(f"{TRIES}0001/assignment.json", b"{}")
    return store


def superseded(store: LocalStore) -> None:
    store.write(f"{TRIES}0010/assignment.json", b"{}")


def test_the_latest_try_changes_what_it_likes(store: LocalStore, tmp_path: Path) -> None:
    fenced = FencedStore(store, Fence(store, TRIES, 1))
    fenced.write("shop/a", b"1")
    assert fenced.create("shop/b", b"2")
    (tmp_path / "file").write_bytes(b"3")
    assert fenced.publish(tmp_path / "file", "shop/c").bytes == 1
    fenced.delete("shop/b")
    assert [key for key in store.list("shop/") if "tries" not in key] == ["shop/a", "shop/c"]


def test_a_superseded_try_changes_nothing(store: LocalStore, tmp_path: Path) -> None:
    store.write("shop/a", b"kept")
    fenced = FencedStore(store, Fence(store, TRIES, 1))
    superseded(store)
    (tmp_path / "file").write_bytes(b"3")
    before = list(store.list(""))
    for change in (
        lambda: fenced.write("shop/a", b"1"),
        lambda: fenced.create("shop/b", b"2"),
        lambda: fenced.publish(tmp_path / "file", "shop/c"),
        lambda: fenced.delete("shop/a"),
    ):
        with pytest.raises(Superseded, match="try 1 of shop/tries/r/deploy/ was superseded by try 10"):
            change()
    assert list(store.list("")) == before
    assert store.read("shop/a") == b"kept"


def test_a_superseded_try_still_reads(store: LocalStore) -> None:
    fenced = cast("Any", FencedStore(store, Fence(store, TRIES, 1)))
    superseded(store)
    store.write("shop/a", b"1")
    assert fenced.read("shop/a") == b"1"
    assert fenced.root == store.root


def test_a_superseded_try_promotes_nothing(store: LocalStore) -> None:
    registry = FakeRegistry()
    fenced = FencedRegistry(registry, Fence(store, TRIES, 1))
    superseded(store)
    nothing = cast("Any", None)
    with pytest.raises(Superseded):
        fenced.register("shop", nothing, nothing, {}, {})
    with pytest.raises(Superseded):
        fenced.promote("shop", "champion", 1, expected=None, reason="", who="")
    with pytest.raises(Superseded):
        fenced.record(cast("Deployment", None))
    assert (registry.registered, registry.named, registry.records) == ([], {}, {})
    assert cast("Any", fenced).alias("shop", "champion") is None


def test_files_are_checked_at_most_once_a_second(store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("mlops_tasks.adapters.fencing.time.monotonic", lambda: now[0])
    fenced = FencedStore(store, Fence(store, TRIES, 1))

    def publish() -> None:
        (tmp_path / "file").write_bytes(b"3")
        fenced.publish(tmp_path / "file", "shop/c")

    publish()
    superseded(store)
    now[0] = 0.9
    publish()
    now[0] = 1.1
    with pytest.raises(Superseded):
        publish()


def test_only_folders_with_numbers_are_tries(store: LocalStore) -> None:
    store.write(f"{TRIES}notes/x", b"")
    store.write("shop/tries/r/deployed/0099/assignment.json", b"")
    superseded(store)
    assert numbers(store, TRIES) == {1, 10}
