"""A hundred swaps under load, in both modes, lose no request; a model that can't be there twice is swapped in its only slot."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from mlops_tasks.serving.gate import Bounds
from mlops_tasks.serving.server import serve
from mlops_tasks.serving.settings import ServeSettings
from mlops_tasks.specs import DeploySpec
from mlops_tasks.stages import deploy
from tests.fakes import FakeRegistry, make_ports
from tests.integration.test_serving_operations import Client, wait_until
from tests.judged_models import make_verdict, write_model
from tests.requirements import give_up
from tests.served_pipeline import PIPELINE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlops_tasks.serve_specs import SwapMode

ROOT = Path(__file__).resolve().parents[2]
SWAPS = 100


def serve_and_swap(folder: Path, mode: SwapMode, swaps: int) -> None:
    """Serve, and move the champion from one version to the other and back as soon as it serves."""
    registry = Grown()
    ports = make_ports(folder, registry=registry)
    for days in (30, 60):
        deploy.run(DeploySpec(), make_verdict(ports.store, days=days, bias=days / 100, against=ports.registry), ports=ports)
    if (folder / "grown").is_dir():
        registry.grow(folder / "grown")
    done = threading.Semaphore(0)

    def announce(line: str) -> None:
        print(line, flush=True)  # noqa: T201 - read by the test
        if " serves after " in line:
            done.release()

    def swap() -> None:
        (folder / "go").touch()
        while not (folder / "loaded").exists():
            time.sleep(0.01)
        for at in range(swaps):
            now = registry.alias("shop", "champion")
            registry.promote("shop", "champion", 1 if now == 2 else 2, expected=now, reason=str(at), who="test")
            done.acquire()
        print(f"swapped {swaps} times", flush=True)  # noqa: T201 - read by the test

    threading.Thread(target=swap, daemon=True).start()
    pipeline = PIPELINE.model_copy(update={"serve": PIPELINE.serve.model_copy(update={"swap": mode})})
    settings = ServeSettings(
        port=0, poll_s=0.01, copies=folder / "copies", request_log=False, waiting=Bounds(deadline_s=15), drain_s=5
    )
    serve(pipeline, registry, settings, announce=announce)


class Grown(FakeRegistry):
    """A registry whose models can be replaced by larger ones on disk: memory is for the server."""

    folder: Path | None = None

    def grow(self, folder: Path) -> None:
        self.folder = folder
        self.records.clear()  # they have the hashes of the models that were deployed

    def fetch(self, name: str, version: int, target: Path) -> Path:
        fetched = super().fetch(name, version, target)
        if self.folder is not None:
            grown = self.folder / f"{version}.onnx"
            (fetched / "model.onnx").unlink()
            (fetched / "model.onnx").hardlink_to(grown)
        return fetched


def grow(folder: Path, width: int) -> None:
    """Write the models of `serve_and_swap` with `width` x `width` more weights, which change no score and can't be left out."""
    (folder / "grown").mkdir()
    for version, days in ((1, 30), (2, 60)):
        write_model(folder / "small", bias=days / 100)
        model = onnx.load(folder / "small" / "model.onnx")
        graph = model.graph
        values = {
            "widen": np.full((2, width), 1e-9, np.float32),
            "square": np.full((width, width), 1e-9 * version, np.float32),
            "narrow": np.full((width, 1), 1e-9, np.float32),
        }
        graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in values.items())
        for node in graph.node:
            for at, name in enumerate(node.input):
                if name == "clean":
                    node.input[at] = "filled"
        after = next(at for at, node in enumerate(graph.node) if "clean" in node.output) + 1
        nodes = [
            helper.make_node("MatMul", ["clean", "widen"], ["wide"]),
            helper.make_node("MatMul", ["wide", "square"], ["squared"]),
            helper.make_node("MatMul", ["squared", "narrow"], ["nothing"]),
            helper.make_node("Add", ["clean", "nothing"], ["filled"]),
        ]
        for node in reversed(nodes):
            graph.node.insert(after, node)
        onnx.save(model, folder / "grown" / f"{version}.onnx")


