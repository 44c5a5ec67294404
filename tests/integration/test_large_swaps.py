"""A model of 700 MB in a container whose limit can't hold two: swaps in each mode lose no request."""

from __future__ import annotations

import json
import shutil
import socket
from statistics import median
from typing import TYPE_CHECKING

import pytest

from mlops_tasks.adapters.mlflow_registry import MlflowRegistry
from mlops_tasks.adapters.model_servers import HttpModelServers
from mlops_tasks.specs import DeploySpec
from mlops_tasks.stages import deploy
from tests.docker_engine import docker
from tests.fakes import make_ports
from tests.integration.test_serving_operations import Client, wait_until
from tests.integration.tiny_pipeline import NAME, write_pipeline
from tests.judged_models import make_verdict
from tests.large_models import export_large, write_large_model
from tests.mlflow_database import serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mlops_tasks.serve_specs import SwapMode
    from tests.docker_engine import Images

pytestmark = [pytest.mark.docker, pytest.mark.slow]

SWAPS = 100
LIMIT = "1400m"
"""Less than the weights of two, which are 738 MB each; the server itself takes about 110."""
CLIENTS = 2
"""Each request reads all weights: more clients only wait longer."""
STRICT = ("--read-only", "--tmpfs", "/tmp:exec", "--cap-drop", "ALL", "--user", "54321:54321", "--network", "host")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an MLflow server with two large versions; the second is the champion."""
    folder = tmp_path_factory.mktemp("large")
    (folder / "exported").mkdir()
    export_large(folder / "exported")
    with serving(folder / "mlflow") as address:
        ports = make_ports(folder, registry=MlflowRegistry(address))
        for days in (30, 60):
            verdict = make_verdict(
                ports.store,
                days=days,
                against=ports.registry,
                write=lambda place, bias=days / 100: write_large_model(place, folder / "exported", bias=bias),  # type: ignore[misc]  # bound now
            )
            deploy.run(DeploySpec(), verdict, ports=ports)
        for used in ("exported", "store"):
            shutil.rmtree(folder / used)
        yield address
    shutil.rmtree(folder)


class Contained:
    """The server's image at work for the model `shop` under a memory limit, without swap space."""

    def __init__(self, image: str, folder: Path, registry: str, mode: SwapMode) -> None:
        write_pipeline(folder)
        settings = (folder / "pipelines" / NAME).rename(folder / "pipelines" / "shop") / "pipeline.yaml"
        settings.write_text(settings.read_text().replace(f"name: {NAME}", "name: shop"))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        told = ("--env", f"MLFLOW_TRACKING_URI={registry}", "--volume", f"{folder / 'pipelines'}:/opt/pipelines:ro")
        limits = ("--memory", LIMIT, "--memory-swap", LIMIT)
        command = ("serve", "shop", "--port", str(self.port), "--swap", mode, "--swap-deadline", "60", "--no-request-log")
        self._container = docker("run", "--detach", *STRICT, *limits, *told, image, *command).stdout.strip()

    def said(self) -> str:
        return docker("logs", self._container).stderr

    def wait(self) -> None:
        wait_until(lambda: "version 2 serves" in self.said() or not self.state()["Running"], 240)
        assert "version 2 serves" in self.said(), self.said()

    def state(self) -> dict[str, bool]:
        found: dict[str, bool] = json.loads(docker("inspect", "--format", "{{json .State}}", self._container).stdout)
        return found

    def stop(self) -> None:
        docker("stop", "--time", "60", self._container)

    def remove(self) -> None:
        docker("rm", "--force", "--volumes", self._container)


@pytest.fixture
def contained(image_of: Images, tmp_path: Path, registry: str, request: pytest.FixtureRequest) -> Iterator[Contained]:
    server = Contained(image_of["serve"], tmp_path, registry, request.param)
    try:
        server.wait()
        yield server
    finally:
        server.remove()


def swap(server: Contained, address: str, times: int) -> list[float]:
    """Move the champion from one version to the other and back, each when the last one serves; return the pauses."""
    registry, servers, pauses = MlflowRegistry(address), HttpModelServers([f"http://127.0.0.1:{server.port}"]), []
    for at in range(times):
        now = registry.alias("shop", "champion")
        version = 1 if now == 2 else 2
        registry.promote("shop", "champion", version, expected=now, reason=str(at), who="test")
        (answer,) = servers.load("shop", version)
        assert (answer.problem, answer.serving) == ("", version)
        pauses.append(answer.pause_s)
    return pauses


@pytest.mark.parametrize(("contained", "single_slot"), [("hot", False), ("auto", True)], indirect=["contained"])
def test_a_hundred_swaps_of_a_large_model_under_load_fail_no_request(
    contained: Contained, registry: str, *, single_slot: bool
) -> None:
    clients = [Client(contained) for _ in range(CLIENTS)]
    for client in clients:
        client.start()
    pauses = swap(contained, registry, SWAPS)
    print(f"pauses: median {median(pauses):.2f} s, greatest {max(pauses):.2f} s")  # noqa: T201 - a figure of benchmarks/README.md
    assert not contained.state()["OOMKilled"]
    assert [lost for client in clients for lost in client.lost] == []
    assert all(client.answers for client in clients)
    contained.stop()
    for client in clients:
        client.join(60)
    assert [pause > 0 for pause in pauses] == [single_slot] * SWAPS
    assert contained.said().count("does not fit beside the model that serves") == (SWAPS if single_slot else 0)
