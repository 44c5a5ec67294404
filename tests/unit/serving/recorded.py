"""Answers to be logged, and the rows that the store has of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mlops_tasks.core.scoring import ModelSignature
from mlops_tasks.serve_specs import RequestLogSpec
from mlops_tasks.serving.predictions import Prediction, Query
from mlops_tasks.serving.recording.recorder import RequestLog
from mlops_tasks.serving.slot import LoadedModel
from mlops_tasks.serving.telemetry import NoTelemetry

if TYPE_CHECKING:
    from pathlib import Path

    from mlops_tasks.ports import ArtifactStore
    from mlops_tasks.serving.slot import Role

NOON_NS = 1_893_499_200_000_000_000
"""2030-01-01T12:00Z."""
HOUR_NS = 3_600_000_000_000
KEY = b"a secret for tests, long enough"


@dataclass(frozen=True)
class _Signed:
    signature: ModelSignature


def model(
    version: int = 1,
    *,
    numeric: tuple[str, ...] = ("price", "age"),
    categorical: tuple[str, ...] = ("shop",),
    classes: tuple[str, ...] = ("no", "yes"),
) -> LoadedModel:
    """Return a model as far as the log looks at it."""
    task: Any = "multiclass" if len(classes) > 2 else "binary"
    signature = ModelSignature(
        task=task, numeric=list(numeric), categorical=list(categorical), classes=list(classes), target="sold"
    )
    return LoadedModel("shop", version, _Signed(signature), None, {}, {})  # type: ignore[arg-type]  # nothing is scored here


def answer(
    given: str,
    rows: list[dict[str, Any]] | None = None,
    *,
    scores: Any = None,
    at_ns: int = NOON_NS,
    entity: str = "",
    by: LoadedModel | None = None,
    role: Role = "champion",
    shadow: bool = False,
    fallback: str = "",
    layout_of: LoadedModel | None = None,
) -> Prediction:
    """Return an answer to rows of features; None is a missing value."""
    rows = [{"price": 1.5, "age": 2.0, "shop": "north"}] if rows is None else rows
    by = by or model()
    layout = (layout_of or by).layout
    numeric = categorical = None
    if layout.numeric:
        cells = [[np.nan if row[name] is None else row[name] for name in layout.numeric] for row in rows]
        numeric = np.array(cells, dtype=np.float32).reshape(len(rows), len(layout.numeric))
    if layout.categorical:
        texts = [[layout.null_token if row[name] is None else row[name] for name in layout.categorical] for row in rows]
        categorical = np.array(texts, dtype=object).reshape(len(rows), len(layout.categorical))
    query = Query(given, entity or given, (numeric, categorical), layout_of or by)
    given_scores = np.full(len(rows), 0.25) if scores is None else np.array(scores)
    return Prediction(query, by, role, given_scores.astype(np.float32), at_ns, 0.002, fallback, shadow)


@dataclass
class Heard(NoTelemetry):
    """What the log told."""

    lost: int = 0
    waits: list[tuple[int, int, float]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def dropped(self, records: int) -> None:
        self.lost += records

    def log_waiting(self, segments: int, size: int, oldest_s: float) -> None:
        self.waits.append((segments, size, oldest_s))


def make_log(folder: Path, heard: Heard | None = None, **spec: Any) -> RequestLog:
    heard = heard or Heard()
    return RequestLog(folder, RequestLogSpec.model_validate(spec), key=KEY, telemetry=heard, announce=heard.lines.append)


def stored(store: ArtifactStore, name: str = "shop") -> list[dict[str, Any]]:
    """Return all rows of a log in the store."""
    keys = store.list(f"{name}/requests/")
    return [row for key in keys for row in pq.read_table(pa.BufferReader(store.read(key))).to_pylist()]
