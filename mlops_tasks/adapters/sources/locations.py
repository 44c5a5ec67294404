"""A source's path to the files that it names, sorted, each ready to be opened."""

from __future__ import annotations

import glob
import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from mlops_tasks.errors import SpecError, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

CHUNK_BYTES = 1 << 20
_PACKAGE = "package://"


@dataclass(frozen=True)
class Location:
    """One file: its name for people, what tells a changed one, and how to open it."""

    name: str
    version: tuple[str, int, str]
    """Name without its folder, size, and a token that changes with the content."""
    open: Callable[[], AbstractContextManager[IO[bytes]]]
    digest: Callable[[], str]
    """Gives an identity of the content."""


def local_files(path: str) -> list[Location]:
    """Find the files of a local glob or of `package://NAME/glob`.

    Raises:
        SpecError: nothing matches, or the package is not installed.

    """
    pattern = str(_package_folder(path)) if path.startswith(_PACKAGE) else str(Path(path).expanduser())
    found = sorted(Path(match) for match in glob.glob(pattern, recursive=True) if Path(match).is_file())  # noqa: PTH207 - Path.glob refuses absolute patterns
    if not found:
        msg = f"{path}: no file matches (working directory {Path.cwd()}); correct the path, or put the files there"
        raise SpecError(msg)
    return [_local(file, path) for file in found]


def _package_folder(path: str) -> Path:
    name, _, rest = path.removeprefix(_PACKAGE).partition("/")
    # A dotted name would import its parent.
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        msg = f"{path}: package {name!r} is not installed; install it, e.g. pip install {name}"
        raise SpecError(msg)
    return Path(next(iter(spec.submodule_search_locations))) / rest


def _local(file: Path, path: str) -> Location:
    state = file.stat()
    name = f"{path.rpartition('/')[0]}/{file.name}" if path.startswith(_PACKAGE) else str(file)

    def start() -> IO[bytes]:
        try:
            return file.open("rb")
        except OSError as error:
            msg = f"{name}: can't be opened: {error.strerror}; check its rights"
            raise StoreUnavailable(msg) from error

    def digest() -> str:
        with start() as stream:
            sha256 = hashlib.sha256()
            while chunk := stream.read(CHUNK_BYTES):
                sha256.update(chunk)
            return sha256.hexdigest()

    return Location(name, (file.name, state.st_size, str(state.st_mtime_ns)), start, digest)