class Swapping:
    """A server process that swaps."""

    def __init__(self, folder: Path, mode: SwapMode, swaps: int, *, group: Path | None = None) -> None:
        self._log, self._folder = folder / "server.log", folder
        code = "import sys; from pathlib import Path; from tests.integration.test_swaps import serve_and_swap as run; "
        code += f"run(Path(sys.argv[1]), {json.dumps(mode)}, {swaps})"
        if group is not None:
            code = f"import os; open({str(group / 'cgroup.procs')!r}, 'w').write(str(os.getpid())); {code}"
        with self._log.open("wb") as log:
            command = [sys.executable, "-c", code, str(folder)]
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)

    def wait_for(self, text: str, seconds: float = 60) -> None:
        wait_until(lambda: text in self.said() or self.process.poll() is not None, seconds)
        assert text in self.said(), self.said()

    def said(self) -> str:
        return self._log.read_text(encoding="utf-8")

    def begin(self) -> None:
        (self._folder / "loaded").touch()

    @property
    def port(self) -> int:
        return int(self.said().split("serving shop on http://127.0.0.1:", 1)[1].split()[0])


@pytest.fixture(params=["hot", "single-slot"])
def swapping(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Swapping]:
    server = Swapping(tmp_path, request.param, SWAPS)
    yield server
    if server.process.poll() is None:
        server.process.kill()
    server.process.wait()


@pytest.mark.slow
def test_a_hundred_swaps_under_load_fail_no_request(swapping: Swapping) -> None:
    swapping.wait_for("version 2 serves")
    clients = [Client(swapping) for _ in range(16)]
    for client in clients:
        client.start()
    wait_until(lambda: sum(client.answers for client in clients) > 100)
    before = sum(client.answers for client in clients)
    swapping.begin()
    swapping.wait_for(f"swapped {SWAPS} times", 150)
    answered = sum(client.answers for client in clients) - before
    swapping.process.terminate()
    assert swapping.process.wait(30) == 0
    for client in clients:
        client.join(30)
    assert [lost for client in clients for lost in client.lost] == []
    assert answered > SWAPS
    assert swapping.said().count(" serves after ") >= SWAPS


WIDTH = 13_500
"""Of a square of weights that takes 729 MB."""
LIMIT = 1_900 << 20
"""Bytes: one model is there twice while it loads, which leaves no room for another that stays."""


@pytest.fixture
def limited() -> Iterator[Path]:
    """A group of processes that may take so much memory, with either version of the kernel's cgroups."""
    root = Path("/sys/fs/cgroup")
    older = (root / "memory" / "memory.limit_in_bytes").exists()
    group = root / ("memory" if older else "") / f"mlops-swaps-{os.getpid()}"
    try:
        if not older:
            (root / "cgroup.subtree_control").write_text("+memory", encoding="ascii")
        group.mkdir()
        (group / ("memory.limit_in_bytes" if older else "memory.max")).write_text(str(LIMIT), encoding="ascii")
    except OSError as error:
        give_up(f"no group with a memory limit can be made here: {error}")
    yield group
    wait_until(lambda: not (group / "cgroup.procs").read_text(encoding="ascii").strip(), 20)
    group.rmdir()


@pytest.mark.slow
def test_a_model_of_700_mb_that_does_not_fit_twice_is_swapped_in_its_only_slot(tmp_path: Path, limited: Path) -> None:
    grow(tmp_path, WIDTH)
    server = Swapping(tmp_path, "auto", 4, group=limited)
    try:
        server.wait_for("version 2 serves", 120)
        clients = [Client(server) for _ in range(4)]
        for client in clients:
            client.start()
        server.begin()
        server.wait_for("swapped 4 times", 200)
        server.process.terminate()
        assert server.process.wait(60) == 0
        for client in clients:
            client.join(60)
    finally:
        if server.process.poll() is None:
            server.process.kill()
        server.process.wait()
    said = server.said()
    assert said.count("does not fit beside the model that serves") == 4
    assert said.count("requests waited") == 4
    assert [lost for client in clients for lost in client.lost] == []
    assert all(client.answers for client in clients)
