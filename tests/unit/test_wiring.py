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
    assert str(caught.value) == (
        "MLOPS_STORE: must be a folder or s3://bucket/prefix, got 'ftp://host/x'; unset it for ./.mlops/store"
    )


@pytest.mark.parametrize(
    ("given", "root", "uri"),
    [
        ("s3://shop/some/prefix/", "s3://shop/some/prefix", "s3a://shop/some/prefix/a/file"),
        ("s3://shop", "s3://shop", "s3a://shop/a/file"),
        ("s3://shop/", "s3://shop", "s3a://shop/a/file"),
    ],
)
def test_the_store_is_a_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, root: str, uri: str) -> None:
    monkeypatch.chdir(tmp_path)
    store = Adapters({"MLOPS_STORE": given}).store
    assert (store.root, store.spark_uri("a/file")) == (root, uri)
    assert not (tmp_path / ".mlops").exists(), "nothing is made before it is needed"


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        (
            {"MLOPS_STORE": "s3://Shop/x"},
            "MLOPS_STORE: must be s3://bucket/prefix, the bucket 3 to 63 of a-z, 0-9, dot and dash, got 's3://Shop/x'",
        ),
        (
            {"MLOPS_S3_SSE": "aes"},
            "MLOPS_S3_SSE: must be AES256 or aws:kms, got 'aes'; unset it for the bucket's own setting",
        ),
        (
            {"MLOPS_S3_SSE_KMS_KEY_ID": "k"},
            "MLOPS_S3_SSE_KMS_KEY_ID: is only used with MLOPS_S3_SSE=aws:kms, got 'none'; set both or neither",
        ),
        ({"MLOPS_S3_PATIENCE_S": "-1"}, "MLOPS_S3_PATIENCE_S: must be seconds, 0 or more, got '-1'"),
        ({"MLOPS_CACHE_SIZE": "20"}, "MLOPS_CACHE_SIZE: must be a size such as 500m or 20g, got '20'"),
    ],
)
def test_wrong_settings_of_a_bucket_are_refused(environ: dict[str, str], told: str) -> None:
    with pytest.raises(SpecError) as caught:
        _ = Adapters({"MLOPS_STORE": "s3://shop/x", **environ}).store
    assert str(caught.value) == told


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
