"""What each stage's result depends on, as names and digests: the inputs of its cache key."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from mlops_tasks.artifacts import (
    Candidate,
    Dataset,
    Deployment,
    Features,
    Intent,
    RawData,
    ValidFeatures,
    ValidRaw,
    Verdict,
    Window,
)
from mlops_tasks.core.request_log import REQUESTS
from mlops_tasks.ports import SourceReader
from mlops_tasks.specs import CollectSpec, Source

NO_CHAMPION = "none"


def is_read_whole(source: Source) -> bool:
    """Tell whether a source has one content for all windows, as files have; a query has one for each window."""
    return not source.event_time or bool(source.path and not source.path.startswith(REQUESTS))


def on_sources(spec: CollectSpec, sources: SourceReader) -> Callable[[Window], dict[str, str]]:
    """Return what a window's raw rows depend on: the window and the sources' present content."""
    whole = {name: sources.fingerprint(source, None) for name, source in spec.sources.items() if is_read_whole(source)}

    def depends(window: Window) -> dict[str, str]:
        found = {n: whole.get(n) or sources.fingerprint(s, window) for n, s in spec.sources.items()}
        return {"window": str(window), **found}

    return depends


def on_raw(item: RawData) -> dict[str, str]:
    """Return what the proof of raw rows depends on."""
    return {"raw": item.digest}


def on_looked_back(window: Window, needed: Sequence[Window], raw: Mapping[datetime, ValidRaw]) -> dict[str, str]:
    """Return what a window's features depend on: the raw rows of the window and of those that it looks back to."""
    return {"window": str(window), **{f"raw {w.label}": raw[w.start].raw.digest for w in needed}}


def on_features(item: Features) -> dict[str, str]:
    """Return what the proof of features depends on."""
    return {"features": item.digest}


def on_windows(features: Sequence[ValidFeatures]) -> tuple[str, dict[str, str]]:
    """Return a dataset's slot and what it depends on: every window's features and the proof that came with them."""
    slot = f"{features[0].window.label}_{features[-1].window.label}"
    return slot, {item.window.label: f"{item.features.digest[:32]}{item.digest[:32]}" for item in features}


def on_dataset(dataset: Dataset) -> tuple[str, dict[str, str]]:
    """Return a training's slot and what it depends on: the dataset version."""
    return f"{dataset.as_of:%Y-%m-%d}", {"dataset": dataset.digest}


def on_candidate(candidate: Candidate, dataset: Dataset, champion: Deployment | None) -> tuple[str, dict[str, str]]:
    """Return a judgement's slot and what it depends on: the model, the dataset and the champion that it is compared with."""
    depends = {
        "candidate": candidate.fingerprint,
        "dataset": dataset.digest,
        "champion": champion.fingerprint if champion else NO_CHAMPION,
    }
    return candidate.fingerprint[:16], depends


def on_verdict(verdict: Verdict, intent: Intent) -> tuple[str, dict[str, str]]:
    """Return a deployment's slot and what it depends on: the verdict, and whether the intent may promote."""
    promotes = "never" if intent in {"backfill", "reproduce"} else "may"
    depends = {"candidate": verdict.candidate.fingerprint, "verdict": verdict.digest, "intent": promotes}
    return verdict.candidate.fingerprint[:16], depends
