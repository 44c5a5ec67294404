"""Days of a request log to what pipelines made of them: rows, models, and sums over windows."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from mlops_tasks.artifacts import Window
from mlops_tasks.core.request_log import REQUESTS
from mlops_tasks.core.windows import window_of
from mlops_tasks.errors import RegistryUnavailable, SpecError
from mlops_tasks.loading import load_pipeline, pipeline_names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from mlops_tasks.ports import ArtifactStore
    from mlops_tasks.specs import PipelineSpec
    from mlops_tasks.wiring import Adapters

    Touches = Callable[[str], bool]
    """Whether a window, by its label, has to do with the days."""

VERSION_DIGITS = 12
"""Of a dataset's digest, in its short form."""
FOLDERS, RECORDS = ("sketches", "drift"), ("monitor", "performance")
"""What the monitor keeps of a window under a model's version: published folders, and one record each."""
REPLAYED = "backtests/policy"
"""Where `mlops backtest policy` keeps the same of the monitors that it plays through."""
ABOUT = {
    "unknown": "its folder can't be read, so neither is it known what it made: mend it and erase again",
    "collected window": "rows as the log had them: collect the window anew, then delete what is listed",
    "features": "rows: they are made anew with the collected window; then delete what is listed",
    "dataset": "names the features that it is made of: train again, then delete what is listed",
    "model, with its golden rows": "learned from such rows and keeps a few of them: train again, then delete the version",
    "sums over a window": (
        "counts, sums, least and greatest values of columns, distances, metrics; no row and nobody's key. They are of all rows "
        "together, so one entity's part can't be told and taken out; where a window has few rows they say much of each. Names "
        "of categories are hashes where the column is private. Collect the window anew, delete all that is listed, run the "
        "monitor over the window: it is summed up without them"
    ),
    "acknowledgement": (
        "who called an alarmed window in order, when, and why in that person's words; nothing of its rows. Read it: if it "
        "names somebody, delete it and acknowledge the window again in other words"
    ),
}
"""What each kind holds, and what is to be done about it."""


def list_derived(name: str, days: Sequence[date], at: datetime, adapters: Adapters) -> list[dict[str, Any]]:
    """List what pipelines made of some days of a log before a time, with what it holds and what is to be done about it."""
    found: list[dict[str, Any]] = []
    for other in pipeline_names() if days else ():
        try:
            pipeline = load_pipeline(other)
        except SpecError as error:
            found.append(_item(other, "unknown", [str(error)]))
            continue
        if any(source.path == f"{REQUESTS}{name}" for source in pipeline.collect.sources.values()):
            found += _derived_by(pipeline, days, at, adapters)
    return found


def _item(pipeline: str, kind: str, what: Sequence[str]) -> dict[str, Any]:
    return {"pipeline": pipeline, "kind": kind, "what": what, "about": ABOUT[kind]}


def _derived_by(pipeline: PipelineSpec, days: Sequence[date], at: datetime, adapters: Adapters) -> list[dict[str, Any]]:
    store, name = adapters.store, pipeline.name

    def touches(label: str, lookback: timedelta = pipeline.preprocess.lookback) -> bool:
        window = _window(label, pipeline)
        return window is not None and any(_overlaps(window, day, lookback) for day in days)

    raw = _revisions(store, f"{name}/raw/", lambda label: touches(label, timedelta()))
    features = _revisions(store, f"{name}/features/", touches)
    datasets = _datasets_of(name, features, store)
    acknowledged = _records(store, f"{name}/monitor/acknowledged/", touches)
    listed = {
        "collected window": [folder for folder in raw if _was_there(store, folder, at)],
        "features": features,
        "dataset": datasets,
        "model, with its golden rows": _models_of(name, datasets, adapters),
        "sums over a window": [*_sums(store, name, touches), *_sums(store, f"{name}/{REPLAYED}", touches)],
        "acknowledgement": acknowledged,
    }
    return [_item(name, kind, what) for kind, what in listed.items() if what]


def _overlaps(window: Window, day: date, lookback: timedelta) -> bool:
    """Tell whether a window touches a UTC day, or looks back at it."""
    start = datetime(day.year, day.month, day.day, tzinfo=UTC)
    return window.start - lookback < start + timedelta(days=1) and start < window.end


def _sums(store: ArtifactStore, place: str, touches: Touches) -> list[str]:
    """Return what the monitor keeps of windows below a place: of each version of the model sketches, reports and records."""
    found = [f"{place}/cache/monitor/{label}" for label in store.folders(f"{place}/cache/monitor/") if touches(label)]
    for kind in FOLDERS:
        for version in store.folders(f"{place}/{kind}/"):
            found += _revisions(store, f"{place}/{kind}/{version}/", touches)
    for kind in RECORDS:
        for version in store.folders(f"{place}/{kind}/"):
            found += _records(store, f"{place}/{kind}/{version}/", touches) if version.isdecimal() else []
    return found


def _models_of(name: str, datasets: Sequence[str], adapters: Adapters) -> list[str]:
    """Return the registered models that were trained on datasets; a registry that does not answer is said instead."""
    versions = {_version_of(key) for key in datasets}
    try:
        trained = [
            row.version for row in adapters.registry.versions(name) if _dataset_of(name, row.version, adapters) in versions
        ]
    except RegistryUnavailable as error:
        return [f"not known: {error}"]
    return [f"{name} version {version}" for version in trained]


def _revisions(store: ArtifactStore, prefix: str, touches: Touches) -> list[str]:
    """Return the published folders of windows."""
    labels = [label for label in store.folders(prefix) if touches(label)]
    return [f"{prefix}{label}/{revision}" for label in labels for revision in store.folders(f"{prefix}{label}/")]


def _records(store: ArtifactStore, prefix: str, touches: Touches) -> list[str]:
    """Return the keys of the records of windows."""
    return [key for key in store.list(prefix) if touches(key.removeprefix(prefix).removesuffix(".json"))]


def _window(label: str, pipeline: PipelineSpec) -> Window | None:
    """Return the window of a label; None for what is none, such as `static`."""
    with suppress(ValueError):
        return window_of(datetime.fromisoformat(label).replace(tzinfo=UTC), pipeline.cadence)
    return None


def _was_there(store: ArtifactStore, folder: str, at: datetime) -> bool:
    """Tell whether a window was collected before a time; one whose manifest can't be read counts as such."""
    try:
        manifest = json.loads(store.read(f"{folder}/manifest.json"))
        return datetime.fromisoformat(manifest["collected_at"]) <= at
    except (KeyError, ValueError):
        return True


def _datasets_of(name: str, features: Iterable[str], store: ArtifactStore) -> list[str]:
    """Return the folders of datasets that refer to features."""
    folders, found = set(features), []
    for version in store.folders(f"{name}/datasets/"):
        with suppress(KeyError, ValueError):
            manifest = json.loads(store.read(f"{name}/datasets/{version}/manifest.json"))
            if folders & {window["key"].rsplit("/", 1)[0] for window in manifest["windows"]}:
                found.append(f"{name}/datasets/{version}")
    return found


def _version_of(dataset: str) -> str:
    """Return the short form of a dataset's version, which its folder's name begins with."""
    return dataset.rsplit("/", 1)[-1][:VERSION_DIGITS]


def _dataset_of(name: str, version: int, adapters: Adapters) -> str:
    """Return the short version of the dataset that a model was trained on; empty where nobody knows."""
    with suppress(KeyError):
        return adapters.registry.deployment(name, version).dataset_version[:VERSION_DIGITS]
    return ""
