"""Preprocessing over s3a://: the bytes of a store on disk; a server that dies in mid-job leaves nothing."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from typing import TYPE_CHECKING

import pytest

from mlops_tasks.adapters.s3_store import open_s3_store
from mlops_tasks.adapters.spark import ConnectSpark
from mlops_tasks.errors import StoreUnavailable
from mlops_tasks.stages.preprocess import run
from tests.fakes import make_ports
from tests.raw_windows import days
from tests.shop_features import digests, shop_window, spec
from tests.spark_store import keys_of, left_by_spark, store_in_s3

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mlops_tasks.ports import Ports
    from tests.s3_servers import S3Proxy

pytestmark = [pytest.mark.spark, pytest.mark.s3, pytest.mark.slow]


@pytest.fixture
def store(s3_server: S3Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URI of an empty store, which this process's environment names."""
    return store_in_s3(s3_server, tmp_path / "cache", monkeypatch)


@pytest.fixture
def over_s3(store: str) -> Iterator[ConnectSpark]:
    """Spark with a server of its own that reaches the store."""
    assert os.environ["MLOPS_STORE"] == store
    made = ConnectSpark("local[2]", "1g")
    yield made
    if made._server is not None:
        made._server.process.kill()


def test_s3_gives_the_same_bytes_and_half_a_result_is_never_seen(
    spark: ConnectSpark, over_s3: ConnectSpark, s3_server: S3Proxy, store: str, tmp_path: Path
) -> None:
    windows = days(3)
    local: Ports = make_ports(tmp_path, spark=spark)
    expected = digests(run(spec(), [shop_window(local, window) for window in windows], windows, ports=local))
    remote = make_ports(tmp_path, spark=over_s3, store=open_s3_store(store, os.environ))
    raw = [shop_window(remote, window) for window in windows]
    over_s3.session()
    assert over_s3._server is not None
    threading.Thread(target=kill_in_mid_job, args=(s3_server, store, over_s3._server.process), daemon=True).start()
    with pytest.raises(StoreUnavailable) as caught:
        run(spec(), raw, windows, ports=remote)
    assert "Spark stopped answering" in str(caught.value)
    assert list(remote.store.list("shop/features/")) == []
    assert left_by_spark(s3_server, store) == []
    made = run(spec(), raw, windows, ports=remote)
    assert digests(made) == expected
    assert left_by_spark(s3_server, store) == []
    assert remote.store.moved.downloaded_files == 2 * len(windows)


def kill_in_mid_job(s3_server: S3Proxy, store: str, server: subprocess.Popen[bytes]) -> None:
    """Kill Spark's server once the first of its two jobs has begun to write to the bucket."""
    deadline = time.monotonic() + 180
    while not any(".staging/" in key and "/features/" in key for key in keys_of(s3_server, store)):
        assert time.monotonic() < deadline, "no job wrote anything"
        time.sleep(0.05)
    server.kill()
