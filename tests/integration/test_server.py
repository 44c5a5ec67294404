"""A real server process in front of a real registry: swaps under load, an outage, a bad port, an orderly end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

import httpx
import pytest

from mlops_tasks.adapters.mlflow_registry import MlflowRegistry
from mlops_tasks.core.promotion import roll_back
from mlops_tasks.errors import SpecError
from mlops_tasks.serving.server import serve
from mlops_tasks.serving.settings import ServeSettings
from mlops_tasks.specs import DeploySpec
from mlops_tasks.stages import deploy
from tests.fakes import FakeRegistry, make_ports
from tests.judged_models import ROWS, make_verdict
from tests.mlflow_database import fresh_uri
from tests.served_pipeline import PIPELINE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mlops_tasks.ports import Ports

ROOT = Path(__file__).resolve().parents[2]
CODE = """
import sys
from dataclasses import replace
from pathlib import Path
from mlops_tasks.adapters.mlflow_registry import MlflowRegistry
from mlops_tasks.serving.server import serve
from mlops_tasks.serving.settings import ServeSettings
from tests.served_pipeline import PIPELINE
settings = ServeSettings(port=0, poll_s=0.1, copies=Path(sys.argv[2]), request_log=False)
serve(PIPELINE, MlflowRegistry(sys.argv[1]), settings, announce=lambda line: print(line, flush=True))
print("loaded:", [m for m in ("torch", "pyspark", "pandas", "mlflow") if m in sys.modules], flush=True)
"""


class Server:
    """A server process and what it said."""

    def __init__(self, uri: str, folder: Path) -> None:
        self._log = folder / "server.log"
        with self._log.open("wb") as log:
            command = [sys.executable, "-c", CODE, uri, str(folder / "copies")]
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
        self.wait_for("serving shop on http://")
        self.address = self.said().split("serving shop on ", 1)[1].split()[0]

    def said(self) -> str:
        return self._log.read_text(encoding="utf-8")

    def wait_for(self, text: str) -> None:
        wait_until(lambda: text in self.said() or self.process.poll() is not None, 30)
        assert text in self.said(), self.said()

    def score(self, client: httpx.Client) -> tuple[str, float]:
        answer = client.post(f"{self.address}/invocations", json={"instances": ROWS[:1]})
        answer.raise_for_status()
        return answer.headers["x-model-version"], answer.json()["predictions"][0]


def wait_until(holds: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.02)


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return fresh_uri(tmp_path / "mlflow")


@pytest.fixture
def ports(tmp_path: Path, uri: str) -> Ports:
    return make_ports(tmp_path, registry=MlflowRegistry(uri))


@pytest.fixture
def server(tmp_path: Path, uri: str) -> Iterator[Server]:
    server = Server(uri, tmp_path)
    yield server
    if server.process.poll() is None:
        os.killpg(server.process.pid, signal.SIGKILL)
        server.process.wait()


def deploy_days(ports: Ports, days: int) -> None:
    deploy.run(DeploySpec(), make_verdict(ports.store, days=days, bias=days / 100, against=ports.registry), ports=ports)


class Load:
    """Requests from a few clients until it is told to stop."""

    def __init__(self, server: Server, clients: int = 4) -> None:
        self.answers: list[tuple[str, float]] = []
        self.failures: list[Exception] = []
        self._server, self._ended = server, threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]

    def _ask(self) -> None:
        with httpx.Client(timeout=10) as client:
            while not self._ended.is_set():
                try:
                    self.answers.append(self._server.score(client))
                except httpx.HTTPError as error:
                    self.failures.append(error)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()


def test_waits_then_swaps_under_load_without_a_failed_request(server: Server, ports: Ports) -> None:
    server.wait_for("model shop has no champion yet: waiting; `mlops run shop` makes the first")
    assert httpx.get(f"{server.address}/v2/health/live").status_code == 200
    assert httpx.get(f"{server.address}/v2/health/ready").status_code == 503
    deploy_days(ports, 30)
    server.wait_for("version 1 serves")
    with Load(server) as load:
        time.sleep(0.3)
        deploy_days(ports, 60)
        server.wait_for("version 2 serves after 1")
        time.sleep(0.2)
        roll_back(ports.registry, "shop", reason="test", who="tester")
        server.wait_for("version 1 serves after 2")
        time.sleep(0.2)
    assert load.failures == []
    assert len(load.answers) > 100
    scores = {version: {round(score, 6) for v, score in load.answers if v == version} for version in ("1", "2")}
    assert [len(found) for found in scores.values()] == [1, 1], "one version gives one score: none is served half"
    assert scores["1"] != scores["2"]


def test_goes_on_while_the_registry_is_gone_and_ends_in_order(server: Server, ports: Ports, tmp_path: Path) -> None:
    deploy_days(ports, 30)
    server.wait_for("version 1 serves")
    database = tmp_path / "mlflow" / "mlflow.db"
    kept = database.read_bytes()
    database.write_bytes(b"no database at all" * 100)
    server.wait_for("check that it runs and that MLFLOW_TRACKING_URI is right")
    with httpx.Client() as client:
        assert server.score(client)[0] == "1"
        database.write_bytes(kept)
        deploy_days(ports, 60)
        server.wait_for("version 2 serves after 1")
        assert server.score(client)[0] == "2"
    server.process.terminate()
    assert server.process.wait(10) == 0
    assert "Traceback" not in server.said()


def test_the_process_carries_no_training_library(server: Server, ports: Ports) -> None:
    deploy_days(ports, 30)
    server.wait_for("version 1 serves")
    server.process.send_signal(signal.SIGINT)
    server.wait_for("loaded:")
    assert "loaded: []" in server.said()
    assert server.process.wait(10) == 0


def test_a_taken_port_is_said(server: Server, tmp_path: Path) -> None:
    port = int(server.address.rsplit(":", 1)[1])
    with pytest.raises(SpecError) as caught:
        serve(PIPELINE, FakeRegistry(), ServeSettings(port=port, copies=tmp_path / "other", request_log=False))
    assert str(caught.value) == (
        f"serve: 127.0.0.1:{port} can't be listened on: Address already in use; choose another --port, or 0 for any free one"
    )
