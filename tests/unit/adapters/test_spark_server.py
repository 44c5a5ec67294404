"""Settings of Spark servers: what they bind to, what S3 needs, and that no secret is among them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mlops_tasks.adapters import spark_server
from mlops_tasks.adapters.spark_channel import Channel
from mlops_tasks.adapters.spark_java import pyspark_home
from mlops_tasks.adapters.spark_s3 import s3_jars, s3a_conf, wants_s3
from mlops_tasks.adapters.spark_server import Server, address_towards, is_loopback, run_server, server_command, server_conf
from mlops_tasks.errors import SpecError, StoreUnavailable

ROOT = Path(__file__).parents[3]
SECRETS = {
    "AWS_ACCESS_KEY_ID": "AKIAPLANTED",
    "AWS_SECRET_ACCESS_KEY": "planted",
    "SPARK_CONNECT_AUTHENTICATE_TOKEN": "planted",
}


def cluster_conf(environ: dict[str, str], master: str = "spark://127.0.0.1:7077") -> dict[str, str]:
    return server_conf(Server(master, "1g", 15002), Path("/scratch"), environ, [])


def jars_in(folder: Path, version: str = "3.5.0") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"hadoop-aws-{version}.jar").touch()
    return folder


def test_a_local_server_uses_loopback_only() -> None:
    conf = server_conf(Server("local[*]", "1g", 15002), Path("/scratch"), {}, [])
    assert {conf[f"spark.{name}"] for name in ("driver.host", "driver.bindAddress", "connect.grpc.binding.address")} == {
        "127.0.0.1"
    }
    assert "0.0.0.0" not in conf.values()


def test_executors_elsewhere_get_an_address_to_call_back() -> None:
    conf = cluster_conf(
        {
            "MLOPS_SPARK_DRIVER_HOST": "driver.example",
            "MLOPS_SPARK_DRIVER_PORT": "7001",
            "MLOPS_SPARK_BLOCK_PORT": "7002",
            "MLOPS_SPARK_EXECUTOR_MEMORY": "3g",
            "MLOPS_SPARK_CORES": "4",
        }
    )
    assert {name: conf[f"spark.{name}"] for name in ("driver.host", "driver.bindAddress", "driver.port")} == {
        "driver.host": "driver.example",
        "driver.bindAddress": "0.0.0.0",
        "driver.port": "7001",
    }
    assert conf["spark.driver.blockManager.port"] == "7002"
    assert (conf["spark.executor.memory"], conf["spark.cores.max"]) == ("3g", "4")


def test_a_cluster_on_loopback_keeps_the_driver_there() -> None:
    conf = cluster_conf({})
    assert (conf["spark.driver.host"], conf["spark.driver.bindAddress"]) == ("127.0.0.1", "127.0.0.1")
    assert "spark.driver.port" not in conf


@pytest.mark.parametrize("master", ["spark://no-such-host.invalid:7077", "spark://:x", "spark://"])
def test_a_master_that_leads_nowhere_is_told(master: str) -> None:
    with pytest.raises(StoreUnavailable) as caught:
        address_towards(master)
    assert str(caught.value).startswith(f"Spark's master {master} can't be reached (")
    assert str(caught.value).endswith("); it must be spark://host:port, with a name known here")


def test_the_first_of_several_masters_tells_the_route() -> None:
    assert address_towards("spark://127.0.0.1:7077,other.invalid:7077") == "127.0.0.1"


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.1.2.3", True), ("::1", True), ("[::1]", True), ("localhost", True), ("0.0.0.0", False),
     ("10.0.0.1", False), ("spark", False)],
)  # fmt: skip
def test_loopback_is_known(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_another_address_than_loopback_needs_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPARK_CONNECT_AUTHENTICATE_TOKEN", raising=False)
    with pytest.raises(SpecError) as caught:
        run_server(Server("local[1]", "1g", 15002, host="0.0.0.0"))
    assert str(caught.value) == (
        "--host 0.0.0.0: whoever reaches this address could run code here; set SPARK_CONNECT_AUTHENTICATE_TOKEN to a secret, "
        "for the server and for its clients, or listen on 127.0.0.1"
    )


def test_no_secret_is_in_the_command_or_the_settings(tmp_path: Path) -> None:
    environ = {**SECRETS, "MLOPS_STORE": "s3://bucket", "MLOPS_SPARK_JARS": str(jars_in(tmp_path / "jars"))}
    command = server_command(Server("local[1]", "1g", 15002), tmp_path, environ)
    settings = tmp_path / "spark.conf"
    assert settings.stat().st_mode & 0o777 == 0o600
    for secret in SECRETS.values():
        assert secret not in " ".join(command)
        assert secret not in settings.read_text()
    assert str(tmp_path / "jars" / "hadoop-aws-3.5.0.jar") in command[command.index("-cp") + 1]
    assert "fs.s3a.committer.name magic" in settings.read_text()


def test_a_store_on_disk_needs_no_jars_and_no_s3(tmp_path: Path) -> None:
    server_command(Server("local[1]", "1g", 15002), tmp_path, {"MLOPS_STORE": str(tmp_path)})
    assert "s3a" not in (tmp_path / "spark.conf").read_text()


def test_a_users_own_settings_win(tmp_path: Path) -> None:
    own = tmp_path / "own.conf"
    own.write_text("spark.log.level INFO\n")
    server_command(Server("local[1]", "1g", 15002), tmp_path, {"MLOPS_SPARK_CONF": str(own)})
    lines = (tmp_path / "spark.conf").read_text().splitlines()
    assert lines.index("spark.log.level INFO") > lines.index("spark.log.level WARN")


def test_settings_that_can_not_be_read_are_told(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        server_command(Server("local[1]", "1g", 15002), tmp_path, {"MLOPS_SPARK_CONF": "/no/such.conf"})
    assert str(caught.value) == (
        "MLOPS_SPARK_CONF: /no/such.conf can't be read (No such file or directory); correct the path or unset it"
    )


def test_s3_settings_follow_the_environment() -> None:
    conf = s3a_conf(
        {
            "AWS_ENDPOINT_URL": "http://s3:9000",
            "AWS_DEFAULT_REGION": "eu-west-1",
            "MLOPS_S3_SSE": "aws:kms",
            "MLOPS_S3_SSE_KMS_KEY_ID": "a-key",
        }
    )
    assert {name: conf[f"spark.hadoop.fs.s3a.{name}"] for name in ("endpoint", "endpoint.region", "path.style.access")} == {
        "endpoint": "http://s3:9000",
        "endpoint.region": "eu-west-1",
        "path.style.access": "true",
    }
    assert (conf["spark.hadoop.fs.s3a.encryption.algorithm"], conf["spark.hadoop.fs.s3a.encryption.key"]) == (
        "SSE-KMS",
        "a-key",
    )


def test_amazons_own_s3_is_left_to_its_defaults() -> None:
    conf = s3a_conf({})
    assert not {f"spark.hadoop.fs.s3a.{name}" for name in ("endpoint", "endpoint.region", "path.style.access")} & set(conf)


def test_s3_is_wanted_for_a_store_there_or_when_an_image_brings_its_jars() -> None:
    assert wants_s3({"MLOPS_STORE": "s3://bucket/team"})
    assert wants_s3({"MLOPS_SPARK_JARS": "/opt/spark-jars"})
    assert not wants_s3({"MLOPS_STORE": "/srv/store"})
    assert not wants_s3({})


@pytest.mark.parametrize("found", ["", "3.4.1"])
def test_missing_jars_are_told_with_the_command_that_fetches_them(tmp_path: Path, found: str) -> None:
    folder = jars_in(tmp_path, found) if found else tmp_path
    with pytest.raises(SpecError) as caught:
        s3_jars({"MLOPS_SPARK_JARS": str(folder)}, pyspark_home() / "jars")
    assert str(caught.value) == (
        f"Spark needs hadoop-aws 3.5.0 for a store in S3, {folder} has {found or 'none'}: fetch it with "
        f"`docker/fetch-jars docker/spark/jars.lock {folder}`, or set MLOPS_SPARK_JARS to the folder that has it"
    )


def test_the_locked_jars_fit_pysparks_hadoop() -> None:
    (hadoop,) = (pyspark_home() / "jars").glob("hadoop-client-api-*.jar")
    version = hadoop.stem.removeprefix("hadoop-client-api-")
    lock = (ROOT / "docker/spark/jars.lock").read_text()
    assert f"org.apache.hadoop:hadoop-aws:{version} " in lock
    assert len(set(re.findall(r"software\.amazon\.awssdk:[\w-]+:(\S+) ", lock))) == 1


@pytest.mark.parametrize(
    ("url", "plain"),
    [
        ("sc://localhost:15002", True),
        ("sc://127.0.0.1:15002", True),
        ("sc://[::1]:15002", True),
        ("sc://spark-connect:15002", True),
        ("sc://spark.example.com:15002", False),
        ("sc://10.1.2.3:15002", False),
        ("sc://[2001:db8::1]:15002", False),
        ("sc://10.1.2.3:15002/;use_ssl=false", True),
        ("sc://spark-connect:15002/;use_ssl=true", False),
        ("sc://localhost:15002/;use_ssl=true", False),
    ],
)
def test_a_token_goes_unencrypted_only_where_nobody_else_listens(
    monkeypatch: pytest.MonkeyPatch, url: str, plain: bool
) -> None:
    monkeypatch.setenv("SPARK_CONNECT_AUTHENTICATE_TOKEN", "planted")
    channel = Channel(url)
    assert channel.plain is plain
    assert (("authorization", "Bearer planted") in channel.metadata()) is plain


def test_a_channel_keeps_its_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARK_CONNECT_AUTHENTICATE_TOKEN", "first")
    channel = Channel("sc://localhost:15002")
    monkeypatch.setenv("SPARK_CONNECT_AUTHENTICATE_TOKEN", "second")
    assert channel.metadata() == [("authorization", "Bearer first")]


def test_a_job_ends_soon_after_its_client() -> None:
    conf = server_conf(Server("local[1]", "1g", 15002), Path("/scratch"), {}, [])
    assert conf["spark.connect.execute.manager.detachedTimeout"] == f"{spark_server.DETACHED_S}s"
    assert spark_server.DETACHED_S <= 60
