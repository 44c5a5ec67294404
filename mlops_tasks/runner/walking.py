"""A pipeline's registered models and its validated windows to the matrix of every model on all later time.

A cell is kept in the store under the model's fingerprint and the digests of the features that it was scored on, so that a
second call scores only what is new.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlops_tasks.artifacts import Deployment, ValidFeatures, Window, digest_of
from mlops_tasks.caching import Cache
from mlops_tasks.core.evaluation import encode_truth
from mlops_tasks.core.frames import as_model_frame, model_columns, read_files
from mlops_tasks.core.metrics import HEADLINE, METRICS, Predictions, measure, metric_names
from mlops_tasks.core.scoring import Scorer
from mlops_tasks.core.walk_forward.matrix import By, Cell, Known, Matrix, cut_periods
from mlops_tasks.core.windows import windows_between
from mlops_tasks.errors import DataRejected, NothingToDo, SpecError, StoreUnavailable
from mlops_tasks.pipeline import BY_NAME, TRAIN
from mlops_tasks.runner.history import read_history
from mlops_tasks.runner.invocation import path_segment
from mlops_tasks.runner.planning.lookup import Lookup
from mlops_tasks.runner.work import adapter
from mlops_tasks.specs import PipelineSpec
from mlops_tasks.wiring import Adapters

if TYPE_CHECKING:
    import pandas as pd

    from mlops_tasks.artifacts import FeatureSchema

FEATURES = "features.parquet"
FORMAT = 1
"""Of a kept cell; another one is measured anew."""
HALF = 0.5
READING_THREADS = 16


@dataclass(frozen=True)
class Walk:
    """What is to be compared."""

    start: datetime | None = None
    """Models and windows from here on; None: from the first model on."""
    end: datetime | None = None
    by: By = "month"
    metric: str = ""
    """Empty: the pipeline's first gate's, else the task's usual one."""


def measure_matrix(pipeline: PipelineSpec, adapters: Adapters, walk: Walk) -> Matrix:
    """Score every registered model on every later period.

    Raises:
        NothingToDo: no model or no later window is there.
        SpecError: the task has no such metric.
        RegistryUnavailable, StoreUnavailable: as they do.

    """
    metric = _metric(pipeline, walk.metric)
    models, absent = _models(pipeline, adapters, walk)
    if not models:
        told = "".join(f"; {what}: {why}" for what, why in absent.items())
        msg = f"{pipeline.name}: no registered model can be compared{told}; make some with --make, or backfill .train"
        raise NothingToDo(msg)
    start = walk.start or min(known.as_of for known, _ in models)
    features, missing = validated_features(pipeline, adapters, start, walk.end)
    periods = cut_periods([item.window for item in features], walk.by)
    cells = _score(pipeline, adapters, features, periods, models=models, absent=absent)
    if not cells:
        msg = f"{pipeline.name}: no {walk.by} begins after the first model could serve, so there is nothing to score on"
        raise NothingToDo(msg)
    if missing:
        absent[f"{missing} windows"] = "they are not validated in the store: bring them in first"
    return Matrix(
        pipeline=pipeline.name,
        task=pipeline.features.task,
        metric=metric,
        by=walk.by,
        models=tuple(known for known, _ in models),
        periods=tuple(period for period in periods if any(cell.period == period for cell in cells)),
        cells=tuple(cells),
        absent=absent,
    )


def _score(
    pipeline: PipelineSpec,
    adapters: Adapters,
    features: Sequence[ValidFeatures],
    periods: Mapping[Window, Sequence[Window]],
    *,
    models: Sequence[tuple[Known, Deployment]],
    absent: dict[str, str],
) -> list[Cell]:
    """Score each model on each period that begins after it could serve; why a cell is not there goes into `absent`."""
    cells: list[Cell] = []
    with (
        tempfile.TemporaryDirectory(prefix="mlops-walk-") as folder,
        adapters.progress.bar("walk forward", len(periods)) as bar,
    ):
        scoring = _Scoring(pipeline, adapters, {item.window: item for item in features}, Path(folder))
        for period, windows in periods.items():
            able = [(known, deployed) for known, deployed in models if known.as_of <= period.start]
            cells += scoring.cells(period, windows, able, absent)
            bar.advance(1)
    return cells


