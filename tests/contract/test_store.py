"""What every artifact store promises, whatever it is made of."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mlops_tasks.adapters.local_store import STAGING, LocalStore
from mlops_tasks.adapters.s3_store import open_s3_store
from mlops_tasks.artifacts import FileRef
from mlops_tasks.core.publishing import publish_files
from mlops_tasks.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlops_tasks.ports import ArtifactStore
    from tests.s3_servers import S3Server

RACERS = 16
SERVERS = {"moto": "moto_server", "s3proxy": "s3_server"}
STORES = ["local", *(pytest.param(name, marks=pytest.mark.s3) for name in SERVERS)]
"""Another store joins the contract by a line here and in `store`, which gives an empty one to each test."""
OTHER_DISK = Path("/dev/shm")


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ArtifactStore:
    if request.param == "local":
        return LocalStore(tmp_path / "store")
    server: S3Server = request.getfixturevalue(SERVERS[request.param])
    for name, value in server.environ().items():
        monkeypatch.setenv(name, value)
    return open_s3_store(f"s3://{server.make_bucket()}/some/prefix", {"MLOPS_CACHE": str(tmp_path / "cache")})


def put(store: ArtifactStore, key: str, data: bytes) -> FileRef:
    with store.staging() as folder:
        path = folder / "file"
        path.write_bytes(data)
        return store.publish(path, key, rows=3)


def test_what_is_written_is_read(store: ArtifactStore) -> None:
    store.write("a/b/record.json", b"one")
    store.write("a/b/record.json", b"two")
    assert store.read("a/b/record.json") == b"two"
    assert store.exists("a/b/record.json")


def test_what_is_absent_is_a_key_error(store: ArtifactStore) -> None:
    with pytest.raises(KeyError, match="a/nothing"):
        store.read("a/nothing")
    assert not store.exists("a/nothing")
    assert list(store.list("a/")) == list(store.list("")) == []
    store.delete("a/nothing")


def test_create_keeps_the_first(store: ArtifactStore) -> None:
    assert store.create("a/once", b"first")
    assert not store.create("a/once", b"second")
    assert store.read("a/once") == b"first"


def test_of_many_who_create_at_once_one_wins(store: ArtifactStore) -> None:
    for turn in range(5):
        start = threading.Barrier(RACERS)

        def create(racer: int, *, key: str = f"races/{turn}", start: threading.Barrier = start) -> bool:
            start.wait()
            return store.create(key, b"%d" % racer * 1000)

        with ThreadPoolExecutor(RACERS) as pool:
            won = list(pool.map(create, range(RACERS)))
        assert sum(won) == 1
        assert store.read(f"races/{turn}") == b"%d" % won.index(True) * 1000


def test_readers_see_the_old_or_the_new_never_a_part(store: ArtifactStore) -> None:
    texts = {bytes([65 + i]) * (200_000 + i) for i in range(4)}
    store.write("a/record", min(texts))
    stop = threading.Event()
    seen: set[bytes] = set()

    def read() -> None:
        while not stop.is_set():
            seen.add(store.read("a/record"))

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    for _ in range(5):
        for text in sorted(texts):
            store.write("a/record", text)
    stop.set()
    for reader in readers:
        reader.join()
    assert seen <= texts
    assert len(seen) > 1


def test_publish_says_what_it_published(store: ArtifactStore) -> None:
    data = b"x" * 3_000_000
    ref = put(store, "shop/features/2030-01-01/d/features.parquet", data)
    assert ref == FileRef(
        key="shop/features/2030-01-01/d/features.parquet", bytes=3_000_000, sha256=hashlib.sha256(data).hexdigest(), rows=3
    )
    assert store.open_local(ref).read_bytes() == data
    assert store.verify(ref)


def test_publishing_again_changes_nothing(store: ArtifactStore) -> None:
    first, second = put(store, "a/file", b"same"), put(store, "a/file", b"same")
    assert first == second
    assert list(store.list("")) == ["a/file"]


def test_many_who_publish_the_same_at_once_agree(store: ArtifactStore) -> None:
    start = threading.Barrier(RACERS)

    def publish(_: int) -> tuple[str, tuple[FileRef, ...]]:
        with store.staging() as folder:
            (folder / "data").write_bytes(b"d" * 100_000)
            (folder / "report").write_bytes(os.urandom(1000))
            start.wait()
            files = {name: folder / name for name in ("data", "report")}
            return publish_files(store, "shop/x", files, unhashed=frozenset({"report"}))

    with ThreadPoolExecutor(RACERS) as pool:
        results = list(pool.map(publish, range(RACERS)))
    assert len({digest for digest, _ in results}) == 1
    assert len({refs for _, refs in results}) == 1
    assert all(store.verify(ref) for ref in results[0][1])


def test_a_file_from_another_disk_arrives_whole(store: ArtifactStore, tmp_path: Path) -> None:
    other = OTHER_DISK / f"store-test-{os.getpid()}"
    other.write_bytes(b"from afar")
    assert other.stat().st_dev != tmp_path.stat().st_dev, "this test needs /dev/shm on a disk of its own"
    ref = store.publish(other, "a/file")
    assert store.verify(ref)
    assert not other.exists()
    assert list(store.list("")) == ["a/file"]


@pytest.mark.parametrize("key", ["../outside", "a/../../outside", "/etc/passwd", "a/../../store-2/x"])
def test_keys_that_lead_outside_are_refused(store: ArtifactStore, tmp_path: Path, key: str) -> None:
    (tmp_path / "outside").write_bytes(b"secret")
    ref = FileRef(key=key, bytes=6, sha256="0" * 64)
    source = tmp_path / "source"
    source.write_bytes(b"x")
    calls: list[Callable[[], object]] = [
        lambda: store.read(key),
        lambda: store.write(key, b""),
        lambda: store.create(key, b""),
        lambda: store.publish(source, key),
        lambda: store.open_local(ref),
        lambda: store.verify(ref),
        lambda: store.exists(key),
        lambda: store.delete(key),
        lambda: store.spark_uri(key),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="points outside the store"):
            call()
    assert (tmp_path / "outside").read_bytes() == b"secret"
    assert not (tmp_path / "store-2").exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data + b"x",
        lambda data: data[:500] + bytes([data[500] ^ 1]) + data[501:],
        lambda data: b"",  # noqa: ARG005 - one shape for all
    ],
    ids=["truncated", "appended", "one bit flipped", "emptied"],
)
def test_damage_is_seen(store: ArtifactStore, damage: Callable[[bytes], bytes]) -> None:
    ref = put(store, "a/file", os.urandom(1000))
    store.write("a/file", damage(store.read("a/file")))
    assert not store.verify(ref)


def test_a_file_that_is_gone_is_told(store: ArtifactStore) -> None:
    ref = put(store, "a/file", b"x")
    store.delete("a/file")
    assert not store.verify(ref)
    with pytest.raises(StoreUnavailable) as caught:
        store.open_local(ref)
    assert str(caught.value).endswith("a/file is missing; run again with --recompute to make it anew")


def test_list_is_sorted_and_knows_prefixes(store: ArtifactStore) -> None:
    for key in ("b/2", "b/1", "b/10/x", "bb/1", "a"):
        store.write(key, b"")
    assert list(store.list("")) == ["a", "b/1", "b/10/x", "b/2", "bb/1"]
    assert list(store.list("b/")) == ["b/1", "b/10/x", "b/2"]
    assert list(store.list("b")) == ["b/1", "b/10/x", "b/2", "bb/1"]
    assert list(store.list("b/1")) == ["b/1", "b/10/x"]


def test_folders_are_named_without_what_is_in_them(store: ArtifactStore) -> None:
    for key in ("log/2/b", "log/10/a", "log/10/deep/c", "log/file", "logs/x/y"):
        store.write(key, b"")
    assert store.folders("log/") == ["10", "2"]
    assert store.folders("log/10/") == ["deep"]
    assert store.folders("nothing/") == []
    with store.staging():
        assert store.folders("") == ["log", "logs"]


def test_list_hides_what_is_unfinished(store: ArtifactStore) -> None:
    store.write("a/done", b"")
    with store.staging() as folder:
        (folder / "unfinished").write_bytes(b"")
        assert list(store.list("")) == ["a/done"]
    assert not folder.exists()


def test_listing_while_others_publish_does_not_stumble(store: ArtifactStore) -> None:
    stop = threading.Event()

    def publish() -> None:
        turn = 0
        while not stop.is_set():
            put(store, f"a/{turn % 5}/file", b"x")
            store.delete(f"a/{turn % 5}/file")
            turn += 1

    publishers = [threading.Thread(target=publish) for _ in range(3)]
    for publisher in publishers:
        publisher.start()
    try:
        for _ in range(200):
            assert {key.rsplit("/", 1)[-1] for key in store.list("")} <= {"file"}
    finally:
        stop.set()
        for publisher in publishers:
            publisher.join()


def test_an_error_in_staging_leaves_nothing(store: ArtifactStore) -> None:
    folders = []

    def break_down() -> None:
        with store.staging() as folder:
            folders.append(folder)
            (folder / "unfinished").write_bytes(b"x")
            msg = "broken"
            raise RuntimeError(msg)

    with pytest.raises(RuntimeError, match="broken"):
        break_down()
    assert not folders[0].exists()
    assert list(store.list("")) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("a disk of one megabyte can only be mounted by root on Linux")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=True, capture_output=True)
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_told_and_leaves_nothing(small_disk: Path, tmp_path: Path) -> None:
    store = LocalStore(small_disk)
    store.write("a/record", b"old")
    (small_disk / "filler").write_bytes(b"x" * 900_000)
    big = tmp_path / "big"
    big.write_bytes(b"x" * 500_000)
    advice = "failed: No space left on device; free some space and run again"
    with pytest.raises(StoreUnavailable) as caught:
        store.write("a/record", b"y" * 500_000)
    assert str(caught.value) == f"store {small_disk}: writing a/record {advice}"
    with pytest.raises(StoreUnavailable, match="writing a/other"):
        store.create("a/other", b"y" * 500_000)
    with pytest.raises(StoreUnavailable, match="publishing a/file"):
        store.publish(big, "a/file")
    with pytest.raises(StoreUnavailable, match="writing failed: No space left on device"):
        _fill_staging(store, big)
    assert store.read("a/record") == b"old"
    assert big.exists(), "what could not be published is still there"
    (small_disk / "filler").unlink()
    assert list(store.list("")) == ["a/record"]
    assert sorted(p.name for p in small_disk.rglob("*")) == [STAGING, "a", "record"]
    assert store.verify(store.publish(big, "a/file"))


def _fill_staging(store: ArtifactStore, big: Path) -> None:
    with store.staging() as folder:
        shutil.copyfile(big, folder / "big")


def test_a_store_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    store = LocalStore(tmp_path / "file")
    for call in (lambda: store.write("a", b""), lambda: store.create("b/c", b""), lambda: store.staging().__enter__()):
        with pytest.raises(StoreUnavailable, match="check the folder and its rights"):
            call()
