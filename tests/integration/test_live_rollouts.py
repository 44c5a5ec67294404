"""Promotions and rollbacks of a served model, on a real MLflow registry, by processes of their own."""

from __future__ import annotations

import json
import multiprocessing
import os
import queue
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import yaml

from mlops_tasks.adapters.mlflow_registry import MlflowRegistry
from mlops_tasks.specs import DeploySpec
from mlops_tasks.stages import deploy
from tests.fakes import make_ports, make_run
from tests.judged_models import ROWS, make_verdict
from tests.mlflow_database import fresh_uri
from tests.served_pipeline import PIPELINE

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
LONGEST_ROLLBACK_S = 15.0
"""On a machine that does much else; on a quiet one it takes half a second."""


@dataclass(frozen=True)
class Shop:
    """The pipeline `shop` in folders of its own."""

    folder: Path
    environ: dict[str, str]

    @property
    def registry(self) -> MlflowRegistry:
        return MlflowRegistry(self.environ["MLFLOW_TRACKING_URI"])

    def deploy(self, *days: int, trial: bool = False, name: str = "shop") -> None:
        """Let models trained on so many days pass their gate one after another."""
        ports = make_ports(self.folder, run=make_run(pipeline=name), registry=self.registry)
        ports = replace(ports, run=replace(ports.run, trial=trial))
        for count in days:
            verdict = make_verdict(ports.store, days=count, bias=count / 100)
            against = {"champion_version": ports.registry.alias(name, "champion")}
            deploy.run(DeploySpec(), verdict.model_copy(update=against), ports=ports)

    def mlops(self, *argv: str, **environ: str) -> dict[str, Any]:
        command = [sys.executable, "-m", "mlops_tasks", *argv, "--json"]
        env = self.environ | environ
        done = subprocess.run(command, cwd=self.folder, env=env, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    folder = tmp_path / "pipelines" / "shop"
    folder.mkdir(parents=True)
    spec = PIPELINE.model_dump(mode="json", include={"name", "schedule", "features", "collect"})
    (folder / "pipeline.yaml").write_text(yaml.safe_dump(spec), encoding="utf-8")
    (folder / "features.sql").write_text("SELECT * FROM sales", encoding="utf-8")
    places = {
        "MLFLOW_TRACKING_URI": fresh_uri(tmp_path / "mlflow"),
        "MLOPS_STORE": str(tmp_path / "store"),
        "MLOPS_PIPELINES": str(tmp_path / "pipelines"),
        "PYTHONPATH": str(ROOT),
    }
    return Shop(tmp_path, os.environ | places)


class Server:
    """`mlops serve shop`."""

    def __init__(self, shop: Shop) -> None:
        self._said = shop.folder / "server.log"
        command = [sys.executable, "-m", "mlops_tasks", "serve", "shop", "--port", "0", "--poll", "5"]
        with self._said.open("wb") as said:
            self.process = subprocess.Popen(command, cwd=shop.folder, env=shop.environ, stdout=said, stderr=said)
        self.address = ""

    def wait_for(self, version: int) -> None:
        """Wait until it answers with a version."""
        until = time.monotonic() + 60
        while self.version() != version:
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < until, self.said()
            time.sleep(0.01)

    def version(self) -> int | None:
        """Return the version of an answer."""
        found = re.search(r"serving shop on (\S+)", self.said())
        if found is None:
            return None
        self.address = found[1]
        answer = httpx.post(f"{self.address}/invocations", json={"instances": ROWS[:1]}, timeout=20, trust_env=False)
        return int(answer.headers["x-model-version"]) if answer.is_success else None

    def said(self) -> str:
        return self._said.read_text(encoding="utf-8")


@pytest.fixture
def server(shop: Shop) -> Iterator[Server]:
    shop.deploy(30, 60)
    served = Server(shop)
    try:
        served.wait_for(2)
        yield served
    finally:
        served.process.send_signal(signal.SIGTERM)
        served.process.wait(60)


def test_one_command_puts_the_former_version_back_into_service(
    shop: Shop, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    began = time.monotonic()
    told = shop.mlops("rollback", "shop", "--reason", "complaints", MLOPS_SERVERS=server.address)
    server.wait_for(1)
    took = time.monotonic() - began
    assert told["servers"] == {server.address: "serves version 1"}
    assert [entry["reason"][:20] for entry in shop.registry.history("shop")][-1] == "rollback: complaints"
    with capsys.disabled():
        sys.stdout.write(f"\n`mlops rollback`: {took:.2f} s until the server answers with the former version\n")
    assert took < LONGEST_ROLLBACK_S


def settle_at_once(place: str, names: list[str], barrier: Any, results: Any) -> None:
    """Settle one model after another at the moment at which another process does."""
    from mlops_tasks.runner.rollout import settle  # noqa: PLC0415 - in the process that settles
    from mlops_tasks.wiring import Adapters  # noqa: PLC0415 - likewise

    adapters = Adapters({"MLFLOW_TRACKING_URI": place})
    for name in names:
        judged = {"model": name, "action": "promote", "reason": "good", "champion": 1, "challenger": 2}
        adapters.registry.history(name)
        barrier.wait(120)
        try:
            results.put((name, settle(judged, who=str(os.getpid()), adapters=adapters)["action"]))
        except Exception as error:  # noqa: BLE001 - whatever it is, the parent is told
            results.put((name, repr(error)))


@pytest.mark.slow
def test_two_processes_that_settle_at_once_promote_once(shop: Shop) -> None:
    names = [f"shop{number}" for number in range(4)]
    for name in names:
        shop.deploy(30, 60, trial=True, name=name)
    spawn = multiprocessing.get_context("spawn")
    barrier, results = spawn.Barrier(2), spawn.Queue()
    place = shop.environ["MLFLOW_TRACKING_URI"]
    settlers = [spawn.Process(target=settle_at_once, args=(place, names, barrier, results)) for _ in range(2)]
    for settler in settlers:
        settler.start()
    said: dict[str, list[str]] = {name: [] for name in names}
    try:
        for _ in range(2 * len(names)):
            name, action = results.get(timeout=120)
            said[name].append(action)
    except queue.Empty:
        pytest.fail(f"a settler said nothing: {said}")
    finally:
        for settler in settlers:
            settler.join(30)
            settler.kill()
    for name in names:
        assert set(said[name]) <= {"promote", "wait"}, said
        assert "promote" in said[name], said
        moves = [(entry["alias"], entry["from"], entry["to"]) for entry in shop.registry.history(name)]
        assert moves == [
            ("champion", "", "1"),
            ("challenger", "", "2"),
            ("champion", "1", "2"),
            ("challenger", "2", ""),
        ]
        assert [shop.registry.alias(name, alias) for alias in ("champion", "challenger")] == [2, None]
