"""The store when the network and the server do their worst: results are right or the error is clear, and nothing is partial."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from mlops_tasks.adapters import s3_objects
from mlops_tasks.adapters.s3_store import S3Store, open_s3_store
from mlops_tasks.errors import StoreUnavailable
from tests import faulty_proxy
from tests.faulty_proxy import FaultyProxy
from tests.s3_servers import S3Proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mlops_tasks.artifacts import FileRef
    from tests.faulty_proxy import Fault, Request

    Opener = Callable[..., S3Store]

pytestmark = pytest.mark.s3
PART = 5 << 20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Proxy]:
    """A server of this module's own, since it is taken down."""
    server = S3Proxy(tmp_path_factory.mktemp("s3proxy"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def proxy(server: S3Proxy) -> Iterator[FaultyProxy]:
    with FaultyProxy(server.port) as proxy:
        yield proxy


@pytest.fixture
def environ(server: S3Proxy, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Lead every client to the proxy; return what is needed to open a store."""
    for name, value in {**server.environ(), "AWS_ENDPOINT_URL": proxy.url}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(s3_objects, "PART_BYTES", PART)
    return {"MLOPS_STORE": f"s3://{server.make_bucket()}/some/prefix", "MLOPS_S3_PATIENCE_S": "60"}


def open_store(environ: dict[str, str], cache: Path) -> S3Store:
    return open_s3_store(environ["MLOPS_STORE"], {**environ, "MLOPS_CACHE": str(cache)})


def put(store: S3Store, key: str, data: bytes) -> FileRef:
    with store.staging() as folder:
        (folder / "file").write_bytes(data)
        return store.publish(folder / "file", key)


def use(environ: dict[str, str], folder: Path) -> None:
    """Do everything that stages do with a store, and see that each result is right."""
    store, data = open_store(environ, folder / "cache"), os.urandom(2 * PART + 1)
    small = [put(store, f"a/{number}", b"%d" % number) for number in range(5)]
    large = put(store, "a/large", data)
    assert store.create("b/once", b"first")
    assert not store.create("b/once", b"second")
    for number in range(5):
        store.write("b/record", b"%d" % number)
        assert store.read("b/record") == b"%d" % number
    elsewhere = open_store(environ, folder / "another cache")
    assert [elsewhere.open_local(ref).read_bytes() for ref in small] == [b"%d" % number for number in range(5)]
    assert elsewhere.open_local(large).read_bytes() == data
    assert all(elsewhere.verify(ref) for ref in (*small, large))
    assert elsewhere.read("b/once") == b"first"
    store.delete("a/0")
    assert list(store.list("")) == ["a/1", "a/2", "a/3", "a/4", "a/large", "b/once", "b/record"]


@pytest.mark.parametrize("fault", ["busy", "slow", "cut answer", "cut request", "lost answer"])
def test_one_request_in_ten_goes_wrong(
    environ: dict[str, str], proxy: FaultyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    monkeypatch.setattr(faulty_proxy, "SLOW_S", 0.3)
    proxy.fault = lambda request: fault if request.number % 10 == 3 else None
    use(environ, tmp_path)
    assert proxy.faults >= 4


def test_every_other_answer_is_lost(environ: dict[str, str], proxy: FaultyProxy, tmp_path: Path) -> None:
    proxy.fault = lambda request: "lost answer" if request.number % 2 else None
    use(environ, tmp_path)


def test_what_was_created_by_a_lost_answer_is_ones_own(environ: dict[str, str], proxy: FaultyProxy, tmp_path: Path) -> None:
    store = open_store(environ, tmp_path / "cache")
    proxy.fault = lambda request: "lost answer" if request.number == 1 else None
    assert store.create("a/once", b"first"), "the first attempt wrote it, its answer was lost, the second was refused"
    assert [request.method for request in proxy.seen] == ["PUT", "PUT", "HEAD"]
    assert not store.create("a/once", b"second")


def test_an_upload_in_parts_that_fails_leaves_nothing(
    environ: dict[str, str], server: S3Proxy, proxy: FaultyProxy, tmp_path: Path
) -> None:
    store = open_store({**environ, "MLOPS_S3_PATIENCE_S": "1"}, tmp_path / "cache")
    proxy.fault = lambda request: "busy" if "partNumber=2" in request.path else None
    source = tmp_path / "model"
    source.write_bytes(b"x" * (3 * PART))
    with pytest.raises(StoreUnavailable, match=r"some/prefix/a/model: S3 answered SlowDown; run again later"):
        store.publish(source, "a/model")
    assert source.exists(), "what could not be published is still there"
    assert list(store.list("")) == []
    bucket = environ["MLOPS_STORE"].split("/")[2]
    assert server.client().list_multipart_uploads(Bucket=bucket).get("Uploads", []) == []
    proxy.fault = lambda _: None
    assert store.verify(store.publish(source, "a/model"))


@contextmanager
def outage(server: S3Proxy, seconds: float) -> Iterator[None]:
    """Take the server down now and up again after a while."""
    server.kill()
    up = threading.Timer(seconds, server.start)
    up.start()
    try:
        yield
    finally:
        up.join()


def test_a_server_that_is_away_for_a_while_is_waited_for(
    environ: dict[str, str], server: S3Proxy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(environ, tmp_path / "cache")
    store.write("a/record", b"x")
    with outage(server, 4):
        assert store.read("a/record") == b"x"
    waiting = [message for message in caplog.messages if "trying again for up to" in message]
    assert waiting
    assert waiting[0].startswith(f"{store.root}/a/record: S3 ")
    store.delete("a/record")
    with outage(server, 4):
        use(environ, tmp_path)


def test_a_server_that_dies_in_mid_upload_is_waited_for(
    environ: dict[str, str], server: S3Proxy, proxy: FaultyProxy, tmp_path: Path
) -> None:
    store, data = open_store(environ, tmp_path / "cache"), os.urandom(6 * PART)
    died = threading.Event()

    def die(request: Request) -> None:
        if "partNumber=3" in request.path and not died.is_set():
            died.set()
            server.kill()
            threading.Timer(2, server.start).start()

    proxy.fault = die
    ref = put(store, "a/large", data)
    assert died.is_set()
    assert open_store(environ, tmp_path / "another cache").open_local(ref).read_bytes() == data


@pytest.mark.slow
def test_an_outage_of_a_minute_is_ridden_out_by_default(environ: dict[str, str], server: S3Proxy, tmp_path: Path) -> None:
    del environ["MLOPS_S3_PATIENCE_S"]
    with outage(server, 60):
        begun = time.monotonic()
        use(environ, tmp_path)
        assert time.monotonic() - begun > 55


def test_patience_ends(environ: dict[str, str], server: S3Proxy, tmp_path: Path) -> None:
    store = open_store({**environ, "MLOPS_S3_PATIENCE_S": "2"}, tmp_path / "cache")
    server.kill()
    try:
        begun = time.monotonic()
        with pytest.raises(StoreUnavailable, match=r"S3 does not answer \(\w+\); check AWS_ENDPOINT_URL and the network"):
            store.read("a/record")
        assert 2 <= time.monotonic() - begun < 30
    finally:
        server.start()


UPLOADER = """
import sys
from pathlib import Path
from mlops_tasks.adapters import s3_objects
from mlops_tasks.wiring import open_store
s3_objects.PART_BYTES = 5 << 20
open_store().publish(Path(sys.argv[1]), "a/model")
"""


def test_a_kill_in_mid_upload_leaves_nothing_visible(
    environ: dict[str, str], proxy: FaultyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faulty_proxy, "SLOW_S", 60.0)
    under_way = threading.Event()
    numbers = itertools.count(1)

    def hold(request: Request) -> Fault | None:
        if "partNumber=" not in request.path or next(numbers) <= 2:
            return None
        under_way.set()
        return "slow"

    proxy.fault = hold
    source = tmp_path / "model"
    source.write_bytes(os.urandom(4 * PART))
    before = source.read_bytes()
    cache = tmp_path / "cache"
    killed = subprocess.Popen(
        [sys.executable, "-c", UPLOADER, str(source)], env={**os.environ, **environ, "MLOPS_CACHE": str(cache)}
    )
    assert under_way.wait(60)
    killed.send_signal(signal.SIGKILL)
    killed.wait(10)
    proxy.fault = lambda _: None
    store = open_store(environ, cache)
    assert list(store.list("")) == []
    assert not store.exists("a/model")
    ref = store.publish(source, "a/model")
    assert store.verify(ref)
    assert list(store.list("")) == ["a/model"]
    assert open_store(environ, tmp_path / "another cache").open_local(ref).read_bytes() == before
