from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mlops_tasks.errors import RegistryUnavailable
from mlops_tasks.serving.slot import Slot
from mlops_tasks.serving.watcher import Watcher
from mlops_tasks.specs import DeploySpec
from mlops_tasks.stages import deploy
from tests.fakes import FakeRegistry, make_ports
from tests.judged_models import make_verdict

if TYPE_CHECKING:
    from mlops_tasks.ports import Ports


class Flaky(FakeRegistry):
    down = False

    def alias(self, name: str, alias: str) -> int | None:
        if self.down:
            msg = "MLflow at http://x: reading failed"
            raise RegistryUnavailable(msg)
        return super().alias(name, alias)


class Following:
    """A watcher, its slot, and what it announced."""

    def __init__(self, ports: Ports) -> None:
        self.ports, self.said = ports, list[str]()
        self.slot = Slot("shop")
        self.watcher = Watcher(ports.registry, self.slot, poll_s=1, announce=self.said.append)

    def look(self) -> int | None:
        asyncio.run(self.watcher.look())
        return self.slot.model.version if self.slot.model else None

    def deploy(self, days: int) -> None:
        deploy.run(DeploySpec(), make_verdict(self.ports.store, days=days), ports=self.ports)


@pytest.fixture
def registry() -> Flaky:
    return Flaky()


@pytest.fixture
def following(tmp_path: Path, registry: Flaky) -> Following:
    return Following(make_ports(tmp_path, registry=registry))


def test_waits_for_the_first_champion_then_follows(following: Following) -> None:
    assert [following.look(), following.look()] == [None, None]
    following.deploy(30)
    assert following.look() == 1
    following.deploy(60)
    assert [following.look(), following.look()] == [2, 2]
    assert following.said == [
        "model shop has no champion yet: waiting; `mlops run shop` makes the first",
        "model shop: version 1 serves",
        "model shop: version 2 serves after 1",
    ]


def test_keeps_serving_while_the_registry_is_down(following: Following, registry: Flaky) -> None:
    following.deploy(30)
    following.look()
    registry.down = True
    assert [following.look(), following.look()] == [1, 1]
    assert following.slot.problem == "MLflow at http://x: reading failed"
    assert following.said[1:] == ["MLflow at http://x: reading failed"]
    registry.down = False
    assert following.look() == 1
    assert following.slot.problem == ""


def test_keeps_serving_when_the_new_champion_does_not_load_and_takes_the_next(following: Following, registry: Flaky) -> None:
    following.deploy(30)
    following.look()
    following.deploy(60)
    registry.files["shop", 2]["model.onnx"] = b"broken"
    assert [following.look(), following.look()] == [1, 1]
    assert len(following.said) == 2
    assert following.said[1].startswith("model shop version 2 does not load: ")
    following.deploy(90)
    assert following.look() == 3


def test_refuses_a_version_whose_golden_rows_differ(following: Following, registry: Flaky) -> None:
    following.deploy(30)
    following.look()
    following.deploy(60)
    golden = registry.files["shop", 2]["golden.json"]
    registry.files["shop", 2]["golden.json"] = golden.replace(b'"scores": [0.', b'"scores": [1.')
    assert golden != registry.files["shop", 2]["golden.json"]
    assert following.look() == 1
    assert following.slot.problem.startswith("model shop version 2: golden row 0 differs by 1")


def test_files_of_a_replaced_version_are_removed(following: Following, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "models"))
    for days in (30, 60):
        following.deploy(days)
        following.look()
    assert [path.name.startswith("shop-2-") for path in (tmp_path / "models").iterdir()] == [True]
