"""The artifact store in an S3 bucket."""

from __future__ import annotations

import posixpath
import re
import threading
from contextlib import AbstractContextManager, contextmanager
from dataclasses import fields, replace
from typing import TYPE_CHECKING

from mlops_tasks.adapters.file_cache import FileCache, cache_from
from mlops_tasks.adapters.s3_objects import S3Objects
from mlops_tasks.adapters.s3_staging import STAGING, S3SparkStaging, leased_folder
from mlops_tasks.artifacts import FileRef
from mlops_tasks.core.publishing import hash_file
from mlops_tasks.errors import SpecError, StoreUnavailable
from mlops_tasks.ports import Moved

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

PATIENCE_S = 180.0
"""How long a call is tried again while S3 does not answer: longer than a restart of the server takes."""
_URI = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(?P<prefix>.*))?")


class S3Store:
    """Implements `ArtifactStore` below a prefix of a bucket; see the port for what each call promises.

    Every object carries its sha256 as metadata, which each reader checks. Files that were read or published are kept
    in a local cache. `moved` counts files; records, a few hundred bytes each, are not in it, nor is what Spark moves.
    """

    def __init__(self, objects: S3Objects, prefix: str, cache: FileCache) -> None:
        """Use the keys of a bucket below `prefix` (may be empty) and a local cache."""
        self._objects, self._cache = objects, cache
        self._prefix = prefix.strip("/")
        self._base = f"{self._prefix}/" if self._prefix else ""
        self._moved, self._lock = Moved(), threading.Lock()

    @property
    def root(self) -> str:
        """The store as an `s3://` URI."""
        return f"s3://{self._objects.bucket}/{self._prefix}".rstrip("/")

    def read(self, key: str) -> bytes:
        """Return an object's bytes."""
        with _named(key):
            return self._objects.read(self._key(key))

    def write(self, key: str, data: bytes) -> None:
        """Replace an object; S3 shows all of it or what was there before."""
        self._objects.write(self._key(key), data)

    def create(self, key: str, data: bytes) -> bool:
        """Write an object unless the key exists, by a conditional put."""
        return self._objects.create(self._key(key), data)

    def publish(self, source: Path, key: str, *, rows: int | None = None) -> FileRef:
        """Upload a finished file, unless the very same is there; it goes into the cache."""
        target = self._key(key)
        ref = FileRef(key=key, bytes=source.stat().st_size, sha256=hash_file(source), rows=rows)
        if self._recorded(ref) == (ref.bytes, ref.sha256):
            self._count(reused_bytes=ref.bytes, reused_files=1)
        else:
            self._objects.upload(source, target, ref.sha256)
            self._count(uploaded_bytes=ref.bytes, uploaded_files=1)
        self._cache.take(source, ref)
        return ref

    def open_local(self, ref: FileRef) -> Path:
        """Return the cached file, downloaded and checked if it is not there yet; it has to be in the store still."""
        recorded = self._recorded(ref)
        if recorded is None:
            raise self._missing(ref)
        if recorded[0] != ref.bytes or recorded[1] not in {None, ref.sha256}:
            raise self._damaged(ref)
        path = self._cache.find(ref)
        if path is not None:
            self._count(reused_bytes=ref.bytes, reused_files=1)
            return path
        path = self._fetch(ref)
        if path is None:
            raise self._damaged(ref)
        return path

    def _fetch(self, ref: FileRef) -> Path | None:
        """Download a file into the cache; None if its bytes are not those that were published. Raises: StoreUnavailable."""

        def download(path: Path) -> None:
            self._objects.download(self._key(ref.key), path, ref.bytes)
            self._count(downloaded_bytes=ref.bytes, downloaded_files=1)

        try:
            for _ in range(2):  # once more, should it have been damaged on its way
                path = self._cache.fill(ref, download)
                if path is not None:
                    return path
        except KeyError as error:
            raise self._missing(ref) from error
        return None

    def verify(self, ref: FileRef) -> bool:
        """Compare size and recorded sha256; an object that carries none is read."""
        recorded = self._recorded(ref)
        if recorded is None or recorded[0] != ref.bytes:
            return False
        if recorded[1] is not None:
            return recorded[1] == ref.sha256
        return self._fetch(ref) is not None

    def _recorded(self, ref: FileRef) -> tuple[int, str | None] | None:
        """Return what S3 knows of a file: size and sha256; None if it is not there."""
        try:
            head = self._objects.head(self._key(ref.key))
        except KeyError:
            return None
        return head.size, head.sha256

    def exists(self, key: str) -> bool:
        """Tell whether an object is there."""
        try:
            self._objects.head(self._key(key))
        except KeyError:
            return False
        return True

    def list(self, prefix: str) -> Iterator[str]:
        """Yield the keys under a prefix, sorted; staging is not shown."""
        folder, slash, name = prefix.rpartition("/")
        below = f"{self._key(folder)}/{name}" if slash else f"{self._base}{name}"
        keys = (item.key.removeprefix(self._base) for item in self._objects.list(below))
        yield from sorted(key for key in keys if not _is_hidden(key))

    def folders(self, prefix: str) -> Sequence[str]:
        """Return the names of the folders under a prefix; S3 groups the keys itself."""
        below = f"{self._key(prefix)}/" if prefix else self._base
        names = (found.removeprefix(below).rstrip("/") for found in self._objects.folders(below))
        return sorted(name for name in names if not name.startswith("."))

    def delete(self, key: str) -> None:
        """Remove an object."""
        self._objects.delete(self._key(key))

    def staging(self) -> AbstractContextManager[Path]:
        """Give an empty folder on the cache's disk."""
        return self._cache.staging()

    def spark_uri(self, key: str) -> str:
        """Return the key's `s3a://` URI."""
        return f"s3a://{self._objects.bucket}/{self._key(key)}"

    @contextmanager
    def spark_staging(self) -> Iterator[S3SparkStaging]:
        """Give a folder below `.staging/` of the store."""
        with self.staging() as local, leased_folder(self._objects, f"{self._base}{STAGING}/") as prefix:
            yield S3SparkStaging(
                self._objects, prefix, local, lambda size: self._count(downloaded_bytes=size, downloaded_files=1)
            )

    @property
    def moved(self) -> Moved:
        """Return what was moved so far."""
        with self._lock:
            return replace(self._moved)

    def _count(self, **amounts: int) -> None:
        with self._lock:
            for field in fields(Moved):
                setattr(self._moved, field.name, getattr(self._moved, field.name) + amounts.get(field.name, 0))

    def _key(self, key: str) -> str:
        """Return an object's key in the bucket. Raises: ValueError."""
        path = posixpath.normpath(key)
        if path in {".", ".."} or path.startswith(("/", "../")):
            msg = f"store {self.root}: key {key!r} points outside the store"
            raise ValueError(msg)
        return self._base + path

    def _missing(self, ref: FileRef) -> StoreUnavailable:
        return StoreUnavailable(f"store {self.root}: {ref.key} is missing; run again with --recompute to make it anew")

    def _damaged(self, ref: FileRef) -> StoreUnavailable:
        return StoreUnavailable(
            f"store {self.root}: {ref.key} was changed or damaged: its size or sha256 is not what was published; "
            "run again to make it anew"
        )


