"""Folders for unfinished work: removed at the end, or by the next process after a kill, never while their owner lives."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from mlops_tasks.adapters.local_store import LocalStore
from mlops_tasks.adapters.scratch import scratch, sweep


def die_holding(base: Path) -> None:
    """Leave a folder with a file in it, as a killed process does."""
    child = os.fork()
    if not child:
        with scratch(base) as folder:
            (folder / "half").write_text("hal")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)


def test_nothing_is_left(tmp_path: Path) -> None:
    with scratch(tmp_path, "a-") as folder:
        assert folder.name.startswith("a-")
        assert list(folder.iterdir()) == []
        (folder / "file").touch()
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), scratch(tmp_path) as folder:
        (folder / "file").write_text(str(1 / 0))
    assert list(tmp_path.iterdir()) == []


def test_the_dead_are_swept_and_the_living_stay(tmp_path: Path) -> None:
    die_holding(tmp_path)
    with scratch(tmp_path) as living:
        assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 2
        sweep(tmp_path)
        assert [path for path in tmp_path.iterdir() if path.is_dir()] == [living]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_made_again_on_behalf_of_a_dead_process_is_swept(tmp_path: Path) -> None:
    (tmp_path / "abc" / "part").mkdir(parents=True)
    sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine-1").mkdir()
    (tmp_path / "yours").mkdir()
    sweep(tmp_path, "mine-")
    assert [path.name for path in tmp_path.iterdir()] == ["yours"]
    sweep(tmp_path / "absent")


def test_a_store_sweeps_at_its_first_change(tmp_path: Path) -> None:
    die_holding(tmp_path / ".staging")
    store = LocalStore(tmp_path)
    assert list(store.list("")) == []
    assert list((tmp_path / ".staging").iterdir()) != []
    store.write("a/b", b"1")
    assert list((tmp_path / ".staging").iterdir()) == []
    assert list((tmp_path / "a").iterdir()) == [tmp_path / "a" / "b"]
