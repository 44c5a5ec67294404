"""What MLflow's adapter must survive: a kill at any point, a server that is gone, two first starts at once."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from mlops_tasks.adapters.mlflow_client import database_path, prepare_database
from mlops_tasks.adapters.mlflow_reading import SqliteReader
from mlops_tasks.adapters.mlflow_registry import MlflowRegistry
from mlops_tasks.errors import RegistryUnavailable, SpecError
from mlops_tasks.specs import DeploySpec
from mlops_tasks.stages import deploy
from tests.fakes import make_ports
from tests.judged_models import ROWS, SIGNATURE, make_verdict, write_beside, write_model
from tests.mlflow_database import fresh_uri

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlops_tasks.artifacts import Deployment
    from mlops_tasks.ports import Ports

ROOT = Path(__file__).resolve().parents[3]
WRITES = 12
"""Calls that change MLflow in a first deployment; asserted below, so a new one gets its kill too."""


class Killed(BaseException):
    """Ends the try like a kill: nothing may catch it."""


class DyingClient:
    """An `MlflowClient` that dies right after its n-th change."""

    changes = ("create_", "set_", "log_", "delete_", "update_")

    def __init__(self, client: Any, after: int | None) -> None:
        self._client, self._after, self.done = client, after, list[str]()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        if not name.startswith(self.changes):
            return method

        def change(*args: object, **kwargs: object) -> object:
            answer = method(*args, **kwargs)
            self.done.append(name)
            if len(self.done) == self._after:
                raise Killed
            return answer

        return change


def dying(uri: str, after: int | None) -> tuple[MlflowRegistry, DyingClient]:
    registry = MlflowRegistry(uri)
    client = DyingClient(registry._client, after)
    registry.__dict__["_client"] = client
    return registry, client


def deploy_with(registry: MlflowRegistry, folder: Path, days: int = 30) -> Deployment:
    ports = make_ports(folder, registry=registry)
    return deploy.run(DeploySpec(), make_verdict(ports.store, days=days, against=ports.registry), ports=ports)


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return fresh_uri(tmp_path / "mlflow")


@pytest.fixture
def ports(tmp_path: Path, uri: str) -> Ports:
    return make_ports(tmp_path, registry=MlflowRegistry(uri))


def test_number_of_changes_that_a_first_deployment_makes(uri: str, tmp_path: Path) -> None:
    registry, client = dying(uri, None)
    deploy_with(registry, tmp_path)
    assert len(client.done) == WRITES, client.done


@pytest.mark.parametrize("after", range(1, WRITES + 1))
def test_killed_after_any_change_a_retry_registers_and_promotes_once(uri: str, tmp_path: Path, after: int) -> None:
    registry, _ = dying(uri, after)
    with pytest.raises(Killed):
        deploy_with(registry, tmp_path)
    again = MlflowRegistry(uri)
    deployment = deploy_with(again, tmp_path)
    assert [known.version for known in again.versions("shop")] == [deployment.version] == [1]
    assert again.alias("shop", "champion") == 1
    assert [entry["to"] for entry in again.history("shop")] == ["1"]
    assert again.deployment("shop", 1) == deployment
    newer = deploy_with(again, tmp_path, days=60)
    assert (newer.version, again.alias("shop", "champion")) == (2, 2)


def test_kill_9_between_registration_and_alias_then_retry_gives_one_version(uri: str, tmp_path: Path) -> None:
    code = f"""
import os, signal
from pathlib import Path
from mlops_tasks.adapters.mlflow_registry import MlflowRegistry
from tests.unit.adapters.test_mlflow_registry import deploy_with
class Dying(MlflowRegistry):
    def promote(self, *args, **kwargs):
        os.kill(os.getpid(), signal.SIGKILL)
