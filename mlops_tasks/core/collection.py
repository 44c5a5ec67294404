"""A source's rows of a range to the rows of each window: ordered, without duplicates, ready to be stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mlops_tasks.errors import DataRejected

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mlops_tasks.artifacts import Window
    from mlops_tasks.specs import ColumnType, Source, SourceColumn

TIMESTAMP = pa.timestamp("us", tz="UTC")
ARROW_TYPES: dict[ColumnType, pa.DataType] = {
    "int": pa.int64(),
    "float": pa.float64(),
    "string": pa.string(),
    "bool": pa.bool_(),
    "timestamp": TIMESTAMP,
    "date": pa.date32(),
}
_POSITION = "__position"


def columns_to_read(source: Source) -> dict[str, SourceColumn]:
    """Return the columns that are read at all: one with privacy `drop` never leaves its source."""
    return {name: column for name, column in source.columns.items() if column.privacy != "drop"}


def schema_of(source: Source) -> pa.Schema:
    """Return the schema of what is read from a source."""
    return pa.schema([(name, ARROW_TYPES[column.type]) for name, column in columns_to_read(source).items()])


def order_by_time(table: pa.Table, event_time: str) -> pa.Table:
    """Sort by event time; rows of one time stay in their order."""
    return table.take(pc.sort_indices(table[event_time]))


def order_totally(table: pa.Table, event_time: str | None) -> pa.Table:
    """Sort by event time and then all other columns.

    A database promises no order of rows; ordered so, the same rows give the same bytes.
    """
    keys = list(dict.fromkeys([*([event_time] if event_time else []), *table.column_names]))
    return table.take(pc.sort_indices(table, sort_keys=[(key, "ascending") for key in keys]))


def drop_duplicates(
    table: pa.Table, source: Source, entity_key: Sequence[str], rule: Literal["keep_last", "keep_first", "reject"]
) -> pa.Table:
    """Keep one row per entity key and event time, in the order of the rows; null equals null.

    Raises:
        DataRejected: the rule is `reject` and there are duplicates; private values are not shown.

    """
    keys = list(dict.fromkeys([*entity_key, *([source.event_time] if source.event_time else [])]))
    positions = pa.array(np.arange(table.num_rows))
    pick = "max" if rule == "keep_last" else "min"
    kept = table.select(keys).append_column(_POSITION, positions).group_by(keys).aggregate([(_POSITION, pick)])
    if kept.num_rows == table.num_rows:
        return table
    chosen = kept[f"{_POSITION}_{pick}"]
    if rule == "reject":
        extra = positions.filter(pc.invert(pc.is_in(positions, chosen.combine_chunks())))
        raise DataRejected(_duplicates_message(table.slice(extra[0].as_py(), 1), len(extra), source, keys))
    return table.take(chosen.take(pc.sort_indices(chosen)))


def _duplicates_message(row: pa.Table, count: int, source: Source, keys: Sequence[str]) -> str:
    values = row.to_pylist()[0]
    shown = ", ".join(
        f"{key}={_text(values[key])}" if source.columns[key].privacy == "keep" else f"{key} not shown" for key in keys
    )
    return (
        f"{count} rows repeat the key ({', '.join(keys)}) of an earlier row, the first at {shown}; "
        "mend the source, or set collect.duplicates to keep_last or keep_first"
    )


def _text(value: object) -> str:
    return f"{value:%Y-%m-%dT%H:%M:%SZ}" if hasattr(value, "strftime") else repr(value)


def split_by_window(table: pa.Table, event_time: str, windows: Sequence[Window]) -> list[pa.Table]:
    """Cut rows that are sorted by event time into one table per window, without copying."""
    times = table[event_time].cast(pa.int64()).to_numpy()
    edges = pa.array([edge for w in windows for edge in (w.start, w.end)], TIMESTAMP).cast(pa.int64()).to_numpy()
    positions = np.searchsorted(times, edges).reshape(-1, 2).tolist()
    return [table.slice(low, high - low) for low, high in positions]


def write_rows(table: pa.Table, path: Path) -> None:
    """Write Parquet whose bytes depend on the rows alone."""
    with path.open("wb") as sink:  # Arrow leaves its own file open when the disk is full
        pq.write_table(table, sink, compression="zstd", store_schema=False, coerce_timestamps="us")


def column_types(table: pa.Table) -> dict[str, str]:
    """Return the name of each column's type."""
    return {field.name: str(field.type) for field in table.schema}
