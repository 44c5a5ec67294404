"""The files of the request log: who may write one, and who may take one away.

A segment is locked (flock) by the process that writes it, so that one whose lock is free is finished, however its writer
ended; who ships it holds the lock meanwhile, so that nobody else does.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import socket
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mlops_tasks.serving.recording.frames import frame_of, head_of, new_marker

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

FOLDER = "MLOPS_REQUEST_LOG"
SUFFIX = ".frames"
BEGUN = ".new"
"""Suffix of a segment that is not locked yet."""
TRIED = ".try"
TRIED_BYTES = 64 << 10
DAMAGED = "damaged"
STALE_S = 60.0


def log_folder(name: str, environ: Mapping[str, str]) -> Path:
    """Return where a pipeline's requests are logged: below MLOPS_REQUEST_LOG, by default `.mlops/requests`."""
    return Path(environ.get(FOLDER) or ".mlops/requests").expanduser().resolve() / name


def try_writing(folder: Path, name: str) -> None:
    """Write as much as a request may need, and take it away again. Raises: OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}{TRIED}"
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            if os.write(file, bytes(TRIED_BYTES)) < TRIED_BYTES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(file)
    finally:
        path.unlink(missing_ok=True)


def server_id() -> str:
    """Return a name for this process that no other has, on any machine."""
    return f"{re.sub(r'[^A-Za-z0-9.]', '-', socket.gethostname())[:40]}-{os.getpid()}-{secrets.token_hex(4)}"


class Segment:
    """One file, being written by this process."""

    def __init__(self, folder: Path, name: str) -> None:
        """Make and lock it. Raises: OSError."""
        self.path = folder / f"{name}{SUFFIX}"
        self.began = time.monotonic()
        self.records = 0
        self.stated: set[int] = set()
        """Numbers of the schemas that stand in it."""
        self._marker = new_marker()
        begun = folder / f"{name}{BEGUN}"
        folder.mkdir(parents=True, exist_ok=True)
        self._file = os.open(begun, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.size = 0
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._write(head_of(self._marker))
            begun.rename(self.path)
        except OSError:
            os.close(self._file)
            begun.unlink(missing_ok=True)
            raise

    def append(self, *payloads: bytes) -> None:
        """Append frames by one write, whole or not at all.

        Raises:
            OSError: the disk is full or broken; what was written of them is cut off again.

        """
        self._write(b"".join([frame_of(self._marker, payload) for payload in payloads]))

    def _write(self, data: bytes) -> None:
        try:
            written = os.write(self._file, data)
        except OSError:
            os.ftruncate(self._file, self.size)
            raise
        if written != len(data):
            os.ftruncate(self._file, self.size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.size += written

    def close(self) -> None:
        """Let it be shipped; one without a record goes away."""
        if not self.records:
            self.path.unlink(missing_ok=True)
        os.close(self._file)


@contextmanager
def claimed(path: Path) -> Iterator[bytes | None]:
    """Give a finished segment's bytes, locked as long as it is being shipped; None if it is being written, shipped or gone."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield None
        return
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        yield path.read_bytes() if os.fstat(file).st_nlink else None
    finally:
        os.close(file)


def segments(folder: Path) -> list[Path]:
    """Return the segments of a folder, those being written too, sorted by name."""
    try:
        return sorted(path for path in folder.iterdir() if path.suffix == SUFFIX)
    except FileNotFoundError:
        return []


def sweep(folder: Path) -> None:
    """Remove what processes left that were killed while they made a segment: nothing was logged in it yet."""
    for path in folder.glob(f"*{BEGUN}"):
        try:
            if time.time() - path.stat().st_mtime > STALE_S:
                path.unlink()
        except FileNotFoundError:
            continue


@dataclass(frozen=True)
class Waiting:
    """What of a log is on disk and not yet in the store."""

    segments: int = 0
    size: int = 0
    """Bytes."""
    oldest_s: float = 0.0
    """Seconds since the oldest segment was begun."""


def waiting(folder: Path) -> Waiting:
    """Look at what waits, the segments being written included."""
    count, size, oldest = 0, 0, time.time()
    for path in segments(folder):
        try:
            size += path.stat().st_size
        except FileNotFoundError:
            continue
        count += 1
        oldest = min(oldest, int(path.stem.rsplit("-", 2)[1]) / 1e9)
    return Waiting(count, size, max(0.0, time.time() - oldest) if count else 0.0)
