"""No acknowledged answer is lost and none is doubled, whoever is killed; what was answered comes back as a pipeline's data."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from mlops_tasks.adapters.local_store import LocalStore
from mlops_tasks.adapters.s3_store import open_s3_store
from mlops_tasks.adapters.sources import Sources
from mlops_tasks.cli import main
from mlops_tasks.core.erasure import Erasure, apply_erasures, write_down
from mlops_tasks.errors import StoreUnavailable
from mlops_tasks.serving.recording.segments import segments
from mlops_tasks.serving.recording.shipper import Shipped, Shipper
from mlops_tasks.specs import Source
from tests.judged_models import ROWS, write_model
from tests.unit.serving.recorded import HOUR_NS, NOON_NS, answer, make_log, stored

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mlops_tasks.ports import ArtifactStore
    from tests.s3_servers import Moto

ROOT = Path(__file__).resolve().parents[2]


def wait_until(holds: Callable[[], bool], seconds: float, otherwise: Callable[[], str] = str) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, otherwise()
        time.sleep(0.05)


class Server:
    """A logging server in a process, and what it said."""

    def __init__(
        self, folder: Path, *, name: str = "shop", model: Path | None = None, clock: Path | None = None, **env: str
    ) -> None:
        self._said, self.folder = folder / f"server-{time.monotonic_ns()}.log", folder
        if model is None:
            model = folder / "model"
            write_model(model)
        command = [sys.executable, "-m", "tests.integration.logging_server", name, str(model), *([str(clock)] if clock else [])]
        self.environ = {
            **os.environ,
            "MLOPS_REQUEST_LOG": str(folder / "requests"),
            "MLOPS_STORE": str(folder / "store"),
            "PYTHONPATH": str(ROOT),
            **env,
        }
        with self._said.open("wb") as said:
            self.process = subprocess.Popen(command, cwd=folder, stdout=said, stderr=said, env=self.environ)
        wait_until(lambda: "serving on" in self.said() or self.process.poll() is not None, 60, self.said)
        found = re.search(r"shipped by process (\d+)\nserving on (\S+)", self.said())
        assert found, self.said()
        self.shipper, self.address = int(found[1]), found[2]

    def said(self) -> str:
        return self._said.read_text(encoding="utf-8")

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


class Load:
    """Clients that ask and remember which answers they got, until the server is gone."""

    def __init__(self, server: Server, clients: int = 4) -> None:
        self._server, self.acknowledged = server, list[str]()
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(at,)) for at in range(clients)]
        for thread in self._threads:
            thread.start()

    def _ask(self, client: int) -> None:
        number = 0
        with httpx.Client(timeout=30) as http:
            while not self._ended.is_set():
                name, number = f"{self._server.address[-5:]}-{client}-{number}", number + 1
                try:
                    told = http.post(
                        f"{self._server.address}/invocations", json={"instances": ROWS[:1]}, headers={"x-request-id": name}
                    )
                except httpx.HTTPError:
                    return
                assert told.status_code == 200, told.text
                self.acknowledged.append(name)

    def end(self) -> list[str]:
        self._ended.set()
        for thread in self._threads:
            thread.join()
        return self.acknowledged


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Callable[[], Server]]:
    started: list[Server] = []

    def start() -> Server:
        started.append(Server(tmp_path))
        return started[-1]

    yield start
    for server in started:
        server.kill()


def require_once(folder: Path, acknowledged: list[str]) -> None:
    """Every acknowledged answer is in the store; what is there more was asked but not acknowledged; nothing is there twice."""
    counted = Counter(row["prediction_id"] for row in stored(LocalStore(folder / "store")))
    assert set(acknowledged) <= counted.keys()
    assert len(counted.keys() - set(acknowledged)) <= 4, "one answer for each client may have been on its way"
    assert set(counted.values()) == {1}


@pytest.mark.slow
def test_a_killed_server_s_answers_are_all_shipped_by_its_own_shipper(tmp_path: Path, servers: Callable[[], Server]) -> None:
    server = servers()
    load = Load(server)
    wait_until(lambda: len(load.acknowledged) > 300, 60, server.said)
    server.kill()
    acknowledged = load.end()
    wait_until(lambda: not segments(tmp_path / "requests" / "shop"), 60, server.said)
    require_once(tmp_path, acknowledged)


@pytest.mark.slow
def test_server_and_shipper_killed_the_next_server_ships_what_they_left(tmp_path: Path, servers: Callable[[], Server]) -> None:
    acknowledged: list[str] = []
    for _ in range(3):
        server = servers()
        load = Load(server)
        wait_until(lambda: len(load.acknowledged) > 100, 60, server.said)  # noqa: B023 - called within the loop
        os.kill(server.shipper, signal.SIGKILL)
        server.kill()
        acknowledged += load.end()
    assert segments(tmp_path / "requests" / "shop")
    last = servers()
    wait_until(lambda: not segments(tmp_path / "requests" / "shop"), 60, last.said)
    counted = Counter(row["prediction_id"] for row in stored(LocalStore(tmp_path / "store")))
    assert set(acknowledged) <= counted.keys()
    assert set(counted.values()) == {1}


@pytest.mark.slow
def test_a_shipper_that_dies_is_replaced_and_the_end_is_orderly(tmp_path: Path, servers: Callable[[], Server]) -> None:
    server = servers()
    load = Load(server)
    os.kill(server.shipper, signal.SIGKILL)
    wait_until(lambda: "the shipper ended with -9; it is started again" in server.said(), 60, server.said)
    wait_until(lambda: len(load.acknowledged) > 100, 60, server.said)
    acknowledged = load.end()
    server.process.terminate()
    server.process.wait(60)
    assert server.said().endswith("ended\n")
    assert segments(tmp_path / "requests" / "shop") == []
    require_once(tmp_path, acknowledged)


@pytest.mark.slow
def test_a_shipper_killed_at_any_moment_loses_and_doubles_nothing(tmp_path: Path) -> None:
    log = make_log(tmp_path / "log")
    expected = [f"r{at}" for at in range(6)]
    for at, name in enumerate(expected):
        log.record(answer(name, at_ns=NOON_NS + at * 6 * HOUR_NS))
    log.close()
    torn = make_log(tmp_path / "log")
    torn.record(answer("last"))
    torn.close()
    path = segments(tmp_path / "log")[-1]
    path.write_bytes(path.read_bytes() + b"foreign bytes, longer than a frame's head")
    done = subprocess.run(
        [sys.executable, "-m", "tests.integration.shipping_deaths", str(tmp_path / "log"), str(tmp_path / "results")],
        cwd=ROOT, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    moments = done.stdout.split("\n")[:-1]
    assert len(moments) > 20
    assert {"after link", "before unlink", "after unlink", "after create", "after rename"} <= set(moments)
    for number, moment in enumerate(moments, 1):
        folder = tmp_path / "results" / str(number)
        found = Counter(row["prediction_id"] for row in stored(LocalStore(folder / "store")))
        assert found == Counter([*expected, "last"]), moment
        assert segments(folder / "log") == [], moment
        (aside,) = [path for path in (folder / "log" / "damaged").iterdir() if path.suffix == ".damaged"]
        assert aside.read_bytes() == b"foreign bytes, longer than a frame's head", moment


@pytest.fixture
def bucket(moto_server: Moto, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ArtifactStore:
    for name, value in moto_server.environ().items():
        monkeypatch.setenv(name, value)
    environ = {**os.environ, "MLOPS_CACHE": str(tmp_path / "cache"), "MLOPS_S3_PATIENCE_S": "0"}
    return open_s3_store(f"s3://{moto_server.make_bucket()}/some/prefix", environ)


def test_an_object_store_is_shipped_to_and_a_second_shipper_puts_nothing_anew(tmp_path: Path, bucket: ArtifactStore) -> None:
    log = make_log(tmp_path / "log")
    log.record(answer("r"))
    log.close()
    (path,) = segments(tmp_path / "log")
    kept = path.read_bytes()
    shipper = Shipper(tmp_path / "log", "shop", bucket)
    assert shipper.ship() == Shipped(segments=1, records=1)
    path.write_bytes(kept)  # as if the first shipper had been killed before it removed the segment
    assert shipper.ship() == Shipped(segments=1, records=1)
    assert [row["prediction_id"] for row in stored(bucket)] == ["r"]
    columns = {"prediction_time": "timestamp", "prediction_id": "string", "price": "float"}
    source = Source.model_validate({"path": "requests://shop", "event_time": "prediction_time", "columns": columns})
    (batch,) = Sources(lambda: bucket).read(source, None)
    assert batch.column("price").to_pylist() == [1.5]
    assert Sources(lambda: bucket).latest(source) == batch.column("prediction_time")[0].as_py()


def test_somebody_is_erased_from_an_object_store(tmp_path: Path, bucket: ArtifactStore) -> None:
    log = make_log(tmp_path / "log")
    for name in ("ann", "bob", "ann"):
        log.record(answer(f"{name}{time.monotonic_ns()}", entity=name))
    log.close()
    Shipper(tmp_path / "log", "shop", bucket).ship()
    (before,) = bucket.list("shop/requests/")
    hashed = next(row["prediction_entity"] for row in stored(bucket) if row["prediction_id"].startswith("ann"))
    write_down(bucket, "shop", Erasure(at=datetime.now(UTC) + timedelta(days=9999), entities=(hashed,)))
    assert apply_erasures(bucket, "shop").rows == 2
    assert [row["prediction_id"][:3] for row in stored(bucket)] == ["bob"]
    (after,) = bucket.list("shop/requests/")
    assert after.startswith(before.removesuffix(".parquet") + "~")


@pytest.mark.slow
def test_somebody_is_erased_while_the_server_logs_and_what_is_shipped_later_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = Server(tmp_path, name="nyc_flights")
    try:
        for at in range(20):
            for name in ("ann", "bob"):
                told = httpx.post(
                    f"{server.address}/invocations",
                    json={"instances": ROWS[:1]},
                    headers={"x-request-id": f"{name}{at}", "x-entity-key": name},
                )
                assert told.status_code == 200
        for variable in ("MLOPS_REQUEST_LOG", "MLOPS_STORE"):
            monkeypatch.setenv(variable, server.environ[variable])
        monkeypatch.setenv("MLOPS_PIPELINES", str(ROOT / "dags" / "pipelines"))
        monkeypatch.chdir(tmp_path)
        assert main(["erase", "nyc_flights", "--entity", "ann", "--json"]) == 0
        assert "1 wait in" in capsys.readouterr().out
        server.process.terminate()
        server.process.wait(60)
    finally:
        server.kill()
    found = sorted(row["prediction_id"] for row in stored(LocalStore(tmp_path / "store"), "nyc_flights"))
    assert found == sorted(f"bob{at}" for at in range(20))
    assert segments(tmp_path / "requests" / "nyc_flights") == []


def test_a_store_that_is_down_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, lines, stop = LocalStore(tmp_path / "store"), list[str](), threading.Event()
    log = make_log(tmp_path / "log")
    log.record(answer("r"))
    log.close()
    real = LocalStore.create
    monkeypatch.setattr(LocalStore, "create", _down)
    shipper = Shipper(tmp_path / "log", "shop", store, lines.append)
    runner = threading.Thread(target=shipper.run, args=(stop,), kwargs={"poll_s": 0.01})
    runner.start()
    wait_until(lambda: bool(lines), 30)
    assert len(segments(tmp_path / "log")) == 1
    monkeypatch.setattr(LocalStore, "create", real)
    wait_until(lambda: not segments(tmp_path / "log"), 60)
    stop.set()
    runner.join()
    assert [row["prediction_id"] for row in stored(store)] == ["r"]
    assert lines == ["request log: the store does not answer; segments wait on disk"]


def test_two_shippers_share_the_work(tmp_path: Path) -> None:
    for at in range(12):
        log = make_log(tmp_path / "log")
        log.record(answer(f"r{at}"))
        log.close()
    store, done = LocalStore(tmp_path / "store"), list[Shipped]()
    both = [threading.Thread(target=lambda: done.append(Shipper(tmp_path / "log", "shop", store).ship())) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert sum(one.records for one in done) == 12
    assert sorted(row["prediction_id"] for row in stored(store)) == sorted(f"r{at}" for at in range(12))


def test_the_command_ships_what_a_server_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLOPS_REQUEST_LOG", str(tmp_path / "requests"))
    monkeypatch.setenv("MLOPS_STORE", str(tmp_path / "store"))
    assert main(["ship", "shop", "--once"]) == 2
    assert "there is no request log of 'shop'; set MLOPS_REQUEST_LOG to the folder" in capsys.readouterr().err
    log = make_log(tmp_path / "requests" / "shop")
    log.record(answer("r"))
    log.close()
    assert main(["ship", "shop", "--once", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"segments": 1, "records": 1, "damaged": 0}
    assert [row["prediction_id"] for row in stored(LocalStore(tmp_path / "store"))] == ["r"]


def _down(*_: object) -> bool:
    msg = "the store does not answer"
    raise StoreUnavailable(msg)
