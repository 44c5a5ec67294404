from __future__ import annotations

import asyncio
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mlops_tasks.errors import RegistryUnavailable
from mlops_tasks.serving.copies import Copies
from mlops_tasks.serving.gate import Gate
from mlops_tasks.serving.slot import Slot, load_folder
from mlops_tasks.serving.swapping import Swapper
from mlops_tasks.serving.watcher import Watcher
from mlops_tasks.specs import DeploySpec
from mlops_tasks.stages import deploy
from tests.fakes import FakeRegistry, make_ports
from tests.judged_models import make_verdict

if TYPE_CHECKING:
    from mlops_tasks.artifacts import Candidate, Verdict
    from mlops_tasks.ports import Ports
    from mlops_tasks.serve_specs import SwapMode
    from mlops_tasks.serving.slot import LoadedModel, Role
    from mlops_tasks.serving.watcher import LoadOutcome


class Flaky(FakeRegistry):
    down = False
    strange = False

    def alias(self, name: str, alias: str) -> int | None:
        if self.strange:
            missing = "registered_model"
            raise KeyError(missing)
        if self.down:
            msg = "MLflow at http://x: reading failed"
            raise RegistryUnavailable(msg)
        return super().alias(name, alias)


class Following:
    """A watcher, its slot, and what it announced."""

    def __init__(
        self, ports: Ports, copies: Path, *, trial: bool = False, version: int | None = None, swap: SwapMode = "auto"
    ) -> None:
        self.ports, self.said = ports, list[str]()
        self.slot = Slot("shop")
        swapper = Swapper(self.slot, Gate(), mode=swap, announce=self.said.append)
        known = Copies(copies, "shop", ports.registry)
        self.watcher = Watcher(
            ports.registry, self.slot, swapper, known, poll_s=1, trial=trial, version=version, announce=self.said.append
        )

    def load(self, version: int | None, role: Role = "champion") -> LoadOutcome:
        return asyncio.run(self.watcher.load(version, role))

    def look(self) -> int | None:
        asyncio.run(self.watcher.look())
        return self.slot.model.version if self.slot.model else None

    def deploy(self, days: int) -> None:
        deploy.run(DeploySpec(), make_verdict(self.ports.store, days=days, against=self.ports.registry), ports=self.ports)


@pytest.fixture
def registry() -> Flaky:
    return Flaky()


@pytest.fixture
def following(tmp_path: Path, registry: Flaky) -> Following:
    return Following(make_ports(tmp_path, registry=registry), tmp_path / "copies")


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


def test_an_answer_that_no_registry_gives_ends_nothing(following: Following, registry: Flaky, tmp_path: Path) -> None:
    following.deploy(30)
    following.look()
    registry.strange = True
    assert following.look() == 1
    assert following.slot.problem == "model shop: the registry's answer can't be used (KeyError); the log says more"
    restarted = Following(following.ports, tmp_path / "copies")
    assert restarted.look() == 1, "from its copy"
    registry.strange = False
    following.deploy(60)
    assert following.look() == 2
    assert following.slot.problem == ""


def test_keeps_serving_when_the_new_champion_does_not_load_and_takes_the_next(following: Following, registry: Flaky) -> None:
    following.deploy(30)
    following.look()
    following.deploy(60)
    registry.files["shop", 2]["model.onnx"] = b"broken"
    assert [following.look(), following.look()] == [1, 1]
    assert len(following.said) == 2
    assert following.said[1].startswith("model shop version 2: the registry's model.onnx is not the one deployed")
    following.deploy(90)
    assert following.look() == 3


def test_refuses_a_version_whose_golden_rows_differ(following: Following, registry: Flaky) -> None:
    following.deploy(30)
    following.look()
    following.deploy(60)
    golden = registry.files["shop", 2]["golden.json"]
    registry.files["shop", 2]["golden.json"] = golden.replace(b'"scores": [0.', b'"scores": [1.')
    del registry.records["shop", 2]  # as one registered by hand: nothing says which files it has
    assert golden != registry.files["shop", 2]["golden.json"]
    assert following.look() == 1
    assert following.slot.problem.startswith("model shop version 2: golden row 0 differs by 1")


