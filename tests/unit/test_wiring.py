from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mlops_tasks.errors import SpecError
from mlops_tasks.wiring import Adapters, code_version, spark_master, spark_memory
from tests.fakes import make_run

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(("given", "root"), [("/data/store", "/data/store"), ("file:///data/store", "/data/store")])
def test_the_store_is_a_folder(given: str, root: str) -> None:
    assert Adapters({"MLOPS_STORE": given}).store.root == f"file://{root}"


@pytest.mark.parametrize("environ", [{}, {"MLOPS_STORE": "", "MLFLOW_TRACKING_URI": "", "MLOPS_SPARK": ""}])
def test_defaults_lie_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str]) -> None:
    monkeypatch.chdir(tmp_path)
    adapters = Adapters(environ)
    assert adapters.store.root == f"file://{tmp_path}/.mlops/store"
    assert adapters.tracking_uri == f"sqlite:///{tmp_path}/.mlops/mlflow.db"
    assert (spark_master(environ), spark_memory(environ)) == ("local[*]", "2g")
    assert not (tmp_path / ".mlops").exists(), "nothing is made before it is needed"


def test_a_store_elsewhere_is_refused() -> None:
    with pytest.raises(SpecError) as caught:
        _ = Adapters({"MLOPS_STORE": "ftp://host/x"}).store
    assert str(caught.value) == "MLOPS_STORE: must be a folder, got 'ftp://host/x'; unset it for ./.mlops/store"


def test_ports_import_nothing_heavy_until_used(tmp_path: Path) -> None:
    code = (
        "import sys; from mlops_tasks.wiring import Adapters; from tests.fakes import make_run; "
        f"Adapters({{'MLOPS_STORE': {str(tmp_path)!r}}}).ports(make_run()); "
        "print(*[m for m in ('mlflow', 'pyspark', 'pandas', 'torch', 'boto3') if m in sys.modules])"
    )
    code = code.replace("from tests.fakes import make_run; ", "").replace("make_run()", "None")
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert shown.stdout.split() == []


def test_adapters_are_made_once(tmp_path: Path) -> None:
    adapters = Adapters({"MLOPS_STORE": str(tmp_path)})
    ports = adapters.ports(make_run())
    assert ports.store is adapters.store
    assert adapters.registry is adapters.registry
    with pytest.raises(AttributeError):
        _ = ports.registry.nonsense  # type: ignore[attr-defined]  # that is the point


def test_the_code_version_can_be_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLOPS_CODE_VERSION", "release-7")
    assert code_version() == "release-7"


def test_without_git_the_package_has_a_version(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MLOPS_CODE_VERSION", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert code_version()[0].isdigit()
