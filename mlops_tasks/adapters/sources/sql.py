"""Rows of a SQL query, with the window's bounds as bound parameters, streamed in batches."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy import exc

from mlops_tasks.adapters.sources.conforming import Place, conform
from mlops_tasks.adapters.sources.files import within
from mlops_tasks.adapters.sources.formats import missing_columns
from mlops_tasks.artifacts import Window
from mlops_tasks.core.collection import columns_to_read, order_totally, schema_of
from mlops_tasks.errors import DataRejected, SpecError, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mlops_tasks.specs import Source

BATCH_ROWS = 20_000
CONNECT_TIMEOUT_S = 10
_VARIABLE = re.compile(r"\$\{(\w+)\}")
_ALWAYS = Window(start=datetime(1900, 1, 1, tzinfo=UTC), end=datetime(2200, 1, 1, tzinfo=UTC))


class SqlSources:
    """Reads sources with a `url` and a `query`; one engine per URL."""

    def __init__(self) -> None:
        """Connect to nothing yet."""
        self._engines: dict[str, sa.Engine] = {}

    def fingerprint(self, source: Source, window: Window | None) -> str:
        """Hash the window's rows in a total order: a database has nothing cheaper that can be trusted."""
        table = pa.Table.from_batches(list(self.read(source, window)), schema_of(source))
        sink = hashlib.sha256()
        for batch in order_totally(table, source.event_time).combine_chunks().to_batches():
            sink.update(batch.serialize())
        return sink.hexdigest()

    def read(self, source: Source, window: Window | None) -> Iterator[pa.RecordBatch]:
        """Yield the rows of the window in the query's order.

        Raises:
            SpecError: the query is wrong, or a variable of the URL is not set.
            DataRejected: the result lacks a column, or a value does not fit.
            StoreUnavailable: the database does not answer.

        """
        names, first = columns_to_read(source), 1
        with self._rows(source, source.query or "", _bounds(source, window)) as (result, where):
            present = list(result.keys())
            if missing := [name for name in names if name not in present]:
                raise missing_columns(where, missing, present)
            for rows in result.partitions(BATCH_ROWS):
                place = Place(where, first, "row")
                arrays = {name: _as_array([row[present.index(name)] for row in rows], name, place) for name in names}
                yield _cut(conform(arrays, source, place), source, window, place)
                first += len(rows)

    def extent(self, source: Source) -> tuple[datetime, datetime] | None:
        """Return the least and the greatest event time of the query without bounds; None when it has no rows."""
        if source.event_time is None:
            return None
        column = source.event_time
        query = (
            f"SELECT MIN({column}) AS low, MAX({column}) AS high FROM ({(source.query or '').strip().rstrip(';')}) AS events"  # noqa: S608 - the user's own query
        )
        with self._rows(source, query, _bounds(source, _ALWAYS)) as (result, where):
            values = list(result.one())
        if values[0] is None:
            return None
        only = source.model_copy(update={"columns": {column: source.columns[column]}})
        low, high = conform({column: _as_array(values, column, Place(where, 1, "row"))}, only, Place(where, 1, "row"))[
            0
        ].to_pylist()
        return low, high

    @contextmanager
    def _rows(self, source: Source, query: str, bounds: dict[str, datetime]) -> Iterator[tuple[sa.CursorResult[Any], str]]:
        """Run a query on a server-side cursor; turn the driver's errors into words that hold no secret."""
        engine = self._engine(source)
        where = _where(engine.url)
        try:
            connection = engine.connect()
        except (exc.OperationalError, exc.InterfaceError) as error:
            msg = f"{where}: the database does not answer: {_reason(error, engine.url)}; check that it runs and the url"
            raise StoreUnavailable(msg) from None
        with connection:
            try:
                statement = sa.text(query)
                given = {name: _bound_value(engine, bounds[name]) for name in _parameters(statement, source, bounds)}
                yield (
                    connection.execution_options(stream_results=True, yield_per=BATCH_ROWS, postgresql_readonly=True).execute(
                        statement, given
                    ),
                    where,
                )
            except exc.DBAPIError as error:
                private = any(column.privacy != "keep" for column in source.columns.values())
                raise _in_words(where, error, engine, private=private) from None

    def _engine(self, source: Source) -> sa.Engine:
        url = expand_url(source.url or "")
        key = url.render_as_string(hide_password=False)
        if key not in self._engines:
            self._engines[key] = _create_engine(url, source.url or "")
        return self._engines[key]


