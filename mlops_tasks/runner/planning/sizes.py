"""Windows to their rows and bytes: counted where a window was brought in, estimated from its neighbours or its source else."""

from __future__ import annotations

import bisect
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from mlops_tasks.adapters.sources.sampling import measure_source
from mlops_tasks.artifacts import Features, RawData
from mlops_tasks.caching import Cache, files_of
from mlops_tasks.errors import PipelineError
from mlops_tasks.pipeline import BY_NAME
from mlops_tasks.runner.depends import is_read_whole
from mlops_tasks.runner.planning.lookup import WindowFound
from mlops_tasks.runner.work import adapter
from mlops_tasks.specs import Cadence, PipelineSpec
from mlops_tasks.wiring import Adapters

LENGTHS: dict[Cadence, timedelta] = {
    "hour": timedelta(hours=1),
    "day": timedelta(days=1),
    "week": timedelta(weeks=1),
    "month": timedelta(days=30, hours=10),
}
NEIGHBOURS = 30
"""Windows of the store that tell the size of those that are asked for, where none of these is there."""
STORED_PER_SOURCE = 2.4
"""Bytes that raw rows and features take in the store for a byte of a compressed source, where nothing is stored yet."""


@dataclass(frozen=True)
class Size:
    """Rows of the primary source and bytes in the store, of one window."""

    rows: int
    bytes: int
    estimated: bool


@dataclass(frozen=True)
class Sizes:
    """Sizes of windows, in their order, and where the estimated ones come from."""

    each: tuple[Size, ...]
    basis: str

    @property
    def rows(self) -> int:
        """All rows."""
        return sum(size.rows for size in self.each)

    @property
    def bytes(self) -> int:
        """All bytes."""
        return sum(size.bytes for size in self.each)

    @property
    def estimated(self) -> int:
        """How many windows are estimated."""
        return sum(size.estimated for size in self.each)


def measure_windows(pipeline: PipelineSpec, adapters: Adapters, found: Sequence[WindowFound]) -> Sizes:
    """Return the size of each window; an unknown source counts as no rows, and `basis` says so."""
    known = {at: _counted(item) for at, item in enumerate(found) if item.raw is not None}
    if len(known) == len(found):
        return Sizes(tuple(known[at] for at in range(len(found))), "counted in the store")
    counted = list(known.values()) or _neighbours(pipeline, adapters, found[0].window.label)
    if counted:
        typical = Size(
            round(statistics.mean(size.rows for size in counted)),
            round(statistics.mean(size.bytes for size in counted)),
            estimated=True,
        )
        which = "that are in the store" if known else "that are nearest in the store"
        basis = f"the mean of the {len(counted)} windows {which}"
    else:
        typical, basis = _from_source(pipeline, adapters, found[0])
    return Sizes(tuple(known.get(at, typical) for at in range(len(found))), basis)


def _counted(item: WindowFound) -> Size:
    assert item.raw is not None, "the caller chose windows that were collected"
    return _size(item.window.label, item.raw, item.features)


def _size(label: str, raw: RawData, features: Features | None) -> Size:
    """Count a window's rows and the bytes of its own files: static tables are shared by all."""
    own = [ref for ref in (*files_of(raw), *files_of(features)) if label in ref.key]
    return Size(raw.rows, sum({ref.key: ref.bytes for ref in own}.values()), estimated=False)


def _neighbours(pipeline: PipelineSpec, adapters: Adapters, label: str) -> list[Size]:
    """Count the windows in the store that are nearest in time; their labels sort by time."""
    prefix = f"{pipeline.name}/cache/collect/"
    labels = sorted({key[len(prefix) :].partition("/")[0] for key in adapters.store.list(prefix)})
    at = bisect.bisect_left(labels, label)
    cache, sizes = Cache(adapters.store, pipeline.name), []
    for near in sorted(labels[max(0, at - NEIGHBOURS) : at + NEIGHBOURS], key=lambda n: abs(labels.index(n) - at))[:NEIGHBOURS]:
        raw, features = (cache.earlier(stage, near) for stage in ("collect", "preprocess"))
        made = adapter(BY_NAME["preprocess"]).validate_python(features[-1].result) if features else None
        if raw:
            sizes.append(_size(near, adapter(BY_NAME["collect"]).validate_python(raw[-1].result), made))
    return sizes


def _from_source(pipeline: PipelineSpec, adapters: Adapters, first: WindowFound) -> tuple[Size, str]:
    """Estimate a window by the primary source: a file's first rows, or the rows of one window of a query or a log."""
    name = pipeline.collect.primary
    source = pipeline.collect.sources[name]
    if not is_read_whole(source):
        try:
            batches = list(adapters.sources.read(source, first.window))
        except PipelineError as error:
            return Size(0, 0, estimated=True), f"unknown: {error}"
        rows, size = sum(batch.num_rows for batch in batches), sum(batch.nbytes for batch in batches)
        return Size(rows, size, estimated=True), f"the rows that source {name!r} has in window {first.window.label}"
    measured = measure_source(source, LENGTHS[pipeline.cadence])
    if measured.rows_per_window is None:
        return Size(0, 0, estimated=True), f"unknown: source {name!r} is too large to look into from here"
    rows = round(measured.rows_per_window)
    stored = round(rows * (measured.bytes_per_row or 0.0) * STORED_PER_SOURCE)
    return Size(rows, stored, estimated=True), f"the first rows of source {name!r}"
