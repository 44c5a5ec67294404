"""New windows and what the deployed model was trained on, and saw since, to drift reports.

What was seen in a window is a small mutable record, `<pipeline>/monitor/<version>/<window>.json`, the only truth of its
kind. It follows from the rows and from the records of the windows before (`core.drift.settling` says how), so windows may
come again, late, in any order or to two monitors at once. Whether the model is trained again is decided from these records
by whoever looks after it (`runner.retraining`), not here.
"""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING

from mlops_tasks.artifacts import ColumnDrift, DriftReport
from mlops_tasks.core.drift import Lookout, open_records
from mlops_tasks.core.drift_report import (
    Comparison,
    describe_drift,
    find_reports,
    keep_report,
    render_drift,
    report_key,
    say_judged,
)
from mlops_tasks.core.performance import watch
from mlops_tasks.core.publishing import publish_files
from mlops_tasks.core.rollout import compare_in

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlops_tasks.artifacts import Deployment, ValidFeatures
    from mlops_tasks.core.drift import Records, WindowRecord
    from mlops_tasks.core.performance import Watched
    from mlops_tasks.ports import Ports
    from mlops_tasks.specs import MonitorSpec


def run(spec: MonitorSpec, features: Sequence[ValidFeatures], deployment: Deployment, *, ports: Ports) -> list[DriftReport]:
    """Compare each window with what is known before it and record what is seen; reports in time order.

    A window whose record still follows is not judged again, and a report that would show the same is not drawn again.

    Raises:
        DataRejected: a window lacks a column that the model reads, or it has another type.
        ModelRejected: the deployment has no sketches of its training data.
        RegistryUnavailable: the registry does not answer.
        StoreUnavailable: the store does not answer or is full.

    """
    if not features:
        return []
    records = open_records(deployment, spec, ports.run.pipeline, ports.store, say=partial(say_judged, spec=spec))
    watched = watch(spec, features, deployment, ports=ports)
    ordered = sorted(features, key=lambda f: f.window.start)
    return _reports(spec, ordered, deployment, records, watched, ports=ports)


def _look(
    spec: MonitorSpec, ordered: Sequence[ValidFeatures], deployment: Deployment, records: Records, *, ports: Ports
) -> dict[str, WindowRecord]:
    """Sketch what was not sketched yet: the windows, and those of the same season a year before."""
    known, looked = records.read(), {}
    with (
        ports.store.staging() as folder,
        ports.progress.bar("monitor", total=len(ordered)) as bar,
    ):
        lookout = Lookout(deployment, records.reference, folder / "model", ports=ports)
        for item in ordered:
            looked[item.window.label] = lookout.look(item, known.get(item.window.label))
            bar.advance(1, window=item.window.label)
        records.write(lookout.season(spec, [item.window for item in ordered], {**known, **looked}))
    return looked


def _reports(
    spec: MonitorSpec,
    ordered: Sequence[ValidFeatures],
    deployment: Deployment,
    records: Records,
    watched: Watched | None,
    *,
    ports: Ports,
) -> list[DriftReport]:
    """Settle what was looked at; draw what no report shows yet."""
    labels = [item.window.label for item in ordered]
    settled = records.settle(_look(spec, ordered, deployment, records, ports=ports), labels)
    tried = {item.window.label: compare_in(spec.trial, deployment.model, item.window, ports=ports) for item in ordered}

    def key_of(item: ValidFeatures, record: WindowRecord) -> str:
        return report_key(spec, item, deployment, record, watched=watched, tried=tried[item.window.label], ports=ports)

    keys = {item.window.label: key_of(item, settled.records[item.window.label]) for item in ordered}
    found = {} if ports.run.forced else find_reports(ports.store, keys)
    missing = [label for label in labels if label not in found and label not in settled.judged]
    judged = settled.judged | (records.settle({}, missing, again=True).judged if missing else {})
    for item in ordered:
        label = item.window.label
        if label not in found:
            comparison = Comparison(ports.run.pipeline, item, deployment, spec, judged[label], watched, tried[label])
            found[label] = _publish(comparison, ports)
            keep_report(ports.store, key_of(item, judged[label].record), found[label])
    return [found[label] for label in labels]


def _publish(comparison: Comparison, ports: Ports) -> DriftReport:
    item, deployment, score = comparison.item, comparison.deployment, comparison.score
    texts = {"drift.json": json.dumps(describe_drift(comparison), indent=1), "report.html": render_drift(comparison)}
    sketch = comparison.judged.record.sketch
    with ports.store.staging() as folder:
        paths = {name: folder / name for name in texts}
        for name, text in texts.items():
            paths[name].write_text(text, encoding="utf-8")
        place = f"{ports.run.pipeline}/drift/{deployment.version}/{item.window.label}"
        digest, files = publish_files(ports.store, place, paths)
    return DriftReport(
        digest=digest,
        files=files if sketch is None else (*files, sketch),
        window=item.window,
        model_version=deployment.version,
        status=score.status,
        columns=tuple(
            ColumnDrift(
                column=c.column,
                distance=c.distance,
                standardised=c.standardised,
                psi=c.psi,
                js=c.js,
                ks=c.ks,
                missing=c.missing,
                alarmed=c.alarmed,
            )
            for c in score.columns
        ),
        reason=comparison.reason,
    )
