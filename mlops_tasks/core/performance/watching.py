"""New windows and the deployed model to what is known of its performance: looked up, measured, judged, recorded.

How a version did in a window is a small mutable record, `<pipeline>/performance/<version>/<window>.json`. What a window's
rows say depends on them and on the model alone, and its state on these facts alone, so windows may come again, late or in
any order; what was measured is not measured again while its rows are the same.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from mlops_tasks.artifacts import digest_of
from mlops_tasks.core.performance.chart import Chart, calibrate_chart, needed_windows
from mlops_tasks.core.performance.deciding import choose_reference, decide_state, is_mature, usable
from mlops_tasks.core.performance.estimating import distrust
from mlops_tasks.core.performance.records import PerformanceRecord
from mlops_tasks.core.window_errors import WindowError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from pathlib import Path

    from mlops_tasks.artifacts import Deployment, Task, ValidFeatures
    from mlops_tasks.core.performance.records import Measured
    from mlops_tasks.core.scoring import Scorer
    from mlops_tasks.ports import ArtifactStore, Ports
    from mlops_tasks.specs import MonitorSpec

MEASURE = 2
"""Raised when a window's rows are measured otherwise: then what was measured before is measured again."""
SHOWN = 60
"""Latest windows that a report shows."""
NEEDED = ("model.onnx", "signature.json")
QUIET = {"backfill", "reproduce"}
READING_THREADS = 8


@dataclass(frozen=True)
class Watched:
    """How a model version did, beside what is ordinary for it."""

    task: Task
    records: dict[str, PerformanceRecord]
    """Window label -> record, of the windows that were looked at and of some before."""
    chart: Chart
    held_out: tuple[WindowError, ...]
    no_estimate: str
    """Why there is no estimate without labels; empty where there is one."""

    def until(self, label: str) -> list[PerformanceRecord]:
        """Return the records up to a window, the latest alone, in order of time."""
        return [self.records[name] for name in self._labels_until(label)]

    def digest_until(self, label: str) -> str:
        """Identify all that a report on a window shows of this."""
        return digest_of([self._ordinary, [self._digests[name] for name in self._labels_until(label)]])

    def _labels_until(self, label: str) -> list[str]:
        return sorted(name for name in self.records if name <= label)[-SHOWN:]

    @cached_property
    def _ordinary(self) -> str:
        held_out = [error.model_dump(mode="json") for error in self.held_out]
        return digest_of([self.task, asdict(self.chart), held_out, self.no_estimate])

    @cached_property
    def _digests(self) -> dict[str, str]:
        return {label: digest_of(record) for label, record in self.records.items()}


def watch(spec: MonitorSpec, features: Sequence[ValidFeatures], deployment: Deployment, *, ports: Ports) -> Watched | None:
    """Measure the deployed model in windows, judge and record them; None when its files hold no model.

    Raises:
        DataRejected: a window lacks a column that the model reads.
        StoreUnavailable: the store does not answer or is full.

    """
    if not all(_has(deployment, name) for name in NEEDED):
        return None
    place = f"{ports.run.pipeline}/performance/{deployment.version}/"
    held_out, ece = read_held_out(deployment, ports.store)
    task = deployment.feature_schema.task
    no_estimate = distrust(task, ece, spec.performance.max_ece)
    known = _read_records(place, features, ports.store, whole=len(usable(held_out, spec)) < needed_windows(spec))
    looked = _look(spec, features, deployment, known, ports=ports, trusted=not no_estimate)
    every = {**known, **looked}
    reference = choose_reference(held_out, every.values(), deployment.training.end, spec)
    chart, fillers = calibrate_chart(reference, spec), {e.window for e in reference} - {e.window for e in held_out}
    judged = {
        label: _judge(spec, record, chart, deployment, in_reference=label in fillers)
        for label, record in every.items()
        # What was seen before is judged otherwise only where windows that came since tell what is ordinary.
        if label in looked or fillers
    }
    for label, record in judged.items():
        if record != known.get(label):
            ports.store.write(f"{place}{label}.json", record.model_dump_json().encode())
    return Watched(task, {**every, **judged}, chart, held_out, no_estimate)


def read_held_out(deployment: Deployment, store: ArtifactStore) -> tuple[tuple[WindowError, ...], float | None]:
    """Return a model's errors by held-out window and its expected calibration error there; empty and None where unknown."""
    if not _has(deployment, "evaluation.json"):
        return (), None
    found: dict[str, Any] = json.loads(store.open_local(deployment.file("evaluation.json")).read_bytes())
    metrics: dict[str, Any] = next((item["metrics"] for item in found.get("contenders", ()) if item["name"] == "candidate"), {})
    ece: float | None = metrics.get("ece", {}).get("value")
    try:
        return tuple(WindowError.model_validate(item) for item in found.get("windows", ())), ece
    except ValidationError:  # of another version of this package: like a model that has none
        return (), ece


def _has(deployment: Deployment, name: str) -> bool:
    return any(ref.key.endswith(f"/{name}") for ref in deployment.files)


