"""Reports by all that they show, so that one that would be the same again is read and neither judged nor drawn anew."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from pydantic import ValidationError

from mlops_tasks.artifacts import DriftReport, digest_of
from mlops_tasks.core.drift_report.comparison import describe_trial

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from mlops_tasks.artifacts import Deployment, ValidFeatures
    from mlops_tasks.core.drift import WindowRecord
    from mlops_tasks.core.performance import Watched
    from mlops_tasks.core.rollout import Tried
    from mlops_tasks.ports import ArtifactStore, Ports
    from mlops_tasks.specs import MonitorSpec

READING_THREADS = 8


def report_key(
    spec: MonitorSpec,
    item: ValidFeatures,
    deployment: Deployment,
    record: WindowRecord,
    *,
    watched: Watched | None,
    tried: Sequence[Tried],
    ports: Ports,
) -> str:
    """Return where the report is kept that shows just this; `ports.run.fingerprint` stands for the code that draws it."""
    shows = {
        "made by": [ports.run.fingerprint, spec.model_dump(mode="json"), deployment.digest, deployment.version],
        "window": [item.window.model_dump(mode="json"), item.digest, item.features.digest],
        "judged by": record.basis,
        "performance": None if watched is None else watched.digest_until(item.window.label),
        "trials": [describe_trial(one) for one in tried],
    }
    return f"{_folder(ports.run.pipeline, item.window.label)}{digest_of(shows)}.json"


def find_reports(store: ArtifactStore, keys: Mapping[str, str]) -> dict[str, DriftReport]:
    """Return by label the reports that are kept under keys and whose files are whole."""
    with ThreadPoolExecutor(READING_THREADS) as pool:
        found = zip(keys, pool.map(lambda key: _find(store, key), keys.values()), strict=True)
        return {label: report for label, report in found if report is not None}


def keep_report(store: ArtifactStore, key: str, report: DriftReport) -> None:
    """Remember a report whose files are published."""
    store.write(key, report.model_dump_json().encode())


def kept_reports(store: ArtifactStore, pipeline: str, labels: Iterable[str]) -> frozenset[str]:
    """Return the keys of all reports that are kept of some windows."""
    return frozenset(key for label in labels for key in store.list(_folder(pipeline, label)))


def _find(store: ArtifactStore, key: str) -> DriftReport | None:
    try:
        report = DriftReport.model_validate_json(store.read(key))
    except (KeyError, ValidationError):  # not drawn yet, or of another version of this package
        return None
    return report if all(store.verify(ref) for ref in report.files) else None


def _folder(pipeline: str, label: str) -> str:
    return f"{pipeline}/cache/monitor/{label}/"
