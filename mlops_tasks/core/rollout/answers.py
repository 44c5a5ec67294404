"""A request log to what two versions answered, side by side."""

# ruff: noqa: N806, N815 - an array's name ends with its shape, whose axes are capitals

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mlops_tasks.core.request_log import ENTITY, FALLBACK, ID, LATENCY_MS, ROLE, SCORE, SHADOW, TIME, VERSION

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]
    Ints = npt.NDArray[np.int64]
    Bools = npt.NDArray[np.bool_]

LOG_TYPES = {
    ID: pa.string(),
    TIME: pa.timestamp("us", tz="UTC"),
    ENTITY: pa.string(),
    VERSION: pa.int64(),
    ROLE: pa.string(),
    SHADOW: pa.bool_(),
    FALLBACK: pa.string(),
    LATENCY_MS: pa.float64(),
    SCORE: pa.float64(),
}
LOG_COLUMNS = list(LOG_TYPES)
MOST_ROWS = 50_000
"""Rows of a side that are resampled; of more, those of half of the units, of a quarter, and so on."""


@dataclass(frozen=True)
class Answers:
    """What one version answered."""

    rows: pa.Table
    """Each prediction once, by id."""
    requests: int
    """How many requests it answered or failed in."""
    failures: int
    """In how many of these it failed."""
    scores: Floats
    """[N] or [N, C]."""
    unit_N: Ints
    """Which unit each row belongs to."""

    @property
    def flat(self) -> Floats:
        """One number a row: of classes the greatest probability."""
        return self.scores if self.scores.ndim == 1 else self.scores.max(axis=1)

    @property
    def latencies_ms(self) -> Floats:
        """How long scoring took; NaN where a row was scored together with other requests'."""
        return np.asarray(self.rows[LATENCY_MS].to_numpy(), dtype=np.float64)


@dataclass(frozen=True)
class Both:
    """Champion and challenger; a unit has the same number on both sides, so that what both were asked is compared in pairs.

    A unit is an entity: its requests resemble each other, so they are no independent observations.
    """

    champion: Answers
    challenger: Answers
    hash_U: Floats
    """Where in [0, 1) each unit stands, the same at every look."""

    @property
    def sides(self) -> tuple[Answers, Answers]:
        """Champion, challenger."""
        return self.champion, self.challenger

    def thinned(self, known: tuple[Bools, Bools]) -> tuple[tuple[Bools, Bools], int]:
        """Choose at most `MOST_ROWS` of the known rows of each side, whole units; return how often units were halved."""
        halvings = 0
        while True:
            kept = [mask & (self.hash_U[side.unit_N] < 0.5**halvings) for mask, side in zip(known, self.sides, strict=True)]
            if max(int(mask.sum()) for mask in kept) <= MOST_ROWS:
                return (kept[0], kept[1]), halvings
            halvings += 1


def empty_log() -> pa.Table:
    """Return a log without rows."""
    return pa.table({name: pa.array([], kind) for name, kind in LOG_TYPES.items()})


def read_answers(log: pa.Table, versions: tuple[int, int], *, paired: bool) -> Both:
    """Take both versions' answers out of a log.

    Args:
        log: rows with `LOG_COLUMNS`; a prediction that is there twice counts once.
        versions: champion, challenger.
        paired: keep only predictions that both scored, as in shadow.

    """
    failed = _failed(log, versions)
    champion, challenger = (_answers_of(log, version) for version in versions)
    requests = [_count_requests(rows) for rows in (champion, challenger)]
    if paired:
        champion = champion.filter(pc.is_in(champion[ID], value_set=challenger[ID].combine_chunks()))
        challenger = challenger.filter(pc.is_in(challenger[ID], value_set=champion[ID].combine_chunks()))
    units = pa.chunked_array([*_units(champion).chunks, *_units(challenger).chunks], pa.string())
    coded = units.combine_chunks().dictionary_encode()
    unit_N = coded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    hash_U = np.array([crc32(name.encode()) for name in coded.dictionary.to_pylist()], dtype=np.float64) / 2**32
    failures, at = _count_requests(failed), champion.num_rows
    return Both(
        Answers(champion, requests[0], 0, _scores(champion), unit_N[:at]),
        Answers(challenger, requests[1] + failures, failures, _scores(challenger), unit_N[at:]),
        hash_U,
    )


def _answers_of(log: pa.Table, version: int) -> pa.Table:
    """Return the rows that a version scored."""
    return _once(log.filter(pc.and_(pc.equal(log[VERSION], version), _good(log))))


def _failed(log: pa.Table, versions: tuple[int, int]) -> pa.Table:
    """Return the rows in which the challenger failed: as a canary the champion answered them, as a shadow nobody did."""
    failed = pc.and_(pc.not_equal(pc.coalesce(log[FALLBACK], ""), ""), pc.is_in(log[VERSION], pa.array(versions)))
    return _once(log.filter(failed))


def _once(rows: pa.Table) -> pa.Table:
    """Return each prediction once, in the order of ids: whatever the order of the log, the same figures."""
    rows = rows.take(pc.sort_indices(rows, sort_keys=[(ID, "ascending"), (TIME, "ascending")]))
    first = pa.table({ID: rows[ID], "at": pa.array(np.arange(rows.num_rows))}).group_by(ID).aggregate([("at", "min")])
    return rows.take(first["at_min"].combine_chunks().sort())


def _good(log: pa.Table) -> pa.ChunkedArray:
    """Tell which rows hold their version's own scores: an answer, or a shadow that did not fail."""
    return pc.or_(pc.invert(log[SHADOW]), pc.equal(pc.coalesce(log[FALLBACK], ""), ""))


def _count_requests(rows: pa.Table) -> int:
    """Count requests: the rows of one have its id with their numbers, and its time."""
    asked = pa.table({"id": _request_ids(rows), "at": rows[TIME]})
    return int(asked.group_by(["id", "at"]).aggregate([]).num_rows)


def _request_ids(rows: pa.Table) -> pa.ChunkedArray:
    return pc.replace_substring_regex(rows[ID], r":\d+$", "")


def _units(rows: pa.Table) -> pa.ChunkedArray:
    """Name each row's entity; where the log does not know it, the request."""
    return pc.coalesce(rows[ENTITY], _request_ids(rows))


def _scores(rows: pa.Table) -> Floats:
    """Return the scores, [N] or [N, C]."""
    values = rows[SCORE].combine_chunks()
    if pa.types.is_list(values.type):
        flat = values.flatten().to_numpy(zero_copy_only=False)
        return np.asarray(flat, dtype=np.float64).reshape(len(values), -1) if len(values) else np.empty((0, 1))
    return np.asarray(values.to_numpy(zero_copy_only=False), dtype=np.float64)
