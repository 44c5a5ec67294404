"""Sources of a pipeline (files, S3 objects, SQL queries, request logs) to typed rows: the adapter of `SourceReader`."""

from __future__ import annotations

import os
from functools import cached_property
from typing import TYPE_CHECKING

from mlops_tasks.adapters.sources.files import FileSources
from mlops_tasks.artifacts import digest_of
from mlops_tasks.core.privacy import HASH_KEY, key_identity
from mlops_tasks.core.request_log import REQUESTS
from mlops_tasks.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    import pyarrow as pa

    from mlops_tasks.adapters.sources.requests import RequestSources
    from mlops_tasks.adapters.sources.sql import SqlSources
    from mlops_tasks.artifacts import Window
    from mlops_tasks.ports import ArtifactStore
    from mlops_tasks.specs import Source


class Sources:
    """Implements `SourceReader`: dispatches to files, SQL or request logs; see the port for what each call promises."""

    def __init__(self, store: Callable[[], ArtifactStore] | None = None) -> None:
        """Connect to nothing yet; `store` opens the one that request logs are in."""
        self._files, self._store = FileSources(), store

    @cached_property
    def _sql(self) -> SqlSources:
        from mlops_tasks.adapters.sources.sql import SqlSources  # noqa: PLC0415 - SQLAlchemy takes 0.2 s to import

        return SqlSources()

    @cached_property
    def _requests(self) -> RequestSources:
        from mlops_tasks.adapters.sources.requests import RequestSources  # noqa: PLC0415 - at first use

        if self._store is None:
            msg = "these sources were made without a store, so request logs can't be read"
            raise SpecError(msg)
        return RequestSources(self._store)

    def fingerprint(self, source: Source, window: Window | None) -> str:
        """Identify the present content.

        Files: by their bytes, S3 objects: by ETag, a query: by the window's rows, a request log: by its files' names.
        With hashed columns also the secret: rows hashed with another one don't join.
        """
        windowed = self._windowed(source)
        content = windowed.fingerprint(source, window) if windowed else self._files.fingerprint(source)
        key = key_identity(source, os.environ.get(HASH_KEY))
        return digest_of([content, key]) if key else content

    def read(self, source: Source, window: Window | None) -> Iterator[pa.RecordBatch]:
        """Yield the window's rows (None: all), typed."""
        return (self._windowed(source) or self._files).read(source, window)

    def latest(self, source: Source) -> datetime | None:
        """Return the greatest event time."""
        extent = (self._windowed(source) or self._files).extent(source)
        return extent and extent[1]

    def earliest(self, source: Source) -> datetime | None:
        """Return the least event time."""
        extent = (self._windowed(source) or self._files).extent(source)
        return extent and extent[0]

    def _windowed(self, source: Source) -> SqlSources | RequestSources | None:
        """Return the reader of what has a content of its own for each window; None for files."""
        if source.path is None:
            return self._sql
        return self._requests if source.path.startswith(REQUESTS) else None
