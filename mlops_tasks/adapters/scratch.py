"""Folders for unfinished work that outlive no crash: whoever makes the next one removes those of dead processes.

A folder's owner holds a lock on the file beside it. The kernel lets go of a lock when its process ends, however
it ends, and two containers that share a disk see each other's locks, while process ids would mislead them.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

LOCK = ".lock"


@contextmanager
def scratch(base: Path, prefix: str = "") -> Iterator[Path]:
    """Give an empty folder `base/<prefix><random>`; removed at the end, or by `sweep` after a kill.

    Raises:
        OSError: it can't be made.

    """
    base.mkdir(parents=True, exist_ok=True)
    folder, lock = _lock_new(base, prefix)
    try:
        folder.mkdir(mode=0o700)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        Path(f"{folder}{LOCK}").unlink(missing_ok=True)
        os.close(lock)


def sweep(base: Path, prefix: str = "") -> None:
    """Remove what dead processes left of their `scratch` folders in `base`."""
    if not base.is_dir():
        return
    for name in {path.name.removesuffix(LOCK) for path in base.glob(f"{prefix}*")}:
        _remove_if_dead(base / name)


def _lock_new(base: Path, prefix: str) -> tuple[Path, int]:
    """Lock a new name before its folder exists, so that a folder without a held lock is a dead one's."""
    while True:
        folder = base / f"{prefix}{uuid.uuid4().hex}"
        path = Path(f"{folder}{LOCK}")
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            return folder, lock
        os.close(lock)  # swept between its creation and its locking


def _remove_if_dead(folder: Path) -> None:
    path = Path(f"{folder}{LOCK}")
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        return  # another user's, or the disk is full: left for later
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
        path.unlink(missing_ok=True)
    except BlockingIOError:
        pass  # its owner lives
    finally:
        os.close(lock)
