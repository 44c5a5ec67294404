"""Answers about somebody, or with an id, taken out of the request log for good.

An erasure is written down before anything is removed, and all that are written down are applied until a pass over the log
finds nothing more; what is shipped later meets them, too. A file never changes: what is left of it is put under a key of its
own, read back, and then the file is removed; a reader who finds both leaves the file out. A kill between any two steps leaves
what the next pass ends; and windows of those days are collected anew, as the keys changed.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, date
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mlops_tasks.artifacts import Frozen, UtcTime, digest_of
from mlops_tasks.core.request_log import ENTITY, ID, TIME, day_of, day_prefix, erased_key, erasures_prefix, logged_days
from mlops_tasks.errors import DataRejected, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from mlops_tasks.ports import ArtifactStore

_LOOKED_AT = [ID, TIME, ENTITY]
_DAYS = "/days.txt"
_ROW = r":\d+$"


class Erasure(Frozen):
    """What may not be in a log any more."""

    at: UtcTime
    """Answers up to then; who comes back later is logged again."""
    entities: tuple[str, ...] = ()
    """HMAC-SHA256 in hex, as the log has them."""
    ids: tuple[str, ...] = ()
    """Prediction ids; a request's id stands for all its rows."""
    who: str = ""
    reason: str = ""

    @property
    def subject(self) -> str:
        """Identify what is erased, whenever that is asked for."""
        return digest_of([sorted(self.entities), sorted(self.ids)])[:16]


@dataclass
class Erased:
    """What passes over a log did."""

    rows: int = 0
    files: int = 0
    days: set[date] = field(default_factory=set)
    """UTC days on which rows were found."""
    unread: list[str] = field(default_factory=list)
    """Keys of files that are damaged: what they hold is not known."""


def write_down(store: ArtifactStore, name: str, erasure: Erasure) -> None:
    """Let an erasure hold from now on, for what is shipped later too."""
    store.create(f"{erasures_prefix(name)}{erasure.subject}/{_stamp(erasure)}.json", erasure.model_dump_json().encode())


def read_erasures(store: ArtifactStore, name: str, known: Mapping[str, Erasure] | None = None) -> dict[str, Erasure]:
    """Return what was written down, by key; what is known already is not read again, since it does not change."""
    found, known = dict[str, Erasure](), known or {}
    for key in store.list(erasures_prefix(name)):
        if not key.endswith(_DAYS):
            found[key] = known[key] if key in known else Erasure.model_validate_json(store.read(key))
    return found


def remaining(rows: pa.Table, erasures: Iterable[Erasure]) -> pa.Table:
    """Return the rows of a log that no erasure takes away."""
    gone = pa.chunked_array([pa.array([False] * rows.num_rows)])
    for erasure in erasures:
        gone = pc.or_(gone, _hits(rows, erasure))
    return rows.filter(pc.invert(gone))


def _hits(rows: pa.Table, erasure: Erasure) -> pa.ChunkedArray:
    """Return which rows an erasure takes away: a boolean for each."""
    whole = pc.replace_substring_regex(rows[ID], _ROW, "")
    ids = pa.array(erasure.ids, pa.string())
    hits = pc.or_(pc.is_in(rows[ENTITY], pa.array(erasure.entities, pa.string())), pc.is_in(rows[ID], ids))
    until = pa.scalar(erasure.at.astimezone(UTC), pa.timestamp("us", tz="UTC"))
    return pc.and_(pc.or_(hits, pc.is_in(whole, ids)), pc.less_equal(rows[TIME].cast(until.type), until))


