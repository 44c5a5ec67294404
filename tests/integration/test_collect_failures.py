"""Collection that dies or runs out of disk leaves nothing half done, and a retry makes it whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mlops_tasks.adapters.local_store import LocalStore
from mlops_tasks.core.windows import windows_between
from mlops_tasks.errors import StoreUnavailable
from mlops_tasks.specs import CollectSpec
from mlops_tasks.stages import collect
from tests.fakes import make_ports

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlops_tasks.artifacts import FileRef, RawData

WINDOWS = windows_between(datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 1, 3, tzinfo=UTC), "day")
COMMITS = 7
"""One static table; for each of two windows one table of visits, one of weather, one manifest."""


class DyingStore(LocalStore):
    """Kills its process instead of making the nth commit."""

    def __init__(self, root: Path, deadly: int) -> None:
        super().__init__(root)
        self._left = deadly

    def _count(self) -> None:
        self._left -= 1
        if not self._left:
            os.kill(os.getpid(), signal.SIGKILL)

    def publish(self, source: Path, key: str, *, rows: int | None = None) -> FileRef:
        self._count()
        return super().publish(source, key, rows=rows)

    def create(self, key: str, data: bytes) -> bool:
        self._count()
        return super().create(key, data)


def run(data: Path, store: LocalStore) -> list[RawData]:
    files = {"visits": {"user": "string"}, "weather": {"temp": "float"}}
    sources: dict[str, object] = {
        name: {"path": f"{data}/{name}.csv", "event_time": "at", "columns": {"at": "timestamp", **columns}}
        for name, columns in files.items()
    }
    sources["users"] = {"path": f"{data}/users.csv", "columns": {"user": "string"}}
    spec = CollectSpec.model_validate({"sources": sources, "primary": "visits", "entity_key": ["user"]})
    return collect.run(spec, WINDOWS, ports=make_ports(data, store=store))


def write_visits(folder: Path, count: int) -> None:
    times = (f"2024-01-0{1 + 2 * n // count}T12:00:00Z" for n in range(count))
    rows = "".join(f"{time},user {n * 2_654_435_761 % 2**32}\n" for n, time in enumerate(times))
    (folder / "visits.csv").write_text(f"at,user\n{rows}")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    write_visits(folder, 10)
    (folder / "weather.csv").write_text("at,temp\n2024-01-01,1\n2024-01-02,2\n")
    (folder / "users.csv").write_text("user\nuser 1\n")
    return folder


def contents(store: LocalStore) -> dict[str, bytes]:
    return {key: store.read(key) for key in store.list("shop/")}


@pytest.mark.parametrize("deadly", [1, 2, 5, COMMITS])
def test_a_kill_at_any_commit_then_a_retry(tmp_path: Path, data: Path, deadly: int) -> None:
    clean = LocalStore(tmp_path / "clean")
    wanted = run(data, clean)
    assert len(contents(clean)) == COMMITS
    killed = subprocess.run(
        [sys.executable, __file__, str(data), str(tmp_path / "store"), str(deadly)],
        check=False,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert killed.returncode == -signal.SIGKILL
    store = LocalStore(tmp_path / "store")
    left = contents(store)
    assert len(left) < COMMITS
    assert left.items() <= contents(clean).items()
    assert run(data, store) == wanted
    assert contents(store) == contents(clean)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(folder)],
        check=False,
        capture_output=True,
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk(small_disk: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Stored side by side, it would be chance which of the windows' files meets the full disk first.
    monkeypatch.setattr("mlops_tasks.stages.collect.STORING_THREADS", 1)
    write_visits(data, 100_000)
    store = LocalStore(small_disk / "store")
    with pytest.raises(StoreUnavailable) as caught:
        run(data, store)
    assert str(caught.value) == (
        f"store {small_disk}/store: writing failed: No space left on device; free some space and run again"
    )
    whole = LocalStore(data / "whole")
    run(data, whole)
    assert contents(store).items() <= contents(whole).items()
    assert not list((small_disk / "store" / ".staging").iterdir())


if __name__ == "__main__":
    run(Path(sys.argv[1]), DyingStore(Path(sys.argv[2]), int(sys.argv[3])))
