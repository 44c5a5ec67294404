from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mlops_container import MountPoint, deployment, engine, labels, limits, plan
from mlops_tasks.errors import SpecError
from mlops_tasks.resources import Resources


@pytest.fixture
def environ() -> dict[str, str]:
    return {"MLOPS_STORE": "s3://bucket/team", "MLFLOW_TRACKING_URI": "http://mlflow:5000", "MLOPS_CODE_VERSION": "v1"}


def test_only_what_is_named_is_passed_on(environ: dict[str, str]) -> None:
    given = environ | {
        "AWS_ENDPOINT_URL": "http://s3:8080", "AWS_REGION": "eu-1", "MLOPS_SPARK": "sc://spark:15002", "PATH": "/bin",
        "MLOPS_SPARK_CONF": "/etc/spark.conf",
        "AIRFLOW__CORE__FERNET_KEY": "f", "MLOPS_RUNTIME": "docker", "TZ": "UTC", "MLOPS_DOCKER_ENV": "TZ",
    }  # fmt: skip
    found = plan("spark", given)
    assert found.environment == {
        "MLOPS_STORE": "s3://bucket/team", "MLFLOW_TRACKING_URI": "http://mlflow:5000", "MLOPS_CODE_VERSION": "v1",
        "AWS_ENDPOINT_URL": "http://s3:8080", "AWS_REGION": "eu-1", "MLOPS_SPARK": "sc://spark:15002", "TZ": "UTC",
        "HOME": "/tmp",
    }  # fmt: skip
    assert (found.secrets, found.mounts, found.user, found.network) == ({}, (), None, None)
    assert found.image == "mlops-tasks/spark:latest"
    assert found.passwd == ""


def test_secrets_go_apart_and_are_not_shown(environ: dict[str, str]) -> None:
    secrets = {
        "AWS_SECRET_ACCESS_KEY": "hidden-1",
        "AWS_SESSION_TOKEN": "hidden-2",
        "MLOPS_HASH_KEY": "hidden-3",
        "MLFLOW_TRACKING_PASSWORD": "hidden-4",
        "SPARK_CONNECT_AUTHENTICATE_TOKEN": "hidden-5",
        "WAREHOUSE": "hidden-6",
        "OTHER_URL": "postgresql://u:hidden-7@db/x",
    }
    found = plan("spark", environ | secrets | {"MLOPS_DOCKER_SECRETS": "WAREHOUSE", "MLOPS_DOCKER_ENV": "OTHER_URL"})
    assert found.secrets == secrets
    assert not secrets.keys() & found.environment.keys()
    assert not [value for value in secrets.values() if value in repr(found)]


@pytest.mark.parametrize("variable", ["MLOPS_DOCKER_ENV", "MLOPS_DOCKER_SECRETS"])
def test_a_name_that_is_not_set_is_refused(environ: dict[str, str], variable: str) -> None:
    with pytest.raises(SpecError, match=f"{variable}: names WAREHOUSE, which is not set where tasks run"):
        plan("spark", environ | {variable: "WAREHOUSE"})


def test_local_folders_are_shared_under_our_own_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = plan("spark", {"MLFLOW_TRACKING_URI": "sqlite:///home/mlflow.db"})
    store, home = f"{tmp_path}/.mlops/store", f"{tmp_path}/home"
    assert found.mounts == (MountPoint(store, store), MountPoint(home, home))
    assert found.environment["MLOPS_STORE"] == store
    assert found.environment["MLFLOW_TRACKING_URI"] == f"sqlite:///{home}/mlflow.db"
    assert found.user == f"{os.getuid()}:{os.getgid()}"
    assert Path(store).is_dir()


@pytest.mark.parametrize(
    ("user", "line"), [("1000:1001", "mlops:x:1000:1001:"), ("1000", "mlops:x:1000:1000:"), ("0:0", ""), ("mlops", "")]
)
def test_a_user_that_the_image_does_not_know_gets_a_name(environ: dict[str, str], user: str, line: str) -> None:
    found = plan("spark", environ | {"MLOPS_DOCKER_USER": user})
    assert found.user == user
    assert line in found.passwd
    assert bool(found.passwd) == bool(line)