def expand_url(template: str) -> sa.URL:
    """Fill `${VAR}` from the environment, part by part, so that a secret may hold any character.

    Raises:
        SpecError: a variable is not set, or the URL can't be read; values are never shown.

    """
    whole = _VARIABLE.fullmatch(template)
    try:
        url = sa.make_url(_expand(template, template) if whole else template)
    except (exc.ArgumentError, ValueError):
        try:
            return sa.make_url(_expand(template, template))
        except (exc.ArgumentError, ValueError):
            msg = f"url {template!r} is not a database URL such as postgresql://user:${{PASSWORD}}@host:5432/name"
            raise SpecError(msg) from None
    if whole:
        return url
    query = {key: _expand(value, template) for key, value in url.query.items() if isinstance(value, str)}
    return url.set(
        username=_expand(url.username or "", template) or None,
        password=_expand(str(url.password or ""), template) or None,
        host=_expand(url.host or "", template) or None,
        database=_expand(url.database or "", template) or None,
    ).update_query_dict(query)


def _expand(text: str, template: str) -> str:
    def value(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            msg = f"url {template!r} needs the environment variable {match[1]}, which is not set"
            raise SpecError(msg)
        return os.environ[match[1]]

    return _VARIABLE.sub(value, text)


def _create_engine(url: sa.URL, template: str) -> sa.Engine:
    """Make an engine whose sessions think in UTC."""
    arguments: dict[str, Any] = {}
    if url.drivername == "postgresql":  # SQLAlchemy's default driver differs between its versions
        url = url.set(drivername="postgresql+psycopg2" if importlib.util.find_spec("psycopg2") else "postgresql+psycopg")
    if url.get_backend_name() == "postgresql":
        arguments = {"connect_timeout": CONNECT_TIMEOUT_S}
        if "options" not in url.query:
            arguments["options"] = "-c timezone=utc"
    try:
        return sa.create_engine(url, connect_args=arguments, hide_parameters=True, pool_pre_ping=True)
    except (exc.NoSuchModuleError, ImportError) as error:
        hint = "install it, e.g. pip install psycopg2-binary for PostgreSQL"
        msg = f"url {template!r}: the driver for {url.drivername!r} is not installed; {hint}"
        raise SpecError(msg) from error


def _where(url: sa.URL) -> str:
    """Name a database without its user, password and options."""
    host = f"{url.host or ''}{f':{url.port}' if url.port else ''}"
    return f"{url.get_backend_name()}://{host}/{url.database or ''}"


def _bounds(source: Source, window: Window | None) -> dict[str, datetime]:
    if source.event_time is None:
        return {}
    window = window or _ALWAYS
    return {"start": window.start, "end": window.end}


def _parameters(statement: sa.TextClause, source: Source, bounds: dict[str, datetime]) -> list[str]:
    """Check that a query asks for its window, or for none when it is static."""
    asked = set(statement.compile().params)
    if asked != set(bounds):
        wanted = ":start and :end" if source.event_time else "no parameters, as the source has no event_time"
        msg = f"query must use {wanted}, got {', '.join(f':{name}' for name in sorted(asked)) or 'none'}"
        raise SpecError(msg)
    return sorted(asked)


def _bound_value(engine: sa.Engine, time: datetime) -> object:
    """Give a time as the database compares it: with its zone, as text (SQLite has no times), or as plain UTC."""
    if engine.dialect.name == "postgresql":
        return time
    plain = time.replace(tzinfo=None)
    return plain.isoformat(sep=" ") if engine.dialect.name == "sqlite" else plain


def _in_words(where: str, error: exc.DBAPIError, engine: sa.Engine, *, private: bool) -> SpecError | StoreUnavailable:
    transient = isinstance(error, exc.OperationalError) and engine.dialect.name != "sqlite"
    if error.connection_invalidated or transient or "locked" in str(error.orig):
        return StoreUnavailable(f"{where}: the database failed: {_reason(error, engine.url)}; run again")
    # A database quotes the value that it can't convert.
    reason = (
        "a value can't be converted (not shown)" if private and isinstance(error, exc.DataError) else _reason(error, engine.url)
    )
    return SpecError(f"{where}: the query failed: {reason}; correct the source's query")


def _reason(error: exc.DBAPIError, url: sa.URL) -> str:
    lines = str(error.orig).strip().splitlines()
    text = lines[0] if lines else type(error).__name__
    return text.replace(str(url.password), "***") if url.password else text


def _as_array(values: Sequence[object], name: str, place: Place) -> pa.Array:
    try:
        return pa.array([str(value) if isinstance(value, UUID) else value for value in values])
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        msg = f"{place.name}: column {name!r} mixes types that don't fit together; cast it in the query"
        raise DataRejected(msg) from None


def _cut(batch: pa.RecordBatch, source: Source, window: Window | None, place: Place) -> pa.RecordBatch:
    if source.event_time is None:
        return batch
    times = batch.column(source.event_time)
    if times.null_count:
        msg = f"{place.name}: {times.null_count} rows have no {source.event_time!r}; mend them, or leave them out in the query"
        raise DataRejected(msg)
    return batch if window is None else batch.filter(within(times, window))