def _metric(pipeline: PipelineSpec, asked: str) -> str:
    task = pipeline.features.task
    first = next((gate.metric for gate in pipeline.evaluate.gates), HEADLINE[task])
    metric = asked or first
    if metric not in METRICS or task not in METRICS[metric].tasks:
        msg = f"--metric: must be one of {', '.join(metric_names(task))} for {task}, got {metric!r}"
        raise SpecError(msg)
    return metric


def _models(pipeline: PipelineSpec, adapters: Adapters, walk: Walk) -> tuple[list[tuple[Known, Deployment]], dict[str, str]]:
    """Return the registered models of the range, oldest first, and why others are left out."""
    found, absent = [], {}
    for version in adapters.registry.versions(pipeline.name):
        name = f"version {version.version}"
        try:
            deployed = adapters.registry.deployment(pipeline.name, version.version)
        except KeyError:
            absent[name] = "its deployment was not recorded"
            continue
        as_of = _as_of(adapters, pipeline.name, deployed)
        if (walk.start and as_of < walk.start) or (walk.end and as_of >= walk.end):
            continue
        known = Known(
            version=version.version,
            as_of=as_of,
            training=deployed.training,
            fingerprint=deployed.fingerprint,
            seconds=_seconds(adapters, pipeline.name, version.tags.get("mlops.run_id", "")),
        )
        found.append((known, deployed))
    return sorted(found, key=lambda pair: (pair[0].as_of, pair[0].version)), absent


def _seconds(adapters: Adapters, name: str, run_id: str) -> float | None:
    """Sum what a run's training, judgement and deployment took; None where nothing of it is recorded."""
    history = read_history(adapters.store, name, path_segment(run_id)) if run_id else []
    seconds = [record.seconds for record in history if record.stage in TRAIN and record.failure is None and record.computed]
    return sum(seconds) if seconds else None


def _as_of(adapters: Adapters, name: str, deployed: Deployment) -> datetime:
    """Return when all that a model was made of was known: its dataset's, or the training's end where that is gone."""
    for key in adapters.store.list(f"{name}/datasets/{deployed.dataset_version}"):
        if key.endswith("/manifest.json"):
            return datetime.fromisoformat(json.loads(adapters.store.read(key))["as_of"])
    return deployed.training.end


def validated_features(
    pipeline: PipelineSpec, adapters: Adapters, start: datetime, end: datetime | None
) -> tuple[list[ValidFeatures], int]:
    """Return the validated features of windows whose labels are known, in time order, and how many windows lack them."""
    prefix = f"{pipeline.name}/cache/validate/"
    labels = sorted({key[len(prefix) :].partition("/")[0] for key in adapters.store.list(prefix)})
    labels = [label for label in labels if label >= f"{start:%Y-%m-%d}"]
    kept = _kept_features(pipeline, adapters, labels)
    latest = max((item.window.end for item in kept), default=start) - pipeline.snapshot.label_delay
    inside = [i for i in kept if i.window.start >= start and i.window.end <= latest and (end is None or i.window.end <= end)]
    if not inside:
        return [], 0
    whole = windows_between(inside[0].window.start, inside[-1].window.end, pipeline.cadence)
    return _present(pipeline, adapters, inside), len(whole) - len(inside)


def _kept_features(pipeline: PipelineSpec, adapters: Adapters, labels: Sequence[str]) -> list[ValidFeatures]:
    """Return what was kept of each window; of several revisions the one whose digest comes last, so always the same."""
    cache, kind = Cache(adapters.store, pipeline.name), adapter(BY_NAME["validate"])

    def kept(label: str) -> ValidFeatures | None:
        found = [kind.validate_python(record.result) for record in cache.earlier("validate", label)]
        return max(found, key=lambda item: item.features.digest, default=None)

    with ThreadPoolExecutor(READING_THREADS) as pool:
        every = [item for item in pool.map(kept, labels) if item is not None]
    return sorted(every, key=lambda item: item.window.start)