def open_s3_store(uri: str, environ: Mapping[str, str]) -> S3Store:
    """Open the store of an `s3://bucket/prefix`; nothing is connected to yet. Raises: SpecError."""
    found = _URI.fullmatch(uri)
    if not found:
        msg = f"MLOPS_STORE: must be s3://bucket/prefix, the bucket 3 to 63 of a-z, 0-9, dot and dash, got {uri!r}"
        raise SpecError(msg)
    objects = S3Objects(found["bucket"], _encryption(environ), _patience_s(environ))
    return S3Store(objects, found["prefix"] or "", cache_from(environ))


def _encryption(environ: Mapping[str, str]) -> dict[str, str]:
    """Read MLOPS_S3_SSE and MLOPS_S3_SSE_KMS_KEY_ID to the arguments of calls that write."""
    kind, key = environ.get("MLOPS_S3_SSE") or "", environ.get("MLOPS_S3_SSE_KMS_KEY_ID") or ""
    if kind not in {"", "AES256", "aws:kms"}:
        msg = f"MLOPS_S3_SSE: must be AES256 or aws:kms, got {kind!r}; unset it for the bucket's own setting"
        raise SpecError(msg)
    if key and kind != "aws:kms":
        msg = f"MLOPS_S3_SSE_KMS_KEY_ID: is only used with MLOPS_S3_SSE=aws:kms, got {kind or 'none'!r}; set both or neither"
        raise SpecError(msg)
    return ({"ServerSideEncryption": kind} if kind else {}) | ({"SSEKMSKeyId": key} if key else {})


def _patience_s(environ: Mapping[str, str]) -> float:
    given = environ.get("MLOPS_S3_PATIENCE_S") or str(PATIENCE_S)
    if not re.fullmatch(r"\d+(\.\d+)?", given):
        msg = f"MLOPS_S3_PATIENCE_S: must be seconds, 0 or more, got {given!r}"
        raise SpecError(msg)
    return float(given)


@contextmanager
def _named(key: str) -> Iterator[None]:
    """Name an absent object as its reader does."""
    try:
        yield
    except KeyError as error:
        raise KeyError(key) from error


def _is_hidden(key: str) -> bool:
    return any(part.startswith(".") for part in key.split("/"))
