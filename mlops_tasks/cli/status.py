"""`mlops status`: what there is of a pipeline: windows, model, drift, performance, latest runs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mlops_tasks.loading import load_pipeline
from mlops_tasks.pipeline import INGEST
from mlops_tasks.wiring import Adapters

if TYPE_CHECKING:
    import argparse

    from mlops_tasks.ports import ArtifactStore

LATEST = 5


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Gather a pipeline's state. Raises: SpecError, RegistryUnavailable."""
    spec = load_pipeline(args.name)
    adapters = Adapters()
    windows = {stage: _windows(adapters.store, args.name, stage) for stage in INGEST}
    version = adapters.registry.alias(args.name, "champion")
    champion = None
    if version is not None:
        deployed = adapters.registry.deployment(args.name, version)
        champion = {
            "version": version,
            "trained_from": deployed.training.start,
            "trained_to": deployed.training.end,
            "dataset": deployed.dataset_version[:12],
        }
    watched = adapters.registry.alias(spec.monitor.model, "champion") if spec.monitor.model else version
    return {
        "pipeline": args.name,
        "cadence": spec.cadence,
        "store": adapters.store.root,
        "tracking": adapters.tracking_uri,
        "windows": {stage: {"count": len(found), "first": found[0] if found else None, "last": found[-1] if found else None}
                    for stage, found in windows.items()},
        "champion": champion,
        "drift": _drift(adapters.store, args.name, watched),
        "performance": _performance(adapters.store, args.name, watched),
        "runs": _runs(adapters.store, args.name),
    }  # fmt: skip


def _windows(store: ArtifactStore, name: str, stage: str) -> list[str]:
    prefix = f"{name}/cache/{stage}/"
    return sorted({key[len(prefix) :].split("/")[0] for key in store.list(prefix)})


def _drift(store: ArtifactStore, name: str, version: int | None) -> list[dict[str, Any]]:
    keys = [key for key in store.list(f"{name}/monitor/{version}/") if key.endswith(".json")]
    return [{**json.loads(store.read(key)), "window": key.rsplit("/", 1)[-1].removesuffix(".json")} for key in keys[-LATEST:]]


def _performance(store: ArtifactStore, name: str, version: int | None) -> list[dict[str, Any]]:
    """Return the latest windows that were measured, then the latest that await their labels."""
    awaiting: list[dict[str, Any]] = []
    measured: list[dict[str, Any]] = []
    keys = [key for key in store.list(f"{name}/performance/{version}/") if key.endswith(".json")]
    for key in reversed(keys):
        record = json.loads(store.read(key)) | {"window": key.rsplit("/", 1)[-1].removesuffix(".json")}
        (awaiting if record["status"] == "awaiting_labels" else measured).append(record)
        if len(measured) == LATEST:
            break
    return [*reversed(measured), *reversed(awaiting[:LATEST])]


def _runs(store: ArtifactStore, name: str) -> list[dict[str, Any]]:
    """Return the latest runs with the stages that each finished."""
    prefix = f"{name}/runs/"
    runs: dict[str, list[str]] = {}
    for key in store.list(prefix):
        run_id, _, file = key[len(prefix) :].partition("/")
        runs.setdefault(run_id, []).append(file.removesuffix(".json"))
    return [{"run_id": run_id, "stages": stages} for run_id, stages in list(runs.items())[-LATEST:]]