deploy_with(Dying({uri!r}), Path({str(tmp_path)!r}))
"""
    killed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    registry = MlflowRegistry(uri)
    assert ([known.version for known in registry.versions("shop")], registry.alias("shop", "champion")) == ([1], None)
    assert deploy_with(registry, tmp_path).version == 1
    assert ([known.version for known in registry.versions("shop")], registry.alias("shop", "champion")) == ([1], 1)


def test_an_alias_moved_by_hand_is_respected_and_seen_in_the_ledger(uri: str, ports: Ports) -> None:
    registry = MlflowRegistry(uri)
    for days in (30, 60, 90):
        deploy.run(DeploySpec(promote="auto"), make_verdict(ports.store, days=days, against=ports.registry), ports=ports)
    registry._client.set_registered_model_alias("shop", "champion", "1")
    assert registry.alias("shop", "champion") == 1
    registry.promote("shop", "champion", 2, expected=1, reason="", who="ann")
    assert [(entry["from"], entry["to"]) for entry in registry.history("shop")][-1] == ("1", "2")


def test_a_promotion_whose_alias_was_never_moved_is_finished_by_the_next(uri: str, tmp_path: Path) -> None:
    deploy_with(MlflowRegistry(uri), tmp_path, 30)
    registry = MlflowRegistry(uri)
    registry.__dict__["_client"] = DyingClient(registry._client, None)
    verdict = make_verdict(make_ports(tmp_path).store, days=60)
    deploy.run(DeploySpec(promote="never"), verdict, ports=make_ports(tmp_path, registry=registry))
    registry._client._after = len(registry._client.done) + 1  # the ledger's entry is the next change
    with pytest.raises(Killed):
        registry.promote("shop", "champion", 2, expected=1, reason="by hand", who="ann")
    assert MlflowRegistry(uri).alias("shop", "champion") == 1
    MlflowRegistry(uri).promote("shop", "champion", 2, expected=1, reason="again", who="ann")
    assert MlflowRegistry(uri).alias("shop", "champion") == 2
    assert [(entry["to"], entry["reason"]) for entry in registry.history("shop")][-1] == ("2", "by hand")


@pytest.mark.parametrize("write", [write_model, write_beside])
def test_mlflow_itself_loads_the_registered_version(
    uri: str, ports: Ports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], None]
) -> None:
    import mlflow  # noqa: PLC0415 - takes a second, and only this test needs it

    monkeypatch.chdir(tmp_path)
    deploy.run(DeploySpec(), make_verdict(ports.store, write=write), ports=ports)
    mlflow.set_tracking_uri(uri)
    model = mlflow.pyfunc.load_model("models:/shop@champion")
    answer = model.predict(
        {"numeric": np.array([[1.5, 2.0]], dtype=np.float32), "categorical": np.array([["north"]], dtype=object)}
    )
    folder = Path(mlflow.artifacts.download_artifacts("models:/shop/1", dst_path=str(tmp_path / "fetched")))
    assert {"MLmodel", "model.onnx", "signature.json", "golden.json", "reference.json"} <= {p.name for p in folder.iterdir()}
    assert (folder / "model.onnx.data").exists() == (write is write_beside)
    assert mlflow.onnx.load_model("models:/shop/1").graph.initializer[0].raw_data
    assert not list(folder.rglob("*.pkl"))
    assert model.metadata.get_input_schema().input_names() == ["numeric", "categorical"]
    assert answer["score"][0] == pytest.approx(0.7773, abs=1e-4)
    assert (ROWS[0]["shop"], SIGNATURE.numeric) == ("north", ["price", "age"])
    assert not (tmp_path / "mlruns").exists()


def test_a_server_that_is_down_is_said_quickly() -> None:
    registry = MlflowRegistry("http://ann:secret@127.0.0.1:9")
    begin = time.monotonic()
    with pytest.raises(RegistryUnavailable) as caught:
        registry.alias("shop", "champion")
    assert time.monotonic() - begin < 5
    assert str(caught.value).startswith("MLflow at http://127.0.0.1:9: reading failed: ")
    assert str(caught.value).endswith("; check that it runs and that MLFLOW_TRACKING_URI is right, then run again")


def test_a_uri_of_another_kind_is_refused() -> None:
    with pytest.raises(SpecError) as caught:
        MlflowRegistry("./mlruns")
    assert str(caught.value) == "MLFLOW_TRACKING_URI must be sqlite:///FILE or http(s)://HOST, got './mlruns'"


def test_before_the_first_write_there_is_no_database(tmp_path: Path) -> None:
    registry = MlflowRegistry(f"sqlite:///{tmp_path}/none/mlflow.db")
    assert (registry.versions("shop"), registry.alias("shop", "champion"), registry.history("shop")) == ([], None, [])
    assert not (tmp_path / "none").exists()


def test_of_two_first_starts_one_creates_the_database_though_a_third_was_killed_halfway(tmp_path: Path) -> None:
    database = tmp_path / "new" / "mlflow.db"
    database.parent.mkdir()
    (tmp_path / "new" / ".mlflow.db.new").write_bytes(b"half a schema")
    with ThreadPoolExecutor(2) as pool:
        created = list(pool.map(lambda _: prepare_database(database), range(2)))
    assert sorted(created) == [False, True]
    assert SqliteReader("", database).model("shop") is None
    with sqlite3.connect(database) as connection:
        root = connection.execute("SELECT artifact_location FROM experiments").fetchone()[0]
    assert root.startswith(str(tmp_path / "new" / "mlflow-artifacts"))
    assert database_path(f"sqlite:///{database}") == database
