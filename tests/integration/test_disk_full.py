"""A disk that fills up during any stage ends it with a sentence, nothing half done; with space again the retry is whole."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.integration.tiny_pipeline import CONSUMES, NAME, RUN
from tests.integration.wholeness import assert_nothing_partial, assert_whole, unfinished

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.integration.conftest import Undisturbed
    from tests.integration.crashing import Mortals
    from tests.integration.tiny_pipeline import Home

pytestmark = [pytest.mark.spark, pytest.mark.slow]
SIZE_MB = 64
PAGE = 4096


@dataclass(frozen=True)
class Disk:
    """A small disk of its own."""

    folder: Path

    def fill(self, free: int) -> None:
        """Leave `free` bytes, rounded down to whole pages."""
        with (self.folder / "filler").open("wb", buffering=0) as filler:
            try:
                while True:
                    filler.write(bytes(PAGE))
            except OSError:
                filler.truncate(max(0, filler.tell() // PAGE - free // PAGE) * PAGE)

    def grow(self) -> None:
        """Make room."""
        subprocess.run(["mount", "-o", f"remount,size={2 * SIZE_MB}m", str(self.folder)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MB}m", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    yield Disk(folder)
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def needed(before: Home, after: Home) -> int:
    """Return by how many bytes, in whole pages, a stage lets a store grow."""
    sizes = [
        sum(-(-path.stat().st_size // PAGE) * PAGE for path in home.store_folder.rglob("*") if path.is_file())
        for home in (before, after)
    ]
    return sizes[1] - sizes[0]


@pytest.mark.parametrize("share", [0, 0.6])
@pytest.mark.parametrize("stage", CONSUMES)
def test_a_full_store(  # noqa: PLR0917 - fixtures come by name
    stage: str, share: float, disk: Disk, undisturbed: Undisturbed, mortals: Mortals, tmp_path: Path
) -> None:
    before, whole = undisturbed.before(stage), undisturbed.after(stage)
    home = before.copy(disk.folder / "store", tmp_path / "mlflow")
    disk.fill(int(share * needed(before, whole)))
    ended = mortals.run(home.command(stage), home.environ)
    assert ended.code == 5, ended.err
    assert (ended.result["error"], ended.result["exit_code"]) == ("StoreUnavailable", 5)
    message = ended.result["message"]
    assert str(home.store_folder) in message
    assert "No space left on device" in message
    assert message.endswith("free some space and run again")
    assert not home.store.exists(f"{NAME}/runs/{RUN}/{stage}.json")
    assert_nothing_partial(home, whole)
    assert unfinished(home) == []
    disk.grow()
    ended = mortals.run(home.command(stage), home.environ)
    assert ended.code == 0, ended.err
    assert_whole(home, whole, stage)


@pytest.mark.parametrize(("stage", "free"), [("train", 0), ("train", 2 * PAGE), ("deploy", 0), ("deploy", 40_000)])
def test_a_full_disk_of_mlflow(  # noqa: PLR0917 - fixtures come by name
    stage: str, free: int, disk: Disk, undisturbed: Undisturbed, mortals: Mortals, tmp_path: Path
) -> None:
    whole = undisturbed.after(stage)
    home = undisturbed.before(stage).copy(tmp_path / "store", disk.folder / "mlflow")
    disk.fill(free)
    ended = mortals.run(home.command(stage), home.environ)
    assert ended.code == 6, ended.err
    message = ended.result["message"]
    assert message.startswith(f"MLflow at {home.mlflow_uri}: ")
    assert message.endswith("its disk is full; free some space and run again")
    assert not home.store.exists(f"{NAME}/runs/{RUN}/{stage}.json")
    assert_nothing_partial(home, whole)
    disk.grow()
    ended = mortals.run(home.command(stage), home.environ)
    assert ended.code == 0, ended.err
    assert_whole(home, whole, stage)


@pytest.mark.parametrize("stage", ["train", "deploy"])
def test_a_full_disk_of_both(stage: str, disk: Disk, undisturbed: Undisturbed, mortals: Mortals) -> None:
    whole = undisturbed.after(stage)
    home = undisturbed.before(stage).copy(disk.folder / "store", disk.folder / "mlflow")
    disk.fill(0)
    ended = mortals.run(home.command(stage), home.environ)
    assert ended.code in {5, 6}, ended.err
    assert ended.result["message"].endswith("free some space and run again")
    assert_nothing_partial(home, whole)
    disk.grow()
    ended = mortals.run(home.command(stage), home.environ)
    assert ended.code == 0, ended.err
    assert_whole(home, whole, stage)
