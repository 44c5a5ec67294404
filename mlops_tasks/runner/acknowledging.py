"""A person's word that alarmed windows are in order, to records that follow from it."""

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import Any

from mlops_tasks.core.drift import Acknowledgement, WindowRecord, acknowledged_windows, open_records
from mlops_tasks.core.drift_report import say_judged
from mlops_tasks.errors import NothingToDo
from mlops_tasks.loading import load_pipeline
from mlops_tasks.runner.runner import Runner
from mlops_tasks.specs import PipelineSpec
from mlops_tasks.wiring import Adapters


def acknowledge(
    name: str,
    *,
    start: datetime,
    through: datetime,
    reason: str,
    who: str,
    now: datetime,
    adapters: Adapters | None = None,
    pipeline: PipelineSpec | None = None,
) -> dict[str, Any]:
    """Call the alarmed windows that start between two times, both included, in order: they become part of the reference.

    Returns:
        `acknowledged`: windows and what they had alarmed for; `changed`: windows after them that are judged otherwise now.

    Raises:
        NothingToDo: no window there alarmed, or all were acknowledged already.
        ModelRejected, RegistryUnavailable, StoreUnavailable: as the monitor does.

    """
    pipeline, adapters = pipeline or load_pipeline(name), adapters or Adapters()
    champion = Runner(pipeline, adapters).champion(pipeline.monitor.model)
    if champion is None:
        msg = f"{name}: no model serves yet, so no window was monitored"
        raise NothingToDo(msg)
    spec, store = pipeline.monitor, adapters.store
    records = open_records(champion, spec, name, store, say=partial(say_judged, spec=spec))
    before, said = records.read(), acknowledged_windows(store, name)
    alarmed = [r for label, r in sorted(before.items()) if r.alarm and label not in said and start <= r.window.start <= through]
    if not alarmed:
        which = f"in {start:%Y-%m-%d %H:%M}" if start == through else f"from {start:%Y-%m-%d %H:%M} to {through:%Y-%m-%d %H:%M}"
        msg = f"{name}: no window {which} waits to be acknowledged under version {champion.version}; see mlops status {name}"
        raise NothingToDo(msg)
    for record in alarmed:
        said_now = Acknowledgement(window=record.window, who=who, at=now, reason=reason)
        store.create(f"{name}/monitor/acknowledged/{record.window.label}.json", said_now.model_dump_json().encode())
    records.settle({})
    return {
        "pipeline": name,
        "version": champion.version,
        "acknowledged": [{"window": r.window.label, "columns": list(r.columns)} for r in alarmed],
        "changed": _changed(before, records.read()),
        "who": who,
        "reason": reason,
    }


def _changed(before: dict[str, WindowRecord], after: dict[str, WindowRecord]) -> list[dict[str, str]]:
    return [
        {"window": label, "before": before[label].status, "after": record.status}
        for label, record in sorted(after.items())
        if label in before and before[label].status != record.status
    ]