def test_starts_from_its_copy_when_the_registry_is_down_and_reconciles_later(
    following: Following, registry: Flaky, tmp_path: Path
) -> None:
    following.deploy(30)
    following.look()
    registry.down = True
    again = Following(following.ports, tmp_path / "copies")
    assert again.look() == 1
    assert again.said == [
        "model shop: version 1 serves again, from its copy on this disk",
        "MLflow at http://x: reading failed",
    ]
    registry.down = False
    again.deploy(60)
    assert again.look() == 2
    assert again.slot.problem == ""


def test_in_a_single_slot_nothing_holds_the_old_model_while_the_new_one_is_loaded(
    registry: Flaky, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    following = Following(make_ports(tmp_path, registry=registry), tmp_path / "copies", swap="single-slot")
    following.deploy(30)
    following.look()
    assert following.slot.model is not None
    old, seen = weakref.ref(following.slot.model), list[object]()

    def load(*args: Any, **more: Any) -> LoadedModel:
        seen.append(old())
        return load_folder(*args, **more)

    monkeypatch.setattr("mlops_tasks.serving.swapping.load_folder", load)
    following.deploy(60)
    assert following.look() == 2
    assert seen == [None]


def test_without_a_copy_it_waits_for_the_registry(registry: Flaky, tmp_path: Path) -> None:
    registry.down = True
    following = Following(make_ports(tmp_path, registry=registry), tmp_path / "copies")
    assert following.look() is None
    assert following.slot.problem == "MLflow at http://x: reading failed"


def test_a_push_answers_what_serves_or_why_not(following: Following, registry: Flaky) -> None:
    following.deploy(30)
    first = following.load(1)
    assert (first.version, first.mode, first.problem) == (1, "hot", "")
    assert following.load(None).version == 1
    assert following.load(2).problem == "model shop: the registry's champion is not version 2; move the alias first"
    following.deploy(60)
    registry.files["shop", 2]["model.onnx"] = b"broken"
    refused = following.load(2)
    assert refused.version == 1
    assert refused.problem.startswith("model shop version 2: the registry's model.onnx is not the one deployed")
    assert "serve.challenger.mode is off" in following.load(1, "challenger").problem
    registry.down = True
    assert following.load(2).problem.startswith("model shop version 2")


def test_a_challenger_is_loaded_on_trial_and_flipped_when_it_is_promoted(registry: Flaky, tmp_path: Path) -> None:
    following = Following(make_ports(tmp_path, registry=registry), tmp_path / "copies", trial=True)
    following.deploy(30)
    following.ports.registry.register("shop", *_candidate(following.ports, 60))
    registry.promote("shop", "challenger", 2, expected=None, reason="", who="")
    following.look()
    tried = following.slot.challenger
    assert tried is not None
    assert tried.version == 2
    registry.promote("shop", "champion", 2, expected=1, reason="", who="")
    assert following.look() == 2
    assert following.slot.model is not None
    assert following.slot.model.scorer is tried.scorer
    assert following.slot.challenger is None


def _candidate(ports: Ports, days: int) -> tuple[Candidate, Verdict, dict[str, Path], dict[str, str]]:
    verdict = make_verdict(ports.store, days=days, against=ports.registry)
    files = {ref.key.rsplit("/", 1)[-1]: ports.store.open_local(ref) for ref in verdict.candidate.files}
    return verdict.candidate, verdict, files, {}


def test_a_pinned_server_serves_its_version_and_follows_nothing(following: Following, registry: Flaky, tmp_path: Path) -> None:
    following.deploy(30)
    following.deploy(60)
    pinned = Following(following.ports, tmp_path / "copies", version=1)
    assert pinned.look() == 1
    registry.promote("shop", "champion", 1, expected=2, reason="", who="")
    following.deploy(90)
    assert pinned.look() == 1
