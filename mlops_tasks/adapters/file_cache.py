"""Files of a remote store, kept in a local folder by their sha256, so that what is unchanged is not moved again.

Several processes and containers may share the folder. What a process was given is a hard link of its own below
`in-use/`, so that making room never takes a file away from anybody; the links end with the process, or are swept
after a kill.
"""

from __future__ import annotations

import atexit
import errno
import os
import re
import shutil
import uuid
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from mlops_tasks.adapters.scratch import scratch, sweep
from mlops_tasks.core.publishing import hash_file
from mlops_tasks.errors import SpecError, StoreUnavailable
from mlops_tasks.resources import in_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from mlops_tasks.artifacts import FileRef

FOLDER = ".mlops/cache"
SIZE = "20g"
KEPT_SHARE = 0.9
"""How full the cache is after making room, so that not every new file makes room again."""


def cache_from(environ: Mapping[str, str]) -> FileCache:
    """Return the cache of MLOPS_CACHE (a folder) and MLOPS_CACHE_SIZE. Raises: SpecError."""
    size = environ.get("MLOPS_CACHE_SIZE") or SIZE
    if not re.fullmatch(r"[1-9]\d*[kmg]", size):
        msg = f"MLOPS_CACHE_SIZE: must be a size such as 500m or 20g, got {size!r}"
        raise SpecError(msg)
    return FileCache(Path(environ.get("MLOPS_CACHE") or FOLDER).expanduser(), in_bytes(size))


class FileCache:
    """A folder of read-only files, each under its sha256; the least recently used go when it is full."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        """Use `folder`, which is made when first needed."""
        self._folder = folder.absolute()
        self._limit = limit_bytes
        self._new_bytes = limit_bytes  # so that the first file makes room for what others left

    def find(self, ref: FileRef) -> Path | None:
        """Return a file's local path, good until this process ends, or None. Raises: StoreUnavailable."""
        with self._told("reading"):
            mine, shared = self._mine() / ref.sha256, self._shared(ref.sha256)
            if mine.exists():
                return mine
            new = mine.with_name(uuid.uuid4().hex)
            try:
                if not _hold(shared, new):
                    return None
                if new.stat().st_size != ref.bytes or hash_file(new) != ref.sha256:
                    shared.unlink(missing_ok=True)
                    return None
                with suppress(OSError):  # another user's file: it only seems older than it is
                    os.utime(shared)
                new.replace(mine)
            finally:
                new.unlink(missing_ok=True)
            return mine

    def fill(self, ref: FileRef, download: Callable[[Path], object]) -> Path | None:
        """Let `download` write a file; return its path, good until this process ends, or None if its bytes are wrong.

        Raises:
            StoreUnavailable: the folder can't be written to; whatever `download` raises.

        """
        with self._told("writing"):
            mine = self._mine() / ref.sha256
            new = mine.with_name(uuid.uuid4().hex)
            try:
                download(new)
                if new.stat().st_size != ref.bytes or hash_file(new) != ref.sha256:
                    return None
                new.chmod(0o444)
                new.replace(mine)
            finally:
                new.unlink(missing_ok=True)
            with suppress(FileExistsError):
                os.link(mine, self._shared(ref.sha256))
            self._make_room(ref.bytes)
            return mine

    def take(self, path: Path, ref: FileRef) -> None:
        """Move a file that was published here into the cache; where that can't be done, just remove it."""
        try:
            shared = self._shared(ref.sha256)
            path.chmod(0o444)
            try:
                path.replace(shared)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                with scratch(self._folder / "staging") as folder:
                    shutil.copyfile(path, folder / "new")
                    (folder / "new").chmod(0o444)
                    (folder / "new").replace(shared)
            self._make_room(ref.bytes)
        except OSError:
            pass  # it is in the store, which is what counts
        path.unlink(missing_ok=True)

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """Give an empty folder on the cache's disk; removed at the end, or by a later process after a kill.

        Raises:
            StoreUnavailable: it can't be made, or the disk is full.

        """
        with ExitStack() as stack:
            with self._told("writing"):
                self._mine()  # sweeps
                folder = stack.enter_context(scratch(self._folder / "staging"))
            try:
                yield folder
            except OSError as error:
                if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                    raise self._unavailable(error, "writing") from error
                raise

    def _shared(self, sha256: str) -> Path:
        folder = self._folder / "files" / sha256[:2]
        folder.mkdir(parents=True, exist_ok=True)
        return folder / sha256

    def _mine(self) -> Path:
        mine = _held_by_process(self._folder, os.getpid())
        if mine.exists():
            return mine
        _held_by_process.cache_clear()  # somebody removed the cache
        return _held_by_process(self._folder, os.getpid())

    def _make_room(self, added: int) -> None:
        """Remove the least recently used files that nobody holds, if this process added much since it last looked."""
        self._new_bytes += added
        if self._new_bytes <= self._limit * (1 - KEPT_SHARE):
            return
        self._new_bytes = 0
        found = list(_files_of(self._folder / "files"))
        excess = sum(stat.st_size for _, stat in found) - self._limit * KEPT_SHARE
        for path, stat in sorted(found, key=lambda item: item[1].st_mtime):
            if excess <= 0:
                return
            if stat.st_nlink == 1:
                path.unlink(missing_ok=True)
                excess -= stat.st_size

    @contextmanager
    def _told(self, doing: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._unavailable(error, doing) from error

    def _unavailable(self, error: OSError, doing: str) -> StoreUnavailable:
        full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        hint = "free some space, or set MLOPS_CACHE to a larger disk" if full else "set MLOPS_CACHE to a folder that is yours"
        return StoreUnavailable(f"cache {self._folder}: {doing} failed: {error.strerror or error}; {hint}")


@cache
def _held_by_process(folder: Path, process: int) -> Path:
    """Make the folder of what this process holds, once; also sweep away those of processes that were killed."""
    for name in ("in-use", "staging"):
        sweep(folder / name)
    stack = ExitStack()
    mine = stack.enter_context(scratch(folder / "in-use"))
    atexit.register(lambda: stack.close() if os.getpid() == process else None)  # a forked child leaves its parent's alone
    return mine


def _hold(shared: Path, mine: Path) -> bool:
    """Give a cached file a name of our own; tell whether it was there."""
    try:
        os.link(shared, mine)
    except FileNotFoundError:
        return False
    except OSError:  # another user's file, which the kernel lets only its owner link
        shutil.copyfile(shared, mine)
    return True


def _files_of(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield cached files and their facts; one that goes meanwhile is left out."""
    for path in folder.glob("??/*"):
        with suppress(FileNotFoundError):
            yield path, path.stat()
