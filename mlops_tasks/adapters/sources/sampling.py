"""A file source to about how many rows it holds, and how many a window: from its metadata and its first rows alone."""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mlops_tasks.adapters.sources.files import find_files
from mlops_tasks.adapters.sources.formats import BLOCK_BYTES, read_file, suffix_of

if TYPE_CHECKING:
    from datetime import timedelta

    from mlops_tasks.adapters.sources.locations import Location
    from mlops_tasks.specs import Source

MOST_REMOTE_BYTES = 64 << 20
"""A larger object is not fetched for a sample: reading one fetches it whole."""
TOGETHER = 4.0
"""Rows of a window lie together in a file if from its first to its last there are at most so many times its own rows."""
GZIP_TRAILER = 4


@dataclass(frozen=True)
class SourceSize:
    """What is known of a source without reading it."""

    files: int
    bytes: int
    rows: int | None
    """None: unknown. Of Parquet's footers it is exact, else extrapolated from the first file's first rows."""
    exact: bool
    rows_per_window: float | None
    """None: unknown, or the source has no event time."""

    @property
    def bytes_per_row(self) -> float | None:
        """Bytes of the files for one row, compressed as they are."""
        return self.bytes / self.rows if self.rows else None


def measure_source(source: Source, window: timedelta) -> SourceSize:
    """Look at a file source. Raises: SpecError when there is no file, DataRejected when its first rows are damaged."""
    files = find_files(source)
    size = sum(file.version[1] for file in files)
    near = [file for file in files if not file.name.startswith("s3://") or file.version[1] <= MOST_REMOTE_BYTES]
    if not near:
        return SourceSize(len(files), size, None, exact=False, rows_per_window=None)
    exact = len(near) == len(files) and all(suffix_of(file.name) == ".parquet" for file in files)
    with near[0].open() as stream:
        first = next(iter(read_file(stream, near[0].name, source)))
        share = min(BLOCK_BYTES / max(_plain_bytes(stream, suffix_of(near[0].name)), 1), 1.0)
    if exact or suffix_of(near[0].name) == ".parquet":
        rows = sum(_footer_rows(file) for file in near if suffix_of(file.name) == ".parquet")
    else:
        rows = round(first.num_rows / share * size / near[0].version[1])
    return SourceSize(len(files), size, rows, exact, _density(first, source.event_time, rows, window))


def _plain_bytes(stream: IO[bytes], suffix: str) -> int:
    """Return how large a file is once it is decompressed."""
    if suffix.endswith(".zip"):
        return sum(item.file_size for item in zipfile.ZipFile(stream).infolist())
    if suffix.endswith(".gz"):
        stream.seek(-GZIP_TRAILER, os.SEEK_END)
        return int.from_bytes(stream.read(GZIP_TRAILER), "little")
    return stream.seek(0, os.SEEK_END)


def _footer_rows(file: Location) -> int:
    with file.open() as stream:
        return int(pq.ParquetFile(stream).metadata.num_rows)


def _density(first: pa.RecordBatch, event_time: str | None, rows: int, window: timedelta) -> float | None:
    """Return rows a window: of the sample where a window's rows lie together, else of all rows over the sample's windows."""
    if event_time is None or not first.num_rows:
        return None
    micros = first.column(event_time).drop_null().cast(pa.timestamp("us", tz="UTC")).cast(pa.int64())
    of_row = np.asarray(micros.to_numpy(zero_copy_only=False)) // round(window.total_seconds() * 1e6)
    windows, number, count = np.unique(of_row, return_inverse=True, return_counts=True)
    place = np.arange(len(of_row))
    first_at, last_at = np.full(len(windows), len(of_row)), np.zeros(len(windows), dtype=np.int64)
    np.minimum.at(first_at, number, place)
    np.maximum.at(last_at, number, place)
    together = float(np.median((last_at - first_at + 1) / count)) <= TOGETHER
    return (first.num_rows if together else rows) / len(windows)