def _read_records(
    place: str, features: Sequence[ValidFeatures], store: ArtifactStore, *, whole: bool
) -> dict[str, PerformanceRecord]:
    """Read what is known: all, or the looked-at windows, those shortly before them, and the newest."""
    keys = list(store.list(place))
    own = sorted(f"{place}{item.window.label}.json" for item in features)
    if not whole:
        before = [key for key in keys if key < own[0]][-SHOWN:]
        keys = [*before, *(key for key in keys if own[0] <= key <= own[-1]), *(key for key in keys[-1:] if key > own[-1])]
    with ThreadPoolExecutor(READING_THREADS) as pool:
        found = zip(keys, pool.map(lambda key: _read_record(store, key), keys), strict=True)
        return {key.removeprefix(place).removesuffix(".json"): record for key, record in found if record is not None}


def _read_record(store: ArtifactStore, key: str) -> PerformanceRecord | None:
    """Read a record; one that is gone or of another version of this package counts as none."""
    with suppress(KeyError, ValidationError):
        return PerformanceRecord.model_validate_json(store.read(key))
    return None


def _look(
    spec: MonitorSpec,
    features: Sequence[ValidFeatures],
    deployment: Deployment,
    known: dict[str, PerformanceRecord],
    *,
    ports: Ports,
    trusted: bool,
) -> dict[str, PerformanceRecord]:
    """Return what the windows' rows say, not judged yet: as it was recorded, or measured now."""
    as_of = max([item.window.end for item in features] + [record.window.end for record in known.values()])
    looked = {}
    with ports.store.staging() as folder:
        model = _Model(deployment, ports.store, folder)
        for item in features:
            label, before = item.window.label, known.get(item.window.label)
            source = _source(spec, item, deployment, as_of, trusted=trusted)
            if before is None or before.source != source:
                measured = model.measure(item, mature=is_mature(item.window, as_of, spec), trusted=trusted)
                looked[label] = _record(item, deployment, measured, source)
            else:
                looked[label] = before
            keep = ports.run.intent in QUIET and before is not None
            intent = before.intent if keep and before is not None else ports.run.intent
            looked[label] = looked[label].model_copy(update={"intent": intent})
    return looked


def _source(spec: MonitorSpec, item: ValidFeatures, deployment: Deployment, as_of: datetime, *, trusted: bool) -> str:
    """Identify all that a window's figures depend on."""
    mature = is_mature(item.window, as_of, spec)
    return digest_of([MEASURE, item.features.digest, deployment.digest, deployment.version, mature, trusted])


def _record(item: ValidFeatures, deployment: Deployment, measured: Measured, source: str) -> PerformanceRecord:
    return PerformanceRecord(
        window=item.window,
        model_version=deployment.version,
        features=item.features.digest,
        source=source,
        status="awaiting_labels",
        highest={},
        reason="",
        coverage=measured.coverage,
        **dict(measured),
    )


def _judge(
    spec: MonitorSpec, record: PerformanceRecord, chart: Chart, deployment: Deployment, *, in_reference: bool
) -> PerformanceRecord:
    task, learned = deployment.feature_schema.task, deployment.training
    status, reason = decide_state(record.window, record.measured, chart, spec, task=task, in_reference=in_reference)
    if record.window.start < learned.end and record.window.end > learned.start:
        reason = f"{reason}; the model was trained on rows of this time"
    watched = [kind for kind in chart.measures if chart.warm and record.error and kind in record.error.measures]
    highest = {kind: chart.highest(record.error, spec, kind) for kind in watched if record.error}
    return record.model_copy(update={"status": status, "reason": reason, "highest": highest})


class _Model:
    """The deployed model, loaded when the first window has to be measured."""

    def __init__(self, deployment: Deployment, store: ArtifactStore, folder: Path) -> None:
        self._deployment, self._store, self._folder = deployment, store, folder

    @cached_property
    def _scorer(self) -> Scorer:
        from mlops_tasks.core.publishing import gather_files  # noqa: PLC0415 - only where something is measured
        from mlops_tasks.core.scoring import Scorer, scorer_files  # noqa: PLC0415 - loads ONNX Runtime

        gather_files(self._store, scorer_files(self._deployment), self._folder)
        return Scorer.load(self._folder, threads=1)

    def measure(self, item: ValidFeatures, *, mature: bool, trusted: bool) -> Measured:
        """Measure one window."""
        import pyarrow.parquet as pq  # noqa: PLC0415 - only where something is measured

        from mlops_tasks.core.frames import read_files  # noqa: PLC0415 - likewise
        from mlops_tasks.core.performance.measuring import measure_window, wanted_columns  # noqa: PLC0415 - likewise

        file = item.features.file("features.parquet")
        present = set(pq.read_schema(self._store.open_local(file)).names)
        table = read_files(self._store, [file], wanted_columns(self._scorer.signature, present))
        version, label = self._deployment.version, item.window.label
        return measure_window(table, self._scorer, version, label, mature=mature, trusted=trusted)
