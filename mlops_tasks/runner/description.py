"""A stage's results to the links and figures that people and deciding tasks want of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlops_tasks.artifacts import (
    Candidate,
    Dataset,
    Deployment,
    DriftReport,
    Features,
    RawData,
    ValidFeatures,
    ValidRaw,
    Verdict,
)
from mlops_tasks.ports import Ports

SHOWS = {"report.html": "Report", "data_docs.html": "Data Docs"}


def describe(results: Sequence[Any], ports: Ports) -> tuple[dict[str, str], dict[str, Any]]:
    """Return links and figures of a stage's results, for people and for the tasks that decide."""
    last = results[-1]
    links = {SHOWS[name]: ref.key for ref in last.files if (name := ref.key.rsplit("/", 1)[-1]) in SHOWS}
    facts: dict[str, Any] = {}
    if isinstance(last, RawData):
        facts = {
            "windows": len(results),
            "rows": sum(r.rows for r in results),
            "duplicates": sum(r.duplicates for r in results),
        }
    elif isinstance(last, Features):
        rejected = sum(sum(r.rejected.values()) for r in results)
        facts = {"windows": len(results), "rows": sum(r.rows for r in results), "rejected": rejected}
    elif isinstance(last, ValidFeatures | ValidRaw):
        facts = {"windows": len(results)}
    elif isinstance(last, Dataset):
        facts = {"dataset": last.version, "rows": last.rows}
    elif isinstance(last, Candidate):
        facts = {"dataset": last.dataset_version, "fingerprint": last.fingerprint[:12]}
        links["MLflow run"] = ports.tracker.url(last.mlflow_run_id)
    elif isinstance(last, Verdict):
        failed = [j.reason for j in last.judgements if not j.passed]
        facts = {"passed": last.passed, "metrics": last.metrics, "failed": failed, "champion_version": last.champion_version}
        links["MLflow run"] = ports.tracker.url(last.candidate.mlflow_run_id)
    elif isinstance(last, Deployment):
        facts = {"model": last.model, "version": last.version, "alias": last.alias}
    elif isinstance(last, DriftReport):
        alarmed = [r for r in results if r.status == "alarm"]
        facts = {"reason": (alarmed or results)[-1].reason, "status": last.status, "alarms": [r.window.label for r in alarmed]}
    return links, facts
