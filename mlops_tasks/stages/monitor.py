"""New windows and the deployed model's training data to drift reports.

What was seen in a window is a small mutable record, `<pipeline>/monitor/<version>/<window>.json`, the only truth of its
kind, so windows may come again, late or in any order. Whether the model is trained again is decided from these records
by whoever looks after it (`runner.retraining`), not here.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING

import pyarrow.parquet as pq

from mlops_tasks.artifacts import ColumnDrift, DriftReport
from mlops_tasks.core.drift import WindowRecord, calibrate, score_window
from mlops_tasks.core.drift_report import Comparison, describe_drift, render_drift, say_drift
from mlops_tasks.core.frames import read_files
from mlops_tasks.core.performance import watch
from mlops_tasks.core.publishing import publish_files
from mlops_tasks.core.sketches import Reference, sketch_window
from mlops_tasks.errors import ModelRejected

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

    from mlops_tasks.artifacts import Deployment, ValidFeatures
    from mlops_tasks.core.drift import Calibration
    from mlops_tasks.core.performance import Watched
    from mlops_tasks.ports import ArtifactStore, Ports
    from mlops_tasks.specs import MonitorSpec


def run(spec: MonitorSpec, features: Sequence[ValidFeatures], deployment: Deployment, *, ports: Ports) -> list[DriftReport]:
    """Compare each window with the deployed model's training data and record what is seen; reports in time order.

    Raises:
        DataRejected: a window lacks a column that the model reads, or it has another type.
        ModelRejected: the deployment has no sketches of its training data.
        StoreUnavailable: the store does not answer or is full.

    """
    if not features:
        return []
    reference = _load_reference(deployment, ports.store)
    calibration = calibrate(reference, spec)
    watched = watch(spec, features, deployment, ports=ports)
    reports = []
    with ports.progress.bar("monitor", total=len(features)) as bar:
        for item in sorted(features, key=lambda f: f.window.start):
            reports.append(_monitor_window(spec, item, deployment, reference, calibration, watched=watched, ports=ports))
            bar.advance(1, window=item.window.label)
    return reports


def _load_reference(deployment: Deployment, store: ArtifactStore) -> Reference:
    try:
        file = deployment.file("reference.json")
    except KeyError as error:
        msg = f"model {deployment.model} version {deployment.version}: its files lack reference.json; train and deploy again"
        raise ModelRejected(msg) from error
    return Reference.from_json(json.loads(store.open_local(file).read_bytes()))


def _monitor_window(
    spec: MonitorSpec,
    item: ValidFeatures,
    deployment: Deployment,
    reference: Reference,
    calibration: Calibration,
    *,
    watched: Watched | None,
    ports: Ports,
) -> DriftReport:
    sketch = sketch_window(_read_rows(item, reference, ports.store), reference, item.window.label)
    score = score_window(reference, calibration, sketch, spec)
    record = WindowRecord(
        window=item.window,
        model_version=deployment.version,
        features=item.features.digest,
        status=score.status,
        columns=tuple(column.column for column in score.alarmed),
        reason=say_drift(item.window, score, calibration, spec),
        rows=score.rows,
        intent=ports.run.intent,
    )
    _record(record, ports)
    comparison = Comparison(ports.run.pipeline, item, deployment, spec, reference, calibration, sketch, score, watched)
    return _publish(comparison, ports)


def _read_rows(item: ValidFeatures, reference: Reference, store: ArtifactStore) -> pa.Table:
    """Read only the columns that are compared; the label may be absent."""
    file = item.features.file("features.parquet")
    present = set(pq.read_schema(store.open_local(file)).names)
    return read_files(store, [file], [name for name in reference.layouts if name in present])


def _record(record: WindowRecord, ports: Ports) -> None:
    """Keep what was seen. A backfill that looks again does not make a scheduled run's alarm one that starts nothing."""
    key = f"{ports.run.pipeline}/monitor/{record.model_version}/{record.window.label}.json"
    if record.intent in {"backfill", "reproduce"}:
        with suppress(KeyError):
            before = WindowRecord.model_validate_json(ports.store.read(key))
            record = record.model_copy(update={"intent": before.intent})
    ports.store.write(key, record.model_dump_json().encode())


def _publish(comparison: Comparison, ports: Ports) -> DriftReport:
    item, deployment, score = comparison.item, comparison.deployment, comparison.score
    texts = {
        "drift.json": json.dumps(describe_drift(comparison), indent=1),
        "sketch.json": json.dumps(comparison.sketch.to_json(), separators=(",", ":")),
        "report.html": render_drift(comparison),
    }
    with ports.store.staging() as folder:
        paths = {name: folder / name for name in texts}
        for name, text in texts.items():
            paths[name].write_text(text, encoding="utf-8")
        place = f"{ports.run.pipeline}/drift/{deployment.version}/{item.window.label}"
        digest, files = publish_files(ports.store, place, paths)
    return DriftReport(
        digest=digest,
        files=files,
        window=item.window,
        model_version=deployment.version,
        status=score.status,
        columns=tuple(
            ColumnDrift(
                column=c.column,
                distance=c.distance,
                standardised=c.standardised,
                psi=c.psi,
                missing=c.missing,
                alarmed=c.alarmed,
            )
            for c in score.columns
        ),
        reason=comparison.reason,
    )
