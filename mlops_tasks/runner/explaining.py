"""Records of a run to why it was as it was: its stages, what asked for it, how its model was judged, what came of it."""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from mlops_tasks.artifacts import Deployment
from mlops_tasks.errors import SpecError
from mlops_tasks.loading import load_pipeline, pipeline_names
from mlops_tasks.pipeline import BY_NAME
from mlops_tasks.ports import ArtifactStore
from mlops_tasks.runner.history import StageRecord, read_history, run_segments
from mlops_tasks.runner.invocation import path_segment, result_key
from mlops_tasks.runner.retraining import watchers
from mlops_tasks.wiring import Adapters

NEAREST = 5
"""Ids that are named where the one that was asked for is unknown."""
UNKNOWN_RUN = "unknown"
"""Stands for the run of a version that somebody else registered."""
KINDS = ("", "train-", "ingest-", "monitor-")
"""How the store names a run of Airflow's, before the id that Airflow shows; runs of `mlops run` have none."""


def explain(run: str, pipeline: str | None, adapters: Adapters) -> dict[str, Any]:
    """Explain a run by its id, or a model by `NAME/VERSION`.

    Raises:
        SpecError: there is no such run, pipeline or version; it names the nearest.

    """
    name, slash, version = run.partition("/")
    if slash and version.isdecimal():
        return _explain_model(name, int(version), adapters)
    found = _find_run(adapters.store, run, pipeline)
    return _explain_run(*found, adapters)


def _find_run(store: ArtifactStore, run: str, pipeline: str | None) -> tuple[str, str]:
    """Return the pipeline and the key segment of a run."""
    if pipeline is not None:
        load_pipeline(pipeline)
    names = [pipeline] if pipeline is not None else pipeline_names()
    there = {name: run_segments(store, name) for name in names}
    wanted = [f"{kind}{path_segment(run)}" for kind in KINDS]
    found = [(name, segment) for name, segments in there.items() for segment in segments if segment in wanted]
    exact = [(name, segment) for name, segment in found if segment == path_segment(run)]
    hits = exact or found
    if len(hits) == 1:
        return hits[0]
    if hits:
        told = ", ".join(f"{segment} of {name}" for name, segment in hits)
        msg = f"run {run!r}: several are called so: {told}; give the whole id, and --pipeline"
        raise SpecError(msg)
    msg = f"run {run!r}: there is none of this id in the store ({', '.join(names)}); {_nearest(run, there)}"
    raise SpecError(msg)


def _nearest(run: str, there: dict[str, list[str]]) -> str:
    everything = [segment for segments in there.values() for segment in segments]
    if not everything:
        return "nothing was run yet"
    close = difflib.get_close_matches(path_segment(run), everything, n=NEAREST, cutoff=0.4)
    return f"the nearest are {', '.join(close)}" if close else f"the latest are {', '.join(everything[-NEAREST:])}"


def _explain_model(name: str, version: int, adapters: Adapters) -> dict[str, Any]:
    load_pipeline(name)
    versions = {known.version: known for known in adapters.registry.versions(name)}
    if version not in versions:
        near = sorted(versions, key=lambda known: abs(known - version))[:NEAREST]
        told = f"the nearest are {', '.join(str(n) for n in sorted(near))}" if near else "none is registered yet"
        msg = f"model {name}: there is no version {version}; {told}"
        raise SpecError(msg)
    run_id = versions[version].tags.get("mlops.run_id") or UNKNOWN_RUN
    try:
        deployed = adapters.registry.deployment(name, version)
    except KeyError:
        deployed = None
    return _explain_run(name, path_segment(run_id), adapters, model=(version, deployed)) | {"model_asked_for": version}


def _explain_run(
    name: str, segment: str, adapters: Adapters, *, model: tuple[int, Deployment | None] | None = None
) -> dict[str, Any]:
    store = adapters.store
    history = read_history(store, name, segment)
    results = {stage: found for stage in BY_NAME if (found := _result(store, name, segment, stage)) is not None}
    deployed = Deployment.model_validate(results["deploy"]) if "deploy" in results else (model[1] if model else None)
    first = history[0] if history else None
    version = deployed.version if deployed else (model[0] if model else None)
    return {
        "pipeline": name,
        "run": segment,
        "run_id": first.run_id if first else segment,
        "intent": first.intent if first else None,
        "reason": first.reason if first else "",
        "who": first.who if first else "",
        "start": first.start if first else None,
        "end": first.end if first else None,
        "asked_for_by": _asked_for_by(store, name, segment),
        "stages": _stages(history, results),
        "verdict": _verdict(results.get("evaluate")),
        "model": _model(name, version, deployed, adapters) if version is not None else None,
        "downstream": _downstream(store, name, segment, version),
    }


def _stages(history: Sequence[StageRecord], results: dict[str, Any]) -> list[dict[str, Any]]:
    told = [_stage(record) for record in history]
    known = {record.stage for record in history}
    order = list(BY_NAME)
    silent = [
        {"stage": stage, "state": "done", "why": "recorded before reasons were"} for stage in results if stage not in known
    ]
    return sorted([*told, *silent], key=lambda item: order.index(item["stage"]))


