"""Finished local files to a published, content-addressed folder of the store, and published files to a local folder.

A folder's name ends with the digest of what is in it, so publishing the same content twice, or from
two processes at once, writes the same bytes to the same keys: nothing is doubled, nothing is mixed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from typing import TYPE_CHECKING

from mlops_tasks.artifacts import FileRef, digest_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from mlops_tasks.ports import ArtifactStore

CHUNK_BYTES = 1 << 20


def hash_file(path: Path) -> str:
    """Return a file's sha256 in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def publish_files(
    store: ArtifactStore,
    folder: str,
    files: Mapping[str, Path],
    *,
    facts: object = None,
    rows: Mapping[str, int] | None = None,
    unhashed: frozenset[str] = frozenset(),
) -> tuple[str, tuple[FileRef, ...]]:
    """Publish files under `folder/<digest>/`; return the digest and the references, by name.

    Args:
        store: where to.
        folder: key prefix, e.g. `nyc_flights/features/2013-01-01`.
        files: file name -> finished local file, which is moved.
        facts: JSON-able facts that are part of the identity (counts, schema).
        rows: file name -> rows, for tables.
        unhashed: names whose bytes are no part of the identity (reports with times in them); where the
            folder has one already, that one stays and is referred to.

    Raises:
        StoreUnavailable: the store is full or does not answer; nothing is visible then.

    """
    identity = {name: hash_file(path) for name, path in sorted(files.items()) if name not in unhashed}
    digest = digest_of({"files": identity, "facts": facts})
    target = f"{folder}/{digest[:16]}"
    refs = tuple(
        _publish_once(store, path, f"{target}/{name}")
        if name in unhashed
        else store.publish(path, f"{target}/{name}", rows=(rows or {}).get(name))
        for name, path in sorted(files.items())
    )
    return digest, refs


def gather_files(store: ArtifactStore, refs: Iterable[FileRef], folder: Path) -> dict[str, Path]:
    """Bring files, which may lie apart in the store, into one folder, linked where the disk is the same; return them by name.

    Raises:
        StoreUnavailable: the store does not answer.

    """
    folder.mkdir(exist_ok=True)
    files = {}
    for ref in refs:
        name = ref.key.rsplit("/", 1)[-1]
        source, files[name] = store.open_local(ref), folder / name
        try:
            os.link(source, files[name])
        except OSError:  # another filesystem, or one without hard links
            shutil.copyfile(source, files[name])
    return files


def _publish_once(store: ArtifactStore, path: Path, key: str) -> FileRef:
    """Publish a file whose bytes differ from run to run; the first one stays, as others may refer to it."""
    data = path.read_bytes()
    if not store.create(key, data):
        data = store.read(key)
    return FileRef(key=key, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
