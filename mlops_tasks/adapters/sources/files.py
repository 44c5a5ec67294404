"""Rows of file sources, local or on S3, cut to an interval of event time while they stream by."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from mlops_tasks.adapters.sources.formats import read_file, suffix_of
from mlops_tasks.adapters.sources.locations import Location, local_files
from mlops_tasks.artifacts import Window, digest_of
from mlops_tasks.core.collection import TIMESTAMP
from mlops_tasks.errors import DataRejected

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlops_tasks.specs import Source

Extent = tuple[datetime, datetime]


class FileSources:
    """Reads sources with a `path`. What was learned of files that did not change is kept between calls."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self._digests: dict[tuple[str, tuple[str, int, str]], str] = {}
        self._extents: dict[str, Extent | None] = {}

    def fingerprint(self, source: Source) -> str:
        """Hash names, sizes and contents (S3: ETags) of all files of a source; no window has files of its own."""
        return digest_of([[f.version[0], f.version[1], self._digest(f)] for f in find_files(source)])

    def _digest(self, file: Location) -> str:
        key = (file.name, file.version)
        if key not in self._digests:
            self._digests[key] = file.digest()
        return self._digests[key]

    def read(self, source: Source, window: Window | None) -> Iterator[pa.RecordBatch]:
        """Yield the rows of the window, files in the order of their names, rows in their order.

        Raises:
            DataRejected: a file is damaged, or a value does not fit, or a row has no event time.

        """
        files = find_files(source)
        seen: list[Extent] = []
        for file in files:
            suffix_of(file.name)
            with file.open() as stream:
                batches = read_file(stream, file.name, source)
                yield from batches if source.event_time is None else _cut(batches, source.event_time, window, file.name, seen)
        self._extents[_identity(source, files)] = (min(low for low, _ in seen), max(high for _, high in seen)) if seen else None

    def extent(self, source: Source) -> Extent | None:
        """Return the least and the greatest event time of a source; None when it has no rows."""
        if source.event_time is None:
            return None
        key = _identity(source, find_files(source))
        if key not in self._extents:
            only_time = source.model_copy(update={"columns": {source.event_time: source.columns[source.event_time]}})
            for _ in self.read(only_time, None):
                pass
            self._extents[key] = self._extents[_identity(only_time, find_files(only_time))]
        return self._extents[key]


def find_files(source: Source) -> list[Location]:
    """List a source's files. Raises: SpecError when there is none, StoreUnavailable."""
    path = source.path or ""
    if path.startswith("s3://"):
        from mlops_tasks.adapters.sources.s3 import s3_files  # noqa: PLC0415 - boto3 takes 0.1 s to import

        return s3_files(path)
    return local_files(path)


def _identity(source: Source, files: list[Location]) -> str:
    return digest_of([source.model_dump(mode="json"), [[f.name, *f.version] for f in files]])


def _cut(
    batches: Iterator[pa.RecordBatch], event_time: str, window: Window | None, name: str, seen: list[Extent]
) -> Iterator[pa.RecordBatch]:
    """Keep the rows within the window; note the extent of all; refuse rows without a time."""
    rows, missing, first_missing = 0, 0, 0
    for batch in batches:
        times = batch.column(event_time)
        if times.null_count:
            first_missing = first_missing or rows + 1 + pc.index(times.is_null(), pa.scalar(value=True)).as_py()
            missing += times.null_count
        rows += batch.num_rows
        if times.null_count == len(times):
            continue
        extent = pc.min_max(times)
        low, high = extent["min"].as_py(), extent["max"].as_py()
        seen.append((low, high))
        if window is None or (window.start <= low and high < window.end):
            yield batch
        elif low < window.end and high >= window.start:
            yield batch.filter(within(times, window))
    if missing:
        msg = f"{name}: {missing} rows have no {event_time!r}, the first is data row {first_missing}; mend or remove them"
        raise DataRejected(msg)


def within(times: pa.Array, window: Window) -> pa.Array:
    """Tell which times lie in the half-open window."""
    start, end = (pa.scalar(edge, TIMESTAMP) for edge in (window.start, window.end))
    return pc.and_(pc.greater_equal(times, start), pc.less(times, end))
