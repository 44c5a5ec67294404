"""A real MLflow server goes away, hangs and comes back under a server that follows it: every request is answered meanwhile."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from mlops_tasks.adapters.mlflow_registry import MlflowRegistry
from mlops_tasks.specs import DeploySpec
from mlops_tasks.stages import deploy
from tests.fakes import make_ports
from tests.integration.test_request_log import wait_until
from tests.judged_models import ROWS, make_verdict
from tests.mlflow_database import MlflowServer

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
WITHIN_S = 60.0
"""By when a server follows again: it asks a registry that was away at least every 36 s."""
CODE = """
import sys
from pathlib import Path
from mlops_tasks.adapters.mlflow_registry import MlflowRegistry
from mlops_tasks.serving.server import serve
from mlops_tasks.serving.settings import ServeSettings
from tests.served_pipeline import PIPELINE
settings = ServeSettings(port=0, poll_s=0.2, copies=Path(sys.argv[1]), request_log=False)
serve(PIPELINE, MlflowRegistry(sys.argv[2]), settings, announce=lambda line: print(line, flush=True))
"""


class Server:
    """A server process that follows an MLflow server."""

    def __init__(self, folder: Path, copies: Path, registry: str) -> None:
        self._log = folder / f"{copies.name}-{len(list(folder.glob('*.log')))}.log"
        with self._log.open("wb") as log:
            command = [sys.executable, "-c", CODE, str(copies), registry]
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        wait_until(lambda: "serving shop on" in self.said() or self.process.poll() is not None, 60, self.said)
        self.address = self.said().split("serving shop on ", 1)[1].split()[0]

    def said(self) -> str:
        return self._log.read_text(encoding="utf-8")

    def ready(self) -> tuple[int, dict[str, Any]]:
        answer = httpx.get(f"{self.address}/v2/health/ready", timeout=20)
        return answer.status_code, answer.json()

    def require_serving(self, version: int) -> None:
        """Wait until a version serves and nothing is amiss."""
        wanted = (200, {"name": "shop", "ready": True, "model_version": str(version), "problem": ""})
        wait_until(lambda: self.ready() == wanted, WITHIN_S, self.said)

    def require_problem(self, text: str) -> dict[str, Any]:
        """Wait until it says that the registry is away; return what its readiness tells."""
        wait_until(lambda: text in str(self.ready()[1]), WITHIN_S, self.said)
        return self.ready()[1]

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


class Asking(threading.Thread):
    """Asks without pause until told to end; counts answers and keeps what was none."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self._url, self._ended = f"{server.address}/invocations", threading.Event()
        self.answers, self.failures = 0, list[str]()
        self.start()

    def run(self) -> None:
        with httpx.Client(timeout=20) as client:
            while not self._ended.wait(0.005):
                answer = client.post(self._url, json={"instances": ROWS[:1]})
                self.answers += answer.status_code == 200
                if answer.status_code != 200:
                    self.failures.append(answer.text)

    def require_more(self) -> None:
        """Wait for answers from now on."""
        before = self.answers
        wait_until(lambda: self.answers > before + 20, 20, lambda: str(self.failures))

    def end(self) -> None:
        self._ended.set()
        self.join()


@pytest.fixture
def mlflow(tmp_path: Path) -> Iterator[MlflowServer]:
    server = MlflowServer(tmp_path / "mlflow")
    server.start()
    yield server
    server.stop()


def test_requests_are_answered_and_deployments_followed_however_the_registry_behaves(
    mlflow: MlflowServer, tmp_path: Path
) -> None:
    registry = MlflowRegistry(mlflow.address)
    ports = make_ports(tmp_path / "store", registry=registry)
    deploy.run(DeploySpec(), make_verdict(ports.store), ports=ports)
    servers = [Server(tmp_path, tmp_path / "copies", mlflow.address)]
    servers[0].require_serving(1)
    asking = Asking(servers[0])
    try:
        mlflow.stop()
        told = servers[0].require_problem("MLflow at http://127.0.0.1")
        assert (told["ready"], told["model_version"]) == (True, "1"), "it goes on serving"
        asking.require_more()
        servers.append(Server(tmp_path, tmp_path / "no-copies", mlflow.address))
        assert servers[1].require_problem("MLflow at http://127.0.0.1")["error"].endswith("then run again")
        assert servers[1].ready()[0] == 503
        assert httpx.get(f"{servers[1].address}/v2/health/live").status_code == 200

        mlflow.start()
        better = make_verdict(ports.store, days=60, bias=0.5).model_copy(update={"champion_version": 1})
        deploy.run(DeploySpec(), better, ports=ports)
        for server in servers:
            server.require_serving(2)
        asking.require_more()

        mlflow.signal(signal.SIGSTOP)
        assert servers[0].require_problem("timed out")["model_version"] == "2"
        asking.require_more()
        servers.append(Server(tmp_path, tmp_path / "copies", mlflow.address))
        assert servers[2].require_problem("timed out")["model_version"] == "2"
        assert "version 2 serves again, from its copy on this disk" in servers[2].said()
        mlflow.signal(signal.SIGCONT)
        registry.promote("shop", "champion", 1, expected=2, reason="back", who="ann")
        for server in servers:
            server.require_serving(1)
        asking.require_more()
    finally:
        asking.end()
        for server in servers:
            server.end()
    assert asking.failures == []
    assert not any("Traceback" in server.said() for server in servers)
