"""Valid features of many windows to an immutable dataset version, split by time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from mlops_tasks.artifacts import Dataset, FileRef, Split, SplitRef, ValidFeatures, Window
from mlops_tasks.core.publishing import publish_files
from mlops_tasks.core.splits import split_by_time
from mlops_tasks.core.windows import contiguous, span
from mlops_tasks.errors import DataRejected
from mlops_tasks.specs import SnapshotSpec

if TYPE_CHECKING:
    from mlops_tasks.ports import Ports

FEATURES = "features.parquet"


def run(spec: SnapshotSpec, features: Sequence[ValidFeatures], *, ports: Ports) -> Dataset:
    """Fix which rows of which files train, validate and test; no row is copied.

    The version is the digest of a manifest of every file's full sha256, the splits and the as-of time, which is
    the end of the range: a row whose label was not known then is in no split.

    Raises:
        DataRejected: a window is missing, or too few rows remain to train on.
        SpecError: test, embargo and label delay leave no time to train on.

    """
    ordered = sorted(features, key=lambda item: item.window.start)
    _require_complete(ordered)
    whole = span([item.window for item in ordered])
    bounds = split_by_time(spec, whole)
    splits = {name: SplitRef(window=bound, files=_files_within(ordered, bound)) for name, bound in bounds.items()}
    _require_rows(spec, splits)
    schema = ordered[0].features.feature_schema
    manifest = {
        "as_of": f"{whole.end:%Y-%m-%dT%H:%M:%SZ}",
        "schema": schema.model_dump(mode="json"),
        "splits": {name: bound.model_dump(mode="json") for name, bound in bounds.items()},
        "windows": [
            {
                "window": item.window.label,
                "validated": item.digest,
                "sha256": item.features.file(FEATURES).sha256,
                "key": item.features.file(FEATURES).key,
                "rows": item.features.rows,
            }
            for item in ordered
        ],
    }
    with ports.store.staging() as staging:
        path = Path(staging) / "manifest.json"
        path.write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        digest, refs = publish_files(ports.store, f"{ports.run.pipeline}/datasets", {path.name: path})
    rows = sum(item.features.rows for item in ordered)
    return Dataset(digest=digest, files=refs, as_of=whole.end, feature_schema=schema, splits=splits, rows=rows)


def _files_within(features: Sequence[ValidFeatures], bound: Window) -> tuple[FileRef, ...]:
    return tuple(
        item.features.file(FEATURES)
        for item in features
        if item.window.end > bound.start and item.window.start < bound.end and item.features.rows
    )


def _require_complete(ordered: Sequence[ValidFeatures]) -> None:
    runs = contiguous([item.window for item in ordered])
    if len(runs) > 1:
        told = ", ".join(str(Window(start=a[-1].end, end=b[0].start)) for a, b in pairwise(runs))
        msg = f"snapshot: features of {told} are missing; bring those windows in first (`mlops run` or the .ingest DAG)"
        raise DataRejected(msg)
    schemas = {item.features.feature_schema for item in ordered}
    if len(schemas) > 1:
        msg = "snapshot: the windows were made with different feature schemas; run again with --recompute preprocess"
        raise DataRejected(msg)


def _require_rows(spec: SnapshotSpec, splits: dict[Split, SplitRef]) -> None:
    """Count by files, which bounds the rows from above: training counts exactly."""
    rows = sum(ref.rows or 0 for ref in splits["train"].files)
    if rows < spec.min_rows:
        msg = (
            f"snapshot: {rows} rows in the training range {splits['train'].window}, but snapshot.min_rows is {spec.min_rows}; "
            f"take a longer range or lower min_rows"
        )
        raise DataRejected(msg)
