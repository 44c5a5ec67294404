"""The artifact store in a folder on local disk."""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mlops_tasks.adapters.scratch import scratch, sweep
from mlops_tasks.artifacts import FileRef
from mlops_tasks.core.publishing import hash_file
from mlops_tasks.errors import StoreUnavailable
from mlops_tasks.ports import Moved

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

STAGING = ".staging"


class LocalStore:
    """Implements `ArtifactStore` with atomic renames and hard links; see the port for what each call promises."""

    def __init__(self, root: Path) -> None:
        """Use `root`, which is created when first written to."""
        self._root = root.resolve()
        self._swept = False

    @property
    def root(self) -> str:
        """The folder as a `file://` URI."""
        return self._root.as_uri()

    def _path(self, key: str) -> Path:
        path = Path(os.path.normpath(self._root / key))  # `resolve` would ask the disk about every folder on the way
        if not path.is_relative_to(self._root):
            msg = f"store {self._root}: key {key!r} points outside the store"
            raise ValueError(msg)
        return path

    def read(self, key: str) -> bytes:
        """Return an object's bytes."""
        try:
            return self._path(key).read_bytes()
        except FileNotFoundError as error:
            raise KeyError(key) from error
        except OSError as error:
            raise _unavailable(self._root, f"reading {key}", error) from error

    def write(self, key: str, data: bytes) -> None:
        """Replace an object atomically."""
        with self._finished(key, data) as (temporary, target):
            temporary.replace(target)

    def create(self, key: str, data: bytes) -> bool:
        """Write an object unless the key exists; a hard link fails if the name is taken, on every filesystem we use."""
        with self._finished(key, data) as (temporary, target):
            try:
                os.link(temporary, target)
            except FileExistsError:
                return False
            return True

    @contextmanager
    def _finished(self, key: str, data: bytes) -> Iterator[tuple[Path, Path]]:
        """Give a finished, synced temporary file and its target."""
        target = self._path(key)
        try:
            with self._scratch() as folder:
                temporary = folder / "new"
                with temporary.open("wb") as stream:
                    stream.write(data)
                    stream.flush()
                    os.fsync(stream.fileno())
                target.parent.mkdir(parents=True, exist_ok=True)
                yield temporary, target
        except OSError as error:
            raise _unavailable(self._root, f"writing {key}", error) from error

    def _scratch(self) -> AbstractContextManager[Path]:
        """Give a folder for unfinished files; the first one also removes those of processes that were killed."""
        base = self._root / STAGING
        if not self._swept:
            self._swept = True
            sweep(base)
        return scratch(base)

    def publish(self, source: Path, key: str, *, rows: int | None = None) -> FileRef:
        """Move a finished file to its key; from another filesystem it is copied to this one first."""
        target = self._path(key)
        ref = FileRef(key=key, bytes=source.stat().st_size, sha256=hash_file(source), rows=rows)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            _sync(source)
            self._move(source, target)
        except OSError as error:
            raise _unavailable(self._root, f"publishing {key}", error) from error
        return ref

    def _move(self, source: Path, target: Path) -> None:
        try:
            source.replace(target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            with self._scratch() as folder:
                copied = folder / "new"
                shutil.copyfile(source, copied)
                _sync(copied)
                copied.replace(target)
            source.unlink()

    def open_local(self, ref: FileRef) -> Path:
        """Return the file's own path: nothing is copied."""
        path = self._path(ref.key)
        if not path.is_file():
            msg = f"store {self._root}: {ref.key} is missing; run again with --recompute to make it anew"
            raise StoreUnavailable(msg)
        return path

    def verify(self, ref: FileRef) -> bool:
        """Compare size, then sha256."""
        path = self._path(ref.key)
        return path.is_file() and path.stat().st_size == ref.bytes and hash_file(path) == ref.sha256

    def exists(self, key: str) -> bool:
        """Tell whether an object is there."""
        return self._path(key).is_file()

    def list(self, prefix: str) -> Iterator[str]:
        """Yield the keys under a prefix, sorted; files being written are not shown."""
        folder = self._path(prefix.rsplit("/", 1)[0]) if "/" in prefix else self._root
        if not folder.is_dir():
            return
        yield from sorted(key for key in self._keys_below(folder) if key.startswith(prefix))

    def folders(self, prefix: str) -> Sequence[str]:
        """Return the names of the folders in a folder."""
        try:
            with os.scandir(self._path(prefix)) as entries:
                return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _keys_below(self, folder: Path) -> Iterator[str]:
        """Yield the keys of finished files; a folder that vanishes meanwhile is no error."""
        for parent, folders, files in os.walk(folder):
            folders[:] = [name for name in folders if not name.startswith(".")]
            below = Path(parent).relative_to(self._root)
            yield from ((below / name).as_posix() for name in files if not name.startswith("."))

    def delete(self, key: str) -> None:
        """Remove an object."""
        self._path(key).unlink(missing_ok=True)

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """Give an empty folder on the store's disk, so that publishing is a rename."""
        with ExitStack() as stack:
            try:
                folder = stack.enter_context(self._scratch())
            except OSError as error:
                raise _unavailable(self._root, "making a staging folder", error) from error
            try:
                yield folder
            except OSError as error:
                if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                    raise _unavailable(self._root, "writing", error) from error
                raise

    def spark_uri(self, key: str) -> str:
        """Return the key's `file://` URI."""
        return self._path(key).as_uri()

    @contextmanager
    def spark_staging(self) -> Iterator[LocalSparkStaging]:
        """Give a staging folder; Spark has to see the same disk."""
        with self.staging() as folder:
            yield LocalSparkStaging(folder)

    @property
    def moved(self) -> Moved:
        """Return zeros: files are renamed and read in place."""
        return Moved()


class LocalSparkStaging:
    """Implements `SparkStaging` in a folder of this machine."""

    def __init__(self, folder: Path) -> None:
        """Use `folder`, which is there."""
        self._folder = folder

    @property
    def uri(self) -> str:
        """The folder's `file://` URI."""
        return self._folder.as_uri()

    def files(self, folder: str) -> list[str]:
        """Return the data files' names; Spark's own begin with a dot or an underscore."""
        found = (path.relative_to(self._folder) for path in (self._folder / folder).rglob("*") if path.is_file())
        return sorted(path.as_posix() for path in found if not path.name.startswith((".", "_")))

    def fetch(self, name: str) -> Path:
        """Return the file itself."""
        return self._folder / name


def _sync(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def _unavailable(root: Path, doing: str, error: OSError) -> StoreUnavailable:
    hint = "free some space and run again" if error.errno in {errno.ENOSPC, errno.EDQUOT} else "check the folder and its rights"
    return StoreUnavailable(f"store {root}: {doing} failed: {error.strerror or error}; {hint}")