def _present(pipeline: PipelineSpec, adapters: Adapters, kept: list[ValidFeatures]) -> list[ValidFeatures]:
    """Prefer the revision that the present source, spec and code give, where it is there."""
    try:
        found = Lookup(pipeline, adapters).windows([item.window for item in kept])
    except (SpecError, StoreUnavailable):
        return kept  # a source that is gone tells nothing of revisions
    return [now.valid or before for now, before in zip(found, kept, strict=True)]


class _Scoring:
    """Scores models on periods; each model is loaded once, when it is first needed."""

    def __init__(
        self, pipeline: PipelineSpec, adapters: Adapters, features: Mapping[Window, ValidFeatures], folder: Path
    ) -> None:
        self._pipeline, self._adapters, self._features, self._folder = pipeline, adapters, features, folder
        self._scorers: dict[int, Scorer] = {}

    def cells(
        self,
        period: Window,
        windows: Sequence[Window],
        models: Sequence[tuple[Known, Deployment]],
        absent: dict[str, str],
    ) -> Iterator[Cell]:
        """Yield the cells of a period; why one is not there goes into `absent`."""
        items = [self._features[window] for window in windows]
        data = digest_of([item.features.digest for item in items])
        frame: pd.DataFrame | None = None
        for known, deployed in models:
            key = f"{self._pipeline.name}/walkforward/{known.fingerprint[:32]}/{data[:32]}.json"
            kept = self._kept(key)
            if kept is None:
                frame = self._read(items) if frame is None else frame
                kept = self._measure(known, deployed, frame, period)
                self._adapters.store.write(key, json.dumps({"format": FORMAT, **kept}).encode())
            if "absent" in kept:
                absent[f"version {known.version} in {period}"] = kept["absent"]
            else:
                yield Cell(version=known.version, period=period, rows=kept["rows"], metrics=kept["metrics"])

    def _kept(self, key: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = json.loads(self._adapters.store.read(key))
        except (KeyError, ValueError):
            return None
        return found if found.get("format") == FORMAT else None

    def _read(self, items: Sequence[ValidFeatures]) -> pd.DataFrame:
        """Read a period's rows whose label is known."""
        schema: FeatureSchema = items[0].features.feature_schema
        files = [item.features.file(FEATURES) for item in items if item.features.rows]
        frame = as_model_frame(read_files(self._adapters.store, files, model_columns(schema)).to_pandas(), schema)
        return frame[frame[schema.label].notna()].reset_index(drop=True)

    def _measure(self, known: Known, deployed: Deployment, frame: pd.DataFrame, period: Window) -> dict[str, Any]:
        scorer = self._scorer(known, deployed)
        signature = scorer.signature
        missing = [name for name in (*signature.numeric, *signature.categorical, signature.target) if name not in frame.columns]
        if missing:
            return {"absent": f"it needs column {missing[0]!r}, which the features do not have"}
        try:
            truth = encode_truth(frame, signature, period, f"pipeline {self._pipeline.name}")
        except DataRejected as error:
            return {"absent": str(error)}
        scores = scorer.score(frame).astype(np.float64)
        threshold = HALF if signature.threshold is None else signature.threshold
        metrics = measure(Predictions(signature.task, truth, scores, threshold))
        return {"rows": len(frame), "metrics": {name: value for name, value in metrics.items() if np.isfinite(value)}}

    def _scorer(self, known: Known, deployed: Deployment) -> Scorer:
        if known.version not in self._scorers:
            target = self._folder / str(known.version)
            folder = self._adapters.registry.fetch(deployed.model, known.version, target)
            self._scorers[known.version] = Scorer.load(folder, threads=0)
        return self._scorers[known.version]
