"""Finished segments of the request log to the store, in a process of its own.

Each step can be the last one before a kill: rows are put under a key that is the segment's own and not replaced,
read back, and only then the segment is removed, so what is done twice has the same result.
"""

from __future__ import annotations

import logging
import random
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from mlops_tasks.core.erasure import erase_from, read_erasures, remaining
from mlops_tasks.core.request_log import erased_key, segment_key
from mlops_tasks.errors import StoreUnavailable
from mlops_tasks.serving.recording.frames import UnknownFormat
from mlops_tasks.serving.recording.segments import DAMAGED, claimed, segments, sweep
from mlops_tasks.serving.recording.windows import read_segment, to_parquet

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from mlops_tasks.core.erasure import Erasure
    from mlops_tasks.ports import ArtifactStore
    from mlops_tasks.serving.recording.windows import Contents

log = logging.getLogger(__name__)
LONGEST_WAIT_S = 60.0


@dataclass
class Shipped:
    """What was done."""

    segments: int = 0
    records: int = 0
    damaged: int = 0
    """Pieces of segments that could not be read and were set aside."""


class Shipper:
    """Takes the segments of one pipeline's log to the store."""

    def __init__(self, folder: Path, name: str, store: ArtifactStore, announce: Callable[[str], None] = log.warning) -> None:
        self._folder, self._name, self._store, self._announce = folder, name, store, announce
        self._said: set[str] = set()
        self._known: dict[str, Erasure] = {}

    def ship(self) -> Shipped:
        """Ship every segment that is finished now and that nobody else ships.

        Raises:
            StoreUnavailable: the store or the disk did not answer; what was not shipped stays.

        """
        done = Shipped()
        try:
            sweep(self._folder)
            for path in segments(self._folder):
                with claimed(path) as data:
                    if data is not None:
                        self._ship_one(path, data, done)
        except OSError as error:
            msg = f"request log {self._folder}: {error.strerror or error}; check the disk and the folder's rights"
            raise StoreUnavailable(msg) from error
        return done

    def run(self, stop: threading.Event, *, poll_s: float = 1.0) -> None:
        """Ship until told to stop, then what is finished by then; a store that is down is waited for till then.

        Raises:
            StoreUnavailable: told to stop, it could not ship the rest.

        """
        wait_s, ending = poll_s, False
        while not ending:
            ending = stop.wait(wait_s)
            try:
                self.ship()
                wait_s = poll_s
                self._said.discard("down")
            except StoreUnavailable as error:
                if ending:
                    raise
                self._say("down", f"{error}; segments wait on disk")
                wait_s = min(LONGEST_WAIT_S, random.uniform(poll_s, 3 * wait_s))  # noqa: S311 - jitter, not a secret

    def _ship_one(self, path: Path, data: bytes, done: Shipped) -> None:
        try:
            contents = read_segment(data)
        except UnknownFormat as error:
            self._say(path.name, f"{path} {error}")
            return
        days = {segment_key(self._name, day, path.stem): table for day, table in contents.days.items()}
        kept = [self._store_day(key, rows) for key, rows in self._unerased(days).items()]
        self._erase_again(days)
        self._set_aside(path, contents)
        if not all(kept):
            path.rename(self._aside() / path.name)
            done.damaged += 1
            return
        path.unlink()
        done.segments += 1
        done.records += contents.records
        done.damaged += len(contents.damaged)

    def _unerased(self, days: dict[str, pa.Table]) -> dict[str, pa.Table]:
        """Return what no erasure takes away; what was stored and erased before this process was killed is not stored again."""
        erasures = self._erasures()
        if not erasures:
            return days
        left = {key: remaining(rows, erasures) for key, rows in days.items() if not self._was_erased(key)}
        return {key: rows for key, rows in left.items() if rows.num_rows}

    def _erase_again(self, keys: Iterable[str]) -> None:
        """Apply erasures that were written down while rows were being stored: they may have looked before these were there."""
        known = set(self._known)
        erasures = self._erasures()
        if set(self._known) != known:
            for key in keys:
                erase_from(self._store, self._name, key, erasures)

    def _erasures(self) -> list[Erasure]:
        self._known = read_erasures(self._store, self._name, self._known)
        return list(self._known.values())

    def _was_erased(self, key: str) -> bool:
        """Tell whether a file was stored before and something of it erased, now if not yet."""
        with suppress(pa.ArrowInvalid, OSError):  # it is damaged, which `_store_day` says
            erase_from(self._store, self._name, key, list(self._known.values()))
        return next(iter(self._store.list(erased_key(key, "").removesuffix(".parquet"))), None) is not None

    def _store_day(self, key: str, table: pa.Table) -> bool:
        """Put rows under a key that nothing else has; tell whether they are there."""
        data = to_parquet(table)
        self._store.create(key, data)
        try:
            there = self._store.read(key)
        except KeyError as error:
            msg = f"store {self._store.root}: {key} was stored and is gone; check who deletes there"
            raise StoreUnavailable(msg) from error
        if there == data or _same_rows(there, table):
            return True
        self._announce(
            f"request log: {key} is in the store with other rows than the segment has; "
            f"the segment is kept in {self._folder / DAMAGED}: compare them and remove one"
        )
        return False

    def _set_aside(self, path: Path, contents: Contents) -> None:
        """Keep what could not be read, and say so."""
        for number, piece in enumerate(contents.damaged):
            temporary = self._aside() / f".{path.stem}.{number}"
            temporary.write_bytes(piece)
            temporary.rename(self._aside() / f"{path.stem}.{number}.damaged")
        if contents.damaged:
            self._announce(
                f"request log: {path.name} is damaged in {len(contents.damaged)} places "
                f"({sum(map(len, contents.damaged))} bytes, kept in {self._folder / DAMAGED}); "
                f"its other {contents.records} records are shipped; check the disk"
            )
        if contents.torn:
            self._announce(
                f"request log: {path.name} ends in {contents.torn} bytes of a record that was never acknowledged; cut off"
            )

    def _aside(self) -> Path:
        folder = self._folder / DAMAGED
        folder.mkdir(exist_ok=True)
        return folder

    def _say(self, what: str, message: str) -> None:
        """Say a problem when it begins, not at every look."""
        if what not in self._said:
            self._announce(f"request log: {message}")
        self._said.add(what)


def _same_rows(there: bytes, table: pa.Table) -> bool:
    """Tell whether Parquet that has other bytes has the same rows: another version of the library wrote it."""
    try:
        found = pq.ParquetFile(pa.BufferReader(there)).read()
    except (pa.ArrowInvalid, OSError):
        return False
    same: bool = found.equals(pq.ParquetFile(pa.BufferReader(to_parquet(table))).read())
    return same