def apply_erasures(store: ArtifactStore, name: str, *, dry: Sequence[Erasure] = ()) -> Erased:
    """Take out of a log what is written down, until a pass over all of it finds nothing.

    Args:
        store: where the log is.
        name: the pipeline whose log it is.
        dry: count what these would take away, and change nothing.

    Raises:
        DataRejected: a file is damaged, so that nobody can say whether it still holds something; all others are done.
        StoreUnavailable: the store does not answer; call again.

    """
    done = Erased()
    while True:
        found = _pass(store, name, list(dry) or list(read_erasures(store, name).values()), dry=bool(dry))
        done.rows, done.files, done.unread = done.rows + found.rows, done.files + found.files, found.unread
        done.days |= found.days
        if dry or not found.rows:
            break
    if done.unread:
        msg = (
            f"request log of {name}: {len(done.unread)} files are damaged, such as {done.unread[0]}, and may hold what was "
            f"to be erased; restore or delete them and erase again ({done.rows} rows of other files are gone)"
        )
        raise DataRejected(msg)
    return done


def _pass(store: ArtifactStore, name: str, erasures: Sequence[Erasure], *, dry: bool) -> Erased:
    done = Erased()
    last = max((erasure.at.astimezone(UTC).date() for erasure in erasures), default=None)
    for day in logged_days(store, name) if last else ():
        for key in store.list(day_prefix(name, day)) if last and day <= last else ():
            try:
                gone = erase_from(store, name, key, erasures, dry=dry)
            except (pa.ArrowInvalid, OSError):  # how PyArrow says that Parquet is damaged
                done.unread.append(key)
                continue
            if gone:
                done.rows, done.files = done.rows + gone, done.files + 1
                done.days.add(day)
    return done


def erase_from(store: ArtifactStore, name: str, key: str, erasures: Sequence[Erasure], *, dry: bool = False) -> int:
    """Take out of one file what the erasures say; return how many rows.

    Raises:
        StoreUnavailable: the store does not answer, or does not give back what it was given.
        pa.ArrowInvalid: the file is damaged; or OSError.

    """
    try:
        file = pq.ParquetFile(pa.BufferReader(store.read(key)))
    except KeyError:  # another erasure was quicker, or retention
        return 0
    looked_at = file.read(columns=_LOOKED_AT)
    hitting = [erasure for erasure in erasures if pc.any(_hits(looked_at, erasure)).as_py()]
    if not hitting:
        return 0
    rows = file.read()
    left = remaining(rows, hitting)
    if not dry:
        _note_day(store, name, hitting, day_of(key))
        if not left.num_rows or _put(store, key, left):
            store.delete(key)
    return int(rows.num_rows - left.num_rows)


def _put(store: ArtifactStore, key: str, rows: pa.Table) -> bool:
    """Put what is left under a key of its own, and read it back; tell whether it is there. Raises: StoreUnavailable."""
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, compression="zstd", store_schema=False, coerce_timestamps="us")
    data: bytes = sink.getvalue().to_pybytes()
    rest = erased_key(key, hashlib.sha256(data).hexdigest()[:12])
    store.create(rest, data)
    try:
        there = store.read(rest)
    except KeyError:  # another erasure has gone on from there: the next pass looks again
        return False
    if there != data:
        msg = f"store {store.root}: {rest} does not hold what was put there; {key} is kept: mend the store and erase again"
        raise StoreUnavailable(msg)
    return True


def _note_day(store: ArtifactStore, name: str, erasures: Sequence[Erasure], day: date) -> None:
    """Remember on which days something was found, before it is gone: what was made of those days has to be told."""
    for erasure in erasures:
        days = days_of_erasure(store, name, erasure)
        if day not in days:
            listed = sorted({*days, day})
            store.write(_days_key(name, erasure), "\n".join(map(date.isoformat, listed)).encode())


def days_of_erasure(store: ArtifactStore, name: str, erasure: Erasure) -> list[date]:
    """Return the UTC days on which something was found, this time and whenever the same was erased before."""
    try:
        said = store.read(_days_key(name, erasure)).decode()
    except KeyError:
        return []
    return [date.fromisoformat(line) for line in said.split()]


def _days_key(name: str, erasure: Erasure) -> str:
    return f"{erasures_prefix(name)}{erasure.subject}{_DAYS}"


def _stamp(erasure: Erasure) -> str:
    return f"{erasure.at.astimezone(UTC):%Y%m%dT%H%M%S%fZ}"
