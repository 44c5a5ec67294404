"""A registry's versions to verified copies on this disk, from which a server starts again when the registry is away."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import uuid
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any

from mlops_tasks.core.publishing import hash_file
from mlops_tasks.errors import ModelRejected, StoreUnavailable
from mlops_tasks.serving.swapping import Version

if TYPE_CHECKING:
    from pathlib import Path

    from mlops_tasks.ports import ModelRegistry
    from mlops_tasks.serving.slot import Role

KEPT = 3
"""Versions that stay on disk: the one that serves, the one to roll back to, the one that is tried."""
STATE = "serving.json"
READABLE, READABLE_FOLDER = 0o644, 0o755
"""What another user's server that shares the copies needs; some tools write weights for their owner alone."""


class Copies:
    """Copies of one model's versions below `<root>/<name>/`; several servers of one host may share them.

    A version's folder appears whole by one rename and is never written again, since its weights are mapped. Its name holds
    the version's fingerprint: another registry's version of the same number is another folder. Whoever uses a folder holds a
    shared lock beside it, and only a folder that nobody holds is removed; locks end with their process.
    """

    def __init__(self, root: Path, name: str, registry: ModelRegistry) -> None:
        """Sweep what killed processes left. Raises: StoreUnavailable: the folder can't be written."""
        self._root, self._name, self._registry = root / name, name, registry
        self._leases: dict[Path, IO[bytes]] = {}
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            self._sweep()
        except OSError as error:
            raise self._unwritable(error) from error

    def fetch(self, number: int, role: Role) -> Version:
        """Return a version's verified copy, fetched if it is not here.

        Raises:
            ModelRejected: the registry's files are not those that were deployed.
            RegistryUnavailable: they can't be fetched.
            StoreUnavailable: the disk is full or can't be written.

        """
        row = next((row for row in self._registry.versions(self._name) if row.version == number), None)
        tags = {} if row is None else dict(row.tags)
        entries = [e for e in self._registry.history(self._name) if e["alias"] == role and e["to"] == str(number)]
        identity = (row.fingerprint if row else "") or uuid.uuid4().hex
        folder = self._root / f"{number}-{identity[:16]}"
        version = Version(number, folder, tags, entries[-1] if entries else {})
        try:
            self._hold(folder)
            if not folder.is_dir():
                self._download(number, folder)
        except OSError as error:
            raise self._unwritable(error) from error
        return version

    def remember(self, serving: dict[Role, Version]) -> None:
        """Keep what serves for the next start, and remove versions that nobody needs. Raises: StoreUnavailable."""
        state = {
            role: {"version": v.number, "folder": v.folder.name, "tags": v.tags, "promotion": v.promotion}
            for role, v in serving.items()
        }
        try:
            _write(self._root / STATE, state)
            for version in serving.values():
                os.utime(version.folder)
            self._prune({version.folder for version in serving.values()})
        except OSError as error:
            raise self._unwritable(error) from error

    def remembered(self) -> dict[Role, Version]:
        """Return what served last, as far as its copies are here; empty at a first start."""
        try:
            state: dict[Role, dict[str, Any]] = json.loads((self._root / STATE).read_bytes())
        except (OSError, ValueError):
            return {}
        found: dict[Role, Version] = {}
        for role, entry in state.items():
            folder = self._root / entry["folder"]
            if folder.is_dir():
                self._hold(folder)
                found[role] = Version(entry["version"], folder, entry["tags"], entry["promotion"])
        return found

    def _download(self, number: int, folder: Path) -> None:
        part = self._root / f".part-{uuid.uuid4().hex}"
        lock = _lock(part, fcntl.LOCK_EX)
        try:
            part.mkdir()
            fetched = self._registry.fetch(self._name, number, part)
            self._verify(number, fetched)
            for path in fetched.rglob("*"):
                path.chmod(READABLE_FOLDER if path.is_dir() else READABLE)
                _flush(path)
            with suppress(OSError):  # another server was quicker: its copy is as good
                fetched.rename(folder)
            if not folder.is_dir():
                fetched.rename(folder)
            _flush(self._root)
        finally:
            shutil.rmtree(part, ignore_errors=True)
            _unlock(part, lock)

    def _verify(self, number: int, fetched: Path) -> None:
        """Compare with the deployment's record, where there is one. Raises: ModelRejected."""
        try:
            files = self._registry.deployment(self._name, number).files
        except KeyError:
            return  # registered by hand: its golden rows are its only proof
        for ref in files:
            path = fetched / ref.key.rsplit("/", 1)[-1]
            if not path.is_file() or hash_file(path) != ref.sha256:
                msg = (
                    f"model {self._name} version {number}: the registry's {path.name} is not the one deployed; deploy it again"
                )
                raise ModelRejected(msg)

    def _hold(self, folder: Path) -> None:
        """Keep others from removing a version as long as this process lives."""
        if folder not in self._leases:
            self._leases[folder] = _lock(folder, fcntl.LOCK_SH)

    def _prune(self, serving: set[Path]) -> None:
        """Remove the copies used longest ago."""
        folders = [path for path in self._root.iterdir() if path.is_dir() and not path.name.startswith(".")]
        for folder in sorted(folders, key=lambda path: path.stat().st_mtime, reverse=True)[KEPT:]:
            if folder in serving:
                continue
            if folder in self._leases:
                self._leases.pop(folder).close()
            self._remove_unheld(folder)

    def _sweep(self) -> None:
        """Remove downloads whose process ended."""
        for part in self._root.glob(".part-*"):
            if part.is_dir():
                self._remove_unheld(part)

    def _remove_unheld(self, folder: Path) -> None:
        try:
            lock = _lock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        shutil.rmtree(folder, ignore_errors=True)
        _unlock(folder, lock)

    def _unwritable(self, error: OSError) -> StoreUnavailable:
        what = error.strerror or error
        return StoreUnavailable(f"copies of model {self._name} in {self._root}: {what}; make room, or set MLOPS_MODEL_COPIES")


def _lock(path: Path, kind: int) -> IO[bytes]:
    """Lock a path by a file beside it; it ends when the returned file is closed or its process ends."""
    while True:
        file = path.with_name(f"{path.name}.lock").open("ab")
        try:
            fcntl.flock(file, kind)
            if os.fstat(file.fileno()).st_nlink:
                return file
        except BaseException:
            file.close()
            raise
        file.close()  # removed with what it guarded, between opening and locking


def _unlock(path: Path, lock: IO[bytes]) -> None:
    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
    lock.close()


def _write(path: Path, value: object) -> None:
    """Replace a small file, so that a reader sees the old or the new one."""
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        part.write_text(json.dumps(value), encoding="utf-8")
        _flush(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
