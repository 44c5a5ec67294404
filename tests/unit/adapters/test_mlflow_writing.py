"""What moves an alias is written without MLflow, as MLflow would, and by MLflow where its tables are not as expected."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mlops_tasks.adapters import mlflow_writing
from mlops_tasks.adapters.mlflow_client import Refused, database_path
from mlops_tasks.adapters.mlflow_registry import MlflowRegistry
from mlops_tasks.adapters.mlflow_writing import CHANGED_PARAM, SqliteClient
from mlops_tasks.errors import RegistryUnavailable
from mlops_tasks.specs import DeploySpec
from mlops_tasks.stages import deploy
from tests.fakes import make_ports
from tests.judged_models import make_verdict
from tests.mlflow_database import fresh_uri

if TYPE_CHECKING:
    from mlops_tasks.ports import ModelVersion

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def uri(tmp_path: Path) -> str:
    """A registry with versions 1, the champion, and 2, the challenger."""
    uri = fresh_uri(tmp_path / "mlflow")
    ports = make_ports(tmp_path, registry=MlflowRegistry(uri))
    for days, wish in ((30, "auto"), (60, "never")):
        deploy.run(DeploySpec.model_validate({"promote": wish}), make_verdict(ports.store, days=days), ports=ports)
    return uri


@pytest.fixture
def client(uri: str) -> SqliteClient:
    database = database_path(uri)
    assert database is not None
    return SqliteClient(uri, database)


def versions(uri: str) -> list[ModelVersion]:
    return MlflowRegistry(uri).versions("shop")


def test_a_promotion_and_a_rollback_import_no_mlflow(uri: str) -> None:
    code = f"""
import sys
from mlops_tasks.adapters.mlflow_registry import MlflowRegistry
from mlops_tasks.core.promotion import promote, roll_back
registry = MlflowRegistry({uri!r})
promote(registry, "shop", 2, reason="good", who="ann")
roll_back(registry, "shop", reason="bad", who="ann")
registry.retire("shop", "challenger", expected=2, reason="bad", who="ann")
assert "mlflow" not in sys.modules, sorted(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)
    assert [known.aliases for known in versions(uri)] == [(), ("champion",)]
    moves = [(entry["alias"], entry["from"], entry["to"]) for entry in MlflowRegistry(uri).history("shop")]
    assert moves[-3:] == [("champion", "1", "2"), ("champion", "2", "1"), ("challenger", "2", "")]


def test_mlflow_reads_what_was_written(uri: str, client: SqliteClient) -> None:
    client.set_registered_model_alias("shop", "champion", "2")
    client.set_model_version_tag("shop", "2", "checked", "yes")
    run = client.get_run(client.get_model_version("shop", "2").run_id).info.run_id
    client.log_param(run, "depth", "2")
    client.set_tag(run, "note", "first")
    client.set_tag(run, "note", "second")
    found = client.get_run(run).data
    assert (found.params["depth"], found.tags["note"]) == ("2", "second")
    assert client.get_model_version_by_alias("shop", "champion").tags["checked"] == "yes"
    client.delete_registered_model_alias("shop", "champion")
    assert MlflowRegistry(uri).alias("shop", "champion") is None


def test_what_mlflow_refuses_is_refused(client: SqliteClient) -> None:
    run = client.get_model_version("shop", "1").run_id
    client.log_param(run, "depth", "2")
    client.log_param(run, "depth", "2")
    with pytest.raises(Refused, match=CHANGED_PARAM):
        client.log_param(run, "depth", "3")
    with pytest.raises(Refused, match="model shop has no version 9"):
        client.set_registered_model_alias("shop", "champion", "9")
    with pytest.raises(Refused, match="run gone is gone"):
        client.set_tag("gone", "a", "b")
    client.delete_run(run)
    with pytest.raises(Refused, match=f"run {run} is deleted; restore it in MLflow"):
        client.log_param(run, "width", "1")


def test_tables_of_another_release_are_left_to_mlflow(uri: str, client: SqliteClient, monkeypatch: pytest.MonkeyPatch) -> None:
    statement = mlflow_writing._ALIAS.replace("name, alias)", "name, alias, tenant)")
    assert "tenant" in statement
    monkeypatch.setattr(mlflow_writing, "_ALIAS", statement)
    client.set_registered_model_alias("shop", "champion", "2")
    assert MlflowRegistry(uri).alias("shop", "champion") == 2


def test_a_database_that_is_gone_is_unavailable(client: SqliteClient, uri: str) -> None:
    database = database_path(uri)
    assert database is not None
    database.rename(database.with_suffix(".moved"))
    with pytest.raises(RegistryUnavailable, match="writing failed: unable to open database file"):
        client.set_tag("run", "a", "b")
