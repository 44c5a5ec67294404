"""Published Parquet files to data frames, restricted to what is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mlops_tasks.errors import DataRejected

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pandas as pd

    from mlops_tasks.artifacts import Dataset, FeatureSchema, FileRef, Split, Window
    from mlops_tasks.ports import ArtifactStore


def read_files(store: ArtifactStore, files: Sequence[FileRef], columns: Sequence[str] | None = None) -> pa.Table:
    """Read Parquet files, in the given order, into one table; only `columns` are read from disk.

    Raises:
        DataRejected: a file lacks one of the columns, or there is no file.

    """
    if not files:
        msg = "reading rows: there are no files to read; widen the range"
        raise DataRejected(msg)
    return pa.concat_tables([_read_file(store, ref, columns) for ref in files], promote_options="default")


def _read_file(store: ArtifactStore, ref: FileRef, columns: Sequence[str] | None) -> pa.Table:
    file = pq.ParquetFile(store.open_local(ref))
    if columns is None:
        return file.read()
    missing = [name for name in columns if name not in file.schema_arrow.names]
    if missing:
        msg = f"{ref.key}: column {missing[0]!r} is missing; let the features produce it and run preprocess again"
        raise DataRejected(msg)
    return file.read(columns=list(columns)).select(list(columns))


def model_columns(schema: FeatureSchema) -> list[str]:
    """Return the columns that training and scoring need: time, inputs and label, each once."""
    return list(dict.fromkeys([schema.event_time, *(c.name for c in schema.columns), schema.label]))


def rows_within(table: pa.Table, column: str, window: Window) -> pa.Table:
    """Keep the rows whose time lies in the half-open window."""
    times = table[column].cast(pa.timestamp("us", tz="UTC"))
    start, end = (pa.scalar(t, type=pa.timestamp("us", tz="UTC")) for t in (window.start, window.end))
    return table.filter(pc.and_(pc.greater_equal(times, start), pc.less(times, end)))


def read_split(store: ArtifactStore, dataset: Dataset, split: Split) -> pd.DataFrame:
    """Read one split: event time, inputs and label, in time order; N rows.

    Numeric inputs come as float64 (null: NaN), categorical ones as object (null: None).
    """
    ref, schema = dataset.splits[split], dataset.feature_schema
    table = rows_within(read_files(store, ref.files, model_columns(schema)), schema.event_time, ref.window)
    return as_model_frame(table.to_pandas(), schema)


def window_labels(store: ArtifactStore, dataset: Dataset, split: Split) -> Iterator[str]:
    """Yield the window label of each row of a split, in `read_split`'s order: keys are `.../<label>/<digest>/<file>`."""
    ref, time = dataset.splits[split], dataset.feature_schema.event_time
    for number, file in enumerate(ref.files):
        rows = file.rows
        if rows is None or number in {0, len(ref.files) - 1}:  # only these can lie partly outside the split
            rows = rows_within(read_files(store, [file], [time]), time, ref.window).num_rows
        yield from [file.key.split("/")[-3]] * rows


def as_model_frame(frame: pd.DataFrame, schema: FeatureSchema) -> pd.DataFrame:
    """Give the inputs their model types: float64 for numeric, object with None for categorical."""
    import pandas as pd  # noqa: PLC0415 - takes half a second, which stages that read Arrow tables don't need

    out = frame.copy(deep=False)
    for name in schema.numeric:
        out[name] = pd.to_numeric(out[name], errors="coerce").astype("float64")
    for name in schema.categorical:
        values = out[name].astype(object)
        out[name] = values.where(values.notna(), None)
    return out.reset_index(drop=True)
