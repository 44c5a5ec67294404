from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mlops_tasks.adapters.file_cache import FileCache, cache_from
from mlops_tasks.artifacts import FileRef
from mlops_tasks.errors import StoreUnavailable

ROOT = Path(__file__).resolve().parents[3]
KB = 1 << 10


def ref_of(data: bytes) -> FileRef:
    return FileRef(key="a/file", bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def kilobyte(number: int) -> bytes:
    return bytes([number]) * KB


def fill(cache: FileCache, data: bytes) -> Path:
    path = cache.fill(ref_of(data), lambda new: new.write_bytes(data))
    assert path is not None
    return path


def take(cache: FileCache, folder: Path, data: bytes) -> None:
    (folder / "file").write_bytes(data)
    cache.take(folder / "file", ref_of(data))


def shared(folder: Path) -> set[bytes]:
    return {path.read_bytes() for path in (folder / "files").glob("??/*")}


def test_what_was_downloaded_is_found_again(tmp_path: Path) -> None:
    cache = FileCache(tmp_path, 1 << 20)
    assert cache.find(ref_of(b"x")) is None
    path = fill(cache, b"x")
    assert path.read_bytes() == b"x"
    assert path.stat().st_mode & 0o777 == 0o444
    assert FileCache(tmp_path, 1 << 20).find(ref_of(b"x")) == path


def test_wrong_bytes_are_not_kept(tmp_path: Path) -> None:
    cache = FileCache(tmp_path, 1 << 20)
    assert cache.fill(ref_of(b"right"), lambda new: new.write_bytes(b"wrong")) is None
    assert shared(tmp_path) == set()


def test_a_download_that_fails_leaves_nothing(tmp_path: Path) -> None:
    cache = FileCache(tmp_path, 1 << 20)

    def fail(new: Path) -> None:
        new.write_bytes(b"half")
        raise StoreUnavailable

    with pytest.raises(StoreUnavailable):
        cache.fill(ref_of(b"whole"), fail)
    assert shared(tmp_path) == set()
    assert list((tmp_path / "in-use").glob("*/*")) == []


def test_a_cached_file_that_was_damaged_is_dropped(tmp_path: Path) -> None:
    take(FileCache(tmp_path, 1 << 20), tmp_path, b"right")
    (path,) = (tmp_path / "files").glob("??/*")
    path.chmod(0o644)
    path.write_bytes(b"wrong")
    assert FileCache(tmp_path, 1 << 20).find(ref_of(b"right")) is None
    assert shared(tmp_path) == set()


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    cache = FileCache(tmp_path, 100 * KB)
    for number in range(90):
        take(cache, tmp_path, kilobyte(number))
        os.utime(
            next(path for path in (tmp_path / "files").glob("??/*") if path.name == ref_of(kilobyte(number)).sha256),
            (number, number),
        )
    os.utime(tmp_path / "files" / ref_of(kilobyte(0)).sha256[:2] / ref_of(kilobyte(0)).sha256)
    for number in range(90, 120):
        take(cache, tmp_path, kilobyte(number))
    kept = shared(tmp_path)
    assert len(kept) <= 100
    assert kilobyte(0) in kept, "it was used lately"
    assert {kilobyte(number) for number in range(90, 120)} <= kept
    assert kilobyte(1) not in kept


def test_what_is_in_use_is_never_taken_away(tmp_path: Path) -> None:
    cache = FileCache(tmp_path, 10 * KB)
    held = fill(cache, kilobyte(0))
    for number in range(1, 40):
        take(cache, tmp_path, kilobyte(number))
    assert held.read_bytes() == kilobyte(0)
    assert len(shared(tmp_path)) <= 10
    assert kilobyte(0) in shared(tmp_path)


def test_what_a_killed_process_held_is_let_go(tmp_path: Path) -> None:
    take(FileCache(tmp_path, 1 << 20), tmp_path, b"x")
    code = (
        "import os, sys; from pathlib import Path; from mlops_tasks.adapters.file_cache import FileCache;"
        "from mlops_tasks.artifacts import FileRef; ref = FileRef.model_validate_json(sys.argv[2]);"
        "path = FileCache(Path(sys.argv[1]), 1 << 20).find(ref); assert path.read_bytes() == b'x';"
        "os.kill(os.getpid(), 9) if sys.argv[3] == 'kill' else None"
    )
    for how in ("end", "kill"):
        subprocess.run([sys.executable, "-c", code, str(tmp_path), ref_of(b"x").model_dump_json(), how], cwd=ROOT, check=False)
    (killed,) = (path for path in (tmp_path / "in-use").iterdir() if path.is_dir())
    FileCache(tmp_path, 1 << 20).find(ref_of(b"x"))
    assert not killed.exists()


def test_many_at_once_get_whole_files(tmp_path: Path) -> None:
    files = [os.urandom(100 * KB) for _ in range(4)]
    start = threading.Barrier(8)

    def use(number: int) -> bool:
        cache, data = FileCache(tmp_path, 150 * KB), files[number % 4]
        start.wait()
        for _ in range(20):
            path = cache.find(ref_of(data)) or fill(cache, data)
            assert path.read_bytes() == data
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(use, range(8)))


def test_a_cache_that_was_removed_is_made_again(tmp_path: Path) -> None:
    cache = FileCache(tmp_path / "cache", 1 << 20)
    fill(cache, b"x")
    subprocess.run(["rm", "-rf", str(tmp_path / "cache")], check=True)
    assert cache.find(ref_of(b"x")) is None
    assert fill(cache, b"x").read_bytes() == b"x"


def test_a_cache_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "cache").write_bytes(b"")
    cache = cache_from({"MLOPS_CACHE": str(tmp_path / "cache")})
    with pytest.raises(
        StoreUnavailable, match=r"cache .*/cache: writing failed: .*; set MLOPS_CACHE to a folder that is yours"
    ):
        cache.staging().__enter__()
