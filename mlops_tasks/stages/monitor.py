"""New windows and the deployed model's training data to drift reports and the decision to train again.

What was seen in a window is a small mutable record, `<pipeline>/monitor/<version>/<window>.json`; that
a training was asked for is the existence of `<pipeline>/monitor/retrains/<window>.json`. Each is the
only truth of its kind, so windows may come again, late or in any order.
"""

from __future__ import annotations

import bisect
import json
from typing import TYPE_CHECKING

import pyarrow.parquet as pq

from mlops_tasks.artifacts import ColumnDrift, DriftReport
from mlops_tasks.core.drift import RetrainRecord, WindowRecord, calibrate, decide, score_window
from mlops_tasks.core.drift_report import Comparison, describe_drift, render_drift, say_drift
from mlops_tasks.core.frames import read_files
from mlops_tasks.core.publishing import publish_files
from mlops_tasks.core.sketches import Reference, sketch_window
from mlops_tasks.errors import ModelRejected

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pyarrow as pa

    from mlops_tasks.artifacts import Deployment, ValidFeatures
    from mlops_tasks.core.drift import Calibration, Decision
    from mlops_tasks.ports import ArtifactStore, Ports
    from mlops_tasks.specs import MonitorSpec


def run(spec: MonitorSpec, features: Sequence[ValidFeatures], deployment: Deployment, *, ports: Ports) -> list[DriftReport]:
    """Compare each window with the deployed model's training data and decide on training again; reports in time order.

    Raises:
        DataRejected: a window lacks a column that the model reads, or it has another type.
        ModelRejected: the deployment has no sketches of its training data.
        StoreUnavailable: the store does not answer or is full.

    """
    if not features:
        return []
    reference = _load_reference(deployment, ports.store)
    calibration = calibrate(reference, spec)
    reports = []
    with ports.progress.bar("monitor", total=len(features)) as bar:
        for item in sorted(features, key=lambda f: f.window.start):
            reports.append(_monitor_window(spec, item, deployment, reference, calibration, ports=ports))
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
    )
    decision = _decide(spec, record, ports)
    comparison = Comparison(ports.run.pipeline, item, deployment, spec, reference, calibration, sketch, score, decision)
    return _publish(comparison, ports)


def _read_rows(item: ValidFeatures, reference: Reference, store: ArtifactStore) -> pa.Table:
    """Read only the columns that are compared; the label may be absent."""
    file = item.features.file("features.parquet")
    present = set(pq.read_schema(store.open_local(file)).names)
    return read_files(store, [file], [name for name in reference.layouts if name in present])


def _decide(spec: MonitorSpec, record: WindowRecord, ports: Ports) -> Decision:
    """Record what was seen, decide, and record that a training is asked for."""
    store, base, label = ports.store, f"{ports.run.pipeline}/monitor", record.window.label
    store.write(f"{base}/{record.model_version}/{label}.json", record.model_dump_json().encode())
    retrains = [RetrainRecord.model_validate_json(store.read(key)) for key in store.list(f"{base}/retrains/")]
    neighbours = list(_neighbours(spec, record, store, f"{base}/{record.model_version}/")) if record.alarm else []
    decision = decide(spec, record, neighbours, retrains, ports.run.intent)
    if decision.retrain:
        asked = RetrainRecord(
            window=record.window,
            model_version=record.model_version,
            run_id=ports.run.run_id,
            at=ports.run.now,
            reason=f"{record.reason}; {decision.why}",
        )
        store.create(f"{base}/retrains/{label}.json", asked.model_dump_json().encode())
    return decision


def _neighbours(spec: MonitorSpec, record: WindowRecord, store: ArtifactStore, prefix: str) -> Iterator[WindowRecord]:
    """Yield the records nearest in time, as many on each side as a row of alarms can need; labels sort by time."""
    keys = list(store.list(prefix))
    at = bisect.bisect_left(keys, f"{prefix}{record.window.label}.json")
    reach = spec.consecutive - 1
    for key in keys[max(0, at - reach) : at + reach + 1]:
        yield WindowRecord.model_validate_json(store.read(key))


def _publish(comparison: Comparison, ports: Ports) -> DriftReport:
    item, deployment, score, decision = comparison.item, comparison.deployment, comparison.score, comparison.decision
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
        retrain=decision.retrain,
        reason=comparison.reason,
    )
