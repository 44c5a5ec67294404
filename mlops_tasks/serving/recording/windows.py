"""A finished segment to typed Parquet, one table for each UTC day; the same segment gives the same bytes."""

from __future__ import annotations

import math
import struct
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mlops_tasks.core.request_log import (
    ENTITY,
    FALLBACK,
    ID,
    LATENCY_MS,
    ROLE,
    SCORE,
    SHADOW,
    TIME,
    VERSION,
    utc_day,
)
from mlops_tasks.serving.recording.frames import scan
from mlops_tasks.serving.recording.records import RECORD, SCHEMA, Record, Schema, decode

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import date

    import numpy.typing as npt

TIMESTAMP = pa.timestamp("us", tz="UTC")
OWN_TYPES: dict[str, pa.DataType] = {
    ID: pa.string(),
    TIME: TIMESTAMP,
    ENTITY: pa.string(),
    VERSION: pa.int64(),
    ROLE: pa.string(),
    SHADOW: pa.bool_(),
    FALLBACK: pa.string(),
    LATENCY_MS: pa.float64(),
}
"""The log's own columns, but for the score."""


@dataclass
class Contents:
    """What a segment gave."""

    days: dict[date, pa.Table] = field(default_factory=dict)
    records: int = 0
    damaged: list[bytes] = field(default_factory=list)
    """What could not be read, to be set aside."""
    torn: int = 0
    """Bytes of a record at the end that was begun and never acknowledged."""


def read_segment(data: bytes) -> Contents:
    """Read a segment's records. Raises: UnknownFormat."""
    found = scan(data)
    contents = Contents(damaged=[data[start:end] for start, end in found.damaged])
    if found.torn is not None:
        contents.torn = found.torn[1] - found.torn[0]
    schemas: dict[int, Schema] = {}
    groups: defaultdict[tuple[date, int], list[tuple[Record, bytes]]] = defaultdict(list)
    for payload in found.payloads:
        item = _read(payload, schemas)
        if isinstance(item, Record):
            groups[utc_day(item.at_ns), item.schema].append((item, payload))
        elif item is None:
            contents.damaged.append(payload)
    parts: defaultdict[date, list[pa.Table]] = defaultdict(list)
    for (day, number), items in groups.items():
        try:
            parts[day].append(_table([record for record, _ in items], schemas[number]))
        except (ValueError, TypeError, OverflowError, pa.ArrowException):  # no answer may keep the others from the store
            contents.damaged += [payload for _, payload in items]
        else:
            contents.records += len(items)
    contents.days = {day: unite(parts[day]) for day in sorted(parts)}
    return contents


def _read(payload: bytes, schemas: dict[int, Schema]) -> Record | Schema | None:
    """Read a frame, and note a schema; None for what is neither, or does not fit its schema, or whose schema is damaged."""
    try:
        if payload[:1] == bytes([SCHEMA]):
            schema = Schema.read(payload)
            schemas[schema.number] = schema
            return schema
        if payload[:1] != bytes([RECORD]):
            return None
        record = decode(payload, schemas)
    except (KeyError, IndexError, ValueError, TypeError, struct.error):
        return None
    schema = schemas[record.schema]
    width = record.scores.shape[1] if record.scores.ndim > 1 else 0
    fits = width == len(schema.classes) and len(record.categorical) == record.rows * len(schema.categorical)
    return record if fits else None


def to_parquet(table: pa.Table) -> bytes:
    """Write Parquet whose bytes depend on the rows, and on the version of the library, alone."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", store_schema=False, coerce_timestamps="us")
    written: bytes = sink.getvalue().to_pybytes()
    return written


def unite(tables: Sequence[pa.Table]) -> pa.Table:
    """Put tables of different models one after another: a column that one lacks is null there.

    One that is of different types becomes texts; scores of which some are lists become lists.
    """
    types: dict[str, pa.DataType] = {}
    for table in tables:
        for column in table.schema:
            known = types.setdefault(column.name, column.type)
            if known != column.type:
                types[column.name] = pa.list_(pa.float64()) if column.name == SCORE else pa.string()
    schema = pa.schema(list(types.items()))
    return pa.concat_tables([_as(table, schema) for table in tables])


def _as(table: pa.Table, schema: pa.Schema) -> pa.Table:
    columns = []
    for column in schema:
        if column.name not in table.column_names:
            columns.append(pa.nulls(table.num_rows, column.type))
        elif pa.types.is_list(column.type) and not pa.types.is_list(table[column.name].type):
            values = table[column.name].combine_chunks()
            columns.append(pa.ListArray.from_arrays(np.arange(len(values) + 1, dtype=np.int32), values))
        else:
            columns.append(table[column.name].cast(column.type))
    return pa.table(columns, schema=schema)


def _table(records: Sequence[Record], schema: Schema) -> pa.Table:
    """Lay out the records of one model."""
    rows = [record.rows for record in records]

    def each(values: Iterable[object], kind: pa.DataType) -> pa.Array:
        return pa.array([value for value, count in zip(values, rows, strict=True) for _ in range(count)], kind)

    own = {
        ID: pa.array([name for record in records for name in row_ids(record.id, record.rows)], pa.string()),
        TIME: each((record.at_ns // 1000 for record in records), pa.int64()).cast(TIMESTAMP),
        ENTITY: each((record.entity.hex() for record in records), pa.string()),
        VERSION: each((schema.version for _ in records), pa.int64()),
        ROLE: each((record.role for record in records), pa.string()),
        SHADOW: each((record.shadow for record in records), pa.bool_()),
        FALLBACK: each((record.fallback for record in records), pa.string()),
        LATENCY_MS: each((_nullable(record.latency_s * 1000) for record in records), pa.float64()),
        SCORE: _scores(np.concatenate([record.scores for record in records])),
    }
    return pa.table({**own, **_features(records, schema)})


def _nullable(number: float) -> float | None:
    return None if math.isnan(number) else number


def row_ids(given: str, rows: int) -> list[str]:
    """Return the prediction ids of a request's rows: its own id if there is one row, else `<id>:<row>`."""
    return [given] if rows == 1 else [f"{given}:{row}" for row in range(rows)]


def _scores(scores: npt.NDArray[np.float32]) -> pa.Array:
    if scores.ndim == 1:
        return shortest_doubles(scores, nulls=False)
    ends = np.arange(0, scores.size + 1, scores.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(ends, shortest_doubles(scores.ravel(), nulls=False))


def _features(records: Sequence[Record], schema: Schema) -> dict[str, pa.Array]:
    numeric = np.concatenate([record.numeric for record in records])
    columns = {name: shortest_doubles(numeric[:, at]) for at, name in enumerate(schema.numeric)}
    cells = [text for record in records for text in record.categorical]
    width = len(schema.categorical)
    for at, name in enumerate(schema.categorical):
        columns[name] = pa.array([None if cell == schema.null_token else cell for cell in cells[at::width]], pa.string())
    return columns


def shortest_doubles(values: npt.NDArray[np.float32], *, nulls: bool = True) -> pa.Array:
    """Return float32 as the doubles with the fewest digits that are the same float32: 0.1 stays 0.1; NaN is null.

    What clients and collected data call 0.1 is then the same number again.
    """
    values = np.ascontiguousarray(values)
    array = pa.array(values, mask=np.isnan(values) if nulls else None)
    return array.cast(pa.string()).cast(pa.float64())
