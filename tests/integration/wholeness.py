"""What must hold of a store and an MLflow after a fault, and after the retry that follows it."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from mlops_tasks.adapters.local_store import LocalStore
from mlops_tasks.adapters.mlflow_registry import MlflowRegistry
from mlops_tasks.artifacts import FileRef
from tests.integration.tiny_pipeline import NAME

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.tiny_pipeline import Home

SPARK_ENDS_IN_S = 120
RECORDS = (f"{NAME}/cache/", f"{NAME}/runs/", f"{NAME}/judged/", f"{NAME}/outcomes/")
OF_ONE_CALL = (f"{NAME}/checkpoints/", f"{NAME}/data_docs/")
"""What belongs to one call of a stage: a retry that has fewer windows left to check shows these on a page of their own."""
OF_THEIR_TIME = ("manifest.json", "training.json", "report.html", "evaluation.json", "model_card.md")
"""Files that may say when or how they were made: another run's differ."""


def assert_nothing_partial(home: Home, whole: Home) -> None:
    """Check what a reader sees: every file under a key is whole, every record names files that verify."""
    store = home.store
    for key in store.list(f"{NAME}/"):
        if key.startswith(RECORDS):
            for ref in _refs(json.loads(store.read(key))):
                assert store.verify(ref), f"{key} names {ref.key}, which is not whole"
        elif not key.startswith(OF_ONE_CALL) and not key.endswith(OF_THEIR_TIME):
            assert store.read(key) == whole.store.read(key), f"{key} is not what an undisturbed run publishes"


def assert_whole(home: Home, whole: Home, stage: str) -> None:
    """Check that a store and MLflow are as if nothing had happened to the stage."""
    assert keys(home) == keys(whole)
    assert [_plain(result) for result in home.results(stage)] == [_plain(result) for result in whole.results(stage)]
    assert mlflow_summary(home) == mlflow_summary(whole)
    assert_nothing_partial(home, whole)
    assert swept(home) == []


def keys(home: Home) -> set[str]:
    """Return the keys of all results and their records."""
    return {key for key in home.store.list(f"{NAME}/") if not key.startswith(f"{NAME}/data_docs/")}


def unfinished(home: Home) -> list[str]:
    """Return what lies in the store's folder and is no published file; files may come and go meanwhile."""
    folders = ((Path(parent), files) for parent, _, files in os.walk(home.store_folder))
    paths = ((parent / file).relative_to(home.store_folder).as_posix() for parent, files in folders for file in files)
    return sorted(path for path in paths if "/." in f"/{path}")


def swept(home: Home) -> list[str]:
    """Return what is unfinished once Spark has ended what a killed client asked of it, and another process has swept up."""
    deadline = time.monotonic() + SPARK_ENDS_IN_S
    while (left := unfinished(home)) and time.monotonic() < deadline:
        time.sleep(0.5)
        with LocalStore(home.store_folder).staging():
            pass  # whoever needs a staging folder removes those of the dead first
    return left


def mlflow_summary(home: Home) -> dict[str, Any]:
    """Return what MLflow holds, without ids and times."""
    registry = MlflowRegistry(home.mlflow_uri)
    return {
        "runs": sorted(home.mlflow_rows("SELECT name, status, lifecycle_stage FROM runs")),
        "points": sorted(home.mlflow_rows("SELECT key, step FROM metrics WHERE key NOT GLOB '*.rows_per_second'")),
        "params": sorted(home.mlflow_rows("SELECT key, value FROM params WHERE key NOT GLOB '0*'")),
        "versions": [(v.version, v.fingerprint, v.aliases) for v in registry.versions(NAME)],
        "promotions": [(p["alias"], p["from"], p["to"]) for p in registry.history(NAME)],
    }


def _refs(value: Any) -> Iterator[FileRef]:
    if isinstance(value, dict):
        if value.keys() == {"key", "bytes", "sha256", "rows"}:
            yield TypeAdapter(FileRef).validate_python(value)
        else:
            for item in value.values():
                yield from _refs(item)
    elif isinstance(value, list):
        for item in value:
            yield from _refs(item)


def _plain(value: Any) -> Any:
    """Leave out what differs between two runs: MLflow's ids, and the bytes of files that tell of their time."""
    if isinstance(value, dict):
        if value.keys() == {"key", "bytes", "sha256", "rows"} and value["key"].endswith(OF_THEIR_TIME):
            return value["key"]
        return {key: _plain(item) for key, item in value.items() if key != "mlflow_run_id"}
    if isinstance(value, list):
        return [_plain(item) for item in value if not (isinstance(item, dict) and "/data_docs/" in str(item.get("key")))]
    return value
