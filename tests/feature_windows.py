"""Feature windows that were published and, where asked for, found valid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from mlops_tasks.artifacts import FeatureColumn, Features, FeatureSchema, ValidFeatures, Window
from mlops_tasks.core.collection import write_rows
from mlops_tasks.core.publishing import publish_files

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlops_tasks.ports import ArtifactStore

SCHEMA = FeatureSchema(
    columns=(FeatureColumn(name="price", kind="numeric"),), label="sold", task="binary", event_time="at", entity_key=("id",)
)


def make_features(store: ArtifactStore, window: Window, prices: Sequence[float | None], **changes: Any) -> Features:
    """Publish one window's features: its rows lie evenly in it."""
    step = (window.end - window.start) / max(len(prices), 1)
    table = pa.table(
        {
            "at": pa.array([window.start + i * step for i in range(len(prices))], pa.timestamp("us", tz="UTC")),
            "id": pa.array(range(len(prices)), pa.int64()),
            "price": pa.array(prices, pa.float64()),
            "sold": pa.array([i % 2 == 0 for i in range(len(prices))], pa.bool_()),
        }
    )
    name = "features.parquet"
    with store.staging() as folder:
        write_rows(table, folder / name)
        digest, files = publish_files(
            store, f"shop/features/{window.label}", {name: folder / name}, facts=str(window), rows={name: len(prices)}
        )
    given = {"feature_schema": SCHEMA, "rejected": {}, **changes}
    return Features(digest=digest, files=files, window=window, rows=len(prices), **given)


def make_valid_features(store: ArtifactStore, window: Window, prices: Sequence[float | None], **changes: Any) -> ValidFeatures:
    """Publish one window's features and claim that they are valid."""
    features = make_features(store, window, prices, **changes)
    return ValidFeatures(digest=features.digest, files=(), features=features)