def test_mounts_are_read(environ: dict[str, str]) -> None:
    found = plan("train", environ | {"MLOPS_DOCKER_MOUNTS": "/data:/in:ro,cache:/var/cache", "MLOPS_CACHE": "/var/cache/mlops"})
    assert found.mounts == (MountPoint("/data", "/in", read_only=True), MountPoint("cache", "/var/cache", "volume"))
    assert found.environment["MLOPS_CACHE"] == "/var/cache/mlops"
    assert "MLOPS_CACHE" not in plan("train", environ | {"MLOPS_CACHE": "/elsewhere"}).environment


@pytest.mark.parametrize("text", ["/data", "/data:in", ":/in", "/data:/in:rx", "/a:/b:ro:z"])
def test_a_mount_that_makes_no_sense_is_refused(environ: dict[str, str], text: str) -> None:
    with pytest.raises(SpecError, match="MLOPS_DOCKER_MOUNTS: must be SOURCE:TARGET or SOURCE:TARGET:ro"):
        plan("train", environ | {"MLOPS_DOCKER_MOUNTS": text})


@pytest.mark.parametrize("name", ["MLOPS_SPARK", "MLFLOW_TRACKING_URI", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_an_address_that_leads_back_into_the_container_is_refused(environ: dict[str, str], name: str) -> None:
    given = environ | {name: "http://127.0.0.1:5000" if name != "MLOPS_SPARK" else "sc://localhost:15002"}
    with pytest.raises(SpecError, match=f"{name}: (localhost|127.0.0.1) is the container itself inside a container"):
        plan("spark", given)
    assert plan("spark", given | {"MLOPS_DOCKER_NETWORK": "host"}).network == "host"
    assert plan("spark", environ | {"MLOPS_SPARK": "local[*]"}).environment["MLOPS_SPARK"] == "local[*]"


def test_limits_are_hard_ones() -> None:
    assert limits(Resources()) == {}
    assert limits(Resources(cpus=2.5, memory="4g", shm="512m")) == {
        "cpu_period": 100_000, "cpu_quota": 250_000, "mem_limit": 4 << 30, "memswap_limit": 4 << 30, "shm_size": 512 << 20,
    }  # fmt: skip


def test_labels_say_whose_a_container_is(environ: dict[str, str]) -> None:
    ti = SimpleNamespace(dag_id="shop.train", run_id="manual__1", task_id="train", try_number=2, map_index=None)
    given: Any = {"ti": ti}
    assert labels(given, "shop", "train", environ | {"MLOPS_DEPLOYMENT": "prod"}) == {
        "io.mlops-tasks.deployment": "prod",
        "io.mlops-tasks.dag": "shop.train",
        "io.mlops-tasks.run": "manual__1",
        "io.mlops-tasks.task": "train",
        "io.mlops-tasks.try": "2",
        "io.mlops-tasks.map_index": "-1",
        "io.mlops-tasks.pipeline": "shop",
        "io.mlops-tasks.stage": "train",
    }


def test_installations_on_one_engine_are_told_apart(environ: dict[str, str]) -> None:
    one = deployment(environ | {"AIRFLOW_HOME": "/one"})
    assert one == deployment(environ | {"AIRFLOW_HOME": "/one", "MLOPS_SPARK": "local[*]"})
    assert one != deployment(environ | {"AIRFLOW_HOME": "/two"})
    assert one != deployment(environ | {"AIRFLOW_HOME": "/one", "MLOPS_STORE": "s3://bucket/other"})


def test_the_engine_is_found_as_dockers_own_client_finds_it() -> None:
    assert engine({}) == {"docker_url": "unix:///var/run/docker.sock"}
    assert engine({"DOCKER_HOST": "tcp://h:2376", "DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": "/certs"}) == {
        "docker_url": "tcp://h:2376",
        "tls_ca_cert": "/certs/ca.pem",
        "tls_client_cert": "/certs/cert.pem",
        "tls_client_key": "/certs/key.pem",
    }