def _stage(record: StageRecord) -> dict[str, Any]:
    if record.failure is not None:
        state, why = "failed", f"{record.failure.error}: {record.failure.message}"
    elif not record.computed:
        state, why = "cached", "same inputs, spec and code"
    else:
        state = "ran"
        several = record.computed + record.cached > 1
        why = ", ".join(f"{reason} ({n})" if several else reason for reason, n in record.reasons.items())
    return {
        "stage": record.stage,
        "state": state,
        "why": why,
        "made": record.computed,
        "cached": record.cached,
        "rows": record.rows,
        "seconds": record.seconds,
        "ended_at": record.ended_at,
        "links": record.links,
        "settings": record.settings,
    }


def _asked_for_by(store: ArtifactStore, name: str, segment: str) -> dict[str, Any] | None:
    """Return the request that a run is the training of, with the decision behind it, or None."""
    for request in _records(store, f"{name}/retraining/requests/"):
        if path_segment(f"train-{request.get('run_id', '')}") == segment:
            as_of = str(request.get("as_of", ""))[:13]
            decision = _read(store, f"{name}/retraining/decisions/{as_of}.json")
            return {"request": request, "decision": decision}
    return None


def _verdict(found: dict[str, Any] | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "passed": found["passed"],
        "judgements": found["judgements"],
        "metrics": found["metrics"],
        "champion_version": found["champion_version"],
        "report": next((file["key"] for file in found["files"] if file["key"].endswith("/report.html")), None),
    }


def _model(name: str, version: int, deployed: Deployment | None, adapters: Adapters) -> dict[str, Any]:
    """Tell of a registered version: what it is called now, what moved it, who made it."""
    registry = adapters.registry
    moves = [entry for entry in registry.history(name) if str(version) in {entry["from"], entry["to"]}]
    known = next((v for v in registry.versions(name) if v.version == version), None)
    return {
        "model": name,
        "version": version,
        "aliases_now": list(known.aliases) if known else [],
        "alias_when_deployed": deployed.alias if deployed else None,
        "made_by_run": known.tags.get("mlops.run_id") if known else None,
        "dataset": deployed.dataset_version if deployed else None,
        "trained_from": deployed.training.start if deployed else None,
        "trained_to": deployed.training.end if deployed else None,
        "mlflow_run": adapters.tracker.url(deployed.mlflow_run_id) if deployed else None,
        "ledger": moves,
    }


def _downstream(store: ArtifactStore, name: str, segment: str, version: int | None) -> dict[str, Any]:
    """Return what happened after the run: what became of the request, what was seen of the model, what it asked for."""
    numbers = {r["number"] for r in _records(store, f"{name}/retraining/requests/") if _is_run_of(r, segment)}
    outcomes = [r for r in _records(store, f"{name}/retraining/outcomes/") if r.get("number") in numbers]
    if version is None:
        return {"outcomes": outcomes, "monitored": None, "performance": None, "asked_for": []}
    asked = [r for r in _records(store, f"{name}/retraining/requests/") if r.get("model_version") == version]
    watching = list(watchers(name))
    return {
        "outcomes": outcomes,
        "monitored": _seen(store, watching, f"monitor/{version}"),
        "performance": _seen(store, watching, f"performance/{version}"),
        "asked_for": asked,
    }


def _is_run_of(request: dict[str, Any], segment: str) -> bool:
    return path_segment(f"train-{request.get('run_id', '')}") == segment


def _seen(store: ArtifactStore, watching: Sequence[str], folder: str) -> dict[str, Any] | None:
    """Summarise records of windows under a version: how many of each status, the alarms and the latest."""
    found = [record for watcher in watching for record in _records(store, f"{watcher}/{folder}/")]
    if not found:
        return None
    found.sort(key=lambda record: str(record.get("window", {}).get("start", "")))
    alarms = [r for r in found if r.get("status") == "alarm"]
    return {
        "windows": len(found),
        "statuses": dict(Counter(str(record.get("status")) for record in found)),
        "alarms": [{"window": r["window"]["start"][:13], "reason": r.get("reason", "")} for r in alarms],
        "latest": {"window": found[-1]["window"]["start"][:13], "reason": found[-1].get("reason", "")},
    }


def _result(store: ArtifactStore, name: str, segment: str, stage: str) -> dict[str, Any] | None:
    """Return the last result that a stage of a run gave."""
    found = _read(store, result_key(name, segment, stage))
    results: list[dict[str, Any]] = found.get("results", []) if found else []
    return results[-1] if results else None


def _records(store: ArtifactStore, prefix: str) -> Iterator[dict[str, Any]]:
    for key in store.list(prefix):
        if key.endswith(".json") and (found := _read(store, key)) is not None:
            yield found


def _read(store: ArtifactStore, key: str) -> dict[str, Any] | None:
    """Read a record of whatever version; what is gone or no object counts as absent."""
    try:
        found = json.loads(store.read(key))
    except (KeyError, ValueError):
        return None
    return found if isinstance(found, dict) else None
