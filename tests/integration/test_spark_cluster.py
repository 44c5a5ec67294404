"""Preprocessing on a real cluster: the bytes of one machine, also when a worker dies in mid-job."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mlops_tasks.adapters.s3_store import open_s3_store
from mlops_tasks.adapters.spark import ConnectSpark, connect
from mlops_tasks.adapters.spark_server import TOKEN, free_port
from mlops_tasks.errors import StoreUnavailable
from mlops_tasks.stages.preprocess import run
from tests.fakes import make_ports
from tests.raw_windows import days
from tests.shop_features import SLOW_SQL, SQL, digests, shop_window, spec
from tests.spark_cluster import Cluster
from tests.spark_store import left_by_spark, store_in_s3

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlops_tasks.artifacts import Features
    from mlops_tasks.ports import ArtifactStore
    from tests.s3_servers import S3Proxy

pytestmark = [pytest.mark.spark, pytest.mark.slow]
ROOT = Path(__file__).resolve().parents[2]
WINDOWS = 4
IMPATIENT = "spark.shuffle.io.retryWait 1s\nspark.connect.execute.manager.detachedTimeout 2s\n"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, s3_server: S3Proxy) -> Iterator[Cluster]:
    """A master and two workers, which hold their own credentials for S3."""
    made = Cluster(tmp_path_factory.mktemp("cluster"), 2, s3_server.environ())
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def impatient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of a user's own, by which a server waits less for what is dead."""
    settings = tmp_path / "spark.conf"
    settings.write_text(IMPATIENT)
    monkeypatch.setenv("MLOPS_SPARK_CONF", str(settings))


@pytest.fixture(scope="module")
def expected(spark: ConnectSpark, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one machine makes."""
    return digests(preprocess(spark, tmp_path_factory.mktemp("local")))


def preprocess(spark: ConnectSpark, folder: Path, code: str = SQL, store: ArtifactStore | None = None) -> list[Features]:
    ports = make_ports(folder, spark=spark, store=store)
    windows = days(WINDOWS)
    return run(spec(code), [shop_window(ports, window) for window in windows], windows, ports=ports)


@pytest.mark.s3
def test_a_cluster_over_s3_gives_the_same_bytes_and_a_dead_worker_changes_none(
    expected: dict[str, Any], cluster: Cluster, s3_server: S3Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_in_s3(s3_server, tmp_path / "cache", monkeypatch)
    on_cluster = ConnectSpark(cluster.master, "512m")
    try:
        assert digests(preprocess(on_cluster, tmp_path, SQL, open_s3_store(f"{store}/quick", os.environ))) == expected
        made: list[Features] = []
        slow = open_s3_store(f"{store}/slow", os.environ)
        job = threading.Thread(target=lambda: made.extend(preprocess(on_cluster, tmp_path, SLOW_SQL, slow)), daemon=True)
        used = cluster.cpu_s_of_last()
        job.start()
        await_work(cluster, used)
        cluster.kill_last()
        assert job.is_alive(), "the job was over before the worker died"
        job.join(180)
        assert digests(made) == expected
        assert left_by_spark(s3_server, store) == []
    finally:
        assert on_cluster._server is not None
        on_cluster._server.process.kill()
        cluster.mend()


def await_work(cluster: Cluster, used: float) -> None:
    """Wait until the last worker's executor has used half a second more of CPU than `used`."""
    deadline = time.monotonic() + 180
    while cluster.cpu_s_of_last() < used + 0.5:
        assert time.monotonic() < deadline, "the last worker did not work"
        time.sleep(0.01)


@pytest.fixture
def server(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The port of a Spark Connect server over the cluster, started as users do."""
    monkeypatch.setenv(TOKEN, "a-token-of-the-tests")
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "mlops_tasks",
        "spark",
        "--port",
        str(port),
        "--master",
        cluster.master,
        "--memory",
        "512m",
    ]
    with (tmp_path / "server.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
    deadline = time.monotonic() + 180
    while not _answers(port):
        assert time.monotonic() < deadline, (tmp_path / "server.log").read_text()
        assert process.poll() is None, (tmp_path / "server.log").read_text()
        time.sleep(0.1)
    yield port
    process.terminate()
    process.wait(30)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_server_over_the_cluster_gives_the_same_bytes_and_ends_jobs_of_dead_clients(
    expected: dict[str, Any], cluster: Cluster, server: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sc://127.0.0.1:{server}"
    on_server = ConnectSpark(url, "512m")
    assert digests(preprocess(on_server, tmp_path / "server")) == expected
    endless = "SELECT count(*) FROM range(0, 1000000, 1, 2) a CROSS JOIN range(1000000) b WHERE a.id * b.id % 7 = 3"
    client = f"from mlops_tasks.adapters.spark import connect; connect({url!r}).sql({endless!r}).collect()"
    used = cluster.cpu_s_of_last()
    process = subprocess.Popen([sys.executable, "-c", client], cwd=ROOT)
    await_work(cluster, used)
    assert process.poll() is None
    process.kill()
    process.wait(10)
    # Both cores were the dead client's; this answers once they are free.
    assert on_server.session().sql("SELECT count(*) FROM range(10)").collect()[0][0] == 10
    monkeypatch.setenv(TOKEN, "another-token")
    with pytest.raises(StoreUnavailable) as caught:
        connect(url)
    assert "another-token" not in str(caught.value)
