"""Windows to their raw rows, read from every source once, private columns dropped or hashed, stored for good."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from mlops_tasks.artifacts import FileRef, RawData, TableRef, Window
from mlops_tasks.core.collection import (
    column_types,
    drop_duplicates,
    order_by_time,
    order_totally,
    schema_of,
    split_by_window,
    write_rows,
)
from mlops_tasks.core.privacy import HASH_KEY, apply_privacy, require_hash_key
from mlops_tasks.core.publishing import hash_file, publish_files
from mlops_tasks.core.windows import contiguous, span
from mlops_tasks.durations import format_duration
from mlops_tasks.errors import DataRejected, NothingToDo, PipelineError
from mlops_tasks.specs import CollectSpec, Source

if TYPE_CHECKING:
    from mlops_tasks.ports import Ports

MANIFEST = "manifest.json"
STORING_THREADS = 8


@dataclass(frozen=True)
class _Rows:
    """A source's rows of each window, and how many duplicates were dropped there."""

    tables: list[pa.Table]
    dropped: list[int]


def run(spec: CollectSpec, windows: Sequence[Window], *, ports: Ports) -> list[RawData]:
    """Collect windows, in time order: one immutable revision each.

    A window before the source's first event is empty and no error: lookback reaches there.

    Raises:
        NothingToDo: a window may still get rows, or the primary source has none so late yet.
        DataRejected: a source's data is damaged, a window inside its range is empty, or keys repeat.
        SpecError: a source can't be found, or the hash secret is missing.
        StoreUnavailable: a source or the store does not answer.

    """
    ordered = [window for run_ in contiguous(windows) for window in run_]
    if not ordered:
        return []
    _require_complete(spec, ordered, ports)
    key = os.environ.get(HASH_KEY)
    for name, source in spec.sources.items():
        require_hash_key(source, name, key)
    timed: dict[str, _Rows] = {}
    with ports.progress.bar("collect", len(spec.sources) + len(ordered)) as bar:
        for name, source in spec.sources.items():
            if source.event_time is not None:
                with _naming(name):
                    timed[name] = _read_windows(spec, name, ordered, key, ports)
                bar.advance(source=name)
        _require_rows(spec, ordered, timed[spec.primary], ports)
        static = {n: _store_static(n, s, key, ports) for n, s in spec.sources.items() if s.event_time is None}
        bar.advance(len(static))
        collected = []
        store_one = partial(_store_window, timed=timed, static=static, primary=spec.primary, ports=ports)
        # Storing mostly waits for the disk or the network.
        with ThreadPoolExecutor(STORING_THREADS) as pool:
            for raw in pool.map(store_one, ordered, range(len(ordered))):
                collected.append(raw)
                bar.advance(window=raw.window.label)
    return collected


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Say in an error which source it is about."""
    try:
        yield
    except PipelineError as error:
        msg = f"source {name!r}: {error}"
        raise type(error)(msg) from error


def _require_complete(spec: CollectSpec, windows: Sequence[Window], ports: Ports) -> None:
    for window in windows:
        ready = window.end + spec.allowed_lateness
        if ports.run.now < ready:
            late = f" and rows may be {format_duration(spec.allowed_lateness)} late" if spec.allowed_lateness else ""
            msg = f"window {window}: it ends at {window.end:%Y-%m-%dT%H:%M}Z{late}; collect it from {ready:%Y-%m-%dT%H:%M}Z on"
            raise NothingToDo(msg)


def _read_windows(spec: CollectSpec, name: str, windows: Sequence[Window], key: str | None, ports: Ports) -> _Rows:
    """Read a source once for all windows: files as one interval, as each is read whole; a database per run of windows."""
    source = spec.sources[name]
    assert source.event_time is not None  # the caller chose the sources with a time
    intervals = [span(windows)] if source.path else [span(run_) for run_ in contiguous(windows)]
    parts = [_read(source, interval, key, ports) for interval in intervals]
    before = split_by_window(order_by_time(pa.concat_tables(parts), source.event_time), source.event_time, windows)
    table = pa.concat_tables(before)
    if name == spec.primary:
        table = drop_duplicates(table, source, spec.entity_key, spec.duplicates)
    if source.url is not None:
        table = order_totally(table, source.event_time)
    after = split_by_window(table, source.event_time, windows)
    return _Rows(after, [a.num_rows - b.num_rows for a, b in zip(before, after, strict=True)])


def _read(source: Source, interval: Window | None, key: str | None, ports: Ports) -> pa.Table:
    batches = [
        apply_privacy(pa.Table.from_batches([batch]), source, key)
        for batch in ports.sources.read(source, interval)
        if batch.num_rows
    ]
    return pa.concat_tables(batches) if batches else apply_privacy(schema_of(source).empty_table(), source, key)


def _require_rows(spec: CollectSpec, windows: Sequence[Window], rows: _Rows, ports: Ports) -> None:
    """Judge the windows in which the primary source has no rows."""
    empty = [w for w, table in zip(windows, rows.tables, strict=True) if not table.num_rows]
    if not empty:
        return
    source = spec.sources[spec.primary]
    earliest, latest = ports.sources.earliest(source), ports.sources.latest(source)
    if earliest is None or latest is None:
        msg = f"window {empty[0]}: source {spec.primary!r} has no data yet: it holds no rows at all"
        raise NothingToDo(msg)
    for window in empty:
        if window.start > latest:
            newest = f"its latest {source.event_time} is {latest:%Y-%m-%dT%H:%M}Z"
            msg = f"window {window}: source {spec.primary!r} has no data yet: {newest}"
            raise NothingToDo(msg)
        if window.end > earliest and spec.empty == "reject":
            msg = (
                f"window {window}: source {spec.primary!r} has no rows, although it holds later ones (up to "
                f"{latest:%Y-%m-%dT%H:%M}Z); deliver them, or set collect.empty to allow"
            )
            raise DataRejected(msg)


def _store_static(name: str, source: Source, key: str | None, ports: Ports) -> TableRef:
    """Store a source without event time once per content: windows refer to it."""
    with _naming(name):
        table = _read(source, None, key, ports)
        table = table if source.url is None else order_totally(table, None)
    with ports.store.staging() as folder:
        path = folder / f"{name}.parquet"
        write_rows(table, path)
        _, refs = publish_files(
            ports.store, f"{ports.run.pipeline}/raw/static/{name}", {path.name: path}, rows={path.name: table.num_rows}
        )
    return TableRef(file=refs[0], columns=column_types(table))


def _store_window(
    window: Window, index: int, *, timed: dict[str, _Rows], static: dict[str, TableRef], primary: str, ports: Ports
) -> RawData:
    tables, duplicates = {name: rows.tables[index] for name, rows in timed.items()}, timed[primary].dropped[index]
    columns = {name: column_types(table) for name, table in tables.items()}
    facts = {
        "window": str(window),
        "duplicates": duplicates,
        "columns": columns,
        "static": {name: ref.file.sha256 for name, ref in static.items()},
    }
    with ports.store.staging() as folder:
        files = {f"{name}.parquet": folder / f"{name}.parquet" for name in tables}
        for name, table in tables.items():
            write_rows(table, files[f"{name}.parquet"])
        about = {"pipeline": ports.run.pipeline, "window": str(window), "duplicates_dropped": duplicates}
        manifest = {**about, "collected_at": ports.run.now.isoformat(), "tables": _describe_tables(files, tables, static)}
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        digest, refs = publish_files(
            ports.store,
            f"{ports.run.pipeline}/raw/{window.label}",
            {**files, MANIFEST: folder / MANIFEST},
            facts=facts,
            rows={f"{name}.parquet": table.num_rows for name, table in tables.items()},
            unhashed=frozenset({MANIFEST}),  # the time of collection is no part of the identity
        )
    by_name = {ref.key.rsplit("/", 1)[-1]: ref for ref in refs}
    own = {name: TableRef(file=by_name[f"{name}.parquet"], columns=columns[name]) for name in tables}
    return RawData(
        digest=digest,
        files=(*refs, *(ref.file for ref in static.values())),
        window=window,
        tables={**own, **static},
        rows=tables[primary].num_rows,
        duplicates=duplicates,
    )


def _describe_tables(files: dict[str, Path], tables: dict[str, pa.Table], static: dict[str, TableRef]) -> dict[str, object]:
    """Say what a window's folder holds and refers to, for people and for audits."""
    own = {
        name: TableRef(
            file=FileRef(
                key=f"{name}.parquet",
                bytes=files[f"{name}.parquet"].stat().st_size,
                sha256=hash_file(files[f"{name}.parquet"]),
                rows=table.num_rows,
            ),
            columns=column_types(table),
        )
        for name, table in tables.items()
    }
    return {name: {**ref.file.model_dump(), "schema": ref.columns} for name, ref in {**own, **static}.items()}
