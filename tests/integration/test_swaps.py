"""A hundred swaps under load, in both modes, lose no request; a model that can't be there twice is swapped in its only slot."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mlops_tasks.serving.memory import resident_bytes
from mlops_tasks.serving.server import serve
from mlops_tasks.serving.settings import ServeSettings
from mlops_tasks.specs import DeploySpec
from mlops_tasks.stages import deploy
from tests.fakes import FakeRegistry, make_ports
from tests.integration.test_serving_operations import Client, wait_until
from tests.judged_models import make_verdict
from tests.served_pipeline import PIPELINE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlops_tasks.serve_specs import SwapMode

ROOT = Path(__file__).resolve().parents[2]
SWAPS = 100


def serve_and_swap(folder: Path, mode: SwapMode, swaps: int) -> None:
    """Serve, and move the champion from one version to the other and back as soon as it serves."""
    registry = FakeRegistry()
    ports = make_ports(folder, registry=registry)
    for days in (30, 60):
        deploy.run(DeploySpec(), make_verdict(ports.store, days=days, bias=days / 100), ports=ports)
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
        print(f"swapped {swaps} times, most memory {resident_bytes() >> 20} MB", flush=True)  # noqa: T201 - read by the test

    threading.Thread(target=swap, daemon=True).start()
    pipeline = PIPELINE.model_copy(update={"serve": PIPELINE.serve.model_copy(update={"swap": mode})})
    settings = ServeSettings(port=0, poll_s=0.01, copies=folder / "copies", request_log=False)
    serve(pipeline, registry, settings, announce=announce)


class Swapping:
    """A server process that swaps."""

    def __init__(self, folder: Path, mode: SwapMode, swaps: int) -> None:
        self._log, self._folder = folder / "server.log", folder
        code = "import sys; from pathlib import Path; from tests.integration.test_swaps import serve_and_swap as run; "
        code += f"run(Path(sys.argv[1]), {json.dumps(mode)}, {swaps})"
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
