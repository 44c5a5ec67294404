"""Raw windows that were collected and found valid, made of plain rows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pyarrow as pa

from mlops_tasks.artifacts import RawData, TableRef, ValidRaw, Window
from mlops_tasks.core.collection import column_types, write_rows
from mlops_tasks.core.publishing import publish_files

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlops_tasks.ports import ArtifactStore

START = datetime(2030, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
ORDERS = pa.schema(
    [
        ("at", pa.timestamp("us", tz="UTC")),
        ("id", pa.int64()),
        ("price", pa.float64()),
        ("shop", pa.string()),
        ("note", pa.string()),
    ]
)


def orders(*rows: tuple[datetime, int, float | None, str | None]) -> pa.Table:
    """Return rows of (at, id, price, shop); `note` holds a text that no message may quote."""
    names = ("at", "id", "price", "shop")
    return pa.Table.from_pylist([dict(zip(names, row, strict=True), note="PLANTED-SECRET") for row in rows], schema=ORDERS)


def make_raw(
    store: ArtifactStore, window: Window, tables: Mapping[str, pa.Table], *, static: Mapping[str, TableRef] | None = None
) -> RawData:
    """Publish one window's tables; the first is the primary source."""
    with store.staging() as folder:
        files = {f"{name}.parquet": folder / f"{name}.parquet" for name in tables}
        for name, table in tables.items():
            write_rows(table, files[f"{name}.parquet"])
        rows = {f"{name}.parquet": table.num_rows for name, table in tables.items()}
        digest, refs = publish_files(store, f"shop/raw/{window.label}", files, facts=str(window), rows=rows)
    by_name = {ref.key.rsplit("/", 1)[-1]: ref for ref in refs}
    own = {name: TableRef(file=by_name[f"{name}.parquet"], columns=column_types(table)) for name, table in tables.items()}
    return RawData(
        digest=digest,
        files=refs,
        window=window,
        tables=own | dict(static or {}),
        rows=next(iter(tables.values())).num_rows,
        duplicates=0,
    )


def make_valid(store: ArtifactStore, window: Window, rows: pa.Table) -> ValidRaw:
    """Publish one window of orders and claim that it is valid."""
    raw = make_raw(store, window, {"orders": rows})
    return ValidRaw(digest=raw.digest, files=(), raw=raw)


def days(count: int, step: timedelta = DAY, start: datetime = START) -> list[Window]:
    """Return windows that follow each other."""
    return [Window(start=start + i * step, end=start + (i + 1) * step) for i in range(count)]
