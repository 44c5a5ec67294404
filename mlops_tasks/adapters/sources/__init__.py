"""Sources of a pipeline (files, S3 objects, SQL queries) to typed rows: the adapter of `SourceReader`."""

from __future__ import annotations

import os
from functools import cached_property
from typing import TYPE_CHECKING

from mlops_tasks.adapters.sources.files import FileSources
from mlops_tasks.artifacts import digest_of
from mlops_tasks.core.privacy import HASH_KEY, key_identity

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    import pyarrow as pa

    from mlops_tasks.adapters.sources.sql import SqlSources
    from mlops_tasks.artifacts import Window
    from mlops_tasks.specs import Source


class Sources:
    """Implements `SourceReader`: dispatches to files or SQL; see the port for what each call promises."""

    def __init__(self) -> None:
        """Connect to nothing yet."""
        self._files = FileSources()

    @cached_property
    def _sql(self) -> SqlSources:
        from mlops_tasks.adapters.sources.sql import SqlSources  # noqa: PLC0415 - SQLAlchemy takes 0.2 s to import

        return SqlSources()

    def fingerprint(self, source: Source, window: Window | None) -> str:
        """Identify the present content: files by their bytes, S3 objects by ETag, a query by the window's rows.

        With hashed columns also the secret: rows hashed with another one don't join.
        """
        content = self._files.fingerprint(source) if source.path else self._sql.fingerprint(source, window)
        key = key_identity(source, os.environ.get(HASH_KEY))
        return digest_of([content, key]) if key else content

    def read(self, source: Source, window: Window | None) -> Iterator[pa.RecordBatch]:
        """Yield the window's rows (None: all), typed."""
        return self._files.read(source, window) if source.path else self._sql.read(source, window)

    def latest(self, source: Source) -> datetime | None:
        """Return the greatest event time."""
        extent = self._files.extent(source) if source.path else self._sql.extent(source)
        return extent and extent[1]

    def earliest(self, source: Source) -> datetime | None:
        """Return the least event time."""
        extent = self._files.extent(source) if source.path else self._sql.extent(source)
        return extent and extent[0]
