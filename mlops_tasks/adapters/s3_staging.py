"""Folders of a bucket that Spark writes to: a lease keeps each alive, and whoever makes the next removes the dead ones.

A folder is `.staging/<id>/`, its lease the object `.staging/<id>.lease`, put anew every few minutes by its process. A
folder whose newest object, lease included, is older than `DEAD_AFTER` belongs to a process that was killed: a job may
run for days, and one that loses S3 for an hour keeps its folder. Times are the server's, so clocks may differ.
"""

from __future__ import annotations

import threading
import uuid
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from mlops_tasks.errors import PipelineError, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mlops_tasks.adapters.s3_objects import S3Objects

STAGING = ".staging"
LEASE = ".lease"
REFRESHED_EVERY_S = 300.0
DEAD_AFTER = timedelta(hours=6)
UPLOADS_DEAD_AFTER = timedelta(days=7)
"""Uploads outside staging folders: nobody uploads one file for a week."""


class S3SparkStaging:
    """Implements `SparkStaging` below a key prefix."""

    def __init__(self, objects: S3Objects, prefix: str, local: Path, fetched: Callable[[int], None]) -> None:
        """Use the keys below `prefix`; `local` takes what is fetched, `fetched` is told its bytes."""
        self._objects, self._prefix, self._local, self._fetched = objects, prefix, local, fetched

    @property
    def uri(self) -> str:
        """The prefix as Spark names it."""
        return f"s3a://{self._objects.bucket}/{self._prefix}"

    def files(self, folder: str) -> list[str]:
        """Return the data files' names; those of Spark and its committers begin with a dot or an underscore."""
        base = f"{self._prefix}/"
        found = (
            PurePosixPath(item.key.removeprefix(base))
            for item in self._objects.list(f"{base}{folder.rstrip('/')}/")
            if _is_file(item.key)
        )
        return sorted(path.as_posix() for path in found if not _is_sparks_own(path))

    def fetch(self, name: str) -> Path:
        """Download a file."""
        target = self._local / name
        target.parent.mkdir(parents=True, exist_ok=True)
        key = f"{self._prefix}/{name}"
        try:
            size = self._objects.head(key).size
            self._objects.download(key, target, size)
        except KeyError as error:
            msg = f"s3://{self._objects.bucket}/{key}: Spark's result vanished; run again"
            raise StoreUnavailable(msg) from error
        self._fetched(size)
        return target


def _is_file(key: str) -> bool:
    """Tell a file from the empty object that some clients put for a folder."""
    return not key.endswith("/")


def _is_sparks_own(path: PurePosixPath) -> bool:
    return path.name.startswith((".", "_")) or any(part == "_temporary" or part.startswith("__magic") for part in path.parts)


@contextmanager
def leased_folder(objects: S3Objects, base: str) -> Iterator[str]:
    """Give the key prefix of a new folder below `base`, kept alive until the end and then removed with all in it."""
    identity = uuid.uuid4().hex
    prefix, lease = f"{base}{identity}", f"{base}{identity}{LEASE}"
    objects.write(lease, b"")
    stop = threading.Event()
    keeper = threading.Thread(target=_keep_alive, args=(objects, lease, stop), daemon=True, name="staging-lease")
    keeper.start()
    try:
        sweep(objects, base, identity)
        yield prefix
    finally:
        stop.set()
        keeper.join()
        with suppress(PipelineError):  # S3 is away: the next process's sweep does it
            _remove(objects, prefix)


def _keep_alive(objects: S3Objects, lease: str, stop: threading.Event) -> None:
    while not stop.wait(REFRESHED_EVERY_S):
        with suppress(PipelineError):  # the next turn may succeed, long before the lease ends
            objects.write(lease, b"")


def sweep(objects: S3Objects, base: str, mine: str) -> None:
    """Remove the folders of dead processes, and uploads that nobody goes on with; `mine` is a fresh one: it has the time."""
    newest: dict[str, datetime] = {}
    for item in objects.list(base):
        owner = item.key.removeprefix(base).split("/")[0].removesuffix(LEASE)
        newest[owner] = max(item.changed, newest.get(owner, item.changed))
    now = newest[mine]
    for owner, changed in newest.items():
        if now - changed > DEAD_AFTER:
            _remove(objects, f"{base}{owner}")
    root = base.removesuffix(f"{STAGING}/")

    def dead(key: str, begun: datetime) -> bool:
        if not key.startswith(base):
            return now - begun > UPLOADS_DEAD_AFTER
        owner = key.removeprefix(base).split("/")[0]
        return now - max(begun, newest.get(owner, begun)) > DEAD_AFTER

    objects.abort_uploads(root, dead)


def _remove(objects: S3Objects, prefix: str) -> None:
    """Remove a folder's objects and unfinished uploads, its lease last."""
    objects.abort_uploads(f"{prefix}/", lambda _key, _begun: True)
    objects.delete(*(item.key for item in objects.list(f"{prefix}/")))
    objects.delete(f"{prefix}{LEASE}")
