from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlops_tasks.adapters.local_store import LocalStore
from mlops_tasks.artifacts import Dataset, FeatureColumn, FeatureSchema, FileRef, SplitRef, Window
from mlops_tasks.core.frames import model_columns, read_files, read_split, rows_within, window_labels
from mlops_tasks.errors import DataRejected
from tests.raw_windows import DAY, HOUR, START

SCHEMA = FeatureSchema(
    columns=(
        FeatureColumn(name="price", kind="numeric"),
        FeatureColumn(name="count", kind="numeric"),
        FeatureColumn(name="shop", kind="categorical"),
    ),
    label="sold",
    task="binary",
    event_time="at",
    entity_key=("id",),
)


def put(store: LocalStore, name: str, table: pa.Table) -> FileRef:
    with store.staging() as folder:
        pq.write_table(table, folder / "rows.parquet")
        return store.publish(folder / "rows.parquet", name, rows=table.num_rows)


def rows(first: int, count: int = 24) -> pa.Table:
    at = [START + (first + i) * HOUR for i in range(count)]
    return pa.table(
        {
            "id": list(range(first, first + count)),
            "at": pa.array(at, pa.timestamp("us", tz="UTC")),
            "price": pa.array([None if i == 0 else float(i) for i in range(count)], pa.float64()),
            "count": pa.array(range(count), pa.int64()),
            "shop": pa.array([None if i == 1 else "north" for i in range(count)], pa.string()),
            "sold": pa.array([i % 2 == 0 for i in range(count)]),
        }
    )


def test_a_split_is_the_rows_of_its_time_in_order_with_model_types(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    files = (put(store, "a.parquet", rows(0)), put(store, "b.parquet", rows(24)))
    window = Window(start=START, end=START + DAY + timedelta(minutes=90))
    dataset = Dataset(
        digest="d",
        files=(),
        as_of=START,
        feature_schema=SCHEMA,
        splits={"train": SplitRef(window=window, files=files)},
        rows=48,
    )
    frame = read_split(store, dataset, "train")
    assert list(frame.columns) == ["at", "price", "count", "shop", "sold"] == model_columns(SCHEMA)
    assert list(frame["at"]) == [START + i * HOUR for i in range(26)]
    assert list(frame.index) == list(range(26))
    assert frame["price"].dtype == frame["count"].dtype == np.float64
    assert np.isnan(frame["price"].iloc[0])
    assert frame["shop"].dtype == object
    assert frame["shop"].iloc[1] is None


def test_each_row_of_a_split_has_its_windows_label(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    files = tuple(put(store, f"features/2024-01-0{1 + day}/d/features.parquet", rows(24 * day)) for day in range(3))
    window = Window(start=START + 2 * HOUR, end=START + 2 * DAY + 3 * HOUR)
    splits = {"test": SplitRef(window=window, files=files)}
    dataset = Dataset(digest="d", files=(), as_of=START, feature_schema=SCHEMA, splits=splits, rows=72)

    labels = list(window_labels(store, dataset, "test"))

    assert labels == ["2024-01-01"] * 22 + ["2024-01-02"] * 24 + ["2024-01-03"] * 3
    assert len(labels) == len(read_split(store, dataset, "test"))


def test_windows_are_half_open(tmp_path: Path) -> None:
    del tmp_path
    kept = rows_within(rows(0), "at", Window(start=START + 2 * HOUR, end=START + 4 * HOUR))
    assert kept["id"].to_pylist() == [2, 3]


def test_a_label_that_is_a_feature_too_is_read_once() -> None:
    twice = SCHEMA.model_copy(update={"label": "price", "event_time": "count"})
    assert model_columns(twice) == ["count", "price", "shop"]


def test_a_missing_column_names_the_file(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    ref = put(store, "a.parquet", rows(0).drop_columns(["shop"]))
    with pytest.raises(DataRejected) as caught:
        read_files(store, [ref], model_columns(SCHEMA))
    assert str(caught.value) == ("a.parquet: column 'shop' is missing; let the features produce it and run preprocess again")


def test_no_files_are_told() -> None:
    with pytest.raises(DataRejected) as caught:
        read_files(LocalStore(Path("/nowhere")), [])
    assert str(caught.value) == "reading rows: there are no files to read; widen the range"


def test_columns_absent_from_some_files_become_null_where_all_are_read(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    refs = [put(store, "a.parquet", rows(0, 1).drop_columns(["shop"])), put(store, "b.parquet", rows(1, 3).slice(1))]
    assert read_files(store, refs)["shop"].to_pylist() == [None, None, "north"]
