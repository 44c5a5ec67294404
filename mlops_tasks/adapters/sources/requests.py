"""What the server of a pipeline was asked and answered, as a source: `requests://NAME`.

Rows that were scored in shadow are left out, nobody was answered with them; of several with one prediction id in what is
read the earliest is kept.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mlops_tasks.adapters.sources.conforming import Place, conform
from mlops_tasks.adapters.sources.files import within
from mlops_tasks.artifacts import digest_of
from mlops_tasks.core.collection import TIMESTAMP, columns_to_read
from mlops_tasks.core.request_log import ID, REQUESTS, SHADOW, TIME, day_keys, day_of, days_of, logged_days
from mlops_tasks.errors import DataRejected, SpecError, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import date

    from mlops_tasks.artifacts import Window
    from mlops_tasks.ports import ArtifactStore
    from mlops_tasks.specs import Source

Extent = tuple[datetime, datetime]
_ID, _TIME, _SHADOW = f"__{ID}", f"__{TIME}", f"__{SHADOW}"


class RequestSources:
    """Reads the request logs that are in a store; see `SourceReader` for what each call promises."""

    def __init__(self, store: Callable[[], ArtifactStore]) -> None:
        """Use a store, which is opened at the first call."""
        self._store = store

    def fingerprint(self, source: Source, window: Window | None) -> str:
        """Hash the keys of the days that the window touches: what is under a key never changes."""
        return digest_of(self._keys(pipeline_of(source), window))

    def read(self, source: Source, window: Window | None) -> Iterator[pa.RecordBatch]:
        """Yield the window's rows day by day, earliest first, with the source's columns and types.

        Raises:
            DataRejected: no row of what is logged has a column of the source, or a value does not fit its type.
            StoreUnavailable: the store does not answer.

        """
        by_day: dict[date, list[str]] = {}
        for key in self._keys(pipeline_of(source), window):
            by_day.setdefault(day_of(key), []).append(key)
        self._require_columns(source, [key for keys in by_day.values() for key in keys])
        seen = pa.array([], pa.string())
        for day in sorted(by_day):
            rows = _answers(pa.concat_tables([self._rows(key, source) for key in by_day[day]]))
            rows = rows.filter(pc.invert(pc.is_in(rows[_ID], seen)))
            seen = pa.concat_arrays([seen, rows[_ID].combine_chunks()])
            if window is not None:
                rows = rows.filter(within(rows[_TIME], window))
            yield from rows.select(list(columns_to_read(source))).combine_chunks().to_batches()

    def extent(self, source: Source) -> Extent | None:
        """Return the times of the first and the last answer; None when there is none. The days between are not looked at."""
        name = pipeline_of(source)
        days = logged_days(self._store(), name)
        first = next((found for day in days if (found := self._times(name, day))), None)
        last = next((found for day in reversed(days) if (found := self._times(name, day))), None)
        return (first[0], last[1]) if first and last else None

    def _keys(self, name: str, window: Window | None) -> list[str]:
        days = logged_days(self._store(), name) if window is None else days_of(window)
        return [key for day in days for key in day_keys(self._store(), name, day)]

    def _open(self, key: str) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(pa.BufferReader(self._store().read(key)))
        except KeyError as error:
            msg = f"{key}: is gone since it was listed; read again"
            raise StoreUnavailable(msg) from error
        except pa.ArrowInvalid as error:
            msg = f"{key}: is damaged: {error}; restore it from a copy, or delete it"
            raise DataRejected(msg) from error

    def _rows(self, key: str, source: Source) -> pa.Table:
        """Read what is needed of one file, typed as the source says; a column that its model did not have is null."""
        file, columns = self._open(key), list(columns_to_read(source))
        there = file.read(columns=list({ID, TIME, SHADOW, *columns} & set(file.schema_arrow.names))).combine_chunks()
        arrays = {n: there[n].combine_chunks() if n in there.column_names else pa.nulls(there.num_rows) for n in columns}
        typed = conform(arrays, source, Place(key, 1, "row"))
        return pa.table({**dict(zip(columns, typed.columns, strict=True)), **_own(there)})

    def _times(self, name: str, day: date) -> Extent | None:
        """Return the first and the last time of a day's answers; None when it has none."""
        keys = day_keys(self._store(), name, day)
        tables = [pa.table(_own(self._open(key).read(columns=[ID, TIME, SHADOW]))) for key in keys]
        if not tables:
            return None
        found = pc.min_max(_answers(pa.concat_tables(tables))[_TIME])
        return (found["min"].as_py(), found["max"].as_py()) if found["min"].is_valid else None

    def _require_columns(self, source: Source, keys: list[str]) -> None:
        """Refuse a source whose columns no logged model had: they would be null in every row."""
        missing, there = set(columns_to_read(source)), set[str]()
        for key in keys:
            there.update(self._open(key).schema_arrow.names)
            if missing <= there:
                return
        if keys:
            msg = f"{source.path}: column {min(missing - there)!r} is not logged; there are {', '.join(sorted(there))}"
            raise DataRejected(msg)


def pipeline_of(source: Source) -> str:
    """Return the pipeline whose log a source reads. Raises: SpecError, for a path or event time that no log has."""
    path = source.path or ""
    name = path.removeprefix(REQUESTS)
    if not re.fullmatch(r"\w+", name):
        msg = f"{path}: must be {REQUESTS}NAME with the name of a served pipeline, such as {REQUESTS}nyc_flights"
        raise SpecError(msg)
    if source.event_time not in {None, TIME}:
        msg = f"{path}: event_time must be {TIME}, got {source.event_time}"
        raise SpecError(msg)
    return name


def _own(rows: pa.Table) -> dict[str, pa.ChunkedArray]:
    """Return the columns that rows are chosen by, whatever the source makes of them."""
    return {_ID: rows[ID], _TIME: rows[TIME].cast(TIMESTAMP), _SHADOW: rows[SHADOW]}


def _answers(rows: pa.Table) -> pa.Table:
    """Return what somebody was answered with, in the order of time, each prediction id once."""
    rows = rows.filter(pc.invert(rows[_SHADOW]))
    rows = rows.take(pc.sort_indices(rows, sort_keys=[(_TIME, "ascending"), (_ID, "ascending")]))
    positions = pa.table({_ID: rows[_ID], "at": pa.array(np.arange(rows.num_rows))})
    first = positions.group_by(_ID).aggregate([("at", "min")])["at_min"]
    return rows if len(first) == rows.num_rows else rows.take(first.take(pc.sort_indices(first)))
