from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest

from mlops_tasks.errors import ModelRejected, StoreUnavailable
from mlops_tasks.ports import Ports
from mlops_tasks.serving.copies import Copies
from mlops_tasks.serving.slot import load_folder
from mlops_tasks.specs import DeploySpec
from mlops_tasks.stages import deploy
from tests.fakes import FakeRegistry, make_ports
from tests.judged_models import make_verdict, write_beside


@pytest.fixture
def registry() -> FakeRegistry:
    return FakeRegistry()


@pytest.fixture
def ports(tmp_path: Path, registry: FakeRegistry) -> Ports:
    return make_ports(tmp_path, registry=registry)


def deploy_days(ports: Ports, *days: int) -> None:
    for number in days:
        deploy.run(DeploySpec(), make_verdict(ports.store, days=number, against=ports.registry), ports=ports)


def folders(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "shop").iterdir() if path.is_dir())


def test_a_copy_is_fetched_once_and_remembered_for_the_next_start(tmp_path: Path, ports: Ports, registry: FakeRegistry) -> None:
    deploy_days(ports, 30)
    copies = Copies(tmp_path / "copies", "shop", registry)
    version = copies.fetch(1, "champion")
    copies.remember({"champion": version})
    registry.files.clear()  # gone, and not asked for again
    assert copies.fetch(1, "champion") == version
    assert version.promotion["to"] == "1"
    assert Copies(tmp_path / "copies", "shop", registry).remembered() == {"champion": version}


def test_nothing_is_remembered_at_a_first_start(tmp_path: Path, registry: FakeRegistry) -> None:
    assert Copies(tmp_path, "shop", registry).remembered() == {}


def test_files_that_are_not_those_deployed_are_refused_and_leave_nothing(
    tmp_path: Path, ports: Ports, registry: FakeRegistry
) -> None:
    deploy_days(ports, 30)
    registry.files["shop", 1]["model.onnx"] += b"x"
    with pytest.raises(ModelRejected, match=r"version 1: the registry's model.onnx is not the one deployed"):
        Copies(tmp_path / "copies", "shop", registry).fetch(1, "champion")
    assert folders(tmp_path / "copies") == []


def test_weights_beside_the_graph_are_copied_for_all_to_read_and_verified(
    tmp_path: Path, ports: Ports, registry: FakeRegistry
) -> None:
    deploy.run(DeploySpec(), make_verdict(ports.store, write=write_beside), ports=ports)
    fetch = registry.fetch

    def private(name: str, version: int, target: Path) -> Path:
        folder = fetch(name, version, target)
        (folder / "model.onnx.data").chmod(0o600)
        return folder

    registry.fetch = private  # type: ignore[method-assign]  # as tools that write weights do
    copy = Copies(tmp_path / "copies", "shop", registry).fetch(1, "champion").folder
    assert (copy / "model.onnx.data").stat().st_mode & 0o777 == 0o644
    assert load_folder(copy, "shop", 1, tags={}, promotion={}).version == 1
    registry.files["shop", 1]["model.onnx.data"] += b"x"
    with pytest.raises(ModelRejected, match=r"version 1: the registry's model.onnx.data is not the one deployed"):
        Copies(tmp_path / "others", "shop", registry).fetch(1, "champion")
    assert folders(tmp_path / "others") == []


def test_the_same_number_in_another_registry_is_another_version(tmp_path: Path, ports: Ports, registry: FakeRegistry) -> None:
    deploy_days(ports, 30)
    first = Copies(tmp_path / "copies", "shop", registry).fetch(1, "champion")
    other = make_ports(tmp_path / "other", registry=FakeRegistry())
    deploy_days(other, 60)
    second = Copies(tmp_path / "copies", "shop", other.registry).fetch(1, "champion")
    assert first.folder != second.folder


def test_only_the_latest_copies_stay_and_never_one_that_another_process_uses(
    tmp_path: Path, ports: Ports, registry: FakeRegistry
) -> None:
    deploy_days(ports, 30, 60, 90, 120, 150)
    other = Copies(tmp_path / "copies", "shop", registry)
    held = other.fetch(1, "champion").folder.name
    copies = Copies(tmp_path / "copies", "shop", registry)
    for number in (2, 3, 4, 5):
        copies.remember({"champion": copies.fetch(number, "champion")})
    kept = folders(tmp_path / "copies")
    assert [name.split("-")[0] for name in kept] == ["1", "3", "4", "5"]
    assert held in kept


def _download_and_die(root: Path, registry: FakeRegistry) -> None:
    fetch = registry.fetch

    def dying(name: str, version: int, target: Path) -> Path:
        fetch(name, version, target)
        os._exit(9)

    registry.fetch = dying  # type: ignore[method-assign]  # the moment of the kill
    Copies(root, "shop", registry).fetch(1, "champion")


def test_a_download_that_was_killed_leaves_no_copy_and_is_swept(tmp_path: Path, ports: Ports, registry: FakeRegistry) -> None:
    deploy_days(ports, 30)
    process = multiprocessing.get_context("fork").Process(target=_download_and_die, args=(tmp_path / "copies", registry))
    process.start()
    process.join(30)
    assert process.exitcode == 9
    assert [name.startswith(".part-") for name in folders(tmp_path / "copies")] == [True]
    copies = Copies(tmp_path / "copies", "shop", registry)
    assert folders(tmp_path / "copies") == []
    assert copies.fetch(1, "champion").folder.is_dir()


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path, registry: FakeRegistry) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(StoreUnavailable, match=r"copies of model shop in .*: Not a directory; make room, or set MLOPS_"):
        Copies(tmp_path / "file", "shop", registry)
